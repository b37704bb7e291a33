//! Bus nodes and whole sites go away: agents go on elsewhere, and come home.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;
use tributary_common::{
    ids::{AgentId, Epoch, Zone},
    wire::{self, Frame, Hello, Prelude},
};
use tributary_tests::{
    child::Child,
    cluster::{Layout, glob_of},
    delivered, http, kafka, ledger,
    netns::{self, Sites},
    oracle::{Place, Verdict},
    poll,
    product::{Node, Part, program, run},
    say, scratch,
    writer::{Background, Schedule, Writer},
};

/// So many agents, each with a file of its own.
const AGENTS: u32 = 3;
/// Generous: a busy machine is slow. Without a quick failover it takes half a minute to leave a node
/// that hangs, and the rest comes on top.
const ELSEWHERE: Duration = Duration::from_secs(25);
const LIMIT: Duration = Duration::from_secs(90);
/// A site that is cut off is left within this: three seconds of silence, and a connection elsewhere.
const SITE_LEFT: Duration = Duration::from_secs(5);
/// An agent that went elsewhere stays there so long at least.
const RETURN_AFTER: Duration = Duration::from_secs(2);

fn steady(lines: u64) -> Schedule {
    Schedule {
        lines,
        per_second: 2_000,
        rotations: Vec::new(),
    }
}

/// The nodes of a bus, one after the other; under load.
fn check_nodes(name: &str, each: impl Fn(&mut Node) -> Result<()>) -> Result<()> {
    scratch::scenario(name, |folder| {
        let kafka = kafka::shared()?;
        // One partition: nodes choose for themselves, and the order is to be seen.
        kafka.create_topic(name, 1)?;
        let mut layout = Layout::new(folder, name)
            .delivers_to(&kafka.bootstrap(), &[])
            .class("P0")
            .buses(3);
        let mut writers = Vec::new();
        for agent in 0..AGENTS {
            let writer = Writer::new(&folder.join("logs"), agent, 1)?;
            layout = layout.agent(&[glob_of(&writer)]);
            writers.push(writer);
        }
        let mut cluster = layout.start()?;
        let writers = writers.into_iter();
        let writers: Vec<_> = writers
            .map(|writer| Background::start(writer, steady(16_000)))
            .collect();
        each(&mut cluster.bus)?;
        cluster.more_buses.iter_mut().try_for_each(&each)?;
        let written = writers.into_iter();
        let written = written.map(|one| Ok(one.finish()?.written().clone()));
        let written: Vec<_> = written.collect::<Result<_>>()?;
        cluster.must_deliver(kafka, &written).map(drop)
    })
}

#[test]
fn a_rolling_restart_of_three_nodes_under_load_loses_and_doubles_nothing() -> Result<()> {
    check_nodes("rolling-restart", |node| {
        thread::sleep(Duration::from_millis(500));
        node.stop_cleanly()?;
        node.start()
    })
}

/// A node hangs with batches in its hands, and goes on later: another one has delivered them by then.
#[test]
fn what_a_hung_node_delivers_too_late_is_doubled_and_counted_as_that() -> Result<()> {
    scratch::scenario("hung-node", |folder| {
        let (name, kafka) = ("hung-node", kafka::shared()?);
        kafka.create_topic(name, 1)?;
        let writer = Writer::new(&folder.join("logs"), 1, 1)?;
        let mut cluster = Layout::new(folder, name)
            .delivers_to(&kafka.bootstrap(), &[])
            .class("P0")
            .agent(&[glob_of(&writer)])
            .buses(2)
            .start()?;
        let manager = cluster.manager.admin().to_owned();
        let delivered = |least: u64, limit| {
            let look = || Ok(ledger::topic(&manager, name)?.delivered);
            poll::until_seen("more lines delivered", limit, look, |seen| *seen >= least)
        };
        let background = Background::start(writer, steady(16_000));
        let some = delivered(500, LIMIT)?;
        let is_first = connections(std::slice::from_ref(&cluster.bus))? == [1];
        let hung = match (is_first, &mut cluster.more_buses[..]) {
            (true, _) => &mut cluster.bus,
            (false, [other]) => other,
            (false, others) => bail!("{} nodes more", others.len()),
        };
        hung.pause()?;
        delivered(some + 4_000, ELSEWHERE)?;
        hung.resume()?;
        let written = [background.finish()?.written().clone()];
        let look = || {
            let verdict = Verdict::on_kafka(&written, &kafka.read_all(name)?);
            Ok((ledger::topic(&manager, name)?, verdict))
        };
        let (_, verdict) =
            poll::until_seen("counts that agree", LIMIT, look, |(counts, verdict)| {
                let lines = verdict.written;
                verdict.missing == 0
                    && counts.doubled == verdict.doubled
                    && [counts.read, counts.delivered] == [lines; 2]
                    && counts.in_flight == 0
            })?;
        say(&format!("hung node: {} lines doubled", verdict.doubled));
        verdict.must_be_complete()
    })
}

