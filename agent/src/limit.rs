//! Ceilings: bytes per second as a token bucket, bytes in memory as permits.
//!
//! A permit is taken before a batch is read and lives as long as its bytes do: in the window, until
//! the bus has acknowledged them. So memory has one bound, whatever the bus does. Who may have how
//! much of it says [`Pool`].
//!
//! Not for: order of service (see [`crate::turns`]). Reader and sender call it.

mod brake;
mod bucket;
mod cpu;
mod pool;
mod throttled;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tributary_common::ids::{Class, Topic};

pub(crate) use self::{
    brake::{AtStop, Brake, Restraint},
    bucket::Bucket,
    cpu::Allowed,
    throttled::{Reason, Throttled},
};
use self::{
    cpu::{Cpu, used as cpu_used},
    pool::Pool,
};

/// What an in-flight batch takes beside its payload, in bytes: header, tables, permit.
pub(crate) const BATCH_OVERHEAD_BYTES: u64 = 1024;
/// The part of the memory that is for batches in flight; the rest is the program's own.
const BATCH_PART: u64 = 2;

/// Plain data: it is whole even when a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All memory for batches in flight. One thread takes, everybody gives back.
pub(crate) struct Budget {
    pool: Mutex<Pool>,
    shares: Mutex<HashMap<(Class, Topic), Weak<Share>>>,
    /// The taker found nothing and wants to be woken.
    waiting: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budget")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl Budget {
    /// The budget of an agent that may use `memory` bytes in all. `wake` is as in [`Self::new`].
    pub(crate) fn of(memory: u64, wake: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Self::new(memory / BATCH_PART, wake)
    }

    /// A budget of `limit` bytes. `wake` is called when bytes came back after a refusal; it must
    /// not block.
    pub(crate) fn new(limit: u64, wake: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            pool: Mutex::new(Pool::new(limit)),
            shares: Mutex::default(),
            waiting: AtomicBool::new(false),
            wake: Box::new(wake),
        })
    }

    /// The share of a topic in a class; all its tasks have the same one.
    pub(crate) fn share(self: &Arc<Self>, topic: &Topic, class: Class) -> Arc<Share> {
        let mut shares = lock(&self.shares);
        shares.retain(|_, share| share.strong_count() > 0);
        let known = shares.entry((class, topic.clone())).or_default();
        if let Some(share) = known.upgrade() {
            return share;
        }
        let share = Arc::new(Share {
            id: lock(&self.pool).add(class),
            budget: Arc::clone(self),
        });
        *known = Arc::downgrade(&share);
        share
    }

    /// The agent may use `memory` bytes in all from now on. What is in use beyond that comes back as
    /// it is acknowledged.
    pub(crate) fn keep_to(&self, memory: u64) {
        lock(&self.pool).resize(memory / BATCH_PART);
        self.wake();
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> u64 {
        lock(&self.pool).used()
    }

    /// Bytes in use by a class.
    pub(crate) fn used_by(&self, class: Class) -> u64 {
        lock(&self.pool).used_by(class)
    }

    /// The bound in bytes.
    pub(crate) fn limit(&self) -> u64 {
        lock(&self.pool).limit()
    }

    /// Wakes the taker when it waits: something else than memory held it back.
    fn wake(&self) {
        if self.waiting.swap(false, Ordering::AcqRel) {
            (self.wake)();
        }
    }
}

/// One topic's part of the memory, in one class. It ends when nobody has it or bytes of it.
#[derive(Debug)]
pub(crate) struct Share {
    id: usize,
    budget: Arc<Budget>,
}

