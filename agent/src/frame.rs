//! Bytes of a file into records, by one of four framings: lines, groups of lines, the lines of
//! container runtimes.
//!
//! Pure, and a function of the bytes of a span, what was carried to it ([`Carry`]) and the recipe
//! alone: when a batch is read again after a crash or a change of the configuration, its span gives
//! the same records. Every byte is in a record, is a separator, or is among the dropped ranges. Plain
//! lines are not copied.
//!
//! Not for: when to read (see [`crate::reader`]), what becomes of a record's text (see [`text`]). The
//! reader calls it.

mod carry;
mod container;
mod fuzz;
mod groups;
mod joined;
mod lines;
pub(crate) mod strange;
#[cfg(test)]
mod tests;
pub(crate) mod text;

use std::{ops::Range, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::fuzz::framed_twice;
pub(crate) use self::{
    carry::{Carry, Flags},
    groups::{Multiline, Pattern},
};
use self::{container::Runtime, text::Text};

/// An unfinished line that has not grown for this long is taken as it is.
const UNFINISHED_LINE: Duration = Duration::from_secs(5);
/// The longest byte order mark, in bytes.
const MARK_BYTES: usize = 3;
/// A line of a container runtime is not looked into beyond twice the longest record and this, in
/// bytes: its frame and escapes.
const RUNTIME_FRAME_BYTES: usize = 64 << 10;

/// What becomes of a line that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LongLine {
    /// It becomes several records.
    #[default]
    Split,
    /// Its beginning becomes a record; the rest is dropped and counted.
    Truncate,
}

/// What is too long, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// The longest record, in bytes of the source.
    pub(crate) max_line: u32,
    /// What becomes of longer lines.
    pub(crate) long_line: LongLine,
}

/// What may be taken beyond the last whole record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Leave what is unfinished: it may still grow.
    Leave,
    /// Take whole lines whose record is not whole; leave an unfinished line.
    Flush,
    /// Take all.
    Take,
    /// Take all: the span of a cut is read again, which carried this on.
    Again(Carry),
}

/// The bytes to frame, and where they stand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    /// The bytes.
    pub(crate) bytes: &'a [u8],
    /// Offset of the first one in its file.
    pub(crate) at: u64,
    /// What the bytes before left.
    pub(crate) carry: Carry,
    /// What may be taken at the end.
    pub(crate) tail: Tail,
}

/// One record as it stands in the source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    /// Its bytes, in the encoding of the source.
    pub(crate) bytes: &'a [u8],
    /// Where its source begins, in bytes of the input.
    pub(crate) at: usize,
    /// What is special about it.
    pub(crate) flags: Flags,
    /// When the container runtime took it, as RFC 3339.
    pub(crate) time: Option<&'a str>,
    /// Where the container wrote it: `stdout`, `stderr`.
    pub(crate) stream: Option<&'static str>,
}

impl<'a> Piece<'a> {
    /// A record of plain bytes.
    fn plain(bytes: &'a [u8], at: usize, flags: Flags) -> Self {
        Self {
            bytes,
            at,
            flags,
            time: None,
            stream: None,
        }
    }
}

/// What framing did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Framed {
    /// Bytes used, from the beginning: records with their newlines, and dropped rests.
    pub(crate) used: usize,
    /// Records given out.
    pub(crate) records: u32,
    /// Records that are not whole: pieces of long ones, unfinished ones.
    pub(crate) pieces: u32,
    /// Records that are lines as they stand, for they are none of the container runtime's.
    pub(crate) malformed: u32,
    /// Bytes dropped from records that were too long, as ranges of the input.
    pub(crate) dropped: Vec<Range<usize>>,
    /// What is carried to the bytes after `used`.
    pub(crate) carry: Carry,
    /// `give` had no room; the rest is for the next batch.
    pub(crate) full: bool,
    /// Records of lines behind `used` were given as well: frame again, as [`Framer::frame_again`]
    /// says.
    pub(crate) beyond: bool,
}

impl Framed {
    /// Gives one record, and counts it.
    fn give(&mut self, piece: Piece<'_>, give: &mut impl FnMut(Piece<'_>) -> bool) -> bool {
        if !give(piece) {
            self.full = true;
            return false;
        }
        self.records += 1;
        self.pieces += u32::from(piece.flags.is_partial());
        self.malformed += u32::from(piece.flags.has(Flags::MALFORMED));
        true
    }
}

/// What is a record, ready for use.
#[derive(Debug, Clone)]
enum Kind {
    Lines,
    Groups(Multiline),
    Runtime(Runtime),
}

