//! What the tests of several rooms share: batches, a node with scripted destinations.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tributary_common::{
    batch::{Codec, Encoder},
    header::BatchHeader,
    ids::{
        AgentId, BatchId, Class, Epoch, GenerationId, Name, NodeId, StreamId, TaskId, Topic, Zone,
    },
    span::Span,
};

use crate::{
    budget::{self, Budget},
    config::WhenFull,
    destination::{Accepted, Destination, memory::MemorySink},
    journal::{Journal, Owner},
    node::{Identity, Node},
    quota::Quotas,
    report::Ledger,
    route::{Branch, Pattern, Route, Standby, Table},
    routing::Routing,
    site::{Site, close_all},
    spill::{Spill, Usage},
    switch::Switch,
    template::Template,
    unfinished::Unfinished,
};

/// A batch of lines.
pub(crate) fn batch(topic: &str, stream: u64, seq: u64, lines: &[&str]) -> (BatchHeader, Bytes) {
    let lines: Vec<_> = lines.iter().map(|line| (None, *line)).collect();
    made(topic, stream, seq, &lines)
}

/// A batch of a task with keys; a line is its key, its batch and its place.
pub(crate) fn keyed_batch(
    topic: &str,
    stream: u64,
    seq: u64,
    keys: &[Option<&str>],
) -> (BatchHeader, Bytes) {
    let line = |(place, key): (usize, &Option<&str>)| {
        format!("{}/{stream}/{seq}/{place}", key.unwrap_or("none"))
    };
    let lines: Vec<String> = keys.iter().enumerate().map(line).collect();
    let keyed = keys.iter().zip(&lines);
    let keyed: Vec<_> = keyed.map(|(key, line)| (*key, line.as_str())).collect();
    let (mut header, payload) = made(topic, stream, seq, &keyed);
    header.keyed = true;
    (header, payload)
}

fn made(
    topic: &str,
    stream: u64,
    seq: u64,
    lines: &[(Option<&str>, &str)],
) -> (BatchHeader, Bytes) {
    let id = BatchId {
        stream: StreamId(stream),
        epoch: Epoch(1),
        seq,
    };
    let mut encoder = Encoder::new(Codec::Zstd);
    encoder.begin(id);
    for (key, line) in lines {
        encoder.push(60_000, key.map(str::as_bytes), line.as_bytes());
    }
    let encoded = encoder.finish().unwrap();
    let header = BatchHeader {
        agent: AgentId::new("a").unwrap(),
        stream: id.stream,
        epoch: id.epoch,
        seq,
        generation: GenerationId(1),
        span: Span { start: 0, end: 1 },
        task: TaskId::new("t").unwrap(),
        topic: Topic::new(topic).unwrap(),
        class: Class::P2,
        resends: 0,
        records: encoded.records,
        raw_bytes: encoded.raw_bytes,
        minutes: encoded.minutes,
        content_sum: encoded.content_sum,
        file: "/var/log/x".into(),
        keyed: encoded.keyed,
    };
    (header, encoded.payload)
}

/// What is said of a batch of a topic.
pub(crate) fn header_of(topic: &str) -> BatchHeader {
    batch(topic, 1, 1, &["x"]).0
}

/// The batch as a destination gets it.
pub(crate) async fn accepted((header, payload): (BatchHeader, Bytes)) -> Arc<Accepted> {
    let budget = Budget::new(budget::MIN_BYTES);
    let permit = budget.take(1).await;
    Arc::new(Accepted::new(header, payload, permit))
}

/// The batch as a node takes it.
pub(crate) async fn accepted_by(node: &Node, (header, payload): (BatchHeader, Bytes)) -> Accepted {
    let permit = node.budget.take(1).await;
    Accepted::new(header, payload, permit)
}

/// A node with one scripted destination for topics `web*`, two for `both*`, and for `safe*` the first with
/// the second as its standby.
pub(crate) struct Rig {
    pub(crate) node: Arc<Node>,
    pub(crate) sink: MemorySink,
    pub(crate) second: MemorySink,
    pub(crate) stop: CancellationToken,
    pub(crate) owner: Owner,
    pub(crate) dir: TempDir,
}

