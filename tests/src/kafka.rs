//! A real Kafka (4.3.1) as child processes: one node, or more that join it.
//!
//! Its jars come from `make setup`. [`shared`] is one broker for all scenarios that only need one;
//! a scenario that breaks the broker starts its own.

mod acl;
mod consume;
pub mod old;
mod produce;
pub mod secured;
mod tools;

use std::{
    fs,
    net::TcpListener,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rdkafka::{
    ClientConfig,
    admin::{
        AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
        TopicReplication,
    },
    client::DefaultClientContext,
};
use rustix::process::Signal;

pub use self::{consume::Arrived, produce::Produced};
use crate::{child::Child, poll, scratch};

/// A start with formatting takes 4 to 8 s; after kill -9 the node is refused until its old session
/// has ended, 8 s more. Both double on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(90);
/// The only id that a single cluster needs.
const CLUSTER_ID: &str = "AAAAAAAAAAAAAAAAAAAAAQ";
const READY: &str = "Kafka Server started";

/// A broker.
#[derive(Debug)]
pub struct Kafka {
    folder: PathBuf,
    port: u16,
    /// Where the first broker of its cluster listens as the controller.
    controller: u16,
    process: Child,
}

/// What one broker has beside the others: lines of its properties, arguments of its formatting, flags.
#[derive(Debug, Default)]
struct Extra {
    lines: String,
    format: Vec<String>,
    /// Of its Java machine.
    flags: String,
}

/// The broker that all scenarios share which do not break it; started on first use, ended with the
/// test process.
///
/// # Errors
/// When it does not start; every caller gets the same error.
pub fn shared() -> Result<&'static Kafka> {
    static SHARED: OnceLock<Result<Kafka, String>> = OnceLock::new();
    let start = || {
        let folder = scratch::create("kafka").map_err(|error| format!("{error:#}"))?;
        Kafka::start(&folder).map_err(|error| format!("{error:#}"))
    };
    SHARED
        .get_or_init(start)
        .as_ref()
        .map_err(|text| anyhow!("no shared Kafka: {text}"))
}

/// A port of the loopback interface that nobody uses at this moment. Never the same twice in a
/// process, and none of those that the kernel gives to connections: whoever listens comes later.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    /// Below the range of connections, which begins at 32768.
    const PORTS: Range<u16> = 20_000..32_000;
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(PORTS)));
    for _port in PORTS {
        let port = PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port from {} to {} is free", PORTS.start, PORTS.end)
}

impl Kafka {
    /// Formats a data folder below `folder` and starts a broker there.
    ///
    /// # Errors
    /// When the jars are missing or it does not start, with the end of its log.
    pub fn start(folder: &Path) -> Result<Self> {
        let port = free_port()?;
        Self::start_at(folder, port, &format!("127.0.0.1:{port}"))
    }

