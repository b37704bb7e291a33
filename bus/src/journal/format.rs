//! The bytes of the journal.
//!
//! # Constraints
//! Written by one process, appended in groups, read once at start. A kill may cut it anywhere; a
//! power cut may lose what was not synced. What was acknowledged to an agent stands in it, so
//! nothing that parses may be thrown away because something else does not.
//!
//! # Layout
//! ```text
//! file    = "TRBJ" | u16 version (big endian) | u16 zero | frame*
//! frame   = u8 0xB7 | u32 length of body | u32 CRC-32C of body | body       (big endian)
//! body    = one Record by postcard, at most MAX_BODY_BYTES
//! ```
//!
//! # Recovery
//! Frames are read while they are whole and their checksum holds. Behind the first bad one the next
//! good one is looked for: when there is none, it was a torn tail and is cut off; when there is one,
//! the bytes between are damage, reported and set aside, and reading goes on. A file of another
//! version is refused by name.
//!
//! Not for: what the records mean together (see [`super::memory`]). Pure.

use serde::{Deserialize, Serialize};
use tributary_common::{
    crc::crc32c,
    header::MinuteCount,
    ids::{BatchId, Epoch, Name, StreamId, Topic},
};

/// The first bytes of a journal.
pub(crate) const MAGIC: [u8; 4] = *b"TRBJ";
/// The version that this build writes.
pub(crate) const VERSION: u16 = 2;
/// The oldest version that this build reads. 1 has no [`Record::Pinned`].
const OLDEST: u16 = 1;
/// Bytes before the first frame.
pub(crate) const FILE_HEADER_BYTES: usize = 8;
/// Bytes before a frame's body.
const FRAME_HEADER_BYTES: usize = 9;
/// First byte of a frame; makes the search behind damage fast.
const FRAME_MARK: u8 = 0xB7;
/// The longest body in bytes.
pub(crate) const MAX_BODY_BYTES: usize = 1 << 20;

/// Why a file is not a journal of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// The magic bytes are others.
    #[error("is not a journal: it begins with {0:02x?}, not \"TRBJ\"")]
    Magic(Vec<u8>),
    /// Another version of Tributary wrote it. Never overwrite it.
    #[error("has journal version {0}; this build reads versions {OLDEST} to {VERSION}")]
    Version(u16),
}

/// One entry. The order of the variants is part of the format: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    /// A life of the bus begins.
    Life {
        /// Its number.
        epoch: Epoch,
    },
    /// Names a target; later records say its number.
    Target {
        /// The number, unique in this file.
        no: u32,
        /// The destination's configured name.
        destination: Name,
        /// The physical topic or path there.
        target: String,
    },
    /// A destination has a batch.
    Delivered(Delivered),
    /// Snapshot: sequence numbers that a destination has.
    Done {
        /// The destination's configured name.
        destination: Name,
        /// The stream.
        stream: StreamId,
        /// The agent's life.
        epoch: Epoch,
        /// Ranges `[start, end)`.
        ranges: Vec<(u64, u64)>,
        /// The minute of the last delivery of this stream.
        touched: u32,
    },
    /// Everything of this node before `end` in a partition or file is accounted for; said before
    /// the first write there, after a recovery, and in snapshots.
    Position {
        /// The target's number.
        target: u32,
        /// The partition; 0 in files.
        partition: i32,
        /// The offset.
        end: i64,
        /// Where a recovery has to begin when batches behind it are still unresolved.
        floor: Option<i64>,
    },
    /// This life writes to the target: after an unclean end it has to be looked through.
    Opened {
        /// The target's number.
        target: u32,
    },
    /// The target is complete to its positions: nothing was in flight when the life ended.
    Closed {
        /// The target's number.
        target: u32,
    },
    /// The target's positions are no longer needed.
    Forgotten {
        /// The target's number.
        target: u32,
    },
    /// A report to the manager begins to be made: what was delivered before is in it or in an
    /// earlier one.
    Mark {
        /// Its number, ascending within a life.
        number: u64,
    },
    /// The manager has the report of that mark, and all before it.
    Told {
        /// The number of the mark.
        number: u64,
    },
    /// Nothing behind a floor of the target is unresolved any more.
    Resolved {
        /// The target's number.
        target: u32,
    },
    /// These streams have these partitions of a topic.
    Pinned {
        /// The target's number.
        target: u32,
        /// Each stream with its partition.
        pins: Vec<(StreamId, i32)>,
    },
}

