//! Many files: what an agent costs that watches 20,000 of them, whether 100,000 work, how soon it sees
//! a new one, and how long it takes to open the checkpoint of many.
//!
//! `--only files` runs only this; no Kafka is needed, the bus writes files. CPU seconds are the
//! agent's, user and system; what is resident is what `VmRSS` says, programs and libraries included.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::time::Instant;
use tributary_tests::{child::Child, http, kafka::free_port, poll, say, scratch};

use crate::{
    cpu::{Usage, usage},
    line::start,
};

/// Files in all, and those that are written to.
const FILES: usize = 20_000;
const BUSY: usize = 1_000;
/// The most files.
const MOST: usize = 100_000;
/// Folders that they lie in.
const FOLDERS: usize = 100;
/// What is freed and given back is after this long.
const SETTLED: Duration = Duration::from_secs(12);
/// How long each share of a core is taken for.
const FOR: Duration = Duration::from_secs(20);
/// New files.
const NEW: usize = 100;
const LIMIT: Duration = Duration::from_secs(300);

/// A bus that writes files, and an agent on many.
struct Place {
    folder: PathBuf,
    admin: u16,
    config: String,
    _bus: Child,
    agent: Option<Child>,
}

impl Place {
    fn start(folder: &Path) -> Result<Self> {
        let (listen, bus_admin, admin) = (free_port()?, free_port()?, free_port()?);
        let dir = folder.display();
        for at in 0..FOLDERS {
            fs::create_dir_all(folder.join(format!("logs/{at:02}")))?;
        }
        let config = format!(
            "zone = \"z\"\ncluster = \"c\"\nnode = \"n\"\nlisten = \"127.0.0.1:{listen}\"\n\
             admin = \"127.0.0.1:{bus_admin}\"\ndata_dir = \"{dir}/bus-data\"\n\
             [[destination]]\nname = \"k\"\nkind = \"file\"\npath = \"{dir}/out/{{topic}}\"\n\
             [[route]]\ntopic = \"*\"\nto = [{{ destination = \"k\" }}]\n"
        );
        let bus = start("bus", folder, bus_admin, &config)?;
        let config = format!(
            "zone = \"z\"\nstate_dir = \"{dir}/agent-state\"\nadmin = \"127.0.0.1:{admin}\"\n\
             [[bus]]\nname = \"c\"\nnodes = [\"127.0.0.1:{listen}\"]\n\
             [[task]]\nid = \"t\"\ntopic = \"t\"\npaths = [\"{dir}/logs/*/app*.log\"]\n\
             [[task]]\nid = \"n\"\ntopic = \"n\"\nclass = \"P0\"\npaths = [\"{dir}/logs/*/new*.log\"]\n"
        );
        Ok(Self {
            folder: folder.to_owned(),
            admin,
            config,
            _bus: bus,
            agent: None,
        })
    }

    fn log(&self, at: usize) -> PathBuf {
        let folder = at % FOLDERS;
        self.folder
            .join(format!("logs/{folder:02}/app-{at:06}.log"))
    }

    fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(start("agent", &self.folder, self.admin, &self.config)?);
        Ok(())
    }

    /// Writes a line into each of so many files.
    fn write_all(&self, files: usize) -> Result<()> {
        for at in 0..files {
            fs::write(self.log(at), format!("file {at} begins\n"))?;
        }
        Ok(())
    }

    /// Starts the agent anew: the time until it knows all files, and the CPU seconds that it took.
    fn start_again(&mut self, files: usize) -> Result<(f64, f64)> {
        let begun = Instant::now();
        self.start_agent()?;
        self.wait_for_files(files)?;
        Ok((begun.elapsed().as_secs_f64(), self.usage()?.cpu_s()))
    }

    /// Waits until so many lines were acknowledged in the agent's life.
    fn wait_for_lines(&self, lines: usize) -> Result<()> {
        let name = "tributary_agent_acknowledged_records_total";
        poll::until("all lines to be acknowledged", LIMIT, || {
            let wanted = crate::as_float(lines as u64);
            Ok((self.counter(name)? >= wanted).then_some(()))
        })
    }

    fn usage(&self) -> Result<Usage> {
        usage(self.pid()?)
    }

    fn pid(&self) -> Result<u32> {
        Ok(self.agent.as_ref().context("no agent runs")?.pid())
    }

    /// Waits until so many files are known.
    fn wait_for_files(&self, count: usize) -> Result<()> {
        poll::until("all files to be known", LIMIT, || {
            let answer = http::get(&format!("127.0.0.1:{}", self.admin), "/status")?;
            let status: Value = serde_json::from_slice(&answer.body)?;
            let files = status["tasks"][0]["files"].as_u64().unwrap_or(0);
            Ok((files >= count as u64).then_some(()))
        })
    }

    /// A counter's value.
    fn counter(&self, name: &str) -> Result<f64> {
        let answer = http::get(&format!("127.0.0.1:{}", self.admin), "/metrics")?;
        let text = String::from_utf8_lossy(&answer.body);
        let lines = text.lines().filter(|line| line.starts_with(name));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// The share of a core that the agent takes while `work` goes on.
    fn share(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let (before, begun) = (self.usage()?, Instant::now());
        work()?;
        let spent = self.usage()?.since(before).cpu_s();
        Ok(100.0 * spent / begun.elapsed().as_secs_f64())
    }

    /// Open descriptors, and resident memory in MiB.
    fn holds(&self) -> Result<(usize, f64)> {
        let pid = self.pid()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = status.lines().find_map(|line| {
            let text = line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?;
            text.parse::<f64>().ok()
        });
        let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        Ok((open, kib.context("status has no VmRSS")? / 1024.0))
    }
}

/// Measures, and gives the lines of a table.
///
/// # Errors
/// When a part does not do its work.
pub(crate) fn measure(folder: &Path) -> Result<Vec<String>> {
    let mut rows = many(&folder.join("many"))?;
    rows.extend(most(&folder.join("most"))?);
    say("the checkpoint of many files");
    rows.extend(checkpoint()?);
    Ok(rows)
}

/// 20,000 files.
fn many(folder: &Path) -> Result<Vec<String>> {
    let mut place = Place::start(folder)?;
    place.write_all(FILES)?;
    say(&format!("{FILES} files: read first"));
    place.start_agent()?;
    place.wait_for_lines(FILES)?;
    std::thread::sleep(SETTLED);
    say("idle");
    let idle = place.share(|| {
        std::thread::sleep(FOR);
        Ok(())
    })?;
    let (open, resident) = place.holds()?;
    place.agent = None;
    let (started, cpu_s) = place.start_again(FILES)?;
    std::thread::sleep(SETTLED);
    let (open_again, resident_again) = place.holds()?;
    say("1,000 of them are written to");
    let busy = place.share(|| write_slowly(&place))?;
    let (_, busy_resident) = place.holds()?;
    say("new files");
    let new = ["new", "app-new"].map(|name| new_files(&place, name));
    let [critical, others] = new;
    let (critical, others) = (critical?, others?);
    Ok(vec![
        format!("| {FILES} idle files, all read, of a core | {idle:.2} % | bar 1 % |"),
        format!(
            "| … resident, open descriptors | {resident:.0} MiB, {open} | bar 40 MiB; limits.open_files 8,192 |"
        ),
        format!("| start with {FILES} known files | {started:.2} s, {cpu_s:.2} CPU s | bar 1 s |"),
        format!(
            "| … resident, open descriptors | {resident_again:.0} MiB, {open_again} | bar 40 MiB |"
        ),
        format!("| {BUSY} files with 100 B/s each, of a core | {busy:.1} % | bar 4 % |"),
        format!("| … resident | {busy_resident:.0} MiB | |"),
        format!("| new file to first byte read, p50, p99 (max), P0 | {critical} ms | bar 100 ms |"),
        format!("| … P2 | {others} ms | bar 100 ms |"),
    ])
}

