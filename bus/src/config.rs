//! The configuration of a bus node: schema, raw form, checked form.
//!
//! What is written where is told in `docs/config.md`, which is made from [`SCHEMA`]. Keys of the
//! documented outside that this version does not have are known: those that would change the
//! meaning are refused by name, the others warn. Called by `main.rs`, `tributary up`, `check`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use tributary_common::{
    config::{
        self, Checker, Env, Faults, Key, Kind, Loaded, Origin, Over, Schema, Variant, parses,
    },
    ids::{Name, NodeId, Zone},
    telemetry::{LOG, Log},
    tls,
};

pub use crate::destination::{
    kafka::{KafkaConfig, ProducerKind, groups::Groups},
    rolled::{Compression, Hdfs, Kerberos, Place, Roll, RolledConfig},
    search::{Document, SearchConfig, TemplateKind},
};
use crate::{
    destination::kafka::{self, security::Security},
    route::{Pattern, Table},
    template::Template,
};

static LIMITS: Schema = Schema::new(
    "What the node may use.",
    &[
        Key::default(
            "memory",
            Kind::size("16MiB", "1TiB"),
            "1GiB",
            "Bytes of batches in flight; above it nothing is read and TCP pushes back. P3 is told to wait at 60 % of it, P2 at 75 %, P1 at 90 %.",
        ),
        Key::optional(
            "agent_rate",
            Kind::rate("1KB/s", "1TB/s"),
            "What one agent may send to this node, of all its topics, in payload bytes as they come (compressed); above it that agent waits. Left out: no quota.",
        ),
        Key::optional(
            "topic_rate",
            Kind::rate("1KB/s", "1TB/s"),
            "What may be sent of one topic to this node, by all agents, in payload bytes as they come (compressed); above it that topic waits, the others go on. Left out: no quota.",
        ),
        Key::default(
            "connections",
            Kind::Integer {
                min: 1,
                max: 1_000_000,
            },
            "20000",
            "Most open connections; more wait in the kernel's queue.",
        ),
    ],
);

static SPILL: Schema = Schema::new(
    "Disk space for what a destination does not take now, below data_dir/spill.",
    &[
        Key::default(
            "max",
            Kind::size("0B", "1024TiB"),
            "10GiB",
            "Most bytes on disk. 0B: no spill; while a destination is down the answer is Busy and the agents hold the data.",
        ),
        Key::default(
            "min_free",
            Kind::Percent {
                min: 0.0,
                max: 100.0,
            },
            "5%",
            "Free disk space that is left alone.",
        ),
        Key::default(
            "when_full",
            Kind::choice(&["busy", "drop-oldest"]),
            "busy",
            "What a full spill does. busy: the agents hold the data. drop-oldest: the oldest batches are lost, counted.",
        ),
    ],
);

static DEAD: Schema = Schema::new(
    "Records that a destination will never take as they are, below data_dir/dead, until somebody replays them or gives them up.",
    &[Key::default(
        "max",
        Kind::size("1MiB", "1GiB"),
        "64MiB",
        "Most bytes of one destination, which has 200000 letters at most. When they are full, what would come to them waits.",
    )],
);

static MANAGER: Schema = Schema::new(
    "The manager that is told what this node received and delivered.",
    &[
        Key::required(
            "url",
            Kind::Url(&["http", "https"]),
            "Where it is, such as http://127.0.0.1:7500.",
        ),
        Key::optional(
            "token_file",
            Kind::Path,
            "A file with the token that it gave out.",
        ),
        Key::optional(
            "ca",
            Kind::Path,
            "With https: certificates of the authorities that are trusted, PEM. Left out: those of the system.",
        ),
    ],
);

static NAME: Kind = Kind::checked("name", "kafka-main", parses::<Name>);
static HOST_PORT: Kind = Kind::HostPort;
static TEXT: Kind = Kind::Text;

