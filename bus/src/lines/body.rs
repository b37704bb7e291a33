//! The lines of a body, decompressed as they are read, within limits.
//!
//! Memory is the decompressor's window and one line, whatever the body claims to be. Not for:
//! receiving the body (see [`super`]).

use std::io::{BufRead, BufReader, Cursor, Read};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

/// The longest body once decompressed, in bytes.
pub(super) const MAX_DECODED_BYTES: u64 = 64 << 20;
/// The longest line, in bytes.
pub(super) const MAX_LINE_BYTES: usize = 1 << 20;
/// The largest window that a zstd body may ask for: 8 MiB, as the format recommends to support.
const MAX_WINDOW_LOG: u32 = 23;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
    Zstd,
}

/// Why a body is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinesError {
    #[error("the body has no lines")]
    Empty,
    #[error("line {0} is longer than {MAX_LINE_BYTES} bytes")]
    Line(u64),
    #[error(
        "the body is longer than {MAX_DECODED_BYTES} bytes once decompressed; send it in parts"
    )]
    TooLarge,
    #[error("the body does not decompress: {0}")]
    Coding(String),
}

/// What a body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    /// Lines.
    pub(super) records: u64,
    /// Bytes of the lines without their newlines.
    pub(super) bytes: u64,
}

/// Reads lines.
pub(super) struct LineReader {
    source: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    seen: Totals,
}

impl LineReader {
    /// A reader of a body.
    pub(super) fn new(body: Bytes, coding: Coding) -> Result<Self, LinesError> {
        let body = Cursor::new(body);
        let coded = |error: std::io::Error| LinesError::Coding(error.to_string());
        let source: Box<dyn BufRead + Send> = match coding {
            Coding::Identity => Box::new(body),
            Coding::Gzip => Box::new(BufReader::new(MultiGzDecoder::new(body))),
            Coding::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(coded)?;
                decoder.window_log_max(MAX_WINDOW_LOG).map_err(coded)?;
                Box::new(BufReader::new(decoder))
            }
        };
        Ok(Self {
            source,
            line: Vec::new(),
            seen: Totals::default(),
        })
    }

    /// The next line without its newline; `None` at the end. A newline at the very end does not
    /// begin another line.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, LinesError> {
        self.line.clear();
        // One byte more than allowed, and its newline, tell a line that is too long.
        let most = MAX_LINE_BYTES as u64 + 2;
        let count = self
            .source
            .by_ref()
            .take(most)
            .read_until(b'\n', &mut self.line)
            .map_err(|error| LinesError::Coding(error.to_string()))?;
        if count == 0 {
            return Ok(None);
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        }
        self.seen.records += 1;
        if self.line.len() > MAX_LINE_BYTES {
            return Err(self.long_line());
        }
        self.seen.bytes += self.line.len() as u64;
        // Newlines count: a body of nothing but newlines is a bomb as well.
        if self.seen.bytes + self.seen.records > MAX_DECODED_BYTES + 1 {
            return Err(LinesError::TooLarge);
        }
        Ok(Some(&self.line))
    }

    /// What is wrong with a body whose line is too long: the line, or, in an endless line, its size.
    fn long_line(&mut self) -> LinesError {
        let left = MAX_DECODED_BYTES.saturating_sub(self.seen.bytes + self.line.len() as u64);
        let mut rest = self.source.by_ref().take(left + 1);
        match std::io::copy(&mut rest, &mut std::io::sink()) {
            Ok(count) if count > left => LinesError::TooLarge,
            Ok(_count) => LinesError::Line(self.seen.records),
            Err(error) => LinesError::Coding(error.to_string()),
        }
    }

    /// Reads all of it and says what it holds.
    pub(super) fn totals(mut self) -> Result<Totals, LinesError> {
        while self.next()?.is_some() {}
        match self.seen {
            Totals { records: 0, .. } => Err(LinesError::Empty),
            totals => Ok(totals),
        }
    }
}
