//! The state machine against a model of a cluster: whatever brokers, leaders and connections do, each
//! batch is in the log once, in the order of its stream, at the place that was told, but for the records that are
//! never taken.
//!
//! The model keeps Kafka's rules for sequences: a batch follows the one before, a repeat among the last
//! five is answered with its place, and a producer that a partition does not know may begin anywhere.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use tokio::time::Instant;
use tributary_common::ids::{Class, StreamId};

use super::{
    broker::Haste,
    cluster::{BrokerNo, Cluster, LinkNo},
    gather::Small,
    lane::{Parcel, Producer, RequestNo, Shipment},
    says::{Command, Leaders, Part, PartAnswer, TopicLeaders},
};

const BROKERS: BrokerNo = 3;
const PARTITIONS: i32 = 3;
const BATCHES: u32 = 25;
/// Of a partition; its batches are of one after the other.
const STREAMS: u32 = 3;
/// Some batches are too large, some have a record that is never taken, and some cannot be opened.
const TOO_LARGE: u32 = 11;
const REFUSED: u32 = 7;
const DAMAGED: u32 = 13;
const MAX_RECORDS: u32 = 3;
/// Merged batches are too large with more records.
const MAX_MERGED: u32 = 12;

/// Records of a batch: partition, batch, first record, how many.
type Records = (i32, u32, u32, u32);
/// A batch, or several that were merged.
type Cargo = Vec<Records>;

fn stream_of(batch: u32) -> usize {
    (batch % STREAMS) as usize
}

fn streams(cargo: &Cargo) -> Vec<StreamId> {
    let streams = cargo.iter().map(|one| stream_of(one.1) as u64);
    streams.map(StreamId).collect()
}

fn records_of(batch: u32) -> u32 {
    1 + batch % 6
}

#[derive(Debug)]
struct Partition {
    leader: Option<BrokerNo>,
    /// Batch and record at each offset.
    log: Vec<(u32, u32)>,
    /// What the leader knows of producers: the next sequence; sequence and offset of the last five.
    producers: HashMap<i64, (i32, VecDeque<(i32, i64)>)>,
    /// The next batch of each stream that is given.
    next: Vec<u32>,
    /// Given and not answered: in so many pieces.
    outstanding: BTreeMap<u32, u32>,
    /// Batches whose guilty record is a dead letter.
    dead: BTreeSet<u32>,
}

/// The record of a batch that is never taken: its first or its last one.
fn guilty(batch: u32) -> Option<u32> {
    let record = match batch % 2 {
        0 => 0,
        _ => records_of(batch) - 1,
    };
    (batch % REFUSED == 6).then_some(record)
}

/// The records of a batch that are to be in the log: the first one, and behind the last.
fn alive(batch: u32, dead: bool) -> (u32, u32) {
    let count = records_of(batch);
    match guilty(batch).filter(|_record| dead) {
        None => (0, count),
        Some(0) => (1, count),
        Some(last) => (0, last),
    }
}

/// Where in a cargo its guilty records are.
fn unfit(cargo: &Cargo) -> Vec<u32> {
    let (mut at, mut unfit) = (0, Vec::new());
    for &(_no, batch, first, count) in cargo {
        let record = guilty(batch).filter(|record| (first..first + count).contains(record));
        unfit.extend(record.map(|record| at + record - first));
        at += count;
    }
    unfit
}

#[derive(Debug)]
enum Question {
    Produce(Vec<Part<Cargo>>),
    Leaders,
    Producer,
}

#[derive(Debug)]
struct World {
    cluster: Cluster<Cargo>,
    partitions: BTreeMap<i32, Partition>,
    links: BTreeMap<LinkNo, (BrokerNo, VecDeque<Question>)>,
    random: fastrand::Rng,
    now: Instant,
    next_producer: i64,
    /// Faults in a thousand.
    faults: u32,
    /// A broker that went away for good.
    gone: Option<BrokerNo>,
    /// Merged batches that were taken.
    merged: usize,
    /// Batches that were refused as a whole.
    refused: usize,
    topic: Arc<str>,
}

