//! The bytes of a segment.
//!
//! # Constraints
//! Written by one thread, appended in groups, never changed. A kill or a power cut may leave a torn
//! tail behind the last sync; nothing of that was acknowledged. A damaged record costs itself only,
//! and when its head is sound its identity is known. Heads are read without their payloads, so that a
//! large spill opens quickly.
//!
//! # Layout
//! ```text
//! file    = "TRBS" | u16 version | u16 zero | u32 CRC-32C of these 8 | record*     (big endian)
//! record  = u32 mark | u32 bytes of meta | u32 bytes of payload | u32 CRC-32C of payload
//!         | u32 CRC-32C of the 16 bytes before and of meta | meta | payload
//! meta    = by postcard: the order of its arrival, the target, the batch's header as on the wire
//! payload = as on the wire: one Kafka RecordBatch v2
//! heads   = "TRBH" | u16 version | u16 zero | u32 CRC-32C of these 8
//!         | { u64 offset of a record | u32 its bytes | u32 CRC-32C of these 12 | record without payload }*
//! drained = "TRBD" | u16 version | u16 zero | u32 CRC-32C of these 8 | { u64 offset of a record | u32 CRC-32C of it }*
//! ```
//! Pure. Not for: files (see [`super::segment`]).

use serde::{Deserialize, Serialize};
use tributary_common::{
    crc::{crc32c, crc32c_of},
    header::BatchHeader,
    wire::MAX_PAYLOAD_BYTES,
};

/// The version that this build writes and reads.
pub(super) const VERSION: u16 = 1;
/// Bytes before the first record of a segment, and before the first mark of its drained file.
pub(super) const FILE_HEADER_BYTES: usize = 12;
/// Bytes of a record before its meta.
pub(super) const HEAD_BYTES: usize = 20;
/// The longest meta in bytes: a header of the longest kind, and a target.
pub(super) const MAX_META_BYTES: usize = 128 << 10;
/// Bytes before the head in an entry of the heads file.
const HEADS_ENTRY_BYTES: usize = 16;
/// Bytes of one entry of the drained file.
pub(super) const DRAINED_BYTES: usize = 12;

const SEGMENT_MAGIC: [u8; 4] = *b"TRBS";
const HEADS_MAGIC: [u8; 4] = *b"TRBH";
const DRAINED_MAGIC: [u8; 4] = *b"TRBD";
/// First bytes of a record: what a search behind damage looks for.
pub(super) const MARK: [u8; 4] = [0xF5, b'R', b'E', b'C'];

/// Another version of Tributary wrote a file. Never delete it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("has spill segment version {0}; this build reads version {VERSION}")]
pub(super) struct OtherVersion(u16);

/// How a segment begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    /// As it was written.
    Sound,
    /// A kill or a power cut came at its birth: nothing in it was acknowledged.
    Torn,
    /// Otherwise: its records may be sound.
    Damaged,
}

/// What a record says beside its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    order: u64,
    target: String,
    header: Vec<u8>,
}

/// The head of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Its place among all that arrived at this destination's spill.
    pub(super) order: u64,
    /// The physical topic or path.
    pub(super) target: String,
    /// What is said of the batch.
    pub(super) header: BatchHeader,
    /// Bytes of the whole record.
    pub(super) bytes: u32,
    /// Where in the record the payload begins.
    pub(super) payload_at: u32,
    /// CRC-32C of the payload.
    pub(super) payload_sum: u32,
}

impl Head {
    /// Bytes of the payload.
    pub(super) fn payload_bytes(&self) -> u32 {
        self.bytes - self.payload_at
    }
}

fn file_header(magic: [u8; 4]) -> [u8; FILE_HEADER_BYTES] {
    let mut out = [0; FILE_HEADER_BYTES];
    let (said, sum) = out.split_at_mut(8);
    let (name, version) = said.split_at_mut(4);
    name.copy_from_slice(&magic);
    version[..2].copy_from_slice(&VERSION.to_be_bytes());
    sum.copy_from_slice(&crc32c(said).to_be_bytes());
    out
}

