//! The checkpoint's files: append, sync, snapshot, recover.
//!
//! # Operation
//! `<state_dir>/checkpoint/<number>.log`, numbers growing. Each file begins with a snapshot of
//! everything before it, made complete by [`Record::SnapshotEnd`], then grows by what happens. When
//! it has grown enough, the next file is written and synced under another name; meanwhile, what
//! happens goes to the old file and is kept beside. At the switch that is added to the new file,
//! which then gets its name: at every instruction one of the two files holds everything. The last
//! two stay.
//!
//! # Recovery
//! The newest file whose snapshot is complete counts, as far as it is sound. Where damage is found,
//! that is told with what it costs, and once the next file stands the damaged one is set aside
//! (`<number>.log.damaged`): so the file before it stays as well. A file of another version stops
//! the start: it is never overwritten.
//!
//! # A full disk
//! An append that fails stops appending (a hole could hide unsent bytes); the state in memory goes
//! on, and a new snapshot is tried until one succeeds. So does a file that somebody has removed.
//!
//! Not for: what records mean (see [`super::state`]). Called by [`super::Checkpoint`].

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use tributary_common::{
    disk::{self, AppendFile, DiskError, Syncer},
    ids::{Epoch, TaskId, Topic},
};

use super::{
    record::{self, Fault, FormatError, Frames, Record},
    state::State,
};

/// A file has grown enough when what was appended is more than this many bytes and more than its
/// snapshot.
const GROWTH_BYTES: u64 = if cfg!(test) { 1 << 10 } else { 4 << 20 };

/// The name of a file that is being written: it does not count.
const STAGED: &str = "next.tmp";
/// Damaged files that are kept for a person to look at.
const KEPT_ASIDE: usize = 4;

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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Recovery {
    /// Records read.
    pub(crate) records: u64,
    /// Files that were damaged.
    pub(crate) damaged: Vec<PathBuf>,
    /// There were files, and none could be used: nothing is known of an earlier life.
    pub(crate) all_lost: bool,
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
    let mut names = Names::default();
    while let Some(mut record) = frames.next() {
        complete |= record == Record::SnapshotEnd;
        names.share(&mut record);
        if state.apply(record).is_err() {
            fault = Some(Fault::Damaged);
            break;
        }
        records += 1;
        sound = frames.sound;
    }
    let left = body.1.get(sound..).unwrap_or_default();
    let fault = fault.or(frames.fault);
    Ok(Content {
        state,
        complete,
        records,
        unsound_bytes: left.len() as u64,
        fault: fault.map(|fault| record::tell_apart(fault, left)),
    })
}

/// Names that many streams have: each is kept once.
#[derive(Debug, Default)]
struct Names {
    tasks: HashSet<TaskId>,
    topics: HashSet<Topic>,
}

impl Names {
    fn share(&mut self, record: &mut Record) {
        let Record::Stream { task, topic, .. } = record else {
            return;
        };
        match self.tasks.get(task) {
            Some(known) => task.clone_from(known),
            None => drop(self.tasks.insert(task.clone())),
        }
        match self.topics.get(topic) {
            Some(known) => topic.clone_from(known),
            None => drop(self.topics.insert(topic.clone())),
        }
    }
}

