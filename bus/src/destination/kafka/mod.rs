//! Kafka, by one of two producers: librdkafka, or our own, which forwards batches as they came.
//!
//! # Constraints
//! Idempotent, acks=all, no timeout that drops: what was given to a producer stays on its way until
//! Kafka has it, bounded by the permits that the batches carry. A batch is acknowledged when Kafka
//! has every record of it. Batches of a stream keep their order; a stream keeps its partition, unless
//! its rate changes for long (see [`subset`]) or its records have keys: then they choose (see [`keyed`]).
//!
//! # Operation
//! ```text
//! deliver -> topic open? --no--> opener (partitions, recovery) --.
//!               '--yes-> owner thread of the partition <---------'
//!                          opens, produces -> librdkafka -> countdown -> journal -> answer
//!                    or -> verbatim: forwards -> answers of brokers --^
//! watcher: stalled topics, brokers that are gone, a producer that is broken for good
//! ```
//! A topic with batches on its way and no answer for 3 s is stalled: new batches of it get `Busy`,
//! other topics go on. When all are stalled, or no broker answers, the destination is down.
//! A batch that failed may be there in part; its topic is closed and looked through again before
//! anything more is produced.
//!
//! Rooms: [`settings`], [`topics`], [`topic`], [`subset`], [`stops`], [`open`], [`create`], [`grow`], [`readback`], [`letters`], [`owner`], [`lend`], [`keyed`], [`pace`], [`careful`],
//! [`produced`], [`watch`]; [`verbatim`]; [`groups`].

mod careful;
mod create;
pub(crate) mod groups;
mod grow;
mod keyed;
mod lend;
mod letters;
mod open;
mod owner;
mod pace;
mod produced;
mod producer;
mod readback;
mod settings;
mod stops;
mod subset;
mod topic;
mod topics;
mod verbatim;
mod watch;

use std::{
    collections::{BTreeMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender};
use rdkafka::ClientConfig;
use tokio::time::Instant;
use tributary_common::{
    header::BatchHeader,
    ids::{BatchId, Class, Name},
    report::DestinationHealth,
    wire::Place,
};

use self::{
    careful::{Careful, Settler},
    create::Creating,
    groups::{Groups, grouped::Grouped},
    lend::Spares,
    letters::Mail,
    open::Opener,
    owner::{Message, Worker},
    produced::Context,
    producer::Producer,
    stops::Stops,
    topic::Topic,
    topics::{Known, Producers, ToOpen, Topics},
    verbatim::bearer::Bearer,
    watch::{Health, Watcher},
};
pub(crate) use self::{
    settings::{CODEC, by_one_name, is_ours},
    verbatim::security,
};
use super::{Condition, Failure, Job, note_and_tell};
use crate::{
    dead::{Filter, Letters},
    done::DestinationNo,
    journal::{Journal, format::Record},
    route::Table,
};

/// Threads that open batches. Each gives librdkafka about a million records a second.
const OWNERS: usize = 2;

/// Where librdkafka's tokens come from; nowhere where it has ways of its own.
fn tokens(options: &BTreeMap<String, String>) -> Result<Option<Bearer>, security::SecurityError> {
    match security::beyond(options) {
        None => security::bearer(options),
        Some(_its_own) => Ok(None),
    }
}

/// Who produces, as the configuration says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProducerKind {
    /// librdkafka, record by record.
    Rdkafka,
    /// Ours, batch by batch.
    Verbatim,
}

/// The queue of a thread that opens batches, both ends.
type Owner = (Sender<Message>, Receiver<Message>);

/// The way to a producer, and what is to be started for it.
fn producers(kind: ProducerKind) -> (Producers, Vec<Owner>, Option<verbatim::Unstarted>) {
    match kind {
        ProducerKind::Rdkafka => {
            let owners = (0..OWNERS).map(|_no| crossbeam_channel::unbounded());
            let owners: Vec<Owner> = owners.collect();
            let ways = owners.iter().map(|(owner, _work)| owner.clone());
            (Producers::Rdkafka(ways.collect()), owners, None)
        }
        ProducerKind::Verbatim => {
            let (handle, unstarted) = verbatim::new();
            (Producers::Verbatim(handle), Vec::new(), Some(unstarted))
        }
    }
}