/// 100,000 files: whether they work.
fn most(folder: &Path) -> Result<Vec<String>> {
    let mut place = Place::start(folder)?;
    place.write_all(MOST)?;
    say(&format!("{MOST} files: read first"));
    let begun = Instant::now();
    place.start_agent()?;
    place.wait_for_lines(MOST)?;
    let first = begun.elapsed().as_secs_f64();
    let first_cpu_s = place.usage()?.cpu_s();
    std::thread::sleep(SETTLED);
    let (open, resident) = place.holds()?;
    place.agent = None;
    let (started, cpu_s) = place.start_again(MOST)?;
    say("a line in each");
    let (begun, before) = (Instant::now(), place.usage()?);
    for at in 0..MOST {
        let mut file = fs::OpenOptions::new().append(true).open(place.log(at))?;
        file.write_all(b"one more line\n")?;
    }
    place.wait_for_lines(MOST)?;
    let all = begun.elapsed().as_secs_f64();
    let all_cpu_s = place.usage()?.since(before).cpu_s();
    Ok(vec![
        format!(
            "| {MOST} files, a line of each, found to acknowledged | {first:.1} s, {first_cpu_s:.1} CPU s | |"
        ),
        format!(
            "| … resident, open descriptors | {resident:.0} MiB, {open} | limits.open_files 8,192 |"
        ),
        format!("| start with {MOST} known files | {started:.2} s, {cpu_s:.2} CPU s | |"),
        format!(
            "| a line more in each of them, written to acknowledged | {all:.1} s, {all_cpu_s:.1} CPU s | |"
        ),
    ])
}

/// What `cargo bench` says of the checkpoint.
fn checkpoint() -> Result<Vec<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args([
            "bench",
            "--locked",
            "-p",
            "tributary-agent",
            "--bench",
            "checkpoint",
        ])
        .current_dir(scratch::repository())
        .output()
        .context("failed to run cargo bench")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{why}");
    let rows = said.lines().filter(|line| line.starts_with('|'));
    Ok(rows.map(str::to_owned).collect())
}

/// Writes a line of 100 bytes to each busy file once a second.
fn write_slowly(place: &Place) -> Result<()> {
    let open = |at| {
        let file = fs::OpenOptions::new().append(true).open(place.log(at));
        file.context("a log is gone")
    };
    let mut files = (0..BUSY).map(open).collect::<Result<Vec<_>>>()?;
    let line = [vec![b'x'; 99], vec![b'\n']].concat();
    let (begun, mut written) = (Instant::now(), 0_u32);
    while begun.elapsed() < FOR {
        for part in files.chunks_mut(BUSY / 10) {
            for file in part {
                file.write_all(&line)?;
            }
            written += 1;
            let due = Duration::from_millis(100) * written;
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    Ok(())
}

/// Makes files of a name, and gives percentiles of the time until the line of each is read.
fn new_files(place: &Place, name: &str) -> Result<String> {
    let mut delays = Vec::new();
    for at in 0..NEW {
        delays.push(new_file(place, name, at)?);
    }
    delays.sort_by(f64::total_cmp);
    let worst = delays.last().copied().unwrap_or_default();
    let p50 = delays.get(NEW / 2).copied().unwrap_or(worst);
    let p99 = delays.get(NEW * 99 / 100 - 1).copied().unwrap_or(worst);
    Ok(format!("{p50:.0}, {p99:.0} ({worst:.0})"))
}

/// Makes a file, and waits until its line is read; in ms.
fn new_file(place: &Place, name: &str, at: usize) -> Result<f64> {
    let counter = "tributary_agent_read_records_total";
    let before = place.counter(counter)?;
    let path = place
        .folder
        .join(format!("logs/{:02}/{name}-{at}.log", at % FOLDERS));
    let begun = Instant::now();
    fs::write(path, format!("new file {at} of {name}\n"))?;
    while place.counter(counter)? <= before {
        ensure!(begun.elapsed() < LIMIT, "a new file is never read");
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = begun.elapsed();
    std::thread::sleep(Duration::from_millis(50));
    Ok(took.as_secs_f64() * 1e3)
}
