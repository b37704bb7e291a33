//! A bus node without threads and sockets: its real door, sessions, lanes, spill and journal, moved by
//! hand.
//!
//! Connections come from [`tributary_common::sim`], what threads do is done a turn at a time, and the
//! destinations keep what they are given until they are told what becomes of it. So a simulation
//! decides by a seed what happens when. Dropped, the node is killed; what is in its folder is what a
//! next life finds.
//!
//! Not for: programs. Compiled only with the feature `sim`; the tests' package calls it.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tributary_common::{
    batch::Decoder,
    ids::{AgentId, BatchId, Name, NodeId, StreamId, Zone},
    sim::Stream,
    span::Span,
    tls,
    wire::Place,
};

use crate::{
    budget::Budget,
    config::WhenFull,
    destination::{Destination, Failure, Job, by_hand, note_and_tell},
    journal::{Journal, Writer},
    lines::Lines,
    listen,
    node::{Identity, Node},
    quota::Quotas,
    report::Ledger,
    route::{Branch, Pattern, Route, Standby, Table},
    routing::Routing,
    site::Site,
    spill::{ByHand, Spill, Usage},
    standby,
    switch::Switch,
    template::Template,
    unfinished::Unfinished,
};

/// The names of the destinations, in the order of use.
pub const DESTINATIONS: [&str; 2] = ["first", "second"];

/// What a node has.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Memory for batches, in bytes.
    pub memory: u64,
    /// Bytes of all spills.
    pub spill: u64,
    /// Bytes of a segment.
    pub segment: u64,
    /// The second destination stands in for the first.
    pub standby: bool,
}

/// A part that has a thread in a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Writes the journal; with `true` it is synced.
    Journal(bool),
    /// Writes the spill of a destination; with `true` it is tidied.
    Write(usize, bool),
    /// Drains the spill of a destination.
    Drain(usize),
    /// Looks how the destinations are.
    Look,
}

struct Lane {
    spill: Arc<Spill>,
    threads: ByHand,
    sink: by_hand::ByHand,
}

/// One life of a node.
pub struct Bus {
    node: Arc<Node>,
    journal: Writer,
    lanes: Vec<Lane>,
    lines: Arc<Lines>,
    sessions: JoinSet<()>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").finish_non_exhaustive()
    }
}

/// A batch that a destination was given and has not answered.
#[derive(Debug)]
pub struct Given(Job);

impl Given {
    /// Which batch.
    #[must_use]
    pub fn batch(&self) -> BatchId {
        self.0.batch.header.id()
    }

    /// Its lines' places in the stream.
    #[must_use]
    pub fn span(&self) -> Span {
        self.0.batch.header.span
    }

    /// Its records, as a reader of the destination finds them.
    ///
    /// # Errors
    /// Why they are not what the header says.
    pub fn values(&self, decoder: &mut Decoder) -> Result<Vec<Vec<u8>>, String> {
        let opened = self.0.batch.open(decoder);
        let decoded = opened.map_err(|failure| format!("{failure:?}"))?;
        let values = decoded.records().map(|record| record.value.to_vec());
        Ok(values.collect())
    }

    /// The destination may have it or not: it is to come again.
    pub fn fails(self) {
        let why = "the connection broke".to_owned();
        self.0.done.tell(Err(Failure::Unavailable(why)));
    }
}

impl Bus {
    /// Begins a life in a folder, with what an earlier one left there.
    ///
    /// # Errors
    /// What keeps a program from starting.
    pub fn start(name: &str, dir: &Path, size: Size) -> anyhow::Result<Self> {
        let (journal, writer, _opened) = Journal::prepare(&dir.join("dedupe"), false)?;
        let identity = Identity {
            node: NodeId::new(name)?,
            cluster: Name::new("c")?,
            zone: Zone::new("z")?,
            epoch: journal.memory().epoch,
            lines_agent: AgentId::new(&format!("bus-{name}"))?,
        };
        let usage = Usage::small(dir, (size.spill, WhenFull::Busy), size.segment);
        let usage = Arc::new(usage);
        let (mut sites, mut opened, mut unfinished) =
            (Vec::new(), Vec::new(), Unfinished::default());
        for name in DESTINATIONS {
            let name = Name::new(name)?;
            let sink = by_hand::ByHand::new(name.clone(), &journal);
            let destination = Arc::new(Destination::ByHand(sink.clone()));
            let its = (&name, Arc::clone(&destination));
            let (spill, _found, held) = Spill::open(&dir.join("spill"), &usage, its, &journal)?;
            unfinished.extend(held);
            opened.push((Arc::clone(&spill), sink));
            sites.push(Arc::new(Site::new(name, destination, Some(spill))));
        }
        let node = Arc::new(Node::new(
            identity,
            (Budget::new(size.memory), Quotas::default()),
            journal,
            Ledger::new(false),
            (Routing::new(table(size.standby)?, sites), unfinished),
            CancellationToken::new(),
        ));
        let mut lanes = Vec::new();
        for (spill, sink) in opened {
            let threads = spill.start_by_hand(&node)?;
            lanes.push(Lane {
                spill,
                threads,
                sink,
            });
        }
        Ok(Self {
            node,
            journal: writer,
            lanes,
            lines: Arc::new(Lines::new(size.memory)),
            sessions: JoinSet::new(),
        })
    }

