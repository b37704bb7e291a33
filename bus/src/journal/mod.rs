//! The durable memory of the bus node: what every destination has, and where its writes end.
//!
//! # Constraints
//! A batch is noted here before its acknowledgement leaves, so that a bus that was killed at any
//! moment removes the repeats and goes on behind its own writes. One thread owns the file; whoever
//! has something to note hands it over with what shall happen then, so many batches share one write
//! and one sync.
//!
//! # Operation
//! [`Journal::commit`] with `sync` waits for the disk (file destinations: their truncation at start
//! trusts what stands here). Without it the write is enough, for a process may die but the kernel's
//! pages live; a power cut may lose the last second, which costs a longer look through Kafka and
//! nothing else. When the file cannot be written, commits with `sync` fail; others hold in memory
//! and the next snapshot that succeeds writes them all.
//!
//! Format: [`format`]. State: [`memory`]. Not for: payloads.

pub(crate) mod format;
pub(crate) mod memory;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use serde::Serialize;
use tokio::time::Instant;
use tributary_common::{
    disk::{self, AppendFile, DiskError},
    ids::Epoch,
};

use self::{
    format::{FILE_HEADER_BYTES, Record, encode, file_header, scan},
    memory::Memory,
};

/// The file's name in its folder.
const FILE: &str = "journal";
/// The longest that a write without `sync` stays unsynced.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Commits that share one write at most.
const GROUP: usize = 4096;
/// A file below this many bytes is never compacted.
const COMPACT_BYTES: u64 = 8 << 20;
/// A file is compacted when it is this many times its last snapshot.
const COMPACT_RATIO: u64 = 4;

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
        let (commits, incoming) = crossbeam_channel::unbounded();
        let writer = Writer {
            incoming,
            file,
            memory: Arc::clone(&memory),
            failing: Arc::clone(&failing),
            keep_untold,
        };
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run())
            .context("failed to start a thread")?;
        let owner = Owner {
            thread,
            commits: commits.clone(),
        };
        Ok((
            Self {
                commits,
                memory,
                failing,
            },
            owner,
            opened,
        ))
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
        let (done, result) = crossbeam_channel::bounded(1);
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

/// The file and how long it was after its last snapshot.
struct File {
    append: AppendFile,
    path: PathBuf,
    snapshot_bytes: u64,
    unsynced: bool,
    synced_at: Instant,
}

impl File {
    /// Writes the whole state to a new file in place of the old one.
    fn rewrite(path: PathBuf, memory: &Mutex<Memory>) -> Result<Self, DiskError> {
        let mut bytes = file_header().to_vec();
        let records = memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .snapshot(now_minute());
        for record in &records {
            encode(record, &mut bytes);
        }
        debug_assert!(bytes.len() >= FILE_HEADER_BYTES);
        disk::replace(&path, &bytes)?;
        Ok(Self {
            append: AppendFile::open(&path)?,
            path,
            snapshot_bytes: bytes.len() as u64,
            unsynced: false,
            synced_at: Instant::now(),
        })
    }

    fn write(&mut self, bytes: &[u8], sync: bool) -> Result<(), DiskError> {
        self.append.append(bytes)?;
        self.unsynced = true;
        if sync || self.synced_at.elapsed() >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        if self.unsynced {
            self.append.sync()?;
            self.unsynced = false;
        }
        self.synced_at = Instant::now();
        Ok(())
    }

    fn wants_compaction(&self) -> bool {
        self.append.len() > COMPACT_BYTES.max(self.snapshot_bytes.saturating_mul(COMPACT_RATIO))
    }
}

/// What the thread owns.
struct Writer {
    incoming: Receiver<Commit>,
    file: File,
    memory: Arc<Mutex<Memory>>,
    failing: Arc<AtomicBool>,
    keep_untold: bool,
}

