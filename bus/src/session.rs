//! One agent's connection: frames in, answers out.
//!
//! The reader takes a frame's prelude and header, decides, and only then takes a permit from the
//! node's budget and reads the payload, of which at most a KiB came with the header: while there is no
//! room nobody reads, TCP pushes back, and an idle connection holds no buffer. The writer sends
//! whatever answers are ready in one write. At most a window of batches is unanswered, so every queue
//! here is bounded by it.
//!
//! A bad frame is answered with [`Frame::Error`] and ends this connection only. Generic over the
//! transport, so tests use a pipe. Not for: what happens to a batch (see [`crate::node`]).

mod inlet;
mod write;

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, timeout},
};
use tributary_common::{
    header::BatchHeader,
    wire::{self, Frame, Hello, PRELUDE_BYTES, Prelude, Welcome, WireError},
};

use self::{
    inlet::Inlet,
    write::{ALIVE_EVERY, HAND_OVER_WITHIN_MS, RECONNECT_WITHIN_MS, Word, write},
};
use crate::{
    admit::{self, Admission},
    budget,
    dedupe::{Answer, Answered, Waiter, refusal},
    destination::Accepted,
    node::{Node, busy},
    order::Gate,
};

/// The window of a connection: most batches in flight.
pub(crate) const WINDOW_BATCHES: u32 = 64;
/// The window of a connection: most payload bytes in flight.
pub(crate) const WINDOW_BYTES: u64 = 16 << 20;
/// A new connection says hello within this.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// A quiet connection is pinged after this.
const PING_AFTER: Duration = Duration::from_secs(20);
/// A connection is given up after so many pings without any frame.
const MAX_PINGS: u32 = 3;
/// A frame that has begun ends within this; slower senders only hold memory.
const FRAME_WITHIN: Duration = Duration::from_secs(30);

/// A batch's place in the window of its connection; free again when the answer leaves.
#[derive(Debug)]
pub(crate) struct Slot {
    _batch: OwnedSemaphorePermit,
    bytes: Option<OwnedSemaphorePermit>,
}

#[cfg(test)]
impl Slot {
    /// A slot of a window of one.
    pub(crate) fn for_tests() -> Self {
        let window = Arc::new(Semaphore::new(1));
        Self {
            _batch: window.try_acquire_owned().unwrap(),
            bytes: None,
        }
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// The peer closed, or the network broke.
    #[error("connection lost: {0}")]
    Io(#[from] std::io::Error),
    /// The peer said something that is not of the protocol.
    #[error("bad frame: {0}")]
    Wire(#[from] WireError),
    /// The peer broke a rule of the conversation.
    #[error("{0}")]
    Rule(&'static str),
}

impl SessionError {
    /// The reason as a metric label.
    fn label(&self) -> &'static str {
        match self {
            Self::Io(_) => "lost",
            Self::Wire(WireError::TooLong { .. } | WireError::HeaderLength { .. }) => "length",
            Self::Wire(WireError::Kind(_)) => "kind",
            Self::Wire(WireError::Payload { .. } | WireError::Malformed { .. }) => "malformed",
            Self::Wire(WireError::Header(_)) => "header",
            Self::Rule(_) => "rule",
        }
    }
}

/// How reading ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The peer has closed.
    Closed,
    /// The node stops; the agent was asked to leave.
    Parted,
}

/// Runs a connection to its end: the peer closes, breaks a rule, the node stops or hands it over, and
/// everything in flight is answered.
pub(crate) async fn run<S>(open: Open, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let node = Arc::clone(&open.0);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let hello = match timeout(HELLO_WITHIN, greet(&node, &mut reader, &mut writer)).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(error)) => return ended(&error, None),
        Err(_elapsed) => return ended(&SessionError::Rule("no hello came"), None),
    };
    tracing::info!(agent.id = %hello.agent, agent.host = hello.host, agent.software = hello.software, "an agent connected");
    // Room for one answer per slot, and a few words beside them.
    let (answers, outgoing) = mpsc::channel(WINDOW_BATCHES as usize);
    let (words, spoken) = mpsc::channel(4);
    let session = Session {
        node: Arc::clone(&node),
        gate: Arc::new(Gate::default()),
        batches: Arc::new(Semaphore::new(WINDOW_BATCHES as usize)),
        bytes: Arc::new(Semaphore::new(
            usize::try_from(WINDOW_BYTES).unwrap_or(usize::MAX),
        )),
        answers,
        words,
        pings: 0,
        said_alive: Instant::now(),
    };
    let write = write(writer, outgoing, spoken);
    tokio::pin!(write);
    let read = session.read(reader);
    tokio::pin!(read);
    let ended_by = tokio::select! {
        biased;
        result = &mut read => match result {
            // Nobody is there to be answered; what is in flight is answered when it comes again.
            Ok(End::Closed) | Err(SessionError::Io(_)) => result.map(|_end| ()),
            // What is in flight is still answered, or the last word said.
            Ok(End::Parted) | Err(_) => result.map(|_end| ()).and(write.await),
        },
        result = &mut write => result,
    };
    match ended_by {
        Ok(()) => tracing::info!(agent.id = %hello.agent, "an agent disconnected"),
        Err(error) => ended(&error, Some(&hello)),
    }
}

