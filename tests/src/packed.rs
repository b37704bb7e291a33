//! Files of lines that somebody compressed.

use std::{ffi::OsStr, fs, io::Read as _, path::Path};

use anyhow::{Context as _, Result};
use flate2::read::MultiGzDecoder;

/// What a file of lines holds, also when it is a `.gz` or a `.zst`.
///
/// # Errors
/// When it cannot be read or unpacked.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    let mut text = Vec::new();
    let unpacked = match path.extension().and_then(OsStr::to_str) {
        Some("gz") => MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut text),
        Some("zst") => zstd::stream::copy_decode(bytes.as_slice(), &mut text).map(|()| 0),
        Some(_) | None => return Ok(bytes),
    };
    unpacked.with_context(|| format!("failed to unpack {}", path.display()))?;
    Ok(text)
}
