//! One turn of one stream: look, and read one block of its oldest generation that has something.
//!
//! Not for: making a batch of the block (see [`super::cut`]).

use std::{io, sync::Arc, time::Duration};

use tokio::time::Instant;
use tributary_common::ids::GenerationId;

use super::{BLOCK_BYTES, Next, Reader, follow::PATIENCE_WHEN_FOLLOWED, opened::OPEN_AGAIN};
use crate::{
    content::Content,
    discover::is_absence,
    far::open_file,
    frame::Tail as Unfinished,
    handle::Extent,
    identify::{MARK_BYTES, Verdict, verdict},
    limit::{BATCH_OVERHEAD_BYTES, Permit, Reason},
    recipe::Compiled,
    status::Bad,
    tail::{Astray, FirstBytes, Form, Place, Tail},
};

/// A file that cannot be opened or read is tried again after this long.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(2);
/// Younger generations wait so long for one that can be neither read nor given up.
const HOLD_YOUNGER: Duration = Duration::from_secs(10);
/// A file without a name in the task is looked at this often after it grew, then less and less.
const HIDDEN_LOOK: Duration = Duration::from_millis(500);
const HIDDEN_LOOK_LATEST: Duration = Duration::from_secs(30);
/// The first lines of a file wait for more no longer than this, in ms: nobody knows yet that it is read.
const FIRST_LINGER_MS: u64 = 40;
/// Less than this is read at once only where there is no more, or the rate is very low.
const CRUMB_BYTES: usize = 4 << 10;
/// A task with a rate reads at most what comes in within this part of a second at once.
const RATE_PART: u64 = 4;
/// With a low bandwidth a batch takes at most this part of a second, even if it does not compress.
const BANDWIDTH_PART: u64 = 5;
/// What is due is looked at again after this long at the earliest.
pub(super) const MOMENT: Duration = Duration::from_millis(1);
/// The most that is read when it is the last of a file for now: a batch of its own would cost more.
pub(super) const LARGE_BLOCK_BYTES: usize = BLOCK_BYTES + BLOCK_BYTES / 8;

/// What came of looking at one generation.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing to do before this time, if ever.
    Nothing(Option<Instant>),
    /// Something was read; there may be more.
    Did,
    /// There is no memory for it now.
    Blocked,
    /// Younger generations have to wait for it, at most until then.
    Hold(Option<Instant>),
    /// The stream's generations changed: begin anew.
    Changed,
}

/// What a look at a file said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looked {
    size: u64,
    links: u64,
    /// It is the file itself, not what the spool has of it.
    is_file: bool,
}

/// A block that was read: the bytes that the mark covers, then new ones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// Bytes before the offset.
    pub(super) before: usize,
    /// Bytes in all.
    pub(super) len: usize,
}

impl Reader {
    /// The tail of a stream, by its place.
    pub(super) fn tail(&mut self, stream: usize, at: usize) -> Option<&mut Tail> {
        self.streams.get_mut(stream)?.tails.get_mut(at)
    }

    /// Serves one stream.
    pub(super) fn turn(&mut self, stream: usize) -> Next {
        let now = Instant::now();
        let mut first: Option<Instant> = None;
        let mut at = 0;
        // A stream changes at most a few times in a turn: cut off, gone on in a copy.
        let mut changes = 0;
        while at
            < self
                .streams
                .get(stream)
                .map_or(0, |stream| stream.tails.len())
        {
            match self.step(stream, at, now) {
                Step::Nothing(until) => {
                    first = [first, until].into_iter().flatten().min();
                    at += 1;
                }
                Step::Did if self.is_read_to_its_end(stream) => break,
                Step::Did => return Next::Ready,
                Step::Blocked => return Next::Blocked,
                Step::Hold(until) => {
                    first = [first, until].into_iter().flatten().min();
                    break;
                }
                Step::Changed if changes < 8 => {
                    changes += 1;
                    first = None;
                    at = 0;
                }
                Step::Changed => return Next::At(now + TRY_AGAIN),
            }
        }
        first.map_or(Next::Idle, Next::At)
    }

