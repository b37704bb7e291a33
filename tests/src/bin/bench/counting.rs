//! What a bus costs where everything is only counted: by itself and by a broker; bytes, with TLS and without;
//! many agents with little each; lines posted by a stock load generator.
//!
//! Not for: what connections cost that say nothing (see [`crate::connections`]), a real Kafka (see
//! [`crate::line`]).

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tributary_common::{batch::Codec, ids::Class};
use tributary_tests::say;

use crate::{
    as_float,
    cpu::usage,
    floor,
    front::{Broker, Front},
    load,
    sender::{FULL_LINES, Kind, Made, Sender, Sent, make, send},
};

const STREAMS: u64 = 16;
/// Full batches, as agents send them.
const COMMON: Kind = Kind {
    topic: "counted",
    class: Class::P2,
    codec: Codec::Zstd,
    lines: FULL_LINES,
};
/// Batches of each stream in a turn, which takes a third of a second: several turns are measured.
const BATCHES: u64 = 280;
const TURNS: u64 = 4;
/// Batches of each stream before that, so that memory is there.
const WARM: u64 = 20;
/// What an agent with little to say sends each second.
const LITTLE: Kind = Kind {
    lines: 10,
    ..COMMON
};
const AGENTS: u64 = 10_000;
/// So many of them connect at once.
const AT_ONCE: usize = 100;
const SECONDS: u32 = 15;
/// Lines of a posted body, and the load generator's connections and seconds.
const POSTED_LINES: u64 = 1_000;
const POST_CONNECTIONS: u32 = 8;
const POST_S: u32 = 10;

/// Measures all, as a table. `unit` takes the unit, in CPU seconds: a row goes by the mean of before and after.
///
/// # Errors
/// When a bus does not come up.
pub(crate) fn measure(folder: &Path, unit: &dyn Fn() -> Result<f64>) -> Result<String> {
    fs::create_dir_all(folder)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut rows = vec![
        "| bus, where everything is counted and nothing kept | | |".to_owned(),
        "|---|---|---|".to_owned(),
    ];
    let mut before = unit()?;
    for (what, place, secure, bar) in [
        ("without TLS", Place::Nowhere, false, "bar 0.06 z"),
        ("mutual TLS", Place::Nowhere, true, "bar 0.1 z"),
        ("to a broker that only counts", Place::Broker, false, ""),
        ("to it, mutual TLS", Place::Broker, true, ""),
    ] {
        say(&format!("counting: bytes, {what}"));
        let (cpu_s, sent) = bytes(&runtime, &folder.join(what), (place, secure))?;
        let gb = as_float(sent.raw_bytes) / 1e9;
        let after = unit()?;
        let z_per_gb = f64::midpoint(before, after);
        before = after;
        let (z, rate) = (cpu_s / gb / z_per_gb, gb * 1e3 / sent.wall.as_secs_f64());
        rows.push(format!(
            "| 750 KiB of lines a batch, {what} | {z:.3} z per GB of lines, {rate:.0} MB/s of lines | {bar} |"
        ));
        if place == Place::Broker && !secure {
            let piece = usize::try_from(sent.payload_bytes / sent.batches)?;
            let z = floor::passed_on(sent.batches, piece)? / gb / z_per_gb;
            rows.push(format!(
                "| … as many bytes only passed on by a thread, from socket to socket | {z:.3} z per GB of lines | |"
            ));
        }
    }
    say("counting: many agents with little");
    rows.push(agents(&runtime, &folder.join("agents"))?);
    say("counting: posted lines");
    rows.push(posted(&folder.join("posted"))?);
    Ok(rows.join("\n") + "\n")
}

/// Where the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    Broker,
}

/// CPU seconds of the bus, and what was sent.
fn bytes(runtime: &Runtime, folder: &Path, (place, secure): (Place, bool)) -> Result<(f64, Sent)> {
    let broker = Broker::start(&["counted"])?;
    let front = match place {
        Place::Nowhere => Front::start_before(folder, "kind = \"discard\"\n", "", secure)?,
        Place::Broker => Front::start(folder, &broker.bootstrap(), secure)?,
    };
    runtime.block_on(async {
        let mut senders = Vec::new();
        for number in 0..STREAMS {
            senders.push(Sender::connect(&front.door, u32::try_from(number)?).await?);
        }
        send(&mut senders, make(COMMON, 0..STREAMS, &(1..WARM + 1))?).await?;
        let (mut cpu_s, mut sent) = (0.0, Sent::default());
        for turn in 0..TURNS {
            let first = WARM + BATCHES * turn + 1;
            let streams = make(COMMON, 0..STREAMS, &(first..first + BATCHES))?;
            let before = usage(front.bus.pid())?;
            sent = sent.and(send(&mut senders, streams).await?);
            cpu_s += usage(front.bus.pid())?.since(before).cpu_s();
        }
        ensure!(sent.busy == 0, "{} batches were put off", sent.busy);
        must_be_live(&front)?;
        Ok((cpu_s, sent))
    })
}

