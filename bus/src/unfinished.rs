//! Batches that were acknowledged from the disk and are not delivered everywhere.
//!
//! A backlog of hours is millions of them, side by side in their streams: kept as ranges. Not for: where
//! they lie (see [`crate::spill`]). Pure.

use std::collections::HashMap;

use tributary_common::{
    ids::{BatchId, Epoch, StreamId},
    span::RangeSet,
};

/// The batches.
#[derive(Debug, Default)]
pub(crate) struct Unfinished(HashMap<(StreamId, Epoch), RangeSet>);

impl Unfinished {
    /// One more.
    pub(crate) fn insert(&mut self, batch: BatchId) {
        let stream = self.0.entry((batch.stream, batch.epoch)).or_default();
        stream.insert(batch.seq, batch.seq.saturating_add(1));
    }

    /// One less; whether it was here.
    pub(crate) fn remove(&mut self, batch: BatchId) -> bool {
        let key = (batch.stream, batch.epoch);
        let Some(stream) = self.0.get_mut(&key) else {
            return false;
        };
        let was_here = stream.remove(batch.seq);
        if stream.is_empty() {
            self.0.remove(&key);
        }
        was_here
    }
}

impl Extend<BatchId> for Unfinished {
    fn extend<T: IntoIterator<Item = BatchId>>(&mut self, batches: T) {
        batches.into_iter().for_each(|batch| self.insert(batch));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_here_once_and_its_neighbours_stay() {
        let id = |epoch, seq| BatchId {
            stream: StreamId(7),
            epoch: Epoch(epoch),
            seq,
        };
        let mut unfinished = Unfinished::default();
        unfinished.extend((0..10).map(|seq| id(1, seq)));
        unfinished.insert(id(2, 5));
        assert!(unfinished.remove(id(1, 5)) && !unfinished.remove(id(1, 5)));
        assert!(unfinished.remove(id(1, 4)) && unfinished.remove(id(1, 6)));
        assert!(unfinished.remove(id(2, 5)) && !unfinished.remove(id(2, 6)));
        assert!((0..4).chain(7..10).all(|seq| unfinished.remove(id(1, seq))));
        assert!(unfinished.0.is_empty());
    }
}