impl World {
    fn new(seed: u64, faults: u32) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let now = Instant::now();
        let partition = |no| {
            (
                no,
                Partition {
                    leader: Some(no % BROKERS),
                    log: Vec::new(),
                    producers: HashMap::new(),
                    next: (0..STREAMS).collect(),
                    outstanding: BTreeMap::new(),
                    dead: BTreeSet::new(),
                },
            )
        };
        Self {
            cluster: Cluster::new(
                &["b0".to_owned(), "b1".to_owned()],
                streams,
                random.fork(),
                now,
            ),
            partitions: (0..PARTITIONS).map(partition).collect(),
            links: BTreeMap::new(),
            random,
            now,
            next_producer: 0,
            faults,
            gone: None,
            merged: 0,
            refused: 0,
            topic: "t".into(),
        }
    }

    fn fault(&mut self) -> bool {
        self.random.u32(..1000) < self.faults
    }

    /// Gives the next batch of a partition, or what is missing of it.
    fn give(&mut self, no: i32) {
        let stream = self.random.usize(..STREAMS as usize);
        let partition = self.partitions.get_mut(&no).unwrap();
        let batch = partition.next[stream];
        // One that was refused and has not been told yet is not given before.
        if batch >= BATCHES || partition.outstanding.contains_key(&batch) {
            return;
        }
        partition.next[stream] += STREAMS;
        let there = partition
            .log
            .iter()
            .filter(|(one, _)| *one == batch)
            .count();
        let there = u32::try_from(there).unwrap();
        let (first, end) = alive(batch, partition.dead.contains(&batch));
        let first = first + there;
        if first == end {
            return;
        }
        *partition.outstanding.entry(batch).or_default() += 1;
        let parcel = parcel(vec![(no, batch, first, end - first)]);
        self.cluster.push(&self.topic, no, parcel, self.now);
    }

    fn obey(&mut self) {
        while let Some(command) = self.cluster.command() {
            match command {
                Command::Dial { link, addr } => {
                    let broker: BrokerNo = addr
                        .trim_start_matches(|c: char| !c.is_ascii_digit())
                        .parse()
                        .unwrap();
                    if self.gone == Some(broker) || self.fault() {
                        self.cluster.on_down(link, "refused", self.now);
                    } else {
                        self.links.insert(link, (broker, VecDeque::new()));
                        self.cluster.on_up(link, self.now);
                    }
                }
                Command::Hangup { link } => drop(self.links.remove(&link)),
                Command::Produce { link, no, parts } => {
                    self.ask(link, no, Question::Produce(parts));
                }
                Command::AskLeaders { link, no, .. } => self.ask(link, no, Question::Leaders),
                Command::AskProducer { link, no } => self.ask(link, no, Question::Producer),
                Command::Taken { parcel, offset } => self.taken(&parcel, offset),
                Command::Refused { parcel, .. } => {
                    self.refused += 1;
                    self.give_again(parcel.cargo);
                }
                Command::Cut { lane, cut, against } => {
                    let cargo = self.cluster.cutting(lane, cut).unwrap().cargo.clone();
                    let named: Vec<u32> = against.records.iter().map(|one| one.0).collect();
                    let alone = matches!(cargo[..], [(.., 1)]);
                    if !named.is_empty() || alone {
                        assert!(!against.size && (alone || named == unfit(&cargo)));
                        let left = self.bury(cargo);
                        let pieces = if left.is_empty() {
                            vec![]
                        } else {
                            vec![parcel(left)]
                        };
                        self.cluster.cut((lane, cut), pieces, self.now);
                        continue;
                    }
                    let pieces = match cargo[..] {
                        [(no, batch, first, count)] => {
                            let half = count.div_ceil(2);
                            let pieces = [(first, half), (first + half, count - half)];
                            let outstanding =
                                &mut self.partitions.get_mut(&no).unwrap().outstanding;
                            *outstanding.entry(batch).or_default() += 1;
                            pieces.map(|(first, count)| vec![(no, batch, first, count)])
                        }
                        _ => {
                            let (first, second) = cargo.split_at(cargo.len() / 2);
                            [first.to_vec(), second.to_vec()]
                        }
                    };
                    let pieces = pieces.map(parcel);
                    assert!(
                        self.cluster
                            .cut((lane, cut), pieces.into(), self.now)
                            .is_none()
                    );
                }
                Command::GiveBack { parcels, .. } => {
                    // They come again, in order, when it was seen what is there.
                    let all = parcels.into_iter().flat_map(|parcel| parcel.cargo);
                    self.give_again(all.collect());
                }
                Command::Trouble(_why) => {}
            }
        }
    }

    /// Each of these comes again, and what is behind it in its stream comes behind it.
    fn give_again(&mut self, cargo: Cargo) {
        for (no, batch, ..) in cargo {
            let partition = self.partitions.get_mut(&no).unwrap();
            let next = &mut partition.next[stream_of(batch)];
            *next = batch.min(*next);
            partition.answered(batch);
        }
    }

    /// The guilty records of a cargo become dead letters; gives what is left of it.
    fn bury(&mut self, cargo: Cargo) -> Cargo {
        let mut left = Vec::new();
        for (no, batch, first, count) in cargo {
            let partition = self.partitions.get_mut(&no).unwrap();
            let here = guilty(batch).filter(|one| (first..first + count).contains(one));
            let (first, count) = match here {
                None => (first, count),
                Some(record) if record == first => (first + 1, count - 1),
                Some(_last) => (first, count - 1),
            };
            partition.dead.extend(here.map(|_record| batch));
            match count {
                0 => partition.answered(batch),
                count => left.push((no, batch, first, count)),
            }
        }
        left
    }

    fn ask(&mut self, link: LinkNo, _no: RequestNo, question: Question) {
        self.links.get_mut(&link).unwrap().1.push_back(question);
    }

    /// The place that is told is the place where it lies.
    fn taken(&mut self, parcel: &Parcel<Cargo>, offset: i64) {
        let mut at = usize::try_from(offset).unwrap();
        for &(no, batch, first, count) in &parcel.cargo {
            let partition = self.partitions.get_mut(&no).unwrap();
            partition.answered(batch);
            for record in first..first + count {
                assert_eq!(partition.log.get(at), Some(&(batch, record)));
                at += 1;
            }
        }
        self.merged += usize::from(parcel.cargo.len() > 1);
    }

    /// A broker answers its first question, or the connection ends before or after it has.
    fn answer(&mut self, link: LinkNo) {
        if self.fault() {
            return self.cut(link);
        }
        let (broker, questions) = self.links.get_mut(&link).unwrap();
        let broker = *broker;
        let Some(question) = questions.pop_front() else {
            return;
        };
        match question {
            Question::Produce(parts) => {
                let answers = parts
                    .iter()
                    .map(|part| self.append(broker, part))
                    .collect::<Vec<_>>();
                if self.fault() {
                    return self.cut(link);
                }
                let throttle = if self.fault() { 30 } else { 0 };
                let throttle = Duration::from_millis(throttle);
                self.cluster.on_produced(link, &answers, throttle, self.now);
            }
            Question::Leaders => {
                let brokers = (0..BROKERS).map(|no| (no, format!("b{no}")));
                let partitions = self.partitions.iter();
                let topic = TopicLeaders {
                    topic: "t".to_owned(),
                    code: 0,
                    partitions: partitions.map(|(no, one)| (*no, one.leader)).collect(),
                };
                let leaders = Leaders {
                    brokers: brokers.collect(),
                    topics: vec![topic],
                };
                self.cluster.on_leaders(link, &leaders, self.now);
            }
            Question::Producer => {
                self.next_producer += 1;
                let answer = match self.fault() {
                    true => Err(14),
                    false => Ok(Producer {
                        id: self.next_producer,
                        epoch: 0,
                    }),
                };
                self.cluster.on_producer(link, answer, self.now);
            }
        }
    }

    /// A connection ends; the broker still does some of what it was asked, in order.
    fn cut(&mut self, link: LinkNo) {
        let Some((broker, questions)) = self.links.remove(&link) else {
            return;
        };
        let done = self.random.usize(..=questions.len());
        for question in questions.into_iter().take(done) {
            if let Question::Produce(parts) = question {
                for part in &parts {
                    self.append(broker, part);
                }
            }
        }
        self.cluster.on_down(link, "cut", self.now);
    }

    fn append(&mut self, broker: BrokerNo, part: &Part<Cargo>) -> PartAnswer {
        let (before, after) = (self.fault(), self.fault());
        let (forgets, denies) = (self.fault() && self.fault(), self.fault());
        let some_error = [5, 7, 19, 56][self.random.usize(..4)];
        let names = self.random.bool();
        let partition = self.partitions.get_mut(&part.partition).unwrap();
        let (code, offset) = match () {
            () if partition.leader != Some(broker) => (6, -1),
            () if before => (some_error, -1),
            () if denies => (29, -1),
            () if forgets => (59, -1),
            () => match partition.take(&part.shipment) {
                // It is in the log, but not yet with enough replicas.
                Ok(_offset) if after => (20, -1),
                Ok(offset) => (0, offset),
                Err(code) => (code, -1),
            },
        };
        PartAnswer {
            topic: part.topic.to_string(),
            partition: part.partition,
            code,
            offset,
            message: String::new(),
            records: match code {
                87 if names => {
                    let unfit = unfit(&part.shipment.cargo).into_iter();
                    unfit.map(|at| (at, String::new())).collect()
                }
                _ => Vec::new(),
            },
        }
    }

    /// Leaders move, or are gone for a while.
    fn elect(&mut self) {
        let no = self.random.i32(0..PARTITIONS);
        let leader = self.random.i32(-1..BROKERS);
        let none = leader < 0 && self.faults > 0;
        let leader = self.there(leader.max(0));
        let partition = self.partitions.get_mut(&no).unwrap();
        partition.leader = (!none).then_some(leader);
    }

    /// This broker, or another one where it is gone.
    fn there(&self, broker: BrokerNo) -> BrokerNo {
        match self.gone == Some(broker) {
            true => (broker + 1) % BROKERS,
            false => broker,
        }
    }

    /// A broker goes away for good; others lead what it has led.
    fn lose(&mut self, broker: BrokerNo) {
        self.gone = Some(broker);
        let of = |(link, (at, _)): (&LinkNo, &(BrokerNo, _))| (*at == broker).then_some(*link);
        let links: Vec<LinkNo> = self.links.iter().filter_map(of).collect();
        links.into_iter().for_each(|link| self.cut(link));
        self.obey();
        for no in 0..PARTITIONS {
            let leader = self.partitions[&no].leader;
            let leader = leader.map(|leader| self.there(leader));
            self.partitions.get_mut(&no).unwrap().leader = leader;
        }
    }

    fn step(&mut self) {
        match self.random.u32(..10) {
            0..4 => {
                let no = self.random.i32(0..PARTITIONS);
                self.give(no);
            }
            4 if self.fault() => self.elect(),
            4 if self.fault() && self.fault() => self.reset(),
            _ => {
                let links: Vec<LinkNo> = self.links.keys().copied().collect();
                if !links.is_empty() {
                    let link = links[self.random.usize(..links.len())];
                    self.answer(link);
                }
            }
        }
        self.obey();
        self.now += Duration::from_millis(self.random.u64(..5));
        self.cluster.pump(self.now, merge);
        self.obey();
    }

    /// The producer begins anew; what brokers still have of the old connections is done or not.
    fn reset(&mut self) {
        let links: Vec<LinkNo> = self.links.keys().copied().collect();
        for link in links {
            self.cut(link);
        }
        self.cluster.reset("begins anew", self.now);
    }

    fn is_done(&self) -> bool {
        let mut all = self.partitions.values();
        all.all(|one| one.next.iter().all(|&next| next >= BATCHES) && one.outstanding.is_empty())
    }
}

