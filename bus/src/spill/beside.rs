//! How fast the drain may go beside urgent batches that come live: by how long those take.
//!
//! What the drain itself waits for says little about others: a broker, its disk and its processors may be
//! busy with the drain alone, and its answers are as quick as ever. So what nine in ten batches of P0 and P1
//! take by themselves is learned while the drain gives nothing or goes at its least rate, and how many of them take
//! longer than a multiple of that even so. One in a hundred more may be slow beside a faster drain. When
//! more are, the rate falls by a part, and it rises again when that is paid off by quick ones; slowly around where it was too
//! fast the last time. One slow batch alone says nothing: disks, links and schedulers make such without any drain.
//!
//! Too many is told by a cumulative sum, as in quality control: each slow batch adds to it, each quick one
//! takes away what may be slow, and it alarms at a bound. It needs no intervals, so it is as sure with
//! a batch a second as with a hundred, and tells a drain that slows everything after a few batches.
//!
//! Not for: how much may be on its way (see [`super::pace`]). Pure: time is an argument.
//! Source: E. S. Page, "Continuous inspection schemes", Biometrika 41 (1954).

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;
use tributary_common::ids::Class;

/// The rate rises at most this often.
const INTERVAL: Duration = Duration::from_millis(200);
/// After so long without an urgent batch the drain goes as fast as it can.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(2);
/// A batch is slow that takes so many halves of what nine in ten take at most by themselves.
const HALVES: u32 = 5;
/// What is below this is never slow.
const NEVER_SLOW: Duration = Duration::from_millis(4);
/// This part of the batches may be slow beside those that are by themselves, of which so many say how many.
const MAY_BE_SLOW: f64 = 0.01;
const OF_SO_MANY: f64 = 256.0;
/// The sum alarms at so many of them.
const ALARM: f64 = 3.0;
/// The rate does not rise while more than this were slow and are not paid off; it is never more than that.
const DEBT: f64 = 2.0;
const MOST_DEBT: f64 = 20.0;
/// A debt is forgotten in about this time also when few batches come.
const FORGIVEN_IN: Duration = Duration::from_secs(60);
/// The drain's rate never falls below this, in bytes a second.
const LEAST_RATE: f64 = 8e6;
/// Where it begins beside urgent batches whose usual is known.
const FIRST_RATE: f64 = 32e6;
/// What becomes of the rate after an alarm; and without one, below what was too fast before, around that (by
/// this part of it), and beyond.
const FALL: f64 = 0.7;
const RISE: f64 = 1.2;
const RISE_NEAR: f64 = 1.01;
const RISE_BEYOND: f64 = 1.02;
const NEAR: f64 = 0.75;
/// So long after a fall batches still show what was given before it.
const SETTLES_IN: Duration = Duration::from_millis(200);
/// What may go at once after a pause.
const BURST: Duration = Duration::from_millis(5);

/// What nine in ten batches take at most when the drain does no harm.
#[derive(Debug, Default)]
struct Usual {
    /// Of a group of ten the ninth, for the last groups.
    groups: VecDeque<Duration>,
    group: Vec<Duration>,
    /// The middle one of the groups.
    most: Option<Duration>,
}

impl Usual {
    const GROUP: usize = 10;
    const QUICK: usize = 9;
    /// It is known after so many groups, and goes by so many: a pause of a broker is a few of them.
    const KNOWN_AFTER: usize = 5;
    const GROUPS: usize = 32;

    /// A batch took this long.
    fn learn(&mut self, took: Duration) {
        self.group.push(took);
        if self.group.len() < Self::GROUP {
            return;
        }
        self.group.sort_unstable();
        self.groups.extend(self.group.get(Self::QUICK - 1));
        self.group.clear();
        if self.groups.len() > Self::GROUPS {
            self.groups.pop_front();
        }
        let mut sorted = Vec::from(self.groups.clone());
        sorted.sort_unstable();
        self.most = match sorted.len() {
            groups @ Self::KNOWN_AFTER.. => Some(sorted[groups / 2]),
            _ => None,
        };
    }

    /// What follows is of another kind than what came last.
    fn turn_page(&mut self) {
        self.group.clear();
    }

    fn is_full(&self) -> bool {
        self.groups.len() >= Self::GROUPS
    }
}

/// The rate of the drain, and what is known of live batches.
#[derive(Debug)]
pub(super) struct Beside {
    since: Instant,
    /// Bytes that the drain gave in this interval.
    given: u64,
    /// When an urgent batch was last delivered.
    heard: Option<Instant>,
    /// The drain does no harm now.
    harmless: bool,
    /// What urgent batches take when it does none, and what they took at most since it may.
    usual: Usual,
    lately: Usual,
    /// The part of them that is slow when it does none.
    naturally: f64,
    /// The cumulative sum, since the last fall; and what is to be paid off before the rate rises.
    slow: f64,
    debt: f64,
    /// Batches before this say nothing.
    settled: Instant,
    /// Bytes a second; `None` while nobody is beside the drain.
    rate: Option<f64>,
    /// The rate at which live batches were too slow the last time.
    slow_at: f64,
    /// Bytes that may go, less what went too early.
    tokens: f64,
    refilled: Instant,
}

