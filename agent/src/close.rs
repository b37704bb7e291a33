//! Closes deleted files on a thread of its own.
//!
//! Whoever closes a deleted file last gives its space back: the kernel frees its pages and extents
//! before `close` returns, a quarter of a second for a GB in the page cache. The reader has no time
//! for that: lines of other files wait for it.
//!
//! Not for: deciding what to close (see [`crate::reader`]).

use crossbeam_channel::{Receiver, Sender};

use crate::far::LogFile;

/// Files that may wait to be closed; they hold descriptors, so not many.
const WAITING: usize = 32;

/// Hands files to the thread that closes them.
#[derive(Debug)]
pub(crate) struct Closer(Sender<LogFile>);

/// The thread's part.
#[derive(Debug)]
pub(crate) struct Closing(Receiver<LogFile>);

/// Both ends.
pub(crate) fn new() -> (Closer, Closing) {
    let (files, closing) = crossbeam_channel::bounded(WAITING);
    (Closer(files), Closing(closing))
}

impl Closer {
    /// Has a file closed soon. When too many wait already, it is closed here and now: descriptors are
    /// bounded.
    pub(crate) fn close(&self, file: LogFile) {
        if let Err(refused) = self.0.try_send(file) {
            drop(refused.into_inner());
        }
    }
}

impl Closing {
    /// Closes files until the reader is gone.
    ///
    /// # Errors
    /// None.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.0.iter().for_each(drop);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsRawFd as _};

    use super::*;

    fn is_open(fd: i32) -> bool {
        std::fs::read_link(format!("/proc/self/fd/{fd}"))
            .is_ok_and(|target| target.to_string_lossy().contains("closed-elsewhere"))
    }

    #[test]
    fn a_file_is_closed_by_the_other_thread_or_at_once_when_too_many_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("closed-elsewhere");
        std::fs::write(&path, "x").unwrap();
        let (closer, closing) = new();
        let give = || {
            let file = File::open(&path).unwrap();
            let fd = file.as_raw_fd();
            closer.close(LogFile::Near(file));
            fd
        };
        let waiting: Vec<i32> = (0..WAITING).map(|_| give()).collect();
        assert!(waiting.iter().all(|&fd| is_open(fd)), "nobody closed them");
        let beyond = give();
        assert!(!is_open(beyond), "there was no room for it");
        drop(closer);
        closing.run().unwrap();
        assert!(!waiting.iter().any(|&fd| is_open(fd)));
    }
}
