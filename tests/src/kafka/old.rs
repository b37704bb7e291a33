//! Brokers of earlier versions, as far back as the bus goes: Kafka 2.1 and 2.8 with their ZooKeeper, 3.9.
//!
//! Their jars come from `make setup`. Not for: faults (a broker is not started again).

use std::{fs, path::Path, time::Duration};

use anyhow::{Result, ensure};

use super::{Kafka, free_port, properties};
use crate::{
    child::{Child, Plan},
    poll, scratch,
};

/// The versions, the oldest first; the last one needs no ZooKeeper.
pub const VERSIONS: [&str; 3] = ["2.1.1", "2.8.2", "3.9.1"];
/// A start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(90);

/// A broker, and the ZooKeeper that it needs.
#[derive(Debug)]
pub struct Old {
    /// The broker.
    pub kafka: Kafka,
    _zookeeper: Option<Child>,
}

impl Old {
    /// Starts a broker of a version below `folder`.
    ///
    /// # Errors
    /// When its jars are missing or it does not start.
    pub fn start(folder: &Path, version: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("flags"), "")?;
        fs::write(folder.join("log4j.properties"), LOG4J)?;
        let (port, controller) = (free_port()?, free_port()?);
        let advertised = format!("127.0.0.1:{port}");
        let zookeeper = match version {
            "3.9.1" => {
                let lines = properties(folder, 1, (port, controller), &advertised);
                fs::write(folder.join("server.properties"), lines)?;
                let args = ["kafka.tools.StorageTool", "format", "-t", super::CLUSTER_ID];
                let java = java(folder, version)?.args(args);
                java.args(["-c", "server.properties"]).output()?;
                None
            }
            _ => {
                fs::write(
                    folder.join("server.properties"),
                    before_kraft(folder, port, controller),
                )?;
                Some(zookeeper(folder, version, controller)?)
            }
        };
        let plan = java(folder, version)?.args(["-Xmx256m", "kafka.Kafka", "server.properties"]);
        let process = started("kafka", &plan, folder, " started")?;
        let kafka = Kafka {
            folder: folder.to_owned(),
            port,
            controller,
            process,
        };
        Ok(Self {
            kafka,
            _zookeeper: zookeeper,
        })
    }
}

const LOG4J: &str = "\
log4j.rootLogger=INFO, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=[%d] %p %m (%c)%n
";

fn before_kraft(folder: &Path, port: u16, zookeeper: u16) -> String {
    let lines = [
        "broker.id=1".to_owned(),
        format!("listeners=PLAINTEXT://127.0.0.1:{port}"),
        format!("zookeeper.connect=127.0.0.1:{zookeeper}"),
        "zookeeper.connection.timeout.ms=60000".to_owned(),
        format!("log.dirs={}/data", folder.display()),
        "offsets.topic.replication.factor=1".to_owned(),
        "auto.create.topics.enable=false".to_owned(),
        "log.retention.ms=-1".to_owned(),
    ];
    lines.join("\n") + "\n"
}

fn zookeeper(folder: &Path, version: &str, port: u16) -> Result<Child> {
    let lines = format!(
        "dataDir={}/zookeeper\nclientPort={port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n",
        folder.display()
    );
    fs::write(folder.join("zookeeper.properties"), lines)?;
    let main = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
    let plan = java(folder, version)?.args(["-Xmx96m", main, "zookeeper.properties"]);
    started("zookeeper", &plan, folder, "binding to port")
}

/// A Java machine with the jars of a version.
fn java(folder: &Path, version: &str) -> Result<Plan> {
    let jars = scratch::repository().join(format!(".tools/kafka-{version}/lib"));
    ensure!(
        jars.is_dir(),
        "Kafka {version} is missing: run 'make setup'"
    );
    let flags = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"];
    Ok(Plan::new("java")
        .args(flags)
        .args([format!("{}/*", jars.display())])
        .args(["-Dlog4j.configuration=file:log4j.properties"])
        .folder(folder))
}

/// Starts a process and waits until its log has a word.
fn started(name: &str, plan: &Plan, folder: &Path, word: &str) -> Result<Child> {
    let mut process = Child::start(name, plan, &folder.join(format!("{name}.log")))?;
    poll::until(&format!("{name} to start"), START_LIMIT, || {
        process.must_run()?;
        Ok(process.log_since(0)?.contains(word).then_some(()))
    })?;
    Ok(process)
}
