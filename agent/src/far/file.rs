//! An open log file, near or far: what it is asked, and how it is opened so that nobody is kept waiting
//! and nothing is left behind.
//!
//! Not for: whether there is room for one more open file (see [`crate::reader`]).

use std::{
    fs::File,
    io::{self, Read},
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::SeekFrom;

use super::{
    mount::{Asked, Mount},
    of,
};
use crate::handle::{self, Extent, FileInfo};

/// Bytes that a far file is asked for at a time: within the patience of who asks, also on a slow line.
const FAR_BYTES: usize = 128 << 10;

/// An open file.
#[derive(Debug)]
pub(crate) enum LogFile {
    /// On this host.
    Near(File),
    /// On a file system that may hang.
    Far(Box<FarFile>),
}

/// An open file on a far file system.
#[derive(Debug)]
pub(crate) struct FarFile {
    /// Always there until the drop.
    file: Option<Arc<File>>,
    mount: Arc<Mount>,
    /// What was asked for and did not come in time.
    late: Mutex<Option<Late>>,
}

#[derive(Debug)]
struct Late {
    offset: u64,
    want: usize,
    asked: Asked<Vec<u8>>,
}

/// Opens a file to read, without waiting for anybody (a pipe in its place would), and without noting
/// the time of access where that is allowed: it would be written to the disk for each batch.
pub(crate) fn open_file(path: &Path) -> io::Result<LogFile> {
    let Some(mount) = of(path) else {
        return open_here(path).map(LogFile::Near);
    };
    let path = path.to_owned();
    let file = mount.ask(move || open_here(&path))?;
    Ok(LogFile::Far(Box::new(FarFile {
        file: Some(Arc::new(file)),
        mount,
        late: Mutex::default(),
    })))
}

fn open_here(path: &Path) -> io::Result<File> {
    match open_with(path, libc::O_NOATIME) {
        // Only the owner of a file and root may ask for that.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => open_with(path, 0),
        opened => opened,
    }
}

fn open_with(path: &Path, more: i32) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC | more;
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
}

impl LogFile {
    /// Asks the kernel about it.
    fn ask<T: Send + 'static>(&self, op: fn(&File) -> io::Result<T>) -> io::Result<T> {
        match self {
            Self::Near(file) => op(file),
            Self::Far(far) => {
                let file = far.file();
                far.mount.ask(move || op(&file))
            }
        }
    }

    /// Looks at it.
    ///
    /// # Errors
    /// What the kernel says; the file's state is unknown then. So with the others.
    pub(crate) fn info(&self) -> io::Result<FileInfo> {
        self.ask(handle::of_file)
    }

    /// How far it goes.
    ///
    /// # Errors
    /// As [`LogFile::info`].
    pub(crate) fn extent(&self) -> io::Result<Extent> {
        self.ask(handle::extent)
    }

    /// When it was made, in ns since 1970; `None` where nobody knows.
    pub(crate) fn born_ns(&self) -> Option<i64> {
        self.ask(|file| Ok(handle::born_ns(file))).ok()?
    }

    /// Reads at an offset; 0 bytes at its end.
    ///
    /// # Errors
    /// As [`LogFile::info`].
    pub(crate) fn read_at(&self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Near(file) => file.read_at(room, offset),
            Self::Far(far) => far.read_at(room, offset),
        }
    }

    /// Fills all of the room.
    ///
    /// # Errors
    /// As [`LogFile::info`]; `UnexpectedEof` when it ends before.
    pub(crate) fn read_exact_at(&self, room: &mut [u8], offset: u64) -> io::Result<()> {
        let mut len = 0;
        while let Some(left) = room.get_mut(len..).filter(|left| !left.is_empty()) {
            match self.read_at(left, offset + len as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Where data begins at or after an offset; its end when none does, `None` when nobody knows.
    pub(crate) fn next_data(&self, offset: u64) -> Option<u64> {
        match self {
            Self::Near(file) => next_data(file, offset),
            Self::Far(far) => {
                let file = far.file();
                far.mount.ask(move || Ok(next_data(&file, offset))).ok()?
            }
        }
    }

    /// The same file once more.
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Near(file) => file.try_clone().map(Self::Near),
            Self::Far(far) => Ok(Self::Far(Box::new(FarFile {
                file: Some(far.file()),
                mount: Arc::clone(&far.mount),
                late: Mutex::default(),
            }))),
        }
    }

    /// What the kernel calls it now, also after it was renamed.
    pub(crate) fn path_now(&self) -> Option<PathBuf> {
        let descriptor = match self {
            Self::Near(file) => file.as_raw_fd(),
            Self::Far(far) => far.file.as_ref()?.as_raw_fd(),
        };
        std::fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()
    }

    /// Reads it from its beginning.
    pub(crate) fn reader(self) -> impl Read + Send {
        Sequential { file: self, at: 0 }
    }
}

