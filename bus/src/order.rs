//! The order rule of one connection: behind a batch that was not taken, nothing of its stream is.
//!
//! After `Busy` or `Refuse` for a batch the bus takes no later batch of that stream on that
//! connection until the batch comes again; so a stream's batches are delivered in their order, also
//! when some of them have to wait. Not for: order between connections (an agent sends a stream on
//! one connection at a time). The session asks before it reads a batch's payload, and again before it
//! takes it; whoever fails a batch blocks its stream before that is answered.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tributary_common::ids::{BatchId, Epoch, StreamId};

/// The blocked streams of one connection.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Stream -> the earliest batch that was not taken.
    blocked: Mutex<HashMap<StreamId, (Epoch, u64)>>,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, HashMap<StreamId, (Epoch, u64)>> {
        // The map is whole at every await-free line, so a panic elsewhere leaves it usable.
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks what comes after `batch` in its stream.
    pub(crate) fn block(&self, batch: BatchId) {
        let at = (batch.epoch, batch.seq);
        let mut blocked = self.lock();
        let earliest = blocked.entry(batch.stream).or_insert(at);
        *earliest = at.min(*earliest);
    }

    /// Whether `batch` may be taken now: it may unless an earlier one of its stream is awaited.
    pub(crate) fn may_pass(&self, batch: BatchId) -> bool {
        match self.lock().get(&batch.stream) {
            Some(&awaited) => (batch.epoch, batch.seq) <= awaited,
            None => true,
        }
    }

    /// [`Gate::may_pass`], and then [`Gate::taken`], in one: a batch may have failed since the first
    /// question.
    pub(crate) fn pass(&self, batch: BatchId) -> bool {
        let mut blocked = self.lock();
        let at = (batch.epoch, batch.seq);
        match blocked.get(&batch.stream) {
            Some(&awaited) if at > awaited => return false,
            Some(&awaited) if at == awaited => drop(blocked.remove(&batch.stream)),
            Some(_) | None => {}
        }
        true
    }

    /// The batch is taken: what waited for it may come. An earlier one leaves the block in place.
    pub(crate) fn taken(&self, batch: BatchId) {
        let mut blocked = self.lock();
        if blocked.get(&batch.stream) == Some(&(batch.epoch, batch.seq)) {
            blocked.remove(&batch.stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(stream: u64, seq: u64) -> BatchId {
        BatchId {
            stream: StreamId(stream),
            epoch: Epoch(1),
            seq,
        }
    }

    #[test]
    fn a_busy_batch_holds_back_its_stream_only() {
        let gate = Gate::default();
        gate.block(id(1, 5));
        assert!(!gate.may_pass(id(1, 6)));
        assert!(gate.may_pass(id(1, 5)));
        assert!(gate.may_pass(id(2, 6)));
        gate.taken(id(1, 5));
        assert!(gate.may_pass(id(1, 6)));
    }

    #[test]
    fn the_earliest_failure_counts() {
        let gate = Gate::default();
        gate.block(id(1, 5));
        gate.block(id(1, 4));
        gate.block(id(1, 7));
        assert!(!gate.may_pass(id(1, 5)));
        gate.taken(id(1, 4));
        assert!(gate.may_pass(id(1, 5)));
    }

    proptest! {
        /// A sender that obeys (after Busy it goes back to the earliest batch not taken) against a
        /// bus that says Busy at random: what is taken is in order and without holes.
        #[test]
        fn what_is_taken_is_in_order(busy in prop::collection::vec(any::<bool>(), 1..60), window in 1u64..6) {
            let gate = Gate::default();
            let (mut next, mut taken) = (1, Vec::new());
            let mut decisions = busy.iter().copied().chain(std::iter::repeat(false));
            while taken.len() < 20 {
                let mut again = None;
                for seq in next..next + window {
                    let batch = id(9, seq);
                    if !gate.may_pass(batch) {
                        again = again.or(Some(seq));
                    } else if decisions.next().unwrap_or(false) {
                        gate.block(batch);
                        again = again.or(Some(seq));
                    } else {
                        gate.taken(batch);
                        taken.push(seq);
                    }
                }
                next = again.unwrap_or(next + window);
            }
            let want: Vec<u64> = (1..=taken.len() as u64).collect();
            prop_assert_eq!(taken, want);
        }
    }
}
