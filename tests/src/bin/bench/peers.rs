//! Tributary beside other collectors: the same file into the same Kafka, and what arrives when they are killed.
//!
//! `tests/bench/peers/run` unpacks the others and calls this; their settings are beside it. Each is
//! started fresh with a log that is there already (CPU until Kafka has all of it), with a log that grows by
//! 10 MB/s, and with one of stamped lines in the middle of which every process of it is killed and started
//! again: the oracle says what is missing and what is there twice.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::time::Instant;
use tributary_tests::{
    child::{Child, Plan},
    kafka::Kafka,
    oracle::Verdict,
    poll, say, scratch,
    writer::Writer,
};

use crate::{
    STEADY_BYTES_PER_S, as_float,
    cpu::{Usage, usage},
    latency::{self, Steady},
    line::{BACKLOG_LIMIT, Line, Task},
    load,
};

/// As many as the topics of the other parts have.
const PARTITIONS: i32 = 8;
/// Lines of the log in which they are killed: about 300 MB.
const STAMPED_LINES: u64 = 1_000_000;
/// They are killed when Kafka has so much of it.
const KILLED_AT: u64 = STAMPED_LINES / 3;
/// Nothing came for so long: nothing will.
const QUIET: Duration = Duration::from_secs(15);

/// Who carries lines.
#[derive(Debug, Clone, Copy)]
enum Collector {
    /// Agent and bus, with a producer.
    Tributary(&'static str),
    Rsyslog,
    /// Whether it waits for each batch.
    SyslogNg {
        sync: bool,
    },
}

/// A collector at work.
struct Running {
    children: Vec<Child>,
    logs: PathBuf,
}

impl Collector {
    /// Whether it is too slow for the whole file.
    fn is_slow(self) -> bool {
        matches!(self, Self::SyslogNg { sync: true })
    }

    const ALL: [Self; 5] = [
        Self::Tributary("verbatim"),
        Self::Tributary("rdkafka"),
        Self::Rsyslog,
        Self::SyslogNg { sync: false },
        Self::SyslogNg { sync: true },
    ];

    fn name(self) -> String {
        match self {
            Self::Tributary(producer) => format!("Tributary, agent and bus ({producer})"),
            Self::Rsyslog => "rsyslog, imfile and omkafka".to_owned(),
            Self::SyslogNg { sync: false } => "syslog-ng, kafka-c".to_owned(),
            Self::SyslogNg { sync: true } => "syslog-ng, kafka-c, sync-send".to_owned(),
        }
    }

    /// A name for topics and folders.
    fn word(self) -> &'static str {
        match self {
            Self::Tributary("verbatim") => "verbatim",
            Self::Tributary(_) => "rdkafka",
            Self::Rsyslog => "rsyslog",
            Self::SyslogNg { sync: false } => "syslog-ng",
            Self::SyslogNg { sync: true } => "syslog-ng-sync",
        }
    }

    /// Starts it, for the first time or again; it reads `<folder>/logs/*.log`.
    fn start(self, kafka: &Kafka, folder: &Path, topic: &str) -> Result<Running> {
        let logs = folder.join("logs");
        fs::create_dir_all(&logs)?;
        let children = match self {
            Self::Tributary(producer) => {
                let task = Task {
                    class: "P2",
                    topic: topic.to_owned(),
                    producer,
                    options: "{}".to_owned(),
                    more: String::new(),
                };
                let line = Line::start_before(kafka, folder, &task)?;
                vec![line.agent, line.bus]
            }
            Self::Rsyslog | Self::SyslogNg { .. } => vec![self.start_peer(kafka, folder, topic)?],
        };
        Ok(Running { children, logs })
    }