impl Writer {
    fn run(mut self) {
        let mut last = false;
        while !last {
            let group: Vec<_> = match self.incoming.recv_timeout(SYNC_EVERY) {
                Ok(first) => std::iter::once(first)
                    .chain(self.incoming.try_iter().take(GROUP))
                    .collect(),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            last = group.iter().any(|commit| commit.last);
            self.write(group);
        }
        if let Err(error) = self.file.sync() {
            tracing::error!(%error, "the journal could not be synced at the end");
        }
    }

    fn write(&mut self, group: Vec<Commit>) {
        let mut bytes = Vec::new();
        {
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            for record in group.iter().flat_map(|commit| &commit.records) {
                if let Some(target) = target_of(record).and_then(|no| memory.unwritten(no)) {
                    encode(&target, &mut bytes);
                }
                encode(record, &mut bytes);
            }
        }
        let sync = group.iter().any(|commit| commit.sync);
        let outcome = self.attempt(&bytes, sync).map_err(Arc::new);
        for commit in group {
            if outcome.is_ok() || !commit.sync {
                let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
                for record in &commit.records {
                    memory.apply(record, self.keep_untold);
                }
            }
            (commit.then)(match commit.sync {
                true => outcome.clone(),
                false => Ok(()),
            });
        }
        if self.failing.load(Ordering::Relaxed) || self.file.wants_compaction() {
            self.compact();
        }
    }

    fn attempt(&mut self, bytes: &[u8], sync: bool) -> Result<(), DiskError> {
        if self.failing.load(Ordering::Relaxed) {
            // What failed before is missing in the file: only a snapshot makes it whole again.
            let source = std::io::Error::other("an earlier write failed");
            return Err(DiskError {
                doing: "append to",
                path: self.file.path.clone(),
                source,
            });
        }
        let written = match bytes {
            [] => self.file.sync(),
            bytes => self.file.write(bytes, sync),
        };
        if let Err(error) = &written {
            self.failing.store(true, Ordering::Relaxed);
            tracing::error!(%error, "the journal cannot be written: acknowledgements go on from memory, file destinations wait");
        }
        written
    }

    fn compact(&mut self) {
        match File::rewrite(self.file.path.clone(), &self.memory) {
            Ok(file) => {
                self.file = file;
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the journal is written again");
                }
            }
            Err(error) if self.failing.load(Ordering::Relaxed) => {
                tracing::debug!(%error, "the journal still cannot be written");
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(error) => {
                // The old file may have been replaced or not: go on only from a whole one.
                self.failing.store(true, Ordering::Relaxed);
                tracing::error!(%error, "the journal cannot be compacted");
            }
        }
    }
}

/// The target that a record speaks of.
fn target_of(record: &Record) -> Option<u32> {
    match record {
        Record::Delivered(delivered) => Some(delivered.target),
        Record::Position { target, .. }
        | Record::Opened { target }
        | Record::Closed { target }
        | Record::Forgotten { target }
        | Record::Resolved { target } => Some(*target),
        Record::Life { .. }
        | Record::Target { .. }
        | Record::Done { .. }
        | Record::Mark { .. }
        | Record::Told { .. } => None,
    }
}

/// The wall clock in ms since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The wall clock in minutes since 1970.
pub(crate) fn now_minute() -> u32 {
    u32::try_from(now_ms() / 60_000).unwrap_or(u32::MAX)
}

/// A journal in words, for `tributary inspect`.
#[derive(Debug, Serialize)]
pub struct Inspection {
    version: u16,
    bytes: usize,
    records: usize,
    torn_bytes: usize,
    damaged: Vec<(usize, usize)>,
    epoch: u64,
    untold_batches: usize,
    destinations: Vec<InspectedDestination>,
}

#[derive(Debug, Serialize)]
struct InspectedDestination {
    destination: String,
    streams: usize,
    batches: u64,
    targets: Vec<InspectedTarget>,
}

#[derive(Debug, Serialize)]
struct InspectedTarget {
    target: String,
    open: bool,
    /// Per partition the end, and the floor where a recovery would begin.
    positions: Vec<(i32, i64, Option<i64>)>,
}

/// Whether `path` is a journal, or a folder that holds one.
///
/// # Errors
/// When it cannot be read.
pub fn is_journal(path: &Path) -> anyhow::Result<bool> {
    let Some(path) = journal_file(path)? else {
        return Ok(false);
    };
    let bytes = disk::read(&path)?.unwrap_or_default();
    Ok(bytes.starts_with(&format::MAGIC))
}

/// Reads a journal (or the one in a folder) without touching it.
///
/// # Errors
/// When there is none, or it is of another version.
pub fn inspect(path: &Path) -> anyhow::Result<Inspection> {
    let file =
        journal_file(path)?.with_context(|| format!("{} holds no journal", path.display()))?;
    let bytes = disk::read(&file)?.with_context(|| format!("{} is missing", file.display()))?;
    let found = scan(&bytes).with_context(|| file.display().to_string())?;
    let mut memory = Memory::default();
    for record in &found.records {
        memory.apply(record, true);
    }
    let mut destinations = Vec::new();
    for no in 0.. {
        let Some(name) = memory.destination_name(no) else {
            break;
        };
        let here = memory
            .done
            .iter()
            .filter(|(destination, _stream, _done)| *destination == no);
        let (mut streams, mut batches) = (0, 0);
        for (_destination, _stream, done) in here {
            streams += 1;
            batches += done.epochs.values().map(|seqs| seqs.len()).sum::<u64>();
        }
        let targets = memory
            .targets_of(no)
            .into_iter()
            .map(|(_no, target)| InspectedTarget {
                target: target.name.to_string(),
                open: target.open,
                positions: target
                    .positions
                    .iter()
                    .map(|(&p, at)| (p, at.end, at.floor))
                    .collect(),
            });
        destinations.push(InspectedDestination {
            destination: name.to_string(),
            streams,
            batches,
            targets: targets.collect(),
        });
    }
    Ok(Inspection {
        version: format::VERSION,
        bytes: bytes.len(),
        records: found.records.len(),
        torn_bytes: bytes.len() - found.valid_bytes,
        damaged: found.damage,
        epoch: memory.epoch.0,
        untold_batches: memory.untold.len(),
        destinations,
    })
}

/// The journal's file at or in `path`; `None` when a folder holds none.
fn journal_file(path: &Path) -> anyhow::Result<Option<PathBuf>> {
    if !path.is_dir() {
        return Ok(Some(path.to_owned()));
    }
    let inside = path.join(FILE);
    Ok(inside.try_exists()?.then_some(inside))
}

#[cfg(test)]
mod tests;
