//! A ceiling over time: so much per second, with a little of a burst.
//!
//! Not for: whose turn it is (see [`crate::turns`]). Pure: time is an argument. The reader keeps to a
//! task's rate and to the CPU by it, the sender to the bandwidth.

use std::time::Duration;

use tokio::time::Instant;

/// The part of a second that may go at once after a pause.
const BURST_PART: f64 = 0.25;
/// What goes at once when there is little: a hundredth of a second, but no crumbs.
const PIECE_PART: f64 = 0.01;
/// No crumbs, in bytes.
const CRUMB_BYTES: f64 = 512.0;

/// A ceiling in units per second, with up to a quarter of a second of burst.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Units per second.
    rate: f64,
    /// Units that may go at once; below 0 after a piece larger than what was there.
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket of bytes, or whatever is counted in whole units.
    pub(crate) fn new(per_second: u64, now: Instant) -> Self {
        let rate = as_float(per_second.max(1));
        Self {
            rate,
            tokens: rate * BURST_PART,
            filled: now,
        }
    }

    /// How long to wait before anything may go; `None` when it may go now.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.wait_beyond(now, Duration::ZERO)
    }

    /// The same for one that may overdraw by what comes in within `overdraft`.
    pub(crate) fn wait_beyond(&mut self, now: Instant, overdraft: Duration) -> Option<Duration> {
        self.fill(now);
        let tokens = self.tokens + overdraft.as_secs_f64() * self.rate;
        (tokens <= 0.0).then(|| Duration::from_secs_f64(-tokens / self.rate + 0.001))
    }

    /// How many of `want` bytes may go now; the error is how long to wait.
    pub(crate) fn allows(&mut self, now: Instant, want: u64) -> Result<u64, Duration> {
        self.fill(now);
        let piece = (self.rate * PIECE_PART).max(CRUMB_BYTES.min(self.rate * BURST_PART));
        let least = piece.min(as_float(want));
        if self.tokens < least {
            let wait = (least - self.tokens) / self.rate + 0.001;
            return Err(Duration::from_secs_f64(wait));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is between 0 and want"
        )]
        let bytes = self.tokens.max(1.0) as u64;
        Ok(bytes.min(want))
    }

    /// How long so many units take at this rate.
    pub(crate) fn time_for(&self, units: u64) -> Duration {
        // A rate is at least one.
        Duration::try_from_secs_f64(as_float(units) / self.rate).unwrap_or(Duration::MAX)
    }

    /// Takes what went. It may be more than was there; the next wait is longer then.
    pub(crate) fn take(&mut self, units: u64) {
        self.tokens -= as_float(units);
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate).min(self.rate * BURST_PART);
        self.filled = now;
    }
}

/// A figure per second is far below 2^52, where f64 would lose units.
#[expect(clippy::cast_precision_loss, reason = "needs no more than 52 bits")]
fn as_float(units: u64) -> f64 {
    units as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes in ten seconds through a bucket of 1000 a second in pieces of `piece`.
    fn check(piece: u64, at_least: u64, at_most: u64) {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, start);
        let (mut passed, mut sent) = (Duration::ZERO, 0);
        while passed < Duration::from_secs(10) {
            match bucket.wait(start + passed) {
                Some(wait) => passed += wait,
                None => {
                    bucket.take(piece);
                    sent += piece;
                }
            }
        }
        assert!((at_least..=at_most).contains(&sent), "{sent}");
    }

    #[test]
    fn a_bucket_lets_its_rate_through() {
        check(100, 9_900, 10_500);
        check(1, 9_900, 10_300);
    }

    #[test]
    fn pieces_of_a_stream_keep_to_the_rate_and_are_no_crumbs() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100_000, start);
        let (mut passed, mut sent, mut pieces) = (Duration::ZERO, 0, 0);
        while passed < Duration::from_secs(10) {
            match bucket.allows(start + passed, 1 << 20) {
                Err(wait) => passed += wait,
                Ok(bytes) => {
                    bucket.take(bytes);
                    sent += bytes;
                    pieces += 1;
                }
            }
        }
        assert!((990_000..=1_030_000).contains(&sent), "{sent}");
        assert!(pieces < 1_100, "{pieces}");
        assert_eq!(bucket.allows(start + passed * 2, 7), Ok(7));
    }

    #[test]
    fn an_overdraft_lets_the_urgent_go_a_little_earlier_and_no_faster() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, start);
        bucket.take(300);
        assert!(bucket.wait(start).is_some());
        assert_eq!(bucket.wait_beyond(start, Duration::from_millis(100)), None);
        bucket.take(100);
        let wait = bucket.wait_beyond(start, Duration::from_millis(100));
        assert!(wait > Some(Duration::from_millis(40)), "{wait:?}");
    }
}