    /// All that was there at the look is read of a stream with one file, which its path names: what
    /// comes later comes with a hint of its own, so it is not looked at again now.
    fn is_read_to_its_end(&self, stream: usize) -> bool {
        let tails = self.streams.get(stream).map(|known| known.tails.as_slice());
        let Some([tail]) = tails else {
            return false;
        };
        tail.place == Place::Named
            && tail.unread() == 0
            && tail.replay.is_empty()
            && !tail.leaving
            && tail
                .file
                .as_ref()
                .is_some_and(|file| file.as_file().is_some())
            && !self.opened.is_over()
    }

    /// Looks at one generation, and reads a block when there is one.
    fn step(&mut self, stream: usize, at: usize, now: Instant) -> Step {
        let Some(tail) = self.tail(stream, at) else {
            return Step::Nothing(None);
        };
        if matches!(tail.place, Place::Awaited(_)) {
            return self.hold(stream, at, None, now);
        }
        let Looked {
            size,
            links,
            is_file,
        } = match self.look_at(stream, at, now) {
            Ok(looked) => looked,
            Err(instead) => return instead,
        };
        if !is_file && self.lacks_beginning(stream, at) {
            return self.next_window(stream, at, now);
        }
        let Some(tail) = self.tail(stream, at) else {
            return Step::Nothing(None);
        };
        if !tail.replay.is_empty() {
            return self.replay(stream, at, now);
        }
        if tail.leaving {
            self.forget(stream, at);
            return Step::Changed;
        }
        if size == tail.offset() && tail.file.as_ref().is_some_and(|file| file.beyond() == 0) {
            tail.stuck_since = None;
        }
        if size == tail.offset() && !is_file {
            return self.end_of_spool(stream, at, now);
        }
        if size == tail.offset() {
            let close_at = tail.close_at(links);
            return self.at_end(stream, at, close_at, now);
        }
        let first = std::mem::take(&mut tail.first);
        if let Some(known) = self.streams.get_mut(stream) {
            known.on_clock.used = true;
        }
        if first == FirstBytes::ToCome && self.is_judged_anew(stream, at, now) {
            self.end_unread(stream, at);
            return Step::Changed;
        }
        self.read_on(stream, at, links, now)
    }

    /// Looks at the file of a generation, which is opened when it is not. The error is what happens
    /// instead of reading it: it was cut off, say.
    pub(super) fn look_at(
        &mut self,
        stream: usize,
        at: usize,
        now: Instant,
    ) -> Result<Looked, Step> {
        self.open(stream, at, now)?;
        let since = self
            .streams
            .get(stream)
            .and_then(|known| known.pace.looked());
        let Some(tail) = self.tail(stream, at) else {
            return Err(Step::Nothing(None));
        };
        let Some(file) = &tail.file else {
            return Err(Step::Nothing(None));
        };
        let Extent {
            size,
            links,
            mtime_ns,
        } = match file.extent() {
            Ok(extent) => extent,
            Err(error) => return Err(self.unreadable(stream, at, &error, now)),
        };
        if size < tail.offset() {
            self.note_bad(stream, Bad::Shrunk);
            return Err(self.cut_off(stream, at, now));
        }
        let is_file = file.as_file().is_some();
        // What stands in the spool is what was read.
        if std::mem::take(&mut tail.doubted)
            && let Some(file) = file.as_file()
        {
            match tail.evidence.compare(file, size) {
                Ok(seen) if verdict(seen) == Verdict::Same => {
                    tail.note_size(size, now, now);
                    tail.verify();
                }
                Ok(_) => {
                    tail.forget_unverified();
                    self.note_bad(stream, Bad::Rewritten);
                    return Err(self.cut_off(stream, at, now));
                }
                Err(error) => {
                    tail.doubted = true;
                    return Err(self.unreadable(stream, at, &error, now));
                }
            }
        }
        if is_file {
            tail.mtime_ns = mtime_ns;
            tail.deleted = links == 0;
        }
        tail.note_size(size, since.unwrap_or(now), now);
        if tail.unread() == 0 {
            self.is_well(stream, at);
        }
        Ok(Looked {
            size,
            links,
            is_file,
        })
    }

