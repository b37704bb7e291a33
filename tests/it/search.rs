//! Elasticsearch and OpenSearch: every record is one document, whatever the server refuses, however often
//! it is killed; and what it will never take is kept, told, and replayed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write as _,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tributary_tests::{
    certs::Authority,
    cluster::{Cluster, Layout},
    guard::Guard,
    http, ledger,
    opensearch::{self, OpenSearch},
    oracle::Verdict,
    poll, product, say, scratch,
    writer::{Rotation, Writer, Written},
};

/// By then a settled cluster has delivered everything, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

fn layout(folder: &Path, topic: &str, search: &OpenSearch, extra: &str, index: &str) -> Layout {
    Layout::new(folder, topic)
        .searches(&search.address(), extra, index)
        .extra("", "shape = \"headers\"\nlabels = { app = \"shop\" }", "")
        .agent(&[format!("{}/logs/*", folder.display())])
}

/// The one destination by the bus's `/status`.
fn destination(cluster: &Cluster) -> Result<Value> {
    Ok(cluster.bus.status()?["destinations"][0].clone())
}

/// The server has each written line as one document, and nothing else.
fn must_have(search: &OpenSearch, index: &str, written: &[Written]) -> Result<()> {
    let documents = search.documents(index)?;
    let text = |document: &Value| document["message"].as_str().unwrap_or_default().to_owned();
    let mut found: Vec<(i64, String)> = documents
        .values()
        .map(|one| (one["offset"].as_i64().unwrap_or_default(), text(one)))
        .collect();
    // In the order of their places in their files.
    found.sort();
    let found = found.iter().map(|(at, line)| ((0, *at), line.as_bytes()));
    Verdict::on(written, found).must_be_perfect()
}

/// A server with one thread and hardly a queue, which others keep busy: it answers 429 much of the
/// time. Then it is killed, is away for a while, and comes back.
#[test]
fn a_server_that_is_flooded_and_killed_has_every_line_once() -> Result<()> {
    let folder = scratch::create("opensearch-narrow")?;
    let narrow = ["thread_pool.write.size=1", "thread_pool.write.queue_size=1"];
    let mut search = OpenSearch::start(&folder, &narrow)?;
    scratch::scenario("search-storm", |folder| {
        let index = "storm-{topic}-{date}";
        let extra = "request = \"64KiB\"\nconnections = 4\ntemplate = \"index\"";
        let mut cluster = layout(folder, "Storm", &search, extra, index).start()?;
        let logs = folder.join("logs");
        let mut writers = (0..3).map(|file| Writer::new(&logs, file, 7));
        let mut writers = writers.by_ref().collect::<Result<Vec<_>>>()?;
        let refused = flood(&search, || {
            for part in 0..4 {
                for writer in &mut writers {
                    writer.write(400)?;
                    writer.rotate(Rotation::Rename)?;
                }
                if part == 2 {
                    cluster.bus.kill_and_start()?;
                }
            }
            poll::until_seen(
                "a server that says that it gets too much",
                LIMIT,
                || destination(&cluster),
                |seen| {
                    seen["detail"].to_string().contains("rejected") || seen["state"] == "throttled"
                },
            )
            .map(drop)
        })?;
        let lines = writers.iter().map(|writer| writer.written().lines()).sum();
        ledger::must_agree(cluster.manager.admin(), "Storm", lines, LIMIT)?;
        say(&format!(
            "search: {refused} requests of others were refused"
        ));
        ensure!(refused > 0, "the server was never too busy");

        search.kill()?;
        for writer in &mut writers {
            writer.write(500)?;
        }
        poll::until_seen(
            "a destination that is down, and its lines on the disk",
            LIMIT,
            || {
                Ok((
                    destination(&cluster)?,
                    cluster.bus.status()?["spill"].clone(),
                ))
            },
            |(destination, spill)| {
                destination["state"] == "down" && spill["destinations"][0]["batches"] != 0
            },
        )?;
        cluster.bus.kill_and_start()?;
        search.restart()?;
        let written: Vec<Written> = writers.iter().map(|w| w.written().clone()).collect();
        let lines = written.iter().map(Written::lines).sum();
        ledger::must_agree(cluster.manager.admin(), "Storm", lines, LIMIT)?;
        must_have(&search, "storm-storm-*", &written)?;
        let documents = search.documents("storm-storm-*")?;
        let labelled = |one: &Value| one["labels"]["app"] == "shop" && one["topic"] == "Storm";
        ensure!(
            documents.values().all(labelled),
            "{:?}",
            documents.first_key_value()
        );
        only_its_own_cluster_is_written_to(&mut cluster, &search, &mut writers)?;
        cluster.stop()
    })
}

