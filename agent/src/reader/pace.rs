//! Streams that flow are looked at by the clock: once per linger, whatever hints there are, and all of a
//! linger at once.
//!
//! Not for: the hints themselves (see [`crate::flow`]). Each turn that leaves a stream at rest asks.

use std::time::Duration;

use tokio::time::Instant;
use tributary_common::ids::GenerationId;

use super::{Next, Reader};
use crate::{flow::Flowing, tail::Place};

/// So many looks in a row must have seen a file grow before it flows.
const LOOKS_IN: u8 = 4;
/// So many looks in a row that saw nothing end it.
const LOOKS_OUT: u8 = 4;
/// Hints come this late at most: looks further apart than this, and twice the linger, are no flow.
const HINTS_LATE: Duration = Duration::from_millis(100);
/// A file that grows by this many bytes between two looks is fast: its batches are large, and each
/// look costs as much as 50 KB of zstd, most of it for caches that went cold.
const FAST_BYTES: u64 = 128 << 10;
/// A fast file is looked at no more often than this, whatever its class (see docs/adr/0012).
const FAST_LOOKS: Duration = Duration::from_millis(35);

/// How a stream's youngest file grows.
#[derive(Debug)]
pub(super) struct Pace {
    /// Generation and size at the last look.
    seen: (GenerationId, u64),
    /// When it was seen to grow last.
    grown: Instant,
    /// Looks in a row that saw it grow.
    grew: u8,
    /// Looks in a row that did not.
    stood: u8,
    /// It flows; when it was looked at last.
    flows: Option<Box<(Flowing, Instant)>>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            seen: (GenerationId(0), 0),
            grown: now,
            grew: 0,
            stood: 0,
            flows: None,
        }
    }

    /// When new bytes may have come: since the last look at a stream that flows; `None` for others,
    /// whose hints say it.
    pub(super) fn looked(&self) -> Option<Instant> {
        self.flows.as_ref().map(|flows| flows.1)
    }

    /// Takes note of a look; the answer is by how many bytes the file grew.
    fn note(&mut self, seen: (GenerationId, u64), linger: Duration, now: Instant) -> u64 {
        if seen == self.seen {
            self.stood = self.stood.saturating_add(1);
            return 0;
        }
        let grown = if seen.0 == self.seen.0 {
            seen.1.saturating_sub(self.seen.1)
        } else {
            seen.1
        };
        let near = now.saturating_duration_since(self.grown) <= linger * 2 + HINTS_LATE;
        self.grew = if near { self.grew.saturating_add(1) } else { 0 };
        (self.seen, self.grown, self.stood) = (seen, now, 0);
        grown
    }
}

/// About `every` from `now` on, in step with all who are looked at as often: one waking is for all of them,
/// and their batches go to the bus in one write.
fn in_step(began: Instant, now: Instant, every: Duration) -> Instant {
    let due = now + every;
    let off = due.saturating_duration_since(began).as_nanos() % every.as_nanos().max(1);
    let off = Duration::from_nanos(u64::try_from(off).unwrap_or_default());
    // Not so soon that the look sees little.
    match off > every / 2 {
        true => due + (every - off),
        false => due - off,
    }
}

impl Reader {
    /// When a stream is served next, after a turn that said `next`.
    pub(super) fn at_its_pace(&mut self, stream: usize, next: Next, now: Instant) -> Next {
        let plan = match next {
            Next::Ready | Next::Blocked => {
                if let Some(known) = self.streams.get_mut(stream)
                    && let Some(flows) = &mut known.pace.flows
                {
                    flows.1 = now;
                }
                return next;
            }
            Next::Idle => None,
            Next::At(at) => Some(at),
        };
        let linger = Duration::from_millis(self.class_of(stream).linger_ms());
        let began = self.began;
        let Some(known) = self.streams.get_mut(stream) else {
            return next;
        };
        let Some(tail) = known.tails.last() else {
            return next;
        };
        let named = tail.place == Place::Named;
        // A path that several streams read needs its hints for all of them.
        let alone = self
            .by_path
            .get(&tail.path)
            .is_some_and(|streams| streams.len() == 1);
        let pace = &mut known.pace;
        let grown = pace.note((tail.generation, tail.size), linger, now);
        let every = match grown >= FAST_BYTES {
            true => linger.max(FAST_LOOKS),
            false => linger,
        };
        let again = in_step(began, now, every);
        // No hint will say that an unfinished line got its end.
        let soonest = Next::At(plan.map_or(again, |at| at.min(again)));
        match &mut pace.flows {
            Some(flows)
                if !named || !alone || pace.stood >= LOOKS_OUT || flows.0.path() != &*tail.path =>
            {
                (pace.flows, pace.grew) = (None, 0);
                // What came before hints were wanted again is seen by one more look.
                soonest
            }
            Some(flows) => {
                flows.1 = now;
                soonest
            }
            None if named && alone && pace.grew >= LOOKS_IN => {
                let flowing = self.wiring.flow.enter(tail.path.to_path_buf());
                pace.flows = Some(Box::new((flowing, now)));
                soonest
            }
            None => next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_fall_into_step_and_stay_there() {
        let (began, every) = (Instant::now(), Duration::from_millis(200));
        let at = |ms: u64| began + Duration::from_millis(ms);
        let next = |ms: u64| in_step(began, at(ms), every);
        assert_eq!(next(1_000), at(1_200));
        // A turn takes a moment.
        assert_eq!(next(1_003), at(1_200));
        assert_eq!(next(1_099), at(1_200));
        // Half of the time at least, half more at most.
        assert_eq!(next(1_100), at(1_200));
        assert_eq!(next(1_101), at(1_400));
        assert_eq!(next(1_199), at(1_400));
    }
}
