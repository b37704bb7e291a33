//! The way in for reports: one task that owns the writing connection and takes all that waits in
//! one transaction, so that one sync of the disk serves many reports.
//!
//! A report is answered after its commit. One that can not be written fails alone: when a group
//! fails, its reports are tried one by one.
//!
//! Not for: reading. The API sends reports and what people ask for, [`crate::jobs`] sends the retention and
//! what came of that.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tributary_common::report::{DeadRecords, Lost, Report, Reporter, Run};

use super::{live::Live, rates::Rates};
use crate::{
    service::writer::{Incoming, Writer},
    store::{
        Store, StoreError, audit,
        audit::AuditWrite,
        documents::{self, DocumentRow},
        tidy,
    },
};

/// Reports that may wait: more than a group, so that the next one gathers while one is written.
const QUEUE: usize = 128;
/// The most reports in one transaction: bounds the time until the first is answered.
const GROUP: usize = 64;
/// The most records of one batch that is believed; a batch has at most 900 KiB of lines.
const MAX_BATCH_RECORDS: u64 = 1 << 24;

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IntakeError {
    /// Too many wait. Send it again in a second.
    #[error("too many reports wait")]
    Busy,
    /// The manager stops. Send it again when it is back.
    #[error("the manager is stopping")]
    Stopping,
    /// It contradicts itself. Sending it again does not help.
    #[error("{0}")]
    Invalid(String),
    /// The database failed; the log has the cause. Send it again.
    #[error("the database failed")]
    Failed,
}

/// Where a report's number goes once it is safe.
type Answer = oneshot::Sender<Result<u64, IntakeError>>;

/// What the writing task is asked to do.
#[derive(Debug)]
enum Command {
    Report {
        incoming: Box<Incoming>,
        answer: Answer,
    },
    Forget {
        cutoff_ms: i64,
        answer: oneshot::Sender<Result<u64, StoreError>>,
    },
    Audit {
        record: AuditWrite,
        answer: oneshot::Sender<Result<(), IntakeError>>,
    },
    Document {
        row: DocumentRow,
        answer: oneshot::Sender<Result<(), IntakeError>>,
    },
}

/// The door of the writing task; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Intake {
    queue: mpsc::Sender<Command>,
}

/// The writing task, before it runs.
#[derive(Debug)]
pub(crate) struct Task {
    queue: mpsc::Receiver<Command>,
    writer: Writer,
    store: Store,
    live: Arc<Live>,
}

/// Makes the task and its door.
pub(crate) fn new(store: Store, rates: Arc<Rates>, live: Arc<Live>) -> (Intake, Task) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let writer = Writer::new(store.clone(), rates);
    (
        Intake { queue: sender },
        Task {
            queue,
            writer,
            store,
            live,
        },
    )
}

impl Intake {
    /// Takes a report and answers its number once it is safe.
    pub(crate) async fn take(&self, report: Report, now_ms: i64) -> Result<u64, IntakeError> {
        check(&report).map_err(IntakeError::Invalid)?;
        let (answer, answered) = oneshot::channel();
        let incoming = Box::new(Incoming { report, now_ms });
        self.queue
            .try_send(Command::Report { incoming, answer })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => IntakeError::Busy,
                mpsc::error::TrySendError::Closed(_) => IntakeError::Stopping,
            })?;
        answered.await.unwrap_or(Err(IntakeError::Stopping))
    }

    /// Deletes some of what was not touched since `cutoff_ms`; how many rows went. 0 also when the
    /// manager stops.
    pub(crate) async fn forget(&self, cutoff_ms: i64) -> Result<u64, StoreError> {
        let (answer, answered) = oneshot::channel();
        if self
            .queue
            .send(Command::Forget { cutoff_ms, answer })
            .await
            .is_err()
        {
            return Ok(0);
        }
        answered.await.unwrap_or(Ok(0))
    }

    /// Writes a record of what somebody asked for; once it is safe.
    pub(crate) async fn audit(&self, record: AuditWrite) -> Result<(), IntakeError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Audit { record, answer };
        let sent = self.queue.send(command).await;
        sent.or(Err(IntakeError::Stopping))?;
        answered.await.unwrap_or(Err(IntakeError::Stopping))
    }

    /// Writes what parts are to go by; once it is safe.
    pub(crate) async fn document(&self, row: DocumentRow) -> Result<(), IntakeError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.queue.send(Command::Document { row, answer }).await;
        sent.or(Err(IntakeError::Stopping))?;
        answered.await.unwrap_or(Err(IntakeError::Stopping))
    }
}

