//! What the reader does last: short turns, and what the next life has to know of files that are not read to
//! their end.
//!
//! Not for: what the spool keeps of them (see [`super::spooling`]).

use std::time::Duration;

use tokio::time::Instant;

use super::{Next, Reader};
use crate::checkpoint::Record;

/// When it is time to stop, what waits for more lines is cut for this long at most.
const LAST_TURNS: Duration = Duration::from_secs(2);

impl Reader {
    /// Cuts what waits for more lines, once per stream.
    pub(super) fn last_turns(&mut self) {
        let until = Instant::now() + LAST_TURNS;
        let waiting: Vec<usize> = (0..self.streams.len())
            .filter(|&at| {
                self.streams
                    .get(at)
                    .is_some_and(|stream| matches!(stream.next, Next::At(_)))
            })
            .collect();
        for stream in waiting {
            if Instant::now() >= until || self.wiring.outgoing.is_closed() {
                break;
            }
            self.turn(stream);
        }
        self.save_at_stop();
        self.note_times();
        self.note_sizes(until);
    }

    /// Writes down how far files were seen that are not read to their end: should that be cut off or
    /// deleted before the next life, it is lost.
    fn note_sizes(&mut self, until: Instant) {
        let streams = self.streams.iter().enumerate();
        let tails = streams.flat_map(|(at, known)| known.tails.iter().map(move |tail| (at, tail)));
        let behind = tails.filter(|(_, tail)| tail.unread() > 0);
        let behind: Vec<_> = behind.map(|(at, tail)| (at, tail.generation)).collect();
        let mut records = Vec::new();
        for (looked_at, &(stream, generation)) in behind.iter().enumerate() {
            let now = Instant::now();
            if now >= until {
                let left = behind.len() - looked_at;
                tracing::warn!(
                    files = left,
                    "the stop had no time to look how far these go: what was seen of them lately and is deleted before the next start is not told as lost"
                );
                break;
            }
            // Only what was seen of this content counts.
            self.look_for_cut(stream, generation, now);
            if let Some(at) = self.place_of(stream, generation)
                && let Some(known) = self.streams.get_mut(stream)
                && let Some(tail) = known.tails.get_mut(at)
            {
                records.extend(tail.seen_beyond(known.id, true));
            }
        }
        self.wiring.checkpoint.write(records);
    }

    /// Writes down when files were changed last, where that is not known yet: it tells a file that
    /// is moved to another file system meanwhile from a new one.
    fn note_times(&self) {
        let records = self.wiring.checkpoint.read(|state| {
            let tails = self
                .streams
                .iter()
                .flat_map(|stream| stream.tails.iter().map(|tail| (stream.id, tail)));
            let changed = tails.filter(|(id, tail)| {
                let known = state.generation(*id, tail.generation);
                tail.mtime_ns != 0 && known.is_some_and(|known| known.mtime_ns != tail.mtime_ns)
            });
            changed
                .map(|(id, tail)| Record::Generation(tail.record(id)))
                .collect()
        });
        self.wiring.checkpoint.write(records);
    }
}
