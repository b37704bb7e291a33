//! The agent: the daemon on every server. It follows log files and brings each line, counted, to the
//! bus.
//!
//! ```text
//! discover ──looks, hints──▶ reader ──batches──▶ sender ◀──▶ bus
//!  (thread)                 (thread)    │         (async)
//!                              │cuts    │ends         │ what was told
//!                              ▼        ▼             ▼
//!                            checkpoint (keeper thread) ◀── reports (async) ──▶ manager
//! ```
//!
//! The reader finds out which physical file a path names, reads a block, makes a batch of its lines,
//! writes the cut to the checkpoint and hands the batch over with the permit for its memory. The
//! sender keeps it until the bus has acknowledged it, writes that down and gives the memory back. A
//! line is never anywhere but in its file or in the hands of the bus: a killed agent reads the cuts
//! that were not acknowledged again and sends them under the same identity.
//!
//! Not for: routing, destinations (the bus), figures over hosts (the manager).

pub mod checkpoint;
mod clock;
mod close;
pub mod config;
mod content;
mod discover;
mod far;
mod few;
mod flow;
mod frame;
mod group;
mod handle;
mod host;
mod identify;
mod limit;
pub mod live;
mod path;
mod reader;
mod recipe;
mod report;
mod send;
mod shape;
mod shown;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod sim;
pub mod spool;
mod status;
pub mod survey;
mod tail;
mod times;
mod turns;

use std::{
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tributary_common::{
    admin::{self, Admin},
    daemon::Reload,
    disk,
    given::{self, COLLECTION, Given, Start},
    metrics, net,
    report::Reporter,
    tasks::Supervisor,
    wire::Hello,
};

pub use self::frame::framed_twice;
use self::{
    checkpoint::Checkpoint,
    close::Closer,
    config::{Config, Task},
    discover::{Discover, Event, Where},
    flow::Flow,
    limit::Budget,
    live::{Live, Places},
    reader::{Channel, Reader, SpoolWiring, Wiring},
    report::Reports,
    send::{Outgoing, Sender, Ways},
    status::Status,
};

/// Events for the reader that may wait: looks are few, hints are merged.
const EVENTS: usize = 256;
/// Hands of batches that may wait for the sender's loop; their bytes are bounded by permits.
const HANDS: usize = 64;
/// Jobs for the spool that may wait; what finds no room is tried again.
const SPOOL_JOBS: usize = 64;
/// What all may take after the stop: the sender's deadline, and a bit.
const GRACE: Duration = Duration::from_secs(15);

/// Runs an agent until `stop`; then cuts what is there, waits for acknowledgements for a while, and
/// writes the checkpoint a last time.
///
/// # Errors
/// When the state directory is held by another process or cannot be used, when the admin port is
/// taken, or when a part fails.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    let (_nobody, asked) = watch::channel(0);
    let never = Reload::new(asked, || config::parse("", "nothing"));
    run_live(config, never, stop).await
}