impl Task {
    /// Runs until `done` is cancelled; what waits then is still written.
    pub(crate) async fn run(
        mut self,
        done: tokio_util::sync::CancellationToken,
    ) -> anyhow::Result<()> {
        let mut commands = Vec::with_capacity(GROUP);
        loop {
            let taken = tokio::select! {
                taken = self.queue.recv_many(&mut commands, GROUP) => taken,
                () = done.cancelled(), if !self.queue.is_closed() => {
                    self.queue.close();
                    continue;
                }
            };
            if taken == 0 {
                return Ok(());
            }
            let mut reports = Vec::with_capacity(taken);
            for command in commands.drain(..) {
                match command {
                    Command::Report { incoming, answer } => reports.push((incoming, answer)),
                    Command::Forget { cutoff_ms, answer } => {
                        let gone = self.forget(cutoff_ms).await;
                        answer_or_drop(answer, gone);
                    }
                    Command::Document { row, answer } => {
                        let written = self.document(&row).await;
                        answer_or_drop(answer, written);
                    }
                    Command::Audit { record, answer } => {
                        let written = self.audit(&record).await;
                        answer_or_drop(answer, written);
                    }
                }
            }
            self.write(reports).await;
        }
    }

    async fn write(&mut self, reports: Vec<(Box<Incoming>, Answer)>) {
        if reports.is_empty() {
            return;
        }
        let (incoming, answers): (Vec<_>, Vec<_>) = reports.into_iter().unzip();
        let began = Instant::now();
        let whole = self.writer.write(&incoming).await;
        metrics::histogram!("tributary_manager_write_seconds").record(began.elapsed());
        let alone = match &whole {
            Ok(()) => false,
            Err(error) => {
                tracing::error!(%error, reports = incoming.len(), "failed to write reports");
                incoming.len() > 1
            }
        };
        for (one, answer) in incoming.iter().zip(answers) {
            let taken = if alone {
                let taken = self.writer.write(std::slice::from_ref(one)).await;
                taken
                    .inspect_err(|error| tracing::error!(%error, "failed to write a report"))
                    .is_ok()
            } else {
                whole.is_ok()
            };
            let result = if taken {
                Ok(one.report.number)
            } else {
                Err(IntakeError::Failed)
            };
            let label = if result.is_ok() { "taken" } else { "failed" };
            metrics::counter!("tributary_manager_reports_total", "outcome" => label).increment(1);
            answer_or_drop(answer, result);
        }
        self.live.changed();
    }

    async fn audit(&self, record: &AuditWrite) -> Result<(), IntakeError> {
        let written = async {
            let mut tx = self.store.writer().begin().await?;
            audit::write(&mut tx, record).await?;
            Ok(tx.commit().await?)
        };
        safe(written.await)
    }

    async fn document(&self, row: &DocumentRow) -> Result<(), IntakeError> {
        let written = async {
            let mut tx = self.store.writer().begin().await?;
            documents::write(&mut tx, row).await?;
            Ok(tx.commit().await?)
        };
        safe(written.await)
    }

    async fn forget(&mut self, cutoff_ms: i64) -> Result<u64, StoreError> {
        self.writer.clear();
        let mut tx = self.store.writer().begin().await?;
        let gone = tidy::forget(&mut tx, cutoff_ms).await?;
        tx.commit().await?;
        if gone > 0 {
            self.live.changed();
        }
        Ok(gone)
    }
}

/// Whether what was asked for is written; the log has the cause.
fn safe(written: Result<(), StoreError>) -> Result<(), IntakeError> {
    written.map_err(|error| {
        tracing::error!(%error, "failed to write what was asked for");
        IntakeError::Failed
    })
}

/// Answers; who asked may be gone.
fn answer_or_drop<T>(answer: oneshot::Sender<T>, value: T) {
    drop(answer.send(value));
}

/// Whether a report can be believed.
fn check(report: &Report) -> Result<(), String> {
    if report.number == 0 || report.number == u64::MAX {
        let number = report.number;
        return Err(format!(
            "number is {number}; the reports of an epoch are numbered 1, 2, 3 …"
        ));
    }
    let facts = report.facts.iter().map(|fact| &fact.run);
    for run in facts.chain(report.held.iter().map(|held| &held.run)) {
        check_run(run)?;
    }
    for duplicates in &report.duplicates {
        let records = duplicates
            .minutes
            .iter()
            .map(|minute| u64::from(minute.records))
            .sum::<u64>();
        if records > u64::from(u32::MAX) {
            return Err(format!(
                "duplicates of topic {} count {records} records",
                duplicates.topic
            ));
        }
    }
    for Lost { loss, .. } in &report.losses {
        if loss.span.end < loss.span.start {
            let (start, end) = (loss.span.start, loss.span.end);
            return Err(format!(
                "loss in {} ends at {end}, before its start {start}",
                loss.file
            ));
        }
    }
    report.letters.iter().try_for_each(check_letters)?;
    match &report.reporter {
        Reporter::Agent { .. } if !report.letters.is_empty() => {
            Err("an agent tells dead letters; only bus nodes have some".to_owned())
        }
        Reporter::Bus { .. } if !report.held.is_empty() => {
            Err("a bus node tells held batches; only agents hold batches".to_owned())
        }
        Reporter::Bus { .. } | Reporter::Agent { .. } => Ok(()),
    }
}