    /// As [`Kafka::start`], with more lines of properties.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn start_with(folder: &Path, lines: &str) -> Result<Self> {
        let port = free_port()?;
        let extra = Extra {
            lines: lines.to_owned(),
            ..Extra::default()
        };
        let advertised = format!("127.0.0.1:{port}");
        Self::start_node(folder, 1, (port, free_port()?), &advertised, &extra)
    }

    /// As [`Kafka::start`], on a given port; clients are told to connect to `advertised`, such as a
    /// proxy in front of that port.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn start_at(folder: &Path, port: u16, advertised: &str) -> Result<Self> {
        Self::start_node(
            folder,
            1,
            (port, free_port()?),
            advertised,
            &Extra::default(),
        )
    }

    /// Starts a further broker of this cluster, with an id above 1. This one stays the only controller,
    /// so it must not be killed while the others are to go on.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn join(&self, folder: &Path, id: u32) -> Result<Self> {
        let port = free_port()?;
        let advertised = format!("127.0.0.1:{port}");
        let ports = (port, self.controller);
        Self::start_node(folder, id, ports, &advertised, &Extra::default())
    }

    /// Starts three brokers in folders of their own, of which the first is the only controller.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn three(folder: &Path) -> Result<(Self, Self, Self)> {
        let first = Self::start(&folder.join("1"))?;
        let (second, third) = thread::scope(|scope| {
            let second = scope.spawn(|| first.join(&folder.join("2"), 2));
            let third = first.join(&folder.join("3"), 3);
            (second.join(), third)
        });
        let second = second.map_err(|_panic| anyhow!("a start panicked"))?;
        Ok((first, second?, third?))
    }

    fn start_node(
        folder: &Path,
        id: u32,
        (port, controller): (u16, u16),
        advertised: &str,
        extra: &Extra,
    ) -> Result<Self> {
        fs::create_dir_all(folder)?;
        // What comes later counts.
        let properties = properties(folder, id, (port, controller), advertised) + &extra.lines;
        fs::write(folder.join("server.properties"), properties)?;
        fs::write(folder.join("flags"), &extra.flags)?;
        fs::write(folder.join("log4j2.properties"), LOG4J)?;
        // The tools print their answers; a log would stand between them.
        fs::write(
            folder.join("quiet.properties"),
            LOG4J.replace("level=INFO", "level=OFF"),
        )?;
        let mut format = vec!["format", "-t", CLUSTER_ID, "-c", "server.properties"];
        format.extend(extra.format.iter().map(String::as_str));
        tools::run(folder, "kafka.tools.StorageTool", &format)?;
        let process = launch(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            port,
            controller,
            process,
        })
    }

    /// What a client connects to.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its folder: data, configuration, log.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again on the same port and data, and waits until it serves.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.process = launch(&self.folder)?;
        Ok(())
    }

    /// Stops it as a hung process stops: sockets open, no answers.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pause(&mut self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// The end of a [`Kafka::pause`].
    ///
    /// # Errors
    /// When it is not running.
    pub fn resume(&mut self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// The broker's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// When it exists, or the broker does not answer.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        self.create(&NewTopic::new(
            topic,
            partitions,
            TopicReplication::Fixed(1),
        ))
    }

    /// Creates a topic with three replicas, two of which must have a batch before it is answered.
    ///
    /// # Errors
    /// When it exists, or fewer than three brokers run.
    pub fn create_replicated_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(3));
        self.create(&new.set("min.insync.replicas", "2"))
    }

    /// Creates a topic of one partition with settings (`max.message.bytes`).
    ///
    /// # Errors
    /// When it exists, or the broker does not answer.
    pub fn create_topic_with(&self, topic: &str, settings: &[(&str, &str)]) -> Result<()> {
        let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
        let new = settings
            .iter()
            .fold(new, |new, (key, value)| new.set(key, value));
        self.create(&new)
    }

    /// Creates a topic with a partition on each of these brokers, and nowhere else.
    ///
    /// # Errors
    /// When it exists, or the broker does not answer.
    pub fn create_topic_on(&self, topic: &str, brokers: &[i32]) -> Result<()> {
        let replicas: Vec<&[i32]> = brokers.chunks(1).collect();
        let places = TopicReplication::Variable(&replicas);
        self.create(&NewTopic::new(topic, i32::try_from(brokers.len())?, places))
    }

    /// Gives a topic more partitions: so many in all.
    ///
    /// # Errors
    /// When it has as many, or the broker does not answer.
    pub fn grow_topic(&self, topic: &str, partitions: usize) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let new = NewPartitions::new(topic, partitions);
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let results = runtime.block_on(admin.create_partitions([&new], &options))?;
        for result in results {
            result.map_err(|(name, code)| anyhow!("failed to grow topic {name}: {code}"))?;
        }
        Ok(())
    }

    /// Deletes a topic, with all that is in it.
    ///
    /// # Errors
    /// When there is none, or the broker does not answer.
    pub fn delete_topic(&self, topic: &str) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let results = runtime.block_on(admin.delete_topics(&[topic], &options))?;
        for result in results {
            result.map_err(|(name, code)| anyhow!("failed to delete topic {name}: {code}"))?;
        }
        Ok(())
    }

    /// Changes a setting of a topic; the others are what they are by default from now on.
    ///
    /// # Errors
    /// When the broker does not answer, or refuses it.
    pub fn set_topic(&self, topic: &str, key: &str, value: &str) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(key, value);
        let results = runtime.block_on(admin.alter_configs([&change], &AdminOptions::new()))?;
        for result in results {
            result.map_err(|(_what, code)| anyhow!("failed to set {key} of {topic}: {code}"))?;
        }
        Ok(())
    }

    fn create(&self, new: &NewTopic<'_>) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let results = runtime.block_on(admin.create_topics([new], &options))?;
        for result in results {
            result.map_err(|(name, code)| anyhow!("failed to create topic {name}: {code}"))?;
        }
        // The controller has it; the other brokers hear of it later, and refuse whoever asks before.
        poll::until("the new topic to have leaders", START_LIMIT, || {
            Ok(self.offsets(new.name).ok())
        })
        .map(drop)
    }

    /// A client's configuration with nothing but the address.
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap());
        config
    }
}

