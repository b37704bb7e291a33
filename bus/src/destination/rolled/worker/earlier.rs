//! What earlier lives left: files that were begun, the batches in those of them that are complete, and
//! what the journal may forget.
//!
//! Called by the destination's thread. Not for: what is asked of the place for it (see [`super::super::upload`]).

use std::{sync::Arc, time::Duration};

use crossbeam_channel::Sender;
use tokio::time::sleep;
use tributary_common::ids::BatchId;

use super::{
    super::{lock, manifest::Batches, mark::is_mark, names::Names, upload::left_by_earlier_life},
    FORGET_EVERY, Recovered, Worker,
};
use crate::{
    destination::{Job, note_all_and_tell},
    journal::{format::Record, now_minute},
};

/// How often an earlier life's files are tried to be settled.
const RECOVER_EVERY: Duration = Duration::from_secs(1);
/// Files whose end the journal knows are forgotten after so many minutes: by then the manager knows.
const FORGET_MINUTES: u32 = 60;

impl Worker {
    /// Settles the files that an earlier life began.
    pub(super) fn begin_recovery(&mut self, done: Sender<Recovered>) {
        let targets = self.journal.memory().targets_of(self.no);
        let mut left = Vec::new();
        for (no, target) in targets.into_iter().filter(|(_no, target)| target.open) {
            match self.store.path_of(&target.name).and_then(Names::of_path) {
                Some(names) => left.push((no, names)),
                None => {
                    tracing::warn!(destination = %self.name, file = &*target.name, "a file that was begun is at another address than the destination has now; what was to be in it is written here");
                    self.close_target(no);
                }
            }
        }
        if left.is_empty() {
            return;
        }
        let (store, shared, name) = (
            Arc::clone(&self.store),
            Arc::clone(&self.shared),
            self.name.clone(),
        );
        *lock(&shared.recovering) =
            Some("the files that were being written when the node ended are looked for".to_owned());
        let recovery = async move {
            let mut settled = Vec::new();
            for (no, names) in left {
                loop {
                    match left_by_earlier_life(&store, &names).await {
                        Ok(manifest) => break settled.push((no, manifest)),
                        Err(why) => {
                            let before = lock(&shared.recovering).replace(why.clone());
                            if before.as_ref() != Some(&why) {
                                tracing::error!(destination = %name, file = names.path(), "a file of an earlier life is not settled yet: {why}");
                            }
                            sleep(RECOVER_EVERY).await;
                        }
                    }
                }
            }
            // A thread that is gone needs nothing.
            drop(done.send(settled));
        };
        self.tasks.spawn_on(recovery, self.runtime.handle());
    }

    /// The files of an earlier life are settled.
    pub(super) fn recovered(&mut self, files: Vec<(u32, Option<Vec<Batches>>)>) {
        for (no, batches) in files {
            let mut unknown = 0;
            for ((stream, epoch), (start, end)) in batches.into_iter().flatten() {
                let memory = self.journal.memory();
                for seq in start..end {
                    let id = BatchId { stream, epoch, seq };
                    if !memory.done.contains(self.no, id) {
                        self.settled.add(id, no);
                        unknown += 1;
                    }
                }
            }
            if unknown == 0 {
                self.close_target(no);
            } else {
                tracing::info!(destination = %self.name, batches = unknown, "a file was complete when the node ended; its batches are not written again");
            }
        }
        *lock(&self.shared.recovering) = None;
    }

    /// A batch that a file of an earlier life has: only the journal does not know.
    pub(super) fn note_settled(&self, job: Job, file: u32, last: bool) {
        let name = self
            .journal
            .memory()
            .get(file)
            .map(|target| target.name.to_string());
        let place = self.place(&name.unwrap_or_default(), (0, 0));
        // The first one: what follows must not be said before the batch is noted.
        let closed = if last {
            vec![Record::Closed { target: file }]
        } else {
            Vec::new()
        };
        note_all_and_tell(&self.journal, file, job, place, closed);
    }

    /// The journal need not know any more that a file was begun.
    pub(super) fn close_target(&self, no: u32) {
        let closed = vec![Record::Closed { target: no }];
        self.journal.commit(closed, false, Box::new(|_written| {}));
    }

    /// Files that are complete, or gone, for long are forgotten.
    pub(super) fn forget(&self) {
        let now = now_minute();
        let targets = self.journal.memory().targets_of(self.no).into_iter();
        let old = targets.filter(|(_no, target)| {
            let is_old = now.saturating_sub(target.touched) >= FORGET_MINUTES;
            !target.open && is_old && !is_mark(&target.name)
        });
        let records = old.map(|(no, _target)| Record::Forgotten { target: no });
        let records: Vec<Record> = records.collect();
        if !records.is_empty() {
            self.journal.commit(records, false, Box::new(|_written| {}));
        }
        lock(&self.shared.troubles).retain(|folder, trouble| {
            trouble
                .until
                .is_none_or(|until| until.elapsed() < FORGET_EVERY)
                || self.folders.contains_key(folder)
        });
    }
}
