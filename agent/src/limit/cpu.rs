//! The CPU that the agent may use, and who may go on when it is used up.
//!
//! All of the process counts, but only the reader and the spool's thread wait: reading, framing and
//! compressing are nearly all of it. P0 and P1, and a class whose floor is due, may overdraw a little, so bulk waits first;
//! all together keep to the limit.
//!
//! Not for: stopping anything by force, and never by a restart. Pure: times are arguments. Asked
//! through [`super::brake`].

use std::time::Duration;

use tokio::time::Instant;
use tributary_common::ids::Class;

use super::Bucket;

/// What the urgent may overdraw: what comes in within this time.
const OVERDRAFT: Duration = Duration::from_millis(100);
/// CPU time is counted in microseconds.
const MICROS: f64 = 1e6;

/// Who may have a turn now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Everybody.
    All,
    /// Only the urgent; the others from then on.
    Urgent(Instant),
    /// Nobody before then.
    Nobody(Instant),
}

impl Allowed {
    /// Whether a class may go, which is `owed` its floor or not.
    pub(crate) fn lets(self, class: Class, owed: bool) -> bool {
        match self {
            Self::All => true,
            Self::Urgent(_) => owed || matches!(class, Class::P0 | Class::P1),
            Self::Nobody(_) => false,
        }
    }

    /// When more may go.
    pub(crate) fn until(self) -> Option<Instant> {
        match self {
            Self::All => None,
            Self::Urgent(until) | Self::Nobody(until) => Some(until),
        }
    }
}

/// The limit.
#[derive(Debug)]
pub(crate) struct Cpu {
    bucket: Bucket,
    /// What was used when last looked.
    used: Duration,
}

impl Cpu {
    /// A limit of so many percent of one core; `used` is what the process has used so far.
    pub(crate) fn new(percent: f64, used: Duration, now: Instant) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the schema bounds it to 10,000 percent"
        )]
        let micros = (percent / 100.0 * MICROS) as u64;
        Self {
            bucket: Bucket::new(micros, now),
            used,
        }
    }

    /// Who may go when the process has used `used` so far.
    pub(crate) fn allows(&mut self, used: Duration, now: Instant) -> Allowed {
        let spent = used.saturating_sub(self.used);
        self.used = used;
        self.bucket
            .take(u64::try_from(spent.as_micros()).unwrap_or(u64::MAX));
        if let Some(wait) = self.bucket.wait_beyond(now, OVERDRAFT) {
            Allowed::Nobody(now + wait)
        } else if let Some(wait) = self.bucket.wait(now) {
            Allowed::Urgent(now + wait)
        } else {
            Allowed::All
        }
    }
}

#[cfg(test)]
impl Cpu {
    /// So much more was used.
    pub(super) fn spend(&mut self, more: Duration) {
        self.bucket
            .take(u64::try_from(more.as_micros()).unwrap_or(u64::MAX));
    }
}

/// The CPU time that this process has used, user and system.
pub(crate) fn used() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns of `turn` CPU time for ten seconds under a limit of 20 %; returns the CPU time used, and
    /// how much of it by whom.
    fn check(turn: Duration, wants: impl Fn(u32) -> Class) -> [Duration; 4] {
        let start = Instant::now();
        let mut cpu = Cpu::new(20.0, Duration::ZERO, start);
        let (mut now, mut used, mut by) = (start, Duration::ZERO, [Duration::ZERO; 4]);
        let mut turns = 0;
        while now < start + Duration::from_secs(10) {
            let class = wants(turns);
            let allowed = cpu.allows(used, now);
            if allowed.lets(class, false) {
                turns += 1;
                used += turn;
                now += turn;
                by[class as usize] += turn;
            } else {
                now = allowed.until().unwrap();
            }
        }
        let most = Duration::from_millis(2_200);
        assert!(
            used <= most && used >= Duration::from_millis(1_900),
            "{used:?}"
        );
        by
    }

    #[test]
    fn the_limit_holds_for_whoever_asks() {
        for turn in [1, 10, 40] {
            check(Duration::from_millis(turn), |_| Class::P3);
            check(Duration::from_millis(turn), |_| Class::P0);
        }
    }

    #[test]
    fn an_urgent_turn_does_not_wait_for_what_bulk_has_used() {
        let start = Instant::now();
        let mut cpu = Cpu::new(10.0, Duration::ZERO, start);
        let used = Duration::from_millis(30);
        let allowed = cpu.allows(used, start);
        assert!(matches!(allowed, Allowed::Urgent(_)), "{allowed:?}");
        assert!(allowed.lets(Class::P0, false) && !allowed.lets(Class::P3, false));
        assert!(allowed.lets(Class::P3, true), "its floor is due");
        let allowed = cpu.allows(used * 3, start);
        assert!(!allowed.lets(Class::P0, true));
    }

    #[test]
    fn the_process_uses_time() {
        let before = used();
        let sum = (0..5_000_000_u64).fold(0_u64, |sum, at| sum.wrapping_add(at * at));
        assert!(used() > before, "{sum}");
    }
}
