//! One file of the spool: bytes of a generation, compressed in chunks.
//!
//! # Constraints
//! It is written once, by one thread, and read at any offset, also in a later life. A file under its
//! final name is whole: it is written aside, synced and renamed.
//!
//! # Layout
//! See `docs/formats.md`, section Spool: `TRIBSPOL`, version, what it is of (JSON), CRC-32C; then
//! chunks `u32 packed length | u32 raw length | u32 CRC-32C | zstd frame`, integers little endian.
//!
//! # Recovery
//! What is not renamed is removed at the start. A chunk whose sum is wrong cannot be read: those
//! bytes are lost, and said so.
//!
//! Not for: which bytes are worth keeping (see [`crate::reader`]).

use std::{
    cell::RefCell,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tributary_common::{
    crc::{crc32c, crc32c_of},
    disk::{self, AppendFile, DiskError},
    ids::{GenerationId, StreamId},
};

use crate::handle::Extent;

/// The first bytes.
pub(crate) const MAGIC: [u8; 8] = *b"TRIBSPOL";
/// The version of a file that holds all of its source from `start` on.
const VERSION: u32 = 1;
/// That of one that holds a window of it: who does not know of windows would take it for all.
const WINDOW_VERSION: u32 = 2;
/// Source bytes in a chunk.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;
/// Bytes before what the file is of: magic, version, length.
const HEADER_BYTES: usize = 16;
/// Bytes before each chunk.
const CHUNK_HEADER_BYTES: usize = 12;
/// The longest text of what it is of, and the longest packed chunk.
const MAX_META_BYTES: usize = 64 << 10;
const MAX_PACKED_BYTES: u32 = 1 << 20;
/// zstd's level: the disk is small, and so is the time.
const LEVEL: i32 = 1;

/// What a file of the spool is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// The stream.
    pub(crate) stream: StreamId,
    /// The generation.
    pub(crate) generation: GenerationId,
    /// Where the file was, for people.
    pub(crate) path: String,
    /// The source offset of the first byte.
    pub(crate) start: u64,
    /// When it was saved, in ms since 1970.
    pub(crate) saved_ms: u64,
    /// The source offset after the last byte of all, when the file may hold fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) total: Option<u64>,
}

