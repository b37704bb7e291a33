//! The bytes that batches may hold in memory, for the whole node.
//!
//! A batch takes its permit before its payload is read from the socket, and the permit travels with
//! it until every destination has it. While no permit is free nobody reads, so TCP pushes back to
//! the agents and an idle connection holds nothing. Before it is all taken, less urgent classes are
//! told to wait, P3 first, so that a flood of bulk leaves room to what is urgent. A destination has a share
//! of it: one that hangs keeps what it was given, also what is safe on the disk meanwhile, and must leave room
//! to the others and to what goes to its own disk. Not for: the window of one connection (see
//! [`crate::session`]).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tributary_common::{header::BatchHeader, ids::Class, wire::MAX_PAYLOAD_BYTES};

/// Bytes that a batch costs beside payload and records: header, waiters, queue entries.
const BATCH_BYTES: u64 = 4 << 10;
/// Bytes that a record costs beside its value while librdkafka holds it.
const RECORD_BYTES: u64 = 128;
/// The least budget in bytes: one batch of the largest size must fit.
pub(crate) const MIN_BYTES: u64 = 16 << 20;

/// The budget; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    bytes: Arc<Semaphore>,
    limit: u64,
}

/// The bytes that a batch holds; they return when it is dropped.
#[derive(Debug)]
#[must_use = "dropping a permit gives its bytes back"]
pub(crate) struct Permit {
    _bytes: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of `limit` bytes, at least [`MIN_BYTES`] and at most what a semaphore can count.
    pub(crate) fn new(limit: u64) -> Self {
        let limit = usize::try_from(limit.max(MIN_BYTES)).unwrap_or(usize::MAX);
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self {
            bytes: Arc::new(Semaphore::new(limit)),
            limit: limit as u64,
        }
    }

    /// Waits until `bytes` are free. More than the whole budget counts as the whole budget.
    pub(crate) async fn take(&self, bytes: u64) -> Permit {
        let bytes = u32::try_from(bytes.min(self.limit)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.bytes)
            .acquire_many_owned(bytes)
            .await
            .expect("the budget's semaphore is never closed");
        Permit { _bytes: permit }
    }

    /// Takes `bytes` when they are free now.
    pub(crate) fn try_take(&self, bytes: u64) -> Option<Permit> {
        let bytes = u32::try_from(bytes.min(self.limit)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok()?;
        Some(Permit { _bytes: permit })
    }

    /// Whether the rest is left to more urgent classes than this one, for a batch of this cost; then
    /// how long it shall wait, in ms. A batch that is large beside the whole budget counts as a part of
    /// it: it must come in at some time.
    pub(crate) fn is_crowded(&self, class: Class, cost: u64) -> Option<u32> {
        let wait_ms = match class {
            Class::P0 => return None,
            Class::P1 => 250,
            Class::P2 => 500,
            Class::P3 => 1_000,
        };
        is_over(self.used(), self.limit, (class, cost)).then_some(wait_ms)
    }

    /// What one of so many destinations may hold of it, in bytes: never more than a half.
    pub(crate) fn share(&self, destinations: usize) -> u64 {
        self.limit / (destinations as u64).max(2)
    }

    /// Bytes that are taken now.
    pub(crate) fn used(&self) -> u64 {
        self.limit - self.bytes.available_permits() as u64
    }

    /// The whole budget in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }
}

/// Whether a batch of this class and cost takes more of `most` bytes than its class may, of which `used` are
/// taken. One that is large beside the whole counts as a part of it.
fn is_over(used: u64, most: u64, (class, cost): (Class, u64)) -> bool {
    let percent = match class {
        Class::P0 => 100,
        Class::P1 => 90,
        Class::P2 => 75,
        Class::P3 => 60,
    };
    let part = most / 100 * percent;
    used > 0 && used.saturating_add(cost.min(part / 2)) > part
}

/// Bytes of the budget that are somebody's; clones count the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held(Arc<AtomicU64>);

/// Bytes that are counted as long as this lives.
#[derive(Debug)]
pub(crate) struct Counted {
    of: Held,
    bytes: u64,
}

impl Held {
    /// Counts so many bytes more.
    pub(crate) fn count(&self, bytes: u64) -> Counted {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Counted {
            of: self.clone(),
            bytes,
        }
    }