/// The files of a folder, oldest first, with their numbers.
///
/// # Errors
/// [`DiskError`] with the folder.
pub(crate) fn files(dir: &Path) -> Result<Vec<(u64, PathBuf)>, DiskError> {
    let numbered = |path: PathBuf| Some((number_of(&path)?, path));
    let mut found: Vec<_> = disk::list(dir)?.into_iter().filter_map(numbered).collect();
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

/// Finds the state on disk, and the number of the newest file.
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
    // Lives that a damaged file may have seen: no epoch is used twice.
    let mut epoch = 0;
    for (number, path) in files.into_iter().rev() {
        let bytes = disk::read(&path)?.unwrap_or_default();
        let content = match read(&bytes, keep_accounts) {
            Ok(content) => content,
            Err(why @ FormatError::Version(_)) => return Err(OpenError::Format { path, why }),
            Err(FormatError::Magic) => {
                tell_damage(&path, None);
                recovery.damaged.push(path);
                continue;
            }
        };
        epoch = epoch.max(content.state.epoch.0);
        match content.fault {
            // A file gets its name when its snapshot is whole, so that was not the writer's stop.
            Some(Fault::Torn) if content.complete => recovery.torn_bytes += content.unsound_bytes,
            None if content.complete => {}
            Some(_) | None => {
                tell_damage(&path, Some(&content));
                recovery.damaged.push(path);
            }
        }
        if content.complete {
            recovery.records = content.records;
            let mut state = content.state;
            state.epoch = Epoch(epoch.saturating_add(last - number));
            return Ok((state, last, recovery));
        }
    }
    recovery.all_lost = last > 0;
    if recovery.all_lost {
        tracing::error!(
            folder = %dir.display(),
            "no file of the checkpoint can be used: all files of all tasks are read from their \
             beginning, and what was sent before is sent again"
        );
    }
    let state = State {
        keep_accounts,
        epoch: Epoch(epoch.saturating_add(last)),
        ..State::default()
    };
    Ok((state, last, recovery))
}

/// Tells a person what damage costs.
fn tell_damage(path: &Path, content: Option<&Content>) {
    metrics::counter!("tributary_agent_checkpoint_damaged_total").increment(1);
    let (records, lost_bytes) = content.map_or((0, None), |content| {
        (content.records, Some(content.unsound_bytes))
    });
    let consequence = if content.is_some_and(|content| content.complete) {
        "what stands before the damage is used; what was read after it is read and sent again"
    } else {
        "it cannot be used; the file before it has to do, and what was read since is sent again"
    };
    tracing::error!(
        path = %path.display(),
        sound_records = records,
        lost_bytes,
        consequence,
        "the checkpoint is damaged"
    );
}

/// Keeps damaged files for a person to look at, under another name: the files that count are the
/// sound ones.
pub(crate) fn set_aside(damaged: &[PathBuf]) {
    for path in damaged {
        let aside = path.with_extension("log.damaged");
        match disk::rename(path, &aside) {
            Ok(()) => tracing::info!(
                path = %path.display(),
                aside = %aside.display(),
                "a damaged checkpoint is set aside"
            ),
            Err(error) => tracing::warn!(
                error = error.to_string(),
                "a damaged checkpoint cannot be set aside"
            ),
        }
    }
    let Some(Ok(found)) = damaged
        .first()
        .and_then(|path| path.parent())
        .map(disk::list)
    else {
        return;
    };
    let aside = |path: &PathBuf| path.extension().is_some_and(|end| end == "damaged");
    let old: Vec<_> = found
        .into_iter()
        .filter(aside)
        .rev()
        .skip(KEPT_ASIDE)
        .collect();
    old.iter().for_each(|path| remove(path));
}

fn remove(path: &Path) {
    if let Err(error) = disk::remove(path) {
        tracing::warn!(error = error.to_string(), "an old checkpoint stays");
    }
}

/// Removes all but the last two files.
pub(crate) fn remove_old(dir: &Path) {
    let files = files(dir).unwrap_or_default();
    let old = files.iter().rev().skip(2);
    old.for_each(|(_, path)| remove(path));
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
    /// `None` while the disk was too full for the first one.
    file: Option<AppendFile>,
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
    dir: PathBuf,
    number: u64,
    bytes: Vec<u8>,
}

/// A file that is written and synced, and does not count yet.
#[derive(Debug)]
pub(crate) struct Staged {
    file: AppendFile,
    number: u64,
}

