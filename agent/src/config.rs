//! The agent's configuration: `agent.toml`, checked.
//!
//! Keys that this version does not obey are known to the schema: those that would change what is
//! collected are refused with what is allowed, pure ceilings warn. Tasks and limits have rooms of
//! their own.
//!
//! Not for: reading TOML (that is [`tributary_common::config`]). Called by `main.rs`, `tributary up`
//! and `tributary check`.

mod limits;
mod task;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use tributary_common::{
    config::{self, Checker, Env, Faults, Key, Kind, Loaded, Origin, Over, Schema, parses},
    ids::{Name, Zone},
    telemetry::{LOG, Log},
    tls,
};

pub(crate) use self::task::all_looks;
use self::{
    limits::LIMITS,
    task::{RawTask, TASK, check_task},
};
pub use self::{
    limits::Limits,
    task::{Start, Task},
};

static MANAGER: Schema = Schema::new(
    "The manager that counts are reported to. Without it the agent collects all the same.",
    &[
        Key::required(
            "url",
            Kind::Url(&["http", "https"]),
            "Where the manager listens.",
        ),
        Key::optional("token_file", Kind::Path, "The file with the token for it."),
    ],
);

static BUS: Schema = Schema::new(
    "A bus cluster. Several stand in failover order.",
    &[
        Key::required(
            "name",
            Kind::checked("name", "dc1", parses::<Name>),
            "The cluster's name.",
        ),
        Key::required(
            "nodes",
            Kind::list(&Kind::HostPort, 1),
            "Its nodes; each agent has its own order of them.",
        ),
    ],
);

/// The keys of `agent.toml`.
pub static SCHEMA: Schema = Schema::new(
    "The daemon on every server. SIGHUP takes `[[task]]`, `[[bus]]` and `[limits]` anew, and the manager can give these; a document that changes anything else is refused as a whole until a restart.",
    &[
        Key::default(
            "zone",
            Kind::checked("zone", "dc1", parses::<Zone>),
            "default",
            "The data centre of this host.",
        ),
        Key::default(
            "state_dir",
            Kind::Path,
            "/var/lib/tributary/agent",
            "What the agent remembers: its id, its checkpoint.",
        ),
        Key::default(
            "admin",
            Kind::Socket,
            "127.0.0.1:7402",
            "Where /metrics, /healthz, /readyz and /status are.",
        ),
        Key::default(
            "keep_removed",
            Kind::duration("0s", "3650d"),
            "7d",
            "How long the place in the files of a removed task is kept: added again within, it goes on there.",
        ),
        Key::default(
            "return_after",
            Kind::duration("1s", "7d"),
            "1m",
            "On a standby cluster: after how long it is looked whether an earlier one is there again. Each agent picks a moment between once and twice this.",
        ),
        Key::optional_table("manager", &MANAGER),
        Key::tables(
            "bus",
            Kind::list_by(&Kind::Table(&BUS), "name"),
            "Bus clusters, in failover order.",
        ),
        Key::optional_table("tls", &tls::DIALER),
        Key::table("limits", &LIMITS),
        Key::tables(
            "task",
            Kind::list_by(&Kind::Table(&TASK), "id"),
            "What is collected.",
        ),
        Key::table("log", &LOG),
    ],
);

/// Values that a running agent takes anew; the others need a restart.
pub(crate) const LIVE_KEYS: &[&str] = &[
    "limits.bandwidth",
    "limits.cpu",
    "limits.memory",
    "limits.open_files",
    "limits.spool",
];
/// Lists whose items a running agent takes anew.
pub(crate) const LIVE_LISTS: &[&str] = &["task", "bus"];

/// The agent's settings, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// All of them as TOML, defaults filled in: what is kept and compared.
    pub effective: String,
    /// The file that it was loaded from, without what the manager gave over it.
    pub origin: Arc<Origin>,
    /// Its data centre.
    pub zone: Zone,
    /// Connections to the buses are TLS, those to an https manager trusted by this.
    pub tls: Option<Arc<tls::Dialer>>,
    /// Its memory between two lives.
    pub state_dir: PathBuf,
    /// Where a person asks it.
    pub admin: SocketAddr,
    /// How long the checkpoint keeps what it knows of removed tasks, in ms.
    pub keep_removed: u64,
    /// After how long an agent on a standby cluster looks for an earlier one, up to twice, in ms.
    pub return_after: u64,
    /// Who counts.
    pub manager: Option<Manager>,
    /// Clusters in failover order, at least one.
    pub bus: Vec<Cluster>,
    /// Ceilings.
    pub limits: Limits,
    /// What is collected.
    pub tasks: Vec<Task>,
    /// How it logs.
    pub log: Log,
}

/// The manager.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manager {
    /// Its URL.
    pub url: String,
    /// The file with its token.
    pub token_file: Option<PathBuf>,
}

/// A bus cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Its name.
    pub name: Name,
    /// Its nodes, as `host:port`.
    pub nodes: Vec<String>,
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    zone: Zone,
    state_dir: PathBuf,
    admin: SocketAddr,
    keep_removed: u64,
    return_after: u64,
    manager: Option<Manager>,
    bus: Vec<Cluster>,
    tls: Option<tls::DialerSettings>,
    limits: Limits,
    task: Vec<RawTask>,
    log: Log,
}

/// Loads `agent.toml`.
///
/// # Errors
/// All faults.
pub fn load(path: &Path, env: &Env) -> Result<Loaded<Config>, Faults> {
    config::load("agent", &SCHEMA, path, env, check).map(with_text)
}

/// Loads a configuration from text; `name` stands in faults where the file's name would.
///
/// # Errors
/// All faults.
pub fn parse(text: &str, name: &str) -> Result<Loaded<Config>, Faults> {
    config::parse("agent", &SCHEMA, text, name, &Env::none(), check).map(with_text)
}

/// Loads the configuration of a file once more, with what the manager gives over it, or without.
///
/// # Errors
/// All faults.
pub(crate) fn load_over(
    file: &Arc<Origin>,
    over: Option<Over<'_>>,
) -> Result<Loaded<Config>, Faults> {
    config::parse_over("agent", &SCHEMA, file, over, check).map(with_text)
}

/// Settings that know how they were written.
fn with_text(mut loaded: Loaded<Config>) -> Loaded<Config> {
    loaded.value.effective = loaded.effective().to_owned();
    loaded.value.origin = Arc::clone(loaded.origin());
    loaded
}

/// What spans several keys.
fn check(raw: RawConfig, checker: &mut Checker) -> Option<Config> {
    let RawConfig {
        zone,
        state_dir,
        admin,
        keep_removed,
        return_after,
        manager,
        bus,
        tls,
        limits,
        task,
        log,
    } = raw;
    if bus.is_empty() {
        checker.fault(
            "bus",
            "there is none; expected is at least one [[bus]] with name and nodes",
        );
    }
    if task.is_empty() {
        checker.warn("task", "there is none, so nothing is collected");
    }
    let tls = match tls {
        Some(tls) => Some(tls.check(checker)?),
        None => None,
    };
    let state_dir = checker.take("state_dir", std::path::absolute(&state_dir))?;
    let tasks: Vec<Option<Task>> = task
        .into_iter()
        .enumerate()
        .map(|(at, task)| check_task(at, task, checker))
        .collect();
    let tasks = tasks.into_iter().collect::<Option<Vec<Task>>>()?;
    Some(Config {
        effective: String::new(),
        origin: Arc::default(),
        zone,
        state_dir,
        admin,
        keep_removed,
        return_after,
        manager,
        bus,
        tls,
        limits,
        tasks,
        log,
    })
}
