//! The agent's durable record of cuts, ends and offsets.
//!
//! A cut is written before its batch is first sent, so a killed agent finds it again, reads the same
//! bytes and sends them under the same identity. Writing is not syncing: a timer syncs once a second,
//! so that no host's disk suffers; a power cut may therefore send that second again, under other
//! cuts.
//!
//! One [`Checkpoint`] is shared by reader (cuts), sender (ends) and reporter (what was told); a plain
//! mutex guards it for a few lines at a time. [`Checkpoint::keep`] runs on a thread of its own.
//!
//! Not for: reading logs. `tributary inspect` calls [`is_checkpoint`] and [`inspect()`].

mod inspect;
mod ledger;
mod log;
mod record;
mod state;
#[cfg(test)]
mod tests;

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tributary_common::{disk, ids::Epoch};

pub use self::{
    inspect::{Summary, decode, inspect, is_checkpoint},
    log::OpenError,
    record::FormatError,
};
pub(crate) use self::{
    ledger::Series,
    log::Recovery,
    record::{Account, Cut, End, GenerationRecord, Record, Told},
    state::State,
};

/// How often appended records are made durable.
pub(crate) const SYNC_EVERY: Duration = Duration::from_secs(1);
/// How often generations that ended long ago are forgotten, in syncs.
const FORGET_EVERY_SYNCS: u32 = 600;
/// A disk that stays full is complained about this often, in syncs.
const COMPLAIN_EVERY_SYNCS: u32 = 30;

/// The folder below a state directory.
pub(crate) const FOLDER: &str = "checkpoint";

#[derive(Debug)]
struct Inner {
    state: State,
    log: log::Log,
    /// Something was appended since the last sync.
    unsynced: bool,
}

/// The open checkpoint of this process.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    inner: Mutex<Inner>,
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
        let inner = Mutex::new(Inner {
            state,
            log,
            unsynced: false,
        });
        Ok((Self { inner }, recovery))
    }

    /// Nothing that panics runs under the lock, and a half-applied record does not exist.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what happened and takes it in. When the disk refuses, the state goes on in memory and
    /// the keeper complains: it is no reason to stop collecting.
    pub(crate) fn write(&self, records: Vec<Record>) {
        let mut inner = self.lock();
        if let Err(error) = inner.log.append(&records) {
            metrics::counter!("tributary_agent_checkpoint_failures_total").increment(1);
            tracing::error!(
                error = error.to_string(),
                "the checkpoint cannot be written; collecting goes on, a restart now would send \
                 lines again"
            );
        }
        inner.unsynced = true;
        for record in records {
            let applied = inner.state.apply(record);
            debug_assert!(
                applied.is_ok(),
                "what happens does not contradict what happened"
            );
        }
    }

    /// A batch was given to a connection: for the accounts only, nothing is written.
    pub(crate) fn sent(&self, batch: tributary_common::ids::BatchId) {
        self.lock().state.ledger.sent(batch);
    }

    /// Looks at the state; `look` must be quick.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock().state)
    }

    /// Whether the disk takes records.
    pub(crate) fn is_healthy(&self) -> bool {
        !self.lock().log.is_broken()
    }

    /// Makes records durable once a second, and begins new files, until `stop`. Then once more.
    ///
    /// # Errors
    /// None: a disk that fails is tried again.
    pub(crate) fn keep(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut round = 0_u32;
        while !wait(stop, SYNC_EVERY) {
            round = round.wrapping_add(1);
            if round.is_multiple_of(FORGET_EVERY_SYNCS) {
                self.lock().state.forget_ended(crate::clock::now_ms());
            }
            self.sync(round.is_multiple_of(COMPLAIN_EVERY_SYNCS));
        }
        self.sync(true);
        Ok(())
    }

    /// Makes all that was written durable.
    pub(crate) fn sync(&self, complain: bool) {
        let (syncer, next) = {
            let mut inner = self.lock();
            let unsynced = std::mem::take(&mut inner.unsynced) && !inner.log.is_broken();
            let syncer = if unsynced {
                inner.log.syncer().ok()
            } else {
                None
            };
            let Inner { state, log, .. } = &mut *inner;
            metrics::gauge!("tributary_agent_checkpoint_bytes").set(as_gauge(log.len()));
            (syncer, log.is_due().then(|| log.begin_next(state)))
        };
        // The lock is not held while the disk works.
        if let Some(Err(error)) = syncer.map(|syncer| syncer.sync()) {
            tracing::error!(error = error.to_string(), "the checkpoint cannot be synced");
            self.lock().log.give_up();
        }
        let Some(next) = next else { return };
        let written = next.write();
        let mut inner = self.lock();
        let switched = written.and_then(|()| inner.log.switch(&next));
        if let Err(error) = switched {
            inner.log.abandon_next();
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