impl NextFile {
    /// Writes it, durably, under a name that does not count. Slow.
    ///
    /// # Errors
    /// [`DiskError`]; nothing is left of it then.
    pub(crate) fn stage(self) -> Result<Staged, DiskError> {
        // The folder may be gone: then it is wanted back.
        disk::create_dir_all(&self.dir)?;
        let path = self.dir.join(STAGED);
        let mut file = AppendFile::stage(&path)?;
        let written = file.append(&self.bytes).and_then(|_at| file.sync());
        if let Err(error) = written {
            // Its room is wanted by others.
            drop(disk::remove(&path));
            return Err(error);
        }
        let number = self.number;
        Ok(Staged { file, number })
    }
}

impl Log {
    /// Starts file `number` with a snapshot of `state`. On a full disk it starts broken: the agent
    /// goes on, and a file is tried until one can be written.
    ///
    /// # Errors
    /// [`DiskError`]; nothing was changed.
    pub(crate) fn start(dir: &Path, number: u64, state: &State) -> Result<Self, DiskError> {
        let mut log = Self {
            dir: dir.to_owned(),
            file: None,
            number: number - 1,
            base: 0,
            beside: None,
            broken: true,
            buffer: Vec::new(),
        };
        match log.begin_next(state).stage() {
            Ok(staged) => {
                log.switch(staged)?;
                disk::sync_dir(dir)?;
            }
            Err(error) if error.is_full() => {
                log.abandon_next();
                tracing::error!(
                    error = error.to_string(),
                    "the checkpoint cannot be written; collecting goes on, a restart now would \
                     send lines again"
                );
            }
            Err(error) => return Err(error),
        }
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
        match &mut self.file {
            Some(file) if !self.broken => {
                let appended = file.append(&self.buffer);
                self.broken = appended.is_err();
                appended.map(|_at| ())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether appending stopped.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Says that what is in the file may not be durable: only a new file helps.
    pub(crate) fn give_up(&mut self) {
        self.broken = true;
    }

    /// Whether somebody has removed the file, or put another in its place.
    pub(crate) fn is_gone(&self) -> bool {
        let in_place = self.file.as_ref().map(AppendFile::is_in_place);
        matches!(in_place, Some(Ok(false)))
    }

    /// Whether the next file is due.
    pub(crate) fn is_due(&self) -> bool {
        let grown = self.len().saturating_sub(self.base);
        self.broken || grown > GROWTH_BYTES.max(self.base)
    }

    /// A handle to sync from another thread; none while there is no file.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(crate) fn syncer(&self) -> Result<Option<Syncer>, DiskError> {
        self.file.as_ref().map(AppendFile::syncer).transpose()
    }

    /// Bytes of the open file.
    pub(crate) fn len(&self) -> u64 {
        self.file.as_ref().map_or(0, AppendFile::len)
    }

    /// Its folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Begins the next file: what is appended from now on is kept beside.
    pub(crate) fn begin_next(&mut self, state: &State) -> NextFile {
        self.beside = Some(Vec::new());
        NextFile {
            dir: self.dir.clone(),
            number: self.number + 1,
            bytes: snapshot_bytes(state),
        }
    }

    /// Goes over to the staged file. Its name is durable only after a sync of the folder.
    ///
    /// # Errors
    /// [`DiskError`]; the open file stays. The next try begins anew.
    pub(crate) fn switch(&mut self, staged: Staged) -> Result<(), DiskError> {
        let Staged { mut file, number } = staged;
        let base = file.len();
        let beside = self.beside.take().unwrap_or_default();
        if !beside.is_empty() {
            file.append(&beside)?;
        }
        // A rename that fails may have happened all the same: then the old file counts no more.
        self.broken = true;
        file.rename(&self.dir.join(name_of(number)))?;
        self.file = Some(file);
        self.base = base;
        self.number = number;
        self.broken = false;
        Ok(())
    }

    /// Drops the next file after it could not be written.
    pub(crate) fn abandon_next(&mut self) {
        self.beside = None;
    }
}
