//! Batches that librdkafka could not bring into their topic, for a record or more in them that it never takes:
//! piece by piece, until those records are alone and among the dead letters.
//!
//! # Constraints
//! Only one request of a partition is on its way (see [`super::pace`]), so nothing behind a piece that is
//! refused is in the log before what is left of it. A record is among the dead letters before anything behind it
//! is sent, as with the other producer (ADR 0032).
//!
//! # Operation
//! A batch that is refused alone is remembered; its topic is looked through, and it comes again. Then its
//! partition waits while one thread sends its records: all of them, half of them, … where the answer does not
//! say which are meant. A batch with keys goes so one partition after the other.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendError, Sender};
use rdkafka::error::RDKafkaErrorCode as Code;
use tributary_common::{ids::BatchId, wire::RefuseReason};

use super::{
    super::Failure,
    Shared, Slot,
    lend::Lent,
    owner::{lend_all, refused},
    topic::Topic,
    verbatim::meaning::kind,
};
use crate::dead::{Dead, alone};

/// Whether the destination closes is looked at so often while an answer is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// So many are remembered. Some never come again, as their agents are gone: at this they are forgotten, and
/// whichever is refused once more is remembered anew.
const MAX: usize = 10_000;

/// Whether a topic never takes a record that it refuses with this code, or one beside it.
pub(super) fn is_unfit(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::InvalidRecord
            | Code::InvalidTimestamp
            | Code::InvalidDifferentRecord
    )
}

/// The batches that are sent piece by piece when they come again.
#[derive(Debug, Default)]
pub(super) struct Careful(Mutex<HashSet<BatchId>>);

impl Careful {
    fn lock(&self) -> MutexGuard<'_, HashSet<BatchId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers one.
    pub(super) fn insert(&self, batch: BatchId) {
        let mut of = self.lock();
        if of.len() >= MAX {
            of.clear();
        }
        of.insert(batch);
    }

    pub(super) fn has(&self, batch: BatchId) -> bool {
        self.lock().contains(&batch)
    }

    fn remove(&self, batch: BatchId) {
        self.lock().remove(&batch);
    }
}

/// What became of a record of a piece: partition and offset, or why not.
pub(super) type Answer = Result<(i32, i64), Code>;

/// A batch that is to be sent piece by piece.
pub(super) struct Case {
    pub(super) topic: Arc<Topic>,
    pub(super) lent: Arc<Lent>,
    /// The records that are not in the topic, by their places in the batch, ascending, and the partitions
    /// where they go.
    pub(super) parts: BTreeMap<i32, Vec<u32>>,
}

/// The thread's state.
pub(super) struct Settler {
    pub(super) shared: Arc<Shared>,
    pub(super) producer: Arc<Slot>,
    pub(super) incoming: Receiver<Case>,
}

/// How a piece went.
enum Went {
    Landed,
    /// These records of it, by their places, ascending, are never taken, for this reason.
    Unfit(Vec<u32>, Code),
    /// Some record of it is never taken.
    Divide,
    /// It is to come again, or its stream stands still.
    Failed(Failure),
}

impl Settler {
    /// Works until the destination closes.
    pub(super) fn run(self) {
        for case in &self.incoming {
            self.settle(&case);
            self.shared.careful.remove(case.lent.flight.id());
        }
    }

    fn settle(&self, case: &Case) {
        let mut rest: usize = case.parts.values().map(Vec::len).sum();
        for (&partition, places) in &case.parts {
            rest -= places.len();
            if let Err((failure, left)) = self.settle_part(case, partition, places) {
                let left = left.saturating_add(count(rest));
                return case.lent.flight.failed(failure, left);
            }
        }
    }

    /// Settles what goes to one partition. The error is why not, and of how many of its records.
    fn settle_part(
        &self,
        case: &Case,
        partition: i32,
        places: &[u32],
    ) -> Result<(), (Failure, u32)> {
        let flight = &case.lent.flight;
        let mut left = places.to_vec();
        let mut most = left.len();
        while !left.is_empty() {
            let piece: Vec<u32> = left.iter().copied().take(most.max(1)).collect();
            match self.pass(case, partition, &piece) {
                Went::Landed => {
                    left.drain(..piece.len());
                    most = most.saturating_mul(2);
                }
                Went::Divide => most = piece.len() / 2,
                Went::Unfit(places, code) => {
                    if let Err(failure) = self.bury(case, &places, code) {
                        return Err((failure, count(left.len())));
                    }
                    flight.died(count(places.len()));
                    // What is left of the piece goes before anything behind it.
                    left.retain(|at| places.binary_search(at).is_err());
                    most = piece.len().saturating_mul(2);
                }
                Went::Failed(failure) => return Err((failure, count(left.len()))),
            }
        }
        Ok(())
    }

    /// Sends a piece to its partition and waits for its answers.
    fn pass(&self, case: &Case, partition: i32, piece: &[u32]) -> Went {
        let flight = &case.lent.flight;
        let (tell, told) = crossbeam_channel::unbounded();
        let lent = Lent::piece(&case.lent, tell);
        // Whatever begins a piece may be what the batch begins with in the log.
        let mut first = Some(flight.id());
        let mut wanted = piece.iter().copied().peekable();
        let records = (0..).zip(lent.records());
        let records = records.filter(|(at, _record)| wanted.next_if_eq(at).is_some());
        let records = records.map(|(_at, record)| (record, partition, first.take()));
        let producer = self.producer.get();
        let mut hold = producer.map(|producer| producer.hold(&case.topic.name));
        if let Some(hold) = &mut hold {
            hold.add([partition]);
        }
        if let Err((error, _left)) =
            lend_all((&self.shared, &self.producer), &case.topic, records, &lent)
        {
            return Went::Failed(refused(error));
        }
        drop((lent, hold));
        let mut answers = Vec::new();
        while answers.len() < piece.len() {
            match told.recv_timeout(LOOK_EVERY) {
                Ok(answer) => answers.push(answer),
                Err(RecvTimeoutError::Timeout) if !self.shared.is_closing() => {}
                Err(_closing) => {
                    return Went::Failed(Failure::Unavailable("this node is stopping".to_owned()));
                }
            }
        }
        judge(piece, &answers, |(partition, offset)| {
            flight.landed(partition, offset);
        })
    }

