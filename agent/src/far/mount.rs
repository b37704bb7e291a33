//! One far file system: the threads that ask it, and whether it answers.
//!
//! Two threads, so that what takes long (a folder of many files) does not stand before what is short.
//! They cannot be waited for at the end, since nothing wakes them while a server hangs: they end with
//! the process. Not for: which file systems are far (see [`super::list`]).

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, unbounded};
use metrics::{counter, gauge};

/// Who asks waits this long at most, once: then the file system is left alone until it answers.
const PATIENCE: Duration = Duration::from_millis(500);
const THREADS: usize = 2;

type Ask = Box<dyn FnOnce() + Send>;

/// A question that was asked, and where its answer comes.
pub(super) type Asked<T> = Receiver<io::Result<T>>;

/// A far file system.
#[derive(Debug)]
pub(super) struct Mount {
    /// The kernel's number of the mount.
    pub(super) id: u64,
    point: PathBuf,
    /// Bounded by those who ask, who wait, and by the files that are closed.
    asks: Sender<Ask>,
    silent: Arc<Silent>,
}

/// Whether it owes an answer for too long.
#[derive(Debug, Default)]
struct Silent {
    is: AtomicBool,
    /// Questions that are not answered.
    owed: AtomicUsize,
}

impl Silent {
    fn is(&self) -> bool {
        self.is.load(Ordering::SeqCst)
    }

    fn asked(&self) {
        self.owed.fetch_add(1, Ordering::SeqCst);
    }

    fn answered(&self, point: &Path) {
        self.owed.fetch_sub(1, Ordering::SeqCst);
        self.ends(point);
    }

    /// Somebody has waited in vain.
    fn begins(&self, point: &Path) {
        if !self.is.swap(true, Ordering::SeqCst) {
            counter!("tributary_agent_far_silences_total").increment(1);
            gauge!("tributary_agent_far_silent_count").increment(1.0);
            tracing::warn!(
                path = %point.display(),
                "a file system does not answer; its files wait until it does, all others go on; \
                 look at its server, or unmount it"
            );
        }
        // The answer came just now: nobody else would say so, since nothing more is asked.
        if self.owed.load(Ordering::SeqCst) == 0 {
            self.ends(point);
        }
    }

    fn ends(&self, point: &Path) {
        if self.is.swap(false, Ordering::SeqCst) {
            gauge!("tributary_agent_far_silent_count").decrement(1.0);
            tracing::info!(path = %point.display(), "a file system answers again");
        }
    }
}

impl Mount {
    /// Starts the threads of the file system that is mounted there.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub(super) fn start(id: u64, point: &Path) -> io::Result<Self> {
        let (asks, asked) = unbounded::<Ask>();
        let silent = Arc::new(Silent::default());
        for _thread in 0..THREADS {
            let (asked, silent, point) = (asked.clone(), Arc::clone(&silent), point.to_owned());
            let serve = move || {
                for ask in asked {
                    ask();
                    silent.answered(&point);
                }
            };
            // Nobody can wait for its end.
            std::thread::Builder::new()
                .name("far".to_owned())
                .spawn(serve)?;
        }
        Ok(Self {
            id,
            point: point.to_owned(),
            asks,
            silent,
        })
    }

    /// Where it is mounted.
    pub(super) fn point(&self) -> &Path {
        &self.point
    }

    /// Whether it owes an answer for too long.
    pub(super) fn is_silent(&self) -> bool {
        self.silent.is()
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What `op` says, or `TimedOut` when there is no answer in time.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        op: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let asked = self.begin(op)?;
        self.wait(&asked).unwrap_or_else(|| Err(self.unanswered()))
    }

    /// Asks.
    ///
    /// # Errors
    /// `TimedOut` when it owes others an answer.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        op: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<Asked<T>> {
        if self.silent.is() {
            return Err(self.unanswered());
        }
        let (tell, asked) = bounded(1);
        // Who does not wait any more gets no answer; what was opened for it is closed over there.
        self.later(move || drop(tell.send(op())));
        Ok(asked)
    }

    /// The answer; `None` when it does not come in time.
    pub(super) fn wait<T>(&self, asked: &Asked<T>) -> Option<io::Result<T>> {
        match asked.try_recv() {
            Ok(answer) => return Some(answer),
            Err(TryRecvError::Empty) if self.silent.is() => return None,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
        }
        match asked.recv_timeout(PATIENCE) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Timeout) => {
                self.silent.begins(&self.point);
                None
            }
            Err(RecvTimeoutError::Disconnected) => Some(Err(io::Error::other(
                "a thread that asks a file system has ended",
            ))),
        }
    }

    /// Has something done there that nobody waits for.
    pub(super) fn later(&self, op: impl FnOnce() + Send + 'static) {
        self.silent.asked();
        // The threads live as long as this.
        drop(self.asks.send(Box::new(op)));
    }

    /// What whoever asks is told meanwhile.
    pub(super) fn unanswered(&self) -> io::Error {
        let point = self.point.display();
        let why = format!("the file system at {point} does not answer");
        io::Error::new(io::ErrorKind::TimedOut, why)
    }
}

impl Drop for Mount {
    /// Nobody asks it any more: it is unmounted.
    fn drop(&mut self) {
        if self.silent.is.swap(false, Ordering::SeqCst) {
            gauge!("tributary_agent_far_silent_count").decrement(1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_waits_once_and_is_told_at_once_until_an_answer_comes() {
        let mount = Mount::start(7, Path::new("/far")).unwrap();
        assert_eq!(mount.ask(|| Ok(1)).unwrap(), 1);
        let (go, gone) = bounded::<()>(0);
        let began = tokio::time::Instant::now();
        let asked = mount
            .begin(move || gone.recv().map_err(io::Error::other))
            .unwrap();
        assert!(mount.wait(&asked).is_none());
        assert!(began.elapsed() >= PATIENCE);
        // The other thread is free, and asks nothing meanwhile.
        let error = mount.ask(|| Ok(2)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(
            error.to_string().contains("/far does not answer"),
            "{error}"
        );
        assert!(mount.wait(&asked).is_none());
        go.send(()).unwrap();
        assert!(asked.recv_timeout(Duration::from_secs(20)).unwrap().is_ok());
        let answers = || mount.ask(|| Ok(3)).is_ok();
        assert!((0..1000).any(|_try| {
            std::thread::yield_now();
            answers() || {
                std::thread::sleep(Duration::from_millis(1));
                false
            }
        }));
    }

    #[test]
    fn an_answer_that_comes_as_the_patience_ends_leaves_no_silence_behind() {
        let mount = Mount::start(7, Path::new("/far")).unwrap();
        assert_eq!(mount.ask(|| Ok(1)).unwrap(), 1);
        while mount.silent.owed.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        mount.silent.begins(&mount.point);
        assert!(!mount.is_silent());
        assert_eq!(mount.ask(|| Ok(2)).unwrap(), 2);
    }

    #[test]
    fn an_answer_that_came_late_is_there_for_who_asks_again() {
        let mount = Mount::start(7, Path::new("/far")).unwrap();
        let (go, gone) = bounded::<()>(0);
        let late = mount
            .begin(move || gone.recv().map_err(io::Error::other))
            .unwrap();
        assert!(mount.wait(&late).is_none());
        go.send(()).unwrap();
        while late.is_empty() {
            std::thread::yield_now();
        }
        assert!(mount.wait(&late).unwrap().is_ok());
    }
}
