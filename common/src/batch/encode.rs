//! Writes batches: record by record into one buffer, then compressed in one go.
//!
//! Nothing is allocated per record, and per batch only the payload: a fleet's CPU goes through
//! here. Not for: which bytes are a record (the agent's framing). The agent calls it.

use std::fmt;

use bytes::Bytes;

use super::{
    BatchError, Codec, ID_HEADER, MAX_DECODED_BYTES, MAX_MINUTES, MAX_RAW_BYTES,
    compress::Compressor,
    layout::{BEFORE_LENGTH_ENDS, HEAD_BYTES, Head, MAGIC},
    minutes::Minutes,
    varint,
};
use crate::{header::MinuteCount, ids::BatchId};

/// Bytes of the header `tributary` on the first record, with their count.
const ID_HEADER_BYTES: usize = 1 + 1 + ID_HEADER.len() + 1 + BatchId::BYTES;
/// The most bytes that frame a record: length, attributes, timestamp, offset, lengths of key and
/// value, headers.
const MAX_FRAMING_BYTES: usize = 5 * varint::MAX_LONG_BYTES + 1 + ID_HEADER_BYTES;

/// A batch, written, and what its header says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The RecordBatch.
    pub payload: Bytes,
    /// Records in it, at least 1.
    pub records: u32,
    /// Bytes of all record values together.
    pub raw_bytes: u64,
    /// CRC-32C over all record values in order, without separators.
    pub content_sum: u32,
    /// Records per event minute, ascending.
    pub minutes: Vec<MinuteCount>,
}

/// Writes batches. It owns its buffers and compressor, about 3 MiB at most: use one for many
/// batches.
pub struct Encoder {
    compressor: Compressor,
    /// Room for the fixed fields, then the records before compression.
    raw: Vec<u8>,
    /// Room for the fixed fields, then the compressed records, then rubbish.
    out: Vec<u8>,
    /// The id that waits for the first record.
    id: Option<BatchId>,
    records: u32,
    raw_bytes: u64,
    content_sum: u32,
    base_timestamp: i64,
    max_timestamp: i64,
    minutes: Minutes,
    /// The records touch too many minutes for one header.
    minutes_full: bool,
    /// Bytes of the records before compression, once they are over [`MAX_DECODED_BYTES`].
    too_large: Option<usize>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("codec", &self.compressor.codec())
            .field("records", &self.records)
            .field("raw_bytes", &self.raw_bytes)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder without a batch.
    #[must_use]
    pub fn new(codec: Codec) -> Self {
        Self {
            compressor: Compressor::new(codec),
            raw: vec![0; HEAD_BYTES],
            out: Vec::new(),
            id: None,
            records: 0,
            raw_bytes: 0,
            content_sum: 0,
            base_timestamp: 0,
            max_timestamp: i64::MIN,
            minutes: Minutes::default(),
            minutes_full: false,
            too_large: None,
        }
    }

    /// Starts a batch and forgets an unfinished one. The first record will carry `id` in its
    /// header `tributary`.
    pub fn begin(&mut self, id: BatchId) {
        self.clear();
        self.id = Some(id);
    }

    /// Whether one more such record keeps the batch within [`MAX_RAW_BYTES`] and [`MAX_MINUTES`].
    /// The first record always has room.
    #[must_use]
    pub fn has_room(&self, key: Option<&[u8]>, value: &[u8]) -> bool {
        let more = MAX_FRAMING_BYTES + key.map_or(0, <[u8]>::len) + value.len();
        let fits = self.raw.len() - HEAD_BYTES + more <= MAX_RAW_BYTES;
        self.records == 0 || (fits && !self.minutes_full)
    }

    /// Adds a record. `timestamp_ms` is its event time in ms since 1970. What is pushed beyond
    /// [`MAX_DECODED_BYTES`] is not kept: the batch is lost then, and [`Encoder::finish`] says so.
    pub fn push(&mut self, timestamp_ms: i64, key: Option<&[u8]>, value: &[u8]) {
        if self.records == 0 {
            self.base_timestamp = timestamp_ms;
        }
        self.write_record(timestamp_ms, key, value);
        self.records += 1;
        self.raw_bytes += value.len() as u64;
        self.content_sum = crc32c::crc32c_append(self.content_sum, value);
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        self.minutes.add(timestamp_ms);
        if self.minutes.runs() >= MAX_MINUTES {
            self.minutes.compact();
            // Full at the half: a compaction frees so much that the sorting does not count.
            self.minutes_full = self.minutes.runs() >= MAX_MINUTES / 2;
        }
    }

