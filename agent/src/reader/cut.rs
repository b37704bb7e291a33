//! Makes batches: of a block of new lines, and again of a span that an earlier life had cut.
//!
//! A cut is written to the checkpoint before its batch is handed over. Read again, the span gives the
//! same records under the same identity; the content sum proves it, and what is not the same is lost
//! and said so.
//!
//! Not for: when to read (see [`super::turn`]).

use std::{borrow::Cow, fs::File};

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
    checkpoint::{Cut, End, Record},
    clock,
    frame::{Framed, Rule, Tail as Unfinished, frame},
    identify::{MARK_BYTES, Mark, PREFIX_BYTES, prefix_of},
    limit::{BATCH_OVERHEAD_BYTES, Permit},
    send::Outgoing,
};

/// How the records of a span are made.
#[derive(Debug, Clone, Copy)]
struct Making {
    id: BatchId,
    read_ms: u64,
    rule: Rule,
    mid_line: bool,
    unfinished: Unfinished,
}

/// Frames and encodes `bytes`; the batch is `None` when there is no record.
fn make(
    encoder: &mut Encoder,
    channel: &Channel,
    bytes: &[u8],
    making: Making,
) -> (Framed, Option<Encoded>) {
    encoder.begin(making.id);
    let read_ms = i64::try_from(making.read_ms).unwrap_or(i64::MAX);
    let task = &channel.task;
    let give = |line: &[u8]| {
        let value = match task.encoding {
            None => Cow::Borrowed(line),
            Some(encoding) => match encoding.decode_without_bom_handling(line).0 {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            },
        };
        let has_room = encoder.has_room(None, &value);
        if has_room {
            encoder.push(task.time.of(line, read_ms), None, &value);
        }
        has_room
    };
    let framed = frame(bytes, making.mid_line, making.unfinished, making.rule, give);
    if framed.records == 0 {
        return (framed, None);
    }
    match encoder.finish() {
        Ok(encoded) => (framed, Some(encoded)),
        Err(error) => {
            // A record is at most 1 MiB, which every batch takes; text that grew threefold when it
            // became UTF-8 does not.
            tracing::error!(error = error.to_string(), "a batch cannot be encoded");
            (framed, None)
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
            rule: channel.task.rule,
            mid_line: before.is_some_and(|&byte| byte != b'\n'),
            unfinished,
        };
        let (framed, encoded) = make(&mut self.encoder, channel, bytes, making);
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
        let (generation, file) = (tail.generation, tail.path.to_string_lossy().into_owned());
        if let Some(bucket) = &mut channel.bucket {
            bucket.take(span.bytes());
        }
        if let Some(encoded) = encoded {
            channel.count_read(span.bytes(), &framed);
            let cut = cut_of(making, generation, span, mark, &framed, &encoded);
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
        let file = tail.path.to_string_lossy().into_owned();
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
    fn skip(&mut self, stream: usize, at: usize, mark: Mark, dropping: bool, now: Instant) {
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

    /// Makes the oldest batch of an earlier life again.
    pub(super) fn replay(&mut self, stream: usize, at: usize, now: Instant) -> Step {
        let Some(tail) = self.tail_ref(stream, at) else {
            return Step::Nothing(None);
        };
        let Some(cut) = tail.replay.front().cloned() else {
            return Step::Nothing(None);
        };
        let bytes = usize::try_from(cut.span.bytes()).unwrap_or(usize::MAX);
        let Some(mut permit) = self.permit(stream, bytes) else {
            return Step::Blocked;
        };
        let Some(known) = self.streams.get(stream) else {
            return Step::Nothing(None);
        };
        let (Some(tail), Some(channel)) = (known.tails.get(at), self.channels.get(known.channel))
        else {
            return Step::Nothing(None);
        };
        let file = tail.path.to_string_lossy().into_owned();
        let read = tail
            .file
            .as_ref()
            .map(|file| read_span(file, cut.span, &mut self.block));
        let again = match read {
            Some(Ok(Some(block))) => {
                let bytes = self.block.get(block.before..block.len).unwrap_or_default();
                let making = Making {
                    id: cut.id,
                    read_ms: cut.read_ms,
                    rule: cut.rule,
                    mid_line: cut.mid_line,
                    unfinished: Unfinished::Take,
                };
                make(&mut self.encoder, channel, bytes, making).1
            }
            Some(Ok(None)) => None,
            Some(Err(_)) | None => {
                return Step::Hold(Some(now + std::time::Duration::from_secs(2)));
            }
        };
        let same = again.filter(|encoded| {
            encoded.content_sum == cut.content_sum && encoded.records == cut.records
        });
        if let Some(encoded) = same {
            permit.shrink(encoded.payload.len() as u64 + BATCH_OVERHEAD_BYTES);
            let header = header(&self.wiring.agent, channel, &cut, &encoded, file, 1);
            self.hand_over(Outgoing {
                header: Box::new(header),
                payload: encoded.payload,
                permit,
            });
        } else {
            self.lose_cut(stream, &cut, file, "changed-unsent");
        }
        if let Some(tail) = self.tail(stream, at) {
            tail.replay.pop_front();
        }
        Step::Did
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
    generation: GenerationId,
    span: Span,
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
        rule: making.rule,
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