static DESTINATION: Kind = Kind::OneOf {
    tag: "kind",
    common: &[Key::required(
        "name",
        NAME,
        "Its name, for routes, receipts and metrics.",
    )],
    variants: &[
        Variant::new(
            "kafka",
            "A Kafka cluster.",
            &[
                Key::required(
                    "bootstrap",
                    Kind::list(&HOST_PORT, 1),
                    "Brokers to ask first.",
                ),
                Key::optional(
                    "producer",
                    Kind::choice(&["verbatim", "rdkafka"]),
                    "Who produces: verbatim forwards batches as they came, at a tenth of the CPU, over TLS and with SASL PLAIN, SCRAM or OAUTHBEARER where the options say so; rdkafka opens them, and has another codec and whatever else librdkafka can. Left out: verbatim, or rdkafka where the options need it.",
                ),
                Key::default(
                    "options",
                    Kind::Map(&TEXT),
                    "{}",
                    "Settings of librdkafka, such as \"security.protocol\"; with verbatim it only looks into the cluster. And, of ours, \"sasl.oauthbearer.token.file\": a file with the token for OAUTHBEARER, read again for each connection.",
                ),
                Key::default(
                    "partition_rate",
                    Kind::rate("1KB/s", "100GB/s"),
                    "1MB/s",
                    "The slow streams of a topic share one of its partitions for each so many bytes a second of lines that they bring to this node together, so that small batches meet and are merged; fast ones, and records with keys, go to all. A stream keeps its partition, also over a restart, unless its rate changes for long (ADR 0039).",
                ),
                Key::optional_table("groups", &groups::GROUPS),
            ],
        ),
        rolled::FILE,
        search::VARIANT,
        rolled::HDFS,
        Variant::new(
            "discard",
            "Nowhere: what comes is checked, counted as delivered here, and gone. For topics that nobody wants, and to see what a bus takes in.",
            &[],
        ),
    ],
};

static CREATE: Schema = Schema::new(
    "The bus creates a topic that a Kafka lacks. Without this table its brokers may (auto.create.topics.enable); where they do not, the topic is refused. Not for destinations with groups, which create topics inside them.",
    &[
        Key::optional(
            "partitions",
            Kind::Integer {
                min: 1,
                max: 10_000,
            },
            "Its partitions. Absent: as its brokers have it (num.partitions).",
        ),
        Key::optional(
            "replicas",
            Kind::Integer { min: 1, max: 100 },
            "The replicas of each. Absent: as its brokers have it (default.replication.factor).",
        ),
    ],
);

static BRANCH: Schema = Schema::new(
    "One destination of a route.",
    &[
        Key::required("destination", NAME, "A [[destination]]'s name."),
        Key::default(
            "topic",
            Kind::checked("template", "{topic}", check_template),
            "{topic}",
            "The topic's name there. File destinations have their path instead.",
        ),
        Key::default(
            "standby",
            Kind::list(&NAME, 0),
            "[]",
            "Destinations of the same kind that take new batches, in this order, while the destination takes none for some seconds. What it was given before stays with it.",
        ),
        Key::optional_table("create", &CREATE),
        Key::optional(
            "index",
            Kind::checked("template", "logs-{topic}-{date}", check_template),
            "The index or data stream there, of elasticsearch destinations: {topic} in lower case; {date} and {hour} (UTC) of each record's own time. Left out: {topic}.",
        ),
    ],
);
static BRANCH_TABLE: Kind = Kind::Table(&BRANCH);

static ROUTE: Schema = Schema::new(
    "Which topics go where; the first match wins.",
    &[
        Key::required(
            "topic",
            Kind::checked("topic pattern", "web.*", check_pattern),
            "A topic, where * stands for any run of characters.",
        ),
        Key::required(
            "to",
            Kind::list(&BRANCH_TABLE, 1),
            "Where to: a batch is delivered when all have it.",
        ),
    ],
);
static ROUTE_TABLE: Kind = Kind::Table(&ROUTE);

/// Keys that count at once when the configuration is loaded again; of `spill.max` only as long as there is
/// a spill. Destinations, too, are a list of their own.
pub(crate) const LIVE_KEYS: &[&str] = &["route", "spill.max", "spill.min_free", "spill.when_full"];
/// The list that does.
pub(crate) const LIVE_LIST: &str = "destination";

