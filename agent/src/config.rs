//! The agent's configuration: `agent.toml`, checked.
//!
//! Keys that this version does not obey are known to the schema: those that would change what is
//! collected are refused with what is allowed, pure ceilings warn.
//!
//! Not for: reading TOML (that is [`tributary_common::config`]). Called by `main.rs`, `tributary up`
//! and `tributary check`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tributary_common::{
    config::{self, Checker, Env, Faults, Key, Kind, Loaded, Schema, Variant, parses},
    ids::{Class, Name, TaskId, Topic, Zone},
    telemetry::{LOG, Log},
};

use crate::{
    discover::{Pattern, PatternSet},
    frame::{LongLine, Rule},
    times::{LineTime, TimeFrom},
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

static LIMITS: Schema = Schema::new(
    "What the agent may use of the host.",
    &[
        Key::default(
            "memory",
            Kind::size("8MiB", "64GiB"),
            "64MiB",
            "Memory of the whole agent. Half of it is for batches that are not acknowledged yet.",
        ),
        Key::optional(
            "bandwidth",
            Kind::rate("1KB/s", "100GB/s"),
            "Compressed bytes per second to the bus; absent: no limit.",
        ),
        Key::optional(
            "cpu",
            Kind::Percent {
                min: 1.0,
                max: 10_000.0,
            },
            "Share of one core; absent: no limit.",
        )
        .ignored("the agent uses the CPU that it needs; limit it by the service manager"),
        Key::optional(
            "spool",
            Kind::size("0B", "1024TiB"),
            "Room for files that are deleted before they are read.",
        )
        .ignored("deleted files are kept open until they are read, without a bound"),
    ],
);

static FRAMING: Kind = Kind::OneOf {
    tag: "kind",
    common: &[],
    variants: &[
        Variant::new("lines", "Each line is a record.", &[]),
        Variant::not_yet("multiline", "Several lines make a record."),
        Variant::not_yet("cri", "Lines of a container runtime, joined where partial."),
        Variant::not_yet(
            "docker-json",
            "Lines of Docker's JSON files, joined where partial.",
        ),
    ],
};

static TIME: Kind = Kind::OneOf {
    tag: "from",
    common: &[],
    variants: &[
        Variant::new("read", "The event time of a record is when it was read.", &[]),
        Variant::new(
            "line",
            "The event time is in the line; where it is not, the time of reading counts.",
            &[
                Key::required("pattern", Kind::Text, "How the time is written, as in strftime: `%d/%b/%Y:%H:%M:%S %z`. Without a zone it is UTC."),
                Key::optional("at", Kind::Text, "A regular expression with a group `time`; absent: the first place in the line where the pattern fits at its beginning.")
                    .not_yet("leave it out; the time is looked for at the beginning of the line and after each of [ ( \" and space"),
            ],
        ),
    ],
};

static TASK: Schema = Schema::new(
    "Which files go to which topic, and how.",
    &[
        Key::required(
            "id",
            Kind::checked("task id", "nginx-access", parses::<TaskId>),
            "Its name; a new name reads all files anew.",
        ),
        Key::required(
            "topic",
            Kind::checked("topic", "web.access", parses::<Topic>),
            "Where its lines go.",
        ),
        Key::default(
            "class",
            Kind::choice(&["P0", "P1", "P2", "P3"]),
            "P2",
            "How urgent it is: P0 critical to P3 bulk.",
        ),
        Key::required(
            "paths",
            Kind::list(
                &Kind::checked("path", "/var/log/nginx/**/access*.log", Pattern::check),
                1,
            ),
            "Its files: absolute paths with `*`, `?`, `[a-z]`, `{a,b}` and `**`.",
        ),
        Key::default(
            "exclude",
            Kind::list(&Kind::checked("pattern", "**/*.tmp", PatternSet::check), 0),
            "[]",
            "Files that are none of its, by the same patterns.",
        ),
        Key::default(
            "start",
            Kind::choice(&["beginning", "end"]),
            "beginning",
            "Where to begin in files that exist when the task first starts.",
        ),
        Key::default(
            "encoding",
            Kind::checked("encoding", "utf-8", check_encoding),
            "utf-8",
            "The files' encoding, as a WHATWG label. utf-8 passes all bytes as they are; others become UTF-8.",
        ),
        Key::default(
            "max_line",
            Kind::size("16B", "1MiB"),
            "1MiB",
            "The longest record.",
        ),
        Key::default(
            "long_line",
            Kind::choice(&["split", "truncate"]),
            "split",
            "Longer lines become several records, or lose their rest. Both are counted.",
        ),
        Key::default(
            "framing",
            FRAMING,
            "{ kind = \"lines\" }",
            "How bytes become records.",
        ),
        Key::default(
            "time",
            TIME,
            "{ from = \"read\" }",
            "The event time of a record.",
        ),
        Key::optional(
            "rate",
            Kind::rate("1KB/s", "100GB/s"),
            "Bytes per second read for this task; absent: no limit.",
        ),
        Key::default(
            "labels",
            Kind::Map(&Kind::Text),
            "{}",
            "What people want to know of it.",
        ),
    ],
);

/// The keys of `agent.toml`.
pub static SCHEMA: Schema = Schema::new(
    "The daemon on every server.",
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
        Key::optional_table("manager", &MANAGER),
        Key::tables(
            "bus",
            Kind::list_by(&Kind::Table(&BUS), "name"),
            "Bus clusters, in failover order.",
        ),
        Key::optional("tls", Kind::Any, "Encryption to the bus.")
            .not_yet("leave it out; use a private network or a tunnel"),
        Key::table("limits", &LIMITS),
        Key::tables(
            "task",
            Kind::list_by(&Kind::Table(&TASK), "id"),
            "What is collected.",
        ),
        Key::table("log", &LOG),
    ],
);

