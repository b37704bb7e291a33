//! Joins a record that begins at the end of one file and goes on at the beginning of the next.
//!
//! When the time of a file is over whose last record is not whole, and the file behind it in its
//! stream has lines, these say what to do. A line that begins a record says that the one before was
//! whole. Otherwise the end of the old file, and what the new one begins with, are made a batch of
//! the new file as if they stood in one. The bytes of the old file go into the checkpoint with the
//! cut, in one record, and stay there until the batch has ended: so both files move on together or
//! not at all, and the batch is made again without the old file.
//!
//! What cannot be joined, or must not be, stays as it is without this: two records, the first `cut`,
//! the second `continues`. So it is when the log was rotated twice between two looks (see [`super::between`]).
//!
//! Not for: when the time of a file is over (see [`super::turn`]), framing (see [`crate::frame`]).

use std::sync::Arc;

use tokio::time::Instant;
use tributary_common::ids::{BatchId, GenerationId};

use super::{
    Reader,
    between::lies_between,
    cut::{carry_to, grow_prefix, header},
    make::{Making, Seam},
    run::{Part, Run},
    turn::{Block, MOMENT, Step, TRY_AGAIN, fill, patience_with, piece_bytes},
};
use crate::{
    checkpoint::{Cut, Joint, MadeBy, Record, State},
    clock,
    content::Content,
    frame::{Carry, Tail as Unfinished},
    identify::Mark,
    limit::BATCH_OVERHEAD_BYTES,
    recipe::Compiled,
    send::Outgoing,
    shown::shown,
    tail::{FirstBytes, Place, Tail},
};

/// The most bytes of the files before its own that a batch begins with.
const MOST_BYTES: usize = 1 << 20;
/// The most such bytes of all batches that have not ended.
const MOST_IN_ALL: usize = 4 << 20;

/// What came of the end of a file.
enum Joined {
    /// Nothing is left to do with it now.
    Step(Step),
    /// The next file shows that its last record is whole.
    Whole,
    /// It is cut off as if there were no next file.
    Apart,
}

/// What the next file said.
enum Seen {
    /// Do this, and look again.
    Step(Step),
    /// The record before it is whole without it.
    Whole,
    /// It has nothing to do with the record.
    Apart,
    /// Make a batch of what there is.
    Cut(Unfinished),
    /// All of it belongs to the record, and its time is over, too.
    Further,
}

impl Reader {
    /// The time of the last record of a file is over, and the next file has lines: they say what
    /// becomes of it.
    pub(super) fn end_of_file(
        &mut self,
        stream: usize,
        at: usize,
        block: Block,
        recipe: &Compiled,
        then: Unfinished,
        now: Instant,
    ) -> Step {
        let unfinished = match self.join(stream, at, block, recipe, now) {
            Joined::Step(step) => return step,
            Joined::Whole => Unfinished::Again(Carry::default()),
            Joined::Apart => then,
        };
        let bytes = block.len - block.before;
        let Some(permit) = self.permit(stream, bytes, bytes) else {
            return Step::Blocked;
        };
        if self.cut(stream, at, block, unfinished, permit, now) {
            Step::Did
        } else {
            Step::Nothing(Some(now + TRY_AGAIN))
        }
    }

    /// The time of a file is over whose last record, all of the block, is not whole: goes on with it
    /// in the next file.
    fn join(
        &mut self,
        stream: usize,
        at: usize,
        block: Block,
        recipe: &Compiled,
        now: Instant,
    ) -> Joined {
        let Some(mut run) = self.run_of(stream, at, block, recipe) else {
            return Joined::Apart;
        };
        loop {
            let is_first = run.parts.len() == 1;
            let seen = self.look_on(stream, &mut run, recipe, now);
            // What said that the record is whole is not part of the run.
            let seams = match seen {
                Seen::Whole => run.parts.len(),
                Seen::Cut(_) => run.parts.len() - 1,
                Seen::Step(_) | Seen::Apart | Seen::Further => 0,
            };
            if self.any_between(stream, &run, seams) {
                return Joined::Apart;
            }
            let tail = match seen {
                Seen::Step(step) => return Joined::Step(step),
                Seen::Further => continue,
                Seen::Whole if is_first => return Joined::Whole,
                Seen::Apart if is_first => return Joined::Apart,
                Seen::Whole => Unfinished::Again(Carry::default()),
                Seen::Apart => Unfinished::Take,
                Seen::Cut(tail) => tail,
            };
            return self.cut_joined(stream, &run, tail, recipe, now);
        }
    }

