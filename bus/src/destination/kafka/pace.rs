//! How much of a partition librdkafka may have at a time.
//!
//! An idempotent producer has five requests of a partition on their way. When more is queued behind
//! them, librdkafka's thread asks without a pause whether one has been answered, which costs a core.
//! So the owner of a partition gives it only what fits into those requests; the rest waits here, in
//! order, and is called for by the answers. Not for: memory, which the permits bound.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crossbeam_channel::Sender;

use super::owner::{Message, Work};

/// Raw bytes of a partition that librdkafka may have: three requests of `batch.size` and a little.
/// So a full request never waits for the linger, and a fifth is never on its way.
const MAX_BYTES: u64 = 3 << 20;

/// A partition: the topic's number in the journal, and its own.
pub(super) type Key = (u32, i32);

/// What librdkafka has of a partition. The owner asks and adds, the answers take away.
pub(super) struct Pace {
    key: Key,
    given_bytes: AtomicU64,
    waiting: AtomicBool,
    owner: Sender<Message>,
}

impl Pace {
    /// Whether a batch may be given now; when not, the owner is called once something was answered.
    fn has_room(&self, bytes: u64) -> bool {
        let fits = || {
            let given = self.given_bytes.load(Ordering::SeqCst);
            given == 0 || given.saturating_add(bytes) <= MAX_BYTES
        };
        if fits() {
            return true;
        }
        // Look again after saying so: an answer in between has not seen that somebody waits.
        self.waiting.store(true, Ordering::SeqCst);
        fits()
    }

    /// A batch is given.
    pub(super) fn entered(&self, bytes: u64) {
        self.given_bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    /// A batch was answered.
    pub(super) fn left(&self, bytes: u64) {
        self.given_bytes.fetch_sub(bytes, Ordering::SeqCst);
        if self.waiting.swap(false, Ordering::SeqCst) {
            // An owner that is gone has nothing that waits.
            drop(self.owner.send(Message::Room(self.key)));
        }
    }
}

/// The batches of a partition that wait, in order. Bounded by the permits that they carry.
pub(super) struct Line {
    waiting: VecDeque<Work>,
    pace: Arc<Pace>,
}

impl Line {
    pub(super) fn new(key: Key, owner: Sender<Message>) -> Self {
        let pace = Pace {
            key,
            given_bytes: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            owner,
        };
        Self {
            waiting: VecDeque::new(),
            pace: Arc::new(pace),
        }
    }

    /// One more waits.
    pub(super) fn push(&mut self, work: Work) {
        self.waiting.push_back(work);
    }

    /// The next one, when there is room for it or it will not be given anyway.
    pub(super) fn next(&mut self) -> Option<(Work, Arc<Pace>)> {
        let first = self.waiting.front()?;
        let bytes = first.job.batch.header.raw_bytes;
        if !first.topic.is_closed() && !self.pace.has_room(bytes) {
            return None;
        }
        Some((self.waiting.pop_front()?, Arc::clone(&self.pace)))
    }

    /// Everything that waits.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Work> + '_ {
        self.waiting.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{
        destination::{Done, Job, kafka::topic::Topic},
        testing::{accepted, batch},
    };

    async fn work(topic: &Arc<Topic>, bytes: usize) -> Work {
        let line = "x".repeat(bytes);
        let batch = accepted(batch("web", 1, 1, &[&line])).await;
        let job = Job {
            batch,
            target: "web".into(),
            done: Done::new(|_outcome| {}),
        };
        Work {
            topic: Arc::clone(topic),
            partition: 0,
            job,
        }
    }

    #[tokio::test]
    async fn a_partition_gets_three_mebibytes_at_a_time_and_is_called_for_more() {
        let topic = Arc::new(Topic::new("web".into(), 0, 1, HashMap::new()));
        let (owner, calls) = crossbeam_channel::unbounded();
        let mut line = Line::new((0, 0), owner);
        for _batch in 0..7 {
            line.push(work(&topic, 900 << 10).await);
        }
        let mut given = Vec::new();
        while let Some((work, pace)) = line.next() {
            pace.entered(work.job.batch.header.raw_bytes);
            given.push((work, pace));
        }
        assert_eq!(given.len(), 3);
        assert!(calls.is_empty());
        let (work, pace) = given.remove(0);
        pace.left(work.job.batch.header.raw_bytes);
        assert!(matches!(calls.try_recv(), Ok(Message::Room((0, 0)))));
        assert!(line.next().is_some());
        topic.close();
        assert_eq!(std::iter::from_fn(|| line.next()).count(), 3);
    }

    #[tokio::test]
    async fn one_batch_always_has_room() {
        let topic = Arc::new(Topic::new("web".into(), 0, 1, HashMap::new()));
        let (owner, _calls) = crossbeam_channel::unbounded();
        let mut line = Line::new((0, 0), owner);
        line.push(work(&topic, 1 << 20).await);
        assert!(line.next().is_some());
    }
}
