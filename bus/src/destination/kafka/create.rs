//! Topics that a cluster lacks, and that a route says are to be created.
//!
//! Asked before a topic is opened: librdkafka's own question would have its brokers make it as they do by
//! themselves. Not for: clusters with groups, whose topics are created inside them (see [`super::groups`]).

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    KafkaConfig,
    groups::grouped::wait,
    verbatim::{
        admin::{Admin, Disobeyed, NewTopic},
        security::Security,
    },
};
use crate::route::{Create, Table};

/// What the routes of today say of topics here.
#[derive(Debug)]
pub(super) struct Creating {
    /// None where the options are beyond our own connections; then no route says so.
    admin: Option<Admin>,
    /// The rules, and the place of this destination in them.
    rules: Mutex<Option<(Arc<Table>, usize)>>,
}

impl Creating {
    pub(super) fn new(cluster: &KafkaConfig) -> Self {
        let security = Security::of(&cluster.options).ok();
        Self {
            admin: security.map(|security| Admin::new(&cluster.bootstrap, Arc::new(security))),
            rules: Mutex::default(),
        }
    }

    /// Other rules count.
    pub(super) fn go_by(&self, rules: &Arc<Table>, place: usize) {
        // It is replaced whole.
        let mut known = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((Arc::clone(rules), place));
    }

    /// How a topic is to be created, should it be missing.
    fn creation(&self, topic: &str) -> Option<Create> {
        let rules = self
            .rules
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (table, place) = rules?;
        table.creation(place, topic)
    }

    /// Creates a topic that is missing and may be created; whether it was.
    ///
    /// # Errors
    /// [`Disobeyed`].
    pub(super) fn create(&self, topic: &Arc<str>) -> Result<bool, Disobeyed> {
        let (Some(create), Some(admin)) = (self.creation(topic), &self.admin) else {
            return Ok(false);
        };
        wait(async {
            // Whoever may not create topics may write to one that is there.
            let there = admin.map(&[Arc::clone(topic)]).await?;
            if !there.topics.is_empty() {
                return Ok(false);
            }
            admin.create(topic, NewTopic::As(create)).await?;
            Ok(true)
        })
    }
}
