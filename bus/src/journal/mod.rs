//! The durable memory of the bus node: what every destination has, and where its writes end.
//!
//! # Constraints
//! A batch is noted here before its acknowledgement leaves, so that a bus that was killed at any
//! moment removes the repeats and goes on behind its own writes. One thread owns the file; whoever
//! has something to note hands it over with what shall happen then, so many batches share one write
//! and one sync.
//!
//! # Operation
//! `Journal::commit` with `sync` waits for the disk (file destinations: their truncation at start
//! trusts what stands here). Without it the write is enough, for a process may die but the kernel's
//! pages live; a power cut may lose the last second, which costs a longer look through Kafka and
//! nothing else. When the file cannot be written, commits with `sync` fail; others hold in memory
//! and the next snapshot that succeeds writes them all.
//!
//! Format: `format.rs`. State: `memory.rs`. Not for: payloads.

pub(crate) mod format;
mod inspect;
pub(crate) mod memory;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Sender, channel, sync_channel},
    },
    thread::JoinHandle,
};

use anyhow::Context;
use tributary_common::{
    disk::{self, DiskError},
    ids::Epoch,
    wall,
};

pub use self::inspect::{Inspection, inspect, is_journal};
pub(crate) use self::writer::Writer;
use self::{
    format::{Record, scan},
    memory::Memory,
    writer::File,
};

/// The file's name in its folder.
const FILE: &str = "journal";
/// What to do when a commit is written: called on the journal's thread, must be quick.
pub(crate) type Then = Box<dyn FnOnce(Result<(), Arc<DiskError>>) + Send>;

struct Commit {
    records: Vec<Record>,
    sync: bool,
    then: Then,
    /// The last one: nothing is taken after it.
    last: bool,
}

/// The handle; clones share the one thread and file.
#[derive(Clone)]
pub(crate) struct Journal {
    commits: Sender<Commit>,
    memory: Arc<Mutex<Memory>>,
    failing: Arc<AtomicBool>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").finish_non_exhaustive()
    }
}

/// The journal's thread.
#[derive(Debug)]
pub(crate) struct Owner {
    thread: JoinHandle<()>,
    commits: Sender<Commit>,
}

impl Owner {
    /// Writes and syncs what was committed so far, and ends; later commits fail. Blocks.
    pub(crate) fn close(self) {
        let last = Commit {
            records: Vec::new(),
            sync: true,
            then: Box::new(|_written| {}),
            last: true,
        };
        // A thread that is gone has said why.
        drop(self.commits.send(last));
        if self.thread.join().is_err() {
            tracing::error!("the journal's thread panicked");
        }
    }
}

/// What opening found, for the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Records that were read.
    pub(crate) records: usize,
    /// Bytes of a torn tail that were cut off.
    pub(crate) torn_bytes: usize,
    /// Bytes of damage in the middle, set aside.
    pub(crate) damaged_bytes: usize,
}

impl Journal {
    /// Opens the journal in `dir`, making it when there is none, and begins a new life.
    ///
    /// `keep_untold`: there is a manager to tell facts to.
    ///
    /// # Errors
    /// A file of another version, or a disk that does not answer: do not start.
    pub(crate) fn open(dir: &Path, keep_untold: bool) -> anyhow::Result<(Self, Owner, Opened)> {
        let (journal, writer, opened) = Self::prepare(dir, keep_untold)?;
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run())
            .context("failed to start a thread")?;
        let owner = Owner {
            thread,
            commits: journal.commits.clone(),
        };
        Ok((journal, owner, opened))
    }

    /// [`Journal::open`], with what its thread does left to the caller.
    pub(crate) fn prepare(dir: &Path, keep_untold: bool) -> anyhow::Result<(Self, Writer, Opened)> {
        disk::create_dir_all(dir)?;
        let path = dir.join(FILE);
        let bytes = disk::read(&path)?.unwrap_or_default();
        let found = scan(&bytes).with_context(|| path.display().to_string())?;
        let mut memory = Memory::default();
        for record in &found.records {
            memory.apply(record, keep_untold);
        }
        let damaged_bytes = found.damage.iter().map(|(start, end)| end - start).sum();
        let opened = Opened {
            records: found.records.len(),
            torn_bytes: bytes.len() - found.valid_bytes,
            damaged_bytes,
        };
        if damaged_bytes > 0 {
            // The good part goes on in the snapshot below; the evidence is kept beside it.
            disk::replace(&path.with_extension("damaged"), &bytes)?;
        }
        memory.epoch = Epoch(now_ms().max(memory.epoch.0 + 1));
        let failing = Arc::new(AtomicBool::new(false));
        let memory = Arc::new(Mutex::new(memory));
        let file = File::rewrite(path, &memory)?;
        // The commits of batches are bounded by the byte permits that they carry; the few others
        // by the targets and reports that wait for them.
        let (commits, incoming) = channel();
        let writer = Writer {
            incoming,
            file,
            memory: Arc::clone(&memory),
            failing: Arc::clone(&failing),
            keep_untold,
        };
        let journal = Self {
            commits,
            memory,
            failing,
        };
        Ok((journal, writer, opened))
    }

    /// The state; for a few lines at a time.
    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        // Records are applied one by one and whole, so a panic elsewhere leaves it usable.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes records; `then` is called once they are written (with `sync`: once they are durable).
    pub(crate) fn commit(&self, records: Vec<Record>, sync: bool, then: Then) {
        if let Err(refused) = self.commits.send(Commit {
            records,
            sync,
            then,
            last: false,
        }) {
            let gone = std::io::Error::other("the journal is closed");
            let path = PathBuf::from(FILE);
            (refused.0.then)(Err(Arc::new(DiskError {
                doing: "append to",
                path,
                source: gone,
            })));
        }
    }

    /// Notes records durably and waits; for plain threads.
    ///
    /// # Errors
    /// Why they are not durable.
    pub(crate) fn commit_and_wait(&self, records: Vec<Record>) -> Result<(), Arc<DiskError>> {
        let (done, result) = sync_channel(1);
        let then = Box::new(move |outcome| {
            // The waiter below outlives this call; if its thread died, nobody wants the answer.
            drop(done.send(outcome));
        });
        self.commit(records, true, then);
        result.recv().unwrap_or_else(|_closed| {
            let gone = std::io::Error::other("the journal's thread is gone");
            Err(Arc::new(DiskError {
                doing: "append to",
                path: FILE.into(),
                source: gone,
            }))
        })
    }

    /// Whether the file could not be written lately.
    pub(crate) fn failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }
}

/// The wall clock in ms since 1970.
pub(crate) fn now_ms() -> u64 {
    wall::now_ms()
}

/// The wall clock in minutes since 1970.
pub(crate) fn now_minute() -> u32 {
    u32::try_from(now_ms() / 60_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