impl Beside {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            given: 0,
            heard: None,
            harmless: true,
            usual: Usual::default(),
            lately: Usual::default(),
            naturally: 0.0,
            slow: 0.0,
            debt: 0.0,
            settled: now,
            rate: None,
            slow_at: FIRST_RATE,
            tokens: 0.0,
            refilled: now,
        }
    }

    /// Whether live batches of this class are waited for by somebody.
    pub(super) fn minds(class: Class) -> bool {
        class <= Class::P1
    }

    /// An urgent batch that came live was delivered after this long.
    pub(super) fn delivered(&mut self, took: Duration, now: Instant) {
        self.heard = Some(now);
        let slow = self.usual.most.map(|most| {
            let is_slow = took > NEVER_SLOW && took > most * HALVES / 2;
            f64::from(u8::from(is_slow))
        });
        if let (true, Some(slow)) = (self.harmless, slow) {
            self.naturally += (slow - self.naturally) / OF_SO_MANY;
        }
        if self.harmless {
            self.usual.learn(took);
        } else {
            self.learn_less(took);
        }
        let (Some(rate), Some(slow)) = (self.rate, slow) else {
            return;
        };
        let more = slow - MAY_BE_SLOW - self.naturally;
        self.debt = (self.debt + more).clamp(0.0, MOST_DEBT);
        if now < self.settled {
            return;
        }
        self.slow = (self.slow + more).max(0.0);
        if self.slow >= ALARM {
            self.slow = 0.0;
            self.slow_at = rate;
            self.rate = Some((rate * FALL).max(LEAST_RATE));
            self.settled = now + SETTLES_IN;
            self.lately = Usual::default();
        }
    }

    /// Whether the usual is out of date: beside a drain that may do harm they take much less, for long.
    fn learn_less(&mut self, took: Duration) {
        self.lately.learn(took);
        let is_less =
            |lately: &Duration| self.usual.most.is_some_and(|most| *lately < most * 3 / 4);
        if self.lately.is_full() && self.lately.groups.iter().all(is_less) {
            self.usual = std::mem::take(&mut self.lately);
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
        } else {
            self.may_harm(true);
        }
    }

    fn may_harm(&mut self, may: bool) {
        if self.harmless == may {
            self.harmless = !may;
            self.usual.turn_page();
            self.lately = Usual::default();
        }
    }

    /// Looks back at an interval that is over. `idle`: the drain has nothing on its way.
    pub(super) fn turn(&mut self, idle: bool, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed < INTERVAL {
            return;
        }
        self.since = now;
        #[expect(clippy::cast_precision_loss, reason = "bytes of an interval")]
        let actual = std::mem::take(&mut self.given) as f64 / passed.as_secs_f64();
        let silent = |at| now.saturating_duration_since(at) >= FORGOTTEN_AFTER;
        if self.heard.is_none_or(silent) {
            self.rate = None;
        } else if !idle || actual > 0.0 {
            self.rate = Some(self.next_rate(actual, now));
        }
        let is_least = self.rate.is_some_and(|rate| rate <= LEAST_RATE);
        self.may_harm(!is_least && (!idle || actual > 0.0));
    }

    /// The rate after an interval without an alarm, in which the drain gave `actual` bytes a second.
    fn next_rate(&mut self, actual: f64, now: Instant) -> f64 {
        self.debt -= self.debt * INTERVAL.as_secs_f64() / FORGIVEN_IN.as_secs_f64();
        let is_known = self.usual.most.is_some();
        let Some(rate) = self.rate else {
            (self.tokens, self.refilled) = (0.0, now);
            (self.slow, self.debt) = (0.0, 0.0);
            self.settled = now + SETTLES_IN;
            return if is_known { FIRST_RATE } else { LEAST_RATE };
        };
        let may_rise = is_known && now >= self.settled && self.debt < DEBT;
        if !may_rise || actual < rate * FALL {
            // Where something else bounds it, more than was tried is not allowed.
            rate
        } else if rate < self.slow_at * NEAR {
            rate * RISE
        } else if rate < self.slow_at / NEAR {
            rate * RISE_NEAR
        } else {
            rate * RISE_BEYOND
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A destination that works off so many bytes a second, what a live batch takes there at least, and
    /// what comes to that by chance, in the mean.
    struct Broker {
        bytes_per_s: f64,
        base: Duration,
        jitter: Duration,
    }

    /// A destination beside whose drain urgent batches come.
    struct Case {
        beside: Beside,
        now: Instant,
        chance: fastrand::Rng,
        /// Between urgent batches.
        every_ms: u64,
    }

    impl Case {
        fn new(every_ms: u64) -> Self {
            let now = Instant::now();
            Self {
                beside: Beside::new(now),
                now,
                chance: fastrand::Rng::with_seed(7),
                every_ms,
            }
        }

        /// So many seconds, with a drain without end or none; gives the bytes a second of the last half, and
        /// how long the live ones took then, ascending.
        fn run(&mut self, broker: &Broker, drains: bool, seconds: u64) -> (f64, Vec<Duration>) {
            let (mut queued, mut drained, mut took) = (0.0, 0.0, Vec::new());
            for ms in 0..seconds * 1000 {
                self.now += Duration::from_millis(1);
                queued = (queued - broker.bytes_per_s / 1000.0).max(0.0_f64);
                // The window.
                while drains && queued < 8e6 && self.beside.may(self.now).is_ok() {
                    self.beside.gave(256_000);
                    queued += 256_000.0;
                    drained += if ms > seconds * 500 { 256_000.0 } else { 0.0 };
                }
                if ms % self.every_ms == 0 {
                    let wait = Duration::from_secs_f64(queued / broker.bytes_per_s);
                    let jitter = broker.jitter.mul_f64(-(1.0 - self.chance.f64()).ln());
                    self.beside.delivered(broker.base + wait + jitter, self.now);
                    if ms > seconds * 500 {
                        took.push(broker.base + wait + jitter);
                    }
                }
                self.beside.turn(queued == 0.0, self.now);
            }
            took.sort_unstable();
            (drained / (seconds as f64 / 2.0), took)
        }
    }

    fn p99(took: &[Duration]) -> Duration {
        took[took.len() * 99 / 100]
    }

    #[test]
    fn urgent_batches_hardly_notice_a_drain_that_takes_what_is_left() {
        let broker = Broker {
            bytes_per_s: 200e6,
            base: Duration::from_millis(2),
            jitter: Duration::from_millis(1),
        };
        for known in [true, false] {
            let mut case = Case::new(10);
            let (_none, alone) = case.run(&broker, false, if known { 20 } else { 1 });
            let (rate, beside) = case.run(&broker, true, 60);
            let (alone, beside) = (p99(&alone), p99(&beside));
            assert!(beside <= alone * 2, "{beside:?} of {alone:?}");
            assert!(rate > 60e6, "{rate}");
        }
    }

    #[test]
    fn a_destination_whose_answers_vary_is_drained_all_the_same() {
        let broker = Broker {
            bytes_per_s: 200e6,
            base: Duration::from_millis(5),
            jitter: Duration::from_millis(20),
        };
        for (every_ms, known) in [
            (10, true),
            (10, false),
            (100, true),
            (100, false),
            (700, false),
        ] {
            let mut case = Case::new(every_ms);
            if known {
                case.run(&broker, false, 60);
            }
            let (rate, _took) = case.run(&broker, true, 240);
            assert!(
                rate > 100e6,
                "a batch every {every_ms} ms, known {known}: {rate}"
            );
        }
    }

    #[test]
    fn a_destination_that_became_slower_by_itself_is_drained_all_the_same() {
        let mut case = Case::new(10);
        let broker = |ms| Broker {
            bytes_per_s: 200e6,
            base: Duration::from_millis(ms),
            jitter: Duration::from_millis(1),
        };
        case.run(&broker(3), true, 20);
        let (rate, _took) = case.run(&broker(80), true, 60);
        assert!(rate > 50e6, "{rate}");
    }

    #[test]
    fn a_long_pause_is_not_the_usual() {
        let mut case = Case::new(10);
        let broker = |ms| Broker {
            bytes_per_s: 200e6,
            base: Duration::from_millis(ms),
            jitter: Duration::from_millis(1),
        };
        case.run(&broker(3), false, 20);
        case.run(&broker(400), false, 1);
        let (_rate, took) = case.run(&broker(3), true, 60);
        assert!(p99(&took) <= Duration::from_millis(16), "{:?}", p99(&took));
    }

    #[test]
    fn with_nobody_beside_it_there_is_no_bound() {
        let now = Instant::now();
        let mut beside = Beside::new(now);
        assert!(beside.may(now).is_ok() && beside.rate().is_none());
        beside.delivered(Duration::from_millis(3), now);
        beside.turn(false, now + INTERVAL);
        assert!(beside.rate().is_some());
        beside.turn(false, now + FORGOTTEN_AFTER / 2);
        assert!(beside.rate().is_some());
        beside.turn(false, now + FORGOTTEN_AFTER);
        assert_eq!(beside.rate(), None);
    }
}
