//! A network and a wall clock in memory, for whole lives of agents and bus nodes on one thread in
//! paused time: what happens is decided by a seed, and by nothing else.
//!
//! A connection has what TCP has: bytes arrive in order, late, and in pieces; a full pipe makes its
//! writer wait; a link that is blocked holds everything back, also the word that the other side is
//! gone; a reset loses what has not arrived. An address is `node.peer:port`: a test blocks the way of
//! one peer to one node, or of all.
//!
//! Not for: programs. Compiled only with the feature `sim`, which the tests' package asks for.
//! [`crate::net`] and [`crate::tls`] let such a connection in.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    time::{Instant, Sleep, sleep, sleep_until},
};

use crate::net::NetError;

/// Bytes on their way in one direction before a writer waits.
const PIPE_BYTES: usize = 64 << 10;
/// Connections that wait for their accept.
const BACKLOG: usize = 16;
/// Nobody answers there: known after this.
const REFUSED_AFTER: Duration = Duration::from_millis(1);

thread_local! {
    static NET: RefCell<Option<Net>> = const { RefCell::new(None) };
    static WALL: Cell<Option<(u64, Instant)>> = const { Cell::new(None) };
}

/// The wall clock of this thread's world, in ms since 1970, where it has one.
#[must_use]
pub fn wall_ms() -> Option<u64> {
    let (ms, since) = WALL.get()?;
    let passed = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    Some(ms.saturating_add(passed))
}

/// Sets the wall clock of this thread's world; `None` gives it back the real one.
pub fn set_wall(ms: Option<u64>) {
    WALL.set(ms.map(|ms| (ms, Instant::now())));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A network; clones are the same one.
#[derive(Debug, Clone)]
pub struct Net(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    begun: Instant,
    listeners: BTreeMap<String, mpsc::Sender<Stream>>,
    wires: BTreeMap<u64, (String, Weak<Mutex<Wire>>)>,
    blocked: BTreeSet<String>,
    next: u64,
    trace: Vec<String>,
}

/// The thread's network while this lives.
#[derive(Debug)]
pub struct Entered(());

impl Drop for Entered {
    fn drop(&mut self) {
        NET.set(None);
        set_wall(None);
    }
}

/// Whether the way of `addr` is that of `name`: an address, a node, or everything.
fn is_of(addr: &str, name: &str) -> bool {
    name.is_empty() || addr == name || node_of(addr) == name
}

fn node_of(addr: &str) -> &str {
    addr.split('.').next().unwrap_or_default()
}

impl Net {
    /// A network whose delays and pieces come from a seed. In a runtime with paused time.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: fastrand::Rng::with_seed(seed),
            begun: Instant::now(),
            listeners: BTreeMap::new(),
            wires: BTreeMap::new(),
            blocked: BTreeSet::new(),
            next: 0,
            trace: Vec::new(),
        })))
    }

    /// Whoever dials on this thread dials here.
    #[must_use]
    pub fn enter(&self) -> Entered {
        NET.set(Some(self.clone()));
        Entered(())
    }

    /// Takes down what happened, with its time.
    pub fn note(&self, what: &str) {
        lock(&self.0).note(what);
    }

    /// All that happened.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        lock(&self.0).trace.clone()
    }

    /// A node listens, until the receiver is dropped.
    #[must_use]
    pub fn listen(&self, node: &str) -> mpsc::Receiver<Stream> {
        let (sender, accepted) = mpsc::channel(BACKLOG);
        lock(&self.0).listeners.insert(node.to_owned(), sender);
        accepted
    }

    fn wires_of(&self, name: &str) -> Vec<Arc<Mutex<Wire>>> {
        let mut state = lock(&self.0);
        state
            .wires
            .retain(|_no, (_addr, wire)| wire.strong_count() > 0);
        let wires = state.wires.values();
        wires
            .filter(|(addr, _wire)| is_of(addr, name))
            .filter_map(|(_addr, wire)| wire.upgrade())
            .collect()
    }

    /// Nothing passes to or from an address or a node.
    pub fn block(&self, name: &str) {
        lock(&self.0).blocked.insert(name.to_owned());
        for wire in self.wires_of(name) {
            lock(&wire).blocked = true;
        }
    }

    /// What was blocked under this name, or all with the empty one, passes again; what was held back
    /// arrives.
    pub fn heal(&self, name: &str) {
        let mut state = lock(&self.0);
        state
            .blocked
            .retain(|blocked| !name.is_empty() && blocked != name);
        drop(state);
        for wire in self.wires_of(name) {
            let mut wire = lock(&wire);
            wire.blocked = false;
            wire.wake();
        }
    }

    /// Connections of an address or a node break: what has not arrived is lost.
    pub fn reset(&self, name: &str) {
        for wire in self.wires_of(name) {
            lock(&wire).break_off();
        }
    }

    async fn dial(&self, addr: &str, limit: Duration) -> Result<(Stream, Cutter), NetError> {
        let (blocked, delay) = {
            let mut state = lock(&self.0);
            let delay = Duration::from_millis(state.rng.u64(0..=8));
            let blocked = state.blocked.iter().any(|name| is_of(addr, name));
            (blocked, delay)
        };
        if blocked {
            sleep(limit).await;
            return Err(NetError::Timeout {
                addr: addr.to_owned(),
                after: limit,
            });
        }
        sleep(delay.max(REFUSED_AFTER)).await;
        let (ours, theirs) = self.wire(addr, delay);
        let cutter = Cutter(Arc::clone(&ours.wire));
        let listener = lock(&self.0).listeners.get(node_of(addr)).cloned();
        let taken = listener.is_some_and(|listener| listener.try_send(theirs).is_ok());
        self.note(&format!("dial {addr}: {taken}"));
        match taken {
            true => Ok((ours, cutter)),
            false => Err(NetError::Connect {
                addr: addr.to_owned(),
                source: io::ErrorKind::ConnectionRefused.into(),
            }),
        }
    }

    fn wire(&self, addr: &str, delay: Duration) -> (Stream, Stream) {
        let mut state = lock(&self.0);
        let no = state.next;
        state.next += 1;
        let wire = Arc::new(Mutex::new(Wire {
            no,
            net: self.clone(),
            rng: state.rng.fork(),
            delay,
            blocked: false,
            broken: false,
            halves: [Half::default(), Half::default()],
        }));
        let weak = Arc::downgrade(&wire);
        state.wires.insert(no, (addr.to_owned(), weak));
        let end = |side| Stream {
            wire: Arc::clone(&wire),
            side,
            sleep: None,
        };
        (end(Side::Dialled), end(Side::Accepted))
    }
}