impl Meta {
    fn version(&self) -> u32 {
        match self.total {
            Some(_) => WINDOW_VERSION,
            None => VERSION,
        }
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct SpoolWriter {
    file: AppendFile,
    path: PathBuf,
    raw: Vec<u8>,
}

impl SpoolWriter {
    /// Begins a file in the folder.
    ///
    /// # Errors
    /// [`DiskError`]; nothing is left.
    pub(crate) fn create(folder: &Path, meta: &Meta) -> Result<Self, DiskError> {
        disk::create_dir_all(folder)?;
        let path = SpoolFile::path_of(folder, meta);
        let aside = path.with_extension("tmp");
        disk::remove(&aside)?;
        let mut file = AppendFile::create(&aside)?;
        let version = meta.version();
        let meta = serde_json::to_vec(meta).expect("integers and text are JSON");
        let mut head = MAGIC.to_vec();
        head.extend(version.to_le_bytes());
        head.extend(u32::try_from(meta.len()).unwrap_or(u32::MAX).to_le_bytes());
        head.extend(meta);
        head.extend(crc32c(&head).to_le_bytes());
        file.append(&head)?;
        Ok(Self {
            file,
            path,
            raw: Vec::with_capacity(CHUNK_BYTES),
        })
    }

    /// Takes in source bytes.
    ///
    /// # Errors
    /// [`DiskError`]; the file is of no use then.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), DiskError> {
        while !bytes.is_empty() {
            let room = (CHUNK_BYTES - self.raw.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.raw.extend_from_slice(now);
            bytes = later;
            if self.raw.len() == CHUNK_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// What it takes on disk, with what is not compressed yet.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.file.len() + self.raw.len() as u64
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        let fail = |source| DiskError {
            doing: "compress for",
            path: self.path.clone(),
            source,
        };
        let packed = zstd::bulk::compress(&self.raw, LEVEL).map_err(fail)?;
        let mut chunk = Vec::with_capacity(packed.len() + 12);
        for number in [packed.len(), self.raw.len()] {
            chunk.extend(u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        }
        chunk.extend(crc32c(&packed).to_le_bytes());
        chunk.extend(packed);
        self.file.append(&chunk)?;
        self.raw.clear();
        Ok(())
    }

    /// Makes it whole and durable, under its final name. Gives its path, and its size on disk.
    ///
    /// # Errors
    /// [`DiskError`]; the file is of no use then.
    pub(crate) fn finish(mut self) -> Result<(PathBuf, u64), DiskError> {
        if !self.raw.is_empty() {
            self.flush()?;
        }
        self.file.sync()?;
        disk::rename(self.file.path(), &self.path)?;
        Ok((self.path, self.file.len()))
    }

    /// Removes what was written.
    pub(crate) fn abandon(self) {
        // The next start removes what this cannot.
        drop(disk::remove(self.file.path()));
    }
}

/// The name of the file of a generation.
fn name(stream: StreamId, generation: GenerationId) -> String {
    format!("{:016x}-{:016x}.spool", stream.0, generation.0)
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    /// Of its frame in the file.
    at: u64,
    packed: u32,
    sum: u32,
    /// Of its first byte in the source.
    start: u64,
    raw: u32,
}

/// A file that is read.
#[derive(Debug)]
pub(crate) struct SpoolFile {
    file: File,
    pub(crate) path: PathBuf,
    pub(crate) meta: Meta,
    chunks: Vec<Chunk>,
    /// The source offset after its last byte.
    pub(crate) end: u64,
    /// Its size on disk.
    pub(crate) bytes: u64,
    /// The chunk that was read last, decompressed.
    last: RefCell<(u64, Vec<u8>)>,
}

impl SpoolFile {
    /// Opens a file and finds its chunks.
    ///
    /// # Errors
    /// `InvalidData` with what is wrong when it is none of this version.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut head = [0; HEADER_BYTES];
        file.read_exact_at(&mut head, 0)?;
        if head.get(..8) != Some(&MAGIC[..]) {
            return Err(invalid("it does not begin with TRIBSPOL"));
        }
        let version = word(&head, 8);
        if version != VERSION && version != WINDOW_VERSION {
            return Err(invalid(format!(
                "it has spool version {version}; this build reads versions {VERSION} to {WINDOW_VERSION}"
            )));
        }
        let len = word(&head, 12) as usize;
        if len > MAX_META_BYTES {
            return Err(invalid("its head is too long"));
        }
        let mut rest = vec![0; len + 4];
        file.read_exact_at(&mut rest, HEADER_BYTES as u64)?;
        let (text, sum) = rest.split_at(len);
        let sound = crc32c_of(&[&head, text]) == word(sum, 0);
        let meta: Meta = match serde_json::from_slice(text) {
            Ok(meta) if sound => meta,
            Ok(_) | Err(_) => return Err(invalid("its head is damaged")),
        };
        let first = (HEADER_BYTES + rest.len()) as u64;
        let (chunks, end) = chunks(&file, first, bytes, meta.start)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            meta,
            chunks,
            end,
            bytes,
            last: RefCell::new((u64::MAX, Vec::new())),
        })
    }

    /// Where the file of a generation is, if there is one.
    pub(crate) fn path_of(folder: &Path, of: &Meta) -> PathBuf {
        folder.join(name(of.stream, of.generation))
    }

    /// Where its source ends: beyond what it holds when it is a window.
    pub(crate) fn total(&self) -> u64 {
        self.meta
            .total
            .map_or(self.end, |total| total.max(self.end))
    }

    /// How far it goes, in source bytes.
    pub(crate) fn extent(&self) -> Extent {
        Extent {
            size: self.end,
            links: 1,
            mtime_ns: 0,
        }
    }

    /// Reads at a source offset; 0 bytes at the end.
    ///
    /// # Errors
    /// What the kernel says, or `InvalidData` when that chunk is damaged.
    pub(crate) fn read_at(&self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        let after = self.chunks.partition_point(|chunk| chunk.start <= offset);
        let Some(chunk) = after.checked_sub(1).and_then(|at| self.chunks.get(at)) else {
            return Ok(0);
        };
        let mut last = self.last.borrow_mut();
        if last.0 != chunk.at {
            let mut packed = vec![0; chunk.packed as usize];
            self.file.read_exact_at(&mut packed, chunk.at)?;
            if crc32c(&packed) != chunk.sum {
                return Err(invalid("a chunk is damaged"));
            }
            let raw = zstd::bulk::decompress(&packed, chunk.raw as usize)?;
            *last = (chunk.at, raw);
        }
        let from = usize::try_from(offset - chunk.start).unwrap_or(usize::MAX);
        let bytes = last.1.get(from..).unwrap_or_default();
        let len = bytes.len().min(room.len());
        if let (Some(room), Some(bytes)) = (room.get_mut(..len), bytes.get(..len)) {
            room.copy_from_slice(bytes);
        }
        Ok(len)
    }
}

/// The chunks from `at` on, and the source offset where they end.
fn chunks(file: &File, mut at: u64, bytes: u64, mut start: u64) -> io::Result<(Vec<Chunk>, u64)> {
    let mut found = Vec::new();
    while at + CHUNK_HEADER_BYTES as u64 <= bytes {
        let mut head = [0; CHUNK_HEADER_BYTES];
        file.read_exact_at(&mut head, at)?;
        let (packed, raw, sum) = (word(&head, 0), word(&head, 4), word(&head, 8));
        at += CHUNK_HEADER_BYTES as u64;
        let whole = raw as usize <= CHUNK_BYTES && packed <= MAX_PACKED_BYTES && raw > 0;
        if !whole || at + u64::from(packed) > bytes {
            break;
        }
        found.push(Chunk {
            at,
            packed,
            sum,
            start,
            raw,
        });
        at += u64::from(packed);
        start += u64::from(raw);
    }
    Ok((found, start))
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The little-endian number at `at`.
fn word(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(<[u8]>::first_chunk);
    four.map_or(0, |four| u32::from_le_bytes(*four))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(start: u64) -> Meta {
        Meta {
            stream: StreamId(1),
            generation: GenerationId(2),
            path: "/x".to_owned(),
            start,
            saved_ms: 3,
            total: None,
        }
    }

    fn write(dir: &Path, start: u64, bytes: &[u8]) -> PathBuf {
        let mut writer = SpoolWriter::create(dir, &meta(start)).unwrap();
        bytes
            .chunks(100_001)
            .for_each(|part| writer.push(part).unwrap());
        writer.finish().unwrap().0
    }

    #[test]
    fn bytes_are_read_back_at_their_source_offsets() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..700_000u32).flat_map(u32::to_le_bytes).collect();
        let spool = SpoolFile::open(&write(dir.path(), 1000, &bytes)).unwrap();
        assert_eq!(
            (spool.end, &spool.meta),
            (1000 + bytes.len() as u64, &meta(1000))
        );
        assert!(spool.bytes < bytes.len() as u64);
        for from in [0, 5, CHUNK_BYTES - 1, CHUNK_BYTES, bytes.len() - 3] {
            let mut room = vec![0; 300_000];
            let mut got = 0;
            while got < room.len() {
                let read = spool
                    .read_at(&mut room[got..], (1000 + from + got) as u64)
                    .unwrap();
                if read == 0 {
                    break;
                }
                got += read;
            }
            let wanted = &bytes[from..(from + 300_000).min(bytes.len())];
            assert_eq!(&room[..got], wanted);
        }
        assert_eq!(spool.read_at(&mut [0; 9], 999).unwrap(), 0);
    }

    #[test]
    fn damage_and_other_versions_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), 0, &[7; 100_000]);
        let whole = std::fs::read(&path).unwrap();
        let check = |at: usize, wanted: &str| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let opened = SpoolFile::open(&path);
            let error = opened
                .and_then(|spool| spool.read_at(&mut [0; 10], 0))
                .unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
        };
        check(0, "TRIBSPOL");
        check(8, "spool version 0");
        check(20, "head is damaged");
        check(whole.len() - 1, "chunk is damaged");
    }
}
