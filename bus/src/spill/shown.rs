//! What a spill says of itself.

use std::sync::{
    PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::{
    lane::Spill,
    queue::{Backlog, Mode},
};

impl Spill {
    /// How much waits on the disk.
    pub(crate) fn backlog(&self) -> Backlog {
        self.lock().backlog()
    }

    /// Whether nothing, something, or everything spills: the worst of the targets.
    pub(crate) fn mode(&self) -> Mode {
        let queue = self.lock();
        let kept = queue.modes().filter(|&(_target, mode, kept)| {
            mode != Mode::Direct && (kept > 0 || mode == Mode::Spilling)
        });
        let worst = kept.map(|(_target, mode, _kept)| mode);
        worst
            .min_by_key(|mode| u8::from(*mode != Mode::Spilling))
            .unwrap_or(Mode::Direct)
    }

    /// Bytes on the disk of all spills, and the most of that.
    pub(crate) fn disk_bytes(&self) -> (u64, u64) {
        (self.store.usage().used(), self.store.usage().max())
    }

    /// How it is, for `/status`.
    pub(crate) fn status(&self) -> serde_json::Value {
        let (backlog, mode) = (self.backlog(), self.mode());
        let progress = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = |count: &AtomicU64| count.load(Ordering::Relaxed);
        serde_json::json!({
            "destination": self.name,
            "state": mode.as_str(),
            "batches": backlog.batches,
            "bytes": backlog.bytes,
            "stuck_streams": backlog.stuck_streams,
            "spilled_batches": passed(&self.passed.spilled_batches),
            "drained_batches": passed(&self.passed.drained_batches),
            "lost_batches": passed(&self.passed.lost_batches),
            "drain": progress,
        })
    }

    /// Batches that left the disk for the destination, in this life.
    pub(crate) fn drained_batches(&self) -> u64 {
        self.passed.drained_batches.load(Ordering::Relaxed)
    }
}