fn launch(folder: &Path) -> Result<Child> {
    let log = folder.join("kafka.log");
    let plan = tools::java(folder)?
        .args([
            "-Xms256m",
            "-Xmx256m",
            "-Dlog4j2.configurationFile=log4j2.properties",
        ])
        .args(["@flags", "kafka.Kafka", "server.properties"]);
    let said = fs::metadata(&log).map_or(0, |meta| meta.len());
    let mut process = Child::start("kafka", &plan, &log)?;
    poll::until("Kafka to start", START_LIMIT, || {
        process.must_run()?;
        Ok(process.log_since(said)?.contains(READY).then_some(()))
    })
    .with_context(|| process.log_tail())?;
    Ok(process)
}

/// The jars' class path.
fn class_path() -> Result<String> {
    let jars = scratch::repository().join(".tools/kafka/lib");
    ensure!(
        jars.join("kafka_2.13-4.3.1.jar").is_file(),
        "Kafka is missing: run 'make setup'"
    );
    Ok(format!("{}/*", jars.display()))
}

fn properties(folder: &Path, id: u32, (port, controller): (u16, u16), advertised: &str) -> String {
    let (roles, listeners) = match id {
        1 => (
            "broker,controller",
            format!(",CONTROLLER://127.0.0.1:{controller}"),
        ),
        _ => ("broker", String::new()),
    };
    // The short session timeouts let a killed node come back after 8 s instead of 14.
    let lines = [
        format!("process.roles={roles}"),
        format!("node.id={id}"),
        format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
        format!("listeners=PLAINTEXT://127.0.0.1:{port}{listeners}"),
        format!("advertised.listeners=PLAINTEXT://{advertised}"),
        "controller.listener.names=CONTROLLER".to_owned(),
        "inter.broker.listener.name=PLAINTEXT".to_owned(),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned(),
        format!("log.dirs={}/data", folder.display()),
        "offsets.topic.num.partitions=1".to_owned(),
        "offsets.topic.replication.factor=1".to_owned(),
        "transaction.state.log.num.partitions=1".to_owned(),
        "transaction.state.log.replication.factor=1".to_owned(),
        "transaction.state.log.min.isr=1".to_owned(),
        "share.coordinator.state.topic.replication.factor=1".to_owned(),
        "share.coordinator.state.topic.min.isr=1".to_owned(),
        "group.initial.rebalance.delay.ms=0".to_owned(),
        "broker.heartbeat.interval.ms=500".to_owned(),
        "broker.session.timeout.ms=3000".to_owned(),
        "log.cleaner.dedupe.buffer.size=4194304".to_owned(),
        // Records keep the times of their lines, and those of a test may be old: nothing may be
        // deleted for its age while it is being looked at.
        "log.retention.ms=-1".to_owned(),
    ];
    lines.join("\n") + "\n"
}

const LOG4J: &str = "\
rootLogger.level=INFO
rootLogger.appenderRefs=console
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=[%d] %p %m (%c)%n
logger.config.name=org.apache.kafka.common.config.AbstractConfig
logger.config.level=WARN
";
