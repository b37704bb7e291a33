//! Tells the manager what became of every batch.
//!
//! A report is built from the checkpoint's accounts, sent until the manager has answered it, under
//! the same number and with the same bytes, and only then marked as told. So a fact is told at least
//! once, and telling it again changes nothing. While the manager is away the accounts wait; the data
//! path does not.
//!
//! Not for: keeping accounts (see [`crate::checkpoint`]). Started by [`crate::run`] when a manager is
//! configured.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tributary_common::{
    disk,
    given::{self, Given},
    http::Client,
    ids::{Epoch, StreamId},
    metrics::resident_bytes,
    report::{
        Fact, Health, Held, HeldState, Hop, REPORTS_PATH, Report, ReportAnswer, Reporter, Run,
    },
    tls::Dialer,
};

use crate::{
    checkpoint::{Account, Checkpoint, End, Record, Series, State, StreamState, Told},
    clock,
    config::Manager,
    status::Status,
};

/// What changed is told this often.
const EVERY: Duration = Duration::from_secs(1);
/// When nothing changed, the agent says that it lives this often.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The manager may take so long to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// After a failure it is tried again after this long, then twice as long, up to the cap.
const FIRST: Duration = Duration::from_secs(1);
const CAP: Duration = Duration::from_secs(30);
/// Facts in one report; the next one follows at once.
const MAX_FACTS: usize = 20_000;
/// At the stop, the manager may take so long for the last report.
const LAST_LIMIT: Duration = Duration::from_secs(2);

/// What the reports need.
#[derive(Debug)]
pub(crate) struct Reports {
    pub(crate) manager: Manager,
    /// Who an https manager is trusted by; the system's authorities without it.
    pub(crate) tls: Option<Arc<Dialer>>,
    pub(crate) reporter: Reporter,
    pub(crate) epoch: Epoch,
    pub(crate) checkpoint: Arc<Checkpoint>,
    pub(crate) status: Arc<Status>,
    /// What the manager gives goes there.
    pub(crate) offer: watch::Sender<Option<Given>>,
}

/// What one report tells, and what to mark when it is answered.
#[derive(Debug, Default)]
struct Telling {
    facts: Vec<Fact>,
    held: Vec<Held>,
    told: Vec<Told>,
    losses: u64,
    count: usize,
    /// There is more to tell.
    more: bool,
}

