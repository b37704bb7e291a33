//! Makes the records of a span and their batch, as a recipe says.
//!
//! A function of the bytes, what was carried to them, the recipe and the time of reading: a span that
//! is read again gives the same batch.
//!
//! Not for: which span that is (see [`super::cut`]).

use std::ops::Range;

use tributary_common::{
    batch::{Draft, Encoded, Encoder},
    ids::BatchId,
};

use crate::{
    frame::{Carry, Flags, Framed, Framer, Piece, Source, strange},
    recipe::Compiled,
    shape::{self, Line, Origin, Shaper},
    status::Oddities,
};

/// What a batch is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Making<'a> {
    /// Its identity.
    pub(super) id: BatchId,
    /// The clock when it was read first, in ms since 1970.
    pub(super) read_ms: u64,
    /// The path that named its stream first, as bytes of the file system.
    pub(super) file: &'a [u8],
    /// Its bytes.
    pub(super) source: Source<'a>,
    /// Where the bytes are of several files, where each begins; empty otherwise.
    pub(super) seams: &'a [Seam],
}

/// Where bytes of a file begin among those of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seam {
    /// Their first one, among all bytes.
    pub(super) at: usize,
    /// Its offset in its file.
    pub(super) offset: u64,
}

/// Where a byte stands in its file; `None` without seams.
fn offset_by(seams: &[Seam], at: usize) -> Option<u64> {
    let seam = seams.iter().rfind(|seam| seam.at <= at)?;
    Some(seam.offset + (at - seam.at) as u64)
}

/// What was made.
#[derive(Debug)]
pub(super) struct Made {
    /// What framing did.
    pub(super) framed: Framed,
    /// What was carried to the bytes.
    pub(super) before: Carry,
    /// What is odd about its records.
    pub(super) odd: Oddities,
    /// The batch; `None` when there is no record, or it cannot be encoded.
    pub(super) encoded: Option<Encoded>,
}

/// Makes batches. It owns its buffers: use one for many.
#[derive(Debug)]
pub(super) struct Maker {
    encoder: Encoder,
    text: String,
    shaper: Shaper,
}

impl Maker {
    /// A maker with an encoder of its own.
    pub(super) fn new(encoder: Encoder) -> Self {
        Self {
            encoder,
            text: String::new(),
            shaper: Shaper::default(),
        }
    }

    /// Frames and encodes.
    pub(super) fn make(&mut self, recipe: &Compiled, making: Making<'_>) -> Made {
        let mut source = making.source;
        let (mut framed, mut odd) = self.frame(recipe, making);
        if framed.beyond
            && let Some(again) = Framer::frame_again(source, &framed)
        {
            source = again;
            (framed, odd) = self.frame(recipe, Making { source, ..making });
        }
        let encoded = (framed.records > 0 && framed.used > 0).then(|| self.encoder.finish());
        let encoded = encoded.and_then(|encoded| {
            let told = |error| tracing::error!(%error, "a batch cannot be encoded");
            let mut encoded = encoded.map_err(told).ok()?;
            // Also where no line has one: a stream goes one way.
            encoded.keyed |= recipe.key.is_some();
            Some(encoded)
        });
        Made {
            framed,
            before: source.carry,
            odd,
            encoded,
        }
    }

    /// Gives all records of a source to the encoder.
    fn frame(&mut self, recipe: &Compiled, making: Making<'_>) -> (Framed, Oddities) {
        let source = making.source;
        let read_ms = i64::try_from(making.read_ms).unwrap_or(i64::MAX);
        let text = recipe.framer.text_of(source.carry);
        let mut odd = Oddities::default();
        let mut short = Vec::new();
        let Self {
            encoder,
            text: buffer,
            shaper,
        } = self;
        encoder.set_codec(recipe.recipe.compression);
        encoder.begin(making.id);
        let origin = Origin {
            host: &recipe.recipe.host,
            file: making.file,
            labels: &recipe.recipe.labels,
        };
        shaper.begin(recipe.recipe.shape, origin);
        let mut framed = recipe.framer.frame(source, |piece: Piece<'_>| {
            let at = source.at + piece.at as u64;
            let (mut value, replaced) = text.decode(piece.bytes, at, buffer);
            if recipe.strips_cr && !piece.flags.is_partial() {
                value = value.strip_suffix(b"\r").unwrap_or(value);
            }
            let flags = piece.flags.with(Flags::UNDECODABLE, replaced > 0);
            let flags = match flags.is_empty() {
                true => String::new(),
                false => flags.names().collect::<Vec<&str>>().join(","),
            };
            let timed = recipe.time.of(value, piece.time, read_ms);
            let shaped = shaper.shape(&Line {
                text: value,
                offset: offset_by(making.seams, piece.at).unwrap_or(at),
                timed,
                stream: piece.stream,
                flags: &flags,
            });
            let key = recipe.key.as_ref().map(|key| shape::key_of(key, value));
            let draft = Draft {
                timestamp_ms: timed.ms,
                key: key.flatten(),
                value: shaped.value,
                headers: shaped.headers,
            };
            let has_room = encoder.has_room_for(&draft);
            if has_room {
                encoder.push_draft(&draft);
                odd.untimed(timed.flag);
                odd.undecodable += u64::from(replaced);
                odd.keyless += u64::from(key == Some(None));
                if !piece.flags.is_empty() {
                    odd.long += u64::from(recipe.framer.is_long(&piece));
                }
                if let Some(kept) = shaped.cut_short {
                    odd.shortened += 1;
                    short.push(rest_of(piece, kept, value.len()));
                }
            }
            has_room
        });
        // What is dropped lies within what is used, also where lines were joined.
        let within = |rest: &Range<usize>| rest.start < rest.end && rest.end <= framed.used;
        short.retain(within);
        framed.dropped.append(&mut short);
        odd.strange = strange::count(text, source.bytes.get(..framed.used).unwrap_or_default());
        odd.split = u64::from(framed.pieces);
        odd.malformed = u64::from(framed.malformed);
        (framed, odd)
    }
}

/// The source of a record's text behind its first `kept` of `len` bytes; where the text was decoded,
/// as near as can be told.
fn rest_of(piece: Piece<'_>, kept: usize, len: usize) -> Range<usize> {
    let bytes = piece.bytes.len();
    let kept = kept * bytes / len.max(1);
    piece.at + kept..piece.at + bytes
}