/// The way to a thread that sends dead letters once more, by their numbers.
type Replays = Sender<Vec<u64>>;

/// Starts the thread that sends dead letters once more.
fn start_replays(
    shared: &Arc<Shared>,
    threads: &mut Vec<JoinHandle<()>>,
) -> anyhow::Result<Replays> {
    let (replays, numbers) = crossbeam_channel::unbounded();
    let thread = std::thread::Builder::new().name(format!("kafka-replay-{}", shared.name));
    let shared = Arc::clone(shared);
    let replay = move || shared.replay(&numbers, |job| shared.deliver(job));
    threads.push(thread.spawn(replay).context("failed to start a thread")?);
    Ok(replays)
}

/// Starts what gives librdkafka its records, where it is the producer.
fn start_owners(
    owners: Vec<Owner>,
    (shared, producer): (&Arc<Shared>, &Arc<Slot>),
    start: &mut impl FnMut(&str, Box<dyn FnOnce() + Send>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // Bounded by the byte permits that the batches carry.
    let (careful, cases) = crossbeam_channel::unbounded();
    if !owners.is_empty() {
        let settler = Settler {
            shared: Arc::clone(shared),
            producer: Arc::clone(producer),
            incoming: cases,
        };
        start("careful", Box::new(|| settler.run()))?;
    }
    for (own, incoming) in owners {
        let worker = Worker {
            shared: Arc::clone(shared),
            producer: Arc::clone(producer),
            incoming,
            own,
            spares: Spares::new(),
            careful: careful.clone(),
        };
        start("owner", Box::new(|| worker.run()))?;
    }
    Ok(())
}

/// The other end of such a queue.
type Opening = (Option<Class>, Receiver<Arc<str>>);

/// A queue of topics to open; or one for each group, so that none waits for brokers of another.
fn openers(grouped: Option<&Grouped>) -> (Vec<ToOpen>, Vec<Opening>) {
    let classes: Vec<Option<Class>> = match grouped {
        Some(grouped) => grouped.classes().map(Some).collect(),
        None => vec![None],
    };
    let queues = classes.into_iter().map(|class| {
        let (opener, to_open) = crossbeam_channel::unbounded();
        ((class, opener), (class, to_open))
    });
    queues.unzip()
}

/// What all threads of the destination share.
pub(super) struct Shared {
    name: Name,
    no: DestinationNo,
    journal: Journal,
    settings: ClientConfig,
    reader: ClientConfig,
    topics: Mutex<Topics>,
    health: Mutex<Health>,
    closing: AtomicBool,
    /// From librdkafka to the acknowledgement of a batch, in seconds.
    took: metrics::Histogram,
    /// Its resource groups, where it has some.
    grouped: Option<Grouped>,
    /// Whose token librdkafka shows, where brokers want one.
    bearer: Option<Bearer>,
    /// What it will never take.
    mail: Arc<Mail>,
    /// Batches of librdkafka's that go piece by piece.
    careful: Careful,
    /// What a partition is for, in bytes a second of slow streams.
    partition_rate: u64,
    /// Streams of which a batch was refused.
    stops: Arc<Stops>,
    /// Topics that are missing.
    creating: Creating,
}

/// The present producer.
#[derive(Default)]
struct Slot(Mutex<Option<Arc<Producer>>>);

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Producer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self) -> Option<Arc<Producer>> {
        self.lock().clone()
    }
}

impl Shared {
    fn topics(&self) -> MutexGuard<'_, Topics> {
        // Every change below is whole before the lock is given back, also in a panic.
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    fn producer(self: &Arc<Self>) -> anyhow::Result<Producer> {
        Producer::new(self.settings.create_with_context(Context {
            shared: Arc::clone(self),
        })?)
    }

