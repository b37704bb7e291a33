//! What went through in the last minute, per second.
//!
//! Not for: totals. The reader keeps one per task. Pure: time is an argument.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// The time that a rate is about.
const WINDOW: Duration = Duration::from_secs(60);
/// How far apart samples are at least, so that their number is bounded.
const APART: Duration = Duration::from_millis(900);

/// Totals of the last minute.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rate {
    samples: VecDeque<(Instant, u64, u64)>,
}

impl Rate {
    /// Takes note of the totals now, and gives both rates per second over the last minute, or over
    /// the time since the first note.
    pub(crate) fn note(&mut self, bytes: u64, records: u64, now: Instant) -> (u64, u64) {
        let age = |&(at, _, _): &(Instant, u64, u64)| now.saturating_duration_since(at);
        // The youngest sample that is a minute old stays: it is the beginning.
        while self.samples.get(1).is_some_and(|next| age(next) >= WINDOW) {
            self.samples.pop_front();
        }
        if self.samples.back().is_none_or(|last| age(last) >= APART) {
            self.samples.push_back((now, bytes, records));
        }
        let Some(&(first, first_bytes, first_records)) = self.samples.front() else {
            return (0, 0);
        };
        let ms = now.saturating_duration_since(first).as_millis();
        let per_second = |count: u64| {
            let rate = u128::from(count) * 1000 / ms.max(1);
            u64::try_from(rate).unwrap_or(u64::MAX)
        };
        if ms == 0 {
            return (0, 0);
        }
        (
            per_second(bytes.saturating_sub(first_bytes)),
            per_second(records.saturating_sub(first_records)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_about_the_last_minute() {
        let start = Instant::now();
        let mut rate = Rate::default();
        assert_eq!(rate.note(0, 0, start), (0, 0));
        // 100 bytes a second for two minutes, then nothing.
        let mut last = (0, 0);
        for second in 1..=120 {
            last = rate.note(second * 100, second, start + Duration::from_secs(second));
        }
        assert_eq!(last, (100, 1));
        assert!(rate.samples.len() <= 62, "{}", rate.samples.len());
        assert_eq!(
            rate.note(12_000, 120, start + Duration::from_secs(150)),
            (50, 0)
        );
        assert_eq!(
            rate.note(12_000, 120, start + Duration::from_secs(300)),
            (0, 0)
        );
    }
}
