//! How long each class was held back, and by what.
//!
//! Times in which something of a class waited count once, however many streams waited.
//!
//! Not for: holding back. The reader and the sender note it, `/status` and `/metrics` show it.

use std::{sync::Mutex, time::Duration};

use metrics::counter;
use tokio::time::Instant;
use tributary_common::ids::Class;

use super::lock;

/// What holds a class back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// `limits.bandwidth`.
    Bandwidth,
    /// `limits.cpu`.
    Cpu,
    /// `limits.memory`.
    Memory,
    /// The task's `rate`.
    Rate,
}

impl Reason {
    /// All reasons.
    pub(crate) const ALL: [Self; 4] = [Self::Bandwidth, Self::Cpu, Self::Memory, Self::Rate];

    /// The reason in a word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Bandwidth => "bandwidth",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Rate => "rate",
        }
    }
}

/// One class and reason.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    total: Duration,
    /// Until when it is counted.
    until: Option<Instant>,
}

/// The times of all classes.
#[derive(Debug, Default)]
pub(crate) struct Throttled {
    sums: Mutex<[[Sum; 4]; 4]>,
}

impl Throttled {
    /// Something of a class is held back from then until then.
    pub(crate) fn note(&self, class: Class, reason: Reason, from: Instant, until: Instant) {
        let mut sums = lock(&self.sums);
        let of_class = sums.get_mut(class as usize);
        let Some(sum) = of_class.and_then(|sums| sums.get_mut(reason as usize)) else {
            return;
        };
        let from = sum.until.map_or(from, |counted| counted.max(from));
        sum.total += until.saturating_duration_since(from);
        sum.until = Some(until.max(from));
    }

    /// How long a class was held back.
    pub(crate) fn total(&self, class: Class, reason: Reason) -> Duration {
        let sums = lock(&self.sums);
        let of_class = sums.get(class as usize);
        let sum = of_class.and_then(|sums| sums.get(reason as usize));
        sum.map_or(Duration::ZERO, |sum| sum.total)
    }

    /// Shows machines what was noted.
    pub(crate) fn show(&self) {
        for class in Class::ALL {
            for reason in Reason::ALL {
                let total = self.total(class, reason);
                if !total.is_zero() {
                    let labels = [("class", class.as_str()), ("reason", reason.as_str())];
                    counter!("tributary_agent_throttled_seconds_total", &labels)
                        .absolute(total.as_secs());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_overlap_count_once() {
        let throttled = Throttled::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for (from, until) in [(0, 100), (50, 150), (60, 70), (200, 250)] {
            throttled.note(Class::P3, Reason::Cpu, at(from), at(until));
        }
        let total = |class, reason| throttled.total(class, reason).as_millis();
        assert_eq!(total(Class::P3, Reason::Cpu), 200);
        assert_eq!(total(Class::P3, Reason::Rate), 0);
        assert_eq!(total(Class::P0, Reason::Cpu), 0);
    }
}
