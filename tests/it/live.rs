//! Another configuration by SIGHUP, and what the agent says of it and of what was lost.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tributary_tests::{
    cluster::{Layout, SETTLE_LIMIT, glob_of},
    delivered, http,
    kafka::free_port,
    ledger,
    oracle::Verdict,
    poll, product,
    proxy::{Mode, Proxy},
    scratch,
    writer::{Background, Schedule, Writer},
};

/// An agent says something of it soon.
const SOON: Duration = Duration::from_secs(30);

/// Waits until `/status` says of the configuration what is wanted.
fn until_config(agent: &product::Node, what: &str, good: impl Fn(&Value) -> bool) -> Result<Value> {
    let look = || Ok(agent.status()?["config"].clone());
    poll::until_seen(what, SOON, look, good)
}

/// Waits until the manager says that every line went through every hop under one of the topics, and
/// some under each.
fn must_count_once(manager: &str, topics: [&str; 2], lines: u64) -> Result<()> {
    let look = || {
        let mut sum = ledger::topic(manager, topics[0])?;
        sum.add(ledger::topic(manager, topics[1])?);
        Ok(sum)
    };
    let what = "every line to be counted once";
    poll::until_seen(what, SETTLE_LIMIT, look, |sum| sum.all_went_through(lines))?;
    for topic in topics {
        let counts = ledger::topic(manager, topic)?;
        ensure!(counts.delivered > 0, "{topic}: {counts:?}");
    }
    Ok(())
}

#[test]
fn a_new_configuration_counts_while_lines_flow_and_a_bad_one_never() -> Result<()> {
    scratch::scenario("sighup", |folder| {
        let layout = Layout::new(folder, "one");
        let writer = Writer::new(&folder.join("logs"), 1, 9)?;
        let layout = layout.agent(&[glob_of(&writer)]);
        let mut cluster = layout.start()?;
        let schedule = Schedule {
            lines: 20_000,
            per_second: 5_000,
            rotations: Vec::new(),
        };
        let background = Background::start(writer, schedule);
        let manager = cluster.manager.admin().to_owned();
        let agent = &mut cluster.agents[0];
        let good = fs::read_to_string(agent.folder().join("config.toml"))?;
        let first = until_config(agent, "the first one to count", |config| {
            config["kept"].is_string()
        })?;

        agent.reload(&good.replace("topic =", "topik ="))?;
        let bad = until_config(agent, "a fault", |config| {
            let fault = config["fault"].as_str().unwrap_or_default();
            fault.contains("topik: is unknown; did you mean \"topic\"?")
        })?;
        ensure!(bad["version"] == first["version"], "{bad}");
        poll::until("the manager to know", SOON, || {
            let nodes = http::get(&manager, "/api/v1/nodes")?.text();
            Ok(nodes.contains("topik: is unknown").then_some(()))
        })?;

        agent.reload(&good.replace("zone = \"dc1\"", "zone = \"dc2\""))?;
        until_config(agent, "a restart to be asked for", |config| {
            let fault = config["fault"].as_str().unwrap_or_default();
            fault.contains("zone: cannot change while the agent runs")
        })?;

        let other = good.replace("topic = \"one\"", "topic = \"two\"\nlabels = { a = \"b\" }");
        agent.reload(&format!("{other}[limits]\nopen_files = 100\n"))?;
        let second = until_config(agent, "the second one to count", |config| {
            config["version"] != first["version"]
        })?;
        ensure!(second["fault"] == "", "{second}");
        let open = agent.status()?["open_files"].clone();
        ensure!(open["limit"] == 100 && open["open"].is_u64(), "{open}");

        let written = [background.finish()?.written().clone()];
        must_count_once(&manager, ["one", "two"], 20_000)?;
        cluster.stop()?;
        let text = product::run(
            "tributary",
            &["inspect", "files", "--config", "config.toml", "--json"],
            cluster.agents[0].folder(),
        )?;
        let survey: Value = serde_json::from_slice(&text.stdout)?;
        let file = survey["files"].get(0).context("no file")?;
        ensure!(file["standing"] == "read", "{survey}");
        ensure!(file["acknowledged_to"] == file["size"], "{survey}");
        let records = delivered::records(&layout.delivered())?;
        let records = records
            .iter()
            .map(|(place, line)| (*place, line.as_slice()));
        let verdict = Verdict::on(&written, records);
        // Two topics are two places: order is kept in each.
        Verdict {
            disordered: 0,
            ..verdict
        }
        .must_be_perfect()
    })
}

#[test]
fn what_a_truncation_lost_is_told_to_the_manager_with_its_address() -> Result<()> {
    scratch::scenario("lost", |folder| {
        let log = folder.join("slow.log");
        let layout = Layout::new(folder, "lost").agent(&[log.display().to_string()]);
        let mut cluster = layout.extra("", "rate = \"10KB/s\"", "").start()?;
        let lines = "a line that is read slowly\n".repeat(40_000);
        fs::write(&log, &lines)?;
        let agent = &cluster.agents[0];
        poll::until("some of it to be read", SOON, || {
            let status = agent.status()?;
            let read = status["tasks"][0]["read_bytes"].as_u64();
            Ok(read.filter(|&read| read > 0))
        })?;
        fs::write(&log, "new\n")?;
        let loss = poll::until("the loss", SOON, || {
            let text = http::get(cluster.manager.admin(), "/api/v1/losses?topic=lost")?.text();
            let page: Value = serde_json::from_str(&text)?;
            Ok(page["losses"].get(0).cloned())
        })?;
        ensure!(loss["reason"] == "truncated-unread", "{loss}");
        ensure!(loss["file"] == log.display().to_string(), "{loss}");
        ensure!(loss["task"] == "task" && loss["host"].is_string(), "{loss}");
        let (start, end) = (loss["start"].as_u64(), loss["end"].as_u64());
        ensure!(start > Some(0) && end == Some(lines.len() as u64), "{loss}");
        cluster.stop()
    })
}

#[test]
fn a_delivered_batch_whose_agent_died_unanswered_and_whose_file_is_gone_is_no_loss() -> Result<()> {
    scratch::scenario("unanswered", |folder| {
        let log = folder.join("app.log");
        let bus_port = free_port()?;
        let proxy = Proxy::start(&format!("127.0.0.1:{bus_port}"))?;
        let layout = Layout::new(folder, "unanswered")
            .agents_connect_to(proxy.address())
            .agent(&[log.display().to_string()]);
        let mut cluster = layout.start_at(bus_port)?;
        let manager = cluster.manager.admin().to_owned();
        fs::write(&log, "answered\n")?;
        ledger::must_agree(&manager, "unanswered", 1, SETTLE_LIMIT)?;
        proxy.set(Mode::NoAnswers);
        fs::write(&log, "answered\nnever answered\n")?;
        let counts = || ledger::topic(&manager, "unanswered");
        poll::until_seen("both to be delivered", SETTLE_LIMIT, counts, |counts| {
            (counts.read, counts.delivered) == (2, 2)
        })?;
        cluster.agents[0].kill()?;
        fs::write(&log, "new\n")?;
        proxy.cut();
        proxy.set(Mode::Pass);
        cluster.agents[0].start()?;
        ledger::must_agree(&manager, "unanswered", 3, SETTLE_LIMIT)?;
        let losses = http::get(&manager, "/api/v1/losses?topic=unanswered")?.text();
        ensure!(losses.contains("\"total\":0"), "{losses}");
        let log = cluster.agents[0].log()?;
        ensure!(
            log.contains("truncated-unsent"),
            "the agent knows no better: {log}"
        );
        cluster.stop()
    })
}
