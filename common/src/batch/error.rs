//! Why a batch cannot be written or read.
//!
//! Not for: a bad header (see [`crate::header::HeaderError`]) or frame (see
//! [`crate::wire::WireError`]).

use super::Codec;

/// Why a batch cannot be written or read. A reader must refuse the batch: its bytes cannot be
/// trusted, and reading them again will not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// There are no records.
    #[error("batch has no records")]
    Empty,
    /// Its records take more bytes than allowed before compression.
    #[error(
        "records of the batch take {bytes} bytes before compression or more; the limit is {limit}"
    )]
    TooLarge {
        /// Bytes, at least.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// It is shorter than its fixed fields.
    #[error(
        "batch has {bytes} bytes; its fixed fields alone take {}",
        super::layout::HEAD_BYTES
    )]
    Short {
        /// Bytes given.
        bytes: usize,
    },
    /// Its length field is not its length.
    #[error("batch announces {announced} bytes and has {bytes}")]
    Length {
        /// Bytes after the length field, as announced.
        announced: i32,
        /// Bytes after the length field.
        bytes: usize,
    },
    /// Another format than RecordBatch v2.
    #[error("batch has magic {0}; this build reads magic 2 (RecordBatch v2)")]
    Magic(i8),
    /// Its checksum is not that of its bytes: damaged on the way.
    #[error("batch states CRC-32C {stated:08x} and has {counted:08x}")]
    Crc {
        /// The checksum that it states.
        stated: u32,
        /// The checksum of its bytes.
        counted: u32,
    },
    /// Compressed by snappy.
    #[error(
        "batch is compressed by snappy (codec 2), which is not supported; allowed are none (0), gzip (1), lz4 (3), zstd (4)"
    )]
    Snappy,
    /// Compressed by something that Kafka does not know either.
    #[error(
        "batch has codec {0}, which is unknown; allowed are none (0), gzip (1), lz4 (3), zstd (4)"
    )]
    Codec(u8),
    /// Text that names no codec.
    #[error("codec {0:?} is unknown; allowed are none, gzip, lz4, zstd")]
    CodecName(String),
    /// It is not plain: transactional, control, or stamped by a broker.
    #[error("batch has attributes {0:#06x}; allowed are the codec's bits 0 to 2")]
    Attributes(u16),
    /// Its two counts of records contradict each other.
    #[error("batch announces {records} records and a last offset delta of {last_offset_delta}")]
    Counts {
        /// Records, as announced.
        records: i32,
        /// Offset of the last record from the first, as announced.
        last_offset_delta: i32,
    },
    /// Its records do not decompress.
    #[error("failed to decompress a batch by {codec}: {why}")]
    Decompress {
        /// The codec.
        codec: Codec,
        /// What is wrong.
        why: String,
    },
    /// Its records do not compress: a fault of this build.
    #[error("failed to compress a batch by {codec}: {why}")]
    Compress {
        /// The codec.
        codec: Codec,
        /// The compressor's word.
        why: String,
    },
    /// One of its records is malformed.
    #[error("record {index} of the batch is malformed: {why}")]
    Record {
        /// Which one, from 0.
        index: u32,
        /// What is wrong, with the value.
        why: String,
    },
    /// Bytes follow the last record.
    #[error("batch has {0} bytes after its last record")]
    Trailing(usize),
    /// It states another latest timestamp than its records have.
    #[error("batch states {stated} as its latest timestamp in ms; its records have {counted}")]
    MaxTimestamp {
        /// As stated, in ms.
        stated: i64,
        /// Of the records, in ms.
        counted: i64,
    },
    /// It is sound, but not the batch that its header speaks of.
    #[error("batch header says {what} {header}; the payload has {payload}")]
    Disagrees {
        /// The field.
        what: &'static str,
        /// Its value in the header.
        header: String,
        /// Its value in the payload.
        payload: String,
    },
}
