//! Nothing is kept: what comes is checked, counted and gone.
//!
//! For topics that nobody wants, and to see what a bus takes in without anything behind it. It answers
//! from the thread that gives the batch, once the journal has noted it, so a repeat is known here as it
//! is elsewhere. Not for: losing anything by accident; a route has to name it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tributary_common::{ids::Name, report::DestinationHealth, wire::Place};

use super::{Job, note_and_tell};
use crate::{done::DestinationNo, journal::Journal};

/// The destination.
#[derive(Debug)]
pub(crate) struct Discard {
    name: Name,
    no: DestinationNo,
    journal: Journal,
    /// How many records of each target there were, over all lives; receipts number them.
    counts: Mutex<HashMap<u32, i64>>,
}

impl Discard {
    pub(crate) fn new(name: &Name, journal: &Journal) -> Self {
        Self {
            name: name.clone(),
            no: journal.memory().destination(name),
            journal: journal.clone(),
            counts: Mutex::default(),
        }
    }

    pub(crate) fn no(&self) -> DestinationNo {
        self.no
    }

    pub(crate) fn deliver(&self, job: Job) {
        if let Err(failure) = job.batch.seal() {
            return job.done.tell(Err(failure));
        }
        let (target, first, end) = self.count(&job.target, job.batch.header.records);
        let place = Place {
            destination: self.name.clone(),
            target: job.target.clone(),
            partition: 0,
            first,
            end,
        };
        note_and_tell(&self.journal, target, job, place);
    }

    /// The target's number, and the range of the next records there.
    fn count(&self, target: &str, records: u32) -> (u32, i64, i64) {
        let (no, known) = {
            let mut memory = self.journal.memory();
            let no = memory.target(self.no, target);
            let position = memory.get(no).and_then(|known| known.positions.get(&0));
            (no, position.map_or(0, |position| position.end))
        };
        // Its one line changes it whole.
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let next = counts.entry(no).or_insert(known);
        let first = *next;
        *next += i64::from(records);
        (no, first, *next)
    }

    pub(crate) fn health(&self) -> DestinationHealth {
        DestinationHealth {
            name: self.name.clone(),
            kind: "discard".to_owned(),
            state: "up".to_owned(),
            detail: String::new(),
            dead: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        time::Duration,
    };

    use tempfile::TempDir;
    use tributary_common::{ids::Name, wire::RefuseReason};

    use super::*;
    use crate::{
        destination::{Accepted, Done, Failure, Outcome},
        testing::{accepted, batch},
    };

    fn give(sink: &Discard, batch: Arc<Accepted>) -> Outcome {
        let (told, outcome) = mpsc::channel();
        let done = Done::new(move |outcome| told.send(outcome).unwrap_or_default());
        sink.deliver(Job {
            batch,
            target: "noise".to_owned(),
            done,
            replay: None,
        });
        outcome.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    #[tokio::test]
    async fn what_is_thrown_away_is_numbered_over_all_lives_and_known_when_it_comes_again() {
        let dir = TempDir::new().unwrap();
        let name = Name::new("nowhere").unwrap();
        for (life, ranges) in [[(0, 2), (2, 3)], [(3, 5), (5, 6)]].into_iter().enumerate() {
            let (journal, owner, _opened) = Journal::open(dir.path(), false).unwrap();
            let sink = Discard::new(&name, &journal);
            for (seq, (lines, range)) in
                (1..).zip([["a", "b"].as_slice(), &["c"]].iter().zip(ranges))
            {
                let batch = accepted(batch("noise", life as u64, seq, lines)).await;
                let id = batch.header.id();
                let place = give(&sink, batch).unwrap();
                assert_eq!((place.first, place.end), range);
                assert_eq!(
                    (place.target.as_str(), place.destination),
                    ("noise", name.clone())
                );
                assert!(journal.memory().done.contains(sink.no(), id));
            }
            owner.close();
        }
    }

    #[tokio::test]
    async fn what_is_not_as_its_header_says_is_not_counted() {
        let dir = TempDir::new().unwrap();
        let (journal, owner, _opened) = Journal::open(dir.path(), false).unwrap();
        let sink = Discard::new(&Name::new("nowhere").unwrap(), &journal);
        let (mut header, payload) = batch("noise", 1, 1, &["a", "b"]);
        header.records = 3;
        let wrong = give(&sink, accepted((header, payload)).await).unwrap_err();
        assert!(
            matches!(&wrong, Failure::Rejected(RefuseReason::Corrupt, why) if why.contains("another number of records")),
            "{wrong:?}"
        );
        let right = accepted(batch("noise", 1, 1, &["a"])).await;
        assert_eq!(give(&sink, right).unwrap().first, 0);
        owner.close();
    }
}
