//! The lines of a container runtime, joined to the records that the container wrote.
//!
//! A record of one stream may have lines of the other between its own. A span ends where no record is
//! unfinished, so all lines of its records are in it; where that does not come in time, or would be
//! too much for one batch, what there is of them is taken, and the rest goes on as a record of its
//! own, told as such. Lines that are none of the runtime's are records as they stand.
//!
//! Not for: reading one line (see [`super::container`]). Called by [`super::Framer`].

use std::borrow::Cow;

use super::{
    Carry, Flags, Framed, Ground, LongLine, Piece, Tail,
    container::{Part, Runtime, Stream},
    lines,
};

/// A record of one stream that is being put together.
#[derive(Debug, Default)]
struct Joined<'a> {
    text: Vec<u8>,
    /// Where its source begins.
    at: usize,
    time: Cow<'a, str>,
    is_open: bool,
    /// It goes on with the record before it.
    continues: bool,
    /// Its rest is dropped.
    dropping: bool,
}

/// The last place where no record was unfinished.
#[derive(Debug, Clone, Copy, Default)]
struct Quiet {
    used: usize,
    records: u32,
    carry: Carry,
}

struct Joining<'a, 'g, G> {
    ground: Ground<'a>,
    runtime: Runtime,
    streams: [Joined<'a>; 3],
    quiet: Quiet,
    out: Framed,
    give: &'g mut G,
}

/// Joins the lines to records. Lines of more than `longest` bytes are not looked into.
pub(super) fn frame<G: FnMut(Piece<'_>) -> bool>(
    ground: Ground<'_>,
    runtime: Runtime,
    longest: usize,
    ends: impl Iterator<Item = usize>,
    give: &mut G,
) -> Framed {
    let carry = ground.source.carry;
    let stream = |at: usize| Joined {
        continues: Carry::REST_OF.get(at).is_some_and(|&bit| carry.has(bit)),
        dropping: Carry::DROPPING_OF
            .get(at)
            .is_some_and(|&bit| carry.has(bit)),
        ..Joined::default()
    };
    let mut joining = Joining {
        ground,
        runtime,
        streams: [stream(0), stream(1), stream(2)],
        quiet: Quiet::default(),
        out: Framed::default(),
        give,
    };
    joining.quiet.carry = joining.carry();
    let (mut begin, mut is_rest) = (ground.begin, ground.is_mid_line());
    for end in ends {
        if !joining.line(begin, end, is_rest, longest) {
            return joining.done();
        }
        (begin, is_rest) = (end + ground.text.width(), false);
        joining.note_quiet(begin);
    }
    joining.finish(begin, is_rest, longest);
    joining.done()
}

impl<'a, G: FnMut(Piece<'_>) -> bool> Joining<'a, '_, G> {
    fn done(mut self) -> Framed {
        self.out.used = self.quiet.used;
        self.out.carry = self.quiet.carry;
        self.out.beyond = self.out.records > self.quiet.records;
        self.out
            .dropped
            .retain(|range| range.start < self.quiet.used);
        self.out
    }

    /// What is to be carried on from here.
    fn carry(&self) -> Carry {
        let bits = Carry::REST_OF.into_iter().zip(Carry::DROPPING_OF);
        let streams = self.streams.iter().zip(bits);
        streams.fold(Carry::default(), |carry, (stream, (rest, dropping))| {
            carry
                .with(rest, stream.continues)
                .with(dropping, stream.dropping)
        })
    }

    /// Takes note when no record is unfinished where the line at `next` begins; says so.
    fn note_quiet(&mut self, next: usize) -> bool {
        let is_quiet = self.streams.iter().all(|stream| !stream.is_open);
        if is_quiet {
            self.quiet = Quiet {
                used: next,
                records: self.out.records,
                carry: self.carry(),
            };
        }
        is_quiet
    }

    /// Takes in a whole line; false when there was no room.
    fn line(&mut self, begin: usize, end: usize, is_rest: bool, longest: usize) -> bool {
        let line = self.ground.bytes(begin..end);
        if is_rest && line.is_empty() {
            return true;
        }
        let is_own = !is_rest && line.len() <= longest;
        match is_own.then(|| self.parse(line)).flatten() {
            Some(part) => self.part(part, begin, end),
            None => self.raw(line, begin, is_rest),
        }
    }

