//! The agent's durable record of cuts, ends and offsets.
//!
//! A cut is written before its batch is first sent, so a killed agent finds it again, reads the same
//! bytes and sends them under the same identity. Writing is not syncing: a timer syncs once a second,
//! so that no host's disk suffers; a power cut may therefore send that second again, under other
//! cuts.
//!
//! One `Checkpoint` is shared by reader (cuts), sender (ends) and reporter (what was told). Only cuts
//! wait for the disk; the rest is noted and written along. The keeper runs on a thread of its own.
//!
//! Not for: reading logs. `tributary inspect` calls [`is_checkpoint`] and [`inspect()`].

mod inspect;
mod ledger;
mod log;
mod names;
mod record;
#[doc(hidden)]
pub mod rehearsal;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod v1;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tributary_common::{
    disk,
    ids::{Epoch, TaskId},
};

pub(crate) use self::{
    inspect::last_state,
    ledger::Series,
    log::Recovery,
    record::{Account, Cut, End, FileEnd, GenerationRecord, Joint, MadeBy, Record, Told},
    state::State,
    stream::StreamState,
};
pub use self::{
    inspect::{Summary, decode, inspect, is_checkpoint},
    log::OpenError,
    record::FormatError,
};
use crate::recipe::Recipe;

/// How often what was only noted is written.
const WRITE_EVERY: Duration = Duration::from_millis(200);
/// How often what was written is made durable, in writes: once a second.
const SYNC_EVERY_WRITES: u32 = 5;
/// How often generations that ended long ago are forgotten, in writes: every ten minutes.
const FORGET_EVERY_WRITES: u32 = 3000;
/// A disk that stays full is complained about this often, in writes: twice a minute.
const COMPLAIN_EVERY_WRITES: u32 = 150;

/// The folder below a state directory.
pub(crate) const FOLDER: &str = "checkpoint";

/// The file, and what is to be appended to it.
#[derive(Debug)]
struct OnDisk {
    log: log::Log,
    /// Something was appended since the last sync.
    unsynced: bool,
}

/// What of an earlier life could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Lost {
    damaged_files: usize,
    everything: bool,
}

/// The state, and what happened to it that no file has yet.
#[derive(Debug)]
struct InMemory {
    state: State,
    unwritten: Vec<Record>,
}

/// The open checkpoint of this process.
///
/// Two locks, taken in this order: the disk may be slow, and who only looks or notes does not wait
/// for it.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    disk: Mutex<OnDisk>,
    memory: Mutex<InMemory>,
    lost: Lost,
}

/// Nothing that panics runs under a lock, and a half-applied record does not exist.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl InMemory {
    fn apply(&mut self, record: Record) {
        let applied = self.state.apply(record);
        debug_assert!(
            applied.is_ok(),
            "what happens does not contradict what happened"
        );
    }
}

impl OnDisk {
    /// Appends. When the disk refuses, the keeper goes on trying: no reason to stop collecting.
    fn append(&mut self, records: &[Record]) {
        if let Err(error) = self.log.append(records) {
            metrics::counter!("tributary_agent_checkpoint_failures_total").increment(1);
            tracing::error!(
                error = error.to_string(),
                "the checkpoint cannot be written; collecting goes on, a restart now would send \
                 lines again"
            );
        }
        self.unsynced = true;
    }
}

impl Checkpoint {
    /// Recovers what is there and begins a new life, whose epoch is `now_ms` or greater.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed.
    pub(crate) fn open(
        state_dir: &Path,
        keep_accounts: bool,
        now_ms: u64,
    ) -> Result<(Self, Recovery), OpenError> {
        let dir = state_dir.join(FOLDER);
        disk::create_dir_all(&dir)?;
        let (mut state, number, recovery) = log::recover(&dir, keep_accounts)?;
        state.forget_ended(now_ms);
        state.epoch = Epoch(now_ms.max(state.epoch.0.saturating_add(1)));
        // The new file holds the epoch durably before any batch carries it.
        let log = log::Log::start(&dir, number + 1, &state)?;
        if !log.is_broken() {
            log::set_aside(&recovery.damaged);
            log::remove_old(&dir);
        }
        let lost = Lost {
            damaged_files: recovery.damaged.len(),
            everything: recovery.all_lost,
        };
        let disk = Mutex::new(OnDisk {
            log,
            unsynced: false,
        });
        let memory = Mutex::new(InMemory {
            state,
            unwritten: Vec::new(),
        });
        Ok((Self { disk, memory, lost }, recovery))
    }

