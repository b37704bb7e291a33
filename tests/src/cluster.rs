//! A manager, a bus and agents, wired together in one folder: what most scenarios start from.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    hdfs::Hdfs,
    kafka::{Kafka, free_port},
    ledger::{self, Counts},
    oracle::Verdict,
    product::{Node, Part},
    scratch,
    writer::{Writer, Written},
};

/// By then a settled cluster must have delivered and told everything, also on a busy machine.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(120);
/// The destination's name in the bus's configuration.
pub const DESTINATION: &str = "main";

/// What to start.
#[derive(Debug, Clone)]
pub struct Layout {
    folder: PathBuf,
    topic: String,
    class: &'static str,
    destination: String,
    agents: Vec<Vec<String>>,
    bus_for_agents: Option<String>,
    agent_extra: String,
    task_extra: String,
    bus_extra: String,
    bus_environment: Vec<(&'static str, String)>,
    branch_extra: String,
    buses: usize,
}

impl Layout {
    /// Everything in `folder`, one topic; no agents yet.
    #[must_use]
    pub fn new(folder: &Path, topic: &str) -> Self {
        let (agents, none) = (Vec::new(), String::new());
        let mut layout = Self {
            folder: folder.to_owned(),
            topic: topic.to_owned(),
            class: "P2",
            destination: none.clone(),
            agents,
            bus_for_agents: None,
            agent_extra: none.clone(),
            task_extra: none.clone(),
            bus_extra: none.clone(),
            bus_environment: Vec::new(),
            branch_extra: none,
            buses: 1,
        };
        let path = layout.delivered().join("{topic}/dt={date}/hour={hour}");
        layout.destination = format!("kind = \"file\"\npath = {path:?}\n");
        layout
    }

    /// Where the file destination writes; it is what a layout has until told otherwise.
    #[must_use]
    pub fn delivered(&self) -> PathBuf {
        self.folder.join("delivered")
    }

    /// Delivers to a Kafka at `bootstrap`, with extra lines of librdkafka's options
    /// (`"socket.timeout.ms" = "1000"`).
    #[must_use]
    pub fn delivers_to(mut self, bootstrap: &str, options: &[&str]) -> Self {
        let options = options.join(", ");
        self.destination = format!(
            "kind = \"kafka\"\nbootstrap = [{bootstrap:?}]\nproducer = \"rdkafka\"\n\
             options = {{ {options} }}\n"
        );
        self
    }

    /// Delivers to files on this machine that appear whole, in [`Self::delivered`]: complete at 64 KiB or after a
    /// second.
    #[must_use]
    pub fn rolls(mut self) -> Self {
        self.destination += "roll = { size = \"64KiB\", after = \"1s\" }\n";
        self
    }

    /// Delivers to files in an HDFS, below `/TOPIC`, that are complete at 64 KiB or after a second.
    #[must_use]
    pub fn delivers_to_hdfs(mut self, hdfs: &Hdfs) -> Self {
        let mut options = "\"dfs.client.socket-timeout\" = \"5000\"".to_owned();
        for (key, value) in hdfs.options() {
            options += &format!(", {key:?} = {value:?}");
        }
        self.destination = format!(
            "kind = \"hdfs\"\nurl = {:?}\npath = \"/{{topic}}/dt={{date}}/hour={{hour}}\"\n\
             roll = {{ size = \"64KiB\", after = \"1s\" }}\n\
             options = {{ {options} }}\n",
            hdfs.url()
        );
        self
    }

    /// More keys of the way to the destination (`, create = {}`).
    #[must_use]
    pub fn routed(mut self, keys: &str) -> Self {
        keys.clone_into(&mut self.branch_extra);
        self
    }

    /// Delivers nowhere: what comes is counted.
    #[must_use]
    pub fn discards(mut self) -> Self {
        "kind = \"discard\"\n".clone_into(&mut self.destination);
        self
    }

    /// Shows the HDFS of [`Layout::delivers_to_hdfs`] tickets of Kerberos, got with the keys of a file.
    #[must_use]
    pub fn shows_tickets(mut self, principal: &str, keytab: &Path) -> Self {
        let protection = "options = { \"dfs.data.transfer.protection\" = \"privacy\", ";
        self.destination = self.destination.replace("options = { ", protection);
        self.destination +=
            &format!("kerberos = {{ principal = {principal:?}, keytab = {keytab:?} }}\n");
        self
    }

    /// The HDFS of [`Layout::delivers_to_hdfs`] has everything below `/ROOT`, and merges topics that write less
    /// than this a second.
    #[must_use]
    pub fn merges_below(mut self, root: &str, bytes: &str) -> Self {
        let path = "path = \"/";
        self.destination = self.destination.replace(path, &format!("{path}{root}/"));
        self.destination += &format!("merge_below = {bytes:?}\n");
        self
    }

    /// The producer that forwards batches as they came, in the place of librdkafka.
    #[must_use]
    pub fn verbatim(mut self) -> Self {
        self.destination = self.destination.replace("\"rdkafka\"", "\"verbatim\"");
        self
    }

