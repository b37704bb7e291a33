//! The kernel's hints that something in a directory changed: inotify.
//!
//! Directories are watched, never files. Hints are drained when the owner wants them, not when the
//! kernel has them: a file written 30,000 times a second wakes nobody 30,000 times, since equal
//! events in a row are merged by the kernel while they wait. (A library with an event thread of its
//! own would wake for each.) An overflow, a limit or a file system without inotify only makes the
//! polling do the work.
//!
//! Not for: truth. Discovery calls it.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};

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

impl Hints {
    /// Whether the set of files may have changed.
    pub(crate) fn structure(&self) -> bool {
        self.everything || !self.renamed.is_empty()
    }
}

/// Watched directories.
#[derive(Debug)]
pub(crate) struct Watch {
    fd: OwnedFd,
    by_path: HashMap<PathBuf, i32>,
    by_watch: HashMap<i32, PathBuf>,
    /// A watch was refused: hints are incomplete.
    refused: bool,
}

impl Watch {
    /// Asks the kernel for hints.
    ///
    /// # Errors
    /// When there are no instances left; polling has to do.
    pub(crate) fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self {
            fd,
            by_path: HashMap::new(),
            by_watch: HashMap::new(),
            refused: false,
        })
    }

    /// Whether hints can be relied on to come, mostly.
    pub(crate) fn is_complete(&self) -> bool {
        !self.refused
    }

    /// Watches a directory. One that is watched already costs nothing.
    pub(crate) fn add(&mut self, dir: &Path) {
        if self.by_path.contains_key(dir) {
            return;
        }
        let mask = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.fd, dir, mask) {
            Ok(watch) => {
                self.by_path.insert(dir.to_owned(), watch);
                self.by_watch.insert(watch, dir.to_owned());
            }
            // It comes later; its parent is watched.
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => {
                if !self.refused {
                    tracing::warn!(
                        path = %dir.display(),
                        error = error.to_string(),
                        "a directory cannot be watched; files are found by looking regularly"
                    );
                }
                self.refused = true;
            }
        }
    }

    /// Waits until there are hints, at most `limit`; true when there are.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        matches!(poll(&mut fds, Some(&limit)), Ok(ready) if ready > 0)
    }

    /// Takes all hints that are there.
    pub(crate) fn drain(&mut self) -> Hints {
        let mut hints = Hints::default();
        let (mut gone, mut last_touched) = (Vec::new(), (0, Vec::new()));
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        let structure =
            ReadFlags::CREATE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO | ReadFlags::DELETE;
        let vanished = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED;
        while let Ok(event) = reader.next() {
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                hints.everything = true;
            }
            if flags.intersects(vanished) {
                gone.push(event.wd());
                hints.everything = true;
            }
            let (Some(name), Some(dir)) = (event.file_name(), self.by_watch.get(&event.wd()))
            else {
                continue;
            };
            let name = name.to_bytes();
            let path = || dir.join(OsStr::from_bytes(name));
            if flags.contains(ReadFlags::ISDIR) {
                hints.everything = true;
            } else if flags.intersects(structure) {
                hints.renamed.push(path());
            } else if flags.contains(ReadFlags::MODIFY)
                && (last_touched.0 != event.wd() || last_touched.1 != name)
            {
                last_touched = (event.wd(), name.to_vec());
                hints.touched.push(path());
            }
        }
        gone.into_iter().for_each(|watch| self.forget(watch));
        hints.touched.sort_unstable();
        hints.touched.dedup();
        hints
    }

    /// The directory is gone or has moved: its name may soon mean another one.
    fn forget(&mut self, watch: i32) {
        if let Some(path) = self.by_watch.remove(&watch) {
            self.by_path.remove(&path);
            match inotify::remove_watch(&self.fd, watch) {
                // The kernel has dropped it already, most of the time.
                Ok(()) | Err(_) => {}
            }
        }
    }
}
