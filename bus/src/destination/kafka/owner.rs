//! The threads that open batches and give their records to librdkafka.
//!
//! One thread owns a partition, so a batch's records lie together and a stream's batches in order.
//! A partition that has to wait (see [`super::pace`]) holds up no other.
//! Not for: answers (see [`super::produced`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tributary_common::{
    batch::{Decoded, Decoder, Record},
    ids::BatchId,
};

use super::{
    super::{Failure, Job},
    Shared, Slot,
    careful::Case,
    keyed::Spread,
    lend::{Lender, Lent, Spares},
    letters::{Alive, without},
    pace::{Key, Limits, Line, Pace},
    produced::{Flight, failure_of},
    producer::Hold,
    stops::behind,
    topic::Topic,
};

/// A full queue is tried again after this.
const QUEUE_PAUSE: Duration = Duration::from_millis(2);

/// In the place of a partition: all of a topic, for batches with keys.
pub(super) const KEYED: i32 = -1;

/// What an owner is told.
pub(super) enum Message {
    /// A batch for one of its partitions.
    Work(Work),
    /// A partition that has waited has room.
    Room(Key),
    /// The destination closes.
    Close,
}

/// A batch for a partition.
pub(super) struct Work {
    pub(super) topic: Arc<Topic>,
    pub(super) partition: i32,
    pub(super) job: Job,
    /// When it was given, among the others (see [`super::stops`]).
    pub(super) no: u64,
}

/// One thread's state.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) producer: Arc<Slot>,
    pub(super) incoming: Receiver<Message>,
    /// To itself, for the answers that make room.
    pub(super) own: Sender<Message>,
    /// Memory of batches that came back.
    pub(super) spares: Spares,
    /// To who sends batches piece by piece.
    pub(super) careful: Sender<Case>,
}

impl Worker {
    /// Works until the destination closes; what still waits then is given back.
    pub(super) fn run(self) {
        let mut decoder = Decoder::new();
        let mut lines: HashMap<Key, Line> = HashMap::new();
        let limits = Limits::of(&self.shared.settings);
        while let Ok(message) = self.incoming.recv() {
            let key = match message {
                Message::Work(work) => {
                    let key = (work.topic.target, work.partition);
                    let new = || Line::new(key, limits, self.own.clone());
                    lines.entry(key).or_insert_with(new).push(work);
                    key
                }
                Message::Room(key) => key,
                Message::Close => break,
            };
            let Some(line) = lines.get_mut(&key) else {
                continue;
            };
            self.serve(line, &mut decoder);
        }
        let late = self
            .incoming
            .try_iter()
            .filter_map(|message| match message {
                Message::Work(work) => Some(work),
                Message::Room(_) | Message::Close => None,
            });
        for work in lines.values_mut().flat_map(Line::drain).chain(late) {
            self.shared.give_back(
                work,
                Failure::Unavailable("this node is stopping".to_owned()),
            );
        }
    }

    /// Opens and produces what a partition has room for.
    fn serve(&self, line: &mut Line, decoder: &mut Decoder) {
        // Until all is given what is there.
        let mut hold = None;
        while let Some((work, opened, pace)) = line.next() {
            if work.topic.is_closed() || self.shared.is_closing() || self.shared.holds(&work) {
                let why = "the topic is being looked at".to_owned();
                self.shared.give_back(work, Failure::Unavailable(why));
                continue;
            }
            let Some(work) = self.shared.unless_ended(work) else {
                continue;
            };
            let opened = opened.map_or_else(|| self.open(&work, decoder), Ok);
            let decoded = match opened {
                Ok(decoded) => decoded,
                Err(failure) => {
                    self.shared.give_back(work, failure);
                    continue;
                }
            };
            if line.wants_hold(&work) {
                self.hold(&mut hold, &work, &decoded);
            }
            match line.is_in_time(hold.is_some()) {
                true => self.produce(work, pace, decoded),
                false => line.put_back(work, decoded),
            }
        }
        if hold.is_some() {
            line.close();
        }
    }

