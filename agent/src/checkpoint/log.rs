//! The checkpoint's files: append, sync, snapshot, recover.
//!
//! # Operation
//! `<state_dir>/checkpoint/<number>.log`, numbers growing. Each file begins with a snapshot of
//! everything before it, made complete by [`Record::SnapshotEnd`], then grows by what happens. When
//! it has grown enough, the next file is written aside, synced, renamed into place; the last two
//! stay. While that is written, what happens goes to the old file and is added to the new one at the
//! switch.
//!
//! # Recovery
//! The newest file whose snapshot is complete counts, as far as it is sound. A damaged file is copied
//! aside (`<number>.log.damaged`) before it is left. A file of another version stops the start: it is
//! never overwritten.
//!
//! # A full disk
//! An append that fails stops appending (a hole could hide unsent bytes); the state in memory goes
//! on, and a new snapshot is tried until one succeeds.
//!
//! Not for: what records mean (see [`super::state`]). Called by [`super::Checkpoint`].

use std::{
    fs,
    path::{Path, PathBuf},
};

use tributary_common::disk::{self, AppendFile, DiskError, Syncer};

use super::{
    record::{self, Fault, FormatError, Frames, Record},
    state::State,
};

/// A file has grown enough when what was appended is more than this many bytes and more than its
/// snapshot.
const GROWTH_BYTES: u64 = if cfg!(test) { 8 << 10 } else { 4 << 20 };

/// Why a checkpoint cannot be used. A matter for a person: nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or a file cannot be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file is not what this build reads.
    #[error("failed to read the checkpoint {}: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        why: FormatError,
    },
}

/// What was found at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Recovery {
    /// Records read.
    pub(crate) records: u64,
    /// Files that were damaged and set aside.
    pub(crate) damaged: u64,
    /// Bytes at the end of a file that a stopped writer had left.
    pub(crate) torn_bytes: u64,
}

/// What one file holds.
#[derive(Debug)]
pub(crate) struct Content {
    /// The state that its sound records make.
    pub(crate) state: State,
    /// The snapshot at its beginning is whole.
    pub(crate) complete: bool,
    /// Sound records.
    pub(crate) records: u64,
    /// Bytes that are not sound.
    pub(crate) unsound_bytes: u64,
    /// Why reading stopped early.
    pub(crate) fault: Option<Fault>,
}

/// Reads a file's bytes.
///
/// # Errors
/// [`FormatError`] when they are no checkpoint of this version.
pub(crate) fn read(bytes: &[u8], keep_accounts: bool) -> Result<Content, FormatError> {
    let body = record::check_header(bytes)?;
    let mut state = State {
        keep_accounts,
        ..State::default()
    };
    let (mut frames, mut records, mut complete, mut sound) = (Frames::new(body), 0, false, 0);
    let mut fault = None;
    while let Some(record) = frames.next() {
        complete |= record == Record::SnapshotEnd;
        if state.apply(record).is_err() {
            fault = Some(Fault::Damaged);
            break;
        }
        records += 1;
        sound = frames.sound;
    }
    let unsound_bytes = (body.1.len() - sound) as u64;
    Ok(Content {
        state,
        complete,
        records,
        unsound_bytes,
        fault: fault.or(frames.fault),
    })
}

