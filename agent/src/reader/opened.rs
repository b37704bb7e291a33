//! Which files are open: at most so many at once.
//!
//! A file that is open is followed wherever it goes, also when it is deleted, so files stay open as long
//! as there is room. When one more is to be opened, another is closed: the one that was not read for
//! longest among those that are read to their end; if there is none for a while, one that is not, since a
//! bus that takes nothing of one task must not hold up another. It is opened again when it grows. When it is
//! deleted meanwhile, what was not read of it is told as lost. What has no name any more is never closed
//! for another: it could not be found again.
//!
//! The order is that of a clock with a second chance: a file that was read since the hand passed it is
//! passed once more.
//!
//! At the start, files that nothing happened to since an earlier life need no descriptor yet; some of
//! those that were written to lately get one all the same.
//!
//! To tell files apart, some are opened for a moment beside these: `limits.open_files` leaves room for
//! them.
//!
//! Not for: opening itself (see [`super::turn`]).

use std::{collections::VecDeque, path::Path, time::Duration};

use tokio::time::Instant;

use super::Reader;
use crate::{
    content::Content,
    far::LogFile,
    handle::{self, Extent},
    path::LogPath,
    status::Status,
    tail::{Astray, Place, Tail},
};

/// When nothing can be closed, the next try is after this long.
const PAUSE: Duration = Duration::from_millis(50);
/// Files that are not read to their end are closed for others when none at its end was found for this
/// long.
const PATIENCE: Duration = Duration::from_secs(1);
/// A file that finds no room is tried again after this long.
pub(super) const OPEN_AGAIN: Duration = Duration::from_millis(200);

/// A known file that was written to within this time before it is found at the start is opened at once:
/// what is written to it and deleted in a moment is read all the same.
const LATELY: Duration = Duration::from_secs(600);
/// Of those that may be open, one in so many may be opened at the start although nothing happened to it.
const LATELY_PART: usize = 8;

/// Of those that may be open, so many are left for looks into files that are not read: a newcomer and
/// what it may be a copy of, in the reader and in the spool's thread.
const LOOKED_INTO: usize = 4;

/// The open files.
#[derive(Debug)]
pub(super) struct Opened {
    /// How many there are.
    pub(super) count: usize,
    /// How many there may be, those looked into included.
    limit: usize,
    /// How many files that were written to lately were opened at the start.
    lately: usize,
    /// Streams that had a file open when the hand passed them last, or have since.
    clock: VecDeque<usize>,
    /// Nothing could be closed; until then it is not tried again.
    stuck_until: Option<Instant>,
    /// Since when no file was found that is read to its end, while one was wanted.
    starved_since: Option<Instant>,
}

/// A stream on the clock.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OnClock {
    /// It stands there.
    listed: bool,
    /// It was read since the hand passed it.
    pub(super) used: bool,
}

/// What may be closed for another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// Files that are read to their end, and were not read lately.
    AtEnd,
    /// Any that can be found again.
    Unread,
}

impl Opened {
    /// None, of at most `limit`.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            count: 0,
            limit,
            lately: 0,
            clock: VecDeque::new(),
            stuck_until: None,
            starved_since: None,
        }
    }

    /// Whether one more may be opened without closing another.
    pub(super) fn has_room(&self) -> bool {
        self.count < self.most()
    }

    /// Whether a file with this time of its last change is opened although nothing happened to it
    /// since an earlier life.
    pub(super) fn opens_quiet(&mut self, mtime_ns: i64, now_ms: u64) -> bool {
        // A change in the future is one of a clock that was set back: of now, as far as anybody knows.
        let changed_ms = u64::try_from(mtime_ns / 1_000_000).unwrap_or(0);
        let ago = Duration::from_millis(now_ms.saturating_sub(changed_ms));
        let is_late = ago < LATELY;
        let opens = is_late && self.lately < self.most() / LATELY_PART;
        self.lately += usize::from(opens);
        opens
    }

    /// Whether files wait for others to be read to their end.
    pub(super) fn is_starved(&self, now: Instant) -> bool {
        let until = self.stuck_until.map(|until| until + PATIENCE + OPEN_AGAIN);
        until.is_some_and(|until| now < until)
    }

    /// Whether there are more than there may be.
    pub(super) fn is_over(&self) -> bool {
        self.count > self.most()
    }

    /// How many may stay open.
    fn most(&self) -> usize {
        self.limit.saturating_sub(LOOKED_INTO).max(1)
    }

    /// Shows people how many there are.
    pub(super) fn show(&self, status: &Status) {
        status.open_files(self.count as u64, self.limit as u64);
    }
}

