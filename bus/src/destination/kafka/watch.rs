//! Watches a cluster: stalled topics, brokers that are gone, a producer that is broken for good.
//!
//! A producer is broken for good when it says so, and also when it stands still while the cluster
//! has everything that a topic needs: librdkafka can lose a partition's leader and not look for it
//! again (<https://github.com/confluentinc/librdkafka/issues/5430>). And when it gets no answer where
//! a new client does: told once that a cluster has topics and no brokers, which a lone broker says
//! while it is fenced, librdkafka forgets all of them and asks nobody any more.
//!
//! Looks four times a second. Not for: deciding what is answered (the node asks
//! [`super::Kafka::down`]).

use std::{collections::HashMap, sync::Arc, time::Duration};

use rdkafka::{
    client::Client,
    error::{KafkaError, KafkaResult},
    metadata::{Metadata, MetadataTopic},
    producer::{Producer as _, PurgeConfig},
    types::{RDKafkaErrorCode, RDKafkaType},
};
use tokio::time::Instant;

use super::{
    super::Condition,
    Shared, Slot,
    groups::grouped::Grouped,
    readback::Quiet,
    topics::{Known, Producers},
};

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a broker may take to answer a look.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How often a cluster that is down is asked whether it is there again.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// A producer is replaced at most this often.
const REPLACE_EVERY: Duration = Duration::from_secs(1);
/// A topic that stands still for this long, while the cluster has a leader and all replicas of each
/// of its partitions, stands still because of the producer. Longer than brokers throttle a client
/// (10 s), and than what an earlier connection still holds is on its way to the log.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// The same, once librdkafka has said that it lost a leader.
const STUCK_AFTER_HINT: Duration = Duration::from_secs(5);
/// A producer that gets no answer is compared with a new client this often.
const COMPARE_EVERY: Duration = Duration::from_secs(5);

/// A destination is called throttled for so long after it was: requests wait in turn.
pub(super) const THROTTLED_FOR: Duration = Duration::from_secs(2);

/// How the cluster is.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent words of different clients of the cluster"
)]
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Why nothing is taken at all.
    pub(super) down: Option<String>,
    /// Per topic why nothing is taken.
    pub(super) stalled: HashMap<String, String>,
    /// The producer will never deliver again.
    pub(super) fatal: bool,
    /// Something hints that the brokers are gone: ask them.
    pub(super) look: bool,
    /// The producer has lost a partition's leader, and may not look for it again.
    pub(super) lost_leader: bool,
    /// librdkafka's last word.
    pub(super) last_error: String,
    /// What a question for the cluster came to, last time.
    asked: Asked,
    /// Why it is not the cluster that it was, if it is another one.
    pub(super) wrong: Option<String>,
    /// A broker does not let this node in, since the last answer.
    pub(super) refused: bool,
    /// Until when a broker makes this node wait, and a bit.
    pub(super) throttled: Option<Instant>,
}

/// What a question for the cluster came to.
#[derive(Debug, Default)]
enum Asked {
    /// An answer, and what a topic lacks by it.
    Answered(Option<String>),
    /// No answer, in time.
    Silence,
    /// Nobody is there.
    #[default]
    Nobody,
}

impl Health {
    /// How the cluster is, in one word.
    pub(super) fn condition(&self) -> Condition {
        let throttled = || self.throttled.is_some_and(|until| until > Instant::now());
        match (&self.down, &self.asked) {
            (Some(_), _) if self.wrong.is_some() => Condition::Refused,
            (Some(_), Asked::Silence | Asked::Nobody) if self.refused => Condition::Refused,
            (Some(_), Asked::Nobody) => Condition::Down,
            (Some(_), Asked::Silence | Asked::Answered(None)) => Condition::Hanging,
            (Some(_) | None, Asked::Answered(Some(_))) => Condition::HalfDead,
            (None, _) if !self.stalled.is_empty() => Condition::HalfDead,
            (None, _) if throttled() => Condition::Throttled,
            (None, _) => Condition::Up,
        }
    }

