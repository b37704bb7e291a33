//! Which partition of a topic a stream writes to.
//!
//! A broker pays for batches, and small ones can be merged only where they meet. So the streams of a topic
//! that are slow share a few of its partitions, as many as they need together; a fast one, whose batches
//! go untouched, may have any. Which partitions those few are is the topic's matter, not the node's: a
//! stream that moves to another node of like load finds the same one.
//!
//! # Constraints
//! A stream stays where it is, also in the next life of the node, for readers of a partition see its lines
//! in order. It moves only when nothing of it is on its way, and only when that is worth it: a slow one that was
//! fast in a whole minute, a fast one that was slow in ten, and when slow ones have crowded their
//! partition to four times what it is for.
//!
//! Pure; time is the caller's. Not for: records with keys (see [`super::keyed`]), merging (see
//! [`super::verbatim`]).

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;
use tributary_common::ids::StreamId;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::verbatim::SMALL_BYTES;

/// What streams bring together is added up for so long.
const WINDOW: Duration = Duration::from_secs(5);
/// What the widest of so many windows needed is kept, as long again.
const KEEP_WINDOWS: u32 = 120;
/// What a stream brings is added up for so long.
const PERIOD: Duration = Duration::from_secs(60);
/// A stream that was slow in so many periods is moved to the slow ones.
const CALM_PERIODS: u8 = 10;
/// A slow stream has less than this part of what a partition is for.
const SLOW_PART: u64 = 4;
/// A partition is crowded when slow streams bring so many times what it is for.
const CROWDED: u64 = 4;
/// What is counted of a stream that brought nothing for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// A stream and its partition.
#[derive(Debug)]
struct Pin {
    partition: i32,
    /// Batches that were given and not answered.
    on_the_way: u32,
    is_slow: bool,
    /// Periods in a row in which it was slow.
    calm: u8,
    /// The journal knows its partition.
    noted: bool,
    /// What it has brought since.
    bytes: u64,
    since: Instant,
}

/// The partitions of a topic, and who is where.
#[derive(Debug)]
pub(super) struct Subset {
    /// All of them, those first that slow streams share.
    order: Vec<i32>,
    /// What a partition is for, in bytes a second of lines.
    rate: u64,
    /// So many of them are shared.
    used: usize,
    /// What the present and the last run of windows needed at most, and how many windows the present one has.
    needed: [usize; 2],
    windows: u32,
    streams: HashMap<StreamId, Pin>,
    /// Where streams are as the journal knows it, also those that have brought nothing lately.
    known: HashMap<StreamId, i32>,
    /// What slow streams have brought to each partition since.
    loads: BTreeMap<i32, u64>,
    since: Instant,
    /// Partitions that were crowded in the last window.
    crowded: Vec<i32>,
}

/// The partition of a stream that may have any of so many.
pub(super) fn own_partition(stream: StreamId, partitions: i32) -> i32 {
    let count = u64::from(partitions.max(1).unsigned_abs());
    i32::try_from(xxh3_64(&stream.0.to_le_bytes()) % count).unwrap_or_default()
}

impl Subset {
    /// A topic's partitions, for so many bytes a second each; where streams were before is told.
    pub(super) fn new(
        topic: &str,
        partitions: i32,
        rate: u64,
        mut known: HashMap<StreamId, i32>,
        now: Instant,
    ) -> Self {
        // The topic may have been made anew, with fewer of them.
        known.retain(|_stream, partition| (0..partitions).contains(partition));
        Self {
            order: in_order(topic, partitions),
            rate: rate.max(1),
            used: 1,
            needed: [1; 2],
            windows: 0,
            streams: HashMap::new(),
            known,
            loads: BTreeMap::new(),
            since: now,
            crowded: Vec::new(),
        }
    }

    /// There are more partitions. Who is somewhere stays there.
    pub(super) fn grow(&mut self, topic: &str, partitions: i32) {
        self.order = in_order(topic, partitions);
    }

