//! Resource groups: brokers of a cluster by class, so that what one class does to its brokers is felt by
//! no other (ADR 0028).
//!
//! # Operation
//! A topic belongs to the group of its class: the most urgent of its batches in this life. One that is
//! missing is created there, its replicas on the group's brokers and nowhere else; one that lies
//! elsewhere stays there until an operator moves it. A group whose brokers hang may hold no more than its
//! part of the node's memory, and is opened by a thread of its own.
//!
//! This file is pure: which group, which brokers. Rooms: [`grouped`] (a destination that has groups), [`api`] (what an
//! operator asks).
//! Not for: what is said to the cluster (see [`super::verbatim`]).

pub(crate) mod api;
pub(crate) mod grouped;

use std::collections::BTreeMap;

use tributary_common::ids::Class;

/// A broker's number in its cluster.
pub(crate) type BrokerId = i32;

/// Replicas of a new topic where the configuration does not say.
const REPLICAS: usize = 3;

/// The groups of a cluster, as the configuration says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    /// The brokers of each class that has its own; none of them empty, no broker in two.
    pub of: BTreeMap<Class, Vec<BrokerId>>,
    /// Partitions of a topic that is created.
    pub partitions: i32,
    /// Its replicas; 3 without it, or as many as its group has brokers.
    pub replicas: Option<usize>,
}

/// Where the replicas of a topic are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lies {
    /// Partitions with all replicas in the group.
    pub(crate) inside: usize,
    /// Partitions with a replica elsewhere.
    pub(crate) outside: usize,
}

impl Groups {
    /// The class whose group has the topics of a class: its own, or the next less urgent one with a group,
    /// or else the next more urgent one.
    pub(crate) fn group_of(&self, class: Class) -> Class {
        let below = self.of.range(class..).next();
        let group = below.or_else(|| self.of.range(..class).next_back());
        group.map_or(class, |(class, _brokers)| *class)
    }

    /// Its brokers.
    pub(crate) fn brokers(&self, group: Class) -> &[BrokerId] {
        self.of.get(&group).map_or(&[], Vec::as_slice)
    }

    /// Where a new topic of a class goes: the replicas of each partition, the leader first.
    pub(crate) fn place(
        &self,
        topic: &str,
        class: Class,
        alive: &[BrokerId],
    ) -> Vec<Vec<BrokerId>> {
        let brokers = self.brokers(self.group_of(class));
        let replicas = self.replicas.unwrap_or_else(|| REPLICAS.min(brokers.len()));
        let usable: Vec<BrokerId> = brokers
            .iter()
            .copied()
            .filter(|id| alive.contains(id))
            .collect();
        // With too few of them the cluster is asked for all, and says what is missing.
        let usable = if usable.len() >= replicas {
            &usable
        } else {
            brokers
        };
        let partitions = 0..usize::try_from(self.partitions).unwrap_or(1);
        partitions
            .map(|partition| spread(usable, replicas, first_of(topic) + partition))
            .collect()
    }

    /// How a topic's partitions lie, by the replicas of each.
    pub(crate) fn lies<'a>(
        &self,
        group: Class,
        partitions: impl Iterator<Item = &'a [BrokerId]>,
    ) -> Lies {
        let brokers = self.brokers(group);
        let mut lies = Lies::default();
        for replicas in partitions {
            match replicas.iter().all(|id| brokers.contains(id)) {
                true => lies.inside += 1,
                false => lies.outside += 1,
            }
        }
        lies
    }

    /// Where the replicas of a partition go when its topic moves into a group; `None` when they are
    /// there. What is inside already stays.
    ///
    /// # Errors
    /// A group with fewer brokers than the partition has replicas.
    pub(crate) fn moved(
        &self,
        (topic, partition): (&str, i32),
        group: Class,
        replicas: &[BrokerId],
    ) -> Result<Option<Vec<BrokerId>>, String> {
        let brokers = self.brokers(group);
        if brokers.len() < replicas.len() {
            return Err(format!(
                "topic {topic} has {} replicas, and group {group} only {} brokers",
                replicas.len(),
                brokers.len()
            ));
        }
        let mut target: Vec<BrokerId> = replicas
            .iter()
            .copied()
            .filter(|id| brokers.contains(id))
            .collect();
        if target.len() == replicas.len() {
            return Ok(None);
        }
        let first = first_of(topic) + usize::try_from(partition).unwrap_or(0);
        for broker in spread(brokers, brokers.len(), first) {
            if target.len() < replicas.len() && !target.contains(&broker) {
                target.push(broker);
            }
        }
        Ok(Some(target))
    }
}