    /// The same in words; empty when it is well.
    pub(super) fn detail(&self) -> String {
        let lacks = match &self.asked {
            Asked::Answered(lacks) => lacks.clone(),
            Asked::Silence | Asked::Nobody => None,
        };
        let stalled = || self.stalled.values().next().cloned();
        let detail = match (&self.down, lacks) {
            (Some(down), Some(lacks)) => Some(format!("{down}; {lacks}")),
            (Some(down), None) => Some(down.clone()),
            (None, lacks) => lacks.or_else(stalled),
        };
        match detail {
            Some(detail) => detail,
            None if self.condition() == Condition::Throttled => {
                "the brokers make this node wait: a quota".to_owned()
            }
            None => String::new(),
        }
    }

    /// Whether a topic lacked something at the last answer.
    fn lacks(&self) -> bool {
        matches!(self.asked, Asked::Answered(Some(_)))
    }
}

/// Since when a topic stands still although the cluster has all that it needs.
#[derive(Debug, Default)]
struct Stuck(Option<(String, Instant)>);

impl Stuck {
    /// The topic to ask the cluster for: the suspected one while it is stalled, or another.
    fn suspect(&mut self, stalled: &HashMap<String, String>) -> Option<String> {
        if self
            .0
            .as_ref()
            .is_none_or(|(topic, _since)| !stalled.contains_key(topic))
        {
            let first = stalled.keys().next().cloned();
            self.0 = first.map(|topic| (topic, Instant::now()));
        }
        self.0.as_ref().map(|(topic, _since)| topic.clone())
    }

    /// The cluster's answer for the suspected topic; whether the producer is to be replaced.
    fn answered(&mut self, healthy: bool, lost_leader: bool) -> bool {
        let Some((_topic, since)) = &mut self.0 else {
            return false;
        };
        if !healthy {
            *since = Instant::now();
        }
        let limit = if lost_leader {
            STUCK_AFTER_HINT
        } else {
            STUCK_AFTER
        };
        since.elapsed() >= limit
    }
}

/// Since when a producer gets no answer, or was last compared with a new client.
#[derive(Debug, Default)]
struct Silence(Option<Instant>);

impl Silence {
    /// How a question ended; whether it is time to compare.
    fn heard(&mut self, answered: bool) -> bool {
        if answered {
            self.0 = None;
            return false;
        }
        let now = Instant::now();
        let since = *self.0.get_or_insert(now);
        let due = now.duration_since(since) >= COMPARE_EVERY;
        if due {
            self.0 = Some(now);
        }
        due
    }
}

/// The thread's state.
pub(super) struct Watcher {
    pub(super) shared: Arc<Shared>,
    pub(super) producer: Arc<Slot>,
}

impl Watcher {
    /// Works until the destination closes.
    pub(super) fn run(self) {
        let mut asked: Option<Instant> = None;
        let mut replaced: Option<Instant> = None;
        let (mut stuck, mut silence) = (Stuck::default(), Silence::default());
        while !self.shared.is_closing() {
            std::thread::sleep(LOOK_EVERY);
            self.shared.end_replayed();
            let fatal = self.shared.health().fatal || self.is_fatal();
            if fatal && replaced.is_none_or(|at| at.elapsed() >= REPLACE_EVERY) {
                self.replace();
                replaced = Some(Instant::now());
            }
            let all_stalled = self.look_at_topics();
            let (down, look, suspect) = {
                let health = self.shared.health();
                let suspect = stuck.suspect(&health.stalled);
                let look = health.look || health.lacks();
                (health.down.is_some(), look, suspect)
            };
            let wanted = look || down || suspect.is_some();
            let ask = wanted && asked.is_none_or(|at| at.elapsed() >= ASK_EVERY);
            let gone = if ask {
                asked = Some(Instant::now());
                // Not counted from the question: a slow answer shall not be asked for at once.
                let answer = self.ask(suspect.as_deref());
                let healthy = answer
                    .as_ref()
                    .is_ok_and(|answer| answer.topics().iter().all(has_all));
                let lost_leader = {
                    let mut health = self.shared.health();
                    health.look = false;
                    health.refused &= answer.is_err();
                    health.asked = asked_of(answer.as_ref(), suspect.is_some());
                    health.lost_leader
                };
                if stuck.answered(healthy, lost_leader) {
                    let topic = suspect.as_deref().unwrap_or_default();
                    self.give_up(&format!(
                        "the cluster has a leader and all replicas of topic {topic}, and the producer does not go on with it"
                    ));
                    stuck = Stuck::default();
                }
                if silence.heard(answer.is_ok()) && self.is_forsaken(suspect.as_deref()) {
                    self.give_up("the cluster answers a new client, and the producer asks nobody");
                }
                let goes_on = self.goes_on(answer.as_ref());
                let gone = answer.err().map(|error| error.to_string());
                // One that hangs may have been asked; its group is stalled, not the cluster.
                let answers = |grouped: &Grouped| gone.is_some() && grouped.answers();
                let answers = self.shared.grouped.as_ref().is_some_and(answers);
                gone.filter(|_error| !answers && !goes_on)
            } else if down && !all_stalled {
                continue;
            } else {
                None
            };
            self.decide(all_stalled, gone);
        }
    }

