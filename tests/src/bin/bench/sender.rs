//! Agents that only send: ready batches, as quickly as the window lets them, or one by one.
//!
//! The batches are made before, so that what is measured is the bus. Not for: what an agent costs
//! (see [`mod@crate::alone`]).

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use tokio::{
    io::{AsyncWriteExt as _, split},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tributary_common::{
    batch::{Codec, Encoder},
    header::BatchHeader,
    ids::{BatchId, Class, Epoch, GenerationId, StreamId},
    span::Span,
    tls::{Dialer, Stream},
    wire::{self, Frame, Outcome},
};

use crate::{
    connections::{connect, hear_frame, say_frame},
    load,
};

/// What a bus grants by default, and a little less.
const WINDOW_BATCHES: usize = 60;
const WINDOW_BYTES: usize = 15 << 20;
/// Lines in flight, in bytes, of an agent with the memory that it has by default: with more, some agents
/// fill the memory that a bus has by default, and hear that they shall wait.
const WINDOW_RAW_BYTES: u64 = 24 << 20;
/// Lines that batches are made of, again and again.
const POOL_LINES: u64 = 20_000;

/// What batches are of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) topic: &'static str,
    pub(crate) class: Class,
    pub(crate) codec: Codec,
    /// Lines of a batch.
    pub(crate) lines: usize,
}

/// Batches of one stream, as frames.
#[derive(Debug, Default)]
pub(crate) struct Made {
    frames: Vec<Bytes>,
    records: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) payload_bytes: u64,
}

impl Made {
    pub(crate) fn batches(&self) -> u64 {
        self.frames.len() as u64
    }
}

/// Lines of a batch as an agent cuts it where more waits: 768 KiB of them.
pub(crate) const FULL_LINES: usize = 2_200;

/// Where a bus is, and how it is talked to.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) addr: String,
    pub(crate) dialer: Option<Arc<Dialer>>,
}

/// Makes batches for so many streams, numbered from `first`, each with these sequence numbers.
///
/// # Errors
/// When one cannot be encoded.
pub(crate) fn make(kind: Kind, streams: Range<u64>, seqs: &Range<u64>) -> Result<Vec<Made>> {
    let mut random = fastrand::Rng::with_seed(streams.start);
    let mut pool = String::new();
    for line in 0..POOL_LINES {
        load::push_line(&mut pool, &mut random, load::now_us() + line);
    }
    let lines: Vec<&str> = pool.lines().collect();
    let mut encoder = Encoder::new(kind.codec);
    let mut all = Vec::new();
    for stream in streams {
        let mut made = Made::default();
        for seq in seqs.clone() {
            let id = BatchId {
                stream: StreamId(stream),
                epoch: Epoch(1),
                seq,
            };
            encoder.begin(id);
            let from = random.usize(..lines.len());
            for line in lines.iter().cycle().skip(from).take(kind.lines) {
                encoder.push(60_000, None, line.as_bytes());
            }
            let encoded = encoder.finish()?;
            made.records += u64::from(encoded.records);
            made.raw_bytes += encoded.raw_bytes;
            made.payload_bytes += encoded.payload.len() as u64;
            let header = BatchHeader {
                agent: format!("agent-{stream}").parse()?,
                stream: id.stream,
                epoch: id.epoch,
                seq,
                generation: GenerationId(1),
                span: Span {
                    start: (seq - 1) * 1_000_000,
                    end: seq * 1_000_000,
                },
                task: "t".parse()?,
                topic: kind.topic.parse()?,
                class: kind.class,
                resends: 0,
                records: encoded.records,
                raw_bytes: encoded.raw_bytes,
                minutes: encoded.minutes,
                content_sum: encoded.content_sum,
                file: "/var/log/shop/access.log".into(),
                keyed: encoded.keyed,
            };
            let frame = Frame::Batch(Box::new(header), encoded.payload);
            made.frames.push(wire::encode(&frame)?.into());
        }
        all.push(made);
    }
    Ok(all)
}

/// A connection of one stream.
pub(crate) struct Sender {
    stream: Stream,
    /// Batches that the bus put off.
    pub(crate) busy: u64,
    /// Whether the destination had the last batch, and not the bus's disk.
    delivered: bool,
}

impl Sender {
    /// Connects and says hello.
    ///
    /// # Errors
    /// When the bus does not welcome it.
    pub(crate) async fn connect(door: &Door, number: u32) -> Result<Self> {
        let stream = connect(&door.addr, number, door.dialer.as_deref()).await?;
        Ok(Self {
            stream,
            busy: 0,
            delivered: false,
        })
    }

