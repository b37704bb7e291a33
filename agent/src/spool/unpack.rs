//! Reads a compressed file from its beginning on.
//!
//! Not for: what becomes of the bytes (see [`super::worker`], which calls it).

use std::{
    io::{self, Read},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    far::open_file,
    identify::{Evidence, MARK_BYTES, PREFIX_BYTES, Prefix},
    limit::{AtStop, Restraint},
};

/// Memory that a zstd file may ask for, as a power of two.
const MAX_ZSTD_WINDOW_LOG: u32 = 25;

/// A compressed file as it is read: bytes so far, and the hashes that tell what it is.
pub(super) struct Unpacker {
    decoder: Box<dyn Read + Send>,
    /// What it keeps to.
    pub(super) restraint: Restraint,
    /// The source offset that is read next.
    pub(super) offset: u64,
    /// Its first bytes, up to what a prefix covers.
    head: Vec<u8>,
    /// The last bytes, as many as a mark covers.
    last: Vec<u8>,
}

impl Unpacker {
    /// Opens a file.
    ///
    /// # Errors
    /// What the kernel says, or that it is not compressed (any more).
    pub(super) fn open(path: &Path, restraint: &Restraint) -> io::Result<Self> {
        let file = open_file(path)?;
        let mut magic = [0; 4];
        let len = file.read_at(&mut magic, 0)?;
        let decoder: Box<dyn Read + Send> =
            match super::kind_of(magic.get(..len).unwrap_or_default()) {
                Some(super::Packing::Gzip) => {
                    Box::new(MultiGzDecoder::new(io::BufReader::new(file.reader())))
                }
                Some(super::Packing::Zstd) => {
                    let mut decoder = zstd::stream::read::Decoder::new(file.reader())?;
                    decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
                    Box::new(decoder)
                }
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            };
        Ok(Self {
            decoder,
            restraint: restraint.clone(),
            offset: 0,
            head: Vec::new(),
            last: Vec::new(),
        })
    }

    /// Reads on, at most to the source offset `upto`.
    pub(super) fn read(&mut self, room: &mut [u8], upto: u64) -> io::Result<usize> {
        self.restraint.next_piece(AtStop::Leave)?;
        let want = usize::try_from(upto - self.offset).unwrap_or(usize::MAX);
        let len = room.len().min(want);
        let len = self.decoder.read(room.get_mut(..len).unwrap_or_default())?;
        let bytes = room.get(..len).unwrap_or_default();
        self.offset += len as u64;
        let missing = usize::try_from(PREFIX_BYTES).unwrap_or(0) - self.head.len();
        self.head.extend(bytes.iter().take(missing));
        let covered = usize::try_from(MARK_BYTES).unwrap_or(0);
        self.last
            .extend_from_slice(bytes.get(len.saturating_sub(covered)..).unwrap_or_default());
        let surplus = self.last.len().saturating_sub(covered);
        self.last.drain(..surplus);
        Ok(len)
    }

    /// Reads up to an offset; false when it ends before.
    pub(super) fn skip_to(&mut self, offset: u64, room: &mut [u8]) -> io::Result<bool> {
        while self.offset < offset {
            if self.read(room, offset)? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the beginning is the one that was read, as far as that went.
    pub(super) fn begins_like(&self, prefix: Prefix) -> bool {
        let len = usize::try_from(prefix.len).unwrap_or(usize::MAX);
        let head = self.head.get(..len);
        head.is_some_and(|head| prefix.len == 0 || xxh3_64(head) == prefix.hash)
    }

    /// Whether the bytes before here are those of the mark, which is here.
    pub(super) fn is_at(&self, evidence: &Evidence) -> bool {
        let covered = usize::try_from(evidence.mark.offset.min(MARK_BYTES)).unwrap_or(0);
        let from = self.last.len().saturating_sub(covered);
        let last = self.last.get(from..).unwrap_or_default();
        covered == 0 || xxh3_64(last) == evidence.mark.hash
    }

    /// What stands at the beginning, as far as that was read.
    pub(super) fn prefix(&self) -> Prefix {
        Prefix {
            len: self.head.len() as u64,
            hash: xxh3_64(&self.head),
        }
    }

    /// The bytes from a source offset up to here, which were read a moment ago; `None` for one that is
    /// farther back, or not reached.
    pub(super) fn since(&self, start: u64) -> Option<&[u8]> {
        let back = usize::try_from(self.offset.checked_sub(start)?).ok()?;
        self.last.get(self.last.len().checked_sub(back)?..)
    }
}
