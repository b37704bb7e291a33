//! Writes reports into the ledger, in one transaction: the way from a report's facts to stream
//! states, sums, losses and nodes.
//!
//! Keeps the states that it wrote in memory, since it is the only one that writes; after any
//! failure it forgets them and reads the database again.
//!
//! Not for: what a fact means (see [`super::ledger`]). Only [`super::intake`] calls it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use sqlx::SqliteConnection;
use tributary_common::{
    header::MinuteCount,
    ids::Topic,
    report::{HeldState, Report, Reporter, Run},
    span::RangeSet,
};

use super::{
    ledger::{Deltas, StreamState, Teller},
    rates::Rates,
    tally::Tally,
};
use crate::store::{
    Store, StoreError, losses, nodes,
    nodes::Seen,
    reports, streams,
    streams::{StreamKey, StreamRow},
    tallies,
};

/// States kept in memory: some 300 bytes each, so at most about 30 MiB.
const MAX_CACHED: usize = 100_000;
/// Topic numbers kept in memory.
const MAX_TOPICS: usize = 100_000;

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

/// Differences that a transaction adds up.
#[derive(Debug, Default)]
struct Sums {
    tallies: HashMap<(i64, u32), Tally>,
    /// Read and delivered records per topic, for the rates.
    rates: HashMap<i64, (i64, i64)>,
}

impl Sums {
    fn add(&mut self, topic: i64, deltas: &Deltas) {
        for (&minute, delta) in deltas {
            self.tallies.entry((topic, minute)).or_default().add(delta);
            let rate = self.rates.entry(topic).or_default();
            rate.0 = rate.0.saturating_add(delta.read);
            rate.1 = rate.1.saturating_add(delta.delivered);
        }
    }

    fn count(&mut self, topic: i64, minutes: &[MinuteCount], change: impl Fn(&mut Tally, i64)) {
        for minute in minutes {
            let tally = self.tallies.entry((topic, minute.minute)).or_default();
            change(tally, i64::from(minute.records));
        }
    }
}

/// The only one that writes to the ledger.
#[derive(Debug)]
pub(crate) struct Writer {
    store: Store,
    rates: Arc<Rates>,
    topics: HashMap<Topic, i64>,
    accounts: HashMap<StreamKey, Account>,
}

impl Writer {
    /// Nothing in memory yet.
    pub(crate) fn new(store: Store, rates: Arc<Rates>) -> Self {
        Self {
            store,
            rates,
            topics: HashMap::new(),
            accounts: HashMap::new(),
        }
    }

    /// Forgets what is in memory; the next report reads the database again.
    pub(crate) fn clear(&mut self) {
        self.topics.clear();
        self.accounts.clear();
    }

    /// Writes reports, all or none.
    pub(crate) async fn write(&mut self, reports: &[Box<Incoming>]) -> Result<(), StoreError> {
        if self.accounts.len() > MAX_CACHED || self.topics.len() > MAX_TOPICS {
            self.clear();
        }
        let result = self.transaction(reports).await;
        if result.is_err() {
            self.clear();
        }
        let sums = result?;
        for (topic, &id) in &self.topics {
            if let Some(&(read, delivered)) = sums.rates.get(&id) {
                self.rates.add(topic.as_str(), read, delivered);
            }
        }
        Ok(())
    }

    async fn transaction(&mut self, reports: &[Box<Incoming>]) -> Result<Sums, StoreError> {
        let mut tx = self.store.writer().begin_with("BEGIN IMMEDIATE").await?;
        let mut sums = Sums::default();
        for incoming in reports {
            self.report(&mut tx, incoming, &mut sums).await?;
        }
        let now_ms = reports
            .iter()
            .map(|incoming| incoming.now_ms)
            .max()
            .unwrap_or(0);
        tallies::add(&mut tx, &sums.tallies, now_ms).await?;
        tx.commit().await?;
        Ok(sums)
    }

