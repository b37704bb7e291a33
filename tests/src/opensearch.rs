//! A real OpenSearch (2.19.1) as child processes: one node, or three; no security.
//!
//! Its jars come from `make setup`; the program that starts it is run from its source. [`shared`] is one
//! for all scenarios that do not break it.
//!
//! Not for: Kafka (see [`crate::kafka`]).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::{
    child::{Child, Plan},
    http::{self, Answer},
    kafka::free_port,
    poll, scratch,
};

/// A start takes 4 s on a quiet machine.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Documents that one page of [`OpenSearch::documents`] has.
const PAGE: usize = 5_000;

/// A node.
#[derive(Debug)]
pub struct OpenSearch {
    folder: PathBuf,
    port: u16,
    /// Where other nodes reach it.
    transport: u16,
    settings: Vec<String>,
    heap_mib: u32,
    process: Child,
}

/// What a node of the scenarios may use.
const HEAP_MIB: u32 = 256;

/// The node that all scenarios share which do not break it; started on first use.
///
/// # Errors
/// When it does not start; every caller gets the same error.
pub fn shared() -> Result<&'static OpenSearch> {
    static SHARED: OnceLock<Result<OpenSearch, String>> = OnceLock::new();
    let start = || {
        let folder = scratch::create("opensearch").map_err(|error| format!("{error:#}"))?;
        OpenSearch::start(&folder, &[]).map_err(|error| format!("{error:#}"))
    };
    SHARED
        .get_or_init(start)
        .as_ref()
        .map_err(|text| anyhow!("no shared OpenSearch: {text}"))
}

impl OpenSearch {
    /// Starts a node in `folder` with these settings (`thread_pool.write.size=1`).
    ///
    /// # Errors
    /// When the jars are missing or it does not start, with the end of its log.
    pub fn start(folder: &Path, settings: &[&str]) -> Result<Self> {
        Self::start_with(folder, settings, HEAP_MIB)
    }

    /// The same with another heap: with the small one it refuses much under a load that lasts.
    ///
    /// # Errors
    /// As [`OpenSearch::start`].
    pub fn start_with(folder: &Path, settings: &[&str], heap_mib: u32) -> Result<Self> {
        let settings = settings.iter().map(|&one| one.to_owned()).collect();
        let mut node = Self::launch(folder, free_port()?, settings, heap_mib)?;
        node.until_ready()?;
        Ok(node)
    }

    /// Three nodes of one cluster, of which any one may fail.
    ///
    /// # Errors
    /// As [`OpenSearch::start`].
    pub fn start_three(folder: &Path) -> Result<[Self; 3]> {
        let transports = [free_port()?, free_port()?, free_port()?];
        let hosts = transports.map(|port| format!("127.0.0.1:{port}")).join(",");
        let start = |number: usize, transport: u16| {
            let settings = vec![
                "discovery.type=zen".to_owned(),
                format!("discovery.seed_hosts={hosts}"),
                "cluster.initial_cluster_manager_nodes=n1,n2,n3".to_owned(),
                format!("node.name=n{number}"),
                // Other people's files on this disk are no reason to move shards.
                "cluster.routing.allocation.disk.threshold_enabled=false".to_owned(),
            ];
            let folder = folder.join(format!("n{number}"));
            Self::launch(&folder, transport, settings, HEAP_MIB)
        };
        let [one, two, three] = transports;
        let mut nodes = [start(1, one)?, start(2, two)?, start(3, three)?];
        nodes.iter_mut().try_for_each(Self::until_ready)?;
        Ok(nodes)
    }