    /// Bytes that are counted now.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether a batch of this class and cost has to wait until less of a share is taken.
    pub(crate) fn is_full(&self, share: u64, of: (Class, u64)) -> bool {
        is_over(self.bytes(), share, of)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What a batch costs while it is on its way: its payload as it came, its records as a destination
/// holds them, and the bookkeeping.
pub(crate) fn cost(header: &BatchHeader, payload_bytes: usize) -> u64 {
    let records = u64::from(header.records).saturating_mul(RECORD_BYTES);
    BATCH_BYTES
        .saturating_add(payload_bytes as u64)
        .saturating_add(header.raw_bytes)
        .saturating_add(records)
}

/// Why the counts of a header cannot be those of a batch; `None` when they can.
pub(crate) fn absurd(header: &BatchHeader) -> Option<&'static str> {
    // The records of one batch take at most 900 KiB, or it is one record of at most 1 MiB; with
    // framing both are below the longest payload.
    if header.raw_bytes > MAX_PAYLOAD_BYTES as u64 {
        return Some("the header announces more bytes than a batch can have");
    }
    if u64::from(header.records) > MAX_PAYLOAD_BYTES as u64 {
        return Some("the header announces more records than a batch can have");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_return_with_the_permit() {
        let budget = Budget::new(MIN_BYTES);
        let first = budget.take(MIN_BYTES - 10).await;
        assert_eq!(budget.used(), MIN_BYTES - 10);
        let waiting = budget.take(11);
        tokio::pin!(waiting);
        assert!(futures_poll(&mut waiting).is_none());
        drop(first);
        let second = waiting.await;
        assert_eq!(budget.used(), 11);
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn more_than_everything_is_everything() {
        let budget = Budget::new(0);
        let all = budget.take(u64::MAX).await;
        assert_eq!(budget.used(), budget.limit());
        drop(all);
    }

    #[tokio::test]
    async fn the_least_urgent_class_feels_the_pressure_first() {
        let budget = Budget::new(100 << 20);
        let crowded = |used: u64, cost: u64| {
            let held = budget.try_take(used << 20).unwrap();
            let crowded = Class::ALL.map(|class| budget.is_crowded(class, cost << 20).is_some());
            drop(held);
            crowded
        };
        assert_eq!(crowded(59, 1), [false, false, false, false]);
        assert_eq!(crowded(60, 1), [false, false, false, true]);
        assert_eq!(crowded(75, 1), [false, false, true, true]);
        assert_eq!(crowded(90, 1), [false, true, true, true]);
        assert_eq!(crowded(100, 1), [false, true, true, true]);
        // The largest batches come in when there is little else.
        assert_eq!(crowded(0, 100), [false; 4]);
        assert_eq!(crowded(30, 100), [false; 4]);
        assert_eq!(crowded(31, 100), [false, false, false, true]);
    }

    #[test]
    fn a_destination_holds_no_more_than_its_share() {
        let budget = Budget::new(100 << 20);
        let shares = [1, 2, 5].map(|destinations| budget.share(destinations) >> 20);
        assert_eq!(shares, [50, 50, 20]);
        let held = Held::default();
        let full = |bytes: u64| {
            let counted = held.count(bytes * 100);
            let full = Class::ALL.map(|class| held.is_full(1_000, (class, 100)));
            drop(counted);
            full
        };
        assert_eq!(full(5), [false; 4]);
        assert_eq!(full(6), [false, false, false, true]);
        assert_eq!(full(7), [false, false, true, true]);
        assert_eq!(full(9), [false, true, true, true]);
        assert_eq!(full(10), [true; 4]);
        assert_eq!(held.bytes(), 0);
        // The first one comes in, however large it is.
        assert!(!held.is_full(1, (Class::P3, 100)));
    }

    /// One look at a future, without waiting.
    fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }
}