    fn start_peer(self, kafka: &Kafka, folder: &Path, topic: &str) -> Result<Child> {
        let state = folder.join("state");
        fs::create_dir_all(&state)?;
        let config = folder.join("peer.conf");
        let (template, sync) = match self {
            Self::SyslogNg { sync } => ("syslog-ng.conf", sync),
            Self::Rsyslog | Self::Tributary(_) => ("rsyslog.conf", false),
        };
        let template = scratch::repository()
            .join("tests/bench/peers")
            .join(template);
        let text = fs::read_to_string(template)?
            .replace("@STATE@", &state.display().to_string())
            .replace("@LOGS@", &folder.join("logs").display().to_string())
            .replace("@BOOTSTRAP@", &kafka.bootstrap())
            .replace("@TOPIC@", topic)
            .replace("@SYNC@", if sync { "yes" } else { "no" })
            .replace("@BATCH@", if sync { "10000" } else { "0" });
        fs::write(&config, text)?;
        let at = |name: &str| state.join(name).display().to_string();
        let config = config.display().to_string();
        let args = match self {
            Self::SyslogNg { .. } => vec![
                "-F".to_owned(),
                "-f".to_owned(),
                config,
                "-R".to_owned(),
                at("persist"),
                "-c".to_owned(),
                at("control"),
                "-p".to_owned(),
                at("pid"),
                format!(
                    "--module-path={}",
                    unpacked("usr/lib/syslog-ng/3.38").display()
                ),
            ],
            Self::Rsyslog | Self::Tributary(_) => {
                let modules = unpacked("usr/lib/x86_64-linux-gnu/rsyslog");
                let modules = modules.display().to_string();
                let words = ["-n", "-f", &config, "-i", &at("pid"), "-M", &modules];
                words.map(str::to_owned).to_vec()
            }
        };
        Child::start(
            self.word(),
            &self.program().args(args),
            &folder.join("peer.log"),
        )
    }

    /// What is started, without arguments.
    fn program(self) -> Plan {
        match self {
            Self::SyslogNg { .. } => Plan::new(unpacked("usr/sbin/syslog-ng")).env(
                "LD_LIBRARY_PATH",
                unpacked("usr/lib/syslog-ng").display().to_string(),
            ),
            Self::Rsyslog | Self::Tributary(_) => Plan::new(unpacked("usr/sbin/rsyslogd")),
        }
    }

    /// The first line of what it says of its version.
    fn version(self) -> Result<Option<String>> {
        let flag = match self {
            Self::Rsyslog => "-v",
            Self::SyslogNg { sync: false } => "--version",
            Self::Tributary(_) | Self::SyslogNg { sync: true } => return Ok(None),
        };
        let said = self.program().args([flag]).output()?;
        // syslog-ng names its whole version in a line of its own, rsyslog ends the first with a remark.
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix("Installer-Version: "))
            .map(|version| format!("syslog-ng {version}"))
            .or_else(|| Some(said.lines().next()?.split(" (").next()?.to_owned()));
        let words = line.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        Ok(words)
    }
}

/// Where the collectors were unpacked.
fn unpacked(path: &str) -> PathBuf {
    scratch::repository().join(".tools/peers").join(path)
}

impl Running {
    /// CPU of all its processes, and their peaks of memory added.
    fn usage(&self) -> Result<Usage> {
        self.children
            .iter()
            .try_fold(Usage::default(), |sum, child| {
                let one = usage(child.pid())?;
                Ok(Usage {
                    user_s: sum.user_s + one.user_s,
                    system_s: sum.system_s + one.system_s,
                    peak_mib: sum.peak_mib + one.peak_mib,
                })
            })
    }

