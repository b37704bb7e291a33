//! Writers as they are met on real hosts: Java services that roll their logs themselves, and a
//! container runtime with a kubelet that rotates. Every line is delivered once.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};
use tributary_tests::{
    cluster::{Cluster, Layout, SETTLE_LIMIT},
    delivered,
    java::{Library, Rolled, Service},
    ledger,
    oracle::{Place, Verdict},
    pods::Container,
    poll, scratch,
    writer::Written,
};

/// So many lines go by between rotations; a container has some generations of them.
const POD_LINES: u64 = 400;
/// A runtime's pieces; 16 KiB in real life. Most lines are longer than this.
const PIECE_BYTES: usize = 200;
const JAVA_LINES: u64 = 4_000;

/// Each physical file's lines must be there once and in order, and nothing else. No order is
/// promised between files.
fn must_hold_once(delivered: &[(Place, Vec<u8>)], files: &[Vec<Vec<u8>>]) -> Result<()> {
    let mut places: HashMap<&[u8], Place> = HashMap::new();
    for (place, line) in delivered {
        let before = places.insert(line, *place);
        ensure!(before.is_none(), "doubled: {}", line.escape_ascii());
    }
    let mut disordered = 0;
    for lines in files {
        let mut last = None;
        for line in lines {
            let place = places.remove(line.as_slice());
            let place = place.with_context(|| format!("missing: {}", line.escape_ascii()))?;
            disordered += u32::from(last > Some(place));
            last = Some(place);
        }
    }
    if let Some(line) = places.keys().next() {
        bail!("nobody wrote: {}", line.escape_ascii());
    }
    // An hour may end during the run; order is then kept in each of its two files.
    ensure!(
        disordered <= 1,
        "{disordered} lines come before earlier ones"
    );
    Ok(())
}

/// Whether the agent is there while the service writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agent {
    Runs,
    /// It is stopped in the middle, and started when the service has ended: what it had not read
    /// has other names by then, or is compressed.
    Pauses,
}

fn check_java(name: &str, library: Library, rolled: Rolled, agent: Agent) -> Result<()> {
    scratch::scenario(name, |folder| {
        let layout = Layout::new(folder, name)
            .extra("", "exclude = [\"**/*.tmp\"]", "")
            .agent(&[format!("{}/logs/app*", folder.display())]);
        let mut cluster = layout.start()?;
        let service = Service::start(folder, library, rolled, JAVA_LINES)?;
        if agent == Agent::Pauses {
            must_come(&layout, JAVA_LINES / 5)?;
            cluster.agents[0].stop_cleanly()?;
        }
        let files = service.finish()?;
        if agent == Agent::Pauses {
            cluster.agents[0].start()?;
        }
        ledger::must_agree(cluster.manager.admin(), name, JAVA_LINES, SETTLE_LIMIT)?;
        cluster.stop()?;
        must_hold_once(&delivered::records(&layout.delivered())?, &files)
    })
}

#[test]
fn log4j_that_rolls_by_size_and_time_is_delivered_whole() -> Result<()> {
    check_java("log4j", Library::Log4j, Rolled::Plain, Agent::Runs)
}

#[test]
fn logback_that_compresses_what_it_rolled_is_delivered_whole() -> Result<()> {
    check_java("logback", Library::Logback, Rolled::Gzip, Agent::Runs)
}

#[test]
fn log4j_that_compressed_its_files_while_the_agent_was_stopped_is_delivered_whole() -> Result<()> {
    check_java("log4j-paused", Library::Log4j, Rolled::Gzip, Agent::Pauses)
}

/// Three containers, found both in their pods' folders and by the links to them; rotated, started
/// again. A rotated file is compressed one rotation later: it is waited for until then, as a kubelet
/// rotates at 10 MiB and looks every 10 s.
#[test]
fn container_logs_that_a_kubelet_rotates_are_delivered_whole() -> Result<()> {
    scratch::scenario("pods", |folder| {
        let globs = ["log/containers/*.log", "log/pods/*/*/*.log*"];
        let layout = Layout::new(folder, "pods")
            .extra(
                "",
                "exclude = [\"**/*.tmp\"]\nframing = { kind = \"cri\" }",
                "",
            )
            .agent(&globs.map(|glob| format!("{}/{glob}", folder.display())));
        let mut cluster = layout.start()?;
        let root = folder.join("log");
        let mut containers = (0..3)
            .map(|number| Container::start(&root, number, PIECE_BYTES))
            .collect::<Result<Vec<_>>>()?;
        for round in 0..4 {
            for container in &mut containers {
                container.write(POD_LINES)?;
            }
            must_come(&layout, lines(&containers))?;
            containers[0].rotate(2)?;
            containers[1].write(POD_LINES)?;
            containers[1].rotate(5)?;
            if round == 1 {
                containers[2].restart()?;
            }
        }
        let written: Vec<Written> = containers.iter().map(|one| one.written().clone()).collect();
        must_have_come(&layout, &mut cluster, &written)
    })
}

/// They live long enough to be read, no longer. Nothing of them stays open in the agent.
#[test]
fn two_hundred_pods_that_start_together_and_are_removed_are_delivered_whole() -> Result<()> {
    scratch::scenario("many-pods", |folder| {
        let layout = Layout::new(folder, "many-pods")
            .extra("", "framing = { kind = \"cri\" }", "")
            .agent(&[format!("{}/log/pods/*/*/*.log*", folder.display())]);
        let mut cluster = layout.start()?;
        let mut containers = Vec::new();
        for number in 0..200 {
            let mut container = Container::start(&folder.join("log"), number, PIECE_BYTES)?;
            container.write(20)?;
            containers.push(container);
        }
        must_come(&layout, lines(&containers))?;
        let written: Vec<Written> = containers.iter().map(|one| one.written().clone()).collect();
        containers.into_iter().try_for_each(Container::remove)?;
        poll::until_seen(
            "the agent to let go of the removed files",
            SETTLE_LIMIT,
            || cluster.agents[0].metric("process_open_fds"),
            |&open| open < 100.0,
        )?;
        must_have_come(&layout, &mut cluster, &written)
    })
}

/// The ledger counts all of it, and the destination holds every line once.
fn must_have_come(layout: &Layout, cluster: &mut Cluster, written: &[Written]) -> Result<()> {
    let all = written.iter().map(Written::lines).sum();
    ledger::must_agree(cluster.manager.admin(), &cluster.topic, all, SETTLE_LIMIT)?;
    cluster.stop()?;
    let records = delivered::records(&layout.delivered())?;
    let records = records
        .iter()
        .map(|(place, line)| (*place, line.as_slice()));
    let verdict = Verdict::on(written, records);
    // An hour may end during the run; order is then kept in each of the two files of a container.
    ensure!(verdict.disordered <= written.len() as u64, "{verdict}");
    Verdict {
        disordered: 0,
        ..verdict
    }
    .must_be_perfect()
}

fn lines(containers: &[Container]) -> u64 {
    containers.iter().map(|one| one.written().lines()).sum()
}

fn must_come(layout: &Layout, lines: u64) -> Result<()> {
    let what = format!("{lines} lines to be delivered");
    poll::until_seen(
        &what,
        SETTLE_LIMIT,
        || Ok(delivered::lines(&layout.delivered())?.len() as u64),
        |&found| found >= lines,
    )
    .map(drop)
}
