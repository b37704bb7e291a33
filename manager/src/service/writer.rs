//! Writes reports into the ledger, in one transaction: the way from a report's facts to stream
//! states, sums, losses and nodes.
//!
//! Works in memory and writes each table once per transaction, however many reports it has: it is
//! the only one that writes, so what it read or wrote before is still true. After any failure it
//! forgets everything and reads the database again.
//!
//! Not for: what a fact means (see [`super::ledger`]). Only [`super::intake`] calls it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use sqlx::SqliteConnection;
use tributary_common::{
    ids::{BatchId, Topic},
    report::{DeadRecords, Fact, HeldState, Lost, Report, Reporter, Run},
    span::RangeSet,
};

use super::{
    ledger::{Deltas, StreamState, Teller},
    rates::Rates,
    tally::Tally,
};
use crate::store::{
    Store, StoreError, letters,
    letters::LetterKey,
    losses, nodes,
    nodes::NodeWrite,
    reports, streams,
    streams::{StreamKey, StreamRow},
    switches, tallies,
};

/// States kept in memory: some 300 bytes each, so at most about 30 MiB.
const MAX_CACHED: usize = 100_000;
/// Topics, and nodes, kept in memory.
const MAX_NAMES: usize = 100_000;
/// An agent's link to a topic is written again after this time, in ms; the retention takes at
/// least an hour.
const LINK_AGAIN_MS: i64 = 10 * 60_000;

/// A report and when it came.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// The report.
    pub(crate) report: Report,
    /// When it came, in ms by the manager's clock.
    pub(crate) now_ms: i64,
}

/// The accounts of a stream, and the node whose snapshot holds batches of it.
#[derive(Debug, Clone, Default)]
struct Account {
    state: StreamState,
    holder: Option<i64>,
}

/// What the agent holds of one stream.
#[derive(Debug, Default)]
struct Snapshot {
    in_flight: RangeSet,
    refused: RangeSet,
}

/// Which node: whether it is an agent, and its id.
type NodeKey = (bool, String);

/// What is known of a node.
#[derive(Debug)]
struct Node {
    id: i64,
    /// Epoch and number of its newest report.
    newest: (u64, u64),
    /// The life that reported last, and its numbers that were taken.
    numbers: (u64, RangeSet),
    /// The accounts of which its last snapshot held batches.
    held: HashSet<StreamKey>,
    /// The topics that it is linked to, and when the link was written, in ms.
    linked: HashMap<i64, i64>,
}

/// What a transaction writes at its end.
#[derive(Debug, Default)]
struct Group {
    tallies: HashMap<(i64, u32), Tally>,
    /// Read and delivered records per topic, for the rates.
    rates: HashMap<i64, (i64, i64)>,
    streams: HashSet<StreamKey>,
    nodes: HashMap<i64, NodeWrite>,
    /// Nodes that were heard, and when, in ms.
    heard: HashMap<i64, i64>,
    /// Numbers that were taken, per node and life.
    numbers: HashMap<(i64, u64), RangeSet>,
    /// Links of topics and nodes.
    links: HashSet<(i64, i64)>,
    /// The latest arrival, in ms.
    now_ms: i64,
}

impl Group {
    fn add(&mut self, topic: i64, deltas: &Deltas) {
        for (&minute, delta) in deltas {
            self.tallies.entry((topic, minute)).or_default().add(delta);
            let rate = self.rates.entry(topic).or_default();
            rate.0 = rate.0.saturating_add(delta.read);
            rate.1 = rate.1.saturating_add(delta.delivered);
        }
    }

    fn heard(&mut self, node: i64, now_ms: i64) {
        let last = self.heard.entry(node).or_default();
        *last = now_ms.max(*last);
    }
}

/// The only one that writes to the ledger.
#[derive(Debug)]
pub(crate) struct Writer {
    store: Store,
    rates: Arc<Rates>,
    topics: HashMap<Topic, i64>,
    nodes: HashMap<NodeKey, Node>,
    accounts: HashMap<StreamKey, Account>,
}

impl Writer {
    /// Nothing in memory yet.
    pub(crate) fn new(store: Store, rates: Arc<Rates>) -> Self {
        Self {
            store,
            rates,
            topics: HashMap::new(),
            nodes: HashMap::new(),
            accounts: HashMap::new(),
        }
    }

    /// Forgets what is in memory; the next report reads the database again.
    pub(crate) fn clear(&mut self) {
        self.topics.clear();
        self.nodes.clear();
        self.accounts.clear();
    }