/// The files of a folder, oldest first, with their numbers.
///
/// # Errors
/// [`DiskError`] with the folder.
pub(crate) fn files(dir: &Path) -> Result<Vec<(u64, PathBuf)>, DiskError> {
    let fail = |source| DiskError {
        doing: "list",
        path: dir.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if let Some(number) = number_of(&path) {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn name_of(number: u64) -> String {
    format!("{number:016}.log")
}

fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?
        .to_str()?
        .strip_suffix(".log")?
        .parse()
        .ok()
}

/// Finds the state on disk.
///
/// # Errors
/// [`OpenError`]; the files are as before.
pub(crate) fn recover(
    dir: &Path,
    keep_accounts: bool,
) -> Result<(State, u64, Recovery), OpenError> {
    let mut recovery = Recovery::default();
    let files = files(dir)?;
    let last = files.last().map_or(0, |&(number, _)| number);
    for (_, path) in files.into_iter().rev() {
        let bytes = disk::read(&path)?.unwrap_or_default();
        let content = match read(&bytes, keep_accounts) {
            Ok(content) => content,
            Err(why @ FormatError::Version(_)) => return Err(OpenError::Format { path, why }),
            Err(FormatError::Magic) => {
                set_aside(&path, &bytes, &mut recovery);
                continue;
            }
        };
        match content.fault {
            Some(Fault::Damaged) => set_aside(&path, &bytes, &mut recovery),
            Some(Fault::Torn) => recovery.torn_bytes += content.unsound_bytes,
            None => {}
        }
        if content.complete {
            recovery.records = content.records;
            return Ok((content.state, last, recovery));
        }
    }
    Ok((
        State {
            keep_accounts,
            ..State::default()
        },
        last,
        recovery,
    ))
}

/// Keeps a damaged file's bytes for a person to look at.
fn set_aside(path: &Path, bytes: &[u8], recovery: &mut Recovery) {
    recovery.damaged += 1;
    let aside = path.with_extension("log.damaged");
    match disk::replace(&aside, bytes) {
        Ok(()) => tracing::error!(
            path = %path.display(),
            aside = %aside.display(),
            "the checkpoint is damaged; a copy is set aside, and what is sound is used; \
             some lines may be sent again"
        ),
        Err(error) => tracing::error!(
            path = %path.display(),
            error = error.to_string(),
            "the checkpoint is damaged, and no copy could be set aside; what is sound is used"
        ),
    }
}

/// The bytes of a new file that holds `state`.
pub(crate) fn snapshot_bytes(state: &State) -> Vec<u8> {
    let mut bytes = record::header();
    state.snapshot(&mut |record| record::encode(record, &mut bytes));
    bytes
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Log {
    dir: PathBuf,
    file: AppendFile,
    number: u64,
    /// Bytes of its snapshot.
    base: u64,
    /// What is appended while the next file is being written, to be added to it.
    beside: Option<Vec<u8>>,
    /// Appending failed: only a new file helps.
    broken: bool,
    buffer: Vec<u8>,
}

/// A file to be written beside the open one.
#[derive(Debug)]
pub(crate) struct NextFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl NextFile {
    /// Writes it: durable, and complete under its name, when this returns. Slow.
    ///
    /// # Errors
    /// [`DiskError`]; there is no such file then.
    pub(crate) fn write(&self) -> Result<(), DiskError> {
        disk::replace(&self.path, &self.bytes)
    }
}

impl Log {
    /// Starts file `number` with a snapshot of `state`.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(crate) fn start(dir: &Path, number: u64, state: &State) -> Result<Self, DiskError> {
        let next = NextFile {
            path: dir.join(name_of(number)),
            bytes: snapshot_bytes(state),
        };
        next.write()?;
        let file = AppendFile::open(&next.path)?;
        let base = file.len();
        let log = Self {
            dir: dir.to_owned(),
            file,
            number,
            base,
            beside: None,
            broken: false,
            buffer: Vec::new(),
        };
        log.remove_old();
        Ok(log)
    }

    /// Appends records in one write. After a failure nothing is appended until the next file.
    ///
    /// # Errors
    /// [`DiskError`], once.
    pub(crate) fn append(&mut self, records: &[Record]) -> Result<(), DiskError> {
        self.buffer.clear();
        records
            .iter()
            .for_each(|record| record::encode(record, &mut self.buffer));
        if let Some(beside) = &mut self.beside {
            beside.extend_from_slice(&self.buffer);
        }
        if self.broken {
            return Ok(());
        }
        let appended = self.file.append(&self.buffer);
        self.broken = appended.is_err();
        appended.map(|_at| ())
    }

    /// Whether appending stopped.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Says that what is in the file may not be durable: only a new file helps.
    pub(crate) fn give_up(&mut self) {
        self.broken = true;
    }

    /// Whether the next file is due.
    pub(crate) fn is_due(&self) -> bool {
        let grown = self.file.len() - self.base;
        self.broken || grown > GROWTH_BYTES.max(self.base)
    }

    /// A handle to sync from another thread.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(crate) fn syncer(&self) -> Result<Syncer, DiskError> {
        self.file.syncer()
    }

    /// Bytes of the open file.
    pub(crate) fn len(&self) -> u64 {
        self.file.len()
    }

    /// Begins the next file: what is appended from now on is kept beside.
    pub(crate) fn begin_next(&mut self, state: &State) -> NextFile {
        self.beside = Some(Vec::new());
        NextFile {
            path: self.dir.join(name_of(self.number + 1)),
            bytes: snapshot_bytes(state),
        }
    }

    /// Goes over to the written file.
    ///
    /// # Errors
    /// [`DiskError`]; the open file stays. The next try begins anew.
    pub(crate) fn switch(&mut self, next: &NextFile) -> Result<(), DiskError> {
        let beside = self.beside.take().unwrap_or_default();
        let mut file = AppendFile::open(&next.path)?;
        let base = file.len();
        if let Err(error) = file.append(&beside) {
            // It would be the newest file, without what happened meanwhile.
            disk::remove(&next.path)?;
            return Err(error);
        }
        self.file = file;
        self.base = base;
        self.number += 1;
        self.broken = false;
        self.remove_old();
        Ok(())
    }

    /// Drops the next file after it could not be written.
    pub(crate) fn abandon_next(&mut self) {
        self.beside = None;
    }

    /// Keeps the last two files.
    fn remove_old(&self) {
        let old = files(&self.dir).unwrap_or_default();
        for (_, path) in old
            .into_iter()
            .filter(|&(number, _)| number + 1 < self.number)
        {
            if let Err(error) = disk::remove(&path) {
                tracing::warn!(error = error.to_string(), "an old checkpoint stays");
            }
        }
    }
}
