//! Why a batch cannot be written or read.

/// Why a batch cannot be written or read. A reader must refuse the batch: its bytes cannot be
/// trusted, and reading them again will not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// There are no records.
    #[error("batch has no records")]
    Empty,
    /// Its records take more bytes than allowed before compression.
    #[error("records take {bytes} bytes before compression; the limit is {limit}")]
    TooLarge {
        /// Bytes, at least.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
}