    /// Writes reports, all or none.
    pub(crate) async fn write(&mut self, reports: &[Box<Incoming>]) -> Result<(), StoreError> {
        let names = self.topics.len().max(self.nodes.len());
        if self.accounts.len() > MAX_CACHED || names > MAX_NAMES {
            self.clear();
        }
        let result = self.transaction(reports).await;
        if result.is_err() {
            self.clear();
        }
        let group = result?;
        for (topic, id) in &self.topics {
            if let Some(&(read, delivered)) = group.rates.get(id) {
                self.rates.add(topic.as_str(), read, delivered);
            }
        }
        Ok(())
    }

    async fn transaction(&mut self, reports: &[Box<Incoming>]) -> Result<Group, StoreError> {
        let mut tx = self.store.writer().begin_with("BEGIN IMMEDIATE").await?;
        let mut group = Group::default();
        for incoming in reports {
            group.now_ms = group.now_ms.max(incoming.now_ms);
            self.report(&mut tx, incoming, &mut group).await?;
        }
        self.flush(&mut tx, &group).await?;
        tx.commit().await?;
        Ok(group)
    }

    /// Writes what the reports have changed: one statement a table.
    async fn flush(&self, tx: &mut SqliteConnection, group: &Group) -> Result<(), StoreError> {
        let now_ms = group.now_ms;
        let mut rows = Vec::with_capacity(group.streams.len());
        for key in &group.streams {
            if let Some(Account { state, holder }) = self.accounts.get(key) {
                rows.push(StreamRow {
                    key: *key,
                    holder: *holder,
                    state: state.encode()?,
                });
            }
        }
        streams::save(tx, &rows, now_ms).await?;
        nodes::update(tx, group.nodes.values()).await?;
        nodes::heard(tx, &group.heard).await?;
        nodes::link(tx, &group.links, now_ms).await?;
        reports::save(tx, &group.numbers, now_ms).await?;
        tallies::add(tx, &group.tallies, now_ms).await
    }

    async fn report(
        &mut self,
        tx: &mut SqliteConnection,
        incoming: &Incoming,
        group: &mut Group,
    ) -> Result<(), StoreError> {
        let Incoming { report, now_ms } = incoming;
        let life = (report.epoch.0, report.number);
        let key = self.learn_node(tx, incoming, group).await?;
        let node = self
            .nodes
            .get_mut(&key)
            .expect("learn_node has put it there");
        let id = node.id;
        if node
            .numbers
            .1
            .insert(report.number, report.number.saturating_add(1))
            == 0
        {
            group.heard(id, *now_ms);
            return Ok(());
        }
        group
            .numbers
            .insert((id, report.epoch.0), node.numbers.1.clone());
        // An old report that arrives late tells facts, but not how things are.
        let before = node.newest;
        let newest = life > before;
        if newest {
            node.newest = life;
        }
        self.learn_topics(tx, report, *now_ms).await?;
        self.facts(tx, id, report, group).await?;
        self.letters(tx, incoming, group).await?;
        if let (Reporter::Agent { .. }, true) = (&report.reporter, newest) {
            self.snapshot(tx, &key, report, group).await?;
        }
        self.link(&key, incoming, group);
        self.events(tx, id, incoming, group).await?;
        switches::add(tx, id, &report.switches).await?;
        if newest {
            let write = NodeWrite::new(id, before, incoming, group.nodes.get(&id))?;
            group.nodes.insert(id, write);
        } else {
            group.heard(id, *now_ms);
        }
        Ok(())
    }

    /// Puts a report's node, and the numbers of its life, into memory.
    async fn learn_node(
        &mut self,
        tx: &mut SqliteConnection,
        incoming: &Incoming,
        group: &Group,
    ) -> Result<NodeKey, StoreError> {
        let Incoming { report, now_ms } = incoming;
        let epoch = report.epoch.0;
        let key = match &report.reporter {
            Reporter::Agent { id, .. } => (true, id.as_str().to_owned()),
            Reporter::Bus { id, .. } => (false, id.as_str().to_owned()),
        };
        if !self.nodes.contains_key(&key) {
            let (id, newest) = nodes::find(tx, &report.reporter, epoch, *now_ms).await?;
            let numbers = (epoch, reports::numbers(tx, id, epoch).await?);
            let held = streams::held_by(tx, id).await?.into_iter().collect();
            let node = Node {
                id,
                newest,
                numbers,
                held,
                linked: HashMap::new(),
            };
            self.nodes.insert(key.clone(), node);
        }
        let node = self
            .nodes
            .get_mut(&key)
            .expect("it was there or has just been put there");
        if node.numbers.0 != epoch {
            // Another life; what this transaction took of it is not in the database yet.
            let numbers = match group.numbers.get(&(node.id, epoch)) {
                Some(numbers) => numbers.clone(),
                None => reports::numbers(tx, node.id, epoch).await?,
            };
            node.numbers = (epoch, numbers);
        }
        Ok(key)
    }

