//! The destination against a server of a few lines that answers as it is told: what a real one does
//! seldom. A real one is in the integration tests.

use std::{
    io::Read as _,
    sync::mpsc::{Receiver, channel},
};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tributary_common::net;

use super::*;
use crate::{
    destination::{Done, Outcome},
    testing,
};

const WITHIN: Duration = Duration::from_secs(30);

/// What a server gets: the documents of a bulk request (none for other requests), and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    documents: Option<usize>,
    authorization: String,
}

/// A server; ends with the test.
struct Server {
    url: String,
    asked: Receiver<Asked>,
}

/// Answers every request by `answer`: a status and a body.
fn server(answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Server {
    let (tell_url, url) = channel();
    let (tell, asked) = channel();
    let (answer, tell) = (Arc::new(answer), Arc::new(Mutex::new(tell)));
    std::thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = net::listen("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tell_url.send(format!("http://{address}")).unwrap();
            let mut connections = JoinSet::new();
            loop {
                let (stream, _peer) = listener.accept().await.unwrap();
                let (answer, tell) = (Arc::clone(&answer), Arc::clone(&tell));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (answer, tell) = (Arc::clone(&answer), Arc::clone(&tell));
                    async move {
                        let asked = read(request).await;
                        // The test may be over.
                        drop(tell.lock().unwrap().send(asked.clone()));
                        let (status, body) = answer(&asked);
                        let response = Response::builder().status(status);
                        response.body(Full::new(Bytes::from(body)))
                    }
                });
                let connection = http1::Builder::new();
                connections.spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
    });
    Server {
        url: url.recv().unwrap(),
        asked,
    }
}

impl Server {
    /// How many bulk requests it got.
    fn bulks(&self) -> usize {
        let asked = self.asked.try_iter();
        asked.filter(|asked| asked.documents.is_some()).count()
    }
}

async fn read(request: Request<Incoming>) -> Asked {
    let authorization = request.headers().get("authorization");
    let authorization = authorization.map_or("", |value| value.to_str().unwrap());
    let authorization = authorization.to_owned();
    let bulk = request.method() == Method::POST && request.uri().path() == "/_bulk";
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut text = String::new();
    if bulk {
        GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    }
    Asked {
        documents: bulk.then(|| text.lines().count() / 2),
        authorization,
    }
}

/// All documents are created; another request is well.
fn created(asked: &Asked) -> (u16, String) {
    created_by(asked, "one")
}

