//! Batches that are in files of an earlier life, and that the journal does not know of yet.
//!
//! They are still in the spill, which gives them once more; here they are recognised by their identity
//! and not written again. Pure.

use std::collections::HashMap;

use tributary_common::ids::{BatchId, Epoch, StreamId};

/// The batches, each with the journal's number of its file.
#[derive(Debug, Default)]
pub(super) struct Settled {
    batches: HashMap<(StreamId, Epoch), Vec<Range>>,
    /// How many of each file have not come.
    left: HashMap<u32, u64>,
}

/// Batches `[start, end)` of a stream that are in one file.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: u64,
    end: u64,
    file: u32,
}

/// A batch that was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// The journal's number of its file.
    pub(super) file: u32,
    /// All of the file have come now.
    pub(super) last: bool,
}

impl Settled {
    /// Adds a batch that is in a file. Those of a stream come in their order.
    pub(super) fn add(&mut self, batch: BatchId, file: u32) {
        let ranges = self.batches.entry((batch.stream, batch.epoch)).or_default();
        let (start, end) = (batch.seq, batch.seq + 1);
        match ranges.last_mut() {
            Some(last) if last.file == file && last.end == start => last.end = end,
            Some(_) | None => ranges.push(Range { start, end, file }),
        }
        *self.left.entry(file).or_default() += 1;
    }

    /// Takes a batch out.
    pub(super) fn take(&mut self, batch: BatchId) -> Option<Found> {
        let key = (batch.stream, batch.epoch);
        let ranges = self.batches.get_mut(&key)?;
        let holds = |range: &Range| (range.start..range.end).contains(&batch.seq);
        let at = ranges.iter().position(holds)?;
        let Range { start, end, file } = ranges.swap_remove(at);
        let rest = [(start, batch.seq), (batch.seq + 1, end)];
        let rest = rest.into_iter().filter(|(start, end)| start < end);
        ranges.extend(rest.map(|(start, end)| Range { start, end, file }));
        if ranges.is_empty() {
            self.batches.remove(&key);
        }
        let left = self.left.get_mut(&file)?;
        *left -= 1;
        let last = *left == 0;
        if last {
            self.left.remove(&file);
        }
        Some(Found { file, last })
    }
}
