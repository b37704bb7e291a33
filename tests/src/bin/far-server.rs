//! `far-server FOLDER MOUNT`: serves a folder through FUSE, read only, as a server of files does: what is written
//! to the folder comes without events, and a file that is open stays itself when it is renamed there.
//!
//! A process of its own, so that it can be stopped and killed. Not for: anything but tests.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::{DirEntryExt as _, FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};
use rustix::fs::{Mode, OFlags};

/// The kernel believes for so long what it was told of a name or a file.
const TTL: Duration = Duration::from_secs(1);

/// A file that the kernel knows, by its inode's number.
struct Node {
    /// Keeps it, and so its number, whatever becomes of its name.
    place: File,
    lookups: u64,
}

/// The folder.
struct Served {
    nodes: Mutex<HashMap<u64, Node>>,
    open: Mutex<HashMap<u64, File>>,
    next: AtomicU64,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn place(folder: impl rustix::fd::AsFd, name: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?.into())
}

fn kind_of(kind: fs::FileType) -> FileType {
    match () {
        () if kind.is_dir() => FileType::Directory,
        () if kind.is_symlink() => FileType::Symlink,
        () => FileType::RegularFile,
    }
}

fn told(number: u64, file: &File) -> io::Result<FileAttr> {
    let meta = file.metadata()?;
    let time = meta.modified()?;
    Ok(FileAttr {
        ino: INodeNo(number),
        size: meta.len(),
        blocks: meta.blocks(),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: kind_of(meta.file_type()),
        perm: u16::try_from(meta.mode() & 0o777).unwrap_or_default(),
        nlink: u32::try_from(meta.nlink()).unwrap_or(1),
        uid: meta.uid(),
        gid: meta.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

impl Served {
    fn new(folder: &Path) -> io::Result<Self> {
        let root = Node {
            place: place(rustix::fs::CWD, folder)?,
            lookups: 1,
        };
        Ok(Self {
            nodes: Mutex::new(HashMap::from([(INodeNo::ROOT.0, root)])),
            open: Mutex::default(),
            next: AtomicU64::new(1),
        })
    }

    /// Where a file can be opened, whatever its name is by now.
    fn path(&self, number: INodeNo) -> io::Result<PathBuf> {
        use std::os::fd::AsRawFd as _;
        let nodes = lock(&self.nodes);
        let node = nodes.get(&number.0).ok_or(io::ErrorKind::NotFound)?;
        Ok(format!("/proc/self/fd/{}", node.place.as_raw_fd()).into())
    }

    fn find(&self, folder: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let mut nodes = lock(&self.nodes);
        let parent = nodes.get(&folder.0).ok_or(io::ErrorKind::NotFound)?;
        let found = place(&parent.place, Path::new(name))?;
        let number = found.metadata()?.ino();
        let attr = told(number, &found)?;
        let node = nodes.entry(number).or_insert(Node {
            place: found,
            lookups: 0,
        });
        node.lookups += 1;
        Ok(attr)
    }

    fn look(&self, number: INodeNo) -> io::Result<FileAttr> {
        let nodes = lock(&self.nodes);
        let node = nodes.get(&number.0).ok_or(io::ErrorKind::NotFound)?;
        told(number.0, &node.place)
    }

    fn read_at(&self, open: FileHandle, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let files = lock(&self.open);
        let file = files.get(&open.0).ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut len = 0;
        while let Some(room) = bytes.get_mut(len..).filter(|room| !room.is_empty()) {
            match file.read_at(room, offset + len as u64)? {
                0 => break,
                read => len += read,
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }
}

fn errno(error: &io::Error) -> Errno {
    match error.kind() {
        io::ErrorKind::NotFound => Errno::ENOENT,
        io::ErrorKind::NotADirectory => Errno::ENOTDIR,
        _ => Errno::EIO,
    }
}

impl Filesystem for Served {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // As clients of NFS do: what was read is forgotten when its file has changed. A kernel that cannot
        // goes without.
        match config.add_capabilities(InitFlags::FUSE_AUTO_INVAL_DATA) {
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn forget(&self, _request: &Request, number: INodeNo, lookups: u64) {
        let mut nodes = lock(&self.nodes);
        if let Some(node) = nodes.get_mut(&number.0) {
            node.lookups = node.lookups.saturating_sub(lookups);
            if node.lookups == 0 && number != INodeNo::ROOT {
                nodes.remove(&number.0);
            }
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        number: INodeNo,
        _open: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match self.look(number) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn open(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.path(number).and_then(File::open) {
            Ok(file) => {
                let open = self.next.fetch_add(1, Ordering::Relaxed);
                lock(&self.open).insert(open, file);
                reply.opened(FileHandle(open), FopenFlags::empty());
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _number: INodeNo,
        open: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_at(open, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn release(
        &self,
        _request: &Request,
        _number: INodeNo,
        open: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.open).remove(&open.0);
        reply.ok();
    }

    fn readdir(
        &self,
        _request: &Request,
        number: INodeNo,
        _open: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = match self.path(number).and_then(fs::read_dir) {
            Ok(entries) => entries,
            Err(error) => return reply.error(errno(&error)),
        };
        for (at, entry) in (1..).zip(entries.flatten()) {
            let kind = entry.file_type().map_or(FileType::RegularFile, kind_of);
            if at > offset && reply.add(INodeNo(entry.ino()), at, kind, entry.file_name()) {
                break;
            }
        }
        reply.ok();
    }
}

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (folder, mount) = args
        .next()
        .zip(args.next())
        .context("far-server FOLDER MOUNT")?;
    let served = Served::new(&folder).context("the folder cannot be served")?;
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("far".to_owned()), MountOption::RO];
    fuser::mount2(served, &mount, &config).context("the folder cannot be mounted")
}