/// A bus in a site of its own, with files below `folder/site`.
fn bus(sites: &Sites, site: usize, folder: &Path) -> Result<Child> {
    let folder = folder.join(format!("site{site}"));
    let config = format!(
        "zone = \"site{site}\"\ncluster = \"site{site}\"\nnode = \"bus{site}\"\n\
         listen = \"{}:7400\"\ndata_dir = {:?}\n[[destination]]\nname = \"files\"\nkind = \"file\"\n\
         path = {:?}\n[[route]]\ntopic = \"*\"\nto = [{{ destination = \"files\" }}]\n",
        sites.address(site),
        folder.join("data"),
        folder.join("delivered/{topic}"),
    );
    start("tributary-bus", &sites.site(site), &folder, &config)
}

fn start(name: &str, namespace: &str, folder: &Path, config: &str) -> Result<Child> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("config.toml"), config)?;
    let plan = netns::plan(namespace, &program(name)?)
        .args(["--config", "config.toml"])
        .folder(folder);
    Child::start(name, &plan, &folder.join("log"))
}

/// What a site has by now. Each site counts as a partition of its own.
fn delivered_at(folder: &Path, site: usize) -> Result<Vec<(Place, Vec<u8>)>> {
    delivered::lines(&folder.join(format!("site{site}/delivered")))
}

/// Writes until a site has got lines of every agent that it had not; how long that took.
fn more_at(
    writers: &mut [Writer],
    folder: &Path,
    site: usize,
    limit: Duration,
) -> Result<Duration> {
    let agents = 0..writers.len();
    let of_each = || -> Result<Vec<usize>> {
        let of = |agent| folder.join(format!("site{site}/delivered/x{agent}"));
        let agents = agents.clone();
        agents
            .map(|agent| Ok(delivered::lines(&of(agent))?.len()))
            .collect()
    };
    let (before, began) = (of_each()?, Instant::now());
    poll::until(&format!("more lines at site {site}"), limit, || {
        writers.iter_mut().try_for_each(|one| one.write(20))?;
        let more = of_each()?
            .into_iter()
            .zip(&before)
            .all(|(now, before)| now > *before);
        Ok(more.then_some(()))
    })?;
    Ok(began.elapsed())
}

/// An agent that is at home in the first site, and knows both.
fn agent_of(sites: &Sites, folder: &Path, number: u32, writer: &Writer) -> Result<Child> {
    let folder = folder.join(format!("agent{number}"));
    let cluster = |site: usize| {
        let address = sites.address(site);
        format!("[[bus]]\nname = \"site{site}\"\nnodes = [\"{address}:7400\"]\n")
    };
    let config = format!(
        "zone = \"site1\"\nstate_dir = {:?}\nadmin = \"127.0.0.1:0\"\nreturn_after = \"{}s\"\n{}{}\
         [[task]]\nid = \"t\"\ntopic = \"x{number}\"\nclass = \"P0\"\npaths = [{:?}]\n",
        folder.join("state"),
        RETURN_AFTER.as_secs(),
        cluster(1),
        cluster(2),
        glob_of(writer),
    );
    start("tributary-agent", &sites.middle(), &folder, &config)
}

