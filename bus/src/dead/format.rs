//! The bytes of a file of dead letters.
//!
//! # Constraints
//! Written by one process, appended, synced before a batch is acknowledged. A kill may leave a torn tail;
//! nothing of that was acknowledged. What parses is never thrown away because something else does not.
//!
//! # Layout
//! ```text
//! file  = "TRBX" | u16 version | u16 zero | u32 CRC-32C of these 8 | frame*        (big endian)
//! frame = u8 0xDE | u32 length of body | u32 CRC-32C of body | body
//! body  = one Entry by postcard, at most MAX_BODY_BYTES
//! ```
//!
//! # Recovery
//! Frames are read while they are whole and their checksum holds. Behind the first bad one the next good
//! one is looked for: when there is none it was a torn tail and is cut off; when there is one, the bytes
//! between are damage, counted and skipped. A file of another version is refused by name.
//!
//! Pure. Not for: what the entries mean together (see [`super::store`]).

use serde::{Deserialize, Serialize};
use tributary_common::{crc::crc32c, wire::MAX_PAYLOAD_BYTES};

/// The version that this build writes and reads.
const VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"TRBX";
/// Bytes before the first frame.
pub(super) const FILE_HEADER_BYTES: usize = 12;
/// Bytes before a frame's body.
const FRAME_HEADER_BYTES: usize = 9;
const FRAME_MARK: u8 = 0xDE;
/// The longest body in bytes: the largest payload with what is said of it.
const MAX_BODY_BYTES: usize = MAX_PAYLOAD_BYTES + (256 << 10);

/// A record that a destination will never take as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Letter {
    /// Its number in the file; grows.
    pub(crate) no: u64,
    /// Its batch's header as on the wire.
    pub(crate) header: Vec<u8>,
    /// Its place in that batch.
    pub(crate) at: u32,
    /// Where it was to go: the target that the route made.
    pub(crate) target: String,
    /// The record: one Kafka RecordBatch v2 of it alone.
    pub(crate) payload: Vec<u8>,
    /// What the destination answered.
    pub(crate) status: u16,
    /// Its words.
    pub(crate) reason: String,
    /// When, in ms since 1970.
    pub(crate) first_ms: u64,
}

/// One entry. The order of the variants is part of the format: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Entry {
    /// A new letter.
    Letter(Letter),
    /// It was tried once more, and refused.
    Again {
        /// Which.
        no: u64,
        /// What the destination answered.
        status: u16,
        /// Its words.
        reason: String,
        /// When, in ms since 1970.
        at_ms: u64,
    },
    /// The destination has it.
    Replayed {
        /// Which.
        no: u64,
    },
    /// Somebody gave it up.
    Purged {
        /// Which.
        no: u64,
    },
}

/// Another version of Tributary wrote a file, or something else. Never overwrite it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormatError {
    /// Another version.
    #[error("has dead letter version {0}; this build reads version {VERSION}")]
    Version(u16),
    /// Something else.
    #[error("is no file of dead letters: it begins with {0:02x?}")]
    Magic(Vec<u8>),
}

/// The bytes before the first frame.
pub(super) fn file_header() -> [u8; FILE_HEADER_BYTES] {
    let mut out = [0; FILE_HEADER_BYTES];
    let (said, sum) = out.split_at_mut(8);
    let (name, version) = said.split_at_mut(4);
    name.copy_from_slice(&MAGIC);
    version[..2].copy_from_slice(&VERSION.to_be_bytes());
    sum.copy_from_slice(&crc32c(said).to_be_bytes());
    out
}

/// Adds an entry's frame.
pub(super) fn encode(entry: &Entry, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    // Writing into memory cannot fail, and every field can be written.
    if let Ok(mut grown) = postcard::to_extend(entry, std::mem::take(out)) {
        let body = grown.get(start + FRAME_HEADER_BYTES..).unwrap_or_default();
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let sum = crc32c(body);
        if let Some(head) = grown.get_mut(start..start + FRAME_HEADER_BYTES) {
            head[0] = FRAME_MARK;
            head[1..5].copy_from_slice(&len.to_be_bytes());
            head[5..].copy_from_slice(&sum.to_be_bytes());
        }
        *out = grown;
    }
}

/// The entry of a frame that begins here, and the bytes of the frame.
pub(super) fn frame(bytes: &[u8]) -> Option<(Entry, usize)> {
    let (head, rest) = bytes.split_at_checked(FRAME_HEADER_BYTES)?;
    let &[FRAME_MARK, a, b, c, d, e, f, g, h] = head else {
        return None;
    };
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    let body = rest.get(..len).filter(|_| len <= MAX_BODY_BYTES)?;
    if crc32c(body) != u32::from_be_bytes([e, f, g, h]) {
        return None;
    }
    let entry = postcard::from_bytes(body).ok()?;
    Some((entry, FRAME_HEADER_BYTES + len))
}