    /// The classes of the Kafka's brokers (`P0 = [1], P2 = [2, 3]`).
    #[must_use]
    pub fn groups(mut self, groups: &str) -> Self {
        self.destination += &format!("groups = {{ {groups} }}\n");
        self
    }

    /// Delivers to an OpenSearch at `address`, with extra lines of the destination, into an index
    /// (`logs-{topic}-{date}`).
    #[must_use]
    pub fn searches(mut self, address: &str, extra: &str, index: &str) -> Self {
        self.destination =
            format!("kind = \"elasticsearch\"\nurls = [\"http://{address}\"]\n{extra}\n");
        self.branch_extra = format!(", index = {index:?}");
        self
    }

    /// Reaches the search server of [`Layout::searches`] by other URLs.
    #[must_use]
    pub fn behind(mut self, urls: &[String]) -> Self {
        let (_own, rest) = self.destination.split_once("\"]").unwrap_or_default();
        self.destination = format!("kind = \"elasticsearch\"\nurls = {urls:?}{rest}");
        self
    }

    /// Adds an agent that collects what these globs match.
    #[must_use]
    pub fn agent(mut self, globs: &[String]) -> Self {
        self.agents.push(globs.to_vec());
        self
    }

    /// The class of the task.
    #[must_use]
    pub fn class(mut self, class: &'static str) -> Self {
        self.class = class;
        self
    }

    /// Agents reach the bus over this address, such as that of a proxy.
    #[must_use]
    pub fn agents_connect_to(mut self, address: String) -> Self {
        self.bus_for_agents = Some(address);
        self
    }

    /// So many nodes of the bus, the first of which is the cluster's `bus`.
    #[must_use]
    pub fn buses(mut self, count: usize) -> Self {
        self.buses = count;
        self
    }

    /// Lines for the top of `agent.toml`, its task, and the top of `bus.toml`.
    #[must_use]
    pub fn extra(mut self, agent: &str, task: &str, bus: &str) -> Self {
        (self.agent_extra, self.task_extra) = (agent.to_owned(), task.to_owned());
        self.bus_extra = bus.to_owned();
        self
    }

    /// Variables in the environment of the bus.
    #[must_use]
    pub fn bus_environment(mut self, variables: Vec<(&'static str, String)>) -> Self {
        self.bus_environment = variables;
        self
    }

    /// Starts all of it.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn start(&self) -> Result<Cluster> {
        self.start_at(free_port()?)
    }

    /// As [`Layout::start`], with the bus on a port known before.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn start_at(&self, bus_port: u16) -> Result<Cluster> {
        let (manager, bus_admin) = (local()?, local()?);
        let database = self.folder.join("manager/db.sqlite");
        let config = format!(
            "listen = {manager:?}\ndatabase = \"sqlite://{}\"\n",
            database.display()
        );
        let manager = Node::new(
            Part::Manager,
            &self.folder.join("manager"),
            &manager,
            &config,
        )?;
        let bus = format!("127.0.0.1:{bus_port}");
        let bus_node = self.bus_node("bus", &bus, &bus_admin, manager.admin())?;
        let (mut nodes, mut more) = (vec![bus.clone()], Vec::new());
        for number in 2..=self.buses {
            let (listen, admin) = (local()?, local()?);
            let name = format!("bus{number}");
            more.push(self.bus_node(&name, &listen, &admin, manager.admin())?);
            nodes.push(listen);
        }
        if let Some(address) = &self.bus_for_agents {
            nodes = vec![address.clone()];
        }
        let mut agents = Vec::new();
        for (number, globs) in self.agents.iter().enumerate() {
            let admin = local()?;
            let folder = self.folder.join(format!("agent-{number}"));
            let config = self.agent_config(&folder, &admin, &nodes, manager.admin(), globs);
            agents.push(Node::new(Part::Agent, &folder, &admin, &config)?);
        }
        let topic = self.topic.clone();
        let mut cluster = Cluster {
            topic,
            listen: bus,
            manager,
            bus: bus_node,
            more_buses: more,
            agents,
        };
        cluster.start()?;
        Ok(cluster)
    }

    fn bus_node(&self, name: &str, listen: &str, admin: &str, manager: &str) -> Result<Node> {
        let folder = self.folder.join(name);
        let data = folder.join("data");
        let node = match name {
            "bus" => "bus1",
            other => other,
        };
        let config = format!(
            "zone = \"dc1\"\ncluster = \"dc1\"\nnode = {node:?}\nlisten = {listen:?}\n\
             admin = {admin:?}\ndata_dir = {data:?}\n{}\n[manager]\nurl = \"http://{manager}\"\n\n\
             [[destination]]\nname = {DESTINATION:?}\n{}\n\
             [[route]]\ntopic = \"*\"\nto = [{{ destination = {DESTINATION:?}{} }}]\n",
            self.bus_extra, self.destination, self.branch_extra
        );
        let mut node = Node::new(Part::Bus, &folder, admin, &config)?;
        node.set_environment(self.bus_environment.clone());
        Ok(node)
    }