    /// Makes dead letters of records.
    fn bury(&self, case: &Case, places: &[u32], code: Code) -> Result<(), Failure> {
        let number = i16::try_from(code as i32).unwrap_or_default();
        let header = case.lent.flight.header();
        let unfit = (0..)
            .zip(case.lent.records())
            .filter(|(at, _record)| places.binary_search(at).is_ok());
        let dead = unfit.map(|(at, record)| {
            Ok(Dead {
                header: Arc::clone(header),
                at,
                target: case.topic.name.to_string(),
                payload: alone(header, &record)?,
                status: number.unsigned_abs(),
                reason: format!("{}: {code}", kind(number)),
            })
        });
        let dead = dead.collect::<Result<Vec<_>, tributary_common::batch::BatchError>>();
        let dead =
            dead.map_err(|error| Failure::Rejected(RefuseReason::Corrupt, error.to_string()))?;
        // Full, or the disk fails: its stream stands still as it did before there were letters.
        let kept = self.shared.bury(dead);
        kept.map_err(|why| Failure::Rejected(RefuseReason::Destination, format!("{code}; {why}")))
    }
}

fn count(records: usize) -> u32 {
    u32::try_from(records).unwrap_or(u32::MAX)
}

/// What the answers to a piece mean for it, in the order of its records.
fn judge(piece: &[u32], answers: &[Answer], mut landed: impl FnMut((i32, i64))) -> Went {
    if answers.iter().all(Result::is_ok) {
        answers.iter().flatten().for_each(|&place| landed(place));
        return Went::Landed;
    }
    let mut refusals = answers.iter().filter_map(|answer| answer.err());
    let some_landed = answers.iter().any(Result::is_ok);
    if let Some(other) = refusals.clone().find(|&code| !is_unfit(code)) {
        return Went::Failed(refused(other));
    }
    if some_landed {
        // librdkafka has made several requests of it: what is there is found when it comes again.
        let why = "a part of it was refused, and another was not".to_owned();
        return Went::Failed(Failure::Unavailable(why));
    }
    let beside = |code: Code| code == Code::InvalidDifferentRecord;
    let named = refusals.clone().any(beside);
    let code = refusals.find(|&code| !beside(code));
    match (piece, code) {
        (&[_single], code) => Went::Unfit(piece.to_vec(), code.unwrap_or(Code::InvalidRecord)),
        (_, Some(code)) if named => {
            let guilty = piece.iter().zip(answers);
            let guilty = guilty.filter(|(_at, answer)| answer.is_err_and(|code| !beside(code)));
            Went::Unfit(guilty.map(|(&at, _answer)| at).collect(), code)
        }
        _ => Went::Divide,
    }
}

/// Tells of a piece's record.
pub(super) fn tell(to: &Sender<Answer>, answer: Answer) {
    match to.send(answer) {
        // Who has given it up does not wait any more.
        Ok(()) | Err(SendError(_)) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn went(piece: &[u32], answers: &[Answer]) -> (String, usize) {
        let mut landed = 0;
        let went = match judge(piece, answers, |_place| landed += 1) {
            Went::Landed => "landed".to_owned(),
            Went::Divide => "divide".to_owned(),
            Went::Unfit(places, code) => format!("{places:?} {}", kind(code as i16)),
            Went::Failed(failure) => format!("{failure:?}"),
        };
        (went, landed)
    }

    #[test]
    fn answers_say_who_is_guilty_or_that_somebody_is() {
        let ok = Ok((1, 5));
        let [large, time, bad, beside] = [
            Err(Code::MessageSizeTooLarge),
            Err(Code::InvalidTimestamp),
            Err(Code::InvalidRecord),
            Err(Code::InvalidDifferentRecord),
        ];
        let check = |piece: &[u32], answers: &[Answer], what: &str, landed: usize| {
            assert_eq!(
                went(piece, answers),
                (what.to_owned(), landed),
                "{answers:?}"
            );
        };
        check(&[3, 4], &[ok, ok], "landed", 2);
        check(&[3, 4], &[large, large], "divide", 0);
        check(&[3, 4], &[time, time], "divide", 0);
        check(&[3, 4, 9], &[beside, bad, bad], "[4, 9] InvalidRecord", 0);
        check(&[7], &[large], "[7] MessageTooLarge", 0);
        check(&[7], &[time], "[7] InvalidTimestamp", 0);
        // Older brokers do not say which one.
        check(&[3, 4], &[bad, bad], "divide", 0);
        let (failed, landed) = went(&[3, 4], &[ok, large]);
        assert!(
            failed.contains("a part of it was refused") && landed == 0,
            "{failed}"
        );
        let (failed, _landed) = went(&[3, 4], &[Err(Code::TopicAuthorizationFailed), beside]);
        assert!(failed.starts_with("Rejected(Destination"), "{failed}");
    }
}
