//! The wall clock, read in one place.
//!
//! Not for: deadlines and intervals (those are `tokio::time::Instant`). Everybody here calls it.

/// Milliseconds since 1970-01-01 00:00 UTC; 0 for a clock before that.
pub(crate) fn now_ms() -> u64 {
    tributary_common::wall::now_ms()
}

/// The minute of a time in ms, as reports count them.
pub(crate) fn minute_of(ms: u64) -> u32 {
    u32::try_from(ms / 60_000).unwrap_or(u32::MAX)
}