/// The same, of a cluster with an id.
fn created_by(asked: &Asked, cluster: &str) -> (u16, String) {
    let Some(documents) = asked.documents else {
        return (200, format!(r#"{{"cluster_uuid":"{cluster}"}}"#));
    };
    let items = vec![r#"{"create":{"status":201}}"#; documents];
    (200, format!(r#"{{"items":[{}]}}"#, items.join(",")))
}

struct Rig {
    search: Search,
    letters: Arc<Letters>,
    dir: TempDir,
    _owner: crate::journal::Owner,
}

fn rig(urls: &[&str], change: impl FnOnce(&mut SearchConfig, &TempDir)) -> Rig {
    rig_in(TempDir::new().unwrap(), urls, change)
}

/// The next life of a node, in its folder.
fn rig_in(dir: TempDir, urls: &[&str], change: impl FnOnce(&mut SearchConfig, &TempDir)) -> Rig {
    let (journal, owner, _opened) = Journal::open(&dir.path().join("journal"), false).unwrap();
    let name = Name::new("es").unwrap();
    let letters = Letters::open(&dir.path().join("dead"), &name, 4 << 20, true).unwrap();
    let letters = Arc::new(letters);
    let mut config = SearchConfig {
        urls: urls.iter().map(|&url| url.to_owned()).collect(),
        user: None,
        password_file: None,
        api_key_file: None,
        ca: None,
        document: Document::Line,
        template: TemplateKind::None,
        request: 1 << 20,
        connections: 2,
        timeout: Duration::from_secs(60),
        gzip: true,
    };
    change(&mut config, &dir);
    let search = Search::start(&name, &config, &letters, &journal).unwrap();
    Rig {
        search,
        letters,
        dir,
        _owner: owner,
    }
}

impl Rig {
    /// Gives a batch of so many lines; its answer comes later.
    async fn give(&self, seq: u64, lines: usize) -> Receiver<Outcome> {
        let lines = vec!["a line"; lines];
        let batch = testing::accepted(testing::batch("web", 1, seq, &lines)).await;
        let (tell, told) = channel();
        self.search.deliver(Job {
            replay: None,
            batch,
            target: "web".to_owned(),
            done: Done::new(move |outcome| tell.send(outcome).unwrap_or_default()),
        });
        told
    }

    /// Ends, and leaves its folder.
    fn end(self) -> TempDir {
        self.search.close(WITHIN);
        self.dir
    }

    fn until(&self, want: Condition) {
        let began = Instant::now();
        while self.search.condition() != want {
            assert!(began.elapsed() < WITHIN, "{:?}", self.search.condition());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn is_delivered(told: &Receiver<Outcome>) -> bool {
    told.recv_timeout(WITHIN).unwrap().is_ok()
}

#[tokio::test]
async fn a_node_that_is_gone_is_left_for_the_other_one() {
    let well = server(created);
    let rig = rig(&["http://127.0.0.1:9", &well.url], |_config, _dir| {});
    for seq in 1..=5 {
        assert!(is_delivered(&rig.give(seq, 3).await));
    }
    assert_eq!(rig.search.condition(), Condition::Up);
    assert!(rig.search.health().detail.contains("127.0.0.1:9"));
    rig.search.close(WITHIN);
}

#[tokio::test]
async fn without_any_node_it_is_down_and_says_so() {
    let rig = rig(&["http://127.0.0.1:9"], |_config, _dir| {});
    let told = rig.give(1, 3).await.recv_timeout(WITHIN).unwrap();
    assert!(matches!(told, Err(Failure::Unavailable(_))), "{told:?}");
    rig.until(Condition::Down);
    assert!(rig.search.down("web").is_some());
    rig.search.close(WITHIN);
}

#[tokio::test]
async fn bad_credentials_are_told_and_good_ones_are_read_anew() {
    let well = server(|asked| match asked.authorization.as_str() {
        "Basic dTpnb29k" => created(asked),
        _other => (401, r#"{"error":{"type":"security_exception"}}"#.to_owned()),
    });
    let rig = rig(&[&well.url], |config, dir| {
        let file = dir.path().join("password");
        std::fs::write(&file, "bad\n").unwrap();
        (config.user, config.password_file) = (Some("u".to_owned()), Some(file));
    });
    let told = rig.give(1, 3).await.recv_timeout(WITHIN).unwrap();
    assert!(matches!(told, Err(Failure::Unavailable(_))), "{told:?}");
    rig.until(Condition::Refused);
    std::fs::write(rig.dir.path().join("password"), "good\n").unwrap();
    rig.until(Condition::Up);
    assert!(is_delivered(&rig.give(1, 3).await));
    rig.search.close(WITHIN);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_cut_down_to_the_document_that_is() {
    let small = server(|asked| match asked.documents {
        Some(2..) => (413, "too large".to_owned()),
        _one => created(asked),
    });
    let rig = rig(&[&small.url], |_config, _dir| {});
    assert!(is_delivered(&rig.give(1, 5).await));
    assert_eq!(rig.letters.size().0, 0);
    rig.search.close(WITHIN);

    let none = server(|_asked| (413, "too large".to_owned()));
    let rig = self::rig(&[&none.url], |_config, _dir| {});
    assert!(is_delivered(&rig.give(1, 2).await));
    let cards = rig.letters.cards(&Filter::default());
    let said: Vec<_> = cards.iter().map(|card| (card.status, card.tries)).collect();
    assert_eq!(said, [(413, 1), (413, 1)]);
    rig.search.close(WITHIN);
}

#[tokio::test]
async fn a_server_that_says_nothing_hangs_and_a_stop_does_not_wait_for_it() {
    let silent = net::listen("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let rig = rig(&[&url], |_config, _dir| {});
    let told = rig.give(1, 3).await;
    rig.until(Condition::Hanging);
    assert!(rig.search.gone().is_some());
    rig.search.close(Duration::from_millis(100));
    let told = told.recv_timeout(WITHIN).unwrap();
    assert!(matches!(told, Err(Failure::Unavailable(_))), "{told:?}");
}

#[tokio::test]
async fn an_overloaded_server_gets_less_and_has_all_in_the_end() {
    let count = AtomicUsize::new(0);
    let busy = server(move |asked| {
        let turn = asked
            .documents
            .map(|_some| count.fetch_add(1, Ordering::Relaxed));
        match turn {
            Some(0..3) => (429, r#"{"error":{"type":"rejected"}}"#.to_owned()),
            Some(_) | None => created(asked),
        }
    });
    let rig = rig(&[&busy.url], |_config, _dir| {});
    assert!(is_delivered(&rig.give(1, 3).await));
    assert_eq!(rig.search.condition(), Condition::Throttled);
    assert_eq!(busy.bulks(), 4);
    rig.search.close(WITHIN);
}

#[tokio::test]
async fn a_cluster_of_another_id_than_before_is_not_written_to() {
    let right = server(created);
    let wrong = server(|asked| created_by(asked, "two"));
    let rig = rig(&[&right.url], |_config, _dir| {});
    assert!(is_delivered(&rig.give(1, 3).await));
    // With a wrong address it is told before anything comes, and also when only one address is wrong.
    let rig = rig_in(rig.end(), &[&wrong.url, &right.url], |_config, _dir| {});
    rig.until(Condition::Refused);
    let why = rig.search.gone().unwrap();
    let sentence = "es is cluster two now, and was cluster one before: is the address right?";
    assert!(why.starts_with(sentence), "{why}");
    let told = rig.give(2, 3).await.recv_timeout(WITHIN).unwrap();
    assert_eq!(told, Err(Failure::Unavailable(why)));
    assert_eq!((wrong.bulks(), right.bulks()), (0, 1));
    let rig = rig_in(rig.end(), &[&right.url], |_config, _dir| {});
    assert!(is_delivered(&rig.give(2, 3).await));
    rig.search.close(WITHIN);
}

/// Behind an address another cluster may come up while this node runs.
#[tokio::test]
async fn each_new_connection_is_looked_at() {
    let changed = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&changed);
    let server = server(move |asked| match now.load(Ordering::Relaxed) {
        0 => created(asked),
        1 if asked.documents.is_some() => (401, String::new()),
        _other => created_by(asked, "two"),
    });
    let rig = rig(&[&server.url], |_config, _dir| {});
    assert!(is_delivered(&rig.give(1, 3).await));
    // What is refused ends the connection.
    changed.store(1, Ordering::Relaxed);
    assert!(!is_delivered(&rig.give(2, 3).await));
    let bulks = server.bulks();
    rig.until(Condition::Refused);
    changed.store(2, Ordering::Relaxed);
    let began = Instant::now();
    while !rig
        .search
        .gone()
        .is_some_and(|why| why.contains("cluster two now"))
    {
        assert!(began.elapsed() < WITHIN, "{:?}", rig.search.gone());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!is_delivered(&rig.give(3, 3).await));
    assert_eq!((bulks, server.bulks()), (2, 0));
    rig.search.close(WITHIN);
}