    /// Looks from time to time which topics lie outside of their groups, until the destination closes.
    fn look_at_groups(&self) {
        let mut due = Instant::now();
        while let Some(grouped) = self.grouped.as_ref().filter(|_groups| !self.is_closing()) {
            if Instant::now() >= due {
                grouped.look();
                due = Instant::now() + groups::grouped::LOOK_EVERY;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Gives a batch to its topic, which is opened where it is not.
    fn deliver(&self, job: Job) {
        if self.is_closing() {
            return job.done.tell(Err(Failure::Unavailable(
                "this node is stopping".to_owned(),
            )));
        }
        let grouped = self.grouped.as_ref();
        let job = match grouped {
            Some(grouped) => grouped.enter(job),
            None => job,
        };
        let mut topics = self.topics();
        let topics = &mut *topics;
        match topics.known.entry(job.target.as_str().into()) {
            Entry::Occupied(mut known) => match known.get_mut() {
                Known::Opening(jobs) => jobs.push(job),
                Known::Open(topic) => {
                    let topic = Arc::clone(topic);
                    topics.give(&topic, job, self.stops.number());
                }
            },
            Entry::Vacant(place) => {
                let name = Arc::clone(place.key());
                place.insert(Known::Opening(vec![job]));
                let group = grouped.map(|grouped| grouped.group_of(&name));
                let mut openers = topics.openers.iter();
                if let Some((_, opener)) = openers.find(|(of, _)| *of == group) {
                    // A thread that is gone has panicked; the watcher's view says so.
                    drop(opener.send(name));
                }
            }
        }
    }

    /// A topic was opened: what waited for it goes first.
    fn opened(&self, topic: Topic) {
        let topic = Arc::new(topic);
        let mut topics = self.topics();
        let before = topics
            .known
            .insert(Arc::clone(&topic.name), Known::Open(Arc::clone(&topic)));
        if let Some(Known::Opening(jobs)) = before {
            for job in jobs {
                topics.give(&topic, job, self.stops.number());
            }
        }
    }

    /// A topic cannot be opened: what waited for it is told, the next batch tries again.
    fn not_opened(&self, topic: &str, failure: &Failure) {
        let before = self.topics().known.remove(topic);
        if let Some(Known::Opening(jobs)) = before {
            for job in jobs {
                job.done.tell(Err(failure.clone()));
            }
        }
    }

    /// A batch of a topic failed and may be there in part: nothing more is produced before the
    /// topic was looked through.
    fn suspect(&self, topic: &Arc<Topic>) {
        topic.close();
        let mut topics = self.topics();
        if let Some(Known::Open(known)) = topics.known.get(&topic.name)
            && Arc::ptr_eq(known, topic)
        {
            topics.known.remove(&topic.name);
            topics.keep_pins(topic);
            topics.closed.push(Arc::clone(topic));
        }
    }

    /// A batch that was found is complete.
    fn resolved(&self, topic: &Topic, batch: BatchId) {
        if topic.resolve(batch) {
            self.nothing_left_to_find(topic);
        }
    }

    /// A place in a topic: partition, first offset, after the last.
    fn place(&self, topic: &Topic, (partition, first, end): (i32, i64, i64)) -> Place {
        Place {
            destination: self.name.clone(),
            target: topic.name.to_string(),
            partition,
            first,
            end,
        }
    }

    /// The place of a batch of which nothing is to be in the topic: where its stream goes on.
    fn nowhere(&self, topic: &Topic, header: &BatchHeader) -> Place {
        let partition = topic.partition_of(header.stream);
        let memory = self.journal.memory();
        let known = memory.get(topic.target);
        let position = known.and_then(|known| known.positions.get(&partition));
        let end = position.map_or(0, |position| position.end);
        self.place(topic, (partition, end, end))
    }

    /// A batch is in its topic, and all of it was before: notes it.
    fn note(&self, topic: &Topic, job: Job, place: Place) {
        let id = job.batch.header.id();
        topic.left(&job.batch.header);
        self.end_replayed();
        note_and_tell(&self.journal, topic.target, job, place);
        self.resolved(topic, id);
    }

    fn nothing_left_to_find(&self, topic: &Topic) {
        let resolved = vec![Record::Resolved {
            target: topic.target,
        }];
        self.journal
            .commit(resolved, false, Box::new(|_written| {}));
    }

    /// The topics that are closed, and of which something is on its way still.
    fn closed_topics(&self) -> Vec<Arc<Topic>> {
        let mut topics = self.topics();
        topics.closed.retain(|topic| topic.on_the_way() > 0);
        topics.closed.clone()
    }

    /// The open topics.
    fn open_topics(&self) -> Vec<Arc<Topic>> {
        let topics = self.topics();
        let open = topics.known.values().filter_map(|known| match known {
            Known::Open(topic) => Some(Arc::clone(topic)),
            Known::Opening(_jobs) => None,
        });
        open.collect()
    }
}

/// A cluster, as the configuration says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// `host:port` of the brokers to ask first.
    pub bootstrap: Vec<String>,
    /// Settings of librdkafka.
    pub options: BTreeMap<String, String>,
    /// Who produces.
    pub producer: ProducerKind,
    /// Its brokers by class, where topics are kept apart.
    pub groups: Option<Groups>,
    /// Slow streams of a topic share a partition for each so many bytes a second of their lines.
    pub partition_rate: u64,
}

/// The destination.
pub(crate) struct Kafka {
    shared: Arc<Shared>,
    /// Batches without keys are forwarded closed.
    verbatim: bool,
    producer: Arc<Slot>,
    /// Bounded by the letters that there are.
    replays: Mutex<Option<Replays>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kafka")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

impl Kafka {
    /// Starts the threads. Nobody is connected to yet; a cluster that is away is waited for.
    ///
    /// # Errors
    /// Settings that librdkafka refuses, in its words.
    pub(crate) fn start(
        name: &Name,
        cluster: &KafkaConfig,
        memory: u64,
        (letters, journal): (&Arc<Letters>, &Journal),
    ) -> anyhow::Result<Self> {
        let (bootstrap, options) = (&cluster.bootstrap, &cluster.options);
        let no = journal.memory().destination(name);
        let grouped = Grouped::of(name, cluster, memory).transpose()?;
        let (openers, to_open) = openers(grouped.as_ref());
        let (producers, owners, unstarted) = producers(cluster.producer);
        let topics = Topics::new(producers, openers);
        let mut settings = settings::producer(bootstrap, options, memory, grouped.is_some());
        if cluster.producer == ProducerKind::Rdkafka {
            settings.set(settings::SAYS, produced::SAID_EVERY.as_millis().to_string());
        }
        let shared = Arc::new(Shared {
            name: name.clone(),
            no,
            journal: journal.clone(),
            settings,
            reader: settings::reader(bootstrap, options),
            topics: Mutex::new(topics),
            health: Mutex::default(),
            closing: AtomicBool::new(false),
            took: metrics::histogram!("tributary_bus_deliver_seconds", "destination" => name.to_string()),
            grouped,
            bearer: tokens(options)?,
            mail: Arc::new(Mail::new(letters)),
            careful: Careful::default(),
            partition_rate: cluster.partition_rate,
            stops: Arc::default(),
            creating: Creating::new(cluster),
        });
        let failed = || format!("failed to start destination {name}: check its options");
        let producer = Arc::new(Slot::default());
        *producer.lock() = Some(Arc::new(shared.producer().with_context(failed)?));

        let mut threads = Vec::new();
        let mut start = |role: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(format!("kafka-{role}-{name}"));
            threads.push(thread.spawn(work).context("failed to start a thread")?);
            anyhow::Ok(())
        };
        start_owners(owners, (&shared, &producer), &mut start)?;
        for (class, incoming) in to_open {
            let opener = Opener {
                class,
                shared: Arc::clone(&shared),
                producer: Arc::clone(&producer),
                incoming,
            };
            start("open", Box::new(|| opener.run()))?;
        }
        if shared.grouped.is_some() {
            let shared = Arc::clone(&shared);
            start("groups", Box::new(move || shared.look_at_groups()))?;
        }
        let watcher = Watcher {
            shared: Arc::clone(&shared),
            producer: Arc::clone(&producer),
        };
        start("watch", Box::new(|| watcher.run()))?;
        let replays = start_replays(&shared, &mut threads)?;
        if let Some(unstarted) = unstarted {
            threads.extend(unstarted.start(&shared, (bootstrap, options))?);
        }
        Ok(Self {
            shared,
            verbatim: cluster.producer == ProducerKind::Verbatim,
            producer,
            replays: Mutex::new(Some(replays)),
            threads: Mutex::new(threads),
        })
    }

    #[cfg(test)]
    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn no(&self) -> DestinationNo {
        self.shared.no
    }

    pub(crate) fn deliver(&self, job: Job) {
        self.shared.deliver(job);
    }

    /// Sends dead letters once more; they leave when the cluster has them. Gives how many are on their way.
    pub(crate) fn replay(&self, filter: &Filter) -> usize {
        let numbers = self.shared.mail.want(filter);
        let replays = self.replays.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(replays) = replays.as_ref() {
            // A thread that is gone has panicked; its join says so.
            drop(replays.send(numbers));
        }
        self.replaying()
    }

    /// Dead letters that are on their way once more.
    pub(crate) fn replaying(&self) -> usize {
        self.shared.mail.replaying()
    }

    pub(crate) fn down(&self, target: &str) -> Option<String> {
        let health = self.shared.health();
        health
            .down
            .clone()
            .or_else(|| health.stalled.get(target).cloned())
    }

    /// Its resource groups, where it has some.
    pub(crate) fn grouped(&self) -> Option<&Grouped> {
        self.shared.grouped.as_ref()
    }

    /// Rules that count from now on, and the place of this destination in them.
    pub(crate) fn route_by(&self, rules: &Arc<Table>, place: usize) {
        self.shared.creating.go_by(rules, place);
    }

    pub(crate) fn gone(&self) -> Option<String> {
        self.shared.health().down.clone()
    }

    pub(crate) fn condition(&self) -> Condition {
        self.shared.health().condition()
    }

    pub(crate) fn health(&self) -> DestinationHealth {
        let health = self.shared.health();
        DestinationHealth {
            name: self.shared.name.clone(),
            kind: "kafka".to_owned(),
            state: if health.down.is_some() { "down" } else { "up" }.to_owned(),
            detail: health.detail(),
            dead: None,
        }
    }

    /// Waits for what is on its way, as long as the grace lasts; topics that are complete then
    /// need no recovery at the next start.
    pub(crate) fn close(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let busy = || {
            let topics = self.shared.topics();
            topics.known.values().any(|known| match known {
                Known::Opening(jobs) => !jobs.is_empty(),
                Known::Open(topic) => topic.on_the_way() > 0,
            })
        };
        while busy() && Instant::now() < deadline && self.shared.health().down.is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.shared.closing.store(true, Ordering::Relaxed);
        self.replays
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let known = {
            let mut topics = self.shared.topics();
            match std::mem::replace(&mut topics.producers, Producers::Closed) {
                Producers::Rdkafka(owners) => {
                    for owner in owners {
                        // A thread that is gone has panicked; its join below says so.
                        drop(owner.send(Message::Close));
                    }
                }
                // It ends when it is dropped.
                Producers::Verbatim(_) | Producers::Closed => {}
            }
            topics.openers.clear();
            std::mem::take(&mut topics.known)
        };
        let complete = known.values().filter_map(|known| match known {
            Known::Open(topic) if topic.on_the_way() == 0 && !topic.has_found() => {
                Some(Record::Closed {
                    target: topic.target,
                })
            }
            Known::Open(_) | Known::Opening(_) => None,
        });
        let complete: Vec<Record> = complete.collect();
        self.shared.end_replayed();
        self.shared
            .journal
            .commit(complete, false, Box::new(|_written| {}));
        // Waiting jobs are answered as they drop; what the producer has is given up and answered.
        drop(known);
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!(destination = %self.shared.name, "a thread of a Kafka destination panicked");
            }
        }
        let producer = self.producer.lock().take();
        drop(producer);
    }
}

#[cfg(test)]
mod fenced;
#[cfg(test)]
mod tests;
