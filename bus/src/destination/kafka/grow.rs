//! Notices that a topic has got more partitions while it is open.
//!
//! # Constraints
//! Streams stay where they are; who comes new may get one of the new ones (see [`super::subset`]). Before
//! anything is produced to one, the journal knows where it ended: a recovery looks only there.
//!
//! # Operation
//! The topics that are open are asked for one after the other, all of them within the period, while nobody waits
//! for a topic to be opened and the cluster is up. Asked is librdkafka's client, which learns of them by it.
//! Not for: a topic with fewer partitions, which was made anew (its batches fail, and it is opened again).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use rdkafka::ClientConfig;
use tokio::time::Instant;

use super::topic::Topic;

/// The option that says how often is asked, in ms: librdkafka's own.
const OPTION: &str = "topic.metadata.refresh.interval.ms";
/// Where it does not say.
const EVERY: Duration = Duration::from_secs(60);

/// Which topics are to be asked for, and when.
#[derive(Debug)]
pub(super) struct Rounds {
    every: Duration,
    began: Instant,
    /// How many there were when the round began.
    of: usize,
    left: VecDeque<Arc<str>>,
}

impl Rounds {
    /// As often as the settings say; never where they say so.
    pub(super) fn of(settings: &ClientConfig, now: Instant) -> Option<Self> {
        let every = match settings.get(OPTION) {
            None => EVERY,
            Some(ms) => Duration::from_millis(ms.parse().ok()?),
        };
        Some(Self {
            every,
            began: now,
            of: 0,
            left: VecDeque::new(),
        })
    }

    /// The next topics to be asked for; `open` are those that there are.
    pub(super) fn due(
        &mut self,
        now: Instant,
        open: impl FnOnce() -> Vec<Arc<Topic>>,
    ) -> Vec<Arc<str>> {
        let elapsed = now.saturating_duration_since(self.began);
        if self.left.is_empty() {
            if elapsed < self.every {
                return Vec::new();
            }
            self.left = open().iter().map(|topic| Arc::clone(&topic.name)).collect();
            (self.of, self.began) = (self.left.len(), now);
            return self.left.pop_front().into_iter().collect();
        }
        // Spread over the period, so that many topics are no wave of questions.
        let part = elapsed.as_secs_f64() / self.every.as_secs_f64().max(0.001);
        let left = (0..self.left.len()).rev();
        #[expect(clippy::cast_precision_loss, reason = "topics are few")]
        let due = left.take_while(|&left| (self.of - left) as f64 <= part * self.of as f64 + 1.0);
        let due = due.count();
        self.left.drain(..due).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn every_topic_is_asked_for_once_in_a_period_and_not_all_at_once() {
        let topic = |no| Arc::new(Topic::new(format!("{no}").into(), 0, 1, HashMap::new()));
        let topics: Vec<Arc<Topic>> = (0..100).map(topic).collect();
        let mut now = Instant::now();
        let mut settings = ClientConfig::new();
        settings.set(OPTION, "10000");
        let mut rounds = Rounds::of(&settings, now).unwrap();
        assert!(rounds.due(now, || topics.clone()).is_empty());
        now += Duration::from_secs(10);
        let (mut asked, mut most) = (Vec::new(), 0);
        for _turn in 0..=40 {
            let due = rounds.due(now, || topics.clone());
            most = most.max(due.len());
            asked.extend(due);
            now += Duration::from_millis(250);
        }
        assert!(most <= 5, "{most} at once");
        let wanted: Vec<Arc<str>> = topics.iter().map(|topic| Arc::clone(&topic.name)).collect();
        assert_eq!(asked, wanted);
        settings.set(OPTION, "-1");
        assert!(Rounds::of(&settings, now).is_none());
    }
}
