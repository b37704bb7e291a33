//! Ceilings: bytes per second as a token bucket, bytes in memory as permits.
//!
//! A permit is taken before a batch is read and lives as long as its bytes do: in the window, until
//! the bus has acknowledged them. So memory has one bound, whatever the bus does. A topic has a
//! bound of its own inside it, so that one that stands still does not stop the others.
//!
//! Not for: order of service (see [`crate::reader`]). Reader and sender call it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// What an in-flight batch takes beside its payload, in bytes: header, tables, permit.
pub(crate) const BATCH_OVERHEAD_BYTES: u64 = 1024;

/// A ceiling in bytes per second, with up to a quarter of a second of burst.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Bytes per second.
    rate: f64,
    /// Bytes that may go at once; below 0 after a piece larger than what was there.
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(bytes_per_second: u64, now: Instant) -> Self {
        // A figure of bytes per second is far below 2^52, where f64 would lose bytes.
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate needs no more than 52 bits"
        )]
        let rate = bytes_per_second.max(1) as f64;
        Self {
            rate,
            tokens: rate / 4.0,
            filled: now,
        }
    }

    /// How long to wait before anything may go; `None` when it may go now.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate).min(self.rate / 4.0);
        self.filled = now;
        (self.tokens <= 0.0).then(|| Duration::from_secs_f64(-self.tokens / self.rate + 0.001))
    }

    /// Takes what went. It may be more than was there; the next wait is longer then.
    pub(crate) fn take(&mut self, bytes: u64) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a batch needs no more than 52 bits"
        )]
        let bytes = bytes as f64;
        self.tokens -= bytes;
    }
}

/// One topic's part of the memory.
#[derive(Debug, Default)]
pub(crate) struct Share {
    used: AtomicU64,
    /// The topic stands still at the bus: nothing more is read for it.
    held: AtomicBool,
}

/// All memory for batches in flight. One thread takes, everybody gives back.
pub(crate) struct Budget {
    limit: u64,
    used: AtomicU64,
    /// The taker found nothing and wants to be woken.
    waiting: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budget")
            .field("limit", &self.limit)
            .field("used", &self.used)
            .finish()
    }
}

impl Budget {
    /// A budget of `limit` bytes. `wake` is called when bytes came back after a refusal; it must
    /// not block.
    pub(crate) fn new(limit: u64, wake: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            wake: Box::new(wake),
        })
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The bound in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Wakes the taker when it waits: something else than memory held it back.
    pub(crate) fn wake(&self) {
        if self.waiting.swap(false, Ordering::AcqRel) {
            (self.wake)();
        }
    }

    /// Takes `bytes` for a batch of a topic that may use `share_limit` of all and must leave
    /// `reserve` bytes to others; `None` when there is no room, and the taker will be woken.
    pub(crate) fn take(
        self: &Arc<Self>,
        bytes: u64,
        reserve: u64,
        share: &Arc<Share>,
        share_limit: u64,
    ) -> Option<Permit> {
        // Set before looking, so that what comes back meanwhile is not missed.
        self.waiting.store(true, Ordering::Release);
        let of_share = share.used.load(Ordering::Acquire);
        let fits = self.used.load(Ordering::Acquire) + bytes <= self.limit.saturating_sub(reserve);
        // A topic may always have one batch, so that a small bound stops nobody for ever.
        let fits_share = of_share == 0 || of_share + bytes <= share_limit;
        let stands = share.held.load(Ordering::Acquire) && of_share > 0;
        if !fits || !fits_share || stands {
            return None;
        }
        self.waiting.store(false, Ordering::Release);
        self.used.fetch_add(bytes, Ordering::AcqRel);
        share.used.fetch_add(bytes, Ordering::AcqRel);
        Some(Permit {
            budget: Arc::clone(self),
            share: Arc::clone(share),
            bytes,
        })
    }
}

/// The right to hold bytes. Travels with them, gives them back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    share: Arc<Share>,
    bytes: u64,
}

impl Permit {
    /// Gives back what is beyond `bytes`.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        self.give_back(self.bytes.saturating_sub(bytes));
    }

    /// Says whether the batch's topic stands still at the bus.
    pub(crate) fn hold(&self, held: bool) {
        if self.share.held.swap(held, Ordering::AcqRel) && !held {
            self.budget.wake();
        }
    }

    fn give_back(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Ordering::AcqRel);
        self.share.used.fetch_sub(bytes, Ordering::AcqRel);
        if bytes > 0 {
            self.budget.wake();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_bucket_lets_its_rate_through() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, start);
        let (mut passed, mut sent) = (Duration::ZERO, 0);
        while passed < Duration::from_secs(10) {
            match bucket.wait(start + passed) {
                Some(wait) => passed += wait,
                None => {
                    bucket.take(100);
                    sent += 100;
                }
            }
        }
        assert!((9_900..=10_500).contains(&sent), "{sent}");
    }

    #[test]
    fn memory_has_one_bound_and_a_waiter_is_woken_once() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let budget = Budget::new(100, move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let share = Arc::new(Share::default());
        let mut first = budget.take(60, 0, &share, 1000).unwrap();
        assert!(budget.take(60, 0, &share, 1000).is_none());
        first.shrink(30);
        first.shrink(20);
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        let second = budget.take(60, 0, &share, 1000).unwrap();
        assert_eq!(budget.used(), 80);
        assert!(
            budget.take(10, 15, &share, 1000).is_none(),
            "the reserve is for others"
        );
        drop((first, second));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_topic_that_stands_still_leaves_the_rest_to_others() {
        let budget = Budget::new(100, || {});
        let (slow, quick) = (Arc::new(Share::default()), Arc::new(Share::default()));
        let kept = budget.take(40, 0, &slow, 50).unwrap();
        assert!(budget.take(20, 0, &slow, 50).is_none());
        kept.hold(true);
        assert!(budget.take(1, 0, &slow, 50).is_none());
        assert!(budget.take(20, 0, &quick, 50).is_some());
        drop(kept);
        assert!(
            budget.take(60, 0, &slow, 50).is_some(),
            "one batch may always go"
        );
    }
}