/// What went over the disk would be something else that is measured.
fn must_be_live(front: &Front) -> Result<()> {
    let spilled = front.spilled()?;
    ensure!(spilled == 0, "{spilled} batches were spilled");
    Ok(())
}

/// Connects an agent for each of `made`, and sends its first batch. Some at a time: one after the other
/// the first of many would have been silent for too long when the last is there.
async fn all_ready(front: &Front, made: Vec<Made>) -> Result<Vec<(Sender, Vec<Bytes>)>> {
    let mut ready = Vec::new();
    let mut to_come = (0..).zip(made).peekable();
    while to_come.peek().is_some() {
        let mut coming = JoinSet::new();
        for (number, made) in to_come.by_ref().take(AT_ONCE) {
            let door = front.door.clone();
            coming.spawn(async move {
                let mut sender = Sender::connect(&door, number).await?;
                let mut frames = made.into_frames();
                let first: Vec<Bytes> = frames.drain(..1).collect();
                sender.all(&first).await?;
                anyhow::Ok((sender, frames))
            });
        }
        while let Some(one) = coming.join_next().await {
            ready.push(one??);
        }
    }
    Ok(ready)
}

/// Many agents, each with a small batch a second.
fn agents(runtime: &Runtime, folder: &Path) -> Result<String> {
    let broker = Broker::start(&["counted"])?;
    let front = Front::start(folder, &broker.bootstrap(), false)?;
    let seqs = 1..u64::from(SECONDS) + 2;
    let made = make(LITTLE, 0..AGENTS, &seqs)?;
    runtime.block_on(async {
        let ready = all_ready(&front, made).await?;
        let before = usage(front.bus.pid())?;
        let (begun, mut tasks) = (Instant::now(), JoinSet::new());
        for (at, (mut sender, frames)) in ready.into_iter().enumerate() {
            // Spread over the second.
            let phase = Duration::from_secs(1) * u32::try_from(at)? / u32::try_from(AGENTS)?;
            tasks.spawn(async move {
                for (second, frame) in (0..).zip(frames) {
                    sleep_until(begun + phase + Duration::from_secs(1) * second).await;
                    sender.all(&[frame]).await?;
                }
                anyhow::Ok(sender.busy)
            });
        }
        let mut busy = 0;
        while let Some(ended) = tasks.join_next().await {
            busy += ended??;
        }
        let wall = begun.elapsed();
        let cpu = usage(front.bus.pid())?.since(before).cpu_s();
        must_be_live(&front)?;
        let batches = AGENTS * u64::from(SECONDS);
        Ok(format!(
            "| {AGENTS} agents, each a batch of 10 lines a second, to that broker | {:.1} CPU s a million batches, {:.1} % of a core; {:.0} batches a second came, {busy} were put off | |",
            cpu * 1e6 / as_float(batches),
            100.0 * cpu / wall.as_secs_f64(),
            as_float(batches) / wall.as_secs_f64(),
        ))
    })
}

/// Lines from `wrk`.
fn posted(folder: &Path) -> Result<String> {
    let broker = Broker::start(&["counted"])?;
    let front = Front::start(folder, &broker.bootstrap(), false)?;
    let mut random = fastrand::Rng::with_seed(5);
    let mut body = String::new();
    for line in 0..POSTED_LINES {
        load::push_line(&mut body, &mut random, load::now_us() + line);
    }
    let script = folder.join("post.lua");
    fs::write(folder.join("body"), &body)?;
    fs::write(
        &script,
        format!(
            "wrk.method = \"POST\"\nlocal file = io.open({:?})\nwrk.body = file:read(\"*a\")\n",
            folder.join("body")
        ),
    )?;
    let before = usage(front.bus.pid())?;
    let output = Command::new("wrk")
        .args([
            "-t1",
            &format!("-c{POST_CONNECTIONS}"),
            &format!("-d{POST_S}s"),
            "-s",
        ])
        .arg(&script)
        .arg(format!("http://{}/v1/lines/counted", front.door.addr))
        .output();
    let Ok(output) = output else {
        return Ok("| lines posted | not measured: there is no wrk here | |".to_owned());
    };
    let cpu = usage(front.bus.pid())?.since(before).cpu_s();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let requests = said.lines().find_map(|line| {
        let (number, rest) = line.trim().split_once(' ')?;
        rest.starts_with("requests in")
            .then(|| number.parse::<u64>().ok())?
    });
    let requests = requests.with_context(|| format!("wrk said {said:?}"))?;
    ensure!(!said.contains("Non-2xx"), "wrk said {said:?}");
    must_be_live(&front)?;
    let lines = as_float(requests * POSTED_LINES);
    Ok(format!(
        "| lines posted by `wrk` to that broker, {POSTED_LINES} a request, {POST_CONNECTIONS} connections | {:.0}k lines a CPU second, {:.0}k a second | bar 300k per core |",
        lines / cpu / 1e3,
        lines / f64::from(POST_S) / 1e3,
    ))
}
