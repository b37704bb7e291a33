//! Batches as lines in local files: the embedded default, and the folders that HDFS has, too.
//!
//! # Constraints
//! A batch is acknowledged when its lines and the journal's word of where they end are both on the
//! disk. After a kill at any moment no line is lost or doubled: what stands behind the journal's
//! last word was never acknowledged, is cut off when the file is next opened, and comes again.
//!
//! # Operation
//! One thread owns all files. It takes every job that is ready, appends each file's lines with one
//! write, syncs the files, notes the batches in the journal with one sync, and answers. A failure
//! cuts the files back, fails everything that is waiting, and takes the destination down until a
//! look every 500 ms finds it well. Records are written raw, each with a newline behind it.
//!
//! The root (the path's part before its first placeholder) is made at the start and never again:
//! when it is taken away (unmounted, renamed) the destination waits for it, and does not fill the
//! disk below the mount point.
//!
//! Not for: rolling and compression (files roll by the template's date and hour).

mod files;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use tokio::time::Instant;
use tributary_common::{
    batch::Decoder,
    disk::DiskError,
    ids::{Name, NodeId},
    report::DestinationHealth,
    wire::Place,
};

use self::files::{Files, Written};
use super::{Failure, Job, delivered};
use crate::{done::DestinationNo, journal::Journal, template::Template};

/// How often a destination that is down is looked at.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// How often idle files are closed.
const TIDY_EVERY: Duration = Duration::from_secs(30);
/// The most batches and raw bytes of one group: bounds how long the first one waits for the disk.
const GROUP_BATCHES: usize = 512;
const GROUP_BYTES: u64 = 32 << 20;

/// Why a batch fails whose stream has failed before it.
const BEHIND: &str = "an earlier batch of this stream failed";

/// What the sink and its thread share.
#[derive(Debug, Default)]
struct Shared {
    /// Why nothing is taken at all.
    down: Mutex<Option<String>>,
    /// Folders that could not be written to lately, since when and why. At most one for each topic
    /// and hour that was tried; forgotten with the next success or when it is old.
    bad: Mutex<HashMap<String, (Instant, String)>>,
}

