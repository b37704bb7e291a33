//! What an agent or a topic may send in a second, and who is held back now, and why.
//!
//! A quota is a bucket that fills at the configured rate up to one second of it. A batch may go when
//! there is anything in it, and takes what it has, so that the largest batch is never too large for a
//! quota; what it takes too much the next one waits for. A full bucket is forgotten: memory is that of
//! the agents and topics that sent within the last second or two.
//!
//! Not for: memory (see [`crate::budget`]). Pure but for its locks: time is an argument. Asked by
//! [`crate::node`].

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;
use tributary_common::{
    header::BatchHeader,
    ids::{AgentId, Topic},
};

use crate::admit::Why;

/// Full buckets are looked for when there are so many.
const SWEEP_AT: usize = 1_024;
/// Who was held back is shown for this long.
const SHOWN: Duration = Duration::from_secs(10);
/// Most that are shown.
const MAX_SHOWN: usize = 200;
/// Nobody is told to wait longer than this, in ms.
const MAX_WAIT_MS: u32 = 5_000;

/// The buckets of one kind.
#[derive(Debug)]
struct Buckets<K> {
    /// Bytes per second.
    rate: u64,
    /// When each is full again. One that is full by more than a second from now is overdrawn.
    full_at: HashMap<K, Instant>,
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            full_at: HashMap::new(),
        }
    }

    /// How long to wait, in ms, until there is anything in it.
    fn wait_ms(&self, key: &K, now: Instant) -> Option<u32> {
        let full_at = self.full_at.get(key)?;
        let empty_for = full_at.saturating_duration_since(now + Duration::from_secs(1));
        let ms = u32::try_from(empty_for.as_millis()).unwrap_or(u32::MAX);
        (!empty_for.is_zero()).then_some(ms.clamp(1, MAX_WAIT_MS))
    }

    fn take(&mut self, key: &K, bytes: u64, now: Instant) {
        if self.full_at.len() >= SWEEP_AT && !self.full_at.contains_key(key) {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        let takes = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.rate);
        let full_at = self.full_at.entry(key.clone()).or_insert(now);
        *full_at = (*full_at).max(now) + takes;
    }
}

/// Who was held back.
#[derive(Debug)]
struct Held {
    since: Instant,
    last: Instant,
    batches: u64,
}