    /// Sends all batches and waits until each is acknowledged.
    ///
    /// # Errors
    /// When the connection ends, or a batch is refused.
    pub(crate) async fn all(&mut self, frames: &[Bytes]) -> Result<()> {
        let mut to_send: BTreeMap<u64, usize> = BTreeMap::new();
        let mut open: BTreeMap<u64, usize> = BTreeMap::new();
        let (first, raw_bytes) = frames
            .first()
            .map(beginning_of)
            .transpose()?
            .unwrap_or_default();
        to_send.extend((first..).zip(0..frames.len()));
        let most = usize::try_from(WINDOW_RAW_BYTES / raw_bytes.max(1))?;
        let most = most.clamp(1, WINDOW_BATCHES);
        let mut open_bytes = 0;
        while !(to_send.is_empty() && open.is_empty()) {
            while open.len() < most
                && open_bytes < WINDOW_BYTES
                && let Some((seq, at)) = to_send.pop_first()
            {
                let frame = frames.get(at).context("a frame")?;
                self.stream.write_all(frame).await?;
                open_bytes += frame.len();
                open.insert(seq, at);
            }
            self.stream.flush().await?;
            let answered: Vec<(u64, bool)> = match hear_frame(&mut self.stream).await? {
                Frame::Ping(number) => {
                    say_frame(&mut self.stream, &Frame::Pong(number)).await?;
                    continue;
                }
                // The bus says that it is there.
                Frame::Pong(_number) => continue,
                Frame::Receipts(receipts) => {
                    let last = receipts.last();
                    self.delivered = last.is_some_and(|last| last.outcome != Outcome::Spilled);
                    let seqs = receipts.iter().map(|receipt| receipt.batch.seq);
                    seqs.map(|seq| (seq, true)).collect()
                }
                Frame::Busy(busy) => vec![(busy.batch.seq, false)],
                other => bail!("not an acknowledgement: {other:?}"),
            };
            for (seq, taken) in answered {
                let at = open.remove(&seq).context("a batch nobody sent")?;
                open_bytes -= frames.get(at).map_or(0, Bytes::len);
                if !taken {
                    self.busy += 1;
                    to_send.insert(seq, at);
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
        Ok(())
    }
}

/// The sequence number and the raw bytes of the batch in a frame.
fn beginning_of(frame: &Bytes) -> Result<(u64, u64)> {
    let prelude = frame.first_chunk().context("a frame has a prelude")?;
    let prelude = wire::Prelude::decode(*prelude)?;
    match wire::decode(prelude, frame.slice(wire::PRELUDE_BYTES..))? {
        Frame::Batch(header, _payload) => Ok((header.seq, header.raw_bytes)),
        other => bail!("not a batch: {other:?}"),
    }
}

/// What sending cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sent {
    pub(crate) wall: Duration,
    pub(crate) raw_bytes: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) batches: u64,
    pub(crate) records: u64,
    pub(crate) busy: u64,
}

impl Sent {
    /// Both, one after the other.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            wall: self.wall + other.wall,
            raw_bytes: self.raw_bytes + other.raw_bytes,
            payload_bytes: self.payload_bytes + other.payload_bytes,
            batches: self.batches + other.batches,
            records: self.records + other.records,
            busy: self.busy + other.busy,
        }
    }
}

/// Sends the streams beside each other, each on its own connection, and waits for every answer.
///
/// # Errors
/// As [`Sender::all`].
pub(crate) async fn send(senders: &mut Vec<Sender>, streams: Vec<Made>) -> Result<Sent> {
    let mut sent = Sent::default();
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    for (mut sender, made) in senders.drain(..).zip(streams) {
        sent.raw_bytes += made.raw_bytes;
        sent.payload_bytes += made.payload_bytes;
        sent.batches += made.batches();
        sent.records += made.records;
        tasks.spawn(async move {
            sender.all(&made.frames).await?;
            anyhow::Ok(sender)
        });
    }
    while let Some(sender) = tasks.join_next().await {
        senders.push(sender??);
    }
    sent.wall = begun.elapsed();
    sent.busy = senders.iter().map(|sender| sender.busy).sum();
    Ok(sent)
}

/// Sends one batch after the other, one each `every`, until the destination has the last of them; how
/// long it took until then.
///
/// # Errors
/// As [`Sender::all`].
pub(crate) async fn until_live(
    sender: &mut Sender,
    made: &mut Vec<Bytes>,
    every: Duration,
) -> Result<Duration> {
    let begun = Instant::now();
    while !sender.delivered && !made.is_empty() {
        let frame = made.remove(0);
        sender.all(&[frame]).await?;
        sleep(every).await;
    }
    Ok(begun.elapsed())
}

/// Sends one batch each `every`, whether those before are answered or not, until `stop` says so; how
/// long each answer took, in µs, and how many batches were put off.
///
/// # Errors
/// When the connection ends, or a batch is refused.
pub(crate) async fn trickle(
    sender: Sender,
    frames: Vec<Bytes>,
    every: Duration,
    stop: impl Fn() -> bool,
) -> Result<(Vec<u64>, u64)> {
    let (mut reading, mut writing) = split(sender.stream);
    let first = frames.first().map(beginning_of).transpose()?;
    let (first, _raw_bytes) = first.unwrap_or_default();
    let begun = Instant::now();
    let due = |number: u64| begun + every * u32::try_from(number).unwrap_or(u32::MAX);
    let sent = AtomicU64::new(0);
    let write = async {
        for (number, frame) in (0..).zip(&frames) {
            sleep_until(due(number)).await;
            writing.write_all(frame).await?;
            writing.flush().await?;
            sent.store(number + 1, Ordering::Relaxed);
            // Behind the batch, whose answer then ends the reader.
            if stop() {
                break;
            }
        }
        anyhow::Ok(())
    };
    let read = async {
        let (mut took, mut busy) = (Vec::new(), 0);
        loop {
            match hear_frame(&mut reading).await? {
                Frame::Receipts(receipts) => {
                    for receipt in receipts {
                        // From when it was due: what is sent late shall not hide that.
                        let late = due(receipt.batch.seq - first).elapsed();
                        took.push(u64::try_from(late.as_micros())?);
                    }
                }
                Frame::Busy(_busy) => busy += 1,
                Frame::Ping(_number) | Frame::Pong(_number) => {}
                other => bail!("not an acknowledgement: {other:?}"),
            }
            if stop() && took.len() as u64 + busy >= sent.load(Ordering::Relaxed) {
                return anyhow::Ok((took, busy));
            }
        }
    };
    // The last answers end it.
    let ((), answers) = tokio::try_join!(write, read)?;
    Ok(answers)
}

impl Made {
    /// Its frames.
    pub(crate) fn into_frames(self) -> Vec<Bytes> {
        self.frames
    }
}