    /// A batch of a stream comes, with so many bytes of lines: where it goes.
    pub(super) fn enter(&mut self, stream: StreamId, bytes: u64, now: Instant) -> i32 {
        self.turn(now);
        let count = i32::try_from(self.order.len()).unwrap_or(i32::MAX);
        // Both are asked for a few times in a stream's life.
        let (order, used) = (&self.order, self.used);
        let own = || own_partition(stream, count);
        let shared = || best(stream, order.get(..used).unwrap_or(order));
        let (slow_below, rate) = (self.rate / SLOW_PART, self.rate);
        let known = self.known.get(&stream).copied();
        let is_small = bytes < SMALL_BYTES as u64;
        let pin = self.streams.entry(stream).or_insert_with(|| Pin {
            partition: known.unwrap_or_else(|| if is_small { shared() } else { own() }),
            on_the_way: 0,
            is_slow: is_small,
            calm: 0,
            noted: known.is_some(),
            bytes: 0,
            since: now,
        });
        let mut next = pin.partition;
        let elapsed = now.saturating_duration_since(pin.since);
        if elapsed >= PERIOD {
            let brought = per_second(pin.bytes, elapsed);
            pin.is_slow = brought < slow_below;
            pin.calm = if pin.is_slow {
                pin.calm.saturating_add(1)
            } else {
                0
            };
            (pin.bytes, pin.since) = (0, now);
            let is_shared = order.iter().take(used).any(|&at| at == pin.partition);
            if brought >= rate && is_shared {
                next = own();
            } else if pin.calm >= CALM_PERIODS && !is_shared {
                next = shared();
            }
        } else if pin.is_slow && self.crowded.contains(&pin.partition) {
            next = shared();
        }
        if pin.on_the_way == 0 && next != pin.partition {
            (pin.partition, pin.noted) = (next, false);
        }
        pin.bytes += bytes;
        pin.on_the_way += 1;
        // It is not slow any more, whatever the rest of its period brings.
        pin.is_slow &= pin.bytes < slow_below.saturating_mul(PERIOD.as_secs());
        let partition = pin.partition;
        if pin.is_slow {
            *self.loads.entry(partition).or_default() += bytes;
        }
        partition
    }

    /// A batch of a stream was answered.
    pub(super) fn leave(&mut self, stream: StreamId) {
        if let Some(pin) = self.streams.get_mut(&stream) {
            pin.on_the_way = pin.on_the_way.saturating_sub(1);
        }
    }

    /// Where streams are of which the journal does not know it yet.
    pub(super) fn all_unnoted(&self) -> HashMap<StreamId, i32> {
        let unnoted = self.streams.iter().filter(|(_stream, pin)| !pin.noted);
        unnoted
            .map(|(&stream, pin)| (stream, pin.partition))
            .collect()
    }

    /// Takes over where streams are of which the journal does not know it yet.
    pub(super) fn take_unnoted(&mut self, pins: HashMap<StreamId, i32>, now: Instant) {
        let there = pins
            .into_iter()
            .filter(|(_stream, at)| self.order.contains(at));
        self.streams.extend(there.map(|(stream, partition)| {
            let pin = Pin {
                partition,
                on_the_way: 0,
                is_slow: true,
                calm: 0,
                noted: false,
                bytes: 0,
                since: now,
            };
            (stream, pin)
        }));
    }

    /// The partition of a stream, where the journal does not know it yet. From now on it does.
    pub(super) fn unnoted(&mut self, stream: StreamId) -> Option<i32> {
        let pin = self.streams.get_mut(&stream).filter(|pin| !pin.noted)?;
        pin.noted = true;
        self.known.insert(stream, pin.partition);
        Some(pin.partition)
    }

    /// The partitions that slow streams share.
    #[cfg(test)]
    fn shared(&self) -> &[i32] {
        self.order.get(..self.used).unwrap_or(&self.order)
    }

    /// Ends a window that is over.
    fn turn(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < WINDOW {
            return;
        }
        let all: u64 = self.loads.values().sum();
        let needs = usize::try_from(per_second(all, elapsed).div_ceil(self.rate));
        let needs = needs.unwrap_or(usize::MAX).clamp(1, self.order.len());
        if self.windows >= KEEP_WINDOWS {
            (self.needed, self.windows) = ([needs, self.needed[0]], 0);
        }
        self.windows += 1;
        self.needed[0] = self.needed[0].max(needs);
        self.used = self.needed[0].max(self.needed[1]);
        let too_much = self.rate.saturating_mul(CROWDED);
        let loads = std::mem::take(&mut self.loads);
        let crowded = loads.into_iter();
        let crowded = crowded.filter(|&(_, load)| per_second(load, elapsed) > too_much);
        self.crowded = crowded.map(|(partition, _load)| partition).collect();
        self.streams.retain(|_stream, pin| {
            pin.on_the_way > 0 || now.saturating_duration_since(pin.since) < FORGET_AFTER
        });
        self.since = now;
    }
}

