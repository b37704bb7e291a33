//! The bus node: takes batches from agents, removes repeats, delivers each to the destinations of
//! its topic, and acknowledges it when all of them have it.
//!
//! ```text
//! listen -> session -> admit -> dedupe -> route -> destination(s) -> journal -> answer
//!           lines   ---------------^        |          ^                |
//!                                           '-> spill -'       report -> manager
//! ```
//!
//! | room | what for |
//! |---|---|
//! | [`config`] | `bus.toml`, checked |
//! | `listen` | the port: HTTP, upgrade |
//! | `session` | one agent's framed stream |
//! | `lines` | `POST /v1/lines/{topic}` |
//! | `node` | the way of a batch, where the rooms meet |
//! | `balance` | hands over connections while an operator wants it |
//! | `admit`, `order`, `budget`, `quota` | take it, in which order, with how much memory, at which rate |
//! | `dedupe`, `done`, `unfinished`, [`journal`] | what is on its way, what is delivered, and that on disk |
//! | [`route`], [`template`] | which topic goes where, under which name |
//! | `routing`, `site`, `moving`, `live` | the rules and destinations that count now, and how they are swapped |
//! | `breaker`, `switch`, `standby` | which destination is used where several stand in for each other |
//! | `destination` | Kafka, files, HDFS, Elasticsearch; the contract on one page |
//! | `dead` | records that a destination will never take, until somebody replays them |
//! | [`spill`] | the node's disk in place of a destination that takes nothing |
//! | `report`, `tally`, `status` | facts for the manager, figures, a page for people |
//!
//! [`run`] wires them. Stopping: not ready, no new connections, agents are asked to leave, what is
//! in flight is finished within the grace, the destinations and the journal are closed.

mod admit;
mod balance;
mod breaker;
mod budget;
pub mod config;
pub mod dead;
mod dedupe;
mod destination;
mod done;
pub mod journal;
mod lines;
mod listen;
mod live;
mod moving;
mod node;
mod order;
mod outgoing;
mod pins;
mod quota;
mod report;
pub mod route;
mod routing;
mod session;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod sim;
mod site;
mod slow;
pub mod spill;
mod standby;
mod status;
mod switch;
mod tally;
pub mod template;
#[cfg(test)]
mod testing;
mod unfinished;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tributary_common::{
    admin::{self, Admin},
    daemon::Reload,
    disk::{self, Lock},
    given::{self, ROUTES, Start},
    http::Client,
    ids::AgentId,
    net,
    tasks::Supervisor,
    tls::Dialer,
};

use crate::{
    budget::Budget,
    config::Config,
    destination::kafka::groups,
    journal::Journal,
    lines::Lines,
    listen::Door,
    live::Live,
    node::{Identity, Node},
    quota::Quotas,
    report::Ledger,
    routing::Routing,
    site::{Workshop, close_all},
    unfinished::Unfinished,
};

/// How long sessions and pages may take after the stop; with [`site::GRACE`] and the one below it makes
/// ten seconds.
const GRACE: Duration = Duration::from_secs(7);
/// How long the last report may take.
const REPORT_GRACE: Duration = Duration::from_secs(1);
/// How often gauges are set.
const GAUGES_EVERY: Duration = Duration::from_secs(1);
/// How often is looked whose time it is to be handed over.
const BALANCE_EVERY: Duration = Duration::from_millis(50);

/// The addresses that a node got, for whoever asked for port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The agents' port.
    pub listen: SocketAddr,
    /// The admin port.
    pub admin: SocketAddr,
}

/// Runs a node until `stop`.
///
/// # Errors
/// What keeps it from starting (the data directory is held by another process, an address is in
/// use, a destination's settings are wrong) or from going on.
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
    run_with(config, reload, stop, |_bound| {}).await
}

