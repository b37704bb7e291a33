//! A destination with resource groups: what each group holds of the node's memory, where topics lie, how
//! they are created and moved.
//!
//! The cluster is the only one who remembers: a move that was begun goes on without this node, and any
//! node can be asked for it. Functions that ask the cluster block, some seconds at most. Not for: which
//! brokers (see [`super`]), what operators say (see [`super::api`]).

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tributary_common::ids::{Class, Name};

use super::{
    super::{
        super::{Done, Job},
        KafkaConfig,
        verbatim::{
            admin::{Admin, Disobeyed, Map, NewTopic, Placement, TopicMap},
            security::Security,
        },
    },
    Groups,
};
use crate::budget::{self, Counted, Held};

/// A broker that answers does so within this.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// How often is looked where topics lie.
pub(in super::super) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The groups of a destination in this life.
#[derive(Debug)]
pub(crate) struct Grouped {
    name: Name,
    groups: Groups,
    admin: Admin,
    /// The most urgent class that was seen of each topic.
    topics: Mutex<HashMap<Arc<str>, Class>>,
    /// What each group's batches hold of the node's memory.
    held: BTreeMap<Class, Shares>,
    /// How many bytes they may: a half for what waits to be safe, a half for what the destination holds on
    /// to although it is safe on the disk.
    share: u64,
    /// What the last look found outside of its group, in words.
    outside: Mutex<Vec<String>>,
}

/// Bytes of the node's memory.
#[derive(Debug, Default)]
struct Shares {
    /// Of batches that were taken in and are not safe yet.
    waiting: Held,
    /// Of batches that the destination was given and has not answered.
    given: Held,
}

/// A topic and what is known of it.
struct Seen {
    map: TopicMap,
    class: Class,
    group: Class,
}

