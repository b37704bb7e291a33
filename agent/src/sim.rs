//! An agent without files and threads: its real checkpoint, window, links and sender, on lines that
//! are made up.
//!
//! What a reader does is done by hand: a batch is cut, noted, and handed to the sender; a new life finds
//! in the checkpoint what was not acknowledged, and sends it again under the same identity. Lines are
//! numbered, so that whoever sees a batch knows what must be in it.
//!
//! Not for: programs, files. Compiled only with the feature `sim`; the tests' package calls it.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tributary_common::{
    batch::{Codec, Encoder},
    header::BatchHeader,
    ids::{AgentId, BatchId, Class, GenerationId, Name, StreamId, TaskId, Topic, Zone},
    span::Span,
    wire::Hello,
};

use crate::{
    checkpoint::{Checkpoint, Cut, GenerationRecord, MadeBy, Record},
    clock,
    config::Cluster,
    frame::{Carry, LongLine, Rule},
    handle::FileKey,
    identify::{Mark, Prefix},
    limit::{Budget, Share},
    path::LogPath,
    send::{Outgoing, Sender, Ways},
    status::Status,
};

/// Memory for batches in flight: enough for all that a simulation sends.
const MEMORY_BYTES: u64 = 8 << 20;
/// Hands that wait for the sender.
const HANDS: usize = 1024;
/// On a standby cluster, a better one is looked for after this.
const RETURN_AFTER: Duration = Duration::from_secs(20);

/// A stream of an agent.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its number, which no other agent's stream has.
    pub stream: u64,
    /// Where its lines go.
    pub topic: Topic,
    /// How urgent they are.
    pub class: Class,
}

/// The line of a stream at a place; places count lines.
#[must_use]
pub fn line(stream: u64, at: u64) -> String {
    format!("stream {stream} line {at}")
}

#[derive(Debug)]
struct Channel {
    source: Source,
    share: Arc<Share>,
    /// The line that is cut next.
    at: u64,
    /// The number of the last batch of this life.
    seq: u64,
}

/// One life of an agent; dropped, it is killed.
#[derive(Debug)]
pub struct Agent {
    hello: Hello,
    checkpoint: Arc<Checkpoint>,
    channels: Vec<Channel>,
    hands: mpsc::Sender<Vec<Outgoing>>,
    encoder: Encoder,
    _ways: watch::Sender<Ways>,
    _sender: JoinSet<anyhow::Result<()>>,
}

impl Agent {
    /// Begins a life in a folder, with what an earlier one left there.
    ///
    /// # Errors
    /// A checkpoint that cannot be opened.
    pub fn start(
        name: &str,
        state_dir: &Path,
        clusters: &[(Name, Vec<String>)],
        sources: &[Source],
    ) -> anyhow::Result<Self> {
        let (checkpoint, _found) = Checkpoint::open(state_dir, false, clock::now_ms())?;
        let checkpoint = Arc::new(checkpoint);
        let hello = Hello {
            agent: AgentId::new(name)?,
            host: name.to_owned(),
            zone: Zone::new("z")?,
            epoch: checkpoint.read(|state| state.epoch),
            software: "simulated".to_owned(),
        };
        let clusters = clusters.iter().map(|(name, nodes)| Cluster {
            name: name.clone(),
            nodes: nodes.clone(),
        });
        let (ways, ways_now) = watch::channel(Ways::to(clusters.collect(), RETURN_AFTER));
        let (hands, incoming) = mpsc::channel(HANDS);
        let its = (hello.clone(), None);
        let status = Arc::new(Status::default());
        let sender = Sender::new(its, ways_now, incoming, Arc::clone(&checkpoint), status);
        let mut running = JoinSet::new();
        running.spawn(sender.run(CancellationToken::new()));
        let budget = Budget::of(MEMORY_BYTES, || {});
        let channels = sources.iter().map(|source| Channel {
            share: budget.share(&source.topic, source.class),
            source: source.clone(),
            at: 0,
            seq: 0,
        });
        let mut agent = Self {
            hello,
            checkpoint,
            channels: channels.collect(),
            hands,
            encoder: Encoder::new(Codec::Zstd),
            _ways: ways,
            _sender: running,
        };
        agent.go_on()?;
        Ok(agent)
    }

    /// Goes on where the checkpoint says; what was not acknowledged is sent again.
    fn go_on(&mut self) -> anyhow::Result<()> {
        let mut again = Vec::new();
        for channel in &mut self.channels {
            let stream = StreamId(channel.source.stream);
            let generation = GenerationId(channel.source.stream);
            let known = self.checkpoint.read(|state| {
                let known = state.generation(stream, generation);
                known.map(|known| known.mark.offset)
            });
            match known {
                Some(at) => channel.at = at,
                None => self.checkpoint.write(begun(&channel.source)?),
            }
            let cuts: Vec<Cut> = self.checkpoint.read(|state| {
                let cuts = state.cuts.values();
                cuts.filter(|cut| cut.id.stream == stream)
                    .cloned()
                    .collect()
            });
            for cut in cuts {
                let outgoing = outgoing(&self.hello.agent, &mut self.encoder, channel, &cut)?;
                again.push(outgoing.context("memory holds what was sent before")?);
            }
        }
        self.hands.try_send(again).context("the sender is gone")
    }

