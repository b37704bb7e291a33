//! Which batch goes next, which are in flight, and which wait for what.
//!
//! Batches of one stream go in order. After `Busy` a stream sends nothing until every batch of it in
//! flight was answered and the time is over; then it goes on with the oldest one. A refused stream
//! does the same with a longer time. P0 goes before P1 before P2 before P3, in turns within a class,
//! and a part of the window is P0's alone.
//!
//! Not for: connections (see [`super::link`]). Pure: time is an argument. Memory is bounded by the
//! permits of the batches.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;
use tributary_common::{
    ids::{BatchId, Class, StreamId, Topic},
    wire::{Busy, Scope, Welcome},
};

use super::Outgoing;

/// A refused stream is tried again after this long: an operator may have acted.
const REFUSED_AGAIN: Duration = Duration::from_secs(30);
/// The part of the window that only P0 may use: an eighth.
const RESERVE_PART: u64 = 8;

/// A batch until it is acknowledged.
#[derive(Debug)]
struct Item {
    outgoing: Outgoing,
    /// Its place among all batches: what returns goes back to it.
    place: u64,
}

/// What a stream waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// Nothing.
    Free,
    /// Answers to all that is in flight, and this time.
    Until(Instant),
}

/// One stream's batches that are not in flight.
#[derive(Debug)]
struct Lane {
    class: Class,
    waiting: VecDeque<Item>,
    in_flight: usize,
    hold: Hold,
    /// It stands in its class's queue.
    queued: bool,
}

/// All batches that are not acknowledged.
#[derive(Debug)]
pub(crate) struct Window {
    lanes: HashMap<StreamId, Lane>,
    in_flight: HashMap<BatchId, Item>,
    in_flight_bytes: u64,
    waiting: u64,
    queues: [VecDeque<StreamId>; 4],
    timers: BTreeSet<(Instant, StreamId)>,
    topics: HashMap<Topic, Instant>,
    node_until: Option<Instant>,
    places: u64,
    max_batches: u64,
    max_bytes: u64,
}

impl Window {
    /// Nothing in flight, nothing granted.
    pub(crate) fn new() -> Self {
        Self {
            lanes: HashMap::new(),
            in_flight: HashMap::new(),
            in_flight_bytes: 0,
            waiting: 0,
            queues: Default::default(),
            timers: BTreeSet::new(),
            topics: HashMap::new(),
            node_until: None,
            places: 0,
            max_batches: 0,
            max_bytes: 0,
        }
    }

