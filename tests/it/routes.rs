//! Where topics go changes while lines flow: other rules, other settings of a destination, a cluster that
//! goes away and another that stands in for it.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use serde_json::Value;
use tributary_tests::{
    cluster::{Cluster, Layout, SETTLE_LIMIT, for_each_seed, glob_of, topic_name},
    http,
    kafka::{self, Arrived, Kafka},
    ledger,
    oracle::Verdict,
    poll, product, say, scratch,
    writer::{Background, Rotation, Schedule, Writer, Written},
};

/// A bus says something of it soon.
const SOON: Duration = Duration::from_secs(30);

/// Gives the bus another configuration and waits until it counts.
fn reload(bus: &mut product::Node, config: &str) -> Result<()> {
    let version = |bus: &product::Node| Ok(bus.status()?["config"]["version"].clone());
    let before = version(bus)?;
    bus.reload(config)?;
    let look = || version(bus);
    poll::until_seen("the configuration to count", SOON, look, |now| {
        *now != before
    })
    .map(drop)
}

/// Every line once in one of the places, each of which has them in order.
fn must_lie_once(written: &[Written], places: &[Vec<Arrived>]) -> Result<()> {
    for arrived in places {
        let verdict = Verdict::on_kafka(written, arrived);
        ensure!(verdict.disordered == 0, "out of order: {verdict:?}");
    }
    let all: Vec<Arrived> = places.iter().flatten().cloned().collect();
    // Between two places there is no order.
    Verdict {
        disordered: 0,
        ..Verdict::on_kafka(written, &all)
    }
    .must_be_perfect()
}

#[test]
fn routes_and_destinations_change_under_load_and_every_line_arrives_once() -> Result<()> {
    let kafka = kafka::shared()?;
    scratch::scenario("routes", |folder| {
        for topic in ["routes", "routes.b"] {
            kafka.create_topic(topic, 3)?;
        }
        let layout = Layout::new(folder, "routes").delivers_to(&kafka.bootstrap(), &[]);
        let mut writer = Writer::new(&folder.join("logs"), 1, 9)?;
        let other = Writer::new(&folder.join("logs"), 2, 9)?;
        let layout = layout.verbatim().agent(&[glob_of(&writer)]);
        let mut cluster = layout.agent(&[glob_of(&other)]).start()?;
        let good = fs::read_to_string(cluster.bus.folder().join("config.toml"))?;
        let route = "topic = \"*\"";
        ensure!(good.contains(route), "{good}");

        // Without a route the agent holds what it has and says why; with one it comes by itself.
        reload(&mut cluster.bus, &good.replace(route, "topic = \"other\""))?;
        writer.write(1_000)?;
        let agent = &cluster.agents[0];
        poll::until("the agent to say that there is no route", SOON, || {
            let said = agent.status()?.to_string();
            Ok(said.contains("no route matches the topic").then_some(()))
        })?;
        let held = ledger::topic(cluster.manager.admin(), "routes")?;
        ensure!(held.delivered == 0 && held.unexplained == 0, "{held:?}");
        cluster
            .bus
            .reload(&good.replace("[[route]]", "[[ruote]]"))?;
        poll::until("a fault", SOON, || {
            let config = cluster.bus.status()?["config"].clone();
            let fault = config["fault"].as_str().unwrap_or_default();
            Ok(fault.contains("did you mean \"route\"?").then_some(()))
        })?;
        reload(&mut cluster.bus, &good)?;

        let ways = [Rotation::Rename];
        let mut random = fastrand::Rng::with_seed(9);
        let schedule = Schedule::random(16_000, 4_000, 2, &ways, &mut random);
        let background = Background::start(other, schedule);
        let to = "to = [{ destination = \"main\" }]";
        let elsewhere = good.replace(
            to,
            "to = [{ destination = \"main\", topic = \"{topic}.b\" }]",
        );
        let others = good.replace(
            "options = {",
            "options = { \"socket.timeout.ms\" = \"20000\"",
        );
        ensure!(elsewhere != good && others != good, "{good}");
        let slowly = others.replace("[spill]\n", "[spill]\nmax = \"1GiB\"\n");
        ensure!(slowly != others, "{others}");
        for config in [&elsewhere, &good, &others, &slowly, &elsewhere, &good] {
            reload(&mut cluster.bus, config)?;
            std::thread::sleep(Duration::from_millis(300));
        }
        let other = background.finish()?;
        let written = [writer.written().clone(), other.written().clone()];
        let lines = written.iter().map(Written::lines).sum();
        ledger::must_agree(cluster.manager.admin(), "routes", lines, SETTLE_LIMIT)?;
        let places = [kafka.read_all("routes")?, kafka.read_all("routes.b")?];
        ensure!(!places[1].is_empty(), "nothing went elsewhere");
        must_lie_once(&written, &places)?;
        cluster.stop()
    })
}

