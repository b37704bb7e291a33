//! Where batches go, and the whole contract of it.
//!
//! # The contract
//! - [`Destination::deliver`] takes a [`Job`] and answers it exactly once through [`Done`], from any
//!   thread, also when the job is lost in a panic. It never waits; it is bounded by the byte permit
//!   that the batch carries.
//! - `Ok(place)` means: the batch is on the destination's stable storage, and the journal says so. (One that
//!   is there to keep nothing answers when the journal says so.)
//! - [`Failure::Unavailable`] means: come again. The destination may have a part of the batch or
//!   all of it; when the same batch comes again, it finds out and adds only what is missing.
//! - [`Failure::Rejected`] means: never, unless a person changes something.
//! - Jobs of one stream are delivered in the order in which they were given. When one fails with
//!   `Unavailable`, so do the ones behind it that were given before the failure was told; behind one that
//!   was `Rejected` and comes again they are `Rejected` too (Kafka: ADR 0048).
//! - [`Destination::down`] is asked before a payload is read; it is quick and may be wrong for a
//!   moment either way.
//!
//! A destination is one file and one variant here. Not for: which batch goes where
//! (see [`crate::route`]), repeats (see [`crate::dedupe`]).

#[cfg(feature = "sim")]
pub(crate) mod by_hand;
pub(crate) mod discard;
pub(crate) mod file;
pub(crate) mod kafka;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod rolled;
pub(crate) mod search;
mod which;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tributary_common::{
    batch::{Decoded, Decoder, MAX_DECODED_BYTES, Sealed},
    header::BatchHeader,
    report::DestinationHealth,
    wire::{Place, RefuseReason},
};

use crate::{
    budget::Permit,
    dead::Filter,
    done::DestinationNo,
    journal::{
        Journal,
        format::{Delivered, Record},
        now_minute,
    },
    route::Table,
};

/// A batch that was taken in. Its bytes return to the budget when the last job drops it.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// What is said of it.
    pub(crate) header: Arc<BatchHeader>,
    /// One Kafka RecordBatch v2.
    pub(crate) payload: Bytes,
    /// Its share of the node's memory.
    _permit: Permit,
    /// What its check said.
    checked: OnceLock<Result<Sealed, Failure>>,
}

impl Accepted {
    /// A batch with its payload and its share of the node's memory.
    pub(crate) fn new(header: impl Into<Arc<BatchHeader>>, payload: Bytes, permit: Permit) -> Self {
        Self {
            header: header.into(),
            payload,
            _permit: permit,
            checked: OnceLock::new(),
        }
    }

    /// Checks a payload that stays closed: its form, its sum, how many records it says to have. It is
    /// read through once; whoever asks again is told the same.
    ///
    /// # Errors
    /// [`Failure::Rejected`] with [`RefuseReason::Corrupt`].
    pub(crate) fn seal(&self) -> Result<Sealed, Failure> {
        self.checked.get_or_init(|| self.check()).clone()
    }

    fn check(&self) -> Result<Sealed, Failure> {
        let corrupt = |why: String| Failure::Rejected(RefuseReason::Corrupt, why);
        let sealed = Sealed::check(&self.payload).map_err(|error| corrupt(error.to_string()))?;
        if sealed.records() == self.header.records {
            return Ok(sealed);
        }
        let why = "the payload has another number of records than its header says";
        Err(corrupt(why.to_owned()))
    }

