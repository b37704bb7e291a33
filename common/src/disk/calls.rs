//! The kernel's calls by which the door reads and changes the disk, one function each: the places
//! where a test makes them fail (see `faults.rs`).
//!
//! Not for: what belongs together, and which error means what (see [`super`]). Nobody else calls it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

#[cfg(any(test, feature = "faults"))]
use super::faults;

/// What is asked of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Open,
    Create,
    Read,
    List,
    /// Told of by `before_write`, which may also cut it short.
    #[cfg(any(test, feature = "faults"))]
    Write,
    Cut,
    Sync,
    Rename,
    SyncDir,
    Remove,
    MakeDir,
}

/// A program has no faults of its own making.
#[cfg(not(any(test, feature = "faults")))]
mod faults {
    use std::{fs::File, io, path::Path};

    pub(super) fn before(_: super::Call, _: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn before_write(_: &Path, _: usize) -> io::Result<Option<usize>> {
        Ok(None)
    }

    pub(super) fn made(_: &Path, _: &File) {}

    pub(super) fn syncs_for(_: &Path, _: &File) -> bool {
        false
    }

    pub(super) fn syncs_dir_for(_: &Path) -> bool {
        false
    }
}

/// Opens what is there.
pub(super) fn open(path: &Path, options: &OpenOptions) -> io::Result<File> {
    faults::before(Call::Open, path)?;
    options.open(path)
}

/// Opens what `options` make.
pub(super) fn create(path: &Path, options: &OpenOptions) -> io::Result<File> {
    faults::before(Call::Create, path)?;
    let file = options.open(path)?;
    faults::made(path, &file);
    Ok(file)
}

/// Reads a whole file.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    faults::before(Call::Open, path)?;
    let mut file = File::open(path)?;
    faults::before(Call::Read, path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The paths in a folder, in no order.
pub(super) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    faults::before(Call::List, dir)?;
    fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect()
}

/// Writes all bytes where the file stands.
pub(super) fn write(mut file: &File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    match faults::before_write(path, bytes.len())? {
        None => file.write_all(bytes),
        Some(len) => {
            file.write_all(bytes.get(..len).unwrap_or(bytes))?;
            Err(io::ErrorKind::StorageFull.into())
        }
    }
}

/// Cuts a file to so many bytes, or lengthens it with zeros.
pub(super) fn cut(file: &File, path: &Path, len: u64) -> io::Result<()> {
    faults::before(Call::Cut, path)?;
    file.set_len(len)
}

/// Makes a file's bytes durable, and its length.
pub(super) fn sync(file: &File, path: &Path) -> io::Result<()> {
    faults::before(Call::Sync, path)?;
    if faults::syncs_for(path, file) {
        return Ok(());
    }
    file.sync_data()
}

/// Gives a file another name.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    faults::before(Call::Rename, from)?;
    fs::rename(from, to)
}

/// Makes the names in a folder durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    faults::before(Call::SyncDir, dir)?;
    if faults::syncs_dir_for(dir) {
        return Ok(());
    }
    File::open(dir).and_then(|dir| dir.sync_all())
}

/// Removes a file.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    faults::before(Call::Remove, path)?;
    fs::remove_file(path)
}

/// Makes a folder and all above it.
pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    faults::before(Call::MakeDir, dir)?;
    fs::create_dir_all(dir)
}
