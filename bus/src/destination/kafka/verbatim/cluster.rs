//! The cluster as the producer sees it: brokers, who leads what, which request goes where and when.
//!
//! # Operation
//! [`Cluster::push`] takes batches, [`Cluster::pump`] says what is to be done now, the `on_` functions
//! take what came of it; all of them leave [`Command`]s. A request takes one batch of each partition
//! that is ready, up to a bound of bytes; five of them are on their way to a broker. A connection that
//! ends leaves its batches to be sent again. A broker works a connection off in order, so the partitions
//! with urgent batches have one of their own to it. Leaders are asked for when they are unknown, when a broker
//! says that it leads no more, when one is silent, and every five minutes.
//! Pure: no I/O, no clock.
//!
//! Not for: the order and the sequences within a partition (see [`super::lane`]).

mod leaders;
mod verdicts;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tributary_common::backoff::Backoff;

use super::{
    broker::{Asked, Broker, Haste, Kind, Link},
    lane::{Lane, MAX_ON_THE_WAY, Parcel, Producer, Ready, RequestNo, Streams, Verdict},
    meaning::{Meaning, meaning_of},
    says::{Against, Command, Part, PartAnswer},
};

/// Bytes of batches in one request, unless a single one is larger.
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Bytes before compression that are merged before anything else is done: a few milliseconds.
const MERGED_AT_A_TIME: usize = 2 << 20;
/// A broker that owes an answer and says nothing for so long may be gone: leaders are asked for.
const SILENT_AFTER: Duration = Duration::from_secs(3);
/// A connection that owes an answer for so long is given up. Longer than a broker may wait for its
/// replicas (see [`super::proto`]).
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Leaders are asked for at least so often.
const REFRESH_EVERY: Duration = Duration::from_secs(300);
/// A topic or partition that the cluster does not know any more is given up after this.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
/// Between two tries: at first, at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A broker's number; those that the configuration names have negative ones.
pub(super) type BrokerNo = i32;
/// A broker by one of its connections.
type Door = (BrokerNo, Haste);
/// The number of a connection; never used twice.
pub(super) type LinkNo = u64;
/// The number of a partition here.
pub(super) type LaneNo = usize;

/// A partition and where it is.
#[derive(Debug)]
struct Slot<T> {
    topic: Arc<str>,
    partition: i32,
    lane: Lane<T>,
    leader: Option<BrokerNo>,
    /// Which connection it takes; another one only while it has nothing.
    haste: Haste,
    /// Where its batches without an answer are.
    at: Option<Door>,
    /// It stands in a broker's row.
    queued: bool,
    /// Until when it waits for more to be merged.
    held: Option<Instant>,
    /// Since when the cluster does not know it.
    unknown: Option<Instant>,
}

/// Something that is asked for from time to time.
#[derive(Debug)]
struct Question {
    due: Instant,
    asked: bool,
    backoff: Backoff,
}

/// The cluster.
#[derive(Debug)]
pub(super) struct Cluster<T> {
    slots: Vec<Slot<T>>,
    numbers: HashMap<Arc<str>, HashMap<i32, LaneNo>>,
    brokers: BTreeMap<Door, Broker>,
    /// Partitions that wait for their next try.
    paused: Vec<LaneNo>,
    /// Partitions with batches that others may still join.
    held: BTreeSet<(Instant, LaneNo)>,
    /// Bytes that may still be merged before anything else is done.
    merges: usize,
    producer: Option<Producer>,
    naming: Question,
    leaders: Question,
    next_no: u64,
    random: fastrand::Rng,
    commands: VecDeque<Command<T>>,
    streams: Streams<T>,
}

fn pause() -> Backoff {
    Backoff::new(PAUSE.0, PAUSE.1)
}

impl<T: Clone> Cluster<T> {
    /// A cluster of which only some addresses are known.
    pub(super) fn new(
        bootstrap: &[String],
        streams: Streams<T>,
        random: fastrand::Rng,
        now: Instant,
    ) -> Self {
        let question = || Question {
            due: now,
            asked: false,
            backoff: pause(),
        };
        let mut cluster = Self {
            slots: Vec::new(),
            numbers: HashMap::new(),
            brokers: BTreeMap::new(),
            paused: Vec::new(),
            held: BTreeSet::new(),
            merges: MERGED_AT_A_TIME,
            producer: None,
            naming: question(),
            leaders: question(),
            next_no: 0,
            random,
            commands: VecDeque::new(),
            streams,
        };
        for (addr, no) in bootstrap.iter().zip(1..) {
            cluster.add_broker((-no, Haste::Common), addr.clone(), now);
        }
        cluster
    }

