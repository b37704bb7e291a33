//! Which batch goes next, which are in flight, and which wait for what.
//!
//! Batches of one stream go in order. After `Busy` a stream sends nothing until every batch of it in
//! flight was answered and the time is over; then it goes on with the oldest one. A refused stream
//! does the same with a longer time. Whose turn it is say [`Turns`]. A part of the window is left to
//! more urgent classes, and no topic takes more of it than it leaves to others, so that one whose
//! answers do not come does not stop the rest.
//!
//! Not for: connections (see [`super::link`]). Pure: time is an argument. Memory is bounded by the
//! permits of the batches.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;
use tributary_common::{
    ids::{BatchId, Class, StreamId, TaskId, Topic},
    wire::{Busy, Scope, Welcome},
};

use super::Outgoing;
use crate::turns::Turns;

/// A refused stream is tried again after this long: an operator may have acted.
const REFUSED_AGAIN: Duration = Duration::from_secs(30);
/// What each class leaves of the window to more urgent ones, in sixteenths: the first two are P0's
/// alone, the next is for P0 and P1, the last for all but P3.
const LEAVES: [(Class, u64); 4] = [
    (Class::P0, 0),
    (Class::P1, 2),
    (Class::P2, 3),
    (Class::P3, 4),
];
/// Those sixteenths.
const PARTS: u64 = 16;
/// What a topic that is alone leaves to those that may come, in sixteenths.
const TOPIC_LEAVES: u64 = 2;
/// Batches in flight of a topic that has none acknowledged yet.
const TOPIC_BEGINS: u64 = 4;
/// Topics at rest of which it is known how many batches they may have in flight.
const TOPICS_AT_REST: usize = 256;

/// A batch until it is acknowledged.
#[derive(Debug)]
struct Item {
    outgoing: Outgoing,
    /// Its place among all batches: what returns goes back to it.
    place: u64,
    /// When it was sent last.
    sent: Option<Instant>,
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
    task: TaskId,
    waiting: VecDeque<Item>,
    in_flight: usize,
    hold: Hold,
    /// It waits for its turn, or for its topic.
    queued: bool,
}

/// The batches of one class that are not acknowledged.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ClassLoad {
    /// Batches that wait to be sent.
    pub(crate) waiting: u64,
    /// Batches sent and not answered.
    pub(crate) in_flight: u64,
    /// Their payload in bytes.
    pub(crate) in_flight_bytes: u64,
}

/// The batches of one topic that are not acknowledged.
#[derive(Debug, Clone, Copy)]
struct Load {
    batches: u64,
    in_flight: u64,
    /// Most in flight: grows with acknowledgements, and begins anew after a `Busy`.
    most: u64,
}

/// All batches that are not acknowledged.
#[derive(Debug)]
pub(crate) struct Window {
    lanes: HashMap<StreamId, Lane>,
    in_flight: HashMap<BatchId, Item>,
    in_flight_bytes: u64,
    waiting: u64,
    turns: Turns<TaskId, StreamId>,
    /// What there is of each class.
    classes: [ClassLoad; 4],
    /// What there is of each topic, by class.
    loads: [HashMap<Topic, Load>; 4],
    /// Most in flight of topics that have no batches now: small files that are written to now and then
    /// come in bursts, and each would be sent a few at a time otherwise.
    at_rest: HashMap<Topic, u64>,
    /// Streams whose topic has its share of the window in flight.
    parked: BTreeMap<(Class, Topic), VecDeque<StreamId>>,
    timers: BTreeSet<(Instant, StreamId)>,
    topics: HashMap<Topic, Instant>,
    node_until: Option<Instant>,
    places: u64,
    max_batches: u64,
    max_bytes: u64,
}