    /// Looks whether the file of a generation was cut off or written anew, without waiting for its
    /// turn: older ones may hold that up, and newcomers are judged by it.
    pub(super) fn look_for_cut(&mut self, stream: usize, generation: GenerationId, now: Instant) {
        let Some(at) = self.place_of(stream, generation) else {
            return;
        };
        let Some(tail) = self.tail(stream, at) else {
            return;
        };
        if matches!(tail.place, Place::Awaited(_)) || tail.form == Form::Packed {
            return;
        }
        tail.doubted = true;
        let stuck_since = tail.stuck_since;
        // What is wrong with it otherwise is seen again in its turn, and counts from then.
        drop(self.look_at(stream, at, now));
        let at = self.place_of(stream, generation);
        if let Some(tail) = at.and_then(|at| self.tail(stream, at)) {
            tail.stuck_since = stuck_since;
        }
        self.make_ready(stream);
    }

    /// Everything is read: close what needs no file.
    fn at_end(
        &mut self,
        stream: usize,
        at: usize,
        close_at: Option<Instant>,
        now: Instant,
    ) -> Step {
        match close_at {
            Some(close_at) if close_at <= now => {
                self.end(stream, at);
                Step::Changed
            }
            // No hint speaks of a file that no path of the task names.
            Some(close_at) => {
                let look_at = self.tail(stream, at).map_or(close_at, |tail| {
                    let quiet = now.saturating_duration_since(tail.hidden_and_quiet_since());
                    now + quiet.clamp(HIDDEN_LOOK, HIDDEN_LOOK_LATEST)
                });
                Step::Nothing(Some(close_at.min(look_at)))
            }
            None => {
                if self.opened.is_over() {
                    self.close(stream, at);
                }
                Step::Nothing(None)
            }
        }
    }

    /// Opens the file of a generation where that is needed. The error is what to do instead.
    fn open(&mut self, stream: usize, at: usize, now: Instant) -> Result<(), Step> {
        let Some(tail) = self.tail(stream, at) else {
            return Err(Step::Nothing(None));
        };
        if tail.file.is_some() {
            return Ok(());
        }
        if tail.form == Form::Packed {
            return Err(self.end_of_spool(stream, at, now));
        }
        let (path, key) = (tail.real_path().clone(), tail.key);
        if !self.make_room(now) {
            return Err(self.hold(stream, at, Some(now + OPEN_AGAIN), now));
        }
        match open_file(&path).and_then(|file| Ok((file.info()?, file))) {
            Ok((info, file)) if info.key == key => {
                if let Some(tail) = self.tail(stream, at) {
                    tail.file = Some(Content::File(file));
                    tail.doubted = true;
                    tail.astray = Astray::No;
                }
                self.note_opened(stream);
                self.readable_again(stream, &path);
                Ok(())
            }
            Ok(_) => Err(self.not_there(stream, at, now)),
            Err(error) if is_absence(&error) => Err(self.not_there(stream, at, now)),
            Err(error) => Err(self.unreadable(stream, at, &error, now)),
        }
    }

    /// The path names nothing, or another file by now. Discovery will say so, unless it has.
    fn not_there(&mut self, stream: usize, at: usize, now: Instant) -> Step {
        match self.tail(stream, at).map(|tail| tail.place) {
            Some(Place::Hidden(_)) => {
                if let Some(step) = self.hunt_astray(stream, at, now) {
                    return step;
                }
                if !self.await_folder(stream, at, now) && !self.seek_packed(stream, at, now) {
                    self.end(stream, at);
                }
                Step::Changed
            }
            Some(Place::Named | Place::Awaited(_)) | None => {
                self.hold(stream, at, Some(now + TRY_AGAIN), now)
            }
        }
    }

    /// Closes the file of a generation that is read to its end; it is opened again when it grows.
    pub(super) fn close(&mut self, stream: usize, at: usize) {
        let Some(tail) = self.tail(stream, at) else {
            return;
        };
        let deleted = tail.deleted;
        let Some(file) = tail.file.take() else {
            return;
        };
        self.opened.count -= 1;
        match file {
            Content::File(file) if deleted => self.wiring.closer.close(file),
            Content::File(file) => drop(file),
            Content::Spool(spool) => self.finish(&spool),
        }
    }

