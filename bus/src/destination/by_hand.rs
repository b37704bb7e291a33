//! A destination that keeps what it is given until a simulation says what becomes of it.
//!
//! Not for: programs. [`crate::sim`] answers the jobs, by the contract of [`super`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tributary_common::{
    ids::{Name, StreamId},
    report::DestinationHealth,
};

use super::Job;
use crate::{done::DestinationNo, journal::Journal};

#[derive(Debug, Default)]
struct State {
    jobs: Vec<Job>,
    down: bool,
}

/// The destination; clones share what they have.
#[derive(Debug, Clone)]
pub(crate) struct ByHand {
    pub(crate) name: Name,
    no: DestinationNo,
    state: Arc<Mutex<State>>,
}

impl ByHand {
    pub(crate) fn new(name: Name, journal: &Journal) -> Self {
        let no = journal.memory().destination(&name);
        Self {
            name,
            no,
            state: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    /// Jobs that are not answered.
    pub(crate) fn jobs(&self) -> usize {
        self.lock().jobs.len()
    }

    /// The oldest job of the stream of this one.
    pub(crate) fn take(&self, nth: usize) -> Option<Job> {
        let stream = self.lock().jobs.get(nth)?.batch.header.stream;
        self.take_of(stream)
    }

    /// The oldest job of a stream.
    pub(crate) fn take_of(&self, stream: StreamId) -> Option<Job> {
        let jobs = &mut self.lock().jobs;
        let mut streams = jobs.iter().map(|job| job.batch.header.stream);
        let first = streams.position(|of| of == stream)?;
        Some(jobs.remove(first))
    }

    pub(crate) fn no(&self) -> DestinationNo {
        self.no
    }

    pub(crate) fn down(&self) -> Option<String> {
        self.lock().down.then(|| "it is away".to_owned())
    }

    pub(crate) fn health(&self) -> DestinationHealth {
        let detail = self.down().unwrap_or_default();
        DestinationHealth {
            name: self.name.clone(),
            kind: "simulated".to_owned(),
            state: if detail.is_empty() { "up" } else { "down" }.to_owned(),
            detail,
            dead: None,
        }
    }

    pub(crate) fn close(&self) {
        // Dropped without the lock: each says that it is lost.
        let jobs = std::mem::take(&mut self.lock().jobs);
        drop(jobs);
    }

    pub(crate) fn deliver(&self, job: Job) {
        self.lock().jobs.push(job);
    }
}
