//! What the bus's disk takes while the destination takes nothing, what it costs, and who waits while it
//! is drained.
//!
//! Beside each write of the bus a plain loop writes and syncs as many bytes to the same disk. Not for:
//! the live way (see [`crate::counting`]).

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use tokio::{
    runtime::{Builder, Runtime},
    time::Instant,
};
use tributary_common::{batch::Codec, ids::Class};
use tributary_tests::say;

use crate::{
    Delay, as_float, bare,
    connections::resident_kib,
    cpu::usage,
    front::{Front, Real},
    sender::{FULL_LINES, Kind, Made, Sender, Sent, make, send, trickle, until_live},
};

const STREAMS: u64 = 16;
/// The plain loop writes so many bytes at a time, and syncs after so many, as the spill does at its best.
const WRITE_BYTES: usize = 4 << 20;
const SYNC_BYTES: usize = 32 << 20;
const SEGMENT_BYTES: u64 = 64 << 20;
/// The trickle of urgent batches.
const TRICKLE_EVERY: Duration = Duration::from_millis(10);
const TRICKLE_FOR: Duration = Duration::from_secs(15);

const MIB: f64 = 1_048_576.0;

/// Full batches as agents send them, compressed.
const COMMON: Kind = Kind {
    topic: "common",
    class: Class::P2,
    codec: Codec::Zstd,
    lines: FULL_LINES,
};
/// The same lines, not compressed.
const LARGE: Kind = Kind {
    topic: "large",
    codec: Codec::None,
    ..COMMON
};
/// Batches of one line: many of them.
const SMALL: Kind = Kind {
    topic: "small",
    lines: 1,
    ..LARGE
};
/// What is drained beside the trickle.
const BULK: Kind = Kind {
    topic: "bulk",
    ..LARGE
};
const URGENT: Kind = Kind {
    topic: "urgent",
    class: Class::P0,
    codec: Codec::Zstd,
    lines: 10,
};

/// Measures all, as a table. `z_per_gb` is the unit, in CPU seconds.
///
/// # Errors
/// When a bus does not come up, or loses something.
pub(crate) fn measure(folder: &Path, z_per_gb: f64) -> Result<String> {
    fs::create_dir_all(folder)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut rows = Rows(vec![
        "| spill: the destination takes nothing | | |".to_owned(),
        "|---|---|---|".to_owned(),
    ]);
    let broker = Real::start(&folder.join("kafka"), &["common", "large", "small"])?;
    for (what, kind, batches) in [
        ("batches of 150 KiB (zstd)", COMMON, 440),
        ("batches of 750 KiB (not compressed)", LARGE, 170),
    ] {
        say(&format!("spill: {what}"));
        let folder = folder.join(format!("s-{}", kind.codec.as_str()));
        fill(
            &runtime,
            (&folder, &broker),
            (what, kind, batches),
            z_per_gb,
            &mut rows,
        )?;
    }
    say("spill: many small batches");
    many(&runtime, (&folder.join("many"), &broker), &mut rows)?;
    Ok(rows.0.join("\n") + "\n")
}

/// Measures who waits while it is drained, as a table.
///
/// # Errors
/// When a bus does not come up, or loses something.
pub(crate) fn measure_drain(folder: &Path) -> Result<String> {
    fs::create_dir_all(folder)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let broker = Real::start(&folder.join("kafka"), &["bulk", "urgent"])?;
    let mut rows = Rows(vec![
        "| beside the drain of a spill | | |".to_owned(),
        "|---|---|---|".to_owned(),
    ]);
    say("spill: a trickle beside the drain");
    beside(&runtime, (&folder.join("beside"), &broker), &mut rows)?;
    Ok(rows.0.join("\n") + "\n")
}

/// The table, which is long in coming: each row is said at once.
struct Rows(Vec<String>);

impl Rows {
    fn push(&mut self, row: String) {
        say(&row);
        self.0.push(row);
    }
}

