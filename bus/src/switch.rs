//! Which of its destinations a branch of a route uses, since when and why; and which it used before.
//!
//! The first in the order of the config whose breaker is closed; when none is, the first of all, whose
//! spill takes the batches. Every change is one line of the log, one of `/status`, and
//! one of the manager's record, with times: from them a person knows which minutes lie where. Not for: whether a destination is well (see
//! [`crate::breaker`]).

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tributary_common::{ids::Name, report::Switched};

use crate::journal::now_ms;

/// The changes that `/status` tells.
const KEEP: usize = 20;
/// Those that wait for a manager that is away.
const KEEP_UNTOLD: usize = 1_000;

#[derive(Debug, Default)]
struct Use {
    since_ms: u64,
    why: String,
    /// The newest last.
    switches: VecDeque<Switched>,
    /// Those that the manager was not told yet.
    untold: VecDeque<Switched>,
}

/// Of one branch.
#[derive(Debug)]
pub(crate) struct Switch {
    topic: String,
    names: Vec<Name>,
    using: AtomicUsize,
    told: Mutex<Use>,
}

/// The newest ones stay.
fn keep(kept: &mut VecDeque<Switched>, one: Switched, most: usize) {
    kept.push_back(one);
    if kept.len() > most {
        kept.pop_front();
    }
}

/// What a branch uses, of destinations in their order: whether each is to be used.
fn choose(closed: &[bool]) -> usize {
    closed.iter().position(|&closed| closed).unwrap_or(0)
}

impl Switch {
    /// Of the topics of this pattern, to the first of these or one that stands in for it.
    pub(crate) fn new(topic: &str, names: Vec<Name>) -> Self {
        let told = Use {
            since_ms: now_ms(),
            ..Use::default()
        };
        Self {
            topic: topic.to_owned(),
            names,
            using: AtomicUsize::new(0),
            told: Mutex::new(told),
        }
    }

    fn told(&self) -> MutexGuard<'_, Use> {
        // Each change is whole before the lock is given back.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is of the same branch as another one.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        self.topic == other.topic && self.names == other.names
    }

    /// What is used now: 0 for the destination itself, then the standbys in order.
    pub(crate) fn using(&self) -> usize {
        self.using.load(Ordering::Relaxed)
    }

    /// Uses what is to be used: of each destination whether its breaker is closed, and how it is.
    pub(crate) fn decide(&self, closed: &[bool], how: impl Fn(usize) -> String) {
        let (before, now) = (self.using(), choose(closed));
        let (Some(from), Some(to)) = (self.names.get(before), self.names.get(now)) else {
            return;
        };
        for (no, name) in self.names.iter().enumerate() {
            let labels = [
                ("topic", self.topic.clone()),
                ("destination", name.to_string()),
            ];
            let used = if no == now { 1.0 } else { 0.0 };
            metrics::gauge!("tributary_bus_route_used_count", &labels).set(used);
        }
        if before == now {
            return;
        }
        let is_used = closed.get(now).copied().unwrap_or_default();
        let why = match now < before {
            true if is_used => format!("{to} is well again"),
            true => format!(
                "none of them takes batches, {to}'s spill does ({})",
                how(now)
            ),
            false => how(before),
        };
        let at_ms = now_ms();
        let mut told = self.told();
        tracing::warn!(
            topic = self.topic,
            from = %from,
            to = %to,
            used_from_ms = told.since_ms,
            used_until_ms = at_ms,
            why,
            "new batches go to another destination from now on"
        );
        let labels = [
            ("topic", self.topic.clone()),
            ("destination", to.to_string()),
        ];
        metrics::counter!("tributary_bus_route_switches_total", &labels).increment(1);
        told.why.clone_from(&why);
        let switched = Switched {
            topic: self.topic.clone(),
            at_ms,
            from: from.clone(),
            used_from_ms: std::mem::replace(&mut told.since_ms, at_ms),
            to: to.clone(),
            why,
        };
        keep(&mut told.switches, switched.clone(), KEEP);
        keep(&mut told.untold, switched, KEEP_UNTOLD);
        self.using.store(now, Ordering::Relaxed);
    }

    /// The changes that nobody was told yet.
    pub(crate) fn take_untold(&self) -> Vec<Switched> {
        self.told().untold.drain(..).collect()
    }

    /// For `/status`.
    pub(crate) fn status(&self) -> Value {
        let told = self.told();
        json!({
            "topic": self.topic,
            "destinations": self.names,
            "uses": self.names.get(self.using()),
            "since_ms": told.since_ms,
            "why": told.why,
            "switches": told.switches,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_well_is_used_and_the_primary_when_none_is() {
        let check = |closed: &[bool], want: usize| assert_eq!(choose(closed), want, "{closed:?}");
        check(&[true, true, true], 0);
        check(&[false, true, true], 1);
        check(&[false, false, true], 2);
        check(&[true, false, true], 0);
        check(&[false, false, false], 0);
        check(&[], 0);
    }

    #[test]
    fn every_change_is_told_with_its_time_and_reason() {
        let names = ["a", "b"].map(|name| Name::new(name).unwrap());
        let switch = Switch::new("web.*", names.to_vec());
        let how = |no: usize| format!("reason {no}");
        let check = |closed: [bool; 2], uses: &str, switches: usize, why: &str| {
            switch.decide(&closed, how);
            let page = switch.status();
            assert_eq!(page["uses"], uses, "{page}");
            assert_eq!(
                page["switches"].as_array().unwrap().len(),
                switches,
                "{page}"
            );
            assert_eq!(page["why"], why, "{page}");
        };
        check([true, true], "a", 0, "");
        check([false, true], "b", 1, "reason 0");
        check([false, true], "b", 1, "reason 0");
        check(
            [false, false],
            "a",
            2,
            "none of them takes batches, a's spill does (reason 0)",
        );
        check([false, true], "b", 3, "reason 0");
        check([true, true], "a", 4, "a is well again");
        for _change in 0..KEEP {
            switch.decide(&[false, true], how);
            switch.decide(&[true, true], how);
        }
        check([true, true], "a", KEEP, "a is well again");
    }
}
