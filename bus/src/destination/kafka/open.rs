//! Opens topics: how many partitions, what is in them, where this life begins.
//!
//! One thread, so that waiting for a cluster holds up nobody. Batches of a topic that is being
//! opened wait in it; they carry their permits. Before the first record of a life is produced, the
//! journal knows where each partition ended; after an unclean end the topic is looked through
//! first (see [`super::readback`]).

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rdkafka::{
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    producer::Producer as _,
};
use tokio::time::Instant;
use tributary_common::{ids::Class, wire::RefuseReason};

use super::{
    super::{Failure, which},
    Shared, Slot,
    grow::Rounds,
    readback::{self, FoundBatches},
    subset::Subset,
    topic::Topic,
    verbatim::admin::Disobeyed,
};
use crate::journal::format::Record;

/// One request to the cluster takes at most this long.
const REQUEST: Duration = Duration::from_secs(3);
/// A topic that could not be opened is tried again after this.
const AGAIN_AFTER: Duration = Duration::from_millis(300);
/// A topic that the cluster does not know, and does not make, is refused after this long; a broker
/// that has just started may not know its topics yet.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// How an attempt ended.
enum Attempt {
    Ready(Box<Topic>),
    /// Try again.
    Later(String),
    /// The cluster does not know the topic (yet).
    Unknown,
    /// It will not become better by itself.
    Refused(Failure),
}

/// The thread's state.
pub(super) struct Opener {
    pub(super) shared: Arc<Shared>,
    pub(super) producer: Arc<Slot>,
    /// The group whose topics it opens, where there are groups.
    pub(super) class: Option<Class>,
    pub(super) incoming: Receiver<Arc<str>>,
}

/// A topic that waits for its next try.
struct Waiting {
    topic: Arc<str>,
    at: Instant,
    /// Since when the cluster says that it does not know the topic.
    unknown: Option<Instant>,
    /// It is there, or nobody says that it is to be created.
    looked_for: bool,
}