impl Shared {
    fn down(&self) -> MutexGuard<'_, Option<String>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bad(&self) -> MutexGuard<'_, HashMap<String, (Instant, String)>> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The destination.
#[derive(Debug)]
pub(crate) struct FileSink {
    name: Name,
    no: DestinationNo,
    jobs: Mutex<Option<Sender<Job>>>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl FileSink {
    /// Makes the root, cuts files back to what the journal knows of them, and starts the thread.
    ///
    /// # Errors
    /// A root that cannot be made: mend the path.
    pub(crate) fn start(
        name: &Name,
        path: &Template,
        node: &NodeId,
        journal: &Journal,
    ) -> anyhow::Result<Self> {
        let no = journal.memory().destination(name);
        let root = root_of(path);
        let files = Files::open(name, root, no, journal.clone())
            .with_context(|| format!("failed to start destination {name}"))?;
        files.recover();
        let shared = Arc::new(Shared::default());
        // Bounded by the byte permits that the jobs carry.
        let (jobs, incoming) = crossbeam_channel::unbounded();
        let worker = Worker {
            name: name.clone(),
            file_name: format!("{node}.log"),
            incoming,
            files,
            journal: journal.clone(),
            backlog: VecDeque::new(),
            shared: Arc::clone(&shared),
            decoder: Decoder::new(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("file-{name}"))
            .spawn(move || worker.run())
            .context("failed to start a thread")?;
        Ok(Self {
            name: name.clone(),
            no,
            jobs: Mutex::new(Some(jobs)),
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(crate) fn no(&self) -> DestinationNo {
        self.no
    }

    pub(crate) fn deliver(&self, job: Job) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(jobs) = jobs.as_ref() {
            // A thread that is gone drops the job, which answers for it.
            drop(jobs.send(job));
        }
    }

    /// Why nothing is taken for this folder now.
    pub(crate) fn down(&self, target: &str) -> Option<String> {
        let down = self.shared.down().clone();
        down.or_else(|| {
            let bad = self.shared.bad();
            let (since, why) = bad.get(target)?;
            (since.elapsed() < PROBE_EVERY).then(|| why.clone())
        })
    }

    pub(crate) fn gone(&self) -> Option<String> {
        self.shared.down().clone()
    }

    pub(crate) fn health(&self) -> DestinationHealth {
        let detail = self.shared.down().clone();
        DestinationHealth {
            name: self.name.clone(),
            kind: "file".to_owned(),
            state: if detail.is_some() { "down" } else { "up" }.to_owned(),
            detail: detail.unwrap_or_default(),
            dead: None,
        }
    }

    /// Finishes what was given and stops. A disk that hangs is left behind after the grace.
    pub(crate) fn close(&self, grace: Duration) {
        drop(
            self.jobs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(thread) = thread else { return };
        let deadline = Instant::now() + grace;
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                tracing::error!(destination = %self.name, "the disk did not answer before the stop");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.join().is_err() {
            tracing::error!(destination = %self.name, "the thread of a file destination panicked");
        }
    }
}

/// The folder that is made at the start: all of the path before its first placeholder.
fn root_of(path: &Template) -> PathBuf {
    let prefix = path.static_prefix();
    match prefix.rfind('/') {
        Some(0) => PathBuf::from("/"),
        Some(end) => PathBuf::from(prefix.get(..end).unwrap_or(prefix)),
        None => PathBuf::from("."),
    }
}

/// A job with its lines in a file, not yet durable.
struct Staged {
    job: Job,
    written: Written,
}

struct Worker {
    name: Name,
    file_name: String,
    incoming: Receiver<Job>,
    files: Files,
    journal: Journal,
    /// Jobs that were looked at before their turn.
    backlog: VecDeque<Job>,
    shared: Arc<Shared>,
    decoder: Decoder,
}

impl Worker {
    fn run(mut self) {
        let mut tidied = Instant::now();
        loop {
            let first = match self.backlog.pop_front() {
                Some(job) => Ok(job),
                None => self.incoming.recv_timeout(PROBE_EVERY),
            };
            match first {
                Ok(first) => self.group(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.probe();
            if tidied.elapsed() >= TIDY_EVERY {
                self.files.tidy();
                self.shared
                    .bad()
                    .retain(|_target, (since, _why)| since.elapsed() < TIDY_EVERY);
                tidied = Instant::now();
            }
        }
        self.files.close_all();
    }

    /// Looks whether a destination that is down is well again, and whether one that is up still has
    /// its root.
    fn probe(&mut self) {
        let found = self.files.probe();
        let mut down = self.shared.down();
        match (&found, down.as_ref()) {
            (Ok(()), Some(_)) => {
                tracing::info!(destination = %self.name, "the destination is up again");
            }
            (Err(why), None) => {
                tracing::error!(destination = %self.name, "the destination is down: {why}");
            }
            (Ok(()), None) | (Err(_), Some(_)) => {}
        }
        *down = found.err();
        self.gauge(down.is_none());
    }

    fn gauge(&self, up: bool) {
        metrics::gauge!("tributary_bus_destination_up_count", "destination" => self.name.to_string())
            .set(if up { 1.0 } else { 0.0 });
    }

    fn next(&mut self) -> Option<Job> {
        self.backlog
            .pop_front()
            .or_else(|| self.incoming.try_recv().ok())
    }

    /// Takes all that is ready, makes it durable together, and answers.
    fn group(&mut self, first: Job) {
        let mut bytes = 0;
        let mut group = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next {
            bytes += job.batch.header.raw_bytes;
            group.push(job);
            let room = group.len() < GROUP_BATCHES && bytes < GROUP_BYTES;
            next = if room { self.next() } else { None };
        }
        if let Some(why) = self.shared.down().clone() {
            return fail(group, &why);
        }
        if let Err(why) = self.files.probe() {
            self.go_down(&why);
            return fail(group, &why);
        }
        let started = Instant::now();
        let mut waiting = group.into_iter();
        let (mut staged, mut failed) = (Vec::new(), HashSet::new());
        for job in waiting.by_ref() {
            let stream = job.batch.header.stream;
            if failed.contains(&stream) {
                job.done.tell(Err(Failure::Unavailable(BEHIND.to_owned())));
                continue;
            }
            match self.stage(job) {
                Ok(Some(one)) => staged.push(one),
                Ok(None) => {}
                Err((job, error)) if error.is_full() => {
                    let jobs = staged
                        .into_iter()
                        .map(|one| one.job)
                        .chain([job])
                        .chain(waiting);
                    return self.give_up(jobs.collect(), &error.to_string());
                }
                Err((job, error)) => {
                    failed.insert(stream);
                    self.one_is_bad(job, &error);
                }
            }
        }
        match self.commit(&staged) {
            Ok(()) => {
                metrics::histogram!("tributary_bus_deliver_seconds", "destination" => self.name.to_string())
                    .record(started.elapsed().as_secs_f64());
                for Staged { job, written } in staged {
                    let place = self.place(&written);
                    job.done.tell(Ok(place));
                }
            }
            Err(why) => self.give_up(staged.into_iter().map(|one| one.job).collect(), &why),
        }
    }

    /// Appends a job's lines to its file. `None`: the job was rejected and answered.
    fn stage(&mut self, job: Job) -> Result<Option<Staged>, (Job, Arc<DiskError>)> {
        let decoded = match job.batch.open(&mut self.decoder) {
            Ok(decoded) => decoded,
            Err(failure) => {
                job.done.tell(Err(failure));
                return Ok(None);
            }
        };
        let path = PathBuf::from(&job.target).join(&self.file_name);
        let lines = decoded.records().map(|record| record.value);
        let written = self.files.append(&path, lines);
        self.decoder.recycle(decoded);
        match written {
            Ok(written) => {
                if self.shared.bad().remove(&job.target).is_some() {
                    tracing::info!(destination = %self.name, folder = job.target, "a folder can be written to again");
                }
                Ok(Some(Staged { job, written }))
            }
            Err(error) => Err((job, error)),
        }
    }

    /// One folder cannot be written to: its batch fails, with what waits behind it in its stream;
    /// everything else goes on.
    fn one_is_bad(&mut self, job: Job, error: &DiskError) {
        let why = error.to_string();
        let before = self
            .shared
            .bad()
            .insert(job.target.clone(), (Instant::now(), why.clone()));
        if before.is_none() {
            tracing::error!(destination = %self.name, folder = job.target, "a folder cannot be written to: {why}; its batches are answered Busy");
        }
        let stream = job.batch.header.stream;
        self.backlog.extend(self.incoming.try_iter());
        let (behind, others): (VecDeque<Job>, VecDeque<Job>) = std::mem::take(&mut self.backlog)
            .into_iter()
            .partition(|one| one.batch.header.stream == stream);
        self.backlog = others;
        fail(vec![job], &why);
        fail(behind.into(), BEHIND);
    }

    /// Data first, then the journal's word of it.
    fn commit(&mut self, staged: &[Staged]) -> Result<(), String> {
        self.files.flush()?;
        let records = staged.iter().map(|one| {
            delivered(
                one.written.target,
                &one.job.batch,
                &self.place(&one.written),
            )
        });
        let records: Vec<_> = records.collect();
        self.journal
            .commit_and_wait(records)
            .map_err(|error| error.to_string())?;
        self.files.committed();
        Ok(())
    }

    fn place(&self, written: &Written) -> Place {
        Place {
            destination: self.name.clone(),
            target: written.path.display().to_string(),
            partition: 0,
            first: offset(written.first),
            end: offset(written.end),
        }
    }

    /// Undoes the group and fails it with all that waits behind it.
    fn give_up(&mut self, mut jobs: Vec<Job>, why: &str) {
        self.files.undo();
        jobs.extend(self.backlog.drain(..));
        jobs.extend(self.incoming.try_iter());
        self.go_down(why);
        fail(jobs, why);
    }

    fn go_down(&self, why: &str) {
        tracing::error!(destination = %self.name, "the destination is down: {why}");
        *self.shared.down() = Some(why.to_owned());
        self.gauge(false);
    }
}

fn fail(jobs: Vec<Job>, why: &str) {
    for job in jobs {
        job.done.tell(Err(Failure::Unavailable(why.to_owned())));
    }
}

/// A byte offset as places have it.
fn offset(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
