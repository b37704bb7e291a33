//! The manager says where topics go: nodes take it whole while lines flow, refuse what is bad, go on by it while
//! the manager is away, and go by their files again when it is taken back.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use serde_json::Value;
use tributary_tests::{
    cluster::{Cluster, Layout, SETTLE_LIMIT, glob_of},
    delivered,
    http::{self, Answer},
    ledger,
    oracle::{Place, Verdict},
    poll, scratch,
    writer::{Background, Schedule, Writer, Written},
};

/// Nodes hear of it with their next report.
const SOON: Duration = Duration::from_secs(30);
/// Where the API has it.
const PATH: &str = "/api/v1/clusters/dc1/routes";

fn ask(cluster: &Cluster, method: &str, document: &str) -> Result<Answer> {
    let headers = ["content-type: application/toml"];
    let manager = cluster.manager.admin();
    http::request(manager, method, PATH, &headers, document.as_bytes())
}

/// Asks for something; its version.
fn asked(cluster: &Cluster, method: &str, document: &str) -> Result<String> {
    let answer = ask(cluster, method, document)?;
    ensure!(answer.status == 200, "{}", answer.text());
    let version = answer.json()?["asked"]["version"].clone();
    Ok(version.as_str().unwrap_or_default().to_owned())
}

/// What the manager says of the bus, once its `key` is `wanted`.
fn until_said(cluster: &Cluster, key: &str, wanted: &str) -> Result<Value> {
    let what = format!("the bus to say {key} = {wanted}");
    let look = || Ok(ask(cluster, "GET", "")?.json()?["nodes"][0].clone());
    poll::until_seen(&what, SOON, look, |node| node[key] == wanted)
}

/// A document of one file destination.
fn to(folder: &Path) -> String {
    let path = folder.join("{topic}");
    format!(
        "[[destination]]\nname = \"other\"\nkind = \"file\"\npath = {path:?}\n\
         [[route]]\ntopic = \"*\"\nto = [{{ destination = \"other\" }}]\n"
    )
}

/// Writes lines and waits until the ledger has all; how many lie where.
fn counted(
    cluster: &Cluster,
    writer: &mut Writer,
    lines: u64,
    folders: [&Path; 2],
) -> Result<[usize; 2]> {
    writer.write(lines)?;
    let wanted = writer.written().lines();
    ledger::must_agree(
        cluster.manager.admin(),
        &cluster.topic,
        wanted,
        SETTLE_LIMIT,
    )?;
    Ok([
        delivered::lines(folders[0])?.len(),
        delivered::lines(folders[1])?.len(),
    ])
}

/// Every line once in one of the folders.
fn must_lie_once(written: &Written, folders: [&Path; 2]) -> Result<()> {
    let mut records: Vec<(Place, Vec<u8>)> = Vec::new();
    for (folder, first) in folders.into_iter().zip([0, 1_000_000]) {
        let lines = delivered::records(folder)?.into_iter();
        records.extend(lines.map(|((file, line), text)| ((first + file, line), text)));
    }
    let records = records.iter().map(|(place, text)| (*place, &text[..]));
    let verdict = Verdict::on(std::slice::from_ref(written), records);
    // Between two places, and the hours of one, there is no order.
    Verdict {
        disordered: 0,
        ..verdict
    }
    .must_be_perfect()
}

/// What is no document is refused at the door, what the node cannot do by the node: with all faults. It goes on
/// by a version.
fn must_refuse_what_is_bad(cluster: &Cluster, second: &Path, version: &str) -> Result<()> {
    let other = ask(cluster, "PUT", "zone = \"x\"\n[[rout]]\n")?;
    let text = other.text();
    ensure!(other.status == 400 && text.contains("1:1"), "{text}");
    ensure!(text.contains("zone") && text.contains("rout"), "{text}");
    let bad = to(second).replace("\"file\"", "\"flie\"");
    let bad = bad + "[[route]]\ntopic = \"x\"\nto = [{ destination = \"nobody\" }]\n";
    let refused = asked(cluster, "PUT", &bad)?;
    let node = until_said(cluster, "refused", &refused)?;
    let fault = node["fault"].as_str().unwrap_or_default();
    ensure!(
        fault.contains("\"flie\"") && fault.contains("\"nobody\""),
        "{fault}"
    );
    ensure!(node["version"] == version, "{node}");
    let config = cluster.bus.status()?["config"].clone();
    ensure!(config["routes_fault"] == fault, "{config}");
    ensure!(config["routes_from"] == "manager", "{config}");
    Ok(())
}

