//! The way of a batch through the node: admit, dedupe, route, deliver, answer.
//!
//! The one place where the rooms meet; sessions and the lines handler call it, destinations call
//! back into it. It holds no state of its own but theirs. Not for: sockets and frames (see
//! [`crate::session`], [`crate::lines`]).

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio_util::sync::CancellationToken;
use tributary_common::{
    header::BatchHeader,
    ids::{AgentId, BatchId, Epoch, Name, NodeId, Topic, Zone},
    wire::{Busy, Outcome, Receipt, RefuseReason, Scope},
};

use crate::{
    admit::{self, Admission, Facts},
    budget::{self, Budget},
    dedupe::{Answer, Begun, Flights, Landed, Waiter, Where, refusal},
    destination::{Accepted, Destination, Done, Failure, Job},
    journal::Journal,
    order::Gate,
    report::Ledger,
    route::{Branch, Table},
    spill::{Landing, Settled, Spill},
    tally::{Counts, Tallies, Tally},
};

/// Who this node is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// The node.
    pub(crate) node: NodeId,
    /// Its cluster.
    pub(crate) cluster: Name,
    /// Its zone.
    pub(crate) zone: Zone,
    /// Its present life.
    pub(crate) epoch: Epoch,
    /// The agent id of the batches that it cuts itself from lines requests.
    pub(crate) lines_agent: AgentId,
}

/// The node; shared by all who work in it.
#[derive(Debug)]
pub(crate) struct Node {
    /// Who it is.
    pub(crate) identity: Identity,
    /// Memory for batches.
    pub(crate) budget: Budget,
    /// What destinations have.
    pub(crate) journal: Journal,
    /// Facts for the manager.
    pub(crate) ledger: Ledger,
    /// Cancelled when the node stops taking in.
    pub(crate) stop: CancellationToken,
    /// Open agent connections.
    pub(crate) connections: AtomicU64,
    table: Table,
    destinations: Vec<Arc<Destination>>,
    /// The spill of each destination; none where there is no room for one.
    spills: Vec<Arc<Spill>>,
    /// Batches that were acknowledged as spilled and are not delivered everywhere.
    unfinished: Mutex<HashSet<BatchId>>,
    flights: Flights,
    tallies: Tallies,
}

impl Node {
    /// A node of these parts.
    pub(crate) fn new(
        identity: Identity,
        budget: Budget,
        journal: Journal,
        ledger: Ledger,
        (table, destinations): (Table, Vec<Arc<Destination>>),
        (spills, unfinished): (Vec<Arc<Spill>>, HashSet<BatchId>),
        stop: CancellationToken,
    ) -> Self {
        Self {
            identity,
            budget,
            journal,
            ledger,
            stop,
            connections: AtomicU64::new(0),
            table,
            destinations,
            spills,
            unfinished: Mutex::new(unfinished),
            flights: Flights::default(),
            tallies: Tallies::default(),
        }
    }

    /// Decides on a batch from its header.
    pub(crate) fn look(&self, header: &BatchHeader, gate: &Gate) -> Admission {
        let id = header.id();
        let branches = self.table.find(&header.topic);
        let missing = branches.map_or(0, |branches| self.missing(branches, id).count());
        let down = branches
            .into_iter()
            .flatten()
            .find_map(|branch| self.down(branch, header));
        admit::admit(Facts {
            stopping: self.stop.is_cancelled(),
            routed: branches.is_some(),
            done: branches.is_some() && missing == 0,
            in_flight: self.flights.contains(id),
            may_pass: gate.may_pass(id),
            down: down.as_deref(),
            absurd: budget::absurd(header),
        })
    }

    /// Whether the topic's destinations take something now, for requests with lines.
    pub(crate) fn look_at_topic(&self, topic: &Topic) -> Result<(), Failure> {
        let Some(branches) = self.table.find(topic) else {
            let detail = format!("no route matches the topic {topic}");
            return Err(Failure::Rejected(RefuseReason::NoRoute, detail));
        };
        if self.stop.is_cancelled() {
            return Err(Failure::Unavailable("this node is stopping".to_owned()));
        }
        let down = branches.iter().find_map(|branch| {
            let destination = self.destinations.get(branch.destination)?;
            let down = destination.down(&branch.target.render(topic, 0))?;
            match self.spills.get(branch.destination) {
                Some(spill) => spill.room().err(),
                None => Some(down),
            }
        });
        down.map_or(Ok(()), |why| Err(Failure::Unavailable(why)))
    }

    /// Why a branch takes nothing of the batch now, not even for its disk.
    fn down(&self, branch: &Branch, header: &BatchHeader) -> Option<String> {
        let target = branch.target.render(&header.topic, minute_of(header));
        let down = self.destinations.get(branch.destination)?.down(&target);
        match self.spills.get(branch.destination) {
            Some(spill) => spill.busy(header.id(), down.is_some()),
            None => down,
        }
    }