    /// All of a generation is read that stands in the spool: it ends, unless there is more of it, or a
    /// path names its compressed file.
    fn end_of_spool(&mut self, stream: usize, at: usize, now: Instant) -> Step {
        if self.is_cut_short(stream, at, 1) {
            return self.next_window(stream, at, now);
        }
        match self.tail(stream, at).map(|tail| (tail.form, tail.place)) {
            Some((Form::Packed, Place::Named | Place::Awaited(_))) => {
                self.close(stream, at);
                Step::Nothing(None)
            }
            Some(_) => {
                self.end(stream, at);
                Step::Changed
            }
            None => Step::Nothing(None),
        }
    }

    /// Reads on: a block of new lines, when it is time for it.
    fn read_on(&mut self, stream: usize, at: usize, links: u64, now: Instant) -> Step {
        let is_last = self
            .streams
            .get(stream)
            .is_some_and(|known| known.tails.len() == at + 1);
        let hurry = self.stopping || self.opened.is_starved(now);
        let Some(channel) = self.streams.get(stream).map(|known| known.channel) else {
            return Step::Nothing(None);
        };
        let Some(known) = self.channels.get_mut(channel) else {
            return Step::Nothing(None);
        };
        let class = known.task.class;
        let linger = class.linger_ms();
        let wait = known.bucket.as_mut().and_then(|bucket| bucket.wait(now));
        let piece = piece_bytes(known.task.rate, self.wiring.status.bandwidth());
        let Some(tail) = self.tail(stream, at) else {
            return Step::Nothing(None);
        };
        let linger = match tail.offset() {
            0 => linger.min(FIRST_LINGER_MS),
            _ => linger,
        };
        let due = tail.unread_since.unwrap_or(now) + Duration::from_millis(linger);
        let rush = hurry || !is_last || tail.place != Place::Named;
        let unread = tail.unread();
        if unread < piece as u64 && !rush && now < due {
            return Step::Nothing(Some(due));
        }
        if let Some(wait) = wait {
            let throttled = self.wiring.status.throttled();
            throttled.note(class, Reason::Rate, now, now + wait);
            return Step::Nothing(Some(now + wait));
        }
        let Some(recipe) = self.channels.get(channel).map(|known| &known.task.recipe) else {
            return Step::Nothing(None);
        };
        let recipe = Arc::clone(recipe);
        let piece = if piece == BLOCK_BYTES && unread <= LARGE_BLOCK_BYTES as u64 {
            LARGE_BLOCK_BYTES
        } else {
            piece
        };
        let look = recipe.framer.look_bytes();
        let mut look_at = (piece.min(CRUMB_BYTES), piece, Unfinished::Leave);
        loop {
            let step = self.read_block(stream, at, &recipe, look_at, links, now);
            let (least, want, unfinished) = look_at;
            if !matches!(step, Step::Hold(None)) || unfinished == Unfinished::Flush {
                return step;
            }
            if self.is_cut_short(stream, at, look.max(piece)) {
                return self.next_window(stream, at, now);
            }
            // A record that is longer than what was read, and perhaps too long: see more of it.
            let more = if least < want { want } else { want * 4 };
            look_at = if more < look {
                (more, more, Unfinished::Leave)
            } else {
                let all = look.max(piece);
                (all, all, Unfinished::Flush)
            };
        }
    }

