//! The spool: what deleted files still held, compressed, in `<state_dir>/spool`.
//!
//! A deleted file is kept open until it is read, as long as there is room by `limits.spool`; then
//! its unread bytes are compressed into the spool and it is closed, which gives its disk space back;
//! and when that is not enough, what is least urgent is dropped and told as a loss. Compressed log
//! files are read through the spool as well: decompressed on a thread of its own, as much at once as
//! there is room for, so that reading at any offset is cheap and a restart goes on where it was.
//!
//! Not for: deciding (see `crate::reader`). `tributary inspect` calls [`is_spool`] and
//! [`inspect()`].

mod file;
mod unpack;
mod worker;

use std::{
    collections::HashMap,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use serde::Serialize;
use tributary_common::{
    disk,
    ids::{GenerationId, StreamId},
};

pub(crate) use self::{
    file::{Meta, SpoolFile},
    worker::{Compared, Done, Job, Room, Ticket, run, save},
};
use crate::far::LogFile;

/// The folder below a state directory.
pub(crate) const FOLDER: &str = "spool";

/// How a log file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// `gzip`, also of several members.
    Gzip,
    /// `zstd`, also of several frames.
    Zstd,
}

/// What the first bytes of a file say.
fn kind_of(magic: &[u8]) -> Option<Packing> {
    match magic {
        [0x1f, 0x8b, ..] => Some(Packing::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Packing::Zstd),
        _ => None,
    }
}

/// Whether a name is one of a compressed file. `.tar.gz` is none: it holds no log, but files.
pub(crate) fn has_packed_name(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let name = path.as_os_str().as_bytes();
    let ends = |end: &[u8]| name.ends_with(end);
    (ends(b".gz") || ends(b".zst")) && !ends(b".tar.gz") && !ends(b".tar.zst")
}

/// Whether a file is compressed: by its name and its first bytes.
///
/// # Errors
/// What the kernel says.
pub(crate) fn is_packed(path: &Path, file: &LogFile) -> io::Result<bool> {
    if !has_packed_name(path) {
        return Ok(false);
    }
    let mut magic = [0; 4];
    let len = file.read_at(&mut magic, 0)?;
    // An empty one will become one.
    Ok(len == 0 || kind_of(magic.get(..len).unwrap_or_default()).is_some())
}

/// The files of the spool, by generation; what was left unfinished is removed.
pub(crate) fn recover(folder: &Path) -> HashMap<(StreamId, GenerationId), SpoolFile> {
    let mut found = HashMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            drop(disk::remove(&path));
            continue;
        }
        match SpoolFile::open(&path) {
            Ok(spool) => {
                found.insert((spool.meta.stream, spool.meta.generation), spool);
            }
            Err(error) => tracing::error!(
                path = %path.display(),
                error = error.to_string(),
                "a file of the spool cannot be read; it is left alone"
            ),
        }
    }
    found
}

/// What a file of the spool holds, for people.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Where it is.
    file: String,
    /// Where the log file was.
    path: String,
    /// Its stream and generation.
    stream: String,
    generation: String,
    /// Source bytes `[start, end)`.
    start: u64,
    end: u64,
    /// Where the source ends: beyond `end` when this is a window of a compressed file.
    total: u64,
    /// When it was saved, in ms since 1970.
    saved_ms: u64,
    /// Its size on disk, in bytes.
    disk_bytes: u64,
    /// Whether all of it can be read: `ok`, or what is wrong.
    content: String,
}

/// Whether a file is one of a spool, or a folder holds such files.
///
/// # Errors
/// What the kernel says.
pub fn is_spool(path: &Path) -> io::Result<bool> {
    if path.is_dir() {
        let spooled = |entry: io::Result<std::fs::DirEntry>| {
            let path = entry.ok()?.path();
            path.extension()
                .is_some_and(|extension| extension == "spool")
                .then_some(())
        };
        return Ok(std::fs::read_dir(path)?.find_map(spooled).is_some());
    }
    let mut magic = [0; 8];
    let len = std::fs::File::open(path)?.read_at(&mut magic, 0)?;
    Ok(len == 8 && magic == file::MAGIC)
}

/// What a file of the spool, or each file of a folder, holds; all of it is read.
///
/// # Errors
/// When it is none of this version.
pub fn inspect(path: &Path) -> io::Result<Vec<Summary>> {
    if !path.is_dir() {
        return Ok(vec![summary(path)?]);
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(path)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "spool")
        })
        .collect();
    files.sort();
    files.iter().map(|path| summary(path)).collect()
}

fn summary(path: &Path) -> io::Result<Summary> {
    let spool = SpoolFile::open(path)?;
    let (mut offset, mut room, mut content) =
        (spool.meta.start, vec![0; 256 << 10], "ok".to_owned());
    while offset < spool.end {
        match spool.read_at(&mut room, offset) {
            Ok(0) => break,
            Ok(len) => offset += len as u64,
            Err(error) => {
                content = format!("at source byte {offset}: {error}");
                break;
            }
        }
    }
    Ok(Summary {
        file: path.display().to_string(),
        path: spool.meta.path.clone(),
        stream: spool.meta.stream.to_string(),
        generation: spool.meta.generation.to_string(),
        start: spool.meta.start,
        end: spool.end,
        total: spool.total(),
        saved_ms: spool.meta.saved_ms,
        disk_bytes: spool.bytes,
        content,
    })
}