    fn add_broker(&mut self, door: Door, addr: String, now: Instant) {
        let broker = Broker {
            addr,
            link: Link::Down,
            not_before: now,
            backoff: pause(),
            asked: VecDeque::new(),
            heard: now,
            ready: VecDeque::new(),
        };
        self.brokers.insert(door, broker);
    }

    fn number(&mut self) -> u64 {
        self.next_no += 1;
        self.next_no
    }

    /// What is to be done next.
    pub(super) fn command(&mut self) -> Option<Command<T>> {
        self.commands.pop_front()
    }

    /// A batch for a partition, behind all others.
    pub(super) fn push(
        &mut self,
        topic: &Arc<str>,
        partition: i32,
        parcel: Parcel<T>,
        now: Instant,
    ) {
        let known = self.numbers.get(topic).and_then(|of| of.get(&partition));
        let lane = match known {
            Some(lane) => *lane,
            None => self.add_lane(topic, partition, now),
        };
        if let Some(slot) = self.slots.get_mut(lane) {
            if slot.lane.is_empty() {
                slot.haste = parcel.haste;
            }
            slot.lane.push(parcel, now);
        }
        self.touch(lane, now);
    }

    fn add_lane(&mut self, topic: &Arc<str>, partition: i32, now: Instant) -> LaneNo {
        let lane = self.slots.len();
        self.slots.push(Slot {
            topic: Arc::clone(topic),
            partition,
            lane: Lane::new(pause(), self.streams),
            leader: None,
            haste: Haste::Common,
            at: None,
            queued: false,
            held: None,
            unknown: None,
        });
        let of = self.numbers.entry(Arc::clone(topic)).or_default();
        of.insert(partition, lane);
        self.ask_leaders(now);
        lane
    }

    fn ask_leaders(&mut self, now: Instant) {
        self.leaders.due = self.leaders.due.min(now + PAUSE.0);
    }

    /// Puts a partition where it is found when it can go on.
    fn touch(&mut self, lane: LaneNo, now: Instant) {
        let Some(slot) = self.slots.get_mut(lane) else {
            return;
        };
        if slot.lane.on_the_way() == 0 {
            slot.at = None;
        }
        if slot.queued || slot.lane.is_empty() {
            return;
        }
        if slot.lane.not_before().is_some_and(|at| at > now) {
            slot.queued = true;
            self.paused.push(lane);
            return;
        }
        let Some(leader) = slot.leader else {
            return self.ask_leaders(now);
        };
        match (
            slot.lane.ready(now),
            self.brokers.get_mut(&(leader, slot.haste)),
        ) {
            (Ready::Now(_), Some(broker)) => {
                slot.queued = true;
                broker.ready.push_back(lane);
            }
            (Ready::At(at), _) => self.hold(lane, at),
            (Ready::No | Ready::Now(_), _) => {}
        }
    }

    /// Looks at a partition again at `at`, or before.
    fn hold(&mut self, lane: LaneNo, at: Instant) {
        if let Some(slot) = self.slots.get_mut(lane)
            && slot.held.is_none_or(|held| at < held)
        {
            if let Some(held) = slot.held.replace(at) {
                self.held.remove(&(held, lane));
            }
            self.held.insert((at, lane));
        }
    }

    /// Looks at the partitions that have waited for more.
    fn release(&mut self, now: Instant) {
        while let Some(&(at, lane)) = self.held.first()
            && at <= now
        {
            self.held.pop_first();
            if let Some(slot) = self.slots.get_mut(lane) {
                slot.held = None;
            }
            self.touch(lane, now);
        }
    }

    /// Does what is due now. For `merge` see [`Lane::send`].
    pub(super) fn pump(
        &mut self,
        now: Instant,
        mut merge: impl FnMut(&[Parcel<T>]) -> Option<Parcel<T>>,
    ) {
        let paused = std::mem::take(&mut self.paused);
        for lane in paused {
            if let Some(slot) = self.slots.get_mut(lane) {
                slot.queued = false;
            }
            self.touch(lane, now);
        }
        self.release(now);
        self.look_for_silence(now);
        self.ask(now);
        let mut doors: Vec<Door> = self.brokers.keys().copied().collect();
        // What is urgent goes first; of the others none shall always be the last.
        self.random.shuffle(&mut doors);
        doors.sort_by_key(|(_no, haste)| Reverse(*haste));
        self.merges = MERGED_AT_A_TIME;
        for door in doors {
            self.dial_if_wanted(door, false, now);
            while self.merges > 0 && self.fill(door, now, &mut merge) {}
        }
    }

