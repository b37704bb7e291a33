//! A bus that only counts: it takes every batch at once and forgets it, so that the agent's cost
//! is measured alone.
//!
//! It speaks the framed stream as a bus does, with one thread per connection. When lines carry the
//! time at which they were written, it opens the batches and takes their delays. It may also be slow,
//! or never answer a class: see [`Manner`].
//!
//! Not for: what a real bus costs (see [`crate::line`]).

use std::{
    io::{BufReader, Read, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::time::Instant;
use tributary_common::{
    batch::{Decoder, MAX_DECODED_BYTES},
    header::BatchHeader,
    ids::{Class, Epoch},
    wire::{self, Frame, Outcome, PRELUDE_BYTES, PROTOCOL, Prelude, Receipt, Welcome},
};

use crate::load::{now_us, stamp_us};

/// The window that a bus grants by default.
const WINDOW_BATCHES: u32 = 64;
const WINDOW_BYTES: u64 = 16 << 20;

/// How this bus behaves.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner {
    /// Lines of batches of these classes carry the time of their writing: their delays are taken.
    pub(crate) stamped: Stamped,
    /// It reads no more than so many bytes per second.
    pub(crate) reads_per_s: Option<u64>,
    /// It takes batches of this class and says nothing.
    pub(crate) unanswered: Option<Class>,
}

/// Whose delays are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stamped {
    /// Nobody's.
    #[default]
    None,
    /// Everybody's.
    All,
    /// Those of one class.
    Only(Class),
}

impl Manner {
    /// A bus that takes the delays of all lines.
    pub(crate) fn stamped() -> Self {
        Self {
            stamped: Stamped::All,
            ..Self::default()
        }
    }
}

/// What was counted so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    records: [AtomicU64; 4],
    batches: AtomicU64,
    payload_bytes: AtomicU64,
    /// Write of a line to its acknowledgement, in µs; only where lines are stamped.
    delays_us: Mutex<Vec<(u64, u64)>>,
}

/// The listening bus. Its threads end with the process.
#[derive(Debug)]
pub(crate) struct Counter {
    pub(crate) port: u16,
    counts: Arc<Counts>,
}

impl Counter {
    /// Listens.
    ///
    /// # Errors
    /// When there is no port.
    pub(crate) fn start(manner: Manner) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counts = Arc::clone(&shared);
                // It ends when the agent goes.
                thread::spawn(move || serve(&stream, &counts, manner).unwrap_or_default());
            }
        });
        Ok(Self { port, counts })
    }

    /// Records acknowledged.
    pub(crate) fn records(&self) -> u64 {
        Class::ALL.map(|class| self.records_of(class)).iter().sum()
    }

    /// Records of a class that were acknowledged.
    pub(crate) fn records_of(&self, class: Class) -> u64 {
        let count = self.counts.records.get(class as usize);
        count.map_or(0, |count| count.load(Ordering::Acquire))
    }

    /// Batches acknowledged.
    pub(crate) fn batches(&self) -> u64 {
        self.counts.batches.load(Ordering::Acquire)
    }

    /// Payload bytes taken.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.counts.payload_bytes.load(Ordering::Acquire)
    }

    /// Delays in µs of lines that were written at this time (µs since 1970) or later.
    pub(crate) fn delays_us(&self, from_us: u64) -> Vec<u64> {
        self.delays_between_us(from_us, u64::MAX)
    }

    /// Delays in µs of lines that were written in this time (µs since 1970).
    pub(crate) fn delays_between_us(&self, from_us: u64, until_us: u64) -> Vec<u64> {
        let delays = self.counts.delays_us.lock();
        let delays = delays.unwrap_or_else(PoisonError::into_inner);
        let counted = delays
            .iter()
            .filter(|(stamp, _)| (from_us..until_us).contains(stamp));
        counted.map(|&(_, delay)| delay).collect()
    }
}

impl Counts {
    /// Takes a batch: counts it, and takes its delays where its lines are stamped.
    fn take(
        &self,
        header: &BatchHeader,
        payload: &[u8],
        (decoder, stamped): (&mut Decoder, Stamped),
    ) -> Result<()> {
        if stamped == Stamped::All || stamped == Stamped::Only(header.class) {
            let decoded = decoder.decode(payload, MAX_DECODED_BYTES)?;
            let now = now_us();
            let stamps = decoded.records().filter_map(|line| stamp_us(line.value));
            let mut delays = self
                .delays_us
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            delays.extend(stamps.map(|stamp| (stamp, now.saturating_sub(stamp))));
        }
        self.batches.fetch_add(1, Ordering::AcqRel);
        let bytes = payload.len() as u64;
        self.payload_bytes.fetch_add(bytes, Ordering::AcqRel);
        if let Some(records) = self.records.get(header.class as usize) {
            records.fetch_add(header.records.into(), Ordering::AcqRel);
        }
        Ok(())
    }
}

/// One connection, to its end.
fn serve(stream: &TcpStream, counts: &Counts, manner: Manner) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, mut write) = (BufReader::with_capacity(256 << 10, stream), stream);
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        read.read_exact(&mut byte)?;
        request.extend(byte);
    }
    write!(
        write,
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n\r\n"
    )?;
    let mut decoder = Decoder::new();
    let mut free_at = Instant::now();
    loop {
        let answer = match read_frame(&mut read)? {
            Frame::Hello(_) => Frame::Welcome(Welcome {
                node: "n".parse().context("a node's name")?,
                cluster: "c".parse().context("a cluster's name")?,
                epoch: Epoch(1),
                window_batches: WINDOW_BATCHES,
                window_bytes: WINDOW_BYTES,
            }),
            Frame::Ping(number) => Frame::Pong(number),
            Frame::Batch(header, payload) => {
                if let Some(rate) = manner.reads_per_s {
                    free_at = free_at.max(Instant::now())
                        + Duration::from_micros(payload.len() as u64 * 1_000_000 / rate);
                    thread::sleep(free_at.saturating_duration_since(Instant::now()));
                }
                if manner.unanswered == Some(header.class) {
                    continue;
                }
                counts.take(&header, &payload, (&mut decoder, manner.stamped))?;
                Frame::Receipts(vec![Receipt {
                    batch: header.id(),
                    outcome: Outcome::Delivered(Vec::new()),
                }])
            }
            other => bail!("an agent does not say {other:?}"),
        };
        write.write_all(&wire::encode(&answer)?)?;
    }
}

fn read_frame(read: &mut impl Read) -> Result<Frame> {
    let mut prelude = [0; PRELUDE_BYTES];
    read.read_exact(&mut prelude)?;
    let prelude = Prelude::decode(prelude)?;
    let mut frame = vec![0; prelude.frame_bytes()];
    read.read_exact(&mut frame)?;
    Ok(wire::decode(prelude, frame.into())?)
}
