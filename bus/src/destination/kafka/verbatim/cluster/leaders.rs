//! What the cluster answers when it is asked who leads, and who we are.
//!
//! Not for: when it is asked (see [`super`]).

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{
    super::{
        broker::Haste,
        lane::Producer,
        meaning::{Meaning, meaning_of, words},
        says::{Command, Leaders, TopicLeaders},
    },
    Cluster, LaneNo, LinkNo, PAUSE, REFRESH_EVERY, Slot, UNKNOWN_FOR,
};

impl<T: Clone> Cluster<T> {
    /// The answer to the question for a producer id.
    pub(in super::super) fn on_producer(
        &mut self,
        link: LinkNo,
        answer: Result<Producer, i16>,
        now: Instant,
    ) {
        if self.answered(link, Duration::ZERO, now).is_none() {
            return;
        }
        self.naming.asked = false;
        match answer {
            Ok(producer) => {
                self.producer = Some(producer);
                self.naming.backoff.reset();
                (0..self.slots.len()).for_each(|lane| self.touch(lane, now));
            }
            Err(code) => {
                let why = format!("no producer id: {}", words(code));
                self.naming.due = now + self.naming.backoff.next(&mut self.random);
                self.commands.push_back(Command::Trouble(why));
            }
        }
    }

    /// The answer to the question for leaders.
    pub(in super::super) fn on_leaders(&mut self, link: LinkNo, answer: &Leaders, now: Instant) {
        if self.answered(link, Duration::ZERO, now).is_none() {
            return;
        }
        self.leaders.asked = false;
        for (no, addr) in &answer.brokers {
            for door in [(*no, Haste::Common), (*no, Haste::Urgent)] {
                match self.brokers.get_mut(&door) {
                    None => self.add_broker(door, addr.clone(), now),
                    // The present connection lives as long as it answers.
                    Some(broker) => broker.addr.clone_from(addr),
                }
            }
        }
        for topic in &answer.topics {
            let lanes = self.numbers.get(topic.topic.as_str());
            let lanes: Vec<LaneNo> = lanes
                .into_iter()
                .flat_map(HashMap::values)
                .copied()
                .collect();
            for lane in lanes {
                self.led(lane, topic, now);
            }
        }
        let leaderless = |slot: &Slot<T>| slot.leader.is_none() && !slot.lane.is_empty();
        self.leaders.due = if self.slots.iter().any(leaderless) {
            now + PAUSE.0 + self.leaders.backoff.next(&mut self.random)
        } else {
            self.leaders.backoff.reset();
            now + REFRESH_EVERY
        };
    }

    /// Notes who leads a partition, and gives up one that has been unknown for too long.
    fn led(&mut self, lane: LaneNo, topic: &TopicLeaders, now: Instant) {
        let Some(slot) = self.slots.get_mut(lane) else {
            return;
        };
        let mut partitions = topic.partitions.iter();
        let known = partitions.find(|(partition, _leader)| *partition == slot.partition);
        let leader = known.and_then(|(_partition, leader)| *leader);
        let before = std::mem::replace(&mut slot.leader, leader);
        if before != leader && slot.queued {
            // It stands in the row of the one that led before, who may never be there again.
            for broker in self.brokers.values_mut() {
                let row = broker.ready.len();
                broker.ready.retain(|one| *one != lane);
                slot.queued &= broker.ready.len() == row;
            }
        }
        if known.is_some() {
            slot.unknown = None;
        } else {
            let since = *slot.unknown.get_or_insert(now);
            let refused = matches!(meaning_of(topic.code), Meaning::Refused(_));
            let given_up = refused || now.saturating_duration_since(since) >= UNKNOWN_FOR;
            if given_up && slot.lane.on_the_way() == 0 && !slot.lane.is_empty() {
                slot.unknown = None;
                let parcels = slot.lane.take_all();
                let why = format!("topic {}: {}", topic.topic, words(topic.code));
                self.producer = None;
                self.commands.push_back(Command::GiveBack { parcels, why });
            }
        }
        self.touch(lane, now);
    }
}
