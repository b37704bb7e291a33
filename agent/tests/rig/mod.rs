//! A scriptable end of the wire, an agent in this process, and what must arrive.
//!
//! The bus here speaks frames and decodes batches, nothing more: the real one is tested elsewhere.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    select,
    sync::{Notify, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tributary_agent::config;
use tributary_common::{
    batch,
    daemon::Reload,
    disk::faults::{Fault, Faults},
    header::BatchHeader,
    ids::{BatchId, Epoch, Name, NodeId},
    wire::{
        self, Busy, Frame, Outcome, PRELUDE_BYTES, Prelude, Receipt, Refusal, RefuseReason, Scope,
        Welcome,
    },
};

/// Everything is waited for this long.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A batch as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) header: BatchHeader,
    pub(crate) lines: Vec<String>,
    pub(crate) times: Vec<i64>,
    /// What is special about each record.
    pub(crate) flags: Vec<String>,
    /// How they were compressed, and the bytes.
    pub(crate) codec: batch::Codec,
    pub(crate) payload: Bytes,
}

/// What the bus answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Manner {
    /// Takes everything.
    #[default]
    Take,
    /// Takes everything and says nothing.
    Mute,
    /// Says `Busy` to everything.
    Busy,
    /// Refuses everything.
    Refuse,
    /// Says `Busy` to every third batch, and to all after it until it comes again.
    SometimesBusy,
    /// Takes it, then closes the connection without an answer, every tenth batch.
    SometimesDrop,
}

#[derive(Debug, Default)]
struct Shared {
    manner: Manner,
    /// Batches in flight that it grants; `None` for as many as nobody minds.
    window: Option<u32>,
    /// Refused topics, whatever the manner.
    refused_topics: HashSet<String>,
    /// Topics whose batches are never answered, whatever the manner.
    stuck_topics: HashSet<String>,
    arrived: Vec<Arrived>,
    seen: u64,
    /// Nothing is taken, every connection ends.
    closed: bool,
    /// How many agents were killed: what they had sent last is in their connections still.
    killed: u64,
    /// The disk of the agent: when it counts as killed, nothing is taken either.
    disk: Option<Faults>,
}

impl Shared {
    /// Whether a batch is never answered.
    fn forgets(&mut self, header: &BatchHeader) -> bool {
        let forgets = self.stuck_topics.contains(header.topic.as_str());
        self.seen += u64::from(forgets);
        forgets
    }

    fn is_closed(&self) -> bool {
        self.closed || self.disk.as_ref().is_some_and(Faults::is_dead)
    }
}

/// The bus.
pub(crate) struct FakeBus {
    pub(crate) addr: String,
    shared: Arc<Mutex<Shared>>,
    /// The manner changed.
    changed: Arc<Notify>,
    task: JoinHandle<()>,
}