/// A bus whose destination is away, and connections whose streams spill by now.
fn spilling(
    runtime: &Runtime,
    folder: &Path,
    broker: &Real,
    kind: Kind,
) -> Result<(Front, Vec<Sender>)> {
    broker.away(true);
    let front = Front::start(folder, &broker.bootstrap(), false)?;
    let senders = runtime.block_on(async {
        let mut senders = Vec::new();
        for number in 0..STREAMS {
            senders.push(Sender::connect(&front.door, u32::try_from(number)?).await?);
        }
        send(&mut senders, make(kind, 0..STREAMS, &(1..2))?).await?;
        anyhow::Ok(senders)
    })?;
    Ok((front, senders))
}

/// How quickly the disk takes batches, beside a plain loop before and after; how long the next start and
/// the drain take, and what stays.
fn fill(
    runtime: &Runtime,
    (folder, broker): (&Path, &Real),
    (what, kind, batches): (&str, Kind, u64),
    z_per_gb: f64,
    rows: &mut Rows,
) -> Result<()> {
    let (mut front, mut senders) = spilling(runtime, folder, broker, kind)?;
    let streams = make_beside(kind, &(2..batches + 2))?;
    let bytes = streams.iter().map(|made| made.payload_bytes).sum();
    let plain_before = plain(folder, bytes)?;
    let (cpu, written) = (usage(front.bus.pid())?, front.written()?);
    let sent = runtime.block_on(send(&mut senders, streams))?;
    let cpu = usage(front.bus.pid())?.since(cpu).cpu_s();
    let written = front.written()? - written;
    let plain_after = plain(folder, bytes)?;
    let plain = (plain_before + plain_after) / 2.0;
    let rate = as_float(sent.payload_bytes) / sent.wall.as_secs_f64();
    rows.push(format!(
        "| {what}: acknowledged from disk | {:.0} MB/s, {:.0} % of the plain loop ({:.0} and {:.0} MB/s) | bar 500 MB/s or 90 % |",
        rate / 1e6,
        100.0 * rate / plain,
        plain_before / 1e6,
        plain_after / 1e6,
    ));
    rows.push(format!(
        "| … CPU of the bus | {:.2} s per GB on the disk, {:.3} z per GB of lines | |",
        cpu * 1e9 / as_float(sent.payload_bytes),
        cpu * 1e9 / as_float(sent.raw_bytes) / z_per_gb,
    ));
    rows.push(format!(
        "| … bytes written per byte acknowledged | {:.3} | bar 1.05 |",
        as_float(written) / as_float(sent.payload_bytes),
    ));
    let (reopened, empty) = reopen(&mut front, folder)?;
    rows.push(format!(
        "| … {:.1} GiB, {} batches opened again | {:.2} s more than a bus without a spill ({:.2} s) | bar 1 s for 2 GiB |",
        as_float(sent.payload_bytes) / MIB / 1024.0,
        sent.batches,
        (reopened.saturating_sub(empty)).as_secs_f64(),
        empty.as_secs_f64(),
    ));
    broker.away(false);
    let (took, stayed) = (front.drained()?, front.stayed()?);
    // Those that made the streams spill came before.
    let wanted = sent.records + STREAMS * kind.lines as u64;
    let arrived = broker.records(kind.topic)?;
    ensure!(arrived == wanted, "{arrived} of {wanted} records arrived");
    rows.push(format!(
        "| … drained to Kafka | {:.0} MB/s; {stayed} bytes stay on the disk | bar 0 bytes |",
        as_float(sent.payload_bytes) / took.as_secs_f64() / 1e6,
    ));
    Ok(())
}

/// Makes the batches of all streams, on all cores.
fn make_beside(kind: Kind, seqs: &std::ops::Range<u64>) -> Result<Vec<Made>> {
    let halves = [0..STREAMS / 2, STREAMS / 2..STREAMS];
    thread::scope(|scope| {
        let make = |streams| scope.spawn(move || make(kind, streams, seqs));
        let threads: Vec<_> = halves.into_iter().map(make).collect();
        let mut all = Vec::new();
        for thread in threads {
            let made = thread.join().map_err(|_panic| anyhow!("a panic"))?;
            all.extend(made?);
        }
        Ok(all)
    })
}

