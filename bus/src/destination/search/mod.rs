//! Elasticsearch and OpenSearch, by their bulk interface.
//!
//! # Constraints
//! A batch is acknowledged when the server has said of every record of it that it has it, or the record
//! is behind a sync in the dead letters. Documents are created under ids that follow from their batch, so
//! a batch that comes again, after a timeout or a kill on either side, doubles nothing: the server
//! says 409, which counts as delivered. With data streams that holds until the stream rolls over.
//! Memory: a request and the batch that it is made of per connection; what waits is compressed, under
//! the permits that it carries.
//!
//! # Operation
//! ```text
//! deliver -> worker of the stream: group of one target -> documents -> requests -> results
//!              '- 429, 5xx: fewer, smaller, later         '- never: dead letter -> journal -> answer
//! watcher: is a cluster that was down back? does it hang?
//! ```
//! A stream has one worker, which takes its batches in order. A target (an index, or the indices of a date
//! pattern) that takes nothing for 3 s, or has a block, is left for a while, and what waits for it fails;
//! others go on. When no node answers for 3 s the destination is down, all that waits fails, and a look
//! finds out when it is back.
//!
//! Rooms: [`document`], [`escape`], [`bulk`], [`flow`], [`nodes`], [`link`], [`worker`], [`watch`], [`template`].

mod bulk;
mod document;
mod escape;
mod flow;
mod link;
mod nodes;
mod template;
#[cfg(test)]
mod tests;
mod watch;
mod worker;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context as _;
use crossbeam_channel::Sender;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tributary_common::{ids::Name, report::DestinationHealth};

pub use self::{document::Document, template::Kind as TemplateKind};
use self::{
    flow::Flow,
    link::{Access, NoAnswer},
    nodes::Nodes,
    watch::Watcher,
    worker::{Work, Worker},
};
use super::{Condition, Failure, Job, which};
use crate::{
    dead::{Filter, Letters},
    done::DestinationNo,
    journal::Journal,
};

/// The most documents of one request: bounds its answer.
const MAX_DOCUMENTS: usize = 5_000;
/// What takes nothing for so long is left for a while.
const PATIENCE: Duration = Duration::from_secs(3);
/// A server that does not answer for so long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(5);
/// How long a target is left that took nothing: at first, at most.
const LEFT_FOR: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Targets that are remembered to take nothing.
const MAX_BAD: usize = 10_000;

/// A cluster, as the configuration says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchConfig {
    /// Its nodes, as `http://host:port`.
    pub urls: Vec<String>,
    /// With `password_file`: who this is.
    pub user: Option<String>,
    /// The file with the user's password.
    pub password_file: Option<PathBuf>,
    /// The file with an API key, encoded as the server gave it out.
    pub api_key_file: Option<PathBuf>,
    /// The file with the authorities that are trusted for `https`.
    pub ca: Option<PathBuf>,
    /// What a document is.
    pub document: Document,
    /// Which index template is installed where there is none.
    pub template: TemplateKind,
    /// The most bytes of a request before it is packed.
    pub request: usize,
    /// The most requests at a time.
    pub connections: usize,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Requests are packed.
    pub gzip: bool,
}

/// A target that takes nothing.
#[derive(Debug, Clone)]
struct Bad {
    until: Instant,
    wait: Duration,
    why: String,
}

/// How it is.
#[derive(Debug, Default)]
struct Health {
    /// Why nothing is taken at all, and since when.
    down: Option<(Condition, String, Instant)>,
    hanging: bool,
    bad: HashMap<String, Bad>,
    /// Since when the worker of each number waits for an answer.
    asked: HashMap<usize, Instant>,
    /// Targets whose index template was looked after.
    templates: HashSet<String>,
    /// The cluster's id, once the journal has it.
    cluster: Option<String>,
}

/// What all threads share.
struct Shared {
    name: Name,
    no: DestinationNo,
    journal: Journal,
    config: SearchConfig,
    access: Access,
    letters: Arc<Letters>,
    flow: Flow,
    nodes: Mutex<Nodes>,
    health: Mutex<Health>,
    stop: CancellationToken,
    /// Dead letters that are on their way once more.
    replaying: AtomicUsize,
    /// From the first look at a group of batches to its end, in seconds.
    took: metrics::Histogram,
}