    /// The branches whose destination does not have the batch, nor the disk for it.
    fn missing<'a>(
        &'a self,
        branches: &'a [Branch],
        batch: BatchId,
    ) -> impl Iterator<Item = (&'a Branch, &'a Arc<Destination>)> {
        // The disk is asked before the journal: a batch that is drained in between is in one of them.
        let not_spilled = branches.iter().filter(|branch| {
            let spill = self.spills.get(branch.destination);
            !spill.is_some_and(|spill| spill.holds(batch))
        });
        let not_spilled: Vec<&Branch> = not_spilled.collect();
        let with_destination = not_spilled
            .into_iter()
            .filter_map(|b| Some((b, self.destinations.get(b.destination)?)));
        let memory = self.journal.memory();
        let missing: Vec<_> = with_destination
            .filter(|(_branch, destination)| !memory.done.contains(destination.no(), batch))
            .collect();
        missing.into_iter()
    }

    /// Lets a repeat wait for the batch on its way. When that has landed in the meantime the
    /// waiter is given back: look again.
    pub(crate) fn join(&self, batch: BatchId, waiter: Waiter) -> Result<(), Waiter> {
        self.flights.join(batch, waiter)
    }

    /// Takes a batch in and starts its deliveries; `waiter` is told how they end.
    pub(crate) fn take(self: &Arc<Self>, batch: Accepted, waiter: Waiter) {
        let batch = Arc::new(batch);
        let header = Arc::clone(&batch.header);
        let id = header.id();
        let Some(branches) = self.table.find(&header.topic) else {
            let refused = refusal(id, RefuseReason::NoRoute, "no route matches the topic");
            return waiter.tell(Answer::Refuse(refused));
        };
        let mut missing = Vec::new();
        let begun = self.flights.begin(&header, waiter, || {
            missing = self.missing(branches, id).collect();
            missing.len()
        });
        match begun {
            Begun::Joined => return,
            Begun::Done(waiter) => {
                self.duplicate(&header, 1);
                return waiter.tell(self.repeat(&header));
            }
            Begun::Fresh => {}
        }
        if header.agent != self.identity.lines_agent {
            self.ledger.received(&header);
        }
        self.tallies
            .of(&header.topic, |tally| tally.received(&header));
        for (branch, destination) in missing {
            let node = Arc::clone(self);
            let landing: Landing = Box::new(move |settled| {
                if let Some(landed) = node.flights.settle(id, settled) {
                    node.land(landed);
                }
            });
            let target = branch.target.render(&header.topic, minute_of(&header));
            match self.spills.get(branch.destination) {
                Some(spill) => spill.take(Arc::clone(&batch), target, landing),
                None => destination.deliver(Job {
                    batch: Arc::clone(&batch),
                    target,
                    done: Done::new(move |outcome| landing(outcome.map(Settled::At))),
                }),
            }
        }
    }

    /// Counts a landed batch and tells everybody who waits.
    fn land(&self, landed: Landed) {
        let header = &landed.header;
        if landed.outcome.is_ok() && header.agent == self.identity.lines_agent {
            // No agent tells of these. All at once, so that a request that failed and comes
            // again under other numbers leaves no gap in the accounts.
            self.ledger.cut_here(header);
        }
        match &landed.outcome {
            Ok(Where::Delivered(_places)) => self.delivered(header),
            Ok(Where::Spilled) => self.spilled(header),
            Err(Failure::Unavailable(_reason)) => {
                metrics::counter!("tributary_bus_busy_batches_total", "reason" => "failed")
                    .increment(1);
            }
            Err(Failure::Rejected(reason, detail)) => self.refused(header, *reason, detail),
        }
        if landed.outcome.is_ok() && landed.repeats > 0 {
            self.duplicate(header, landed.repeats);
        }
        let answer = landed.answer();
        for waiter in landed.waiters {
            waiter.tell(answer.clone());
        }
    }

    fn unfinished(&self) -> MutexGuard<'_, HashSet<BatchId>> {
        // A set is whole after every line, so a panic elsewhere leaves it usable.
        self.unfinished
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Every destination has the batch.
    fn delivered(&self, header: &BatchHeader) {
        self.ledger.delivered(header);
        self.tallies
            .of(&header.topic, |tally| tally.delivered(header));
    }

    /// The node's disk has the batch in place of a destination.
    fn spilled(&self, header: &BatchHeader) {
        self.tallies
            .of(&header.topic, |tally| tally.spilled(header));
        if header.agent == self.identity.lines_agent {
            self.ledger.spilled(header);
        }
        // It may have been drained since: whoever comes second counts it.
        let mut unfinished = self.unfinished();
        if self.is_delivered(&header.topic, header.id()) {
            drop(unfinished);
            self.delivered(header);
        } else {
            unfinished.insert(header.id());
        }
    }

    /// A destination has a batch that was spilled. When no other one's disk holds it, it is delivered:
    /// also where the route leads elsewhere by now.
    pub(crate) fn drained(&self, header: &BatchHeader) {
        let last = {
            let mut unfinished = self.unfinished();
            let id = header.id();
            !self.spills.iter().any(|spill| spill.holds(id)) && unfinished.remove(&id)
        };
        if last {
            if header.agent == self.identity.lines_agent {
                // Said before, when it was spilled, by a life that may not have told it.
                self.ledger.cut_here(header);
            }
            self.delivered(header);
        }
    }

    /// A batch that was acknowledged cannot be delivered from the disk any more. Whether the manager
    /// is to be told, which [`Spill::loss_told`] then hears of.
    pub(crate) fn spill_lost(&self, header: &BatchHeader, reason: &'static str) -> bool {
        self.unfinished().remove(&header.id());
        self.ledger.spill_lost(header, reason)
    }

    /// The manager knows of a batch that the disk has lost.
    pub(crate) fn loss_told(&self, batch: Option<BatchId>) {
        for spill in &self.spills {
            if let Some(batch) = batch {
                spill.loss_told(batch);
            }
        }
    }

    /// The answer to a repeat of a batch that is safe.
    pub(crate) fn repeat(&self, header: &BatchHeader) -> Answer {
        let outcome = match self.is_delivered(&header.topic, header.id()) {
            true => Outcome::Duplicate,
            false => Outcome::Spilled,
        };
        let batch = header.id();
        Answer::Receipt(Receipt { batch, outcome })
    }

    /// Counts repeats of a batch that were removed.
    pub(crate) fn duplicate(&self, header: &BatchHeader, times: u32) {
        for _time in 0..times {
            self.ledger.duplicate(header);
        }
        self.tallies
            .of(&header.topic, |tally| tally.duplicate(header, times));
    }

    /// Counts a refusal and says it, once however often the batch comes.
    pub(crate) fn refused(&self, header: &BatchHeader, reason: RefuseReason, detail: &str) {
        let new = |tally: &mut Tally| tally.refused(header);
        if !self.tallies.of(&header.topic, new) {
            return;
        }
        let label = reason.as_str();
        metrics::counter!("tributary_bus_refused_records_total", "reason" => label)
            .increment(u64::from(header.records));
        tracing::error!(
            batch.id = %header.id(),
            batch.topic = %header.topic,
            batch.agent = %header.agent,
            batch.file = header.file,
            batch.span_start_bytes = header.span.start,
            batch.span_end_bytes = header.span.end,
            reason = label,
            "a batch was refused and its stream stands still: {detail}"
        );
    }

    /// What each topic has seen in this life.
    pub(crate) fn counts(&self) -> BTreeMap<Topic, Counts> {
        self.tallies.counts()
    }

    /// Batches on their way.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// The destinations in the order of the config.
    pub(crate) fn destinations(&self) -> &[Arc<Destination>] {
        &self.destinations
    }

    /// The spills of the destinations, in the same order; none without a spill.
    pub(crate) fn spills(&self) -> &[Arc<Spill>] {
        &self.spills
    }

    /// Whether every destination of the batch's topic has it, by the journal.
    pub(crate) fn is_delivered(&self, topic: &Topic, batch: BatchId) -> bool {
        let Some(branches) = self.table.find(topic) else {
            return false;
        };
        let memory = self.journal.memory();
        let mut numbers = branches
            .iter()
            .filter_map(|branch| self.destinations.get(branch.destination))
            .map(|destination| destination.no());
        numbers.all(|no| memory.done.contains(no, batch))
    }

    /// Whether every destination of the batch's topic has it, or the disk for it.
    pub(crate) fn is_safe(&self, topic: &Topic, batch: BatchId) -> bool {
        let branches = self.table.find(topic);
        branches.is_some_and(|branches| self.missing(branches, batch).next().is_none())
    }

    /// Open agent connections.
    pub(crate) fn open_connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// The minute of a batch's first record: its path and date.
fn minute_of(header: &BatchHeader) -> u32 {
    header.minutes.first().map_or(0, |first| first.minute)
}

/// The answer to a batch that was not admitted now.
pub(crate) fn busy(
    header: &BatchHeader,
    retry_after_ms: u32,
    node: bool,
    reason: String,
) -> Answer {
    let scope = if node {
        Scope::Node
    } else {
        Scope::Topic(header.topic.clone())
    };
    Answer::Busy(Busy {
        batch: header.id(),
        retry_after_ms,
        scope,
        reason,
    })
}
