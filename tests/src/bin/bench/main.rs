//! `make bench`: what the main job costs, measured against a real Kafka, as a table to quote.
//!
//! CPU seconds come from the kernel's accounting, each process apart, in units of z: what a bare loop
//! needs to read the same file and compress it with zstd-1 in 256 KiB blocks, taken in the same run.
//! Not for: tests (machines are noisy; nothing here passes or fails).
//!
//! Arguments: `--gb N` the size of the backlog (default 1), `--write FILE` keeps the table,
//! `--options '{ "linger.ms" = "5" }'` settings for librdkafka, `--only backlog`, `--only alone` (the
//! agent in front of a bus that only counts), `--only producers` (the backlog through the bus alone; with
//! `--way NAME` through one producer: rdkafka, rdkafka-lz4, verbatim), `--only steady` (10 MB/s to Kafka),
//! `--only files` (many files; both without Kafka),
//! `--only priority` (who waits for whom), `--only limits` (how well limits hold; without Kafka),
//! `--only connections` (thousands of them at a bus; without Kafka), `--only spill` (the bus's disk),
//! `--only drain` (who waits while that is drained), `--only counting` (the bus in front of a broker
//! that only counts; without Kafka), `--only fleet` (thousands of slow channels; `--channels N`,
//! `--partitions N` of each topic), `--only search` (into OpenSearch), `--only hdfs` or `--only peers`
//! (other collectors; `tests/bench/peers/run` calls it),
//! `--seconds N` how long a steady load lasts, `--programs FOLDER` measures programs that were built
//! elsewhere.

mod alone;
mod bare;
mod connections;
mod counter;
mod counting;
mod cpu;
mod files;
mod fleet;
mod floor;
mod front;
mod latency;
mod limits;
mod line;
mod load;
mod peers;
mod priority;
mod sender;
mod spill;
mod stores;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tributary_tests::{kafka::Kafka, say, scratch};

use self::line::{Line, Task};

/// How often z is taken; the median counts.
const Z_RUNS: usize = 3;
/// The steady load: bytes a second, and for how many seconds.
const STEADY_BYTES_PER_S: u64 = 10_000_000;
const STEADY_S: u64 = 30;

/// Slow channels.
const CHANNELS: u64 = 2_000;
const PARTITIONS: i32 = 32;

/// What stands above the table where it is kept.
const INTRODUCTION: &str = "# Benchmarks

What the main job costs. `make bench` measures it against a real Kafka on the same machine and rewrites
this page. CPU seconds are user + system by the kernel's accounting, each process apart, per 10^9 bytes
of access log. Machines differ, so the unit is z: the CPU seconds that a bare loop needs to read the same
file and compress it with zstd-1 in 256 KiB blocks. Machines change under way, too, so z is taken before and
after each row's run, and the row goes by the mean of both. The loop runs alone; in front of Kafka all
processors are busy, and where they share a core or its caches each second of theirs does less: the second
row says what z is then. Other collectors are not part of this run. A figure over its bar is a bar that is
missed.

The times are from the write of a line to when a consumer of librdkafka has it; writer, agent, bus, Kafka
and consumer share the machine.

";

/// The heading of what people wrote below the table.
const EXPLANATION: &str = "## Where the cycles go";

struct Args {
    gb: f64,
    write: Option<PathBuf>,
    /// An inline table of TOML.
    options: String,
    part: Part,
    /// The one way into Kafka that is measured; all of them without it.
    way: Option<String>,
    /// How long a steady load lasts.
    steady_for: Duration,
    /// How many slow channels there are.
    channels: u64,
    /// How many partitions their topics have.
    partitions: i32,
}

