//! Makes batches: of a block of new lines, and again of a span that an earlier life had cut.
//!
//! A cut is written to the checkpoint before its batch is handed over, with those of its hand. Read again, the span gives the
//! same records under the same identity; the content sum proves it, and what is not the same is lost
//! and said so.
//!
//! Not for: when to read (see [`super::turn`]).

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tributary_common::{
    batch::Encoded,
    header::BatchHeader,
    ids::{BatchId, Class, GenerationId},
    report::Loss,
    span::Span,
};

use super::{
    Channel, Reader,
    make::{Made, Making},
    run::again,
    turn::{Block, Step, fill},
};
use crate::{
    checkpoint::{Cut, End, Joint, MadeBy, Record},
    clock,
    content::Content,
    frame::{Carry, Framed, Source, Tail as Unfinished, text::Label},
    identify::{MARK_BYTES, Mark, PREFIX_BYTES, mark_at, prefix_of},
    limit::{BATCH_OVERHEAD_BYTES, Permit},
    recipe::Compiled,
    send::Outgoing,
    shown::shown,
    tail::Tail,
};

/// Batches that wake the sender once, and whose cuts are one write to the checkpoint: so many, when
/// they come to so many bytes, and more of small ones. A bulk file at 10 MB/s has eight in a turn of its
/// clock, a thousand files that are written to now and then a hundred; each waking costs 50 µs.
const HANDED_AT_ONCE: usize = 16;
const HANDED_BYTES: usize = 256 << 10;
const HANDED_AT_MOST: usize = 128;
/// A span that cannot be read is tried again after this long.
const REPLAY_AGAIN: Duration = Duration::from_secs(2);

/// A batch that was made of new bytes.
struct MadeNow {
    id: BatchId,
    read_ms: u64,
    made: Made,
    permit: Permit,
}

impl Reader {
    /// Makes a batch of the new bytes of the block; false when they hold no whole line.
    pub(super) fn cut(
        &mut self,
        stream: usize,
        at: usize,
        block: Block,
        unfinished: Unfinished,
        permit: Permit,
        now: Instant,
    ) -> bool {
        let Some(known) = self.streams.get(stream) else {
            return false;
        };
        let Some(tail) = known.tails.get(at) else {
            return false;
        };
        let Some(channel) = self.channels.get_mut(known.channel) else {
            return false;
        };
        let start = tail.offset();
        let recipe = &channel.task.recipe;
        let Some(carry) = carry_to(tail, recipe, &self.block, block) else {
            return false;
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
            source: Source {
                bytes: self.block.get(block.before..block.len).unwrap_or_default(),
                at: start,
                carry,
                tail: unfinished,
            },
            seams: &[],
        };
        let made = self.maker.make(recipe, making);
        if made.framed.used == 0 {
            return false;
        }
        let made_now = MadeNow {
            id,
            read_ms: making.read_ms,
            made,
            permit,
        };
        self.go_on_behind(stream, at, block.before, made_now, now);
        true
    }

    /// Moves on behind the bytes that were used, with their batch if there is one.
    fn go_on_behind(
        &mut self,
        stream: usize,
        at: usize,
        before: usize,
        made_now: MadeNow,
        now: Instant,
    ) {
        let MadeNow {
            id,
            read_ms,
            made,
            mut permit,
        } = made_now;
        let Some(known) = self.streams.get(stream) else {
            return;
        };
        let Some(tail) = known.tails.get(at) else {
            return;
        };
        let Some(channel) = self.channels.get_mut(known.channel) else {
            return;
        };
        let framed = &made.framed;
        let start = tail.offset();
        let span = Span {
            start,
            end: start + framed.used as u64,
        };
        let read = self.block.get(..before + framed.used).unwrap_or_default();
        let mark = Mark::at(span.end, read);
        let (generation, file) = (tail.generation, shown(&tail.path));
        if let Some(bucket) = &mut channel.bucket {
            bucket.take(span.bytes());
        }
        if let Some(encoded) = &made.encoded {
            channel.count_read(span.bytes(), &made);
            let recipe = MadeBy::Recipe(channel.recipe_no);
            let cut = Cut {
                id,
                generation,
                span,
                read_ms,
                records: encoded.records,
                minutes: encoded.minutes.clone(),
                content_sum: encoded.content_sum,
                mark: mark.hash,
                recipe,
                before: made.before,
                after: framed.carry,
            };
            permit.keep(encoded.payload.len() as u64 + BATCH_OVERHEAD_BYTES);
            let header = header(&self.wiring.agent, channel, &cut, encoded, file.clone(), 0);
            self.note_cut(stream, at, cut, mark, now);
            let header = Box::new(header);
            self.queue(Outgoing {
                header,
                payload: encoded.payload.clone(),
                permit,
            });
        } else {
            self.skip(stream, at, mark, framed.carry, now);
            if framed.records > 0 {
                let records = Some(framed.records.into());
                let why = "cannot-be-encoded";
                self.lose(stream, generation, file.clone(), span, why, records);
            }
        }
        self.lose_dropped(stream, generation, &file, start, &made.framed);
    }

