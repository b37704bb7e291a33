//! One agent and one bus as processes of their own, in front of a real Kafka.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::time::Instant;
use tributary_tests::{
    child::{Child, Plan},
    http,
    kafka::{Kafka, free_port},
    poll, scratch,
};

use crate::cpu::{Usage, usage};

const READY_LIMIT: Duration = Duration::from_secs(30);
pub(crate) const BACKLOG_LIMIT: Duration = Duration::from_secs(600);
const PARTITIONS: i32 = 8;

/// Which class into which topic.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) class: &'static str,
    pub(crate) topic: String,
    /// Who produces at the bus.
    pub(crate) producer: &'static str,
    /// Settings for librdkafka: an inline table of TOML.
    pub(crate) options: String,
    /// What else the agent's configuration says, as TOML.
    pub(crate) more: String,
}

/// The two processes.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) agent: Child,
    pub(crate) bus: Child,
    pub(crate) logs: PathBuf,
}

/// Where programs are looked for, when not where `make bench` builds them.
pub(crate) static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();

/// An optimised program of ours; `make bench` has built it.
///
/// # Errors
/// When it was not built.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let built = || scratch::repository().join("target/release");
    let path = PROGRAMS.get().cloned().unwrap_or_else(built).join(name);
    if !path.try_exists()? {
        bail!("{} is not there; run `make bench`", path.display());
    }
    Ok(path)
}

impl Line {
    /// Starts both and waits until they are ready. The agent tails `<folder>/logs/*.log`.
    ///
    /// # Errors
    /// When one does not come up.
    pub(crate) fn start(kafka: &Kafka, folder: &Path, task: &Task) -> Result<Self> {
        kafka.create_topic(&task.topic, PARTITIONS)?;
        Self::start_before(kafka, folder, task)
    }

    /// The same, for a topic that is there; again, too, where it ran before.
    ///
    /// # Errors
    /// When one does not come up.
    pub(crate) fn start_before(kafka: &Kafka, folder: &Path, task: &Task) -> Result<Self> {
        let logs = folder.join("logs");
        fs::create_dir_all(&logs)?;
        let (listen, bus_admin) = (free_port()?, free_port()?);
        let dir = folder.display();
        let bus = start(
            "bus",
            folder,
            bus_admin,
            &format!(
                "zone = \"z\"\ncluster = \"c\"\nnode = \"n\"\nlisten = \"127.0.0.1:{listen}\"\n\
             admin = \"127.0.0.1:{bus_admin}\"\ndata_dir = \"{dir}/bus\"\n\
             [[destination]]\nname = \"k\"\nkind = \"kafka\"\nbootstrap = [\"{}\"]\nproducer = \"{}\"\noptions = {}\n\
             [[route]]\ntopic = \"*\"\nto = [{{ destination = \"k\" }}]\n",
                kafka.bootstrap(),
                task.producer,
                task.options
            ),
        )?;
        let agent = AgentPlan {
            folder,
            class: task.class,
            topic: &task.topic,
            bus_port: listen,
            more: &task.more,
        }
        .start()?;
        Ok(Self { agent, bus, logs })
    }
}

/// An agent that tails `<folder>/logs/*.log`.
#[derive(Debug)]
pub(crate) struct AgentPlan<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) class: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) bus_port: u16,
    /// What else its configuration says, as TOML: further tasks, limits.
    pub(crate) more: &'a str,
}

impl AgentPlan<'_> {
    /// Starts it and waits until it is connected.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) fn start(&self) -> Result<Child> {
        let admin = free_port()?;
        let (dir, bus, topic, class) =
            (self.folder.display(), self.bus_port, self.topic, self.class);
        let more = self.more;
        start(
            "agent",
            self.folder,
            admin,
            &format!(
                "zone = \"z\"\nstate_dir = \"{dir}/agent\"\nadmin = \"127.0.0.1:{admin}\"\n\
                 [[bus]]\nname = \"c\"\nnodes = [\"127.0.0.1:{bus}\"]\n\
                 [[task]]\nid = \"t\"\ntopic = \"{topic}\"\nclass = \"{class}\"\n\
                 paths = [\"{dir}/logs/*.log\"]\n{more}",
            ),
        )
    }
}

/// Starts a daemon and waits until it is ready.
///
/// # Errors
/// When it does not come up.
pub(crate) fn start(part: &str, folder: &Path, admin: u16, config: &str) -> Result<Child> {
    let file = folder.join(format!("{part}.toml"));
    fs::write(&file, config)?;
    let plan = Plan::new(program(&format!("tributary-{part}"))?)
        .args(["--config".to_owned(), file.display().to_string()]);
    let child = Child::start(part, &plan, &folder.join(format!("{part}.log")))?;
    let url = format!("127.0.0.1:{admin}");
    poll::until(&format!("{part} to be ready"), READY_LIMIT, || {
        // Until it listens the question itself fails.
        Ok(http::get(&url, "/readyz")
            .ok()
            .filter(|answer| answer.status == 200)
            .map(drop))
    })
    .with_context(|| child.log_tail())?;
    Ok(child)
}

/// What a backlog cost.
#[derive(Debug)]
pub(crate) struct Backlog {
    pub(crate) agent: Usage,
    pub(crate) bus: Usage,
    pub(crate) wall: Duration,
}

/// Gives a whole file to a fresh line and waits until Kafka has every line of it.
///
/// # Errors
/// When that takes too long.
pub(crate) fn backlog(
    kafka: &Kafka,
    folder: &Path,
    file: &Path,
    lines: u64,
    task: &Task,
) -> Result<Backlog> {
    let line = Line::start(kafka, folder, task)?;
    // What it costs to start is no part of what a line costs.
    let (agent, bus) = (usage(line.agent.pid())?, usage(line.bus.pid())?);
    let begun = Instant::now();
    fs::hard_link(file, line.logs.join("backlog.log"))?;
    poll::until("the whole backlog to be in Kafka", BACKLOG_LIMIT, || {
        Ok((kafka.end_offsets(&task.topic)? >= lines).then_some(()))
    })
    .with_context(|| format!("{}\n{}", line.agent.log_tail(), line.bus.log_tail()))?;
    let wall = begun.elapsed();
    // The last acknowledgements are on their way back to the agent.
    std::thread::sleep(Duration::from_secs(1));
    Ok(Backlog {
        agent: usage(line.agent.pid())?.since(agent),
        bus: usage(line.bus.pid())?.since(bus),
        wall,
    })
}