/// The bytes before a segment's first record.
pub(super) fn segment_header() -> [u8; FILE_HEADER_BYTES] {
    file_header(SEGMENT_MAGIC)
}

/// The bytes before the first entry of a heads file.
pub(super) fn heads_header() -> [u8; FILE_HEADER_BYTES] {
    file_header(HEADS_MAGIC)
}

/// The bytes before the first mark of a drained file.
pub(super) fn drained_header() -> [u8; FILE_HEADER_BYTES] {
    file_header(DRAINED_MAGIC)
}

/// Checks the first bytes of a segment.
///
/// # Errors
/// [`OtherVersion`]: leave the file alone.
pub(super) fn check_header(bytes: &[u8]) -> Result<Beginning, OtherVersion> {
    let ours = segment_header();
    let bytes = bytes.get(..FILE_HEADER_BYTES).unwrap_or(bytes);
    if bytes == ours {
        return Ok(Beginning::Sound);
    }
    if let &[b'T', b'R', b'B', b'S', high, low, _, _, a, b, c, d] = bytes
        && bytes.get(..8).map(crc32c) == Some(u32::from_be_bytes([a, b, c, d]))
    {
        return Err(OtherVersion(u16::from_be_bytes([high, low])));
    }
    // Of a write that a power cut stopped, the first bytes are there, and zeros where it had grown.
    let written = bytes.iter().zip(ours).take_while(|(a, b)| **a == *b);
    let rest = bytes.get(written.count()..).unwrap_or_default();
    match rest.iter().all(|byte| *byte == 0) {
        true => Ok(Beginning::Torn),
        false => Ok(Beginning::Damaged),
    }
}

/// Whether a file beside a segment says, soundly, that it is of another version.
fn is_of_another_version(bytes: &[u8]) -> bool {
    let Some((said, sum)) = bytes.get(..FILE_HEADER_BYTES).map(|head| head.split_at(8)) else {
        return false;
    };
    crc32c(said).to_be_bytes() == sum && said.get(4..6) != Some(&VERSION.to_be_bytes())
}

/// Appends one record to `out` and says how many bytes it takes; `None` when its header is longer
/// than a record can say, which nothing that came over the wire is.
pub(super) fn encode(
    order: u64,
    target: &str,
    header: &BatchHeader,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Option<u32> {
    let meta = Meta {
        order,
        target: target.to_owned(),
        header: header.encode().ok()?,
    };
    let meta = postcard::to_stdvec(&meta).ok()?;
    if meta.len() > MAX_META_BYTES || payload.len() > MAX_PAYLOAD_BYTES {
        return None;
    }
    let before = out.len();
    let start = out.len();
    out.extend(MARK);
    out.extend(u32::try_from(meta.len()).ok()?.to_be_bytes());
    out.extend(u32::try_from(payload.len()).ok()?.to_be_bytes());
    out.extend(crc32c(payload).to_be_bytes());
    let sum = crc32c_of(&[out.get(start..)?, &meta]);
    out.extend(sum.to_be_bytes());
    out.extend_from_slice(&meta);
    out.extend_from_slice(payload);
    u32::try_from(out.len() - before).ok()
}

/// What the bytes at the place of a record are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A sound head.
    Head(Box<Head>),
    /// The first bytes of one, which is so long without its payload.
    Short(usize),
    /// None.
    Bad,
}

/// Reads a head from the first bytes of a record.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    let (Some(meta), Some(payload), Some(payload_sum), Some(sum)) =
        (word(4), word(8), word(12), word(16))
    else {
        return Parsed::Short(HEAD_BYTES);
    };
    let sound = bytes.starts_with(&MARK)
        && (meta as usize) <= MAX_META_BYTES
        && (payload as usize) <= MAX_PAYLOAD_BYTES;
    if !sound {
        return Parsed::Bad;
    }
    let payload_at = HEAD_BYTES + meta as usize;
    let (Some(first), Some(text)) = (bytes.get(..16), bytes.get(HEAD_BYTES..payload_at)) else {
        return Parsed::Short(payload_at);
    };
    if crc32c_of(&[first, text]) != sum {
        return Parsed::Bad;
    }
    let Ok(Meta {
        order,
        target,
        header,
    }) = postcard::from_bytes(text)
    else {
        return Parsed::Bad;
    };
    let Ok(header) = BatchHeader::decode(&header) else {
        return Parsed::Bad;
    };
    let Ok(payload_at) = u32::try_from(payload_at) else {
        return Parsed::Bad;
    };
    Parsed::Head(Box::new(Head {
        order,
        target,
        header,
        bytes: payload_at + payload,
        payload_at,
        payload_sum,
    }))
}

