//! The manager says what agents collect: they take it whole at a batch's edge, refuse what is bad, go on by it while
//! the manager is away, and go by their files again when it is taken back; no line is lost or doubled on the way.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tributary_tests::{
    cluster::{Cluster, Layout, SETTLE_LIMIT, glob_of},
    delivered, http, ledger,
    oracle::{Place, Verdict},
    poll, scratch,
    writer::{Background, Schedule, Writer, Written},
};

/// Agents hear of it with their next report.
const SOON: Duration = Duration::from_secs(30);
const ZONE: &str = "/api/v1/zones/dc1/collection";

/// Asks for something; its version.
fn asked(cluster: &Cluster, method: &str, path: &str, document: &str) -> Result<String> {
    let headers = ["content-type: application/toml"];
    let manager = cluster.manager.admin();
    let answer = http::request(manager, method, path, &headers, document.as_bytes())?;
    ensure!(answer.status == 200, "{}", answer.text());
    let version = answer.json()?["asked"]["version"].clone();
    Ok(version.as_str().unwrap_or_default().to_owned())
}

/// What the manager says of one agent.
fn said_of(cluster: &Cluster, id: &str) -> Result<Value> {
    let path = format!("/api/v1/agents/{id}/collection");
    let answer = http::request(cluster.manager.admin(), "GET", &path, &[], b"")?;
    Ok(answer.json()?["agent"].clone())
}

/// The same, once its `key` is `wanted`.
fn until_said(cluster: &Cluster, id: &str, key: &str, wanted: &str) -> Result<Value> {
    let what = format!("agent {id} to say {key} = {wanted}");
    let look = || said_of(cluster, id);
    poll::until_seen(&what, SOON, look, |agent| agent[key] == wanted)
}

/// The agent's own words.
fn config_of(cluster: &Cluster) -> Result<Value> {
    let agent = cluster.agents.first().context("an agent")?;
    Ok(agent.status()?["config"].clone())
}

/// A document of tasks: id, glob, class.
fn tasks(topic: &str, tasks: &[(&str, &str, &str)]) -> String {
    let one = |(id, glob, class): &(&str, &str, &str)| {
        format!(
            "[[task]]\nid = {id:?}\ntopic = {topic:?}\nclass = {class:?}\npaths = [{glob:?}]\n\
             labels = {{ by = \"manager\" }}\n"
        )
    };
    tasks.iter().map(one).collect()
}

/// Every line of these lies there once; between the two there is no order.
fn must_lie_once(written: &[Written], folder: &Path, cluster: &Cluster) -> Result<()> {
    let (manager, lines) = (
        cluster.manager.admin(),
        written.iter().map(Written::lines).sum(),
    );
    ledger::must_agree(manager, &cluster.topic, lines, SETTLE_LIMIT)?;
    let records: Vec<(Place, Vec<u8>)> = delivered::records(folder)?;
    let records = records.iter().map(|(place, text)| (*place, &text[..]));
    let verdict = Verdict::on(written, records);
    Verdict {
        disordered: 0,
        ..verdict
    }
    .must_be_perfect()
}

/// Two logs, in folders of their own.
struct Logs {
    first: Writer,
    second: Writer,
}

impl Logs {
    fn write(&mut self, lines: u64) -> Result<()> {
        self.first.write(lines)?;
        self.second.write(lines)
    }

    fn written(&self) -> [Written; 2] {
        [&self.first, &self.second].map(|log| log.written().clone())
    }
}

/// What is bad is refused by the agent with all its faults; it goes on by a version.
fn must_refuse_what_is_bad(cluster: &Cluster, id: &str, good: &str, version: &str) -> Result<()> {
    let bad = good.replace("\"P1\"", "\"P9\"") + "colour = \"red\"\n";
    let refused = asked(cluster, "PUT", ZONE, &bad)?;
    let agent = until_said(cluster, id, "refused", &refused)?;
    let fault = agent["fault"].as_str().unwrap_or_default();
    ensure!(
        fault.contains("\"P9\"") && fault.contains("colour"),
        "{fault}"
    );
    ensure!(agent["version"] == version, "{agent}");
    let config = config_of(cluster)?;
    ensure!(config["collection_fault"] == fault, "{config}");
    ensure!(config["collection_from"] == "manager", "{config}");
    let page = http::request(cluster.manager.admin(), "GET", ZONE, &[], b"")?.json()?;
    ensure!(page["agents_refused"] == 1, "{page}");
    ensure!(page["others"][0]["fault"] == fault, "{page}");
    Ok(())
}

