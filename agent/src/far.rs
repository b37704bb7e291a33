//! File systems that somebody else serves, over a network or through FUSE: who asks one of them for
//! something may wait for ever, and no signal helps.
//!
//! What is asked of such a file system goes over threads of its own, and who asks waits a moment at most.
//! One that does not answer is not asked again until it has: meanwhile every question gets an error at
//! once, which is "unknown" to all who look and read, never "absent". So a server that hangs holds up
//! the files that it serves and no others.
//!
//! Which these are is told by the kernel's list of mounts, which can be read without asking any of
//! them. A link that leads there from elsewhere is known once it was followed. There is one list, as a
//! process has one set of mounts; where nothing is far, a question costs one load more.
//!
//! Rooms: [`mount`] (the threads), [`list`] (the mounts), [`mod@file`] (an open file, near or far). Not for:
//! what becomes of a file that cannot be read (see [`crate::reader`]).

mod file;
mod list;
mod mount;

use std::{
    fs, io,
    os::unix::fs::DirEntryExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
};

pub(crate) use self::{
    file::{LogFile, open_file},
    list::Mounts,
};
use self::{list::Table, mount::Mount};

/// Anything is far.
static ANY: AtomicBool = AtomicBool::new(false);
static TABLE: RwLock<Table> = RwLock::new(Table::new());

fn table() -> RwLockReadGuard<'static, Table> {
    // It is replaced whole.
    TABLE.read().unwrap_or_else(PoisonError::into_inner)
}

/// The far file system on which a path lies; `None` for one that is near.
fn of(path: &Path) -> Option<Arc<Mount>> {
    // Relaxed: whoever does not see a mount yet sees it a moment later.
    if !ANY.load(Ordering::Relaxed) {
        return None;
    }
    table().of(path)
}

/// Asks about a path, here or over the threads of its file system.
///
/// # Errors
/// What `op` says; `TimedOut` when there is no answer, which says nothing about the path.
pub(crate) fn at<T: Send + 'static>(path: &Path, op: fn(&Path) -> io::Result<T>) -> io::Result<T> {
    match of(path) {
        None => op(path),
        Some(mount) => {
            let path = path.to_owned();
            mount.ask(move || op(&path))
        }
    }
}

/// Where file systems are mounted that do not answer now, in order.
pub(crate) fn silent() -> Vec<String> {
    table().silent()
}

/// Whether a path is known to be on a far file system; the kernel gives no hints about what others do there.
pub(crate) fn is_known(path: &Path) -> bool {
    of(path).is_some()
}

/// Whether a path is on a far file system, also behind a link, which is followed.
pub(crate) fn is_far(path: &Path) -> bool {
    if !ANY.load(Ordering::Relaxed) {
        return false;
    }
    if is_known(path) {
        return true;
    }
    path.canonicalize().is_ok_and(|real| leads_to(path, &real))
}

/// A path leads to another one, through links. Whether that is far.
fn leads_to(path: &Path, real: &Path) -> bool {
    let Some(mount) = of(real) else {
        return false;
    };
    if of(path).is_none() {
        let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
        table.link(path.to_owned(), mount);
    }
    true
}

/// Whether a path is a directory, or may be one that does not answer: whoever enters it hears that.
pub(crate) fn may_be_dir(path: &Path) -> bool {
    at(path, |path| Ok(fs::metadata(path)?.is_dir()))
        .unwrap_or_else(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// An entry of a directory, as the directory tells it.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its whole path.
    pub(crate) path: PathBuf,
    /// Its inode's number.
    pub(crate) inode: u64,
    /// What it is: a link is not followed.
    pub(crate) kind: io::Result<fs::FileType>,
}

impl Entry {
    fn of(entry: &fs::DirEntry) -> Self {
        Self {
            path: entry.path(),
            inode: entry.ino(),
            kind: entry.file_type(),
        }
    }
}

/// What is in a directory, in no order.
///
/// # Errors
/// What the kernel says; `TimedOut` as of [`at`].
pub(crate) fn entries(dir: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<Entry>>>> {
    let told = |entry: io::Result<fs::DirEntry>| entry.map(|entry| Entry::of(&entry));
    match of(dir) {
        None => Ok(Box::new(fs::read_dir(dir)?.map(told))),
        Some(mount) => {
            let dir = dir.to_owned();
            let read = move || Ok(fs::read_dir(dir)?.map(told).collect::<Vec<_>>());
            Ok(Box::new(mount.ask(read)?.into_iter()))
        }
    }
}

/// What can be read in a directory.
pub(crate) fn entries_there(dir: &Path) -> impl Iterator<Item = Entry> {
    entries(dir).into_iter().flatten().flatten()
}

/// Where a link leads; `None` where the path is none, or leads nowhere.
pub(crate) fn link_target(path: &Path) -> Option<PathBuf> {
    let target = |path: &Path| match path.is_symlink() {
        true => path.canonicalize().map(Some),
        false => Ok(None),
    };
    let real = at(path, target).ok()?;
    if !real.as_ref().is_some_and(|real| leads_to(path, real)) {
        forget_link(path);
    }
    real
}

/// A link is gone, or leads elsewhere.
pub(crate) fn forget_link(path: &Path) {
    if ANY.load(Ordering::Relaxed) {
        let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
        table.unlink(path);
    }
}