    /// Decodes the payload and compares it with what the header says.
    ///
    /// # Errors
    /// [`Failure::Rejected`] with [`RefuseReason::Corrupt`].
    pub(crate) fn open(&self, decoder: &mut Decoder) -> Result<Decoded, Failure> {
        let corrupt = |why: String| Failure::Rejected(RefuseReason::Corrupt, why);
        let decoded = decoder
            .decode(&self.payload, MAX_DECODED_BYTES)
            .map_err(|error| corrupt(error.to_string()))?;
        let header = &self.header;
        let first = decoded.records().next().and_then(|record| record.batch_id);
        let differs = match () {
            () if first != Some(header.id()) => "batch id",
            () if decoded.len() != header.records => "number of records",
            () if decoded.raw_bytes() != header.raw_bytes => "number of bytes",
            () if decoded.content_sum() != header.content_sum => "content sum",
            () if decoded.minutes() != header.minutes => "records per minute",
            () if decoded.keyed() && !header.keyed => "word on keys",
            () => return Ok(decoded),
        };
        Err(corrupt(format!(
            "the payload has another {differs} than its header says"
        )))
    }
}

/// How a destination is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Condition {
    /// It takes batches.
    #[default]
    Up,
    /// It takes them, and is long about it (see [`crate::slow`]).
    Slow,
    /// It takes them, and makes its clients wait: a quota.
    Throttled,
    /// A part of it takes none: a partition has no leader or too few replicas, a topic stands still.
    HalfDead,
    /// It is there, and does not answer.
    Hanging,
    /// It does not let this node in.
    Refused,
    /// It is not there, or cannot be written to.
    Down,
}

impl Condition {
    /// The word for people.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Slow => "slow",
            Self::Throttled => "throttled",
            Self::HalfDead => "half-dead",
            Self::Hanging => "hanging",
            Self::Refused => "refused",
            Self::Down => "down",
        }
    }
}

/// Why a batch was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Not now: answer `Busy`.
    Unavailable(String),
    /// Never: answer `Refuse`.
    Rejected(RefuseReason, String),
}

/// How a job ended.
pub(crate) type Outcome = Result<Place, Failure>;

/// The one answer to a job. Dropped without an answer it says that the destination lost the job.
pub(crate) struct Done(Option<Box<dyn FnOnce(Outcome) + Send>>);

impl Done {
    /// `answer` is called exactly once.
    pub(crate) fn new(answer: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self(Some(Box::new(answer)))
    }

    /// Answers.
    pub(crate) fn tell(mut self, outcome: Outcome) {
        if let Some(answer) = self.0.take() {
            answer(outcome);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(answer) = self.0.take() {
            answer(Err(Failure::Unavailable(
                "the destination stopped".to_owned(),
            )));
        }
    }
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Done")
            .field("answered", &self.0.is_none())
            .finish()
    }
}

/// One batch for one destination.
#[derive(Debug)]
pub(crate) struct Job {
    /// The batch.
    pub(crate) batch: Arc<Accepted>,
    /// The physical topic or path.
    pub(crate) target: String,
    /// Its answer.
    pub(crate) done: Done,
    /// It is a dead letter that goes out once more, and no batch to be noted.
    pub(crate) replay: Option<Replay>,
}

/// A dead letter that goes out once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replay {
    /// Its number.
    pub(crate) letter: u64,
    /// Its place in its batch.
    pub(crate) place: u32,
}

/// A destination.
#[derive(Debug)]
pub(crate) enum Destination {
    /// A Kafka cluster.
    Kafka(kafka::Kafka),
    /// A local directory.
    File(file::FileSink),
    /// An HDFS.
    Rolled(rolled::RolledSink),
    /// Elasticsearch or OpenSearch.
    Search(search::Search),
    /// Nowhere.
    Discard(discard::Discard),
    /// Scripted, for tests.
    #[cfg(test)]
    Memory(memory::MemorySink),
    /// Moved by a simulation.
    #[cfg(feature = "sim")]
    ByHand(by_hand::ByHand),
}

impl Destination {
    /// Its number in the journal.
    pub(crate) fn no(&self) -> DestinationNo {
        match self {
            Self::Kafka(kafka) => kafka.no(),
            Self::File(file) => file.no(),
            Self::Rolled(rolled) => rolled.no(),
            Self::Search(search) => search.no(),
            Self::Discard(discard) => discard.no(),
            #[cfg(test)]
            Self::Memory(memory) => memory.no(),
            #[cfg(feature = "sim")]
            Self::ByHand(sink) => sink.no(),
        }
    }

