//! A destination that does what a test tells it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use tributary_common::{
    batch::Decoder,
    ids::{BatchId, Name},
    report::DestinationHealth,
    wire::Place,
};

use super::{Failure, Job, note_and_tell};
use crate::{done::DestinationNo, journal::Journal};

/// What happens to a job.
#[derive(Debug, Clone)]
pub(crate) enum Script {
    /// It is delivered.
    Deliver,
    /// It is kept until [`MemorySink::release`].
    Hold,
    /// It fails.
    Fail(Failure),
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<Script>,
    held: Vec<Job>,
    delivered: Vec<(BatchId, String, Vec<Vec<u8>>)>,
    down: Option<String>,
}

/// The destination; clones share what they have.
#[derive(Debug, Clone)]
pub(crate) struct MemorySink {
    name: Name,
    no: DestinationNo,
    journal: Journal,
    state: Arc<Mutex<State>>,
    /// Held by whoever delivers: nothing passes what is being released.
    turn: Arc<Mutex<()>>,
}

impl MemorySink {
    pub(crate) fn new(name: &str, journal: &Journal) -> Self {
        let name = Name::new(name).unwrap();
        let no = journal.memory().destination(&name);
        Self {
            name,
            no,
            journal: journal.clone(),
            state: Arc::default(),
            turn: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The next jobs meet these, one each; then delivery again.
    pub(crate) fn script(&self, steps: impl IntoIterator<Item = Script>) {
        self.lock().script.extend(steps);
    }

    pub(crate) fn set_down(&self, why: Option<&str>) {
        self.lock().down = why.map(str::to_owned);
    }

    /// Delivers what is held.
    pub(crate) fn release(&self) {
        let _turn = self.turn.lock().unwrap();
        let held = std::mem::take(&mut self.lock().held);
        for job in held {
            self.take(job);
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.lock().held.len()
    }

    /// Batches with their targets and record values, in the order of delivery.
    pub(crate) fn delivered(&self) -> Vec<(BatchId, String, Vec<Vec<u8>>)> {
        self.lock().delivered.clone()
    }

    pub(crate) fn no(&self) -> DestinationNo {
        self.no
    }

    pub(crate) fn down(&self) -> Option<String> {
        self.lock().down.clone()
    }

    pub(crate) fn health(&self) -> DestinationHealth {
        let detail = self.down().unwrap_or_default();
        DestinationHealth {
            name: self.name.clone(),
            kind: "memory".to_owned(),
            state: if detail.is_empty() { "up" } else { "down" }.to_owned(),
            detail,
            dead: None,
        }
    }

    pub(crate) fn close(&self) {
        self.lock().held.clear();
    }

    pub(crate) fn deliver(&self, job: Job) {
        let _turn = self.turn.lock().unwrap();
        let step = self.lock().script.pop_front().unwrap_or(Script::Deliver);
        let of = |job: &Job| job.batch.header.stream;
        match step {
            // Behind one that is held, in the order of its stream.
            Script::Deliver if self.lock().held.iter().any(|held| of(held) == of(&job)) => {
                self.lock().held.push(job);
            }
            Script::Deliver => self.take(job),
            Script::Hold => self.lock().held.push(job),
            Script::Fail(failure) => job.done.tell(Err(failure)),
        }
    }

    fn take(&self, job: Job) {
        let decoded = match job.batch.open(&mut Decoder::new()) {
            Ok(decoded) => decoded,
            Err(failure) => return job.done.tell(Err(failure)),
        };
        let values = decoded
            .records()
            .map(|record| record.value.to_vec())
            .collect();
        let target = self.journal.memory().target(self.no, &job.target);
        let first = {
            let mut state = self.lock();
            state
                .delivered
                .push((job.batch.header.id(), job.target.clone(), values));
            i64::try_from(state.delivered.len()).unwrap()
        };
        let place = Place {
            destination: self.name.clone(),
            target: job.target.clone(),
            partition: 0,
            first,
            end: first + 1,
        };
        note_and_tell(&self.journal, target, job, place);
    }
}
