//! How fast the socket is fed: as fast as it takes, or as the bandwidth allows.
//!
//! With a ceiling the next batch is chosen only when its first bytes may go, and its bytes go as they
//! may: so an urgent batch is behind one frame at most, whoever sends how much. A frame that would take
//! too long at that rate goes at once, and what follows pays for it: a bus gives up a frame that takes
//! half a minute.
//!
//! Not for: which batch (see [`super::window`]). Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::limit::Bucket;

/// Bytes that may wait for the socket: enough to keep it busy, few enough that P0 is not behind much.
const SOCKET_BYTES: usize = 64 << 10;
/// A frame that takes longer than this at the ceiling goes at once.
const FRAME_WITHIN: Duration = Duration::from_secs(10);

/// The pace of one connection after the other.
#[derive(Debug)]
pub(super) struct Pace {
    bucket: Option<Bucket>,
    /// Bytes that go at once.
    at_once: usize,
}

impl Pace {
    /// A pace for a ceiling, if there is one.
    pub(super) fn new(bucket: Option<Bucket>) -> Self {
        Self { bucket, at_once: 0 }
    }

    /// Whether there is room for another batch when `waiting` bytes are queued for the socket; the
    /// error says when the ceiling allows one.
    pub(super) fn has_room(&mut self, waiting: usize, now: Instant) -> Result<bool, Instant> {
        if waiting == 0 {
            self.at_once = 0;
        }
        match &mut self.bucket {
            None => Ok(waiting < SOCKET_BYTES),
            Some(_) if waiting > 0 => Ok(false),
            Some(bucket) => match bucket.allows(now, u64::MAX) {
                Ok(_some) => Ok(true),
                Err(wait) => Err(now + wait),
            },
        }
    }

    /// A frame of so many bytes was queued.
    pub(super) fn queued(&mut self, frame: usize) {
        if let Some(bucket) = &self.bucket
            && bucket.time_for(frame as u64) > FRAME_WITHIN
        {
            self.at_once = frame;
        }
    }

    /// How many of the `waiting` bytes may be written now; the error says when some may.
    pub(super) fn allows(&mut self, waiting: usize, now: Instant) -> Result<usize, Instant> {
        let Some(bucket) = &mut self.bucket else {
            return Ok(waiting);
        };
        if self.at_once > 0 {
            return Ok(waiting);
        }
        match bucket.allows(now, waiting as u64) {
            Ok(bytes) => Ok(usize::try_from(bytes).unwrap_or(waiting)),
            Err(wait) => Err(now + wait),
        }
    }

    /// So many bytes were written.
    pub(super) fn written(&mut self, bytes: usize) {
        self.at_once = self.at_once.saturating_sub(bytes);
        if let Some(bucket) = &mut self.bucket {
            bucket.take(bytes as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes frames of `frame` bytes for ten seconds at 100 kB/s; returns the bytes, and the longest
    /// time that a frame took.
    fn check(frame: usize) -> (usize, Duration) {
        let start = Instant::now();
        let mut pace = Pace::new(Some(Bucket::new(100_000, start)));
        let (mut now, mut waiting, mut sent, mut begun) = (start, 0, 0, start);
        let mut longest = Duration::ZERO;
        while now < start + Duration::from_secs(10) {
            match pace.has_room(waiting, now) {
                Ok(true) => {
                    waiting = frame;
                    begun = now;
                    pace.queued(frame);
                }
                Ok(false) => match pace.allows(waiting, now) {
                    Ok(bytes) => {
                        pace.written(bytes);
                        waiting -= bytes;
                        sent += bytes;
                        longest = longest.max(now - begun);
                    }
                    Err(until) => now = until,
                },
                Err(until) => now = until,
            }
        }
        (sent, longest)
    }

    #[test]
    fn the_ceiling_holds_whatever_the_frames_are() {
        for frame in [1000, 40_000, 900_000] {
            let (sent, _) = check(frame);
            assert!((950_000..=1_050_000).contains(&sent), "{frame}: {sent}");
        }
    }

    #[test]
    fn an_urgent_batch_is_behind_one_frame_at_most() {
        let (_, longest) = check(10_000);
        assert!(longest <= Duration::from_millis(110), "{longest:?}");
    }

    #[test]
    fn a_frame_that_would_take_too_long_goes_at_once_and_is_paid_for() {
        let (sent, longest) = check(1_500_000);
        assert_eq!((sent, longest), (1_500_000, Duration::ZERO));
    }

    #[test]
    fn without_a_ceiling_the_socket_is_kept_busy() {
        let mut pace = Pace::new(None);
        let now = Instant::now();
        assert_eq!(pace.has_room(SOCKET_BYTES - 1, now), Ok(true));
        assert_eq!(pace.has_room(SOCKET_BYTES, now), Ok(false));
        assert_eq!(pace.allows(1 << 20, now), Ok(1 << 20));
    }
}
