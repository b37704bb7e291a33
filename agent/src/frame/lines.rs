//! Each line is a record.
//!
//! Not for: what a line means. Called by [`super::Framer`]; the hot path.

use super::{Carry, Flags, Framed, Ground, LongLine, Piece};

/// Splits the bytes into records. A newline at once ends a record that was given before.
pub(super) fn frame(
    ground: Ground<'_>,
    ends: impl Iterator<Item = usize>,
    give: &mut impl FnMut(Piece<'_>) -> bool,
) -> Framed {
    let mut out = Framed::default();
    let width = ground.text.width();
    let mut begin = ground.begin;
    let mut first = Flags::default().with(Flags::CONTINUES, ground.is_mid_line());
    // Lines of this length are never too long, in any encoding.
    let plain = ground.text.plain_bytes().min(ground.rule.max_line as usize);
    for end in ends {
        let line = ground.bytes(begin..end);
        if line.len() <= plain && first.is_empty() {
            if !give(Piece::plain(line, begin, first)) {
                out.full = true;
                return out;
            }
            out.records += 1;
            begin = end + width;
            out.used = begin;
            continue;
        }
        let ends_a_piece = line.is_empty() && !first.is_empty();
        if !ends_a_piece && !whole_line(ground, line, begin, first, &mut out, give) {
            return out;
        }
        first = Flags::default();
        begin = end + width;
        out.used = begin;
    }
    let line = ground.bytes(begin..ground.source.bytes.len());
    unfinished_line(ground, line, begin, first, &mut out, give);
    out
}

/// A line that ends with a newline; false when there was no room for all of it.
#[inline]
pub(super) fn whole_line(
    ground: Ground<'_>,
    line: &[u8],
    begin: usize,
    flags: Flags,
    out: &mut Framed,
    give: &mut impl FnMut(Piece<'_>) -> bool,
) -> bool {
    let max = ground.rule.max_line as usize;
    if !ground.is_too_long(line, max) {
        return one(line, begin, flags, out, give);
    }
    match ground.rule.long_line {
        LongLine::Truncate => {
            let kept = ground.cut_at(line, begin, max);
            let flags = flags.with(Flags::TRUNCATED, true);
            if !one(
                line.get(..kept).unwrap_or_default(),
                begin,
                flags,
                out,
                give,
            ) {
                return false;
            }
            out.dropped.push(begin + kept..begin + line.len());
            true
        }
        LongLine::Split => {
            let used = give_pieces(ground, line, begin, flags, out, give);
            let rest = line.get(used..).unwrap_or_default();
            let flags = flags.with(Flags::CONTINUES, true);
            !out.full && one(rest, begin + used, flags, out, give)
        }
    }
}

/// Gives a record that begins at `begin`.
#[inline]
fn one(
    line: &[u8],
    begin: usize,
    flags: Flags,
    out: &mut Framed,
    give: &mut impl FnMut(Piece<'_>) -> bool,
) -> bool {
    let given = out.give(Piece::plain(line, begin, flags), give);
    if given {
        out.used = begin + line.len();
    }
    given
}

/// What follows the last newline.
pub(super) fn unfinished_line(
    ground: Ground<'_>,
    line: &[u8],
    begin: usize,
    mut flags: Flags,
    out: &mut Framed,
    give: &mut impl FnMut(Piece<'_>) -> bool,
) {
    let max = ground.rule.max_line as usize;
    let mut used = 0;
    if ground.is_too_long(line, max) {
        match ground.rule.long_line {
            LongLine::Truncate => {
                let kept = ground.cut_at(line, begin, max);
                let flags = flags.with(Flags::TRUNCATED, true);
                if one(
                    line.get(..kept).unwrap_or_default(),
                    begin,
                    flags,
                    out,
                    give,
                ) {
                    out.dropped.push(begin + kept..begin + line.len());
                    out.carry = out.carry.with(Carry::DROPPING, true);
                    out.used = begin + line.len();
                }
                return;
            }
            LongLine::Split => {
                used = give_pieces(ground, line, begin, flags, out, give);
                flags = flags.with(Flags::CONTINUES, true);
            }
        }
    }
    let rest = line.get(used..).unwrap_or_default();
    if ground.takes() && !out.full && !rest.is_empty() {
        one(rest, begin + used, flags.with(Flags::CUT, true), out, give);
    }
}

/// Gives pieces of a long line while more than one is left, and says how many bytes they took.
fn give_pieces(
    ground: Ground<'_>,
    line: &[u8],
    begin: usize,
    mut flags: Flags,
    out: &mut Framed,
    give: &mut impl FnMut(Piece<'_>) -> bool,
) -> usize {
    let max = ground.rule.max_line as usize;
    let mut used = 0;
    loop {
        let rest = line.get(used..).unwrap_or_default();
        if !ground.is_too_long(rest, max) {
            break;
        }
        let end = ground.cut_at(rest, begin + used, max);
        let piece = rest.get(..end).unwrap_or_default();
        if !one(piece, begin + used, flags.with(Flags::CUT, true), out, give) {
            break;
        }
        flags = flags.with(Flags::CONTINUES, true);
        used += end;
    }
    used
}

/// The rest of a line that is dropped.
pub(super) fn rest(ground: Ground<'_>, mut ends: impl Iterator<Item = usize>) -> (usize, bool) {
    match ends.next() {
        Some(end) => (end + ground.text.width(), true),
        None => (ground.source.bytes.len(), false),
    }
}
