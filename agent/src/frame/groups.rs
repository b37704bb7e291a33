//! Groups of lines are records: a stack trace with the line that it belongs to.
//!
//! One pattern says where groups begin, go on or end. A group is a run of the source, newlines within
//! it included, so nothing is copied and a span of whole groups has its records in itself. What caps
//! and timeouts cut off goes on as a record of its own, told as such; with `truncate` it is dropped up
//! to the next group, and counted.
//!
//! Patterns look at a line without a carriage return at its end, and at no more of it than a record
//! can have. The rest of a line that was cut is never the beginning of a group.
//!
//! Not for: waiting (the reader does). Called by [`super::Framer`].

use std::{borrow::Cow, time::Duration};

use regex::bytes::Regex;

use super::{Carry, Flags, Framed, Ground, LongLine, Piece, Tail, text::Text};

/// How groups are told apart.
#[derive(Debug, Clone)]
pub(crate) enum Pattern {
    /// A group begins with a line that matches.
    Start(Regex),
    /// A line that matches goes on with the group before it.
    Continue(Regex),
    /// A group ends with a line that matches.
    End(Regex),
}

/// Groups, ready for use.
#[derive(Debug, Clone)]
pub(crate) struct Multiline {
    /// How they are told apart.
    pub(crate) pattern: Pattern,
    /// A group that has not grown for so long is whole.
    pub(crate) timeout: Duration,
    /// The most lines of a record.
    pub(crate) max_lines: u32,
}

/// What a line is to the group before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The first of the next group.
    Begins,
    /// One more of it.
    GoesOn,
    /// The last of it.
    Ends,
}

impl Multiline {
    fn role(&self, ground: Ground<'_>, line: &[u8], at: usize, is_rest: bool) -> Role {
        let text = ground.clipped(line, at, matches!(self.pattern, Pattern::End(_)));
        let fits = |pattern: &Regex| pattern.is_match(&text);
        let begins = match &self.pattern {
            Pattern::Start(pattern) => !is_rest && fits(pattern),
            Pattern::Continue(pattern) => !is_rest && !fits(pattern),
            Pattern::End(pattern) => {
                return if fits(pattern) {
                    Role::Ends
                } else {
                    Role::GoesOn
                };
            }
        };
        if begins { Role::Begins } else { Role::GoesOn }
    }
}

