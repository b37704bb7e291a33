//! Sleeps until hints say something new, and leaves those of a flowing file where they are.
//!
//! The kernel merges a hint with the one before it when they are equal, and wakes nobody for it. So
//! one hint about a flowing file is left in the queue: it swallows its equals, and a hint about any
//! other file wakes at once. This needs to be woken by what is new, not by what is there.
//!
//! Not for: taking hints (see [`super::watch`], which calls it).

use std::{
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{Timespec, epoll},
    io::ioctl_fionread,
};

use crate::flow::Flow;

const NAMES: u64 = 0;
const WRITES: u64 = 1;
const BELL: u64 = 2;

/// Who sleeps.
#[derive(Debug)]
pub(super) struct Rest {
    epoll: OwnedFd,
    /// A flowing file that alone had hints when they were taken last, and the bytes of one hint.
    only: Option<(PathBuf, u64)>,
}

impl Rest {
    /// Is woken by names at any time, by writes and by `flow` when there is something new.
    ///
    /// # Errors
    /// When there are no file descriptors left.
    pub(super) fn new(names: &OwnedFd, writes: &OwnedFd, flow: &Flow) -> io::Result<Self> {
        use epoll::{EventData, EventFlags};
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, names, EventData::new_u64(NAMES), EventFlags::IN)?;
        let new = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, writes, EventData::new_u64(WRITES), new)?;
        epoll::add(&epoll, flow.bell(), EventData::new_u64(BELL), new)?;
        Ok(Self { epoll, only: None })
    }

    /// Waits until there are hints that say something new, at most `limit`; true when there are.
    pub(super) fn wait(&self, limit: Duration, writes: &OwnedFd, flow: &Flow) -> bool {
        // In whole ms, upwards: finer ones take a system call that older kernels lack.
        let limit = (limit + Duration::from_nanos(999_999)).as_millis();
        let limit = Duration::from_millis(u64::try_from(limit).unwrap_or(u64::MAX));
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut events = [MaybeUninit::uninit(); 3];
        let Ok((ready, _)) = epoll::wait(&self.epoll, &mut events, Some(&limit)) else {
            // A signal: the caller comes again.
            return false;
        };
        if ready.iter().any(|event| event.data.u64() == NAMES) {
            return true;
        }
        !ready.is_empty() && !self.has_only_known(writes, flow)
    }

    /// Whether nothing waits but one hint about a flowing file. (One about another file with a name
    /// of the same length looks the same until the flowing one is written to: then there are two.)
    fn has_only_known(&self, writes: &OwnedFd, flow: &Flow) -> bool {
        self.only
            .as_ref()
            .is_some_and(|(path, bytes)| ioctl_fionread(writes) == Ok(*bytes) && flow.has(path))
    }

    /// Takes note of what was written to since hints were taken before, and leaves out what flows.
    pub(super) fn note(&mut self, touched: &mut Vec<PathBuf>, flow: &Flow) {
        self.only = match touched.as_slice() {
            [path] if flow.has(path) => Some((path.clone(), hint_bytes(path))),
            _ => None,
        };
        touched.retain(|path| !flow.has(path));
    }
}

/// Bytes of one hint about a file, as inotify(7) has it: the name is padded to whole events.
fn hint_bytes(path: &Path) -> u64 {
    const EVENT_BYTES: usize = 16;
    let name = path.file_name().map_or(0, |name| name.len() + 1);
    (EVENT_BYTES + name.next_multiple_of(EVENT_BYTES)) as u64
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::*;
    use crate::discover::watch::Watch;

    /// Long enough on any machine.
    const LONG: Duration = Duration::from_secs(20);

    /// A folder with its hints, and what flows there.
    struct Case {
        dir: tempfile::TempDir,
        watch: Watch,
        flow: Arc<Flow>,
    }

    impl Case {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let flow = Arc::new(Flow::new().unwrap());
            let mut watch = Watch::new(9, &flow).unwrap();
            watch.add(dir.path());
            fs::write(dir.path().join("a.log"), "x").unwrap();
            fs::write(dir.path().join("b.log"), "x").unwrap();
            let mut case = Self { dir, watch, flow };
            case.check(true, &["a.log", "b.log"]);
            case
        }

        fn write(&self, name: &str) {
            let mut old = fs::read(self.dir.path().join(name)).unwrap_or_default();
            old.push(b'x');
            // Written anew in one go: one or two hints, as the kernel likes.
            fs::write(self.dir.path().join(name), old).unwrap();
        }

        /// Whether a wait ends early, and which writes were told then.
        fn check(&mut self, wakes: bool, told: &[&str]) {
            let limit = if wakes { LONG } else { Duration::ZERO };
            assert_eq!(self.watch.wait(limit, &self.flow), wakes);
            if wakes {
                let mut touched = self.watch.drain().touched;
                self.watch.leave_out_flowing(&mut touched, &self.flow);
                let wanted: Vec<_> = told.iter().map(|name| self.dir.path().join(name)).collect();
                assert_eq!(touched, wanted);
            }
        }
    }

    #[test]
    fn a_file_that_does_not_flow_wakes_each_time() {
        let mut case = Case::new();
        for _ in 0..3 {
            case.write("a.log");
            case.check(true, &["a.log"]);
        }
        case.check(false, &[]);
    }

    #[test]
    fn a_flowing_file_wakes_once_and_others_still_do() {
        let mut case = Case::new();
        let flowing = case.flow.enter(case.dir.path().join("a.log"));
        case.write("a.log");
        // It is not told, and the next hint about it stays where it is.
        case.check(true, &[]);
        for _ in 0..3 {
            case.write("a.log");
            case.check(false, &[]);
        }
        fs::write(case.dir.path().join("other.log"), "x").unwrap();
        case.check(true, &["other.log"]);
        // A name of the same length is told at the latest when the flowing file goes on.
        case.write("b.log");
        case.write("a.log");
        case.check(true, &["b.log"]);
        // What waited is seen when it does not flow any more.
        case.write("a.log");
        case.check(true, &[]);
        case.write("a.log");
        case.check(false, &[]);
        drop(flowing);
        case.check(true, &["a.log"]);
    }
}