/// Which part of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Everything.
    All,
    /// One file to Kafka.
    Backlog,
    /// The agent in front of a bus that only counts: no Kafka.
    Alone,
    /// One file to Kafka, without the agent alone before.
    Producers,
    /// A steady load to Kafka.
    Steady,
    /// An agent that watches many files: no Kafka.
    Files,
    /// Classes beside each other.
    Priority,
    /// Ceilings: no Kafka.
    Limits,
    /// Many connections to a bus: no Kafka.
    Connections,
    /// The bus's disk.
    Spill,
    /// Who waits while it is drained.
    Drain,
    /// The bus in front of a mock that only counts.
    Counting,
    /// Many slow channels.
    Fleet,
    /// Into OpenSearch: no Kafka.
    Search,
    /// Into HDFS: no Kafka.
    Hdfs,
    /// Other collectors; not part of everything, see `tests/bench/peers/run`.
    Peers,
}

fn arguments() -> Result<Args> {
    let mut parsed = Args {
        gb: 1.0,
        write: None,
        options: "{}".to_owned(),
        part: Part::All,
        way: None,
        steady_for: Duration::from_secs(STEADY_S),
        channels: CHANNELS,
        partitions: PARTITIONS,
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given
            .next()
            .with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--gb" => parsed.gb = value.parse().context("--gb is a number of 10^9 bytes")?,
            "--write" => parsed.write = Some(value.into()),
            "--options" => parsed.options = value,
            "--only" if value == "backlog" => parsed.part = Part::Backlog,
            "--only" if value == "steady" => parsed.part = Part::Steady,
            "--only" if value == "producers" => parsed.part = Part::Producers,
            "--way" => parsed.way = Some(value),
            "--only" if value == "alone" => parsed.part = Part::Alone,
            "--only" if value == "files" => parsed.part = Part::Files,
            "--only" if value == "priority" => parsed.part = Part::Priority,
            "--only" if value == "limits" => parsed.part = Part::Limits,
            "--only" if value == "connections" => parsed.part = Part::Connections,
            "--only" if value == "spill" => parsed.part = Part::Spill,
            "--only" if value == "drain" => parsed.part = Part::Drain,
            "--only" if value == "counting" => parsed.part = Part::Counting,
            "--only" if value == "fleet" => parsed.part = Part::Fleet,
            "--partitions" => {
                parsed.partitions = value.parse().context("--partitions is a number")?;
            }
            "--channels" => parsed.channels = value.parse().context("--channels is a number")?,
            "--only" if value == "search" => parsed.part = Part::Search,
            "--only" if value == "hdfs" => parsed.part = Part::Hdfs,
            "--only" if value == "peers" => parsed.part = Part::Peers,
            "--seconds" => {
                let seconds = value.parse().context("--seconds is a whole number")?;
                parsed.steady_for = Duration::from_secs(seconds);
            }
            "--programs" => line::PROGRAMS
                .set(value.into())
                .map_err(|_path| anyhow!("--programs is given twice"))?,
            _ => bail!(
                "{name} {value} is unknown; allowed are --gb N, --write FILE, --options TABLE, --seconds N, --channels N, --partitions N, \
                 --programs FOLDER, --way NAME and --only backlog, alone, producers, steady, files, priority, limits, connections, spill, drain, counting, fleet, search, hdfs or peers"
            ),
        }
    }
    Ok(parsed)
}

fn main() -> Result<()> {
    let args = arguments()?;
    let folder = scratch::create("bench")?;
    let mut missing = Vec::new();
    let table = match args.part {
        Part::Files => many_files(&folder.join("files"))?,
        Part::Priority => priority::measure(&folder.join("priority"), args.steady_for)?,
        Part::Limits => limits::measure(&folder.join("limits"))?,
        Part::Connections => connections::measure(&folder.join("connections"))?,
        Part::Spill => spill::measure(&folder.join("spill"), unit(&folder)?)?,
        Part::Drain => spill::measure_drain(&folder.join("drain"))?,
        Part::Counting => counting::measure(&folder.join("counting"), &|| unit(&folder))?,
        Part::Fleet => slow_fleet(&folder, &args)?,
        Part::Search => stores::search(&folder.join("search"))?,
        Part::Hdfs => stores::files(&folder.join("hdfs"), unit(&folder)?)?,
        Part::Peers => beside_others(&args, &folder.join("peers"))?,
        Part::All => all(&args, &folder, &mut missing)?,
        Part::Backlog | Part::Alone | Part::Producers | Part::Steady => measure(&args, &folder)?,
    };
    say(&table);
    if let Some(path) = &args.write {
        // What people wrote below the table stays.
        let old = fs::read_to_string(path).unwrap_or_default();
        let kept = old
            .split_once(EXPLANATION)
            .map(|(_, rest)| format!("\n{EXPLANATION}{rest}"))
            .unwrap_or_default();
        fs::write(path, format!("{INTRODUCTION}{table}{kept}"))
            .with_context(|| format!("failed to write {}", path.display()))?;
    }
    ensure!(
        missing.is_empty(),
        "not measured: {}; what they left is in {}",
        missing.join(", "),
        folder.display()
    );
    fs::remove_dir_all(&folder).context("failed to remove the bench's folder")
}

