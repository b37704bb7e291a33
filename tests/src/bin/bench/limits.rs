//! How well limits hold on the real process, over 10 s.
//!
//! A backlog that never ends stands before each limit, so all of it is wanted.
//!
//! Not for: whose part of a limit it is (see [`crate::priority`]).

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::time::Instant;
use tributary_common::ids::Class;
use tributary_tests::{poll, say};

use crate::{
    counter::{Counter, Manner},
    cpu::usage,
    line::{AgentPlan, BACKLOG_LIMIT},
    load,
};

/// What is measured lasts so long.
const TIME: Duration = Duration::from_secs(10);
/// A limit begins with a burst: what comes after it counts.
const SETTLE: Duration = Duration::from_secs(2);
/// Bytes of a file; three of them are more than is read in the time.
const FILE_BYTES: u64 = 1_500_000_000;
const FILES: usize = 3;
/// What deleted files may hold, and what they are: several times as much, also compressed.
const SPOOL_BYTES: u64 = 100_000_000;
const DELETED_FILES: usize = 30;
const DELETED_BYTES: u64 = 100_000_000;
/// Compressing all of it, and dropping what does not fit, takes so long at most.
const SPOOL_SETTLE: Duration = Duration::from_secs(60);
/// The spool is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What the process did in the time.
struct Seen {
    /// CPU time, as a part of one core.
    cpu: f64,
    sent_bytes_per_s: f64,
    peak_mib: f64,
    /// The part of its memory that is its own, and no file's.
    own_mib: f64,
}

/// Measures all, as a table.
///
/// # Errors
/// When an agent does not come up.
pub(crate) fn measure(folder: &Path) -> Result<String> {
    fs::create_dir_all(folder)?;
    let backlog = write_logs(folder, FILES, FILE_BYTES)?;
    let mut rows = Vec::new();
    let fast = Manner::default();
    let mute = Manner {
        unanswered: Some(Class::P2),
        ..fast
    };
    let mut add = |limit: &str, value: &str, manner: Manner, of: &dyn Fn(&Seen) -> String| {
        say(&format!("limits.{limit} = {value}"));
        let of_case = folder.join(format!("{limit}-{}", rows.len()));
        let seen = watch(&of_case, &backlog, manner, (limit, value))?;
        rows.push(format!("| `limits.{limit} = {value}` | {} |", of(&seen)));
        anyhow::Ok(())
    };
    for percent in [5, 20, 50] {
        add("cpu", &format!("\"{percent}%\""), fast, &|seen| {
            format!("{:.1} % of a core", seen.cpu * 100.0)
        })?;
    }
    for (rate, bytes) in [("100KB/s", 1e5), ("1MB/s", 1e6), ("10MB/s", 1e7)] {
        add("bandwidth", &format!("\"{rate}\""), fast, &|seen| {
            let part = seen.sent_bytes_per_s / bytes;
            format!(
                "{:.0} B/s, {:.1} % of it",
                seen.sent_bytes_per_s,
                part * 100.0
            )
        })?;
    }
    for memory in ["8MiB", "32MiB", "64MiB"] {
        for (manner, bus) in [
            (mute, "a bus that never answers"),
            (fast, "a bus that takes all"),
        ] {
            add("memory", &format!("\"{memory}\""), manner, &|seen| {
                format!(
                    "{:.1} MiB at the peak, {:.1} MiB without mapped files, {bus}",
                    seen.peak_mib, seen.own_mib
                )
            })?;
        }
    }
    say("limits.spool");
    rows.push(spool(&folder.join("spool"), mute)?);
    Ok(format!(
        "| limit | over 10 s |\n|---|---|\n{}\n",
        rows.join("\n")
    ))
}

