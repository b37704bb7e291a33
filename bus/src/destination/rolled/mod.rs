//! Batches as lines in compressed files, in HDFS or on a disk of this machine, each of which appears whole or not at all.
//!
//! # Constraints
//! A batch is answered only when the file with its lines has its final name and the journal says so;
//! until then the node's spill has it. So everything for this destination goes to the spill first,
//! the agents are acknowledged from there, and what is on its way here costs no memory of batches.
//! Each record is in exactly one file that has its final name, also when the node is killed at any
//! moment, and when a call had no answer.
//!
//! # Operation
//! For each folder at most one file takes batches, under a name that nobody reads. It is complete when it
//! is large or old enough:
//! ```text
//! journal: this file begins -> create .NAME.tmp -> write -> hsync, close -> write _NAME.json
//!   -> rename to NAME -> journal: these batches are delivered, the file is complete -> answer
//! ```
//! Meanwhile the folder's next file is written; it waits with its rename until the journal knows that this
//! one is complete, and is given up when this one fails, so that the lines of a stream stand in the order
//! of the files' names. The rename decides. What fails before is deleted, and its batches come again from the spill into
//! another file, under another name: a name is used once, so that a call that is carried out late
//! meets nothing of a later try. Whether a rename was carried out is never guessed: the temporary
//! file is deleted first, then the final name is looked for, and that as long as it takes. The files
//! that the journal calls begun and not complete are treated the same way by the next life, and the
//! manifest of one that has its final name says which batches are in it ([`settled`]).
//!
//! | room | what for |
//! |---|---|
//! | `open` | the thread that opens batches |
//! | `worker` | the thread: which batch goes into which file, when a file is complete, and the journal; `chain`: the files of a folder |
//! | `upload` | the way of one file to its name, as a task that only waits |
//! | `watch` | whether the place is there |
//! | `mark` | whether it is the place that it was |
//! | `store` | the place; `cluster`: calls to HDFS, `folder`: calls to a disk, each with a time limit, and their failures in words |
//! | `encode`, `manifest`, `names` | the bytes of a file, of its manifest, and their names |
//! | `small` | which topics are so slow that they share files |
//! | `settled` | batches that are in files of an earlier life |
//! | `points` | where a test stops the node |
//!
//! Not for: the spill, which gives the batches (see [`crate::spill`]).

mod cluster;
mod encode;
mod folder;
mod manifest;
mod mark;
mod names;
mod open;
mod points;
mod settled;
mod small;
mod store;
#[cfg(test)]
mod tests;
mod upload;
mod watch;
mod worker;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::Sender;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use tributary_common::{
    ids::{Name, NodeId},
    report::DestinationHealth,
};

use self::{open::Order, worker::Worker};
use super::{Condition, Job};
use crate::{done::DestinationNo, journal::Journal, template::Template};

/// Bytes that may wait here to be compressed and written; the spill gives no more before they are.
const MAX_WAITING_BYTES: u64 = 32 << 20;
/// The most files that are remembered for counting those of the last hour.
const MAX_COUNTED: usize = 100_000;
const HOUR: Duration = Duration::from_secs(3600);

/// The destination's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolledConfig {
    /// Where the files lie.
    pub place: Place,
    /// The folder of a batch.
    pub path: Template,
    /// When a file is complete.
    pub roll: Roll,
    /// A topic that writes less than so many bytes in the time of a file shares files with others; 0: none
    /// does.
    pub merge_below: u64,
    /// How files are compressed.
    pub compression: Compression,
}

/// Where files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In an HDFS.
    Hdfs(Hdfs),
    /// On a disk of this machine.
    Local,
}

impl Place {
    /// Its kind in the configuration.
    fn kind(&self) -> &'static str {
        match self {
            Self::Hdfs(_) => "hdfs",
            Self::Local => "file",
        }
    }

    /// What tells it from others of its kind.
    pub(crate) fn address(&self) -> Option<&str> {
        match self {
            Self::Hdfs(hdfs) => Some(&hdfs.url),
            Self::Local => None,
        }
    }
}

