//! The way in for reports: one task that owns the writing connection and takes all that waits in
//! one transaction, so that one sync of the disk serves many reports.
//!
//! A report is answered after its commit. One that can not be written fails alone: when a group
//! fails, its reports are tried one by one.
//!
//! Not for: reading. The API sends reports, [`crate::jobs`] sends the retention.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tributary_common::report::{Report, Reporter, Run};

use super::{live::Live, rates::Rates};
use crate::{
    service::writer::{Incoming, Writer},
    store::{Store, StoreError, tidy},
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

/// Answers; who asked may be gone.
fn answer_or_drop<T>(answer: oneshot::Sender<T>, value: T) {
    drop(answer.send(value));
}

/// Whether a report can be believed.
fn check(report: &Report) -> Result<(), String> {
    if report.number == 0 {
        return Err("number is 0; the first report of an epoch has number 1".to_owned());
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
    for loss in &report.losses {
        if loss.span.end < loss.span.start {
            let (start, end) = (loss.span.start, loss.span.end);
            return Err(format!(
                "loss in {} ends at {end}, before its start {start}",
                loss.file
            ));
        }
    }
    match &report.reporter {
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
