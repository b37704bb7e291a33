//! The wall clock, read in one place.
//!
//! Not for: deadlines and intervals (those are `tokio::time::Instant`). Everybody here calls it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 00:00 UTC; 0 for a clock before that.
pub(crate) fn now_ms() -> u64 {
    #[cfg(feature = "sim")]
    if let Some(ms) = tributary_common::sim::wall_ms() {
        return ms;
    }
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The minute of a time in ms, as reports count them.
pub(crate) fn minute_of(ms: u64) -> u32 {
    u32::try_from(ms / 60_000).unwrap_or(u32::MAX)
}
