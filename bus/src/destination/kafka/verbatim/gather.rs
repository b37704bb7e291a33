//! When small batches that wait for a partition go, and how many of them as one.
//!
//! # Constraints
//! A broker pays 0.2 to 0.4 ms for a batch of any size, so small ones are worth waiting for; but a batch
//! that nobody follows goes at once, and no batch waits longer than its class allows. Batches keep their
//! order: only neighbours go together, and one that is large goes alone and untouched.
//!
//! # Operation
//! A [`Run`] is the beginning of what waits that may go as one batch. It goes when nothing more fits, when
//! its first batch has waited for its linger, or when waiting gains nothing: none of the partition's
//! batches is on its way, and the [`Flow`] of the last moments promises too few or has stopped.
//! Pure: no I/O, no clock. Not for: the merging itself (see [`super::cargo`]).

use std::time::Duration;

use tokio::time::Instant;
use tributary_common::{batch::MAX_RAW_BYTES, ids::Class};

use super::lane::Parcel;

/// A batch of fewer bytes before compression is merged. Above, its share of a broker's work is less than
/// what opening and compressing it would cost here.
pub(in super::super) const SMALL_BYTES: usize = 64 << 10;
/// Batches in a run, at most.
const MAX_BATCHES: usize = 1024;
/// What frames a record at most where it has no headers, in bytes.
const RECORD_BYTES: usize = 16;
/// What the batch id takes.
const ID_BYTES: usize = 40;
/// Waiting is worth it for so many more.
const WORTH: u32 = 4;
/// The flow has stopped when nothing came for so many times the time between two.
const STOPPED: u32 = 6;
/// ... but not before this: a machine that is busy brings batches in clumps.
const STOPPED_AFTER: Duration = Duration::from_millis(2);
/// The flow is that of about so long.
const MEMORY: Duration = Duration::from_millis(500);

/// How long a batch of a class may wait for others.
fn linger(class: Class) -> Duration {
    Duration::from_millis(match class {
        Class::P0 => 5,
        Class::P1 => 50,
        Class::P2 => 250,
        Class::P3 => 1000,
    })
}

/// A batch that may be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Small {
    /// About so many bytes before compression.
    pub(super) bytes: usize,
    /// So long it may wait for others.
    linger: Duration,
}

impl Small {
    /// What is said of a batch, where it is small: its class, bytes of all record values, records.
    pub(super) fn of(class: Class, raw_bytes: u64, records: u32) -> Option<Self> {
        let raw_bytes = usize::try_from(raw_bytes).ok()?;
        let framing = (records as usize).saturating_mul(RECORD_BYTES);
        let bytes = raw_bytes.saturating_add(framing).saturating_add(ID_BYTES);
        let linger = linger(class);
        (bytes < SMALL_BYTES).then_some(Self { bytes, linger })
    }

    /// Until when a batch that comes now may wait.
    pub(super) fn due(small: Option<Self>, now: Instant) -> Instant {
        small.map_or(now, |small| now + small.linger)
    }
}

/// The beginning of what waits that may go as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Run {
    /// Batches.
    pub(super) count: usize,
    /// Bytes of the batches as they came.
    pub(super) bytes: usize,
    /// Bytes before compression.
    raw: usize,
    /// The first moment at which one of them has waited long enough.
    due: Option<Instant>,
    /// Nothing more can join.
    closed: bool,
}

impl Run {
    /// The next one that waits; whether it joined. `most` bounds the bytes of the batches as they came.
    pub(super) fn add<T>(&mut self, parcel: &Parcel<T>, due: Instant, most: usize) -> bool {
        if self.closed {
            return false;
        }
        let raw = parcel.small.map_or(usize::MAX, |small| small.bytes);
        let fits = parcel.small.is_some()
            && self.raw + raw <= MAX_RAW_BYTES
            && self.bytes + parcel.bytes <= most
            && self.count < MAX_BATCHES;
        if self.count > 0 && !fits {
            self.closed = true;
            return false;
        }
        // The first one always goes, if need be alone.
        self.closed = !fits;
        self.count += 1;
        self.bytes += parcel.bytes;
        self.raw = self.raw.saturating_add(raw);
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
        true
    }

    /// When it goes; at once when not later than `now`. `busy` says that batches of the partition are on
    /// their way: their answers bring it up again.
    pub(super) fn goes(&self, busy: bool, flow: &Flow, now: Instant) -> Instant {
        let due = self.due.unwrap_or(now);
        if self.closed || due <= now {
            return now;
        }
        if busy {
            return due;
        }
        let every = flow.every();
        if every * WORTH > due - now {
            return now;
        }
        let stops = flow.last.map_or(now, |last| {
            last + STOPPED_AFTER.max(every.saturating_mul(STOPPED))
        });
        due.min(stops)
    }
}

/// How many batches have come of late.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flow {
    /// How many, older ones less.
    weight: f64,
    last: Option<Instant>,
}

