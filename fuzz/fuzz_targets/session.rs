//! Any conversation of agents with a node: frames sound and spoiled, in any pieces, with pauses, answers
//! of the destination in any order, nodes that are down, full, stopping. The session says nothing that
//! is not so: no acknowledgement without a delivery, no batch behind one that failed, an answer for each
//! batch and no second one; and nothing is held when it is over.
//!
//! The session is the bus's own, taken from it by its files (as in `segment`), with what it decides by.
#![no_main]

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf},
    task::{JoinSet, yield_now},
    time::{Instant, sleep, timeout},
};
use tributary_common::{
    header::{BatchHeader, MinuteCount},
    ids::{BatchId, Class, Epoch, GenerationId, StreamId},
    span::Span,
    wire::{self, Frame, Hello, Outcome, PRELUDE_BYTES, Place, Prelude, RefuseReason},
};

use self::{
    bus::{admit, balance, budget, dedupe, order, session},
    destination::Failure,
    node::Node,
    spill::Settled,
};

#[expect(dead_code, reason = "what the bus's own node needs")]
#[path = "../../bus/src"]
mod bus {
    pub(crate) mod admit;
    pub(crate) mod balance;
    pub(crate) mod budget;
    pub(crate) mod dedupe;
    pub(crate) mod order;
    pub(crate) mod session;
}
#[path = "session/node.rs"]
mod node;

/// What the session knows of destinations.
mod destination {
    use std::sync::Arc;

    use bytes::Bytes;
    use tributary_common::{header::BatchHeader, wire::RefuseReason};

    #[derive(Debug)]
    pub(crate) struct Accepted {
        pub(crate) header: Arc<BatchHeader>,
        pub(crate) payload: Bytes,
        _permit: crate::budget::Permit,
    }

    impl Accepted {
        pub(crate) fn new(
            header: impl Into<Arc<BatchHeader>>,
            payload: Bytes,
            permit: crate::budget::Permit,
        ) -> Self {
            Self {
                header: header.into(),
                payload,
                _permit: permit,
            }
        }
    }

    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Failure {
        Unavailable(String),
        Rejected(RefuseReason, String),
    }
}

/// What it knows of the disk.
mod spill {
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Settled {
        At(tributary_common::wire::Place),
        Spilled,
    }
}

/// Bytes between the two ends before a writer waits.
const PIPE_BYTES: usize = 16 << 10;
/// Turns of the runtime after which whoever can go on has gone on.
const TURNS: usize = 12;
/// Longer than everything that a session waits for.
const FOREVER: Duration = Duration::from_secs(300);
/// How often is looked whether a session has ended.
const SOON: Duration = Duration::from_secs(1);
const STREAMS: usize = 3;

/// An agent's end of a connection.
struct Agent {
    pipe: DuplexStream,
    to_send: BytesMut,
    heard: BytesMut,
    /// Batches that were sent, each with whether it was answered.
    sent: Vec<(BatchId, bool)>,
    /// It said nothing that is not of the protocol.
    honest: bool,
    /// It said nothing for a while, perhaps within a frame: the bus may end it.
    slow: bool,
    /// The bus has closed.
    closed: bool,
}

struct World {
    node: Arc<Node>,
    sessions: JoinSet<()>,
    agent: Agent,
    next_seq: [u64; STREAMS],
}

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets");
    runtime.block_on(async {
        let mut world = World::begin();
        let mut rest = data;
        while let Some((&[what, how], behind)) = rest.split_first_chunk() {
            rest = world.step(what, how, behind).await;
        }
        world.settle().await;
    });
});

impl Agent {
    /// Sends what the pipe takes and reads what is there.
    async fn turn(&mut self, node: &Node) {
        for _turn in 0..TURNS {
            poll_fn(|context| {
                if !self.to_send.is_empty() {
                    match Pin::new(&mut self.pipe).poll_write(context, &self.to_send) {
                        Poll::Ready(Ok(count)) => drop(self.to_send.split_to(count)),
                        Poll::Ready(Err(_gone)) => self.to_send.clear(),
                        Poll::Pending => {}
                    }
                }
                let mut space = [0; 4096];
                let mut space = ReadBuf::new(&mut space);
                match Pin::new(&mut self.pipe).poll_read(context, &mut space) {
                    Poll::Ready(Ok(())) => {
                        self.closed |= space.filled().is_empty();
                        self.heard.extend_from_slice(space.filled());
                    }
                    Poll::Ready(Err(_gone)) => self.closed = true,
                    Poll::Pending => {}
                }
                Poll::Ready(())
            })
            .await;
            yield_now().await;
        }
        while let Some(frame) = self.hear() {
            self.believe(&frame, node);
        }
    }