impl Reports {
    /// Reports until `stop`, then once more.
    ///
    /// # Errors
    /// When the URL or the token cannot be used.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let token = match &self.manager.token_file {
            Some(path) => Some(disk::read_secret(path)?),
            None => None,
        };
        let mut client = Client::new(&self.manager.url, token.as_deref(), self.tls.clone())?;
        let mut rng = fastrand::Rng::new();
        let mut backoff = tributary_common::backoff::Backoff::new(FIRST, CAP);
        let (mut number, mut told_at) = (0, None::<Instant>);
        let mut last_error = String::new();
        let mut next = Instant::now();
        loop {
            let stopped = stop.run_until_cancelled(sleep_until(next)).await.is_none();
            let due = stopped || told_at.is_none_or(|at| at.elapsed() >= HEARTBEAT);
            let (report, telling) = self.build(number + 1);
            let quiet = telling.count == 0 && telling.losses == 0;
            let jitter = EVERY.mul_f64(0.8 + 0.4 * rng.f64());
            next = Instant::now() + jitter;
            if quiet && !due {
                continue;
            }
            number += 1;
            let body = serde_json::to_vec(&report)?;
            // The same report until it is answered; at the stop it is tried once.
            let answer = loop {
                match send(
                    &mut client,
                    &body,
                    number,
                    if stopped { LAST_LIMIT } else { LIMIT },
                )
                .await
                {
                    Ok(answer) => break answer,
                    Err(error) => self.tell(&error, &mut last_error),
                }
                let pause = sleep_until(Instant::now() + backoff.next(&mut rng));
                if stopped || stop.run_until_cancelled(pause).await.is_none() {
                    return Ok(());
                }
            };
            if let Some(given) = answer.collection {
                given::pass_on(&self.offer, given);
            }
            if !last_error.is_empty() {
                tracing::info!("the manager takes reports again");
                last_error.clear();
            }
            backoff.reset();
            told_at = Some(Instant::now());
            if telling.more {
                next = Instant::now();
            }
            self.mark(telling);
            if stopped {
                return Ok(());
            }
        }
    }

    /// Says once that the manager cannot be reached, and again when the reason changes.
    fn tell(&self, error: &str, last_error: &mut String) {
        metrics::counter!("tributary_agent_report_failures_total").increment(1);
        if last_error != error {
            tracing::warn!(
                url = self.manager.url,
                error,
                "the manager takes no report; counts wait, lines go on"
            );
            error.clone_into(last_error);
        }
    }

    /// The manager has it: those facts leave the accounts.
    fn mark(&self, telling: Telling) {
        let mut records: Vec<Record> = telling.told.into_iter().map(Record::Told).collect();
        if telling.losses > 0 {
            records.push(Record::LossesTold(telling.losses));
        }
        if !records.is_empty() {
            self.checkpoint.note(records);
        }
    }

    /// Builds a report of what is not told yet.
    fn build(&self, number: u64) -> (Report, Telling) {
        let refused = self.status.refused();
        let (mut telling, losses) = self.checkpoint.read(|state| {
            let is_refused = |stream: StreamId| refused.contains_key(&stream);
            let losses: Vec<_> = state.ledger.losses.iter().cloned().collect();
            (tell_all(state, is_refused), losses)
        });
        telling.losses = losses.len() as u64;
        let report = Report {
            reporter: self.reporter.clone(),
            epoch: self.epoch,
            number,
            sent_at_ms: clock::now_ms(),
            facts: std::mem::take(&mut telling.facts),
            duplicates: Vec::new(),
            losses,
            letters: Vec::new(),
            switches: Vec::new(),
            held: std::mem::take(&mut telling.held),
            health: Health {
                software: software(),
                memory_bytes: resident_bytes(),
                tasks: self.status.health(&self.checkpoint),
                config: Some(self.status.config_health()),
                collection: Some(self.status.given()),
                ..Health::default()
            },
        };
        (report, telling)
    }
}

/// The name and version of this program.
pub(crate) fn software() -> String {
    concat!("tributary-agent ", env!("CARGO_PKG_VERSION")).to_owned()
}

/// Sends one report; the error is a sentence.
async fn send(
    client: &mut Client,
    body: &[u8],
    number: u64,
    limit: Duration,
) -> Result<ReportAnswer, String> {
    let answer = client.post_json(REPORTS_PATH, body.to_vec(), limit).await;
    let (status, body) = answer.map_err(|error| error.to_string())?;
    if !status.is_success() {
        let text = String::from_utf8_lossy(body.get(..body.len().min(200)).unwrap_or_default());
        return Err(format!("the manager answered {status}: {text}"));
    }
    match serde_json::from_slice::<ReportAnswer>(&body) {
        Ok(answer) if answer.number == number => Ok(answer),
        Ok(answer) => Err(format!(
            "the manager answered report {} instead of {number}",
            answer.number
        )),
        Err(error) => Err(format!("the manager's answer is none: {error}")),
    }
}

/// Everything that is not told yet, up to the bound.
fn tell_all(state: &State, is_refused: impl Fn(StreamId) -> bool) -> Telling {
    let mut telling = Telling::default();
    for (&(stream, epoch), series) in &state.ledger.series {
        let Some(known) = state.streams.get(&stream) else {
            continue;
        };
        let held = if is_refused(stream) {
            HeldState::Refused
        } else {
            HeldState::InFlight
        };
        tell_series(&mut telling, known, (stream, epoch), series, held);
    }
    telling
}

