//! How much bulk may be on its way that the node has not read: what is urgent goes behind all of it.
//!
//! Socket buffers hold megabytes. Where a node or the network is slow they fill with P3, and a line of
//! P0 waits behind that, whatever the window says. So where batches of several classes are sent, the
//! node is pinged behind the bulk: its pong says what it has read by then, and how long that took. When
//! it took long, less bulk may be on its way; when it did not, more, up to whatever the window grants.
//! A ping is answered at once, so how long Kafka takes is none of its business.
//!
//! Not for: which batch (see [`super::window`]), ceilings (see [`super::pace`]). Pure: time is an
//! argument.

use std::time::Duration;

use tokio::time::Instant;
use tributary_common::ids::Class;

/// What bulk may add to the way of an urgent batch.
const WITHIN: Duration = Duration::from_millis(15);
/// Bulk that may be on its way in any case: a frame, and the next one behind it.
const LEAST_BYTES: u64 = 64 << 10;
/// Where a connection begins.
const FIRST_BYTES: u64 = 256 << 10;
/// More than any window.
const MOST_BYTES: u64 = 64 << 20;
/// While there is room, a node is pinged no more often than this.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// What is ahead of an urgent batch on one connection after the other.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The most urgent class that was ever sent; all others are bulk beside it.
    first: Class,
    /// The shortest way there and back so far.
    base: Duration,
    /// Bytes of bulk that were given to this connection.
    given: u64,
    /// Bytes of bulk that the node has read for certain.
    read: u64,
    /// So much of it may be on its way.
    most: u64,
    asked: Option<Asked>,
    /// While there is room: not before then.
    ask_at: Instant,
}

/// A ping that is not answered.
#[derive(Debug)]
struct Asked {
    number: u64,
    at: Instant,
    given: u64,
    on_way: u64,
}

impl Ahead {
    /// No connection yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            first: Class::P3,
            base: Duration::MAX,
            given: 0,
            read: 0,
            most: FIRST_BYTES,
            asked: None,
            ask_at: now,
        }
    }

    /// A new connection, whose node answered its greeting after this long.
    pub(super) fn begin(&mut self, greeted_in: Duration, now: Instant) {
        *self = Self {
            first: self.first,
            base: greeted_in,
            ..Self::new(now)
        };
    }

    /// The least urgent class that may go now.
    pub(super) fn least_urgent(&self) -> Class {
        if self.has_room() {
            Class::P3
        } else {
            self.first
        }
    }

    /// A frame of so many bytes was given to the connection.
    pub(super) fn give(&mut self, class: Class, bytes: u64) {
        self.first = self.first.min(class);
        if class > self.first {
            self.given += bytes;
        }
    }

    /// Whether the node is to be pinged behind what was given.
    pub(super) fn wants_ping(&self, now: Instant) -> bool {
        self.asked.is_none() && self.given > self.read && (now >= self.ask_at || !self.has_room())
    }

    /// The node is pinged.
    pub(super) fn asks(&mut self, number: u64, now: Instant) {
        self.asked = Some(Asked {
            number,
            at: now,
            given: self.given,
            on_way: self.given - self.read,
        });
        self.ask_at = now + ASK_EVERY;
    }

    /// The node answers a ping, perhaps another one.
    pub(super) fn answered(&mut self, number: u64, now: Instant) {
        let Some(asked) = self.asked.take_if(|asked| asked.number == number) else {
            return;
        };
        let took = now.saturating_duration_since(asked.at);
        self.read = asked.given;
        self.base = self.base.min(took);
        let late = took - self.base;
        if late > WITHIN {
            let part = WITHIN.as_secs_f64() / late.as_secs_f64();
            self.most = (self.most.min(asked.on_way)).max(LEAST_BYTES);
            self.most = scaled(self.most, part.max(0.5)).max(LEAST_BYTES);
        } else if asked.on_way >= self.most / 2 {
            // What was not tried is not allowed.
            self.most = (self.most * 2).min(MOST_BYTES);
        }
    }

    fn has_room(&self) -> bool {
        self.given - self.read < self.most
    }
}

/// A part of so many bytes.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes of one connection, and a part between 0 and 1"
)]
fn scaled(bytes: u64, part: f64) -> u64 {
    (bytes as f64 * part) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u64 = 45_000;

    /// Ten seconds of P3 without end to a node that reads so many bytes a second; returns how much it
    /// read, and the longest way of a P0 frame that is sent every 10 ms, without the first second.
    fn check(reads_per_s: u64) -> (u64, Duration) {
        let start = Instant::now();
        let mut ahead = Ahead::new(start);
        ahead.begin(Duration::from_millis(1), start);
        ahead.give(Class::P0, 100);
        let (mut read, mut given, mut longest) = (0, 0, Duration::ZERO);
        let mut pings: Vec<(u64, u64)> = Vec::new();
        for ms in 0..10_000 {
            let now = start + Duration::from_millis(ms);
            read = given.min(read + reads_per_s / 1000);
            while let Some(&(number, behind)) = pings.first()
                && read >= behind
            {
                ahead.answered(number, now);
                pings.remove(0);
            }
            // The window: 2 MiB.
            while ahead.least_urgent() == Class::P3 && given - read < 2 << 20 {
                ahead.give(Class::P3, FRAME);
                given += FRAME;
            }
            if ahead.wants_ping(now) {
                ahead.asks(ms, now);
                pings.push((ms, given));
            }
            if ms >= 1000 {
                let wait = (given - read) as f64 / reads_per_s as f64;
                longest = longest.max(Duration::from_secs_f64(wait));
            }
        }
        (read, longest)
    }

    #[test]
    fn a_slow_node_has_little_bulk_ahead_and_is_kept_busy() {
        for (reads_per_s, most_ms) in [(1_000_000, 120), (4_000_000, 35), (20_000_000, 35)] {
            let (read, longest) = check(reads_per_s);
            assert!(longest <= Duration::from_millis(most_ms), "{longest:?}");
            assert!(read >= reads_per_s * 9, "{read} at {reads_per_s}");
        }
    }

    #[test]
    fn a_fast_node_gets_what_the_window_grants() {
        let (read, _) = check(400_000_000);
        assert!(read >= 3_600_000_000, "{read}");
    }

    #[test]
    fn one_class_alone_is_held_by_nothing_and_asks_nothing() {
        let now = Instant::now();
        let mut ahead = Ahead::new(now);
        ahead.begin(Duration::ZERO, now);
        for _ in 0..1000 {
            ahead.give(Class::P3, FRAME);
        }
        assert_eq!(ahead.least_urgent(), Class::P3);
        assert!(!ahead.wants_ping(now));
        ahead.give(Class::P2, FRAME);
        ahead.give(Class::P3, MOST_BYTES);
        assert_eq!(ahead.least_urgent(), Class::P2);
        assert!(ahead.wants_ping(now));
    }
}
