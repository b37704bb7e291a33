//! Compressed files that hold more than there is room for: read window by window.
//!
//! A window is a file of the spool that holds a part of its generation. Read to its end and acknowledged,
//! it is replaced by the next one. What is left in it by then is the beginning of a record at most, and
//! stands in the next one as well; so a window holds more than the longest record, whatever that takes.
//!
//! Not for: unpacking (see [`crate::spool`]), finding compressed files (see [`super::packed`]).

use std::{io, time::Duration};

use tokio::time::Instant;

use super::{
    BLOCK_BYTES, Reader,
    copies::folder_of,
    packed::packed_beside,
    turn::{LARGE_BLOCK_BYTES, Step, TRY_AGAIN},
};
use crate::{
    content::Content,
    discover::is_absence,
    far, handle,
    identify::MARK_BYTES,
    spool::{Job, Room},
    tail::{Form, Place},
};

/// A window takes this part of `limits.spool`: several are there at once, and what deleted files hold.
const WINDOW_PART: u64 = 8;
/// While batches of a window are under way, it is looked at this often whether they have ended.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// The other thread says when it has unpacked a window; should it not, it is asked again.
const PATIENCE: Duration = Duration::from_secs(5);
/// A compressed file that is gone is looked for this often before the rest of it is lost.
const MAX_SEEKS: u32 = 5;

impl Reader {
    /// What a file of the spool may take that is unpacked for a channel.
    pub(super) fn room_of(&self, channel: usize) -> Room {
        let look = self
            .channels
            .get(channel)
            .map_or(0, |known| known.task.recipe.framer.look_bytes());
        Room {
            disk: self.wiring.limits.spool / WINDOW_PART,
            least: (look.max(LARGE_BLOCK_BYTES) + BLOCK_BYTES) as u64,
        }
    }

    /// Whether there is room on the disk for one more, beside those that are being unpacked. There is
    /// always room for one, whatever the limit.
    pub(super) fn has_room_for(&self, room: Room, replaced: u64) -> bool {
        let (there, asked) = (self.spooling.on_disk(), self.spooling.unpacking);
        let each = room.disk.max(room.least);
        (asked == 0 && there == replaced) || there + (asked + 1) * each <= self.wiring.limits.spool
    }

    /// Whether so many bytes of a window are too few to find the end of a record in, and more are to come.
    pub(super) fn is_cut_short(&self, stream: usize, at: usize, bytes: usize) -> bool {
        let tail = self
            .streams
            .get(stream)
            .and_then(|known| known.tails.get(at));
        tail.is_some_and(|tail| {
            let file = tail.file.as_ref();
            tail.unread() < bytes as u64 && file.is_some_and(|file| file.beyond() > 0)
        })
    }

    /// Whether batches have to be made again of bytes before the window: a power cut took what the
    /// checkpoint knew of their end.
    pub(super) fn lacks_beginning(&self, stream: usize, at: usize) -> bool {
        let tail = self
            .streams
            .get(stream)
            .and_then(|known| known.tails.get(at));
        tail.is_some_and(|tail| {
            let oldest = tail.replay.iter().map(|cut| cut.span.start).min();
            let first = oldest.unwrap_or(u64::MAX).min(tail.offset());
            let file = tail.file.as_ref();
            file.is_some_and(|file| file.begins_behind(first.saturating_sub(MARK_BYTES)))
        })
    }

    /// A window is read to its end, and there is more: the next one is unpacked when all of it is
    /// acknowledged and there is room.
    pub(super) fn next_window(&mut self, stream: usize, at: usize, now: Instant) -> Step {
        let Some(mut meta) = self.meta_of(stream, at) else {
            return Step::Nothing(None);
        };
        let Some(tail) = self.tail(stream, at) else {
            return Step::Nothing(None);
        };
        let failed = tail.seek.times > 0;
        if tail.seek.running && !failed {
            return Step::Hold(Some(now + PATIENCE));
        }
        let again = tail.seek.since.map(|asked| asked + TRY_AGAIN);
        if let Some(again) = again.filter(|&again| failed && (tail.seek.running || now < again)) {
            // It may fail for ever: who is younger does not wait so long.
            return self.hold(stream, at, Some(again.max(now + LOOK_AGAIN)), now);
        }
        let acknowledged = meta.start + MARK_BYTES >= tail.offset();
        if tail.replay.is_empty() && !acknowledged {
            return Step::Hold(Some(now + LOOK_AGAIN));
        }
        let (of, form, path) = (tail.generation, tail.form, tail.real_path().to_owned());
        let (evidence, times) = (tail.evidence, tail.seek.times);
        let Some(Content::Spool(spool)) = &tail.file else {
            return Step::Nothing(None);
        };
        meta.total = Some(spool.total());
        let replaced = spool.bytes;
        let channel = self.streams.get(stream).map_or(0, |known| known.channel);
        let room = self.room_of(channel);
        // One that was renamed is found by its name of now, one that was plain by its content.
        let candidates = match form {
            Form::Packed => Ok(vec![path.to_path_buf()]),
            Form::Plain => far::entries(folder_of(&path)).map(|_can_be_read| packed_beside(&path)),
        };
        let Some(candidates) = candidates
            .ok()
            .filter(|_| self.has_room_for(room, replaced))
        else {
            return self.hold(stream, at, Some(now + TRY_AGAIN), now);
        };
        let job = Job::Continue {
            of: (stream, of),
            candidates,
            evidence,
            meta,
            final_try: form == Form::Plain && times >= MAX_SEEKS,
            room,
            restraint: self.restraint_of(self.class_of(stream)),
        };
        if self.wiring.spool.jobs.try_send(job).is_err() {
            return self.hold(stream, at, Some(now + TRY_AGAIN), now);
        }
        self.spooling.unpacking += 1;
        if let Some(tail) = self.tail(stream, at) {
            tail.seek.running = true;
            tail.seek.since = Some(now);
        }
        Step::Hold(Some(now + PATIENCE))
    }

    /// No next window could be unpacked, for good or not. What is gone, or is another file by now, is given
    /// up after a while; anything else is told and tried again.
    pub(super) fn no_window(&mut self, stream: usize, at: usize, again: bool, why: &str) {
        let channel = self.streams.get(stream).map_or(0, |known| known.channel);
        let Some(tail) = self.tail(stream, at) else {
            return;
        };
        tail.seek.running = false;
        tail.seek.times += 1;
        let (path, key) = (tail.real_path().to_owned(), tail.key);
        let is_gone = match handle::of_path(&path) {
            Ok(info) => info.key != key,
            Err(error) => is_absence(&error),
        };
        // Where a path of the task names it, discovery says where it is now, or that it is nowhere.
        let is_gone = is_gone && tail.form == Form::Packed && tail.place != Place::Named;
        if (is_gone || !again) && tail.seek.times > MAX_SEEKS {
            self.end(stream, at);
        } else {
            let error = io::Error::other(format!("its rest cannot be decompressed: {why}"));
            self.tell_unreadable(channel, &path, &error);
        }
        self.make_ready(stream);
    }
}