impl Shared {
    fn health(&self) -> MutexGuard<'_, Health> {
        // Its changes are whole.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing that waits is to be tried.
    fn refuses(&self) -> Option<String> {
        let health = self.health();
        health.down.as_ref().map(|(_word, why, _since)| why.clone())
    }

    /// Why a target is left alone now.
    fn left(&self, target: &str) -> Option<String> {
        let health = self.health();
        let bad = health.bad.get(target)?;
        (bad.until > Instant::now()).then(|| bad.why.clone())
    }

    /// A target takes nothing: it is left for a while.
    fn leave(&self, target: &str, why: &str) {
        let mut health = self.health();
        let before = health.bad.get(target);
        let wait = before.map_or(LEFT_FOR.0, |bad| (bad.wait * 2).min(LEFT_FOR.1));
        if before.is_none() {
            tracing::error!(destination = %self.name, target, "an index takes no documents: {why}; its batches wait");
        }
        if health.bad.len() < MAX_BAD || before.is_some() {
            let until = Instant::now() + wait;
            let why = why.to_owned();
            health
                .bad
                .insert(target.to_owned(), Bad { until, wait, why });
        }
    }

    /// A target has taken something.
    fn taken(&self, target: &str) {
        if self.health().bad.remove(target).is_some() {
            tracing::info!(destination = %self.name, target, "an index takes documents again");
        }
    }

    /// A node says of which cluster it is.
    fn meet(&self, id: &str) -> Result<(), NoAnswer> {
        let same = which::same(&mut self.journal.memory(), (&self.name, self.no), id);
        let record = same.map_err(|wrong| {
            self.go_down(Condition::Refused, &wrong);
            NoAnswer::Wrong(wrong)
        })?;
        if self.health().cluster.is_none() {
            let written = self.journal.commit_and_wait(vec![record]);
            written.map_err(|error| NoAnswer::Failed(error.to_string()))?;
            self.health().cluster = Some(id.to_owned());
        }
        Ok(())
    }

    /// Nothing is taken any more.
    fn go_down(&self, word: Condition, why: &str) {
        let mut health = self.health();
        if health.down.is_none() {
            tracing::error!(destination = %self.name, "the destination is down: {why}");
        }
        health.down = Some((word, why.to_owned(), Instant::now()));
    }
}

/// The destination.
pub(crate) struct Search {
    shared: Arc<Shared>,
    /// The way to each worker. Bounded by the byte permits that the jobs carry.
    workers: Mutex<Vec<Sender<Work>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Search")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

impl Search {
    /// Starts the threads. Nobody is connected to yet; a cluster that is away is waited for.
    ///
    /// # Errors
    /// Credentials or authorities that cannot be read.
    pub(crate) fn start(
        name: &Name,
        config: &SearchConfig,
        letters: &Arc<Letters>,
        journal: &Journal,
    ) -> anyhow::Result<Self> {
        let access =
            Access::new(config).with_context(|| format!("failed to start destination {name}"))?;
        let shared = Arc::new(Shared {
            name: name.clone(),
            no: journal.memory().destination(name),
            journal: journal.clone(),
            config: config.clone(),
            access,
            letters: Arc::clone(letters),
            flow: Flow::new(config.connections, config.request),
            nodes: Mutex::new(Nodes::new(&config.urls)),
            health: Mutex::default(),
            stop: CancellationToken::new(),
            replaying: AtomicUsize::new(0),
            took: metrics::histogram!("tributary_bus_deliver_seconds", "destination" => name.to_string()),
        });
        let (mut workers, mut threads) = (Vec::new(), Vec::new());
        let mut start = |role: String, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(role);
            threads.push(thread.spawn(work).context("failed to start a thread")?);
            anyhow::Ok(())
        };
        for number in 0..config.connections {
            let (jobs, incoming) = crossbeam_channel::unbounded();
            let worker = Worker::new(Arc::clone(&shared), number, incoming)?;
            workers.push(jobs);
            start(format!("search-{number}-{name}"), Box::new(|| worker.run()))?;
        }
        let watcher = Watcher::new(Arc::clone(&shared))?;
        start(format!("search-watch-{name}"), Box::new(|| watcher.run()))?;
        Ok(Self {
            shared,
            workers: Mutex::new(workers),
            threads: Mutex::new(threads),
        })
    }

