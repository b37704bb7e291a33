//! How much a server is given at once: requests on their way and bytes of one, halved when it says that
//! it is too much, and grown slowly while it takes all (additive increase, multiplicative decrease).
//!
//! Pure but for the waiting. Not for: which node gets a request (see [`super::nodes`]).

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The least bytes of a request that it is cut down to.
const MIN_BYTES: usize = 32 << 10;
/// So many requests in a row without trouble make room for more.
const CALM: u32 = 8;
/// Trouble is told for so long.
const TOLD_FOR: Duration = Duration::from_secs(10);

/// What may be on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    most: (usize, usize),
    requests: usize,
    bytes: usize,
    calm: u32,
    troubled: Option<Instant>,
}

impl Window {
    fn new(requests: usize, bytes: usize) -> Self {
        Self {
            most: (requests, bytes),
            requests,
            bytes,
            calm: 0,
            troubled: None,
        }
    }

    fn slower(&mut self, now: Instant) {
        self.requests = (self.requests / 2).max(1);
        self.bytes = (self.bytes / 2).max(MIN_BYTES.min(self.most.1));
        self.calm = 0;
        self.troubled = Some(now);
    }

    fn calm(&mut self) {
        self.calm += 1;
        if self.calm >= CALM {
            self.calm = 0;
            self.requests = (self.requests + 1).min(self.most.0);
            self.bytes = (self.bytes + self.most.1 / 8).min(self.most.1);
        }
    }
}

/// Shared by all who send to a destination.
#[derive(Debug)]
pub(super) struct Flow {
    window: Mutex<(Window, usize)>,
    freed: Condvar,
}

/// The right to one request; dropped it goes back.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    flow: &'a Flow,
    /// The most bytes of it.
    pub(super) bytes: usize,
}

impl Flow {
    /// At most so many requests of so many bytes.
    pub(super) fn new(requests: usize, bytes: usize) -> Self {
        Self {
            window: Mutex::new((Window::new(requests, bytes), 0)),
            freed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Window, usize)> {
        // Figures; every change is whole.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn, at most so long.
    pub(super) fn turn(&self, limit: Duration) -> Option<Turn<'_>> {
        let full = |(window, used): &mut (Window, usize)| *used >= window.requests;
        let waited = self.freed.wait_timeout_while(self.lock(), limit, full);
        let (mut state, _timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if full(&mut state) {
            return None;
        }
        state.1 += 1;
        let bytes = state.0.bytes;
        drop(state);
        Some(Turn { flow: self, bytes })
    }

    /// The server says that it is too much.
    pub(super) fn slower(&self, now: Instant) {
        self.lock().0.slower(now);
    }

    /// It took all of a request.
    pub(super) fn calm(&self) {
        self.lock().0.calm();
        self.freed.notify_one();
    }

    /// Requests on their way, and how many may be.
    pub(super) fn requests(&self) -> (usize, usize) {
        let state = self.lock();
        (state.1, state.0.requests)
    }

    /// Whether the server said lately that it is too much.
    pub(super) fn is_throttled(&self) -> bool {
        let troubled = self.lock().0.troubled;
        troubled.is_some_and(|at| at.elapsed() < TOLD_FOR)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.flow.lock().1 -= 1;
        self.flow.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_halves_and_calm_grows_slowly() {
        let mut window = Window::new(4, 1 << 20);
        let now = Instant::now();
        window.slower(now);
        assert_eq!((window.requests, window.bytes), (2, 1 << 19));
        for _more in 0..10 {
            window.slower(now);
        }
        assert_eq!((window.requests, window.bytes), (1, MIN_BYTES));
        for _request in 0..CALM {
            window.calm();
        }
        assert_eq!(window.requests, 2);
        for _request in 0..CALM * 20 {
            window.calm();
        }
        assert_eq!((window.requests, window.bytes), (4, 1 << 20));
    }

    #[test]
    fn no_more_are_on_their_way_than_there_are_turns() {
        let flow = Flow::new(2, 1000);
        let short = Duration::from_millis(1);
        let first = flow.turn(short).unwrap();
        let second = flow.turn(short).unwrap();
        assert_eq!(second.bytes, 1000);
        assert!(flow.turn(short).is_none());
        drop(first);
        assert!(flow.turn(short).is_some());
        flow.slower(Instant::now());
        assert!(flow.turn(short).is_none());
        assert_eq!(flow.requests(), (1, 1));
        assert!(flow.is_throttled());
        drop(second);
        assert!(flow.turn(short).is_some());
    }
}