    /// Holds the partitions of a batch, so that it leaves in one piece.
    fn hold(&self, hold: &mut Option<Hold>, work: &Work, decoded: &Decoded) {
        // None while it is being replaced: then nothing is given.
        let Some(producer) = self.producer.get() else {
            return;
        };
        let hold = hold.get_or_insert_with(|| producer.hold(&work.topic.name));
        if work.partition != KEYED {
            return hold.add([work.partition]);
        }
        let alive = Alive::new(decoded, self.shared.dead_of(&work.job));
        let mut spread = Spread::new(&work.topic, work.job.batch.header.stream, &alive, &[]);
        let records = alive.records();
        let partitions: BTreeSet<i32> = records
            .map(|(_place, record)| spread.next(&record).partition)
            .collect();
        hold.add(partitions);
    }

    fn open(&self, work: &Work, decoder: &mut Decoder) -> Result<Decoded, Failure> {
        self.spares.refill(decoder);
        work.job.batch.open(decoder)
    }

    /// Produces what the topic does not have of a batch.
    fn produce(&self, work: Work, pace: Arc<Pace>, decoded: Decoded) {
        if work.job.batch.header.keyed {
            return self.produce_keyed(work, pace, decoded);
        }
        let id = work.job.batch.header.id();
        let dead = self.shared.dead_of(&work.job);
        let alive = Alive::new(&decoded, dead.clone());
        let found = self.shared.found(&work).into_iter().next();
        let Work {
            topic,
            mut partition,
            job,
            no,
        } = work;
        let (mut skip, mut known) = (0, None);
        if let Some(found) = found {
            let present = found.present(alive.records().map(|(_place, record)| record));
            (partition, skip) = (found.partition, present.records);
            known = Some((partition, present.first, present.end));
            tracing::info!(
                destination = %self.shared.name,
                topic = &*topic.name,
                batch.id = %id,
                records = present.records,
                of_records = decoded.len(),
                "a batch of the life before is found in the topic"
            );
        }
        let left = alive.len() - skip;
        if left == 0 {
            let nowhere = || self.shared.nowhere(&topic, &job.batch.header);
            let place = known.map_or_else(nowhere, |part| self.shared.place(&topic, part));
            return self.shared.note(&topic, job, place);
        }
        let flight = Flight::new(
            (&self.shared, &topic),
            (partition, Some(pace)),
            left,
            known.into_iter(),
            (job, no),
        );
        // It goes to Kafka with the headers of the first record; the first one that is left has the id.
        let mut first = Some(id);
        let lent = Lent::new(flight, decoded, &self.spares);
        let records = without(lent.records(), &dead).skip(skip as usize);
        if self.shared.careful.has(id) {
            let places = records.map(|(place, _record)| place).collect();
            return self.settle(topic, &lent, [(partition, places)].into());
        }
        let records = records.map(|(_place, record)| (record, partition, first.take()));
        self.send(&topic, records, left, &lent);
    }

    /// [`Worker::produce`] for a batch whose records go where their keys say.
    fn produce_keyed(&self, work: Work, pace: Arc<Pace>, decoded: Decoded) {
        let (dead, found) = (self.shared.dead_of(&work.job), self.shared.found(&work));
        let alive = Alive::new(&decoded, dead.clone());
        let Work { topic, job, no, .. } = work;
        let header = &job.batch.header;
        let (id, stream) = (header.id(), header.stream);
        let mut spread = Spread::new(&topic, stream, &alive, &found);
        let left = alive.len() - spread.records_there();
        let flight = Flight::new(
            (&self.shared, &topic),
            (KEYED, Some(pace)),
            left,
            spread.places(),
            (job, no),
        );
        topic.convoy.join(&flight);
        if left == 0 {
            return flight.count(0);
        }
        let lent = Lent::new(flight, decoded, &self.spares);
        let shares = without(lent.records(), &dead)
            .map(|(place, record)| (place, record, spread.next(&record)))
            .filter(|(_place, _record, share)| !share.is_there);
        if self.shared.careful.has(id) {
            let mut parts: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
            for (place, _record, share) in shares {
                parts.entry(share.partition).or_default().push(place);
            }
            return self.settle(topic, &lent, parts);
        }
        let records = shares.map(|(_place, record, share)| {
            let first = share.is_first.then_some(id);
            (record, share.partition, first)
        });
        self.send(&topic, records, left, &lent);
    }