/// What a document of its own means for one agent: it counts before the zone's, until it is taken back.
fn must_prefer_its_own(cluster: &Cluster, id: &str, own: &str, zone: &str) -> Result<()> {
    let path = format!("/api/v1/agents/{id}/collection");
    let version = asked(cluster, "PUT", &path, own)?;
    until_said(cluster, id, "version", &version)?;
    asked(cluster, "DELETE", &path, "")?;
    let agent = until_said(cluster, id, "version", zone)?;
    ensure!(agent["from"] == "manager", "{agent}");
    Ok(())
}

/// From the cold and alone it goes by what it took, also over another file.
fn must_go_on_alone(cluster: &mut Cluster, logs: &mut Logs, version: &str) -> Result<()> {
    cluster.manager.stop_cleanly()?;
    cluster.agents[0].kill_and_start()?;
    let config = config_of(cluster)?;
    ensure!(config["collection_version"] == version, "{config}");
    let file = std::fs::read_to_string(cluster.agents[0].folder().join("config.toml"))?;
    cluster.agents[0].reload(&format!("{file}\n[limits]\nmemory = \"200MiB\"\n"))?;
    let before = config["version"].clone();
    let look = || config_of(cluster);
    let config = poll::until_seen("the file to count", SOON, look, |now| {
        now["version"] != before
    })?;
    ensure!(config["collection_from"] == "manager", "{config}");
    logs.write(500)?;
    cluster.manager.start()
}

/// Taken back, the file counts, also after a restart: the second log is not read any more.
fn must_go_by_its_file(cluster: &mut Cluster, logs: &mut Logs, id: &str) -> Result<[Written; 2]> {
    let back = asked(cluster, "DELETE", ZONE, "")?;
    let agent = until_said(cluster, id, "version", &back)?;
    ensure!(agent["from"] == "file" && agent["fault"] == "", "{agent}");
    let [_, second] = logs.written();
    logs.write(500)?;
    cluster.agents[0].stop_cleanly()?;
    cluster.agents[0].start()?;
    let [first, _] = logs.written();
    Ok([first, second])
}

#[test]
fn tasks_of_the_manager_count_are_kept_and_can_be_taken_back() -> Result<()> {
    scratch::scenario("collection", |folder| {
        let mut first = Writer::new(&folder.join("logs"), 1, 21)?;
        let second = Writer::new(&folder.join("more"), 2, 22)?;
        let layout = Layout::new(folder, "collection");
        let (globs, there) = ([glob_of(&first), glob_of(&second)], layout.delivered());
        let mut cluster = layout.agent(&globs[..1]).start()?;
        let topic = cluster.topic.clone();
        let id = cluster.agents[0].status()?["agent"].clone();
        let id = id.as_str().context("the agent's id")?.to_owned();
        first.write(500)?;

        // While lines flow the task changes, and another one comes.
        let schedule = Schedule {
            lines: 12_000,
            per_second: 3_000,
            rotations: Vec::new(),
        };
        let background = Background::start(second, schedule);
        until_said(&cluster, &id, "from", "file")?;
        let both = [("task", &*globs[0], "P1"), ("more", &globs[1], "P3")];
        let good = tasks(&topic, &both);
        let version = asked(&cluster, "PUT", ZONE, &good)?;
        let agent = until_said(&cluster, &id, "version", &version)?;
        ensure!(
            agent["from"] == "manager" && agent["fault"] == "",
            "{agent}"
        );
        first.write(500)?;
        must_refuse_what_is_bad(&cluster, &id, &good, &version)?;
        let second = background.finish()?;
        let mut logs = Logs { first, second };
        must_lie_once(&logs.written(), &there, &cluster)?;

        must_go_on_alone(&mut cluster, &mut logs, &version)?;
        must_lie_once(&logs.written(), &there, &cluster)?;

        // The bad one is still what was asked for last.
        let version = asked(&cluster, "PUT", ZONE, &good)?;
        until_said(&cluster, &id, "version", &version)?;
        let own = tasks(&topic, &both[..1]);
        must_prefer_its_own(&cluster, &id, &own, &version)?;
        logs.write(500)?;
        must_lie_once(&logs.written(), &there, &cluster)?;

        let written = must_go_by_its_file(&mut cluster, &mut logs, &id)?;
        must_lie_once(&written, &there, &cluster)?;
        cluster.stop()
    })
}
