//! How fast the drain may go beside urgent batches that come live: by how long those take.
//!
//! What the drain itself waits for says little about others: a broker, its disk and its processors may be
//! busy with the drain alone, and its answers are as quick as ever. So while batches of P0 and P1 come live,
//! what nine in ten of them take at most, in each fifth of a second, is compared with what that is when the drain
//! does no harm. Above a multiple of that the drain's rate falls by a part; below, it rises, slowly around
//! where it was too fast the last time. It never falls below a floor; where they are slow even
//! then, the drain is not what makes them slow, and that is the new usual. One slow batch alone says nothing:
//! disks and schedulers make such without any drain.
//!
//! Not for: how much may be on its way (see [`super::pace`]). Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;
use tributary_common::ids::Class;

/// Live batches are looked at over this.
const INTERVAL: Duration = Duration::from_millis(200);
/// So many of an interval are looked at, and so many of ten have to be quick.
const LOOKED_AT: usize = 256;
const QUICK_OF_TEN: usize = 9;
/// After so many intervals without an urgent batch the drain goes as fast as it can.
const FORGOTTEN_AFTER: u32 = 10;
/// Nine in ten of an interval may take so many halves of the usual.
const HALVES: u32 = 3;
/// What is below this is never too slow.
const NEVER_SLOW: Duration = Duration::from_millis(4);
/// The drain's rate never falls below this, in bytes a second.
const LEAST_RATE: f64 = 8e6;
/// So often too slow in a row at the least rate, and that is the usual.
const NEW_USUAL_AFTER: u32 = 5;
/// Where it begins beside urgent batches.
const FIRST_RATE: f64 = 32e6;
/// What becomes of the rate after an interval that was too slow; and after one that was not, below what was too
/// fast before, around that (by this part of it), and beyond.
const FALL: f64 = 0.7;
const RISE: f64 = 1.2;
const RISE_NEAR: f64 = 1.01;
const RISE_BEYOND: f64 = 1.05;
const NEAR: f64 = 0.75;
/// Intervals after a fall that still show what was given before it.
const SETTLES_IN: u32 = 1;
/// What may go at once after a pause.
const BURST: Duration = Duration::from_millis(5);

/// The rate of the drain, and what is known of live batches.
#[derive(Debug)]
pub(super) struct Beside {
    since: Instant,
    /// What urgent batches of this interval took.
    took: Vec<Duration>,
    /// Bytes that the drain gave in this interval.
    given: u64,
    /// Intervals without an urgent batch.
    silent: u32,
    /// Intervals that say nothing after a fall.
    settling: u32,
    /// What nine in ten took at most in an interval in which the drain did no harm.
    usual: Option<Duration>,
    /// Bytes a second; `None` while nobody is beside the drain.
    rate: Option<f64>,
    /// The rate at which live batches were too slow the last time.
    slow_at: f64,
    /// Falls in a row at the least rate.
    slow_at_least: u32,
    /// Bytes that may go, less what went too early.
    tokens: f64,
    refilled: Instant,
}

