//! Batches that are on their way, and who waits for each: a repeat joins, it is not delivered again.
//!
//! A batch is known by its identity. While it is on its way, a repeat of it (from a new connection
//! after the old one broke) waits for the same delivery. When every destination has answered, all
//! who wait are told the same. What was delivered before is the journal's to know; it learns of a
//! delivery before the batch leaves here, so a repeat always meets one of the two.
//!
//! Not for: order (see [`crate::order`]), destinations (see [`crate::destination`]).

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{mpsc, oneshot};
use tributary_common::{
    header::BatchHeader,
    ids::BatchId,
    wire::{Busy, Outcome, Place, Receipt, Refusal, RefuseReason, Scope},
};

use crate::{
    admit::DOWN_RETRY_MS, destination::Failure, order::Gate, session::Slot, spill::Settled,
};

/// The answer to one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is safe.
    Receipt(Receipt),
    /// Not now.
    Busy(Busy),
    /// No.
    Refuse(Refusal),
}

/// An answer on its way to a connection's writer, with the place that it frees. Boxed: a channel takes the
/// room of 32 of them at once, and thousands of connections have nothing to answer.
pub(crate) type Answered = Box<(Answer, Slot)>;

/// Who waits for a batch.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A connection of an agent.
    Session {
        /// Its answers; there is room for as many as it has slots.
        answers: mpsc::Sender<Answered>,
        /// Its order rule.
        gate: Arc<Gate>,
        /// The batch's place in the window.
        slot: Slot,
    },
    /// A request with lines.
    Lines(oneshot::Sender<Answer>),
}

impl Waiter {
    /// Blocks the stream behind a batch that failed, before anybody is told.
    pub(crate) fn block(&self, batch: BatchId) {
        match self {
            Self::Session { gate, .. } => gate.block(batch),
            Self::Lines(_answer) => {}
        }
    }

    /// Whether nobody is there any more to be told.
    fn is_gone(&self) -> bool {
        match self {
            Self::Session { answers, .. } => answers.is_closed(),
            Self::Lines(answer) => answer.is_closed(),
        }
    }

    /// Answers. Whoever is gone comes again and is answered from the journal.
    pub(crate) fn tell(self, answer: Answer) {
        match self {
            Self::Session {
                answers,
                gate: _gate,
                slot,
            } => {
                drop(answers.try_send(Box::new((answer, slot))));
            }
            Self::Lines(waiting) => drop(waiting.send(answer)),
        }
    }
}

/// A batch on its way.
#[derive(Debug)]
struct Flight {
    header: Arc<BatchHeader>,
    waiters: Vec<Waiter>,
    /// How many of the waiters joined later.
    repeats: u32,
    /// Destinations that have not answered.
    left: usize,
    places: Vec<Place>,
    /// One of them does not have it: the node's disk has.
    spilled: bool,
    failure: Option<Failure>,
}

impl Flight {
    /// One more waits; those whose connection is gone do not any more.
    fn join(&mut self, waiter: Waiter) {
        self.waiters.retain(|waiter| !waiter.is_gone());
        self.waiters.push(waiter);
        self.repeats += 1;
    }
}

/// Where a batch is safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Where {
    /// At every destination.
    Delivered(Vec<Place>),
    /// On this node's disk, at least for one of them.
    Spilled,
}

/// A flight that has landed.
#[derive(Debug)]
pub(crate) struct Landed {
    /// The batch.
    pub(crate) header: Arc<BatchHeader>,
    /// Who waits.
    pub(crate) waiters: Vec<Waiter>,
    /// How many repeats were removed.
    pub(crate) repeats: u32,
    /// Where it is, or why not.
    pub(crate) outcome: Result<Where, Failure>,
}

impl Landed {
    /// What everybody who waits is told.
    pub(crate) fn answer(&self) -> Answer {
        let batch = self.header.id();
        match &self.outcome {
            Ok(Where::Delivered(places)) => Answer::Receipt(Receipt {
                batch,
                outcome: Outcome::Delivered(places.clone()),
            }),
            Ok(Where::Spilled) => Answer::Receipt(Receipt {
                batch,
                outcome: Outcome::Spilled,
            }),
            Err(Failure::Unavailable(reason)) => Answer::Busy(Busy {
                batch,
                retry_after_ms: DOWN_RETRY_MS,
                scope: Scope::Topic(self.header.topic.clone()),
                reason: reason.clone(),
            }),
            Err(Failure::Rejected(reason, detail)) => {
                Answer::Refuse(refusal(batch, *reason, detail))
            }
        }
    }
}

