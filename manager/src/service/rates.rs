//! Records per second now: what was counted in the last seconds, by the arrival of reports.
//!
//! In memory only; a restart begins at 0. Not for figures of the past (the ledger has those). The
//! intake adds, the API reads.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

/// The window in seconds.
pub(crate) const WINDOW_S: u32 = 10;
/// One slot per second of the window and one that fills now.
const SLOTS: usize = WINDOW_S as usize + 1;

/// Records per second of one topic.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Rate {
    /// Read, in records/s.
    pub(crate) read_per_s: f64,
    /// Delivered, in records/s.
    pub(crate) delivered_per_s: f64,
}

/// Counted records of one second.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Which second since the start; slots of other rounds count as empty.
    second: u64,
    read: i64,
    delivered: i64,
}

/// The rates of all topics. Topics without records for a window are forgotten.
#[derive(Debug)]
pub(crate) struct Rates {
    start: Instant,
    topics: Mutex<HashMap<String, [Slot; SLOTS]>>,
}

impl Rates {
    /// No records yet.
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            topics: Mutex::new(HashMap::new()),
        }
    }

    fn second(&self) -> u64 {
        // From 1, so that the second of an empty slot, 0, is over.
        self.start.elapsed().as_secs() + 1 + SLOTS as u64
    }

    /// Adds what was just counted.
    pub(crate) fn add(&self, topic: &str, read: i64, delivered: i64) {
        if read <= 0 && delivered <= 0 {
            return;
        }
        let second = self.second();
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if !topics.contains_key(topic) {
            topics.retain(|_, slots| slots.iter().any(|slot| within(slot, second)));
            topics.insert(topic.to_owned(), [Slot::default(); SLOTS]);
        }
        let Some(slots) = topics.get_mut(topic) else {
            return;
        };
        let index = usize::try_from(second % SLOTS as u64).unwrap_or(0);
        let slot = &mut slots[index];
        if slot.second != second {
            *slot = Slot {
                second,
                ..Slot::default()
            };
        }
        slot.read = slot.read.saturating_add(read.max(0));
        slot.delivered = slot.delivered.saturating_add(delivered.max(0));
    }

    /// The rate of a topic over the last whole [`WINDOW_S`] seconds and the one that fills now.
    pub(crate) fn of(&self, topic: &str) -> Rate {
        let second = self.second();
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slots) = topics.get(topic) else {
            return Rate::default();
        };
        let (mut read, mut delivered) = (0i64, 0i64);
        for slot in slots.iter().filter(|slot| within(slot, second)) {
            read = read.saturating_add(slot.read);
            delivered = delivered.saturating_add(slot.delivered);
        }
        Rate {
            read_per_s: per_second(read),
            delivered_per_s: per_second(delivered),
        }
    }
}

fn within(slot: &Slot, second: u64) -> bool {
    slot.second + u64::from(WINDOW_S) > second
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate for people; exact below 2^53 records"
)]
fn per_second(records: i64) -> f64 {
    records as f64 / f64::from(WINDOW_S)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_falls_to_nothing_after_the_window() {
        let rates = Rates::new();
        for _ in 0..10 {
            rates.add("web", 100, 50);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let rate = rates.of("web");
        assert!((80.0..=100.0).contains(&rate.read_per_s), "{rate:?}");
        assert!((40.0..=50.0).contains(&rate.delivered_per_s), "{rate:?}");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(rates.of("web"), Rate::default());
        assert_eq!(rates.of("other"), Rate::default());
    }

    #[tokio::test(start_paused = true)]
    async fn silent_topics_are_forgotten() {
        let rates = Rates::new();
        rates.add("old", 1, 0);
        tokio::time::advance(Duration::from_secs(60)).await;
        rates.add("new", 1, 0);
        assert_eq!(rates.topics.lock().unwrap().len(), 1);
    }
}