    fn launch(folder: &Path, transport: u16, settings: Vec<String>, heap_mib: u32) -> Result<Self> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("log4j2.properties"), LOG4J)?;
        let port = free_port()?;
        let process = launch(folder, (port, transport), &settings, heap_mib)?;
        Ok(Self {
            folder: folder.to_owned(),
            port,
            transport,
            settings,
            heap_mib,
            process,
        })
    }

    /// Waits until it serves, and its cluster has each index at least once.
    fn until_ready(&mut self) -> Result<()> {
        let (address, process) = (self.address(), &mut self.process);
        poll::until("OpenSearch to start", START_LIMIT, || {
            process.must_run()?;
            let health = "/_cluster/health?wait_for_status=yellow&timeout=1s";
            let answer = http::get(&address, health).ok();
            Ok(answer.filter(|answer| answer.status == 200))
        })
        .with_context(|| self.process.log_tail())
        .map(drop)
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
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
        let ports = (self.port, self.transport);
        self.process = launch(&self.folder, ports, &self.settings, self.heap_mib)?;
        self.until_ready()
    }

    /// A request with a JSON body, which must succeed.
    ///
    /// # Errors
    /// When it does not, with the answer.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let answer = self.try_ask(method, path, body)?;
        ensure!(
            answer.status < 300,
            "{method} {path}: {} {}",
            answer.status,
            answer.text()
        );
        answer.json()
    }

    fn try_ask(&self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        let body = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        let kind = ["content-type: application/json"];
        http::request(&self.address(), method, path, &kind, &body)
    }

    /// All documents of an index or of a pattern, by their ids; nothing where there is no index.
    ///
    /// # Errors
    /// When it does not answer, or says that two documents have the same id.
    pub fn documents(&self, index: &str) -> Result<BTreeMap<String, Value>> {
        let refreshed = self.try_ask("POST", &format!("/{index}/_refresh"), &Value::Null)?;
        let mut found = BTreeMap::new();
        if refreshed.status == 404 {
            return Ok(found);
        }
        let path = format!("/{index}/_search?scroll=1m&size={PAGE}");
        let mut page = self.ask("POST", &path, &json!({ "sort": ["_doc"] }))?;
        loop {
            let hits = page["hits"]["hits"].as_array().context("no hits")?.clone();
            if hits.is_empty() {
                return Ok(found);
            }
            for hit in hits {
                let id = hit["_id"].as_str().context("no id")?.to_owned();
                let before = found.insert(id.clone(), hit["_source"].clone());
                ensure!(before.is_none(), "{id} is there twice");
            }
            let next = json!({ "scroll": "1m", "scroll_id": page["_scroll_id"] });
            page = self.ask("POST", "/_search/scroll", &next)?;
        }
    }

    /// How many documents there are.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn count(&self, index: &str) -> Result<u64> {
        let refreshed = self.try_ask("POST", &format!("/{index}/_refresh"), &Value::Null)?;
        if refreshed.status == 404 {
            return Ok(0);
        }
        let answer = self.ask("GET", &format!("/{index}/_count"), &Value::Null)?;
        answer["count"].as_u64().context("no count")
    }
}

fn launch(
    folder: &Path,
    (port, transport): (u16, u16),
    settings: &[String],
    heap_mib: u32,
) -> Result<Child> {
    let jars = scratch::repository().join(".tools/opensearch/lib");
    ensure!(
        jars.join("opensearch-2.19.1.jar").is_file(),
        "OpenSearch is missing: run 'make setup'"
    );
    let source = scratch::repository().join("tests/servers/opensearch/Start.java");
    let heap = [format!("-Xms{heap_mib}m"), format!("-Xmx{heap_mib}m")];
    let flags = [
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:-UsePerfData",
        "-Dlog4j2.configurationFile=log4j2.properties",
        "-cp",
    ];
    let plan = Plan::new("java")
        .args(heap)
        .args(flags)
        .args([
            format!("{}/*", jars.display()),
            source.display().to_string(),
        ])
        .args([folder.display().to_string(), port.to_string()])
        .args([transport.to_string()])
        .args(settings.iter().cloned())
        .folder(folder);
    Child::start("opensearch", &plan, &folder.join("opensearch.log"))
}

const LOG4J: &str = "status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d] %p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
";