    /// Whether librdkafka's producer has given itself up: asked for, as it does not always come to say so.
    fn is_fatal(&self) -> bool {
        let fatal = |producer: Arc<super::Producer>| producer.client().fatal_error();
        let Some((code, why)) = self.producer.get().and_then(fatal) else {
            return false;
        };
        self.shared.health().last_error = format!("{code}: {why}");
        true
    }

    /// Whether a question was not answered, and batches were meanwhile: the broker that was asked hangs, and
    /// others do not. They are asked again.
    fn goes_on(&self, answer: Result<&Metadata, &KafkaError>) -> bool {
        let topics = self.shared.open_topics();
        let goes_on =
            answer.is_err_and(is_silence) && topics.iter().any(|one| one.has_progressed());
        self.shared.health().look |= goes_on;
        goes_on
    }

    /// A producer that stands still for no reason of the cluster's is replaced, as a broken one.
    fn give_up(&self, why: &str) {
        tracing::warn!(destination = %self.shared.name, "{why}");
        self.shared.health().fatal = true;
    }

    /// Whether a new client gets an answer, and after that the producer still does not.
    fn is_forsaken(&self, topic: Option<&str>) -> bool {
        let ask = || {
            let mut config = self.shared.settings.clone();
            // It only asks: it needs no producer id.
            config.set("enable.idempotence", "false");
            let native = config.create_native_config()?;
            let context = Quiet {
                destination: self.shared.name.to_string(),
                bearer: self.shared.bearer.clone(),
            };
            let client = Client::new(&config, native, RDKafkaType::RD_KAFKA_PRODUCER, context)?;
            client.fetch_metadata(self.any_topic(topic).as_deref(), ANSWER_WITHIN)
        };
        let answer: KafkaResult<Metadata> = ask();
        answer.is_ok_and(|answer| !answer.brokers().is_empty()) && self.ask(topic).is_err()
    }

    /// The topic, or any that is known.
    fn any_topic(&self, topic: Option<&str>) -> Option<Arc<str>> {
        let any = || self.shared.topics().known.keys().next().cloned();
        topic.map(Arc::from).or_else(any)
    }

    /// Notes the stalled topics; whether there are some and no topic is well.
    fn look_at_topics(&self) -> bool {
        let mut stalled = HashMap::new();
        let mut well = 0;
        for topic in self.shared.open_topics() {
            if topic.forget_old() {
                self.shared.nothing_left_to_find(&topic);
            }
            match topic.stalled() {
                Some(quiet) => {
                    let text = format!(
                        "{} has not acknowledged topic {} for {} s",
                        self.shared.name,
                        topic.name,
                        quiet.as_secs()
                    );
                    stalled.insert(topic.name.to_string(), text);
                }
                None if topic.on_the_way() > 0 || topic.is_well() => well += 1,
                None => {}
            }
        }
        // librdkafka keeps what it has for a partition that is gone, and never answers it.
        for topic in self.shared.closed_topics() {
            if let Some(quiet) = topic.stalled() {
                let text = format!(
                    "{} has not answered what was on its way to topic {} for {} s",
                    self.shared.name,
                    topic.name,
                    quiet.as_secs()
                );
                stalled.entry(topic.name.to_string()).or_insert(text);
            }
        }
        // With groups each topic is judged by itself: another one may only have nothing to do.
        let all = well == 0 && !stalled.is_empty() && self.shared.grouped.is_none();
        self.shared.health().stalled = stalled;
        all
    }