impl Window {
    /// Nothing in flight, nothing granted. Batches have usually at most `piece` bytes.
    pub(crate) fn new(piece: u64) -> Self {
        Self {
            lanes: HashMap::new(),
            in_flight: HashMap::new(),
            in_flight_bytes: 0,
            waiting: 0,
            turns: Turns::new(piece),
            classes: Default::default(),
            loads: Default::default(),
            at_rest: HashMap::new(),
            parked: BTreeMap::new(),
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

    /// What there is of each class, the most urgent first.
    pub(crate) fn classes(&self) -> [ClassLoad; 4] {
        self.classes
    }

    /// Whether every batch is acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight.is_empty() && self.waiting == 0
    }

    /// Takes in a batch, the youngest of its stream.
    pub(crate) fn push(&mut self, outgoing: Outgoing) {
        self.places += 1;
        let (stream, class) = (outgoing.header.stream, outgoing.header.class);
        let task = outgoing.header.task.clone();
        self.load(class, &outgoing.header.topic, |load| load.batches += 1);
        let item = Item {
            outgoing,
            place: self.places,
            sent: None,
        };
        let lane = self.lanes.entry(stream).or_insert_with(|| Lane {
            class,
            task,
            waiting: VecDeque::new(),
            in_flight: 0,
            hold: Hold::Free,
            queued: false,
        });
        lane.waiting.push_back(item);
        self.waiting += 1;
        self.class(class).waiting += 1;
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
        for load in &mut self.classes {
            load.in_flight = 0;
            load.in_flight_bytes = 0;
        }
        let loads = self.loads.iter_mut().flat_map(HashMap::values_mut);
        loads.for_each(|load| load.in_flight = 0);
        self.topics.clear();
        self.at_rest.clear();
        self.timers.clear();
        self.node_until = None;
        self.unpark_all();
        // Who has waited longest goes first.
        let of = |lane: &Lane| lane.waiting.front().map(|item| item.place);
        let lanes = self.lanes.iter();
        let mut streams: Vec<_> = lanes.map(|(&stream, lane)| (of(lane), stream)).collect();
        streams.sort_unstable();
        for (_place, stream) in streams {
            if let Some(lane) = self.lanes.get_mut(&stream) {
                lane.in_flight = 0;
                lane.hold = Hold::Free;
            }
            self.enqueue(stream);
        }
    }

    /// The next batch to send, if any may go now: of a class that is no less urgent than this, or is
    /// owed its floor. It is in flight from now on.
    pub(crate) fn next(&mut self, now: Instant, least_urgent: Class) -> Option<&mut Outgoing> {
        if self.node_until.is_some_and(|until| until > now) {
            return None;
        }
        self.node_until = None;
        self.release(now);
        let room = Class::ALL.map(|class| self.has_room(class));
        let [of_p0, ..] = room;
        let id = loop {
            // What a class is owed by its floor is not left to others.
            let allowed = |class: Class, owed: bool| {
                let mut rooms = Class::ALL.into_iter().zip(room);
                (owed && of_p0)
                    || (class <= least_urgent && rooms.any(|(of, room)| of == class && room))
            };
            let pick = self.turns.pick(allowed)?;
            match self.take_from(pick.key, now) {
                Some((id, bytes, more)) => {
                    self.turns.done(pick, bytes, more);
                    break id;
                }
                None => self.turns.done(pick, 0, false),
            }
        };
        self.in_flight.get_mut(&id).map(|item| &mut item.outgoing)
    }

    /// When something that waits for time may go.
    pub(crate) fn next_time(&self) -> Option<Instant> {
        let first = self.timers.first().map(|&(at, _)| at);
        [first, self.node_until].into_iter().flatten().min()
    }

    /// A batch is acknowledged: it is no longer held. With when it was sent; `None` when it was not in flight.
    pub(crate) fn acknowledge(&mut self, batch: BatchId) -> Option<(Outgoing, Option<Instant>)> {
        let item = self.answered(batch)?;
        self.load(
            item.outgoing.header.class,
            &item.outgoing.header.topic,
            |load| {
                load.batches -= 1;
                load.most += 1;
            },
        );
        if self.lanes.get(&batch.stream).is_some_and(|lane| {
            lane.in_flight == 0 && lane.waiting.is_empty() && lane.hold == Hold::Free
        }) {
            self.lanes.remove(&batch.stream);
        }
        Some((item.outgoing, item.sent))
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

    /// Most batches in flight before this class has to wait.
    fn most_batches(&self, class: Class) -> u64 {
        self.max_batches - self.max_batches * leaves(class) / PARTS
    }

    /// Whether the window has room for a batch of this class.
    fn has_room(&self, class: Class) -> bool {
        let bytes = self.max_bytes - self.max_bytes / PARTS * leaves(class);
        // One batch may always go: it may be larger than a small window.
        self.in_flight.is_empty()
            || (self.in_flight() < self.most_batches(class).max(1) && self.in_flight_bytes < bytes)
    }

    /// Whether a topic may have one more batch in flight: it leaves half as much as it takes to others
    /// of its class, and something to those that may come.
    fn topic_has_room(&self, class: Class, topic: &Topic, most: u64) -> bool {
        let loads = self.loads.get(class as usize);
        let load = loads.and_then(|loads| loads.get(topic));
        let Some(load) = load.filter(|load| load.in_flight > 0) else {
            return true;
        };
        // Less urgent classes are none of its business.
        let urgent = self.classes.iter().take(class as usize + 1);
        let used: u64 = urgent.map(|load| load.in_flight).sum();
        let alone = loads.is_none_or(|loads| loads.len() == 1);
        let leaves = if alone {
            self.max_batches * TOPIC_LEAVES / PARTS
        } else {
            load.in_flight.div_ceil(2)
        };
        load.in_flight < load.most && most.saturating_sub(used + 1) >= leaves
    }

    /// Changes what there is of a class.
    fn class(&mut self, class: Class) -> &mut ClassLoad {
        let [p0, p1, p2, p3] = &mut self.classes;
        match class {
            Class::P0 => p0,
            Class::P1 => p1,
            Class::P2 => p2,
            Class::P3 => p3,
        }
    }

    /// Changes what there is of a topic.
    fn load(&mut self, class: Class, topic: &Topic, change: impl FnOnce(&mut Load)) {
        let Some(loads) = self.loads.get_mut(class as usize) else {
            return;
        };
        let at_rest = &mut self.at_rest;
        let load = match loads.get_mut(topic) {
            Some(load) => load,
            None => loads.entry(topic.clone()).or_insert(Load {
                batches: 0,
                in_flight: 0,
                most: at_rest.remove(topic).unwrap_or(TOPIC_BEGINS),
            }),
        };
        change(load);
        if load.batches == 0 {
            if load.most > TOPIC_BEGINS && at_rest.len() < TOPICS_AT_REST {
                at_rest.insert(topic.clone(), load.most);
            }
            loads.remove(topic);
        }
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
        self.turns.add(lane.class, lane.task.clone(), stream);
    }

    /// Takes the oldest batch of a lane whose turn it is: which, its bytes, and whether the lane waits
    /// for another turn.
    fn take_from(&mut self, stream: StreamId, now: Instant) -> Option<(BatchId, u64, bool)> {
        let lane = self.lanes.get_mut(&stream)?;
        lane.queued = false;
        if lane.hold != Hold::Free {
            return None;
        }
        let header = &lane.waiting.front()?.outgoing.header;
        let (class, topic) = (header.class, header.topic.clone());
        if let Some(&until) = self.topics.get(&topic) {
            if until > now {
                lane.hold = Hold::Until(until);
                self.timers.insert((until, stream));
                return None;
            }
            self.topics.remove(&topic);
        }
        // Without room of its own the class is owed this turn: it is out of all of the window.
        let of = if self.has_room(class) {
            class
        } else {
            Class::P0
        };
        if !self.topic_has_room(class, &topic, self.most_batches(of)) {
            self.lanes.get_mut(&stream)?.queued = true;
            self.parked
                .entry((class, topic))
                .or_default()
                .push_back(stream);
            return None;
        }
        let lane = self.lanes.get_mut(&stream)?;
        let mut item = lane.waiting.pop_front()?;
        item.sent = Some(now);
        lane.in_flight += 1;
        let more = !lane.waiting.is_empty();
        lane.queued = more;
        self.waiting -= 1;
        let bytes = item.outgoing.payload.len() as u64;
        self.in_flight_bytes += bytes;
        let load = self.class(class);
        load.waiting -= 1;
        load.in_flight += 1;
        load.in_flight_bytes += bytes;
        self.load(class, &topic, |load| load.in_flight += 1);
        let id = item.outgoing.header.id();
        self.in_flight.insert(id, item);
        Some((id, bytes, more))
    }

    /// There is more room: one stream of each topic may try again.
    fn unpark(&mut self) {
        if self.in_flight.is_empty() {
            return self.unpark_all();
        }
        let mut free = Vec::new();
        self.parked.retain(|_, streams| {
            free.extend(streams.pop_front());
            !streams.is_empty()
        });
        self.try_again(free);
    }

    fn unpark_all(&mut self) {
        let parked = std::mem::take(&mut self.parked);
        self.try_again(parked.into_values().flatten());
    }

    /// Streams that waited for their topic wait for their turn.
    fn try_again(&mut self, streams: impl IntoIterator<Item = StreamId>) {
        for stream in streams {
            if let Some(lane) = self.lanes.get_mut(&stream) {
                lane.queued = false;
            }
            self.enqueue(stream);
        }
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
        let bytes = item.outgoing.payload.len() as u64;
        self.in_flight_bytes -= bytes;
        let load = self.class(item.outgoing.header.class);
        load.in_flight -= 1;
        load.in_flight_bytes -= bytes;
        if let Some(lane) = self.lanes.get_mut(&batch.stream) {
            lane.in_flight -= 1;
            if let (0, Hold::Until(until)) = (lane.in_flight, lane.hold) {
                self.timers.insert((until, batch.stream));
            }
        }
        self.load(
            item.outgoing.header.class,
            &item.outgoing.header.topic,
            |load| load.in_flight -= 1,
        );
        self.unpark();
        Some(item)
    }

    /// A batch goes back to its place and holds its stream.
    fn hold(&mut self, batch: BatchId, until: Instant) -> Option<&Outgoing> {
        let item = self.answered(batch)?;
        self.load(
            item.outgoing.header.class,
            &item.outgoing.header.topic,
            |load| load.most = 1,
        );
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
            let class = item.outgoing.header.class;
            lane.waiting.insert(at, item);
            self.waiting += 1;
            self.class(class).waiting += 1;
        }
    }
}

/// What a class leaves of the window, in sixteenths.
fn leaves(class: Class) -> u64 {
    let of_class = LEAVES.into_iter().find(|&(of, _)| of == class);
    of_class.map_or(0, |(_, parts)| parts)
}

#[cfg(test)]
mod tests;