impl Grouped {
    /// The groups of a cluster, where it has some; `memory` are the node's bytes for batches.
    pub(in super::super) fn of(
        name: &Name,
        cluster: &KafkaConfig,
        memory: u64,
    ) -> Option<Result<Self>> {
        let groups = cluster.groups.as_ref()?;
        let security = match Security::of(&cluster.options) {
            Ok(security) => Arc::new(security),
            Err(error) => return Some(Err(error.into())),
        };
        let held = groups.of.keys().map(|class| (*class, Shares::default()));
        Some(Ok(Self {
            name: name.clone(),
            groups: groups.clone(),
            admin: Admin::new(&cluster.bootstrap, security),
            topics: Mutex::default(),
            held: held.collect(),
            share: memory / (groups.of.len() as u64).max(1),
            outside: Mutex::default(),
        }))
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<Arc<str>, Class>> {
        // A map is whole after every line, so a panic elsewhere leaves it usable.
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The classes that have groups.
    pub(in super::super) fn classes(&self) -> impl Iterator<Item = Class> {
        self.groups.of.keys().copied()
    }

    /// The group of a topic.
    pub(in super::super) fn group_of(&self, topic: &str) -> Class {
        let class = self.topics().get(topic).copied().unwrap_or_default();
        self.groups.group_of(class)
    }

    /// The group of a batch, which may be more urgent than what came of its topic before.
    fn group(&self, target: &str, class: Class) -> Class {
        let known = self.topics().get(target).copied();
        self.groups
            .group_of(known.map_or(class, |known| known.min(class)))
    }

    /// Counts a batch that the destination gets, until it is answered.
    pub(in super::super) fn enter(&self, job: Job) -> Job {
        let header = &job.batch.header;
        let class = match self.topics().entry(job.target.as_str().into()) {
            Entry::Occupied(mut known) => {
                let class = (*known.get()).min(header.class);
                *known.get_mut() = class;
                class
            }
            Entry::Vacant(place) => *place.insert(header.class),
        };
        let Some(held) = self.held.get(&self.groups.group_of(class)) else {
            return job;
        };
        let bytes = budget::cost(header, job.batch.payload.len());
        let (counted, done) = (held.given.count(bytes), job.done);
        let done = Done::new(move |outcome| {
            drop(counted);
            done.tell(outcome);
        });
        Job { done, ..job }
    }

    /// Counts a batch that was taken in, until it is safe.
    pub(crate) fn begin(&self, target: &str, class: Class, cost: u64) -> Option<Counted> {
        let held = self.held.get(&self.group(target, class))?;
        Some(held.waiting.count(cost))
    }

    /// Whether the group of a topic holds all that it may, so that a batch of this cost has to wait.
    /// What goes to the `disk` only waits for that, whatever the destination still holds.
    pub(crate) fn is_full(&self, target: &str, (class, cost): (Class, u64), disk: bool) -> bool {
        let Some(held) = self.held.get(&self.group(target, class)) else {
            return false;
        };
        // A batch that is larger than a share must come in at some time; and alone nobody spoils another.
        let full = |held: &Held| {
            let bytes = held.bytes();
            bytes > 0 && bytes.saturating_add(cost) > self.share / 2
        };
        self.held.len() > 1 && (full(&held.waiting) || (!disk && full(&held.given)))
    }

    /// Creates a topic inside its group.
    ///
    /// # Errors
    /// [`Disobeyed`].
    pub(in super::super) fn create(&self, topic: &str) -> Result<(), Disobeyed> {
        let class = self.topics().get(topic).copied().unwrap_or_default();
        wait(async {
            let map = self.admin.map(&[]).await?;
            let places = self.groups.place(topic, class, &map.brokers);
            self.admin.create(topic, NewTopic::At(&places)).await?;
            tracing::info!(destination = %self.name, topic, %class, group = %self.groups.group_of(class), replicas = ?places, "a topic was created inside its group");
            Ok(())
        })
    }

    /// Whether any broker answers.
    pub(in super::super) fn answers(&self) -> bool {
        wait(async { Ok::<_, anyhow::Error>(self.admin.answers(ANSWERS_WITHIN).await) })
            .unwrap_or(false)
    }

    /// The topics that this node knows, as they lie.
    async fn seen(&self) -> Result<(Map, Vec<Seen>)> {
        let known = self.topics().clone();
        let names: Vec<Arc<str>> = known.keys().cloned().collect();
        let mut map = self.admin.map(&names).await?;
        let seen = std::mem::take(&mut map.topics).into_iter().map(|map| {
            let class = known.get(map.name.as_str()).copied().unwrap_or_default();
            let group = self.groups.group_of(class);
            Seen { map, class, group }
        });
        let mut seen: Vec<Seen> = seen.collect();
        seen.sort_by(|one, other| one.map.name.cmp(&other.map.name));
        Ok((map, seen))
    }

    /// Looks which topics lie outside of their groups.
    pub(in super::super) fn look(&self) {
        let looked = wait(async { Ok::<_, anyhow::Error>(self.seen().await?.1) });
        let seen = match looked {
            Ok(seen) => seen,
            Err(error) => {
                return tracing::debug!(destination = %self.name, error = format!("{error:#}"), "nobody says where topics lie");
            }
        };
        let outside = seen.iter().filter_map(|one| {
            let outside = self.lies(one).outside;
            let (topic, all) = (&one.map.name, one.map.partitions.len());
            (outside > 0).then(|| {
                format!(
                    "{topic}: {outside} of {all} partitions are outside of group {}",
                    one.group
                )
            })
        });
        let outside: Vec<String> = outside.collect();
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        metrics::gauge!("tributary_bus_topics_outside_group_count", "destination" => self.name.to_string())
            .set(outside.len() as f64);
        *self.outside.lock().unwrap_or_else(PoisonError::into_inner) = outside;
    }

    fn lies(&self, one: &Seen) -> super::Lies {
        let partitions = one.map.partitions.iter();
        self.groups
            .lies(one.group, partitions.map(|one| one.replicas.as_slice()))
    }

    /// For `/status`: the groups' memory, and what lies outside of its group. Asks nobody.
    pub(crate) fn status(&self) -> Value {
        let outside = self.outside.lock().unwrap_or_else(PoisonError::into_inner);
        json!({ "memory": self.memory(), "share_bytes": self.share, "outside": *outside })
    }

    fn memory(&self) -> BTreeMap<&'static str, Value> {
        let held = self.held.iter();
        let held = held.map(|(class, held)| {
            let (waiting, given) = (held.waiting.bytes(), held.given.bytes());
            (
                class.as_str(),
                json!({ "waiting_bytes": waiting, "given_bytes": given }),
            )
        });
        held.collect()
    }

    /// The groups, and how the topics lie that this node knows.
    ///
    /// # Errors
    /// Nobody answers.
    pub(super) fn list(&self) -> Result<Value> {
        wait(async {
            let (map, seen) = self.seen().await?;
            let groups = self.groups.of.iter().map(|(class, brokers)| {
                let away = brokers.iter().filter(|id| !map.brokers.contains(id));
                json!({ "class": class, "brokers": brokers, "away": away.collect::<Vec<_>>() })
            });
            let grouped = |id: &i32| self.groups.of.values().any(|brokers| brokers.contains(id));
            let without = map.brokers.iter().filter(|id| !grouped(id));
            let topics = seen.iter().map(|one| {
                let lies = self.lies(one);
                json!({
                    "topic": one.map.name, "class": one.class, "group": one.group,
                    "inside": lies.inside, "outside": lies.outside,
                })
            });
            Ok(json!({
                "destination": self.name,
                "groups": groups.collect::<Vec<_>>(),
                "brokers_without_group": without.collect::<Vec<_>>(),
                "topics": topics.collect::<Vec<_>>(),
            }))
        })
    }

    /// How far the moves are that the cluster is at, whoever began them.
    ///
    /// # Errors
    /// Nobody answers.
    pub(super) fn progress(&self) -> Result<Value> {
        wait(async {
            let moves = self.admin.moves().await?;
            let mut names: Vec<Arc<str>> =
                moves.iter().map(|one| one.topic.as_str().into()).collect();
            names.sort_unstable();
            names.dedup();
            let map = match names.is_empty() {
                true => Map::default(),
                false => self.admin.map(&names).await?,
            };
            let topics = map.topics.iter().map(|topic| {
                let (mut moving, mut copies, mut in_sync) = (0, 0, 0);
                for one in moves.iter().filter(|one| one.topic == topic.name) {
                    moving += 1;
                    copies += one.adding.len();
                    let mut partitions = topic.partitions.iter();
                    let here = partitions.find(|here| here.no == one.partition);
                    let is_in = |id: &&i32| here.is_some_and(|here| here.in_sync.contains(id));
                    in_sync += one.adding.iter().filter(is_in).count();
                }
                json!({
                    "topic": topic.name, "partitions": topic.partitions.len(), "moving": moving,
                    "new_replicas": copies, "new_replicas_in_sync": in_sync,
                })
            });
            Ok(json!({ "destination": self.name, "topics": topics.collect::<Vec<_>>() }))
        })
    }

    /// Begins to move a topic, or all that this node knows and that lie outside, into the group of its
    /// class or another one. Gives how many partitions of which topics.
    ///
    /// # Errors
    /// A topic or group that is not there, a group with too few brokers; nothing is moved then.
    pub(super) fn begin_move(&self, topic: Option<&str>, to: Option<Class>) -> Result<Value> {
        if let Some(class) = to.filter(|class| !self.groups.of.contains_key(class)) {
            let have: Vec<&str> = self.classes().map(Class::as_str).collect();
            anyhow::bail!("there is no group {class}; there are {}", have.join(", "));
        }
        wait(async {
            let seen = match topic {
                None => self.seen().await?.1,
                Some(topic) => vec![self.one(topic, to).await?],
            };
            let mut places: Vec<Placement> = Vec::new();
            for one in seen {
                let (name, group) = (one.map.name, to.unwrap_or(one.group));
                let mut moved = Vec::new();
                for partition in &one.map.partitions {
                    let target =
                        self.groups
                            .moved((&name, partition.no), group, &partition.replicas);
                    if let Some(target) = target.map_err(anyhow::Error::msg)? {
                        moved.push((partition.no, target));
                    }
                }
                if !moved.is_empty() {
                    tracing::info!(destination = %self.name, topic = name, %group, replicas = ?moved, "a topic is moved into a group");
                    places.push((name, moved));
                }
            }
            if !places.is_empty() {
                self.admin.reassign(&places).await?;
            }
            let moving = places
                .iter()
                .map(|(topic, moved)| json!({ "topic": topic, "partitions": moved.len() }));
            Ok(json!({ "destination": self.name, "moving": moving.collect::<Vec<_>>() }))
        })
    }

    async fn one(&self, topic: &str, to: Option<Class>) -> Result<Seen> {
        let class = self.topics().get(topic).copied().or(to).with_context(|| {
            format!("no batch of topic {topic} came to this node, so its class is not known: say which group")
        })?;
        let map = self.admin.map(&[topic.into()]).await?.topics.pop();
        let map = map.with_context(|| format!("{} has no topic {topic}", self.name))?;
        let group = self.groups.group_of(class);
        Ok(Seen { map, class, group })
    }
}

/// Waits for the cluster, on a thread that may.
pub(in super::super) fn wait<T, E: From<anyhow::Error>>(
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime
        .context("failed to start a runtime")
        .map_err(E::from)?;
    runtime.block_on(asked)
}