    fn run_of(&self, stream: usize, at: usize, block: Block, recipe: &Compiled) -> Option<Run> {
        let tail = self.streams.get(stream)?.tails.get(at)?;
        let carry = carry_to(tail, recipe, &self.block, block)?;
        let part = Part {
            at,
            generation: tail.generation,
            seam: Seam {
                at: 0,
                offset: tail.offset(),
            },
            skipped: 0,
            before: self.block.get(..block.before)?.to_vec(),
        };
        Some(Run {
            carry,
            parts: vec![part],
            bytes: self.block.get(block.before..block.len)?.to_vec(),
        })
    }

    /// Whether at one of the first seams of a run a file lies between the two that no look has seen as the log.
    fn any_between(&self, stream: usize, run: &Run, seams: usize) -> bool {
        let (Some(known), Some(first)) = (self.streams.get(stream), run.parts.first()) else {
            return false;
        };
        let files = known.tails.get(first.at..).unwrap_or_default();
        let mut pairs = files.windows(2).take(seams);
        pairs.any(|pair| matches!(pair, [old, next] if lies_between(old, next)))
    }

    /// Looks at the file behind the last one of a run, and adds what it begins with where it goes on
    /// with the record.
    fn look_on(&mut self, stream: usize, run: &mut Run, recipe: &Compiled, now: Instant) -> Seen {
        let Some(at) = run.parts.last().map(|last| last.at + 1) else {
            return Seen::Apart;
        };
        if let Err(seen) = self.may_go_on_in(stream, at, recipe, now) {
            return seen;
        }
        let Some(piece) = self.piece_of(stream) else {
            return Seen::Apart;
        };
        let begin = run.bytes.len();
        for want in [piece, MOST_BYTES.saturating_sub(begin)] {
            let Some(more) = self.add_head(stream, at, run, want, recipe) else {
                return Seen::Apart;
            };
            let (framer, source) = (&recipe.framer, run.source(Unfinished::Leave));
            if !framer.is_interleaved() && framer.is_whole_at(source, begin) {
                run.shorten();
                return Seen::Whole;
            }
            if framer.frame(source, |_| true).used > begin {
                return Seen::Cut(Unfinished::Leave);
            }
            if !more {
                return self.wait_for_its_end(stream, at, run, recipe, now);
            }
            run.shorten();
        }
        Seen::Apart
    }

    /// Whether a record may go on in a file of which nothing was read: it can be read, and was begun
    /// while the record had time to grow.
    fn may_go_on_in(
        &mut self,
        stream: usize,
        at: usize,
        recipe: &Compiled,
        now: Instant,
    ) -> Result<(), Seen> {
        let is_unread = |tail: &mut Tail| {
            tail.offset() == 0
                && tail.replay.is_empty()
                && !tail.leaving
                && !matches!(tail.place, Place::Awaited(_))
        };
        if !self.tail(stream, at).is_some_and(is_unread) {
            return Err(Seen::Apart);
        }
        match self.look_at(stream, at, now) {
            Ok(_) => {}
            Err(Step::Nothing(_)) => return Err(Seen::Apart),
            Err(step) => return Err(Seen::Step(step)),
        }
        let Some(tail) = self.tail(stream, at).filter(|tail| tail.unread() > 0) else {
            return Err(Seen::Apart);
        };
        let first = std::mem::take(&mut tail.first);
        if first == FirstBytes::ToCome && self.is_judged_anew(stream, at, now) {
            self.end_unread(stream, at);
            return Err(Seen::Step(Step::Changed));
        }
        let in_time = self.streams.get(stream).is_some_and(|known| {
            let (old, next) = (known.tails.get(at - 1), known.tails.get(at));
            old.zip(next)
                .is_some_and(|(old, next)| follows_in_time(old, next, recipe))
        });
        if in_time { Ok(()) } else { Err(Seen::Apart) }
    }