impl<'a> Ground<'a> {
    /// What a pattern sees of a line: its beginning or its end, without a carriage return, as UTF-8.
    fn clipped(&self, line: &'a [u8], at: usize, its_end: bool) -> Cow<'a, [u8]> {
        let max = self.rule.max_line as usize;
        let line = if !self.is_too_long(line, max) {
            line
        } else if its_end {
            line.get(line.len() - max.min(line.len())..)
                .unwrap_or_default()
        } else {
            let end = self.cut_at(line, at, max);
            line.get(..end).unwrap_or_default()
        };
        match self.text {
            Text::Utf8 => Cow::Borrowed(line.strip_suffix(b"\r").unwrap_or(line)),
            Text::Ascii(_) | Text::Utf16 { .. } => {
                let mut buffer = String::new();
                let at = self.source.at + at as u64;
                let (text, _) = self.text.decode(line, at, &mut buffer);
                Cow::Owned(text.strip_suffix(b"\r").unwrap_or(text).to_vec())
            }
        }
    }
}

/// The group that is being put together.
#[derive(Debug, Clone, Copy)]
enum Group {
    /// There is none.
    None,
    /// Source bytes `begin..end` and so many lines.
    Open {
        begin: usize,
        end: usize,
        lines: u32,
        flags: Flags,
    },
    /// Everything from here to the end of the group is dropped.
    Dropped { from: usize, end: usize },
}

struct Grouping<'a, 'g, G> {
    ground: Ground<'a>,
    multiline: &'a Multiline,
    group: Group,
    /// The group before was not whole: what follows may go on with it.
    rest: bool,
    /// It was a piece of a line that is too long.
    piece: bool,
    out: Framed,
    give: &'g mut G,
}

/// Splits the bytes into groups.
pub(super) fn frame<G: FnMut(Piece<'_>) -> bool>(
    ground: Ground<'_>,
    multiline: &Multiline,
    ends: impl Iterator<Item = usize>,
    give: &mut G,
) -> Framed {
    let mut grouping = Grouping {
        ground,
        multiline,
        group: Group::None,
        rest: ground.source.carry.has(Carry::REST) || ground.is_mid_line(),
        piece: false,
        out: Framed::default(),
        give,
    };
    let width = ground.text.width();
    let (mut begin, mut is_rest) = (ground.begin, ground.is_mid_line());
    for end in ends {
        if is_rest && begin == end {
            // The newline of a line that was taken before.
            grouping.out.used = end + width;
        } else if !grouping.line(begin, end, end + width, is_rest) {
            return grouping.done();
        }
        (begin, is_rest) = (end + width, false);
    }
    grouping.finish(begin, is_rest);
    grouping.done()
}

impl<G: FnMut(Piece<'_>) -> bool> Grouping<'_, '_, G> {
    fn done(mut self) -> Framed {
        self.out.carry = self.out.carry.with(Carry::REST, self.rest);
        self.out.carry = self.out.carry.with(Carry::PIECE, self.piece);
        self.out
    }

    /// Takes in a line `begin..end` that is followed by `next`; false when there was no room.
    fn line(&mut self, begin: usize, end: usize, next: usize, is_rest: bool) -> bool {
        let line = self.ground.bytes(begin..end);
        let role = self.multiline.role(self.ground, line, begin, is_rest);
        if !self.add(begin, end, role, is_rest) {
            return false;
        }
        role != Role::Ends || self.close(next, true)
    }

    /// Adds a line to its group.
    fn add(&mut self, begin: usize, end: usize, role: Role, is_rest: bool) -> bool {
        if role == Role::Begins && !self.close(begin, true) {
            return false;
        }
        if !self.cap(begin, end) || !self.open(begin, end, role, is_rest) {
            return false;
        }
        match &mut self.group {
            Group::None => {}
            Group::Open {
                end: last, lines, ..
            } => {
                *last = end;
                *lines += 1;
            }
            Group::Dropped { end: last, .. } => *last = end,
        }
        true
    }

    /// Cuts the group off before a line that would make it too long.
    fn cap(&mut self, begin: usize, end: usize) -> bool {
        let max = self.ground.rule.max_line as usize;
        let Group::Open {
            begin: first,
            end: last,
            lines,
            ..
        } = self.group
        else {
            return true;
        };
        let whole = self.ground.bytes(first..end);
        let is_piece = end == self.ground.source.bytes.len() && self.ends_in_a_piece();
        if !is_piece && lines < self.multiline.max_lines && !self.ground.is_too_long(whole, max) {
            return true;
        }
        match self.ground.rule.long_line {
            LongLine::Split => self.close(begin, false),
            LongLine::Truncate => self.truncate(last, last),
        }
    }

    /// Begins a group with the line, unless one is open. A line that is too long alone is cut.
    fn open(&mut self, begin: usize, end: usize, role: Role, is_rest: bool) -> bool {
        if !matches!(self.group, Group::None) {
            return true;
        }
        let goes_on = is_rest || (self.rest && role != Role::Begins);
        let flags = Flags::default().with(Flags::CONTINUES, goes_on);
        self.group = Group::Open {
            begin,
            end: begin,
            lines: 0,
            flags,
        };
        let max = self.ground.rule.max_line as usize;
        let mut from = begin;
        loop {
            let line = self.ground.bytes(from..end);
            if !self.ground.is_too_long(line, max) {
                return true;
            }
            let cut = from + self.ground.cut_at(line, from, max);
            if self.ground.rule.long_line == LongLine::Truncate {
                return self.truncate(cut, cut);
            }
            if let Group::Open { end, .. } = &mut self.group {
                *end = cut;
            }
            if !self.close(cut, false) {
                return false;
            }
            self.piece = true;
            from = cut;
            self.group = Group::Open {
                begin: from,
                end: from,
                lines: 0,
                flags: Flags::default().with(Flags::CONTINUES, true),
            };
        }
    }

    /// Gives the group up to `end` as a record, and drops what follows of it.
    fn truncate(&mut self, end: usize, from: usize) -> bool {
        if let Group::Open { begin, flags, .. } = self.group {
            let flags = flags.with(Flags::TRUNCATED, true);
            let piece = Piece::plain(self.ground.bytes(begin..end), begin, flags);
            if !self.out.give(piece, self.give) {
                return false;
            }
            self.out.used = end;
            self.piece = false;
        }
        self.group = Group::Dropped { from, end: from };
        true
    }

    /// Ends the group, whole or not; `next` is where the bytes after it begin. False when there was
    /// no room.
    fn close(&mut self, next: usize, is_whole: bool) -> bool {
        match self.group {
            Group::None => return true,
            Group::Open {
                begin, end, flags, ..
            } => {
                let flags = flags.with(Flags::CUT, !is_whole);
                let piece = Piece::plain(self.ground.bytes(begin..end), begin, flags);
                if !self.out.give(piece, self.give) {
                    return false;
                }
            }
            Group::Dropped { from, end } => self.drop_range(from, end),
        }
        self.group = Group::None;
        self.rest = !is_whole;
        self.piece = false;
        self.out.used = next;
        true
    }

    fn drop_range(&mut self, from: usize, end: usize) {
        if from < end {
            self.out.dropped.push(from..end);
        }
    }

    /// What to do at the end of the bytes; the last line, which has no newline, begins at `begin`.
    fn finish(&mut self, begin: usize, is_rest: bool) {
        let len = self.ground.source.bytes.len();
        let max = self.ground.rule.max_line as usize;
        let line = self.ground.bytes(begin..len);
        let too_long = self.ground.is_too_long(line, max);
        let crowded = match self.group {
            Group::Open { begin: first, .. } => {
                self.ground.is_too_long(self.ground.bytes(first..len), max)
            }
            Group::None | Group::Dropped { .. } => too_long,
        };
        if begin < len && (self.ground.takes() || crowded) && !self.unfinished(begin, is_rest) {
            return;
        }
        if self.ground.takes() {
            self.take(begin < len, len);
        } else if let Group::Dropped { from, end } = self.group {
            // The rest of the group is still to come; what begins a line may begin the next group.
            let end = if too_long { len } else { end };
            self.drop_range(from, end);
            self.out.used = if too_long { len } else { begin };
            self.out.carry = self.out.carry.dropping(true);
        }
    }

    /// Ends the last group with the bytes, as it ended when they were framed first.
    fn take(&mut self, within_line: bool, len: usize) {
        let before = match self.ground.source.tail {
            Tail::Again(carry) => carry,
            Tail::Leave | Tail::Flush | Tail::Take => Carry::default().with(Carry::REST, true),
        };
        if let Group::Open { end, .. } = self.group
            && before.is_dropping()
            && !self.truncate(end, end)
        {
            return;
        }
        let dropping = within_line && matches!(self.group, Group::Dropped { .. });
        self.close(len, !before.has(Carry::REST));
        self.out.carry = self.out.carry.dropping(dropping);
    }

    /// Whether the bytes end, as they did when they were framed first, in a piece of a line that is too
    /// long: the rest of it is not among them.
    fn ends_in_a_piece(&self) -> bool {
        matches!(self.ground.source.tail, Tail::Again(carry) if carry.has(Carry::PIECE))
    }

    /// The last line, without a newline, as far as it can be told what it is.
    fn unfinished(&mut self, begin: usize, is_rest: bool) -> bool {
        let len = self.ground.source.bytes.len();
        let line = self.ground.bytes(begin..len);
        let role = self.multiline.role(self.ground, line, begin, is_rest);
        if self.ground.takes() {
            return self.add(begin, len, role, is_rest);
        }
        // Only what must be cut off: the rest of the line may still grow.
        if role == Role::Begins && !self.close(begin, true) {
            return false;
        }
        self.cap(begin, len) && self.open(begin, len, role, is_rest)
    }
}

/// The rest of a group that is dropped: up to the line that begins the next one, or ends this.
pub(super) fn rest(
    ground: Ground<'_>,
    multiline: &Multiline,
    ends: impl Iterator<Item = usize>,
) -> (usize, bool) {
    let (mut begin, mut is_rest) = (0, ground.is_mid_line());
    for end in ends {
        match multiline.role(ground, ground.bytes(begin..end), begin, is_rest) {
            Role::Begins => return (begin, true),
            Role::GoesOn => {}
            Role::Ends => return (end + ground.text.width(), true),
        }
        (begin, is_rest) = (end + ground.text.width(), false);
    }
    let len = ground.source.bytes.len();
    let line = ground.bytes(begin..len);
    let too_long = ground.is_too_long(line, ground.rule.max_line as usize);
    if begin < len && too_long {
        return match multiline.role(ground, line, begin, is_rest) {
            Role::Begins => (begin, true),
            Role::GoesOn | Role::Ends => (len, false),
        };
    }
    if ground.takes() {
        return (begin, true);
    }
    (begin, false)
}