    /// Batches sent and not answered.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.len() as u64
    }

    /// Batches that wait to be sent.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Whether every batch is acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight.is_empty() && self.waiting == 0
    }

    /// Takes in a batch, the youngest of its stream.
    pub(crate) fn push(&mut self, outgoing: Outgoing) {
        self.places += 1;
        let (stream, class) = (outgoing.header.stream, outgoing.header.class);
        let item = Item {
            outgoing,
            place: self.places,
        };
        let lane = self.lanes.entry(stream).or_insert_with(|| Lane {
            class,
            waiting: VecDeque::new(),
            in_flight: 0,
            hold: Hold::Free,
            queued: false,
        });
        lane.waiting.push_back(item);
        self.waiting += 1;
        self.enqueue(stream);
    }

    /// A node has granted a window.
    pub(crate) fn open(&mut self, welcome: &Welcome) {
        self.max_batches = u64::from(welcome.window_batches).max(1);
        self.max_bytes = welcome.window_bytes.max(1);
    }

    /// The connection is gone: all that was in flight waits again, in its place. The next node knows
    /// nothing of what this one could not take.
    pub(crate) fn reset(&mut self) {
        for (_, item) in std::mem::take(&mut self.in_flight) {
            self.put_back(item);
        }
        self.in_flight_bytes = 0;
        self.topics.clear();
        self.timers.clear();
        self.node_until = None;
        let streams: Vec<StreamId> = self.lanes.keys().copied().collect();
        for stream in streams {
            if let Some(lane) = self.lanes.get_mut(&stream) {
                lane.in_flight = 0;
                lane.hold = Hold::Free;
            }
            self.enqueue(stream);
        }
    }

    /// The next batch to send, if any may go now. It is in flight from now on.
    pub(crate) fn next(&mut self, now: Instant) -> Option<&mut Outgoing> {
        if self.node_until.is_some_and(|until| until > now) {
            return None;
        }
        self.node_until = None;
        self.release(now);
        let id = loop {
            let class = Class::ALL
                .into_iter()
                .find(|&class| !self.queue(class).is_empty())?;
            if !self.has_room(class) {
                return None;
            }
            let stream = self.queue(class).pop_front()?;
            if let Some(id) = self.take_from(stream, now) {
                break id;
            }
        };
        self.in_flight.get_mut(&id).map(|item| &mut item.outgoing)
    }

    /// When something that waits for time may go.
    pub(crate) fn next_time(&self) -> Option<Instant> {
        let first = self.timers.first().map(|&(at, _)| at);
        [first, self.node_until].into_iter().flatten().min()
    }

    /// A batch is acknowledged: it is no longer held. `None` when it was not in flight.
    pub(crate) fn acknowledge(&mut self, batch: BatchId) -> Option<Outgoing> {
        let item = self.answered(batch)?;
        if self.lanes.get(&batch.stream).is_some_and(|lane| {
            lane.in_flight == 0 && lane.waiting.is_empty() && lane.hold == Hold::Free
        }) {
            self.lanes.remove(&batch.stream);
        }
        Some(item.outgoing)
    }

    /// The bus has no room for a batch now.
    pub(crate) fn busy(&mut self, busy: &Busy, now: Instant) -> Option<&Outgoing> {
        let until = now + Duration::from_millis(busy.retry_after_ms.into());
        match &busy.scope {
            Scope::Node => self.node_until = Some(until),
            Scope::Topic(topic) => {
                self.topics.insert(topic.clone(), until);
            }
        }
        self.hold(busy.batch, until)
    }

    /// The bus refused a batch: its stream stands still for a while.
    pub(crate) fn refuse(&mut self, batch: BatchId, now: Instant) -> Option<&Outgoing> {
        self.hold(batch, now + REFUSED_AGAIN)
    }

    fn queue(&mut self, class: Class) -> &mut VecDeque<StreamId> {
        let [p0, p1, p2, p3] = &mut self.queues;
        match class {
            Class::P0 => p0,
            Class::P1 => p1,
            Class::P2 => p2,
            Class::P3 => p3,
        }
    }

    /// Whether the window has room for a batch of this class.
    fn has_room(&self, class: Class) -> bool {
        let reserve = |of: u64| {
            if class == Class::P0 {
                0
            } else {
                of / RESERVE_PART
            }
        };
        let batches = self.max_batches - reserve(self.max_batches);
        let bytes = self.max_bytes - reserve(self.max_bytes);
        // One batch may always go: it may be larger than a small window.
        self.in_flight.is_empty()
            || (self.in_flight() < batches.max(1) && self.in_flight_bytes < bytes)
    }

    /// The lane may have something to send.
    fn enqueue(&mut self, stream: StreamId) {
        let Some(lane) = self.lanes.get_mut(&stream) else {
            return;
        };
        if lane.queued || lane.waiting.is_empty() || lane.hold != Hold::Free {
            return;
        }
        lane.queued = true;
        let class = lane.class;
        self.queue(class).push_back(stream);
    }

    /// Takes the oldest batch of a lane that came up in its queue.
    fn take_from(&mut self, stream: StreamId, now: Instant) -> Option<BatchId> {
        let lane = self.lanes.get_mut(&stream)?;
        lane.queued = false;
        if lane.hold != Hold::Free {
            return None;
        }
        let topic = &lane.waiting.front()?.outgoing.header.topic;
        if let Some(&until) = self.topics.get(topic) {
            if until > now {
                lane.hold = Hold::Until(until);
                self.timers.insert((until, stream));
                return None;
            }
            self.topics.remove(&topic.clone());
        }
        let item = lane.waiting.pop_front()?;
        lane.in_flight += 1;
        self.waiting -= 1;
        self.in_flight_bytes += item.outgoing.payload.len() as u64;
        let id = item.outgoing.header.id();
        self.in_flight.insert(id, item);
        self.enqueue(stream);
        Some(id)
    }

    /// Lanes whose time is over, and that have no batch in flight.
    fn release(&mut self, now: Instant) {
        while let Some(&(until, stream)) = self.timers.first()
            && until <= now
        {
            self.timers.remove(&(until, stream));
            let Some(lane) = self.lanes.get_mut(&stream) else {
                continue;
            };
            match lane.hold {
                Hold::Until(other) if other > now => {
                    self.timers.insert((other, stream));
                }
                // Its last answer frees it.
                Hold::Until(_) if lane.in_flight > 0 => {}
                Hold::Until(_) | Hold::Free => {
                    lane.hold = Hold::Free;
                    self.enqueue(stream);
                }
            }
        }
    }

    /// A batch was answered, whatever the answer.
    fn answered(&mut self, batch: BatchId) -> Option<Item> {
        let item = self.in_flight.remove(&batch)?;
        self.in_flight_bytes -= item.outgoing.payload.len() as u64;
        if let Some(lane) = self.lanes.get_mut(&batch.stream) {
            lane.in_flight -= 1;
            if let (0, Hold::Until(until)) = (lane.in_flight, lane.hold) {
                self.timers.insert((until, batch.stream));
            }
        }
        Some(item)
    }

    /// A batch goes back to its place and holds its stream.
    fn hold(&mut self, batch: BatchId, until: Instant) -> Option<&Outgoing> {
        let item = self.answered(batch)?;
        self.put_back(item);
        let lane = self.lanes.get_mut(&batch.stream)?;
        // Later answers of the same stream must not shorten the wait.
        let until = match lane.hold {
            Hold::Until(other) => other.max(until),
            Hold::Free => until,
        };
        lane.hold = Hold::Until(until);
        self.timers.insert((until, batch.stream));
        lane.waiting.front().map(|item| &item.outgoing)
    }

    fn put_back(&mut self, mut item: Item) {
        item.outgoing.header.resends = item.outgoing.header.resends.saturating_add(1);
        if let Some(lane) = self.lanes.get_mut(&item.outgoing.header.stream) {
            let at = lane
                .waiting
                .partition_point(|other| other.place < item.place);
            lane.waiting.insert(at, item);
            self.waiting += 1;
        }
    }
}

#[cfg(test)]
mod tests;
