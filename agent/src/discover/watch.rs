//! The kernel's hints that something in a directory changed: inotify.
//!
//! Directories are watched, never files. Hints are drained when the owner wants them, not when the
//! kernel has them: a file written 30,000 times a second wakes nobody 30,000 times, since equal
//! events in a row are merged by the kernel while they wait. (A library with an event thread of its
//! own would wake for each.) Names that come and go have a queue of their own, so that they wake at
//! once while writes gather.
//!
//! An overflow, a limit or a file system without events only makes the polling do the work; each is
//! counted.
//!
//! Not for: truth. Discovery calls it.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use metrics::counter;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};

use super::rest::Rest;
use crate::{far, flow::Flow};

/// Room for a few hundred events.
const BUFFER_BYTES: usize = 32 << 10;

/// What the hints say together.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    /// Files that were written to.
    pub(crate) touched: Vec<PathBuf>,
    /// Names that came, went or now mean another file.
    pub(crate) renamed: Vec<PathBuf>,
    /// Directories that came or went, or events were lost: look at everything.
    pub(crate) everything: bool,
}

/// Whether hints about a directory come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watched {
    /// They come.
    Yes,
    /// It is missing; its parent is watched.
    Missing,
    /// They do not: look regularly.
    Blind,
}

/// The right to receive hints of one kind.
#[derive(Debug)]
struct Queue {
    fd: OwnedFd,
    mask: WatchFlags,
    /// Paths of each watched directory: several when links lead to it.
    paths: HashMap<i32, Vec<PathBuf>>,
}

impl Queue {
    fn new(mask: WatchFlags) -> io::Result<Self> {
        Ok(Self {
            fd: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            mask: mask | WatchFlags::ONLYDIR,
            paths: HashMap::new(),
        })
    }

    fn add(&mut self, dir: &Path) -> Result<i32, Errno> {
        let watch = inotify::add_watch(&self.fd, dir, self.mask)?;
        let paths = self.paths.entry(watch).or_default();
        if !paths.iter().any(|path| path == dir) {
            paths.push(dir.to_owned());
        }
        Ok(watch)
    }

    /// Forgets one path of a watched directory.
    fn forget(&mut self, watch: i32, dir: &Path) {
        let Some(paths) = self.paths.get_mut(&watch) else {
            return;
        };
        paths.retain(|path| path != dir);
        if paths.is_empty() {
            self.paths.remove(&watch);
            match inotify::remove_watch(&self.fd, watch) {
                // The kernel has dropped it already, most of the time.
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn joined(&self, watch: i32, name: &[u8]) -> impl Iterator<Item = PathBuf> {
        let name = OsStr::from_bytes(name);
        let paths = self.paths.get(&watch).into_iter().flatten();
        paths.map(move |dir| dir.join(name))
    }
}

/// Watched directories.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Names that come and go.
    names: Queue,
    /// Writes.
    writes: Queue,
    rest: Rest,
    by_path: HashMap<PathBuf, (i32, i32)>,
    /// Directories on file systems without events, which a person was told.
    without_events: HashSet<PathBuf>,
    /// Directories that may be watched; the kernel has a limit of its own.
    limit: usize,
    /// A person was told about the limit.
    told: bool,
}

impl Watch {
    /// Asks the kernel for hints about at most `limit` directories.
    ///
    /// # Errors
    /// When there are no instances left; polling has to do.
    pub(crate) fn new(limit: usize, flow: &Flow) -> io::Result<Self> {
        let names = WatchFlags::CREATE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        let (names, writes) = (Queue::new(names)?, Queue::new(WatchFlags::MODIFY)?);
        Ok(Self {
            rest: Rest::new(&names.fd, &writes.fd, flow)?,
            names,
            writes,
            by_path: HashMap::new(),
            without_events: HashSet::new(),
            limit,
            told: false,
        })
    }

    /// Watched directories.
    pub(crate) fn len(&self) -> usize {
        self.by_path.len()
    }

    /// Watches a directory. One that is watched already costs nothing; one that was refused is tried
    /// again.
    pub(crate) fn add(&mut self, dir: &Path) -> Watched {
        // Also one that was mounted over a watched one: its watch is that of the one below. Links are
        // followed once: those that lead to a far one are known then.
        let watched = self.by_path.contains_key(dir);
        if far::is_known(dir) || (!watched && far::is_far(dir)) {
            if self.without_events.insert(dir.to_owned()) {
                counter!("tributary_agent_polling_total", "reason" => "no-events").increment(1);
                tracing::info!(
                    path = %dir.display(),
                    "others may write to this file system unseen; it is looked at regularly"
                );
            }
            self.forget_path(dir);
            return Watched::Blind;
        }
        if watched {
            return Watched::Yes;
        }
        match self.try_add(dir) {
            Ok(()) => Watched::Yes,
            Err(Errno::NOENT | Errno::NOTDIR) => Watched::Missing,
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    counter!("tributary_agent_polling_total", "reason" => "watch-limit")
                        .increment(1);
                    tracing::warn!(
                        path = %dir.display(),
                        error = error.to_string(),
                        "a directory cannot be watched; files are found by looking regularly; \
                         raise fs.inotify.max_user_watches"
                    );
                }
                Watched::Blind
            }
        }
    }