/// All keys of `bus.toml`.
pub static SCHEMA: Schema = Schema::new(
    "A bus node. SIGHUP takes `[[route]]`, `[[destination]]` and `[spill]` anew; a document that changes anything else is refused as a whole until a restart. The manager can give `[[route]]` and `[[destination]]` in the place of those here.",
    &[
        Key::required(
            "zone",
            Kind::checked("zone", "dc1", parses::<Zone>),
            "The data centre of this node.",
        ),
        Key::required(
            "cluster",
            NAME,
            "The cluster of bus nodes that it belongs to.",
        ),
        Key::optional(
            "node",
            Kind::checked("node", "bus1", parses::<NodeId>),
            "Its name in the cluster; the host's name when left out.",
        ),
        Key::default(
            "listen",
            Kind::Socket,
            "0.0.0.0:7400",
            "Where agents and clients connect.",
        ),
        Key::default(
            "admin",
            Kind::Socket,
            "127.0.0.1:7401",
            "Where /metrics, /healthz, /readyz and /status are.",
        ),
        Key::default(
            "data_dir",
            Kind::Path,
            "/var/lib/tributary/bus",
            "Where the node remembers what it delivered. One process at a time.",
        ),
        Key::table("limits", &LIMITS),
        Key::table("spill", &SPILL),
        Key::table("dead", &DEAD),
        Key::tables(
            "destination",
            Kind::list_by(&DESTINATION, "name"),
            "A place where batches can go.",
        ),
        Key::tables(
            "route",
            Kind::list(&ROUTE_TABLE, 0),
            "A rule of where topics go.",
        ),
        Key::optional_table("manager", &MANAGER),
        Key::optional_table("tls", &tls::ACCEPTOR),
        Key::table("log", &LOG),
    ],
);

fn check_template(text: &str) -> Result<(), String> {
    Template::parse(text)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn check_pattern(text: &str) -> Result<(), String> {
    let allowed = "allowed are a-z A-Z 0-9 . _ - and *";
    Pattern::new(text)
        .map(drop)
        .ok_or_else(|| format!("{text:?} matches no topic; {allowed}"))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    zone: Zone,
    cluster: Name,
    node: Option<NodeId>,
    listen: String,
    admin: String,
    data_dir: PathBuf,
    limits: Limits,
    spill: RawSpill,
    dead: DeadLimits,
    destination: Vec<RawDestination>,
    route: Vec<RawRoute>,
    manager: Option<Manager>,
    tls: Option<tls::AcceptorSettings>,
    log: Log,
}

#[derive(Debug, Deserialize)]
struct RawSpill {
    max: u64,
    min_free: f64,
    when_full: WhenFull,
}

impl RawSpill {
    fn limits(&self) -> Option<SpillLimits> {
        (self.max > 0).then_some(SpillLimits {
            max: self.max,
            min_free_percent: self.min_free,
            when_full: self.when_full,
        })
    }
}

/// What a full spill does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// It takes nothing more; the agents hold the data.
    Busy,
    /// It gives up its oldest batches, and tells the manager which.
    DropOldest,
}

#[derive(Debug, Deserialize)]
struct RawDestination {
    name: Name,
    #[serde(flatten)]
    kind: RawKind,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum RawKind {
    Kafka {
        bootstrap: Vec<String>,
        producer: Option<String>,
        options: BTreeMap<String, String>,
        partition_rate: u64,
        groups: Option<groups::RawGroups>,
    },
    File(rolled::RawFile),
    Hdfs(rolled::RawHdfs),
    /// Boxed: it has many keys.
    Elasticsearch(Box<search::RawSearch>),
    Discard,
}

impl RawKind {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Kafka { .. } => "kafka",
            Self::File(_) => "file",
            Self::Hdfs(_) => "hdfs",
            Self::Elasticsearch(_) => "elasticsearch",
            Self::Discard => "discard",
        }
    }
}

#[derive(Debug, Deserialize)]
struct RawRoute {
    topic: String,
    to: Vec<RawBranch>,
}