    /// Reads up to `want` bytes, but not fewer than `least`, and makes a batch of them. `Hold` means:
    /// all of it is one unfinished record, and the file has more.
    fn read_block(
        &mut self,
        stream: usize,
        at: usize,
        recipe: &Compiled,
        (least, want, mut unfinished): (usize, usize, Unfinished),
        links: u64,
        now: Instant,
    ) -> Step {
        let joins = recipe.framer.joins_lines();
        if joins {
            self.take_over(stream, at);
        }
        let followed = joins && self.is_followed(stream, at);
        let Some(tail) = self.tail(stream, at) else {
            return Step::Nothing(None);
        };
        let unread = usize::try_from(tail.unread()).unwrap_or(usize::MAX);
        let (least, want) = (unread.min(least), unread.min(want));
        let Some(permit) = self.permit(stream, least, want) else {
            return Step::Blocked;
        };
        let want = source_of(permit.bytes()).clamp(least, want);
        let block = match self.fill_block(stream, at, want, now) {
            Ok(block) => block,
            Err(step) => return step,
        };
        let known = self.streams.get_mut(stream);
        let Some(tail) = known.and_then(|known| known.tails.get_mut(at)) else {
            return Step::Nothing(None);
        };
        // The marked bytes must still be there: otherwise the file was written anew under us.
        if !tail.is_in_place(self.block.get(..block.before).unwrap_or_default()) {
            let shrunk = (block.before as u64) < tail.offset().min(MARK_BYTES);
            self.note_bad(stream, if shrunk { Bad::Shrunk } else { Bad::Rewritten });
            return self.cut_off(stream, at, now);
        }
        if block.len == block.before {
            return Step::Nothing(None);
        }
        let goes_on = tail.file.as_ref().is_some_and(|file| file.beyond() > 0);
        let more = goes_on || (block.len - block.before) == want && unread > want;
        let read = self.block.get(..block.len).unwrap_or_default();
        let end = tail.offset() + (block.len - block.before) as u64;
        let within_line = recipe.framer.text_of(tail.carry).is_mid_line(end, read);
        let (unfinished_at, then) = patience_with(tail, recipe, within_line, followed, now);
        let is_over = now >= unfinished_at && !more;
        let may_join = is_over && followed && !within_line && !tail.carry.is_dropping();
        if is_over {
            unfinished = if may_join { Unfinished::Leave } else { then };
        }
        let step = if tail.carry.is_dropping() {
            drop(permit);
            self.drop_rest(stream, at, block, unfinished, now)
        } else if let Some(step) = self.skip_hole(stream, at, block, now) {
            return step;
        } else if self.cut(stream, at, block, unfinished, permit, now) {
            Step::Did
        } else if may_join {
            return self.end_of_file(stream, at, block, recipe, then, now);
        } else {
            Step::Hold(None)
        };
        if more || matches!(step, Step::Did) {
            return step;
        }
        // Only an unfinished record is there: it gets its time, whatever else arrives of it.
        let Some(tail) = self.tail(stream, at) else {
            return Step::Nothing(None);
        };
        tail.held_since.get_or_insert(now);
        tail.unread_since = Some(now);
        let close_at = tail.close_at(links);
        let until = close_at.map_or(unfinished_at, |close_at| close_at.min(unfinished_at));
        let until = Some(until.max(now + MOMENT));
        if joins && self.holds_next(stream, at, followed, now) {
            return Step::Hold(until);
        }
        Step::Nothing(until)
    }

    /// Reads up to `want` new bytes into the block. The error is what to do instead.
    fn fill_block(
        &mut self,
        stream: usize,
        at: usize,
        want: usize,
        now: Instant,
    ) -> Result<Block, Step> {
        let known = self.streams.get(stream);
        let tail = known.and_then(|known| known.tails.get(at));
        let Some((tail, file)) = tail.and_then(|tail| Some((tail, tail.file.as_ref()?))) else {
            return Err(Step::Nothing(None));
        };
        match fill(file, tail.offset(), want, &mut self.block) {
            Ok(block) => {
                self.turn_bytes += (block.len - block.before) as u64;
                self.is_well(stream, at);
                Ok(block)
            }
            Err(error) => Err(self.unreadable(stream, at, &error, now)),
        }
    }

    /// The right to hold a batch of `most` bytes of source, or of as many as there is room for, but
    /// not fewer than `least`.
    pub(super) fn permit(&mut self, stream: usize, least: usize, most: usize) -> Option<Permit> {
        let channel = self.channels.get_mut(self.streams.get(stream)?.channel)?;
        let (budget, task) = (&self.wiring.budget, &channel.task);
        let share = channel
            .share
            .get_or_insert_with(|| budget.share(&task.topic, task.class));
        share.take(need_of(least), need_of(most))
    }

