//! A node that has one destination, moved by hand, and no disk: what a session asks of the bus's own node.
//!
//! It decides by the bus's own rules, and checks what a session gives it. Not for: routes, the spill and
//! the journal, which the tests' simulation moves.

use std::{
    collections::{HashMap, HashSet},
    ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use tokio_util::sync::CancellationToken;
use tributary_common::{
    header::BatchHeader,
    ids::{BatchId, Epoch, Name, NodeId, StreamId, Topic},
    wire::{Busy, Outcome, Receipt, RefuseReason, Scope},
};

use crate::{
    admit::{Admission, Facts, Why, admit},
    balance::Balance,
    budget::{self, Budget, Permit},
    dedupe::{Answer, Begun, Flights, Waiter},
    destination::{Accepted, Failure},
    order::Gate,
    session::{WINDOW_BATCHES, WINDOW_BYTES},
    spill::Settled,
};

#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) cluster: Name,
    pub(crate) epoch: Epoch,
}

/// What the bytes of the fuzzer decide.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Not answered by the destination.
    pub(crate) given: Vec<Accepted>,
    /// What the destination has said to have.
    pub(crate) safe: HashSet<BatchId>,
    pub(crate) down: bool,
    /// The agent is over its quota.
    pub(crate) over: bool,
    /// The memory of its group of brokers is full.
    pub(crate) group_full: bool,
    /// Its destination holds its share of the memory.
    pub(crate) share_full: bool,
    /// Memory that somebody else has.
    pub(crate) crowd: Option<Permit>,
    /// Somebody sends what is no batch of ours: its payload is not known.
    pub(crate) foreign: bool,
    /// The connections that gave something, as long as anything of them is not answered.
    gates: Vec<(Arc<Gate>, BatchId, u64)>,
    /// The connections that ever gave something: none of them lies where another one lay.
    known: Vec<Arc<Gate>>,
    /// The earliest batch of a stream that was not taken, by connection.
    failed: HashMap<(usize, StreamId), (Epoch, u64)>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) budget: Budget,
    pub(crate) balance: Balance,
    pub(crate) stop: CancellationToken,
    pub(crate) connections: AtomicU64,
    flights: Flights,
    state: Mutex<State>,
}

/// The payload of a batch of ours.
pub(crate) fn payload(id: BatchId, bytes: usize) -> Vec<u8> {
    let first = id.stream.0.wrapping_mul(31).wrapping_add(id.seq);
    (first..).take(bytes).map(|byte| byte as u8).collect()
}

fn name_of(gate: &Arc<Gate>) -> usize {
    Arc::as_ptr(gate) as usize
}

