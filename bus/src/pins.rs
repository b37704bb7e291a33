//! Batches that failed at one of several destinations that stand in for each other: it may have them, so
//! they are tried there again, and nowhere else.
//!
//! A batch that nobody sends any more (its agent is gone, or sends it to another node) would stay for
//! ever: two generations are kept, and the older one is forgotten when the younger one is an hour old. An agent
//! sends what was not taken again within seconds. What comes later than that goes where all goes, and what the
//! first destination has of it after all is doubled.
//!
//! Not for: where batches go otherwise (see [`crate::switch`]). The node calls it under its lock; pure.

use std::{collections::HashMap, mem, time::Duration};

use tokio::time::Instant;
use tributary_common::ids::BatchId;

/// Batches that are remembered: more than agents have on their way to a node.
const MAX: usize = 1_000_000;
/// A batch is remembered for so long after its last failure, and at most for twice as long.
const KEEP: Duration = Duration::from_secs(3_600);

/// The batches, each with the place of its destination.
#[derive(Debug)]
pub(crate) struct Pins {
    young: HashMap<BatchId, usize>,
    old: HashMap<BatchId, usize>,
    /// When the young generation began.
    since: Instant,
}

impl Pins {
    /// None.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            since: now,
        }
    }

    /// The destination that may have the batch.
    pub(crate) fn get(&self, batch: BatchId) -> Option<usize> {
        let of = |generation: &HashMap<BatchId, usize>| generation.get(&batch).copied();
        of(&self.young).or_else(|| of(&self.old))
    }

    /// The batch has failed there.
    pub(crate) fn insert(&mut self, batch: BatchId, place: usize) {
        self.old.remove(&batch);
        if self.young.len() + self.old.len() < MAX || self.young.contains_key(&batch) {
            self.young.insert(batch, place);
        }
    }

    /// The batch is delivered, or refused for good.
    pub(crate) fn remove(&mut self, batch: BatchId) {
        self.young.remove(&batch);
        self.old.remove(&batch);
    }

    /// Forgets what failed long ago. Called every now and then.
    pub(crate) fn tick(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= KEEP {
            self.old = mem::take(&mut self.young);
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use tributary_common::ids::{Epoch, StreamId};

    use super::*;

    fn id(seq: u64) -> BatchId {
        BatchId {
            stream: StreamId(1),
            epoch: Epoch(1),
            seq,
        }
    }

    #[test]
    fn what_failed_is_remembered_for_an_hour_and_forgotten_within_two() {
        let begun = Instant::now();
        let at = |minutes: u64| begun + Duration::from_secs(60 * minutes);
        let mut pins = Pins::new(begun);
        pins.insert(id(1), 0);
        pins.insert(id(2), 1);
        let known = |pins: &Pins| [1, 2, 3].map(|seq| pins.get(id(seq)));
        for minutes in [30, 59, 60, 119] {
            pins.tick(at(minutes));
            assert_eq!(known(&pins), [Some(0), Some(1), None], "{minutes} min");
        }
        // The second one fails once more, elsewhere; a third one does for the first time.
        pins.insert(id(2), 2);
        pins.insert(id(3), 0);
        pins.tick(at(120));
        assert_eq!(known(&pins), [None, Some(2), Some(0)]);
        pins.remove(id(2));
        assert_eq!(known(&pins), [None, None, Some(0)]);
        pins.tick(at(180));
        assert_eq!(known(&pins), [None; 3]);
        assert_eq!((pins.young.len(), pins.old.len()), (0, 0));
    }
}
