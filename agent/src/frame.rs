//! Bytes of a file into records: one line each, with a rule for lines that are too long.
//!
//! Pure, and a function of the bytes and the rule alone: when a batch is read again after a crash,
//! its span gives the same records. Nothing is copied.
//!
//! Not for: when to read (see [`crate::reader`]), what encoding the bytes have. The reader calls it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

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

/// How bytes become records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// The longest record, in bytes of the source.
    pub(crate) max_line: u32,
    /// What becomes of longer lines.
    pub(crate) long_line: LongLine,
}

/// What may be taken beyond the last newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Leave an unfinished line: it may still grow.
    Leave,
    /// Take it as a record.
    Take,
}

/// What framing did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Framed {
    /// Bytes used, from the beginning: records with their newlines, and dropped rests.
    pub(crate) used: usize,
    /// Records given out.
    pub(crate) records: u32,
    /// Records that are not whole lines: pieces of long ones, an unfinished last one.
    pub(crate) pieces: u32,
    /// Bytes dropped from lines that were too long, as ranges of the input.
    pub(crate) dropped: Vec<Range<usize>>,
    /// The line at the end of `used` is to be dropped up to its newline.
    pub(crate) dropping: bool,
    /// `give` had no room; the rest is for the next batch.
    pub(crate) full: bool,
}

/// Splits `bytes` into records. `mid_line` says that the byte before them is not a newline, so that
/// a newline at once ends a record that was given before. `give` says whether it had room.
pub(crate) fn frame(
    bytes: &[u8],
    mid_line: bool,
    tail: Tail,
    rule: Rule,
    mut give: impl FnMut(&[u8]) -> bool,
) -> Framed {
    let mut out = Framed::default();
    let mut begin = 0;
    for end in memchr::memchr_iter(b'\n', bytes) {
        let line = bytes.get(begin..end).unwrap_or_default();
        let ends_a_piece = begin == 0 && mid_line && line.is_empty();
        if !ends_a_piece && !whole_line(line, begin, rule, &mut out, &mut give) {
            return out;
        }
        begin = end + 1;
        out.used = begin;
    }
    let line = bytes.get(begin..).unwrap_or_default();
    unfinished_line(line, begin, tail, rule, &mut out, &mut give);
    out
}

/// A line that ends with a newline; false when there was no room for all of it.
fn whole_line(
    line: &[u8],
    begin: usize,
    rule: Rule,
    out: &mut Framed,
    give: &mut impl FnMut(&[u8]) -> bool,
) -> bool {
    let max = rule.max_line as usize;
    if line.len() <= max {
        return out.give(line, begin, give);
    }
    match rule.long_line {
        LongLine::Truncate => {
            let kept = cut_at(line, max);
            if !out.give(line.get(..kept).unwrap_or_default(), begin, give) {
                return false;
            }
            out.pieces += 1;
            out.dropped.push(begin + kept..begin + line.len());
            true
        }
        LongLine::Split => {
            let used = give_pieces(line, begin, max, out, give);
            let rest = line.get(used..).unwrap_or_default();
            !out.full && out.give(rest, begin + used, give)
        }
    }
}

/// What follows the last newline.
fn unfinished_line(
    line: &[u8],
    begin: usize,
    tail: Tail,
    rule: Rule,
    out: &mut Framed,
    give: &mut impl FnMut(&[u8]) -> bool,
) {
    let max = rule.max_line as usize;
    let mut used = 0;
    if line.len() > max {
        match rule.long_line {
            LongLine::Truncate => {
                let kept = cut_at(line, max);
                if out.give(line.get(..kept).unwrap_or_default(), begin, give) {
                    out.pieces += 1;
                    out.dropped.push(begin + kept..begin + line.len());
                    out.dropping = true;
                    out.used = begin + line.len();
                }
                return;
            }
            LongLine::Split => used = give_pieces(line, begin, max, out, give),
        }
    }
    let rest = line.get(used..).unwrap_or_default();
    if tail == Tail::Take && !out.full && !rest.is_empty() && out.give(rest, begin + used, give) {
        out.pieces += 1;
    }
}

/// Gives pieces of at most `max` bytes while more than that is left, and says how many bytes they
/// took.
fn give_pieces(
    line: &[u8],
    begin: usize,
    max: usize,
    out: &mut Framed,
    give: &mut impl FnMut(&[u8]) -> bool,
) -> usize {
    let mut used = 0;
    while line.len() - used > max {
        let rest = line.get(used..).unwrap_or_default();
        let end = cut_at(rest, max);
        if !out.give(rest.get(..end).unwrap_or_default(), begin + used, give) {
            break;
        }
        out.pieces += 1;
        used += end;
    }
    used
}

impl Framed {
    /// Gives one record that begins at `begin`, and counts it.
    fn give(&mut self, record: &[u8], begin: usize, give: &mut impl FnMut(&[u8]) -> bool) -> bool {
        if !give(record) {
            self.full = true;
            return false;
        }
        self.records += 1;
        self.used = begin + record.len();
        true
    }
}

