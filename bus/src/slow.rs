//! Whether a destination is slow: it takes batches, and half of those that it answered lately took long.
//!
//! For people only; nothing is decided by it. A destination that answers nothing at all is told by its own word
//! (`hanging`), and so is one that says itself that it makes its clients wait (`throttled`). Counted are batches
//! that go live: what is drained waits by its pace. Pure but for its lock: time is an argument.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// An answer that takes longer is slow: lingering, compressing and a sync are within by far.
const SLOW: Duration = Duration::from_secs(1);
/// Answers are counted over so much time, and the time before it.
const PART: Duration = Duration::from_secs(5);

/// Answers of some time.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    answers: u64,
    slow: u64,
    longest: Duration,
}

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    now: Part,
    before: Part,
}

impl State {
    /// What is older than two parts does not count any more.
    fn turn(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let gone = now.saturating_duration_since(since);
        if gone >= PART {
            self.before = match gone < 2 * PART {
                true => self.now,
                false => Part::default(),
            };
            self.now = Part::default();
            self.since = Some(now);
        }
    }
}

/// How quickly a destination has answered lately.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<State>);

impl Pace {
    /// A batch that went live was delivered after so long.
    pub(crate) fn delivered(&self, took: Duration, now: Instant) {
        // It is whole after every line, so a panic elsewhere leaves it usable.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.turn(now);
        state.now.answers += 1;
        state.now.slow += u64::from(took > SLOW);
        state.now.longest = state.now.longest.max(took);
    }

    /// How slow it is, in words; `None` when it is not.
    pub(crate) fn slow(&self, now: Instant) -> Option<String> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.turn(now);
        let (one, other) = (state.now, state.before);
        let (answers, slow) = (one.answers + other.answers, one.slow + other.slow);
        let longest = one.longest.max(other.longest).as_secs_f64();
        (slow > 0 && 2 * slow >= answers).then(|| {
            format!(
                "{slow} of its last {answers} answers took longer than 1 s, up to {longest:.1} s"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_answers_of_the_last_seconds_make_it_slow() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let took = Duration::from_millis;
        let pace = Pace::default();
        assert_eq!(pace.slow(at(0)), None, "nothing was asked of it");
        pace.delivered(took(1_000), at(0));
        pace.delivered(took(20), at(10));
        assert_eq!(pace.slow(at(20)), None);
        pace.delivered(took(2_500), at(3_000));
        assert_eq!(pace.slow(at(3_000)), None, "one of three");
        pace.delivered(took(1_001), at(4_000));
        let says = "2 of its last 4 answers took longer than 1 s, up to 2.5 s";
        assert_eq!(pace.slow(at(4_000)).as_deref(), Some(says));
        // They count for five seconds at least, and for ten at most.
        assert!(pace.slow(at(9_000)).is_some());
        assert_eq!(pace.slow(at(14_000)), None);
        pace.delivered(took(3_000), at(15_000));
        assert!(pace.slow(at(15_000)).is_some());
        assert_eq!(pace.slow(at(60_000)), None, "nothing was answered since");
    }
}