    fn hear(&mut self) -> Option<Frame> {
        let prelude = Prelude::decode(*self.heard.first_chunk()?).expect("a frame of the bus");
        if self.heard.len() < PRELUDE_BYTES + prelude.frame_bytes() {
            return None;
        }
        drop(self.heard.split_to(PRELUDE_BYTES));
        let frame = self.heard.split_to(prelude.frame_bytes()).freeze();
        Some(wire::decode(prelude, frame).expect("a frame of the bus"))
    }

    /// What the bus says is so.
    fn believe(&mut self, frame: &Frame, node: &Node) {
        match frame {
            Frame::Receipts(receipts) => {
                for receipt in receipts {
                    let is_safe = node.state().safe.contains(&receipt.batch);
                    assert!(is_safe, "{:?} is nowhere", receipt.batch);
                    if let Outcome::Delivered(places) = &receipt.outcome {
                        assert_eq!(places.len(), 1);
                    }
                    self.answered(receipt.batch);
                }
            }
            Frame::Busy(busy) => self.answered(busy.batch),
            Frame::Refuse(refusal) => self.answered(refusal.batch),
            Frame::Error(_why) => assert!(!self.honest || self.slow, "{frame:?}"),
            Frame::Welcome(_) | Frame::Ping(_) | Frame::Pong(_) | Frame::GoAway { .. } => {}
            Frame::Hello(_) | Frame::Batch(..) => panic!("a bus does not say {frame:?}"),
        }
    }

    fn answered(&mut self, batch: BatchId) {
        if !self.honest {
            return;
        }
        let asked = self
            .sent
            .iter_mut()
            .find(|(id, told)| *id == batch && !told);
        asked.expect("it was sent, and not answered before").1 = true;
    }
}

impl World {
    fn begin() -> Self {
        let node = Arc::new(Node::new());
        let mut sessions = JoinSet::new();
        let agent = dial(&node, &mut sessions);
        Self {
            node,
            sessions,
            agent,
            next_seq: [0; STREAMS],
        }
    }

    /// One thing happens; what of the bytes is left.
    async fn step<'a>(&mut self, what: u8, how: u8, rest: &'a [u8]) -> &'a [u8] {
        let mut left = rest;
        match what % 14 {
            0..=3 => self.send(how, None),
            4 => {
                let (spoil, behind) = rest.split_at(rest.len().min(2));
                left = behind;
                self.send(how, Some(spoil));
            }
            5 => {
                let (bytes, behind) = rest.split_at(rest.len().min(usize::from(how)));
                left = behind;
                self.dishonest();
                self.agent.to_send.extend_from_slice(bytes);
            }
            6 => self.say(&Frame::Ping(u64::from(how))),
            7 | 8 => self.node.answer(usize::from(how / 8), outcome(how % 8)),
            9 => {
                self.agent.slow = true;
                let ms = [1, 100, 1_100, 11_000, 21_000, 31_000, 61_000, 90_000];
                sleep(Duration::from_millis(ms[usize::from(how) % ms.len()])).await;
            }
            10 => {
                let mut state = self.node.state();
                (state.down, state.over) = (how & 1 > 0, how & 2 > 0);
                (state.group_full, state.share_full) = (how & 8 > 0, how & 16 > 0);
                state.crowd = None;
                let most = self.node.budget.limit();
                if how & 4 > 0 {
                    state.crowd = self.node.budget.try_take(most / 8 * u64::from(how >> 5));
                }
            }
            11 => match how {
                0 => self.node.stop.cancel(),
                _ if how < 30 => drop(self.node.balance.open(
                    "connections=0&within=9",
                    1,
                    Instant::now(),
                )),
                _tick => self.node.balance.tick(Instant::now()),
            },
            12 => self.reconnect(how % 2 == 0).await,
            // Part of a frame stays away.
            _ => {
                let keep = self.agent.to_send.len().saturating_sub(usize::from(how));
                if keep < self.agent.to_send.len() {
                    self.dishonest();
                }
                self.agent.to_send.truncate(keep);
            }
        }
        if what & 64 == 0 {
            self.agent.turn(&self.node).await;
        }
        left
    }

    fn dishonest(&mut self) {
        self.agent.honest = false;
        self.node.state().foreign = true;
    }

    fn say(&mut self, frame: &Frame) {
        let bytes = wire::encode(frame).expect("a short frame");
        self.agent.to_send.extend_from_slice(&bytes);
    }

    /// Sends the next batch of a stream, or an earlier one again; spoiled at one place, or not.
    fn send(&mut self, how: u8, spoil: Option<&[u8]>) {
        if self.agent.to_send.len() > 1 << 20 {
            return;
        }
        let stream = usize::from(how) % STREAMS;
        let back = u64::from(how >> 4).saturating_sub(8);
        let seq = self.next_seq[stream] + 1;
        let seq = match back {
            0 => {
                self.next_seq[stream] = seq;
                seq
            }
            back => seq.saturating_sub(back).max(1),
        };
        let bytes = [0, 5, 700, 9_000, 300_000][usize::from(how >> 2) % 5];
        let header = header(stream as u64, seq, how);
        let id = header.id();
        let payload = Bytes::from(node::payload(id, bytes));
        let before = self.agent.to_send.len();
        self.say(&Frame::Batch(Box::new(header), payload));
        match spoil {
            Some(&[at, value]) => {
                self.dishonest();
                let at = before + usize::from(at);
                if let Some(byte) = self.agent.to_send.get_mut(at) {
                    *byte = value;
                }
            }
            Some(_) | None => self.agent.sent.push((id, false)),
        }
    }

    /// Another connection; the first may be cut off or told that nothing more comes.
    async fn reconnect(&mut self, wait: bool) {
        let agent = dial(&self.node, &mut self.sessions);
        drop(std::mem::replace(&mut self.agent, agent));
        if wait {
            for _turn in 0..TURNS {
                yield_now().await;
            }
        }
    }

    /// Everything is well from now on: all is answered, and nothing is held.
    async fn settle(&mut self) {
        {
            let mut state = self.node.state();
            (state.down, state.over, state.crowd) = (false, false, None);
            (state.group_full, state.share_full) = (false, false);
        }
        let mut quiet = 0;
        while quiet < 3 {
            let before = self.agent.to_send.len();
            self.agent.turn(&self.node).await;
            let given = self.node.state().given.len();
            if given > 0 {
                self.node.answer(0, outcome(0));
            }
            let is_quiet = given == 0 && self.agent.to_send.len() == before;
            quiet = if is_quiet { quiet + 1 } else { 0 };
        }
        let agent = &self.agent;
        if agent.honest && !agent.closed && !self.node.stop.is_cancelled() {
            let open = agent.sent.iter().find(|(_id, answered)| !answered);
            assert_eq!(open, None, "it was never answered");
        }
        // It goes.
        self.agent.pipe = tokio::io::duplex(1).0;
        let deadline = Instant::now() + FOREVER;
        while !self.sessions.is_empty() {
            assert!(
                Instant::now() < deadline,
                "a session whose peer is gone ends"
            );
            // What it reads yet of what was sent.
            while !self.node.state().given.is_empty() {
                self.node.answer(0, outcome(0));
            }
            if let Ok(Some(ended)) = timeout(SOON, self.sessions.join_next()).await {
                ended.expect("a session does not panic");
            }
        }
        while !self.node.state().given.is_empty() {
            self.node.answer(0, outcome(0));
        }
        assert_eq!(self.node.in_flight(), 0);
        assert_eq!(self.node.budget.used(), 0, "memory for nothing");
        assert_eq!(self.node.connections.load(Ordering::Relaxed), 0);
    }
}