/// Started without a manager, the bus goes by what it took, also over another file.
fn must_go_on_alone(cluster: &mut Cluster, version: &str) -> Result<()> {
    let config = cluster.bus.status()?["config"].clone();
    ensure!(config["routes_version"] == version, "{config}");
    ensure!(config["routes_from"] == "manager", "{config}");
    let file = std::fs::read_to_string(cluster.bus.folder().join("config.toml"))?;
    let slowly = file.replace("[spill]\n", "[spill]\nmax = \"1GiB\"\n");
    cluster.bus.reload(&slowly)?;
    let look = || Ok(cluster.bus.status()?["config"].clone());
    let applied = config["version"].clone();
    let config = poll::until_seen("the file to count", SOON, look, |now| {
        now["version"] != applied
    })?;
    ensure!(config["routes_from"] == "manager", "{config}");
    Ok(())
}

#[test]
fn routes_of_the_manager_count_are_kept_and_can_be_taken_back() -> Result<()> {
    scratch::scenario("managed", |folder| {
        let writer = Writer::new(&folder.join("logs"), 1, 11)?;
        let layout = Layout::new(folder, "managed");
        let (first, second) = (layout.delivered(), folder.join("other"));
        let folders = [&*first, &*second];
        let mut cluster = layout.agent(&[glob_of(&writer)]).start()?;
        let lines = || delivered::lines(&second).map(|lines| !lines.is_empty());

        // While lines flow they go elsewhere.
        let schedule = Schedule {
            lines: 12_000,
            per_second: 4_000,
            rotations: Vec::new(),
        };
        let background = Background::start(writer, schedule);
        poll::until("lines in the first place", SOON, || {
            Ok((!delivered::lines(&first)?.is_empty()).then_some(()))
        })?;
        until_said(&cluster, "from", "file")?;
        let version = asked(&cluster, "PUT", &to(&second))?;
        let node = until_said(&cluster, "version", &version)?;
        ensure!(node["from"] == "manager" && node["fault"] == "", "{node}");
        poll::until("lines in the second place", SOON, || {
            Ok(lines()?.then_some(()))
        })?;
        let mut writer = background.finish()?;
        let [before, _] = counted(&cluster, &mut writer, 500, folders)?;

        must_refuse_what_is_bad(&cluster, &second, &version)?;
        let [still, _] = counted(&cluster, &mut writer, 500, folders)?;
        ensure!(
            still == before,
            "{still} lines in the first place, not {before}"
        );

        cluster.manager.stop_cleanly()?;
        cluster.bus.kill_and_start()?;
        must_go_on_alone(&mut cluster, &version)?;
        writer.write(500)?;
        cluster.manager.start()?;
        let [still, _] = counted(&cluster, &mut writer, 500, folders)?;
        ensure!(
            still == before,
            "{still} lines in the first place, not {before}"
        );

        // Taken back, the file counts, also after a restart.
        let back = asked(&cluster, "DELETE", "")?;
        let node = until_said(&cluster, "version", &back)?;
        ensure!(node["from"] == "file" && node["fault"] == "", "{node}");
        let [after, there] = counted(&cluster, &mut writer, 500, folders)?;
        ensure!(
            after == before + 500,
            "{after} lines in the first place, {before} before"
        );
        cluster.bus.stop_cleanly()?;
        cluster.bus.start()?;
        let config = cluster.bus.status()?["config"].clone();
        ensure!(config["routes_from"] == "file", "{config}");
        let [last, still] = counted(&cluster, &mut writer, 500, folders)?;
        ensure!((last, still) == (after + 500, there), "{last} {still}");
        cluster.stop()?;
        must_lie_once(writer.written(), folders)
    })
}