/// An HDFS, and who writes there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hdfs {
    /// A NameNode or a name service.
    pub url: String,
    /// Who writes, where there is no Kerberos.
    pub user: String,
    /// Who writes, where there is.
    pub kerberos: Option<Kerberos>,
    /// Keys of Hadoop's configuration.
    pub options: BTreeMap<String, String>,
}

/// Who writes to an HDFS behind Kerberos.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Kerberos {
    /// The principal.
    pub principal: String,
    /// The file with its keys.
    pub keytab: PathBuf,
}

/// When a file is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roll {
    /// At so many bytes as they are stored.
    pub size: u64,
    /// So long after its first batch.
    pub after: Duration,
}

/// How files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// `.zst`
    Zstd,
    /// `.gz`
    Gzip,
    /// Not at all.
    None,
}

/// A folder that takes nothing now.
#[derive(Debug)]
struct Trouble {
    why: String,
    /// When it is tried again; `None`: a file of it is still to be settled.
    until: Option<Instant>,
}

/// What the destination, its thread and its tasks share.
#[derive(Debug, Default)]
struct Shared {
    /// Why the place cannot be asked.
    absent: Mutex<Option<String>>,
    /// It is there, and another one than it was.
    other: AtomicBool,
    /// Why the files of an earlier life are not settled yet.
    recovering: Mutex<Option<String>>,
    /// Folders that take nothing. At most one for each folder that was tried and has batches.
    troubles: Mutex<HashMap<String, Trouble>>,
    /// Bytes that wait to be compressed or written.
    waiting: AtomicU64,
    open: AtomicU64,
    /// Topics that share files, by what stands in the place of their name.
    merged: Mutex<BTreeMap<String, u64>>,
    /// The shared folders that batches of these targets go to.
    elsewhere: Mutex<HashMap<String, String>>,
    /// When files got their names, in the last hour.
    complete: Mutex<VecDeque<Instant>>,
    /// Every file is to be completed now.
    hurry: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change below is whole before the lock is given back, also in a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Why nothing is taken at all.
    fn gone(&self) -> Option<String> {
        let absent = lock(&self.absent).clone();
        absent.or_else(|| lock(&self.recovering).clone())
    }

    /// Why nothing is taken for a folder.
    fn trouble(&self, folder: &str) -> Option<String> {
        let troubles = lock(&self.troubles);
        let trouble = troubles.get(folder)?;
        let waits = trouble.until.is_none_or(|until| Instant::now() < until);
        waits.then(|| trouble.why.clone())
    }

    /// [`Self::trouble`] of the folder that batches of a target go to.
    fn trouble_of(&self, target: &str) -> Option<String> {
        let elsewhere = lock(&self.elsewhere).get(target).cloned();
        self.trouble(elsewhere.as_deref().unwrap_or(target))
    }

    /// A file of a folder is in trouble.
    fn set_trouble(&self, folder: &str, why: String, until: Option<Instant>) {
        let trouble = Trouble { why, until };
        lock(&self.troubles).insert(folder.to_owned(), trouble);
    }

    /// A file of a folder failed, and is to be settled. Whether the folder was well before. What is said
    /// of another file that is still to be settled stands: it failed first.
    fn begin_trouble(&self, folder: &str, why: &str) -> bool {
        let mut troubles = lock(&self.troubles);
        let before = troubles.get(folder);
        let is_new = before.is_none();
        if before.is_none_or(|before| before.until.is_some()) {
            let trouble = Trouble {
                why: why.to_owned(),
                until: None,
            };
            troubles.insert(folder.to_owned(), trouble);
        }
        is_new
    }

    /// A file got its name.
    fn completed(&self) {
        let mut complete = lock(&self.complete);
        complete.push_back(Instant::now());
        while complete.len() > MAX_COUNTED || complete.front().is_some_and(|at| at.elapsed() > HOUR)
        {
            complete.pop_front();
        }
    }
}

