//! A producer of librdkafka: with the thread that takes its answers, and with partitions that are held while
//! a request for them is filled.
//!
//! # Operation
//! librdkafka makes a request of what a partition has when its linger is over, also where that is a part of
//! a batch: on a busy machine to hand over a batch may take longer. A partition that is held sends nothing
//! until everybody who holds it has let go, so what was given meanwhile is one request. It is held the way
//! consumers pause theirs, which librdkafka's producers heed as well; going on wakes nobody there, so the
//! threads of the brokers are woken by a flush that does not wait.
//!
//! Not for: which requests need it (see [`super::pace`]).
//!
//! Source: librdkafka's `rdkafka.h` and `rd_kafka_toppar_producer_serve` (<https://github.com/confluentinc/librdkafka>).

use std::{
    collections::{BTreeSet, HashMap},
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context as _;
use rdkafka::{
    TopicPartitionList,
    bindings::{rd_kafka_flush, rd_kafka_pause_partitions, rd_kafka_resume_partitions},
    producer::{BaseProducer, Producer as _},
};

use super::produced::Context;

/// Whether it is dropped is looked at so often where no answer comes. The crate asks librdkafka in whole
/// milliseconds, so of each look the last part of a millisecond is spent without a pause: every 100 ms,
/// as in its own thread, that was 0.7 % of a core.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is held: by topic and partition how many hold it.
#[derive(Debug, Default)]
struct Held {
    by: HashMap<(Arc<str>, i32), u32>,
    /// Grows when everything is let go at once.
    era: u64,
}

/// See the module. Its last owner waits for its thread.
pub(super) struct Producer {
    inner: Arc<BaseProducer<Context>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    held: Mutex<Held>,
}

impl Producer {
    /// # Errors
    /// No thread can be started.
    pub(super) fn new(inner: BaseProducer<Context>) -> anyhow::Result<Self> {
        let (inner, stop) = (Arc::new(inner), Arc::new(AtomicBool::new(false)));
        let polled = (Arc::clone(&inner), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("kafka-answers".to_owned());
        let thread = thread.spawn(move || {
            let (inner, stop) = polled;
            while !stop.load(Ordering::Relaxed) {
                inner.poll(LOOK_EVERY);
            }
        });
        Ok(Self {
            inner,
            stop,
            thread: Some(thread.context("failed to start a thread")?),
            held: Mutex::default(),
        })
    }

    /// To hold partitions of a topic; as yet none.
    pub(super) fn hold(self: &Arc<Self>, topic: &Arc<str>) -> Hold {
        Hold {
            producer: Arc::clone(self),
            topic: Arc::clone(topic),
            partitions: BTreeSet::new(),
            era: self.held().era,
        }
    }

    /// Lets go of all that is held, for whoever holds it: what is held may be all that the queue has room for.
    pub(super) fn let_go(&self) {
        let mut held = self.held();
        held.era += 1;
        let all = std::mem::take(&mut held.by);
        self.go_on(all.keys().map(|(topic, partition)| (topic, *partition)));
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Every change is whole before the lock is given back, also in a panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until these partitions send nothing more. One that librdkafka does not know is not held; it knows
    /// those of topics that are open, since their number came from its own metadata.
    #[expect(unsafe_code, reason = "the crate pauses partitions of consumers only")]
    fn pause(&self, partitions: &TopicPartitionList) {
        // SAFETY: producer and list are alive; the list is only written to, by this call.
        unsafe { rd_kafka_pause_partitions(self.inner.client().native_ptr(), partitions.ptr()) };
    }

    /// Lets partitions send again.
    #[expect(unsafe_code, reason = "the crate resumes partitions of consumers only")]
    fn go_on<'a>(&self, partitions: impl Iterator<Item = (&'a Arc<str>, i32)>) {
        let list = list(partitions);
        if list.count() == 0 {
            return;
        }
        let client = self.inner.client().native_ptr();
        // SAFETY: producer and list are alive; the list is only written to, by this call. A flush that
        // waits for nothing wakes the brokers' threads and looks at a counter: answers are events here,
        // which it leaves alone.
        unsafe {
            rd_kafka_resume_partitions(client, list.ptr());
            rd_kafka_flush(client, 0);
        }
    }
}

fn list<'a>(partitions: impl Iterator<Item = (&'a Arc<str>, i32)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in partitions {
        list.add_partition(topic, partition);
    }
    list
}

impl Deref for Producer {
    type Target = BaseProducer<Context>;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let itself = std::thread::current().id();
        // An answer may have been its last user.
        let thread = self.thread.take();
        let thread = thread.filter(|thread| thread.thread().id() != itself);
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that takes librdkafka's answers panicked");
        }
    }
}

/// Partitions that are held; with its end they are let go.
pub(super) struct Hold {
    producer: Arc<Producer>,
    topic: Arc<str>,
    partitions: BTreeSet<i32>,
    era: u64,
}

impl Hold {
    /// Holds these as well. When this returns nothing more of them leaves.
    pub(super) fn add(&mut self, partitions: impl IntoIterator<Item = i32>) {
        let mut held = self.producer.held();
        if self.era != held.era {
            self.era = held.era;
            self.partitions.clear();
        }
        let mut fresh = Vec::new();
        for partition in partitions {
            if !self.partitions.insert(partition) {
                continue;
            }
            let by = held.by.entry((Arc::clone(&self.topic), partition));
            let by = by.or_default();
            *by += 1;
            if *by == 1 {
                fresh.push((&self.topic, partition));
            }
        }
        if !fresh.is_empty() {
            // Who comes next shall not believe that they are held before they are.
            self.producer.pause(&list(fresh.into_iter()));
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.producer.held();
        if self.era != held.era {
            return;
        }
        let mut free = Vec::new();
        for &partition in &self.partitions {
            let key = (Arc::clone(&self.topic), partition);
            if let Some(by) = held.by.get_mut(&key) {
                *by -= 1;
                if *by == 0 {
                    held.by.remove(&key);
                    free.push((&self.topic, partition));
                }
            }
        }
        self.producer.go_on(free.into_iter());
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::{
        super::{ProducerKind, tests},
        *,
    };

    #[tokio::test]
    async fn what_several_hold_is_held_until_the_last_of_them_lets_go() {
        let rig = tests::start(
            ProducerKind::Rdkafka,
            TempDir::new().unwrap(),
            "127.0.0.1:1",
        );
        let producer = Arc::new(rig.kafka.shared().producer().unwrap());
        let topic: Arc<str> = "web".into();
        let by = |partition: i32| {
            let key = (Arc::clone(&topic), partition);
            producer.held().by.get(&key).copied().unwrap_or_default()
        };
        let (mut one, mut other) = (producer.hold(&topic), producer.hold(&topic));
        one.add([1, 2, 1]);
        other.add([2]);
        other.add([2, 3]);
        assert_eq!([by(1), by(2), by(3)], [1, 2, 1]);
        drop(one);
        assert_eq!([by(1), by(2), by(3)], [0, 1, 1]);
        // Then it is all the same who held what.
        producer.let_go();
        assert_eq!([by(1), by(2), by(3)], [0; 3]);
        let mut third = producer.hold(&topic);
        third.add([2]);
        drop(other);
        assert_eq!(by(2), 1);
        drop(third);
        assert!(producer.held().by.is_empty());
        drop(producer);
        rig.kill();
    }
}