/// Topics begin at different brokers of their group.
fn first_of(topic: &str) -> usize {
    let hash = xxhash_rust::xxh3::xxh3_64(topic.as_bytes());
    usize::from(hash.to_le_bytes()[0])
}

/// So many brokers, from the one at `first` on.
fn spread(brokers: &[BrokerId], count: usize, first: usize) -> Vec<BrokerId> {
    let from = first % brokers.len().max(1);
    brokers
        .iter()
        .cycle()
        .skip(from)
        .take(count.min(brokers.len()))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(of: &[(Class, &[BrokerId])], replicas: Option<usize>) -> Groups {
        let own = |(class, brokers): &(Class, &[BrokerId])| (*class, brokers.to_vec());
        Groups {
            of: of.iter().map(own).collect(),
            partitions: 6,
            replicas,
        }
    }

    #[test]
    fn a_class_without_a_group_takes_the_next_less_urgent_one_or_else_the_next_more_urgent() {
        let groups = groups(&[(Class::P0, &[1]), (Class::P2, &[2])], None);
        let of = Class::ALL.map(|class| groups.group_of(class));
        assert_eq!(of, [Class::P0, Class::P2, Class::P2, Class::P2]);
    }

    #[test]
    fn a_new_topic_has_all_replicas_inside_its_group_and_leaders_on_all_of_its_brokers() {
        let groups = groups(&[(Class::P0, &[1, 2, 3]), (Class::P3, &[4])], Some(2));
        let places = groups.place("web", Class::P0, &[1, 2, 3, 4]);
        assert_eq!(places.len(), 6);
        let lies = groups.lies(Class::P0, places.iter().map(Vec::as_slice));
        assert_eq!(
            lies,
            Lies {
                inside: 6,
                outside: 0
            }
        );
        for broker in [1, 2, 3] {
            let led = places
                .iter()
                .filter(|replicas| replicas.first() == Some(&broker));
            assert_eq!(led.count(), 2, "{places:?}");
        }
        assert!(
            places
                .iter()
                .all(|replicas| replicas.len() == 2 && replicas[0] != replicas[1])
        );
        // A broker that is away gets nothing while the others suffice.
        let places = groups.place("web", Class::P0, &[1, 3, 4]);
        assert!(
            places.iter().flatten().all(|id| [1, 3].contains(id)),
            "{places:?}"
        );
        // They do not: the cluster is to say so.
        let places = groups.place("web", Class::P0, &[1, 4]);
        assert!(places.iter().flatten().any(|id| *id != 1), "{places:?}");
    }

    #[test]
    fn a_partition_that_moves_keeps_what_is_inside_and_its_number_of_replicas() {
        let groups = groups(&[(Class::P0, &[1, 2]), (Class::P2, &[3, 4, 5])], None);
        let moved = |group, replicas: &[BrokerId]| groups.moved(("web", 0), group, replicas);
        assert_eq!(moved(Class::P0, &[2, 1]), Ok(None));
        let into = moved(Class::P2, &[1, 4]).unwrap().unwrap();
        assert!(
            into[0] == 4 && into.len() == 2 && [3, 5].contains(&into[1]),
            "{into:?}"
        );
        let all = moved(Class::P0, &[3, 4]).unwrap().unwrap();
        assert!(
            all.len() == 2 && all.iter().all(|id| [1, 2].contains(id)),
            "{all:?}"
        );
        let error = moved(Class::P0, &[3, 4, 5]).unwrap_err();
        assert!(
            error.contains("3 replicas") && error.contains("2 brokers"),
            "{error}"
        );
    }
}