/// Every part, one after the other. One that fails is named in `missing`, and the others are measured.
fn all(args: &Args, folder: &Path, missing: &mut Vec<&'static str>) -> Result<String> {
    let z = unit(folder)?;
    let mut part = |name: &'static str, table: Result<String>| {
        let table = table.unwrap_or_else(|error| {
            missing.push(name);
            format!("| {name} | not measured: {error:#} | |\n|---|---|---|\n")
        });
        say(&table);
        table
    };
    let many = part("files", many_files(&folder.join("files")));
    let priority = part(
        "priority",
        priority::measure(&folder.join("priority"), args.steady_for),
    );
    let limits = part("limits", limits::measure(&folder.join("limits")));
    let connections = part(
        "connections",
        connections::measure(&folder.join("connections")),
    );
    let counting = part(
        "counting",
        counting::measure(&folder.join("counting"), &|| unit(folder)),
    );
    let spill = part("spill", spill::measure(&folder.join("spill"), z));
    let drain = part("drain", spill::measure_drain(&folder.join("drain")));
    let fleet = part("fleet", slow_fleet(folder, args));
    let search = part("search", stores::search(&folder.join("search")));
    let hdfs = part("hdfs", stores::files(&folder.join("hdfs"), z));
    let line = part("the line", measure(args, folder));
    Ok(format!(
        "{line}\n{many}\n{priority}\n{limits}\n{connections}\n{counting}\n{fleet}\n{spill}\n{drain}\n{search}\n{hdfs}"
    ))
}

fn measure(args: &Args, folder: &Path) -> Result<String> {
    let file = folder.join("backlog.log");
    let (bytes, lines) = load::write_log(&file, bytes_of(args.gb))?;
    say(&format!("{bytes} bytes, {lines} lines; taking z"));
    let mut table = Table::new(&file, bytes)?;

    if !matches!(args.part, Part::Producers | Part::Steady) {
        let folder = folder.join("alone");
        alone(&folder, args, &file, (bytes, lines), &mut table)?;
    }
    if args.part == Part::Alone {
        return table.finish();
    }

    let kafka = Kafka::start(&folder.join("kafka"))?;
    let chosen = |way: &&Way| args.way.as_deref().is_none_or(|name| name == way.name);
    let ways = ways(args);
    let ways = ways.iter().filter(chosen);
    for way in ways.filter(|_way| args.part != Part::Steady) {
        say(&format!("the backlog, with {}", way.name));
        let size = (bytes, lines);
        let folder = folder.join(format!("b-{}", way.name));
        backlog(&kafka, &folder, way, (&file, size), &mut table)?;
    }
    if matches!(args.part, Part::All | Part::Steady) {
        for (class, bar) in [("P2", "bar 2 z, p99 700 ms"), ("P0", "bar 2 z, p99 150 ms")] {
            steady(&kafka, &folder.join(class), args, (class, bar), &mut table)?;
        }
    }
    table.finish()
}

/// The table of other collectors.
fn beside_others(args: &Args, folder: &Path) -> Result<String> {
    fs::create_dir_all(folder)?;
    let file = folder.join("backlog.log");
    let size = load::write_log(&file, bytes_of(args.gb))?;
    let z = z_seconds(&file)? * 1e9 / as_float(size.0);
    peers::measure(folder, &file, size, z, args.steady_for)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a size by hand"
)]
fn bytes_of(gb: f64) -> u64 {
    (gb * 1e9) as u64
}

