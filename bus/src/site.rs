//! A destination in this life of the node, with its spill: how it is opened, started, closed.
//!
//! Used at the start, and for each destination that comes, changes or goes while the node runs. Not for:
//! which batch goes to it (see [`crate::routing`]), what it is (see [`crate::destination`]).

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::Instant;
use tributary_common::{
    disk,
    ids::{BatchId, Class, Name, NodeId},
};

use crate::{
    breaker::Breaker,
    budget::Held,
    config::{Config, DestinationConfig, DestinationKind},
    dead::Letters,
    destination::{
        Condition, Destination, discard::Discard, file::FileSink, kafka::Kafka, rolled::RolledSink,
        search::Search,
    },
    done::DestinationNo,
    journal::Journal,
    node::Node,
    slow::Pace,
    spill::{Spill, Usage},
};

/// How long a destination may take to finish what it was given.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// A destination with its spill, where the node has room for one.
#[derive(Debug)]
pub(crate) struct Site {
    /// Its configured name.
    pub(crate) name: Name,
    /// The destination.
    pub(crate) destination: Arc<Destination>,
    /// Its disk.
    pub(crate) spill: Option<Arc<Spill>>,
    /// Its dead letters, where it has any.
    pub(crate) letters: Option<Arc<Letters>>,
    /// How quickly it answers what goes live.
    pub(crate) pace: Pace,
    breaker: Mutex<Breaker>,
    /// What it holds of the node's memory, where it has no disk.
    held: Held,
    /// Batches that its disk had delivered at the last look.
    drained: AtomicU64,
}

impl Site {
    /// A destination that is to be used.
    pub(crate) fn new(
        name: Name,
        destination: Arc<Destination>,
        spill: Option<Arc<Spill>>,
    ) -> Self {
        Self {
            name,
            destination,
            spill,
            letters: None,
            pace: Pace::default(),
            breaker: Mutex::default(),
            held: Held::default(),
            drained: AtomicU64::new(0),
        }
    }

    /// How it is, in one word; with what is not said by the destination itself.
    pub(crate) fn condition(&self, now: Instant) -> (Condition, Option<String>) {
        let condition = self.destination.condition();
        // Of a destination that answers with whole files that is the way of it.
        let is_timed = condition == Condition::Up && self.destination.late().is_none();
        match self.pace.slow(now).filter(|_how| is_timed) {
            Some(how) => (Condition::Slow, Some(how)),
            None => (condition, None),
        }
    }

    /// What it holds of the node's memory: batches that it was given and has not answered.
    pub(crate) fn held(&self) -> &Held {
        self.spill.as_ref().map_or(&self.held, |spill| spill.held())
    }

    /// Its circuit breaker.
    pub(crate) fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // Its changes are whole.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is the same destination with other settings: what was known of it goes on to count.
    pub(crate) fn go_on_from(&self, before: &Self) {
        let breaker = before.breaker().clone();
        *self.breaker() = breaker;
    }

    /// Looks whether it takes batches, and whether its disk has delivered some.
    pub(crate) fn look(&self, now: Instant) {
        let down = self.destination.gone().is_some();
        let drained = self
            .spill
            .as_ref()
            .map_or(0, |spill| spill.drained_batches());
        let more = drained > self.drained.swap(drained, Ordering::Relaxed);
        let mut breaker = self.breaker();
        if more {
            breaker.delivered();
        }
        breaker.see(down, now);
    }

    /// Whether new batches go there where others can stand in.
    pub(crate) fn is_used(&self) -> bool {
        self.breaker().is_closed()
    }

    /// Whether a batch of this class and cost has to leave the memory to other groups of the destination's
    /// brokers.
    pub(crate) fn is_group_full(&self, target: &str, of: (Class, u64)) -> bool {
        let disk = || self.spill.is_some() && self.destination.down(target).is_some();
        let grouped = self.destination.grouped();
        grouped.is_some_and(|grouped| grouped.is_full(target, of, disk()))
    }

    /// Its number in the journal.
    pub(crate) fn no(&self) -> DestinationNo {
        self.destination.no()
    }

    /// Now its spill takes batches, and drains what it holds.
    ///
    /// # Errors
    /// When there are no threads left.
    pub(crate) fn start(&self, node: &Arc<Node>) -> anyhow::Result<()> {
        self.spill
            .as_ref()
            .map_or(Ok(()), |spill| spill.start(node))
    }

    /// Why it cannot be taken away: what its disk holds has nowhere else to go.
    pub(crate) fn holds(&self) -> Option<String> {
        let backlog = self.spill.as_ref()?.backlog();
        (backlog.batches > 0).then(|| {
            format!(
                "has {} batches in its spill that wait for it; leave it in the file, without routes, until they are delivered",
                backlog.batches
            )
        })
    }

    /// Whether nothing that it was given is unanswered, as far as its spill knows.
    pub(crate) fn is_empty(&self) -> bool {
        self.spill.as_ref().is_none_or(|spill| spill.is_empty())
    }