/// Which hops of one batch are to be told now.
struct Untold {
    read: bool,
    sent: bool,
    end: Option<End>,
}

fn untold(account: &Account, seq: u64, read_before: u64) -> Untold {
    Untold {
        read: seq >= read_before,
        sent: account.sent && !account.sent_told && !account.end_told,
        end: account.end.filter(|_| !account.end_told),
    }
}

/// Tells one stream's batches of one life. A batch that was told as read, now or before, and whose
/// end is not told is held.
fn tell_series(
    telling: &mut Telling,
    known: &StreamState,
    key: (StreamId, Epoch),
    series: &Series,
    held: HeldState,
) {
    // By the topic that a batch was cut for.
    let mut runs: BTreeMap<(usize, Hop), Runs> = BTreeMap::new();
    let mut held_runs: BTreeMap<usize, Runs> = BTreeMap::new();
    let mut read_before = series.read_before;
    let (mut sent, mut ends) = (Ranges::default(), Ranges::default());
    for (seq, account) in (series.first_seq..).zip(&series.accounts) {
        let part = known.part_at(key.1, seq);
        let mut tell = |hop| runs.entry((part, hop)).or_default().add(seq, account);
        let mut untold = untold(account, seq, series.read_before);
        if telling.count >= MAX_FACTS {
            telling.more |= untold.read || untold.sent || untold.end.is_some();
            if untold.read {
                // Not told as read: not held either.
                break;
            }
            untold = Untold {
                read: false,
                sent: false,
                end: None,
            };
        }
        if untold.read {
            tell(Hop::Read);
            read_before = seq + 1;
        }
        if untold.sent {
            tell(Hop::Sent);
            sent.add(seq);
        }
        match untold.end {
            Some(end) => {
                tell(hop_of(end));
                ends.add(seq);
            }
            None if !account.end_told => {
                held_runs.entry(part).or_default().add(seq, account);
            }
            None => {}
        }
        telling.count +=
            usize::from(untold.read) + usize::from(untold.sent) + usize::from(untold.end.is_some());
    }
    let run = |part: usize, (first_seq, batches)| Run {
        topic: known.topic_of(part).clone(),
        stream: key.0,
        epoch: key.1,
        first_seq,
        batches,
    };
    for ((part, hop), runs) in runs {
        let runs = runs.0.into_iter().map(|some| run(part, some));
        telling.facts.extend(runs.map(|run| Fact { hop, run }));
    }
    for (part, runs) in held_runs {
        let runs = runs.0.into_iter().map(|some| run(part, some));
        let runs = runs.map(|run| Held { state: held, run });
        telling.held.extend(runs);
    }
    if read_before > series.read_before || !sent.0.is_empty() || !ends.0.is_empty() {
        telling.told.push(Told {
            stream: key.0,
            epoch: key.1,
            read_before,
            ends: ends.0,
            sent: sent.0,
        });
    }
}

/// Where a batch has come to, as its end says.
fn hop_of(end: End) -> Hop {
    match end {
        End::Delivered | End::Duplicate => Hop::Delivered,
        End::Spilled => Hop::Spilled,
        // Its bytes are told apart.
        End::Lost => Hop::Lost,
    }
}

/// Consecutive batches with their minutes.
#[derive(Default)]
struct Runs(Vec<(u64, Vec<Vec<tributary_common::header::MinuteCount>>)>);

impl Runs {
    fn add(&mut self, seq: u64, account: &Account) {
        match self.0.last_mut() {
            Some((first, batches)) if *first + batches.len() as u64 == seq => {
                batches.push(account.minutes.clone());
            }
            Some(_) | None => self.0.push((seq, vec![account.minutes.clone()])),
        }
    }
}

/// Consecutive numbers, as `[first, after last)`.
#[derive(Default)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    fn add(&mut self, seq: u64) {
        match self.0.last_mut() {
            Some((_, after)) if *after == seq => *after += 1,
            Some(_) | None => self.0.push((seq, seq + 1)),
        }
    }
}
