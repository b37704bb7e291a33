//! File systems that somebody else serves, over a network or through FUSE: who asks one of them for
//! something may wait for ever, and no signal helps.
//!
//! What is asked of such a file system goes over threads of its own, and who asks waits a moment at most.
//! One that does not answer is not asked again until it has: meanwhile every question gets an error at
//! once, which is "unknown" to all who look and read, never "absent". So a server that hangs holds up
//! the files that it serves and no others.
//!
//! Which these are is told by the kernel's list of mounts, which can be read without asking any of
//! them. A link that leads there from elsewhere is followed step by step, each where it lies, before what is
//! behind it is asked for anything. There is one list, as a process has one set of mounts; where nothing
//! is far, a question costs one load more.
//!
//! Rooms: [`mount`] (the threads), [`list`] (the mounts), [`mod@file`] (an open file, near or far). Not for:
//! what becomes of a file that cannot be read (see [`crate::reader`]).

mod file;
mod list;
mod mount;

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::DirEntryExt as _,
    path::{Component, Path, PathBuf},
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

/// The kernel follows no more of them on one way.
const MAX_LINKS: u32 = 40;

/// Anything is far.
static ANY: AtomicBool = AtomicBool::new(false);
static TABLE: RwLock<Table> = RwLock::new(Table::new());

fn table() -> RwLockReadGuard<'static, Table> {
    // It is replaced whole.
    TABLE.read().unwrap_or_else(PoisonError::into_inner)
}

/// The far file system on which a path lies, also behind links; `None` for one that is near.
fn of(path: &Path) -> Option<Arc<Mount>> {
    // Relaxed: whoever does not see a mount yet sees it a moment later.
    if !ANY.load(Ordering::Relaxed) {
        return None;
    }
    let table = table();
    table.of(path).or_else(|| follow(&table, path))
}

/// Follows the links of a path as the kernel would, up to where the way leads to a far file system, which is
/// not asked for anything.
fn follow(table: &Table, path: &Path) -> Option<Arc<Mount>> {
    let mut at = PathBuf::from("/");
    let mut rest: Vec<OsString> = parts_backwards(&std::path::absolute(path).ok()?);
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        at.push(part);
        if let Some(mount) = table.of(&at) {
            return Some(mount);
        }
        // It is none, or it is not there: the kernel will say so to whoever asks.
        let Ok(target) = fs::read_link(&at) else {
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return None;
        }
        at.pop();
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        rest.extend(parts_backwards(&target));
    }
    None
}

/// The names of a path, the last one first.
fn parts_backwards(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    parts.collect()
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
    ANY.load(Ordering::Relaxed) && table().of(path).is_some()
}

/// Whether a path is on a far file system, also behind a link, which is followed.
pub(crate) fn is_far(path: &Path) -> bool {
    of(path).is_some_and(|mount| {
        learn(path, mount);
        true
    })
}

/// A path leads to a far file system, through links.
fn learn(path: &Path, mount: Arc<Mount>) {
    if !is_known(path) {
        let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
        table.link(path.to_owned(), mount);
    }
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
    match real.as_ref().and_then(|real| of(real)) {
        Some(mount) => learn(path, mount),
        None => forget_link(path),
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_up_to_what_is_far_and_not_beyond() {
        let folder = tempfile::tempdir().unwrap();
        let near = folder.path().canonicalize().unwrap();
        let far = near.join("far");
        let listed = format!(
            "40 22 0:35 / {} rw - nfs4 10.0.0.1:/x rw,hard\n",
            far.display()
        );
        let table = Table::listed(&listed);
        fs::create_dir(near.join("logs")).unwrap();
        let link = |target: &str, at: &str| symlink(target, near.join(at)).unwrap();
        link("../far/app.log", "logs/file");
        link("second", "logs/first");
        link(&format!("{}/x", far.display()), "logs/second");
        link("logs", "dir");
        link("here", "logs/there");
        link("there", "logs/here");
        link("../nowhere", "logs/nowhere");
        fs::write(near.join("logs/plain"), "").unwrap();
        let check = |path: &str, wanted: bool| {
            assert_eq!(follow(&table, &near.join(path)).is_some(), wanted, "{path}");
        };
        check("logs/file", true);
        check("logs/first", true);
        check("dir/first/below/it", true);
        check("dir/../logs/second", true);
        check("far/app.log", true);
        check("logs/plain", false);
        check("dir/plain", false);
        check("logs/here", false);
        check("logs/nowhere", false);
        check("missing/x", false);
    }
}