impl Node {
    pub(crate) fn new() -> Self {
        Self {
            identity: Identity {
                node: "n".parse().expect("a name"),
                cluster: "c".parse().expect("a name"),
                epoch: Epoch(1),
            },
            budget: Budget::new(0),
            balance: Balance::default(),
            stop: CancellationToken::new(),
            connections: AtomicU64::new(0),
            flights: Flights::default(),
            state: Mutex::default(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    pub(crate) fn look(&self, header: &BatchHeader, payload: usize, gate: &Gate) -> Admission {
        let mut state = self.state();
        let (id, cost) = (header.id(), budget::cost(header, payload));
        let admission = admit(Facts {
            stopping: self.stop.is_cancelled(),
            routed: header.topic.as_str() != "nowhere",
            done: state.safe.contains(&id),
            in_flight: self.flights.contains(id),
            may_pass: gate.may_pass(id),
            down: state.down.then_some("down"),
            over: state.over.then_some((Why::AgentRate, 10)),
            group_full: state.group_full,
            share_full: state.share_full,
            crowded: self.budget.is_crowded(header.class, cost),
            absurd: budget::absurd(header),
        });
        // Behind an awaited one it is not the earliest. That one was perhaps not noted: then its
        // connection had given nothing.
        let is_behind = matches!(
            &admission,
            Admission::Busy {
                why: Why::Order,
                ..
            }
        );
        if !is_behind && matches!(&admission, Admission::Busy { .. } | Admission::Refuse(..)) {
            let known = state
                .known
                .iter()
                .find(|known| ptr::eq(Arc::as_ptr(known), gate));
            if let Some(gate) = known.map(Arc::clone) {
                state.has_failed(&gate, id);
            }
        }
        admission
    }

    pub(crate) fn take(self: &Arc<Self>, batch: Accepted, waiter: Waiter) {
        let (id, bytes) = (batch.header.id(), batch.payload.len());
        let mut state = self.state();
        if !state.foreign {
            assert_eq!(batch.payload, payload(id, bytes), "bytes of another batch");
        }
        let Waiter::Session { gate, .. } = &waiter else {
            panic!("a session waits as one");
        };
        let gate = Arc::clone(gate);
        if !state.known.iter().any(|known| Arc::ptr_eq(known, &gate)) {
            state.known.push(Arc::clone(&gate));
        }
        state.is_in_order(&gate, id);
        let safe = state.safe.contains(&id);
        match self
            .flights
            .begin(&batch.header, waiter, || usize::from(!safe))
        {
            Begun::Joined => {}
            Begun::Done(waiter) => waiter.tell(self.repeat(&batch.header)),
            Begun::Fresh => {
                state.gates.push((Arc::clone(&gate), id, bytes as u64));
                state.given.push(batch);
                state.has_room_in_its_window(&gate);
            }
        }
    }

    /// The destination answers one of the batches that it was given.
    pub(crate) fn answer(&self, nth: usize, outcome: Result<Settled, Failure>) {
        let mut state = self.state();
        if state.given.is_empty() {
            return;
        }
        let nth = nth % state.given.len();
        let batch = state.given.remove(nth);
        let id = batch.header.id();
        let is_safe = outcome.is_ok();
        if is_safe {
            state.safe.insert(id);
        }
        let landed = self
            .flights
            .settle(id, outcome)
            .expect("there is one destination");
        for waiter in &landed.waiters {
            let Waiter::Session { gate, .. } = waiter else {
                panic!("a session waits as one");
            };
            if !is_safe {
                state.has_failed(gate, id);
            }
        }
        state.gates.retain(|(_gate, given, _bytes)| *given != id);
        drop(state);
        let answer = landed.answer();
        for waiter in landed.waiters {
            waiter.tell(answer.clone());
        }
    }

    pub(crate) fn join(&self, batch: BatchId, waiter: Waiter) -> Result<(), Waiter> {
        self.flights.join(batch, waiter)
    }

    pub(crate) fn is_safe(&self, _topic: &Topic, batch: BatchId) -> bool {
        self.state().safe.contains(&batch)
    }

    pub(crate) fn repeat(&self, header: &BatchHeader) -> Answer {
        Answer::Receipt(Receipt {
            batch: header.id(),
            outcome: Outcome::Duplicate,
        })
    }

    #[expect(clippy::unused_self, reason = "the bus's node counts it")]
    pub(crate) fn duplicate(&self, _header: &BatchHeader, times: u32) {
        assert_eq!(times, 1);
    }

    #[expect(clippy::unused_self, reason = "the bus's node counts it")]
    pub(crate) fn refused(&self, _header: &BatchHeader, _reason: RefuseReason, _detail: &str) {}
}

impl State {
    /// Nothing is taken behind a batch of its stream that failed on this connection.
    fn is_in_order(&mut self, gate: &Arc<Gate>, id: BatchId) {
        let key = (name_of(gate), id.stream);
        if let Some(&awaited) = self.failed.get(&key) {
            let at = (id.epoch, id.seq);
            assert!(at <= awaited, "{id} was taken, and {awaited:?} is awaited");
            if at == awaited {
                self.failed.remove(&key);
            }
        }
    }

    fn has_failed(&mut self, gate: &Arc<Gate>, id: BatchId) {
        let at = (id.epoch, id.seq);
        let awaited = self.failed.entry((name_of(gate), id.stream)).or_insert(at);
        *awaited = at.min(*awaited);
    }

    fn has_room_in_its_window(&self, gate: &Arc<Gate>) {
        let of_it = self.gates.iter().filter(|(of, ..)| Arc::ptr_eq(of, gate));
        let (count, bytes) = of_it.fold((0, 0), |(count, sum), (_gate, _id, bytes)| {
            (count + 1, sum + bytes)
        });
        assert!(count <= WINDOW_BATCHES && bytes <= WINDOW_BYTES);
    }
}

/// The answer to a batch that was not admitted now.
pub(crate) fn busy(
    header: &BatchHeader,
    retry_after_ms: u32,
    node: bool,
    reason: String,
) -> Answer {
    Answer::Busy(Busy {
        batch: header.id(),
        retry_after_ms,
        scope: match node {
            true => Scope::Node,
            false => Scope::Topic(header.topic.clone()),
        },
        reason,
    })
}