/// As [`run_live`]; `bound` is told the addresses once the node takes connections.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: Config,
    reload: Reload<Config>,
    stop: CancellationToken,
    bound: impl FnOnce(Bound) + Send,
) -> anyhow::Result<()> {
    disk::create_dir_all(&config.data_dir)?;
    let _lock = Lock::acquire(&config.data_dir)?;
    let listener = net::listen(&config.listen).await?;
    let admin_listener = net::listen_for("admin", &config.admin).await?;
    let addresses = Bound {
        listen: listener.local_addr()?,
        admin: admin_listener.local_addr()?,
    };

    let start = given_over(config);
    let config = start.config.clone();
    let (journal, owner) = open_journal(&config)?;
    let (node, workshop) = assemble(&config, journal, stop.clone()).await?;
    let node = Arc::new(node);
    node.show_routes(start.standing.health().clone());
    for (site, _leaving) in node.routing().sites() {
        site.start(&node)?;
    }
    tracing::info!(node.id = %node.identity.node, node.epoch = %node.identity.epoch, listen = %addresses.listen, "the bus node is up");
    bound(addresses);

    let told = CancellationToken::new();
    let (offer, offers) = watch::channel(None);
    let mut reporter = JoinSet::new();
    if let Some(client) = client(&config)? {
        report::retell(&node);
        reporter.spawn(report::run(
            Arc::clone(&node),
            (client, offer),
            told.clone(),
        ));
    }
    let mut parts = Supervisor::new(stop, GRACE);
    let lines = Arc::new(Lines::new(config.limits.memory));
    node.balance.set_most(config.limits.connections);
    let door = Door {
        connections: config.limits.connections,
        tls: config.tls.clone(),
    };
    let live = Live::new(start, Arc::clone(&node), workshop);
    parts.spawn("config", live.run(reload, offers, node.stop.clone()));
    parts.spawn(
        "listen",
        listen::run(Arc::clone(&node), lines, listener, door),
    );
    parts.spawn(
        "admin",
        admin::serve(admin_listener, admin_pages(&node), node.stop.clone()),
    );
    parts.spawn("balance", balance(Arc::clone(&node)));
    parts.spawn("gauges", gauges(Arc::clone(&node)));
    parts.spawn("standby", standby::run(Arc::clone(&node)));
    let ended = parts.join().await;

    let closing = Arc::clone(&node);
    spawn_blocking(move || close_destinations(&closing))
        .await
        .context("failed to close the destinations")?;
    told.cancel();
    match timeout(REPORT_GRACE, reporter.join_all()).await {
        Ok(results) => results.into_iter().collect::<anyhow::Result<()>>()?,
        Err(_elapsed) => tracing::warn!(
            "the manager did not take the last report; it is told after the next start"
        ),
    }
    spawn_blocking(move || owner.close())
        .await
        .context("failed to close the journal")?;
    tracing::info!("the bus node has stopped");
    ended
}

/// With what was kept of the manager over the configuration.
fn given_over(config: Config) -> Start<Config> {
    let (data_dir, file) = (config.data_dir.clone(), Arc::clone(&config.origin));
    let manager = config.manager.is_some();
    given::start(&ROUTES, (config, &data_dir, manager), |over| {
        config::load_over(&file, Some(over))
    })
}

fn open_journal(config: &Config) -> anyhow::Result<(Journal, journal::Owner)> {
    let dir = config.data_dir.join("dedupe");
    let (journal, owner, opened) = Journal::open(&dir, config.manager.is_some())?;
    if opened.torn_bytes > 0 {
        tracing::warn!(
            torn_bytes = opened.torn_bytes,
            "the journal had a torn tail; it is cut off"
        );
    }
    if opened.damaged_bytes > 0 {
        tracing::error!(
            damaged_bytes = opened.damaged_bytes,
            "the journal was damaged in the middle; what could be read counts, the damaged file is kept beside it"
        );
        metrics::counter!("tributary_bus_journal_damaged_bytes_total")
            .increment(opened.damaged_bytes as u64);
    }
    tracing::debug!(records = opened.records, "the journal is open");
    Ok((journal, owner))
}

