//! The only door to write files: atomic replace, append, sync of file and folder, lock, free space.
//!
//! What counts as written is written as databases do it: a file is replaced by temp, write, fsync,
//! rename, fsync of the folder; a new file is durable only once its folder is synced too. Every
//! error carries its path.
//!
//! Not for: reading logs (the agent reads with `pread`), formats, recovery of torn tails. Called by
//! the checkpoint, the spill, the dedupe journal, the file destination. All calls block: call them
//! on plain threads.

mod calls;
#[cfg(any(test, feature = "faults"))]
pub mod faults;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock, statvfs},
    io::Errno,
};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {doing} {}: {source}", path.display())]
pub struct DiskError {
    /// What was tried, as a verb.
    pub doing: &'static str,
    /// On which file or folder.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl DiskError {
    /// Whether the disk or the quota is full: wait for room, nothing is broken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }

    /// Whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Makes a closure that adds what was tried, and where, to an [`io::Error`].
fn at<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> DiskError {
    move |source| DiskError {
        doing,
        path: path.to_owned(),
        source: source.into(),
    }
}

/// The folder of a path; `.` for a bare name.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Replaces a file as a whole: after a crash it holds the old or the new bytes, never a mixture.
/// Durable when this returns. One writer per path.
///
/// # Errors
/// [`DiskError`]; the old file is untouched then, unless the folder's sync failed.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    replace_as(path, bytes, 0o666)
}

/// As [`replace`]; nobody but the owner may read it.
///
/// # Errors
/// As [`replace`].
pub fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    replace_as(path, bytes, 0o600)
}

/// With these permissions, less the process's mask.
fn replace_as(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DiskError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temp = path.with_file_name(name);
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(mode);
        let file = calls::create(&temp, &options).map_err(at("create", &temp))?;
        calls::write(&file, &temp, bytes).map_err(at("write", &temp))?;
        calls::sync(&file, &temp).map_err(at("sync", &temp))?;
        rename(&temp, path)
    };
    let written = write();
    if written.is_err() {
        // The first error is the one to tell; a left temp file is overwritten by the next try.
        drop(calls::remove(&temp));
    }
    written
}

/// Renames a file within a file system and syncs the folders of both names.
///
/// # Errors
/// [`DiskError`] with the old name.
pub fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    calls::rename(from, to).map_err(at("rename", from))?;
    sync_dir(folder(to))?;
    if folder(from) == folder(to) {
        Ok(())
    } else {
        sync_dir(folder(from))
    }
}

/// Makes the names in a folder durable: needed after a file in it was made, renamed or removed.
///
/// # Errors
/// [`DiskError`] with the folder.
pub fn sync_dir(dir: &Path) -> Result<(), DiskError> {
    calls::sync_dir(dir).map_err(at("sync", dir))
}

/// Makes a folder with all above it, durably. No error when it is there already.
///
/// # Errors
/// [`DiskError`] with the folder.
pub fn create_dir_all(dir: &Path) -> Result<(), DiskError> {
    let missing: Vec<_> = dir
        .ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.is_dir())
        .collect();
    calls::make_dir(dir).map_err(at("create", dir))?;
    missing
        .into_iter()
        .try_for_each(|made| sync_dir(folder(made)))
}

/// Removes a file, durably. `false` when there was none.
///
/// # Errors
/// [`DiskError`] with the path.
pub fn remove(path: &Path) -> Result<bool, DiskError> {
    match calls::remove(path) {
        Ok(()) => sync_dir(folder(path)).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at("remove", path)(error)),
    }
}

/// Removes a folder with all in it. `false` when there was none.
///
/// # Errors
/// [`DiskError`] with the folder.
pub fn remove_dir_all(dir: &Path) -> Result<bool, DiskError> {
    match fs::remove_dir_all(dir) {
        Ok(()) => sync_dir(folder(dir)).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at("remove", dir)(error)),
    }
}

