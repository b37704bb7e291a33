//! How much of a partition librdkafka may have at a time: one request.
//!
//! An idempotent producer of librdkafka sends the next request of a partition when all but five of
//! the records before it are answered, which means one request at a time. While one is on its way
//! and more is queued behind it, its thread asks without a pause whether it was answered, which costs
//! a core. So the owner of a partition gives it the batches of one request, waits for the answers,
//! then gives the next; the rest waits here, in order. Not for: memory, which the permits bound.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::Sender;
use tokio::time::Instant;
use tributary_common::header::BatchHeader;

use super::owner::{Message, Work};

/// Bytes of one request: a little less than `batch.size`, of which librdkafka fills all.
const MAX_BYTES: u64 = 980_000;
/// What a record takes in a request beside its bytes, at most: lengths and deltas.
const RECORD_BYTES: u64 = 16;
/// How long after its first batch a request takes more of them. It leaves at its linger, 8 ms, and
/// what were to come after that would be queued behind it.
const JOIN_FOR: Duration = Duration::from_millis(4);

/// A partition: the topic's number in the journal, and its own.
pub(super) type Key = (u32, i32);

/// The part of a request that a batch takes, in bytes.
pub(super) fn cost(header: &BatchHeader) -> u64 {
    let records = u64::from(header.records).saturating_mul(RECORD_BYTES);
    header.raw_bytes.saturating_add(records)
}

/// What librdkafka has of a partition. The owner adds, the answers take away.
pub(super) struct Pace {
    key: Key,
    given_bytes: AtomicU64,
    waiting: AtomicBool,
    owner: Sender<Message>,
}

impl Pace {
    /// Whether all that was given is answered; when not, the owner is called once it is.
    fn is_idle(&self) -> bool {
        let idle = || self.given_bytes.load(Ordering::SeqCst) == 0;
        if idle() {
            return true;
        }
        // Look again after saying so: an answer in between has not seen that somebody waits.
        self.waiting.store(true, Ordering::SeqCst);
        idle()
    }

    /// A batch is given.
    pub(super) fn entered(&self, bytes: u64) {
        self.given_bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    /// A batch was answered.
    pub(super) fn left(&self, bytes: u64) {
        let before = self.given_bytes.fetch_sub(bytes, Ordering::SeqCst);
        if before == bytes && self.waiting.swap(false, Ordering::SeqCst) {
            // An owner that is gone has nothing that waits.
            drop(self.owner.send(Message::Room(self.key)));
        }
    }
}

/// The request that is being filled.
struct Request {
    bytes: u64,
    since: Instant,
}

/// The batches of a partition that wait, in order. Bounded by the permits that they carry.
pub(super) struct Line {
    waiting: VecDeque<Work>,
    request: Request,
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
            request: Request {
                bytes: 0,
                since: Instant::now(),
            },
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
        let bytes = cost(&first.job.batch.header);
        if !first.topic.is_closed() && !self.has_room(bytes) {
            return None;
        }
        Some((self.waiting.pop_front()?, Arc::clone(&self.pace)))
    }

    /// Takes room for a batch in the request that is being filled, or in a new one.
    fn has_room(&mut self, bytes: u64) -> bool {
        let filled = self.request.bytes.saturating_add(bytes);
        let joins = filled <= MAX_BYTES && self.request.since.elapsed() < JOIN_FOR;
        if joins {
            self.request.bytes = filled;
        } else if self.pace.is_idle() {
            self.request = Request {
                bytes,
                since: Instant::now(),
            };
        } else {
            return false;
        }
        true
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
            replay: None,
            done: Done::new(|_outcome| {}),
        };
        Work {
            topic: Arc::clone(topic),
            partition: 0,
            job,
        }
    }

    /// What a line gives now, as the owner does.
    fn give(line: &mut Line) -> Vec<(Work, Arc<Pace>)> {
        let give = || {
            let (work, pace) = line.next()?;
            pace.entered(cost(&work.job.batch.header));
            Some((work, pace))
        };
        std::iter::from_fn(give).collect()
    }

    fn answer((work, pace): (Work, Arc<Pace>)) {
        pace.left(cost(&work.job.batch.header));
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_gets_one_request_at_a_time_and_is_called_for_the_next() {
        let topic = Arc::new(Topic::new("web".into(), 0, 1, HashMap::new()));
        let (owner, calls) = crossbeam_channel::unbounded();
        let mut line = Line::new((0, 0), owner);
        for _batch in 0..7 {
            line.push(work(&topic, 256 << 10).await);
        }
        let mut given = give(&mut line);
        assert_eq!(given.len(), 3);
        let last = given.pop().unwrap();
        given.into_iter().for_each(answer);
        assert!(calls.is_empty(), "a part of the request is on its way");
        answer(last);
        assert!(matches!(calls.try_recv(), Ok(Message::Room((0, 0)))));
        assert_eq!(give(&mut line).len(), 3);
        topic.close();
        assert_eq!(give(&mut line).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_takes_what_comes_before_it_leaves() {
        let topic = Arc::new(Topic::new("web".into(), 0, 1, HashMap::new()));
        let (owner, _calls) = crossbeam_channel::unbounded();
        let mut line = Line::new((0, 0), owner);
        line.push(work(&topic, 1_000).await);
        let first = give(&mut line);
        tokio::time::advance(Duration::from_millis(3)).await;
        line.push(work(&topic, 1_000).await);
        let second = give(&mut line);
        assert_eq!((first.len(), second.len()), (1, 1));
        tokio::time::advance(Duration::from_millis(3)).await;
        line.push(work(&topic, 1_000).await);
        assert!(give(&mut line).is_empty());
        first.into_iter().chain(second).for_each(answer);
        assert_eq!(give(&mut line).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_batch_always_has_room() {
        let topic = Arc::new(Topic::new("web".into(), 0, 1, HashMap::new()));
        let (owner, _calls) = crossbeam_channel::unbounded();
        let mut line = Line::new((0, 0), owner);
        tokio::time::advance(JOIN_FOR).await;
        line.push(work(&topic, 1 << 20).await);
        assert!(line.next().is_some());
    }
}
