//! The decompressors of the decoder: every one stops at the limit, whatever the bytes announce.
//!
//! Each codec's data must be one stream without anything after it, as all of Kafka's producers
//! write it. Not for: compression (see `compress`). Only the decoder calls it.

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};
use zstd::zstd_safe::{self, DCtx};

use super::{
    BatchError, Codec,
    compress::{grow, progress},
    lz4,
};

/// zstd's name of the one error that means "more than the limit".
const ZSTD_FULL: &str = "Destination buffer is too small";
/// 32 KiB, the largest that gzip has.
const GZIP_WINDOW_BITS: u8 = 15;
/// Grows by this factor what gzip does not announce.
const GZIP_RATIO: usize = 4;

/// The decompressors, made at first use.
#[derive(Default)]
pub(super) struct Decompressors {
    zstd: Option<DCtx<'static>>,
}

impl fmt::Debug for Decompressors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressors").finish_non_exhaustive()
    }
}

impl Decompressors {
    /// Decompresses `data` to the start of `out` and returns how many bytes it gave. `out` grows
    /// as needed, never over `limit` bytes.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] or [`BatchError::Decompress`].
    pub(super) fn decompress(
        &mut self,
        codec: Codec,
        data: &[u8],
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Result<usize, BatchError> {
        match codec {
            Codec::None if data.len() > limit => Err(BatchError::TooLarge {
                bytes: data.len(),
                limit,
            }),
            Codec::None => {
                grow(out, data.len());
                out[..data.len()].copy_from_slice(data);
                Ok(data.len())
            }
            Codec::Gzip => decompress_gzip(data, out, limit),
            Codec::Lz4 => lz4::decompress(data, out, limit),
            Codec::Zstd => {
                let context = self.zstd.get_or_insert_with(DCtx::create);
                decompress_zstd(context, data, out, limit)
            }
        }
    }
}

/// In one go, so that zstd writes straight to `out` and needs no window of its own, whose size a
/// sender could choose.
fn decompress_zstd(
    context: &mut DCtx<'static>,
    data: &[u8],
    out: &mut Vec<u8>,
    limit: usize,
) -> Result<usize, BatchError> {
    let bad = |why: String| BatchError::Decompress {
        codec: Codec::Zstd,
        why,
    };
    let named = |code: usize| bad(zstd_safe::get_error_name(code).to_owned());
    let frame = zstd_safe::find_frame_compressed_size(data).map_err(named)?;
    if frame != data.len() {
        return Err(bad(format!("{} bytes after the frame", data.len() - frame)));
    }
    let announced = zstd_safe::get_frame_content_size(data)
        .map_err(|error| bad(error.to_string()))?
        .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if let Some(bytes) = announced.filter(|&bytes| bytes > limit) {
        return Err(BatchError::TooLarge { bytes, limit });
    }
    let room = announced.unwrap_or(limit);
    grow(out, room);
    context.decompress(&mut out[..room], data).map_err(|code| {
        if announced.is_none() && zstd_safe::get_error_name(code) == ZSTD_FULL {
            BatchError::TooLarge {
                bytes: limit + 1,
                limit,
            }
        } else {
            named(code)
        }
    })
}

fn decompress_gzip(data: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<usize, BatchError> {
    let bad = |why: String| BatchError::Decompress {
        codec: Codec::Gzip,
        why,
    };
    // Not reused: its reset would forget that it reads gzip and not zlib.
    let mut gzip = Decompress::new_gzip(GZIP_WINDOW_BITS);
    let (mut from, mut at) = (0, 0);
    loop {
        if at == out.len() {
            let more = (at * 2).max(data.len().saturating_mul(GZIP_RATIO));
            grow(out, more.min(limit));
        }
        let room = at..out.len().min(limit).max(at);
        let (before_in, before_out) = (gzip.total_in(), gzip.total_out());
        let status = gzip
            .decompress(&data[from..], &mut out[room.clone()], FlushDecompress::None)
            .map_err(|error| bad(error.to_string()))?;
        let (taken, given) = (
            progress(before_in, gzip.total_in()),
            progress(before_out, gzip.total_out()),
        );
        from += taken;
        at += given;
        match status {
            Status::StreamEnd if from == data.len() => return Ok(at),
            Status::StreamEnd => return Err(bad(format!("{} bytes after it", data.len() - from))),
            Status::Ok | Status::BufError if taken > 0 || given > 0 => {}
            // Without progress: either there is no more room, or there is no more data.
            Status::Ok | Status::BufError if room.is_empty() && at >= limit => {
                return Err(BatchError::TooLarge {
                    bytes: limit + 1,
                    limit,
                });
            }
            Status::Ok | Status::BufError => return Err(bad("it ends too early".to_owned())),
        }
    }
}