#[test]
fn agents_leave_a_site_that_is_cut_off_and_come_home() -> Result<()> {
    scratch::scenario("site-loss", |folder| {
        let sites = Sites::new(2)?;
        let _buses = [bus(&sites, 1, folder)?, bus(&sites, 2, folder)?];
        let (mut writers, mut agents) = (Vec::new(), Vec::new());
        for agent in 0..AGENTS {
            let writer = Writer::new(&folder.join("logs"), agent, 1)?;
            agents.push(agent_of(&sites, folder, agent, &writer)?);
            writers.push(writer);
        }
        // Who is up first is chance: an agent that found its home not there yet comes from elsewhere.
        more_at(&mut writers, folder, 1, LIMIT)?;
        let elsewhere = delivered_at(folder, 2)?.len();
        more_at(&mut writers, folder, 1, LIMIT)?;
        ensure!(
            delivered_at(folder, 2)?.len() == elsewhere,
            "lines went elsewhere while home answered"
        );
        sites.cut(1)?;
        let went = more_at(&mut writers, folder, 2, SITE_LEFT)?;
        sites.mend(1)?;
        let came = more_at(&mut writers, folder, 1, LIMIT)?;
        // It counts from when the agent went, a moment before.
        ensure!(came >= RETURN_AFTER / 2, "home again after {came:?}");
        say(&format!(
            "site loss: elsewhere after {went:?}, home {came:?} after the end"
        ));
        let written: Vec<_> = writers.iter().map(|one| one.written().clone()).collect();
        let verdict = poll::until_seen(
            "all lines",
            LIMIT,
            || {
                let (first, second) = (delivered_at(folder, 1)?, delivered_at(folder, 2)?);
                let all = first.iter().chain(&second);
                let all = all.map(|(place, line)| (*place, line.as_slice()));
                Ok(Verdict::on(&written, all))
            },
            |verdict| verdict.missing == 0,
        )?;
        ensure!(verdict.foreign + verdict.corrupt == 0, "{verdict}");
        // What the first site had delivered and could not say: at most a window.
        say(&format!("site loss: {} lines doubled", verdict.doubled));
        ensure!(verdict.doubled < verdict.written / 2, "{verdict}");
        agents.iter_mut().try_for_each(Child::must_run)
    })
}

/// A bus whose destination is away, and which has no disk for that, tells every batch to come again: agents go
/// to the standby cluster, and come home when it takes batches.
#[test]
fn agents_leave_a_bus_that_takes_nothing_and_come_home() -> Result<()> {
    scratch::scenario("busy-bus", |folder| {
        let local = || anyhow::Ok(format!("127.0.0.1:{}", kafka::free_port()?));
        let files = |site: usize| folder.join(format!("site{site}/delivered"));
        let mut nodes = Vec::new();
        for site in 1..=2 {
            let (listen, admin): (String, String) = (local()?, local()?);
            let config = format!(
                "zone = \"dc{site}\"\ncluster = \"dc{site}\"\nnode = \"bus{site}\"\nlisten = {listen:?}\n\
                 admin = {admin:?}\ndata_dir = {:?}\n[spill]\nmax = \"0B\"\n[[destination]]\n\
                 name = \"files\"\nkind = \"file\"\n\
                 path = {:?}\n[[route]]\ntopic = \"*\"\nto = [{{ destination = \"files\" }}]\n",
                folder.join(format!("bus{site}/data")),
                files(site).join("{topic}"),
            );
            let mut node = Node::new(
                Part::Bus,
                &folder.join(format!("bus{site}")),
                &admin,
                &config,
            )?;
            node.start()?;
            nodes.push((node, listen));
        }
        // A file in the place of its folder: the first one can write nothing.
        std::fs::remove_dir_all(files(1))?;
        std::fs::write(files(1), "")?;
        let clusters: Vec<String> = nodes
            .iter()
            .zip(1..)
            .map(|((_node, listen), site)| {
                format!("[[bus]]\nname = \"dc{site}\"\nnodes = [{listen:?}]\n")
            })
            .collect();
        let mut writer = Writer::new(&folder.join("logs"), 1, 1)?;
        let (admin, state) = (local()?, folder.join("agent/state"));
        let config = format!(
            "zone = \"dc1\"\nstate_dir = {state:?}\nadmin = {admin:?}\nreturn_after = \"5s\"\n{}[[task]]\n\
             id = \"t\"\ntopic = \"x0\"\npaths = [{:?}]\n",
            clusters.concat(),
            glob_of(&writer),
        );
        let mut agent = Node::new(Part::Agent, &folder.join("agent"), &admin, &config)?;
        agent.start()?;
        let went = more_at(std::slice::from_mut(&mut writer), folder, 2, LIMIT)?;
        ensure!(went >= Duration::from_secs(20), "left after {went:?}");
        ensure!(
            delivered_at(folder, 1)?.is_empty(),
            "the first one took lines"
        );
        std::fs::remove_file(files(1))?;
        std::fs::create_dir(files(1))?;
        let came = more_at(std::slice::from_mut(&mut writer), folder, 1, LIMIT)?;
        say(&format!(
            "busy bus: elsewhere after {went:?}, home {came:?} after the end"
        ));
        let written = [writer.written().clone()];
        let look = || {
            let (first, second) = (delivered_at(folder, 1)?, delivered_at(folder, 2)?);
            let all = first.iter().chain(&second);
            let all = all.map(|(place, line)| (*place, line.as_slice()));
            Ok(Verdict::on(&written, all))
        };
        let verdict = poll::until_seen("all lines", LIMIT, look, |seen| seen.missing == 0)?;
        ensure!(
            [verdict.foreign, verdict.corrupt, verdict.doubled] == [0; 3],
            "{verdict}"
        );
        Ok(())
    })
}