/// The start of the bus with what is on its disk, and without.
fn reopen(front: &mut Front, folder: &Path) -> Result<(Duration, Duration)> {
    front.kill()?;
    let with = front.again()?;
    front.kill()?;
    let (spill, aside) = (folder.join("data/spill"), folder.join("data/aside"));
    fs::rename(&spill, &aside)?;
    let without = front.again()?;
    front.kill()?;
    fs::remove_dir_all(&spill)?;
    fs::rename(&aside, &spill)?;
    front.again()?;
    Ok((with, without))
}

/// Bytes a second of a loop that only writes and syncs.
fn plain(folder: &Path, bytes: u64) -> Result<f64> {
    let buffer: Vec<u8> = (0..WRITE_BYTES).map(|_byte| fastrand::u8(..)).collect();
    let folder = folder.join("plain");
    fs::create_dir_all(&folder)?;
    let begun = Instant::now();
    let (mut written, mut unsynced, mut file) = (0, 0, None);
    while written < bytes {
        let number = written / SEGMENT_BYTES;
        let file = match &mut file {
            Some((of, file)) if *of == number => file,
            other => {
                let new = File::create(folder.join(number.to_string()))?;
                &mut other.insert((number, new)).1
            }
        };
        file.write_all(&buffer)?;
        written += WRITE_BYTES as u64;
        unsynced += WRITE_BYTES;
        if unsynced >= SYNC_BYTES || written >= bytes || written % SEGMENT_BYTES == 0 {
            file.sync_data()?;
            unsynced = 0;
        }
    }
    let took = begun.elapsed();
    fs::remove_dir_all(&folder)?;
    Ok(as_float(written) / took.as_secs_f64())
}

/// What waits in memory is a word on each batch, whatever its bytes: a million batches of one line stand
/// for 50 GiB in batches of 50 KiB.
fn many(runtime: &Runtime, (folder, broker): (&Path, &Real), rows: &mut Rows) -> Result<()> {
    const PART: u64 = 12_500;
    let (mut front, mut senders) = spilling(runtime, folder, broker, SMALL)?;
    let mut seen = vec![(0, resident_kib(front.bus.pid())?)];
    let mut all = Sent::default();
    let cpu = usage(front.bus.pid())?;
    for part in 0..5 {
        let from = 2 + part * PART;
        let streams = make_beside(SMALL, &(from..from + PART))?;
        let sent = runtime.block_on(send(&mut senders, streams))?;
        all.batches += sent.batches;
        all.wall += sent.wall;
        seen.push((all.batches, resident_kib(front.bus.pid())?));
    }
    let cpu = usage(front.bus.pid())?.since(cpu).cpu_s();
    let words: Vec<String> = seen
        .iter()
        .map(|(batches, kib)| format!("{} at {}k", kib / 1024, batches / 1000))
        .collect();
    rows.push(format!(
        "| batches of one line: acknowledged from disk | {:.0} a second, {:.1} CPU s a million | |",
        as_float(all.batches) / all.wall.as_secs_f64(),
        cpu * 1e6 / as_float(all.batches),
    ));
    rows.push(format!(
        "| … resident, by batches on the disk | {} MiB | a million stands for 50 GiB; the bar is flat |",
        words.join(", "),
    ));
    let (reopened, empty) = reopen(&mut front, folder)?;
    rows.push(format!(
        "| … {}k batches opened again | {:.2} s more than without; {} MiB | |",
        all.batches / 1000,
        reopened.saturating_sub(empty).as_secs_f64(),
        resident_kib(front.bus.pid())? / 1024,
    ));
    Ok(())
}