impl Partition {
    /// A piece of a batch has its answer.
    fn answered(&mut self, batch: u32) {
        let pieces = self.outstanding.get_mut(&batch).unwrap();
        *pieces -= 1;
        if *pieces == 0 {
            self.outstanding.remove(&batch);
        }
    }

    /// Appends a batch as a leader does, or says why not.
    fn take(&mut self, shipment: &Shipment<Cargo>) -> Result<i64, i16> {
        let cargo = &shipment.cargo;
        let count: u32 = cargo.iter().map(|one| one.3).sum();
        let damaged = |batch| batch % DAMAGED == 4;
        assert!(cargo.len() == 1 || !cargo.iter().any(|one| damaged(one.1)));
        if !unfit(cargo).is_empty() {
            return Err(87);
        }
        let too_large = |one: &Records| one.1 % TOO_LARGE == 5 && one.3 > MAX_RECORDS;
        if cargo.iter().any(too_large) || (cargo.len() > 1 && count > MAX_MERGED) {
            return Err(10);
        }
        let sequence = shipment.sequence;
        let fresh = (sequence, VecDeque::new());
        let (next, last) = self.producers.entry(shipment.producer.id).or_insert(fresh);
        if let Some((_sequence, offset)) = last.iter().find(|(one, _)| *one == sequence) {
            return Ok(*offset);
        }
        if sequence != *next {
            return Err(if sequence < *next { 46 } else { 45 });
        }
        let offset = i64::try_from(self.log.len()).unwrap();
        for &(_no, batch, first, count) in cargo {
            self.log
                .extend((first..first + count).map(|record| (batch, record)));
        }
        *next += i32::try_from(count).unwrap();
        last.push_back((sequence, offset));
        if last.len() > 5 {
            last.pop_front();
        }
        Ok(offset)
    }
}

