//! A whole node over loopback: upgrade, admin pages, wrong requests, stop, restart.

use std::{path::Path, sync::Mutex};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinSet,
};
use tributary_common::{
    header::BatchHeader,
    ids::{Epoch, Zone},
    wire::{self, Frame, Hello, Outcome, PRELUDE_BYTES, Prelude},
};

use super::*;
use crate::testing::batch;

/// A running node.
struct Running {
    bound: Bound,
    stop: CancellationToken,
    reload: Arc<Mutex<String>>,
    asked: watch::Sender<u64>,
    ended: JoinSet<anyhow::Result<()>>,
}

fn text(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"
zone = "dc1"
cluster = "c"
node = "bus1"
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
data_dir = "{dir}/data"
[[destination]]
name = "local"
kind = "file"
path = "{dir}/out/{{topic}}"
[[route]]
topic = "web*"
to = [{{ destination = "local" }}]
"#
    )
}

fn config(dir: &Path) -> Config {
    config::parse(&text(dir), "bus.toml").unwrap().value
}

async fn start(dir: &Path) -> Running {
    let (config, stop) = (config(dir), CancellationToken::new());
    let (told, bound) = oneshot::channel();
    let mut ended = JoinSet::new();
    let token = stop.clone();
    let (asked, hear) = watch::channel(0);
    let reload = Arc::new(Mutex::new(String::new()));
    let loads = Arc::clone(&reload);
    let load = move || config::parse(&loads.lock().unwrap(), "bus.toml");
    ended.spawn(run_with(
        config,
        Reload::new(hear, load),
        token,
        move |bound| {
            told.send(bound).unwrap();
        },
    ));
    Running {
        bound: bound.await.unwrap(),
        stop,
        reload,
        asked,
        ended,
    }
}

impl Running {
    async fn stop(mut self) {
        self.stop.cancel();
        self.ended.join_next().await.unwrap().unwrap().unwrap();
    }

    async fn status(&self) -> serde_json::Value {
        let url = format!("http://{}/status", self.bound.admin);
        let limit = Duration::from_secs(5);
        let (status, body) = tributary_common::http::get(&url, None, limit)
            .await
            .unwrap();
        assert!(status.is_success());
        serde_json::from_slice(&body).unwrap()
    }

