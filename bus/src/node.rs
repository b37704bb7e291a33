//! The way of a batch through the node: admit, dedupe, route, deliver, answer.
//!
//! The one place where the rooms meet; sessions and the lines handler call it, destinations call
//! back into it. It holds no state of its own but theirs, and by what it routes, which is replaced whole. Not for: sockets and frames (see
//! [`crate::session`], [`crate::lines`]).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tributary_common::{
    given::GivenHealth,
    header::BatchHeader,
    ids::{AgentId, BatchId, Class, Epoch, Name, NodeId, Topic, Zone},
    report::ConfigHealth,
    wire::{Busy, Outcome, Receipt, RefuseReason, Scope},
};

use crate::{
    admit::{self, Admission, Facts},
    balance::Balance,
    budget::{self, Budget},
    dedupe::{Answer, Begun, Flights, Landed, Waiter, Where, refusal},
    destination::{Accepted, Done, Failure, Job},
    journal::Journal,
    moving::Moving,
    order::Gate,
    pins::Pins,
    quota::Quotas,
    report::Ledger,
    route::Branch,
    routing::Routing,
    site::Site,
    spill::{Landing, Settled},
    tally::{Counts, Tallies, Tally},
    unfinished::Unfinished,
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

/// Where a batch goes.
#[derive(Debug)]
struct Way {
    site: Arc<Site>,
    /// The name there.
    target: String,
    /// The destination's place, where others can stand in for it.
    pins: Option<usize>,
    begun: Instant,
}

/// The node; shared by all who work in it.
#[derive(Debug)]
pub(crate) struct Node {
    /// Who it is.
    pub(crate) identity: Identity,
    /// Memory for batches.
    pub(crate) budget: Budget,
    /// What agents and topics may send, and who is held back.
    pub(crate) quotas: Quotas,
    /// Who goes elsewhere while an operator wants it.
    pub(crate) balance: Balance,
    /// What destinations have.
    pub(crate) journal: Journal,
    /// Facts for the manager.
    pub(crate) ledger: Ledger,
    /// Cancelled when the node stops taking in.
    pub(crate) stop: CancellationToken,
    /// Open agent connections.
    pub(crate) connections: AtomicU64,
    /// The configuration that counts, and the last one that does not.
    pub(crate) config: Mutex<ConfigHealth>,
    /// What it has from the manager of where topics go.
    routes: Mutex<GivenHealth>,
    routing: RwLock<Arc<Routing>>,
    /// What is on its way by rules that counted before.
    moving: Moving,
    /// Batches that failed at one of several destinations.
    pins: Mutex<Pins>,
    /// Batches that were acknowledged as spilled and are not delivered everywhere.
    unfinished: Mutex<Unfinished>,
    flights: Flights,
    tallies: Tallies,
}

impl Node {
    /// A node of these parts.
    pub(crate) fn new(
        identity: Identity,
        (budget, quotas): (Budget, Quotas),
        journal: Journal,
        ledger: Ledger,
        (routing, unfinished): (Routing, Unfinished),
        stop: CancellationToken,
    ) -> Self {
        Self {
            identity,
            budget,
            quotas,
            balance: Balance::default(),
            journal,
            ledger,
            stop,
            connections: AtomicU64::new(0),
            config: Mutex::default(),
            routes: Mutex::default(),
            routing: RwLock::new(Arc::new(routing)),
            moving: Moving::default(),
            pins: Mutex::new(Pins::new(Instant::now())),
            unfinished: Mutex::new(unfinished),
            flights: Flights::default(),
            tallies: Tallies::default(),
        }
    }

    /// By what batches are routed now.
    pub(crate) fn routing(&self) -> Arc<Routing> {
        // It is replaced whole, so a panic elsewhere leaves it usable.
        let routing = self.routing.read();
        Arc::clone(&routing.unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes by what batches are routed, for all that begin from now on. A stream that has something
    /// on its way waits until that has landed, so that it cannot be overtaken where both ways meet.
    pub(crate) fn reroute<T>(&self, change: impl FnOnce(&mut Routing) -> T) -> T {
        let mut routing = self.routing.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(Arc::make_mut(&mut routing));
        // Whoever begins holds the lock: all that is on its way began before.
        self.moving.begin(|| self.flights.batches());
        changed
    }

    /// Changes the destinations, not the rules.
    pub(crate) fn put<T>(&self, change: impl FnOnce(&mut Routing) -> T) -> T {
        let mut routing = self.routing.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut routing))
    }

    /// Decides on a batch from its header.
    pub(crate) fn look(
        &self,
        header: &BatchHeader,
        payload_bytes: usize,
        gate: &Gate,
    ) -> Admission {
        let id = header.id();
        let routing = self.routing();
        let missing = routing.missing(&self.journal, &header.topic, id);
        let branches = routing.table().find(&header.topic);
        let down = branches
            .into_iter()
            .flatten()
            .find_map(|branch| self.down(&routing, branch, header));
        let now = Instant::now();
        let cost = budget::cost(header, payload_bytes);
        let admission = admit::admit(Facts {
            stopping: self.stop.is_cancelled(),
            routed: branches.is_some(),
            done: missing.is_some_and(|missing| missing.is_empty()),
            in_flight: self.flights.contains(id),
            may_pass: gate.may_pass(id) && !self.moving.holds(id.stream),
            down: down.as_deref(),
            over: self.quotas.wait(header, now),
            crowded: self.budget.is_crowded(header.class, cost),
            group_full: branches
                .into_iter()
                .flatten()
                .any(|branch| self.is_group_full(&routing, branch, (header, cost))),
            share_full: branches
                .into_iter()
                .flatten()
                .any(|branch| self.is_share_full(&routing, branch, (header, cost))),
            absurd: budget::absurd(header),
        });
        match &admission {
            Admission::Accept => self.quotas.take(header, payload_bytes as u64, now),
            Admission::Busy { why, .. } => {
                metrics::counter!("tributary_bus_busy_batches_total", "reason" => why.label())
                    .increment(1);
                self.quotas.held_back(*why, header, now);
            }
            Admission::Join | Admission::Duplicate | Admission::Refuse(..) => {}
        }
        admission
    }

    /// Whether the topic's destinations take something now, for requests with lines.
    pub(crate) fn look_at_topic(&self, topic: &Topic) -> Result<(), Failure> {
        let routing = self.routing();
        let Some(branches) = routing.table().find(topic) else {
            let detail = format!("no route matches the topic {topic}");
            return Err(Failure::Rejected(RefuseReason::NoRoute, detail));
        };
        if self.stop.is_cancelled() {
            return Err(Failure::Unavailable("this node is stopping".to_owned()));
        }
        let down = branches.iter().find_map(|branch| {
            let (place, target) = branch.nth(branch.switch.using());
            let site = routing.site(place)?;
            let down = site.destination.down(&target.render(topic, 0))?;
            match &site.spill {
                Some(spill) => spill.room().err(),
                None => Some(down),
            }
        });
        down.map_or(Ok(()), |why| Err(Failure::Unavailable(why)))
    }

    /// Whether a topic's lines have to wait for its quota, or leave the memory to more urgent classes.
    pub(crate) fn look_at_load(&self, topic: &Topic, class: Class) -> Result<(), &'static str> {
        if self.quotas.topic_wait(topic, Instant::now()).is_some() {
            return Err("the topic is over its quota (limits.topic_rate)");
        }
        if self.budget.is_crowded(class, 0).is_some() {
            return Err("the memory that is left is for more urgent classes");
        }
        let routing = self.routing();
        let branches = routing.table().find(topic).into_iter().flatten();
        for branch in branches {
            let (place, target) = branch.nth(branch.switch.using());
            let target = target.render(topic, 0);
            let Some(site) = routing.site(place) else {
                continue;
            };
            if site.is_group_full(&target, (class, 0)) {
                return Err(admit::GROUP_REASON);
            }
            let over_disk = site.spill.is_some() && site.destination.down(&target).is_some();
            if !over_disk && site.held().is_full(self.share(&routing), (class, 0)) {
                return Err(admit::SHARE_REASON);
            }
        }
        Ok(())
    }

    /// What a destination may hold of the node's memory, in bytes.
    pub(crate) fn share(&self, routing: &Routing) -> u64 {
        self.budget.share(routing.sites().count())
    }

    /// Why a branch takes nothing of the batch now, not even for its disk.
    fn down(&self, routing: &Routing, branch: &Branch, header: &BatchHeader) -> Option<String> {
        let id = header.id();
        let no = self
            .pinned(branch, id)
            .unwrap_or_else(|| branch.switch.using());
        let (place, target) = branch.nth(no);
        let site = routing.site(place)?;
        let down = site
            .destination
            .down(&target.render(&header.topic, minute_of(header)));
        match &site.spill {
            Some(spill) => spill.busy(id, down.is_some()),
            None => down,
        }
    }

    /// Whether the batch has to leave the memory to other groups of its destination's brokers.
    fn is_group_full(
        &self,
        routing: &Routing,
        branch: &Branch,
        (header, cost): (&BatchHeader, u64),
    ) -> bool {
        let no = self.pinned(branch, header.id());
        let (place, target) = branch.nth(no.unwrap_or_else(|| branch.switch.using()));
        let target = target.render(&header.topic, minute_of(header));
        let full = |site: &Arc<Site>| site.is_group_full(&target, (header.class, cost));
        routing.site(place).is_some_and(full)
    }

    /// Whether a branch's destination holds its share of the memory, and would have to hold the batch as well.
    fn is_share_full(
        &self,
        routing: &Routing,
        branch: &Branch,
        (header, cost): (&BatchHeader, u64),
    ) -> bool {
        let id = header.id();
        let no = self.pinned(branch, id);
        let (place, target) = branch.nth(no.unwrap_or_else(|| branch.switch.using()));
        let full = |site: &&Arc<Site>| {
            let share = self.share(routing);
            site.held().is_full(share, (header.class, cost))
        };
        let Some(site) = routing.site(place).filter(full) else {
            return false;
        };
        let target = target.render(&header.topic, minute_of(header));
        let down = site.destination.down(&target).is_some();
        // What goes to its disk it does not hold.
        !(site.spill.as_ref()).is_some_and(|spill| spill.takes_over_disk(id, down))
    }

    /// Which of a branch's destinations gets the batch, and under which name. One that is on trial may get
    /// it in place of the one that is used, to see how it does.
    fn way(&self, routing: &Routing, branch: &Branch, header: &BatchHeader) -> Option<Way> {
        let using = branch.switch.using();
        let on_trial = || {
            let site = |no: &usize| routing.site(branch.nth(*no).0);
            (0..using).find(|no| site(no).is_some_and(|site| site.breaker().probe(Instant::now())))
        };
        let pinned = self.pinned(branch, header.id());
        let no = pinned.or_else(on_trial).unwrap_or(using);
        let (place, target) = branch.nth(no);
        Some(Way {
            site: Arc::clone(routing.site(place)?),
            target: target.render(&header.topic, minute_of(header)),
            pins: (!branch.standby.is_empty()).then_some(place),
            begun: Instant::now(),
        })
    }

    fn pins(&self) -> MutexGuard<'_, Pins> {
        // Its changes are whole, so a panic elsewhere leaves it usable.
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what failed long ago, and does not come again.
    pub(crate) fn forget_pins(&self, now: Instant) {
        self.pins().tick(now);
    }

    /// Which of a branch's destinations may have the batch, since it was given to it and failed.
    fn pinned(&self, branch: &Branch, batch: BatchId) -> Option<usize> {
        if branch.standby.is_empty() {
            return None;
        }
        let place = self.pins().get(batch)?;
        branch.places().position(|one| one == place)
    }

    /// A destination has answered a batch.
    fn answered(&self, batch: BatchId, way: &Way, settled: &Result<Settled, Failure>) {
        if matches!(settled, Ok(Settled::At(_))) {
            way.site.breaker().delivered();
            let now = Instant::now();
            way.site
                .pace
                .delivered(now.saturating_duration_since(way.begun), now);
        }
        let Some(place) = way.pins else { return };
        let mut pins = self.pins();
        match settled {
            Err(Failure::Unavailable(_)) => pins.insert(batch, place),
            Ok(_) | Err(Failure::Rejected(..)) => pins.remove(batch),
        }
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
        let routing = self.routing.read().unwrap_or_else(PoisonError::into_inner);
        let of_agent = header.agent != self.identity.lines_agent;
        let waits = of_agent && self.moving.holds(id.stream);
        let (mut ways, mut refused) = (Vec::new(), None);
        let begun = self.flights.begin(&header, waiter, || {
            let Some(missing) = routing.missing(&self.journal, &header.topic, id) else {
                let why = "no route matches the topic";
                refused = Some(Answer::Refuse(refusal(id, RefuseReason::NoRoute, why)));
                return 0;
            };
            if waits && !missing.is_empty() {
                let why = admit::ORDER_REASON.to_owned();
                refused = Some(busy(&header, admit::ORDER_RETRY_MS, false, why));
                return 0;
            }
            let way = |branch: &Branch| self.way(&routing, branch, &header);
            ways.extend(missing.into_iter().filter_map(way));
            ways.len()
        });
        drop(routing);
        match (begun, refused) {
            (Begun::Joined, _) => return,
            (Begun::Done(waiter), Some(answer)) => {
                waiter.block(id);
                return waiter.tell(answer);
            }
            (Begun::Done(waiter), None) => {
                self.duplicate(&header, 1);
                return waiter.tell(self.repeat(&header));
            }
            (Begun::Fresh, _) => {}
        }
        if header.agent != self.identity.lines_agent {
            self.ledger.received(&header);
        }
        self.tallies
            .of(&header.topic, |tally| tally.received(&header));
        for way in ways {
            let (site, target) = (Arc::clone(&way.site), way.target.clone());
            let node = Arc::clone(self);
            let cost = budget::cost(&header, batch.payload.len());
            let grouped = site.destination.grouped();
            let counted = grouped.and_then(|grouped| grouped.begin(&target, header.class, cost));
            let landing: Landing = Box::new(move |settled| {
                drop(counted);
                node.answered(id, &way, &settled);
                if let Some(landed) = node.flights.settle(id, settled) {
                    node.moving.landed(id);
                    node.land(landed);
                }
            });
            match &site.spill {
                Some(spill) => spill.take(Arc::clone(&batch), target, landing),
                None => {
                    let held = site.held().count(cost);
                    site.destination.deliver(Job {
                        batch: Arc::clone(&batch),
                        target,
                        replay: None,
                        done: Done::new(move |outcome| {
                            drop(held);
                            landing(outcome.map(Settled::At));
                        }),
                    });
                }
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

    fn unfinished(&self) -> MutexGuard<'_, Unfinished> {
        // It is whole after every line, so a panic elsewhere leaves it usable.
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
        let routing = self.routing();
        let last = {
            let mut unfinished = self.unfinished();
            let id = header.id();
            let held = |(site, _leaving): (&Arc<Site>, bool)| {
                site.spill.as_ref().is_some_and(|spill| spill.holds(id))
            };
            !routing.sites().any(held) && unfinished.remove(id)
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
    /// is to be told, which [`Node::loss_told`] then hears of.
    pub(crate) fn spill_lost(&self, header: &BatchHeader, reason: &'static str) -> bool {
        self.unfinished().remove(header.id());
        self.ledger.spill_lost(header, reason)
    }

    /// The manager knows of a batch that the disk has lost.
    pub(crate) fn loss_told(&self, batch: Option<BatchId>) {
        let routing = self.routing();
        for (site, _leaving) in routing.sites() {
            if let (Some(spill), Some(batch)) = (&site.spill, batch) {
                spill.loss_told(batch);
            }
        }
    }

    /// A spill that was opened holds these, which were acknowledged.
    pub(crate) fn found(&self, batches: Vec<BatchId>) {
        self.unfinished().extend(batches);
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

    /// Whether every destination of the batch's topic has it, by the journal.
    pub(crate) fn is_delivered(&self, topic: &Topic, batch: BatchId) -> bool {
        self.routing().is_delivered(&self.journal, topic, batch)
    }

    /// Whether every destination of the batch's topic has it, or the disk for it.
    pub(crate) fn is_safe(&self, topic: &Topic, batch: BatchId) -> bool {
        let routing = self.routing();
        let missing = routing.missing(&self.journal, topic, batch);
        missing.is_some_and(|missing| missing.is_empty())
    }

    /// What it has from the manager of where topics go.
    pub(crate) fn routes_health(&self) -> GivenHealth {
        let routes = self.routes.lock();
        routes.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Other things are said of it.
    pub(crate) fn show_routes(&self, health: GivenHealth) {
        let routes = self.routes.lock();
        *routes.unwrap_or_else(PoisonError::into_inner) = health;
    }

    /// The configuration that counts, and why the last one does not.
    pub(crate) fn config_health(&self) -> ConfigHealth {
        let config = self.config.lock();
        config.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether an agent that comes, and has another node to try, is to go there.
    pub(crate) fn turns_away(&self, now: Instant) -> bool {
        let crowded = self.budget.is_crowded(Class::P2, 0).is_some();
        self.balance
            .turns_away(self.open_connections(), crowded, now)
    }

    /// Open agent connections.
    pub(crate) fn open_connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// The minute of a batch's first record: its path and date.
pub(crate) fn minute_of(header: &BatchHeader) -> u32 {
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
