//! Streams that stand still: of what was given before a refusal was told, nothing behind the refused batch is
//! produced.
//!
//! # Constraints
//! A refused batch comes again, and what is behind it in its stream must not be in the topic by then. Whoever
//! gives batches stops at a refusal once it is told of it (see [`crate::order`]); what was given before that is
//! on its way here, in queues and lanes, and is refused as well. Other streams go on.
//!
//! # Operation
//! Batches are numbered as they are given. A refusal holds its stream until it is told, and then all of it that
//! has a lower number. While nothing is held, a batch costs one load.
//!
//! Not for: what a lane has of the stream (see [`super::verbatim`]).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tributary_common::{ids::StreamId, wire::RefuseReason};

use super::super::Failure;

/// So many streams are remembered at most. Some never come again, as their agents are gone: at this those
/// are forgotten of which everything is told.
const MAX: usize = 10_000;

/// A stream of which something was refused.
#[derive(Debug, Default)]
struct Stop {
    /// Refusals that are not told yet.
    untold: u32,
    /// The last number that was given before one was told.
    until: u64,
}

/// The streams that stand still, and the numbers of batches.
#[derive(Debug, Default)]
pub(super) struct Stops {
    given: AtomicU64,
    /// How many there are in the map.
    held: AtomicUsize,
    of: Mutex<HashMap<StreamId, Stop>>,
}

/// A refusal that is not told yet; it is when this is dropped.
#[derive(Debug)]
pub(super) struct Untold {
    stops: Arc<Stops>,
    stream: StreamId,
}

impl Drop for Untold {
    fn drop(&mut self) {
        let mut of = self.stops.lock();
        if let Some(stop) = of.get_mut(&self.stream) {
            stop.untold = stop.untold.saturating_sub(1);
            stop.until = self.stops.given.load(Ordering::SeqCst);
        }
    }
}

/// What a batch is told that stands behind a refused one.
pub(super) fn behind() -> Failure {
    let why = "a batch before it in its stream was refused";
    Failure::Rejected(RefuseReason::Destination, why.to_owned())
}

impl Stops {
    fn lock(&self) -> MutexGuard<'_, HashMap<StreamId, Stop>> {
        // Its changes are whole.
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a batch that is given now.
    pub(super) fn number(&self) -> u64 {
        self.given.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// A batch of a stream is refused. To be kept until that is told.
    pub(super) fn refused(self: &Arc<Self>, stream: StreamId) -> Untold {
        let mut of = self.lock();
        if of.len() >= MAX {
            of.retain(|_stream, stop| stop.untold > 0);
        }
        of.entry(stream).or_default().untold += 1;
        self.held.store(of.len(), Ordering::SeqCst);
        Untold {
            stops: Arc::clone(self),
            stream,
        }
    }

    /// Whether a batch of this number stands behind one that was refused.
    pub(super) fn holds(&self, stream: StreamId, no: u64) -> bool {
        if self.held.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let mut of = self.lock();
        let Some(stop) = of.get(&stream) else {
            return false;
        };
        if stop.untold > 0 || no <= stop.until {
            return true;
        }
        // What comes now knows of the refusal, and so does all behind it.
        of.remove(&stream);
        self.held.store(of.len(), Ordering::SeqCst);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_before_a_refusal_was_told_is_held_and_what_comes_later_is_not() {
        let stops = Arc::new(Stops::default());
        let (one, other) = (StreamId(1), StreamId(2));
        let numbers: Vec<u64> = (0..3).map(|_batch| stops.number()).collect();
        assert!(!numbers.iter().any(|&no| stops.holds(one, no)));
        let (first, second) = (stops.refused(one), stops.refused(one));
        assert!(stops.holds(one, numbers[1]) && !stops.holds(other, numbers[1]));
        drop(first);
        let between = stops.number();
        assert!(stops.holds(one, between), "the second one is not told");
        drop(second);
        assert!(stops.holds(one, numbers[2]) && stops.holds(one, between));
        let again = stops.number();
        assert!(!stops.holds(one, again));
        assert_eq!(stops.lock().len(), 0, "it is forgotten");
    }

    #[test]
    fn streams_that_never_come_again_are_forgotten() {
        let stops = Arc::new(Stops::default());
        let untold = stops.refused(StreamId(0));
        for stream in 1..=2 * MAX as u64 {
            drop(stops.refused(StreamId(stream)));
        }
        assert!(stops.lock().len() <= MAX && stops.holds(StreamId(0), 1));
        drop(untold);
    }
}