    /// Asks for the metadata of a topic, or of any.
    fn ask(&self, topic: Option<&str>) -> KafkaResult<Metadata> {
        let Some(producer) = self.producer.get() else {
            return Err(KafkaError::Canceled);
        };
        producer
            .client()
            .fetch_metadata(self.any_topic(topic).as_deref(), ANSWER_WITHIN)
    }

    /// Takes the destination down or up, and says so once.
    fn decide(&self, all_stalled: bool, gone: Option<String>) {
        let name = &self.shared.name;
        let mut health = self.shared.health();
        let first_stalled = health.stalled.values().next().cloned();
        let why = health.wrong.clone().or_else(|| match (gone, all_stalled) {
            (Some(error), _) if health.last_error.is_empty() => {
                Some(format!("{name} does not answer: {error}"))
            }
            (Some(error), _) => Some(format!(
                "{name} does not answer: {error} ({})",
                health.last_error
            )),
            (None, true) => first_stalled,
            (None, false) => None,
        });
        match (&health.down, &why) {
            (None, Some(why)) => {
                tracing::error!(destination = %name, "the destination is down: {why}");
            }
            (Some(_), None) => {
                tracing::info!(destination = %name, "the destination is up again");
                health.last_error.clear();
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
        metrics::gauge!("tributary_bus_destination_up_count", "destination" => name.to_string())
            .set(if why.is_some() { 0.0 } else { 1.0 });
        health.down = why;
    }

    /// Replaces a producer that is broken for good. What it held fails and is looked for before it
    /// is produced again.
    fn replace(&self) {
        tracing::error!(destination = %self.shared.name, error = self.shared.health().last_error, "the producer is broken for good and is replaced");
        let topics = self.shared.open_topics();
        for topic in &topics {
            topic.close();
        }
        if let Producers::Verbatim(producer) = &self.shared.topics().producers {
            producer.reset();
        }
        let old = self.producer.lock().take();
        if let Some(old) = old {
            old.purge(PurgeConfig::default().queue().inflight());
            // Its polling thread answers what was purged; then it is dropped with its last user.
            let deadline = Instant::now() + ANSWER_WITHIN;
            while topics.iter().any(|topic| topic.on_the_way() > 0) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let mut topics_now = self.shared.topics();
        topics.iter().for_each(|topic| topics_now.keep_pins(topic));
        topics_now
            .known
            .retain(|_name, known| matches!(known, Known::Opening(_)));
        drop(topics_now);
        match self.shared.producer() {
            Ok(producer) => {
                *self.producer.lock() = Some(Arc::new(producer));
                let mut health = self.shared.health();
                health.fatal = false;
                health.lost_leader = false;
            }
            Err(error) => {
                tracing::error!(destination = %self.shared.name, error = format!("{error:#}"), "a new producer cannot be made; tried again");
            }
        }
    }
}

/// What a question came to; of a topic that stands still, replicas count, too.
fn asked_of(answer: Result<&Metadata, &KafkaError>, stalled: bool) -> Asked {
    match answer {
        Ok(answer) => Asked::Answered(answer.topics().iter().find_map(|topic| {
            topic.partitions().iter().find_map(|partition| {
                let (name, id) = (topic.name(), partition.id());
                let (here, all) = (partition.isr().len(), partition.replicas().len());
                match partition.leader() {
                    ..0 => Some(format!("partition {id} of topic {name} has no leader")),
                    _ if stalled && here < all => Some(format!(
                        "partition {id} of topic {name} has {here} of {all} replicas"
                    )),
                    _led => None,
                }
            })
        })),
        Err(error) if is_silence(error) => Asked::Silence,
        Err(_) => Asked::Nobody,
    }
}

/// Whether nobody answered in time.
fn is_silence(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut)
}

/// Whether the cluster has a leader and all replicas of each partition.
fn has_all(topic: &MetadataTopic) -> bool {
    let mut partitions = topic.partitions().iter();
    topic.error().is_none()
        && partitions.all(|partition| {
            partition.error().is_none()
                && partition.leader() >= 0
                && partition.isr().len() == partition.replicas().len()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_way_to_be_unwell_has_its_word() {
        let check = |down: bool, asked: Asked, change: fn(&mut Health), want: &str, part: &str| {
            let mut health = Health {
                down: down.then(|| "main does not answer".to_owned()),
                asked,
                ..Health::default()
            };
            change(&mut health);
            assert_eq!(health.condition().as_str(), want, "{health:?}");
            let detail = health.detail();
            assert!(
                detail.contains(part) && detail.is_empty() == part.is_empty(),
                "{health:?}"
            );
        };
        let lacks = || Asked::Answered(Some("partition 1 of topic web has no leader".to_owned()));
        let stalls = |health: &mut Health| {
            health.stalled = stalled(&["web"]);
            health
                .stalled
                .insert("web".to_owned(), "it stands still".to_owned());
        };
        let same = |_health: &mut Health| {};
        check(false, Asked::Nobody, same, "up", "");
        check(false, Asked::Answered(None), same, "up", "");
        check(true, Asked::Nobody, same, "down", "does not answer");
        check(true, Asked::Silence, same, "hanging", "does not answer");
        check(
            true,
            Asked::Answered(None),
            stalls,
            "hanging",
            "does not answer",
        );
        check(true, lacks(), stalls, "half-dead", "no leader");
        check(false, lacks(), same, "half-dead", "no leader");
        check(
            false,
            Asked::Answered(None),
            stalls,
            "half-dead",
            "stands still",
        );
        check(
            true,
            Asked::Nobody,
            |health| health.refused = true,
            "refused",
            "does not answer",
        );
        check(
            true,
            Asked::Silence,
            |health| health.refused = true,
            "refused",
            "does not answer",
        );
        let soon = |health: &mut Health| health.throttled = Some(Instant::now() + ANSWER_WITHIN);
        check(false, Asked::Answered(None), soon, "throttled", "a quota");
        let past = |health: &mut Health| health.throttled = Some(Instant::now());
        check(false, Asked::Answered(None), past, "up", "");
    }

    fn stalled(topics: &[&str]) -> HashMap<String, String> {
        let pairs = topics
            .iter()
            .map(|topic| ((*topic).to_owned(), String::new()));
        pairs.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_producer_is_given_up_only_while_the_cluster_is_well() {
        let mut stuck = Stuck::default();
        assert_eq!(stuck.suspect(&stalled(&[])), None);
        assert!(!stuck.answered(true, true));
        for _second in 0..100 {
            assert_eq!(stuck.suspect(&stalled(&["a"])), Some("a".to_owned()));
            assert!(!stuck.answered(false, true), "the cluster is not well");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(!stuck.answered(true, true));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(
            !stuck.answered(true, false),
            "nothing hints at the producer"
        );
        assert!(stuck.answered(true, true));
        tokio::time::advance(STUCK_AFTER).await;
        assert!(stuck.answered(true, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_producer_is_compared_every_five_seconds_until_it_is_answered() {
        let mut silence = Silence::default();
        let due = async |silence: &mut Silence, seconds| {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            silence.heard(false)
        };
        assert!(!due(&mut silence, 100).await, "it was not asked before");
        assert!(!due(&mut silence, 4).await);
        assert!(due(&mut silence, 1).await);
        assert!(!due(&mut silence, 4).await);
        assert!(due(&mut silence, 1).await);
        assert!(!silence.heard(true));
        assert!(!due(&mut silence, 5).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_topic_that_goes_on_is_no_longer_suspected() {
        let mut stuck = Stuck::default();
        stuck.suspect(&stalled(&["a"]));
        tokio::time::advance(STUCK_AFTER).await;
        assert_eq!(stuck.suspect(&stalled(&["b"])), Some("b".to_owned()));
        assert!(!stuck.answered(true, true));
    }
}
