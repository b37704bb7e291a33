//! The thread that delivers what is on the disk.
//!
//! It looks four times a second which targets are up, gives batches as long as the window (see
//! [`super::pace`]) and the node's memory have room and urgent live batches do not suffer (see
//! [`super::beside`]), and leaves half of that memory, and of the
//! destination's share of it, to what comes live. Not for: which batch is next (see
//! [`super::queue`]).

use std::{
    sync::{Arc, PoisonError, mpsc::Receiver},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;
use tributary_common::ids::BatchId;

use super::{lane::Spill, pace::Pace, queue::Place};
use crate::{budget, destination::Accepted};

/// How often the targets are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often a stream that the destination refuses is tried again.
const UNSTICK_EVERY: Duration = Duration::from_secs(30);
/// The rate of the drain is measured over this.
const RATE_OVER: Duration = Duration::from_secs(5);
/// What the drain leaves of the node's memory to live batches.
const LIVE_PART: u64 = 2;

/// How the drain goes on, for `/status`.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Progress {
    /// Bytes a second, over the last seconds.
    pub(crate) bytes_per_s: u64,
    /// When the disk will be empty, in seconds; `None` while nothing is drained.
    pub(crate) eta_s: Option<u64>,
    /// The window in bytes.
    pub(crate) window_bytes: u64,
    /// The most bytes a second beside urgent batches that come live; `None` while there are none.
    pub(crate) held_to_bytes_per_s: Option<u64>,
}

impl Progress {
    /// `drained` bytes have gone in the time since the rate was last begun anew, and so many are left.
    fn note(&mut self, elapsed: Duration, drained: u64, left: u64) {
        if elapsed >= RATE_OVER || self.bytes_per_s == 0 {
            let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            self.bytes_per_s = drained.saturating_mul(1000) / ms.max(1);
        }
        self.eta_s = match (left, self.bytes_per_s) {
            (0, _) => Some(0),
            (_, 0) => None,
            (left, rate) => Some(left.div_ceil(rate)),
        };
    }
}

/// A batch on its way, as the pace sees it.
struct OnTheWay {
    batch: BatchId,
    bytes: u64,
    since: Instant,
}

/// What reading a batch back gave.
enum Read {
    Batch(Accepted),
    /// There is no memory for it now.
    NoRoom,
    /// It is damaged, and told.
    Lost,
}

/// The thread's state.
pub(super) struct Drain {
    spill: Arc<Spill>,
    woken: Receiver<()>,
    pace: Pace,
    on_the_way: Vec<OnTheWay>,
    rate: (Instant, u64),
    looked: Option<Instant>,
    unstuck: Instant,
    /// Live batches are waited for so long before the next one is given.
    pause: Option<Duration>,
}

impl Drain {
    pub(super) fn new(spill: Arc<Spill>, woken: Receiver<()>) -> Self {
        Self {
            spill,
            woken,
            pace: Pace::new(),
            on_the_way: Vec::new(),
            rate: (Instant::now(), 0),
            looked: None,
            unstuck: Instant::now(),
            pause: None,
        }
    }

    /// Works until the spill stops.
    pub(super) fn run(mut self) {
        while !self.spill.is_stopped() {
            // Both ends live in the spill: the wait ends by a word or by its time.
            let (Ok(()) | Err(_)) = self.woken.recv_timeout(self.pause.unwrap_or(LOOK_EVERY));
            self.turn();
        }
    }

    /// Whether a batch may go now.
    fn has_room(&mut self) -> bool {
        if let Some(late) = self.spill.destination.late() {
            return late.has_room();
        }
        if !self.pace.has_room() {
            return false;
        }
        self.pause = self.spill.beside().may(Instant::now()).err();
        self.pause.is_none()
    }