/// All quotas, and who is held back.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    agents: Option<Mutex<Buckets<AgentId>>>,
    topics: Option<Mutex<Buckets<Topic>>>,
    held: Mutex<BTreeMap<(Why, String), Held>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is whole after every line, so a panic elsewhere leaves it usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Quotas {
    /// Quotas of so many bytes per second for each agent, and for each topic.
    pub(crate) fn new(agent_rate: Option<u64>, topic_rate: Option<u64>) -> Self {
        Self {
            agents: agent_rate.map(|rate| Mutex::new(Buckets::new(rate))),
            topics: topic_rate.map(|rate| Mutex::new(Buckets::new(rate))),
            held: Mutex::default(),
        }
    }

    /// Which quota a batch has to wait for, and how long in ms.
    pub(crate) fn wait(&self, header: &BatchHeader, now: Instant) -> Option<(Why, u32)> {
        let agents = self.agents.as_ref();
        let agent = agents.and_then(|agents| lock(agents).wait_ms(&header.agent, now));
        let topic = self.topic_wait(&header.topic, now);
        // The agent's holds back all that it sends.
        let agent = agent.map(|wait| (Why::AgentRate, wait));
        agent.or(topic.map(|wait| (Why::TopicRate, wait)))
    }

    /// How long a topic has to wait for its quota, in ms.
    pub(crate) fn topic_wait(&self, topic: &Topic, now: Instant) -> Option<u32> {
        let topics = self.topics.as_ref()?;
        lock(topics).wait_ms(topic, now)
    }

    /// A batch of so many payload bytes is taken in.
    pub(crate) fn take(&self, header: &BatchHeader, bytes: u64, now: Instant) {
        if let Some(agents) = &self.agents {
            lock(agents).take(&header.agent, bytes, now);
        }
        self.take_of_topic(&header.topic, bytes, now);
    }

    /// So many payload bytes of a topic are taken in, from no agent.
    pub(crate) fn take_of_topic(&self, topic: &Topic, bytes: u64, now: Instant) {
        if let Some(topics) = &self.topics {
            lock(topics).take(topic, bytes, now);
        }
    }

    /// Notes that a batch was held back.
    pub(crate) fn held_back(&self, why: Why, header: &BatchHeader, now: Instant) {
        let who = match why {
            Why::AgentRate => header.agent.to_string(),
            Why::TopicRate | Why::Memory | Why::Group | Why::Share | Why::Down => {
                header.topic.to_string()
            }
            // Neither tells of load, and both pass by themselves.
            Why::Stopping | Why::Order => return,
        };
        let mut held = lock(&self.held);
        if held.len() >= MAX_SHOWN {
            held.retain(|_, held| held.last + SHOWN > now);
        }
        let (room, key) = (held.len() < MAX_SHOWN, (why, who));
        if !room && !held.contains_key(&key) {
            return;
        }
        let new = Held {
            since: now,
            last: now,
            batches: 0,
        };
        let one = held.entry(key).or_insert(new);
        if one.last + SHOWN <= now {
            (one.since, one.batches) = (now, 0);
        }
        one.last = now;
        one.batches += 1;
    }

    /// Who is held back, for people.
    pub(crate) fn shown(&self, now: Instant) -> Value {
        let mut held = lock(&self.held);
        held.retain(|_, held| held.last + SHOWN > now);
        let rows = held.iter().map(|((why, who), held)| {
            json!({
                "why": why.label(),
                "who": who,
                "for_s": now.saturating_duration_since(held.since).as_secs(),
                "busy_batches": held.batches,
            })
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::header_of;

    #[test]
    fn who_is_over_its_quota_waits_and_nobody_else() {
        let quotas = Quotas::new(None, Some(1_000));
        let now = Instant::now();
        let (mine, other) = (header_of("mine"), header_of("other"));
        assert_eq!(quotas.wait(&mine, now), None);
        quotas.take(&mine, 2_500, now);
        assert_eq!(quotas.wait(&mine, now), Some((Why::TopicRate, 1_500)));
        assert_eq!(quotas.wait(&other, now), None);
        let later = now + Duration::from_millis(1_500);
        assert_eq!(quotas.wait(&mine, later), None);
    }

    #[test]
    fn the_quota_of_the_agent_comes_first() {
        let quotas = Quotas::new(Some(1_000), Some(1_000));
        let (now, header) = (Instant::now(), header_of("x"));
        quotas.take(&header, 1_100, now);
        assert_eq!(quotas.wait(&header, now), Some((Why::AgentRate, 100)));
    }

    #[test]
    fn who_is_held_back_is_shown_while_it_is() {
        let quotas = Quotas::new(None, Some(1));
        let (now, header) = (Instant::now(), header_of("x"));
        quotas.held_back(Why::TopicRate, &header, now);
        let later = now + Duration::from_secs(3);
        quotas.held_back(Why::TopicRate, &header, later);
        let want = json!([{ "why": "topic_rate", "who": "x", "for_s": 3, "busy_batches": 2 }]);
        assert_eq!(quotas.shown(later), want);
        assert_eq!(quotas.shown(later + SHOWN), json!([]));
    }

    proptest! {
        /// Whoever sends whatever it may: the rate holds, but for a second of it and one batch, and is
        /// reached.
        #[test]
        fn a_quota_lets_its_rate_through(sizes in prop::collection::vec(1u64..5_000, 1..40)) {
            const RATE: u64 = 10_000;
            let start = Instant::now();
            let mut buckets = Buckets::new(RATE);
            let (mut passed, mut sizes) = (0, sizes.into_iter().cycle());
            for ms in 0..10_000 {
                let now = start + Duration::from_millis(ms);
                while buckets.wait_ms(&(), now).is_none() {
                    let bytes = sizes.next().unwrap_or(1);
                    buckets.take(&(), bytes, now);
                    passed += bytes;
                }
            }
            prop_assert!(passed >= 10 * RATE, "{passed}");
            prop_assert!(passed <= 11 * RATE + 5_000, "{passed}");
        }
    }
}