    /// Puts the numbers of all topics of a report into memory.
    async fn learn_topics(
        &mut self,
        tx: &mut SqliteConnection,
        report: &Report,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let runs = report.facts.iter().map(|fact| &fact.run);
        let runs = runs
            .chain(report.held.iter().map(|held| &held.run))
            .map(|run| &run.topic);
        let events = report.duplicates.iter().map(|duplicates| &duplicates.topic);
        let events = events.chain(report.losses.iter().map(|lost| &lost.loss.topic));
        let events = events.chain(report.letters.iter().map(|told| &told.topic));
        let tasks = report.health.tasks.iter().map(|task| &task.topic);
        for topic in runs.chain(events).chain(tasks) {
            if !self.topics.contains_key(topic) {
                let id = tallies::topic_id(tx, topic.as_str(), now_ms).await?;
                self.topics.insert(topic.clone(), id);
            }
        }
        Ok(())
    }

    fn key(&self, run: &Run) -> StreamKey {
        StreamKey {
            topic: self.topic(&run.topic),
            stream: run.stream.0.cast_signed(),
            epoch: run.epoch.0.cast_signed(),
        }
    }

    fn key_of(&self, topic: &Topic, batch: BatchId) -> StreamKey {
        StreamKey {
            topic: self.topic(topic),
            stream: batch.stream.0.cast_signed(),
            epoch: batch.epoch.0.cast_signed(),
        }
    }

    fn topic(&self, topic: &Topic) -> i64 {
        *self
            .topics
            .get(topic)
            .expect("learn_topics saw every topic of the report")
    }

    /// What passed the hops.
    async fn facts(
        &mut self,
        tx: &mut SqliteConnection,
        node: i64,
        report: &Report,
        group: &mut Group,
    ) -> Result<(), StoreError> {
        let teller = match report.reporter {
            Reporter::Agent { .. } => Teller::Agent,
            Reporter::Bus { .. } => Teller::Bus(node),
        };
        let keys: HashSet<StreamKey> = report
            .facts
            .iter()
            .map(|fact| self.key(&fact.run))
            .collect();
        self.load(tx, keys.iter()).await?;
        for Fact { hop, run } in &report.facts {
            let (mut deltas, key) = (Deltas::new(), self.key(run));
            let state = &mut self.accounts.entry(key).or_default().state;
            let found = state.fact(teller, *hop, run.first_seq, &run.batches, &mut deltas);
            group.add(key.topic, &deltas);
            losses::take_back(tx, key, &found).await?;
        }
        group.streams.extend(keys);
        Ok(())
    }

    /// What became of records that destinations refuse for good.
    async fn letters(
        &mut self,
        tx: &mut SqliteConnection,
        incoming: &Incoming,
        group: &mut Group,
    ) -> Result<(), StoreError> {
        let mut told: HashMap<LetterKey, Vec<&DeadRecords>> = HashMap::new();
        for one in &incoming.report.letters {
            let key = (
                self.key_of(&one.topic, one.batch),
                one.batch.seq.cast_signed(),
            );
            told.entry(key).or_default().push(one);
        }
        if told.is_empty() {
            return Ok(());
        }
        let keys: HashSet<StreamKey> = told.keys().map(|(key, _seq)| *key).collect();
        self.load(tx, keys.iter()).await?;
        let mut known = letters::load(tx, told.keys()).await?;
        let mut writes = Vec::with_capacity(told.len());
        for (key, told) in told {
            let batch = known.entry(key).or_default();
            let before = batch.counts();
            // All of it is taken, also behind the first that is new.
            let new = told.into_iter().filter(|one| batch.tell(one)).count();
            if new == 0 {
                continue;
            }
            writes.push((key, batch.encode()?));
            let (stream, seq) = key;
            let mut deltas = Deltas::new();
            let state = &mut self.accounts.entry(stream).or_default().state;
            state.letters(seq.cast_unsigned(), &before, batch.counts(), &mut deltas);
            group.add(stream.topic, &deltas);
            group.streams.insert(stream);
        }
        letters::save(tx, &writes, incoming.now_ms).await
    }

