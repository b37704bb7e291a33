//! Facts for the manager: what this node received, delivered and removed, with identity.
//!
//! Facts gather in the [`Ledger`] as runs of sequence numbers; once a second a report is made of
//! them and sent until it is answered. Delivered facts of the lines requests have no agent to tell
//! them, so what the manager may not have is also in the journal and told again after a restart. What became
//! of dead letters is taken from where they are kept (see [`crate::dead`]).
//! The data path never waits for any of it: when the manager is away for long, the oldest facts
//! fall off, counted; the agents hold the durable ones.
//!
//! The answer may ask for a window of [`mod@crate::balance`], and say where topics are to go: [`crate::live`] hears
//! of that.
//!
//! Not for: what the manager makes of it. See [`tributary_common::report`].

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tributary_common::{
    backoff::Backoff,
    given::{self, Given},
    header::{BatchHeader, MinuteCount},
    http::Client,
    ids::{BatchId, Epoch, StreamId, Topic},
    report::{
        DestinationHealth, Duplicates, Fact, Health, Hop, Loss, Lost, REPORTS_PATH, Report,
        ReportAnswer, Reporter, Run, Switched,
    },
};

use crate::{
    dead::Letters,
    journal::{format::Record, memory::Untold, now_ms},
    node::Node,
    status,
};

/// How often a report is made.
const EVERY: Duration = Duration::from_secs(1);
/// The most batches in one report, so that it stays a few MiB.
const MAX_BATCHES_A_REPORT: usize = 50_000;
/// The most batches that wait for the manager.
const MAX_WAITING_BATCHES: usize = 500_000;
/// The most (topic, minute) pairs of removed repeats that wait.
const MAX_DUPLICATE_MINUTES: usize = 100_000;
/// The most losses of one report.
const MAX_LOSSES_A_REPORT: usize = 5_000;
/// The most dead letters of one report: 2 MiB where each is of another batch.
const MAX_LETTERS_A_REPORT: usize = 10_000;
/// How long the manager may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// One hop of one stream's life, or of one topic's run.
type RunKey = (Hop, StreamId, Epoch);

#[derive(Debug, Default)]
struct Pending {
    /// Oldest first.
    facts: VecDeque<Fact>,
    /// Where the newest run of each key stands in `facts`, as a number that counts from the first
    /// fact ever.
    open: HashMap<RunKey, u64>,
    /// How many facts have left `facts` so far.
    gone: u64,
    batches: usize,
    duplicates: BTreeMap<(Topic, u32), u32>,
    /// Bounded by what the spill may hold: it keeps each until it is told.
    losses: VecDeque<SpillLoss>,
}

/// A batch that was acknowledged and cannot be delivered any more.
#[derive(Debug)]
struct SpillLoss {
    batch: BatchId,
    loss: Loss,
    minutes: Vec<MinuteCount>,
}

/// What one report tells.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    /// What passed the hops.
    pub(crate) facts: Vec<Fact>,
    /// Removed repeats.
    pub(crate) duplicates: Vec<Duplicates>,
    /// What the spill has lost; of each the facts say so, too.
    pub(crate) losses: Vec<Lost>,
}

/// Where facts gather. Without a manager it keeps nothing.
#[derive(Debug)]
pub(crate) struct Ledger {
    pending: Option<Mutex<Pending>>,
}

impl Ledger {
    /// `wanted`: there is a manager to tell.
    pub(crate) fn new(wanted: bool) -> Self {
        Self {
            pending: wanted.then(Mutex::default),
        }
    }

