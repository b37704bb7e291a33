//! Many files: what an agent costs that watches 20,000 of them, and how soon it sees a new one.
//!
//! `--only files` runs only this; no Kafka is needed, the bus writes files.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::time::Instant;
use tributary_tests::{child::Child, http, kafka::free_port, poll, say};

use crate::{
    cpu::{Usage, usage},
    line::start,
};

/// Files in all, and those that are written to.
const FILES: usize = 20_000;
const BUSY: usize = 1_000;
/// Folders that they lie in.
const FOLDERS: usize = 100;
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
    let mut place = Place::start(folder)?;
    for at in 0..FILES {
        fs::write(place.log(at), format!("file {at} begins\n"))?;
    }
    say(&format!("{FILES} files: read first"));
    place.start_agent()?;
    let name = "tributary_agent_acknowledged_records_total";
    poll::until("all files to be read", LIMIT, || {
        Ok((place.counter(name)? >= crate::as_float(FILES as u64)).then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(10));
    say("idle");
    let idle = place.share(|| {
        std::thread::sleep(FOR);
        Ok(())
    })?;
    let (open, resident) = place.holds()?;
    place.agent = None;
    let begun = Instant::now();
    place.start_agent()?;
    place.wait_for_files(FILES)?;
    let started = begun.elapsed();
    say("1,000 of them are written to");
    let busy = place.share(|| write_slowly(&place))?;
    let (_, busy_resident) = place.holds()?;
    say("new files");
    let mut delays = Vec::new();
    for at in 0..NEW {
        delays.push(new_file(&place, at)?);
    }
    delays.sort_by(f64::total_cmp);
    let worst = delays.last().copied().unwrap_or_default();
    let p99 = delays.get(NEW * 99 / 100 - 1).copied().unwrap_or(worst);
    Ok(vec![
        format!("| {FILES} idle files, of a core | {idle:.2} % | bar 1 % |"),
        format!("| … resident | {resident:.0} MiB | bar 40 MiB |"),
        format!("| … open descriptors | {open} | at most 8,192 log files |"),
        format!(
            "| start with {FILES} known files | {:.2} s | bar 1 s |",
            started.as_secs_f64()
        ),
        format!("| {BUSY} files with 100 B/s each, of a core | {busy:.1} % | bar 4 % |"),
        format!("| … resident | {busy_resident:.0} MiB | |"),
        format!(
            "| new file to first byte read, p99 (max) | {p99:.0} ({worst:.0}) ms | bar 100 ms |"
        ),
    ])
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

/// Makes a file, and waits until its line is read; in ms.
fn new_file(place: &Place, at: usize) -> Result<f64> {
    let name = "tributary_agent_read_records_total";
    let before = place.counter(name)?;
    let path = place
        .folder
        .join(format!("logs/{:02}/new-{at}.log", at % FOLDERS));
    let begun = Instant::now();
    fs::write(path, "a new file\n")?;
    while place.counter(name)? <= before {
        anyhow::ensure!(begun.elapsed() < LIMIT, "a new file is never read");
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = begun.elapsed();
    std::thread::sleep(Duration::from_millis(50));
    Ok(took.as_secs_f64() * 1e3)
}
