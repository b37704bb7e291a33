//! Holes: runs of NUL at the beginning of a line.
//!
//! A writer that does not append goes on at its old offset after its file was cut off; what lies
//! before is a hole that reads as NUL, perhaps for gigabytes. It was never written, so it is no
//! record and no loss: it is jumped over, by the file system's own knowledge where there is any, and
//! counted.
//!
//! Not for: NUL inside of lines, which is content.

use tokio::time::Instant;

use super::{
    Reader,
    turn::{Block, Step, fill},
};
use crate::{
    frame::Carry,
    identify::{MARK_BYTES, Mark},
    status::Bad,
};

/// Fewer NUL in a row than this are content, unless the file was just cut off.
const LEAST_BYTES: usize = 512;

impl Reader {
    /// Jumps over the hole that the block begins with, if any.
    pub(super) fn skip_hole(
        &mut self,
        stream: usize,
        at: usize,
        block: Block,
        now: Instant,
    ) -> Option<Step> {
        let new = self.block.get(block.before..block.len)?;
        if new.first() != Some(&0) {
            return None;
        }
        let before = self.block.get(..block.before)?.last().copied();
        let zeros = new.iter().position(|&byte| byte != 0).unwrap_or(new.len());
        let whole_block = zeros == new.len();
        let known = self.streams.get(stream)?;
        let tail = known.tails.get(at)?;
        let recipe = &self.channels.get(known.channel)?.task.recipe;
        // In UTF-16 a NUL may be half of a character.
        let is_wide = recipe.label.text().width() > 1;
        let text = recipe.framer.text_of(tail.carry);
        let marked = self.block.get(..block.before).unwrap_or_default();
        let begins_line =
            tail.carry.has(Carry::LINE_BEGINS) || !text.is_mid_line(tail.offset(), marked);
        let is_hole = match before {
            _ if is_wide => zeros >= LEAST_BYTES && begins_line,
            // Of a hole that was jumped over so far; in a line that goes on it is content.
            Some(0) => tail.carry.has(Carry::LINE_BEGINS),
            Some(b'\n') => zeros >= LEAST_BYTES,
            None => zeros >= LEAST_BYTES || tail.truncations > 0,
            Some(_) => false,
        };
        if !is_hole {
            return None;
        }
        let (start, file) = (tail.offset(), tail.file.as_ref()?);
        let zeros = if is_wide { zeros & !1 } else { zeros };
        let seen = start + zeros as u64;
        let end = if whole_block {
            file.as_file()
                .and_then(|file| file.next_data(start))
                .map_or(seen, |data| data.clamp(seen, tail.size.max(seen)))
        } else {
            seen
        };
        // The mark before the end, whatever stands there.
        let mut bytes = Vec::new();
        let marked = fill(file, end, 0, &mut bytes).ok()?;
        // Shorter than that: it was cut off since the look.
        let marked = bytes.get(..marked.len);
        let marked = marked.filter(|bytes| bytes.len() as u64 >= end.min(MARK_BYTES))?;
        let mark = Mark::at(end, marked);
        // It may be jumped over block by block.
        let begins = before != Some(0);
        let channel = self.streams.get(stream)?.channel;
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.counters.hole(end - start);
            channel.figures.mishaps.hole_bytes += end - start;
            channel.count_bad(Bad::Hole, u64::from(begins));
        }
        // What follows begins a line.
        let carry = Carry::default().with(Carry::LINE_BEGINS, true);
        self.skip(stream, at, mark, carry, now);
        Some(Step::Did)
    }
}
