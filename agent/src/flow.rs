//! Files that grow all the time: the reader looks at them by its own clock, so that hints about
//! them say nothing new.
//!
//! Hints cost more than looking does: two threads wake for each. So discovery leaves those of a
//! flowing file in the kernel, where equal ones are merged without waking anybody.
//!
//! Not for: when a file flows (see [`crate::reader`]), taking hints (see [`crate::discover`]).

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::event::{EventfdFlags, eventfd};

/// The paths that flow.
#[derive(Debug)]
pub(crate) struct Flow {
    paths: Mutex<HashSet<PathBuf>>,
    /// Rings when one leaves: hints of it that were left in the kernel hold new ones back.
    bell: OwnedFd,
}

impl Flow {
    /// Nothing flows.
    ///
    /// # Errors
    /// When there are no file descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            paths: Mutex::default(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    fn paths(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hints about a path say nothing new as long as the answer lives. What happened before it is
    /// dropped may have left no hint: look once more then. One stream at a time may do this.
    pub(crate) fn enter(self: &Arc<Self>, path: PathBuf) -> Flowing {
        self.paths().insert(path.clone());
        Flowing {
            flow: Arc::clone(self),
            path,
        }
    }

    /// Whether hints about a path say nothing new.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.paths().contains(path)
    }

    /// Becomes readable, anew each time, when a path leaves.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// A path flows as long as this lives.
#[derive(Debug)]
pub(crate) struct Flowing {
    flow: Arc<Flow>,
    path: PathBuf,
}

impl Flowing {
    /// The path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Flowing {
    fn drop(&mut self) {
        self.flow.paths().remove(&self.path);
        // The count is never read: it cannot run over in the life of a machine.
        match rustix::io::write(&self.flow.bell, &1_u64.to_ne_bytes()) {
            Ok(_) | Err(_) => {}
        }
    }
}