/// A refusal.
pub(crate) fn refusal(batch: BatchId, reason: RefuseReason, detail: &str) -> Refusal {
    Refusal {
        batch,
        reason,
        detail: detail.to_owned(),
    }
}

/// All batches on their way.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    flights: Mutex<HashMap<BatchId, Flight>>,
}

/// What became of a batch that wants to start.
#[derive(Debug)]
pub(crate) enum Begun {
    /// It is the first: deliver it.
    Fresh,
    /// It joined the one on its way.
    Joined,
    /// It landed in the meantime: the waiter is given back.
    Done(Waiter),
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<BatchId, Flight>> {
        // Every change below is whole before the lock is given back, also in a panic.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the batch is on its way.
    pub(crate) fn contains(&self, batch: BatchId) -> bool {
        self.lock().contains_key(&batch)
    }

    /// How many are on their way.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Everything that is on its way.
    pub(crate) fn batches(&self) -> Vec<BatchId> {
        self.lock().keys().copied().collect()
    }

    /// Lets a repeat wait for the batch on its way; gives the waiter back when it has landed.
    pub(crate) fn join(&self, batch: BatchId, waiter: Waiter) -> Result<(), Waiter> {
        match self.lock().get_mut(&batch) {
            Some(flight) => {
                flight.join(waiter);
                Ok(())
            }
            None => Err(waiter),
        }
    }

    /// Starts a batch to the destinations that `missing` counts; asked under the lock, so that no
    /// delivery can slip between the question and the start. None missing means it is delivered.
    pub(crate) fn begin(
        &self,
        header: &Arc<BatchHeader>,
        waiter: Waiter,
        missing: impl FnOnce() -> usize,
    ) -> Begun {
        match self.lock().entry(header.id()) {
            Entry::Occupied(mut flight) => {
                flight.get_mut().join(waiter);
                Begun::Joined
            }
            Entry::Vacant(place) => match missing() {
                0 => Begun::Done(waiter),
                left => {
                    place.insert(Flight {
                        header: Arc::clone(header),
                        waiters: vec![waiter],
                        repeats: 0,
                        left,
                        places: Vec::with_capacity(left),
                        spilled: false,
                        failure: None,
                    });
                    Begun::Fresh
                }
            },
        }
    }

    /// A destination has answered. The landed flight is returned with the last answer.
    pub(crate) fn settle(
        &self,
        batch: BatchId,
        outcome: Result<Settled, Failure>,
    ) -> Option<Landed> {
        let mut flights = self.lock();
        let Entry::Occupied(mut entry) = flights.entry(batch) else {
            debug_assert!(
                false,
                "a destination answered a batch that is not on its way"
            );
            return None;
        };
        let flight = entry.get_mut();
        debug_assert!(flight.left > 0, "every destination answers once");
        flight.left -= 1;
        match outcome {
            Ok(Settled::At(place)) => flight.places.push(place),
            Ok(Settled::Spilled) => flight.spilled = true,
            Err(failure) => {
                for waiter in &flight.waiters {
                    waiter.block(batch);
                }
                flight.failure = Some(worse(flight.failure.take(), failure));
            }
        }
        if flight.left > 0 {
            return None;
        }
        let flight = entry.remove();
        Some(Landed {
            header: flight.header,
            outcome: match (flight.failure, flight.spilled) {
                (Some(failure), _) => Err(failure),
                (None, true) => Ok(Where::Spilled),
                (None, false) => Ok(Where::Delivered(flight.places)),
            },
            waiters: flight.waiters,
            repeats: flight.repeats,
        })
    }
}

/// A refusal is worse than a delay: coming again would not help.
fn worse(first: Option<Failure>, second: Failure) -> Failure {
    match (first, second) {
        (None, only) => only,
        (Some(Failure::Unavailable(_)), rejected @ Failure::Rejected(..)) => rejected,
        (Some(first @ (Failure::Unavailable(_) | Failure::Rejected(..))), _second) => first,
    }
}

#[cfg(test)]
mod tests {
    use tributary_common::{
        header::MinuteCount,
        ids::{AgentId, Class, Epoch, GenerationId, Name, StreamId, TaskId, Topic},
        span::Span,
    };

    use super::*;