impl Rig {
    /// The spill of the first destination.
    pub(crate) fn spill(&self) -> Arc<Spill> {
        self.spills().remove(0)
    }

    /// The spills of all destinations.
    pub(crate) fn spills(&self) -> Vec<Arc<Spill>> {
        let routing = self.node.routing();
        let spills = routing
            .sites()
            .filter_map(|(site, _leaving)| site.spill.clone());
        spills.collect()
    }

    /// Ends this life in order and gives the folder to the next one.
    pub(crate) fn end(self) -> TempDir {
        let routing = self.node.routing();
        let sites: Vec<_> = routing.sites().map(|(site, _leaving)| &**site).collect();
        close_all(&sites);
        self.owner.close();
        self.dir
    }
}

pub(crate) fn rig() -> Rig {
    rig_in(TempDir::new().unwrap(), budget::MIN_BYTES)
}

pub(crate) fn rig_in(dir: TempDir, memory: u64) -> Rig {
    assembled(dir, memory, None)
}

/// A node with a spill of so many bytes, in segments of so many.
pub(crate) fn rig_with_spill(dir: TempDir, max: u64, segment_bytes: u64) -> Rig {
    rig_that_drops(dir, (max, WhenFull::Busy), segment_bytes)
}

/// As [`rig_with_spill`], and what it does when it is full.
pub(crate) fn rig_that_drops(dir: TempDir, max: (u64, WhenFull), segment_bytes: u64) -> Rig {
    let usage = Usage::small(dir.path(), max, segment_bytes);
    assembled(dir, 64 << 20, Some(&Arc::new(usage)))
}

fn assembled(dir: TempDir, memory: u64, usage: Option<&Arc<Usage>>) -> Rig {
    let (journal, owner, _opened) = Journal::open(dir.path(), true).unwrap();
    let sink = MemorySink::new("first", &journal);
    let second = MemorySink::new("second", &journal);
    let target = || Template::parse("x-{topic}").unwrap();
    let names = ["first", "second"].map(|name| Name::new(name).unwrap());
    let branch = |destination| Branch {
        destination,
        target: target(),
        standby: Vec::new(),
        create: None,
        switch: Arc::new(Switch::new("x", Vec::new())),
    };
    let with_standby = Branch {
        standby: vec![Standby {
            destination: 1,
            target: target(),
        }],
        switch: Arc::new(Switch::new("safe*", names.to_vec())),
        ..branch(0)
    };
    let route = |pattern: &str, to| Route {
        pattern: Pattern::new(pattern).unwrap(),
        to,
    };
    let table = Table::new(vec![
        route("web*", vec![branch(0)]),
        route("both*", vec![branch(0), branch(1)]),
        route("safe*", vec![with_standby]),
    ]);
    let stop = CancellationToken::new();
    let identity = Identity {
        node: NodeId::new("bus1").unwrap(),
        cluster: Name::new("c").unwrap(),
        zone: Zone::new("z").unwrap(),
        epoch: journal.memory().epoch,
        lines_agent: AgentId::new("bus-bus1").unwrap(),
    };
    let (mut sites, mut unfinished) = (Vec::new(), Unfinished::default());
    for (name, sink) in [("first", &sink), ("second", &second)] {
        let name = Name::new(name).unwrap();
        let destination = Arc::new(Destination::Memory(sink.clone()));
        let spill = usage.map(|usage| {
            let folder = dir.path().join("spill");
            let its = (&name, Arc::clone(&destination));
            let (spill, _opened, found) = Spill::open(&folder, usage, its, &journal).unwrap();
            unfinished.extend(found);
            spill
        });
        sites.push(Arc::new(Site::new(name, destination, spill)));
    }
    let node = Node::new(
        identity,
        (Budget::new(memory), Quotas::default()),
        journal,
        Ledger::new(true),
        (Routing::new(table, sites), unfinished),
        stop.clone(),
    );
    let node = Arc::new(node);
    for (site, _leaving) in node.routing().sites() {
        site.start(&node).unwrap();
    }
    Rig {
        node,
        sink,
        second,
        stop,
        owner,
        dir,
    }
}

/// Waits until the condition holds, a minute at most.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _look in 0..6_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come");
}
