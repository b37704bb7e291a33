//! A fleet's load: thousands of slow channels in front of a real Kafka, whose broker pays for batches and
//! not for bytes.
//!
//! Agents of ten channels each send ready batches on time, as agents cut them: of a class P2 channel every
//! 200 ms, of all of them in one turn of the reader and so in one write, of a P0 channel every line. Then the same bytes come in large batches, and the broker's CPU of
//! the two is compared; what it costs while nothing comes is taken off both. Not for: what an agent costs
//! (see [`mod@crate::alone`]).

use std::{collections::HashMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use tokio::{
    io::{AsyncWriteExt as _, split},
    runtime::Builder,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tributary_common::{
    batch::Codec,
    ids::{Class, StreamId},
    wire::Frame,
};
use tributary_tests::{http, kafka::Kafka, say};

use crate::{
    Delay, as_float,
    connections::{connect, hear_frame, resident_kib},
    cpu::{Usage, usage},
    front::Front,
    sender::{Door, FULL_LINES, Kind, Sender, make, send},
};

const TOPICS: [&str; 20] = [
    "fleet-00", "fleet-01", "fleet-02", "fleet-03", "fleet-04", "fleet-05", "fleet-06", "fleet-07",
    "fleet-08", "fleet-09", "fleet-10", "fleet-11", "fleet-12", "fleet-13", "fleet-14", "fleet-15",
    "fleet-16", "fleet-17", "fleet-18", "fleet-19",
];
/// Topics of one agent.
const CHANNELS_OF_AN_AGENT: u64 = 10;
/// The broker and the bus are left alone for so long, to see what that costs.
const QUIET: Duration = Duration::from_secs(5);
/// About 10 KB/s each: lines of a batch, and the time between two.
/// Before anything is measured a small fleet has the broker compile what it runs, for so long; else its first
/// seconds under load may be longer than a bus waits before it takes to its disk.
const WARM: (u64, Duration) = (200, Duration::from_secs(10));
/// Streams of the small fleet have numbers from here on.
const WARM_STREAMS: u64 = 1 << 32;
const SLOW: (usize, Duration) = (6, Duration::from_millis(200));
const URGENT: (usize, Duration) = (1, Duration::from_millis(35));

/// A slow stream and what it sends.
struct Channel {
    stream: StreamId,
    class: Class,
    /// When its first batch is due, and the time between two.
    phase: Duration,
    every: Duration,
    frames: Vec<Bytes>,
}

impl Channel {
    fn due(&self, seq: u64) -> Duration {
        // The first one of all, sequence 1, has opened the topic.
        self.phase + self.every * u32::try_from(seq.saturating_sub(2)).unwrap_or(u32::MAX)
    }
}

/// What a phase cost.
struct Cost {
    raw_bytes: u64,
    bus: f64,
    broker: f64,
    wall: Duration,
}

/// Measures it, as a table. `z_per_gb` is the unit, in CPU seconds.
///
/// # Errors
/// When a batch is put off, goes over the disk, or is not answered.
pub(crate) fn measure(
    folder: &Path,
    z_per_gb: f64,
    (channels, partitions): (u64, i32),
    time: Duration,
) -> Result<String> {
    fs::create_dir_all(folder)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let kafka = Kafka::start(&folder.join("kafka"))?;
    for topic in TOPICS {
        kafka.create_topic(topic, partitions)?;
    }
    let front = Front::start(&folder.join("bus"), &kafka.bootstrap(), false)?;
    say("fleet: making batches");
    let warm = agents(WARM_STREAMS, WARM)?;
    let agents = agents(0, (channels, time))?;
    runtime.block_on(async {
        let warm = opened(&front.door, warm).await?;
        fleet(&front.door, warm).await?;
        let open = opened(&front.door, agents).await?;
        let before = usages(&front, &kafka)?;
        sleep(QUIET).await;
        let quiet = cost(&front, &kafka, before, 0, QUIET)?;
        say("fleet: slow channels");
        let before = usages(&front, &kafka)?;
        let (slow, delays) = fleet(&front.door, open).await?;
        let slow = cost(&front, &kafka, before, slow.0, slow.1)?.less(&quiet);
        let merged = [metric(&front, "in")?, metric(&front, "out")?];
        let resident = resident_kib(front.bus.pid())? / 1024;
        say("fleet: the same bytes in large batches");
        let before = usages(&front, &kafka)?;
        let sent = bulk(&front.door, slow.raw_bytes).await?;
        let bulk = cost(&front, &kafka, before, sent.0, sent.1)?.less(&quiet);
        let spilled = front.spilled()?;
        ensure!(spilled == 0, "{spilled} batches were spilled");
        let [p0, p2] = delays.map(Delay::of);
        let z = |cost: &Cost| cost.bus * 1e9 / as_float(cost.raw_bytes) / z_per_gb;
        let broker = |cost: &Cost| cost.broker * 1e9 / as_float(cost.raw_bytes);
        let rows = [
            format!(
                "| {channels} channels of 10 KB/s for {} s, {} topics, partitions of each: {partitions} | | |\n|---|---|---|",
                time.as_secs(), TOPICS.len(),
            ),
            format!("| bus | {:.2} z per GB of lines, {resident} MiB | bar 1.4 z |", z(&slow)),
            format!(
                "| broker | {:.1} CPU s per GB of lines, {:.2} of that of large batches | bar 1.5 |",
                broker(&slow), broker(&slow) / broker(&bulk),
            ),
            format!(
                "| batches that were merged, and the batches made of them | {:.0}, {:.0} | |",
                merged[0], merged[1],
            ),
            format!(
                "| P2, from when a batch is due to its answer: p50 / p99 / max | {:.0} / {:.0} / {:.0} ms | bar p99 1 s |",
                p2.p50_ms, p2.p99_ms, p2.max_ms,
            ),
            format!(
                "| P0 | {:.0} / {:.0} / {:.0} ms | bar p99 100 ms |",
                p0.p50_ms, p0.p99_ms, p0.max_ms,
            ),
            format!(
                "| the same bytes in batches of 750 KiB: bus, broker | {:.2} z, {:.1} CPU s per GB of lines, {:.0} MB/s | |",
                z(&bulk), broker(&bulk),
                as_float(bulk.raw_bytes) / 1e6 / bulk.wall.as_secs_f64(),
            ),
        ];
        Ok(rows.join("\n") + "\n")
    })
}

/// The channels of each agent, whose streams have numbers from `first` on. Those of the first topic are urgent.
fn agents(first: u64, (channels, time): (u64, Duration)) -> Result<Vec<Vec<Channel>>> {
    let mut random = fastrand::Rng::with_seed(3);
    let mut agents = Vec::new();
    for agent in 0..channels / CHANNELS_OF_AN_AGENT {
        let mut own = Vec::new();
        // An agent looks at all that flows at once.
        let turn = random.f64();
        for channel in 0..CHANNELS_OF_AN_AGENT {
            let number = first + agent * CHANNELS_OF_AN_AGENT + channel;
            let half = agent % 2 * CHANNELS_OF_AN_AGENT;
            let topic = TOPICS.get(usize::try_from(half + channel)?);
            let topic = *topic.context("a topic")?;
            let (class, (lines, every)) = match half + channel {
                0 => (Class::P0, URGENT),
                _ => (Class::P2, SLOW),
            };
            let batches = u64::try_from(time.as_millis() / every.as_millis())?;
            let kind = Kind {
                topic,
                class,
                codec: Codec::Zstd,
                lines,
            };
            let made = make(kind, number..number + 1, &(1..batches + 2))?;
            let made = made.into_iter().next().context("a stream")?;
            own.push(Channel {
                stream: StreamId(number),
                class,
                phase: every.mul_f64(turn),
                every,
                frames: made.into_frames(),
            });
        }
        agents.push(own);
    }
    Ok(agents)
}

/// Sends the first batch of each channel, which opens its topic.
async fn opened(door: &Door, agents: Vec<Vec<Channel>>) -> Result<Vec<(u32, Vec<Channel>)>> {
    let mut tasks = JoinSet::new();
    for (agent, mut channels) in (0..).zip(agents) {
        let mut sender = Sender::connect(door, agent).await?;
        tasks.spawn(async move {
            for channel in &mut channels {
                let first: Vec<Bytes> = channel.frames.drain(..1).collect();
                sender.all(&first).await?;
            }
            anyhow::Ok((agent, channels))
        });
    }
    let all = tasks.join_all().await;
    all.into_iter().collect()
}

/// Raw bytes and time of all agents, and the delays of P0 and P2 in µs.
type Came = ((u64, Duration), [Vec<u64>; 2]);

async fn fleet(door: &Door, agents: Vec<(u32, Vec<Channel>)>) -> Result<Came> {
    let mut ready = Vec::new();
    for (agent, channels) in agents {
        ready.push((connect(&door.addr, agent, None).await?, channels));
    }
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for (stream, channels) in ready {
        tasks.spawn(agent(stream, channels, begun));
    }
    let (mut raw_bytes, mut delays) = (0, [Vec::new(), Vec::new()]);
    while let Some(ended) = tasks.join_next().await {
        let (bytes, own) = ended??;
        raw_bytes += bytes;
        for (all, own) in delays.iter_mut().zip(own) {
            all.extend(own);
        }
    }
    Ok(((raw_bytes, begun.elapsed()), delays))
}

/// One agent: sends every batch when it is due, and hears every answer.
async fn agent(
    stream: tributary_common::tls::Stream,
    channels: Vec<Channel>,
    begun: Instant,
) -> Result<(u64, [Vec<u64>; 2])> {
    let mut plan: Vec<(Duration, &Bytes)> = Vec::new();
    for channel in &channels {
        let frames = (2..).zip(&channel.frames);
        plan.extend(frames.map(|(seq, frame)| (channel.due(seq), frame)));
    }
    plan.sort_unstable_by_key(|(due, _frame)| *due);
    let known: HashMap<StreamId, &Channel> = channels.iter().map(|one| (one.stream, one)).collect();
    let (mut reading, mut writing) = split(stream);
    let all = plan.len();
    let write = async {
        let mut raw_bytes = 0;
        for turn in plan.chunk_by(|(one, _), (other, _)| one == other) {
            if let Some((due, _frame)) = turn.first() {
                sleep_until(begun + *due).await;
            }
            let frames: Vec<&[u8]> = turn.iter().map(|(_due, frame)| &frame[..]).collect();
            writing.write_all(&frames.concat()).await?;
            writing.flush().await?;
            for (_due, frame) in turn {
                raw_bytes += raw_bytes_of(frame)?;
            }
        }
        anyhow::Ok(raw_bytes)
    };
    let read = async {
        let (mut heard, mut delays) = (0, [Vec::new(), Vec::new()]);
        while heard < all {
            match hear_frame(&mut reading).await? {
                Frame::Receipts(receipts) => {
                    heard += receipts.len();
                    for receipt in receipts {
                        let channel = known.get(&receipt.batch.stream);
                        let channel = channel.context("a batch nobody sent")?;
                        let late = (begun + channel.due(receipt.batch.seq)).elapsed();
                        let late = u64::try_from(late.as_micros())?;
                        let [urgent, slow] = &mut delays;
                        match channel.class {
                            Class::P0 => urgent.push(late),
                            _ => slow.push(late),
                        }
                    }
                }
                Frame::Ping(_number) | Frame::Pong(_number) => {}
                other => bail!("not an acknowledgement: {other:?}"),
            }
        }
        anyhow::Ok(delays)
    };
    tokio::try_join!(write, read)
}

fn raw_bytes_of(frame: &Bytes) -> Result<u64> {
    use tributary_common::wire::{PRELUDE_BYTES, Prelude, decode};
    let prelude = Prelude::decode(*frame.first_chunk().context("a frame has a prelude")?)?;
    match decode(prelude, frame.slice(PRELUDE_BYTES..))? {
        Frame::Batch(header, _payload) => Ok(header.raw_bytes),
        other => bail!("not a batch: {other:?}"),
    }
}

/// As many bytes in large batches, a stream of them to each topic.
async fn bulk(door: &Door, raw_bytes: u64) -> Result<(u64, Duration)> {
    let first = 1 << 40;
    let (mut senders, mut streams) = (Vec::new(), Vec::new());
    for (number, topic) in (0..).zip(TOPICS) {
        let kind = Kind {
            topic,
            class: Class::P2,
            codec: Codec::Zstd,
            lines: FULL_LINES,
        };
        let stream = first + u64::from(number);
        let batches = raw_bytes / TOPICS.len() as u64 / (FULL_LINES as u64 * 350) + 1;
        streams.extend(make(kind, stream..stream + 1, &(1..batches + 1))?);
        senders.push(Sender::connect(door, 1_000_000 + number).await?);
    }
    let sent = send(&mut senders, streams).await?;
    ensure!(sent.busy == 0, "{} batches were put off", sent.busy);
    Ok((sent.raw_bytes, sent.wall))
}

fn usages(front: &Front, kafka: &Kafka) -> Result<[Usage; 2]> {
    Ok([usage(front.bus.pid())?, usage(kafka.pid())?])
}

fn cost(
    front: &Front,
    kafka: &Kafka,
    [bus, broker]: [Usage; 2],
    raw_bytes: u64,
    wall: Duration,
) -> Result<Cost> {
    let [bus_now, broker_now] = usages(front, kafka)?;
    Ok(Cost {
        raw_bytes,
        bus: bus_now.since(bus).cpu_s(),
        broker: broker_now.since(broker).cpu_s(),
        wall,
    })
}

impl Cost {
    /// Without what it costs to do nothing.
    fn less(self, quiet: &Self) -> Self {
        let share = self.wall.as_secs_f64() / quiet.wall.as_secs_f64();
        Self {
            bus: self.bus - quiet.bus * share,
            broker: self.broker - quiet.broker * share,
            ..self
        }
    }
}

/// The counter of merged batches; 0 of a bus that merges none.
fn metric(front: &Front, way: &str) -> Result<f64> {
    let name = format!("tributary_bus_merged_{way}_batches_total");
    let text = http::get(&front.admin, "/metrics")?.text();
    let line = text.lines().find(|line| line.starts_with(&name));
    let value = line.and_then(|line| line.rsplit_once(' '));
    Ok(value.map_or(Ok(0.0), |(_key, value)| value.parse())?)
}