/// As many of the first ones as can be opened.
fn merge(run: &[Parcel<Cargo>]) -> Option<Parcel<Cargo>> {
    let damaged = |one: &&Parcel<Cargo>| one.cargo[0].1 % DAMAGED == 4;
    let parts: Vec<_> = run.iter().take_while(|one| !damaged(one)).collect();
    let cargo: Cargo = parts.iter().flat_map(|one| one.cargo.clone()).collect();
    (parts.len() > 1).then(|| parcel(cargo))
}

fn parcel(cargo: Cargo) -> Parcel<Cargo> {
    let (no, batch, ..) = cargo[0];
    // One partition is urgent, one common, the others change.
    let haste = match (no, batch / 4 % 2) {
        (0, _) | (2.., 0) => Haste::Urgent,
        _ => Haste::Common,
    };
    // Of five, four are small.
    let class = [Class::P0, Class::P2, Class::P3][usize::try_from(no).unwrap()];
    let raw_bytes = if batch % 5 == 3 { 200_000 } else { 20_000 };
    let records = cargo.iter().map(|one| one.3).sum();
    Parcel {
        records,
        bytes: 100 << 10,
        haste,
        small: Small::of(class, raw_bytes, records).filter(|_small| cargo.len() == 1),
        batches: cargo.len(),
        cargo,
    }
}

