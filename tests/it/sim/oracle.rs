//! What the destinations have got, and whether it may be so.
//!
//! A batch comes from a node once, and its first coming keeps the order of its stream. Once more it
//! comes only where the node was killed between the destination's having it and its own knowing that.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use tributary_agent::sim::line;
use tributary_bus::sim::Given;
use tributary_common::{
    batch::Decoder,
    ids::{BatchId, Epoch},
    span::RangeSet,
};

/// A node by its number, and a destination by its own.
pub(super) type From = (usize, usize);

/// All that came.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    /// By stream, which of its lines came.
    lines: BTreeMap<u64, RangeSet>,
    /// How often a batch came from a node.
    times: BTreeMap<(usize, BatchId), u32>,
    /// How often it may come once more.
    forgiven: BTreeMap<(usize, BatchId), u32>,
    /// The last of a stream that was new.
    last: BTreeMap<(From, u64), (Epoch, u64)>,
    seen: BTreeSet<(From, BatchId)>,
    decoder: Decoder,
    pub(super) doubled: u64,
}

impl Oracle {
    /// A destination has a batch.
    pub(super) fn came(&mut self, from: From, given: &Given) -> Result<()> {
        let (batch, span) = (given.batch(), given.span());
        let stream = batch.stream.0;
        let values = given.values(&mut self.decoder);
        let values = values.map_err(|why| anyhow::anyhow!("{why}"))?;
        let want: Vec<Vec<u8>> = (span.start..span.end)
            .map(|at| line(stream, at).into_bytes())
            .collect();
        ensure!(values == want, "batch {batch} has other lines");
        self.lines
            .entry(stream)
            .or_default()
            .insert(span.start, span.end);
        let key = (from.0, batch);
        let times = self.times.entry(key).or_default();
        *times += 1;
        if *times > 1 {
            self.doubled += 1;
            let forgiven = self.forgiven.entry(key).or_default();
            ensure!(
                *forgiven > 0,
                "batch {batch} came from node {} again, which knew of it",
                from.0
            );
            *forgiven -= 1;
        }
        if self.seen.insert((from, batch)) {
            let order = (batch.epoch, batch.seq);
            let last = self.last.entry((from, stream)).or_insert(order);
            ensure!(
                *last <= order,
                "batch {batch} came from node {} behind {last:?} of its stream",
                from.0
            );
            *last = order;
        }
        Ok(())
    }

    /// The node was killed, and cannot know that the destination has this batch.
    pub(super) fn forgive(&mut self, node: usize, batch: BatchId) {
        *self.forgiven.entry((node, batch)).or_default() += 1;
    }

    /// At the end: of the stream so many lines were cut.
    pub(super) fn must_have(&self, stream: u64, cut: u64) -> Result<()> {
        let came = self
            .lines
            .get(&stream)
            .map_or(0, |lines| lines.prefix_end(0));
        ensure!(
            came == cut,
            "of stream {stream} line {came} is missing; {cut} were cut"
        );
        Ok(())
    }
}