/// As [`run`], and takes each configuration that `reload` gives while it runs.
///
/// # Errors
/// As [`run`]; a configuration that cannot be taken is none.
pub async fn run_live(
    config: Config,
    reload: Reload<Config>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    metrics::install();
    let lock = disk::Lock::acquire(&config.state_dir)?;
    let listener = net::listen_for("admin", &config.admin.to_string()).await?;
    let start = given_over(config);
    let config = start.config.clone();
    let shared = Shared::open(&config)?;
    // Before anybody can ask for it.
    shared.status.config(|applied| {
        applied.version = live::version_of(&config.effective);
        applied.given = start.standing.health().clone();
    });
    let (events, incoming_events) = sync_channel(EVENTS);
    let waker = events.clone();
    // A full queue wakes the reader as well.
    let budget = Budget::of(config.limits.memory, move || {
        drop(waker.try_send(Event::Wake));
    });
    let (outgoing, batches) = mpsc::channel(HANDS);

    let mut parts = Supervisor::new(stop.clone(), GRACE);
    parts.spawn(
        "admin",
        admin::serve(listener, shared.pages(&budget), stop.clone()),
    );
    let wiring = Wiring {
        agent: shared.hello.agent.clone(),
        epoch: shared.hello.epoch,
        checkpoint: Arc::clone(&shared.checkpoint),
        budget,
        events: incoming_events,
        outgoing,
        flow: Arc::new(Flow::new().context("failed to make an event counter")?),
        status: Arc::clone(&shared.status),
        spool: start_spool(&mut parts, &config, events.clone()),
        closer: start_closer(&mut parts),
        limits: config.limits.clone(),
    };
    let (plans, taken) = crossbeam_channel::bounded(1);
    let mut places = Places::default();
    start_reading(
        &mut parts,
        &config,
        (wiring, taken),
        events,
        &mut places,
        &stop,
    );
    let (ways, ways_now) = watch::channel(Ways::of(&config));
    let of_live = (Arc::clone(&shared.checkpoint), Arc::clone(&shared.status));
    let live = Live::new(start, places, plans, ways, of_live);
    let (offer, offers) = watch::channel(None);
    parts.spawn("config", live.run(reload, offers, stop.clone()));
    start_sending(
        &mut parts,
        (config, offer),
        shared.clone(),
        (batches, ways_now),
        stop,
    );
    let result = parts.join().await;
    shared.checkpoint.sync(true);
    drop(lock);
    result
}

/// What several parts hold.
#[derive(Debug, Clone)]
struct Shared {
    hello: Hello,
    checkpoint: Arc<Checkpoint>,
    status: Arc<Status>,
}

impl Shared {
    /// Recovers what an earlier life left, and begins a new one.
    fn open(config: &Config) -> anyhow::Result<Self> {
        let agent = host::agent_id(&config.state_dir)?;
        let keep_accounts = config.manager.is_some();
        let (checkpoint, recovery) =
            Checkpoint::open(&config.state_dir, keep_accounts, clock::now_ms())
                .context("failed to open the checkpoint")?;
        let (epoch, cuts) = checkpoint.read(|state| (state.epoch, state.cuts.len()));
        tracing::info!(
            agent = agent.as_str(),
            epoch = epoch.0,
            recovery.records,
            recovery.torn_bytes,
            damaged = recovery.damaged.len(),
            unacknowledged = cuts,
            "the agent goes on from its checkpoint"
        );
        let hello = Hello {
            agent,
            host: host::name(),
            zone: config.zone.clone(),
            epoch,
            software: report::software(),
        };
        Ok(Self {
            hello,
            checkpoint: Arc::new(checkpoint),
            status: Arc::new(Status::default()),
        })
    }

    /// What the admin port answers.
    fn pages(&self, budget: &Arc<Budget>) -> Admin {
        let status = Arc::clone(&self.status);
        let ready = move || {
            if status.is_connected() {
                Ok(())
            } else {
                Err("no bus is connected".to_owned())
            }
        };
        let (shared, budget) = (self.clone(), Arc::clone(budget));
        Admin::new(ready, move || {
            let mut page = shared.status.page(&shared.checkpoint, &budget);
            if let Some(page) = page.as_object_mut() {
                page.insert("agent".to_owned(), shared.hello.agent.as_str().into());
                page.insert("host".to_owned(), shared.hello.host.clone().into());
                page.insert("epoch".to_owned(), shared.hello.epoch.0.into());
            }
            page
        })
    }
}

/// With what was kept of the manager over the configuration.
fn given_over(config: Config) -> Start<Config> {
    let (state_dir, file) = (config.state_dir.clone(), Arc::clone(&config.origin));
    let manager = config.manager.is_some();
    given::start(&COLLECTION, (config, &state_dir, manager), |over| {
        config::load_over(&file, Some(over))
    })
}

/// Starts the thread that compresses, which ends with the reader.
fn start_spool(parts: &mut Supervisor, config: &Config, events: SyncSender<Event>) -> SpoolWiring {
    let folder = config.state_dir.join(spool::FOLDER);
    let (jobs, work) = crossbeam_channel::bounded(SPOOL_JOBS);
    let of_worker = folder.clone();
    parts.spawn_blocking("spool", move || spool::run(&of_worker, &work, &events));
    SpoolWiring { folder, jobs }
}