    /// Reads a line of the runtime's. A single one has to be one record, so that there is always room
    /// for it: a longer one is none of the runtime's.
    fn parse(&self, line: &'a [u8]) -> Option<Part<'a>> {
        let is_single = self.ground.source.carry.has(Carry::SINGLE);
        let max = self.ground.rule.max_line as usize;
        let part = self.runtime.parse(line);
        part.filter(|part| !is_single || part.text.len() <= max)
    }

    /// A line that is none of the runtime's.
    fn raw(&mut self, line: &[u8], begin: usize, is_rest: bool) -> bool {
        self.out.used = begin;
        let (ground, flags) = (self.ground, malformed(is_rest));
        let given = lines::whole_line(ground, line, begin, flags, &mut self.out, self.give);
        if !given {
            self.note_raw();
        }
        given
    }

    /// Takes note of the pieces of a line that is none of the runtime's: a span may end within it.
    fn note_raw(&mut self) {
        let used = self.out.used;
        if used > self.quiet.used && self.note_quiet(used) {
            let dropping = self.out.carry.is_dropping();
            let carry = self.quiet.carry.with(Carry::RAW, true);
            self.quiet.carry = carry.dropping(dropping);
        }
    }

    /// A line of the runtime's, `begin..end`.
    fn part(&mut self, part: Part<'a>, begin: usize, end: usize) -> bool {
        let is_single = self.ground.source.carry.has(Carry::SINGLE);
        let (stream, is_last) = (part.stream, part.is_last);
        let joined = self.joined(stream);
        if joined.dropping {
            joined.dropping = !is_last;
            self.out.dropped.push(begin..end);
            return true;
        }
        if !joined.is_open {
            joined.is_open = true;
            joined.text.clear();
            joined.at = begin;
            joined.time = part.time;
        }
        if !self.append(stream, &part.text, begin, end, is_last) {
            return false;
        }
        match (self.joined(stream).is_open, is_last) {
            (true, true) => self.give(stream, Flags::default(), false),
            (true, false) if is_single => self.give(stream, cut(), true),
            (true, false) | (false, _) => true,
        }
    }

    /// Adds text to the record of a stream; what makes it too long is cut off, or dropped.
    fn append(
        &mut self,
        stream: Stream,
        mut text: &[u8],
        begin: usize,
        end: usize,
        is_last: bool,
    ) -> bool {
        let (max, ground) = (self.ground.rule.max_line as usize, self.ground);
        loop {
            let joined = self.joined(stream);
            let had = joined.text.len();
            joined.text.extend_from_slice(text);
            if joined.text.len() <= max {
                return true;
            }
            // The record is no longer than before: what was there had been no more than allowed.
            let kept = ground.text.cut_at(&joined.text, 0, max).max(had);
            joined.text.truncate(kept);
            text = text.get(kept - had..).unwrap_or_default();
            match ground.rule.long_line {
                LongLine::Split => {
                    if !self.give(stream, cut(), true) {
                        return false;
                    }
                    let joined = self.joined(stream);
                    joined.is_open = true;
                    joined.text.clear();
                    joined.at = begin;
                }
                LongLine::Truncate => {
                    let flags = Flags::default().with(Flags::TRUNCATED, true);
                    if !self.give(stream, flags, false) {
                        return false;
                    }
                    self.joined(stream).dropping = !is_last;
                    self.out
                        .dropped
                        .push(end - text.len().min(end - begin)..end);
                    return true;
                }
            }
        }
    }

    fn joined(&mut self, stream: Stream) -> &mut Joined<'a> {
        let [out, err, other] = &mut self.streams;
        match stream {
            Stream::Stdout => out,
            Stream::Stderr => err,
            Stream::Other => other,
        }
    }

    /// Gives the record of a stream; `goes_on` says that what follows continues it.
    fn give(&mut self, stream: Stream, flags: Flags, goes_on: bool) -> bool {
        let [out, err, other] = &mut self.streams;
        let joined = match stream {
            Stream::Stdout => out,
            Stream::Stderr => err,
            Stream::Other => other,
        };
        let piece = Piece {
            bytes: &joined.text,
            at: joined.at,
            flags: flags.with(Flags::CONTINUES, joined.continues),
            time: (!joined.time.is_empty()).then_some(&*joined.time),
            stream: stream.name(),
        };
        let given = self.out.give(piece, self.give);
        if given {
            joined.is_open = false;
            joined.continues = goes_on;
        }
        given
    }

    /// What to do at the end of the bytes; the last line, which has no newline, begins at `begin`.
    fn finish(&mut self, begin: usize, is_rest: bool, longest: usize) {
        let len = self.ground.source.bytes.len();
        let (line, tail) = (self.ground.bytes(begin..len), self.ground.source.tail);
        if line.is_empty() {
            if tail != Tail::Leave && self.flush() {
                self.note_quiet(len);
            }
            return;
        }
        let was_raw = matches!(tail, Tail::Again(carry) if carry.has(Carry::RAW));
        let is_raw = is_rest || was_raw || line.len() > longest;
        let part = if is_raw { None } else { self.parse(line) };
        let max = self.ground.rule.max_line as usize;
        let takes = self.ground.takes() || (is_raw && self.ground.is_too_long(line, max));
        match part {
            Some(part) if takes => {
                if self.part(part, begin, len) && self.flush() {
                    self.note_quiet(len);
                }
            }
            None if takes => {
                if self.flush() {
                    self.note_quiet(begin);
                    let (ground, flags) = (self.ground, malformed(is_rest));
                    self.out.used = begin;
                    lines::unfinished_line(ground, line, begin, flags, &mut self.out, self.give);
                    self.note_raw();
                }
            }
            Some(_) | None => {
                if tail == Tail::Flush && self.flush() {
                    self.note_quiet(begin);
                }
            }
        }
    }

    /// Takes what there is of all records; false when there was no room.
    fn flush(&mut self) -> bool {
        let is_open = |at: usize| self.streams.get(at).is_some_and(|stream| stream.is_open);
        let open = [is_open(0), is_open(1), is_open(2)];
        let streams = Stream::ALL.into_iter().zip(open);
        let mut open = streams.filter_map(|(stream, is_open)| is_open.then_some(stream));
        open.all(|stream| self.give(stream, cut(), true))
    }
}

fn cut() -> Flags {
    Flags::default().with(Flags::CUT, true)
}

fn malformed(is_rest: bool) -> Flags {
    Flags::default()
        .with(Flags::MALFORMED, true)
        .with(Flags::CONTINUES, is_rest)
}