    /// What the agent holds now; what it held before and holds no more is in nobody's hands.
    async fn snapshot(
        &mut self,
        tx: &mut SqliteConnection,
        node: &NodeKey,
        report: &Report,
        group: &mut Group,
    ) -> Result<(), StoreError> {
        let mut snapshots: HashMap<StreamKey, Snapshot> = HashMap::new();
        for held in &report.held {
            let snapshot = snapshots.entry(self.key(&held.run)).or_default();
            let set = match held.state {
                HeldState::InFlight => &mut snapshot.in_flight,
                HeldState::Refused => &mut snapshot.refused,
            };
            let first = held.run.first_seq;
            set.insert(first, first.saturating_add(held.run.batches.len() as u64));
        }
        let node = self
            .nodes
            .get_mut(node)
            .expect("learn_node has put it there");
        let id = node.id;
        let now = snapshots.keys().copied().collect();
        for key in std::mem::replace(&mut node.held, now) {
            snapshots.entry(key).or_default();
        }
        self.load(tx, snapshots.keys()).await?;
        for (key, Snapshot { in_flight, refused }) in snapshots {
            let mut deltas = Deltas::new();
            let account = self.accounts.entry(key).or_default();
            if account.state.hold(in_flight, refused, &mut deltas) {
                account.holder = account.state.is_held().then_some(id);
                group.streams.insert(key);
            }
            group.add(key.topic, &deltas);
        }
        Ok(())
    }

    /// Brings accounts into memory.
    async fn load(
        &mut self,
        tx: &mut SqliteConnection,
        keys: impl Iterator<Item = &StreamKey>,
    ) -> Result<(), StoreError> {
        let unknown: Vec<StreamKey> = keys
            .filter(|key| !self.accounts.contains_key(key))
            .copied()
            .collect();
        for row in streams::load(tx, &unknown).await? {
            let account = Account {
                state: StreamState::decode(&row.state)?,
                holder: row.holder,
            };
            self.accounts.insert(row.key, account);
        }
        Ok(())
    }

    /// Links an agent to the topics that it tells of.
    fn link(&mut self, node: &NodeKey, incoming: &Incoming, group: &mut Group) {
        let Incoming { report, now_ms } = incoming;
        if matches!(report.reporter, Reporter::Bus { .. }) {
            return;
        }
        let facts = report.facts.iter().map(|fact| &fact.run.topic);
        let tasks = report.health.tasks.iter().map(|task| &task.topic);
        let topics: HashSet<i64> = facts.chain(tasks).map(|topic| self.topic(topic)).collect();
        let node = self
            .nodes
            .get_mut(node)
            .expect("learn_node has put it there");
        for topic in topics {
            let last = node.linked.get(&topic);
            if last.is_none_or(|last| now_ms.saturating_sub(*last) > LINK_AGAIN_MS) {
                node.linked.insert(topic, *now_ms);
                group.links.insert((topic, node.id));
            }
        }
    }

    /// Removed repeats and losses.
    async fn events(
        &mut self,
        tx: &mut SqliteConnection,
        node: i64,
        incoming: &Incoming,
        group: &mut Group,
    ) -> Result<(), StoreError> {
        let Incoming { report, now_ms } = incoming;
        for duplicates in &report.duplicates {
            let topic = self.topic(&duplicates.topic);
            for minute in &duplicates.minutes {
                let tally = group.tallies.entry((topic, minute.minute)).or_default();
                tally.duplicates += i64::from(minute.records);
            }
        }
        let keys: HashMap<BatchId, StreamKey> = report
            .losses
            .iter()
            .filter_map(|lost| Some((lost.batch?, self.key_of(&lost.loss.topic, lost.batch?))))
            .collect();
        self.load(tx, keys.values()).await?;
        for Lost { loss, batch } in &report.losses {
            // The agent was gone before it heard of the delivery.
            let delivered = batch.is_some_and(|batch| {
                let account = self.accounts.get(&keys[&batch]);
                account.is_some_and(|account| account.state.is_delivered(batch.seq))
            });
            if !delivered {
                let topic = self.topic(&loss.topic);
                losses::add(tx, node, topic, (loss, *batch), *now_ms).await?;
            }
        }
        Ok(())
    }
}