    pub(crate) fn no(&self) -> DestinationNo {
        self.shared.no
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Sender<Work>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn deliver(&self, job: Job) {
        let workers = self.workers();
        // Numbers of streams are spread over all of their bits.
        let turn = job.batch.header.stream.0 % workers.len().max(1) as u64;
        if let Some(worker) = usize::try_from(turn).ok().and_then(|at| workers.get(at)) {
            // A worker that is gone drops the job, which answers for it.
            drop(worker.send(Work::Job(job)));
        }
    }

    /// Gives dead letters to the lane once more; they leave when the server has them. Gives how many are
    /// on their way.
    pub(crate) fn replay(&self, filter: &Filter) -> usize {
        let cards = self.shared.letters.cards(filter);
        let numbers: Vec<u64> = cards.iter().map(|card| card.no).collect();
        if let Some(worker) = self.workers().first()
            && !numbers.is_empty()
        {
            let count = numbers.len();
            self.shared.replaying.fetch_add(count, Ordering::Relaxed);
            drop(worker.send(Work::Replay(numbers)));
        }
        cards.len()
    }

    /// Dead letters that are on their way once more.
    pub(crate) fn replaying(&self) -> usize {
        self.shared.replaying.load(Ordering::Relaxed)
    }

    pub(crate) fn down(&self, target: &str) -> Option<String> {
        self.gone().or_else(|| self.shared.left(target))
    }

    pub(crate) fn gone(&self) -> Option<String> {
        let health = self.shared.health();
        let down = health.down.as_ref().map(|(_word, why, _since)| why.clone());
        down.or_else(|| health.hanging.then(hangs))
    }

    pub(crate) fn condition(&self) -> Condition {
        let health = self.shared.health();
        match &health.down {
            Some((word, ..)) => *word,
            None if health.hanging => Condition::Hanging,
            None if !health.bad.is_empty() => Condition::HalfDead,
            None if self.shared.flow.is_throttled() => Condition::Throttled,
            None => Condition::Up,
        }
    }

    pub(crate) fn health(&self) -> DestinationHealth {
        let gone = self.gone();
        let state = if gone.is_some() { "down" } else { "up" };
        DestinationHealth {
            name: self.shared.name.clone(),
            kind: "elasticsearch".to_owned(),
            state: state.to_owned(),
            detail: gone.unwrap_or_else(|| self.trouble()),
            dead: None,
        }
    }

    /// What is wrong although it takes documents.
    fn trouble(&self) -> String {
        let health = self.shared.health();
        let bad = health.bad.iter();
        let mut trouble: Vec<String> = bad
            .take(3)
            .map(|(target, bad)| format!("{target}: {}", bad.why))
            .collect();
        let more = health.bad.len().saturating_sub(trouble.len());
        if more > 0 {
            trouble.push(format!("{more} more indices"));
        }
        drop(health);
        trouble.extend(self.shared.nodes().failing());
        let (letters, _bytes) = self.shared.letters.size();
        if letters > 0 {
            trouble.push(format!("{letters} dead letters: see `tributary ctl dead`"));
        }
        if self.shared.flow.is_throttled() {
            let (_used, most) = self.shared.flow.requests();
            trouble.push(format!(
                "it says that it gets too much: {most} of {} requests at a time",
                self.shared.config.connections
            ));
        }
        trouble.join("; ")
    }

    /// Finishes what was given as far as it can within the grace, and stops. Blocks.
    pub(crate) fn close(&self, grace: Duration) {
        self.workers().clear();
        let threads = std::mem::take(&mut *lock(&self.threads));
        let deadline = Instant::now() + grace;
        // The last one watches.
        let workers = threads.split_last().map_or(&[][..], |(_, workers)| workers);
        while Instant::now() < deadline && !workers.iter().all(JoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.shared.stop.cancel();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!(destination = %self.shared.name, "a thread of a search destination panicked");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hangs() -> String {
    format!("it has not answered for {} s", HANGS_AFTER.as_secs())
}

fn fail(jobs: impl IntoIterator<Item = Job>, why: &str) {
    for job in jobs {
        job.done.tell(Err(Failure::Unavailable(why.to_owned())));
    }
}
