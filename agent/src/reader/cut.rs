//! Makes batches: of a block of new lines, and again of a span that an earlier life had cut.
//!
//! A cut is written to the checkpoint before its batch is handed over. Read again, the span gives the
//! same records under the same identity; the content sum proves it, and what is not the same is lost
//! and said so.
//!
//! Not for: when to read (see [`super::turn`]).

use std::{borrow::Cow, fs::File, sync::Arc, time::Duration};

use tokio::time::Instant;
use tributary_common::{
    batch::{Encoded, Encoder},
    header::BatchHeader,
    ids::{BatchId, GenerationId},
    report::Loss,
    span::Span,
};

use super::{
    Channel, Reader,
    turn::{Block, Step, fill},
};
use crate::{
    checkpoint::{Cut, End, MadeBy, Record},
    clock,
    frame::{Framed, Tail as Unfinished, frame},
    identify::{MARK_BYTES, Mark, PREFIX_BYTES, prefix_of},
    limit::{BATCH_OVERHEAD_BYTES, Permit},
    recipe::Compiled,
    send::Outgoing,
    shown::shown,
    status::Oddities,
};

/// A span that cannot be read is tried again after this long.
const REPLAY_AGAIN: Duration = Duration::from_secs(2);

/// How the records of a span are made.
#[derive(Debug, Clone, Copy)]
struct Making {
    id: BatchId,
    read_ms: u64,
    mid_line: bool,
    unfinished: Unfinished,
}

/// Frames and encodes `bytes`; the batch is `None` when there is no record.
fn make(
    encoder: &mut Encoder,
    recipe: &Compiled,
    bytes: &[u8],
    making: Making,
) -> (Framed, Oddities, Option<Encoded>) {
    let mut odd = Oddities::default();
    encoder.begin(making.id);
    let read_ms = i64::try_from(making.read_ms).unwrap_or(i64::MAX);
    let give = |line: &[u8]| {
        let value = match recipe.encoding {
            None => Cow::Borrowed(line),
            Some(encoding) => match encoding.decode_without_bom_handling(line).0 {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            },
        };
        let has_room = encoder.has_room(None, &value);
        if has_room {
            let timed = recipe.time.of(&value, read_ms);
            odd.untimed(timed.flag);
            encoder.push(timed.ms, None, &value);
        }
        has_room
    };
    let framed = frame(bytes, making.mid_line, making.unfinished, recipe.rule, give);
    if framed.records == 0 {
        return (framed, odd, None);
    }
    match encoder.finish() {
        Ok(encoded) => (framed, odd, Some(encoded)),
        Err(error) => {
            // A record is at most 1 MiB, which every batch takes; text that grew threefold when it
            // became UTF-8 does not.
            tracing::error!(error = error.to_string(), "a batch cannot be encoded");
            (framed, odd, None)
        }
    }
}