    /// Says what was dropped from lines that were too long.
    fn lose_dropped(
        &mut self,
        stream: usize,
        generation: GenerationId,
        file: &str,
        start: u64,
        framed: &Framed,
    ) {
        for dropped in &framed.dropped {
            let span = Span {
                start: start + dropped.start as u64,
                end: start + dropped.end as u64,
            };
            self.lose(
                stream,
                generation,
                file.to_owned(),
                span,
                "line-truncated",
                None,
            );
        }
    }

    /// Moves the offset to the end of a new cut, and notes it for the checkpoint: it is written with
    /// those that are handed over together.
    fn note_cut(&mut self, stream: usize, at: usize, cut: Cut, mark: Mark, now: Instant) {
        let carry = cut.after;
        let mut records = vec![Record::Cut(cut)];
        if let Some(known) = self.streams.get_mut(stream) {
            known.seq += 1;
            let id = known.id;
            if let Some(tail) = known.tails.get_mut(at) {
                tail.advance(mark, carry, now);
                if grow_prefix(tail) {
                    records.push(Record::Generation(tail.record(id)));
                }
                records.extend(tail.seen_beyond(id, false));
            }
        }
        self.wiring.checkpoint.note(records);
    }

    /// Drops the rest of a record that was truncated: of a line, or of a group of them. `Hold` means:
    /// it cannot be told where it ends.
    pub(super) fn drop_rest(
        &mut self,
        stream: usize,
        at: usize,
        block: Block,
        unfinished: Unfinished,
        now: Instant,
    ) -> Step {
        let Some(known) = self.streams.get(stream) else {
            return Step::Nothing(None);
        };
        let (Some(tail), Some(channel)) = (known.tails.get(at), self.channels.get(known.channel))
        else {
            return Step::Nothing(None);
        };
        let recipe = &channel.task.recipe;
        let Some(carry) = carry_to(tail, recipe, &self.block, block) else {
            return Step::Hold(None);
        };
        let (start, generation) = (tail.offset(), tail.generation);
        let source = Source {
            bytes: self.block.get(block.before..block.len).unwrap_or_default(),
            at: start,
            carry,
            tail: unfinished,
        };
        let (used, is_over) = recipe.framer.rest(source);
        if used == 0 && !is_over {
            return Step::Hold(None);
        }
        let newline = recipe.framer.text_of(carry).width() * usize::from(is_over);
        let read = self.block.get(..block.before + used).unwrap_or_default();
        let file = shown(&tail.path);
        let (mark, left) = (Mark::at(start + used as u64, read), tail.carry);
        self.skip(stream, at, mark, left.dropping(!is_over), now);
        // The newline itself is no loss.
        let lost = start + used.saturating_sub(newline) as u64;
        if lost > start {
            let span = Span { start, end: lost };
            self.lose(stream, generation, file, span, "line-truncated", None);
        }
        Step::Did
    }

    fn tail_ref(&self, stream: usize, at: usize) -> Option<&Tail> {
        self.streams.get(stream)?.tails.get(at)
    }

    /// Moves the offset over bytes that become no record.
    pub(super) fn skip(
        &mut self,
        stream: usize,
        at: usize,
        mark: Mark,
        carry: Carry,
        now: Instant,
    ) {
        let Some(known) = self.streams.get_mut(stream) else {
            return;
        };
        let id = known.id;
        let Some(tail) = known.tails.get_mut(at) else {
            return;
        };
        tail.advance(mark, carry, now);
        let generation = tail.generation;
        self.wiring.checkpoint.write(vec![Record::Skipped {
            stream: id,
            generation,
            mark,
            carry,
        }]);
    }