fn check_run(run: &Run) -> Result<(), String> {
    let at = format!(
        "run of topic {}, stream {}, epoch {}",
        run.topic, run.stream, run.epoch
    );
    let end = run.first_seq.checked_add(run.batches.len() as u64);
    if run.first_seq == 0 || end.is_none() {
        let first = run.first_seq;
        return Err(format!(
            "{at} begins at {first}; sequence numbers begin at 1 and end below 2^64"
        ));
    }
    for (place, batch) in run.batches.iter().enumerate() {
        let records = batch
            .iter()
            .map(|minute| u64::from(minute.records))
            .sum::<u64>();
        if records > MAX_BATCH_RECORDS {
            let seq = run.first_seq + place as u64;
            return Err(format!(
                "{at} has {records} records in batch {seq}; a batch has at most {MAX_BATCH_RECORDS}"
            ));
        }
    }
    Ok(())
}

fn check_letters(told: &DeadRecords) -> Result<(), String> {
    let places = told.minutes.iter().flat_map(|minute| &minute.places);
    for &(first, end) in places {
        if first >= end || u64::from(end) > MAX_BATCH_RECORDS {
            return Err(format!(
                "dead letters of batch {} of topic {} are from {first} to {end}; a batch has at most {MAX_BATCH_RECORDS} records",
                told.batch, told.topic
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;
    use tokio::task::JoinSet;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::service::range::{MINUTE_MS, Minutes, Named};

    const NOW_MS: i64 = 1_700_000_000_000;

    /// One batch read, with what is held and delivered of it.
    fn told(number: u64, held: bool, delivered: bool) -> Report {
        let run = json!({
            "topic": "web", "stream": 1, "epoch": 9, "first_seq": 1, "hop": "read",
            "state": "refused", "batches": [[{ "minute": NOW_MS / MINUTE_MS, "records": 10 }]],
        });
        let mut facts = vec![run.clone()];
        if delivered {
            facts.push(run.clone());
            facts[1]["hop"] = "delivered".into();
        }
        serde_json::from_value(json!({
            "reporter": { "part": "agent", "id": "a1", "host": "h", "zone": "z" },
            "epoch": 1, "number": number, "sent_at_ms": NOW_MS, "duplicates": [], "losses": [],
            "facts": facts, "held": if held { vec![run] } else { vec![] },
            "health": { "software": "", "memory_bytes": 0 },
        }))
        .unwrap()
    }

    /// Tells reports at times, forgets what is older than a cutoff, and returns the topics' counts
    /// of records read and refused.
    async fn check(reports: Vec<(i64, Report)>, cutoff_ms: i64) -> Vec<(i64, i64)> {
        let folder = TempDir::new().unwrap();
        let store = Store::open(&folder.path().join("manager.db"))
            .await
            .unwrap();
        let (intake, task) = new(store.clone(), Arc::new(Rates::new()), Arc::new(Live::new()));
        let (done, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(task.run(done.clone()));
        for (now_ms, report) in reports {
            intake.take(report, now_ms).await.unwrap();
        }
        while intake.forget(cutoff_ms).await.unwrap() > 0 {}
        let range = Minutes::named(Named::H1, NOW_MS);
        let topics = store.topics(range, NOW_MS).await.unwrap();
        done.cancel();
        tasks.join_next().await.unwrap().unwrap().unwrap();
        assert!(matches!(
            intake.take(told(9, false, false), 0).await,
            Err(IntakeError::Stopping)
        ));
        topics
            .iter()
            .map(|row| (row.tally.read, row.tally.refused))
            .collect()
    }

    #[tokio::test]
    async fn what_was_not_touched_for_long_is_forgotten() {
        let once = || vec![(NOW_MS, told(1, false, true))];
        assert_eq!(check(once(), NOW_MS).await, [(10, 0)]);
        assert_eq!(check(once(), NOW_MS + 1).await, []);
    }

    #[tokio::test]
    async fn what_a_living_agent_holds_is_not_forgotten() {
        let week = 7 * 24 * 60 * MINUTE_MS;
        let held = vec![
            (NOW_MS, told(1, true, false)),
            (NOW_MS + week, told(2, true, false)),
        ];
        assert_eq!(check(held, NOW_MS + week).await, [(10, 10)]);
        assert_eq!(
            check(vec![(NOW_MS, told(1, true, false))], NOW_MS + week).await,
            []
        );
    }
}