    fn try_add(&mut self, dir: &Path) -> Result<(), Errno> {
        if self.by_path.len() >= self.limit {
            return Err(Errno::NOSPC);
        }
        let names = self.names.add(dir)?;
        match self.writes.add(dir) {
            Ok(writes) => {
                self.by_path.insert(dir.to_owned(), (names, writes));
                Ok(())
            }
            Err(error) => {
                self.names.forget(names, dir);
                Err(error)
            }
        }
    }

    /// Waits until there are hints that say something new, at most `limit`; true when there are.
    pub(crate) fn wait(&self, limit: Duration, flow: &Flow) -> bool {
        self.rest.wait(limit, &self.writes.fd, flow)
    }

    /// Takes note of what was written to, links included, and leaves out what flows.
    pub(crate) fn leave_out_flowing(&mut self, touched: &mut Vec<PathBuf>, flow: &Flow) {
        self.rest.note(touched, flow);
    }

    /// Waits until names come or go, at most `limit`.
    pub(crate) fn wait_for_names(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(&self.names.fd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&timespec(limit))), Ok(ready) if ready > 0)
    }

    /// Takes all hints that are there.
    pub(crate) fn drain(&mut self) -> Hints {
        let mut hints = Hints::default();
        let gone = self.drain_names(&mut hints);
        gone.into_iter().for_each(|watch| self.forget(watch));
        // A link to a directory may lead elsewhere now.
        let relinked: Vec<PathBuf> = hints
            .renamed
            .iter()
            .filter(|path| self.by_path.contains_key(*path))
            .cloned()
            .collect();
        for path in relinked {
            self.forget_path(&path);
            hints.everything = true;
        }
        self.drain_writes(&mut hints);
        hints.touched.sort_unstable();
        hints.touched.dedup();
        hints.renamed.sort_unstable();
        hints.renamed.dedup();
        hints
    }

    /// Names that changed. Returns watches whose directory is gone.
    fn drain_names(&mut self, hints: &mut Hints) -> Vec<i32> {
        let mut gone = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = inotify::Reader::new(&self.names.fd, &mut buffer);
        let vanished = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED;
        while let Ok(event) = reader.next() {
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                counter!("tributary_agent_polling_total", "reason" => "overflow").increment(1);
                hints.everything = true;
            }
            if flags.intersects(vanished) && self.names.paths.contains_key(&event.wd()) {
                gone.push(event.wd());
                hints.everything = true;
            }
            if flags.contains(ReadFlags::ISDIR) {
                hints.everything = true;
            } else if let Some(name) = event.file_name() {
                hints
                    .renamed
                    .extend(self.names.joined(event.wd(), name.to_bytes()));
            }
        }
        gone
    }

    /// Files that were written to.
    fn drain_writes(&mut self, hints: &mut Hints) {
        let mut last = (0, Vec::new());
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = inotify::Reader::new(&self.writes.fd, &mut buffer);
        while let Ok(event) = reader.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                counter!("tributary_agent_polling_total", "reason" => "overflow").increment(1);
                hints.everything = true;
            }
            let Some(name) = event.file_name() else {
                continue;
            };
            let name = name.to_bytes();
            if last.0 != event.wd() || last.1 != name {
                last = (event.wd(), name.to_vec());
                hints.touched.extend(self.writes.joined(event.wd(), name));
            }
        }
    }

    /// The directory is gone or has moved: its names may soon mean another one.
    fn forget(&mut self, watch: i32) {
        let paths = self.names.paths.get(&watch).cloned().unwrap_or_default();
        paths.iter().for_each(|path| self.forget_path(path));
    }

    fn forget_path(&mut self, path: &Path) {
        if let Some((names, writes)) = self.by_path.remove(path) {
            self.names.forget(names, path);
            self.writes.forget(writes, path);
        }
    }
}

fn timespec(limit: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    }
}
