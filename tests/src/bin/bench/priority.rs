//! Who waits for whom: a trickle of P0 beside floods of P3, and what is left to each class under a
//! flood of P0.
//!
//! Each agent lives through quiet times and floods in turns, so that both meet the same machine. A
//! time's figures are those of the trickle's lines that were written in it.
//!
//! Not for: what that costs (see [`mod@crate::alone`]).

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use rdkafka::{Message as _, consumer::BaseConsumer};
use tokio::time::Instant;
use tributary_common::ids::Class;
use tributary_tests::{kafka::Kafka, poll, say};

use crate::{
    Delay,
    counter::{Counter, Manner, Stamped},
    latency,
    line::{AgentPlan, BACKLOG_LIMIT, Line, Task},
    load::{self, now_us, push_line, stamp_us},
};

/// A line of the trickle is written so often.
const TRICKLE_EVERY: Duration = Duration::from_millis(10);
/// The flood that lasts.
const FLOOD_BYTES_PER_S: u64 = 100_000_000;
/// It is written so often.
const FLOOD_TICK: Duration = Duration::from_millis(5);
/// Quiet times and floods follow each other so often.
const ROUNDS: usize = 3;
/// What a time's first lines meet is not yet it, or no longer what was before.
const SETTLE: Duration = Duration::from_millis(500);
/// The last lines of a time may take so long.
const LAST_LINES: Duration = Duration::from_secs(2);

/// What happens beside the trickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// Nothing.
    Quiet,
    /// A P3 file grows by 100 MB/s.
    Flood,
    /// A P3 file of so many bytes is there at once.
    Backlog(u64),
}

impl Beside {
    fn name(self) -> String {
        match self {
            Self::Quiet => "alone".to_owned(),
            Self::Flood => "P3 grows by 100 MB/s".to_owned(),
            Self::Backlog(bytes) => format!("P3 backlog of {} MB", bytes / 1_000_000),
        }
    }
}

/// The times in which the same happened beside the trickle, in µs since 1970.
#[derive(Debug)]
struct Times {
    beside: Beside,
    spans: Vec<(u64, u64)>,
    /// How long the file system took for each line of the trickle, in µs.
    writes: Vec<u64>,
    /// Bytes of P3, and how long they took.
    bulk: (u64, Duration),
}

/// Where the bytes go.
struct Target<'a> {
    folder: &'a Path,
    /// P3 records that arrived so far.
    arrived: Box<dyn Fn() -> Result<u64> + 'a>,
    /// P3 is never answered: nothing is waited for.
    stuck: bool,
}

/// Measures all, as a table. A time lasts a sixth of `time`.
///
/// # Errors
/// When something does not come up, or a line does not arrive.
pub(crate) fn measure(folder: &Path, time: Duration) -> Result<String> {
    let time = time / 6;
    let mut rows = Vec::new();
    let fast = Manner {
        stamped: Stamped::Only(Class::P0),
        ..Manner::default()
    };
    let slow = Manner {
        reads_per_s: Some(4_000_000),
        ..fast
    };
    let stuck = Manner {
        unanswered: Some(Class::P3),
        ..fast
    };
    let all = [Beside::Flood, Beside::Backlog(800_000_000)];
    let small = [Beside::Backlog(80_000_000)];
    let cases: [(&str, Manner, &[Beside]); 3] = [
        ("a bus that only counts", fast, &all),
        ("a bus that reads 4 MB/s", slow, &small),
        ("a bus that never answers P3", stuck, &small),
    ];
    for (name, manner, beside) in cases {
        say(name);
        let of_case = folder.join(name.replace(' ', "-"));
        let of_case = counted(&of_case, (name, manner), beside, time)?;
        say(&of_case.join("\n"));
        rows.extend(of_case);
    }
    say("bus and Kafka");
    let kafka = Kafka::start(&folder.join("kafka"))?;
    rows.extend(in_kafka(&kafka, &folder.join("line"), time)?);
    say("floors");
    let floors = floors(&folder.join("floors"), fast, time * 2)?;
    Ok(format!(
        "| P0, 100 lines/s | beside | lines | p50 / p99 / max ms | of alone | its writes, p99 ms | P3 MB/s |\n\
         |---|---|---|---|---|---|---|\n{}\n\n{floors}\n",
        rows.join("\n")
    ))
}