    /// The recipe that made a cut; `None` when this build cannot follow it.
    fn recipe_of(&mut self, stream: usize, cut: &Cut) -> Option<Arc<Compiled>> {
        let channel = self.channels.get(self.streams.get(stream)?.channel)?;
        let no = match cut.recipe {
            MadeBy::Recipe(no) if no == channel.recipe_no => {
                return Some(Arc::clone(&channel.task.recipe));
            }
            MadeBy::Recipe(no) => no,
            MadeBy::Rule(rule) => {
                return channel.task.recipe.recipe.with_rule(rule).compile().ok();
            }
        };
        let checkpoint = &self.wiring.checkpoint;
        let compile = || {
            let recipe = checkpoint.read(|state| state.recipes.get(&no).cloned())?;
            let compiled = recipe.compile();
            if let Err(error) = &compiled {
                tracing::error!(error, no, "a recipe of an earlier life cannot be followed");
            }
            compiled.ok()
        };
        self.recipes.entry(no).or_insert_with(compile).clone()
    }

    /// Makes the oldest batch of an earlier life again.
    pub(super) fn replay(&mut self, stream: usize, at: usize, now: Instant) -> Step {
        let Some(tail) = self.tail_ref(stream, at) else {
            return Step::Nothing(None);
        };
        let Some(cut) = tail.replay.front().cloned() else {
            return Step::Nothing(None);
        };
        let file = shown(&tail.path);
        let joint = self.joint_of(cut.id);
        let joint = joint.as_deref();
        let bytes = usize::try_from(cut.span.bytes()).unwrap_or(usize::MAX);
        let bytes = bytes.saturating_add(joint.map_or(0, |joint| joint.bytes.len()));
        let Some(mut permit) = self.permit(stream, bytes, bytes) else {
            return Step::Blocked;
        };
        self.turn_bytes += cut.span.bytes();
        let again = match self.recipe_of(stream, &cut) {
            Some(recipe) => match self.make_again(stream, at, (&cut, joint), &recipe) {
                Ok(again) => again.ok_or("changed-unsent"),
                Err(wait) => return self.hold(stream, at, Some(now + wait), now),
            },
            None => Err("recipe-unknown"),
        };
        let Some(known) = self.streams.get(stream) else {
            return Step::Nothing(None);
        };
        let Some(channel) = self.channels.get(known.channel) else {
            return Step::Nothing(None);
        };
        match again {
            Ok(encoded) => {
                permit.keep(encoded.payload.len() as u64 + BATCH_OVERHEAD_BYTES);
                let mut header = header(&self.wiring.agent, channel, &cut, &encoded, file, 1);
                let topic = self.wiring.checkpoint.read(|s| s.topic_of(cut.id).cloned());
                header.topic = topic.unwrap_or(header.topic);
                self.queue(Outgoing {
                    header: Box::new(header),
                    payload: encoded.payload,
                    permit,
                });
            }
            Err(reason) => self.lose_cut(stream, &cut, file, reason),
        }
        if let Some(tail) = self.tail(stream, at) {
            tail.replay.pop_front();
            tail.stuck_since = None;
        }
        Step::Did
    }

    /// Reads the span of a cut again and makes its records; `None` when they are not the same. The
    /// error says when to try again.
    fn make_again(
        &mut self,
        stream: usize,
        at: usize,
        (cut, joint): (&Cut, Option<&Joint>),
        recipe: &Compiled,
    ) -> Result<Option<Encoded>, Duration> {
        let known = self.streams.get(stream);
        let path = known.map(|known| known.path.clone()).unwrap_or_default();
        let tail = known.and_then(|known| known.tails.get(at));
        let file = tail.and_then(|tail| tail.file.as_ref());
        let read = file.map(|file| read_span(file, cut.span, &mut self.block));
        let block = match read {
            Some(Ok(Some(block))) => block,
            Some(Ok(None)) => return Ok(None),
            Some(Err(_)) | None => return Err(REPLAY_AGAIN),
        };
        let own = self.block.get(block.before..block.len).unwrap_or_default();
        let joined = joint.map(|joint| again(joint, own, cut.before, recipe));
        let joined = joined.as_ref();
        let making = Making {
            id: cut.id,
            read_ms: cut.read_ms,
            file: path.as_bytes(),
            source: Source {
                bytes: joined.map_or(own, |joined| &joined.bytes),
                at: joined.map_or(cut.span.start, |joined| joined.at),
                carry: cut.before,
                tail: Unfinished::Again(cut.after),
            },
            seams: joined.map_or(&[], |joined| &joined.seams),
        };
        let Made { encoded, .. } = self.maker.make(recipe, making);
        Ok(encoded.filter(|encoded| {
            encoded.content_sum == cut.content_sum && encoded.records == cut.records
        }))
    }