    fn log_tails(&self) -> String {
        self.children
            .iter()
            .map(Child::log_tail)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// The table. `file` holds `size` bytes and lines, and whoever is slow gets a tenth as much; z is CPU
/// seconds per 10^9 bytes.
///
/// # Errors
/// When a collector does not start or does not finish.
pub(crate) fn measure(
    folder: &Path,
    file: &Path,
    size: (u64, u64),
    z: f64,
    steady_for: Duration,
) -> Result<String> {
    ensure!(
        unpacked("usr/sbin/rsyslogd").try_exists()?,
        "the other collectors are not there; run tests/bench/peers/run"
    );
    let kafka = Kafka::start(&folder.join("kafka"))?;
    let short = folder.join("short.log");
    let short_size = load::write_log(&short, size.0 / 10)?;
    let mut table = format!(
        "| collector, z {z:.2} CPU s/GB | CPU s/GB | z | MB/s | peak MiB | at 10 MB/s: of a core, p50 / p99 ms | killed in the middle: lost, doubled |\n\
         |---|---|---|---|---|---|---|\n"
    );
    for collector in Collector::ALL {
        let name = collector.name();
        let folder = folder.join(collector.word());
        say(&format!("{name}: a log that is there"));
        let (file, size) = match collector.is_slow() {
            true => (short.as_path(), short_size),
            false => (file, size),
        };
        let (used, wall) = backlog(collector, &kafka, &folder.join("backlog"), file, size)?;
        say(&format!("{name}: 10 MB/s"));
        let steady = steady(collector, &kafka, &folder.join("steady"), steady_for);
        say(&format!("{name}: killed"));
        let verdict = killed(collector, &kafka, &folder.join("killed"))?;
        let cpu = used.cpu_s() * 1e9 / as_float(size.0);
        let row = format!(
            "| {name} | {cpu:.2} | {:.2} | {:.0} | {:.0} | {} | {}, {} |",
            cpu / z,
            as_float(size.0) / 1e6 / wall.as_secs_f64(),
            used.peak_mib,
            steady.unwrap_or_else(|error| {
                say(&format!("{name}: {error:#}"));
                "does not keep up".to_owned()
            }),
            verdict.missing,
            verdict.doubled,
        );
        say(&format!("{row}\n{name}: {verdict}"));
        writeln!(table, "{row}")?;
        if verdict.foreign + verdict.corrupt > 0 {
            writeln!(
                table,
                "\n{name}: {} foreign, {} corrupt\n",
                verdict.foreign, verdict.corrupt
            )?;
        }
    }
    let versions = Collector::ALL.map(Collector::version);
    let versions: Vec<String> = versions
        .into_iter()
        .filter_map(Result::transpose)
        .collect::<Result<_>>()?;
    writeln!(
        table,
        "\n{}; {STAMPED_LINES} lines were there when they were killed.",
        versions.join(", ")
    )?;
    Ok(table)
}

/// A whole file, until Kafka has as many lines.
fn backlog(
    collector: Collector,
    kafka: &Kafka,
    folder: &Path,
    file: &Path,
    (_bytes, lines): (u64, u64),
) -> Result<(Usage, Duration)> {
    let topic = format!("peers-backlog-{}", collector.word());
    kafka.create_topic(&topic, PARTITIONS)?;
    let running = collector.start(kafka, folder, &topic)?;
    let begun = Instant::now();
    fs::hard_link(file, running.logs.join("backlog.log"))?;
    poll::until("the whole backlog to be in Kafka", BACKLOG_LIMIT, || {
        Ok((kafka.end_offsets(&topic)? >= lines).then_some(()))
    })
    .with_context(|| running.log_tails())?;
    Ok((running.usage()?, begun.elapsed()))
}

/// A log that grows by 10 MB/s: its share of a core, and its delays.
fn steady(collector: Collector, kafka: &Kafka, folder: &Path, time: Duration) -> Result<String> {
    let topic = format!("peers-steady-{}", collector.word());
    kafka.create_topic(&topic, PARTITIONS)?;
    let running = collector.start(kafka, folder, &topic)?;
    let pids: Vec<u32> = running.children.iter().map(Child::pid).collect();
    let Steady {
        used, wall, delay, ..
    } = latency::steady(
        kafka,
        &topic,
        &running.logs,
        &pids,
        STEADY_BYTES_PER_S,
        time,
    )?;
    let cpu: f64 = used.iter().map(|one| one.cpu_s()).sum();
    Ok(format!(
        "{:.1} %, {:.0} / {:.0}",
        100.0 * cpu / wall.as_secs_f64(),
        delay.p50_ms,
        delay.p99_ms
    ))
}

/// Stamped lines, all its processes killed in the middle and started again.
fn killed(collector: Collector, kafka: &Kafka, folder: &Path) -> Result<Verdict> {
    let topic = format!("peers-killed-{}", collector.word());
    kafka.create_topic(&topic, PARTITIONS)?;
    let mut writer = Writer::new(&folder.join("written"), 1, 11)?;
    for _part in 0..STAMPED_LINES / 10_000 {
        writer.write(10_000)?;
    }
    let mut running = collector.start(kafka, folder, &topic)?;
    fs::hard_link(writer.path(), running.logs.join("stamped.log"))?;
    let arrived = |enough: u64| Ok((kafka.end_offsets(&topic)? >= enough).then_some(()));
    poll::until("a third to be in Kafka", BACKLOG_LIMIT, || {
        arrived(KILLED_AT)
    })
    .with_context(|| running.log_tails())?;
    for child in &mut running.children {
        child.kill()?;
    }
    drop(running);
    let running = collector.start(kafka, folder, &topic)?;
    let (mut seen, mut since) = (0, Instant::now());
    poll::until("nothing more to come", BACKLOG_LIMIT, || {
        let now = kafka.end_offsets(&topic)?;
        if now > seen {
            (seen, since) = (now, Instant::now());
        }
        Ok((since.elapsed() > QUIET).then_some(()))
    })
    .with_context(|| running.log_tails())?;
    drop(running);
    Ok(Verdict::on_kafka(
        &[writer.written().clone()],
        &kafka.read_all(&topic)?,
    ))
}