impl Share {
    /// Takes `most` bytes for a batch, or as many as there are, but not fewer than `least`; `None`
    /// when there is no room, and the taker will be woken.
    pub(crate) fn take(self: &Arc<Self>, least: u64, most: u64) -> Option<Permit> {
        // Set before looking, so that what comes back meanwhile is not missed.
        let waited = self.budget.waiting.swap(true, Ordering::AcqRel);
        let bytes = lock(&self.budget.pool).take(self.id, least, most)?;
        // Who was refused before this one waits on, and nobody else may ask again.
        if !waited {
            self.budget.waiting.store(false, Ordering::Release);
        }
        Some(Permit {
            share: Arc::clone(self),
            bytes,
            kept: false,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        lock(&self.budget.pool).remove(self.id);
        self.budget.wake();
    }
}

/// The right to hold bytes. Travels with them, gives them back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    share: Arc<Share>,
    bytes: u64,
    /// Something is held under it. One that its taker gives back at once wakes nobody: there is no
    /// more memory than before, and two that wake each other so never rest.
    kept: bool,
}

impl Permit {
    /// How many bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps `bytes` and gives back what is beyond.
    pub(crate) fn keep(&mut self, bytes: u64) {
        self.kept = true;
        self.give_back(self.bytes.saturating_sub(bytes));
    }

    /// The bus could not take the batch: its topic stands still.
    pub(crate) fn stands_still(&self) {
        lock(&self.share.budget.pool).hold(self.share.id, true);
    }

    /// The bus acknowledged the batch: its topic flows.
    pub(crate) fn flows(&self) {
        let mut pool = lock(&self.share.budget.pool);
        pool.earn(self.share.id, self.bytes);
        let again = pool.hold(self.share.id, false);
        drop(pool);
        if again {
            self.share.budget.wake();
        }
    }

    fn give_back(&mut self, bytes: u64) {
        self.bytes -= bytes;
        lock(&self.share.budget.pool).give_back(self.share.id, bytes);
        if bytes > 0 && self.kept {
            self.share.budget.wake();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    #[test]
    fn memory_has_one_bound_and_a_waiter_is_woken_once() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let budget = Budget::new(100, move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let share = budget.share(&topic("x"), Class::P2);
        let mut first = share.take(50, 50).unwrap();
        assert!(share.take(10, 60).is_none());
        first.keep(30);
        first.keep(20);
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        let second = share.take(1, 60).unwrap();
        assert_eq!(second.bytes(), 30, "half is promised, and nothing earned");
        assert_eq!((budget.used(), budget.used_by(Class::P2)), (50, 50));
        drop((first, second));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn who_was_refused_is_woken_although_somebody_else_got_memory_since() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let budget = Budget::new(100, move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let share = budget.share(&topic("x"), Class::P2);
        let mut first = share.take(40, 40).unwrap();
        first.keep(40);
        assert!(share.take(20, 20).is_none());
        let mut second = share.take(10, 10).unwrap();
        second.keep(10);
        drop(first);
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        drop(second);
        assert_eq!(woken.load(Ordering::Relaxed), 1, "nobody waits any more");
    }

    #[test]
    fn memory_that_its_taker_has_no_use_for_wakes_nobody() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let budget = Budget::new(100, move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let share = budget.share(&topic("x"), Class::P2);
        let mut first = share.take(40, 40).unwrap();
        first.keep(40);
        assert!(share.take(20, 20).is_none());
        drop(share.take(10, 10).unwrap());
        assert_eq!(woken.load(Ordering::Relaxed), 0);
        drop(first);
        assert_eq!(woken.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn tasks_of_a_topic_and_class_have_one_share_that_ends_with_its_last_byte() {
        let budget = Budget::new(1000, || {});
        let share = budget.share(&topic("x"), Class::P2);
        assert!(Arc::ptr_eq(&share, &budget.share(&topic("x"), Class::P2)));
        assert!(!Arc::ptr_eq(&share, &budget.share(&topic("x"), Class::P1)));
        let permit = share.take(1, 10).unwrap();
        drop(share);
        assert_eq!(budget.used_by(Class::P2), 10);
        drop(permit);
        let alone = budget.share(&topic("y"), Class::P0);
        assert_eq!(alone.take(1, 1000).map(|permit| permit.bytes()), Some(500));
    }

    #[test]
    fn a_topic_that_stands_still_reads_on_when_it_flows_again() {
        let budget = Budget::new(100, || {});
        let slow = budget.share(&topic("slow"), Class::P2);
        let kept = slow.take(10, 10).unwrap();
        kept.stands_still();
        assert!(slow.take(1, 1).is_none());
        kept.flows();
        assert!(slow.take(1, 1).is_some());
    }
}