/// With the address of another server the destination is refused before a batch comes for it, nothing is
/// written there, and with the right one all that waited is delivered.
fn only_its_own_cluster_is_written_to(
    cluster: &mut Cluster,
    search: &OpenSearch,
    writers: &mut [Writer],
) -> Result<()> {
    let other = opensearch::shared()?;
    let id = |search: &OpenSearch| {
        let about = search.ask("GET", "/", &Value::Null)?;
        anyhow::Ok(
            about["cluster_uuid"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    let said = format!(
        "is cluster {} now, and was cluster {} before",
        id(other)?,
        id(search)?
    );
    let right = fs::read_to_string(cluster.bus.folder().join("config.toml"))?;
    let wrong = right.replace(&search.address(), &other.address());
    ensure!(wrong != right, "the address is not in {right}");
    cluster.bus.reload(&wrong)?;
    let refused =
        |seen: &Value| seen["state"] == "refused" && seen["detail"].to_string().contains(&said);
    let look = || destination(cluster);
    poll::until_seen("a refused destination", LIMIT, look, refused)?;
    for writer in &mut *writers {
        writer.write(100)?;
    }
    let waits = |spill: &Value| spill["destinations"][0]["batches"] != 0;
    let look = || Ok(cluster.bus.status()?["spill"].clone());
    poll::until_seen("lines that wait", LIMIT, look, waits)?;
    ensure!(
        other.count("storm-*")? == 0,
        "another cluster was written to"
    );
    cluster.bus.reload(&right)?;
    let written: Vec<Written> = writers.iter().map(|w| w.written().clone()).collect();
    let lines = written.iter().map(Written::lines).sum();
    ledger::must_agree(cluster.manager.admin(), "Storm", lines, LIMIT)?;
    must_have(search, "storm-storm-*", &written)
}

/// Behind TLS and a password: credentials that are refused are told and lose nothing, right ones are read anew, an
/// API key is as good, and what arrives is a data stream.
#[test]
fn a_data_stream_behind_tls_and_credentials_has_every_line_once() -> Result<()> {
    let search = opensearch::shared()?;
    scratch::scenario("search-guarded", |folder| {
        let authority = Authority::new(&folder.join("ca"))?;
        // u:good, and a key.
        let known = ["Basic dTpnb29k", "ApiKey a2V5"];
        let server = search.address();
        let guard = Guard::start(&folder.join("guard"), &authority, &server, &known)?;
        let (password, key) = (folder.join("password"), folder.join("key"));
        fs::write(&password, "bad\n")?;
        fs::write(&key, "a2V5\n")?;
        let user = format!("user = \"u\"\npassword_file = {password:?}");
        let extra = format!(
            "{user}\nca = {:?}\ntemplate = \"data-stream\"",
            authority.ca()
        );
        let mut cluster = layout(folder, "guarded", search, &extra, "{topic}")
            .behind(&[guard.url()])
            .start()?;
        let mut writer = Writer::new(&folder.join("logs"), 0, 7)?;
        writer.write(300)?;
        let refused = |(seen, spill): &(Value, Value)| {
            let told = seen["detail"].to_string().contains("401 Unauthorized");
            told && seen["state"] == "refused" && spill["destinations"][0]["batches"] != 0
        };
        let look = || {
            let spill = cluster.bus.status()?["spill"].clone();
            Ok((destination(&cluster)?, spill))
        };
        poll::until_seen("credentials that are refused", LIMIT, look, refused)?;
        fs::write(&password, "good\n")?;
        let lines = writer.written().lines();
        ledger::must_agree(cluster.manager.admin(), "guarded", lines, LIMIT)?;

        let config = fs::read_to_string(cluster.bus.folder().join("config.toml"))?;
        let with_key = config.replace(&user, &format!("api_key_file = {key:?}"));
        ensure!(with_key != config, "{user} is not in {config}");
        cluster.bus.reload(&with_key)?;
        fs::remove_file(&password)?;
        writer.write(300)?;
        let lines = writer.written().lines();
        ledger::must_agree(cluster.manager.admin(), "guarded", lines, LIMIT)?;
        must_have(search, "guarded", &[writer.written().clone()])?;
        let streams = search.ask("GET", "/_data_stream/guarded", &Value::Null)?;
        ensure!(streams["data_streams"][0]["name"] == "guarded", "{streams}");
        cluster.stop()
    })
}

/// Three nodes, of which one is killed and comes back, then another: lines go on by way of those that are
/// there, without a restart of anything.
#[test]
fn a_cluster_that_loses_a_node_and_then_another_has_every_line_once() -> Result<()> {
    let folder = scratch::create("opensearch-three")?;
    let mut nodes = OpenSearch::start_three(&folder)?;
    scratch::scenario("search-nodes", |folder| {
        let urls = nodes
            .each_ref()
            .map(|node| format!("http://{}", node.address()));
        let index = "nodes-{topic}-{date}";
        let extra = "request = \"64KiB\"\nconnections = 4\ntemplate = \"index\"";
        let mut cluster = layout(folder, "nodes", &nodes[0], extra, index)
            .behind(&urls)
            .start()?;
        let mut writer = Writer::new(&folder.join("logs"), 0, 7)?;
        let mut go_on = |cluster: &Cluster| {
            writer.write(1_500)?;
            let written = writer.written().clone();
            let manager = cluster.manager.admin();
            ledger::must_agree(manager, "nodes", written.lines(), LIMIT)?;
            anyhow::Ok(written)
        };
        go_on(&cluster)?;
        for gone in [0, 1] {
            nodes[gone].kill()?;
            let written = go_on(&cluster)?;
            must_have(&nodes[2], "nodes-nodes-*", &[written])?;
            nodes[gone].restart()?;
            let green = "/_cluster/health?wait_for_status=green&wait_for_nodes=3&timeout=60s";
            nodes[2].ask("GET", green, &Value::Null)?;
            go_on(&cluster)?;
        }
        let written = go_on(&cluster)?;
        must_have(&nodes[0], "nodes-nodes-*", &[written])?;
        cluster.stop()
    })?;
    fs::remove_dir_all(folder)?;
    Ok(())
}

/// Keeps the server busy with requests of eight others while `body` runs; gives how many of these it
/// refused.
fn flood(search: &OpenSearch, body: impl FnOnce() -> Result<()>) -> Result<u64> {
    let (done, refused) = (AtomicBool::new(false), AtomicU64::new(0));
    let bulk = "{\"create\":{}}\n{\"a\":1}\n".repeat(300);
    std::thread::scope(|scope| {
        for _other in 0..8 {
            scope.spawn(|| {
                let kind = ["content-type: application/x-ndjson"];
                while !done.load(Ordering::Relaxed) {
                    let path = "/noise/_bulk?filter_path=items.*.status";
                    let body = bulk.as_bytes();
                    let told = http::request(&search.address(), "POST", path, &kind, body);
                    let busy =
                        told.is_ok_and(|told| told.status == 429 || told.text().contains("429"));
                    refused.fetch_add(u64::from(busy), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        }
        let told = body();
        done.store(true, Ordering::Relaxed);
        told
    })?;
    Ok(refused.into_inner())
}

/// Lines of the dead letters' scenario, and of how many one does not fit.
const LINES: u64 = 5_000;
const EVERY: u64 = 50;
const DEAD: u64 = LINES / EVERY;

/// Objects, of which some do not fit the mapping, and some lines that are none.
fn write_mixed(file: &mut File) -> Result<()> {
    for n in 0..LINES {
        match n % EVERY {
            0 => writeln!(file, "{{\"n\":\"word {n}\",\"at\":{n}}}")?,
            1 => writeln!(file, "no object {n}")?,
            _ => writeln!(file, "{{\"n\":{n},\"at\":{n}}}")?,
        }
    }
    Ok(())
}

/// The dead letters of the one destination.
fn letters(cluster: &Cluster) -> Result<Value> {
    let list = http::get(cluster.bus.admin(), "/v1/dead?destination=main")?.json()?;
    Ok(list["destinations"][0].clone())
}

/// The oldest of them.
fn oldest(cluster: &Cluster) -> Result<Value> {
    let path = "/v1/dead/letters?destination=main&limit=1";
    let shown = http::get(cluster.bus.admin(), path)?.json()?;
    Ok(shown["shown"][0].clone())
}

/// `tributary ctl dead` succeeds, or does not.
fn ctl(cluster: &Cluster, words: &[&str], succeeds: bool) -> Result<()> {
    let which = [cluster.bus.admin(), "--destination", "main"];
    let args = [&["ctl", "dead"], words, &which].concat();
    let done = product::run("tributary", &args, cluster.bus.folder())?;
    ensure!(
        done.status.success() == succeeds,
        "{words:?}: {}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

/// The manager counts these lines, and so many of them as dead, given up, replayed.
fn must_agree(cluster: &Cluster, lines: u64, [dead, purged, replayed]: [u64; 3]) -> Result<()> {
    let letters = ledger::Letters {
        dead,
        purged,
        replayed,
    };
    ledger::must_agree_but(cluster.manager.admin(), "dead", lines, letters, LIMIT).map(drop)
}

/// What the manager says of them: by destination and node, with reason and times.
fn manager_must_list(cluster: &Cluster, dead: u64) -> Result<()> {
    let look = || {
        let path = "/api/v1/dead?topic=dead";
        let page = http::get(cluster.manager.admin(), path)?.json()?;
        Ok(page["destinations"].clone())
    };
    let listed = |seen: &Value| {
        let (item, reason) = (&seen[0], &seen[0]["reasons"][0]);
        let times = reason["first_ms"].as_u64() <= reason["last_ms"].as_u64();
        match dead {
            0 => seen == &json!([]),
            dead => {
                item["destination"] == "main"
                    && reason["letters"] == dead
                    && reason["reason"] == "mapper_parsing_exception"
                    && reason["status"] == 400
                    && times
            }
        }
    };
    poll::until_seen("the manager's list of dead letters", LIMIT, look, listed).map(drop)
}

/// They are told with their records and reasons. A replay before anything is mended changes nothing;
/// neither does a kill.
fn dead_letters_are_kept(cluster: &mut Cluster) -> Result<()> {
    let must_be_listed = |cluster: &Cluster| {
        let group = letters(cluster)?["groups"][0].clone();
        ensure!(
            group["letters"] == DEAD && group["reason"] == "mapper_parsing_exception",
            "{group}"
        );
        Ok(())
    };
    must_be_listed(cluster)?;
    let first = oldest(cluster)?;
    let told = first["reason"].to_string().contains("type [long]");
    ensure!(
        told && first["value"] == "{\"n\":\"word 0\",\"at\":0}",
        "{first}"
    );
    ctl(cluster, &["purge"], false)?;
    ctl(cluster, &["replay"], false)?;
    // The kill may have come between the letter and the word that its batch is through: tried twice before.
    let tries = first["tries"].as_u64().map(|tries| tries + 1);
    let first = oldest(cluster)?;
    ensure!(first["tries"].as_u64() == tries, "{first}");
    cluster.bus.kill_and_start()?;
    must_be_listed(cluster)?;
    // The new life has told all of them again: nothing is counted twice.
    manager_must_list(cluster, DEAD)?;
    must_agree(cluster, LINES, [DEAD, 0, 0])
}

/// With a mapping that takes them all are delivered, but for one that was given up. The bus is killed while
/// it tells that.
fn dead_letters_are_replayed(cluster: &mut Cluster, search: &OpenSearch) -> Result<()> {
    let one = oldest(cluster)?["no"].to_string();
    ctl(cluster, &["purge", "--yes", "--no", &one], true)?;
    must_agree(cluster, LINES, [DEAD - 1, 1, 0])?;
    search.ask("POST", "/dead/_close", &Value::Null)?;
    let lenient = json!({ "index.mapping.ignore_malformed": true });
    search.ask("PUT", "/dead/_settings", &lenient)?;
    search.ask("POST", "/dead/_open", &Value::Null)?;
    ctl(cluster, &["replay"], true)?;
    cluster.bus.kill_and_start()?;
    let left = letters(cluster)?;
    ensure!(left["letters"] == 0, "{left}");
    let found = search.count("dead")?;
    ensure!(found == LINES - 1, "{found} documents after the replay");
    must_agree(cluster, LINES, [0, 1, DEAD - 1])?;
    manager_must_list(cluster, 0)
}

/// Lines of which some do not fit the index: the rest of their batches goes on, they are kept with their
/// reason, and delivered when the mapping is mended. Then the index is closed to writing for a while.
#[test]
fn what_does_not_fit_the_mapping_is_kept_and_replayed_and_a_block_is_waited_for() -> Result<()> {
    let search = opensearch::shared()?;
    scratch::scenario("search-dead", |folder| {
        let mapping = json!({ "mappings": { "properties": { "n": { "type": "long" } } } });
        search.ask("PUT", "/dead", &mapping)?;
        let layout = layout(folder, "dead", search, "document = \"json\"", "{topic}");
        let mut cluster = layout.start()?;
        let logs = folder.join("logs");
        fs::create_dir_all(&logs)?;
        let mut file = File::create(logs.join("app.log"))?;
        write_mixed(&mut file)?;
        // A kill behind the first of them, mostly before the manager has heard of any.
        let some = |seen: &Value| seen["letters"].as_u64() > Some(0);
        poll::until_seen("a dead letter", LIMIT, || letters(&cluster), some)?;
        cluster.bus.kill_and_start()?;
        must_agree(&cluster, LINES, [DEAD, 0, 0])?;
        let found = search.count("dead")?;
        ensure!(found == LINES - DEAD, "{found} documents, {DEAD} are dead");
        dead_letters_are_kept(&mut cluster)?;
        dead_letters_are_replayed(&mut cluster, search)?;

        let block = |on: Value| {
            let settings = json!({ "index.blocks.write": on });
            search.ask("PUT", "/dead/_settings", &settings).map(drop)
        };
        block(json!(true))?;
        let lines = LINES + 1_000;
        for n in LINES..lines {
            writeln!(file, "{{\"n\":{n},\"at\":{n}}}")?;
        }
        let blocked = |seen: &Value| {
            let detail = seen["detail"].to_string();
            seen["state"] == "half-dead" && detail.contains("cluster_block_exception")
        };
        poll::until_seen("a block", LIMIT, || destination(&cluster), blocked)?;
        ensure!(search.count("dead")? == LINES - 1, "the block was none");
        block(Value::Null)?;
        must_agree(&cluster, lines, [0, 1, DEAD - 1])?;
        let documents = search.documents("dead")?;
        let at = documents.values().filter_map(|one| one["at"].as_u64());
        let objects = at.collect::<BTreeSet<_>>().len() as u64;
        // As many lines are no objects, and one object was given up.
        ensure!(
            documents.len() as u64 == lines - 1 && objects == lines - DEAD - 1,
            "{} documents, {objects} of them objects",
            documents.len()
        );
        cluster.stop()
    })
}