impl State {
    fn note(&mut self, what: &str) {
        let ms = self.begun.elapsed().as_millis();
        self.trace.push(format!("{ms} {what}"));
    }
}

/// Dials in this thread's network, if it is in one.
pub async fn dial(addr: &str, limit: Duration) -> Option<Result<(Stream, Cutter), NetError>> {
    let net = NET.with_borrow(Clone::clone)?;
    Some(net.dial(addr, limit).await)
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Dialled,
    Accepted,
}

/// What one side has said, and the other has not read.
#[derive(Debug, Default)]
struct Half {
    /// When each piece arrives. An empty one is the end.
    pieces: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    ended: bool,
    /// The side that reads it is gone.
    unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct Wire {
    no: u64,
    net: Net,
    rng: fastrand::Rng,
    delay: Duration,
    blocked: bool,
    broken: bool,
    /// What the dialling side says, and what the accepting one does.
    halves: [Half; 2],
}

impl Wire {
    /// What a side says.
    fn said_by(&mut self, side: Side) -> &mut Half {
        let [dialled, accepted] = &mut self.halves;
        match side {
            Side::Dialled => dialled,
            Side::Accepted => accepted,
        }
    }

    /// What a side hears.
    fn heard_by(&mut self, side: Side) -> &mut Half {
        self.said_by(match side {
            Side::Dialled => Side::Accepted,
            Side::Accepted => Side::Dialled,
        })
    }

    fn wake(&mut self) {
        for half in &mut self.halves {
            for waker in [half.reader.take(), half.writer.take()] {
                waker.into_iter().for_each(Waker::wake);
            }
        }
    }

    fn break_off(&mut self) {
        self.broken = true;
        self.halves.iter_mut().for_each(|half| half.pieces.clear());
        self.wake();
    }

    /// Sends a piece on its way; the empty one is the end.
    fn send(&mut self, side: Side, bytes: Bytes) {
        let more = Duration::from_millis(self.rng.u64(0..=3));
        let at = Instant::now() + self.delay + more;
        // An answer of HTTP says the time of the day.
        let sum = match bytes.starts_with(b"HTTP/") {
            true => 0,
            false => crate::crc::crc32c(&bytes),
        };
        let (no, len) = (self.no, bytes.len());
        self.net
            .note(&format!("wire {no} {side:?} {len} {sum:08x}"));
        let half = self.said_by(side);
        let last = half.pieces.back().map_or(at, |&(last, _)| last);
        half.bytes += len;
        half.pieces.push_back((at.max(last), bytes));
        half.reader.take().into_iter().for_each(Waker::wake);
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Stream {
    wire: Arc<Mutex<Wire>>,
    side: Side,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// A second hold on a connection, to give it up for good.
#[derive(Debug)]
pub struct Cutter(Arc<Mutex<Wire>>);

impl Cutter {
    /// What the peer has not got by now it shall not get.
    pub fn cut(&self) {
        lock(&self.0).break_off();
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut wire = lock(&this.wire);
        if wire.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let torn = wire.rng.u8(0..4) == 0;
        let part = wire.rng.usize(1..=64);
        let blocked = wire.blocked;
        let half = wire.heard_by(this.side);
        half.reader = Some(context.waker().clone());
        let Some((at, piece)) = half.pieces.front_mut().filter(|_| !blocked) else {
            return Poll::Pending;
        };
        let at = *at;
        if at > Instant::now() {
            let mut sleep = Box::pin(sleep_until(at));
            if sleep.as_mut().poll(context).is_pending() {
                this.sleep = Some(sleep);
                return Poll::Pending;
            }
        }
        this.sleep = None;
        // Its end stays, for whoever reads again.
        if piece.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let most = if torn { part } else { usize::MAX };
        let count = piece.len().min(buffer.remaining()).min(most);
        buffer.put_slice(piece.get(..count).unwrap_or_default());
        piece.advance(count);
        if piece.is_empty() {
            half.pieces.pop_front();
        }
        half.bytes -= count;
        half.writer.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut wire = lock(&self.wire);
        let blocked = wire.blocked;
        if wire.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let half = wire.said_by(self.side);
        if half.ended || (half.unread && !blocked) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(PIPE_BYTES.saturating_sub(half.bytes));
        if count == 0 && !bytes.is_empty() {
            half.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let piece = Bytes::copy_from_slice(bytes.get(..count).unwrap_or_default());
        if !piece.is_empty() {
            wire.send(self.side, piece);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

impl Stream {
    /// Says that nothing more comes.
    fn end(&self) {
        let mut wire = lock(&self.wire);
        if !std::mem::replace(&mut wire.said_by(self.side).ended, true) {
            wire.send(self.side, Bytes::new());
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.end();
        let mut wire = lock(&self.wire);
        let heard = wire.heard_by(self.side);
        heard.unread = true;
        heard.writer.take().into_iter().for_each(Waker::wake);
    }
}
