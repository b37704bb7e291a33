//! By what tasks are known: where each looks, and the name by which its streams are numbered.
//!
//! A stream's number comes from the name of its task and stays for ever; a task may get another name. So
//! the first name goes on numbering, and a new task that takes that name is numbered by another.
//!
//! Not for: which tasks were renamed (see [`super::state::State::renamed`]). Pure.

use std::collections::BTreeMap;

use tributary_common::ids::TaskId;

use super::record::Record;

/// What tasks are known by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Names {
    /// A hash of the patterns of each.
    looks: BTreeMap<TaskId, u64>,
    /// What those are numbered by that are not numbered by their own name.
    seeds: BTreeMap<TaskId, String>,
}

impl Names {
    /// Where a task looks; nobody knows of one that only an older version knew.
    pub(super) fn looks_of(&self, task: &TaskId) -> Option<u64> {
        self.looks.get(task).copied()
    }

    pub(super) fn look(&mut self, task: TaskId, looks: u64) {
        self.looks.insert(task, looks);
    }

    pub(super) fn number_by(&mut self, task: TaskId, seed: String) {
        self.seeds.insert(task, seed);
    }

    pub(super) fn rename(&mut self, from: &TaskId, to: &TaskId) {
        let seed = self.seed_of(from).to_owned();
        self.seeds.remove(from);
        self.seeds.insert(to.clone(), seed);
        if let Some(looks) = self.looks.remove(from) {
            self.looks.insert(to.clone(), looks);
        }
    }

    pub(super) fn forget(&mut self, task: &TaskId) {
        self.looks.remove(task);
        self.seeds.remove(task);
    }

    /// By what the streams of a task are numbered.
    pub(crate) fn seed_of<'a>(&'a self, task: &'a TaskId) -> &'a str {
        self.seeds.get(task).map_or(task.as_str(), String::as_str)
    }

    /// By what a task has to be numbered whose own name numbers another one.
    pub(super) fn free_seed(&self, task: &TaskId) -> Option<String> {
        let is_taken = |seed: &str| self.seeds.values().any(|taken| taken == seed);
        if self.seeds.contains_key(task) || !is_taken(task.as_str()) {
            return None;
        }
        // A space is in no task's name.
        let mut others = (2..).map(|no| format!("{task} {no}"));
        others.find(|seed| !is_taken(seed))
    }

    /// The records that make them anew.
    pub(super) fn snapshot(&self, out: &mut dyn FnMut(&Record)) {
        for (task, &looks) in &self.looks {
            let task = task.clone();
            out(&Record::Looks { task, looks });
        }
        for (task, seed) in &self.seeds {
            let (task, seed) = (task.clone(), seed.clone());
            out(&Record::Seed { task, seed });
        }
    }
}