impl Flow {
    /// One came.
    pub(super) fn came(&mut self, now: Instant) {
        let passed = self
            .last
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let kept = (-passed.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        self.weight = self.weight * kept + 1.0;
        self.last = Some(now);
    }

    /// The time between two.
    fn every(&self) -> Duration {
        MEMORY.div_f64(self.weight.max(0.01))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::broker::Haste, *};

    fn parcel(small: Option<Small>) -> Parcel<()> {
        Parcel {
            cargo: (),
            records: 1,
            bytes: small.map_or(100_000, |small| small.bytes / 2),
            haste: Haste::Common,
            small,
            batches: 1,
        }
    }

    fn small(class: Class, bytes: u64) -> Option<Small> {
        Small::of(class, bytes, 1)
    }

    fn run(of: &[Option<Small>], now: Instant) -> Run {
        let mut run = Run::default();
        for small in of {
            run.add(&parcel(*small), Small::due(*small, now), usize::MAX);
        }
        run
    }

    const P2: Class = Class::P2;
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_batch_that_nobody_follows_goes_at_once_of_any_class() {
        for class in [Class::P0, Class::P1, Class::P2, Class::P3] {
            let (mut flow, now) = (Flow::default(), Instant::now());
            flow.came(now);
            let run = run(&[small(class, 100)], now);
            assert_eq!(run.goes(false, &flow, now), now, "{class}");
            // Behind another one it waits for its answer, no longer than its linger.
            assert_eq!(run.goes(true, &flow, now), now + linger(class), "{class}");
            assert_eq!(
                run.goes(true, &flow, now + linger(class)),
                now + linger(class)
            );
        }
    }

    #[test]
    fn a_large_batch_goes_at_once_alone_and_so_does_what_stands_before_it() {
        let (flow, now) = (Flow::default(), Instant::now());
        assert_eq!(small(P2, 65_536), None);
        let alone = run(&[None, small(P2, 9)], now);
        assert_eq!((alone.count, alone.goes(true, &flow, now)), (1, now));
        let before = run(&[small(P2, 9), small(P2, 9), None, small(P2, 9)], now);
        assert_eq!((before.count, before.goes(true, &flow, now)), (2, now));
    }

    /// Batches come `every` so often; how long the first one waits, looked at with each that comes and
    /// when it said.
    fn first_waits(class: Class, every: Duration, until: Duration) -> Duration {
        let start = Instant::now();
        let (mut flow, mut run) = (Flow::default(), Run::default());
        // A second of it before.
        let before = u32::try_from(1000 * MS.as_nanos() / every.as_nanos()).unwrap();
        (0..before).for_each(|no| flow.came(start - every * (before - no)));
        let (mut now, mut goes) = (start, start + linger(class));
        while now < goes {
            if now < start + until {
                flow.came(now);
                run.add(
                    &parcel(small(class, 10)),
                    Small::due(small(class, 10), now),
                    usize::MAX,
                );
            }
            goes = run.goes(false, &flow, now);
            now = goes.min(now + every);
        }
        now - start
    }

    #[test]
    fn a_flow_is_waited_for_as_long_as_the_class_allows_and_not_when_it_stops() {
        let long = Duration::from_secs(9);
        for (class, every) in [
            (Class::P0, MS / 10),
            (Class::P1, MS),
            (P2, MS),
            (Class::P3, 5 * MS),
        ] {
            let waits = first_waits(class, every, long);
            assert!(waits <= linger(class), "{class} {waits:?}");
            assert!(
                waits + every * (WORTH + 2) >= linger(class),
                "{class} {waits:?}"
            );
        }
        // Five a second, as one slow stream brings them, are not worth waiting for.
        assert_eq!(first_waits(P2, 200 * MS, long), Duration::ZERO);
        assert_eq!(first_waits(Class::P0, 5 * MS, long), Duration::ZERO);
        // It stops after 20 ms.
        let waits = first_waits(P2, MS, 20 * MS);
        assert!(waits < 40 * MS, "{waits:?}");
    }

    proptest! {
        #[test]
        fn a_run_is_within_its_bounds_and_goes_in_time(
            bytes in prop::collection::vec(prop::option::weighted(0.95, 1_u64..60_000), 1..40),
            class in prop::sample::select(vec![Class::P0, Class::P1, Class::P2, Class::P3]),
            most in 10_000_usize..2_000_000,
            gap in 0_u32..50_000,
            busy: bool,
        ) {
            let start = Instant::now();
            let (mut flow, mut run, mut now) = (Flow::default(), Run::default(), start);
            let mut joined = Vec::new();
            for bytes in bytes {
                let small = bytes.and_then(|bytes| small(class, bytes));
                flow.came(now);
                if run.add(&parcel(small), Small::due(small, now), most) {
                    joined.push(small);
                } else {
                    prop_assert_eq!(run.goes(busy, &flow, now), now, "nothing more can join");
                }
                now += Duration::from_micros(u64::from(gap));
            }
            prop_assert_eq!(run.count, joined.len());
            if joined.len() > 1 {
                prop_assert!(joined.iter().all(Option::is_some));
                let raw: usize = joined.iter().flatten().map(|small| small.bytes).sum();
                prop_assert!(raw <= MAX_RAW_BYTES && run.bytes <= most);
            }
            prop_assert!(run.goes(busy, &flow, now) <= now.max(start + linger(class)));
        }
    }
}