    /// Gives it another configuration, and waits until it counts, or has this fault.
    async fn reload(&self, text: &str, fault: &str) -> serde_json::Value {
        let before = self.status().await["config"].clone();
        text.clone_into(&mut self.reload.lock().unwrap());
        self.asked.send_modify(|number| *number += 1);
        for _look in 0..3_000 {
            let page = self.status().await;
            let said = page["config"]["fault"].as_str().unwrap();
            let is_so = match fault {
                "" => said.is_empty() && page["config"]["version"] != before["version"],
                fault => said.contains(fault) && page["config"]["version"] == before["version"],
            };
            if is_so {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{fault:?} did not come: {}", self.status().await);
    }

    /// Sends a request as it is and returns all that comes back.
    async fn raw(&self, request: &str) -> String {
        let mut stream = dial(self.bound.listen).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }
}

async fn dial(addr: SocketAddr) -> TcpStream {
    net::dial(&addr.to_string(), Duration::from_secs(5))
        .await
        .unwrap()
}

/// An upgraded connection that has said hello.
async fn agent(bound: Bound) -> TcpStream {
    let mut stream = dial(bound.listen).await;
    let ask =
        "GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tributary/1\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&head)
    );
    let hello = Frame::Hello(Hello {
        agent: AgentId::new("a").unwrap(),
        host: "h".into(),
        zone: Zone::new("z").unwrap(),
        epoch: Epoch(1),
        software: "test".into(),
    });
    stream
        .write_all(&wire::encode(&hello).unwrap())
        .await
        .unwrap();
    assert!(matches!(hear(&mut stream).await, Some(Frame::Welcome(_))));
    stream
}

async fn hear(stream: &mut TcpStream) -> Option<Frame> {
    let mut prelude = [0; PRELUDE_BYTES];
    stream.read_exact(&mut prelude).await.ok()?;
    let prelude = Prelude::decode(prelude).unwrap();
    let mut bytes = vec![0; prelude.frame_bytes()];
    stream.read_exact(&mut bytes).await.unwrap();
    Some(wire::decode(prelude, Bytes::from(bytes)).unwrap())
}

async fn ask(stream: &mut TcpStream, (header, payload): (BatchHeader, Bytes)) -> Option<Frame> {
    let frame = Frame::Batch(Box::new(header), payload);
    stream
        .write_all(&wire::encode(&frame).unwrap())
        .await
        .unwrap();
    hear(stream).await
}

async fn send(stream: &mut TcpStream, batch: (BatchHeader, Bytes)) -> Outcome {
    match ask(stream, batch).await {
        Some(Frame::Receipts(mut receipts)) => receipts.remove(0).outcome,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_goes_from_the_port_to_a_file_and_is_known_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let node = start(dir.path()).await;
    let mut stream = agent(node.bound).await;
    let outcome = send(&mut stream, batch("web", 1, 1, &["one", "two"])).await;
    assert!(matches!(outcome, Outcome::Delivered(places) if places[0].end == 8));
    let file = dir.path().join("out/web/bus1.log");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one\ntwo\n");
    node.stop().await;
    assert!(matches!(
        hear(&mut stream).await,
        Some(Frame::GoAway { .. })
    ));
    assert_eq!(hear(&mut stream).await, None);

    let node = start(dir.path()).await;
    let mut stream = agent(node.bound).await;
    let again = send(&mut stream, batch("web", 1, 1, &["one", "two"])).await;
    assert_eq!(again, Outcome::Duplicate);
    send(&mut stream, batch("web", 1, 2, &["three"])).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one\ntwo\nthree\n");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_has_one_node() {
    let dir = TempDir::new().unwrap();
    let node = start(dir.path()).await;
    let second = run(config(dir.path()), CancellationToken::new())
        .await
        .unwrap_err();
    assert!(
        second.downcast_ref::<disk::LockError>().is_some(),
        "{second:#}"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_answered_in_clear_words() {
    let dir = TempDir::new().unwrap();
    let node = start(dir.path()).await;
    let close = "Host: x\r\nConnection: close\r\n\r\n";
    let stream = "GET /v1/stream HTTP/1.1\r\nHost: x\r\n";
    let table = [
        (
            format!("GET /v1/stream HTTP/1.1\r\n{close}"),
            "426 ",
            "Upgrade: tributary/1",
        ),
        (
            format!("{stream}Connection: upgrade, close\r\nUpgrade: tributary/9\r\n\r\n"),
            "426 ",
            "speaks tributary/1 only",
        ),
        (
            format!("POST /v1/stream HTTP/1.1\r\n{close}"),
            "405 ",
            "allowed here: GET",
        ),
        (
            format!("GET /v1/lines/web HTTP/1.1\r\n{close}"),
            "405 ",
            "allowed here: POST",
        ),
        (
            format!("GET /nothing HTTP/1.1\r\n{close}"),
            "404 ",
            "POST /v1/lines/{topic}",
        ),
        (
            format!("PUT /healthz HTTP/1.1\r\n{close}"),
            "405 ",
            "GET, HEAD",
        ),
        (format!("GET /healthz HTTP/1.1\r\n{close}"), "200 ", "ok"),
        (format!("GET /readyz HTTP/1.1\r\n{close}"), "200 ", "ready"),
        (
            format!("POST /v1/lines/web HTTP/1.1\r\nContent-Length: 4\r\n{close}a\nb\n"),
            "200 ",
            r#"{"bytes":2,"records":2}"#,
        ),
        ("garbage\r\n\r\n".to_owned(), "400 ", ""),
    ];
    for (request, status, part) in table {
        let answer = node.raw(&request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}\n{answer}"
        );
        assert!(
            answer.to_lowercase().contains(&part.to_lowercase()),
            "{request}\n{answer}"
        );
    }
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let mut stream = dial(node.bound.listen).await;
    // The bus may close before it has read all of it.
    drop(stream.write_all(long.as_bytes()).await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_what_a_person_asks_first() {
    let dir = TempDir::new().unwrap();
    let node = start(dir.path()).await;
    let mut stream = agent(node.bound).await;
    send(&mut stream, batch("web", 1, 1, &["one", "two"])).await;
    let mut page = node.status().await;
    // A batch is answered before its memory is given back.
    while page["memory"]["used_bytes"] != 0 {
        page = node.status().await;
    }
    assert_eq!(page["node"], "bus1");
    assert_eq!(page["connections"], 1);
    assert_eq!(page["destinations"][0]["state"], "up");
    assert_eq!(page["topics"]["web"]["delivered_records"], 2);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_destinations_change_while_the_node_runs() {
    let dir = TempDir::new().unwrap();
    let node = start(dir.path()).await;
    let mut stream = agent(node.bound).await;
    send(&mut stream, batch("web", 1, 1, &["one"])).await;
    let refused = ask(&mut stream, batch("db", 2, 1, &["a"])).await;
    assert!(
        matches!(&refused, Some(Frame::Refuse(refusal)) if refusal.detail.contains("no route")),
        "{refused:?}"
    );

    let path = dir.path().display();
    let second = format!(
        "\n[[destination]]\nname = \"second\"\nkind = \"file\"\npath = \"{path}/second/{{topic}}\"\n\
         [[route]]\ntopic = \"db\"\nto = [{{ destination = \"second\" }}]\n"
    );
    node.reload(&(text(dir.path()) + &second), "").await;
    let outcome = send(&mut stream, batch("db", 2, 1, &["a"])).await;
    assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
    let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
    assert_eq!(read("second/db/bus1.log"), "a\n");

    // "web" goes elsewhere, and "local" lies elsewhere.
    let moved = (text(dir.path()) + &second)
        .replace("destination = \"local\"", "destination = \"second\"")
        .replace("/out/", "/other/");
    node.reload(&moved, "").await;
    let again = send(&mut stream, batch("web", 1, 1, &["one"])).await;
    assert_eq!(again, Outcome::Duplicate, "it went the whole way before");
    send(&mut stream, batch("web", 1, 2, &["two"])).await;
    assert_eq!(read("second/web/bus1.log"), "two\n");

    // Nothing leads to "local" any more: it goes, and comes back.
    let local = moved.find("[[destination]]").unwrap()..moved.find("[[route]]").unwrap();
    let mut without = moved.clone();
    without.replace_range(local, "");
    node.reload(&without, "").await;
    while node.status().await["destinations"]
        .as_array()
        .unwrap()
        .len()
        > 1
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let page = node.reload(&text(dir.path()), "").await;
    assert!(page["destinations"].to_string().contains("local"), "{page}");
    send(&mut stream, batch("web", 1, 3, &["three"])).await;
    assert_eq!(read("out/web/bus1.log"), "one\nthree\n");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_is_refused_whole_and_the_old_one_goes_on() {
    let dir = TempDir::new().unwrap();
    let node = start(dir.path()).await;
    let good = text(dir.path());
    let route = "[[route]]\ntopic = \"db\"\nto = [{ destination = \"local\" }]\n";
    let check = async |text: String, fault: &str| {
        let page = node.reload(&text, fault).await;
        assert_eq!(page["destinations"].as_array().unwrap().len(), 1, "{page}");
    };
    check(format!("{good}\n[[ruote]]\n"), "ruote: is unknown").await;
    let key = "node: cannot change while the bus runs; restart it";
    check(good.replace("\"bus1\"", "\"bus2\"") + route, key).await;
    let spill = "cannot change from or to 0B while the bus runs";
    check(format!("{good}{route}[spill]\nmax = \"0B\"\n"), spill).await;
    let nowhere = "\n[[destination]]\nname = \"b\"\nkind = \"file\"\npath = \"/proc/no/{topic}\"\n";
    check(
        format!("{good}{nowhere}{route}"),
        "failed to start destination b",
    )
    .await;
    let nowhere_too = nowhere.replace("\"b\"", "\"c\"");
    let both = format!("{good}{nowhere}{nowhere_too}{route}");
    check(both, "failed to start destination c").await;
    let fault = node.status().await["config"]["fault"].clone();
    assert!(fault.to_string().contains("destination b"), "{fault}");

    let mut stream = agent(node.bound).await;
    let refused = ask(&mut stream, batch("db", 2, 1, &["a"])).await;
    assert!(matches!(refused, Some(Frame::Refuse(_))), "{refused:?}");
    send(&mut stream, batch("web", 1, 1, &["one"])).await;
    let page = node
        .reload(&format!("{good}{route}[spill]\nmax = \"1MiB\"\n"), "")
        .await;
    assert_eq!(page["spill"]["max_bytes"], 1 << 20);
    send(&mut stream, batch("db", 2, 1, &["a"])).await;
    node.stop().await;
}
