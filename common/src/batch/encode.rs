//! Writes batches: record by record into one buffer, then compressed in one go.
//!
//! Nothing is allocated per record, and per batch only the payload: a fleet's CPU goes through
//! here. Not for: which bytes are a record (the agent's framing). The agent calls it.

use std::fmt;

use bytes::Bytes;

use super::{
    BatchError, Codec, Headers, ID_HEADER, MAX_DECODED_BYTES, MAX_MINUTES, MAX_RAW_BYTES,
    compress::Compressor,
    layout::{BEFORE_LENGTH_ENDS, HEAD_BYTES, Head, MAGIC},
    minutes::Minutes,
    sum::ContentSum,
    varint,
};
use crate::{header::MinuteCount, ids::BatchId};

/// Bytes of the header `tributary` on the first record.
const ID_HEADER_BYTES: usize = 1 + ID_HEADER.len() + 1 + BatchId::BYTES;
/// The most bytes that frame a record: length, attributes, timestamp, offset, lengths of key and
/// value, number of headers, batch id.
const MAX_FRAMING_BYTES: usize = 6 * varint::MAX_LONG_BYTES + 1 + ID_HEADER_BYTES;
/// What a record without headers has.
static NO_HEADERS: Headers = Headers::new();

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
    /// Whether a record has a key.
    pub keyed: bool,
}

/// A record that is to be written.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// Its event time in ms since 1970.
    pub timestamp_ms: i64,
    /// Its key, where it has one.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: &'a [u8],
    /// Its headers, beside the batch id of a first record.
    pub headers: &'a Headers,
}

impl<'a> Draft<'a> {
    /// A record without headers.
    #[must_use]
    pub fn plain(timestamp_ms: i64, key: Option<&'a [u8]>, value: &'a [u8]) -> Self {
        Self {
            timestamp_ms,
            key,
            value,
            headers: &NO_HEADERS,
        }
    }
}

/// Writes batches. It owns its buffers and compressors, about 4 MiB at most: use one for many
/// batches.
pub struct Encoder {
    compressor: Compressor,
    /// Those of codecs that were used before, for the next batch that is written in one of them.
    others: Vec<Compressor>,
    /// Room for the fixed fields, then the records before compression.
    raw: Vec<u8>,
    /// Room for the fixed fields, then the compressed records, then rubbish.
    out: Vec<u8>,
    /// The id that waits for the first record.
    id: Option<BatchId>,
    records: u32,
    raw_bytes: u64,
    content_sum: ContentSum,
    keyed: bool,
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
            others: Vec::new(),
            raw: vec![0; HEAD_BYTES],
            out: Vec::new(),
            id: None,
            records: 0,
            raw_bytes: 0,
            content_sum: ContentSum::new(),
            keyed: false,
            base_timestamp: 0,
            max_timestamp: i64::MIN,
            minutes: Minutes::default(),
            minutes_full: false,
            too_large: None,
        }
    }

    /// Batches are compressed with `codec` from the next [`Encoder::finish`] on.
    pub fn set_codec(&mut self, codec: Codec) {
        if self.compressor.codec() == codec {
            return;
        }
        let known = self.others.iter().position(|one| one.codec() == codec);
        let next = match known {
            Some(at) => self.others.swap_remove(at),
            None => Compressor::new(codec),
        };
        self.others
            .push(std::mem::replace(&mut self.compressor, next));
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
        self.has_room_for(&Draft::plain(0, key, value))
    }

    /// [`Encoder::has_room`] for a record with headers.
    #[must_use]
    pub fn has_room_for(&self, draft: &Draft<'_>) -> bool {
        let more = MAX_FRAMING_BYTES
            + draft.key.map_or(0, <[u8]>::len)
            + draft.value.len()
            + draft.headers.byte_len();
        let fits = self.raw.len() - HEAD_BYTES + more <= MAX_RAW_BYTES;
        self.records == 0 || (fits && !self.minutes_full)
    }

    /// Adds a record. `timestamp_ms` is its event time in ms since 1970. What is pushed beyond
    /// [`MAX_DECODED_BYTES`] is not kept: the batch is lost then, and [`Encoder::finish`] says so.
    pub fn push(&mut self, timestamp_ms: i64, key: Option<&[u8]>, value: &[u8]) {
        self.push_draft(&Draft::plain(timestamp_ms, key, value));
    }

    /// [`Encoder::push`] for a record with headers.
    pub fn push_draft(&mut self, draft: &Draft<'_>) {
        let timestamp_ms = draft.timestamp_ms;
        if self.records == 0 {
            self.base_timestamp = timestamp_ms;
        }
        self.write_record(draft);
        self.records += 1;
        self.raw_bytes += draft.value.len() as u64;
        self.content_sum.add(draft.value);
        self.keyed |= draft.key.is_some();
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
            content_sum: self.content_sum.finish(),
            minutes: self.minutes.counts(),
            keyed: self.keyed,
        })
    }

    /// Appends the record to the raw bytes, or notes that there are too many of them.
    fn write_record(&mut self, draft: &Draft<'_>) {
        let Draft { value, headers, .. } = *draft;
        let id = self.id.take();
        // Kafka's own readers wrap around as well, so that every pair of timestamps works.
        let timestamp_delta = draft.timestamp_ms.wrapping_sub(self.base_timestamp);
        let offset_delta = i64::from(self.records);
        let (key_len, key) = draft
            .key
            .map_or((-1, &[][..]), |key| (signed(key.len()), key));
        let value_len = signed(value.len());
        let header_count = signed(headers.len() + usize::from(id.is_some()));
        let length = 1
            + varint::len(timestamp_delta)
            + varint::len(offset_delta)
            + varint::len(key_len)
            + key.len()
            + varint::len(value_len)
            + value.len()
            + varint::len(header_count)
            + headers.byte_len()
            + id.map_or(0, |_id| ID_HEADER_BYTES);
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
        let at = varint::write(&mut framing, 0, header_count);
        self.raw.extend_from_slice(&framing[..at]);
        if let Some(id) = id {
            self.raw.extend_from_slice(&id_header(id));
        }
        self.raw.extend_from_slice(headers.as_bytes());
        debug_assert_eq!(self.raw.len() - HEAD_BYTES, after);
    }

    fn clear(&mut self) {
        self.raw.truncate(HEAD_BYTES);
        self.id = None;
        self.records = 0;
        self.raw_bytes = 0;
        self.content_sum.clear();
        self.keyed = false;
        self.base_timestamp = 0;
        self.max_timestamp = i64::MIN;
        self.minutes.clear();
        self.minutes_full = false;
        self.too_large = None;
    }
}

/// The batch id as a record's header. Its lengths are below 64, so that their varints are one byte
/// of twice the value.
fn id_header(id: BatchId) -> [u8; ID_HEADER_BYTES] {
    const KEY: std::ops::Range<usize> = 1..1 + ID_HEADER.len();
    let mut header = [0; ID_HEADER_BYTES];
    header[0] = 2 * 9;
    header[KEY].copy_from_slice(ID_HEADER.as_bytes());
    header[KEY.end] = 2 * 24;
    header[KEY.end + 1..].copy_from_slice(&id.to_bytes());
    header
}

fn signed(len: usize) -> i64 {
    i64::try_from(len).expect("a slice has at most isize::MAX bytes")
}