    /// A file that cannot be read: told once, tried again, in nobody's way.
    fn unreadable(&mut self, stream: usize, at: usize, error: &io::Error, now: Instant) -> Step {
        if let Some(tail) = self.tail(stream, at) {
            let path = tail.path.clone();
            let channel = self.streams.get(stream).map_or(0, |known| known.channel);
            self.tell_unreadable(channel, &path, error);
        }
        if error.kind() != io::ErrorKind::TimedOut {
            self.open_anew(stream, at);
        }
        self.hold(stream, at, Some(now + TRY_AGAIN), now)
    }

    /// A generation can be neither read nor given up; it is looked at again at `again`, or when
    /// something happens. Younger ones wait for it, for the order's sake, but not for long: whatever
    /// is wrong with a file, the log that is written goes on.
    pub(super) fn hold(
        &mut self,
        stream: usize,
        at: usize,
        again: Option<Instant>,
        now: Instant,
    ) -> Step {
        let Some(tail) = self.tail(stream, at) else {
            return Step::Nothing(None);
        };
        let until = *tail.stuck_since.get_or_insert(now) + HOLD_YOUNGER;
        if now >= until {
            return Step::Nothing(again);
        }
        Step::Hold(Some(again.map_or(until, |again| again.min(until))))
    }
}

/// How much is read at once for a task with this rate, at this bandwidth: as much as that takes a
/// moment, so that nobody is behind a batch for long.
pub(super) fn piece_bytes(rate: Option<u64>, bandwidth: Option<u64>) -> usize {
    let part = |bytes: u64| usize::try_from(bytes).unwrap_or(BLOCK_BYTES);
    let by_rate = rate.map_or(BLOCK_BYTES, |rate| part(rate / RATE_PART));
    let by_bandwidth = bandwidth.map_or(BLOCK_BYTES, |bandwidth| {
        part(bandwidth / BANDWIDTH_PART).max(CRUMB_BYTES)
    });
    by_rate.min(by_bandwidth).min(BLOCK_BYTES)
}

/// Until when what is unfinished at the end of a file may wait for more, and what is taken then.
pub(super) fn patience_with(
    tail: &Tail,
    recipe: &Compiled,
    within_line: bool,
    followed: bool,
    now: Instant,
) -> (Instant, Unfinished) {
    let mut patience = recipe.framer.patience(within_line);
    if followed && !within_line {
        patience = patience.min(PATIENCE_WHEN_FOLLOWED);
    }
    // Others may have kept the file growing; a line that is being written gets its time.
    let grows = now < tail.grown + patience;
    let then = if grows {
        Unfinished::Flush
    } else {
        Unfinished::Take
    };
    let since = match tail.held_since {
        Some(held) if recipe.framer.is_interleaved() => held.min(tail.grown),
        Some(_) | None => tail.grown,
    };
    (since + patience, then)
}

/// The memory that a batch of so many bytes of source may need: what does not compress has its framing
/// on top, so short lines may double. More than a block is read for one long line.
fn need_of(source: usize) -> u64 {
    let source = source as u64;
    source + source.min(BLOCK_BYTES as u64) + BATCH_OVERHEAD_BYTES
}

/// The bytes of source for which so much memory is enough.
fn source_of(need: u64) -> usize {
    let both = need.saturating_sub(BATCH_OVERHEAD_BYTES);
    let source = (both / 2).max(both.saturating_sub(BLOCK_BYTES as u64));
    usize::try_from(source).unwrap_or(usize::MAX)
}

/// Fills the block from the marked bytes before `offset` on, with `want` new bytes at most.
pub(super) fn fill(
    file: &Content,
    offset: u64,
    want: usize,
    block: &mut Vec<u8>,
) -> io::Result<Block> {
    let covered = offset.min(MARK_BYTES);
    let before = usize::try_from(covered).unwrap_or(0);
    if block.len() < before + want {
        block.resize(before + want, 0);
    }
    let mut len = 0;
    while len < before + want {
        let room = block.get_mut(len..before + want).unwrap_or_default();
        match file.read_at(room, offset - covered + len as u64) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // Shorter than the mark: cut off since the look; the mark will not fit.
    Ok(Block {
        before: before.min(len),
        len,
    })
}