/// Where to cut a line that is longer than `max`: there, or up to 3 bytes before so that no UTF-8
/// character is cut in two.
fn cut_at(line: &[u8], max: usize) -> usize {
    let is_inside = |at: usize| line.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    (max.saturating_sub(3).max(1)..=max)
        .rev()
        .find(|&at| !is_inside(at))
        .unwrap_or(max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(max_line: u32, long_line: LongLine) -> Rule {
        Rule {
            max_line,
            long_line,
        }
    }

    fn records(bytes: &[u8], mid_line: bool, tail: Tail, rule: Rule) -> (Vec<String>, Framed) {
        let mut out = Vec::new();
        let framed = frame(bytes, mid_line, tail, rule, |record| {
            out.push(String::from_utf8_lossy(record).into_owned());
            true
        });
        (out, framed)
    }

    #[test]
    fn lines_become_records_and_an_unfinished_one_waits() {
        let rule = rule(100, LongLine::Split);
        let (got, framed) = records(b"a\r\n\nbc\nd", false, Tail::Leave, rule);
        assert_eq!(got, ["a\r", "", "bc"]);
        assert_eq!((framed.used, framed.records, framed.pieces), (7, 3, 0));
        let (got, framed) = records(b"a\nd", false, Tail::Take, rule);
        assert_eq!(
            (got, framed.used, framed.pieces),
            (vec!["a".into(), "d".into()], 3, 1)
        );
        assert_eq!(records(b"", false, Tail::Take, rule).1, Framed::default());
    }

    #[test]
    fn a_newline_after_an_unfinished_record_is_no_record() {
        let rule = rule(100, LongLine::Split);
        assert_eq!(records(b"\nx\n", true, Tail::Leave, rule).0, ["x"]);
        assert_eq!(records(b"\nx\n", false, Tail::Leave, rule).0, ["", "x"]);
        let (got, framed) = records(b"\n", true, Tail::Leave, rule);
        assert_eq!((got.len(), framed.used), (0, 1));
    }

    #[test]
    fn long_lines_are_split_or_truncated() {
        let (got, framed) = records(
            b"abcdefgh\nxy\n",
            false,
            Tail::Leave,
            rule(3, LongLine::Split),
        );
        assert_eq!(got, ["abc", "def", "gh", "xy"]);
        assert_eq!((framed.used, framed.pieces), (12, 2));
        let rule = rule(3, LongLine::Truncate);
        let (got, framed) = records(b"abcdefgh\nxy\n", false, Tail::Leave, rule);
        assert_eq!(got, ["abc", "xy"]);
        assert_eq!(
            (framed.used, framed.dropped.as_slice()),
            (12, std::slice::from_ref(&(3..8)))
        );
        let (got, framed) = records(b"xy\nabcdef", false, Tail::Leave, rule);
        assert_eq!(got, ["xy", "abc"]);
        assert_eq!((framed.used, framed.dropping), (9, true));
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole() {
        let (got, framed) = records(b"abc\nd", false, Tail::Leave, rule(3, LongLine::Truncate));
        assert_eq!((got, framed.dropped.len()), (vec!["abc".into()], 0));
        assert_eq!(
            records(b"abc", false, Tail::Leave, rule(3, LongLine::Split))
                .1
                .used,
            0
        );
    }

    #[test]
    fn a_character_is_not_cut_in_two() {
        let (got, _) = records(
            "aé\u{20ac}z\n".as_bytes(),
            false,
            Tail::Leave,
            rule(4, LongLine::Split),
        );
        assert_eq!(got, ["aé", "\u{20ac}z"]);
        // Junk has no characters: the cut is at the limit.
        assert_eq!(cut_at(&[0x80; 10], 4), 4);
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        (1u32..9, any::<bool>()).prop_map(|(max_line, truncate)| {
            rule(
                max_line,
                if truncate {
                    LongLine::Truncate
                } else {
                    LongLine::Split
                },
            )
        })
    }

    proptest! {
        /// What a crash needs: the span of a batch, read again, gives the same records.
        #[test]
        fn a_span_read_again_gives_the_same_records(
            bytes in prop::collection::vec(prop::sample::select(b"ab\n\xc3\xa9".to_vec()), 0..60),
            mid_line: bool, take: bool, rule in any_rule(), room in 1usize..12,
        ) {
            let tail = if take { Tail::Take } else { Tail::Leave };
            let mut first = Vec::new();
            let framed = frame(&bytes, mid_line, tail, rule, |record| {
                if first.len() < room {
                    first.push(record.to_vec());
                    return true;
                }
                false
            });
            prop_assert_eq!(framed.records as usize, first.len());
            let mut again = Vec::new();
            let second = frame(&bytes[..framed.used], mid_line, Tail::Take, rule, |record| {
                again.push(record.to_vec());
                true
            });
            prop_assert_eq!(second.used, framed.used);
            prop_assert_eq!(first, again);
        }

        /// Nothing but newlines and counted rests is left out, whatever the pieces.
        #[test]
        fn every_byte_is_in_a_record_or_counted(
            bytes in prop::collection::vec(prop::sample::select(b"ab\n".to_vec()), 0..60),
            rule in any_rule(),
        ) {
            let mut given = 0;
            let framed = frame(&bytes, false, Tail::Take, rule, |record| {
                given += record.len();
                record.len() <= rule.max_line as usize
            });
            prop_assert_eq!(framed.used, bytes.len());
            let newlines = bytes.iter().filter(|&&byte| byte == b'\n').count();
            let mut dropped: usize = framed.dropped.iter().map(ExactSizeIterator::len).sum();
            if framed.dropped.is_empty() { dropped = 0; }
            prop_assert_eq!(given + newlines + dropped, bytes.len());
        }
    }
}