/// An agent with one limit in front of a backlog.
fn watch(
    folder: &Path,
    backlog: &[PathBuf],
    manner: Manner,
    (limit, value): (&str, &str),
) -> Result<Seen> {
    let counter = Counter::start(manner)?;
    fs::create_dir_all(folder.join("logs"))?;
    let more = format!("[limits]\n{limit} = {value}\n");
    let agent = AgentPlan {
        folder,
        class: "P2",
        topic: "limited",
        bus_port: counter.port,
        more: &more,
    }
    .start()?;
    for (at, file) in backlog.iter().enumerate() {
        fs::hard_link(file, folder.join(format!("logs/{at}.log")))?;
    }
    poll::until("the backlog to be read", BACKLOG_LIMIT, || {
        let begun = counter.batches() > 0 || manner.unanswered.is_some();
        Ok(begun.then_some(()))
    })
    .with_context(|| agent.log_tail())?;
    thread::sleep(SETTLE);
    let (before, sent) = (usage(agent.pid())?, counter.payload_bytes());
    thread::sleep(TIME);
    let used = usage(agent.pid())?.since(before);
    let sent = counter.payload_bytes() - sent;
    Ok(Seen {
        cpu: used.cpu_s() / TIME.as_secs_f64(),
        sent_bytes_per_s: crate::as_float(sent) / TIME.as_secs_f64(),
        peak_mib: used.peak_mib,
        own_mib: own_mib(agent.pid())?,
    })
}

/// Makes so many logs of so many bytes each.
fn write_logs(folder: &Path, files: usize, bytes: u64) -> Result<Vec<PathBuf>> {
    let name = |at| folder.join(format!("backlog-{at:02}.log"));
    load::write_log(&name(0), bytes)?;
    for at in 1..files {
        fs::copy(name(0), name(at))?;
    }
    Ok((0..files).map(name).collect())
}

/// Memory of a process that no file stands behind, in MiB.
fn own_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let own = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let own = own.and_then(|own| own.trim().strip_suffix(" kB"));
    Ok(own.context("status has no RssAnon")?.parse::<f64>()? / 1024.0)
}

/// Files that are deleted before a bus takes them: the most that they hold once what does not fit was
/// saved or dropped.
fn spool(folder: &Path, manner: Manner) -> Result<String> {
    let counter = Counter::start(manner)?;
    fs::create_dir_all(folder.join("logs"))?;
    let files = write_logs(&folder.join("logs"), DELETED_FILES, DELETED_BYTES)?;
    let agent = AgentPlan {
        folder,
        class: "P2",
        topic: "limited",
        bus_port: counter.port,
        more: &format!("[limits]\nspool = \"{SPOOL_BYTES}B\"\n"),
    }
    .start()?;
    thread::sleep(SETTLE);
    files.iter().try_for_each(fs::remove_file)?;
    let held = || -> Result<u64> {
        let mut bytes = 0;
        for entry in fs::read_dir(folder.join("agent/spool"))
            .into_iter()
            .flatten()
        {
            bytes += entry?.metadata().map_or(0, |file| file.len());
        }
        for entry in fs::read_dir(format!("/proc/{}/fd", agent.pid()))? {
            // It may be closed meanwhile.
            let Ok(file) = fs::metadata(entry?.path()) else {
                continue;
            };
            let deleted = file.is_file() && file.nlink() == 0;
            bytes += if deleted { file.len() } else { 0 };
        }
        Ok(bytes)
    };
    let begun = Instant::now();
    while held()? > SPOOL_BYTES && begun.elapsed() < SPOOL_SETTLE {
        thread::sleep(LOOK_EVERY);
    }
    let (settled, from) = (begun.elapsed(), Instant::now());
    let (mut least, mut most) = (u64::MAX, 0);
    while from.elapsed() < TIME {
        let held = held()?;
        (least, most) = (least.min(held), most.max(held));
        thread::sleep(LOOK_EVERY);
    }
    Ok(format!(
        "| `limits.spool = \"{} MB\"` | {:.1} to {:.1} MB, {:.1} s after {:.1} GB were deleted |",
        SPOOL_BYTES / 1_000_000,
        crate::as_float(least) / 1e6,
        crate::as_float(most) / 1e6,
        settled.as_secs_f64(),
        crate::as_float(DELETED_BYTES * DELETED_FILES as u64) / 1e9
    ))
}