    /// When something is due that no event brings; `None` when nothing is.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        const SOON: Duration = Duration::from_millis(10);
        const LOOK: Duration = Duration::from_millis(250);
        let mut brokers = self.brokers.values();
        let starts = brokers.any(|one| !one.ready.is_empty() && one.not_before > now);
        let pending = self.slots.iter().any(|slot| !slot.lane.is_empty());
        let owed = self.brokers.values().any(|one| !one.asked.is_empty());
        let held = self.held.first().map(|(at, _lane)| *at);
        if self.merges == 0 {
            return Some(now);
        }
        let wake = match () {
            () if !self.paused.is_empty() || starts => Some(now + SOON),
            () if pending || owed => {
                Some(now + LOOK.min(SOON.max(self.leaders.due.saturating_duration_since(now))))
            }
            () => None,
        };
        held.into_iter().chain(wake).min()
    }

    /// Gives up connections that owe an answer for too long.
    fn look_for_silence(&mut self, now: Instant) {
        let silent = self.brokers.iter().filter_map(|(&no, broker)| {
            let silent = broker.silent_for(now);
            (silent >= SILENT_AFTER).then_some((no, silent))
        });
        let silent: Vec<(Door, Duration)> = silent.collect();
        for (no, silent_for) in silent {
            self.ask_leaders(now);
            let moved = |slot: &Slot<T>| slot.at == Some(no) && slot.leader != Some(no.0);
            let given_up = silent_for >= ANSWER_WITHIN || self.slots.iter().any(moved);
            let Some(Broker {
                link: Link::Up(link),
                addr,
                ..
            }) = self.brokers.get(&no)
            else {
                continue;
            };
            if given_up {
                let (link, why) = (*link, format!("{addr} gives no answer"));
                self.commands.push_back(Command::Hangup { link });
                self.on_down(link, &why, now);
            }
        }
    }

    /// Asks for leaders and a producer id where they are missing.
    fn ask(&mut self, now: Instant) {
        let wants = |slot: &Slot<T>| slot.lane.needs_producer();
        let naming = self.producer.is_none() && self.slots.iter().any(wants);
        let naming = naming && !self.naming.asked && self.naming.due <= now;
        let leaders = !self.slots.is_empty() && !self.leaders.asked && self.leaders.due <= now;
        if !naming && !leaders {
            return;
        }
        let well = self
            .brokers
            .iter()
            .filter_map(|(&no, broker)| match broker.link {
                Link::Up(link) if broker.silent_for(now) < SILENT_AFTER => {
                    Some((no, link, broker.asked.len()))
                }
                Link::Up(_) | Link::Dialing(_) | Link::Down => None,
            });
        let Some((broker, link, _asked)) = well.min_by_key(|(_no, _link, asked)| *asked) else {
            let all = self.brokers.keys().copied();
            let all: Vec<Door> = all.filter(|(_no, haste)| *haste == Haste::Common).collect();
            let start = self.random.usize(..all.len().max(1));
            let mut order = all.iter().cycle().skip(start).take(all.len());
            order.any(|&broker| self.dial_if_wanted(broker, true, now));
            return;
        };
        if naming {
            self.naming.asked = true;
            let no = self.asked(broker, Kind::Producer, Vec::new(), now);
            self.commands.push_back(Command::AskProducer { link, no });
        }
        if leaders {
            self.leaders.asked = true;
            let no = self.asked(broker, Kind::Leaders, Vec::new(), now);
            let topics = self.numbers.keys().cloned().collect();
            self.commands
                .push_back(Command::AskLeaders { link, no, topics });
        }
    }

    fn asked(&mut self, broker: Door, kind: Kind, lanes: Vec<LaneNo>, now: Instant) -> RequestNo {
        let no = self.number();
        if let Some(broker) = self.brokers.get_mut(&broker) {
            broker.asked.push_back(Asked {
                no,
                kind,
                at: now,
                lanes,
            });
        }
        no
    }

    /// Connects to a broker that is needed. Whether somebody is on the way to it now.
    fn dial_if_wanted(&mut self, no: Door, wanted: bool, now: Instant) -> bool {
        let link = self.number();
        let Some(broker) = self.brokers.get_mut(&no) else {
            return false;
        };
        match broker.link {
            Link::Dialing(_) => return true,
            Link::Up(_) => return false,
            Link::Down => {}
        }
        if broker.not_before > now || (!wanted && broker.ready.is_empty()) {
            return false;
        }
        broker.link = Link::Dialing(link);
        let addr = broker.addr.clone();
        self.commands.push_back(Command::Dial { link, addr });
        true
    }

    /// Makes one request of what is ready for a broker; false when there is none.
    fn fill(
        &mut self,
        no: Door,
        now: Instant,
        merge: &mut impl FnMut(&[Parcel<T>]) -> Option<Parcel<T>>,
    ) -> bool {
        let Some(broker) = self.brokers.get(&no) else {
            return false;
        };
        let Link::Up(link) = broker.link else {
            return false;
        };
        if broker.not_before > now || broker.produces() >= MAX_ON_THE_WAY {
            return false;
        }
        let (mut parts, mut lanes, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut left = broker.ready.len();
        let request = self.number();
        while left > 0 && self.merges > 0 {
            left -= 1;
            let front = self.brokers.get(&no).and_then(|one| one.ready.front());
            let Some(&lane) = front else { break };
            let Some(slot) = self.slots.get_mut(lane) else {
                break;
            };
            let leads = slot.leader == Some(no.0) && slot.haste == no.1;
            let here = leads && slot.at.is_none_or(|at| at == no);
            let ready = slot.lane.ready(now);
            let next = match ready {
                Ready::Now(bytes) => here.then_some(bytes),
                Ready::At(_) | Ready::No => None,
            };
            if next.is_some_and(|next| !parts.is_empty() && bytes + next > MAX_REQUEST_BYTES) {
                break;
            }
            slot.queued = false;
            if let Some(broker) = self.brokers.get_mut(&no) {
                broker.ready.pop_front();
            }
            let Some(next) = next else {
                // Elsewhere, or nothing more: its next event brings it back.
                match ready {
                    _ if !leads => self.touch(lane, now),
                    Ready::At(at) => self.hold(lane, at),
                    Ready::Now(_) | Ready::No => {}
                }
                continue;
            };
            // Without a producer it comes back when there is one.
            let Some(part) = self.part(lane, request, now, merge) else {
                continue;
            };
            if let Some(slot) = self.slots.get_mut(lane) {
                slot.at = Some(no);
            }
            bytes += next;
            parts.push(part);
            lanes.push(lane);
            self.touch(lane, now);
        }
        if parts.is_empty() {
            return false;
        }
        if let Some(broker) = self.brokers.get_mut(&no) {
            broker.asked.push_back(Asked {
                no: request,
                kind: Kind::Produce,
                at: now,
                lanes,
            });
        }
        let no = request;
        self.commands
            .push_back(Command::Produce { link, no, parts });
        true
    }

    /// Takes the next batch of a partition into a request.
    fn part(
        &mut self,
        lane: LaneNo,
        request: RequestNo,
        now: Instant,
        merge: &mut impl FnMut(&[Parcel<T>]) -> Option<Parcel<T>>,
    ) -> Option<Part<T>> {
        let slot = self.slots.get_mut(lane)?;
        let (merges, producer) = (&mut self.merges, self.producer);
        let shipment = slot.lane.send(request, producer, now, |run| {
            let raw = run.iter().filter_map(|one| one.small);
            let raw: usize = raw.map(|small| small.bytes).sum();
            *merges = merges.saturating_sub(raw);
            merge(run)
        })?;
        Some(Part {
            topic: Arc::clone(&slot.topic),
            partition: slot.partition,
            shipment,
        })
    }

    fn broker_of(&mut self, link: LinkNo) -> Option<(Door, &mut Broker)> {
        let here = |broker: &Broker| match broker.link {
            Link::Dialing(no) | Link::Up(no) => no == link,
            Link::Down => false,
        };
        let mut brokers = self.brokers.iter_mut();
        let (no, broker) = brokers.find(|(_no, broker)| here(broker))?;
        Some((*no, broker))
    }

    /// A connection stands.
    pub(super) fn on_up(&mut self, link: LinkNo, now: Instant) {
        if let Some((_no, broker)) = self.broker_of(link) {
            broker.link = Link::Up(link);
            broker.heard = now;
            broker.backoff.reset();
        }
    }

    /// A connection ended, or did not come about.
    pub(super) fn on_down(&mut self, link: LinkNo, why: &str, now: Instant) {
        let mut random = self.random.fork();
        let Some((_no, broker)) = self.broker_of(link) else {
            return;
        };
        broker.link = Link::Down;
        broker.not_before = now + broker.backoff.next(&mut random);
        let asked = std::mem::take(&mut broker.asked);
        self.commands.push_back(Command::Trouble(why.to_owned()));
        for one in asked {
            match one.kind {
                Kind::Leaders => self.leaders.asked = false,
                Kind::Producer => self.naming.asked = false,
                Kind::Produce => {}
            }
            for lane in one.lanes {
                if let Some(slot) = self.slots.get_mut(lane) {
                    let verdict = slot.lane.lost(one.no);
                    self.judge(verdict, Meaning::Broken, why);
                }
                self.touch(lane, now);
            }
        }
        self.ask_leaders(now);
    }

    /// What the next answer of a connection is, and the number of its request.
    pub(super) fn expected(&mut self, link: LinkNo) -> Option<(RequestNo, Kind)> {
        let (_no, broker) = self.broker_of(link)?;
        let first = broker.asked.front()?;
        Some((first.no, first.kind))
    }

    fn answered(&mut self, link: LinkNo, throttle: Duration, now: Instant) -> Option<Asked> {
        let (_no, broker) = self.broker_of(link)?;
        broker.heard = now;
        if !throttle.is_zero() {
            broker.not_before = now + throttle;
        }
        broker.asked.pop_front()
    }

    /// The answer to a request with batches.
    pub(super) fn on_produced(
        &mut self,
        link: LinkNo,
        answers: &[PartAnswer],
        throttle: Duration,
        now: Instant,
    ) {
        let Some(asked) = self.answered(link, throttle, now) else {
            return;
        };
        for lane in asked.lanes {
            let Some(slot) = self.slots.get_mut(lane) else {
                continue;
            };
            let here =
                |one: &&PartAnswer| one.partition == slot.partition && *one.topic == *slot.topic;
            let answer = answers.iter().find(here);
            let (verdict, meaning, why) = match answer {
                Some(one) => {
                    let meaning = meaning_of(one.code);
                    let clock = (now, &mut self.random);
                    let verdict = slot.lane.answered(asked.no, meaning, one.offset, clock);
                    let why = match meaning {
                        Meaning::Taken => String::new(),
                        _ => one.why(),
                    };
                    (verdict, meaning, why)
                }
                None => (slot.lane.lost(asked.no), Meaning::Broken, String::new()),
            };
            let rest = slot.lane.settle();
            if meaning == Meaning::Moved {
                self.ask_leaders(now);
            }
            match (verdict, answer) {
                (Verdict::Cut(cut), Some(answer)) => {
                    let against = Against {
                        code: answer.code,
                        size: meaning == Meaning::TooLarge,
                        why,
                        records: answer.records.clone(),
                    };
                    self.commands.push_back(Command::Cut { lane, cut, against });
                }
                (verdict, _answer) => self.judge(verdict, meaning, &why),
            }
            self.judge(rest, meaning, "");
            self.touch(lane, now);
        }
    }

    /// Gives everything back and ends all connections; the next batch begins anew.
    pub(super) fn reset(&mut self, why: &str, now: Instant) {
        for broker in self.brokers.values_mut() {
            if let Link::Up(link) | Link::Dialing(link) = broker.link {
                self.commands.push_back(Command::Hangup { link });
            }
            broker.link = Link::Down;
            broker.asked.clear();
            broker.ready.clear();
            broker.not_before = now;
        }
        self.paused.clear();
        self.held.clear();
        self.merges = MERGED_AT_A_TIME;
        self.producer = None;
        (self.naming.asked, self.leaders.asked) = (false, false);
        (self.naming.due, self.leaders.due) = (now, now);
        for slot in &mut self.slots {
            (slot.queued, slot.held, slot.at, slot.leader) = (false, None, None, None);
            let parcels = slot.lane.take_all();
            if !parcels.is_empty() {
                let why = why.to_owned();
                self.commands.push_back(Command::GiveBack { parcels, why });
            }
        }
    }
}
