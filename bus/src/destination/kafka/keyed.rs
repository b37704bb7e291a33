//! Batches whose records have keys: each record goes to the partition of its key, as Java's clients
//! choose it, so that whoever relies on that finds it there.
//!
//! # Constraints
//! A record without a key goes to its stream's partition. One thread produces all keyed batches of a
//! topic, so what has one key keeps the order of its stream. In every partition the first record of a
//! batch carries the batch id, so that a recovery finds each part.
//!
//! # Operation
//! Batches end in the order in which they were produced (a [`Convoy`]): the journal's positions move
//! only over what is noted. Were a later batch noted first, its position in one partition could pass a
//! part of an earlier one there, and a recovery would not find that part.
//!
//! Not for: batches without keys, which stay in their stream's partition.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use tributary_common::{batch::Record, ids::StreamId};

use super::{
    super::Failure,
    letters::Alive,
    produced::Flight,
    readback::{Found, Present},
    topic::Topic,
};

/// The partition of a key, as Kafka's default partitioner chooses it.
///
/// Source: `org.apache.kafka.clients.producer.internals.BuiltInPartitioner.partitionForKey`.
pub(super) fn partition_of_key(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key).cast_signed() & i32::MAX) % partitions.max(1)
}

/// Source: `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    // Java's lengths are of 31 bits; keys are far shorter.
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ len;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let word = word.try_into().map_or(0, u32::from_le_bytes);
        let mut k = word.wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Where the records of a keyed batch go, and what of them is there.
pub(super) struct Spread<'a> {
    topic: &'a Topic,
    /// How many it has; all of a batch goes by the same number.
    partitions: i32,
    stream: StreamId,
    present: BTreeMap<i32, Present>,
    seen: BTreeMap<i32, u32>,
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Its partition.
    pub(super) partition: i32,
    /// It is the batch's first in that partition.
    pub(super) is_first: bool,
    /// It is there.
    pub(super) is_there: bool,
}

impl<'a> Spread<'a> {
    /// For a batch of which a recovery found these parts.
    pub(super) fn new(
        topic: &'a Topic,
        stream: StreamId,
        alive: &Alive<'_>,
        found: &[Found],
    ) -> Self {
        let mut spread = Self {
            topic,
            partitions: topic.partitions(),
            stream,
            present: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        for part in found {
            let records = alive.records().map(|(_place, record)| record);
            let here = records.filter(|record| spread.partition_of(record) == part.partition);
            let present = part.present(here);
            spread.present.insert(part.partition, present);
        }
        spread
    }

    fn partition_of(&self, record: &Record<'_>) -> i32 {
        match record.key {
            Some(key) => partition_of_key(key, self.partitions),
            None => self.topic.partition_of(self.stream),
        }
    }

    /// How many records are there.
    pub(super) fn records_there(&self) -> u32 {
        self.present.values().map(|part| part.records).sum()
    }

    /// The offsets of what is there: partition, first, after the last.
    pub(super) fn places(&self) -> impl Iterator<Item = (i32, i64, i64)> {
        let there = self.present.iter().filter(|(_, part)| part.records > 0);
        there.map(|(&partition, part)| (partition, part.first, part.end))
    }

    /// The share of the next record.
    pub(super) fn next(&mut self, record: &Record<'_>) -> Share {
        let partition = self.partition_of(record);
        let seen = self.seen.entry(partition).or_default();
        let there = self.present.get(&partition).map_or(0, |part| part.records);
        let share = Share {
            partition,
            is_first: *seen == 0,
            is_there: *seen < there,
        };
        *seen += 1;
        share
    }
}

/// The keyed batches of a topic that are on their way, in the order in which they were produced.
#[derive(Default)]
pub(super) struct Convoy(Mutex<Row>);

#[derive(Default)]
struct Row {
    /// Bounded by the permits that the batches carry.
    flights: VecDeque<Arc<Flight>>,
    /// A batch failed: what is behind it is to come again, and is looked for then.
    broken: bool,
}

impl Convoy {
    /// A batch is about to be produced.
    pub(super) fn join(&self, flight: &Arc<Flight>) {
        let mut row = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        row.flights.push_back(Arc::clone(flight));
    }

    /// A batch has all its answers: those that may end now do.
    pub(super) fn advance(&self) {
        // Held while they end, so that two threads do not change their order. Ending one only sends
        // to other threads.
        let mut row = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while row
            .flights
            .front()
            .is_some_and(|flight| flight.is_answered())
        {
            let Some(flight) = row.flights.pop_front() else {
                return;
            };
            let after = row
                .broken
                .then(|| Failure::Unavailable("an earlier batch of the topic failed".to_owned()));
            row.broken |= !flight.end(after);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::testing::{accepted, keyed_batch};

    /// The vectors of Kafka's own test, `UtilsTest.testMurmur2`.
    #[test]
    fn keys_hash_as_in_java() {
        let check = |key: &str, wanted: i32| {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), wanted, "{key}");
        };
        check("21", -973_932_308);
        check("foobar", -790_332_482);
        check("a-little-bit-long-string", -985_981_536);
        check("a-little-bit-longer-string", -1_486_304_829);
        check(
            "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
            -58_897_971,
        );
        check("abc", 479_470_107);
        assert_eq!(partition_of_key(b"21", 7), (-973_932_308 & i32::MAX) % 7);
    }

    #[tokio::test]
    async fn a_batch_is_spread_by_its_keys_and_each_part_begins_once() {
        let lines = [Some("a"), Some("b"), None, Some("a"), Some("b"), None];
        let batch = accepted(keyed_batch("web", 1, 1, &lines)).await;
        let mut decoder = tributary_common::batch::Decoder::new();
        let decoded = batch.open(&mut decoder).unwrap();
        let topic = Topic::new("web".into(), 0, 50, HashMap::new());
        let alive = Alive::new(&decoded, Vec::new());
        let mut spread = Spread::new(&topic, StreamId(1), &alive, &[]);
        let shares: Vec<Share> = decoded
            .records()
            .map(|record| spread.next(&record))
            .collect();
        let at = |place: usize| shares[place].partition;
        assert_eq!(at(0), partition_of_key(b"a", 50));
        assert_eq!(at(1), partition_of_key(b"b", 50));
        assert_eq!(at(2), topic.partition_of(StreamId(1)));
        assert_eq!([at(3), at(4), at(5)], [at(0), at(1), at(2)]);
        let firsts: Vec<bool> = shares.iter().map(|share| share.is_first).collect();
        assert_eq!(firsts, [true, true, true, false, false, false]);
        assert_eq!((spread.records_there(), spread.places().count()), (0, 0));
    }
}