    /// Does what takes long before [`Destination::deliver`] and needs no order. For who holds a lock
    /// while it delivers; and the bytes, which have just come, are near this processor.
    pub(crate) fn prepare(&self, batch: &Accepted) {
        match self {
            Self::Kafka(kafka) => kafka.prepare(batch),
            // The destination is told the same.
            Self::Discard(_) => drop(batch.seal()),
            Self::File(_) | Self::Rolled(_) | Self::Search(_) => {}
            #[cfg(test)]
            Self::Memory(_) => {}
            #[cfg(feature = "sim")]
            Self::ByHand(_) => {}
        }
    }

    /// Rules that count from now on, and the place of this destination in them: for who makes what they name.
    pub(crate) fn route_by(&self, rules: &Arc<Table>, place: usize) {
        if let Self::Kafka(kafka) = self {
            kafka.route_by(rules, place);
        }
    }

    /// Takes a batch; see the contract above.
    pub(crate) fn deliver(&self, job: Job) {
        match self {
            Self::Kafka(kafka) => kafka.deliver(job),
            Self::File(file) => file.deliver(job),
            Self::Rolled(rolled) => rolled.deliver(job),
            Self::Search(search) => search.deliver(job),
            Self::Discard(discard) => discard.deliver(job),
            #[cfg(test)]
            Self::Memory(memory) => memory.deliver(job),
            #[cfg(feature = "sim")]
            Self::ByHand(sink) => sink.deliver(job),
        }
    }

    /// Why it takes nothing for this target now; `None` when it does.
    pub(crate) fn down(&self, target: &str) -> Option<String> {
        match self {
            Self::Kafka(kafka) => kafka.down(target),
            Self::File(file) => file.down(target),
            Self::Rolled(rolled) => rolled.down(target),
            Self::Search(search) => search.down(target),
            Self::Discard(_) => None,
            #[cfg(test)]
            Self::Memory(memory) => memory.down(),
            #[cfg(feature = "sim")]
            Self::ByHand(sink) => sink.down(),
        }
    }

    /// Why it takes nothing at all now; `None` when it takes something.
    pub(crate) fn gone(&self) -> Option<String> {
        match self {
            Self::Kafka(kafka) => kafka.gone(),
            Self::File(file) => file.gone(),
            Self::Rolled(rolled) => rolled.gone(),
            Self::Search(search) => search.gone(),
            Self::Discard(_) => None,
            #[cfg(test)]
            Self::Memory(memory) => memory.down(),
            #[cfg(feature = "sim")]
            Self::ByHand(sink) => sink.down(),
        }
    }

    /// How it is, in one word.
    pub(crate) fn condition(&self) -> Condition {
        match self {
            Self::Kafka(kafka) => kafka.condition(),
            Self::File(_) => down_or_up(self.gone().is_some()),
            Self::Rolled(rolled) => rolled.condition(),
            Self::Search(search) => search.condition(),
            Self::Discard(_) => Condition::Up,
            #[cfg(test)]
            Self::Memory(_) => down_or_up(self.gone().is_some()),
            #[cfg(feature = "sim")]
            Self::ByHand(_) => down_or_up(self.gone().is_some()),
        }
    }

    /// How it is, for status and reports.
    pub(crate) fn health(&self) -> DestinationHealth {
        match self {
            Self::Kafka(kafka) => kafka.health(),
            Self::File(file) => file.health(),
            Self::Rolled(rolled) => rolled.health(),
            Self::Search(search) => search.health(),
            Self::Discard(discard) => discard.health(),
            #[cfg(test)]
            Self::Memory(memory) => memory.health(),
            #[cfg(feature = "sim")]
            Self::ByHand(sink) => sink.health(),
        }
    }

