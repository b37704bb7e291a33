//! How much the spills of all destinations take together, and whether there is room for more: bytes on
//! the disk, its free space, batches in memory.
//!
//! Not for: making room (see [`super::loss`]).

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tributary_common::disk;

use crate::config::{SpillLimits, WhenFull};

/// A segment that is drained is removed after this: the journal is synced every second.
const REMOVE_AFTER: Duration = Duration::from_secs(3);

/// A spill that had no room for a batch says so for this long: the next payload is not read for nothing.
const FULL_FOR: Duration = Duration::from_secs(2);
/// Batches that wait at most, in all spills of the node: each takes some ten bytes of memory.
const MAX_BATCHES: u64 = 2_000_000;

/// What the spills of all destinations may take together.
#[derive(Debug)]
pub(crate) struct Usage {
    dir: PathBuf,
    limits: RwLock<SpillLimits>,
    /// Bytes of one segment.
    pub(super) segment_bytes: u64,
    pub(super) remove_after: Duration,
    used: AtomicU64,
    batches: AtomicU64,
    /// When there was no room for a batch, and why.
    full: Mutex<Option<(Instant, String)>>,
}

impl Usage {
    /// Within the limits, in `dir`.
    pub(crate) fn new(dir: &Path, limits: SpillLimits) -> Self {
        Self {
            dir: dir.to_owned(),
            limits: RwLock::new(limits),
            segment_bytes: 64 << 20,
            remove_after: REMOVE_AFTER,
            used: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            full: Mutex::default(),
        }
    }

    /// As [`Usage::new`], with small segments.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn small(dir: &Path, (max, when_full): (u64, WhenFull), segment_bytes: u64) -> Self {
        let limits = SpillLimits {
            max,
            min_free_percent: 0.0,
            when_full,
        };
        Self {
            segment_bytes,
            remove_after: Duration::from_millis(50),
            ..Self::new(dir, limits)
        }
    }

    fn limits(&self) -> SpillLimits {
        // They are set whole.
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other limits count from now on. What is there stays, also where it is more.
    pub(crate) fn limit(&self, limits: SpillLimits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Bytes on the disk.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes on the disk.
    pub(crate) fn max(&self) -> u64 {
        self.limits().max
    }

    pub(super) fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sub(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn more_batches(&self, count: u64) {
        self.batches.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn fewer_batches(&self, count: u64) {
        self.batches.fetch_sub(count, Ordering::Relaxed);
    }

    fn full(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        // It is set whole.
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There was no room for a batch.
    pub(super) fn was_full(&self, why: &str) {
        *self.full() = Some((Instant::now(), why.to_owned()));
    }

    /// Why no batch is to come now; asked before its payload is read.
    ///
    /// # Errors
    /// Why.
    pub(crate) fn admits(&self) -> Result<(), String> {
        let recently = self.full().clone();
        match recently.filter(|(at, _why)| at.elapsed() < FULL_FOR) {
            Some((_at, why)) => Err(why),
            // Room can be made; the writer tries.
            None if self.when_full() == WhenFull::DropOldest => Ok(()),
            None => self.room().map(drop),
        }
    }

    /// What it does when there is no room.
    pub(super) fn when_full(&self) -> WhenFull {
        self.limits().when_full
    }

    /// How many bytes there is room for.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn room(&self) -> Result<u64, String> {
        let limits = self.limits();
        let left = limits.max.saturating_sub(self.used());
        if left == 0 {
            return Err(format!("the spill is full: it holds {} bytes", limits.max));
        }
        if self.batches.load(Ordering::Relaxed) >= MAX_BATCHES {
            return Err(format!("the spill is full: it holds {MAX_BATCHES} batches"));
        }
        let space = disk::free_space(&self.dir).map_err(|error| error.to_string())?;
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a disk needs no exact bytes"
        )]
        let keep = (space.total as f64 * limits.min_free_percent / 100.0) as u64;
        match space.free.saturating_sub(keep) {
            0 => Err(format!(
                "the spill's disk has {} bytes free; {keep} are left alone",
                space.free
            )),
            free => Ok(left.min(free)),
        }
    }
}