/// How many agents each node has.
fn connections(nodes: &[Node]) -> Result<Vec<u64>> {
    let of = |node: &Node| Ok(node.status()?["connections"].as_u64().unwrap_or_default());
    nodes.iter().map(of).collect()
}

#[test]
fn an_operator_spreads_the_agents_evenly_under_load_and_nothing_moves_by_itself() -> Result<()> {
    const AGENTS: u32 = 9;
    scratch::scenario("rebalance", |folder| {
        let (name, kafka) = ("rebalance", kafka::shared()?);
        kafka.create_topic(name, 1)?;
        let mut layout = Layout::new(folder, name)
            .delivers_to(&kafka.bootstrap(), &[])
            .buses(3);
        let mut writers = Vec::new();
        for number in 0..AGENTS {
            let writer = Writer::new(&folder.join(format!("logs-{number}")), number, 1)?;
            layout = layout.agent(&[glob_of(&writer)]);
            writers.push(writer);
        }
        let mut cluster = layout.start()?;
        let all = |nodes: &[Node]| {
            poll::until_seen(
                "all agents",
                LIMIT,
                || connections(nodes),
                |seen| seen.iter().sum::<u64>() == u64::from(AGENTS),
            )
        };
        // Two nodes come back, and nobody with them.
        cluster
            .more_buses
            .iter_mut()
            .try_for_each(Node::stop_cleanly)?;
        all(std::slice::from_ref(&cluster.bus))?;
        cluster.more_buses.iter_mut().try_for_each(Node::start)?;
        ensure!(
            connections(&cluster.more_buses)? == [0, 0],
            "something moved"
        );
        let load = Schedule {
            lines: 2_000,
            per_second: 500,
            rotations: Vec::new(),
        };
        let start = |writer| Background::start(writer, load.clone());
        let writers: Vec<Background> = writers.into_iter().map(start).collect();
        let mut args = vec!["ctl", "rebalance", "--within", "2s", cluster.bus.admin()];
        args.extend(cluster.more_buses.iter().map(Node::admin));
        let output = run("tributary", &args, folder)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{}: {said}", output.status);
        ensure!(said.contains("bus1 hands over 6"), "{said}");
        let first = connections(std::slice::from_ref(&cluster.bus))?;
        let others = connections(&cluster.more_buses)?;
        ensure!(
            first == [3] && others == [3, 3],
            "{first:?} {others:?}: {said}"
        );
        let again = run("tributary", &args, folder)?;
        let said = String::from_utf8_lossy(&again.stdout).into_owned();
        ensure!(said.contains("nothing to do"), "{said}");
        let finish = |writer: Background| Ok(writer.finish()?.written().clone());
        let written: Vec<_> = writers.into_iter().map(finish).collect::<Result<_>>()?;
        cluster.must_deliver(kafka, &written).map(drop)
    })
}

/// Asks a manager for a window; its answer.
fn ask_for_window(manager: &str, nodes: &[&str]) -> Result<http::Answer> {
    let body = serde_json::to_vec(&json!({ "within_s": 1, "nodes": nodes }))?;
    let kind = ["content-type: application/json"];
    http::request(
        manager,
        "POST",
        "/api/v1/clusters/dc1/rebalance",
        &kind,
        &body,
    )
}

