//! The compressors of the encoder, reused from batch to batch.
//!
//! Not for: decompression (see `decompress`). Only the encoder calls it.

use std::fmt;

use flate2::{Compress, Compression, FlushCompress, Status};
use lz4_flex::block::CompressTable;
use zstd::zstd_safe::{self, CCtx, CParameter};

use super::{BatchError, Codec, lz4};

/// Level 1 costs a third of level 3 and loses few percent on logs.
const ZSTD_LEVEL: i32 = 1;
/// For more than 256 KiB zstd takes larger windows and longer matches, which cost more here and find
/// less: 1.55 CPU s per GB at ratio 5.03 on framed access logs, instead of 1.42 at 5.16. So level 1's
/// own values for up to 256 KiB are given by hand: window and hash table as powers of two, the
/// shortest match in bytes.
const ZSTD_TABLE: [CParameter; 3] = [
    CParameter::WindowLog(18),
    CParameter::HashLog(14),
    CParameter::MinMatch(6),
];
/// Kafka's own default.
const GZIP_LEVEL: u32 = 6;
/// 32 KiB, the largest that gzip has.
const GZIP_WINDOW_BITS: u8 = 15;

/// One codec with its memory.
pub(super) enum Compressor {
    None,
    Gzip(Compress),
    Lz4(CompressTable),
    Zstd(CCtx<'static>),
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compressor({})", self.codec())
    }
}

impl Compressor {
    pub(super) fn new(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Gzip => Self::Gzip(Compress::new_gzip(
                Compression::new(GZIP_LEVEL),
                GZIP_WINDOW_BITS,
            )),
            Codec::Lz4 => Self::Lz4(CompressTable::large()),
            Codec::Zstd => {
                let mut context = CCtx::create();
                for parameter in [CParameter::CompressionLevel(ZSTD_LEVEL)]
                    .into_iter()
                    .chain(ZSTD_TABLE)
                {
                    context
                        .set_parameter(parameter)
                        .expect("every zstd has level 1 and these values, and the context is idle");
                }
                Self::Zstd(context)
            }
        }
    }

    pub(super) fn codec(&self) -> Codec {
        match self {
            Self::None => Codec::None,
            Self::Gzip(_) => Codec::Gzip,
            Self::Lz4(_) => Codec::Lz4,
            Self::Zstd(_) => Codec::Zstd,
        }
    }

    /// Writes `raw`, compressed, to `out[at..]` and returns where it ends. `out` grows as needed;
    /// what stood in it before `at` stays.
    ///
    /// # Errors
    /// [`BatchError::Compress`]: none is known.
    pub(super) fn compress(
        &mut self,
        raw: &[u8],
        out: &mut Vec<u8>,
        at: usize,
    ) -> Result<usize, BatchError> {
        let codec = self.codec();
        let failed = |why: String| BatchError::Compress { codec, why };
        match self {
            Self::None => {
                grow(out, at + raw.len());
                out[at..at + raw.len()].copy_from_slice(raw);
                Ok(at + raw.len())
            }
            Self::Gzip(gzip) => compress_gzip(gzip, raw, out, at),
            Self::Lz4(table) => {
                grow(out, at + lz4::max_frame_bytes(raw.len()));
                let written = lz4::compress(table, raw, &mut out[at..])
                    .map_err(|error| failed(error.to_string()))?;
                Ok(at + written)
            }
            Self::Zstd(context) => {
                grow(out, at + zstd_safe::compress_bound(raw.len()));
                let written = context
                    .compress2(&mut out[at..], raw)
                    .map_err(|code| failed(zstd_safe::get_error_name(code).to_owned()))?;
                Ok(at + written)
            }
        }
    }
}

fn compress_gzip(
    gzip: &mut Compress,
    raw: &[u8],
    out: &mut Vec<u8>,
    start: usize,
) -> Result<usize, BatchError> {
    let failed = |why: String| BatchError::Compress {
        codec: Codec::Gzip,
        why,
    };
    gzip.reset();
    let (mut from, mut at) = (0, start);
    // Mostly once: logs compress, so that the first size is enough.
    loop {
        grow(out, at + (raw.len() - from) + 1024);
        let (before_in, before_out) = (gzip.total_in(), gzip.total_out());
        let status = gzip
            .compress(&raw[from..], &mut out[at..], FlushCompress::Finish)
            .map_err(|error| failed(error.to_string()))?;
        from += progress(before_in, gzip.total_in());
        at += progress(before_out, gzip.total_out());
        match status {
            Status::StreamEnd => return Ok(at),
            Status::Ok | Status::BufError if at == out.len() => {}
            Status::Ok | Status::BufError => return Err(failed("it stopped early".to_owned())),
        }
    }
}

/// Bytes between two totals of flate2.
pub(super) fn progress(before: u64, after: u64) -> usize {
    usize::try_from(after - before).expect("no more than the slice that was given")
}

/// Makes `out` at least `len` bytes long; its memory is kept and zeroed only once.
pub(super) fn grow(out: &mut Vec<u8>, len: usize) {
    if out.len() < len {
        out.resize(len, 0);
    }
}