/// What a topic that nobody wants brings is counted once at every hop, also when the bus is killed meanwhile, and
/// is nowhere.
#[test]
fn a_topic_that_nobody_wants_is_counted_and_kept_nowhere() -> Result<()> {
    scratch::scenario("nowhere", |folder| {
        let writer = Writer::new(&folder.join("logs"), 1, 9)?;
        let layout = Layout::new(folder, "nowhere").discards();
        let mut cluster = layout.agent(&[glob_of(&writer)]).start()?;
        let schedule = Schedule {
            lines: 20_000,
            per_second: 5_000,
            rotations: Vec::new(),
        };
        let background = Background::start(writer, schedule);
        std::thread::sleep(Duration::from_millis(1_500));
        cluster.bus.kill_and_start()?;
        let lines = background.finish()?.written().lines();
        let counts = ledger::must_agree(cluster.manager.admin(), "nowhere", lines, SETTLE_LIMIT)?;
        ensure!(counts.delivered == lines, "{counts:?}");
        let status = cluster.bus.status()?;
        let held = &status["spill"]["destinations"][0]["batches"];
        ensure!(*held == 0, "{held} batches wait for nothing");
        cluster.stop()
    })
}

/// Writes a line every few ms until the bus says that the route uses a destination.
fn write_until(cluster: &Cluster, writer: &mut Writer, uses: &str) -> Result<Value> {
    poll::until(&format!("the route to use {uses}"), SETTLE_LIMIT, || {
        writer.write(20)?;
        let route = cluster.bus.status()?["routes_with_standby"][0].clone();
        Ok((route["uses"] == uses).then_some(route))
    })
}

/// How the bus calls the state of a destination.
fn state_of(cluster: &Cluster, name: &str) -> Result<String> {
    let status = cluster.bus.status()?;
    let all = status["destinations"].as_array().cloned();
    let found = all.into_iter().flatten().find(|one| one["name"] == name);
    let found = found.and_then(|one| Some(one["state"].as_str()?.to_owned()));
    Ok(found.unwrap_or_default())
}

/// The first cluster is killed, or hangs, under load: the second takes over, and gives back when the
/// first has been well for a while. Meanwhile the first one gets other settings. Each line lies in exactly one of
/// them, in order.
#[test]
fn a_standby_cluster_takes_over_and_gives_back_and_every_line_lies_in_one_of_them() -> Result<()> {
    let mut first = Kafka::start(&scratch::create("kafka-first")?)?;
    let second = kafka::shared()?;
    for_each_seed("standby", 2, |seed, folder| {
        let topic = topic_name("standby", seed);
        first.create_topic(&topic, 3)?;
        second.create_topic(&topic, 3)?;
        let mut writer = Writer::new(&folder.join("logs"), 1, seed)?;
        let layout = Layout::new(folder, &topic).delivers_to(&first.bootstrap(), &[]);
        let layout = match seed % 2 {
            0 => layout.verbatim(),
            _ => layout,
        };
        let mut cluster = layout.agent(&[glob_of(&writer)]).start()?;
        let config = fs::read_to_string(cluster.bus.folder().join("config.toml"))?;
        let config = with_standby(&config, second);
        reload(&mut cluster.bus, &config)?;
        write_until(&cluster, &mut writer, "main")?;
        poll::until("lines in the first cluster", SOON, || {
            writer.write(20)?;
            let counts = ledger::topic(cluster.manager.admin(), &topic)?;
            Ok((counts.delivered > 0).then_some(()))
        })?;
        match seed % 2 {
            0 => first.kill()?,
            _ => first.pause()?,
        }
        write_until(&cluster, &mut writer, "b")?;
        let is = if seed % 2 == 0 { "down" } else { "hanging" };
        let look = || state_of(&cluster, "main");
        poll::until_seen(&format!("main to be called {is}"), SOON, look, |state| {
            state == is
        })?;
        // What the first one was given lies on the disk by now, and goes on to the same cluster.
        let others = config.replace(
            "options = {",
            "options = { \"socket.timeout.ms\" = \"20000\"",
        );
        ensure!(others != config, "{config}");
        reload(&mut cluster.bus, &others)?;
        for _part in 0..20 {
            writer.write(50)?;
            std::thread::sleep(Duration::from_millis(20));
        }
        match seed % 2 {
            0 => first.restart()?,
            _ => first.resume()?,
        }
        let route = write_until(&cluster, &mut writer, "main")?;
        ensure!(
            route["switches"].as_array().map(Vec::len) == Some(2),
            "{route}"
        );
        writer.write(1_000)?;
        let written = [writer.written().clone()];
        recorded(cluster.manager.admin())?;
        ledger::must_agree(
            cluster.manager.admin(),
            &topic,
            written[0].lines(),
            SETTLE_LIMIT,
        )?;
        let places = [first.read_all(&topic)?, second.read_all(&topic)?];
        let lines = places.each_ref().map(Vec::len);
        ensure!(lines.iter().all(|&lines| lines > 0), "{lines:?}");
        must_lie_once(&written, &places)?;
        say(&format!("standby {seed}: {lines:?} lines, {route}"));
        cluster.stop()
    })
    .map(drop)
}