#[derive(Debug, Deserialize)]
struct RawBranch {
    destination: Name,
    topic: String,
    index: Option<String>,
    standby: Vec<Name>,
    create: Option<RawCreate>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct RawCreate {
    partitions: Option<i32>,
    replicas: Option<i16>,
}

/// What the node may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Limits {
    /// Bytes of batches in flight.
    pub memory: u64,
    /// Bytes per second of one agent.
    pub agent_rate: Option<u64>,
    /// Bytes per second of one topic.
    pub topic_rate: Option<u64>,
    /// Most open connections.
    pub connections: usize,
}

/// The disk for what a destination does not take now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpillLimits {
    /// Most bytes on disk.
    pub max: u64,
    /// Percent of the disk that stay free.
    pub min_free_percent: f64,
    /// What it does when there is no room.
    pub when_full: WhenFull,
}

/// What is kept of records that a destination will never take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct DeadLimits {
    /// Most bytes of one destination.
    pub max: u64,
}

/// The manager.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Manager {
    /// Where it is.
    pub url: String,
    /// A file with the token for it.
    pub token_file: Option<PathBuf>,
    /// A file with the authorities that are trusted for `https`; those of the system without it.
    pub ca: Option<PathBuf>,
}

/// A destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationConfig {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub kind: DestinationKind,
}

/// What a destination is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationKind {
    /// A Kafka cluster.
    Kafka(KafkaConfig),
    /// Local files.
    File {
        /// The folder of a batch.
        path: Template,
    },
    /// Files that appear whole, on this machine or in HDFS.
    Rolled(RolledConfig),
    /// Elasticsearch or OpenSearch.
    Search(SearchConfig),
    /// Nowhere.
    Discard,
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The document as it counts, for comparing.
    pub effective: String,
    /// The file that it was loaded from, without what the manager's document says.
    pub origin: Arc<Origin>,
    /// The data centre.
    pub zone: Zone,
    /// The cluster.
    pub cluster: Name,
    /// The node.
    pub node: NodeId,
    /// Where agents and clients connect; port 0 takes a free one.
    pub listen: String,
    /// Where the admin pages are; port 0 takes a free one.
    pub admin: String,
    /// Where the node keeps what it must remember.
    pub data_dir: PathBuf,
    /// What it may use.
    pub limits: Limits,
    /// Its spill, where it has one.
    pub spill: Option<SpillLimits>,
    /// Its dead letters.
    pub dead: DeadLimits,
    /// Where batches can go.
    pub destinations: Vec<DestinationConfig>,
    /// Which topics go where.
    pub routes: Table,
    /// Who is told about it.
    pub manager: Option<Manager>,
    /// The agents' port speaks TLS.
    pub tls: Option<Arc<tls::Acceptor>>,
    /// How it logs.
    pub log: Log,
}

/// Loads the configuration from a file.
///
/// # Errors
/// All faults.
pub fn load(path: &Path, env: &Env) -> Result<Loaded<Config>, Faults> {
    config::load("bus", &SCHEMA, path, env, check).map(with_text)
}

/// Loads the configuration from text; `name` stands in faults where a file's name would.
///
/// # Errors
/// All faults.
pub fn parse(text: &str, name: &str) -> Result<Loaded<Config>, Faults> {
    config::parse("bus", &SCHEMA, text, name, &Env::none(), check).map(with_text)
}

/// Loads the configuration from its file as it was, with a document of the manager over it or without.
///
/// # Errors
/// All faults.
pub(crate) fn load_over(
    file: &Arc<Origin>,
    over: Option<Over<'_>>,
) -> Result<Loaded<Config>, Faults> {
    config::parse_over("bus", &SCHEMA, file, over, check).map(with_text)
}

/// Settings that know how they were written.
fn with_text(mut loaded: Loaded<Config>) -> Loaded<Config> {
    loaded.value.effective = loaded.effective().to_owned();
    loaded.value.origin = Arc::clone(loaded.origin());
    loaded
}

