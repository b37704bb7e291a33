//! What librdkafka says of records: the countdown of a batch, and errors of the cluster.
//!
//! Every record carries a handle of its batch; the last record that is answered completes it. The
//! offsets of a batch are those of its first and last record: one thread owns a partition, so a
//! batch lies in one piece unless other producers write in between. A batch with keys has such a piece
//! in each of its partitions. Called on librdkafka's polling thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientContext, Message,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{DeliveryResult, ProducerContext},
    statistics::Statistics,
};
use tokio::time::Instant;
use tributary_common::{
    header::BatchHeader,
    ids::{BatchId, Class, StreamId},
    wire::{Place, RefuseReason},
};

use super::{
    super::{Failure, Job, Replay, note_all_and_tell},
    Shared,
    careful::{self, is_unfit},
    lend::Lent,
    pace::{self, Pace},
    readback::token,
    stops::{Untold, behind},
    topic::Topic,
    watch::THROTTLED_FOR,
};
use crate::journal::format::Record;

/// How often librdkafka says how it is.
pub(super) const SAID_EVERY: Duration = Duration::from_secs(5);

/// A batch that was given to a producer.
pub(super) struct Flight {
    shared: Arc<Shared>,
    topic: Arc<Topic>,
    partition: i32,
    header: Arc<BatchHeader>,
    /// It is a letter that goes out once more.
    replay: Option<Replay>,
    /// When it was given, among the others (see [`super::stops`]).
    no: u64,
    given: Instant,
    /// Where it counts for a request of librdkafka.
    pace: Option<Arc<Pace>>,
    bytes: u64,
    /// Records without an answer.
    left: AtomicU32,
    /// Records that became dead letters.
    dead: AtomicU32,
    lot: Lot,
    outcome: Mutex<Ended>,
}

/// Where the records of a batch land.
enum Lot {
    /// All in the flight's partition, between these offsets.
    One {
        first: AtomicI64,
        end: AtomicI64,
        /// Some record has landed there that was not there before.
        fresh: AtomicBool,
    },
    /// Where their keys say.
    Keyed(Mutex<BTreeMap<i32, Part>>),
}

/// What of a batch with keys is in a partition.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// Offset of the first record, and the one after the last.
    first: i64,
    end: i64,
    /// Some record has landed there that was not there before.
    fresh: bool,
}

impl Lot {
    /// Records are there, from `first` on; `fresh` ones were not there before.
    fn landed(&self, partition: i32, first: i64, after: i64, fresh: bool) {
        match self {
            // Relaxed: one thread answers, and the countdown orders the rest.
            Self::One {
                first: from,
                end,
                fresh: any,
            } => {
                from.fetch_min(first, Ordering::Relaxed);
                end.fetch_max(after, Ordering::Relaxed);
                any.fetch_or(fresh, Ordering::Relaxed);
            }
            Self::Keyed(parts) => {
                let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
                let end = after;
                let part = parts.entry(partition).or_insert(Part { first, end, fresh });
                part.first = part.first.min(first);
                part.end = part.end.max(after);
                part.fresh |= fresh;
            }
        }
    }

    /// Whether a record has landed in one of these partitions that was not there before.
    fn is_fresh_in(&self, partitions: &BTreeSet<i32>) -> bool {
        match self {
            Self::One { fresh, .. } => fresh.load(Ordering::Relaxed),
            Self::Keyed(parts) => {
                let parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
                let mut parts = partitions.iter().filter_map(|at| parts.get(at));
                parts.any(|part| part.fresh)
            }
        }
    }

    /// The parts: partition, first offset, offset after the last.
    fn parts(&self, partition: i32) -> Vec<(i32, i64, i64)> {
        match self {
            Self::One { first, end, .. } => {
                let first = first.load(Ordering::Relaxed);
                let end = end.load(Ordering::Relaxed);
                let landed = (first < end).then_some((partition, first, end));
                landed.into_iter().collect()
            }
            Self::Keyed(parts) => {
                let parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
                parts
                    .iter()
                    .map(|(&at, part)| (at, part.first, part.end))
                    .collect()
            }
        }
    }
}

