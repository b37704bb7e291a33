//! The words for how a topic and a node are: one function each, used by lists, details, live
//! events and metrics alike. `docs/states.md` says the same to people.
//!
//! Pure.

use serde::{Deserialize, Serialize};

use super::tally::Tally;

/// A node is silent when it has not reported for this long, in ms: three times the 5 s after which
/// a node reports at the latest, though nothing happens.
pub(crate) const SILENT_AFTER_MS: i64 = 15_000;

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NodeState {
    /// It reported within the last 15 s.
    Live,
    /// It did not.
    Silent,
}

impl NodeState {
    /// The state of a node that reported last at `last_ms` (the manager's clock).
    pub(crate) fn of(last_ms: i64, now_ms: i64) -> Self {
        if now_ms.saturating_sub(last_ms) <= SILENT_AFTER_MS {
            Self::Live
        } else {
            Self::Silent
        }
    }

    /// When a node that reported last at `last_ms` came into this state, in ms. `first_ms` is its
    /// first report of this life.
    pub(crate) fn since_ms(self, first_ms: i64, last_ms: i64) -> i64 {
        match self {
            Self::Live => first_ms,
            Self::Silent => last_ms.saturating_add(SILENT_AFTER_MS),
        }
    }
}

/// How a topic is within a range of event minutes. The worst that is true is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TopicState {
    /// Records were read that are neither delivered, nor held, nor told as lost.
    Losing,
    /// Bytes were lost, with address and reason: see the losses.
    Dropped,
    /// The bus refuses batches; their streams stand still until somebody acts.
    Refused,
    /// A destination refuses records for good; they are in the dead letters until somebody acts.
    DeadLetters,
    /// Records were delivered twice.
    Doubled,
    /// An agent of the topic has not reported for 15 s: what it reads now nobody knows.
    Silent,
    /// Some records are still on their way; nothing is wrong.
    InFlight,
    /// Everything that was read is delivered, without what an operator gave up.
    Whole,
    /// Nothing was counted in the range.
    Idle,
}

impl TopicState {
    /// The state of a topic with these sums, number of told losses and silent agents.
    pub(crate) fn of(tally: &Tally, losses: i64, silent_agents: i64) -> Self {
        if tally.unexplained() > 0 {
            Self::Losing
        } else if losses > 0 || tally.dropped > 0 {
            Self::Dropped
        } else if tally.refused > 0 {
            Self::Refused
        } else if tally.dead > 0 {
            Self::DeadLetters
        } else if tally.doubled > 0 {
            Self::Doubled
        } else if silent_agents > 0 {
            Self::Silent
        } else if tally.in_flight > 0 {
            Self::InFlight
        } else if tally.read > 0 || tally.delivered > 0 {
            Self::Whole
        } else {
            Self::Idle
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl Fn(&mut Tally), losses: i64, silent: i64, expected: TopicState) {
        let mut tally = Tally {
            read: 9,
            delivered: 9,
            ..Tally::default()
        };
        change(&mut tally);
        assert_eq!(
            TopicState::of(&tally, losses, silent),
            expected,
            "{tally:?}"
        );
    }

    #[test]
    fn the_worst_that_is_true_is_said() {
        check(|tally| *tally = Tally::default(), 0, 0, TopicState::Idle);
        check(|_| (), 0, 0, TopicState::Whole);
        check(|tally| tally.in_flight = 1, 0, 0, TopicState::InFlight);
        check(|tally| tally.in_flight = 1, 0, 1, TopicState::Silent);
        check(|tally| tally.doubled = 1, 0, 1, TopicState::Doubled);
        check(
            |tally| (tally.dead, tally.doubled) = (1, 1),
            0,
            1,
            TopicState::DeadLetters,
        );
        check(
            |tally| (tally.purged, tally.replayed) = (1, 1),
            0,
            0,
            TopicState::Whole,
        );
        check(
            |tally| (tally.refused, tally.dead) = (1, 1),
            0,
            0,
            TopicState::Refused,
        );
        check(
            |tally| (tally.refused, tally.doubled) = (1, 1),
            0,
            0,
            TopicState::Refused,
        );
        check(|tally| tally.refused = 1, 1, 0, TopicState::Dropped);
        check(|tally| tally.dropped = 1, 1, 0, TopicState::Dropped);
        check(
            |tally| (tally.missing, tally.dropped) = (1, 1),
            1,
            0,
            TopicState::Losing,
        );
    }

    #[test]
    fn a_surplus_never_hides_a_loss() {
        check(
            |tally| (tally.missing, tally.ahead) = (1, 1),
            0,
            0,
            TopicState::Losing,
        );
    }

    #[test]
    fn a_node_is_silent_after_fifteen_seconds() {
        assert_eq!(NodeState::of(1_000, 16_000), NodeState::Live);
        assert_eq!(NodeState::of(1_000, 16_001), NodeState::Silent);
        assert_eq!(NodeState::Silent.since_ms(0, 1_000), 16_000);
        assert_eq!(NodeState::of(i64::MAX, 0), NodeState::Live);
    }
}
