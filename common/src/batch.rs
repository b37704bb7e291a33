//! The payload of a batch: one Kafka RecordBatch v2, written and read by hand.
//!
//! # Constraints
//! The bytes that an agent writes go over the wire, into the spill and into Kafka unchanged, so
//! they must be what a broker and every consumer take. Writing must cost little beside the
//! compression; reading must survive any bytes, for they come from the network.
//!
//! # Layout
//! See `docs/formats.md`, section Batch, after KIP-98 and
//! <https://kafka.apache.org/documentation/#recordbatch>.
//!
//! # Operation
//! The agent: [`Encoder::begin`], [`Encoder::push`] while [`Encoder::has_room`],
//! [`Encoder::finish`]. The bus: [`Decoder::decode`], [`Decoded::check`] against the header,
//! [`Decoder::recycle`]; or [`Sealed`], which forwards a batch without opening it; or [`Merger`], which
//! makes one of several.
//!
//! Not for: what is known of a batch without opening it (see [`crate::header`]).

mod compress;
mod decode;
mod decompress;
mod encode;
mod error;
mod headers;
mod layout;
mod lz4;
mod merge;
mod minutes;
mod sealed;
mod sum;
#[cfg(test)]
mod tests;
mod varint;

use serde::{Deserialize, Serialize};

pub use self::{
    decode::{Decoded, Decoder, Record, Records, decode},
    encode::{Draft, Encoded, Encoder},
    error::BatchError,
    headers::{Headers, HeadersMark, RecordHeaders},
    merge::Merger,
    minutes::minute_of,
    sealed::Sealed,
};

/// What a batch is aimed at where more waits, in bytes of source: what a batch costs on its way beside its
/// bytes is paid less often then, and one is a whole request to Kafka.
pub const TARGET_BYTES: usize = 768 << 10;

/// The target bound of a batch, in bytes: its records before compression, framing included, stay
/// within it, unless a single record is larger; that one stands alone in its batch.
pub const MAX_RAW_BYTES: usize = 900 << 10;

/// The most bytes that the records of a batch may take before compression, framing included: a
/// single record of 1 MiB with its framing. It is the limit that readers give to [`decode()`].
pub const MAX_DECODED_BYTES: usize = (1 << 20) + (32 << 10);

/// The most event minutes that the records of a batch may touch, so that the header, which counts
/// the records of each, fits its frame.
pub const MAX_MINUTES: usize = 4096;

/// The key of the record header that carries the batch id, on the first record of each batch.
pub const ID_HEADER: &str = "tributary";

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Not at all.
    None,
    /// Gzip, level 6.
    Gzip,
    /// One LZ4 frame of independent blocks, as Kafka's reader needs it.
    Lz4,
    /// Zstandard, level 1: the default.
    #[default]
    Zstd,
}

impl Codec {
    /// All codecs.
    pub const ALL: [Self; 4] = [Self::None, Self::Gzip, Self::Lz4, Self::Zstd];

    /// The codec as text, as configurations say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// How the records of `payload` are compressed, if it is a batch at all: only looked up, nothing is
    /// checked.
    #[must_use]
    pub fn of(payload: &[u8]) -> Option<Self> {
        let [_high, codec] = layout::Head::read(payload)?.attributes.to_be_bytes();
        Self::from_id(codec).ok()
    }

    /// Kafka's number for it, bits 0 to 2 of the attributes.
    #[must_use]
    pub fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec of a Kafka number.
    ///
    /// # Errors
    /// [`BatchError::Snappy`] for 2, [`BatchError::Codec`] for a number that Kafka does not have.
    pub fn from_id(id: u8) -> Result<Self, BatchError> {
        match id {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Err(BatchError::Snappy),
            3 => Ok(Self::Lz4),
            4 => Ok(Self::Zstd),
            unknown => Err(BatchError::Codec(unknown)),
        }
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Codec {
    type Err = BatchError;

    fn from_str(text: &str) -> Result<Self, BatchError> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.as_str() == text)
            .ok_or_else(|| BatchError::CodecName(text.to_owned()))
    }
}