impl Reader {
    /// Makes a batch of the new bytes of the block; false when they hold no whole line.
    pub(super) fn cut(
        &mut self,
        stream: usize,
        at: usize,
        block: Block,
        unfinished: Unfinished,
        mut permit: Permit,
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
        let bytes = self.block.get(block.before..block.len).unwrap_or_default();
        let before = self.block.get(..block.before).and_then(<[u8]>::last);
        let id = BatchId {
            stream: known.id,
            epoch: self.wiring.epoch,
            seq: known.seq,
        };
        let making = Making {
            id,
            read_ms: clock::now_ms(),
            mid_line: before.is_some_and(|&byte| byte != b'\n'),
            unfinished,
        };
        let (framed, odd, encoded) = make(&mut self.encoder, &channel.task.recipe, bytes, making);
        if framed.used == 0 {
            return false;
        }
        let start = tail.offset();
        let span = Span {
            start,
            end: start + framed.used as u64,
        };
        let read = self
            .block
            .get(..block.before + framed.used)
            .unwrap_or_default();
        let mark = Mark::at(span.end, read);
        let (generation, file) = (tail.generation, shown(&tail.path));
        if let Some(bucket) = &mut channel.bucket {
            bucket.take(span.bytes());
        }
        if let Some(encoded) = encoded {
            channel.count_read(span.bytes(), &framed, odd);
            let recipe = MadeBy::Recipe(channel.recipe_no);
            let cut = cut_of(making, recipe, (generation, span), mark, &framed, &encoded);
            permit.shrink(encoded.payload.len() as u64 + BATCH_OVERHEAD_BYTES);
            let header = header(&self.wiring.agent, channel, &cut, &encoded, file.clone(), 0);
            self.note_cut(stream, at, cut, mark, now);
            let header = Box::new(header);
            self.hand_over(Outgoing {
                header,
                payload: encoded.payload,
                permit,
            });
        } else {
            self.skip(stream, at, mark, framed.dropping, now);
            if framed.records > 0 {
                let records = Some(framed.records.into());
                let why = "cannot-be-encoded";
                self.lose(stream, generation, file.clone(), span, why, records);
            }
        }
        self.lose_dropped(stream, generation, &file, start, &framed);
        true
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

    /// Moves the offset to the end of a new cut, and writes it to the checkpoint.
    fn note_cut(&mut self, stream: usize, at: usize, cut: Cut, mark: Mark, now: Instant) {
        let dropping = cut.dropping;
        let mut records = vec![Record::Cut(cut)];
        if let Some(known) = self.streams.get_mut(stream) {
            known.seq += 1;
            let id = known.id;
            if let Some(tail) = known.tails.get_mut(at) {
                tail.advance(mark, dropping, now);
                if grow_prefix(tail) {
                    records.push(Record::Generation(tail.record(id)));
                }
            }
        }
        self.wiring.checkpoint.write(records);
    }

    /// Drops the rest of a line that was truncated, up to its newline.
    pub(super) fn drop_rest(
        &mut self,
        stream: usize,
        at: usize,
        block: Block,
        now: Instant,
    ) -> Step {
        let bytes = self.block.get(block.before..block.len).unwrap_or_default();
        let end = memchr::memchr(b'\n', bytes);
        let used = end.map_or(bytes.len(), |end| end + 1);
        let read = self.block.get(..block.before + used).unwrap_or_default();
        let Some(tail) = self.tail_ref(stream, at) else {
            return Step::Nothing(None);
        };
        let (start, generation) = (tail.offset(), tail.generation);
        let file = shown(&tail.path);
        let mark = Mark::at(start + used as u64, read);
        self.skip(stream, at, mark, end.is_none(), now);
        // The newline itself is no loss.
        let lost = start + end.unwrap_or(used) as u64;
        if lost > start {
            let span = Span { start, end: lost };
            self.lose(stream, generation, file, span, "line-truncated", None);
        }
        Step::Did
    }

    fn tail_ref(&self, stream: usize, at: usize) -> Option<&crate::tail::Tail> {
        self.streams.get(stream)?.tails.get(at)
    }

    /// Moves the offset over bytes that become no record.
    pub(super) fn skip(
        &mut self,
        stream: usize,
        at: usize,
        mark: Mark,
        dropping: bool,
        now: Instant,
    ) {
        let Some(known) = self.streams.get_mut(stream) else {
            return;
        };
        let id = known.id;
        let Some(tail) = known.tails.get_mut(at) else {
            return;
        };
        tail.advance(mark, dropping, now);
        let generation = tail.generation;
        self.wiring.checkpoint.write(vec![Record::Skipped {
            stream: id,
            generation,
            mark,
            dropping,
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
        let bytes = usize::try_from(cut.span.bytes()).unwrap_or(usize::MAX);
        let Some(mut permit) = self.permit(stream, bytes) else {
            return Step::Blocked;
        };
        self.turn_bytes += cut.span.bytes();
        let again = match self.recipe_of(stream, &cut) {
            Some(recipe) => match self.make_again(stream, at, &cut, &recipe) {
                Ok(again) => again.ok_or("changed-unsent"),
                Err(wait) => return Step::Hold(Some(now + wait)),
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
                permit.shrink(encoded.payload.len() as u64 + BATCH_OVERHEAD_BYTES);
                let header = header(&self.wiring.agent, channel, &cut, &encoded, file, 1);
                self.hand_over(Outgoing {
                    header: Box::new(header),
                    payload: encoded.payload,
                    permit,
                });
            }
            Err(reason) => self.lose_cut(stream, &cut, file, reason),
        }
        if let Some(tail) = self.tail(stream, at) {
            tail.replay.pop_front();
        }
        Step::Did
    }

    /// Reads the span of a cut again and makes its records; `None` when they are not the same. The
    /// error says when to try again.
    fn make_again(
        &mut self,
        stream: usize,
        at: usize,
        cut: &Cut,
        recipe: &Compiled,
    ) -> Result<Option<Encoded>, Duration> {
        let tail = self.streams.get(stream).and_then(|s| s.tails.get(at));
        let file = tail.and_then(|tail| tail.file.as_ref());
        let read = file.map(|file| read_span(file, cut.span, &mut self.block));
        let block = match read {
            Some(Ok(Some(block))) => block,
            Some(Ok(None)) => return Ok(None),
            Some(Err(_)) | None => return Err(REPLAY_AGAIN),
        };
        let bytes = self.block.get(block.before..block.len).unwrap_or_default();
        let making = Making {
            id: cut.id,
            read_ms: cut.read_ms,
            mid_line: cut.mid_line,
            unfinished: Unfinished::Take,
        };
        let (_, _, again) = make(&mut self.encoder, recipe, bytes, making);
        Ok(again.filter(|encoded| {
            encoded.content_sum == cut.content_sum && encoded.records == cut.records
        }))
    }

    /// A batch of an earlier life can never be sent again.
    pub(super) fn lose_cut(&mut self, stream: usize, cut: &Cut, file: String, reason: &str) {
        self.wiring.checkpoint.write(vec![Record::Ended {
            batch: cut.id,
            end: End::Lost,
        }]);
        self.lose(
            stream,
            cut.generation,
            file,
            cut.span,
            reason,
            Some(cut.records.into()),
        );
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
        let Some(known) = self.streams.get(stream) else {
            return;
        };
        let Some(channel) = self.channels.get_mut(known.channel) else {
            return;
        };
        tracing::warn!(
            file,
            span.start,
            span.end,
            reason,
            task = channel.task.id.as_str(),
            "lines were lost"
        );
        channel.counters.lost(span.bytes(), reason);
        let loss = Loss {
            topic: channel.task.topic.clone(),
            task: channel.task.id.clone(),
            file,
            generation,
            span,
            reason: reason.to_owned(),
            records,
            minute: clock::minute_of(clock::now_ms()),
        };
        self.wiring.checkpoint.write(vec![Record::Lost(loss)]);
    }

    /// Gives a batch to the sender. Waits only while the sender sorts what it was given before.
    fn hand_over(&mut self, outgoing: Outgoing) {
        // Closed: the sender is gone, and the loop ends at its next look. The cut stays in the
        // checkpoint for the next life.
        drop(self.wiring.outgoing.blocking_send(outgoing));
    }
}

/// Fills the block with a span; `None` when the file ends before it does.
fn read_span(file: &File, span: Span, block: &mut Vec<u8>) -> std::io::Result<Option<Block>> {
    let want = usize::try_from(span.bytes()).unwrap_or(usize::MAX);
    let block = fill(file, span.start, want, block)?;
    let covered = usize::try_from(span.start.min(MARK_BYTES)).unwrap_or(0);
    Ok((block.before == covered && block.len == covered + want).then_some(block))
}

/// Lets the evidence of the beginning grow, in few steps, so that a slow file writes few records.
fn grow_prefix(tail: &mut crate::tail::Tail) -> bool {
    let (known, offset) = (tail.evidence.prefix.len, tail.offset());
    let grown = offset >= PREFIX_BYTES || offset >= known * 2;
    if known == PREFIX_BYTES || !grown {
        return false;
    }
    match tail.file.as_ref().map(|file| prefix_of(file, offset)) {
        Some(Ok(prefix)) => {
            tail.evidence.prefix = prefix;
            true
        }
        Some(Err(_)) | None => false,
    }
}

/// The checkpoint's word for a batch that was made now.
fn cut_of(
    making: Making,
    recipe: MadeBy,
    (generation, span): (GenerationId, Span),
    mark: Mark,
    framed: &Framed,
    encoded: &Encoded,
) -> Cut {
    Cut {
        id: making.id,
        generation,
        span,
        read_ms: making.read_ms,
        records: encoded.records,
        minutes: encoded.minutes.clone(),
        content_sum: encoded.content_sum,
        mark: mark.hash,
        recipe,
        mid_line: making.mid_line,
        dropping: framed.dropping,
    }
}

fn header(
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