struct Ended {
    job: Option<Job>,
    failure: Option<Failure>,
    /// The partitions that never take a record of it, whichever.
    unfit: BTreeSet<i32>,
    /// It is refused, and what is behind it in its stream with it.
    untold: Option<Untold>,
}

impl Flight {
    /// A batch of which `records` will be produced. `known` are the offsets of what is there already:
    /// partition, first, after the last.
    pub(super) fn new(
        (shared, topic): (&Arc<Shared>, &Arc<Topic>),
        (partition, pace): (i32, Option<Arc<Pace>>),
        records: u32,
        known: impl Iterator<Item = (i32, i64, i64)>,
        (job, no): (Job, u64),
    ) -> Arc<Self> {
        let bytes = pace::cost(&job.batch.header);
        if let Some(pace) = &pace {
            pace.entered(bytes);
        }
        let lot = match job.batch.header.keyed {
            true => Lot::Keyed(Mutex::default()),
            false => Lot::One {
                first: AtomicI64::new(i64::MAX),
                end: AtomicI64::new(0),
                fresh: AtomicBool::new(false),
            },
        };
        for (partition, first, after) in known {
            lot.landed(partition, first, after, false);
        }
        Arc::new(Self {
            shared: Arc::clone(shared),
            topic: Arc::clone(topic),
            partition,
            header: Arc::clone(&job.batch.header),
            replay: job.replay,
            no,
            given: Instant::now(),
            pace,
            bytes,
            left: AtomicU32::new(records),
            dead: AtomicU32::new(0),
            lot,
            outcome: Mutex::new(Ended {
                job: Some(job),
                failure: None,
                unfit: BTreeSet::new(),
                untold: None,
            }),
        })
    }

    /// Which batch it is.
    pub(super) fn id(&self) -> BatchId {
        self.header.id()
    }

    /// How urgent it is.
    pub(super) fn class(&self) -> Class {
        self.header.class
    }

    /// What is said of it.
    pub(super) fn header(&self) -> &Arc<BatchHeader> {
        &self.header
    }

    /// The stream whose order it is part of; none of a letter that goes out again.
    pub(super) fn stream(&self) -> Option<StreamId> {
        self.replay.is_none().then_some(self.header.stream)
    }

    /// Whether it stands behind a batch that was refused.
    pub(super) fn is_held(&self) -> bool {
        let holds = |stream| self.shared.stops.holds(stream, self.no);
        self.stream().is_some_and(holds)
    }

    /// It is refused: its stream is held until that is told.
    fn stop(&self) -> Option<Untold> {
        Some(self.shared.stops.refused(self.stream()?))
    }

    /// A record is at an offset.
    pub(super) fn landed(&self, partition: i32, offset: i64) {
        self.lot.landed(partition, offset, offset + 1, true);
        self.count(1);
    }

    /// Records are in a partition, side by side from an offset on.
    pub(super) fn landed_all(&self, partition: i32, first: i64, records: u32) {
        let after = first + i64::from(records);
        self.lot.landed(partition, first, after, false);
        self.count(records);
    }

    /// `records` are dead letters: they will not land, and nobody shall wait for them.
    pub(super) fn died(&self, records: u32) {
        self.topic.progressed();
        self.dead.fetch_add(records, Ordering::Relaxed);
        self.count(records);
    }

    /// A record was not taken by its partition. A request of several batches that is refused for a record
    /// says nothing of each of them.
    fn refused(&self, partition: i32, error: &KafkaError) {
        let failure = failure_of(error);
        let unfit = error.rdkafka_error_code().is_some_and(is_unfit);
        let joined = unfit && self.pace.as_ref().is_some_and(|pace| pace.refused());
        if joined {
            let why = format!("{failure:?}: its batches go one by one now");
            return self.failed(Failure::Unavailable(why), 1);
        }
        if unfit {
            let mut ended = self.ended();
            ended.unfit.insert(partition);
            // It may come again piece by piece: that is decided at its end.
            ended.failure.get_or_insert(failure);
            drop(ended);
            return self.count(1);
        }
        self.failed(failure, 1);
    }

    fn ended(&self) -> MutexGuard<'_, Ended> {
        // Its changes are whole.
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `records` will not land.
    pub(super) fn failed(&self, failure: Failure, records: u32) {
        {
            let mut ended = self.ended();
            if matches!(failure, Failure::Rejected(..)) && ended.untold.is_none() {
                // Before anything behind it is given.
                ended.untold = self.stop();
            }
            ended.failure.get_or_insert(failure);
        }
        self.count(records);
    }

