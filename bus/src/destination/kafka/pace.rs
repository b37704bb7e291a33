//! How much of a partition librdkafka may have at a time: one request.
//!
//! An idempotent producer of librdkafka sends the next request of a partition when all but five of
//! the records before it are answered, which means one request at a time. While one is on its way
//! and more is queued behind it, its thread asks without a pause whether it was answered, which costs
//! a core. So the owner of a partition gives it the batches of one request, waits for the answers,
//! then gives the next; the rest waits here, in order. Each request costs as much CPU as a
//! hundred kilobytes of lines, so it is as large as a broker takes by default. Not for: memory, which
//! the permits bound.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::Sender;
use rdkafka::ClientConfig;
use tokio::time::Instant;
use tributary_common::{
    batch::{Codec, Decoded},
    header::BatchHeader,
};

use super::{
    super::Accepted,
    owner::{Message, Work},
    settings::CODEC,
};

/// Records of one request before they are compressed, in bytes, where `batch.size` allows it.
const REQUEST_BYTES: u64 = 3_200_000;
/// What a broker takes by default, compressed, is 1,048,588 bytes: so much fits if nothing compresses.
const PLAIN_BYTES: u64 = 980_000;
/// What a request of more than that may take once it is compressed, by what its batches took when they
/// came. Far below the broker's limit, since librdkafka compresses anew.
const PACKED_BYTES: u64 = 600_000;
/// What a record takes in a request beside its bytes, at most: lengths and deltas.
const RECORD_BYTES: u64 = 16;
/// How long after its first batch a request takes more of them. It leaves at its linger, 8 ms, and
/// what were to come after that would be queued behind it.
const JOIN_FOR: Duration = Duration::from_millis(4);
/// By then they are to be open: what goes behind a request that is refused is in the log before it.
const GIVE_WITHIN: Duration = Duration::from_millis(6);
/// A batch of more records or bytes is not given in a moment: its partition is held meanwhile (see
/// [`super::producer`]). Holding costs two ways to another thread, and wakes one for each broker.
const MOMENT: (u32, u64) = (64, 64 << 10);

/// A partition: the topic's number in the journal, and its own.
pub(super) type Key = (u32, i32);

/// The part of a request that a batch takes before it is compressed, in bytes.
pub(super) fn cost(header: &BatchHeader) -> u64 {
    let records = u64::from(header.records).saturating_mul(RECORD_BYTES);
    header.raw_bytes.saturating_add(records)
}

/// How large a request becomes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes before compression that librdkafka puts into one request.
    request: u64,
    /// What librdkafka compresses with, when that is one of ours.
    codec: Option<Codec>,
}

impl Limits {
    /// Those of a producer with these settings.
    pub(super) fn of(settings: &ClientConfig) -> Self {
        let size = settings
            .get("batch.size")
            .and_then(|size| size.parse().ok());
        // librdkafka counts a little more than the records.
        let size = size.map_or(REQUEST_BYTES, |size: u64| size - size / 32);
        let codec = settings.get(CODEC);
        let codec = Codec::ALL
            .into_iter()
            .find(|one| codec == Some(one.as_str()));
        Self {
            request: REQUEST_BYTES.min(size),
            codec,
        }
    }

    /// What a batch is expected to take once librdkafka has compressed it, in bytes.
    fn packed(&self, batch: &Accepted) -> u64 {
        let came = Codec::of(&batch.payload);
        let as_well = match (came, self.codec) {
            (None | Some(Codec::None), _) | (_, None | Some(Codec::None)) => false,
            // It leaves what does not repeat as it is, which may be half of what the others save.
            (_, Some(Codec::Lz4)) => came == Some(Codec::Lz4),
            (_, Some(Codec::Gzip | Codec::Zstd)) => true,
        };
        match as_well {
            true => batch.payload.len() as u64,
            false => cost(&batch.header),
        }
    }
}