    /// How much of a stream's file is read at once.
    fn piece_of(&self, stream: usize) -> Option<usize> {
        let channel = self.streams.get(stream)?.channel;
        let rate = self.channels.get(channel)?.task.rate;
        Some(piece_bytes(rate, self.wiring.status.bandwidth()))
    }

    /// Adds up to `want` bytes of the beginning of a file to a run, and says whether it has more;
    /// `None` when they do not go on with what is there.
    fn add_head(
        &mut self,
        stream: usize,
        at: usize,
        run: &mut Run,
        want: usize,
        recipe: &Compiled,
    ) -> Option<bool> {
        let tail = self.streams.get(stream)?.tails.get(at)?;
        let unread = usize::try_from(tail.unread()).unwrap_or(usize::MAX);
        let mut head = Vec::new();
        let block = fill(tail.file.as_ref()?, 0, want.min(unread), &mut head).ok()?;
        head.truncate(block.len);
        self.turn_bytes += head.len() as u64;
        // A writer that does not append leaves a hole; another byte order is another text.
        let width = recipe.label.text().width();
        let is_hole = head.iter().take(width).all(|&byte| byte == 0);
        let is_big = recipe.label.is_big(&head);
        let is_odd = !run.bytes.len().is_multiple_of(width);
        if is_hole || is_odd || is_big != run.carry.has(Carry::BIG) {
            return None;
        }
        let skipped = recipe.framer.mark_bytes(run.carry, &head);
        let bytes = head.get(skipped..).unwrap_or_default();
        run.parts.push(Part {
            at,
            generation: tail.generation,
            seam: Seam {
                at: run.bytes.len(),
                offset: skipped as u64,
            },
            skipped,
            before: head.get(..skipped).unwrap_or_default().to_vec(),
        });
        run.bytes.extend_from_slice(bytes);
        Some(unread > head.len())
    }

    /// All of the last file of a run belongs to a record that is not whole: it gets the time of that
    /// file.
    fn wait_for_its_end(
        &mut self,
        stream: usize,
        at: usize,
        run: &Run,
        recipe: &Compiled,
        now: Instant,
    ) -> Seen {
        let followed = self.is_followed(stream, at);
        let text = recipe.framer.text_of(run.carry);
        let within_line = text.is_mid_line(run.bytes.len() as u64, &run.bytes);
        let Some(tail) = self.tail(stream, at) else {
            return Seen::Apart;
        };
        let (until, then) = patience_with(tail, recipe, within_line, followed, now);
        if now < until && run.bytes.len() < MOST_BYTES {
            tail.held_since.get_or_insert(now);
            return Seen::Step(Step::Hold(Some(until.max(now + MOMENT))));
        }
        if followed && !within_line && run.bytes.len() < MOST_BYTES {
            Seen::Further
        } else {
            Seen::Cut(then)
        }
    }

