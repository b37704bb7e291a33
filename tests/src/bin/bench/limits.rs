//! How well limits hold on the real process, over 10 s.
//!
//! A backlog that never ends stands before each limit, so all of it is wanted.
//!
//! Not for: whose part of a limit it is (see [`crate::priority`]).

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context as _, Result};
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
/// More than is read in the time.
const BACKLOG_BYTES: u64 = 1_500_000_000;

/// What the process did in the time.
struct Seen {
    /// CPU time, as a part of one core.
    cpu: f64,
    sent_bytes_per_s: f64,
    peak_mib: f64,
}

/// Measures all, as a table.
///
/// # Errors
/// When an agent does not come up.
pub(crate) fn measure(folder: &Path) -> Result<String> {
    fs::create_dir_all(folder)?;
    let backlog = folder.join("backlog.log");
    load::write_log(&backlog, BACKLOG_BYTES)?;
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
                format!("{:.1} MiB at the peak, {bus}", seen.peak_mib)
            })?;
        }
    }
    Ok(format!(
        "| limit | over 10 s |\n|---|---|\n{}\n",
        rows.join("\n")
    ))
}

/// An agent with one limit in front of a backlog.
fn watch(
    folder: &Path,
    backlog: &Path,
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
    fs::hard_link(backlog, folder.join("logs/backlog.log"))?;
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
    })
}
