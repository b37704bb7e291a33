//! `[destination.groups]`: the brokers of a Kafka cluster by class, and what must hold of them.
//!
//! Called by the check of the whole. Not for: whether the cluster has these brokers, which it says when
//! topics are created.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use tributary_common::{
    config::{Checker, Key, Kind, Schema},
    ids::Class,
};

use super::Groups;
use crate::destination::kafka::security;

static BROKER: Kind = Kind::Integer {
    min: 0,
    max: i32::MAX as i64,
};

const fn brokers(class: &'static str) -> Key {
    Key::optional(
        class,
        Kind::list(&BROKER, 1),
        "The ids of the brokers that have the topics of this class. Left out: those of the next less urgent class that has some, or else of the next more urgent one.",
    )
}

/// The form of the table.
pub(super) static GROUPS: Schema = Schema::new(
    "Brokers by class. Topics that are missing are created with all replicas inside the group of their class; `tributary ctl groups` moves those that lie elsewhere. Each group's batches may hold an equal part of limits.memory.",
    &[
        brokers("P0"),
        brokers("P1"),
        brokers("P2"),
        brokers("P3"),
        Key::default(
            "partitions",
            Kind::Integer {
                min: 1,
                max: 10_000,
            },
            "8",
            "Partitions of a topic that is created.",
        ),
        Key::optional(
            "replicas",
            Kind::Integer { min: 1, max: 100 },
            "Its replicas. Left out: 3, or as many as its group has brokers.",
        ),
    ],
);

/// The table as it is written.
#[derive(Debug, Deserialize)]
pub(super) struct RawGroups {
    #[serde(flatten)]
    of: BTreeMap<Class, Vec<i32>>,
    partitions: i32,
    replicas: Option<usize>,
}

impl RawGroups {
    /// The groups, as far as they are good.
    pub(super) fn check(
        self,
        options: &BTreeMap<String, String>,
        at: &str,
        checker: &mut Checker,
    ) -> Groups {
        if self.of.is_empty() {
            checker.fault(
                &format!("{at}.groups"),
                "has no class; give some of P0, P1, P2, P3 their brokers",
            );
        }
        let mut whose: HashMap<i32, Class> = HashMap::new();
        for (class, brokers) in &self.of {
            let key = format!("{at}.groups.{class}");
            for broker in brokers {
                match whose.insert(*broker, *class) {
                    None => {}
                    Some(other) if other == *class => {
                        checker.fault(&key, format!("names broker {broker} twice"));
                    }
                    Some(other) => {
                        let why = format!(
                            "names broker {broker}, which is in group {other}; a broker is in one group"
                        );
                        checker.fault(&key, why);
                    }
                }
            }
            if let Some(replicas) = self.replicas.filter(|replicas| *replicas > brokers.len()) {
                let why = format!(
                    "has {} brokers; replicas = {replicas} needs as many",
                    brokers.len()
                );
                checker.fault(&key, why);
            }
        }
        if let Some(beyond) = security::beyond(options) {
            checker.fault(
                &format!("{at}.groups"),
                format!("cannot be used with these options: {beyond}"),
            );
        }
        if options.contains_key("allow.auto.create.topics") {
            let why = "\"allow.auto.create.topics\" is set by the bus where there are groups: topics are created inside them; leave it out";
            checker.fault(&format!("{at}.options"), why);
        }
        Groups {
            of: self.of,
            partitions: self.partitions,
            replicas: self.replicas,
        }
    }
}