/// The manager has it that one cluster stood in for the other, and from when to when.
fn recorded(manager: &str) -> Result<()> {
    let look = || http::get(manager, "/api/v1/switches?cluster=dc1")?.json();
    let both = |seen: &Value| seen["switches"].as_array().map(Vec::len) == Some(2);
    let seen = poll::until_seen("both switches", SOON, look, both)?;
    let (back, away) = (&seen["switches"][0], &seen["switches"][1]);
    ensure!(
        [&away["from"], &away["to"]] == ["main", "b"]
            && [&back["from"], &back["to"]] == ["b", "main"]
            && away["at_ms"] == back["used_from_ms"]
            && back["at_ms"].as_u64() > away["at_ms"].as_u64()
            && away["node"] == "bus1",
        "{seen:#}"
    );
    Ok(())
}

/// A bus is killed at random moments around the switch to a standby cluster and around the way back. What was on
/// its way to a cluster that did not answer may lie in both (ADR 0023): no more than an agent has under way.
#[test]
fn a_bus_killed_while_it_switches_to_a_standby_and_back_loses_nothing() -> Result<()> {
    let mut first = Kafka::start(&scratch::create("kafka-switching")?)?;
    let second = kafka::shared()?;
    for_each_seed("switching", 2, |seed, folder| {
        let topic = topic_name("switching", seed);
        first.create_topic(&topic, 2)?;
        second.create_topic(&topic, 2)?;
        let writer = Writer::new(&folder.join("logs"), 1, seed)?;
        let layout = Layout::new(folder, &topic).delivers_to(&first.bootstrap(), &[]);
        let layout = match seed % 4 {
            0 | 3 => layout.verbatim(),
            _ => layout,
        };
        let mut cluster = layout.agent(&[glob_of(&writer)]).start()?;
        let config = fs::read_to_string(cluster.bus.folder().join("config.toml"))?;
        reload(&mut cluster.bus, &with_standby(&config, second))?;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut moment = |most| std::thread::sleep(Duration::from_millis(random.u64(0..most)));
        let schedule = Schedule {
            lines: 12_000,
            per_second: 500,
            rotations: Vec::new(),
        };
        let background = Background::start(writer, schedule);
        moment(2_000);
        match seed % 2 {
            0 => first.kill()?,
            _ => first.pause()?,
        }
        moment(9_000);
        cluster.bus.kill_and_start()?;
        until_used(&cluster, "b")?;
        match seed % 2 {
            0 => first.restart()?,
            _ => first.resume()?,
        }
        moment(12_000);
        cluster.bus.kill_and_start()?;
        let written = [background.finish()?.written().clone()];
        let lines = written[0].lines();
        let look = || ledger::topic(cluster.manager.admin(), &topic);
        let counts = poll::until_seen("every line to be delivered", SETTLE_LIMIT, look, |seen| {
            [seen.read, seen.delivered] == [lines; 2] && seen.in_flight == 0
        })?;
        let places = [first.read_all(&topic)?, second.read_all(&topic)?].concat();
        let verdict = Verdict::on_kafka(&written, &places);
        say(&format!("switching {seed}: {verdict:?}, {counts:?}"));
        ensure!(
            [verdict.missing, verdict.foreign, verdict.corrupt] == [0; 3]
                && verdict.doubled < lines / 4
                && counts.unexplained == 0,
            "{verdict:?} {counts:?}"
        );
        cluster.stop()
    })
    .map(drop)
}

/// The configuration with a cluster that stands in for the only one.
fn with_standby(config: &str, second: &Kafka) -> String {
    let to = "to = [{ destination = \"main\" }]";
    let standby = format!(
        "to = [{{ destination = \"main\", standby = [\"b\"] }}]\n[[destination]]\nname = \"b\"\n\
         kind = \"kafka\"\nbootstrap = [{:?}]\n",
        second.bootstrap()
    );
    config.replace(to, &standby)
}

/// Waits until the bus says that the route uses a destination.
fn until_used(cluster: &Cluster, uses: &str) -> Result<()> {
    let look = || Ok(cluster.bus.status()?["routes_with_standby"][0]["uses"].clone());
    let what = format!("the route to use {uses}");
    poll::until_seen(&what, SETTLE_LIMIT, look, |now| *now == uses).map(drop)
}
