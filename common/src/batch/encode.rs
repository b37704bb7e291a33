//! Being written.

use bytes::Bytes;

use super::{BatchError, Codec};
use crate::{header::MinuteCount, ids::BatchId};

/// A batch, written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The RecordBatch.
    pub payload: Bytes,
    /// Records in it.
    pub records: u32,
    /// Bytes of all record values together.
    pub raw_bytes: u64,
    /// CRC-32C over all record values in order.
    pub content_sum: u32,
    /// Records per event minute, ascending.
    pub minutes: Vec<MinuteCount>,
}

/// Writes batches. Owns its buffers and compressors: use one for many batches.
#[derive(Debug)]
pub struct Encoder {
    records: u32,
    raw_bytes: u64,
}

impl Encoder {
    /// An encoder without a batch.
    #[must_use]
    pub fn new(_codec: Codec) -> Self {
        Self { records: 0, raw_bytes: 0 }
    }

    /// Starts a batch and forgets an unfinished one. Its first record gets the header `tributary`.
    pub fn begin(&mut self, _id: BatchId) {}

    /// Whether one more record keeps the batch within [`super::MAX_RAW_BYTES`]; always true for the first.
    #[must_use]
    pub fn has_room(&self, _key: Option<&[u8]>, _value: &[u8]) -> bool {
        true
    }

    /// Adds a record. `timestamp_ms` is its event time since 1970.
    pub fn push(&mut self, _timestamp_ms: i64, _key: Option<&[u8]>, _value: &[u8]) {}

    /// Records so far.
    #[must_use]
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Bytes of all record values so far.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Compresses and closes the batch.
    ///
    /// # Errors
    /// [`BatchError::Empty`] without records, [`BatchError::TooLarge`] when no reader would take it.
    pub fn finish(&mut self) -> Result<Encoded, BatchError> {
        Err(BatchError::Empty)
    }
}