/// The second task of each agent: bulk.
fn bulk_task(folder: &Path, class: Class, topic: &str) -> String {
    format!(
        "[[task]]\nid = \"{topic}\"\ntopic = \"{topic}\"\nclass = \"{class}\"\n\
         paths = [\"{}/{topic}/*.log\"]\n",
        folder.display()
    )
}

/// In front of a bus that only counts.
fn counted(
    folder: &Path,
    (name, manner): (&str, Manner),
    beside: &[Beside],
    time: Duration,
) -> Result<Vec<String>> {
    let counter = Counter::start(manner)?;
    for logs in ["logs", "bulk", "made"] {
        fs::create_dir_all(folder.join(logs))?;
    }
    let agent = AgentPlan {
        folder,
        class: "P0",
        topic: "trickle",
        bus_port: counter.port,
        more: &bulk_task(folder, Class::P3, "bulk"),
    }
    .start()?;
    let target = Target {
        folder,
        arrived: Box::new(|| Ok(counter.records_of(Class::P3))),
        stuck: manner.unanswered.is_some(),
    };
    let times = live_through(&target, beside, time).with_context(|| agent.log_tail())?;
    let of = |(from, until)| counter.delays_between_us(from, until);
    Ok(rows(name, &times, of))
}

/// In front of a real bus and Kafka: until a consumer has a line.
fn in_kafka(kafka: &Kafka, folder: &Path, time: Duration) -> Result<Vec<String>> {
    for logs in ["logs", "bulk", "made"] {
        fs::create_dir_all(folder.join(logs))?;
    }
    kafka.create_topic("bulk", 8)?;
    let task = Task {
        class: "P0",
        topic: "trickle".to_owned(),
        producer: "rdkafka",
        options: "{}".to_owned(),
        more: bulk_task(folder, Class::P3, "bulk"),
    };
    let line = Line::start(kafka, folder, &task)?;
    let consumer = latency::consumer(kafka, "trickle")?;
    let over = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&over);
    let consumed = thread::spawn(move || consume(&consumer, &ends));
    let target = Target {
        folder,
        arrived: Box::new(|| kafka.end_offsets("bulk")),
        stuck: false,
    };
    let beside = [Beside::Flood, Beside::Backlog(400_000_000)];
    let times = live_through(&target, &beside, time)
        .with_context(|| format!("{}\n{}", line.agent.log_tail(), line.bus.log_tail()))?;
    over.store(true, Ordering::Release);
    let delays = consumed
        .join()
        .map_err(|_panic| anyhow!("the consumer panicked"))??;
    let of = |(from, until)| {
        let within = delays
            .iter()
            .filter(|(stamp, _)| (from..until).contains(stamp));
        within.map(|&(_, delay)| delay).collect()
    };
    Ok(rows("bus and Kafka, to a consumer", &times, of))
}

/// When each line was written, and how long it took to here, in µs.
fn consume(consumer: &BaseConsumer, over: &AtomicBool) -> Result<Vec<(u64, u64)>> {
    let mut delays = Vec::new();
    while !over.load(Ordering::Acquire) {
        if let Some(message) = consumer.poll(Duration::from_millis(5)) {
            let message = message?;
            let stamp =
                stamp_us(message.payload().unwrap_or_default()).context("a foreign line")?;
            delays.push((stamp, now_us().saturating_sub(stamp)));
        }
    }
    Ok(delays)
}

