//! A broker as the producer sees it: its connection, what it owes, what is ready for it. Plain state
//! (see [`super::cluster`]).

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;
use tributary_common::backoff::Backoff;

use super::{
    cluster::{LaneNo, LinkNo},
    lane::RequestNo,
};

/// Which of a broker's connections a partition's batches take: what is urgent does not stand behind what
/// a broker works off in the order in which it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Haste {
    Common,
    Urgent,
}

/// Which answer a connection gives next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Produce,
    Leaders,
    Producer,
}

/// A connection.
#[derive(Debug)]
pub(super) enum Link {
    Down,
    Dialing(LinkNo),
    Up(LinkNo),
}

/// A request without an answer.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) no: RequestNo,
    pub(super) kind: Kind,
    pub(super) at: Instant,
    pub(super) lanes: Vec<LaneNo>,
}

/// A broker, by one of its connections.
#[derive(Debug)]
pub(super) struct Broker {
    pub(super) addr: String,
    pub(super) link: Link,
    /// Not dialled, or nothing produced to, before.
    pub(super) not_before: Instant,
    pub(super) backoff: Backoff,
    pub(super) asked: VecDeque<Asked>,
    pub(super) heard: Instant,
    /// Partitions that may have something for it.
    pub(super) ready: VecDeque<LaneNo>,
}

impl Broker {
    /// How long it has owed an answer and said nothing.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        let first = self.asked.front();
        first.map_or(Duration::ZERO, |first| {
            now.saturating_duration_since(self.heard.max(first.at))
        })
    }

    /// Requests with batches that it has.
    pub(super) fn produces(&self) -> usize {
        let produce = |asked: &&Asked| asked.kind == Kind::Produce;
        self.asked.iter().filter(produce).count()
    }
}