/// A framing that is ready for use.
#[derive(Debug, Clone)]
pub(crate) struct Framer {
    kind: Kind,
    text: Text,
    rule: Rule,
}

/// What all framings know while they frame.
#[derive(Debug, Clone, Copy)]
struct Ground<'a> {
    source: Source<'a>,
    text: Text,
    rule: Rule,
    /// Where the text begins: behind a byte order mark.
    begin: usize,
}

impl Framer {
    /// Each line is a record.
    pub(crate) fn lines(text: Text, rule: Rule) -> Self {
        Self::new(Kind::Lines, text, rule)
    }

    /// Groups of lines are records, of the rule's length at most.
    pub(crate) fn groups(multiline: Multiline, text: Text, rule: Rule) -> Self {
        Self::new(Kind::Groups(multiline), text, rule)
    }

    /// The lines of CRI are joined to records.
    pub(crate) fn cri(text: Text, rule: Rule) -> Self {
        Self::new(Kind::Runtime(Runtime::Cri), text, rule)
    }

    /// The lines of Docker's JSON files are joined to records.
    pub(crate) fn docker_json(rule: Rule) -> Self {
        Self::new(Kind::Runtime(Runtime::DockerJson), Text::Utf8, rule)
    }

    fn new(kind: Kind, text: Text, mut rule: Rule) -> Self {
        rule.max_line = match kind {
            Kind::Lines => text.longest(rule.max_line),
            Kind::Groups(_) | Kind::Runtime(_) => text.longest_joined(rule.max_line),
        };
        Self { kind, text, rule }
    }

    /// The encoding of bytes to which this is carried.
    pub(crate) fn text_of(&self, carry: Carry) -> Text {
        self.text.resolved(carry.has(Carry::BIG))
    }

    /// Bytes of the byte order mark that a file to which this is carried begins with.
    pub(crate) fn mark_bytes(&self, carry: Carry, bytes: &[u8]) -> usize {
        self.text_of(carry).mark_bytes(bytes)
    }

    /// Whether a source ends where the group within it is whole: the line at `at` begins the next one.
    /// False while that line has no end.
    pub(crate) fn is_whole_at(&self, source: Source<'_>, at: usize) -> bool {
        let text = self.text_of(source.carry);
        let line = source.bytes.get(at..).unwrap_or_default();
        let newline = match text {
            Text::Utf8 | Text::Ascii(_) => memchr::memchr(b'\n', line),
            Text::Utf16 { big } => text::newlines_of_utf16(line, source.at + at as u64, big).next(),
        };
        let Some(newline) = newline else {
            return false;
        };
        let end = at + newline + text.width();
        let source = Source {
            bytes: source.bytes.get(..end).unwrap_or_default(),
            tail: Tail::Leave,
            ..source
        };
        self.frame(source, |_| true).used == at
    }

    /// So many bytes always hold the end of a record, or enough to cut it.
    pub(crate) fn look_bytes(&self) -> usize {
        let longest = match &self.kind {
            Kind::Lines | Kind::Groups(_) => self.rule.max_line as usize,
            Kind::Runtime(_) => self.longest_runtime_line(),
        };
        longest + 2 * self.text.width() + MARK_BYTES
    }

    /// Whether a piece is the beginning of a line that is too long to be a record.
    pub(crate) fn is_long(&self, piece: &Piece<'_>) -> bool {
        let begins = piece.flags.has(Flags::CUT) && !piece.flags.has(Flags::CONTINUES);
        // It is cut between characters, a few bytes before the longest.
        piece.flags.has(Flags::TRUNCATED)
            || begins && piece.bytes.len() + 4 > self.rule.max_line as usize
    }

    fn longest_runtime_line(&self) -> usize {
        2 * self.rule.max_line as usize + RUNTIME_FRAME_BYTES
    }

    /// How long an unfinished record may wait for more, when it ends within a line or not.
    pub(crate) fn patience(&self, within_line: bool) -> Duration {
        match &self.kind {
            Kind::Groups(multiline) if within_line => multiline.timeout.max(UNFINISHED_LINE),
            Kind::Groups(multiline) => multiline.timeout,
            Kind::Lines | Kind::Runtime(_) => UNFINISHED_LINE,
        }
    }

    /// Whether a record may have lines of two files: of a log, and of the one that follows it.
    pub(crate) fn joins_lines(&self) -> bool {
        matches!(self.kind, Kind::Groups(_) | Kind::Runtime(_))
    }

    /// Whether what comes in meanwhile, of others, does not prolong the patience.
    pub(crate) fn is_interleaved(&self) -> bool {
        matches!(self.kind, Kind::Runtime(_))
    }