/// What librdkafka has of a partition. The owner adds, the answers take away.
pub(super) struct Pace {
    key: Key,
    given_bytes: AtomicU64,
    /// There are several batches in the request.
    joined: AtomicBool,
    /// Its topic did not take a request, for its records: one batch goes at a time.
    alone: AtomicBool,
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

    /// The request was refused for its records. True where there were several batches in it: they may be
    /// taken one by one. So they are given from now on: one that comes again piece by piece must have
    /// nothing behind it on its way.
    pub(super) fn refused(&self) -> bool {
        let joined = self.joined.load(Ordering::SeqCst);
        if !self.alone.swap(true, Ordering::SeqCst) {
            let what = if joined {
                "a request of several batches was refused by its topic: they go one by one from now on"
            } else {
                "a batch was refused by its topic for a record: its partition's batches go one at a time from now on"
            };
            let (target, partition) = self.key;
            tracing::info!(target, partition, "{what}");
        }
        joined
    }
}

/// The request that is being filled.
#[derive(Debug, Clone, Copy)]
struct Request {
    bytes: u64,
    packed: u64,
    since: Instant,
    /// Its partition is held.
    held: bool,
    /// It was, and may have left.
    closed: bool,
}

impl Request {
    fn new(bytes: u64, packed: u64) -> Self {
        Self {
            bytes,
            packed,
            since: Instant::now(),
            held: false,
            closed: false,
        }
    }
}

/// The batches of a partition that wait, in order. Bounded by the permits that they carry.
pub(super) struct Line {
    limits: Limits,
    waiting: VecDeque<Work>,
    /// The first one, once it is open.
    opened: Option<Decoded>,
    request: Request,
    pace: Arc<Pace>,
}

impl Line {
    pub(super) fn new(key: Key, limits: Limits, owner: Sender<Message>) -> Self {
        let pace = Pace {
            key,
            given_bytes: AtomicU64::new(0),
            joined: AtomicBool::new(false),
            alone: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            owner,
        };
        Self {
            limits,
            waiting: VecDeque::new(),
            opened: None,
            request: Request::new(0, 0),
            pace: Arc::new(pace),
        }
    }

    /// One more waits.
    pub(super) fn push(&mut self, work: Work) {
        self.waiting.push_back(work);
    }

    /// The next one, and what is in it where it was opened before; when there is room for it or it will
    /// not be given anyway.
    pub(super) fn next(&mut self) -> Option<(Work, Option<Decoded>, Arc<Pace>)> {
        let first = self.waiting.front()?;
        let batch = &first.job.batch;
        let (bytes, packed) = (cost(&batch.header), self.limits.packed(batch));
        if !first.topic.is_closed() && !self.has_room(bytes, packed) {
            return None;
        }
        let work = self.waiting.pop_front()?;
        Some((work, self.opened.take(), Arc::clone(&self.pace)))
    }

    /// Whether the partition is to be held while a batch that found room is given: where that takes more
    /// than a moment, and where batches were refused, since a part of one must not land without the rest.
    pub(super) fn wants_hold(&self, work: &Work) -> bool {
        let header = &work.job.batch.header;
        let (records, bytes) = MOMENT;
        header.records > records || cost(header) > bytes || self.pace.alone.load(Ordering::SeqCst)
    }

    /// Whether the request in which the last one found room has certainly not left yet. `held`: the partition
    /// is held now, so it will not leave either.
    pub(super) fn is_in_time(&mut self, held: bool) -> bool {
        let in_time = self.request.held
            || !self.pace.joined.load(Ordering::SeqCst)
            || self.request.since.elapsed() < GIVE_WITHIN;
        self.request.held |= held && in_time;
        in_time
    }

    /// Its partition is let go: nothing joins the request any more.
    pub(super) fn close(&mut self) {
        self.request.closed = true;
    }

    /// Takes the last one back, which is open: it waits for the next request.
    pub(super) fn put_back(&mut self, work: Work, decoded: Decoded) {
        self.waiting.push_front(work);
        self.opened = Some(decoded);
    }

