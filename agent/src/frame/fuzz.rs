//! Any framing of any bytes, twice: as they are read first, and as their span is read again.
//!
//! Not for: anything but the fuzz target, which compares the two.

use std::time::Duration;

use super::{
    Carry, Framer, LongLine, Multiline, Pattern, Rule, Source, Tail,
    text::{Label, Text},
};

/// Bytes that say how the rest is framed.
const HEAD_BYTES: usize = 4;

/// The records of some bytes, which the first four say how to frame; and those of the same span, read
/// again. `None` when there are too few.
#[must_use]
pub fn framed_twice(data: &[u8]) -> Option<[Vec<Vec<u8>>; 2]> {
    let (&[kind, length, room, state], bytes) = data.split_first_chunk::<HEAD_BYTES>()?;
    let framer = framer(kind, length);
    let source = Source {
        bytes,
        at: u64::from(state & 1),
        carry: Carry::default().with(Carry::MID_LINE, state & 2 != 0),
        tail: match state >> 6 {
            0 => Tail::Leave,
            1 => Tail::Flush,
            _ => Tail::Take,
        },
    };
    let room = usize::from(room).max(1);
    let (source, used, carry, first) = frame(&framer, source, room);
    let again = Source {
        bytes: bytes.get(..used)?,
        tail: Tail::Again(carry),
        ..source
    };
    let (_, _, _, second) = frame(&framer, again, usize::MAX);
    Some([first, second])
}

fn framer(kind: u8, length: u8) -> Framer {
    let rule = Rule {
        max_line: 16 + u32::from(length >> 1),
        long_line: if length & 1 == 0 {
            LongLine::Split
        } else {
            LongLine::Truncate
        },
    };
    let text = |label: &str| Label::find(label).map_or(Text::Utf8, Label::text);
    let groups = |pattern: fn(regex::bytes::Regex) -> Pattern, text: &str| {
        let pattern = regex::bytes::Regex::new(text).ok().map(pattern);
        pattern.map(|pattern| Multiline {
            pattern,
            timeout: Duration::ZERO,
            max_lines: 5,
        })
    };
    let groups = match kind % 8 {
        0 => return Framer::lines(Text::Utf8, rule),
        1 => return Framer::lines(text("gb18030"), rule),
        2 => return Framer::lines(text("utf-16be"), rule),
        3 => return Framer::cri(Text::Utf8, rule),
        4 => return Framer::docker_json(rule),
        5 => groups(Pattern::Start, r"^\d"),
        6 => groups(Pattern::Continue, r"^\s"),
        _ => groups(Pattern::End, ";$"),
    };
    match groups {
        Some(groups) => Framer::groups(groups, Text::Utf8, rule),
        None => Framer::lines(Text::Utf8, rule),
    }
}

/// Frames as the reader does; what was framed, how much of it was used, what it carries on, records.
fn frame<'a>(
    framer: &Framer,
    source: Source<'a>,
    room: usize,
) -> (Source<'a>, usize, Carry, Vec<Vec<u8>>) {
    let collect = |source: Source<'_>| {
        let mut records = Vec::new();
        let framed = framer.frame(source, |piece| {
            let has_room = records.len() < room;
            if has_room {
                records.push(piece.bytes.to_vec());
            }
            has_room
        });
        (framed, records)
    };
    let (framed, records) = collect(source);
    if !framed.beyond {
        return (source, framed.used, framed.carry, records);
    }
    match Framer::frame_again(source, &framed) {
        Some(source) => {
            let (framed, records) = collect(source);
            (source, framed.used, framed.carry, records)
        }
        None => (source, 0, framed.carry, Vec::new()),
    }
}