/// A destination has a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delivered {
    /// Where.
    pub(crate) target: u32,
    /// The partition; 0 in files.
    pub(crate) partition: i32,
    /// First offset (records in Kafka, bytes in a file).
    pub(crate) first: i64,
    /// The offset after the last one.
    pub(crate) end: i64,
    /// Which batch.
    pub(crate) batch: BatchId,
    /// Its logical topic.
    pub(crate) topic: Topic,
    /// Its records per event minute, for the fact.
    pub(crate) minutes: Vec<MinuteCount>,
    /// The minute in which it was delivered.
    pub(crate) at: u32,
}

/// The bytes before the first frame.
pub(crate) fn file_header() -> [u8; FILE_HEADER_BYTES] {
    let [high, low] = VERSION.to_be_bytes();
    let [a, b, c, d] = MAGIC;
    [a, b, c, d, high, low, 0, 0]
}

/// Appends one frame to `out`.
pub(crate) fn encode(record: &Record, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    let body_at = out.len();
    let buffer = std::mem::take(out);
    *out = postcard::to_extend(record, buffer).expect("a vector takes any record");
    let length = u32::try_from(out.len() - body_at).expect("a record is far below 4 GiB");
    let sum = crc32c(&out[body_at..]);
    out[start] = FRAME_MARK;
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    out[start + 5..body_at].copy_from_slice(&sum.to_be_bytes());
}

/// What reading a file found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// The records in order.
    pub(crate) records: Vec<Record>,
    /// Bytes up to the end of the last whole frame; what follows is a torn tail.
    pub(crate) valid_bytes: usize,
    /// Damaged byte ranges with good frames behind them.
    pub(crate) damage: Vec<(usize, usize)>,
}

/// The version that a file says it has. One that ends within its first bytes was torn at its birth: `None`.
///
/// # Errors
/// [`FormatError`]: leave the file alone.
pub(crate) fn version(bytes: &[u8]) -> Result<Option<u16>, FormatError> {
    let Some(head) = bytes.get(..FILE_HEADER_BYTES) else {
        let begun = bytes.len().min(MAGIC.len());
        return match MAGIC.starts_with(&bytes[..begun]) {
            true => Ok(None),
            false => Err(FormatError::Magic(bytes.to_vec())),
        };
    };
    if head[..4] != MAGIC {
        return Err(FormatError::Magic(head[..4].to_vec()));
    }
    match u16::from_be_bytes([head[4], head[5]]) {
        known @ OLDEST..=VERSION => Ok(Some(known)),
        other => Err(FormatError::Version(other)),
    }
}

/// Reads a whole file.
///
/// # Errors
/// [`FormatError`]: leave the file alone.
pub(crate) fn scan(bytes: &[u8]) -> Result<Scan, FormatError> {
    let mut scan = Scan::default();
    if version(bytes)?.is_none() {
        return Ok(scan);
    }
    let mut at = FILE_HEADER_BYTES;
    scan.valid_bytes = at;
    while at < bytes.len() {
        if let Some((record, end)) = frame(bytes, at) {
            scan.records.push(record);
            (at, scan.valid_bytes) = (end, end);
            continue;
        }
        match (at + 1..bytes.len()).find(|&next| frame(bytes, next).is_some()) {
            Some(next) => {
                scan.damage.push((at, next));
                at = next;
            }
            None => break,
        }
    }
    Ok(scan)
}