    /// Gives a batch to who sends it piece by piece.
    fn settle(&self, topic: Arc<Topic>, lent: &Arc<Lent>, parts: BTreeMap<i32, Vec<u32>>) {
        let case = Case {
            topic,
            lent: Arc::clone(lent),
            parts,
        };
        // A thread that is gone has panicked; the case was dropped then, and stands still.
        drop(self.careful.send(case));
    }

    /// Gives librdkafka `left` records with their partitions, and the batch id where a record that
    /// does not have it shall.
    fn send<'a>(
        &self,
        topic: &Topic,
        records: impl Iterator<Item = (Record<'a>, i32, Option<BatchId>)>,
        left: u32,
        lent: &Arc<Lent>,
    ) {
        if let Err((error, given)) = lend_all((&self.shared, &self.producer), topic, records, lent)
        {
            lent.flight.failed(refused(error), left - given);
        }
    }
}

/// Gives librdkafka records with their partitions, and the batch id where one that does not have it shall.
///
/// # Errors
/// Why not all were given, and how many were.
pub(super) fn lend_all<'a>(
    (shared, producer): (&Shared, &Slot),
    topic: &Topic,
    records: impl Iterator<Item = (Record<'a>, i32, Option<BatchId>)>,
    lent: &Arc<Lent>,
) -> Result<(), (RDKafkaErrorCode, u32)> {
    // None while it is being replaced.
    let producer = producer.get().ok_or((RDKafkaErrorCode::BrokerDestroy, 0))?;
    let lender = Lender::new(&producer, &topic.name).map_err(|error| (error, 0))?;
    for ((record, partition, id), given) in records.zip(0..) {
        while let Err(error) = lender.lend(lent, (&record, partition), id) {
            let full = error == RDKafkaErrorCode::QueueFull;
            if !full || topic.is_closed() || shared.is_closing() {
                return Err((error, given));
            }
            producer.let_go();
            std::thread::sleep(QUEUE_PAUSE);
        }
    }
    Ok(())
}

/// What it means that a record was not given, or not taken.
pub(super) fn refused(error: RDKafkaErrorCode) -> Failure {
    match error {
        RDKafkaErrorCode::QueueFull => {
            Failure::Unavailable("the queue to Kafka is full".to_owned())
        }
        error => failure_of(&KafkaError::MessageProduction(error)),
    }
}

impl Shared {
    /// Whether a batch stands behind one that was refused. A letter that goes out again does not.
    pub(super) fn holds(&self, work: &Work) -> bool {
        work.job.replay.is_none() && self.stops.holds(work.job.batch.header.stream, work.no)
    }

    /// Answers a batch that was not given to a producer. Behind a refused one it is refused too, whatever it
    /// fails for: what may come again by itself would be in the topic before that one.
    pub(super) fn give_back(&self, work: Work, failure: Failure) {
        let failure = match failure {
            Failure::Unavailable(_) if self.holds(&work) => behind(),
            failure => failure,
        };
        let header = &work.job.batch.header;
        work.topic.left(header);
        let refused = matches!(failure, Failure::Rejected(..)) && work.job.replay.is_none();
        let untold = refused.then(|| self.stops.refused(header.stream));
        work.job.done.tell(Err(failure));
        drop(untold);
    }
}