/// What a file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Each entry with the place of its frame and the frame's bytes.
    pub(super) entries: Vec<(Entry, u64, u32)>,
    /// The end of the last good frame.
    pub(super) end: usize,
    /// Bytes of damage before that.
    pub(super) damaged: usize,
}

/// Reads a whole file.
///
/// # Errors
/// [`FormatError`]: leave the file alone.
pub(super) fn scan(bytes: &[u8]) -> Result<Scanned, FormatError> {
    let mut scanned = Scanned::default();
    if bytes.len() < FILE_HEADER_BYTES && file_header().starts_with(bytes) {
        return Ok(scanned);
    }
    match bytes.get(..FILE_HEADER_BYTES) {
        Some(head) if head == file_header() => {}
        Some(&[b'T', b'R', b'B', b'X', high, low, ..]) => {
            return Err(FormatError::Version(u16::from_be_bytes([high, low])));
        }
        _other => {
            let begin = bytes.iter().take(4).copied().collect();
            return Err(FormatError::Magic(begin));
        }
    }
    scanned.end = FILE_HEADER_BYTES;
    let mut at = FILE_HEADER_BYTES;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        if let Some((entry, len)) = frame(rest) {
            scanned.damaged += at - scanned.end;
            let size = u32::try_from(len).unwrap_or(u32::MAX);
            scanned.entries.push((entry, at as u64, size));
            at += len;
            scanned.end = at;
        } else {
            at += 1;
        }
    }
    Ok(scanned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn letter(no: u64, payload: Vec<u8>) -> Entry {
        Entry::Letter(Letter {
            no,
            header: vec![1, 2],
            at: 3,
            target: "t".into(),
            payload,
            status: 400,
            reason: "r".into(),
            first_ms: 7,
        })
    }

    fn file(entries: &[Entry]) -> Vec<u8> {
        let mut bytes = file_header().to_vec();
        entries.iter().for_each(|entry| encode(entry, &mut bytes));
        bytes
    }

    fn read(bytes: &[u8]) -> (Vec<Entry>, usize, usize) {
        let scanned = scan(bytes).unwrap();
        let entries = scanned.entries.into_iter().map(|(entry, ..)| entry);
        (entries.collect(), scanned.end, scanned.damaged)
    }

    #[test]
    fn an_older_file_is_read_and_a_newer_one_refused() {
        let bytes = file(&[Entry::Replayed { no: 5 }]);
        // As it was first written.
        let kept = [
            b'T', b'R', b'B', b'X', 0, 1, 0, 0, 0x3B, 0x9E, 0x79, 0x4C, 0xDE, 0, 0, 0, 2,
        ];
        assert_eq!(bytes[..8], kept[..8]);
        assert_eq!(bytes[12..17], kept[12..]);
        assert_eq!(bytes[21..], [2, 5]);
        let mut newer = bytes.clone();
        newer[5] = 2;
        assert_eq!(scan(&newer), Err(FormatError::Version(2)));
        assert!(matches!(
            scan(b"something else"),
            Err(FormatError::Magic(_))
        ));
        assert_eq!(scan(b"TRB").unwrap(), Scanned::default());
    }

    proptest! {
        #[test]
        fn entries_are_read_as_written_and_a_torn_tail_is_cut(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6), cut in 1_usize..20,
        ) {
            let entries: Vec<_> = (0..).zip(payloads).map(|(no, payload)| letter(no, payload)).collect();
            let bytes = file(&entries);
            prop_assert_eq!(read(&bytes), (entries.clone(), bytes.len(), 0));
            let torn = &bytes[..bytes.len() - cut];
            let (rest, last) = (&entries[..entries.len() - 1], entries.len() - 1);
            let whole = file(rest).len();
            prop_assert_eq!(read(torn), (entries[..last].to_vec(), whole, 0));
        }

        #[test]
        fn damage_costs_what_is_damaged(at in 0_usize..1000, bit in 0_u8..8) {
            let entries: Vec<_> = (0..5).map(|no| letter(no, vec![9; 20])).collect();
            let mut bytes = file(&entries);
            let at = FILE_HEADER_BYTES + at % (bytes.len() - FILE_HEADER_BYTES);
            bytes[at] ^= 1 << bit;
            let (found, ..) = read(&bytes);
            prop_assert_eq!(found.len(), 4);
            prop_assert!(found.iter().all(|entry| entries.contains(entry)));
        }
    }
}
