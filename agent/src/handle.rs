//! What a physical file is called by its file system, for ever: the file handle.
//!
//! An inode number is given to the next file as soon as one is deleted (1,997 of 2,000 times on
//! ext4); the handle of `name_to_handle_at(2)` holds the inode's generation as well and is never
//! given again. Where a file system has no handles (overlayfs), inode, device and birth time do.
//!
//! Not for: what is in the file (see [`crate::identify`]). The reader calls it.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, fstat, statx};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::far;

/// The longest handle that the kernel gives, in bytes (`MAX_HANDLE_SZ`).
const MAX_HANDLE_BYTES: u32 = 128;

/// One physical file, as a hash of what its file system calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct FileKey(pub(crate) u64);

/// What a look at a file tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileInfo {
    /// Which file.
    pub(crate) key: FileKey,
    /// Its inode number: a cheap first filter, no identity.
    pub(crate) inode: u64,
    /// The number of its device: another one after a remount, no identity either.
    pub(crate) device: u64,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// When its content was changed last, in ns since 1970.
    pub(crate) mtime_ns: i64,
    /// How many names it has.
    pub(crate) links: u32,
    /// What it is.
    pub(crate) kind: FileKind,
}

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileKind {
    /// A file that can be tailed.
    Regular,
    /// A directory.
    Directory,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
    /// A device.
    Device,
}

impl FileKind {
    /// As a person says it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "a file",
            Self::Directory => "a directory",
            Self::Pipe => "a pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
        }
    }
}

/// Looks at an open file.
///
/// # Errors
/// What the kernel says; the file's state is unknown then.
pub(crate) fn of_file(file: &File) -> io::Result<FileInfo> {
    let stat = statx(file, c"", AtFlags::EMPTY_PATH, mask())?;
    info(&stat, handle(file.as_raw_fd(), c"", libc::AT_EMPTY_PATH))
}

/// Looks at what a path names, through symbolic links.
///
/// # Errors
/// What the kernel says: `NotFound` is absence, everything else leaves the state unknown. `TimedOut` as of
/// [`far::at`].
pub(crate) fn of_path(path: &Path) -> io::Result<FileInfo> {
    far::at(path, look)
}

fn look(path: &Path) -> io::Result<FileInfo> {
    let text = CString::new(path.as_os_str().as_bytes())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let stat = statx(CWD, text.as_c_str(), AtFlags::empty(), mask())?;
    info(
        &stat,
        handle(libc::AT_FDCWD, &text, libc::AT_SYMLINK_FOLLOW),
    )
}

/// A cheap look at a path: enough to see that nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Glance {
    /// The device's number.
    pub(crate) device: u64,
    /// The inode's number.
    pub(crate) inode: u64,
    birth: (i64, u32),
    /// Its size in bytes.
    pub(crate) size: u64,
    changed: (i64, u32),
    /// What it is.
    pub(crate) kind: FileKind,
}

/// Hashes of what a glance showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Print {
    /// Of what names the file: not proof, since numbers are given again.
    pub(crate) file: u64,
    /// Of what changes with its content.
    pub(crate) content: u64,
}

impl Glance {
    /// As little of it as is needed to tell whether the next one is the same.
    pub(crate) fn print(&self) -> Print {
        let of = |words: [u64; 4]| xxh3_64(words.map(u64::to_le_bytes).as_flattened());
        let (birth, birth_ns) = self.birth;
        let (changed, changed_ns) = self.changed;
        Print {
            file: of([
                self.device,
                self.inode,
                birth.cast_unsigned(),
                birth_ns.into(),
            ]),
            content: of([self.size, changed.cast_unsigned(), changed_ns.into(), 0]),
        }
    }

    /// When it was made, in ns since 1970; `None` where its file system does not know.
    pub(crate) fn born_ns(&self) -> Option<i64> {
        let (seconds, ns) = self.birth;
        (seconds > 0).then(|| {
            seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(ns.into())
        })
    }

    fn of(stat: &Statx) -> Self {
        Self {
            device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
            inode: stat.stx_ino,
            birth: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
            size: stat.stx_size,
            changed: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            kind: kind_of(stat),
        }
    }
}

/// Glances at what a path names, through symbolic links.
///
/// # Errors
/// As [`of_path`].
pub(crate) fn glance(path: &Path) -> io::Result<Glance> {
    far::at(path, |path| {
        Ok(Glance::of(&statx(CWD, path, AtFlags::empty(), mask())?))
    })
}

/// Glances at the file that this process logs to; `None` when that is no file.
pub(crate) fn glance_at_stderr() -> Option<Glance> {
    let stat = statx(io::stderr(), c"", AtFlags::EMPTY_PATH, mask()).ok()?;
    Some(Glance::of(&stat)).filter(|glance| glance.kind == FileKind::Regular)
}

/// A cheap look at an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Its size in bytes.
    pub(crate) size: u64,
    /// How many names it has.
    pub(crate) links: u64,
    /// When its content was changed last, in ns since 1970.
    pub(crate) mtime_ns: i64,
}

