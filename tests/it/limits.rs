//! The agent's limits, measured from outside while something else than reading works.

use std::{fs, io::Write as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tokio::time::Instant;
use tributary_tests::{
    cluster::{Layout, SETTLE_LIMIT},
    poll, product, say, scratch,
};

/// What the agent may use of a core, and for how long that is measured.
const SHARE: f64 = 0.2;
const WINDOW: Duration = Duration::from_secs(10);

/// The CPU seconds that an agent has used.
fn cpu_seconds(agent: &product::Node) -> Result<f64> {
    agent.metric("process_cpu_seconds_total")
}

/// Lines that hardly compress.
fn write_noise(path: &Path, mebibytes: usize) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(3);
    let mut some: Vec<u8> = (0..8 << 20).map(|_| random.u8(b'!'..=b'~')).collect();
    some.iter_mut().step_by(200).for_each(|byte| *byte = b'\n');
    let mut file = fs::File::create(path)?;
    for _ in 0..mebibytes / 8 {
        file.write_all(&some)?;
    }
    Ok(())
}

/// Files of the spool with this end.
fn spooled(agent: &product::Node, end: &str) -> Result<usize> {
    let folder = agent.folder().join("state/spool");
    if !folder.try_exists()? {
        return Ok(0);
    }
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        count += usize::from(entry?.path().extension().is_some_and(|found| found == end));
    }
    Ok(count)
}

/// A large file is deleted while no bus is there: it is compressed into the spool, by another thread than
/// the one that reads.
#[test]
fn the_cpu_limit_holds_while_a_deleted_file_is_saved_and_the_stop_does_not_wait_for_it()
-> Result<()> {
    scratch::scenario("cpu-spool", |folder| {
        let logs = folder.join("logs");
        fs::create_dir_all(&logs)?;
        let log = logs.join("large.log");
        write_noise(&log, 1536)?;
        let limits = "[limits]\nmemory = \"16MiB\"\nspool = \"1400MiB\"\ncpu = \"20%\"\n";
        let mut layout = Layout::new(folder, "cpu").agent(&[format!("{}/*.log", logs.display())]);
        layout = layout.agents_connect_to("127.0.0.1:1".to_owned());
        let mut cluster = layout.extra(limits, "", "").start()?;
        let agent = &mut cluster.agents[0];
        let is_full = |task: &serde_json::Value| task["read_bytes"].as_u64() > Some(1 << 20);
        let look = |agent: &product::Node| Ok(agent.status()?["tasks"][0].clone());
        poll::until_seen(
            "its memory to be full",
            SETTLE_LIMIT,
            || look(agent),
            is_full,
        )?;
        fs::remove_file(&log)?;
        let begun = |&count: &usize| count == 1;
        poll::until_seen(
            "it to be saved",
            SETTLE_LIMIT,
            || spooled(agent, "tmp"),
            begun,
        )?;
        let (began, before) = (Instant::now(), cpu_seconds(agent)?);
        poll::until("the time to pass", WINDOW * 2, || {
            Ok((began.elapsed() >= WINDOW).then_some(()))
        })?;
        let used = (cpu_seconds(agent)? - before) / began.elapsed().as_secs_f64();
        let saved = spooled(agent, "tmp")?;
        say(&format!(
            "{used:.3} of a core, where {SHARE} is allowed; {saved} under way"
        ));
        ensure!(saved == 1, "it was saved before the time was over");
        ensure!(used <= SHARE * 1.1, "{used:.3} of a core");
        ensure!(used >= SHARE * 0.5, "{used:.3} of a core: it stands still");
        let stopping = Instant::now();
        agent.stop_cleanly().context("the agent stops in time")?;
        let took = stopping.elapsed();
        say(&format!("the stop took {took:.1?}"));
        ensure!(took < Duration::from_secs(15), "the stop took {took:?}");
        cluster.bus.stop_cleanly()?;
        cluster.manager.stop_cleanly()
    })
}