/// Bytes that wait; they do not any more when it is dropped.
#[derive(Debug)]
struct Waiting {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Waiting {
    fn new(shared: &Arc<Shared>, bytes: usize) -> Self {
        let bytes = bytes as u64;
        shared.waiting.fetch_add(bytes, Ordering::Relaxed);
        Self {
            shared: Arc::clone(shared),
            bytes,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The destination.
#[derive(Debug)]
pub(crate) struct RolledSink {
    name: Name,
    kind: &'static str,
    no: DestinationNo,
    shared: Arc<Shared>,
    inbox: Sender<Order>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl RolledSink {
    /// Starts the thread. Nothing is asked of the place before that returns.
    ///
    /// # Errors
    /// Settings that do not make an address: mend them.
    pub(crate) fn start(
        name: &Name,
        config: &RolledConfig,
        node: &NodeId,
        journal: &Journal,
    ) -> anyhow::Result<Self> {
        let no = journal.memory().destination(name);
        let shared = Arc::new(Shared::default());
        let (inbox, thread) = Worker::start((name, no), config, node, journal, &shared)?;
        Ok(Self {
            name: name.clone(),
            kind: config.place.kind(),
            no,
            shared,
            inbox,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(crate) fn no(&self) -> DestinationNo {
        self.no
    }

    pub(crate) fn deliver(&self, job: Job) {
        let waiting = Waiting::new(&self.shared, job.batch.payload.len());
        // A thread that is gone drops the job, which answers for it.
        drop(self.inbox.send(Order::Job(job, waiting)));
    }

    /// Whether more batches may come now.
    pub(crate) fn has_room(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) < MAX_WAITING_BYTES
    }

    /// The disk that holds what is on its way here is full: files are completed before their time.
    pub(crate) fn hurry(&self) {
        self.shared.hurry.store(true, Ordering::Relaxed);
    }

    pub(crate) fn down(&self, target: &str) -> Option<String> {
        self.gone().or_else(|| self.shared.trouble_of(target))
    }

    pub(crate) fn gone(&self) -> Option<String> {
        self.shared.gone()
    }

    pub(crate) fn condition(&self) -> Condition {
        match (self.gone(), lock(&self.shared.troubles).is_empty()) {
            (Some(_), _) if self.shared.other.load(Ordering::Relaxed) => Condition::Refused,
            (Some(_), _) => Condition::Down,
            (None, false) => Condition::HalfDead,
            (None, true) => Condition::Up,
        }
    }

    pub(crate) fn health(&self) -> DestinationHealth {
        let gone = self.gone();
        let state = if gone.is_some() { "down" } else { "up" };
        let detail = gone.unwrap_or_else(|| {
            let troubles = lock(&self.shared.troubles);
            let mut some = troubles.iter().map(|(folder, one)| (folder, &one.why));
            match some.next() {
                Some((folder, why)) if troubles.len() == 1 => format!("{folder}: {why}"),
                Some((folder, why)) => {
                    let others = troubles.len() - 1;
                    format!("{folder}: {why} (and {others} other folders)")
                }
                None => String::new(),
            }
        });
        DestinationHealth {
            name: self.name.clone(),
            kind: self.kind.to_owned(),
            state: state.to_owned(),
            detail,
            dead: None,
        }
    }

    /// How many files there are, for `/status`.
    pub(crate) fn files(&self) -> Value {
        let complete = lock(&self.shared.complete);
        let recent = complete.iter().filter(|at| at.elapsed() <= HOUR);
        json!({
            "open": self.shared.open.load(Ordering::Relaxed),
            "completed_last_hour": recent.count(),
            "folders_in_trouble": lock(&self.shared.troubles).len(),
            "merged_topics": *lock(&self.shared.merged),
        })
    }

    /// Completes the open files as far as the grace lasts, and stops. What is not complete then is
    /// settled by the next life. A disk that hangs is left behind.
    pub(crate) fn close(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        // A thread that is gone has panicked; its join says so.
        drop(self.inbox.send(Order::Close(deadline)));
        let Some(thread) = lock(&self.thread).take() else {
            return;
        };
        while !thread.is_finished() {
            if Instant::now() >= deadline + worker::END_LIMIT * 2 {
                tracing::error!(destination = %self.name, "the journal's disk did not answer before the stop");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.join().is_err() {
            tracing::error!(destination = %self.name, "the thread of a destination panicked");
        }
    }
}
