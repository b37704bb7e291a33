//! The journal's thread: groups of commits, one write each, and the file that they go to.
//!
//! Commits that wait for the disk are synced here; for the others another thread syncs once a
//! second, so that no acknowledgement waits for a slow disk. Not for: what the records mean.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use tokio::time::Instant;
use tributary_common::disk::{self, AppendFile, DiskError, Syncer};

use super::{
    Commit,
    format::{FILE_HEADER_BYTES, Record, encode, file_header},
    memory::Memory,
    now_minute,
};

/// The longest that a write without `sync` stays unsynced.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// A file that cannot be written is tried again after this.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Commits that come sooner than this after a write come often: the next ones are waited for, so that all
/// share one write, and one waking of each thread that waits for them.
const OFTEN: Duration = Duration::from_millis(1);
/// So long they are waited for.
const GATHER: Duration = Duration::from_micros(200);
/// Commits that share one write at most.
const GROUP: usize = 4096;
/// A file below this many bytes is never compacted.
pub(super) const COMPACT_BYTES: u64 = 8 << 20;
/// A file is compacted when it is this many times its last snapshot.
const COMPACT_RATIO: u64 = 4;

/// The file and how long it was after its last snapshot.
pub(super) struct File {
    append: AppendFile,
    path: PathBuf,
    snapshot_bytes: u64,
    unsynced: bool,
    synced_at: Instant,
    syncer: Arc<Syncer>,
}

impl File {
    /// Writes the whole state to a new file in place of the old one.
    pub(super) fn rewrite(path: PathBuf, memory: &Mutex<Memory>) -> Result<Self, DiskError> {
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
        let append = AppendFile::open(&path)?;
        let syncer = Arc::new(append.syncer()?);
        Ok(Self {
            append,
            path,
            snapshot_bytes: bytes.len() as u64,
            unsynced: false,
            synced_at: Instant::now(),
            syncer,
        })
    }

    fn write(&mut self, bytes: &[u8], sync: bool) -> Result<(), DiskError> {
        self.append.append(bytes)?;
        self.unsynced = true;
        if sync { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        if self.unsynced {
            self.append.sync()?;
            self.unsynced = false;
        }
        self.synced_at = Instant::now();
        Ok(())
    }

    /// Hands the file to the syncing thread when it is time.
    fn sync_in_time(&mut self, syncing: &SyncSender<Arc<Syncer>>) {
        if !self.unsynced || self.synced_at.elapsed() < SYNC_EVERY {
            return;
        }
        match syncing.try_send(Arc::clone(&self.syncer)) {
            Ok(()) => {
                self.unsynced = false;
                self.synced_at = Instant::now();
            }
            // The last sync is still under way; a thread that is gone leaves it to the end.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    fn wants_compaction(&self) -> bool {
        self.append.len() > COMPACT_BYTES.max(self.snapshot_bytes.saturating_mul(COMPACT_RATIO))
    }
}

/// What the thread owns.
pub(crate) struct Writer {
    pub(super) incoming: Receiver<Commit>,
    pub(super) file: File,
    pub(super) memory: Arc<Mutex<Memory>>,
    pub(super) failing: Arc<AtomicBool>,
    pub(super) keep_untold: bool,
}

impl Writer {
    pub(super) fn run(mut self) {
        let (syncing, to_sync) = sync_channel(1);
        let failing = Arc::clone(&self.failing);
        std::thread::scope(|scope| {
            scope.spawn(move || sync_each(&to_sync, &failing));
            self.take(&syncing);
            drop(syncing);
        });
    }

    /// One turn of the thread: writes what is there, and syncs it if that is wished.
    #[cfg(feature = "sim")]
    pub(crate) fn turn(&mut self, sync: bool) {
        let group: Vec<_> = self.incoming.try_iter().take(GROUP).collect();
        self.write(group);
        if sync && let Err(error) = self.file.sync() {
            tracing::error!(%error, "the journal cannot be synced");
        }
    }

    fn take(&mut self, syncing: &SyncSender<Arc<Syncer>>) {
        let (mut last, mut wrote) = (false, Instant::now());
        while !last {
            let group: Vec<_> = match self.incoming.recv_timeout(SYNC_EVERY) {
                Ok(first) => {
                    if !first.sync && wrote.elapsed() < OFTEN {
                        std::thread::sleep(GATHER);
                    }
                    let others = self.incoming.try_iter().take(GROUP);
                    std::iter::once(first).chain(others).collect()
                }
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            last = group.iter().any(|commit| commit.last);
            self.write(group);
            wrote = Instant::now();
            if self.failing.load(Ordering::Relaxed) {
                std::thread::sleep(RETRY_AFTER);
            }
            self.file.sync_in_time(syncing);
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
            [] if !sync => return Ok(()),
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
            }
            Err(error) => {
                // The old file may have been replaced or not: go on only from a whole one.
                self.failing.store(true, Ordering::Relaxed);
                tracing::error!(%error, "the journal cannot be compacted");
            }
        }
    }
}

/// Syncs files as they come. One that cannot be synced is written anew by the writer.
fn sync_each(files: &Receiver<Arc<Syncer>>, failing: &AtomicBool) {
    for file in files {
        if let Err(error) = file.sync() {
            failing.store(true, Ordering::Relaxed);
            tracing::error!(%error, "the journal cannot be synced; it is written anew");
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
        | Record::Resolved { target }
        | Record::Pinned { target, .. } => Some(*target),
        Record::Life { .. }
        | Record::Target { .. }
        | Record::Done { .. }
        | Record::Mark { .. }
        | Record::Told { .. } => None,
    }
}