    /// Lets a connection in.
    pub fn enter(&mut self, stream: Stream) {
        let (node, lines) = (Arc::clone(&self.node), Arc::clone(&self.lines));
        let stream = tls::Stream::simulated(stream);
        self.sessions.spawn(listen::converse(node, lines, stream));
        while self.sessions.try_join_next().is_some() {}
    }

    /// One turn of a part.
    pub fn turn(&mut self, part: Part) {
        match part {
            Part::Journal(sync) => self.journal.turn(sync),
            Part::Look => standby::look(&self.node, Instant::now()),
            Part::Write(no, tidy) => {
                if let Some(lane) = self.lanes.get_mut(no) {
                    lane.threads.spill(tidy);
                }
            }
            Part::Drain(no) => {
                if let Some(lane) = self.lanes.get_mut(no) {
                    lane.threads.drain();
                }
            }
        }
    }

    /// A destination says that it takes nothing, or that it does.
    pub fn set_down(&self, no: usize, down: bool) {
        if let Some(lane) = self.lanes.get(no) {
            lane.sink.set_down(down);
        }
    }

    /// Batches that a destination has not answered.
    #[must_use]
    pub fn given(&self, no: usize) -> usize {
        self.lanes.get(no).map_or(0, |lane| lane.sink.jobs())
    }

    /// The first of them that is of the stream of this one: it is to be answered now.
    #[must_use]
    pub fn take(&self, no: usize, nth: usize) -> Option<Given> {
        self.lanes.get(no)?.sink.take(nth).map(Given)
    }

    /// The first of them that is of this stream.
    #[must_use]
    pub fn take_of(&self, no: usize, stream: StreamId) -> Option<Given> {
        self.lanes.get(no)?.sink.take_of(stream).map(Given)
    }

    /// A destination has a batch at this place and says so.
    pub fn delivered(&self, no: usize, given: Given, at: i64) {
        let Some(lane) = self.lanes.get(no) else {
            return;
        };
        let target = (self.node.journal.memory()).target(lane.sink.no(), &given.0.target);
        let place = Place {
            destination: lane.sink.name.clone(),
            target: given.0.target.clone(),
            partition: 0,
            first: at,
            end: at + 1,
        };
        note_and_tell(&self.node.journal, target, given.0, place);
    }

    /// Whether the node knows that a destination has a batch.
    #[must_use]
    pub fn knows(&self, no: usize, batch: BatchId) -> bool {
        let lane = self.lanes.get(no);
        lane.is_some_and(|lane| {
            let memory = self.node.journal.memory();
            memory.done.contains(lane.sink.no(), batch)
        })
    }

    /// Whether a batch was acknowledged and waits on the disk.
    #[must_use]
    pub fn holds(&self, batch: BatchId) -> bool {
        self.lanes.iter().any(|lane| lane.spill.holds(batch))
    }

    /// Batches on the disk.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        let lanes = self.lanes.iter();
        lanes.map(|lane| lane.spill.backlog().batches).sum()
    }

    /// Bytes of memory that batches have.
    #[must_use]
    pub fn memory_used(&self) -> u64 {
        self.node.budget.used()
    }

    /// The node asks its agents to go, and takes nothing more.
    pub fn part(&self) {
        self.node.stop.cancel();
    }

    /// Ends a life in order, after [`Bus::part`] and some time: what has no answer by now gets none.
    pub fn end(&mut self) {
        for lane in &self.lanes {
            lane.spill.stop();
        }
        for lane in &self.lanes {
            lane.sink.close();
        }
        for lane in &mut self.lanes {
            lane.threads.spill(true);
        }
        self.journal.turn(true);
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        // Jobs know their spill, which knows its destination, which has the jobs.
        self.sessions.abort_all();
        self.lanes.iter().for_each(|lane| lane.sink.close());
    }
}

fn table(with_standby: bool) -> anyhow::Result<Table> {
    let target = || Template::parse("x-{topic}").map_err(|why| anyhow::anyhow!("{why}"));
    let names = DESTINATIONS.map(Name::new);
    let names = names.into_iter().collect::<Result<Vec<Name>, _>>()?;
    let mut standby = Vec::new();
    if with_standby {
        standby.push(Standby {
            destination: 1,
            target: target()?,
        });
    }
    let branch = Branch {
        destination: 0,
        target: target()?,
        standby,
        create: None,
        switch: Arc::new(Switch::new("web*", names)),
    };
    let pattern = Pattern::new("web*").context("a pattern")?;
    Ok(Table::new(vec![Route {
        pattern,
        to: vec![branch],
    }]))
}