/// The record of the frame at `at`, and where the frame ends.
fn frame(bytes: &[u8], at: usize) -> Option<(Record, usize)> {
    let head = bytes.get(at..at + FRAME_HEADER_BYTES)?;
    if head[0] != FRAME_MARK {
        return None;
    }
    let length = u32::from_be_bytes(head[1..5].try_into().ok()?) as usize;
    let sum = u32::from_be_bytes(head[5..9].try_into().ok()?);
    if length > MAX_BODY_BYTES {
        return None;
    }
    let body_at = at + FRAME_HEADER_BYTES;
    let body = bytes.get(body_at..body_at + length)?;
    if crc32c(body) != sum {
        return None;
    }
    let (record, rest) = postcard::take_from_bytes(body).ok()?;
    rest.is_empty().then_some((record, body_at + length))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn delivered(seq: u64) -> Record {
        Record::Delivered(Delivered {
            target: 1,
            partition: 3,
            first: 100,
            end: 200,
            batch: BatchId {
                stream: StreamId(7),
                epoch: Epoch(8),
                seq,
            },
            topic: Topic::new("web").unwrap(),
            minutes: vec![MinuteCount {
                minute: 9,
                records: 100,
            }],
            at: 10,
        })
    }

    fn samples() -> Vec<Record> {
        vec![
            Record::Life { epoch: Epoch(5) },
            Record::Target {
                no: 1,
                destination: Name::new("k").unwrap(),
                target: "web".into(),
            },
            Record::Position {
                target: 1,
                partition: 3,
                end: 100,
                floor: None,
            },
            Record::Opened { target: 1 },
            delivered(1),
            Record::Done {
                destination: Name::new("k").unwrap(),
                stream: StreamId(1),
                epoch: Epoch(2),
                ranges: vec![(1, 9)],
                touched: 3,
            },
            Record::Closed { target: 1 },
            Record::Forgotten { target: 1 },
            Record::Mark { number: 4 },
            Record::Told { number: 4 },
            Record::Resolved { target: 1 },
            Record::Pinned {
                target: 1,
                pins: vec![(StreamId(7), 3), (StreamId(8), 0)],
            },
        ]
    }

    fn file(records: &[Record]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = file_header().to_vec();
        let mut ends = vec![bytes.len()];
        for record in records {
            encode(record, &mut bytes);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    #[test]
    fn records_survive_their_bytes() {
        let (bytes, _ends) = file(&samples());
        let scan = scan(&bytes).unwrap();
        assert_eq!(scan.records, samples());
        assert_eq!((scan.valid_bytes, scan.damage), (bytes.len(), vec![]));
    }

    #[test]
    fn another_version_and_other_files_are_refused_by_name() {
        let check = |bytes: &[u8], text: &str| {
            assert_eq!(scan(bytes).unwrap_err().to_string(), text);
        };
        check(
            b"TRBJ\0\x09\0\0",
            "has journal version 9; this build reads versions 1 to 2",
        );
        check(
            b"hello there",
            "is not a journal: it begins with [68, 65, 6c, 6c], not \"TRBJ\"",
        );
        assert_eq!(scan(b"TR").unwrap(), Scan::default());
    }

    /// The bytes that version 1 wrote on its first day: every later reader must read them.
    #[test]
    fn the_first_versions_bytes_are_still_read() {
        let hex = |records: &[Record]| {
            let (bytes, _ends) = file(records);
            let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
            hex.collect::<String>()
        };
        const FIRST: &str =
            "5452424a00010000b70000001216b26ecc020106c8019003070801037765620109640a";
        let (mut bytes, _ends) = file(&[delivered(1)]);
        bytes[5] = 1;
        let first: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(first, FIRST);
        assert_eq!(scan(&bytes).unwrap().records, [delivered(1)]);
        let pinned = Record::Pinned {
            target: 1,
            pins: vec![(StreamId(7), 3)],
        };
        const SECOND: &str = "5452424a00020000b700000005eceedb3b0b01010706";
        assert_eq!(hex(std::slice::from_ref(&pinned)), SECOND);
    }

    proptest! {
        #[test]
        fn a_cut_anywhere_leaves_the_longest_valid_prefix(cut in 0usize..400) {
            let (bytes, ends) = file(&samples());
            let cut = cut.min(bytes.len());
            let scan = scan(&bytes[..cut]).unwrap();
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            prop_assert_eq!(scan.records.len(), whole.saturating_sub(1));
            prop_assert_eq!(scan.valid_bytes, ends.iter().copied().filter(|&end| end <= cut).max().unwrap_or(0));
            prop_assert!(scan.damage.is_empty());
        }

        #[test]
        fn one_bad_byte_costs_one_record(at in 8usize..400, flip in 1u8..) {
            let (mut bytes, ends) = file(&samples());
            let at = 8 + (at - 8) % (bytes.len() - 8);
            bytes[at] ^= flip;
            let hit = ends.iter().filter(|&&end| end <= at).count() - 1;
            let mut want = samples();
            want.remove(hit);
            let scan = scan(&bytes).unwrap();
            prop_assert_eq!(scan.damage.len(), usize::from(hit + 1 < samples().len()));
            prop_assert_eq!(scan.records, want);
        }

        #[test]
        fn random_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = file_header().to_vec();
            bytes.extend_from_slice(&tail);
            prop_assert!(scan(&bytes).is_ok());
        }
    }
}