    /// So many records have their answer; none where all of them are there already.
    pub(super) fn count(&self, records: u32) {
        if self.left.fetch_sub(records, Ordering::AcqRel) != records {
            return;
        }
        match self.lot {
            Lot::One { .. } => {
                self.end(None);
            }
            Lot::Keyed(_) => self.topic.convoy.advance(),
        }
        // Behind its end: where that closes its topic or stops its stream, nothing is given before.
        if let Some(pace) = &self.pace {
            pace.left(self.bytes);
        }
    }

    /// Whether every record has its answer.
    pub(super) fn is_answered(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }

    /// Ends the batch, which has all its answers. `after` says that it has to come again whatever
    /// they are. False when its topic is to be looked through.
    pub(super) fn end(&self, after: Option<Failure>) -> bool {
        let (job, failure, unfit, untold) = {
            let mut ended = self.ended();
            let failure = ended.failure.take().or(after);
            let unfit = std::mem::take(&mut ended.unfit);
            (ended.job.take(), failure, unfit, ended.untold.take())
        };
        let Some(job) = job else { return true };
        let failure = match failure {
            Some(_refused) if self.may_come_carefully(&unfit) => {
                self.shared.careful.insert(self.id());
                let why = "a record of it is never taken: it goes piece by piece".to_owned();
                Some(Failure::Unavailable(why))
            }
            failure => failure,
        };
        self.topic.left(&self.header);
        let lives = failure.is_none() && self.dead.load(Ordering::Relaxed) == 0;
        if let Some(replay) = self.replay.filter(|_replay| lives) {
            self.shared.replayed(replay.letter);
        }
        match failure {
            None if self.replay.is_some() => {
                job.done.tell(Ok(self.place()));
                true
            }
            None => {
                self.shared.took.record(self.given.elapsed().as_secs_f64());
                self.note(job);
                self.shared.resolved(&self.topic, self.id());
                true
            }
            Some(failure) => {
                let comes_again = matches!(failure, Failure::Unavailable(_));
                let look = comes_again || !self.lot.parts(self.partition).is_empty();
                if look {
                    // A part of it may be there: look before anything more is produced.
                    self.shared.suspect(&self.topic);
                }
                // What may come again by itself would be in the topic before the one that was refused.
                let failure = match comes_again && self.is_held() {
                    true => behind(),
                    false => failure,
                };
                let refused = untold.is_none() && matches!(failure, Failure::Rejected(..));
                let untold = if refused { self.stop() } else { untold };
                job.done.tell(Err(failure));
                drop(untold);
                !look
            }
        }
    }

    /// Whether the batch may come again and go piece by piece, now that these partitions have refused it
    /// alone: not where some of it has landed beside what they refused, or it is a letter.
    fn may_come_carefully(&self, unfit: &BTreeSet<i32>) -> bool {
        !unfit.is_empty() && self.replay.is_none() && !self.lot.is_fresh_in(unfit)
    }

    /// Where the batch is: its first part.
    fn place(&self) -> Place {
        let first = self.lot.parts(self.partition).into_iter().next();
        let nowhere = || self.shared.nowhere(&self.topic, &self.header);
        first.map_or_else(nowhere, |part| self.shared.place(&self.topic, part))
    }

    /// Notes where the batch is.
    fn note(&self, job: Job) {
        let place = self.place();
        let target = self.topic.target;
        let parts = self.lot.parts(self.partition).into_iter().skip(1);
        // What landed before is ended before the journal goes on behind it.
        self.shared.end_replayed();
        let positions = parts.map(|(partition, _first, end)| {
            let memory = self.shared.journal.memory();
            let known = memory
                .get(target)
                .and_then(|known| known.positions.get(&partition));
            Record::Position {
                target,
                partition,
                end: known.map_or(end, |known| known.end.max(end)),
                floor: known.and_then(|known| known.floor),
            }
        });
        let records = positions.chain(self.topic.unnoted(&self.header));
        let records = records.collect();
        note_all_and_tell(&self.shared.journal, target, job, place, records);
    }
}