    /// Makes records of the bytes. `give` says whether it had room.
    pub(crate) fn frame(
        &self,
        source: Source<'_>,
        mut give: impl FnMut(Piece<'_>) -> bool,
    ) -> Framed {
        let text = self.text_of(source.carry);
        let begin = if source.at == 0 {
            text.mark_bytes(source.bytes)
        } else {
            0
        };
        let ground = Ground {
            source,
            text,
            rule: self.rule,
            begin,
        };
        let mut framed = match text {
            Text::Utf8 | Text::Ascii(_) => {
                let ends = memchr::memchr_iter(b'\n', source.bytes);
                self.by_kind(ground, ends, &mut give)
            }
            Text::Utf16 { big } => {
                let ends = text::newlines_of_utf16(source.bytes, source.at, big);
                self.by_kind(ground, ends, &mut give)
            }
        };
        framed.carry = framed.carry.with(Carry::BIG, source.carry.has(Carry::BIG));
        // A byte order mark alone is no record.
        if framed.used == 0 && source.bytes.len() == begin && ground.takes() {
            framed.used = begin;
        }
        framed
    }

    fn by_kind(
        &self,
        ground: Ground<'_>,
        ends: impl Iterator<Item = usize>,
        give: &mut impl FnMut(Piece<'_>) -> bool,
    ) -> Framed {
        match &self.kind {
            Kind::Lines => lines::frame(ground, ends, give),
            Kind::Groups(multiline) => groups::frame(ground, multiline, ends, give),
            Kind::Runtime(runtime) => {
                joined::frame(ground, *runtime, self.longest_runtime_line(), ends, give)
            }
        }
    }

    /// What to frame instead after records `beyond` the used bytes were given: only those that were
    /// used; where there was no room for any, the records of single lines, unjoined. `None` when
    /// nothing is used yet.
    pub(crate) fn frame_again<'a>(source: Source<'a>, framed: &Framed) -> Option<Source<'a>> {
        let single = source.carry.with(Carry::SINGLE, true);
        match framed.used {
            0 if framed.full => Some(Source {
                carry: single,
                ..source
            }),
            0 => None,
            used => Some(Source {
                bytes: source.bytes.get(..used).unwrap_or_default(),
                tail: Tail::Again(framed.carry),
                ..source
            }),
        }
    }

    /// How many bytes, from the beginning, belong to the rest of a record that is dropped, and whether
    /// it ends there.
    pub(crate) fn rest(&self, source: Source<'_>) -> (usize, bool) {
        let text = self.text_of(source.carry);
        let ground = Ground {
            source,
            text,
            rule: self.rule,
            begin: 0,
        };
        match (text, &self.kind) {
            (Text::Utf8 | Text::Ascii(_), Kind::Lines | Kind::Runtime(_)) => {
                lines::rest(ground, memchr::memchr_iter(b'\n', source.bytes))
            }
            (Text::Utf16 { big }, Kind::Lines | Kind::Runtime(_)) => {
                let ends = text::newlines_of_utf16(source.bytes, source.at, big);
                lines::rest(ground, ends)
            }
            (Text::Utf8 | Text::Ascii(_), Kind::Groups(multiline)) => {
                let ends = memchr::memchr_iter(b'\n', source.bytes);
                groups::rest(ground, multiline, ends)
            }
            (Text::Utf16 { big }, Kind::Groups(multiline)) => {
                let ends = text::newlines_of_utf16(source.bytes, source.at, big);
                groups::rest(ground, multiline, ends)
            }
        }
    }
}

impl<'a> Ground<'a> {
    fn bytes(&self, range: Range<usize>) -> &'a [u8] {
        self.source.bytes.get(range).unwrap_or_default()
    }

    /// Whether the first line is the rest of one that began before.
    fn is_mid_line(&self) -> bool {
        self.source.carry.has(Carry::MID_LINE)
    }

    fn takes(&self) -> bool {
        matches!(self.source.tail, Tail::Take | Tail::Again(_))
    }

    /// Whether a line at `at` is longer than a record of at most `max` bytes can be.
    fn is_too_long(&self, line: &[u8], max: usize) -> bool {
        line.len() > max || self.text.grows_too_long(line)
    }

    /// Where to cut a line that begins at `at` and is too long: at `max` or a bit before, between two
    /// characters.
    fn cut_at(&self, line: &[u8], at: usize, max: usize) -> usize {
        self.text.cut_at(line, self.source.at + at as u64, max)
    }
}