/// The trickle, with quiet times and floods in turns.
fn live_through(target: &Target<'_>, beside: &[Beside], time: Duration) -> Result<Vec<Times>> {
    let over = Arc::new(AtomicBool::new(false));
    let trickle = trickle(target.folder.join("logs/trickle.log"), Arc::clone(&over));
    thread::sleep(latency::WARM_UP);
    let mut all: Vec<Times> = Vec::new();
    // What is never answered never ends: one round, and the flood is the last of it.
    let rounds = if target.stuck { 1 } else { ROUNDS };
    for round in 0..rounds {
        for &beside in [Beside::Quiet].iter().chain(beside) {
            let (span, bulk) = live(target, beside, (round, time))?;
            let at = match all.iter().position(|times| times.beside == beside) {
                Some(at) => at,
                None => {
                    all.push(Times {
                        beside,
                        spans: Vec::new(),
                        writes: Vec::new(),
                        bulk: (0, Duration::ZERO),
                    });
                    all.len() - 1
                }
            };
            if let Some(times) = all.get_mut(at) {
                times.spans.push(span);
                times.bulk = (times.bulk.0 + bulk.0, times.bulk.1 + bulk.1);
            }
        }
    }
    thread::sleep(LAST_LINES);
    over.store(true, Ordering::Release);
    let written = trickle.join();
    let written = written.map_err(|_panic| anyhow!("the trickle panicked"))??;
    for times in &mut all {
        for &(from, until) in &times.spans {
            let within = written.iter().filter(|(at, _)| (from..until).contains(at));
            times.writes.extend(within.map(|&(_, took)| took));
        }
    }
    Ok(all)
}

/// One time: when it was, and the bytes of P3 with how long they took.
fn live(
    target: &Target<'_>,
    beside: Beside,
    (round, time): (usize, Duration),
) -> Result<((u64, u64), (u64, Duration))> {
    let bulk = target.folder.join(format!("bulk/{round}.log"));
    let before = (target.arrived)()?;
    let wait_for = |lines: u64| {
        poll::until("the bulk to arrive", BACKLOG_LIMIT, || {
            Ok(((target.arrived)()? >= before + lines).then_some(()))
        })
    };
    // What the writer of the backlog does to the machine is not measured.
    let made = match beside {
        Beside::Quiet | Beside::Flood => None,
        Beside::Backlog(bytes) => {
            let made = target.folder.join("made/backlog.log");
            let size = load::write_log(&made, bytes)?;
            File::open(&made)?.sync_all()?;
            fs::rename(&made, &bulk)?;
            Some(size)
        }
    };
    let (begun, from) = (
        Instant::now(),
        now_us() + u64::try_from(SETTLE.as_micros())?,
    );
    let bytes = match (beside, made) {
        (Beside::Flood, _) => {
            let (bytes, lines) = flood(&bulk, time)?;
            wait_for(lines)?;
            bytes
        }
        (_, Some((bytes, lines))) if !target.stuck => {
            wait_for(lines)?;
            bytes
        }
        _ => {
            thread::sleep(time);
            0
        }
    };
    let took = begun.elapsed();
    let span = (from, now_us());
    // Lines that were written last are still under way; the file is read to its end and closed.
    thread::sleep(SETTLE);
    if bytes > 0 {
        fs::remove_file(&bulk)?;
    }
    Ok((span, (bytes, took)))
}

/// Writes a line every 10 ms until it is over; gives when each was written, and how long the file
/// system took for it, in µs.
fn trickle(path: PathBuf, over: Arc<AtomicBool>) -> JoinHandle<Result<Vec<(u64, u64)>>> {
    thread::spawn(move || {
        let mut took = Vec::new();
        let mut file = File::create(path)?;
        let (mut text, mut random) = (String::new(), fastrand::Rng::with_seed(5));
        while !over.load(Ordering::Acquire) {
            text.clear();
            let stamp = now_us();
            push_line(&mut text, &mut random, stamp);
            file.write_all(text.as_bytes())?;
            took.push((stamp, now_us().saturating_sub(stamp)));
            thread::sleep(TRICKLE_EVERY);
        }
        Ok(took)
    })
}