/// Shortens (or lengthens with zeros) a file that is not open here, and syncs it.
///
/// # Errors
/// [`DiskError`] with the path.
pub fn truncate(path: &Path, len: u64) -> Result<(), DiskError> {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(at("open", path))?;
    file.set_len(len)
        .and_then(|()| file.sync_all())
        .map_err(at("truncate", path))
}

/// Opens a file for reading.
///
/// # Errors
/// [`DiskError`] with the path.
pub fn open_read(path: &Path) -> Result<File, DiskError> {
    File::open(path).map_err(at("open", path))
}

/// Reads a whole file; `None` when there is none.
///
/// # Errors
/// [`DiskError`] with the path.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    match calls::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("read", path)(error)),
    }
}

/// The paths in a folder, in their order.
///
/// # Errors
/// [`DiskError`] with the folder.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let mut paths = calls::list(dir).map_err(at("list", dir))?;
    paths.sort_unstable();
    Ok(paths)
}

/// Reads a secret (a token, a password) from a file of its own, without the white space around it.
///
/// # Errors
/// [`DiskError`] with the path, also when the file is missing, empty or no UTF-8. The content is
/// never in it.
pub fn read_secret(path: &Path) -> Result<String, DiskError> {
    let text = fs::read_to_string(path).map_err(at("read", path))?;
    match text.trim() {
        "" => Err(at("read", path)(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file is empty",
        ))),
        secret => Ok(secret.to_owned()),
    }
}

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What a process without privileges may still write.
    pub free: u64,
    /// Its whole size.
    pub total: u64,
}