    /// Finishes what is in flight within [`GRACE`], and ends. Blocks. What is in its spill is opened by
    /// its next life; whoever still waits for a batch is told to come again.
    pub(crate) fn close(&self) {
        close_all(&[self]);
        if let Some(spill) = &self.spill {
            spill.give_back();
        }
    }
}

/// Closes destinations side by side: each has the whole grace. Blocks.
pub(crate) fn close_all(sites: &[&Site]) {
    let spills = || sites.iter().filter_map(|site| site.spill.as_ref());
    for spill in spills() {
        spill.stop();
    }
    std::thread::scope(|scope| {
        for site in sites {
            scope.spawn(|| site.destination.close(GRACE));
        }
    });
    for spill in spills() {
        spill.close();
    }
}

/// What destinations are made with.
#[derive(Debug, Clone)]
pub(crate) struct Workshop {
    journal: Journal,
    node: NodeId,
    memory: u64,
    dir: PathBuf,
    /// Where dead letters are, and how many bytes of them a destination may have.
    dead: (PathBuf, u64),
    /// There is a manager that is told of them.
    told: bool,
    /// The disk that all spills share; none where there is no spill.
    usage: Option<Arc<Usage>>,
}

impl Workshop {
    /// A workshop for the destinations of this configuration. Blocks shortly.
    ///
    /// # Errors
    /// When the spill's folder cannot be made.
    pub(crate) fn new(config: &Config, journal: &Journal) -> anyhow::Result<Self> {
        let dir = config.data_dir.join("spill");
        let usage = match config.spill {
            Some(limits) => {
                disk::create_dir_all(&dir)?;
                Some(Arc::new(Usage::new(&dir, limits)))
            }
            None => None,
        };
        Ok(Self {
            journal: journal.clone(),
            node: config.node.clone(),
            memory: config.limits.memory,
            dir,
            dead: (config.data_dir.join("dead"), config.dead.max),
            told: config.manager.is_some(),
            usage,
        })
    }

    /// The disk that all spills share.
    pub(crate) fn usage(&self) -> Option<&Arc<Usage>> {
        self.usage.as_ref()
    }

    /// Says what lies in the spill's folder and has no destination.
    ///
    /// # Errors
    /// A disk that does not answer.
    pub(crate) fn warn_of_strangers(&self, config: &Config) -> anyhow::Result<()> {
        if !self.dir.is_dir() {
            return Ok(());
        }
        let left = disk::list(&self.dir)?;
        if self.usage.is_none() && !left.is_empty() {
            tracing::warn!(dir = %self.dir.display(), "there is a spill of an earlier life and no [spill] max in the configuration: what is in it is not delivered");
            return Ok(());
        }
        for dir in left {
            let mut names = config.destinations.iter().map(|one| one.name.as_str());
            let is_empty = dir.is_dir() && disk::list(&dir)?.is_empty();
            if !is_empty && !names.any(|name| dir.ends_with(name)) {
                tracing::warn!(dir = %dir.display(), "there is a spill of a destination that is not configured: what is in it is not delivered");
            }
        }
        Ok(())
    }

    /// Starts a destination and opens its spill. Gives the batches that the spill holds, too. Blocks.
    ///
    /// # Errors
    /// Settings that it refuses, a disk that does not answer.
    pub(crate) fn open(&self, config: &DestinationConfig) -> anyhow::Result<(Site, Vec<BatchId>)> {
        let name = &config.name;
        let mut letters = None;
        let mut open_letters = || {
            let (dir, max) = &self.dead;
            let kept = Arc::new(Letters::open(dir, name, *max, self.told)?);
            letters = Some(Arc::clone(&kept));
            anyhow::Ok(kept)
        };
        let destination = match &config.kind {
            DestinationKind::Kafka(cluster) => {
                let own = (&open_letters()?, &self.journal);
                Kafka::start(name, cluster, self.memory, own).map(Destination::Kafka)
            }
            DestinationKind::File { path } => {
                FileSink::start(name, path, &self.node, &self.journal).map(Destination::File)
            }
            DestinationKind::Rolled(files) => {
                RolledSink::start(name, files, &self.node, &self.journal).map(Destination::Rolled)
            }
            DestinationKind::Discard => Ok(Destination::Discard(Discard::new(name, &self.journal))),
            DestinationKind::Search(cluster) => {
                Search::start(name, cluster, &open_letters()?, &self.journal)
                    .map(Destination::Search)
            }
        };
        let destination = Arc::new(destination?);
        let mut site = Site::new(name.clone(), destination, None);
        site.letters = letters;
        let mut found = Vec::new();
        if let Some(usage) = &self.usage {
            let its = (name, Arc::clone(&site.destination));
            let opened = Spill::open(&self.dir, usage, its, &self.journal)
                .with_context(|| format!("failed to open the spill of destination {name}"));
            match opened {
                Ok((spill, opened, held)) => {
                    opened.tell(name);
                    site.spill = Some(spill);
                    found = held;
                }
                Err(error) => {
                    site.close();
                    return Err(error);
                }
            }
        }
        Ok((site, found))
    }
}