/// Lets a file grow by 100 MB/s for a while; gives bytes and lines. The lines repeat after a MiB, far
/// behind what a compressor of blocks can see.
fn flood(path: &Path, time: Duration) -> Result<(u64, u64)> {
    let (mut text, mut random) = (String::new(), fastrand::Rng::with_seed(9));
    let mut ends = Vec::new();
    while text.len() < 1 << 20 {
        push_line(&mut text, &mut random, now_us());
        ends.push(text.len());
    }
    let mut file = File::create(path)?;
    let (mut bytes, mut lines, mut at) = (0_u64, 0_u64, 0);
    let begun = Instant::now();
    while begun.elapsed() < time {
        let due = u64::try_from(begun.elapsed().as_micros())? * FLOOD_BYTES_PER_S / 1_000_000;
        while bytes < due {
            // Up to the end of the text at most.
            let want = usize::try_from(due - bytes)? + at;
            let end = ends.partition_point(|&end| end < want).min(ends.len() - 1);
            let first = ends.partition_point(|&end| end <= at);
            let to = ends.get(end).copied().unwrap_or(text.len());
            let part = text.as_bytes().get(at..to).context("a part of the text")?;
            file.write_all(part)?;
            bytes += part.len() as u64;
            lines += (end + 1 - first) as u64;
            at = if to == text.len() { 0 } else { to };
        }
        thread::sleep(FLOOD_TICK);
    }
    Ok((bytes, lines))
}

/// A row for each thing beside the trickle.
fn rows(name: &str, times: &[Times], of: impl Fn((u64, u64)) -> Vec<u64>) -> Vec<String> {
    let mut alone = None;
    let row = |times: &Times| {
        let delays: Vec<u64> = times.spans.iter().flat_map(|&span| of(span)).collect();
        let (lines, delay) = (delays.len(), Delay::of(delays));
        let of_alone = delay.p99_ms / *alone.get_or_insert(delay.p99_ms);
        let (bytes, took) = times.bulk;
        let bulk = crate::as_float(bytes) / 1e6 / took.as_secs_f64();
        let written = Delay::of(times.writes.clone()).p99_ms;
        format!(
            "| {name} | {} | {lines} | {:.0} / {:.0} / {:.0} | {of_alone:.2} | {written:.0} | {bulk:.0} |",
            times.beside.name(),
            delay.p50_ms,
            delay.p99_ms,
            delay.max_ms,
        )
    };
    times.iter().map(row).collect()
}

/// A backlog of every class at once: what part of the records each class gets while all have some.
fn floors(folder: &Path, manner: Manner, time: Duration) -> Result<String> {
    let counter = Counter::start(Manner {
        stamped: Stamped::None,
        ..manner
    })?;
    fs::create_dir_all(folder.join("made"))?;
    let classes = [Class::P1, Class::P2, Class::P3];
    let mut more = String::new();
    for class in classes {
        let topic = class.as_str();
        fs::create_dir_all(folder.join(topic))?;
        load::write_log(&folder.join(format!("made/{topic}.log")), 200_000_000)?;
        more += &bulk_task(folder, class, topic);
    }
    fs::create_dir_all(folder.join("logs"))?;
    load::write_log(&folder.join("made/P0.log"), 2_500_000_000)?;
    let agent = AgentPlan {
        folder,
        class: "P0",
        topic: "P0",
        bus_port: counter.port,
        more: &more,
    }
    .start()?;
    fs::rename(folder.join("made/P0.log"), folder.join("logs/P0.log"))?;
    for class in classes {
        let name = format!("{}.log", class.as_str());
        fs::rename(
            folder.join("made").join(&name),
            folder.join(class.as_str()).join(&name),
        )?;
    }
    let records = || Class::ALL.map(|class| counter.records_of(class));
    poll::until("all classes to begin", BACKLOG_LIMIT, || {
        Ok(records().iter().all(|&records| records > 0).then_some(()))
    })
    .with_context(|| agent.log_tail())?;
    let before = records();
    thread::sleep(time);
    let got: Vec<u64> = records()
        .iter()
        .zip(before)
        .map(|(now, then)| now - then)
        .collect();
    let all = crate::as_float(got.iter().sum());
    let parts = Class::ALL.into_iter().zip(got);
    let parts = parts.map(|(class, records)| {
        format!(
            "{} {:.1} %",
            class.as_str(),
            100.0 * crate::as_float(records) / all
        )
    });
    Ok(format!(
        "all classes with a backlog, {:.0} s: {}",
        time.as_secs_f64(),
        parts.collect::<Vec<_>>().join(", ")
    ))
}