    /// The destination that answers a batch only when a whole file is complete: every batch for it is in
    /// the spill first, and is given when it has room.
    pub(crate) fn late(&self) -> Option<&rolled::RolledSink> {
        match self {
            Self::Rolled(rolled) => Some(rolled),
            Self::Kafka(_) | Self::File(_) | Self::Search(_) | Self::Discard(_) => None,
            #[cfg(test)]
            Self::Memory(_) => None,
            #[cfg(feature = "sim")]
            Self::ByHand(_) => None,
        }
    }

    /// Gives dead letters to the lane once more; they leave when the destination has them. How many are on
    /// their way; `None` where it has no dead letters.
    pub(crate) fn replay(&self, filter: &Filter) -> Option<usize> {
        match self {
            Self::Kafka(kafka) => Some(kafka.replay(filter)),
            Self::Search(search) => Some(search.replay(filter)),
            Self::File(_) | Self::Rolled(_) | Self::Discard(_) => None,
            #[cfg(test)]
            Self::Memory(_) => None,
            #[cfg(feature = "sim")]
            Self::ByHand(_) => None,
        }
    }

    /// Dead letters that are on their way once more.
    pub(crate) fn replaying(&self) -> usize {
        match self {
            Self::Kafka(kafka) => kafka.replaying(),
            Self::Search(search) => search.replaying(),
            Self::File(_) | Self::Rolled(_) | Self::Discard(_) => 0,
            #[cfg(test)]
            Self::Memory(_) => 0,
            #[cfg(feature = "sim")]
            Self::ByHand(_) => 0,
        }
    }

    /// Its resource groups, where it has some.
    pub(crate) fn grouped(&self) -> Option<&kafka::groups::grouped::Grouped> {
        match self {
            Self::Kafka(kafka) => kafka.grouped(),
            Self::File(_) | Self::Rolled(_) | Self::Search(_) | Self::Discard(_) => None,
            #[cfg(test)]
            Self::Memory(_) => None,
            #[cfg(feature = "sim")]
            Self::ByHand(_) => None,
        }
    }

    /// Finishes what is in flight as far as it can within the grace, and stops. Blocks.
    pub(crate) fn close(&self, grace: std::time::Duration) {
        match self {
            Self::Kafka(kafka) => kafka.close(grace),
            Self::File(file) => file.close(grace),
            Self::Rolled(rolled) => rolled.close(grace),
            Self::Search(search) => search.close(grace),
            // What it was given the journal has.
            Self::Discard(_) => {}
            #[cfg(test)]
            Self::Memory(memory) => memory.close(),
            #[cfg(feature = "sim")]
            Self::ByHand(sink) => sink.close(),
        }
    }
}

fn down_or_up(down: bool) -> Condition {
    match down {
        true => Condition::Down,
        false => Condition::Up,
    }
}

/// The journal's record of a delivery.
pub(crate) fn delivered(target: u32, batch: &Accepted, place: &Place) -> Record {
    Record::Delivered(Delivered {
        target,
        partition: place.partition,
        first: place.first,
        end: place.end,
        batch: batch.header.id(),
        topic: batch.header.topic.clone(),
        minutes: batch.header.minutes.clone(),
        at: now_minute(),
    })
}

/// Notes a delivery in the journal and answers the job once it is written. For destinations that
/// find out by themselves what they have after a power cut: the write is enough.
pub(crate) fn note_and_tell(journal: &Journal, target: u32, job: Job, place: Place) {
    note_all_and_tell(journal, target, job, place, Vec::new());
}

/// [`note_and_tell`] with more records that are true when the delivery is.
pub(crate) fn note_all_and_tell(
    journal: &Journal,
    target: u32,
    job: Job,
    place: Place,
    mut records: Vec<Record>,
) {
    records.push(delivered(target, &job.batch, &place));
    let Job {
        batch,
        done,
        target: _name,
        replay: _none,
    } = job;
    journal.commit(
        records,
        false,
        Box::new(move |_written| {
            // The permit lives until the batch is noted: it bounds the journal's queue too.
            drop(batch);
            done.tell(Ok(place));
        }),
    );
}
