//! The only place that watches children: async tasks and threads of one part, stopped together.
//!
//! Three signals, three meanings: the stop token says "take in nothing new"; a closed channel says
//! "nothing more will come"; a join says "done". The first failure or panic cancels the token, the
//! rest drains, and whoever is not done at the end of the grace is named.
//!
//! Not for: tasks that come and go by the thousand (a session per connection): their owner keeps a
//! `JoinSet` or `TaskTracker`. Called by the `run` of each part.

use std::{any::Any, collections::HashMap, future::Future, panic, thread, time::Duration};

use anyhow::{Context, anyhow};
use tokio::{
    select,
    sync::oneshot,
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// The children of one part.
#[derive(Debug)]
pub struct Supervisor {
    stop: CancellationToken,
    grace: Duration,
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, String>,
}

impl Supervisor {
    /// A supervisor whose children watch `stop`. The first failure cancels `stop`. `grace` is how
    /// long children may take after the stop.
    #[must_use]
    pub fn new(stop: CancellationToken, grace: Duration) -> Self {
        Self {
            stop,
            grace,
            tasks: JoinSet::new(),
            names: HashMap::new(),
        }
    }

    /// The token that children watch.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Starts an async child. It shall end soon after the token is cancelled.
    pub fn spawn<F>(&mut self, name: impl Into<String>, future: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let handle = self.tasks.spawn(future);
        self.names.insert(handle.id(), name.into());
    }

    /// Starts a child on a thread of its own, for blocking work. A thread cannot be aborted: it
    /// shall look at the token between two pieces of work. Inside it, `tokio::runtime::Handle` is
    /// at hand.
    pub fn spawn_blocking<F>(&mut self, name: impl Into<String>, work: F)
    where
        F: FnOnce() -> anyhow::Result<()> + Send + 'static,
    {
        let name = name.into();
        let (done, result) = oneshot::channel();
        let runtime = tokio::runtime::Handle::try_current();
        let thread = thread::Builder::new().name(name.clone()).spawn(move || {
            let _entered = runtime.as_ref().map(tokio::runtime::Handle::enter).ok();
            let outcome = panic::catch_unwind(panic::AssertUnwindSafe(work));
            // Nobody listens any more when the supervisor was dropped; then nobody cares.
            drop(done.send(outcome.unwrap_or_else(|payload| Err(panicked(payload.as_ref())))));
        });
        self.spawn(name, async move {
            thread.context("failed to start a thread")?;
            result.await.context("the thread ended without a result")?
        });
    }

    /// Waits until all children are done.
    ///
    /// # Errors
    /// The first failure, with the child's name; or, when children were not done at the end of the
    /// grace, an error that names them. Async children are aborted then; threads cannot be.
    pub async fn join(mut self) -> anyhow::Result<()> {
        let mut first = Ok(());
        let mut deadline = None;
        loop {
            let done = select! {
                next = self.tasks.join_next_with_id() => match next {
                    Some(done) => done,
                    None => return first,
                },
                () = self.stop.cancelled(), if deadline.is_none() => {
                    deadline = Some(Instant::now() + self.grace);
                    continue;
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.tasks.abort_all();
                    return first.and(Err(self.late()));
                }
            };
            if let Err(error) = self.flatten(done) {
                tracing::debug!(
                    error = format!("{error:#}"),
                    "a child failed; stopping the rest"
                );
                first = first.and(Err(error));
                self.stop.cancel();
            }
        }
    }

    /// Turns what a join gave into a result that names the child.
    fn flatten(&mut self, done: Result<(Id, anyhow::Result<()>), JoinError>) -> anyhow::Result<()> {
        let (id, result) = match done {
            Ok((id, result)) => (id, result),
            Err(error) => {
                let id = error.id();
                let why = match error.try_into_panic() {
                    Ok(payload) => panicked(payload.as_ref()),
                    Err(error) => anyhow!(error),
                };
                (id, Err(why))
            }
        };
        let name = self
            .names
            .remove(&id)
            .unwrap_or_else(|| "unnamed".to_owned());
        result.with_context(|| format!("task {name} failed"))
    }

    /// The error of a grace that is over.
    fn late(&self) -> anyhow::Error {
        let mut late: Vec<_> = self.names.values().map(String::as_str).collect();
        late.sort_unstable();
        anyhow!(
            "failed to stop within {:?}: still busy are {}",
            self.grace,
            late.join(", ")
        )
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Dropped in the middle: tasks are aborted by their set, threads only hear the token.
        if !self.tasks.is_empty() {
            self.stop.cancel();
        }
    }
}

/// An error from what a panic carried.
fn panicked(payload: &(dyn Any + Send)) -> anyhow::Error {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    anyhow!("panicked: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A supervisor with five seconds of grace, its token, and what its join said after `fill`.
    async fn check(fill: impl FnOnce(&mut Supervisor)) -> Result<(), String> {
        let mut supervisor = Supervisor::new(CancellationToken::new(), Duration::from_secs(5));
        fill(&mut supervisor);
        supervisor
            .join()
            .await
            .map_err(|error| format!("{error:#}"))
    }

    #[tokio::test(start_paused = true)]
    async fn all_done_is_done() {
        check(|children| {
            children.spawn("a", async { Ok(()) });
            children.spawn_blocking("b", || Ok(()));
        })
        .await
        .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_failure_stops_the_rest_and_is_told() {
        let error = check(|children| {
            let stop = children.stop().clone();
            children.spawn("patient", async move {
                stop.cancelled().await;
                Err(anyhow!("second"))
            });
            children.spawn("hasty", async { Err(anyhow!("first")) });
        })
        .await
        .unwrap_err();
        assert_eq!(error, "task hasty failed: first");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_an_error_with_the_name_of_the_task() {
        let error = check(|children| children.spawn("a", async { panic!("no {}", 1) })).await;
        assert_eq!(error.unwrap_err(), "task a failed: panicked: no 1");
        let error = check(|children| children.spawn_blocking("b", || panic!("two"))).await;
        assert_eq!(error.unwrap_err(), "task b failed: panicked: two");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_late_is_named() {
        let error = check(|children| {
            children.spawn("deaf", std::future::pending());
            children.spawn("asleep", std::future::pending());
            children.spawn("fine", async { Ok(()) });
            children.stop().cancel();
        })
        .await
        .unwrap_err();
        assert_eq!(
            error,
            "failed to stop within 5s: still busy are asleep, deaf"
        );
    }

    #[tokio::test]
    async fn a_thread_hears_the_token_and_finds_the_runtime() {
        let mut supervisor = Supervisor::new(CancellationToken::new(), Duration::from_secs(60));
        let stop = supervisor.stop().clone();
        supervisor.spawn_blocking("worker", move || {
            tokio::runtime::Handle::current().block_on(stop.cancelled());
            Ok(())
        });
        supervisor.stop().cancel();
        supervisor.join().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_supervisor_tells_its_threads() {
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::new(stop.clone(), Duration::from_secs(5));
        supervisor.spawn("endless", std::future::pending());
        drop(supervisor);
        assert!(stop.is_cancelled());
    }
}
