//! The fixed fields of a RecordBatch v2 and where they stand.
//!
//! Not for: the records after them (see `encode` and `decode`).

use std::ops::Range;

use crate::crc::crc32c;

/// Bytes of the fixed fields; the records follow.
pub(super) const HEAD_BYTES: usize = 61;
/// The only version of the format that is written and read.
pub(super) const MAGIC: i8 = 2;
/// The bits of the attributes that name the codec.
pub(super) const CODEC_MASK: u16 = 0b111;
/// What the length field does not count: the base offset and itself.
pub(super) const BEFORE_LENGTH_ENDS: usize = 12;

const BASE_OFFSET: Range<usize> = 0..8;
const LENGTH: Range<usize> = 8..12;
const LEADER_EPOCH: Range<usize> = 12..16;
const MAGIC_AT: usize = 16;
const CRC: Range<usize> = 17..21;
/// The checksum covers everything from here.
const CRC_FROM: usize = 21;
const ATTRIBUTES: Range<usize> = 21..23;
const LAST_OFFSET_DELTA: Range<usize> = 23..27;
const BASE_TIMESTAMP: Range<usize> = 27..35;
const MAX_TIMESTAMP: Range<usize> = 35..43;
/// Producer id, producer epoch, base sequence: -1 each, a producer patches them.
const PRODUCER: Range<usize> = 43..57;
const RECORDS: Range<usize> = 57..61;

/// The fixed fields that vary between batches. All others are as a producer without idempotence
/// writes them, and ignored by the reader: base offset, leader epoch, producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes after the length field.
    pub(super) length: i32,
    /// The version of the format.
    pub(super) magic: i8,
    /// CRC-32C of everything from the attributes on.
    pub(super) crc: u32,
    /// Codec, kind of timestamp, transactional, control.
    pub(super) attributes: u16,
    /// Records less 1.
    pub(super) last_offset_delta: i32,
    /// Timestamp of the first record, in ms.
    pub(super) base_timestamp: i64,
    /// Latest timestamp, in ms.
    pub(super) max_timestamp: i64,
    /// Records.
    pub(super) records: i32,
}

impl Head {
    /// Reads the fixed fields; `None` when there are too few bytes. Nothing is checked.
    pub(super) fn read(batch: &[u8]) -> Option<Self> {
        let head: &[u8; HEAD_BYTES] = batch.first_chunk()?;
        Some(Self {
            length: i32::from_be_bytes(field(head, LENGTH)),
            magic: i8::from_be_bytes([head[MAGIC_AT]]),
            crc: u32::from_be_bytes(field(head, CRC)),
            attributes: u16::from_be_bytes(field(head, ATTRIBUTES)),
            last_offset_delta: i32::from_be_bytes(field(head, LAST_OFFSET_DELTA)),
            base_timestamp: i64::from_be_bytes(field(head, BASE_TIMESTAMP)),
            max_timestamp: i64::from_be_bytes(field(head, MAX_TIMESTAMP)),
            records: i32::from_be_bytes(field(head, RECORDS)),
        })
    }

    /// Writes all fixed fields in front of the records of `batch`, the checksum last. `magic` and
    /// `crc` are not taken from `self`.
    ///
    /// # Panics
    /// When `batch` is shorter than [`HEAD_BYTES`].
    pub(super) fn write(self, batch: &mut [u8]) {
        batch[BASE_OFFSET].fill(0);
        batch[LENGTH].copy_from_slice(&self.length.to_be_bytes());
        batch[LEADER_EPOCH].fill(0xff);
        batch[MAGIC_AT] = MAGIC.to_be_bytes()[0];
        batch[ATTRIBUTES].copy_from_slice(&self.attributes.to_be_bytes());
        batch[LAST_OFFSET_DELTA].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        batch[BASE_TIMESTAMP].copy_from_slice(&self.base_timestamp.to_be_bytes());
        batch[MAX_TIMESTAMP].copy_from_slice(&self.max_timestamp.to_be_bytes());
        batch[PRODUCER].fill(0xff);
        batch[RECORDS].copy_from_slice(&self.records.to_be_bytes());
        let crc = checksum(batch);
        batch[CRC].copy_from_slice(&crc.to_be_bytes());
    }
}

/// The CRC-32C of a batch: over everything from the attributes on.
pub(super) fn checksum(batch: &[u8]) -> u32 {
    crc32c(batch.get(CRC_FROM..).unwrap_or_default())
}

/// What an idempotent producer writes into a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
    /// The number of the batch's first record among those that the producer gave to the partition.
    pub(super) base_sequence: i32,
}

/// The fixed fields `head` of a batch with another producer, and the checksum that belongs to it.
/// `rest` is how many bytes of records follow.
pub(super) fn stamped(head: &[u8; HEAD_BYTES], stamp: Stamp, rest: usize) -> [u8; HEAD_BYTES] {
    let mut new = *head;
    let mut fields = [0; PRODUCER.end - PRODUCER.start];
    let (id, behind) = fields.split_at_mut(8);
    let (epoch, sequence) = behind.split_at_mut(2);
    id.copy_from_slice(&stamp.producer_id.to_be_bytes());
    epoch.copy_from_slice(&stamp.producer_epoch.to_be_bytes());
    sequence.copy_from_slice(&stamp.base_sequence.to_be_bytes());
    new[PRODUCER].copy_from_slice(&fields);
    // Of two pieces the sum is that of the first, moved on by the length of the second, xor that of
    // the second. Moving is linear, so only what differs is moved.
    let differs = checksum(head) ^ checksum(&new);
    let before = u32::from_be_bytes(field(head, CRC));
    let crc = before ^ moved_on(differs, rest);
    new[CRC].copy_from_slice(&crc.to_be_bytes());
    new
}

/// The polynomial of CRC-32C, lowest power in the highest bit.
const POLYNOMIAL: u32 = 0x82F6_3B78;
/// x to the power of 8 · 2^k, modulo the polynomial, for each bit k of a length in bytes.
const POWERS: [u32; usize::BITS as usize] = powers();

const fn powers() -> [u32; usize::BITS as usize] {
    let mut powers = [0; usize::BITS as usize];
    let (mut power, mut k) = (1 << 23, 0);
    while k < powers.len() {
        powers[k] = power;
        power = product(power, power);
        k += 1;
    }
    powers
}

/// A product of polynomials, modulo that of CRC-32C.
const fn product(a: u32, mut b: u32) -> u32 {
    let (mut product, mut power) = (0, 0);
    while power < u32::BITS {
        // All ones where `a` has this power: a branch would be guessed wrong half the time.
        product ^= b & ((a << power) >> 31).wrapping_neg();
        b = (b >> 1) ^ (POLYNOMIAL & (b & 1).wrapping_neg());
        power += 1;
    }
    product
}

/// A checksum behind so many bytes of zeros, but for what their own sum is. The library's way
/// (`crc32c_combine`) takes 15 µs for a batch, as long as reading it through a few times.
fn moved_on(crc: u32, bytes: usize) -> u32 {
    let set = (0..usize::BITS).filter(|k| bytes >> k & 1 == 1);
    set.fold(crc, |crc, k| product(POWERS[k as usize], crc))
}

fn field<const N: usize>(head: &[u8; HEAD_BYTES], at: Range<usize>) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&head[at]);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_checksum_is_moved_on_as_the_library_does(crc: u32, bytes in 0usize..1 << 40) {
            prop_assert_eq!(moved_on(crc, bytes), crc32c::crc32c_combine(crc, 0, bytes));
        }
    }
}