async fn assemble(
    config: &Config,
    journal: Journal,
    stop: CancellationToken,
) -> anyhow::Result<(Node, Workshop)> {
    let epoch = journal.memory().epoch;
    let lines_agent = AgentId::new(&format!("bus-{}", config.node))
        .or_else(|_too_long| AgentId::new(config.node.as_str()))?;
    let identity = Identity {
        node: config.node.clone(),
        cluster: config.cluster.clone(),
        zone: config.zone.clone(),
        epoch,
        lines_agent,
    };
    let limits = &config.limits;
    let budget = Budget::new(limits.memory);
    let quotas = Quotas::new(limits.agent_rate, limits.topic_rate);
    let ledger = Ledger::new(config.manager.is_some());
    let (starting, its) = (journal.clone(), config.clone());
    let started = spawn_blocking(move || {
        let workshop = Workshop::new(&its, &starting)?;
        workshop.warn_of_strangers(&its)?;
        let started = its.destinations.iter().map(|one| workshop.open(one));
        anyhow::Ok((started.collect::<anyhow::Result<Vec<_>>>()?, workshop))
    });
    let (started, workshop) = started
        .await
        .context("failed to start the destinations")??;
    let (mut sites, mut unfinished) = (Vec::new(), Unfinished::default());
    for (site, found) in started {
        sites.push(Arc::new(site));
        unfinished.extend(found);
    }
    let routing = Routing::new(config.routes.clone(), sites);
    let node = Node::new(
        identity,
        (budget, quotas),
        journal,
        ledger,
        (routing, unfinished),
        stop,
    );
    Ok((node, workshop))
}

fn close_destinations(node: &Node) {
    let routing = node.routing();
    let sites: Vec<_> = routing.sites().map(|(site, _leaving)| &**site).collect();
    close_all(&sites);
}

fn client(config: &Config) -> anyhow::Result<Option<Client>> {
    let Some(manager) = &config.manager else {
        return Ok(None);
    };
    let token = match &manager.token_file {
        Some(path) => Some(disk::read_secret(path)?),
        None => None,
    };
    let dialer = match manager.url.starts_with("https:") {
        true => Some(Arc::new(Dialer::new(manager.ca.as_deref(), None)?)),
        false => None,
    };
    Ok(Some(Client::new(&manager.url, token.as_deref(), dialer)?))
}

fn admin_pages(node: &Arc<Node>) -> Admin {
    let its = || Arc::clone(node);
    let (ready, status, list, show, replay, purge, node) =
        (its(), its(), its(), its(), its(), its(), its());
    let (lies, moves, begins) = (its(), its(), its());
    Admin::new(
        move || status::ready(&ready),
        move || status::status(&status),
    )
    .shows("/v1/dead", move |query| dead::api::list(&list, query))
    .shows("/v1/dead/letters", move |query| {
        dead::api::show(&show, query)
    })
    .takes("/v1/dead/replay", move |query| {
        dead::api::replay(&replay, query)
    })
    .takes("/v1/dead/purge", move |query| {
        dead::api::purge(&purge, query)
    })
    .shows("/v1/groups", move |query| groups::api::list(&lies, query))
    .shows("/v1/groups/progress", move |query| {
        groups::api::progress(&moves, query)
    })
    .takes("/v1/groups/move", move |query| {
        groups::api::begin_move(&begins, query)
    })
    .takes("/v1/rebalance", move |query| {
        node.balance
            .open(query, node.open_connections(), Instant::now())
    })
}

/// Asks agents to go, one after the other, while an operator wants it.
async fn balance(node: Arc<Node>) -> anyhow::Result<()> {
    let mut tick = interval(BALANCE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while node.stop.run_until_cancelled(tick.tick()).await.is_some() {
        node.balance.tick(Instant::now());
    }
    Ok(())
}

/// Sets what is looked at, not counted.
async fn gauges(node: Arc<Node>) -> anyhow::Result<()> {
    let mut tick = interval(GAUGES_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while node.stop.run_until_cancelled(tick.tick()).await.is_some() {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        metrics::gauge!("tributary_bus_memory_used_bytes").set(node.budget.used() as f64);
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        metrics::gauge!("tributary_bus_in_flight_batches_count").set(node.in_flight() as f64);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