/// Appends to `out` what a heads file says of a record: where it is, and all but its payload.
pub(super) fn encode_head(
    (at, bytes): (u64, u32),
    order: u64,
    target: &str,
    header: &BatchHeader,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend(at.to_be_bytes());
    out.extend(bytes.to_be_bytes());
    let sum = out.get(start..).map_or(0, crc32c);
    out.extend(sum.to_be_bytes());
    if encode(order, target, header, &[], out).is_none() {
        // A header that long was not written to the segment either.
        out.truncate(start);
    }
}

/// The heads that a heads file holds, with where their records are. Damaged entries are left out, and all of
/// a file of another version: the segment knows.
pub(super) fn read_heads(bytes: &[u8]) -> impl Iterator<Item = ((u64, u32), Head)> {
    let bytes = match is_of_another_version(bytes) {
        true => &[],
        false => bytes,
    };
    let mut at = FILE_HEADER_BYTES + HEADS_ENTRY_BYTES;
    std::iter::from_fn(move || {
        loop {
            let rest = bytes.get(at..)?;
            at += rest.windows(MARK.len()).position(|four| four == MARK)?;
            let place = bytes
                .get(at - HEADS_ENTRY_BYTES..at)
                .and_then(read_head_place);
            match (place, bytes.get(at..).map(parse)) {
                (Some(place), Some(Parsed::Head(head))) => {
                    at += head.bytes as usize;
                    return Some((place, *head));
                }
                _other => at += 1,
            }
        }
    })
}

fn read_head_place(entry: &[u8]) -> Option<(u64, u32)> {
    let (said, sum) = entry.split_at_checked(12)?;
    let (at, bytes) = said.split_at_checked(8)?;
    let whole = crc32c(said).to_be_bytes() == sum;
    let at = u64::from_be_bytes(at.try_into().ok()?);
    let bytes = u32::from_be_bytes(bytes.try_into().ok()?);
    whole.then_some((at, bytes))
}

/// One entry of a drained file.
pub(super) fn drained(at: u64) -> [u8; DRAINED_BYTES] {
    let (offset, mut out) = (at.to_be_bytes(), [0; DRAINED_BYTES]);
    let (left, right) = out.split_at_mut(8);
    left.copy_from_slice(&offset);
    right.copy_from_slice(&crc32c(&offset).to_be_bytes());
    out
}