impl Opener {
    /// Works until the destination closes.
    pub(super) fn run(self) {
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut rounds = Rounds::of(&self.shared.settings, Instant::now());
        loop {
            match self.incoming.recv_timeout(AGAIN_AFTER) {
                Ok(topic) => {
                    waiting.push(Waiting {
                        topic,
                        at: Instant::now(),
                        unknown: None,
                        looked_for: false,
                    });
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(rounds) = rounds.as_mut().filter(|_rounds| waiting.is_empty()) {
                        self.look_for_more(rounds);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.shared.is_closing() {
                return;
            }
            let (due, rest) = waiting
                .into_iter()
                .partition(|one| one.at <= Instant::now());
            waiting = rest;
            waiting.extend(Vec::into_iter(due).filter_map(|one| self.attempt(one)));
        }
    }

    /// Tries one topic; gives it back when it has to wait.
    fn attempt(&self, mut one: Waiting) -> Option<Waiting> {
        let name = &self.shared.name;
        let attempt = match self.create_as_routed(&mut one) {
            Ok(()) => self.open(&one.topic),
            Err(attempt) => attempt,
        };
        let attempt = match attempt {
            Attempt::Unknown => self.create(&one.topic),
            attempt => attempt,
        };
        match attempt {
            Attempt::Ready(topic) => {
                self.shared.opened(*topic);
                return None;
            }
            Attempt::Refused(failure) => {
                tracing::error!(destination = %name, topic = &*one.topic, ?failure, "a topic cannot be opened");
                self.shared.not_opened(&one.topic, &failure);
                return None;
            }
            Attempt::Unknown if one.unknown.is_some_and(|at| at.elapsed() >= UNKNOWN_FOR) => {
                let detail = format!(
                    "{name} has no topic {} and its brokers do not make it; create it, or give its route create = {{}}",
                    one.topic
                );
                tracing::error!(destination = %name, topic = &*one.topic, "a topic is missing and the brokers do not make it");
                let failure = Failure::Rejected(RefuseReason::Destination, detail);
                self.shared.not_opened(&one.topic, &failure);
                return None;
            }
            Attempt::Unknown => {
                one.unknown.get_or_insert_with(Instant::now);
            }
            Attempt::Later(why) => {
                one.unknown = None;
                tracing::debug!(destination = %name, topic = &*one.topic, why, "a topic cannot be opened yet");
                self.shared.health().look = true;
            }
        }
        Some(Waiting {
            at: Instant::now() + AGAIN_AFTER,
            ..one
        })
    }

    /// A missing topic that its route says is to be created is; the next try finds it.
    fn create_as_routed(&self, one: &mut Waiting) -> Result<(), Attempt> {
        if one.looked_for {
            return Ok(());
        }
        let name = &self.shared.name;
        match self.shared.creating.create(&one.topic) {
            Ok(created) => {
                if created {
                    tracing::info!(destination = %name, topic = &*one.topic, "a topic was created, as its route says");
                }
                one.looked_for = true;
                Ok(())
            }
            Err(why) => Err(self.not_created(&one.topic, why)),
        }
    }

    /// A missing topic of a cluster with groups is created in its own; the next try finds it.
    fn create(&self, topic: &str) -> Attempt {
        let Some(grouped) = &self.shared.grouped else {
            return Attempt::Unknown;
        };
        match grouped.create(topic) {
            Ok(()) => Attempt::Later("it was just created".to_owned()),
            Err(why) => self.not_created(topic, why),
        }
    }

    fn not_created(&self, topic: &str, why: Disobeyed) -> Attempt {
        match why {
            Disobeyed::Later(error) => Attempt::Later(format!("it cannot be created: {error:#}")),
            Disobeyed::Refused(why) => {
                let name = &self.shared.name;
                let detail = format!("{name} does not let this node create topic {topic}: {why}");
                Attempt::Refused(Failure::Rejected(RefuseReason::Destination, detail))
            }
        }
    }

    /// What is to be written of the cluster's id; nothing of one that has none.
    fn cluster(&self) -> Result<Option<Record>, Attempt> {
        let producer = self.producer.get();
        let id = producer.and_then(|producer| producer.client().fetch_cluster_id(REQUEST));
        let Some(id) = id else {
            return Ok(None);
        };
        let this = (&self.shared.name, self.shared.no);
        let same = which::same(&mut self.shared.journal.memory(), this, &id);
        let wrong = same.as_ref().err().cloned();
        self.shared.health().wrong.clone_from(&wrong);
        match wrong {
            Some(wrong) => Err(Attempt::Later(wrong)),
            None => Ok(same.ok()),
        }
    }

    fn open(&self, name: &Arc<str>) -> Attempt {
        let partitions = match self.partitions(name) {
            Ok(partitions) => partitions,
            Err(attempt) => return attempt,
        };
        let cluster = match self.cluster() {
            Ok(cluster) => cluster,
            Err(attempt) => return attempt,
        };
        let (target, known) = {
            let mut memory = self.shared.journal.memory();
            let no = memory.target(self.shared.no, name);
            (no, memory.get(no).cloned())
        };
        let pins = known.as_ref().map(|target| target.pins.clone());
        let known = known.filter(|target| target.open);
        let looked = match known {
            Some(target) => {
                // Partitions that the journal does not know were never written to by this node.
                let mut from: BTreeMap<i32, i64> = (0..partitions).map(|p| (p, i64::MAX)).collect();
                let positions = target.positions.iter();
                // The topic may have been made anew, with fewer of them.
                let there = positions.filter(|&(&p, _position)| p < partitions);
                from.extend(there.map(|(&p, position)| (p, position.from())));
                self.look(name, &from)
            }
            None => self
                .ends(name, 0..partitions)
                .map(|ends| (ends, HashMap::new())),
        };
        let (ends, found) = match looked {
            Ok(looked) => looked,
            Err(error) => return Attempt::Later(error.to_string()),
        };
        let mut records = self.positions(target, &ends, !found.is_empty());
        records.extend(cluster);
        records.push(Record::Opened { target });
        match self.shared.journal.commit_and_wait(records) {
            Ok(()) => {
                let topic = Topic::new(Arc::clone(name), target, partitions, found);
                let (rate, pins) = (self.shared.partition_rate, pins.unwrap_or_default());
                let mut subset = Subset::new(name, partitions, rate, pins, Instant::now());
                let unnoted = self.shared.topics().pins.remove(name);
                subset.take_unnoted(unnoted.unwrap_or_default(), Instant::now());
                Attempt::Ready(Box::new(topic.sharing(subset)))
            }
            Err(error) => Attempt::Later(error.to_string()),
        }
    }

    /// The records that say where this life begins. With something found, a later recovery has to
    /// begin where this one did.
    fn positions(&self, target: u32, ends: &BTreeMap<i32, i64>, found: bool) -> Vec<Record> {
        let memory = self.shared.journal.memory();
        let known = memory.get(target).map(|target| &target.positions);
        let records = ends.iter().map(|(&partition, &end)| {
            let before = known
                .and_then(|known| known.get(&partition))
                .map(|at| at.from());
            let floor = before.filter(|&before| found && before < end);
            Record::Position {
                target,
                partition,
                end,
                floor,
            }
        });
        records.collect()
    }

    /// Looks whether topics have more partitions than when they were opened.
    fn look_for_more(&self, rounds: &mut Rounds) {
        if self.shared.health().down.is_some() {
            return;
        }
        let own = || {
            let mut open = self.shared.open_topics();
            let grouped = self.shared.grouped.as_ref();
            let group = |name: &str| grouped.map(|grouped| grouped.group_of(name));
            open.retain(|topic| group(&topic.name) == self.class);
            open
        };
        for name in rounds.due(Instant::now(), own) {
            let mut open = self.shared.open_topics().into_iter();
            let Some(topic) = open.find(|topic| topic.name == name) else {
                continue;
            };
            if let Err(why) = self.grow(&topic) {
                let destination = &self.shared.name;
                tracing::debug!(%destination, topic = &*name, why, "nobody knows whether the topic has more partitions");
            }
        }
    }

    /// Takes the partitions that a topic has got. The error is why not, this time.
    fn grow(&self, topic: &Topic) -> Result<(), String> {
        let before = topic.partitions();
        let now = match self.partitions(&topic.name) {
            Ok(now) if now > before => now,
            Ok(_as_before) => return Ok(()),
            Err(Attempt::Later(why)) => return Err(why),
            Err(_not_there) => return Err("it is not there".to_owned()),
        };
        let ends = self.ends(&topic.name, before..now);
        let ends = ends.map_err(|error| error.to_string())?;
        let records = self.positions(topic.target, &ends, false);
        let noted = self.shared.journal.commit_and_wait(records);
        noted.map_err(|error| error.to_string())?;
        topic.grow(now);
        tracing::info!(destination = %self.shared.name, topic = &*topic.name, partitions = now, before, "a topic has more partitions");
        Ok(())
    }

    fn look(
        &self,
        name: &str,
        from: &BTreeMap<i32, i64>,
    ) -> KafkaResult<(BTreeMap<i32, i64>, FoundBatches)> {
        let started = Instant::now();
        let destination = self.shared.name.as_str();
        let mut look = readback::look(
            &self.shared.reader,
            (destination, self.shared.bearer.as_ref()),
            name,
            from,
        )?;
        self.shared.end_found(name, &look.begins);
        {
            let memory = self.shared.journal.memory();
            look.found
                .retain(|&batch, _found| !memory.done.contains(self.shared.no, batch));
        }
        tracing::info!(
            destination,
            topic = name,
            records = look.records,
            found_batches = look.found.len(),
            took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "a topic was looked through after an unclean end"
        );
        Ok((look.ends, look.found))
    }

    fn ends(&self, name: &str, partitions: Range<i32>) -> KafkaResult<BTreeMap<i32, i64>> {
        let Some(producer) = self.producer.get() else {
            return Err(KafkaError::Canceled);
        };
        let ends = partitions.map(|partition| {
            let (_low, high) = producer
                .client()
                .fetch_watermarks(name, partition, REQUEST)?;
            Ok((partition, high))
        });
        ends.collect()
    }

    /// How many partitions the topic has; asking makes it where the brokers do that.
    fn partitions(&self, name: &str) -> Result<i32, Attempt> {
        let later = |why: String| Attempt::Later(why);
        let producer = self
            .producer
            .get()
            .ok_or_else(|| later("the producer is being replaced".to_owned()))?;
        let metadata = producer
            .client()
            .fetch_metadata(Some(name), REQUEST)
            .map_err(|error| later(error.to_string()))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == name);
        let Some(topic) = topic else {
            return Err(Attempt::Unknown);
        };
        match topic.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::LeaderNotAvailable,
            ) => return Err(Attempt::Unknown),
            Some(
                code
                @ (RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::InvalidTopic),
            ) => {
                let detail = format!("{}: topic {name}: {code}", self.shared.name);
                let failure = Failure::Rejected(RefuseReason::Destination, detail);
                return Err(Attempt::Refused(failure));
            }
            Some(code) => return Err(later(code.to_string())),
        }
        match i32::try_from(topic.partitions().len()) {
            Ok(0) | Err(_) => Err(Attempt::Unknown),
            Ok(partitions) => Ok(partitions),
        }
    }
}
