//! What all live subscribers share: how many there may be, what changed, and the last page per
//! range, so that a hundred open consoles cost one query a second.
//!
//! Not for: what the events look like (see [`crate::api::live`]).

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, Semaphore},
    time::Instant,
};

use super::range::Named;

/// The most open live pages: each costs a connection and a copy of the page a second.
pub(crate) const MAX_SUBSCRIBERS: usize = 256;
/// A page is used again for subscribers that ask within this time.
const SHARED_FOR: Duration = Duration::from_millis(900);

/// The shared part of all live subscribers.
#[derive(Debug)]
pub(crate) struct Live {
    /// A permit per subscriber.
    pub(crate) subscribers: Arc<Semaphore>,
    changes: AtomicU64,
    /// The lock is held over the query on purpose: who waits for it gets the same page.
    pages: Mutex<HashMap<Named, (Instant, Arc<str>)>>,
}

impl Live {
    /// Nothing has changed, nobody listens.
    pub(crate) fn new() -> Self {
        Self {
            subscribers: Arc::new(Semaphore::new(MAX_SUBSCRIBERS)),
            changes: AtomicU64::new(0),
            pages: Mutex::new(HashMap::new()),
        }
    }

    /// Says that the ledger has changed.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// How often the ledger has changed.
    pub(crate) fn change(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The page of a range, made by `make` unless a fresh one is there.
    pub(crate) async fn page<E, F: Future<Output = Result<String, E>>>(
        &self,
        range: Named,
        make: impl FnOnce() -> F,
    ) -> Result<Arc<str>, E> {
        let mut pages = self.pages.lock().await;
        if let Some((made, page)) = pages.get(&range)
            && made.elapsed() < SHARED_FOR
        {
            return Ok(Arc::clone(page));
        }
        let page: Arc<str> = make().await?.into();
        pages.insert(range, (Instant::now(), Arc::clone(&page)));
        Ok(page)
    }
}
