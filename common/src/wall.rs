//! The wall clock, read in one place: a test can have it jump, and a simulation has one of its own.
//!
//! Not for: deadlines and intervals (those are `tokio::time::Instant`).

#[cfg(feature = "faults")]
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// So many ms is the clock wrong.
#[cfg(feature = "faults")]
static WRONG_BY: AtomicI64 = AtomicI64::new(0);

/// The clock of this process jumps by so many ms, forward or back.
#[cfg(feature = "faults")]
pub fn jump(by_ms: i64) {
    WRONG_BY.fetch_add(by_ms, Ordering::SeqCst);
}

/// Milliseconds since 1970-01-01 00:00 UTC; 0 for a clock before that.
#[must_use]
pub fn now_ms() -> u64 {
    #[cfg(feature = "sim")]
    if let Some(ms) = crate::sim::wall_ms() {
        return ms;
    }
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    #[cfg(feature = "faults")]
    let now = now.saturating_add_signed(WRONG_BY.load(Ordering::SeqCst));
    now
}