proptest! {
    #[test]
    fn each_batch_is_in_the_log_once_in_order_at_the_place_that_was_told(
        seed: u64, faults in 0_u32..300, gone in prop::option::of((0..BROKERS, 0_u32..600)),
    ) {
        let mut world = World::new(seed, faults);
        for step in 0..600 {
            if let Some((broker, _)) = gone.filter(|(_, at)| *at == step) {
                world.lose(broker);
            }
            world.step();
        }
        // The cluster is well again, but for that broker: everything gets through.
        world.faults = 0;
        let leader = world.there(0);
        for partition in world.partitions.values_mut() {
            partition.leader.get_or_insert(leader);
        }
        let mut steps = 0;
        while !world.is_done() {
            world.step();
            world.now += Duration::from_millis(20);
            steps += 1;
            prop_assert!(steps < 20_000, "it stands still: {world:#?}");
        }
        for (no, partition) in &world.partitions {
            let wanted = (0..BATCHES).flat_map(|batch| {
                let (first, end) = alive(batch, true);
                (first..end).map(move |record| (batch, record))
            });
            let wanted: Vec<(u32, u32)> = wanted.collect();
            for stream in 0..STREAMS as usize {
                let of = |all: &[(u32, u32)]| -> Vec<(u32, u32)> {
                    all.iter().copied().filter(|one| stream_of(one.0) == stream).collect()
                };
                prop_assert_eq!(of(&partition.log), of(&wanted), "partition {} stream {}", no, stream);
            }
        }
    }
}

#[test]
fn batches_that_wait_are_merged() {
    let merged = |seed| {
        let mut world = World::new(seed, 0);
        (0..600).for_each(|_step| world.step());
        world.merged
    };
    let merged: usize = (0..8).map(merged).sum();
    assert!(merged > 20, "only {merged}");
}

#[test]
fn batches_are_refused_with_what_is_behind_them() {
    let refused = |seed| {
        let mut world = World::new(seed, 60);
        (0..600).for_each(|_step| world.step());
        world.refused
    };
    let refused: usize = (0..8).map(refused).sum();
    assert!(refused > 20, "only {refused}");
}