    /// Takes room for a batch in the request that is being filled, or in a new one.
    fn has_room(&mut self, bytes: u64, packed: u64) -> bool {
        let joined = Request {
            bytes: self.request.bytes.saturating_add(bytes),
            packed: self.request.packed.saturating_add(packed),
            ..self.request
        };
        if self.fits(&joined) {
            self.pace
                .joined
                .store(self.request.bytes > 0, Ordering::SeqCst);
            self.request = joined;
        } else if self.pace.is_idle() {
            self.pace.joined.store(false, Ordering::SeqCst);
            self.request = Request::new(bytes, packed);
        } else {
            return false;
        }
        true
    }

    /// Whether librdkafka will send it as one request, which the broker takes.
    fn fits(&self, request: &Request) -> bool {
        let plain = request.bytes <= PLAIN_BYTES;
        let packed = request.packed <= PACKED_BYTES;
        request.bytes <= self.limits.request
            && (plain || packed)
            && !self.pace.alone.load(Ordering::SeqCst)
            && !request.closed
            && (request.held || request.since.elapsed() < JOIN_FOR)
    }

    /// Everything that waits.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Work> + '_ {
        self.waiting.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use crossbeam_channel::Receiver;
    use tributary_common::batch::Decoder;

    use super::*;
    use crate::{
        destination::{
            Done, Job,
            kafka::{settings, topic::Topic},
        },
        testing::{accepted, batch},
    };

    /// Those of a producer that compresses with `codec`.
    fn limits(codec: &str) -> Limits {
        Limits::of(ClientConfig::new().set(CODEC, codec))
    }

    /// A topic and the line of its partition, with the calls to whom it belongs.
    fn of(codec: &str) -> (Arc<Topic>, Line, Receiver<Message>) {
        let topic = Arc::new(Topic::new("web".into(), 0, 1, HashMap::new()));
        let (owner, calls) = crossbeam_channel::unbounded();
        (topic, Line::new((0, 0), limits(codec), owner), calls)
    }

    async fn work(topic: &Arc<Topic>, bytes: usize) -> Work {
        work_of(topic, &"x".repeat(bytes)).await
    }