/// A way from the bus into Kafka.
struct Way {
    name: &'static str,
    producer: &'static str,
    /// An inline table of TOML.
    options: String,
    bar: &'static str,
}

/// The ways that are measured. With options by hand only that of librdkafka has them.
fn ways(args: &Args) -> [Way; 3] {
    let way = |name, producer, options: &str, bar| Way {
        name,
        producer,
        options: options.to_owned(),
        bar,
    };
    let lz4 = "{ \"compression.type\" = \"lz4\" }";
    [
        way("rdkafka", "rdkafka", &args.options, "bar 3 z"),
        way("rdkafka-lz4", "rdkafka", lz4, "bar 3 z"),
        way("verbatim", "verbatim", "{}", "bar 0.12 z"),
    ]
}

/// One file to Kafka: a row for the agent, one for the bus.
fn backlog(
    kafka: &Kafka,
    folder: &Path,
    way: &Way,
    (file, (bytes, lines)): (&Path, (u64, u64)),
    table: &mut Table,
) -> Result<()> {
    let task = Task {
        class: "P2",
        topic: format!("backlog-{}", way.name),
        producer: way.producer,
        options: way.options.clone(),
        more: String::new(),
    };
    let cost = line::backlog(kafka, folder, file, lines, &task)?;
    table.unit()?;
    let agent = format!("agent, backlog to acknowledged by {}", way.name);
    let bus = format!("bus ({}), backlog", way.name);
    for (what, usage, bar) in [
        (agent, cost.agent, "bar 1.8 z, 64 MiB"),
        (bus, cost.bus, way.bar),
    ] {
        let cpu = usage.cpu_s() * 1e9 / as_float(bytes);
        table.row(&what, cpu, Some(usage), None, bar);
    }
    table.note(&format!(
        "backlog, {}: {lines} lines, {:.0} MB/s end to end on {} cores shared with Kafka, {:.1} bytes a line",
        way.name,
        as_float(bytes) / 1e6 / cost.wall.as_secs_f64(),
        std::thread::available_parallelism()?,
        as_float(bytes) / as_float(lines),
    ));
    Ok(())
}

fn slow_fleet(folder: &Path, args: &Args) -> Result<String> {
    let z = unit(folder)?;
    let shape = (args.channels, args.partitions);
    fleet::measure(&folder.join("fleet"), z, shape, args.steady_for)
}

/// The table of an agent that watches many files.
fn many_files(folder: &Path) -> Result<String> {
    let rows = files::measure(folder)?.join("\n");
    Ok(format!("| many files | | |\n|---|---|---|\n{rows}\n"))
}

/// The rows of the agent in front of a bus that only counts.
fn alone(
    folder: &Path,
    args: &Args,
    file: &Path,
    size: (u64, u64),
    table: &mut Table,
) -> Result<()> {
    for (codec, remark, bar) in [("zstd", "", "bar 1.3 z"), ("lz4", ", lz4", "bar 0.9 z")] {
        say(&format!("the agent alone: the backlog, {codec}"));
        let folder = folder.join(format!("b-{codec}"));
        let backlog = alone::backlog(&folder, codec, file, size)?;
        table.unit()?;
        table.alone(&format!("agent alone, backlog{remark}"), &backlog, bar);
    }
    for (class, codec, remark, bar) in [
        ("P2", "zstd", "", "bar 1.5 z, 30 MiB, p99 500 ms"),
        ("P0", "zstd", "", "bar 1.5 z, 30 MiB, p99 50 ms"),
        ("P2", "lz4", ", lz4", "30 MiB, p99 500 ms"),
    ] {
        say(&format!("the agent alone: steady 10 MB/s, {class}{remark}"));
        let steady = alone::steady(
            &folder.join(format!("{class}-{codec}")),
            (class, codec),
            STEADY_BYTES_PER_S,
            args.steady_for,
        )?;
        table.unit()?;
        table.alone(
            &format!("agent alone, 10 MB/s, {class}{remark}"),
            &steady,
            bar,
        );
    }
    Ok(())
}