    /// Writes what happened, with what was noted before, and takes it in. It has left the process
    /// when this returns. For plain threads: the disk may be slow.
    pub(crate) fn write(&self, records: Vec<Record>) {
        let mut disk = lock(&self.disk);
        let mut all = std::mem::take(&mut lock(&self.memory).unwritten);
        let new = all.len();
        all.extend(records);
        disk.append(&all);
        let mut memory = lock(&self.memory);
        all.into_iter()
            .skip(new)
            .for_each(|record| memory.apply(record));
    }

    /// Takes in what happened, to be written with what comes next, or by the keeper soon. For what
    /// does no harm when a kill forgets it: ends (the batch is sent again, as the same), what was
    /// told (it is told again), and cuts, which their reader writes before it gives their batches away.
    /// Never waits for the disk.
    pub(crate) fn note(&self, records: Vec<Record>) {
        let mut memory = lock(&self.memory);
        memory.unwritten.extend(records.iter().cloned());
        records.into_iter().for_each(|record| memory.apply(record));
    }

    /// Takes in the recipes of today and gives their numbers, for cuts to name. Only the thread that
    /// cuts may call it: what no cut names and is not of today is forgotten.
    pub(crate) fn adopt_recipes(&self, today: &[&Recipe]) -> Vec<u32> {
        let (numbers, new) = self.read(|state| state.number_recipes(today));
        self.write(new);
        lock(&self.memory).state.forget_recipes(&numbers);
        numbers
    }

    /// A batch was given to a connection: for the accounts only, nothing is written.
    pub(crate) fn sent(&self, batch: tributary_common::ids::BatchId) {
        lock(&self.memory).state.ledger.sent(batch);
    }

