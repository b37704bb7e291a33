//! Watches a cluster: stalled topics, brokers that are gone, a producer that is broken for good.
//!
//! Looks four times a second. Not for: deciding what is answered (the node asks
//! [`super::Kafka::down`]).

use std::{collections::HashMap, sync::Arc, time::Duration};

use rdkafka::{
    error::KafkaResult,
    producer::{Producer as _, PurgeConfig},
};
use tokio::time::Instant;

use super::{Known, Shared, Slot};

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a broker may take to answer a look.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How often a cluster that is down is asked whether it is there again.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// A producer is replaced at most this often.
const REPLACE_EVERY: Duration = Duration::from_secs(1);

/// How the cluster is.
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
    /// librdkafka's last word.
    pub(super) last_error: String,
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
        while !self.shared.is_closing() {
            std::thread::sleep(LOOK_EVERY);
            let fatal = self.shared.health().fatal;
            if fatal && replaced.is_none_or(|at| at.elapsed() >= REPLACE_EVERY) {
                self.replace();
                replaced = Some(Instant::now());
            }
            let all_stalled = self.look_at_topics();
            let (down, look) = {
                let health = self.shared.health();
                (health.down.is_some(), health.look)
            };
            let ask = (look || down) && asked.is_none_or(|at| at.elapsed() >= ASK_EVERY);
            let gone = if ask {
                asked = Some(Instant::now());
                // Not counted from the question: a slow answer shall not be asked for at once.
                let answer = self.ask();
                self.shared.health().look = false;
                answer.err().map(|error| error.to_string())
            } else if down && !all_stalled {
                continue;
            } else {
                None
            };
            self.decide(all_stalled, gone);
        }
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
                None if topic.on_the_way() > 0 => well += 1,
                None => {}
            }
        }
        let all = well == 0 && !stalled.is_empty();
        self.shared.health().stalled = stalled;
        all
    }

    /// Asks for the metadata of some topic.
    fn ask(&self) -> KafkaResult<()> {
        let Some(producer) = self.producer.get() else {
            return Ok(());
        };
        let name = self.shared.topics().known.keys().next().cloned();
        producer
            .client()
            .fetch_metadata(name.as_deref(), ANSWER_WITHIN)
            .map(drop)
    }

    /// Takes the destination down or up, and says so once.
    fn decide(&self, all_stalled: bool, gone: Option<String>) {
        let name = &self.shared.name;
        let mut health = self.shared.health();
        let first_stalled = health.stalled.values().next().cloned();
        let why = match (gone, all_stalled) {
            (Some(error), _) if health.last_error.is_empty() => {
                Some(format!("{name} does not answer: {error}"))
            }
            (Some(error), _) => Some(format!(
                "{name} does not answer: {error} ({})",
                health.last_error
            )),
            (None, true) => first_stalled,
            (None, false) => None,
        };
        match (&health.down, &why) {
            (None, Some(why)) => {
                tracing::error!(destination = %name, "the destination is down: {why}; batches are answered Busy");
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
        let old = self.producer.lock().take();
        if let Some(old) = old {
            old.purge(PurgeConfig::default().queue().inflight());
            // Its polling thread answers what was purged; then it is dropped with its last user.
            let deadline = Instant::now() + ANSWER_WITHIN;
            while topics.iter().any(|topic| topic.on_the_way() > 0) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.shared
            .topics()
            .known
            .retain(|_name, known| matches!(known, Known::Opening(_)));
        match self.shared.producer() {
            Ok(producer) => {
                *self.producer.lock() = Some(Arc::new(producer));
                self.shared.health().fatal = false;
            }
            Err(error) => {
                tracing::error!(destination = %self.shared.name, %error, "a new producer cannot be made; tried again");
            }
        }
    }
}