/// The agent's settings, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its data centre.
    pub zone: Zone,
    /// Its memory between two lives.
    pub state_dir: PathBuf,
    /// Where a person asks it.
    pub admin: SocketAddr,
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

/// Ceilings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes per second to the bus.
    pub bandwidth: Option<u64>,
    /// Known, not obeyed.
    #[serde(default)]
    cpu: Option<f64>,
    /// Known, not obeyed.
    #[serde(default)]
    spool: Option<u64>,
}

impl Limits {
    /// Limits with only a memory bound, in bytes.
    #[must_use]
    pub fn of_memory(memory: u64) -> Self {
        Self {
            memory,
            bandwidth: None,
            cpu: None,
            spool: None,
        }
    }
}

/// Where to begin in files that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// At the first byte.
    Beginning,
    /// After the last line that is there.
    End,
}

/// One task.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Where its lines go.
    pub topic: Topic,
    /// How urgent it is.
    pub class: Class,
    /// Which files.
    pub(crate) paths: Vec<Pattern>,
    /// Which not.
    pub(crate) exclude: PatternSet,
    /// Where to begin.
    pub start: Start,
    /// The files' encoding; `None` passes bytes as they are.
    pub encoding: Option<&'static encoding_rs::Encoding>,
    /// How lines become records.
    pub(crate) rule: Rule,
    /// Event times.
    pub(crate) time: TimeFrom,
    /// Bytes per second.
    pub rate: Option<u64>,
    /// What people want to know of it.
    pub labels: BTreeMap<String, String>,
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    zone: Zone,
    state_dir: PathBuf,
    admin: SocketAddr,
    manager: Option<Manager>,
    bus: Vec<Cluster>,
    limits: Limits,
    task: Vec<RawTask>,
    log: Log,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTask {
    id: TaskId,
    topic: Topic,
    class: Class,
    paths: Vec<String>,
    exclude: Vec<String>,
    start: Start,
    encoding: String,
    max_line: u64,
    long_line: LongLine,
    framing: RawFraming,
    time: RawTime,
    rate: Option<u64>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum RawFraming {
    Lines,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case", deny_unknown_fields)]
enum RawTime {
    Read,
    Line { pattern: String },
}

/// Loads `agent.toml`.
///
/// # Errors
/// All faults.
pub fn load(path: &Path, env: &Env) -> Result<Loaded<Config>, Faults> {
    config::load("agent", &SCHEMA, path, env, check)
}

/// Loads a configuration from text; `name` stands in faults where the file's name would.
///
/// # Errors
/// All faults.
pub fn parse(text: &str, name: &str) -> Result<Loaded<Config>, Faults> {
    config::parse("agent", &SCHEMA, text, name, &Env::none(), check)
}

/// What spans several keys.
fn check(raw: RawConfig, checker: &mut Checker) -> Option<Config> {
    let RawConfig {
        zone,
        state_dir,
        admin,
        manager,
        bus,
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
    if let Some(manager) = &manager
        && manager.url.starts_with("https:")
    {
        checker.fault("manager.url", "https is not in this version; use http");
    }
    let state_dir = checker.take("state_dir", std::path::absolute(&state_dir))?;
    let tasks: Vec<Option<Task>> = task
        .into_iter()
        .enumerate()
        .map(|(at, task)| check_task(at, task, checker))
        .collect();
    let tasks = tasks.into_iter().collect::<Option<Vec<Task>>>()?;
    Some(Config {
        zone,
        state_dir,
        admin,
        manager,
        bus,
        limits,
        tasks,
        log,
    })
}

fn check_task(at: usize, raw: RawTask, checker: &mut Checker) -> Option<Task> {
    let RawFraming::Lines = raw.framing;
    let mut paths = Vec::new();
    for (place, path) in raw.paths.iter().enumerate() {
        paths.extend(checker.take(&format!("task[{at}].paths[{place}]"), Pattern::new(path)));
    }
    let exclude = checker.take(
        &format!("task[{at}].exclude"),
        PatternSet::new(&raw.exclude),
    );
    let time = match raw.time {
        RawTime::Read => Some(TimeFrom::Read),
        RawTime::Line { pattern } => checker
            .take(&format!("task[{at}].time.pattern"), LineTime::new(&pattern))
            .map(TimeFrom::Line),
    };
    let encoding = checker.take(
        &format!("task[{at}].encoding"),
        find_encoding(&raw.encoding),
    );
    Some(Task {
        id: raw.id,
        topic: raw.topic,
        class: raw.class,
        paths,
        exclude: exclude?,
        start: raw.start,
        encoding: encoding?,
        rule: Rule {
            max_line: u32::try_from(raw.max_line).unwrap_or(u32::MAX),
            long_line: raw.long_line,
        },
        time: time?,
        rate: raw.rate,
        labels: raw.labels,
    })
}

fn check_encoding(label: &str) -> Result<(), String> {
    find_encoding(label).map(drop)
}

/// The encoding of a label; `None` for UTF-8, whose bytes pass as they are.
fn find_encoding(label: &str) -> Result<Option<&'static encoding_rs::Encoding>, String> {
    let Some(encoding) = encoding_rs::Encoding::for_label(label.as_bytes()) else {
        return Err(format!(
            "{label:?} is no encoding; expected is a WHATWG label such as utf-8, gbk, big5"
        ));
    };
    if encoding == encoding_rs::UTF_8 {
        return Ok(None);
    }
    // Newlines are looked for as bytes.
    if !encoding.is_ascii_compatible() {
        let name = encoding.name();
        return Err(format!(
            "{name} is not in this version; allowed are encodings that extend ASCII"
        ));
    }
    Ok(Some(encoding))
}