    fn agent_config(
        &self,
        folder: &Path,
        admin: &str,
        nodes: &[String],
        manager: &str,
        globs: &[String],
    ) -> String {
        let state = folder.join("state");
        let mut text = format!(
            "zone = \"dc1\"\nstate_dir = {state:?}\nadmin = {admin:?}\n{}\n[manager]\n\
             url = \"http://{manager}\"\n\n[[bus]]\nname = \"dc1\"\nnodes = {nodes:?}\n",
            self.agent_extra
        );
        let (topic, class, extra) = (&self.topic, self.class, &self.task_extra);
        // Writing into a String cannot fail.
        write!(
            text,
            "\n[[task]]\nid = \"task\"\ntopic = {topic:?}\nclass = {class:?}\npaths = {globs:?}\n{extra}\n"
        )
        .unwrap_or_default();
        text
    }
}

fn local() -> Result<String> {
    Ok(format!("127.0.0.1:{}", free_port()?))
}

/// A running line from files to a destination.
#[derive(Debug)]
pub struct Cluster {
    /// The topic of all lines.
    pub topic: String,
    /// Where the bus listens for agents.
    pub listen: String,
    /// The manager.
    pub manager: Node,
    /// The bus.
    pub bus: Node,
    /// Further nodes of the bus.
    pub more_buses: Vec<Node>,
    /// The agents.
    pub agents: Vec<Node>,
}

impl Cluster {
    fn start(&mut self) -> Result<()> {
        self.manager.start()?;
        self.bus.start()?;
        self.more_buses.iter_mut().try_for_each(Node::start)?;
        self.agents.iter_mut().try_for_each(Node::start)
    }

    /// Stops all of it in order, each with exit code 0.
    ///
    /// # Errors
    /// When a part does not stop as it should.
    pub fn stop(&mut self) -> Result<()> {
        self.agents.iter_mut().try_for_each(Node::stop_cleanly)?;
        self.bus.stop_cleanly()?;
        let more = &mut self.more_buses;
        more.iter_mut().try_for_each(Node::stop_cleanly)?;
        self.manager.stop_cleanly()
    }

    /// The bar of every scenario: the ledger counts every written line at every hop and nothing
    /// else, and Kafka holds every one of them once, unchanged, in order.
    ///
    /// # Errors
    /// With what the ledger and the oracle say, when it is not so in the end.
    pub fn must_deliver(&self, kafka: &Kafka, written: &[Written]) -> Result<Counts> {
        let lines = written.iter().map(Written::lines).sum();
        let ledger = ledger::must_agree(self.manager.admin(), &self.topic, lines, SETTLE_LIMIT);
        let arrived = kafka
            .read_all(&self.topic)
            .context("the oracle could not read the topic")?;
        let verdict = Verdict::on_kafka(written, &arrived);
        match (ledger, verdict.must_be_perfect()) {
            (Ok(counts), Ok(())) => Ok(counts),
            (Ok(counts), Err(error)) => Err(error.context(format!("the ledger said {counts:?}"))),
            (Err(error), Ok(())) => {
                Err(error.context("everything arrived, but the ledger is wrong"))
            }
            (Err(ledger), Err(oracle)) => bail!("{oracle:#}\nand {ledger:#}"),
        }
    }
}

/// A scenario's name for topics and folders: Kafka allows letters, digits, `.`, `_`, `-`.
#[must_use]
pub fn topic_name(scenario: &str, seed: u64) -> String {
    format!("{scenario}.{seed}")
}

/// A writer's glob: its live and its rotated files.
#[must_use]
pub fn glob_of(writer: &Writer) -> String {
    format!("{}*", writer.path().display())
}

/// Runs a scenario for each of the first `count` seeds; the first failure names its seed.
/// `TRIBUTARY_SEED=7` runs only that one, `TRIBUTARY_SEEDS=500` so many. Gives how many ran.
///
/// # Errors
/// The scenario's, with the seed; when a variable is no number.
pub fn for_each_seed(
    name: &str,
    count: u64,
    mut body: impl FnMut(u64, &Path) -> Result<()>,
) -> Result<u64> {
    let number = |variable: &str| match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .map(Some)
            .context(format!("{variable} is no number")),
        Err(_unset) => Ok(None),
    };
    let seeds = match (number("TRIBUTARY_SEED")?, number("TRIBUTARY_SEEDS")?) {
        (Some(one), _) => one..one + 1,
        (None, Some(many)) => 0..many,
        (None, None) => 0..count,
    };
    let ran = seeds.end - seeds.start;
    for seed in seeds {
        scratch::scenario(&format!("{name}-{seed}"), |folder| body(seed, folder))
            .with_context(|| format!("{name}: run it again with TRIBUTARY_SEED={seed}"))?;
    }
    Ok(ran)
}