/// How much room the file system of a path has.
///
/// # Errors
/// [`DiskError`] with the path.
pub fn free_space(path: &Path) -> Result<Space, DiskError> {
    let stat = statvfs(path).map_err(at("look at the file system of", path))?;
    Ok(Space {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// A file that only grows. One writer.
#[derive(Debug)]
pub struct AppendFile {
    file: File,
    path: PathBuf,
    len: u64,
    /// Whether bytes beyond `len` could not be cut off.
    torn: bool,
}

impl AppendFile {
    /// Opens a file to append at its end; makes it, and syncs its folder, when there is none.
    ///
    /// # Errors
    /// [`DiskError`] with the path.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let mut options = OpenOptions::new();
        options.append(true).read(true);
        match calls::open(path, &options) {
            Ok(file) => Self::from_file(file, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path),
            Err(error) => Err(at("open", path)(error)),
        }
    }

    /// Makes a new file and syncs its folder.
    ///
    /// # Errors
    /// [`DiskError`] with the path, also when it is there already.
    pub fn create(path: &Path) -> Result<Self, DiskError> {
        let mut options = OpenOptions::new();
        options.append(true).read(true).create_new(true);
        let file = calls::create(path, &options).map_err(at("create", path))?;
        sync_dir(folder(path))?;
        Self::from_file(file, path)
    }

    /// Makes a file under a name that does not count yet, emptying what an earlier try left there.
    /// [`AppendFile::rename`] gives it the one that does.
    ///
    /// # Errors
    /// [`DiskError`] with the path.
    pub fn stage(path: &Path) -> Result<Self, DiskError> {
        let mut options = OpenOptions::new();
        // An append-only descriptor cannot empty a file.
        match calls::remove(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at("remove", path)(error)),
        }
        options.append(true).read(true).create_new(true);
        let file = calls::create(path, &options).map_err(at("create", path))?;
        Self::from_file(file, path)
    }

    /// Gives the file another name in its folder, in place of what has it. Durable only after
    /// [`sync_dir`] of the folder.
    ///
    /// # Errors
    /// [`DiskError`] with the old name; nothing is renamed.
    pub fn rename(&mut self, to: &Path) -> Result<(), DiskError> {
        calls::rename(&self.path, to).map_err(at("rename", &self.path))?;
        to.clone_into(&mut self.path);
        Ok(())
    }

    /// Whether its path still names this file: false when somebody has removed or replaced it.
    ///
    /// # Errors
    /// [`DiskError`] when that cannot be said.
    pub fn is_in_place(&self) -> Result<bool, DiskError> {
        use std::os::unix::fs::MetadataExt as _;
        let here = self.file.metadata().map_err(at("look at", &self.path))?;
        match fs::metadata(&self.path) {
            Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(at("look at", &self.path)(error)),
        }
    }

    fn from_file(file: File, path: &Path) -> Result<Self, DiskError> {
        let len = file.metadata().map_err(at("look at", path))?.len();
        Ok(Self {
            file,
            path: path.to_owned(),
            len,
            torn: false,
        })
    }

    /// Writes all bytes at the end and says where they begin. Not durable before a sync.
    ///
    /// # Errors
    /// [`DiskError`]; what was written in part is cut off again, so the length stays as it was. When
    /// the cut fails as well, the next append tries it first.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64, DiskError> {
        let begin = self.len;
        if self.torn {
            self.truncate(begin)?;
        }
        if let Err(error) = calls::write(&self.file, &self.path, bytes) {
            self.torn = calls::cut(&self.file, &self.path, begin).is_err();
            return Err(at("append to", &self.path)(error));
        }
        self.len += bytes.len() as u64;
        Ok(begin)
    }

    /// Makes all that was appended durable (`fdatasync`).
    ///
    /// # Errors
    /// [`DiskError`]. After it, the kernel may have dropped what was not synced: a second try that
    /// succeeds proves nothing. Write it anew to another file, or fail.
    pub fn sync(&self) -> Result<(), DiskError> {
        calls::sync(&self.file, &self.path).map_err(at("sync", &self.path))
    }

    /// A handle that syncs this file from another thread while this one goes on appending.
    ///
    /// # Errors
    /// [`DiskError`] when no descriptor is left.
    pub fn syncer(&self) -> Result<Syncer, DiskError> {
        let file = self.file.try_clone().map_err(at("open", &self.path))?;
        Ok(Syncer {
            file,
            path: self.path.clone(),
        })
    }

    /// Cuts the file to `len` bytes. Not durable before a sync.
    ///
    /// # Errors
    /// [`DiskError`] with the path.
    pub fn truncate(&mut self, len: u64) -> Result<(), DiskError> {
        calls::cut(&self.file, &self.path, len).map_err(at("truncate", &self.path))?;
        self.len = len;
        self.torn = false;
        Ok(())
    }

    /// Its length in bytes, with what was appended here.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its descriptor, to read back or look at; writing goes through this type only.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Syncs an [`AppendFile`] from another thread.
#[derive(Debug)]
pub struct Syncer {
    file: File,
    path: PathBuf,
}

impl Syncer {
    /// Makes durable all that was appended before this call.
    ///
    /// # Errors
    /// As [`AppendFile::sync`].
    pub fn sync(&self) -> Result<(), DiskError> {
        calls::sync(&self.file, &self.path).map_err(at("sync", &self.path))
    }
}

/// Another process works in the folder. The daemons exit with code 3.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is held by another process; stop it, or choose another folder", path.display())]
pub struct LockHeld {
    /// The folder.
    pub path: PathBuf,
}

/// Why a folder could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(transparent)]
    Held(#[from] LockHeld),
    /// The lock file cannot be made.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// The right to work in a folder, as `flock` on `<folder>/lock`. Given back when it is dropped or
/// the process dies, however it dies.
#[derive(Debug)]
pub struct Lock {
    // Held open for its lock only.
    _file: File,
}

impl Lock {
    /// Takes the folder, making it where needed. Never waits.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process, or another lock in this one, has it.
    pub fn acquire(dir: &Path) -> Result<Self, LockError> {
        create_dir_all(dir)?;
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        // Not truncated: nothing is written to it, and it may be another's.
        options.write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(at("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(LockHeld {
                path: dir.to_owned(),
            }
            .into()),
            Err(error) => Err(at("lock", &path)(error).into()),
        }
    }
}

#[cfg(test)]
mod tests;
