//! Whether a batch is taken, from what its header says: take it, not now, or never.
//!
//! Pure: the session gathers the facts, this decides, so every pair has a row in the tests. Decided
//! before the payload is read; a batch that is not taken costs no memory. Not for: memory, which
//! is not refused but waited for (see [`crate::budget`]), so that TCP pushes back.

use tributary_common::wire::RefuseReason;

/// The retry time while the node stops, in ms: by then the agent is connected elsewhere.
pub(crate) const STOPPING_RETRY_MS: u32 = 1_000;
/// The retry time of batches behind one that is awaited, in ms: short, the awaited one decides.
pub(crate) const ORDER_RETRY_MS: u32 = 100;
/// Why they wait.
pub(crate) const ORDER_REASON: &str = "an earlier batch of this stream is awaited";
/// The retry time while a destination is down, in ms.
pub(crate) const DOWN_RETRY_MS: u32 = 500;

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
        /// When to come again, in ms.
        retry_after_ms: u32,
        /// The whole node, not only this topic.
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
    let busy = |retry_after_ms, node, reason: &str| Admission::Busy {
        retry_after_ms,
        node,
        reason: reason.to_owned(),
    };
    if facts.done {
        return Admission::Duplicate;
    }
    if facts.in_flight {
        return Admission::Join;
    }
    if facts.stopping {
        return busy(STOPPING_RETRY_MS, true, "this node is stopping");
    }
    if !facts.may_pass {
        return busy(ORDER_RETRY_MS, false, ORDER_REASON);
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
    match facts.down {
        Some(why) => busy(DOWN_RETRY_MS, false, why),
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
        absurd: None,
    };

    fn check(facts: Facts<'_>, want: &str) {
        let got = match admit(facts) {
            Admission::Accept => "accept".to_owned(),
            Admission::Join => "join".to_owned(),
            Admission::Duplicate => "duplicate".to_owned(),
            Admission::Busy {
                retry_after_ms,
                node,
                reason,
            } => {
                format!("busy {retry_after_ms} {node}: {reason}")
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
            "busy 1000 true: this node is stopping",
        );
        check(
            Facts {
                may_pass: false,
                ..GOOD
            },
            "busy 100 false: an earlier batch of this stream is awaited",
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
            "busy 500 false: kafka is down",
        );
    }

    #[test]
    fn what_is_safe_is_acknowledged_in_any_state() {
        let worst = Facts {
            stopping: true,
            routed: false,
            may_pass: false,
            down: Some("down"),
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
            "busy 100 false: an earlier batch of this stream is awaited",
        );
    }
}