    /// Looks at the targets when it is time, and gives what there is room for.
    pub(super) fn turn(&mut self) {
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.spill.look();
            if let (Some(late), Err(_full)) = (self.spill.destination.late(), self.spill.room()) {
                late.hurry();
            }
            self.tell();
            self.looked = Some(Instant::now());
        }
        if self.unstuck.elapsed() >= UNSTICK_EVERY {
            self.spill.lock().unstick();
            self.unstuck = Instant::now();
        }
        self.reckon();
        let idle = self.on_the_way.is_empty();
        self.spill.beside().turn(idle, Instant::now());
        self.pause = None;
        while self.has_room() && !self.spill.is_stopped() && self.one() {}
    }

    /// Tells the pace of what was answered meanwhile.
    fn reckon(&mut self) {
        if self.on_the_way.is_empty() {
            return;
        }
        let queue = self.spill.lock();
        let pace = &mut self.pace;
        self.on_the_way.retain(|one| match queue.entry(one.batch) {
            Some(entry) if entry.is_flying() => true,
            answered => {
                let took = answered.is_none().then(|| one.since.elapsed());
                pace.answered(one.bytes, took);
                false
            }
        });
    }

    /// Gives one batch; false when none is to be given now.
    fn one(&mut self) -> bool {
        let Some((id, target, place)) = self.spill.lock().next() else {
            return false;
        };
        let late = self.spill.destination.late();
        if late.is_some_and(|late| late.down(&target).is_some()) {
            // It has just failed, and the next look will say so.
            self.spill.lock().put_back(id);
            return false;
        }
        match self.read(id, place) {
            Ok(Read::Batch(batch)) => {
                let bytes = u64::from(place.bytes);
                // An answer that comes with a whole file says nothing about the pace.
                if self.spill.give(Arc::new(batch), &target) && late.is_none() {
                    self.pace.given(bytes);
                    self.spill.beside().gave(bytes);
                    self.on_the_way.push(OnTheWay {
                        batch: id,
                        bytes,
                        since: Instant::now(),
                    });
                }
                true
            }
            Ok(Read::Lost) => true,
            Ok(Read::NoRoom) => {
                self.spill.lock().put_back(id);
                false
            }
            Err(error) => {
                tracing::error!(destination = %self.spill.name, error = format!("{error:#}"), "the spill cannot be read; its stream waits and is tried again");
                let mut queue = self.spill.lock();
                queue.put_back(id);
                queue.stick(id.stream);
                true
            }
        }
    }

    /// Reads a batch back.
    fn read(&self, id: BatchId, place: Place) -> anyhow::Result<Read> {
        let Some(node) = self.spill.node.get().and_then(std::sync::Weak::upgrade) else {
            return Ok(Read::NoRoom);
        };
        let budget = &node.budget;
        let share = node.share(&node.routing());
        let is_half = |used: u64, of: u64| used >= of / LIVE_PART;
        if is_half(budget.used(), budget.limit()) || is_half(self.spill.held().bytes(), share) {
            return Ok(Read::NoRoom);
        }
        let Some(reading) = budget.try_take(u64::from(place.bytes)) else {
            return Ok(Read::NoRoom);
        };
        let (header, payload) = match self.spill.store.read(place)? {
            Some((head, Some(payload))) => (head.header, payload),
            Some((head, None)) => {
                self.spill.lost(id, place, Some(head.header));
                return Ok(Read::Lost);
            }
            None => {
                self.spill.lost(id, place, None);
                return Ok(Read::Lost);
            }
        };
        drop(reading);
        let cost = budget::cost(&header, payload.len());
        Ok(match budget.try_take(cost) {
            Some(permit) => Read::Batch(Accepted::new(header, payload, permit)),
            None => Read::NoRoom,
        })
    }

    /// Says how it goes on.
    fn tell(&mut self) {
        use std::sync::atomic::Ordering;
        let backlog = self.spill.backlog();
        let name = || self.spill.name.to_string();
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        metrics::gauge!("tributary_bus_spill_backlog_bytes", "destination" => name())
            .set(backlog.bytes as f64);
        let (since, before) = self.rate;
        let elapsed = since.elapsed();
        let drained = self.spill.passed.drained_bytes.load(Ordering::Relaxed);
        let mut progress = self
            .spill
            .progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        progress.note(elapsed, drained - before, backlog.bytes);
        // What it did not do before it began says nothing about how fast it is.
        let has_not_begun = progress.bytes_per_s == 0 && drained == before;
        if elapsed >= RATE_OVER || has_not_begun {
            self.rate = (Instant::now(), drained);
        }
        progress.window_bytes = self.pace.window();
        progress.held_to_bytes_per_s = self.spill.beside().rate();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_the_disk_will_be_empty_is_said_by_the_rate_of_the_last_seconds() {
        let mut progress = Progress::default();
        let mut check = |ms, drained, left, want: (u64, Option<u64>)| {
            progress.note(Duration::from_millis(ms), drained, left);
            assert_eq!((progress.bytes_per_s, progress.eta_s), want);
        };
        // Nothing goes: nobody knows.
        check(250, 0, 9_000, (0, None));
        check(500, 1_000, 9_000, (2_000, Some(5)));
        // The rate is of whole seconds, what is left of now.
        check(750, 6_000, 3_000, (2_000, Some(2)));
        check(5_000, 7_500, 1_501, (1_500, Some(2)));
        check(250, 1_501, 0, (1_500, Some(0)));
        // It stands still with something left.
        check(5_000, 0, 800, (0, None));
    }
}