    async fn report(
        &mut self,
        tx: &mut SqliteConnection,
        incoming: &Incoming,
        sums: &mut Sums,
    ) -> Result<(), StoreError> {
        let Incoming { report, now_ms } = incoming;
        let seen = Seen {
            epoch: report.epoch.0,
            number: report.number,
            now_ms: *now_ms,
            skew_ms: losses::to_i64(report.sent_at_ms).saturating_sub(*now_ms),
        };
        let node = nodes::find(tx, &report.reporter, seen).await?;
        let epoch = report.epoch.0.cast_signed();
        let mut numbers = reports::numbers(tx, node.id, epoch).await?;
        if numbers.contains(report.number) {
            return nodes::heard(tx, node.id, *now_ms).await;
        }
        numbers.insert(report.number, report.number.saturating_add(1));
        reports::save(tx, node.id, epoch, &numbers, *now_ms).await?;
        // An old report that arrives late tells facts, but not how things are.
        let newest = (seen.epoch, seen.number) > (node.epoch, node.number);
        self.learn_topics(tx, report, *now_ms).await?;
        self.streams(tx, node.id, newest, incoming, sums).await?;
        self.events(tx, node.id, incoming, sums).await?;
        if newest {
            nodes::update(tx, node, &report.reporter, seen, &report.health).await?;
        }
        Ok(())
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
        let events = events.chain(report.losses.iter().map(|loss| &loss.topic));
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

    fn topic(&self, topic: &Topic) -> i64 {
        *self
            .topics
            .get(topic)
            .expect("learn_topics saw every topic of the report")
    }

    /// Facts and snapshot.
    async fn streams(
        &mut self,
        tx: &mut SqliteConnection,
        node: i64,
        newest: bool,
        incoming: &Incoming,
        sums: &mut Sums,
    ) -> Result<(), StoreError> {
        let report = &incoming.report;
        let teller = match report.reporter {
            Reporter::Agent { .. } => Teller::Agent,
            Reporter::Bus { .. } => Teller::Bus(node),
        };
        let mut snapshots: HashMap<StreamKey, Snapshot> = HashMap::new();
        if newest && teller == Teller::Agent {
            for key in streams::held_by(tx, node).await? {
                snapshots.insert(key, Snapshot::default());
            }
            for held in &report.held {
                let snapshot = snapshots.entry(self.key(&held.run)).or_default();
                let set = match held.state {
                    HeldState::InFlight => &mut snapshot.in_flight,
                    HeldState::Refused => &mut snapshot.refused,
                };
                let first = held.run.first_seq;
                set.insert(first, first.saturating_add(held.run.batches.len() as u64));
            }
        }
        let facts = report.facts.iter().map(|fact| self.key(&fact.run));
        let mut touched: HashSet<StreamKey> = facts.collect();
        self.load(tx, touched.iter().chain(snapshots.keys()))
            .await?;
        for fact in &report.facts {
            let mut deltas = Deltas::new();
            let key = self.key(&fact.run);
            let account = self.accounts.entry(key).or_default();
            account.state.fact(
                teller,
                fact.hop,
                fact.run.first_seq,
                &fact.run.batches,
                &mut deltas,
            );
            sums.add(key.topic, &deltas);
        }
        for (key, Snapshot { in_flight, refused }) in snapshots {
            let mut deltas = Deltas::new();
            let account = self.accounts.entry(key).or_default();
            if account.state.hold(in_flight, refused, &mut deltas) {
                touched.insert(key);
                account.holder = account.state.is_held().then_some(node);
            }
            sums.add(key.topic, &deltas);
        }
        self.save(tx, &touched, incoming.now_ms).await?;
        if teller == Teller::Agent {
            let of_tasks = report
                .health
                .tasks
                .iter()
                .map(|task| self.topic(&task.topic));
            let topics = touched.iter().map(|key| key.topic).chain(of_tasks);
            let topics: HashSet<i64> = topics.collect();
            let topics: Vec<i64> = topics.into_iter().collect();
            nodes::link(tx, node, &topics, incoming.now_ms).await?;
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

    async fn save(
        &self,
        tx: &mut SqliteConnection,
        keys: &HashSet<StreamKey>,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let mut writes = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(Account { state, holder }) = self.accounts.get(key) {
                writes.push(StreamRow {
                    key: *key,
                    holder: *holder,
                    state: state.encode()?,
                });
            }
        }
        streams::save(tx, &writes, now_ms).await
    }

    /// Removed repeats and losses.
    async fn events(
        &self,
        tx: &mut SqliteConnection,
        node: i64,
        incoming: &Incoming,
        sums: &mut Sums,
    ) -> Result<(), StoreError> {
        let Incoming { report, now_ms } = incoming;
        for duplicates in &report.duplicates {
            let topic = self.topic(&duplicates.topic);
            sums.count(topic, &duplicates.minutes, |tally, records| {
                tally.duplicates += records;
            });
        }
        for loss in &report.losses {
            let topic = self.topic(&loss.topic);
            if losses::add(tx, node, topic, loss, *now_ms).await? {
                let records = losses::to_i64(loss.records.unwrap_or(0));
                sums.tallies
                    .entry((topic, loss.minute))
                    .or_default()
                    .dropped += records;
            }
        }
        Ok(())
    }
}