    /// Makes a batch of the last file of a run, with what stands before.
    fn cut_joined(
        &mut self,
        stream: usize,
        run: &Run,
        tail: Unfinished,
        recipe: &Compiled,
        now: Instant,
    ) -> Joined {
        let held = self.wiring.checkpoint.read(|state| state.joint_bytes());
        let (begin, all) = (run.begin(), run.bytes.len());
        if begin > MOST_BYTES || held + begin > MOST_IN_ALL {
            return Joined::Apart;
        }
        let Some(mut permit) = self.permit(stream, all, all) else {
            return Joined::Step(Step::Blocked);
        };
        let Some(known) = self.streams.get(stream) else {
            return Joined::Apart;
        };
        let id = BatchId {
            stream: known.id,
            epoch: self.wiring.epoch,
            seq: known.seq,
        };
        let making = Making {
            id,
            read_ms: clock::now_ms(),
            file: known.path.as_bytes(),
            source: run.source(tail),
            seams: &run.seams(),
        };
        let made = self.maker.make(recipe, making);
        let used = made.framed.used;
        let (Some(encoded), Some(own), true) = (&made.encoded, run.parts.last(), used > begin)
        else {
            return Joined::Apart;
        };
        let (Some(owner), Some(channel)) = (
            known.tails.get(own.at),
            self.channels.get_mut(known.channel),
        ) else {
            return Joined::Apart;
        };
        let (span, mark) = own.span(&run.bytes, used);
        let cut = Cut {
            id,
            generation: own.generation,
            span,
            read_ms: making.read_ms,
            records: encoded.records,
            minutes: encoded.minutes.clone(),
            content_sum: encoded.content_sum,
            mark: mark.hash,
            recipe: MadeBy::Recipe(channel.recipe_no),
            before: made.before,
            after: made.framed.carry,
        };
        if let Some(bucket) = &mut channel.bucket {
            bucket.take(used as u64);
        }
        channel.count_read(used as u64, &made);
        permit.keep(encoded.payload.len() as u64 + BATCH_OVERHEAD_BYTES);
        let file = shown(&owner.path);
        let header = header(&self.wiring.agent, channel, &cut, encoded, file, 0);
        let payload = encoded.payload.clone();
        self.note_joined(stream, run, cut, mark, now);
        self.queue(Outgoing {
            header: Box::new(header),
            payload,
            permit,
        });
        for dropped in &made.framed.dropped {
            for (generation, span) in run.places(dropped) {
                let file = self.name_of(stream, generation);
                self.lose(stream, generation, file, span, "line-truncated", None);
            }
        }
        Joined::Step(Step::Did)
    }

    /// Moves all files of a run on behind what became a batch, and writes that to the checkpoint.
    fn note_joined(&mut self, stream: usize, run: &Run, cut: Cut, mark: Mark, now: Instant) {
        let joint = run.joint();
        let after = cut.after;
        let Some(known) = self.streams.get_mut(stream) else {
            return;
        };
        let id = known.id;
        known.seq += 1;
        for (part, end) in run.parts.iter().zip(&joint.from) {
            if let Some(tail) = known.tails.get_mut(part.at) {
                let mark = Mark {
                    offset: end.span.end,
                    hash: end.mark,
                };
                tail.advance(mark, tail.carry.behind_joined(), now);
            }
        }
        let mut records = vec![Record::Joined { cut, joint }];
        if let Some(own) = run.parts.last()
            && let Some(tail) = known.tails.get_mut(own.at)
        {
            tail.advance(mark, after, now);
            if grow_prefix(tail) {
                records.push(Record::Generation(tail.record(id)));
            }
        }
        self.wiring.checkpoint.write(records);
    }

    /// Where a generation was seen last, for people.
    pub(super) fn name_of(&self, stream: usize, generation: GenerationId) -> String {
        if let Some(tail) = self.tail_of(stream, generation) {
            return shown(&tail.path);
        }
        let known = self.streams.get(stream);
        let id = known.map(|known| known.id);
        let path = self.wiring.checkpoint.read(|state| {
            let record = state.generation(id?, generation)?;
            Some(record.path.clone())
        });
        let path = path.or_else(|| known.map(|known| known.path.clone()));
        path.map(|path| shown(&path)).unwrap_or_default()
    }

    /// What a cut begins with of the files before its own, if anything.
    pub(super) fn joint_of(&self, batch: BatchId) -> Option<Arc<Joint>> {
        let joint = |state: &State| state.joints.get(&batch).cloned();
        self.wiring.checkpoint.read(joint).map(Arc::new)
    }
}

/// Whether a file was begun before a record at the end of the one before had its time. Whoever looks
/// late may see a later file behind it than the one in which it went on.
fn follows_in_time(old: &Tail, next: &Tail, recipe: &Compiled) -> bool {
    let file = next.file.as_ref().and_then(Content::as_file);
    let born = match file {
        Some(file) if next.truncations == 0 && old.mtime_ns != 0 => file.born_ns(),
        Some(_) | None => None,
    };
    let patience = i64::try_from(recipe.framer.patience(false).as_nanos()).unwrap_or(i64::MAX);
    born.is_none_or(|born| born <= old.mtime_ns.saturating_add(patience))
}