fn check(raw: Raw, checker: &mut Checker) -> Option<Config> {
    let node = match &raw.node {
        Some(node) => Some(node.clone()),
        None => host_name(checker),
    };
    let routes = routes::check(&raw, checker);
    rolled::needs_a_spill(&raw, checker);
    if raw.destination.is_empty() {
        checker.fault(
            "",
            "has no [[destination]]; at least one is needed, for instance kind = \"file\"",
        );
    }
    if raw.route.is_empty() && !raw.destination.is_empty() {
        checker.fault("", "has no [[route]]; without one every batch is refused. To send all topics to one destination use topic = \"*\"");
    }
    let destinations = raw
        .destination
        .into_iter()
        .enumerate()
        .filter_map(|(at, destination)| {
            let kind = check_kind(destination.kind, at, checker)?;
            Some(DestinationConfig {
                name: destination.name,
                kind,
            })
        });
    let destinations = destinations.collect();
    let tls = match raw.tls {
        Some(tls) => Some(tls.check(checker)?),
        None => None,
    };
    Some(Config {
        effective: String::new(),
        origin: Arc::default(),
        zone: raw.zone,
        cluster: raw.cluster,
        node: node?,
        listen: raw.listen,
        admin: raw.admin,
        data_dir: raw.data_dir,
        limits: raw.limits,
        spill: raw.spill.limits(),
        dead: raw.dead,
        destinations,
        routes: Table::new(routes),
        manager: raw.manager,
        tls,
        log: raw.log,
    })
}

fn check_kind(kind: RawKind, at: usize, checker: &mut Checker) -> Option<DestinationKind> {
    match kind {
        RawKind::Kafka {
            bootstrap,
            producer,
            options,
            partition_rate,
            groups,
        } => {
            let (options, twice) = kafka::by_one_name(options);
            for (alias, name) in twice {
                checker.fault(
                    &format!("destination[{at}].options"),
                    format!("{alias:?} and {name:?} are one setting; leave one of them out"),
                );
            }
            let groups =
                groups.map(|one| one.check(&options, &format!("destination[{at}]"), checker));
            let beyond = kafka::security::beyond(&options);
            let producer = match producer.as_deref() {
                Some("rdkafka") => ProducerKind::Rdkafka,
                None if beyond.is_some() || options.contains_key(kafka::CODEC) => {
                    ProducerKind::Rdkafka
                }
                Some(_) | None => ProducerKind::Verbatim,
            };
            if producer == ProducerKind::Verbatim
                && let Err(error) = Security::of(&options)
            {
                checker.fault(&format!("destination[{at}].options"), error);
            }
            if producer == ProducerKind::Verbatim && options.contains_key(kafka::CODEC) {
                checker.warn(
                    &format!("destination[{at}].options"),
                    "\"compression.type\" does nothing with producer = \"verbatim\", which keeps the \
                     agents' codec; for another one use producer = \"rdkafka\"",
                );
            }
            for key in options.keys().filter(|key| kafka::is_ours(key)) {
                checker.fault(
                    &format!("destination[{at}].options"),
                    format!(
                        "{key:?} is set by the bus: delivery guarantees depend on it; leave it out"
                    ),
                );
            }
            Some(DestinationKind::Kafka(KafkaConfig {
                bootstrap,
                options,
                producer,
                groups,
                partition_rate,
            }))
        }
        RawKind::File(file) => file.check(at, checker),
        RawKind::Hdfs(hdfs) => hdfs.check(at, checker).map(DestinationKind::Rolled),
        RawKind::Elasticsearch(search) => {
            let search = search.check(&format!("destination[{at}]"), checker);
            Some(DestinationKind::Search(search))
        }
        RawKind::Discard => Some(DestinationKind::Discard),
    }
}

/// The host's name as a node's name.
fn host_name(checker: &mut Checker) -> Option<NodeId> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    checker.take(
        "node",
        NodeId::new(host.trim())
            .map_err(|error| format!("is not given, and the host's name is none: {error}")),
    )
}

mod groups;
mod rolled;
mod routes;
mod search;
#[cfg(test)]
mod tests;
