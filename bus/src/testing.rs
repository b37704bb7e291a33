//! What the tests of several rooms share: batches, a node with scripted destinations.

use std::sync::Arc;

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
    destination::{Accepted, Destination, memory::MemorySink},
    journal::{Journal, Owner},
    node::{Identity, Node},
    report::Ledger,
    route::{Branch, Pattern, Route, Table},
    template::Template,
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

/// The batch as a destination gets it.
pub(crate) async fn accepted((header, payload): (BatchHeader, Bytes)) -> Arc<Accepted> {
    let budget = Budget::new(budget::MIN_BYTES);
    let permit = budget.take(1).await;
    Arc::new(Accepted {
        header: Arc::new(header),
        payload,
        _permit: permit,
    })
}

/// A node with one scripted destination for topics `web*` and two for `both*`.
pub(crate) struct Rig {
    pub(crate) node: Arc<Node>,
    pub(crate) sink: MemorySink,
    pub(crate) second: MemorySink,
    pub(crate) stop: CancellationToken,
    pub(crate) owner: Owner,
    pub(crate) dir: TempDir,
}

pub(crate) fn rig() -> Rig {
    rig_in(TempDir::new().unwrap(), budget::MIN_BYTES)
}

pub(crate) fn rig_in(dir: TempDir, memory: u64) -> Rig {
    let (journal, owner, _opened) = Journal::open(dir.path(), true).unwrap();
    let sink = MemorySink::new("first", &journal);
    let second = MemorySink::new("second", &journal);
    let branch = |destination| Branch {
        destination,
        target: Template::parse("x-{topic}").unwrap(),
    };
    let route = |pattern: &str, to| Route {
        pattern: Pattern::new(pattern).unwrap(),
        to,
    };
    let table = Table::new(vec![
        route("web*", vec![branch(0)]),
        route("both*", vec![branch(0), branch(1)]),
    ]);
    let stop = CancellationToken::new();
    let identity = Identity {
        node: NodeId::new("bus1").unwrap(),
        cluster: Name::new("c").unwrap(),
        zone: Zone::new("z").unwrap(),
        epoch: journal.memory().epoch,
        lines_agent: AgentId::new("bus-bus1").unwrap(),
    };
    let destinations = vec![
        Destination::Memory(sink.clone()),
        Destination::Memory(second.clone()),
    ];
    let node = Node::new(
        identity,
        Budget::new(memory),
        journal,
        Ledger::new(true),
        (table, destinations),
        stop.clone(),
    );
    Rig {
        node: Arc::new(node),
        sink,
        second,
        stop,
        owner,
        dir,
    }
}
