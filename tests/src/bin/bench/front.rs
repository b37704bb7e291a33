//! A bus in front of a broker that only counts, or of a real one that goes away and comes back.
//!
//! The one that only counts is librdkafka's own mock, in this process: it takes every batch and keeps
//! the last 5 MB of a partition, so that what the bus costs is measured without a Kafka beside it. Not
//! for: a bus with an agent (see [`crate::line`]).

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext, types::RDKafkaApiKey};
use tokio::time::Instant;
use tributary_tests::{
    certs::Authority,
    child::Child,
    http,
    kafka::{Kafka, free_port},
    poll,
    proxy::{Mode, Proxy},
};

use crate::{connections::dialer, line::start, sender::Door};

const PARTITIONS: i32 = 8;
/// The last segments are gone by then.
const EMPTY_WITHIN: Duration = Duration::from_secs(20);
/// By then a spill of some GiB is drained.
const DRAIN_LIMIT: Duration = Duration::from_secs(600);

/// The broker.
pub(crate) struct Broker(MockCluster<'static, DefaultProducerContext>);

impl Broker {
    /// Starts it, with these topics.
    ///
    /// # Errors
    /// When librdkafka does not.
    pub(crate) fn start(topics: &[&str]) -> Result<Self> {
        let cluster = MockCluster::new(1)?;
        // Below the flexible versions: the mock's answers in those cannot be read by everybody.
        for (key, min, max) in [
            (RDKafkaApiKey::Produce, 7, 7),
            (RDKafkaApiKey::Metadata, 4, 8),
            (RDKafkaApiKey::InitProducerId, 0, 1),
        ] {
            cluster.apiversion(key, Some(min), Some(max))?;
        }
        for topic in topics {
            cluster.create_topic(topic, PARTITIONS, 1)?;
        }
        Ok(Self(cluster))
    }

    /// Where it listens.
    pub(crate) fn bootstrap(&self) -> String {
        self.0.bootstrap_servers()
    }
}

/// A real broker behind a hop that can be cut.
pub(crate) struct Real {
    kafka: Kafka,
    proxy: Proxy,
}

impl Real {
    /// Starts it, with these topics.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) fn start(folder: &Path, topics: &[&str]) -> Result<Self> {
        let port = free_port()?;
        let proxy = Proxy::start(&format!("127.0.0.1:{port}"))?;
        let kafka = Kafka::start_at(folder, port, &proxy.address())?;
        for topic in topics {
            kafka.create_topic(topic, PARTITIONS)?;
        }
        Ok(Self { kafka, proxy })
    }

    /// Where clients find it.
    pub(crate) fn bootstrap(&self) -> String {
        self.proxy.address()
    }

    /// It takes nothing, or everything again.
    pub(crate) fn away(&self, away: bool) {
        if away {
            self.proxy.set(Mode::Refuse);
            self.proxy.cut();
        } else {
            self.proxy.set(Mode::Pass);
        }
    }

    /// Records of a topic.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn records(&self, topic: &str) -> Result<u64> {
        self.kafka.end_offsets(topic)
    }
}

/// A bus.
pub(crate) struct Front {
    pub(crate) bus: Child,
    pub(crate) door: Door,
    pub(crate) admin: String,
    folder: PathBuf,
    config: String,
    admin_port: u16,
}

impl Front {
    /// Starts one in front of a broker.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) fn start(folder: &Path, bootstrap: &str, secure: bool) -> Result<Self> {
        let broker =
            format!("kind = \"kafka\"\nbootstrap = [\"{bootstrap}\"]\nproducer = \"verbatim\"\n");
        Self::start_before(folder, &broker, "", secure)
    }

    /// Starts one in front of any destination: its keys but for the name, and those of the way to it, as
    /// TOML.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) fn start_before(
        folder: &Path,
        destination: &str,
        branch: &str,
        secure: bool,
    ) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let (listen, admin_port) = (free_port()?, free_port()?);
        let authority = Authority::new(&folder.join("ca"))?;
        let tls = match secure {
            true => format!(
                "tls = {{ {}, client_ca = {:?} }}\n",
                authority.identity("bus", "127.0.0.1")?,
                authority.ca()
            ),
            false => String::new(),
        };
        let config = format!(
            "zone = \"z\"\ncluster = \"c\"\nnode = \"n\"\nlisten = \"127.0.0.1:{listen}\"\n\
             admin = \"127.0.0.1:{admin_port}\"\ndata_dir = {:?}\n{tls}\
             [limits]\nmemory = \"2GiB\"\n[spill]\nmin_free = \"1%\"\n\
             [[destination]]\nname = \"k\"\n{destination}\
             [[route]]\ntopic = \"*\"\nto = [{{ destination = \"k\"{branch} }}]\n",
            folder.join("data"),
        );
        let dialer = secure.then(|| dialer(folder, &authority)).transpose()?;
        Ok(Self {
            bus: start("bus", folder, admin_port, &config)?,
            door: Door {
                addr: format!("127.0.0.1:{listen}"),
                dialer,
            },
            admin: format!("127.0.0.1:{admin_port}"),
            folder: folder.to_owned(),
            config,
            admin_port,
        })
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it is not running.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.bus.kill()
    }

    /// Starts it after a [`Front::kill`]; how long that took.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) fn again(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.bus = start("bus", &self.folder, self.admin_port, &self.config)?;
        Ok(begun.elapsed())
    }

    /// Its word on its spill.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn spill(&self) -> Result<serde_json::Value> {
        let answer = http::get(&self.admin, "/status")?;
        let status: serde_json::Value = serde_json::from_str(&answer.text())?;
        Ok(status["spill"]["destinations"][0].clone())
    }

    /// Batches that went over the disk.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn spilled(&self) -> Result<u64> {
        self.spill()?["spilled_batches"]
            .as_u64()
            .context("no spilled_batches")
    }

    /// Waits until nothing is to be drained any more; how long that took.
    ///
    /// # Errors
    /// When it takes too long.
    pub(crate) fn drained(&self) -> Result<Duration> {
        let begun = Instant::now();
        poll::until("an empty spill", DRAIN_LIMIT, || {
            Ok((self.spill()?["batches"] == 0).then_some(()))
        })
        .with_context(|| self.bus.log_tail())?;
        Ok(begun.elapsed())
    }

    /// Bytes that stay on the disk: the last segments go some seconds after the drain.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn stayed(&self) -> Result<u64> {
        let begun = Instant::now();
        poll::until("an empty folder", DRAIN_LIMIT, || {
            let bytes = bytes_below(&self.folder.join("data/spill"))?;
            Ok((bytes == 0 || begun.elapsed() > EMPTY_WITHIN).then_some(bytes))
        })
    }

    /// Bytes that it has written to files, by the kernel's accounting.
    ///
    /// # Errors
    /// When it is not running.
    pub(crate) fn written(&self) -> Result<u64> {
        let io = fs::read_to_string(format!("/proc/{}/io", self.bus.pid()))?;
        let line = io
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes: "));
        Ok(line.context("no write_bytes")?.parse()?)
    }
}

/// Bytes of the files below a folder.
fn bytes_below(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // It was removed meanwhile.
            Err(_gone) => continue,
        };
        bytes += match metadata.is_dir() {
            true => bytes_below(&entry.path())?,
            false => metadata.len(),
        };
    }
    Ok(bytes)
}