impl FakeBus {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let state = Arc::clone(&shared);
        let changed = Arc::new(Notify::new());
        let news = Arc::clone(&changed);
        let mut set = JoinSet::new();
        #[expect(
            clippy::disallowed_methods,
            reason = "the rig's own task, aborted when it is dropped"
        )]
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                set.spawn(serve(stream, Arc::clone(&state), Arc::clone(&news)));
            }
        });
        Self {
            addr,
            shared,
            changed,
            task,
        }
    }

    pub(crate) fn manner(&self, manner: Manner) {
        self.shared.lock().unwrap().manner = manner;
        self.changed.notify_waiters();
    }

    /// Who connects from now on may have so many batches in flight.
    pub(crate) fn grant(&self, batches: u32) {
        self.shared.lock().unwrap().window = Some(batches);
    }

    /// A silent bus takes everything again, and says so.
    pub(crate) fn end_silence(&self) {
        if self.shared.lock().unwrap().manner == Manner::Mute {
            self.manner(Manner::Take);
        }
    }

    /// From now on nothing arrives: who is killed then has sent nothing that its files do not know.
    fn close(&self, closed: bool) {
        self.shared.lock().unwrap().closed = closed;
    }

    /// The agent that was connected is dead: nothing comes from it any more.
    fn is_rid_of_it(&self) {
        let mut shared = self.shared.lock().unwrap();
        shared.killed += 1;
        shared.closed = false;
    }

    /// The agent is killed before the `n`-th call to its disk from now on.
    pub(crate) fn kill_at(&self, state: &Path, n: u64) {
        let disk = Faults::on(state);
        disk.at(n, Fault::Kill);
        self.shared.lock().unwrap().disk = Some(disk);
    }

    /// Whether that has come; the next agent has a sound disk.
    pub(crate) fn was_killed(&self) -> bool {
        let mut shared = self.shared.lock().unwrap();
        let was_killed = shared.is_closed();
        shared.disk = None;
        was_killed
    }

    /// Whether that has come.
    pub(crate) fn is_killed(&self) -> bool {
        self.shared.lock().unwrap().is_closed()
    }

    pub(crate) fn refuse_topic(&self, topic: &str, refuse: bool) {
        let mut shared = self.shared.lock().unwrap();
        if refuse {
            shared.refused_topics.insert(topic.to_owned());
        } else {
            shared.refused_topics.remove(topic);
        }
    }

    /// Batches of this topic are taken and forgotten.
    pub(crate) fn never_answer(&self, topic: &str) {
        let mut shared = self.shared.lock().unwrap();
        shared.stuck_topics.insert(topic.to_owned());
    }

    /// The headers of the batches that were taken, in order, when `enough` of them are there.
    pub(crate) async fn headers(
        &self,
        enough: impl Fn(&[BatchHeader]) -> bool,
    ) -> Vec<BatchHeader> {
        let until = Instant::now() + LIMIT;
        loop {
            let headers: Vec<BatchHeader> = {
                let shared = self.shared.lock().unwrap();
                shared
                    .arrived
                    .iter()
                    .map(|batch| batch.header.clone())
                    .collect()
            };
            if enough(&headers) || Instant::now() > until {
                return headers;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// How many batches came, whatever became of them.
    pub(crate) fn seen(&self) -> u64 {
        self.shared.lock().unwrap().seen
    }

    /// All batches that were taken, in order, repeats included.
    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.shared.lock().unwrap().arrived.clone()
    }

    /// What is special about the records of all batches, repeats included.
    pub(crate) fn flags(&self) -> Vec<String> {
        let batches = self.arrived();
        batches.into_iter().flat_map(|batch| batch.flags).collect()
    }

    /// The lines that arrived, each batch once, in the order of arrival. Repeats must be the same.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut known: BTreeMap<BatchId, Arrived> = BTreeMap::new();
        let mut lines = Vec::new();
        for batch in self.arrived() {
            if let Some(first) = known.get(&batch.header.id()) {
                assert_eq!(first.lines, batch.lines, "a repeat has the same records");
                assert_eq!(first.times, batch.times, "a repeat has the same times");
                assert_eq!(first.header.content_sum, batch.header.content_sum);
                assert_eq!(first.header.span, batch.header.span);
                assert_eq!(first.payload, batch.payload, "a repeat has the same bytes");
                assert!(batch.header.resends > 0, "a repeat says that it is one");
                continue;
            }
            lines.extend(batch.lines.clone());
            known.insert(batch.header.id(), batch);
        }
        lines
    }

    /// Waits until as many lines arrived as wanted, then compares them.
    pub(crate) async fn expect(&self, wanted: &[String]) {
        self.wait(|lines| lines.len() >= wanted.len()).await;
        let got = self.lines();
        assert_same(&got, wanted);
    }

    /// The same, whatever the order between files.
    pub(crate) async fn expect_sorted(&self, wanted: &[String]) {
        self.wait(|lines| lines.len() >= wanted.len()).await;
        let (mut got, mut wanted) = (self.lines(), wanted.to_vec());
        got.sort();
        wanted.sort();
        assert_same(&got, &wanted);
    }

    pub(crate) async fn wait(&self, done: impl Fn(&[String]) -> bool) {
        let until = Instant::now() + LIMIT;
        while !done(&self.lines()) {
            if Instant::now() > until {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) fn assert_same(got: &[String], wanted: &[String]) {
    if got != wanted {
        let at = got
            .iter()
            .zip(wanted)
            .position(|(a, b)| a != b)
            .unwrap_or(got.len().min(wanted.len()));
        panic!(
            "got {} lines, wanted {}; the first difference is line {at}: got {:?}, wanted {:?}",
            got.len(),
            wanted.len(),
            got.get(at..(at + 3).min(got.len())),
            wanted.get(at..(at + 3).min(wanted.len()))
        );
    }
}

impl Drop for FakeBus {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Mutex<Shared>>, changed: Arc<Notify>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let upgraded =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: tributary/1\r\n\r\n";
    stream.write_all(upgraded.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let Some(Frame::Hello(_)) = read_frame(&mut read).await else {
        panic!("no hello")
    };
    let (window, killed) = {
        let shared = shared.lock().unwrap();
        (shared.window, shared.killed)
    };
    let welcome = Welcome {
        node: NodeId::new("fake").unwrap(),
        cluster: Name::new("dc1").unwrap(),
        epoch: Epoch(1),
        window_batches: window.unwrap_or(64),
        window_bytes: 8 << 20,
    };
    send(&mut write, &Frame::Welcome(welcome)).await;
    // Streams that were told to wait, with the batch that must come first.
    let mut waiting: BTreeMap<u64, BatchId> = BTreeMap::new();
    // What was taken in silence: answered when the bus speaks again.
    let mut unanswered = Vec::new();
    loop {
        let mut next = std::pin::pin!(read_frame(&mut read));
        let frame = loop {
            let mut news = std::pin::pin!(changed.notified());
            news.as_mut().enable();
            let is_mute = shared.lock().unwrap().manner == Manner::Mute;
            if !is_mute && !unanswered.is_empty() {
                let receipts = unanswered.drain(..).map(delivered).collect();
                send(&mut write, &Frame::Receipts(receipts)).await;
            }
            select! {
                frame = &mut next => break frame,
                () = news => {}
            }
        };
        let Some(frame) = frame else { return };
        match frame {
            Frame::Ping(number) => send(&mut write, &Frame::Pong(number)).await,
            Frame::Batch(header, payload) => {
                let id = header.id();
                if shared.lock().unwrap().killed != killed {
                    return;
                }
                if shared.lock().unwrap().forgets(&header) {
                    continue;
                }
                let Some(answer) = answer(&shared, &mut waiting, *header, &payload) else {
                    return;
                };
                match answer {
                    Some(frame) => send(&mut write, &frame).await,
                    None => unanswered.push(id),
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The answer to a batch; the outer `None` closes the connection.
fn answer(
    shared: &Mutex<Shared>,
    waiting: &mut BTreeMap<u64, BatchId>,
    header: BatchHeader,
    payload: &Bytes,
) -> Option<Option<Frame>> {
    let mut shared = shared.lock().unwrap();
    if shared.is_closed() {
        return None;
    }
    let id = header.id();
    shared.seen += 1;
    let busy = |retry_after_ms| {
        Some(Some(Frame::Busy(Busy {
            batch: id,
            retry_after_ms,
            scope: Scope::Topic(header.topic.clone()),
            reason: "the test says so".into(),
        })))
    };
    if shared.refused_topics.contains(header.topic.as_str()) || shared.manner == Manner::Refuse {
        return Some(Some(Frame::Refuse(Refusal {
            batch: id,
            reason: RefuseReason::NoRoute,
            detail: "the test says so".into(),
        })));
    }
    if shared.manner == Manner::Busy {
        return busy(50);
    }
    if shared.manner == Manner::SometimesBusy {
        let first = waiting.get(&id.stream.0).copied();
        if first.is_some_and(|first| first != id)
            || (first.is_none() && shared.seen.is_multiple_of(3))
        {
            waiting.entry(id.stream.0).or_insert(id);
            return busy(5);
        }
        waiting.remove(&id.stream.0);
    }
    let decoded = batch::decode(payload, batch::MAX_DECODED_BYTES).unwrap();
    assert_eq!(decoded.len(), header.records);
    assert_eq!(decoded.content_sum(), header.content_sum);
    let records: Vec<_> = decoded.records().collect();
    assert_eq!(records[0].batch_id, Some(id));
    shared.arrived.push(Arrived {
        lines: records
            .iter()
            .map(|r| String::from_utf8_lossy(r.value).into_owned())
            .collect(),
        times: records.iter().map(|r| r.timestamp_ms).collect(),
        flags: records.iter().map(flags).collect(),
        codec: decoded.codec(),
        payload: payload.clone(),
        header,
    });
    match shared.manner {
        Manner::Mute => Some(None),
        Manner::SometimesDrop if shared.seen.is_multiple_of(10) => None,
        _ => Some(Some(Frame::Receipts(vec![delivered(id)]))),
    }
}

fn delivered(batch: BatchId) -> Receipt {
    Receipt {
        batch,
        outcome: Outcome::Delivered(Vec::new()),
    }
}

/// The value of the header `tributary-flags`.
fn flags(record: &batch::Record<'_>) -> String {
    let header = record
        .headers
        .iter()
        .find(|(key, _)| *key == "tributary-flags");
    let value = header.and_then(|(_, value)| value).unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

async fn read_frame(read: &mut OwnedReadHalf) -> Option<Frame> {
    let mut prelude = [0; PRELUDE_BYTES];
    read.read_exact(&mut prelude).await.ok()?;
    let prelude = Prelude::decode(prelude).unwrap();
    let mut bytes = vec![0; prelude.frame_bytes()];
    read.read_exact(&mut bytes).await.ok()?;
    Some(wire::decode(prelude, bytes.into()).unwrap())
}

async fn send(write: &mut OwnedWriteHalf, frame: &Frame) {
    // The agent may be gone: then the next read says so.
    drop(write.write_all(&wire::encode(frame).unwrap()).await);
}

/// An agent in this process.
pub(crate) struct Agent {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
    /// What SIGHUP loads, and the signal.
    document: Arc<Mutex<String>>,
    hup: watch::Sender<u64>,
}

impl Agent {
    pub(crate) fn start(text: &str) -> Self {
        let config = config::parse(text, "test")
            .unwrap_or_else(|faults| panic!("{faults}"))
            .value;
        let stop = CancellationToken::new();
        let document = Arc::new(Mutex::new(text.to_owned()));
        let (hup, asked) = watch::channel(0);
        let source = Arc::clone(&document);
        let reload = Reload::new(asked, move || {
            config::parse(&source.lock().unwrap(), "reload")
        });
        #[expect(
            clippy::disallowed_methods,
            reason = "the rig's own task, joined by stop"
        )]
        let task = tokio::spawn(tributary_agent::run_live(config, reload, stop.clone()));
        Self {
            stop,
            task,
            document,
            hup,
        }
    }

    /// Gives it another document, as SIGHUP does.
    pub(crate) fn offer(&self, text: &str) {
        text.clone_into(&mut self.document.lock().unwrap());
        self.hup.send_modify(|number| *number += 1);
    }

    /// The same, and waits until it counts.
    pub(crate) async fn reload(&self, state: &Path, text: &str) {
        let wanted = config::parse(text, "reload").unwrap().value.effective;
        self.offer(text);
        let until = Instant::now() + LIMIT;
        let kept = state.join("config/agent.toml");
        while !std::fs::read_to_string(&kept).is_ok_and(|text| text.ends_with(&wanted)) {
            assert!(Instant::now() < until, "it does not count in time:\n{text}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it as a kill does: what it leaves is what its files held at some moment, as a new state
    /// directory. With `torn`, it was writing to its checkpoint.
    pub(crate) async fn kill(self, bus: &FakeBus, state: &Path, torn: bool) -> PathBuf {
        if !state.join("checkpoint").try_exists().unwrap() {
            self.task.abort();
            drop(self.task.await);
            bus.is_rid_of_it();
            return state.to_owned();
        }
        bus.close(true);
        let left = state.with_extension(format!("{}", fastrand::u64(..)));
        std::fs::create_dir_all(left.join("checkpoint")).unwrap();
        std::fs::copy(state.join("agent-id"), left.join("agent-id")).unwrap();
        // Files that come and go while they are copied were never there together.
        let (from, to) = (state.join("checkpoint"), left.join("checkpoint"));
        loop {
            let files = files_of(&from);
            for path in &files {
                drop(std::fs::copy(path, to.join(path.file_name().unwrap())));
            }
            if files == files_of(&from) {
                break;
            }
            files_of(&to)
                .iter()
                .for_each(|path| std::fs::remove_file(path).unwrap());
        }
        if let Ok(files) = std::fs::read_dir(state.join("spool")) {
            std::fs::create_dir_all(left.join("spool")).unwrap();
            for path in files.map(|e| e.unwrap().path()) {
                let copy = left.join("spool").join(path.file_name().unwrap());
                drop(std::fs::copy(&path, copy));
            }
        }
        if let (true, Some(newest)) = (torn, files_of(&left.join("checkpoint")).pop()) {
            // The beginning of a frame: a length, and a part of what was to follow.
            append_bytes(&newest, &[40, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]);
        }
        self.task.abort();
        drop(self.task.await);
        bus.is_rid_of_it();
        left
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        timeout(LIMIT, self.task)
            .await
            .expect("it stops in time")
            .unwrap()
            .unwrap();
    }
}

/// A folder for logs and state, and the configuration of an agent on it.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) bus: FakeBus,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("logs")).unwrap();
        Self {
            dir,
            bus: FakeBus::start().await,
        }
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join("logs").join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A configuration with one task of class P0 (short lingers) on these paths.
    pub(crate) fn config(&self, paths: &str, more: &str) -> String {
        self.config_at(&self.state(), paths, more)
    }

    pub(crate) fn config_at(&self, state: &Path, paths: &str, more: &str) -> String {
        format!(
            "zone = \"dc1\"\nstate_dir = {:?}\nadmin = \"127.0.0.1:0\"\n\
             [[bus]]\nname = \"dc1\"\nnodes = [\"{}\"]\n\
             [[task]]\nid = \"t\"\ntopic = \"x\"\nclass = \"P0\"\npaths = [{:?}]\n{more}\n",
            state,
            self.bus.addr,
            self.log(paths),
        )
    }

    pub(crate) fn start(&self, paths: &str) -> Agent {
        Agent::start(&self.config(paths, ""))
    }
}

/// The logs of a checkpoint, oldest first.
fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "log"));
    files.sort();
    files
}

fn append_bytes(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.append(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// Waits until the agent has found a file: it has it open, in this process.
pub(crate) async fn found(path: &Path) {
    let is_open = || {
        let mut open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        open.any(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| to == path))
    };
    let until = Instant::now() + LIMIT;
    while !is_open() {
        assert!(Instant::now() < until, "{} is not found", path.display());
        sleep(Duration::from_millis(20)).await;
    }
}

/// Adds lines to a file.
pub(crate) fn append(path: &Path, lines: &[String]) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    file.write_all(text.as_bytes()).unwrap();
}

/// `count` lines that begin with `name`.
pub(crate) fn lines(name: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|at| format!("{name} {at} {}", "x".repeat(at % 50)))
        .collect()
}