fn ended(error: &SessionError, hello: Option<&Hello>) {
    metrics::counter!("tributary_bus_sessions_ended_total", "reason" => error.label()).increment(1);
    let agent = hello.map_or("unknown", |hello| hello.agent.as_str());
    match error {
        SessionError::Io(_) => {
            tracing::info!(agent.id = agent, %error, "an agent's connection ended");
        }
        SessionError::Wire(_) | SessionError::Rule(_) => {
            tracing::warn!(agent.id = agent, %error, "an agent's connection was closed");
        }
    }
}

/// Counts an open connection while it lives, from the moment when it is let in.
#[derive(Debug)]
pub(crate) struct Open(Arc<Node>);

impl Open {
    /// One more.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        node.connections.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("tributary_bus_connections_count").increment(1);
        Self(node)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("tributary_bus_connections_count").decrement(1);
    }
}

/// Takes the hello and answers it.
async fn greet<S>(
    node: &Node,
    reader: &mut ReadHalf<S>,
    writer: &mut WriteHalf<S>,
) -> Result<Hello, SessionError>
where
    S: AsyncRead + AsyncWrite,
{
    let greeting = async {
        let prelude = Prelude::decode(read_array(reader).await?)?;
        if prelude.payload_bytes > 0 {
            return Err(SessionError::Rule(
                "the first frame has a payload; it must be a hello",
            ));
        }
        let header = read_bytes(reader, prelude.header_bytes).await?;
        match wire::decode(prelude, header)? {
            Frame::Hello(hello) => Ok(hello),
            _other => Err(SessionError::Rule("the first frame must be a hello")),
        }
    };
    let answer = match greeting.await {
        Ok(hello) => Ok((welcome(node), hello)),
        Err(error) => Err(error),
    };
    match answer {
        Ok((welcome, hello)) => {
            writer.write_all(&wire::encode(&welcome)?).await?;
            writer.flush().await?;
            Ok(hello)
        }
        Err(error @ SessionError::Io(_)) => Err(error),
        Err(error) => {
            say_error(writer, &error).await;
            Err(error)
        }
    }
}

fn welcome(node: &Node) -> Frame {
    Frame::Welcome(Welcome {
        node: node.identity.node.clone(),
        cluster: node.identity.cluster.clone(),
        epoch: node.identity.epoch,
        window_batches: WINDOW_BATCHES,
        window_bytes: WINDOW_BYTES,
    })
}

/// Tells the peer what it did wrong, as far as it still listens.
async fn say_error<W: AsyncWrite + Unpin>(writer: &mut W, error: &SessionError) {
    if let Ok(bytes) = wire::encode(&Frame::Error(error.to_string())) {
        // The connection is given up either way.
        drop(writer.write_all(&bytes).await);
        drop(writer.shutdown().await);
    }
}

