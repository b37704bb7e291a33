//! Reads segments back: all heads at the start, one record at a time when it is drained.
//!
//! Segments of earlier lives are never appended to, so a torn tail needs no cut: it is passed over.
//! Not for: writing (see [`super::writer`]).

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tributary_common::{crc::crc32c, disk};

use super::{
    format::{
        Beginning, FILE_HEADER_BYTES, Head, MARK, Parsed, check_header, parse, read_drained,
        read_heads,
    },
    queue::Place,
};

/// Bytes that are read for a head at first: most heads, with their meta, are within.
const HEAD_READ: usize = 1024;
/// Bytes that are looked through at a time behind damage.
const SEARCH_READ: usize = 1 << 20;

/// The extension of a segment.
pub(super) const SEGMENT: &str = "seg";
/// The extension of what was acknowledged of it.
pub(super) const HEADS: &str = "heads";
/// The extension of what was given up of it, because the spill was full.
pub(super) const DROPPED: &str = "dropped";
/// The extension of what is drained of it.
pub(super) const DRAINED: &str = "drained";
/// The extension of a segment that was damaged and is kept for people.
pub(super) const DAMAGED: &str = "damaged";

/// A segment's path.
pub(super) fn path_of(dir: &Path, number: u64, extension: &str) -> PathBuf {
    dir.join(format!("{number:016x}.{extension}"))
}

/// The number in a segment's path; `None` for other files.
pub(super) fn number_of(path: &Path) -> Option<u64> {
    number_with(path, SEGMENT)
}

/// The number in the path of a file beside a segment; `None` when it has another extension.
pub(super) fn number_with(path: &Path, extension: &str) -> Option<u64> {
    if path.extension()? != extension {
        return None;
    }
    u64::from_str_radix(path.file_stem()?.to_str()?, 16).ok()
}

/// What a segment holds.
#[derive(Debug)]
pub(super) struct Scan<R = Head> {
    /// What is said of sound heads, in order, with their places.
    pub(super) records: Vec<(Place, R)>,
    /// Bytes of the file.
    pub(super) bytes: u64,
    /// Byte ranges that are no records, with sound ones behind.
    pub(super) damage: Vec<(u64, u64)>,
    /// Bytes at the end that are no record.
    pub(super) torn: u64,
}

impl<R> Default for Scan<R> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            bytes: 0,
            damage: Vec::new(),
            torn: 0,
        }
    }
}

/// Reads all heads. The last record is read wholly: it is a torn tail when its payload is not
/// what was written.
///
/// # Errors
/// When the file cannot be read, or is of another version.
pub(super) fn scan(path: &Path, number: u64) -> anyhow::Result<Scan> {
    scan_for(path, number, |head| head)
}

/// [`scan`] that keeps of each head only what is wanted of it.
///
/// # Errors
/// As there.
pub(super) fn scan_for<R>(
    path: &Path,
    number: u64,
    mut wanted: impl FnMut(Head) -> R,
) -> anyhow::Result<Scan<R>> {
    let file = disk::open_read(path)?;
    let mut scan = Scan {
        bytes: file.metadata()?.len(),
        ..Scan::default()
    };
    let head = read_at(&file, 0, FILE_HEADER_BYTES)?;
    let beginning = check_header(&head)?;
    let (mut at, mut bad_from) = match beginning {
        Beginning::Sound => (FILE_HEADER_BYTES as u64, None),
        Beginning::Torn | Beginning::Damaged => {
            let first = next_mark(&file, 1, scan.bytes)?;
            (first.unwrap_or(scan.bytes), Some(0))
        }
    };
    while at < scan.bytes {
        match head_at(&file, at)? {
            Some(head) if at + u64::from(head.bytes) <= scan.bytes => {
                if let Some(from) = bad_from.take() {
                    scan.damage.push((from, at));
                }
                let place = Place {
                    segment: number,
                    at,
                    bytes: head.bytes,
                };
                at += u64::from(head.bytes);
                scan.records.push((place, wanted(head)));
            }
            Some(_) | None => {
                bad_from.get_or_insert(at);
                match next_mark(&file, at + 1, scan.bytes)? {
                    Some(next) => at = next,
                    None => break,
                }
            }
        }
    }
    if bad_from == Some(0) && beginning == Beginning::Damaged {
        // Not even one sound record: no tail either.
        scan.damage.push((0, scan.bytes));
        return Ok(scan);
    }
    let mut end = bad_from.unwrap_or(scan.bytes);
    // The heads of the last records may be there, and their payloads not.
    while let Some((place, _wanted)) = scan.records.last() {
        let is_last = place.at + u64::from(place.bytes) == end;
        if !is_last || matches!(read(&file, *place)?, Some((_head, Some(_payload)))) {
            break;
        }
        end = place.at;
        scan.records.pop();
    }
    scan.torn = scan.bytes - end;
    Ok(scan)
}