#[test]
fn the_manager_opens_a_window_in_its_answers_and_records_it() -> Result<()> {
    const AGENTS: u32 = 4;
    scratch::scenario("window", |folder| {
        let (name, kafka) = ("window", kafka::shared()?);
        kafka.create_topic(name, 1)?;
        let mut layout = Layout::new(folder, name)
            .delivers_to(&kafka.bootstrap(), &[])
            .buses(2);
        let mut writers = Vec::new();
        for number in 0..AGENTS {
            let writer = Writer::new(&folder.join(format!("logs-{number}")), number, 1)?;
            layout = layout.agent(&[glob_of(&writer)]);
            writers.push(writer);
        }
        let mut cluster = layout.start()?;
        let manager = cluster.manager.admin().to_owned();
        cluster
            .more_buses
            .iter_mut()
            .try_for_each(Node::stop_cleanly)?;
        let away = || ask_for_window(&manager, &["bus1", "bus2"]);
        let is_away =
            |answer: &http::Answer| answer.text().contains("bus2 of cluster dc1 is not ready");
        poll::until_seen("a node that stops is said to", LIMIT, away, is_away)?;
        cluster.more_buses.iter_mut().try_for_each(Node::start)?;
        let load = Schedule {
            lines: 1_500,
            per_second: 500,
            rotations: Vec::new(),
        };
        let start = |writer| Background::start(writer, load.clone());
        let writers: Vec<Background> = writers.into_iter().map(start).collect();
        // The manager knows that all are at one node when both have told so.
        let opened = |answer: &http::Answer| answer.status == 200;
        let ask = || ask_for_window(&manager, &["bus1", "bus2"]);
        poll::until_seen("a window", LIMIT, ask, opened)?;
        let record = || http::get(&manager, "/api/v1/audit")?.json();
        let over = |page: &Value| page["records"][0]["window"]["state"] == "even";
        let page = poll::until_seen("an even spread", LIMIT, record, over)?;
        let nodes = page["records"][0]["window"]["nodes"].to_string();
        ensure!(nodes.contains(r#""handed_over":2"#), "{nodes}");
        let first = connections(std::slice::from_ref(&cluster.bus))?;
        let other = connections(&cluster.more_buses)?;
        ensure!(first == [2] && other == [2], "{first:?} {other:?}");
        let finish = |writer: Background| Ok(writer.finish()?.written().clone());
        let written: Vec<_> = writers.into_iter().map(finish).collect::<Result<_>>()?;
        cluster.must_deliver(kafka, &written).map(drop)
    })
}

/// A session of one agent, up to its welcome.
fn greet(address: &str, number: usize) -> Result<TcpStream> {
    let (answer, mut stream) = http::upgrade(address, wire::STREAM_PATH, wire::PROTOCOL)?;
    ensure!(answer.status == 101, "answered {}", answer.status);
    let hello = Frame::Hello(Hello {
        agent: AgentId::new(&format!("agent-{number}"))?,
        host: "host".to_owned(),
        zone: Zone::new("dc1")?,
        epoch: Epoch(1),
        software: "herd".to_owned(),
    });
    stream.write_all(&wire::encode(&hello)?)?;
    let mut prelude = [0; wire::PRELUDE_BYTES];
    stream.read_exact(&mut prelude)?;
    let prelude = Prelude::decode(prelude)?;
    let mut bytes = vec![0; prelude.frame_bytes()];
    stream.read_exact(&mut bytes)?;
    let answer = wire::decode(prelude, bytes.into())?;
    ensure!(matches!(answer, Frame::Welcome(_)), "answered {answer:?}");
    Ok(stream)
}

/// All agents at once; every one must be welcomed at its first try.
fn herd(address: &str, agents: usize) -> Result<Vec<TcpStream>> {
    thread::scope(|scope| {
        let tries: Vec<_> = (0..agents)
            .map(|number| scope.spawn(move || greet(address, number)))
            .collect();
        let welcomed = tries.into_iter().map(|one| {
            let joined = one.join().map_err(|_panic| anyhow!("a try panicked"));
            joined.and_then(|greeted| greeted)
        });
        welcomed.collect()
    })
}

#[test]
fn agents_that_all_come_back_at_once_are_all_welcomed() -> Result<()> {
    const AGENTS: usize = 400;
    scratch::scenario("herd", |folder| {
        let mut cluster = Layout::new(folder, "herd").start()?;
        for _life in 0..2 {
            let began = Instant::now();
            let agents = herd(&cluster.listen, AGENTS)?;
            say(&format!("herd: {AGENTS} in {:?}", began.elapsed()));
            let seen = || connections(std::slice::from_ref(&cluster.bus));
            let all = |seen: &Vec<u64>| seen[..] == [AGENTS as u64];
            poll::until_seen("all of them", LIMIT, seen, all)?;
            cluster.bus.kill_and_start()?;
            drop(agents);
        }
        Ok(())
    })
}