/// Starts the thread that closes deleted files, which ends with the reader.
fn start_closer(parts: &mut Supervisor) -> Closer {
    let (closer, closing) = close::new();
    parts.spawn_blocking("close", move || closing.run());
    closer
}

/// Starts discovery and the reader. The tasks get their places.
fn start_reading(
    parts: &mut Supervisor,
    config: &Config,
    (wiring, plans): (Wiring, crossbeam_channel::Receiver<live::Plan>),
    events: SyncSender<Event>,
    places: &mut Places,
    stop: &CancellationToken,
) {
    let wheres = config.tasks.iter().map(Where::of).map(Some).collect();
    let flow = Arc::clone(&wiring.flow);
    let discover = Discover::new(wheres, plans, &config.state_dir, events.clone(), flow);
    let token = stop.clone();
    parts.spawn_blocking("discover", move || discover.run(&token));
    let channels = channels(config.tasks.clone(), places, &wiring);
    let reader = Reader::new(wiring, channels);
    parts.spawn_blocking("reader", move || reader.run());
    let token = stop.clone();
    parts.spawn("stop", async move { stop_reader(&events, &token).await });
}

/// Starts the sender, and what comes after its last answer: the keeper and the reports.
fn start_sending(
    parts: &mut Supervisor,
    (config, offer): (Config, watch::Sender<Option<Given>>),
    shared: Shared,
    (batches, ways): (mpsc::Receiver<Vec<Outgoing>>, watch::Receiver<Ways>),
    stop: CancellationToken,
) {
    let Shared {
        hello,
        checkpoint,
        status,
    } = shared;
    let reporter = Reporter::Agent {
        id: hello.agent.clone(),
        host: hello.host.clone(),
        zone: hello.zone.clone(),
    };
    let epoch = hello.epoch;
    let sender = Sender::new(
        (hello, config.tls.clone()),
        ways,
        batches,
        Arc::clone(&checkpoint),
        Arc::clone(&status),
    );
    let sent = CancellationToken::new();
    // However the sender ends, also before it began, the others are told.
    let done = sent.clone().drop_guard();
    parts.spawn("send", async move {
        let _done = done;
        sender.run(stop).await
    });
    let keep_removed = config.keep_removed;
    let (keeper, token) = (Arc::clone(&checkpoint), sent.clone());
    parts.spawn_blocking("checkpoint", move || keeper.keep(keep_removed, &token));
    if let Some(manager) = config.manager {
        let reports = Reports {
            manager,
            tls: config.tls,
            reporter,
            epoch,
            checkpoint,
            status,
            offer,
        };
        parts.spawn("report", reports.run(sent));
    }
}

/// One channel per task, in the order of their places. Tasks that are not in the configuration any
/// more have one when they left batches to be sent again.
fn channels(tasks: Vec<Task>, places: &mut Places, wiring: &Wiring) -> Vec<Channel> {
    let checkpoint = &wiring.checkpoint;
    let looks = config::all_looks(&tasks);
    checkpoint.rename(checkpoint.read(|state| state.renamed(&looks)));
    let mut channels: Vec<Channel> = Vec::new();
    for task in tasks {
        let place = places.of(&task.id);
        debug_assert_eq!(place, channels.len(), "ids differ: the schema says so");
        let fresh = !checkpoint.knows_task(&task.id);
        let share = wiring.budget.share(&task.topic, task.class);
        let seed = checkpoint.seed_of(&task.id);
        channels.push(Channel::new(task, share, fresh, seed));
    }
    for (id, topic) in checkpoint.read(checkpoint::State::owing) {
        // Who has a place already is in the configuration.
        if places.of(&id) == channels.len() {
            let task = Task::left(id, topic);
            let share = wiring.budget.share(&task.topic, task.class);
            let seed = checkpoint.seed_of(&task.id);
            channels.push(Channel::left(task, share, seed));
        }
    }
    channels
}

/// Brings the stop to the reader, which waits for events only.
async fn stop_reader(events: &SyncSender<Event>, stop: &CancellationToken) -> anyhow::Result<()> {
    stop.cancelled().await;
    while let Err(TrySendError::Full(_)) = events.try_send(Event::Stop) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