    async fn work_of(topic: &Arc<Topic>, line: &str) -> Work {
        let batch = accepted(batch("web", 1, 1, &[line])).await;
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
            no: 0,
        }
    }

    /// What a line gives now, as the owner does.
    fn give(line: &mut Line) -> Vec<(Work, Arc<Pace>)> {
        let give = || {
            let (work, _opened, pace) = line.next()?;
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
        let mut line = Line::new((0, 0), limits("lz4"), owner);
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

    /// How many of 20 batches of 256 KiB are one request of a producer that compresses with `codec`.
    async fn together(codec: &str, line: &str) -> usize {
        let topic = Arc::new(Topic::new("web".into(), 0, 1, HashMap::new()));
        let (owner, _calls) = crossbeam_channel::unbounded();
        let mut line_of = Line::new((0, 0), limits(codec), owner);
        for _batch in 0..20 {
            line_of.push(work_of(&topic, line).await);
        }
        give(&mut line_of).len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_as_large_as_it_will_be_small_once_it_is_compressed() {
        let same = "x".repeat(256 << 10);
        assert_eq!(together("zstd", &same).await, 12);
        assert_eq!(together("gzip", &same).await, 12);
        let mut random = fastrand::Rng::with_seed(7);
        let noise: String = (0..256 << 10).map(|_at| random.alphanumeric()).collect();
        assert_eq!(together("zstd", &noise).await, 3);
        // They came with zstd, which says nothing of these.
        for codec in ["lz4", "snappy", "none"] {
            assert_eq!(together(codec, &same).await, 3, "{codec}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn batches_go_one_by_one_once_some_were_too_large_together() {
        let (topic, mut line, _calls) = of("zstd");
        for _batch in 0..4 {
            line.push(work(&topic, 1_000).await);
        }
        let given = give(&mut line);
        assert_eq!(given.len(), 4);
        assert!(given[0].1.refused(), "each of them may fit");
        given.into_iter().for_each(answer);
        for _batch in 0..4 {
            line.push(work(&topic, 1_000).await);
        }
        let mut given = give(&mut line);
        assert_eq!(given.len(), 1);
        let (work, pace) = given.remove(0);
        assert!(!pace.refused(), "it does not fit by itself");
        answer((work, pace));
        assert_eq!(give(&mut line).len(), 1);
    }

    /// It comes again piece by piece: what joined it then would be in the log before its pieces.
    #[tokio::test(start_paused = true)]
    async fn nothing_joins_a_batch_that_was_refused_alone() {
        let (topic, mut line, _calls) = of("zstd");
        line.push(work(&topic, 1_000).await);
        let mut given = give(&mut line);
        let (refused, pace) = given.remove(0);
        assert!(!pace.refused(), "it was alone");
        answer((refused, pace));
        line.push(work(&topic, 1_000).await);
        line.push(work(&topic, 1_000).await);
        assert_eq!(give(&mut line).len(), 1);
    }

    #[test]
    fn a_request_is_no_larger_than_librdkafka_makes_it() {
        let by_default = settings::producer(&["b:1".to_owned()], &BTreeMap::new(), 1 << 30, false);
        assert_eq!(Limits::of(&by_default).request, 3_196_875);
        let small = BTreeMap::from([("batch.size".to_owned(), "320000".to_owned())]);
        let small = settings::producer(&["b:1".to_owned()], &small, 1 << 30, false);
        assert_eq!(Limits::of(&small).request, 310_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_takes_what_comes_before_it_leaves() {
        let (topic, mut line, _calls) = of("lz4");
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
    async fn a_batch_that_took_long_to_open_waits_for_the_next_request() {
        let (topic, mut line, _calls) = of("lz4");
        line.push(work(&topic, 1_000).await);
        let first = give(&mut line);
        assert!(line.is_in_time(false), "it is alone");
        line.push(work(&topic, 1_000).await);
        let (second, _opened, _pace) = line.next().unwrap();
        let decoded = second.job.batch.open(&mut Decoder::new()).unwrap();
        assert!(line.is_in_time(false));
        tokio::time::advance(GIVE_WITHIN).await;
        assert!(!line.is_in_time(false));
        assert!(!line.is_in_time(true), "it is held too late");
        line.put_back(second, decoded);
        assert!(line.next().is_none());
        first.into_iter().for_each(answer);
        let (_second, opened, _pace) = line.next().unwrap();
        assert!(opened.is_some() && line.is_in_time(false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_held_takes_what_comes_until_it_is_let_go() {
        let (topic, mut line, _calls) = of("lz4");
        let small = work(&topic, 1_000).await;
        assert!(!line.wants_hold(&small));
        assert!(line.wants_hold(&work(&topic, 100_000).await));
        line.push(small);
        let mut given = give(&mut line);
        assert!(line.is_in_time(true));
        tokio::time::advance(GIVE_WITHIN).await;
        line.push(work(&topic, 1_000).await);
        given.extend(give(&mut line));
        assert_eq!(given.len(), 2);
        assert!(line.is_in_time(true));
        line.close();
        line.push(work(&topic, 1_000).await);
        assert!(give(&mut line).is_empty(), "it may have left");
        assert!(given[0].1.refused());
        given.into_iter().for_each(answer);
        let mut next = give(&mut line);
        assert_eq!(next.len(), 1);
        let (next, _pace) = next.remove(0);
        assert!(line.wants_hold(&next), "its topic refuses records");
    }

    #[tokio::test(start_paused = true)]
    async fn one_batch_always_has_room() {
        let (topic, mut line, _calls) = of("lz4");
        tokio::time::advance(JOIN_FOR).await;
        line.push(work(&topic, 1 << 20).await);
        assert_eq!(give(&mut line).len(), 1);
    }
}