    /// A batch of an earlier life can never be sent again.
    pub(super) fn lose_cut(&mut self, stream: usize, cut: &Cut, file: String, reason: &str) {
        let joint = self.joint_of(cut.id);
        for end in joint.iter().flat_map(|joint| &joint.from) {
            let file = self.name_of(stream, end.generation);
            self.lose(stream, end.generation, file, end.span, reason, None);
        }
        self.wiring.checkpoint.write(vec![Record::Ended {
            batch: cut.id,
            end: End::Lost,
        }]);
        let loss = self.loss(stream, cut.generation, file, cut.span, reason);
        let topic = self.wiring.checkpoint.read(|s| s.topic_of(cut.id).cloned());
        if let Some(loss) = loss {
            let loss = Loss {
                topic: topic.unwrap_or_else(|| loss.topic.clone()),
                records: Some(cut.records.into()),
                ..loss
            };
            let batch = cut.id;
            let lost = Record::LostBatch { batch, loss };
            self.wiring.checkpoint.write(vec![lost]);
        }
    }

    /// Source bytes will never be sent: says so with their address.
    pub(super) fn lose(
        &mut self,
        stream: usize,
        generation: GenerationId,
        file: String,
        span: Span,
        reason: &str,
        records: Option<u64>,
    ) {
        let loss = self.loss(stream, generation, file, span, reason);
        let lost = loss.map(|loss| Record::Lost(Loss { records, ..loss }));
        self.wiring.checkpoint.write(lost.into_iter().collect());
    }

    /// Tells and counts a loss.
    fn loss(
        &mut self,
        stream: usize,
        generation: GenerationId,
        file: String,
        span: Span,
        reason: &str,
    ) -> Option<Loss> {
        let channel = self.streams.get(stream)?.channel;
        let channel = self.channels.get_mut(channel)?;
        tracing::warn!(
            file,
            span.start,
            span.end,
            reason,
            task = channel.task.id.as_str(),
            "lines were lost"
        );
        channel.counters.lost(span.bytes(), reason);
        let lost = &mut channel.figures.mishaps.lost_bytes;
        *lost.entry(reason.to_owned()).or_default() += span.bytes();
        Some(Loss {
            topic: channel.task.topic.clone(),
            task: channel.task.id.clone(),
            file,
            generation,
            span,
            reason: reason.to_owned(),
            records: None,
            minute: clock::minute_of(clock::now_ms()),
        })
    }

    /// Puts a batch to those for the sender. They go when they are enough, or urgent, and before the
    /// thread rests.
    pub(super) fn queue(&mut self, outgoing: Outgoing) {
        let urgent = outgoing.header.class == Class::P0;
        self.handing_bytes += outgoing.payload.len();
        self.handing.push(outgoing);
        let is_enough = match self.handing.len() {
            HANDED_AT_MOST.. => true,
            HANDED_AT_ONCE.. => self.handing_bytes >= HANDED_BYTES,
            _few => false,
        };
        if urgent || is_enough {
            self.hand_over();
        }
    }

    /// Gives batches to the sender, once their cuts have left the process. Waits only while the sender
    /// sorts what it was given before.
    pub(super) fn hand_over(&mut self) {
        if self.handing.is_empty() {
            return;
        }
        self.wiring.checkpoint.write(Vec::new());
        self.handing_bytes = 0;
        let hand = std::mem::take(&mut self.handing);
        // Closed: the sender is gone, and the loop ends at its next look. The cuts stay in the
        // checkpoint for the next life.
        drop(self.wiring.outgoing.blocking_send(hand));
    }
}