/// What was acknowledged, or dropped, of a segment, with the places of the records: those that begin where
/// it is `wanted`.
pub(super) fn heads(
    dir: &Path,
    number: u64,
    extension: &str,
    wanted: impl Fn(u64) -> bool,
) -> anyhow::Result<Vec<((u64, u32), Head)>> {
    let bytes = disk::read(&path_of(dir, number, extension))?;
    let bytes = bytes.unwrap_or_default();
    let heads = read_heads(&bytes).filter(|((at, _bytes), _head)| wanted(*at));
    Ok(heads.collect())
}

/// The offsets of a segment's records that are drained.
pub(super) fn drained(dir: &Path, number: u64) -> anyhow::Result<Vec<u64>> {
    let bytes = disk::read(&path_of(dir, number, DRAINED))?;
    Ok(read_drained(&bytes.unwrap_or_default()))
}

/// A record as it was written; `None` when it is damaged.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn read(file: &File, place: Place) -> anyhow::Result<Option<(Head, Option<Bytes>)>> {
    let Some(head) = head_at(file, place.at)? else {
        return Ok(None);
    };
    let payload = payload(file, place, &head)?;
    Ok(Some((head, payload)))
}

fn payload(file: &File, place: Place, head: &Head) -> anyhow::Result<Option<Bytes>> {
    let from = place.at + u64::from(head.payload_at);
    let wanted = head.payload_bytes() as usize;
    let bytes = read_at(file, from, wanted)?;
    let whole = bytes.len() == wanted && crc32c(&bytes) == head.payload_sum;
    Ok(whole.then(|| bytes.into()))
}

fn head_at(file: &File, at: u64) -> anyhow::Result<Option<Head>> {
    let bytes = read_at(file, at, HEAD_READ)?;
    let parsed = match parse(&bytes) {
        Parsed::Short(wanted) if bytes.len() == HEAD_READ => parse(&read_at(file, at, wanted)?),
        parsed => parsed,
    };
    Ok(match parsed {
        Parsed::Head(head) => Some(*head),
        Parsed::Short(_) | Parsed::Bad => None,
    })
}

/// The next place from `at` on where a record may begin.
fn next_mark(file: &File, mut at: u64, end: u64) -> anyhow::Result<Option<u64>> {
    while at < end {
        let bytes = read_at(file, at, SEARCH_READ)?;
        if let Some(found) = bytes.windows(MARK.len()).position(|four| four == MARK) {
            return Ok(Some(at + found as u64));
        }
        // The last three bytes may begin a mark.
        let step = bytes.len().saturating_sub(MARK.len() - 1);
        if step == 0 {
            return Ok(None);
        }
        at += step as u64;
    }
    Ok(None)
}

/// Up to `len` bytes; fewer at the end of the file.
fn read_at(file: &File, at: u64, len: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut have = 0;
    while have < len {
        let rest = bytes.get_mut(have..).unwrap_or_default();
        match file.read_at(rest, at + have as u64) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}
