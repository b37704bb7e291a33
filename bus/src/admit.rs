//! Whether a batch is taken, from what its header says: take it, not now, or never.
//!
//! Pure: the session gathers the facts, this decides, so every pair has a row in the tests. Decided
//! before the payload is read; a batch that is not taken costs no memory. Not for: memory, which
//! of which each class but the first is told to come again when more urgent ones may need what is
//! left, and the first waits for it, so that TCP pushes back (see [`crate::budget`]).

use tributary_common::wire::RefuseReason;

/// The retry time while the node stops, in ms: by then the agent is connected elsewhere.
pub(crate) const STOPPING_RETRY_MS: u32 = 1_000;
/// The retry time of batches behind one that is awaited, in ms: short, the awaited one decides.
pub(crate) const ORDER_RETRY_MS: u32 = 100;
/// Why they wait.
pub(crate) const ORDER_REASON: &str = "an earlier batch of this stream is awaited";
/// The retry time while a destination is down, in ms.
pub(crate) const DOWN_RETRY_MS: u32 = 500;

/// The retry time while a group of brokers holds its share of the memory, in ms.
pub(crate) const GROUP_RETRY_MS: u32 = 250;
/// Why they wait.
pub(crate) const GROUP_REASON: &str = "its group of brokers holds its share of the memory";

/// The retry time while a destination holds its share of the memory, in ms.
pub(crate) const SHARE_RETRY_MS: u32 = 250;
/// Why they wait.
pub(crate) const SHARE_REASON: &str =
    "its destination is slower than what comes for it, and holds its share of the memory";

/// Why a batch has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// The node is stopping.
    Stopping,
    /// An earlier batch of its stream is awaited.
    Order,
    /// A destination takes nothing, and no disk takes its place.
    Down,
    /// Its agent sends more than it may.
    AgentRate,
    /// More is sent of its topic than may be.
    TopicRate,
    /// The memory that is left is for more urgent classes.
    Memory,
    /// The memory that is left is for other groups of brokers.
    Group,
    /// The memory that is left is for other destinations, and for the disk.
    Share,
}

impl Why {
    /// As a metric label and in `/status`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Stopping => "stopping",
            Self::Order => "order",
            Self::Down => "down",
            Self::AgentRate => "agent_rate",
            Self::TopicRate => "topic_rate",
            Self::Memory => "memory",
            Self::Group => "group",
            Self::Share => "destination",
        }
    }
}

/// What is known of a batch before its payload is read.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each with its row in the tests"
)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// The node is stopping.
    pub(crate) stopping: bool,
    /// A rule matches the topic.
    pub(crate) routed: bool,
    /// Every destination of the route has it already.
    pub(crate) done: bool,
    /// It is on its way from an earlier connection.
    pub(crate) in_flight: bool,
    /// No earlier batch of its stream is awaited on this connection.
    pub(crate) may_pass: bool,
    /// Why a destination of the route takes nothing now.
    pub(crate) down: Option<&'a str>,
    /// The quota that it is over, and the wait for it in ms.
    pub(crate) over: Option<(Why, u32)>,
    /// The memory that is left is for more urgent classes: the wait in ms.
    pub(crate) crowded: Option<u32>,
    /// Its group of brokers holds all that it may.
    pub(crate) group_full: bool,
    /// A destination of the route does.
    pub(crate) share_full: bool,
    /// The header's counts are beyond what a batch can be.
    pub(crate) absurd: Option<&'a str>,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Read the payload and deliver it.
    Accept,
    /// Wait for the delivery that is under way; the payload is not needed.
    Join,
    /// Acknowledge it as a repeat; the payload is not needed.
    Duplicate,
    /// Answer `Busy`.
    Busy {
        /// Why, for branches.
        why: Why,
        /// When to come again, in ms.
        retry_after_ms: u32,
        /// All that the agent has for this node, not only this topic.
        node: bool,
        /// Why, for people.
        reason: String,
    },
    /// Answer `Refuse`.
    Refuse(RefuseReason, String),
}

