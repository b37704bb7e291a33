//! How much of the drain may be on its way at a time: additive increase, multiplicative decrease, by
//! the destination's latency.
//!
//! The drain lives on what the destination can spare: while its answers come as quickly as they do
//! when little is on its way the window grows, when they take much longer, or fail, it shrinks.
//! Pure.

use std::time::Duration;

/// The window begins here, and never gets smaller, in bytes.
const MIN_BYTES: u64 = 512 << 10;
/// The largest window, in bytes.
const MAX_BYTES: u64 = 32 << 20;
/// The window grows by so many bytes for each window that was answered.
const STEP_BYTES: u64 = 256 << 10;
/// An answer that takes so many times the usual is too slow.
const SLOW_TIMES: u32 = 4;
/// An answer below this is never too slow: a broker that syncs takes as long.
const NEVER_SLOW: Duration = Duration::from_millis(100);

/// The drain's window.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    window: u64,
    on_the_way: u64,
    answered: u64,
    /// The least that answers take, as seen lately.
    usual: Option<Duration>,
    /// Answers that are still to come from before the last decrease: they say nothing new.
    stale: u64,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            window: MIN_BYTES,
            on_the_way: 0,
            answered: 0,
            usual: None,
            stale: 0,
        }
    }

    /// Whether a batch may go: there is room, or nothing is on its way.
    pub(super) fn has_room(&self) -> bool {
        self.on_the_way < self.window
    }

    /// The window in bytes.
    pub(super) fn window(&self) -> u64 {
        self.window
    }

    /// A batch was given.
    pub(super) fn given(&mut self, bytes: u64) {
        self.on_the_way += bytes;
    }

    /// A batch was answered after this long; `None` when it failed.
    pub(super) fn answered(&mut self, bytes: u64, took: Option<Duration>) {
        self.on_the_way = self.on_the_way.saturating_sub(bytes);
        let stale = self.stale > 0;
        self.stale = self.stale.saturating_sub(bytes);
        let Some(took) = took else {
            return self.shrink(stale);
        };
        let usual = match self.usual {
            // It creeps up, so that a destination that became slower for good is not starved.
            Some(usual) => took.min(usual + usual / 64),
            None => took,
        };
        self.usual = Some(usual);
        if took > NEVER_SLOW && took > usual.saturating_mul(SLOW_TIMES) {
            return self.shrink(stale);
        }
        self.answered += bytes;
        if self.answered >= self.window {
            self.answered = 0;
            self.window = (self.window + STEP_BYTES).min(MAX_BYTES);
        }
    }

    fn shrink(&mut self, stale: bool) {
        if stale {
            return;
        }
        self.window = (self.window / 2).max(MIN_BYTES);
        self.answered = 0;
        self.stale = self.on_the_way;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Option<Duration> = Some(Duration::from_millis(20));
    const SLOW: Option<Duration> = Some(Duration::from_millis(900));

    fn fill_and_answer(pace: &mut Pace, took: Option<Duration>) {
        let mut given = 0;
        while pace.has_room() {
            pace.given(100_000);
            given += 1;
        }
        for _batch in 0..given {
            pace.answered(100_000, took);
        }
    }

    #[test]
    fn quick_answers_widen_the_window_up_to_its_bound() {
        let mut pace = Pace::new();
        fill_and_answer(&mut pace, QUICK);
        assert_eq!(pace.window(), MIN_BYTES + STEP_BYTES);
        for _round in 0..1_000 {
            fill_and_answer(&mut pace, QUICK);
        }
        assert_eq!(pace.window(), MAX_BYTES);
    }

    #[test]
    fn slow_and_failed_answers_halve_it_once_for_all_that_was_on_its_way() {
        for bad in [SLOW, None] {
            let mut pace = Pace::new();
            for _round in 0..20 {
                fill_and_answer(&mut pace, QUICK);
            }
            let before = pace.window();
            fill_and_answer(&mut pace, bad);
            assert_eq!(pace.window(), before / 2);
        }
    }

    #[test]
    fn a_destination_that_is_always_slow_is_still_drained() {
        let mut pace = Pace::new();
        for _round in 0..10 {
            fill_and_answer(&mut pace, SLOW);
        }
        assert!(pace.window() > MIN_BYTES);
    }
}
