//! One physical topic of a Kafka cluster: partitions, what is on its way, what was found in it.
//!
//! Plain state; the threads of the destination work on it. Not for: how it is opened
//! (see [`super::open`]).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tributary_common::{
    header::BatchHeader,
    ids::{BatchId, StreamId},
};

use super::{
    keyed::Convoy,
    readback::{Found, FoundBatches},
    subset::{self, Subset},
};
use crate::journal::format::Record;

/// A topic with batches on their way and no answer for this long is stalled.
const STALLED_AFTER: Duration = Duration::from_secs(3);
/// What was found by a recovery and did not come again is forgotten after this.
const FORGET_FOUND_AFTER: Duration = Duration::from_secs(3600);

/// An open topic.
pub(super) struct Topic {
    /// Its name at the cluster.
    pub(super) name: Arc<str>,
    /// Its number in the journal.
    pub(super) target: u32,
    /// How many partitions it has. It gets more while it is open (see [`super::grow`]), never fewer.
    partitions: AtomicI32,
    /// Batches that were given and not answered.
    on_the_way: AtomicU64,
    progress: AtomicBool,
    closed: AtomicBool,
    opened_at: Instant,
    found: Mutex<FoundBatches>,
    /// Which partition each stream has; none where all may have any.
    subset: Option<Mutex<Subset>>,
    /// Its keyed batches.
    pub(super) convoy: Convoy,
    watch: Mutex<Watch>,
}

struct Watch {
    since: Instant,
    /// When something was acknowledged last.
    acknowledged: Option<Instant>,
}

impl Topic {
    pub(super) fn new(name: Arc<str>, target: u32, partitions: i32, found: FoundBatches) -> Self {
        Self {
            name,
            target,
            partitions: AtomicI32::new(partitions),
            on_the_way: AtomicU64::new(0),
            progress: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            opened_at: Instant::now(),
            found: Mutex::new(found),
            subset: None,
            convoy: Convoy::default(),
            watch: Mutex::new(Watch {
                since: Instant::now(),
                acknowledged: None,
            }),
        }
    }

    /// Slow streams share partitions from now on.
    pub(super) fn sharing(mut self, subset: Subset) -> Self {
        self.subset = Some(Mutex::new(subset));
        self
    }

    fn subset(&self) -> Option<MutexGuard<'_, Subset>> {
        let subset = self.subset.as_ref()?;
        Some(subset.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many partitions it has.
    pub(super) fn partitions(&self) -> i32 {
        self.partitions.load(Ordering::Relaxed)
    }

    /// It has more partitions, of which the journal knows. A stream that has one keeps it.
    pub(super) fn grow(&self, partitions: i32) {
        self.partitions.store(partitions, Ordering::Relaxed);
        if let Some(mut subset) = self.subset() {
            subset.grow(&self.name, partitions);
        }
    }

    /// The partition of a stream that shares none.
    pub(super) fn partition_of(&self, stream: StreamId) -> i32 {
        subset::own_partition(stream, self.partitions())
    }

    /// A batch was given: the partition that it goes to, unless its records have keys.
    pub(super) fn entered(&self, header: &BatchHeader) -> i32 {
        self.on_the_way.fetch_add(1, Ordering::Relaxed);
        match self.subset().filter(|_subset| !header.keyed) {
            Some(mut subset) => subset.enter(header.stream, header.raw_bytes, Instant::now()),
            None => self.partition_of(header.stream),
        }
    }

    /// A batch was answered.
    pub(super) fn left(&self, header: &BatchHeader) {
        self.on_the_way.fetch_sub(1, Ordering::Relaxed);
        if let Some(mut subset) = self.subset().filter(|_subset| !header.keyed) {
            subset.leave(header.stream);
        }
    }

    /// What the journal is to know of a batch's stream: the partition that it has, once.
    pub(super) fn unnoted(&self, header: &BatchHeader) -> Option<Record> {
        let mut subset = self.subset().filter(|_subset| !header.keyed)?;
        let partition = subset.unnoted(header.stream)?;
        Some(Record::Pinned {
            target: self.target,
            pins: vec![(header.stream, partition)],
        })
    }

    /// A record was acknowledged.
    pub(super) fn progressed(&self) {
        self.progress.store(true, Ordering::Relaxed);
    }

    /// Where streams are of which the journal does not know it yet.
    pub(super) fn unnoted_pins(&self) -> HashMap<StreamId, i32> {
        let subset = self.subset();
        subset.map_or_else(HashMap::new, |subset| subset.all_unnoted())
    }

    /// Nothing more is produced to it; it is opened anew.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Whether it was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Batches that were given and not answered.
    pub(super) fn on_the_way(&self) -> u64 {
        self.on_the_way.load(Ordering::Relaxed)
    }

    /// How long nothing was acknowledged although something is on its way, when that is too long.
    /// Called a few times a second.
    pub(super) fn stalled(&self) -> Option<Duration> {
        let mut watch = self.watch();
        let progressed = self.progress.swap(false, Ordering::Relaxed);
        if progressed {
            watch.acknowledged = Some(Instant::now());
        }
        if progressed || self.on_the_way() == 0 {
            watch.since = Instant::now();
        }
        let quiet = watch.since.elapsed();
        (quiet >= STALLED_AFTER).then_some(quiet)
    }

    /// Whether something was acknowledged so lately that the cluster cannot have stood still for as long as a
    /// topic that is stalled.
    pub(super) fn is_well(&self) -> bool {
        let acknowledged = self.watch().acknowledged;
        acknowledged.is_some_and(|at| at.elapsed() < STALLED_AFTER)
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something was acknowledged since [`Self::stalled`] was asked.
    pub(super) fn has_progressed(&self) -> bool {
        self.progress.load(Ordering::Relaxed)
    }

    fn found(&self) -> MutexGuard<'_, FoundBatches> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a recovery found of a batch, by partition: at most one part of a batch without keys.
    pub(super) fn find(&self, batch: BatchId) -> Vec<Found> {
        self.found().get(&batch).cloned().unwrap_or_default()
    }

    /// A found batch is complete now. Returns whether it was the last one.
    pub(super) fn resolve(&self, batch: BatchId) -> bool {
        let mut found = self.found();
        found.remove(&batch).is_some() && found.is_empty()
    }

    /// Forgets what was found long ago; returns whether there was something.
    pub(super) fn forget_old(&self) -> bool {
        let old = self.opened_at.elapsed() >= FORGET_FOUND_AFTER;
        old && !std::mem::take(&mut *self.found()).is_empty()
    }

    /// Whether something that was found is unresolved.
    pub(super) fn has_found(&self) -> bool {
        !self.found().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_keeps_its_partition_and_all_partitions_are_used() {
        let topic = Topic::new("t".into(), 0, 8, HashMap::new());
        let mut used = [false; 8];
        for stream in 0..200 {
            let partition = topic.partition_of(StreamId(stream));
            assert_eq!(partition, topic.partition_of(StreamId(stream)));
            used[usize::try_from(partition).unwrap()] = true;
        }
        assert_eq!(used, [true; 8]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_topic_is_stalled_when_nothing_is_acknowledged_for_three_seconds() {
        let topic = Topic::new("t".into(), 0, 1, HashMap::new());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(topic.stalled(), None);
        topic.entered(&crate::testing::header_of("t"));
        tokio::time::advance(Duration::from_millis(2_900)).await;
        assert_eq!(topic.stalled(), None);
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(topic.stalled(), Some(STALLED_AFTER));
        topic.progressed();
        assert_eq!(topic.stalled(), None);
    }
}