    fn lock(&self) -> Option<MutexGuard<'_, Pending>> {
        // Facts are added whole, so a panic elsewhere leaves it usable.
        Some(
            self.pending
                .as_ref()?
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// The node has taken a batch in.
    pub(crate) fn received(&self, header: &BatchHeader) {
        self.add(Hop::Received, header);
    }

    /// Every destination has it.
    pub(crate) fn delivered(&self, header: &BatchHeader) {
        self.add(Hop::Delivered, header);
    }

    /// The node's disk has it, for a client without an agent.
    pub(crate) fn spilled(&self, header: &BatchHeader) {
        self.add(Hop::Spilled, header);
    }

    /// The node's disk has lost it. Whether it will be told: there is a manager.
    pub(crate) fn spill_lost(&self, header: &BatchHeader, reason: &str) -> bool {
        let Some(mut pending) = self.lock() else {
            return false;
        };
        let loss = Loss {
            topic: header.topic.clone(),
            task: header.task.clone(),
            file: header.file.clone(),
            generation: header.generation,
            span: header.span,
            reason: reason.to_owned(),
            records: Some(u64::from(header.records)),
            minute: header.minutes.first().map_or(0, |first| first.minute),
        };
        pending.losses.push_back(SpillLoss {
            batch: header.id(),
            loss,
            minutes: header.minutes.clone(),
        });
        true
    }

    /// The node itself cut, sent and received it, for a client without an agent.
    pub(crate) fn cut_here(&self, header: &BatchHeader) {
        self.add(Hop::Read, header);
        self.add(Hop::Sent, header);
        self.add(Hop::Received, header);
    }

    fn add(&self, hop: Hop, header: &BatchHeader) {
        let batch = (header.stream, header.epoch, header.seq);
        self.fact(hop, &header.topic, batch, header.minutes.clone());
    }

    /// Adds one batch to the run that it continues, or begins a new one.
    fn fact(
        &self,
        hop: Hop,
        topic: &Topic,
        (stream, epoch, seq): (StreamId, Epoch, u64),
        minutes: Vec<MinuteCount>,
    ) {
        let Some(mut pending) = self.lock() else {
            return;
        };
        let pending = &mut *pending;
        pending.batches += 1;
        let key = (hop, stream, epoch);
        let place = pending
            .open
            .get(&key)
            .and_then(|at| at.checked_sub(pending.gone));
        let run = place
            .and_then(|place| pending.facts.get_mut(usize::try_from(place).ok()?))
            .map(|fact| &mut fact.run)
            .filter(|run| run.first_seq + run.batches.len() as u64 == seq && run.topic == *topic);
        if let Some(run) = run {
            run.batches.push(minutes);
        } else {
            pending
                .open
                .insert(key, pending.gone + pending.facts.len() as u64);
            let run = Run {
                topic: topic.clone(),
                stream,
                epoch,
                first_seq: seq,
                batches: vec![minutes],
            };
            pending.facts.push_back(Fact { hop, run });
        }
        while pending.batches > MAX_WAITING_BATCHES {
            let Some(fact) = pending.take_front() else {
                break;
            };
            metrics::counter!("tributary_bus_report_dropped_batches_total")
                .increment(fact.run.batches.len() as u64);
        }
    }

    /// A repeat was removed.
    pub(crate) fn duplicate(&self, header: &BatchHeader) {
        let Some(mut pending) = self.lock() else {
            return;
        };
        for minute in &header.minutes {
            let key = (header.topic.clone(), minute.minute);
            let records = pending.duplicates.entry(key).or_default();
            *records = records.saturating_add(minute.records);
        }
        while pending.duplicates.len() > MAX_DUPLICATE_MINUTES {
            pending.duplicates.pop_first();
        }
    }

    /// Takes out what the next report tells.
    pub(crate) fn take(&self) -> Telling {
        let Some(mut pending) = self.lock() else {
            return Telling::default();
        };
        let (mut facts, mut batches) = (Vec::new(), 0);
        while batches < MAX_BATCHES_A_REPORT {
            let Some(fact) = pending.take_front() else {
                break;
            };
            batches += fact.run.batches.len();
            facts.push(fact);
        }
        if pending.facts.is_empty() {
            pending.open.clear();
        }
        let mut duplicates: Vec<Duplicates> = Vec::new();
        for ((topic, minute), records) in std::mem::take(&mut pending.duplicates) {
            let count = MinuteCount { minute, records };
            match duplicates.last_mut().filter(|last| last.topic == topic) {
                Some(last) => last.minutes.push(count),
                None => duplicates.push(Duplicates {
                    topic,
                    minutes: vec![count],
                }),
            }
        }
        let count = pending.losses.len().min(MAX_LOSSES_A_REPORT);
        let lost = pending.losses.drain(..count).map(|lost| {
            facts.push(Fact {
                hop: Hop::Lost,
                run: Run {
                    topic: lost.loss.topic.clone(),
                    stream: lost.batch.stream,
                    epoch: lost.batch.epoch,
                    first_seq: lost.batch.seq,
                    batches: vec![lost.minutes],
                },
            });
            Lost {
                loss: lost.loss,
                batch: Some(lost.batch),
            }
        });
        let losses = lost.collect();
        Telling {
            facts,
            duplicates,
            losses,
        }
    }

    /// Whether nothing waits.
    fn is_empty(&self) -> bool {
        self.lock()
            .is_none_or(|pending| pending.facts.is_empty() && pending.losses.is_empty())
    }
}

impl Pending {
    fn take_front(&mut self) -> Option<Fact> {
        let fact = self.facts.pop_front()?;
        self.gone += 1;
        self.batches -= fact.run.batches.len();
        Some(fact)
    }
}

/// Tells again what the journal says the manager may not have.
pub(crate) fn retell(node: &Node) {
    let untold: Vec<Untold> = node.journal.memory().untold.iter().cloned().collect();
    let mut told = std::collections::HashSet::new();
    for entry in untold {
        let Untold::Delivered(delivered) = entry else {
            continue;
        };
        if node.is_delivered(&delivered.topic, delivered.batch) && told.insert(delivered.batch) {
            let batch = (
                delivered.batch.stream,
                delivered.batch.epoch,
                delivered.batch.seq,
            );
            node.ledger.fact(
                Hop::Received,
                &delivered.topic,
                batch,
                delivered.minutes.clone(),
            );
            node.ledger
                .fact(Hop::Delivered, &delivered.topic, batch, delivered.minutes);
        }
    }
}

/// Sends reports until the stop; then what is left once more, without waiting for a manager that
/// does not answer.
pub(crate) async fn run(
    node: Arc<Node>,
    (mut client, offer): (Client, watch::Sender<Option<Given>>),
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut rng = fastrand::Rng::new();
    let mut backoff = Backoff::new(EVERY, Duration::from_secs(5));
    let mut number = 0;
    let mut failing_since: Option<Instant> = None;
    loop {
        let stopping = stop.run_until_cancelled(sleep(EVERY)).await.is_none();
        number += 1;
        let letters: Vec<Arc<Letters>> = {
            let routing = node.routing();
            let sites = routing.sites();
            sites
                .filter_map(|(site, _leaving)| site.letters.clone())
                .collect()
        };
        let (mut report, marked) = compose(&node, number).await;
        let each = MAX_LETTERS_A_REPORT / letters.len().max(1);
        let taken = letters.iter().map(|letters| letters.take_untold(each));
        report.letters = taken.flatten().collect();
        let body = serde_json::to_vec(&report)?;
        let answer = loop {
            let error = match send(&mut client, &body, number).await {
                Ok(answer) => break answer,
                Err(error) => error,
            };
            if failing_since.is_none() {
                failing_since = Some(Instant::now());
                tracing::warn!(%error, "the manager does not take reports; facts are kept, data flows on");
            }
            metrics::counter!("tributary_bus_report_failures_total").increment(1);
            if stopping
                || stop
                    .run_until_cancelled(sleep(backoff.next(&mut rng)))
                    .await
                    .is_none()
            {
                return Ok(());
            }
        };
        backoff.reset();
        if let Some(asked) = answer.rebalance.filter(|_asked| !stopping) {
            let has = node.open_connections();
            node.balance.open_asked(asked, has, Instant::now());
        }
        if let Some(routes) = answer.routes {
            given::pass_on(&offer, routes);
        }
        if let Some(since) = failing_since.take() {
            let after_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(after_ms, "the manager takes reports again");
        }
        for lost in &report.losses {
            node.loss_told(lost.batch);
        }
        let all_told = letters_told(&letters);
        if marked {
            let number = mark(&node, number);
            node.journal.commit(
                vec![Record::Told { number }],
                false,
                Box::new(|_written| {}),
            );
        }
        if stopping && node.ledger.is_empty() && all_told {
            return Ok(());
        }
    }
}

/// The manager has what a report said of these letters. Whether it has heard of all.
fn letters_told(letters: &[Arc<Letters>]) -> bool {
    letters.iter().for_each(|letters| letters.told());
    letters.iter().all(|letters| letters.is_told())
}

/// Marks the journal, then takes the facts: whatever was noted before the mark is in this report
/// or an earlier one.
async fn compose(node: &Node, number: u64) -> (Report, bool) {
    let marked = !node.ledger.is_empty();
    if marked {
        let (done, written) = tokio::sync::oneshot::channel();
        // A waiter that is gone has stopped with the node.
        let then = Box::new(move |_outcome| done.send(()).unwrap_or_default());
        let number = mark(node, number);
        node.journal
            .commit(vec![Record::Mark { number }], false, then);
        // A journal that is gone answers as well; a report without a mark is only told twice.
        drop(written.await);
    }
    let Telling {
        facts,
        duplicates,
        losses,
    } = node.ledger.take();
    let identity = &node.identity;
    let report = Report {
        reporter: Reporter::Bus {
            id: identity.node.clone(),
            cluster: identity.cluster.clone(),
            zone: identity.zone.clone(),
        },
        epoch: identity.epoch,
        number,
        sent_at_ms: now_ms(),
        facts,
        duplicates,
        losses,
        letters: Vec::new(),
        switches: switches(node),
        held: Vec::new(),
        health: Health {
            software: concat!("tributary-bus ", env!("CARGO_PKG_VERSION")).to_owned(),
            memory_bytes: tributary_common::metrics::resident_bytes(),
            tasks: Vec::new(),
            config: Some(node.config_health()),
            connections: node.open_connections(),
            not_ready: status::ready(node).err().unwrap_or_default(),
            rebalance: node.balance.health(),
            routes: Some(node.routes_health()),
            collection: None,
            destinations: node
                .routing()
                .sites()
                .map(|(site, _leaving)| DestinationHealth {
                    dead: site.letters.as_ref().map(|letters| letters.health()),
                    ..site.destination.health()
                })
                .collect(),
        },
    };
    (report, marked)
}

/// Where batches went to another destination, since this was asked last. Only who tells somebody asks.
fn switches(node: &Node) -> Vec<Switched> {
    let routing = node.routing();
    let branches = routing.table().with_standby();
    branches
        .flat_map(|branch| branch.switch.take_untold())
        .collect()
}

/// The number of a report's mark: unlike the report's own it never comes again in a later life,
/// whose epoch is greater by a thousand for every second.
fn mark(node: &Node, number: u64) -> u64 {
    node.identity.epoch.0.saturating_add(number)
}

async fn send(client: &mut Client, body: &[u8], number: u64) -> anyhow::Result<ReportAnswer> {
    let (status, answer) = client
        .post_json(REPORTS_PATH, body.to_vec(), ANSWER_WITHIN)
        .await?;
    anyhow::ensure!(status.is_success(), "the manager answers {status}");
    let answer: ReportAnswer = serde_json::from_slice(&answer)?;
    anyhow::ensure!(
        answer.number == number,
        "the manager answers report {}",
        answer.number
    );
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(records: u32) -> Vec<MinuteCount> {
        vec![MinuteCount { minute: 1, records }]
    }

    fn runs(ledger: &Ledger) -> Vec<(Hop, u64, usize)> {
        let facts = ledger.take().facts;
        facts
            .iter()
            .map(|f| (f.hop, f.run.first_seq, f.run.batches.len()))
            .collect()
    }

    #[test]
    fn consecutive_batches_make_one_run() {
        let ledger = Ledger::new(true);
        let topic = Topic::new("web").unwrap();
        let add = |hop, seq| ledger.fact(hop, &topic, (StreamId(1), Epoch(1), seq), minutes(3));
        add(Hop::Received, 1);
        add(Hop::Received, 2);
        add(Hop::Delivered, 1);
        add(Hop::Received, 3);
        add(Hop::Received, 7);
        add(Hop::Delivered, 2);
        assert_eq!(
            runs(&ledger),
            [
                (Hop::Received, 1, 3),
                (Hop::Delivered, 1, 2),
                (Hop::Received, 7, 1)
            ]
        );
        add(Hop::Received, 8);
        assert_eq!(runs(&ledger), [(Hop::Received, 8, 1)]);
    }

    #[test]
    fn the_oldest_facts_fall_off_first() {
        let ledger = Ledger::new(true);
        let topic = Topic::new("web").unwrap();
        for seq in 0..=MAX_WAITING_BATCHES as u64 {
            // Every other sequence number: no two make a run.
            ledger.fact(
                Hop::Received,
                &topic,
                (StreamId(1), Epoch(1), seq * 2),
                minutes(1),
            );
        }
        let facts = ledger.take().facts;
        assert_eq!(facts[0].run.first_seq, 2);
        assert_eq!(facts.len(), MAX_BATCHES_A_REPORT);
    }

    #[test]
    fn without_a_manager_nothing_is_kept() {
        let ledger = Ledger::new(false);
        let topic = Topic::new("web").unwrap();
        ledger.fact(
            Hop::Received,
            &topic,
            (StreamId(1), Epoch(1), 1),
            minutes(1),
        );
        assert_eq!(runs(&ledger), []);
    }
}