impl Beside {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            took: Vec::new(),
            given: 0,
            silent: FORGOTTEN_AFTER,
            settling: 0,
            usual: None,
            rate: None,
            slow_at: f64::INFINITY,
            slow_at_least: 0,
            tokens: 0.0,
            refilled: now,
        }
    }

    /// Whether live batches of this class are waited for by somebody.
    pub(super) fn minds(class: Class) -> bool {
        class <= Class::P1
    }

    /// An urgent batch that came live was delivered after this long.
    pub(super) fn delivered(&mut self, took: Duration) {
        if self.took.len() < LOOKED_AT {
            self.took.push(took);
        }
    }

    /// The rate in bytes a second; `None` when there is no bound.
    pub(super) fn rate(&self) -> Option<u64> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "far below what an u64 holds, and never negative"
        )]
        self.rate.map(|rate| rate as u64)
    }

    /// Whether the drain may give a batch, or when to ask again.
    ///
    /// # Errors
    /// When it may.
    pub(super) fn may(&mut self, now: Instant) -> Result<(), Duration> {
        let Some(rate) = self.rate else {
            return Ok(());
        };
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        self.tokens = (self.tokens + rate * passed).min(rate * BURST.as_secs_f64());
        if self.tokens >= 0.0 {
            return Ok(());
        }
        Err(Duration::from_secs_f64(-self.tokens / rate).min(INTERVAL))
    }

    /// The drain gave a batch.
    #[expect(clippy::cast_precision_loss, reason = "bytes of a batch")]
    pub(super) fn gave(&mut self, bytes: u64) {
        self.given += bytes;
        if self.rate.is_some() {
            self.tokens -= bytes as f64;
        }
    }

    /// What nine in ten of the urgent batches of this interval took at most.
    fn most(&mut self) -> Option<Duration> {
        self.took.sort_unstable();
        let most = self.took.get(self.took.len() * QUICK_OF_TEN / 10).copied();
        self.took.clear();
        most
    }

    /// Looks back at an interval that is over. `idle`: the drain had nothing to give or on its way.
    pub(super) fn turn(&mut self, idle: bool, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed < INTERVAL {
            return;
        }
        self.since = now;
        #[expect(clippy::cast_precision_loss, reason = "bytes of an interval")]
        let actual = std::mem::take(&mut self.given) as f64 / passed.as_secs_f64();
        let Some(most) = self.most() else {
            self.silent = self.silent.saturating_add(1);
            if self.silent >= FORGOTTEN_AFTER {
                self.rate = None;
            }
            return;
        };
        self.silent = 0;
        if idle {
            // It creeps up, so that a destination that became slower is known for what it is.
            let usual = self
                .usual
                .map_or(most, |usual| most.min(usual + usual / 16));
            self.usual = Some(usual);
            return;
        }
        let usual = self.usual.map_or(most, |usual| usual.min(most));
        self.usual = Some(usual);
        let Some(rate) = self.rate else {
            (self.rate, self.tokens, self.refilled) = (Some(FIRST_RATE), 0.0, now);
            self.settling = SETTLES_IN;
            return;
        };
        if self.settling > 0 {
            self.settling -= 1;
            return;
        }
        let too_slow = most > NEVER_SLOW && most > usual * HALVES / 2;
        if !too_slow {
            self.slow_at_least = 0;
        }
        self.rate = Some(if too_slow {
            self.slow_at_least += u32::from(rate <= LEAST_RATE);
            if self.slow_at_least >= NEW_USUAL_AFTER {
                (self.usual, self.slow_at_least) = (Some(most), 0);
                self.slow_at = f64::INFINITY;
            } else {
                self.slow_at = rate;
            }
            self.settling = SETTLES_IN;
            (rate * FALL).max(LEAST_RATE)
        } else if actual < rate * FALL {
            // Something else bounds it: more than was tried is not allowed.
            rate
        } else if rate < self.slow_at * NEAR {
            rate * RISE
        } else if rate < self.slow_at / NEAR {
            rate * RISE_NEAR
        } else {
            rate * RISE_BEYOND
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A destination that works off so many bytes a second, and what a live batch takes there.
    struct Broker {
        bytes_per_s: f64,
        base: Duration,
    }

    /// A drain without end for so many seconds beside a live batch every 10 ms; gives the bytes a second
    /// of the last half, and how long the live ones took then, ascending.
    fn run(
        beside: &mut Beside,
        broker: &Broker,
        (start, seconds): (Instant, u64),
    ) -> (f64, Vec<Duration>) {
        let (mut queued, mut drained, mut took) = (0.0, 0.0, Vec::new());
        for ms in 0..seconds * 1000 {
            let now = start + Duration::from_millis(ms);
            queued = (queued - broker.bytes_per_s / 1000.0).max(0.0_f64);
            // The window.
            while queued < 8e6 && beside.may(now).is_ok() {
                beside.gave(256_000);
                queued += 256_000.0;
                drained += if ms > seconds * 500 { 256_000.0 } else { 0.0 };
            }
            if ms % 10 == 0 {
                let wait = Duration::from_secs_f64(queued / broker.bytes_per_s);
                beside.delivered(broker.base + wait);
                if ms > seconds * 500 {
                    took.push(broker.base + wait);
                }
            }
            beside.turn(false, now);
        }
        took.sort_unstable();
        (drained / (seconds as f64 / 2.0), took)
    }

    #[test]
    fn urgent_batches_hardly_notice_a_drain_that_takes_what_is_left() {
        let start = Instant::now();
        let mut beside = Beside::new(start);
        let broker = Broker {
            bytes_per_s: 200e6,
            base: Duration::from_millis(3),
        };
        let (rate, took) = run(&mut beside, &broker, (start, 60));
        let p99 = took[took.len() * 99 / 100];
        assert!(p99 <= broker.base * 3, "{p99:?}");
        assert!(rate > 100e6, "{rate}");
    }

    #[test]
    fn a_destination_that_is_slow_without_the_drain_is_drained_all_the_same() {
        let start = Instant::now();
        let mut beside = Beside::new(start);
        let broker = |ms| Broker {
            bytes_per_s: 200e6,
            base: Duration::from_millis(ms),
        };
        run(&mut beside, &broker(3), (start, 20));
        let later = start + Duration::from_secs(20);
        let (rate, _took) = run(&mut beside, &broker(80), (later, 60));
        assert!(rate > 50e6, "{rate}");
    }

    #[test]
    fn with_nobody_beside_it_there_is_no_bound() {
        let now = Instant::now();
        let mut beside = Beside::new(now);
        assert!(beside.may(now).is_ok() && beside.rate().is_none());
        beside.delivered(Duration::from_millis(3));
        beside.turn(false, now + INTERVAL);
        assert!(beside.rate().is_some());
        for no in 2..30 {
            beside.turn(false, now + INTERVAL * no);
        }
        assert_eq!(beside.rate(), None);
    }
}