/// The offsets that a drained file holds; a torn or damaged entry is left out: the journal knows.
pub(super) fn read_drained(bytes: &[u8]) -> Vec<u64> {
    let Some(rest) = bytes.strip_prefix(&drained_header()) else {
        return Vec::new();
    };
    let entries = rest.chunks_exact(DRAINED_BYTES).filter_map(|entry| {
        let (offset, sum) = entry.split_at(8);
        let sum = u32::from_be_bytes(sum.try_into().ok()?);
        let whole = crc32c(offset) == sum;
        whole.then(|| offset.try_into().ok().map(u64::from_be_bytes))?
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::batch;

    fn record() -> Vec<u8> {
        let (header, payload) = batch("web", 7, 3, &["one", "two"]);
        let mut bytes = Vec::new();
        encode(5, "x-web", &header, &payload, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_record_survives_its_bytes() {
        let bytes = record();
        let Parsed::Head(head) = parse(&bytes) else {
            panic!("no head")
        };
        assert_eq!((head.order, head.target.as_str()), (5, "x-web"));
        assert_eq!(head.header, batch("web", 7, 3, &["one", "two"]).0);
        assert_eq!(head.bytes as usize, bytes.len());
        let payload = &bytes[head.payload_at as usize..];
        assert_eq!(crc32c::crc32c(payload), head.payload_sum);
    }

    #[test]
    fn drained_offsets_survive_a_torn_tail() {
        let mut bytes = drained_header().to_vec();
        bytes.extend(drained(8));
        bytes.extend(drained(700));
        assert_eq!(read_drained(&bytes), [8, 700]);
        assert_eq!(read_drained(&bytes[..bytes.len() - 1]), [8]);
        bytes[FILE_HEADER_BYTES + 1] ^= 1;
        assert_eq!(read_drained(&bytes), [700]);
    }

    #[test]
    fn heads_survive_a_torn_tail_and_a_flipped_byte_costs_one() {
        let mut bytes = heads_header().to_vec();
        let mut ends = vec![bytes.len()];
        for seq in 1..=3 {
            let (header, _payload) = batch("web", 7, seq, &["one"]);
            encode_head((seq * 100, 90), seq, "x-web", &header, &mut bytes);
            ends.push(bytes.len());
        }
        let places = |bytes: &[u8]| -> Vec<u64> {
            let heads: Vec<_> = read_heads(bytes).collect();
            for ((at, bytes), head) in &heads {
                assert_eq!((head.header.seq * 100, 90), (*at, *bytes));
            }
            heads.iter().map(|((at, _bytes), _head)| *at).collect()
        };
        assert_eq!(places(&bytes), [100, 200, 300]);
        assert_eq!(places(&bytes[..bytes.len() - 1]), [100, 200]);
        let mut newer = bytes.clone();
        newer[4..6].copy_from_slice(&(VERSION + 1).to_be_bytes());
        // Flipped, it is as any other damage; said soundly, nothing here is known to be a head.
        assert_eq!(places(&newer), [100, 200, 300]);
        let sum = crc32c::crc32c(&newer[..8]);
        newer[8..12].copy_from_slice(&sum.to_be_bytes());
        assert!(places(&newer).is_empty());
        for at in ends[1]..ends[2] {
            let mut bad = bytes.clone();
            bad[at] ^= 0x20;
            assert_eq!(places(&bad), [100, 300], "at {at}");
        }
    }

    #[test]
    fn another_version_is_refused_by_name_and_a_bad_beginning_is_none() {
        let mut newer = *b"TRBS\0\x09\0\0\0\0\0\0";
        let sum = crc32c::crc32c(&newer[..8]);
        newer[8..].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(
            check_header(&newer).unwrap_err().to_string(),
            "has spill segment version 9; this build reads version 1"
        );
        let check = |bytes: &[u8], want| assert_eq!(check_header(bytes), Ok(want), "{bytes:02x?}");
        check(&segment_header(), Beginning::Sound);
        for end in 0..FILE_HEADER_BYTES {
            let mut torn = segment_header();
            check(&torn[..end], Beginning::Torn);
            torn[end..].fill(0);
            check(&torn, Beginning::Torn);
        }
        for at in 0..FILE_HEADER_BYTES {
            let mut flipped = segment_header();
            flipped[at] ^= 0x10;
            check(&flipped, Beginning::Damaged);
        }
        check(b"hello there, world", Beginning::Damaged);
    }

    proptest! {
        #[test]
        fn a_flipped_byte_of_a_head_is_seen(at in 0usize..400, flip in 1u8..) {
            let mut bytes = record();
            let Parsed::Head(head) = parse(&bytes) else { panic!("no head") };
            let at = at % head.payload_at as usize;
            bytes[at] ^= flip;
            // A length may grow: then more bytes are asked for, never a head.
            prop_assert!(!matches!(parse(&bytes), Parsed::Head(_)));
        }

        #[test]
        fn random_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = MARK.to_vec();
            bytes.extend(tail);
            prop_assert!(!matches!(parse(&bytes), Parsed::Head(_)));
        }
    }
}
