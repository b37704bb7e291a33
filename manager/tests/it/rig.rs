//! Starts a manager, talks HTTP to it, and makes reports.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tributary_common::net;
use tributary_manager::Config;

/// Longest time for anything in these tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running manager.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) folder: TempDir,
    pub(crate) address: SocketAddr,
    token: Option<String>,
    stop: CancellationToken,
    manager: JoinSet<anyhow::Result<()>>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The head in lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The code of an error answer.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    pub(crate) async fn start_with(token: Option<&str>) -> Self {
        let folder = TempDir::new().unwrap();
        let mut rig = Self {
            folder,
            address: ([127, 0, 0, 1], 0).into(),
            token: token.map(str::to_owned),
            stop: CancellationToken::new(),
            manager: JoinSet::new(),
        };
        rig.launch().await;
        rig
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.folder.path().join("made/for/it/manager.db")
    }

    async fn launch(&mut self) {
        let mut config = Config::local(([127, 0, 0, 1], 0).into(), self.database());
        config.report_token = self.token.clone();
        config.admin_token = self.token.clone();
        self.stop = CancellationToken::new();
        let (bound, address) = oneshot::channel();
        self.manager
            .spawn(tributary_manager::serve(config, self.stop.clone(), bound));
        self.address = match tokio::time::timeout(PATIENCE, address).await.unwrap() {
            Ok(address) => address,
            Err(_) => panic!("{:?}", self.manager.join_next().await),
        };
    }

    /// Stops the manager and waits for its end.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        let end = tokio::time::timeout(PATIENCE, self.manager.join_next())
            .await
            .unwrap();
        end.unwrap().unwrap().unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.launch().await;
    }

    /// Sends bytes as they are and reads until the end.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        let mut all = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all))
            .await
            .unwrap()
            .unwrap();
        let end = all
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .expect("an answer has a head");
        let head = String::from_utf8(all[..end].to_vec())
            .unwrap()
            .to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer {
            status,
            head,
            body: all[end + 4..].to_vec(),
        }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        net::dial(&self.address.to_string(), PATIENCE)
            .await
            .unwrap()
    }

    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> Answer {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        self.raw(&[head.as_bytes(), body].concat()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "", b"").await
    }

    /// A page of the API that must be there.
    pub(crate) async fn page(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(
            answer.status,
            200,
            "{path}: {}",
            String::from_utf8_lossy(&answer.body)
        );
        answer.json()
    }

    pub(crate) async fn post(&self, report: &Value) -> Answer {
        let body = serde_json::to_vec(report).unwrap();
        self.request(
            "POST",
            "/api/v1/reports",
            "content-type: application/json\r\n",
            &body,
        )
        .await
    }

    /// Sends a report that must be taken.
    pub(crate) async fn tell(&self, report: &Value) {
        let answer = self.post(report).await;
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        assert_eq!(answer.json(), json!({ "number": report["number"] }));
    }

    /// The counts of a topic over the last hour, as the list says; the chart must say the same.
    pub(crate) async fn counts(&self, topic: &str) -> Value {
        let list = self.page("/api/v1/topics?range=1h").await;
        let topics = list["topics"].as_array().unwrap();
        let one = topics
            .iter()
            .find(|one| one["topic"] == topic)
            .expect("the topic is listed");
        let chart = self.page(&format!("/api/v1/topics/{topic}/counts")).await;
        assert_eq!(chart["totals"], one["counts"]);
        one["counts"].clone()
    }
}

/// The current minute since 1970.
pub(crate) fn minute() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    since.as_secs() / 60
}

pub(crate) fn agent() -> Value {
    json!({ "part": "agent", "id": "a1", "host": "web-17", "zone": "dc1" })
}

pub(crate) fn bus(id: &str) -> Value {
    json!({ "part": "bus", "id": id, "cluster": "main", "zone": "dc1" })
}

/// A report with nothing in it.
pub(crate) fn report(reporter: &Value, epoch: u64, number: u64) -> Value {
    json!({
        "reporter": reporter, "epoch": epoch, "number": number,
        "sent_at_ms": minute() * 60_000, "facts": [], "duplicates": [], "losses": [], "held": [],
        "health": { "software": "test 1", "memory_bytes": 7 },
    })
}

/// Batches `first ..` of topic `web`, stream 1, epoch 9, all in the current minute.
pub(crate) fn run(first: u64, records: &[u32]) -> Value {
    let now = minute();
    let batches: Vec<Value> = records
        .iter()
        .map(|&n| json!([{ "minute": now, "records": n }]))
        .collect();
    json!({ "topic": "web", "stream": 1, "epoch": 9, "first_seq": first, "batches": batches })
}

pub(crate) fn fact(hop: &str, first: u64, records: &[u32]) -> Value {
    let mut fact = run(first, records);
    fact["hop"] = hop.into();
    fact
}

pub(crate) fn held(state: &str, first: u64, records: &[u32]) -> Value {
    let mut held = run(first, records);
    held["state"] = state.into();
    held
}

pub(crate) fn loss(records: Option<u64>) -> Value {
    json!({
        "topic": "web", "task": "nginx", "file": "/var/log/nginx/access.log", "generation": u64::MAX,
        "span": { "start": 10, "end": 110 }, "reason": "truncated-unread", "records": records,
        "minute": minute(),
    })
}