/// A steady load of one class: a row for the agent, one for the bus.
fn steady(
    kafka: &Kafka,
    folder: &Path,
    args: &Args,
    (class, bar): (&'static str, &str),
    table: &mut Table,
) -> Result<()> {
    say(&format!("steady 10 MB/s, {class}"));
    let topic = format!("steady-{}", class.to_lowercase());
    let task = Task {
        class,
        topic,
        producer: "verbatim",
        options: "{}".to_owned(),
        more: String::new(),
    };
    let line = Line::start(kafka, folder, &task)?;
    let pids = [line.agent.pid(), line.bus.pid()];
    let steady = latency::steady(
        kafka,
        &task.topic,
        &line.logs,
        &pids,
        STEADY_BYTES_PER_S,
        args.steady_for,
    )?;
    table.unit()?;
    let [agent, bus] = steady.used[..] else {
        bail!("two processes were measured");
    };
    let gb = as_float(steady.bytes) / 1e9;
    let share = 100.0 * agent.cpu_s() / steady.wall.as_secs_f64();
    table.row(
        &format!("agent, 10 MB/s, {class}"),
        agent.cpu_s() / gb,
        Some(agent),
        Some(steady.delay),
        &format!("{share:.1} % of a core; {bar}"),
    );
    table.row(
        &format!("bus, 10 MB/s, {class}"),
        bus.cpu_s() / gb,
        Some(bus),
        None,
        "",
    );
    Ok(())
}

/// z of the parts that read no file: CPU seconds per 10^9 bytes.
fn unit(folder: &Path) -> Result<f64> {
    const BYTES: u64 = 300_000_000;
    let file = folder.join("unit.log");
    let (bytes, _lines) = load::write_log(&file, BYTES)?;
    let z = z_seconds(&file)? * 1e9 / as_float(bytes);
    fs::remove_file(&file)?;
    say(&format!("z is {z:.2} CPU s/GB"));
    Ok(z)
}

/// The median CPU seconds of the bare loop over the file.
fn z_seconds(file: &Path) -> Result<f64> {
    let mut runs = Vec::new();
    for _ in 0..=Z_RUNS {
        runs.push(z_beside(file, 1)?);
    }
    // The first run warms the page cache.
    let mut counted = runs.split_off(1);
    counted.sort_by(f64::total_cmp);
    counted.get(Z_RUNS / 2).copied().context("z was not taken")
}

/// The mean CPU seconds of so many bare loops over the file at once.
fn z_beside(file: &Path, loops: usize) -> Result<f64> {
    let one = || {
        let mut bare = Command::new(line::program("tributary")?);
        bare.args(["bench", "z"]).arg(file).stdout(Stdio::piped());
        Ok(bare.spawn()?)
    };
    let running: Vec<_> = (0..loops).map(|_no| one()).collect::<Result<_>>()?;
    let mut sum = 0.0;
    for bare in running {
        let said = String::from_utf8_lossy(&bare.wait_with_output()?.stdout).into_owned();
        let cpu = said
            .split(", ")
            .find_map(|part| part.trim().strip_suffix(" CPU s")?.parse::<f64>().ok());
        sum += cpu.with_context(|| format!("`tributary bench z` said {said:?}"))?;
    }
    Ok(sum / as_float(loops as u64))
}

/// Percentiles of line written to line readable in Kafka, in ms.
#[derive(Debug, Clone, Copy)]
struct Delay {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Delay {
    /// Of delays in µs, in any order.
    fn of(mut delays_us: Vec<u64>) -> Self {
        delays_us.sort_unstable();
        let at = |share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an index"
            )]
            let index = (as_float(delays_us.len() as u64) * share) as usize;
            let last = delays_us.len().saturating_sub(1);
            as_float(delays_us.get(index.min(last)).copied().unwrap_or_default()) / 1e3
        };
        Self {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
        }
    }
}

struct Table {
    /// What z is taken with, and how long that is.
    file: PathBuf,
    bytes: u64,
    /// z as it was taken last, and what rows go by.
    taken: f64,
    z_per_gb: f64,
    /// The least and the greatest that was taken.
    range: (f64, f64),
    text: String,
    notes: Vec<String>,
}

