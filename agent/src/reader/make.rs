//! Makes the records of a span and their batch, as a recipe says.
//!
//! A function of the bytes, what was carried to them, the recipe and the time of reading: a span that
//! is read again gives the same batch.
//!
//! Not for: which span that is (see [`super::cut`]).

use tributary_common::{
    batch::{Draft, Encoded, Encoder, Headers},
    ids::BatchId,
};

use crate::{
    frame::{Carry, Flags, Framed, Framer, Piece, Source},
    recipe::Compiled,
    status::Oddities,
};

/// The header of a record that is not as the line stands in its file: the names of its flags.
const FLAGS_HEADER: &str = "tributary-flags";

/// What a batch is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Making<'a> {
    /// Its identity.
    pub(super) id: BatchId,
    /// The clock when it was read first, in ms since 1970.
    pub(super) read_ms: u64,
    /// Its bytes.
    pub(super) source: Source<'a>,
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
    headers: Headers,
}

impl Maker {
    /// A maker with an encoder of its own.
    pub(super) fn new(encoder: Encoder) -> Self {
        Self {
            encoder,
            text: String::new(),
            headers: Headers::new(),
        }
    }

    /// Frames and encodes.
    pub(super) fn make(&mut self, recipe: &Compiled, making: Making<'_>) -> Made {
        let (mut source, read_ms) = (making.source, making.read_ms);
        let (mut framed, mut odd) = self.frame(recipe, source, making.id, read_ms);
        if framed.beyond
            && let Some(again) = Framer::frame_again(source, &framed)
        {
            source = again;
            (framed, odd) = self.frame(recipe, source, making.id, read_ms);
        }
        let encoded = (framed.records > 0 && framed.used > 0).then(|| self.encoder.finish());
        let encoded = encoded.and_then(|encoded| {
            let told = |error| tracing::error!(%error, "a batch cannot be encoded");
            encoded.map_err(told).ok()
        });
        Made {
            framed,
            before: source.carry,
            odd,
            encoded,
        }
    }

    /// Gives all records of a source to the encoder.
    fn frame(
        &mut self,
        recipe: &Compiled,
        source: Source<'_>,
        id: BatchId,
        read_ms: u64,
    ) -> (Framed, Oddities) {
        let read_ms = i64::try_from(read_ms).unwrap_or(i64::MAX);
        let text = recipe.framer.text_of(source.carry);
        let mut odd = Oddities::default();
        let Self {
            encoder,
            text: buffer,
            headers,
        } = self;
        encoder.begin(id);
        let framed = recipe.framer.frame(source, |piece: Piece<'_>| {
            let at = source.at + piece.at as u64;
            let (mut value, replaced) = text.decode(piece.bytes, at, buffer);
            if recipe.strips_cr && !piece.flags.is_partial() {
                value = value.strip_suffix(b"\r").unwrap_or(value);
            }
            let timed = recipe.time.of(value, piece.time, read_ms);
            let flags = piece.flags.with(Flags::UNDECODABLE, replaced > 0);
            if flags.is_empty() {
                let has_room = encoder.has_room(None, value);
                if has_room {
                    odd.untimed(timed.flag);
                    encoder.push(timed.ms, None, value);
                }
                return has_room;
            }
            let empty = headers.mark();
            let names: Vec<&str> = flags.names().collect();
            headers.push(FLAGS_HEADER, names.join(",").as_bytes());
            let draft = Draft {
                timestamp_ms: timed.ms,
                key: None,
                value,
                headers,
            };
            let has_room = encoder.has_room_for(&draft);
            if has_room {
                encoder.push_draft(&draft);
                odd.untimed(timed.flag);
                odd.undecodable += u64::from(replaced);
            }
            headers.cut_back(empty);
            has_room
        });
        odd.split = u64::from(framed.pieces);
        odd.malformed = u64::from(framed.malformed);
        (framed, odd)
    }
}