async fn read_array<R: AsyncRead + Unpin>(
    reader: &mut R,
) -> Result<[u8; PRELUDE_BYTES], SessionError> {
    let mut bytes = [0; PRELUDE_BYTES];
    reader.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn read_bytes<R: AsyncRead + Unpin>(
    reader: &mut R,
    len: usize,
) -> Result<Bytes, SessionError> {
    let mut bytes = BytesMut::zeroed(len);
    reader.read_exact(&mut bytes).await?;
    Ok(bytes.freeze())
}

/// The reading half.
struct Session {
    node: Arc<Node>,
    gate: Arc<Gate>,
    batches: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    answers: mpsc::Sender<Answered>,
    words: mpsc::Sender<Word>,
    pings: u32,
    /// When the agent was last told that we read what it sends.
    said_alive: Instant,
}

impl Session {
    /// Reads until the peer closes, breaks a rule, or the node stops. Dropping `self` at the end
    /// lets the writer finish once everything in flight is answered.
    async fn read<R: AsyncRead + Unpin>(mut self, reader: R) -> Result<End, SessionError> {
        let mut inlet = Inlet::new(reader);
        let node = Arc::clone(&self.node);
        let stop = node.stop.clone();
        let result = loop {
            let step = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    // Nothing more is read: what the agent sends now it sends again elsewhere.
                    self.say(Word::GoAway(RECONNECT_WITHIN_MS)).await;
                    break Ok(End::Parted);
                }
                // As with a stop: what was not read is sent elsewhere, what was taken is answered.
                () = node.balance.is_to_go() => {
                    self.say(Word::GoAway(HAND_OVER_WITHIN_MS)).await;
                    break Ok(End::Parted);
                }
                step = self.step(&mut inlet) => step,
            };
            match step {
                Ok(true) => {}
                Ok(false) => break Ok(End::Closed),
                Err(error) => break Err(error),
            }
        };
        if let Err(error @ (SessionError::Wire(_) | SessionError::Rule(_))) = &result {
            self.say(Word::Error(error.to_string())).await;
        }
        result
    }

    async fn say(&self, word: Word) {
        // A writer that is gone has ended the session with its own error.
        drop(self.words.send(word).await);
    }

    /// Waits; meanwhile the agent hears that we are there: its pings lie unread.
    async fn alive<T>(&self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        loop {
            match timeout(ALIVE_EVERY, &mut wait).await {
                Ok(done) => return done,
                Err(_elapsed) => self.say_alive(),
            }
        }
    }

    /// Frame after frame is read: a ping may be far behind.
    fn still_there(&mut self) {
        if self.said_alive.elapsed() >= ALIVE_EVERY {
            self.said_alive = Instant::now();
            self.say_alive();
        }
    }

    fn say_alive(&self) {
        // A writer that has words to say is heard without this one.
        drop(self.words.try_send(Word::Alive));
    }

    /// Reads one frame; `false` when the peer has closed between two frames.
    async fn step<R: AsyncRead + Unpin>(
        &mut self,
        inlet: &mut Inlet<R>,
    ) -> Result<bool, SessionError> {
        let Some(prelude) = self.prelude(inlet).await? else {
            return Ok(false);
        };
        let slow = |_elapsed| SessionError::Rule("a frame took longer than 30 s");
        let header = timeout(FRAME_WITHIN, inlet.take(prelude.header_bytes))
            .await
            .map_err(slow)??;
        if wire::is_batch(&header) {
            let header = BatchHeader::decode(&header.slice(1..)).map_err(WireError::from)?;
            return self
                .batch(inlet, header, prelude.payload_bytes)
                .await
                .map(|()| true);
        }
        if prelude.payload_bytes > 0 {
            let kind = header.first().copied().unwrap_or_default();
            return Err(WireError::Payload {
                kind,
                payload: prelude.payload_bytes,
            }
            .into());
        }
        match wire::decode(prelude, header)? {
            Frame::Ping(number) => self.say(Word::Pong(number)).await,
            Frame::Pong(_number) => {}
            Frame::Error(text) => {
                tracing::warn!("an agent says: {text}");
                return Ok(false);
            }
            Frame::Hello(_)
            | Frame::Welcome(_)
            | Frame::Batch(..)
            | Frame::Receipts(_)
            | Frame::Busy(_)
            | Frame::Refuse(_)
            | Frame::GoAway { .. } => {
                return Err(SessionError::Rule(
                    "an agent sends batches, pings and pongs only",
                ));
            }
        }
        Ok(true)
    }

    /// Waits for the next frame's prelude; a quiet peer is pinged. `None` when it has closed.
    async fn prelude<R: AsyncRead + Unpin>(
        &mut self,
        inlet: &mut Inlet<R>,
    ) -> Result<Option<Prelude>, SessionError> {
        loop {
            if let Some(prelude) = inlet.prelude() {
                self.pings = 0;
                return Ok(Some(Prelude::decode(prelude)?));
            }
            match timeout(PING_AFTER, inlet.begin()).await {
                Ok(Ok(0)) if !inlet.has_begun() => return Ok(None),
                Ok(Ok(0)) => {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                }
                Ok(Ok(_came)) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(_elapsed) if self.pings >= MAX_PINGS || inlet.has_begun() => {
                    return Err(SessionError::Rule("the peer is silent"));
                }
                Err(_elapsed) => {
                    self.pings += 1;
                    self.say(Word::Ping(u64::from(self.pings))).await;
                }
            }
        }
    }

    /// Decides on a batch, takes its payload in or throws it away, and sees that it is answered: at once where
    /// the header says enough.
    async fn batch<R: AsyncRead + Unpin>(
        &mut self,
        inlet: &mut Inlet<R>,
        header: BatchHeader,
        payload_bytes: usize,
    ) -> Result<(), SessionError> {
        let id = header.id();
        let mut slot = self.alive(self.slot()).await;
        self.still_there();
        let answer = match self.node.look(&header, payload_bytes, &self.gate) {
            Admission::Accept => {
                let bytes = take_bytes(&self.bytes, payload_bytes);
                slot.bytes = Some(self.alive(bytes).await);
                let cost = budget::cost(&header, payload_bytes);
                let permit = self.alive(self.node.budget.take(cost)).await;
                let slow = |_elapsed| SessionError::Rule("a payload took longer than 30 s");
                let payload = timeout(FRAME_WITHIN, inlet.take(payload_bytes));
                let payload = self.alive(payload).await.map_err(slow)??;
                if !self.gate.pass(id) {
                    let why = admit::ORDER_REASON.to_owned();
                    let answer = busy(&header, admit::ORDER_RETRY_MS, false, why);
                    self.waiter(slot).tell(answer);
                    return Ok(());
                }
                let batch = Accepted::new(header, payload, permit);
                self.node.take(batch, self.waiter(slot));
                return Ok(());
            }
            Admission::Join => {
                self.alive(inlet.discard(payload_bytes, FRAME_WITHIN))
                    .await?;
                self.gate.taken(id);
                match self.node.join(id, self.waiter(slot)) {
                    Ok(()) => return Ok(()),
                    Err(waiter) => {
                        // It has landed meanwhile. When it failed, the agent comes again.
                        let answer = self.landed(&header);
                        waiter.tell(answer);
                        return Ok(());
                    }
                }
            }
            Admission::Duplicate => {
                self.gate.taken(id);
                self.node.duplicate(&header, 1);
                self.node.repeat(&header)
            }
            Admission::Busy {
                retry_after_ms,
                node,
                reason,
                ..
            } => {
                self.gate.block(id);
                busy(&header, retry_after_ms, node, reason)
            }
            Admission::Refuse(reason, detail) => {
                self.gate.block(id);
                self.node.refused(&header, reason, &detail);
                Answer::Refuse(refusal(id, reason, &detail))
            }
        };
        // Said before the payload has come: who sends slowly knows at once.
        self.waiter(slot).tell(answer);
        self.alive(inlet.discard(payload_bytes, FRAME_WITHIN)).await
    }

    /// The answer to a repeat whose first landed while its payload was thrown away.
    fn landed(&self, header: &BatchHeader) -> Answer {
        if self.node.is_safe(&header.topic, header.id()) {
            self.node.duplicate(header, 1);
            return self.node.repeat(header);
        }
        self.gate.block(header.id());
        busy(
            header,
            admit::ORDER_RETRY_MS,
            false,
            "its first delivery failed".to_owned(),
        )
    }

    fn waiter(&self, slot: Slot) -> Waiter {
        Waiter::Session {
            answers: self.answers.clone(),
            gate: Arc::clone(&self.gate),
            slot,
        }
    }

    async fn slot(&self) -> Slot {
        let batch = Arc::clone(&self.batches)
            .acquire_owned()
            .await
            .expect("the window's semaphore is never closed");
        Slot {
            _batch: batch,
            bytes: None,
        }
    }
}

async fn take_bytes(window: &Arc<Semaphore>, bytes: usize) -> OwnedSemaphorePermit {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    Arc::clone(window)
        .acquire_many_owned(bytes)
        .await
        .expect("the window's semaphore is never closed, and no payload is larger than it")
}

#[cfg(test)]
mod tests;