/// All partitions of a topic, those first that slow streams share.
fn in_order(topic: &str, partitions: i32) -> Vec<i32> {
    let mut order: Vec<i32> = (0..partitions.max(1)).collect();
    let seed = xxh3_64(topic.as_bytes());
    order.sort_by_key(|partition| xxh3_64_with_seed(&partition.to_le_bytes(), seed));
    order
}

/// The partition among these that is a stream's: when there are more of them, few streams get another.
fn best(stream: StreamId, among: &[i32]) -> i32 {
    let weight = |partition: &i32| {
        let seed = u64::from(partition.unsigned_abs());
        xxh3_64_with_seed(&stream.0.to_le_bytes(), seed)
    };
    among.iter().copied().max_by_key(weight).unwrap_or_default()
}

/// So many bytes in a time, a second.
fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let ms = u64::try_from(elapsed.as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    bytes.saturating_mul(1000) / ms
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MB: u64 = 1_000_000;
    const BIG: u64 = SMALL_BYTES as u64;

    fn of(partitions: i32, known: HashMap<StreamId, i32>, now: Instant) -> Subset {
        Subset::new("web", partitions, MB, known, now)
    }

    /// One batch of a stream, answered at once.
    fn pass(subset: &mut Subset, stream: u64, bytes: u64, now: Instant) -> i32 {
        let partition = subset.enter(StreamId(stream), bytes, now);
        subset.leave(StreamId(stream));
        partition
    }

    /// Every stream brings so much in each of so many seconds: the partitions of the last one.
    fn flow(
        subset: &mut Subset,
        streams: u64,
        bytes: u64,
        now: &mut Instant,
        seconds: u64,
    ) -> BTreeSet<i32> {
        let mut used = BTreeSet::new();
        for _second in 0..seconds {
            *now += Duration::from_secs(1);
            used = (0..streams)
                .map(|stream| pass(subset, stream, bytes, *now))
                .collect();
        }
        used
    }

    #[test]
    fn slow_streams_share_as_many_partitions_as_they_need_and_fast_ones_have_all() {
        let mut now = Instant::now();
        let mut subset = of(32, HashMap::new(), now);
        assert_eq!(flow(&mut subset, 50, 10_000, &mut now, 30).len(), 1);
        let fast: BTreeSet<i32> = (100..1100)
            .map(|stream| pass(&mut subset, stream, BIG, now))
            .collect();
        assert_eq!(fast.len(), 32);
        // 100 MB/s of slow streams, in which none has more than 50 KB/s.
        let mut crowd = of(32, HashMap::new(), now);
        assert_eq!(flow(&mut crowd, 2_000, 50_000, &mut now, 1).len(), 1);
        assert_eq!(flow(&mut crowd, 2_000, 50_000, &mut now, 30).len(), 32);
        let mut some = of(32, HashMap::new(), now);
        assert!((4..=9).contains(&flow(&mut some, 160, 50_000, &mut now, 60).len()));
    }

    #[test]
    fn a_stream_keeps_its_partition_in_the_next_life_and_on_a_node_of_like_load() {
        let mut now = Instant::now();
        let (mut one, mut other) = (of(8, HashMap::new(), now), of(8, HashMap::new(), now));
        let mut known = HashMap::new();
        for stream in 0..100 {
            let bytes = [100, BIG][usize::from(stream % 3 == 0)];
            let at = pass(&mut one, stream, bytes, now);
            assert_eq!(pass(&mut other, stream, bytes, now), at);
            assert_eq!(one.unnoted(StreamId(stream)), Some(at));
            assert_eq!(one.unnoted(StreamId(stream)), None);
            known.insert(StreamId(stream), at);
        }
        let mut next = of(8, known.clone(), now);
        for (&stream, &at) in &known {
            for bytes in [BIG, 100, BIG] {
                now += Duration::from_secs(2);
                assert_eq!(pass(&mut next, stream.0, bytes, now), at);
            }
            assert_eq!(next.unnoted(stream), None);
        }
        // The topic is opened anew before anything of a stream was delivered.
        let mut before = of(8, HashMap::new(), now);
        let at = pass(&mut before, 7, BIG, now);
        let mut after = of(8, HashMap::new(), now);
        after.take_unnoted(before.all_unnoted(), now);
        assert_eq!(pass(&mut after, 7, 100, now), at);
        assert_eq!(after.unnoted(StreamId(7)), Some(at));
        // The topic was made anew, with fewer.
        let mut fewer = of(2, known.clone(), now);
        assert!(
            known
                .keys()
                .all(|stream| pass(&mut fewer, stream.0, 100, now) < 2)
        );
        let mut single = of(1, known, now);
        assert_eq!(pass(&mut single, 1, 100, now), 0);
    }

    #[test]
    fn one_that_is_fast_for_a_minute_leaves_and_comes_back_when_it_was_slow_for_long() {
        let mut now = Instant::now();
        let mut subset = of(64, HashMap::new(), now);
        let stream = (0..).find(|&at| own_partition(StreamId(at), 64) != subset.order[0]);
        let (stream, shared) = (stream.unwrap(), subset.order[0]);
        let own = own_partition(StreamId(stream), 64);
        let mut run = |subset: &mut Subset, bytes: u64, seconds: u64| {
            let mut at = Vec::new();
            for _second in 0..seconds {
                now += Duration::from_secs(1);
                at.push(pass(subset, stream, bytes, now));
            }
            at.dedup();
            at
        };
        assert_eq!(run(&mut subset, 1_000, 100), [shared]);
        // A burst in a slow minute is no reason.
        assert_eq!(run(&mut subset, 5 * MB, 5), [shared]);
        assert_eq!(run(&mut subset, 1_000, 100), [shared]);
        assert_eq!(run(&mut subset, 5 * MB, 150), [shared, own]);
        assert_eq!(run(&mut subset, 1_000, 500), [own]);
        let moved = run(&mut subset, 1_000, 300);
        assert!(
            moved.len() == 2 && subset.shared().contains(&moved[1]),
            "{moved:?}"
        );
        assert_eq!(subset.unnoted(StreamId(stream)), Some(moved[1]));
    }

    #[test]
    fn a_topic_that_grows_leaves_streams_where_they_are_and_gives_new_ones_the_new_partitions() {
        for before in [1, 4] {
            let mut now = Instant::now();
            let mut subset = of(before, HashMap::new(), now);
            let mut all = |subset: &mut Subset, streams: std::ops::Range<u64>| -> Vec<i32> {
                now += Duration::from_secs(1);
                let bytes = |stream| if stream % 2 == 0 { 100 } else { BIG };
                let pass = |stream| pass(subset, stream, bytes(stream), now);
                streams.map(pass).collect()
            };
            let known = all(&mut subset, 0..100);
            subset.grow("web", 16);
            assert_eq!(subset.order, in_order("web", 16));
            for _second in 0..100 {
                assert_eq!(all(&mut subset, 0..100), known);
            }
            let new = all(&mut subset, 100..300);
            assert!(new.iter().any(|&at| at >= before));
            assert_eq!(
                subset.unnoted(StreamId(0)),
                Some(known[0]),
                "it outlives the process"
            );
        }
    }

    #[test]
    fn nothing_moves_while_something_of_it_is_on_its_way() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut now = Instant::now();
            let mut subset = of(random.i32(2..20), HashMap::new(), now);
            let mut on_the_way: HashMap<u64, (i32, u32)> = HashMap::new();
            let mut moves = 0;
            let mut last: HashMap<u64, i32> = HashMap::new();
            for _ in 0..20_000 {
                now += Duration::from_millis(random.u64(..200));
                let stream = random.u64(..30);
                let given = on_the_way.entry(stream).or_default();
                if given.1 > 0 && random.u8(..3) > 0 {
                    given.1 -= 1;
                    subset.leave(StreamId(stream));
                    continue;
                }
                let bytes = if random.u8(..3) == 0 {
                    random.u64(..5 * MB)
                } else {
                    random.u64(..900)
                };
                let at = subset.enter(StreamId(stream), bytes, now);
                assert!(given.1 == 0 || given.0 == at, "seed {seed}");
                *given = (at, given.1 + 1);
                let before = last.insert(stream, at);
                moves += u32::from(before.is_some_and(|before| before != at));
            }
            assert!(moves > 0, "seed {seed}: nothing ever moved");
        }
    }
}