    /// Cuts a batch of some lines of a stream and hands it over, unless there is no room for it.
    ///
    /// # Errors
    /// Names that are none.
    pub fn cut(&mut self, no: usize, lines: u64) -> anyhow::Result<Option<BatchId>> {
        let Some(channel) = self.channels.get_mut(no) else {
            return Ok(None);
        };
        let stream = StreamId(channel.source.stream);
        let span = Span {
            start: channel.at,
            end: channel.at + lines,
        };
        let cut = Cut {
            id: BatchId {
                stream,
                epoch: self.hello.epoch,
                seq: channel.seq + 1,
            },
            generation: GenerationId(stream.0),
            span,
            read_ms: clock::now_ms(),
            records: u32::try_from(lines)?,
            minutes: Vec::new(),
            content_sum: 0,
            mark: 0,
            recipe: MadeBy::Rule(Rule {
                max_line: 1 << 20,
                long_line: LongLine::Split,
            }),
            before: Carry::default(),
            after: Carry::default(),
        };
        let Some(batch) = outgoing(&self.hello.agent, &mut self.encoder, channel, &cut)? else {
            return Ok(None);
        };
        let Ok(place) = self.hands.try_reserve() else {
            return Ok(None);
        };
        let id = cut.id;
        (channel.at, channel.seq) = (span.end, id.seq);
        self.checkpoint.write(vec![Record::Cut(cut)]);
        place.send(vec![batch]);
        Ok(Some(id))
    }

    /// What the keeper of the checkpoint does now and then.
    pub fn keep(&self) {
        self.checkpoint.write(Vec::new());
    }

    /// The lines that were cut of each stream.
    #[must_use]
    pub fn cut_so_far(&self) -> Vec<(u64, u64)> {
        let channels = self.channels.iter();
        channels.map(|one| (one.source.stream, one.at)).collect()
    }

    /// How many batches are not acknowledged.
    #[must_use]
    pub fn left(&self) -> usize {
        self.checkpoint.read(|state| state.cuts.len())
    }

    /// Batches that are not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> BTreeSet<BatchId> {
        self.checkpoint
            .read(|state| state.cuts.keys().copied().collect())
    }
}

/// A stream as the reader makes it known.
fn begun(source: &Source) -> anyhow::Result<Vec<Record>> {
    let path = LogPath::of_bytes(b"/var/log/simulated");
    let stream = StreamId(source.stream);
    let generation = GenerationRecord {
        stream,
        generation: GenerationId(source.stream),
        key: FileKey(source.stream),
        inode: source.stream,
        truncations: 0,
        path: path.clone(),
        prefix: Prefix { len: 0, hash: 0 },
        mark: Mark::default(),
        carry: Carry::default(),
        mtime_ns: 0,
        ended_ms: None,
    };
    let stream = Record::Stream {
        stream,
        task: TaskId::new("t")?,
        topic: source.topic.clone(),
        path,
    };
    Ok(vec![stream, Record::Generation(generation)])
}

/// The batch of a cut, made anew; `None` where there is no memory for it.
fn outgoing(
    agent: &AgentId,
    encoder: &mut Encoder,
    of: &Channel,
    cut: &Cut,
) -> anyhow::Result<Option<Outgoing>> {
    encoder.begin(cut.id);
    for at in cut.span.start..cut.span.end {
        let line = line(of.source.stream, at);
        encoder.push(i64::try_from(cut.read_ms)?, None, line.as_bytes());
    }
    let made = encoder.finish()?;
    let bytes = made.payload.len() as u64;
    let Some(permit) = of.share.take(bytes, bytes) else {
        return Ok(None);
    };
    let header = BatchHeader {
        agent: agent.clone(),
        stream: cut.id.stream,
        epoch: cut.id.epoch,
        seq: cut.id.seq,
        generation: cut.generation,
        span: cut.span,
        task: TaskId::new("t")?,
        topic: of.source.topic.clone(),
        class: of.source.class,
        resends: 0,
        records: made.records,
        raw_bytes: made.raw_bytes,
        minutes: made.minutes,
        content_sum: made.content_sum,
        file: "/var/log/simulated".to_owned(),
        keyed: made.keyed,
    };
    Ok(Some(Outgoing {
        header: Box::new(header),
        payload: made.payload,
        permit,
    }))
}
