//! Streams that have batches on their way by rules that counted before.
//!
//! While they have, the node takes nothing more of them: a batch that went the old way and fails comes
//! again the new way, and must not find later ones of its stream there. Empty but for the moments after
//! new rules. Not for: the order on one connection (see [`crate::order`]).

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tributary_common::ids::{BatchId, StreamId};

/// The streams, each with what is on its way.
#[derive(Debug, Default)]
pub(crate) struct Moving {
    any: AtomicBool,
    streams: Mutex<HashMap<StreamId, HashSet<BatchId>>>,
}

impl Moving {
    fn lock(&self) -> MutexGuard<'_, HashMap<StreamId, HashSet<BatchId>>> {
        // The map is whole after every line, so a panic elsewhere leaves it usable.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New rules count: all that is on its way goes by older ones. What lands meanwhile waits to say so.
    pub(crate) fn begin(&self, on_the_way: impl FnOnce() -> Vec<BatchId>) {
        let mut streams = self.lock();
        self.any.store(true, Ordering::Release);
        for batch in on_the_way() {
            streams.entry(batch.stream).or_default().insert(batch);
        }
        self.any.store(!streams.is_empty(), Ordering::Release);
    }

    /// Whether the stream has to wait.
    pub(crate) fn holds(&self, stream: StreamId) -> bool {
        self.any.load(Ordering::Acquire) && self.lock().contains_key(&stream)
    }

    /// A batch has landed, or failed.
    pub(crate) fn landed(&self, batch: BatchId) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut streams = self.lock();
        if let Some(left) = streams.get_mut(&batch.stream) {
            left.remove(&batch);
            if left.is_empty() {
                streams.remove(&batch.stream);
            }
        }
        if streams.is_empty() {
            self.any.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use tributary_common::ids::Epoch;

    use super::*;

    fn batch(stream: u64, seq: u64) -> BatchId {
        BatchId {
            stream: StreamId(stream),
            epoch: Epoch(1),
            seq,
        }
    }

    #[test]
    fn a_stream_waits_until_all_of_it_has_landed() {
        let moving = Moving::default();
        assert!(!moving.holds(StreamId(1)));
        moving.begin(|| vec![batch(1, 1), batch(1, 2), batch(2, 1)]);
        moving.landed(batch(1, 1));
        moving.landed(batch(3, 1));
        assert!(moving.holds(StreamId(1)) && moving.holds(StreamId(2)));
        assert!(!moving.holds(StreamId(3)));
        moving.begin(|| vec![batch(1, 2)]);
        moving.landed(batch(1, 2));
        assert!(!moving.holds(StreamId(1)) && moving.holds(StreamId(2)));
        moving.landed(batch(2, 1));
        assert!(!moving.holds(StreamId(2)));
    }
}