    fn header(seq: u64) -> Arc<BatchHeader> {
        Arc::new(BatchHeader {
            agent: AgentId::new("a").unwrap(),
            stream: StreamId(1),
            epoch: Epoch(2),
            seq,
            generation: GenerationId(4),
            span: Span { start: 0, end: 5 },
            task: TaskId::new("t").unwrap(),
            topic: Topic::new("x").unwrap(),
            class: Class::P2,
            resends: 0,
            records: 1,
            raw_bytes: 4,
            minutes: vec![MinuteCount {
                minute: 1,
                records: 1,
            }],
            content_sum: 0,
            file: "f".into(),
            keyed: false,
        })
    }

    fn place(first: i64) -> Place {
        Place {
            destination: Name::new("k").unwrap(),
            target: "x".into(),
            partition: 0,
            first,
            end: first + 1,
        }
    }

    fn at(first: i64) -> Settled {
        Settled::At(place(first))
    }

    fn waiter() -> (Waiter, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        (Waiter::Lines(sender), receiver)
    }

    #[test]
    fn a_repeat_waits_for_the_delivery_on_its_way() {
        let flights = Flights::default();
        let batch = header(1);
        let ((first, mut told_first), (second, mut told_second)) = (waiter(), waiter());
        assert!(matches!(flights.begin(&batch, first, || 1), Begun::Fresh));
        assert!(matches!(flights.begin(&batch, second, || 1), Begun::Joined));
        let landed = flights.settle(batch.id(), Ok(at(7))).unwrap();
        assert_eq!(landed.repeats, 1);
        let answer = landed.answer();
        for waiter in landed.waiters {
            waiter.tell(answer.clone());
        }
        assert_eq!(
            told_first.try_recv().unwrap(),
            told_second.try_recv().unwrap()
        );
        assert!(!flights.contains(batch.id()));
    }

    #[test]
    fn all_destinations_answer_before_the_batch_lands() {
        let flights = Flights::default();
        let batch = header(1);
        assert!(matches!(
            flights.begin(&batch, waiter().0, || 2),
            Begun::Fresh
        ));
        assert!(flights.settle(batch.id(), Ok(at(1))).is_none());
        let landed = flights.settle(batch.id(), Ok(at(2))).unwrap();
        assert_eq!(
            landed.outcome,
            Ok(Where::Delivered(vec![place(1), place(2)]))
        );
    }

    #[test]
    fn the_worse_failure_is_told() {
        let check = |outcomes: [Result<Settled, Failure>; 2], want: &str| {
            let flights = Flights::default();
            let batch = header(1);
            assert!(matches!(
                flights.begin(&batch, waiter().0, || 2),
                Begun::Fresh
            ));
            let [first, second] = outcomes;
            assert!(flights.settle(batch.id(), first).is_none());
            let answer = flights.settle(batch.id(), second).unwrap().answer();
            let got = match answer {
                Answer::Receipt(receipt) => format!("{:?}", receipt.outcome),
                Answer::Busy(busy) => format!("busy: {}", busy.reason),
                Answer::Refuse(refusal) => format!("refuse: {}", refusal.detail),
            };
            assert_eq!(got, want);
        };
        let down = || Err(Failure::Unavailable("down".into()));
        let large = || {
            Err(Failure::Rejected(
                RefuseReason::TooLarge,
                "too large".into(),
            ))
        };
        check([Ok(at(1)), down()], "busy: down");
        check([Ok(Settled::Spilled), down()], "busy: down");
        check([Ok(at(1)), Ok(Settled::Spilled)], "Spilled");
        check([down(), large()], "refuse: too large");
        check([large(), down()], "refuse: too large");
    }

    #[test]
    fn what_is_delivered_does_not_start_again() {
        let flights = Flights::default();
        assert!(matches!(
            flights.begin(&header(1), waiter().0, || 0),
            Begun::Done(_)
        ));
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn a_failure_blocks_the_stream_of_everybody_who_waits() {
        let flights = Flights::default();
        let batch = header(5);
        let gate = Arc::new(Gate::default());
        let (answers, _told) = mpsc::channel(1);
        let waiter = Waiter::Session {
            answers,
            gate: Arc::clone(&gate),
            slot: Slot::for_tests(),
        };
        assert!(matches!(flights.begin(&batch, waiter, || 2), Begun::Fresh));
        assert!(
            flights
                .settle(batch.id(), Err(Failure::Unavailable("x".into())))
                .is_none()
        );
        assert!(!gate.may_pass(header(6).id()));
        assert!(gate.may_pass(batch.id()));
    }
}
