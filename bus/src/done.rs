//! What destinations already have: per destination, stream and agent life the delivered sequence
//! numbers.
//!
//! Kept as ranges, so a stream without holes takes one range however long it runs. Bounded: a
//! stream that was idle for [`IDLE_MINUTES`] is forgotten, and of a stream the newest
//! [`MAX_EPOCHS`] lives are kept. Not for: batches that are on their way (see [`crate::dedupe`]).
//! The journal makes it durable. Pure.

use std::collections::HashMap;

use tributary_common::{
    ids::{BatchId, Epoch, StreamId},
    span::RangeSet,
};

/// A destination's number in this process; see [`crate::journal::memory::Memory`].
pub(crate) type DestinationNo = u16;

/// After so many minutes without a batch a stream is forgotten: 30 days, longer than any host stays
/// away with unsent batches and comes back.
pub(crate) const IDLE_MINUTES: u32 = 30 * 24 * 60;

/// The newest lives of a stream that are kept: an agent resends what the life before it left.
pub(crate) const MAX_EPOCHS: usize = 8;
/// So many streams are remembered, summed over the destinations, however busy the node. Each takes some 600 bytes;
/// 11,000 agents with ten streams each and three destinations have 330,000.
const MAX_STREAMS: usize = 500_000;

/// One stream at one destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StreamDone {
    /// Per life the delivered sequence numbers, the oldest life first. There are one or two, of hundreds of thousands
    /// of streams: a map would take twice the memory.
    pub(crate) epochs: Vec<(Epoch, RangeSet)>,
    /// The minute (since 1970) of the last delivery.
    pub(crate) touched: u32,
}

impl StreamDone {
    fn of(&self, epoch: Epoch) -> Option<&RangeSet> {
        let at = self.epochs.binary_search_by_key(&epoch, |one| one.0);
        self.epochs.get(at.ok()?).map(|(_epoch, seqs)| seqs)
    }

    fn insert(&mut self, epoch: Epoch, (start, end): (u64, u64)) {
        let at = match self.epochs.binary_search_by_key(&epoch, |one| one.0) {
            Ok(at) => at,
            Err(at) => {
                self.epochs.reserve_exact(1);
                self.epochs.insert(at, (epoch, RangeSet::default()));
                at
            }
        };
        if let Some((_epoch, seqs)) = self.epochs.get_mut(at) {
            seqs.insert(start, end);
        }
        let old = self.epochs.len().saturating_sub(MAX_EPOCHS);
        self.epochs.drain(..old);
    }
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Done {
    streams: HashMap<(DestinationNo, StreamId), StreamDone>,
}

impl Done {
    /// Whether the destination has the batch.
    pub(crate) fn contains(&self, destination: DestinationNo, batch: BatchId) -> bool {
        self.streams
            .get(&(destination, batch.stream))
            .and_then(|stream| stream.of(batch.epoch))
            .is_some_and(|seqs| seqs.contains(batch.seq))
    }

    /// Whether the destination has anything of a stream.
    pub(crate) fn knows(&self, destination: DestinationNo, stream: StreamId) -> bool {
        self.streams.contains_key(&(destination, stream))
    }

    /// Notes sequence numbers `[start, end)` of one life; `minute` is now.
    pub(crate) fn insert(
        &mut self,
        destination: DestinationNo,
        (stream, epoch): (StreamId, Epoch),
        (start, end): (u64, u64),
        minute: u32,
    ) {
        let stream = self.streams.entry((destination, stream)).or_default();
        stream.insert(epoch, (start, end));
        stream.touched = stream.touched.max(minute);
        if self.streams.len() > MAX_STREAMS {
            self.forget_oldest();
        }
    }

    /// Forgets the tenth of the streams that were idle for longest.
    fn forget_oldest(&mut self) {
        let streams = self.streams.iter();
        let mut touched: Vec<_> = streams.map(|(&key, one)| (one.touched, key)).collect();
        let tenth = touched.len() / 10;
        touched.select_nth_unstable(tenth);
        for (_touched, key) in touched.into_iter().take(tenth) {
            self.streams.remove(&key);
        }
        tracing::info!(
            forgotten = tenth,
            "there are very many streams: those that were idle for longest are forgotten, and repeats of them would be delivered again"
        );
    }

    /// Forgets streams that were idle for [`IDLE_MINUTES`] at the minute `now`.
    pub(crate) fn prune(&mut self, now: u32) {
        self.streams
            .retain(|_key, stream| now.saturating_sub(stream.touched) < IDLE_MINUTES);
    }

    /// Everything, for a snapshot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (DestinationNo, StreamId, &StreamDone)> {
        self.streams
            .iter()
            .map(|(&(destination, stream), done)| (destination, stream, done))
    }

    /// How many streams are known, summed over the destinations.
    pub(crate) fn streams(&self) -> usize {
        self.streams.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(epoch: u64, seq: u64) -> BatchId {
        BatchId {
            stream: StreamId(7),
            epoch: Epoch(epoch),
            seq,
        }
    }

    fn insert(done: &mut Done, batch: BatchId, minute: u32) {
        done.insert(
            0,
            (batch.stream, batch.epoch),
            (batch.seq, batch.seq + 1),
            minute,
        );
    }

    #[test]
    fn a_batch_is_known_per_destination_and_life() {
        let mut done = Done::default();
        insert(&mut done, id(1, 5), 0);
        assert!(done.contains(0, id(1, 5)));
        assert!(!done.contains(1, id(1, 5)));
        assert!(!done.contains(0, id(2, 5)));
        assert!(!done.contains(0, id(1, 4)));
    }

    #[test]
    fn of_too_many_streams_the_idle_ones_are_forgotten() {
        let mut done = Done::default();
        for stream in 0..=MAX_STREAMS as u64 {
            let minute = u32::try_from(stream / 1_000).unwrap();
            let of = (StreamId(stream), Epoch(1));
            done.insert(0, of, (1, 2), minute);
        }
        assert_eq!(done.streams(), MAX_STREAMS + 1 - MAX_STREAMS / 10);
        let knows = |stream: usize| done.knows(0, StreamId(stream as u64));
        assert!(!knows(0) && !knows(MAX_STREAMS / 10 - 1_001));
        assert!(knows(MAX_STREAMS / 10 + 1_000) && knows(MAX_STREAMS));
    }

    /// `cargo test -p tributary-bus --release --lib done -- --ignored --nocapture`
    #[test]
    #[ignore = "tells what they take; alone in its process"]
    fn what_the_streams_of_eleven_thousand_agents_take() {
        let resident = tributary_common::metrics::resident_bytes;
        let (before, mut done) = (resident(), Done::default());
        for stream in 0..110_000 {
            // An old life, and this one with what came out of order.
            for (epoch, first) in [(1, 1), (2, 1), (2, 12)] {
                let of = (StreamId(stream), Epoch(epoch));
                done.insert(0, of, (first, first + 10), 1);
            }
        }
        let each = (resident() - before) / done.streams() as u64;
        println!("{each} bytes each");
        assert!(each < 1_000, "{each}");
    }

    #[test]
    fn old_lives_and_idle_streams_are_forgotten() {
        let mut done = Done::default();
        for epoch in 1..=10 {
            insert(&mut done, id(epoch, 1), 100);
        }
        assert!(!done.contains(0, id(2, 1)));
        assert!(done.contains(0, id(3, 1)));
        done.prune(100 + IDLE_MINUTES - 1);
        assert_eq!(done.streams(), 1);
        done.prune(100 + IDLE_MINUTES);
        assert_eq!(done.streams(), 0);
    }
}