/// What an error of a record means.
pub(super) fn failure_of(error: &KafkaError) -> Failure {
    let code = error.rdkafka_error_code();
    let text = code.map_or_else(|| error.to_string(), |code| code.to_string());
    match code {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
            Failure::Rejected(RefuseReason::TooLarge, text)
        }
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidDifferentRecord
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::PolicyViolation
            | RDKafkaErrorCode::UnsupportedForMessageFormat,
        ) => Failure::Rejected(RefuseReason::Destination, text),
        Some(_) | None => Failure::Unavailable(text),
    }
}

/// What librdkafka logs when it is told of a leader that it does not know, and drops that news.
/// Only a hint: what follows from it is decided by what the topic does and the cluster says.
const LOST_LEADER: &str = "METADATAUPDATE";

/// What librdkafka logs when a topic has another number of partitions. A hint as well: what it has for one that
/// is gone it keeps.
const PARTITIONS: &str = "PARTCNT";

/// Whether librdkafka says that a number has become less: `… changed from 4 to 1`.
fn is_fewer(message: &str) -> bool {
    let mut numbers = message.rsplit(' ').step_by(2);
    let mut next = || numbers.next()?.parse::<u32>().ok();
    let (now, before) = (next(), next());
    now.is_some() && now < before
}

/// Takes librdkafka's calls.
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        token(self.shared.bearer.as_ref())
    }

    /// What librdkafka says of quotas it says only here.
    fn stats(&self, statistics: Statistics) {
        let brokers = statistics.brokers.values();
        let mut throttles = brokers.filter_map(|broker| broker.throttle.as_ref());
        if throttles.any(|throttle| throttle.max > 0) {
            self.shared.health().throttled = Some(Instant::now() + SAID_EVERY + THROTTLED_FOR);
        }
    }

    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        if fac == LOST_LEADER || (fac == PARTITIONS && is_fewer(log_message)) {
            self.shared.health().lost_leader = true;
        }
        log(self.shared.name.as_str(), level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        {
            let mut health = self.shared.health();
            health.fatal |= code == Some(RDKafkaErrorCode::Fatal);
            // Brokers also close connections that were idle: the next look tells which it was.
            let all_down = code == Some(RDKafkaErrorCode::AllBrokersDown);
            health.look |= all_down;
            health.refused |= code.is_some_and(is_refusal);
            // That follows whatever was wrong with each of them, which says more.
            if !all_down || health.last_error.is_empty() {
                reason.clone_into(&mut health.last_error);
            }
        }
        tracing::debug!(destination = %self.shared.name, %error, reason, "librdkafka reports an error");
    }
}

/// Whether a broker does not let this node in: its login or its certificate.
fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::SSL
    )
}

impl ProducerContext for Context {
    type DeliveryOpaque = Arc<Lent>;

    fn delivery(&self, result: &DeliveryResult<'_>, lent: Arc<Lent>) {
        let flight = &lent.flight;
        if result.is_ok() {
            flight.topic.progressed();
        }
        match (result, &lent.piece) {
            (Ok(message), None) => flight.landed(message.partition(), message.offset()),
            (Ok(message), Some(to)) => {
                careful::tell(to, Ok((message.partition(), message.offset())));
            }
            (Err((error, message)), None) => flight.refused(message.partition(), error),
            (Err((error, _message)), Some(to)) => {
                let code = error.rdkafka_error_code();
                careful::tell(to, Err(code.unwrap_or(RDKafkaErrorCode::Unknown)));
            }
        }
    }
}

/// librdkafka's log, at our levels: what it calls an error it also retries.
pub(super) fn log(destination: &str, level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => {
            tracing::warn!(target: "librdkafka", destination, facility, "{message}");
        }
        RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", destination, facility, "{message}");
        }
        RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "librdkafka", destination, facility, "{message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_fewer;

    #[test]
    fn a_topic_with_fewer_partitions_is_known_by_what_librdkafka_says() {
        let says = |count: &str| is_fewer(&format!("Topic web partition count changed {count}"));
        assert!(says("from 4 to 1"));
        assert!(!says("from 1 to 4") && !says("from 4 to 4") && !says("") && !is_fewer(""));
    }
}
