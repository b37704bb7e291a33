//! A record as a batch of its own, under the identity of the batch that it was in: how a letter keeps it, and
//! how it goes out once more.
//!
//! Not for: where letters are (see [`super::store`]).

use bytes::Bytes;
use tributary_common::{
    batch::{
        BatchError, Codec, Decoder, Draft, Encoder, Headers, ID_HEADER, MAX_DECODED_BYTES, Record,
    },
    header::{BatchHeader, HeaderError},
};

use super::format::Letter;

/// A record as it is kept.
///
/// # Errors
/// When it cannot be written, which says that it could not be read.
pub(crate) fn alone(header: &BatchHeader, record: &Record<'_>) -> Result<Vec<u8>, BatchError> {
    let mut headers = Headers::new();
    for (key, value) in record.headers.iter() {
        if key != ID_HEADER {
            headers.push(key, value.unwrap_or_default());
        }
    }
    let mut encoder = Encoder::new(Codec::None);
    encoder.begin(header.id());
    encoder.push_draft(&Draft {
        timestamp_ms: record.timestamp_ms,
        key: record.key,
        value: record.value,
        headers: &headers,
    });
    Ok(encoder.finish()?.payload.to_vec())
}

/// Why a letter cannot go out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// What is said of its batch.
    #[error("its header: {0}")]
    Header(#[from] HeaderError),
    /// Its record.
    #[error("its record: {0}")]
    Record(#[from] BatchError),
}

/// A letter as a batch of one record, as destinations take them: the header says what is true of that record.
///
/// # Errors
/// A letter that cannot be read.
pub(crate) fn again(
    letter: Letter,
    decoder: &mut Decoder,
) -> Result<(BatchHeader, Bytes), Unreadable> {
    let before = BatchHeader::decode(&letter.header)?;
    let decoded = decoder.decode(&letter.payload, MAX_DECODED_BYTES)?;
    let header = BatchHeader {
        records: decoded.len(),
        raw_bytes: decoded.raw_bytes(),
        minutes: decoded.minutes().to_vec(),
        content_sum: decoded.content_sum(),
        ..before
    };
    decoder.recycle(decoded);
    Ok((header, letter.payload.into()))
}