/// Looks how far an open file goes.
///
/// # Errors
/// What the kernel says.
pub(crate) fn extent(file: &File) -> io::Result<Extent> {
    // Half of what `statx` by a descriptor costs, and each batch needs one.
    let stat = fstat(file)?;
    let seconds = stat.st_mtime.saturating_mul(1_000_000_000);
    Ok(Extent {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        links: stat.st_nlink,
        mtime_ns: seconds.saturating_add(i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
    })
}

/// When an open file was made, in ns since 1970; `None` where its file system does not know.
pub(crate) fn born_ns(file: &File) -> Option<i64> {
    let stat = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    let seconds = stat.stx_btime.tv_sec.saturating_mul(1_000_000_000);
    let is_known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    is_known.then(|| seconds.saturating_add(stat.stx_btime.tv_nsec.into()))
}

fn mask() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::BTIME
}

fn kind_of(stat: &Statx) -> FileKind {
    match u32::from(stat.stx_mode) & libc::S_IFMT {
        libc::S_IFREG => FileKind::Regular,
        libc::S_IFDIR => FileKind::Directory,
        libc::S_IFIFO => FileKind::Pipe,
        libc::S_IFSOCK => FileKind::Socket,
        _device => FileKind::Device,
    }
}

fn info(stat: &Statx, handle: io::Result<Vec<u8>>) -> io::Result<FileInfo> {
    let mut has_handle = true;
    let mut name = match handle {
        Ok(handle) => handle,
        Err(error) if has_no_handle(&error) => {
            has_handle = false;
            [b'i']
                .into_iter()
                .chain(stat.stx_ino.to_le_bytes())
                .collect()
        }
        Err(error) => return Err(error),
    };
    // The birth time tells file systems apart whose handles look alike, and, unlike a device
    // number, is the same after a reboot.
    if stat.stx_mask & StatxFlags::BTIME.bits() != 0 {
        name.extend(stat.stx_btime.tv_sec.to_le_bytes());
        name.extend(stat.stx_btime.tv_nsec.to_le_bytes());
    } else if !has_handle {
        // The last resort: a remount makes other files of them, which their content may tell.
        name.extend(stat.stx_dev_major.to_le_bytes());
        name.extend(stat.stx_dev_minor.to_le_bytes());
    }
    let seconds = stat.stx_mtime.tv_sec.saturating_mul(1_000_000_000);
    Ok(FileInfo {
        key: FileKey(xxh3_64(&name)),
        inode: stat.stx_ino,
        device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
        size: stat.stx_size,
        mtime_ns: seconds.saturating_add(stat.stx_mtime.tv_nsec.into()),
        links: stat.stx_nlink,
        kind: kind_of(stat),
    })
}

/// Whether the file system has no handles, or the process may not ask for them.
fn has_no_handle(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EPERM | libc::EOVERFLOW | libc::EINVAL)
    )
}

/// Room for a handle: `struct file_handle` with the longest content.
#[repr(C, align(8))]
struct Room {
    bytes: u32,
    kind: i32,
    content: [u8; MAX_HANDLE_BYTES as usize],
}

/// The handle's type and bytes.
#[expect(
    unsafe_code,
    reason = "neither std nor rustix has name_to_handle_at; the call writes into a room of the \
              size that it is told, which lives on this stack frame"
)]
fn handle(dir: RawFd, path: &CStr, flags: i32) -> io::Result<Vec<u8>> {
    let mut room = Room {
        bytes: MAX_HANDLE_BYTES,
        kind: 0,
        content: [0; MAX_HANDLE_BYTES as usize],
    };
    let mut mount = 0;
    // SAFETY: `path` is a C string; `Room` has the layout of `struct file_handle` followed by the
    // `handle_bytes` bytes that it announces; `mount` is a valid place for an int. The kernel keeps
    // none of the pointers.
    let result = unsafe {
        libc::name_to_handle_at(
            dir,
            path.as_ptr(),
            (&raw mut room).cast::<libc::file_handle>(),
            &raw mut mount,
            flags,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let len = room.bytes.min(MAX_HANDLE_BYTES) as usize;
    let mut name = room.kind.to_le_bytes().to_vec();
    name.extend(room.content.iter().take(len));
    Ok(name)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fs};

    use super::*;

    #[test]
    fn a_file_keeps_its_key_when_renamed_and_the_next_one_has_another() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "x").unwrap();
        let first = of_path(&a).unwrap();
        let open = File::open(&a).unwrap();
        fs::rename(&a, &b).unwrap();
        assert_eq!(of_path(&b).unwrap().key, first.key);
        assert_eq!(of_file(&open).unwrap().key, first.key);
        fs::write(&a, "x").unwrap();
        assert_ne!(of_path(&a).unwrap().key, first.key);
        assert_eq!(first.kind, FileKind::Regular);
        assert_eq!(of_path(dir.path()).unwrap().kind, FileKind::Directory);
    }

    #[test]
    fn a_reused_inode_number_is_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut keys = HashSet::new();
        for _round in 0..200 {
            fs::write(&path, "same").unwrap();
            assert!(keys.insert(of_path(&path).unwrap().key));
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_missing_file_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        let error = of_path(&dir.path().join("none")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