impl Reader {
    /// Makes room for one more file. False when there is none: it has to wait.
    pub(super) fn make_room(&mut self, now: Instant) -> bool {
        if self.opened.has_room() {
            return true;
        }
        if self.opened.stuck_until.is_some_and(|until| now < until) {
            return false;
        }
        if self.close_until_room(Choice::AtEnd, now) {
            self.opened.starved_since = None;
            return true;
        }
        // Those that are open are read without waiting for more lines: soon one is at its end.
        if !self.opened.is_starved(now) {
            self.opened.starved_since = None;
        }
        let since = *self.opened.starved_since.get_or_insert(now);
        let made = now >= since + PATIENCE && self.close_until_room(Choice::Unread, now);
        if !made {
            self.opened.stuck_until = Some(now + PAUSE);
            metrics::counter!("tributary_agent_open_files_limited_total").increment(1);
        }
        made
    }

    /// Another ceiling, from now on. What is deleted and unread stays open, also over it.
    pub(super) fn open_at_most(&mut self, limit: usize, now: Instant) {
        self.opened.limit = limit;
        (self.opened.stuck_until, self.opened.starved_since) = (None, None);
        for choice in [Choice::AtEnd, Choice::Unread] {
            while self.opened.is_over() && self.close_one(choice, now) {}
        }
    }

    /// Closes files until one more may be opened: mostly one, and more while there are too many. False
    /// when there are not enough that may be closed.
    fn close_until_room(&mut self, choice: Choice, now: Instant) -> bool {
        while !self.opened.has_room() {
            if !self.close_one(choice, now) {
                return false;
            }
        }
        true
    }

    /// A file of a stream was opened.
    pub(super) fn note_opened(&mut self, stream: usize) {
        self.opened.count += 1;
        if let Some(known) = self.streams.get_mut(stream)
            && !std::mem::replace(&mut known.on_clock.listed, true)
        {
            self.opened.clock.push_back(stream);
        }
    }

    /// Turns the hand until a file is closed, at most twice around.
    fn close_one(&mut self, choice: Choice, now: Instant) -> bool {
        for _ in 0..self.opened.clock.len() * 2 {
            let Some(stream) = self.opened.clock.pop_front() else {
                return false;
            };
            let Some(known) = self.streams.get_mut(stream) else {
                continue;
            };
            let used = std::mem::take(&mut known.on_clock.used);
            let closed = !(used && choice == Choice::AtEnd) && self.close_of(stream, choice, now);
            let Some(known) = self.streams.get_mut(stream) else {
                continue;
            };
            if known.tails.iter().any(|tail| tail.file.is_some()) {
                self.opened.clock.push_back(stream);
            } else {
                known.on_clock.listed = false;
            }
            if closed {
                return true;
            }
        }
        false
    }

    /// Closes one file of a stream if it may be.
    fn close_of(&mut self, stream: usize, choice: Choice, now: Instant) -> bool {
        let tails = self.streams.get(stream).map(|known| known.tails.len());
        for at in 0..tails.unwrap_or(0) {
            let Some(tail) = self.tail(stream, at) else {
                return false;
            };
            if choice == Choice::AtEnd && tail.unread() > 0 {
                continue;
            }
            let Some(Content::File(file)) = &tail.file else {
                continue;
            };
            let Some((extent, path)) = find_again(file, tail) else {
                continue;
            };
            // What stands there when it is closed is told as lost if it is deleted.
            tail.note_size(extent.size, now, now);
            if choice == Choice::AtEnd && tail.unread() > 0 {
                continue;
            }
            if let Some(path) = path {
                (tail.path, tail.real) = (path, None);
            }
            if tail.place != Place::Named {
                tail.astray = Astray::At;
            }
            self.close(stream, at);
            return true;
        }
        false
    }
}

/// Whether a file can be opened again: how far it goes, and its path if that is not the known one.
fn find_again(file: &LogFile, tail: &Tail) -> Option<(Extent, Option<LogPath>)> {
    let extent = file.extent().ok()?;
    if extent.links == 0 {
        return None;
    }
    let is_it = |path: &Path| handle::of_path(path).is_ok_and(|info| info.key == tail.key);
    if is_it(tail.real_path()) {
        return Some((extent, None));
    }
    // The kernel knows where a file is by now that was renamed.
    let path = file.path_now()?;
    is_it(&path).then(|| (extent, Some(path.into())))
}