fn dial(node: &Arc<Node>, sessions: &mut JoinSet<()>) -> Agent {
    let (pipe, theirs) = tokio::io::duplex(PIPE_BYTES);
    sessions.spawn(session::run(session::Open::new(Arc::clone(node)), theirs));
    let hello = Frame::Hello(Hello {
        agent: "a".parse().expect("a name"),
        host: "h".into(),
        zone: "z".parse().expect("a name"),
        epoch: Epoch(1),
        software: "fuzz".into(),
    });
    let hello = wire::encode(&hello).expect("a short frame");
    Agent {
        pipe,
        to_send: hello.as_slice().into(),
        heard: BytesMut::new(),
        sent: Vec::new(),
        honest: true,
        slow: false,
        closed: false,
    }
}

fn outcome(how: u8) -> Result<Settled, Failure> {
    match how {
        0..=3 => Ok(Settled::At(Place {
            destination: "d".parse().expect("a name"),
            target: "t".into(),
            partition: 0,
            first: 1,
            end: 2,
        })),
        4 => Ok(Settled::Spilled),
        5 => Err(Failure::Rejected(RefuseReason::TooLarge, "large".into())),
        _ => Err(Failure::Unavailable("gone".into())),
    }
}

fn header(stream: u64, seq: u64, how: u8) -> BatchHeader {
    BatchHeader {
        agent: "a".parse().expect("a name"),
        stream: StreamId(stream),
        epoch: Epoch(1),
        seq,
        generation: GenerationId(1),
        span: Span {
            start: seq,
            end: seq + 1,
        },
        task: "t".parse().expect("a name"),
        topic: if how == 77 { "nowhere" } else { "web" }
            .parse()
            .expect("a name"),
        class: Class::ALL[usize::from(how >> 3) % 4],
        resends: 0,
        records: 1,
        raw_bytes: 1,
        minutes: vec![MinuteCount {
            minute: 1,
            records: 1,
        }],
        content_sum: 1,
        file: "/f".into(),
        keyed: false,
    }
}