/// Fills the block with a span; `None` when the file ends before it does.
fn read_span(file: &Content, span: Span, block: &mut Vec<u8>) -> std::io::Result<Option<Block>> {
    let want = usize::try_from(span.bytes()).unwrap_or(usize::MAX);
    let block = fill(file, span.start, want, block)?;
    let covered = usize::try_from(span.start.min(MARK_BYTES)).unwrap_or(0);
    Ok((block.before == covered && block.len == covered + want).then_some(block))
}

/// Lets the evidence of the beginning grow, in few steps, so that a slow file writes few records.
pub(super) fn grow_prefix(tail: &mut Tail) -> bool {
    let (known, offset) = (tail.evidence.prefix.len, tail.offset());
    let grown = offset >= PREFIX_BYTES || offset >= known * 2;
    if known == PREFIX_BYTES || !grown {
        return false;
    }
    let file = tail.file.as_ref().and_then(Content::as_file);
    // The file may have been written anew since the block was read: then the beginning is not that of
    // what was read. Looked at behind the beginning, so that both are of the same content.
    let seen = file.map(|file| Ok((prefix_of(file, offset)?, mark_at(file, offset)?)));
    match seen {
        Some(Ok((prefix, Some(mark)))) if mark == tail.evidence.mark => {
            tail.evidence.prefix = prefix;
            true
        }
        Some(Ok(_) | Err::<_, std::io::Error>(_)) | None => false,
    }
}

/// What is carried to the new bytes of a block; `None` when the file cannot be asked.
pub(super) fn carry_to(
    tail: &Tail,
    recipe: &Compiled,
    bytes: &[u8],
    block: Block,
) -> Option<Carry> {
    let before = bytes.get(..block.before).unwrap_or_default();
    let is_big = match recipe.label {
        Label::Is(_) => recipe.label.is_big(&[]),
        Label::ByMark => {
            let mut first = Vec::new();
            // Of a generation in the spool only the rest is there: then it was known before.
            match fill(tail.file.as_ref()?, 0, 2, &mut first) {
                Ok(block) if block.len == 2 => recipe.label.is_big(&first),
                Ok(_) | Err(_) => tail.carry.has(Carry::BIG),
            }
        }
    };
    Some(recipe.carry(tail.carry, tail.offset(), before, is_big))
}

pub(super) fn header(
    agent: &tributary_common::ids::AgentId,
    channel: &Channel,
    cut: &Cut,
    encoded: &Encoded,
    file: String,
    resends: u32,
) -> BatchHeader {
    BatchHeader {
        agent: agent.clone(),
        stream: cut.id.stream,
        epoch: cut.id.epoch,
        seq: cut.id.seq,
        generation: cut.generation,
        span: cut.span,
        task: channel.task.id.clone(),
        topic: channel.task.topic.clone(),
        class: channel.task.class,
        resends,
        records: encoded.records,
        raw_bytes: encoded.raw_bytes,
        minutes: encoded.minutes.clone(),
        content_sum: encoded.content_sum,
        file,
        keyed: encoded.keyed,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{far::open_file, identify::Prefix, tail::Tail};

    #[test]
    fn the_beginning_grows_only_with_what_was_read() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("a.log");
        let (first, next) = ("first line\n".repeat(300), "another\n".repeat(900));
        fs::write(&path, &first).unwrap();
        let read = first.len() as u64;
        let info = open_file(&path).unwrap().info().unwrap();
        let tail = || {
            let now = Instant::now();
            let mut tail = Tail::new(info.key, info.inode, 0, path.clone().into(), now);
            let file = open_file(&path).unwrap();
            tail.file = Some(Content::File(file));
            tail
        };
        let mark = mark_at(&open_file(&path).unwrap(), read).unwrap().unwrap();
        let mut same = tail();
        same.advance(mark, Carry::default(), Instant::now());
        assert!(grow_prefix(&mut same) && same.evidence.prefix.len > 0);
        // In place, as copytruncate does: shorter than what was read, and longer.
        for content in ["", next.as_str()] {
            fs::write(&path, content).unwrap();
            let mut anew = tail();
            anew.advance(mark, Carry::default(), Instant::now());
            assert!(!grow_prefix(&mut anew));
            assert_eq!(anew.evidence.prefix, Prefix::default());
        }
    }
}
