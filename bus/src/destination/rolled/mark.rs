//! Which HDFS or disk this is: a small file with an id, which the first node leaves that writes there.
//!
//! A cluster has an id of its own, but tells it to no client of files. Without one a wrong address, or a disk that is not
//! mounted, would spread a topic over two places, and what was complete in one of them would be looked for in the other, not
//! found, and written again. So the file is looked for before a file is begun, named or settled, and read
//! whenever it is another one than before. Where the user may not write the file, or a quota leaves no room for it, the cluster
//! stays unknown. Not for: what follows from an id (see [`super::super::which`]).

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;
use tributary_common::ids::Name;

use super::{
    lock,
    store::{Stamp, Store, is_for_good},
};
use crate::{
    destination::which,
    done::DestinationNo,
    journal::{Journal, format::Record},
    template::Template,
};

/// Its name. Readers of folders pass over names that begin with a dot.
const FILE: &str = ".tributary-cluster";
/// Begins the name of the journal's target that says that a path had the file.
const PREFIX: &str = "=mark:";
/// Where it could not be written, it is tried again after.
const AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct State {
    /// The file that was read last, and said what it should.
    seen: Option<Stamp>,
    /// When it could not be written.
    refused: Option<Instant>,
    /// It does not say what it should.
    other: bool,
}

/// The file, and what is known of it.
#[derive(Debug)]
pub(super) struct Mark {
    name: Name,
    no: DestinationNo,
    journal: Journal,
    path: String,
    state: Mutex<State>,
}

impl Mark {
    /// The mark of a destination: it lies where the paths of its files begin to differ.
    pub(super) fn new(
        (name, no): (&Name, DestinationNo),
        journal: &Journal,
        path: &Template,
    ) -> Self {
        let (folder, _rest) = path.static_prefix().rsplit_once('/').unwrap_or_default();
        Self {
            name: name.clone(),
            no,
            journal: journal.clone(),
            path: format!("{folder}/{FILE}"),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Looks whether this is the place that it was. One that has no mark gets one.
    ///
    /// # Errors
    /// It is another one, or cannot be asked within `limit`.
    pub(super) async fn check(&self, store: &Store, limit: Duration) -> Result<(), String> {
        let Some(stamp) = store.look(&self.path, limit).await? else {
            return self.missing(store, limit).await;
        };
        if self.state().seen == Some(stamp) {
            return Ok(());
        }
        self.read(store, stamp).await
    }

    /// Whether it was another one when it was looked for last.
    pub(super) fn is_other(&self) -> bool {
        self.state().other
    }

    fn other(&self, why: String) -> String {
        let mut state = self.state();
        (state.seen, state.other) = (None, true);
        why
    }

    async fn read(&self, store: &Store, stamp: Stamp) -> Result<(), String> {
        let path = &self.path;
        let bytes = store.get(path).await?;
        let id = id_in(&bytes).ok_or_else(|| {
            self.other(format!(
                "{path} is to say which {} this is, and holds no id: put back what it said, or delete it where \
                 no node has written yet",
                store.noun()
            ))
        })?;
        self.meet(&id)?;
        let mut state = self.state();
        (state.seen, state.other) = (Some(stamp), false);
        Ok(())
    }

    /// The id is noted, and that it was found here.
    fn meet(&self, id: &str) -> Result<(), String> {
        let records = {
            let mut memory = self.journal.memory();
            let cluster = which::same(&mut memory, (&self.name, self.no), id)
                .map_err(|why| self.other(why))?;
            let target = memory.target(self.no, &self.target());
            let here = Record::Position {
                target,
                partition: 0,
                end: 0,
                floor: None,
            };
            vec![cluster, here]
        };
        // Once in a life of the node, and the runtime's other tasks go on meanwhile.
        let written = tokio::task::block_in_place(|| self.journal.commit_and_wait(records));
        written.map_err(|error| format!("the journal cannot be written: {error}"))
    }

    fn target(&self) -> String {
        format!("{PREFIX}{}", self.path)
    }

    /// There is none: one is left, unless there was one.
    async fn missing(&self, store: &Store, limit: Duration) -> Result<(), String> {
        let (path, what) = (&self.path, store.noun());
        let question = match what {
            "HDFS" => "is the address right?",
            _ => "is it mounted?",
        };
        let (known, was_here) = {
            let memory = self.journal.memory();
            let mut targets = memory.targets_of(self.no).into_iter();
            let was_here = targets.any(|(_no, target)| *target.name == *self.target());
            (which::known(&memory, self.no), was_here)
        };
        let id = match known {
            Some(id) if was_here => {
                return Err(self.other(format!(
                    "{path} is not there, which said that this is {what} {id}: {question} If it is, put the file \
                     back ({}); give another {what} another name",
                    store.by_hand(&id, path)
                )));
            }
            Some(id) => id,
            None => format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)),
        };
        let refused = self.state().refused;
        if refused.is_some_and(|at| at.elapsed() < AGAIN) {
            return Ok(());
        }
        match self.leave(store, &id).await {
            Ok(()) => {}
            Err(why) if is_for_good(&why) => {
                if self.state().refused.replace(Instant::now()).is_none() {
                    tracing::warn!(destination = %self.name, "another {what} behind this address could not be told from this one, for {path} cannot be written: {why}");
                }
                return Ok(());
            }
            Err(why) => return Err(why),
        }
        match store.look(path, limit).await? {
            Some(stamp) => self.read(store, stamp).await,
            None => Err(format!("{path} was written, and is not there")),
        }
    }

    /// Leaves the file, whole or not at all; one that another node has left meanwhile stays.
    async fn leave(&self, store: &Store, id: &str) -> Result<(), String> {
        let temporary = format!("{}.{:016x}", self.path, fastrand::u64(..));
        let left = async {
            store
                .put(&temporary, format!("{id}\n").into_bytes())
                .await?;
            store.rename(&temporary, &self.path).await
        };
        let Err(why) = left.await else { return Ok(()) };
        // It is of no use to anybody, also where it stays.
        drop(store.delete(&temporary).await);
        match store.length(&self.path).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) | Err(_) => Err(why),
        }
    }
}

/// Whether a target of the journal says something of a cluster, and is no file.
pub(super) fn is_mark(target: &str) -> bool {
    target.starts_with('=')
}

fn id_in(bytes: &[u8]) -> Option<String> {
    let id = std::str::from_utf8(bytes).ok()?.trim();
    let is_id = (16..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| id.to_owned())
}
