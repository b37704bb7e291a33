//! The payload of a batch: one Kafka RecordBatch v2, written and read by hand.
//!
//! # Constraints
//! The bytes that an agent writes go over the wire, into the spill and into Kafka unchanged, so
//! they must be what a broker and every consumer take. Writing must cost little beside the
//! compression, reading must survive any bytes: it comes from the network.
//!
//! # Layout
//! See `docs/formats.md`, section Batch, and KIP-98
//! (<https://kafka.apache.org/documentation/#recordbatch>).
//!
//! Not for: what is known of a batch without opening it (see [`crate::header`]). The agent encodes,
//! the bus decodes.

mod decode;
mod encode;
mod error;

pub use self::{
    decode::{Decoded, Decoder, Record, decode},
    encode::{Encoded, Encoder},
    error::BatchError,
};

/// The target bound of a batch, in bytes: the records before compression, with their framing, stay
/// within it, unless a single record is larger; that one stands alone in its batch.
pub const MAX_RAW_BYTES: usize = 900 << 10;

/// The most bytes that the records of a batch may take before compression, framing included: a
/// single record of 1 MiB with room for its framing. What a reader gives to [`decode`].
pub const MAX_DECODED_BYTES: usize = (1 << 20) + (32 << 10);

/// The key of the record header that carries the batch id, on the first record of each batch.
pub const ID_HEADER: &str = "tributary";

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// Not at all.
    None,
    /// Gzip, level 6.
    Gzip,
    /// LZ4 frames of independent blocks, as Kafka's reader needs them.
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
}