    /// Looks at the state; `look` must be quick.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&lock(&self.memory).state)
    }

    /// Whether the disk takes records.
    pub(crate) fn is_healthy(&self) -> bool {
        !lock(&self.disk).log.is_broken()
    }

    /// Whether a task's files were looked for before, as far as anybody can know: when everything
    /// was lost they count as known, so that `start = "end"` skips nothing that was not sent.
    pub(crate) fn knows_task(&self, task: &TaskId) -> bool {
        self.lost.everything || self.read(|state| state.tasks.contains(task))
    }

    /// Takes in that tasks have other names, old name first: see [`State::renamed`].
    pub(crate) fn rename(&self, renamed: Vec<(TaskId, TaskId)>) {
        for (from, to) in renamed {
            tracing::info!(%from, %to, "a task has another name and goes on where it was");
            self.write(vec![Record::Renamed { from, to }]);
        }
    }

    /// By what the streams of a task are numbered.
    pub(crate) fn seed_of(&self, task: &TaskId) -> Arc<str> {
        if let Some(seed) = self.read(|state| state.names.free_seed(task)) {
            let task = task.clone();
            self.write(vec![Record::Seed { task, seed }]);
        }
        self.read(|state| state.names.seed_of(task).into())
    }

    /// Files of earlier lives that were found damaged at the start.
    pub(crate) fn damaged_files(&self) -> usize {
        self.lost.damaged_files
    }

    /// Writes what was noted soon, makes all durable once a second, and begins new files, until
    /// `stop`. Then once more.
    ///
    /// # Errors
    /// None: a disk that fails is tried again.
    pub(crate) fn keep(
        &self,
        keep_removed_ms: u64,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut round = 0_u32;
        while !wait(stop, WRITE_EVERY) {
            round = round.wrapping_add(1);
            if !lock(&self.memory).unwritten.is_empty() {
                self.write(Vec::new());
            }
            if !round.is_multiple_of(SYNC_EVERY_WRITES) {
                continue;
            }
            if round.is_multiple_of(FORGET_EVERY_WRITES) {
                let now_ms = crate::clock::now_ms();
                let mut memory = lock(&self.memory);
                memory.state.forget_ended(now_ms);
                let before_ms = now_ms.saturating_sub(keep_removed_ms);
                memory.state.forget_removed(before_ms);
            }
            self.sync(round.is_multiple_of(COMPLAIN_EVERY_WRITES));
        }
        self.sync(true);
        Ok(())
    }

    /// Makes all that was written and noted durable, and begins the next file when it is time.
    pub(crate) fn sync(&self, complain: bool) {
        if let Some(next) = self.sync_file() {
            self.go_over(next, complain);
        }
    }

    /// Makes all durable that was written and noted; the next file when it is time for it.
    fn sync_file(&self) -> Option<log::NextFile> {
        let (syncer, next) = {
            let mut disk = lock(&self.disk);
            let mut memory = lock(&self.memory);
            let unwritten = std::mem::take(&mut memory.unwritten);
            if !unwritten.is_empty() {
                disk.append(&unwritten);
            }
            if disk.log.is_gone() && !disk.log.is_broken() {
                tracing::error!("the checkpoint's file was removed; it is written anew, whole");
                disk.log.give_up();
            }
            let unsynced = std::mem::take(&mut disk.unsynced) && !disk.log.is_broken();
            let syncer = unsynced.then(|| disk.log.syncer());
            metrics::gauge!("tributary_agent_checkpoint_bytes").set(as_gauge(disk.log.len()));
            let is_due = disk.log.is_due();
            (syncer, is_due.then(|| disk.log.begin_next(&memory.state)))
        };
        // No lock is held while the disk works.
        let synced = syncer.map(|syncer| syncer?.map_or(Ok(()), |syncer| syncer.sync()));
        if let Some(Err(error)) = synced {
            tracing::error!(error = error.to_string(), "the checkpoint cannot be synced");
            lock(&self.disk).log.give_up();
        }
        next
    }

    /// Writes the next file and goes over to it.
    fn go_over(&self, next: log::NextFile, complain: bool) {
        let staged = next.stage();
        let (switched, dir) = {
            let mut disk = lock(&self.disk);
            let was_broken = disk.log.is_broken();
            let switched = staged.and_then(|staged| disk.log.switch(staged));
            if was_broken && switched.is_ok() {
                tracing::info!("the checkpoint is written again, whole");
            }
            if switched.is_err() {
                disk.log.abandon_next();
            }
            // What was added at the switch is not durable yet.
            disk.unsynced = true;
            (switched, disk.log.dir().to_owned())
        };
        // Its name first: until it is durable, the files before it are what a power cut leaves.
        let result = switched.and_then(|()| {
            disk::sync_dir(&dir).inspect_err(|_| lock(&self.disk).log.give_up())?;
            log::remove_old(&dir);
            Ok(())
        });
        if let Err(error) = result {
            metrics::counter!("tributary_agent_checkpoint_failures_total").increment(1);
            if complain {
                tracing::error!(
                    error = error.to_string(),
                    "the checkpoint still cannot be written; give its disk room"
                );
            }
        }
    }
}

/// Waits on a plain thread; true when it is time to stop.
pub(crate) fn wait(stop: &CancellationToken, time: Duration) -> bool {
    let sleep = stop.run_until_cancelled(tokio::time::sleep(time));
    tokio::runtime::Handle::current().block_on(sleep).is_none()
}

/// A number of bytes for a gauge.
pub(crate) fn as_gauge(value: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a gauge is read by people and graphs"
    )]
    let value = value as f64;
    value
}
