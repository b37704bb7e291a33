//! Log files that somebody compressed.

use std::{fs, io::Read as _, path::Path};

use anyhow::{Context as _, Result};
use flate2::read::MultiGzDecoder;

/// What a log file holds, also when it is a `.gz`.
///
/// # Errors
/// When it cannot be read or unpacked.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    if path.extension().is_none_or(|extension| extension != "gz") {
        return Ok(bytes);
    }
    let mut text = Vec::new();
    MultiGzDecoder::new(bytes.as_slice())
        .read_to_end(&mut text)
        .with_context(|| format!("failed to unpack {}", path.display()))?;
    Ok(text)
}
