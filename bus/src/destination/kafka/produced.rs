//! What librdkafka says of records: the countdown of a batch, and errors of the cluster.
//!
//! Every record carries a handle of its batch; the last record that is answered completes it. The
//! offsets of a batch are those of its first and last record: one thread owns a partition, so a
//! batch lies in one piece unless other producers write in between. Called on librdkafka's polling
//! thread.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, AtomicU32, Ordering},
};

use rdkafka::{
    ClientContext, Message,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{DeliveryResult, ProducerContext, ThreadedProducer},
};
use tokio::time::Instant;
use tributary_common::{
    ids::BatchId,
    wire::{Place, RefuseReason},
};

use super::{
    super::{Failure, Job, note_and_tell},
    Shared,
    pace::{self, Pace},
    topic::Topic,
};

/// The producer.
pub(super) type Producer = ThreadedProducer<Context>;

/// A batch that was given to librdkafka.
pub(super) struct Flight {
    shared: Arc<Shared>,
    topic: Arc<Topic>,
    partition: i32,
    id: BatchId,
    given: Instant,
    pace: Arc<Pace>,
    bytes: u64,
    /// Records without an answer.
    left: AtomicU32,
    first: AtomicI64,
    end: AtomicI64,
    outcome: Mutex<Ended>,
}

struct Ended {
    job: Option<Job>,
    failure: Option<Failure>,
}

impl Flight {
    /// A batch of which `records` will be produced. `known` are the offsets of what the partition
    /// has already.
    pub(super) fn new(
        (shared, topic): (&Arc<Shared>, &Arc<Topic>),
        (partition, pace): (i32, Arc<Pace>),
        records: u32,
        known: Option<(i64, i64)>,
        job: Job,
    ) -> Arc<Self> {
        let (first, end) = known.unwrap_or((i64::MAX, 0));
        let bytes = pace::cost(&job.batch.header);
        pace.entered(bytes);
        Arc::new(Self {
            shared: Arc::clone(shared),
            topic: Arc::clone(topic),
            partition,
            id: job.batch.header.id(),
            given: Instant::now(),
            pace,
            bytes,
            left: AtomicU32::new(records),
            first: AtomicI64::new(first),
            end: AtomicI64::new(end),
            outcome: Mutex::new(Ended {
                job: Some(job),
                failure: None,
            }),
        })
    }

    /// Which batch it is.
    pub(super) fn id(&self) -> BatchId {
        self.id
    }

    /// A record is at an offset. Relaxed: one thread answers, and the countdown orders the rest.
    fn landed(&self, offset: i64) {
        self.first.fetch_min(offset, Ordering::Relaxed);
        self.end.fetch_max(offset + 1, Ordering::Relaxed);
        self.count(1);
    }

    /// `records` will not land.
    pub(super) fn failed(&self, failure: Failure, records: u32) {
        {
            let mut ended = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            ended.failure.get_or_insert(failure);
        }
        self.count(records);
    }

    fn count(&self, records: u32) {
        if self.left.fetch_sub(records, Ordering::AcqRel) == records {
            self.complete();
        }
    }

    fn complete(&self) {
        let (job, failure) = {
            let mut ended = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            (ended.job.take(), ended.failure.take())
        };
        let Some(job) = job else { return };
        self.topic.left();
        self.pace.left(self.bytes);
        match failure {
            None => {
                self.shared.took.record(self.given.elapsed().as_secs_f64());
                let place = Place {
                    destination: self.shared.name.clone(),
                    target: self.topic.name.to_string(),
                    partition: self.partition,
                    first: self.first.load(Ordering::Relaxed),
                    end: self.end.load(Ordering::Relaxed),
                };
                note_and_tell(&self.shared.journal, self.topic.target, job, place);
                self.shared.resolved(&self.topic, self.id);
            }
            Some(failure) => {
                if matches!(failure, Failure::Unavailable(_)) {
                    // A part of it may be there: look before anything more is produced.
                    self.shared.suspect(&self.topic);
                }
                job.done.tell(Err(failure));
            }
        }
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

/// Takes librdkafka's calls.
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        if fac == LOST_LEADER {
            self.shared.health().lost_leader = true;
        }
        log(self.shared.name.as_str(), level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => self.shared.health().fatal = true,
            // Brokers also close connections that were idle: the next look tells which it was.
            Some(RDKafkaErrorCode::AllBrokersDown) => self.shared.health().look = true,
            Some(_) | None => {}
        }
        self.shared.health().last_error = reason.to_owned();
        tracing::debug!(destination = %self.shared.name, %error, reason, "librdkafka reports an error");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Arc<Flight>;

    fn delivery(&self, result: &DeliveryResult<'_>, flight: Arc<Flight>) {
        match result {
            Ok(message) => {
                flight.topic.progressed();
                flight.landed(message.offset());
            }
            Err((error, _message)) => flight.failed(failure_of(error), 1),
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