/// The answers of urgent batches while nothing else happens, and while 4 GiB are drained.
fn beside(runtime: &Runtime, (folder, broker): (&Path, &Real), rows: &mut Rows) -> Result<()> {
    let (front, mut senders) = spilling(runtime, folder, broker, BULK)?;
    let mut bytes = 0;
    for part in 0..4 {
        let from = 2 + part * 85;
        let sent = runtime.block_on(send(&mut senders, make_beside(BULK, &(from..from + 85))?))?;
        bytes += sent.payload_bytes;
    }
    broker.away(false);
    let stop = Arc::new(AtomicBool::new(false));
    let trickling = urgent(&front, &stop, 1_000);
    let took = front.drained()?;
    stop.store(true, Ordering::Relaxed);
    let (live_after, beside) = joined(trickling)?;
    let stop = Arc::new(AtomicBool::new(false));
    let trickling = urgent(&front, &stop, 1_001);
    thread::sleep(TRICKLE_FOR);
    stop.store(true, Ordering::Relaxed);
    let (_at_once, alone) = joined(trickling)?;
    rows.push(format!(
        "| P0, a batch every 10 ms, to its answer: p50 / p99 / max alone | {:.1} / {:.1} / {:.1} ms | |",
        alone.p50_ms, alone.p99_ms, alone.max_ms
    ));
    rows.push(format!(
        "| … while {:.1} GiB are drained at {:.0} MB/s | {:.1} / {:.1} / {:.1} ms, p99 {:.2} of alone | bar 2 |",
        as_float(bytes) / MIB / 1024.0,
        as_float(bytes) / took.as_secs_f64() / 1e6,
        beside.p50_ms,
        beside.p99_ms,
        beside.max_ms,
        beside.p99_ms / alone.p99_ms,
    ));
    rows.push(format!(
        "| … the first of them that goes live, after Kafka is back | {:.1} s | |",
        live_after.as_secs_f64()
    ));
    floor(broker, (bytes, as_float(bytes) / took.as_secs_f64()), rows)
}

/// The same without a bus: what Kafka and the machine make of it.
fn floor(broker: &Real, loud: (u64, f64), rows: &mut Rows) -> Result<()> {
    let bootstrap = broker.bootstrap();
    let small = (TRICKLE_EVERY, TRICKLE_FOR);
    let (alone, beside, rate) = bare::measure(&bootstrap, small, loud)?;
    rows.push(format!(
        "| floor: a bare producer, 1 KiB every 10 ms: p50 / p99 / max alone | {:.1} / {:.1} / {:.1} ms | |",
        alone.p50_ms, alone.p99_ms, alone.max_ms
    ));
    rows.push(format!(
        "| … beside a bare producer that sends {:.1} GiB at {:.0} MB/s | {:.1} / {:.1} / {:.1} ms, p99 {:.2} of alone | what the bar is to be read by |",
        as_float(loud.0) / MIB / 1024.0,
        rate / 1e6,
        beside.p50_ms,
        beside.p99_ms,
        beside.max_ms,
        beside.p99_ms / alone.p99_ms,
    ));
    Ok(())
}

/// What a trickle saw: how long until it went live, its answers from then on, how many were put off.
type Trickled = Result<(Duration, Vec<u64>, u64)>;

/// A trickle in a thread of its own.
fn urgent(front: &Front, stop: &Arc<AtomicBool>, stream: u64) -> JoinHandle<Trickled> {
    let (door, stop) = (front.door.clone(), Arc::clone(stop));
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let mut made = make(URGENT, stream..stream + 1, &(1..20_000))?;
        let mut frames = made.pop().context("a stream")?.into_frames();
        runtime.block_on(async {
            let mut sender = Sender::connect(&door, u32::try_from(stream)?).await?;
            let live_after = until_live(&mut sender, &mut frames, TRICKLE_EVERY).await?;
            let stop = || stop.load(Ordering::Relaxed);
            let (took, busy) = trickle(sender, frames, TRICKLE_EVERY, stop).await?;
            Ok((live_after, took, busy))
        })
    })
}

fn joined(thread: JoinHandle<Trickled>) -> Result<(Duration, Delay)> {
    let (live_after, took, busy) = thread.join().map_err(|_panic| anyhow!("a panic"))??;
    ensure!(busy == 0, "{busy} urgent batches were put off");
    Ok((live_after, Delay::of(took)))
}