/// Decides. What is already safe is acknowledged whatever the state of the node; what cannot be
/// right is refused before anything waits for it.
pub(crate) fn admit(facts: Facts<'_>) -> Admission {
    let busy = |why, retry_after_ms, reason: &str| Admission::Busy {
        why,
        retry_after_ms,
        node: matches!(why, Why::Stopping | Why::AgentRate),
        reason: reason.to_owned(),
    };
    if facts.done {
        return Admission::Duplicate;
    }
    if facts.in_flight {
        return Admission::Join;
    }
    if facts.stopping {
        return busy(Why::Stopping, STOPPING_RETRY_MS, "this node is stopping");
    }
    if !facts.may_pass {
        return busy(Why::Order, ORDER_RETRY_MS, ORDER_REASON);
    }
    if !facts.routed {
        return Admission::Refuse(
            RefuseReason::NoRoute,
            "no route matches the topic".to_owned(),
        );
    }
    if let Some(why) = facts.absurd {
        return Admission::Refuse(RefuseReason::Corrupt, why.to_owned());
    }
    if let Some(why) = facts.down {
        return busy(Why::Down, DOWN_RETRY_MS, why);
    }
    if let Some((why, wait_ms)) = facts.over {
        let what = match why {
            Why::AgentRate => "the agent is over its quota (limits.agent_rate)",
            _topic => "the topic is over its quota (limits.topic_rate)",
        };
        return busy(why, wait_ms, what);
    }
    if facts.group_full {
        return busy(Why::Group, GROUP_RETRY_MS, GROUP_REASON);
    }
    if facts.share_full {
        return busy(Why::Share, SHARE_RETRY_MS, SHARE_REASON);
    }
    match facts.crowded {
        Some(wait_ms) => busy(
            Why::Memory,
            wait_ms,
            "the memory that is left is for more urgent classes",
        ),
        None => Admission::Accept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Facts<'_> = Facts {
        stopping: false,
        routed: true,
        done: false,
        in_flight: false,
        may_pass: true,
        down: None,
        over: None,
        crowded: None,
        group_full: false,
        share_full: false,
        absurd: None,
    };

    fn check(facts: Facts<'_>, want: &str) {
        let got = match admit(facts) {
            Admission::Accept => "accept".to_owned(),
            Admission::Join => "join".to_owned(),
            Admission::Duplicate => "duplicate".to_owned(),
            Admission::Busy {
                why,
                retry_after_ms,
                node,
                reason,
            } => {
                let why = why.label();
                format!("busy {why} {retry_after_ms} {node}: {reason}")
            }
            Admission::Refuse(reason, text) => format!("refuse {}: {text}", reason.as_str()),
        };
        assert_eq!(got, want);
    }

    #[test]
    fn every_decision_has_its_reason() {
        check(GOOD, "accept");
        check(
            Facts {
                in_flight: true,
                ..GOOD
            },
            "join",
        );
        check(Facts { done: true, ..GOOD }, "duplicate");
        check(
            Facts {
                stopping: true,
                ..GOOD
            },
            "busy stopping 1000 true: this node is stopping",
        );
        check(
            Facts {
                may_pass: false,
                ..GOOD
            },
            "busy order 100 false: an earlier batch of this stream is awaited",
        );
        check(
            Facts {
                routed: false,
                ..GOOD
            },
            "refuse no-route: no route matches the topic",
        );
        check(
            Facts {
                absurd: Some("x"),
                ..GOOD
            },
            "refuse corrupt: x",
        );
        check(
            Facts {
                down: Some("kafka is down"),
                ..GOOD
            },
            "busy down 500 false: kafka is down",
        );
    }

    #[test]
    fn only_what_is_over_its_quota_waits_for_it() {
        let over = |why| Facts {
            over: Some((why, 70)),
            ..GOOD
        };
        check(
            over(Why::AgentRate),
            "busy agent_rate 70 true: the agent is over its quota (limits.agent_rate)",
        );
        check(
            over(Why::TopicRate),
            "busy topic_rate 70 false: the topic is over its quota (limits.topic_rate)",
        );
        check(
            Facts {
                crowded: Some(50),
                ..GOOD
            },
            "busy memory 50 false: the memory that is left is for more urgent classes",
        );
        check(
            Facts {
                group_full: true,
                ..GOOD
            },
            "busy group 250 false: its group of brokers holds its share of the memory",
        );
        check(
            Facts {
                share_full: true,
                ..GOOD
            },
            "busy destination 250 false: its destination is slower than what comes for it, and holds its share of the memory",
        );
    }

    #[test]
    fn what_is_safe_is_acknowledged_in_any_state() {
        let worst = Facts {
            stopping: true,
            routed: false,
            may_pass: false,
            down: Some("down"),
            over: Some((Why::AgentRate, 1)),
            crowded: Some(1),
            group_full: true,
            share_full: true,
            absurd: Some("x"),
            ..GOOD
        };
        check(
            Facts {
                done: true,
                ..worst
            },
            "duplicate",
        );
        check(
            Facts {
                in_flight: true,
                ..worst
            },
            "join",
        );
        check(
            Facts {
                may_pass: false,
                routed: false,
                ..GOOD
            },
            "busy order 100 false: an earlier batch of this stream is awaited",
        );
    }
}
