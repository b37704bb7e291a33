//! Per topic what this life of the node has seen, for `/status` and `/metrics`.
//!
//! Plain sums, lost at the end of the process; the accounts are the ledger's (see
//! [`crate::report`]). The counters of a topic are looked up once, not for every batch.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use metrics::{Counter, counter};
use tributary_common::{
    header::BatchHeader,
    ids::{BatchId, StreamId, Topic},
};

/// Streams of a topic whose last refusal is remembered; beyond them all are forgotten, and count once more.
const MAX_REFUSED: usize = 1000;

/// The sums of one topic, in records.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Taken in, repeats not counted.
    pub(crate) received: u64,
    /// At every destination of the route.
    pub(crate) delivered: u64,
    /// Acknowledged from this node's disk.
    pub(crate) spilled: u64,
    /// Repeats that were removed.
    pub(crate) duplicate: u64,
    /// Refused, each batch once however often it came.
    pub(crate) refused: u64,
}

/// One topic.
pub(crate) struct Tally {
    counts: Counts,
    /// The batch of each stream that was refused last: agents send it again and again.
    refused: HashMap<StreamId, BatchId>,
    received_records: Counter,
    received_bytes: Counter,
    delivered_records: Counter,
    spilled_records: Counter,
    duplicate_records: Counter,
}

impl Tally {
    fn new(topic: &Topic) -> Self {
        let topic = topic.to_string();
        Self {
            counts: Counts::default(),
            refused: HashMap::new(),
            received_records: counter!("tributary_bus_received_records_total", "topic" => topic.clone()),
            received_bytes: counter!("tributary_bus_received_bytes_total", "topic" => topic.clone()),
            delivered_records: counter!("tributary_bus_delivered_records_total", "topic" => topic.clone()),
            spilled_records: counter!("tributary_bus_spilled_records_total", "topic" => topic.clone()),
            duplicate_records: counter!("tributary_bus_duplicate_records_total", "topic" => topic),
        }
    }

    /// A batch was taken in.
    pub(crate) fn received(&mut self, header: &BatchHeader) {
        self.counts.received += u64::from(header.records);
        self.received_records.increment(u64::from(header.records));
        self.received_bytes.increment(header.raw_bytes);
    }

    /// Every destination has it.
    pub(crate) fn delivered(&mut self, header: &BatchHeader) {
        self.counts.delivered += u64::from(header.records);
        self.delivered_records.increment(u64::from(header.records));
    }

    /// It was acknowledged from the disk.
    pub(crate) fn spilled(&mut self, header: &BatchHeader) {
        self.counts.spilled += u64::from(header.records);
        self.spilled_records.increment(u64::from(header.records));
    }

    /// Repeats of it were removed.
    pub(crate) fn duplicate(&mut self, header: &BatchHeader, times: u32) {
        let records = u64::from(header.records) * u64::from(times);
        self.counts.duplicate += records;
        self.duplicate_records.increment(records);
    }

    /// It was refused; whether that is new.
    pub(crate) fn refused(&mut self, header: &BatchHeader) -> bool {
        if self.refused.len() >= MAX_REFUSED && !self.refused.contains_key(&header.stream) {
            self.refused.clear();
        }
        let id = header.id();
        if self.refused.insert(header.stream, id) == Some(id) {
            return false;
        }
        self.counts.refused += u64::from(header.records);
        true
    }
}

/// All topics.
#[derive(Default)]
pub(crate) struct Tallies {
    topics: Mutex<BTreeMap<Topic, Tally>>,
}

impl std::fmt::Debug for Tallies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.counts()).finish()
    }
}

impl Tallies {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Topic, Tally>> {
        // Sums are whole after every line, so a panic elsewhere leaves them usable.
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts something of a topic.
    pub(crate) fn of<T>(&self, topic: &Topic, count: impl FnOnce(&mut Tally) -> T) -> T {
        let mut topics = self.lock();
        match topics.get_mut(topic) {
            Some(tally) => count(tally),
            None => count(
                topics
                    .entry(topic.clone())
                    .or_insert_with(|| Tally::new(topic)),
            ),
        }
    }

    /// The sums of all topics.
    pub(crate) fn counts(&self) -> BTreeMap<Topic, Counts> {
        self.lock()
            .iter()
            .map(|(topic, tally)| (topic.clone(), tally.counts))
            .collect()
    }
}