impl Table {
    /// Takes z, and begins with its rows.
    fn new(file: &Path, bytes: u64) -> Result<Self> {
        let text = "| what | CPU s/GB | z | user | sys | peak MiB | p50 / p99 / max ms | |\n\
                    |---|---|---|---|---|---|---|---|\n"
            .to_owned();
        let z = z_seconds(file)? * 1e9 / as_float(bytes);
        let mut table = Self {
            file: file.to_owned(),
            bytes,
            taken: z,
            z_per_gb: z,
            range: (z, z),
            text,
            notes: Vec::new(),
        };
        table.row("z: bare read + zstd-1", z, None, None, "");
        let cores = std::thread::available_parallelism()?.get();
        let busy = z_beside(file, cores)? * 1e9 / as_float(bytes);
        let what = format!("… each of {cores} at once");
        table.row(&what, busy, None, None, "");
        Ok(table)
    }

    /// Takes z again, after a run: its rows go by the mean of before and after.
    fn unit(&mut self) -> Result<()> {
        let z = z_seconds(&self.file)? * 1e9 / as_float(self.bytes);
        self.z_per_gb = f64::midpoint(self.taken, z);
        self.taken = z;
        self.range = (self.range.0.min(z), self.range.1.max(z));
        Ok(())
    }

    fn row(
        &mut self,
        what: &str,
        cpu_per_gb: f64,
        usage: Option<cpu::Usage>,
        delay: Option<Delay>,
        remark: &str,
    ) {
        let usage = usage.map_or(["-".to_owned(), "-".to_owned(), "-".to_owned()], |usage| {
            [
                format!("{:.2}", usage.user_s),
                format!("{:.2}", usage.system_s),
                format!("{:.0}", usage.peak_mib),
            ]
        });
        let delay = delay.map_or("-".to_owned(), |delay| {
            format!(
                "{:.0} / {:.0} / {:.0}",
                delay.p50_ms, delay.p99_ms, delay.max_ms
            )
        });
        // Writing into a String cannot fail.
        writeln!(
            self.text,
            "| {what} | {cpu_per_gb:.2} | {:.2} | {} | {} | {} | {delay} | {remark} |",
            cpu_per_gb / self.z_per_gb,
            usage[0],
            usage[1],
            usage[2],
        )
        .unwrap_or_default();
    }

    fn alone(&mut self, what: &str, run: &alone::Alone, bar: &str) {
        let remark = format!(
            "{:.0} MB/s, {:.1} % of a core, {} KiB a batch, ratio {:.2}; {bar}",
            as_float(run.bytes) / 1e6 / run.wall.as_secs_f64(),
            100.0 * run.agent.cpu_s() / run.wall.as_secs_f64(),
            run.bytes / 1024 / run.batches.max(1),
            as_float(run.bytes) / as_float(run.payload_bytes.max(1)),
        );
        let cpu_per_gb = run.agent.cpu_s() * 1e9 / as_float(run.bytes);
        self.row(what, cpu_per_gb, Some(run.agent), run.delay, &remark);
    }

    fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }

    fn finish(self) -> Result<String> {
        let cpu = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        let memory = fs::read_to_string("/proc/meminfo")?;
        let kib: f64 = memory
            .lines()
            .find_map(|line| {
                line.strip_prefix("MemTotal:")?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse()
                    .ok()
            })
            .unwrap_or_default();
        let cores = std::thread::available_parallelism()?;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let mut text = self.text;
        text.push('\n');
        for note in &self.notes {
            text.push_str(note);
            text.push('\n');
        }
        let model = model.unwrap_or("unknown processor");
        let (least, most) = self.range;
        writeln!(text, "z was {least:.2} to {most:.2} CPU s/GB")?;
        writeln!(
            text,
            "machine: {cores} cores of {model}, {:.0} GiB, Linux {}",
            kib / 1048576.0,
            kernel.trim()
        )?;
        Ok(text)
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn as_float(number: u64) -> f64 {
    number as f64
}