fn next_data(file: &File, offset: u64) -> Option<u64> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => Some(data),
        Err(rustix::io::Errno::NXIO) => file.metadata().ok().map(|meta| meta.len()),
        // No file system knows everything: read on.
        Err(_unknown) => None,
    }
}

impl FarFile {
    fn file(&self) -> Arc<File> {
        Arc::clone(self.file.as_ref().expect("it is there until the drop"))
    }

    fn read_at(&self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        let want = room.len().min(FAR_BYTES);
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let before = late.take();
        let before = before.filter(|late| late.offset == offset && late.want == want);
        let asked = match before {
            Some(late) => late.asked,
            None => {
                let file = self.file();
                self.mount.begin(move || {
                    let mut bytes = vec![0; want];
                    let len = file.read_at(&mut bytes, offset)?;
                    bytes.truncate(len);
                    Ok(bytes)
                })?
            }
        };
        let Some(answer) = self.mount.wait(&asked) else {
            *late = Some(Late {
                offset,
                want,
                asked,
            });
            return Err(self.mount.unanswered());
        };
        let bytes = answer?;
        let room = room.get_mut(..bytes.len()).unwrap_or_default();
        room.copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

impl Drop for FarFile {
    /// Closing may wait for the server as well.
    fn drop(&mut self) {
        let file = self.file.take();
        self.mount.later(move || drop(file));
    }
}

/// A file that is read from its beginning to its end.
struct Sequential {
    file: LogFile,
    at: u64,
}

impl Read for Sequential {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(room, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::FileTimes,
        time::{Duration, SystemTime},
    };

    use super::*;

    #[test]
    fn reading_leaves_the_time_of_access_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        std::fs::write(&path, "a line\n").unwrap();
        // Before the change of its content: the first reader would be noted.
        let before = SystemTime::now() - Duration::from_secs(1_000_000);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_times(FileTimes::new().set_accessed(before))
            .unwrap();
        let accessed = || std::fs::metadata(&path).unwrap().accessed().unwrap();
        let told = accessed();
        let mut text = String::new();
        let file = open_file(&path).unwrap();
        file.reader().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), accessed()), ("a line\n", told));
    }

    /// A file of 300,000 bytes that is asked as a far one is.
    fn far(dir: &Path) -> (LogFile, Vec<u8>) {
        let bytes: Vec<u8> = (0..251_u8).cycle().take(300_000).collect();
        std::fs::write(dir.join("a.log"), &bytes).unwrap();
        let file = FarFile {
            file: Some(Arc::new(File::open(dir.join("a.log")).unwrap())),
            mount: Arc::new(Mount::start(1, dir).unwrap()),
            late: Mutex::default(),
        };
        (LogFile::Far(Box::new(file)), bytes)
    }

    #[test]
    fn a_far_file_says_what_a_near_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let (far, bytes) = far(dir.path());
        let near = open_file(&dir.path().join("a.log")).unwrap();
        assert_eq!(far.info().unwrap(), near.info().unwrap());
        assert_eq!(far.extent().unwrap(), near.extent().unwrap());
        assert_eq!(far.born_ns(), near.born_ns());
        assert_eq!(far.next_data(0), near.next_data(0));
        assert_eq!(far.path_now(), near.path_now());
        for file in [far, near] {
            let mut room = vec![0; 299_000];
            file.read_exact_at(&mut room, 1_000).unwrap();
            assert_eq!(room, bytes[1_000..]);
            let short = file.read_exact_at(&mut room, 1_001).unwrap_err();
            assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
            let mut read = Vec::new();
            file.reader().read_to_end(&mut read).unwrap();
            assert!(read == bytes);
        }
    }

    #[test]
    fn what_was_read_too_late_is_there_when_it_is_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let (file, bytes) = far(dir.path());
        let LogFile::Far(far) = &file else {
            panic!("it is far");
        };
        let (go, gone) = crossbeam_channel::bounded::<()>(0);
        let part = bytes[7..17].to_vec();
        let asked = far.mount.begin(move || {
            gone.recv().map_err(io::Error::other)?;
            Ok(part)
        });
        *far.late.lock().unwrap() = Some(Late {
            offset: 7,
            want: 10,
            asked: asked.unwrap(),
        });
        let mut room = [0; 10];
        let silent = file.read_at(&mut room, 7).unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
        assert!(file.extent().is_err(), "nothing else is asked meanwhile");
        go.send(()).unwrap();
        while file.read_at(&mut room, 7).is_err() {
            std::thread::yield_now();
        }
        assert_eq!(room, bytes[7..17]);
    }
}