    /// Records so far.
    #[must_use]
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Bytes of all record values so far, without framing.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Compresses and closes the batch. The encoder is empty afterwards, whatever comes out.
    ///
    /// # Errors
    /// [`BatchError::Empty`] without records; [`BatchError::TooLarge`] when no reader would take
    /// the batch: cut it smaller, or drop the record that is too large alone.
    pub fn finish(&mut self) -> Result<Encoded, BatchError> {
        let encoded = self.encode();
        self.clear();
        encoded
    }

    fn encode(&mut self) -> Result<Encoded, BatchError> {
        let Some(last) = self.records.checked_sub(1) else {
            return Err(BatchError::Empty);
        };
        if let Some(bytes) = self.too_large {
            return Err(BatchError::TooLarge {
                bytes,
                limit: MAX_DECODED_BYTES,
            });
        }
        let codec = self.compressor.codec();
        let batch = match &mut self.compressor {
            Compressor::None => self.raw.as_mut_slice(),
            compressor => {
                let end =
                    compressor.compress(&self.raw[HEAD_BYTES..], &mut self.out, HEAD_BYTES)?;
                &mut self.out[..end]
            }
        };
        let length = i32::try_from(batch.len() - BEFORE_LENGTH_ENDS)
            .expect("records of MAX_DECODED_BYTES do not compress to 2 GiB");
        Head {
            length,
            attributes: u16::from(codec.id()),
            last_offset_delta: last.cast_signed(),
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            records: self.records.cast_signed(),
            magic: MAGIC,
            crc: 0,
        }
        .write(batch);
        Ok(Encoded {
            payload: Bytes::copy_from_slice(batch),
            records: self.records,
            raw_bytes: self.raw_bytes,
            content_sum: self.content_sum,
            minutes: self.minutes.counts(),
        })
    }

    /// Appends the record to the raw bytes, or notes that there are too many of them.
    fn write_record(&mut self, timestamp_ms: i64, key: Option<&[u8]>, value: &[u8]) {
        let id = self.id.take();
        // Kafka's own readers wrap around as well, so that every pair of timestamps works.
        let timestamp_delta = timestamp_ms.wrapping_sub(self.base_timestamp);
        let offset_delta = i64::from(self.records);
        let (key_len, key) = key.map_or((-1, &[][..]), |key| (signed(key.len()), key));
        let value_len = signed(value.len());
        let length = 1
            + varint::len(timestamp_delta)
            + varint::len(offset_delta)
            + varint::len(key_len)
            + key.len()
            + varint::len(value_len)
            + value.len()
            + if id.is_some() { ID_HEADER_BYTES } else { 1 };
        let before = self.too_large.unwrap_or(self.raw.len() - HEAD_BYTES);
        let after = before + varint::len(signed(length)) + length;
        if after > MAX_DECODED_BYTES {
            self.too_large = Some(after);
            return;
        }

        let mut framing = [0; 5 * varint::MAX_LONG_BYTES];
        let mut at = varint::write(&mut framing, 0, signed(length));
        framing[at] = 0; // No attributes.
        at = varint::write(&mut framing, at + 1, timestamp_delta);
        at = varint::write(&mut framing, at, offset_delta);
        at = varint::write(&mut framing, at, key_len);
        self.raw.extend_from_slice(&framing[..at]);
        self.raw.extend_from_slice(key);
        let at = varint::write(&mut framing, 0, value_len);
        self.raw.extend_from_slice(&framing[..at]);
        self.raw.extend_from_slice(value);
        match id {
            None => self.raw.push(0), // No headers.
            Some(id) => self.raw.extend_from_slice(&id_header(id)),
        }
        debug_assert_eq!(self.raw.len() - HEAD_BYTES, after);
    }

    fn clear(&mut self) {
        self.raw.truncate(HEAD_BYTES);
        self.id = None;
        self.records = 0;
        self.raw_bytes = 0;
        self.content_sum = 0;
        self.base_timestamp = 0;
        self.max_timestamp = i64::MIN;
        self.minutes.clear();
        self.minutes_full = false;
        self.too_large = None;
    }
}

/// A record's header section with the batch id as its only header. Its counts and lengths are
/// below 64, so that their varints are one byte of twice the value.
fn id_header(id: BatchId) -> [u8; ID_HEADER_BYTES] {
    const KEY: std::ops::Range<usize> = 2..2 + ID_HEADER.len();
    let mut header = [0; ID_HEADER_BYTES];
    header[0] = 2;
    header[1] = 2 * 9;
    header[KEY].copy_from_slice(ID_HEADER.as_bytes());
    header[KEY.end] = 2 * 24;
    header[KEY.end + 1..].copy_from_slice(&id.to_bytes());
    header
}

fn signed(len: usize) -> i64 {
    i64::try_from(len).expect("a slice has at most isize::MAX bytes")
}
