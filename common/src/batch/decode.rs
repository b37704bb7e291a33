//! Being written.

use super::BatchError;
use crate::{header::MinuteCount, ids::BatchId};

/// One record of a batch, borrowed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Event time, in ms since 1970.
    pub timestamp_ms: i64,
    /// The key, where there is one.
    pub key: Option<&'a [u8]>,
    /// The line.
    pub value: &'a [u8],
    /// The id of the batch that begins with this record.
    pub batch_id: Option<BatchId>,
}

/// A batch, read, decompressed and checked.
#[derive(Debug)]
pub struct Decoded {
    data: Vec<u8>,
}

impl Decoded {
    /// The records in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        std::iter::empty()
    }

    /// How many records there are, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a batch without records does not decode")]
    #[must_use]
    pub fn len(&self) -> u32 {
        0
    }

    /// CRC-32C over all record values in order.
    #[must_use]
    pub fn content_sum(&self) -> u32 {
        0
    }

    /// Bytes of all record values together.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.data.len() as u64
    }

    /// Records per event minute, ascending.
    #[must_use]
    pub fn minutes(&self) -> &[MinuteCount] {
        &[]
    }
}

/// Reads batches. Owns its decompressors: use one for many batches.
#[derive(Debug, Default)]
pub struct Decoder {}

impl Decoder {
    /// A decoder.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }

    /// Like [`decode`].
    ///
    /// # Errors
    /// [`BatchError`]: refuse the batch.
    pub fn decode(&mut self, _payload: &[u8], _max_raw_bytes: usize) -> Result<Decoded, BatchError> {
        Err(BatchError::Empty)
    }

    /// Takes back the memory of a batch that is no longer needed, for the next one.
    pub fn recycle(&mut self, _decoded: Decoded) {}
}

/// Reads a batch and checks all of it: length, magic, CRC, codec, every record. `max_raw_bytes`
/// bounds the records before compression, framing included; [`super::MAX_DECODED_BYTES`] fits all batches.
///
/// # Errors
/// [`BatchError`]: refuse the batch.
pub fn decode(payload: &[u8], max_raw_bytes: usize) -> Result<Decoded, BatchError> {
    Decoder::new().decode(payload, max_raw_bytes)
}
