//! An outage of Kafka costs the agents nothing: the bus acknowledges from its disk, and delivers that
//! later, once and in order, whoever is killed meanwhile.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tributary_tests::{
    cluster::{Cluster, Layout, for_each_seed, topic_name},
    kafka::{Kafka, free_port},
    ledger::{self, Counts},
    poll, product,
    proxy::{Mode, Proxy},
    say, scratch,
    writer::{Background, Rotation, Schedule, Writer, Written},
};

/// By then everything that was read is on the bus's disk.
const SPILL_LIMIT: Duration = Duration::from_secs(60);
const WAYS: [Rotation; 2] = [Rotation::Rename, Rotation::Dated];

/// A broker behind a hop that can be cut.
struct Away {
    kafka: Kafka,
    proxy: Proxy,
}

impl Away {
    fn start(name: &str) -> Result<Self> {
        let port = free_port()?;
        let proxy = Proxy::start(&format!("127.0.0.1:{port}"))?;
        let folder = scratch::create(&format!("kafka-{name}"))?;
        let kafka = Kafka::start_at(&folder, port, &proxy.address())?;
        Ok(Self { kafka, proxy })
    }

    fn go(&self) {
        self.proxy.set(Mode::Refuse);
        self.proxy.cut();
    }

    /// It is back, slowly enough that a moment of the drain can be met.
    fn come_back(&self) {
        self.proxy.set(Mode::Delay(Duration::from_millis(25)));
    }
}

fn layout(folder: &Path, topic: &str, away: &Away, seed: u64, spill: &str) -> Layout {
    let options = [
        "\"socket.timeout.ms\" = \"1500\"",
        "\"reconnect.backoff.max.ms\" = \"500\"",
    ];
    let layout = Layout::new(folder, topic).delivers_to(&away.proxy.address(), &options);
    let layout = match seed % 2 {
        0 => layout.verbatim(),
        _ => layout,
    };
    layout
        .class(if seed % 4 < 2 { "P0" } else { "P2" })
        .extra("", "", &format!("[spill]\n{spill}\n"))
        .agent(&[format!("{}/logs/app-*", folder.display())])
}

fn counts(cluster: &Cluster) -> Result<Counts> {
    ledger::topic(cluster.manager.admin(), &cluster.topic)
}

/// Waits until the agents have handed over `lines`, all that were written.
fn until_acknowledged(cluster: &Cluster, lines: u64) -> Result<Counts> {
    let seen = poll::until_seen(
        "every line to be delivered or on the disk of the bus",
        SPILL_LIMIT,
        || counts(cluster),
        |seen| {
            seen.read == lines
                && seen.in_flight == seen.spilled
                && seen.delivered + seen.spilled == lines
        },
    )?;
    ensure!(
        seen.unexplained == 0 && seen.doubled == 0,
        "during the outage: {seen:?}"
    );
    Ok(seen)
}

/// The spill of the bus's one destination, by its `/status`.
fn lane(cluster: &Cluster) -> Result<serde_json::Value> {
    let status = cluster.bus.status()?;
    Ok(status["spill"]["destinations"][0].clone())
}

fn until_drained(cluster: &Cluster) -> Result<()> {
    poll::until_seen(
        "an empty spill",
        SPILL_LIMIT,
        || lane(cluster),
        |lane| lane["batches"] == 0 && lane["state"] == "direct",
    )
    .map(drop)
}

/// Two files that grow and rotate for a second or two.
fn start_writers(seed: u64, folder: &Path, random: &mut fastrand::Rng) -> Result<Vec<Background>> {
    let start = |file| {
        let (lines, per_second) = (random.u64(2_000..4_000), random.u64(1_500..3_000));
        let schedule = Schedule::random(lines, per_second, random.usize(0..3), &WAYS, random);
        let writer = Writer::new(&folder.join("logs"), file, seed)?;
        Ok(Background::start(writer, schedule))
    };
    (0..2).map(start).collect()
}

fn finish(writers: Vec<Background>) -> Result<Vec<Written>> {
    let finish = |writer: Background| Ok(writer.finish()?.written().clone());
    writers.into_iter().map(finish).collect()
}

/// Kafka goes away at a moment, comes back at another; meanwhile the bus is killed, or stopped in
/// order, and again while it drains. Before Kafka is back, every agent has been acknowledged.
#[test]
fn an_outage_costs_the_agents_nothing_and_kills_of_the_bus_lose_and_double_nothing() -> Result<()> {
    let away = Away::start("spill")?;
    let mut drained = 0;
    let seeds = for_each_seed("spill", 4, |seed, folder| {
        let topic = topic_name("spill", seed);
        away.proxy.set(Mode::Pass);
        away.kafka.create_topic(&topic, 3)?;
        let mut cluster = layout(folder, &topic, &away, seed, "").start()?;
        let mut random = fastrand::Rng::with_seed(seed);
        let moment = |random: &mut fastrand::Rng, most| {
            std::thread::sleep(Duration::from_millis(random.u64(20..most)));
        };
        let writers = start_writers(seed, folder, &mut random)?;
        moment(&mut random, 600);
        away.go();
        moment(&mut random, 900);
        match seed % 3 {
            0 => cluster.bus.kill_and_start()?,
            1 => {
                cluster.bus.stop_cleanly()?;
                cluster.bus.start()?;
            }
            _ => {
                // It flaps.
                away.proxy.set(Mode::Pass);
                moment(&mut random, 300);
                away.go();
            }
        }
        let written = finish(writers)?;
        let lines = written.iter().map(Written::lines).sum();
        let seen = until_acknowledged(&cluster, lines)?;
        ensure!(seen.spilled > 0, "nothing was spilled: {seen:?}");
        if seed % 2 == 1 {
            cluster.bus.kill_and_start()?;
        }
        away.come_back();
        moment(&mut random, 1_500);
        cluster.bus.kill_and_start()?;
        away.proxy.set(Mode::Pass);
        let delivered = cluster.must_deliver(&away.kafka, &written)?;
        until_drained(&cluster)?;
        drained += seen.spilled;
        say(&format!(
            "spill {seed}: {} spilled, {delivered:?}",
            seen.spilled
        ));
        Ok(())
    })?;
    say(&format!(
        "spill: {seeds} seeds, {drained} lines went over the disk"
    ));
    Ok(())
}

/// Kafka comes and goes every five seconds, twice, and is away for ten; by either producer.
#[test]
fn a_kafka_that_flaps_while_lines_flow_loses_and_doubles_nothing() -> Result<()> {
    let away = Away::start("spill-flaps")?;
    scratch::scenario("spill-flaps", |folder| {
        let start = |seed: u64| {
            let (topic, folder) = (topic_name("flaps", seed), folder.join(seed.to_string()));
            away.kafka.create_topic(&topic, 3)?;
            let cluster = layout(&folder, &topic, &away, seed, "").start()?;
            let schedule = Schedule {
                lines: 30_000,
                per_second: 1_200,
                rotations: Vec::new(),
            };
            let writer = Writer::new(&folder.join("logs"), 0, seed)?;
            anyhow::Ok((cluster, Background::start(writer, schedule)))
        };
        let both = [start(0)?, start(1)?];
        let mut is_away = false;
        for seconds in [2, 5, 5, 5, 5, 10] {
            std::thread::sleep(Duration::from_secs(seconds));
            if is_away {
                away.proxy.set(Mode::Pass);
            } else {
                away.go();
            }
            is_away = !is_away;
        }
        for (cluster, writer) in both {
            let written = finish(vec![writer])?;
            let counts = cluster.must_deliver(&away.kafka, &written)?;
            until_drained(&cluster)?;
            let spilled = lane(&cluster)?["spilled_batches"].clone();
            ensure!(spilled.as_u64() > Some(0), "nothing was spilled");
            say(&format!("flaps: {counts:?}, {spilled} batches spilled"));
        }
        Ok(())
    })
}

/// Kafka is away for a minute, and in it comes what ten minutes bring; by either producer. In the soak: it takes
/// some minutes.
#[test]
#[ignore = "takes minutes: `make soak`"]
fn what_comes_in_ten_minutes_of_outage_waits_on_the_disk_and_arrives_once() -> Result<()> {
    const LINES: u64 = 600_000;
    const AWAY: Duration = Duration::from_mins(1);
    let away = Away::start("spill-long")?;
    scratch::scenario("spill-long", |folder| {
        let start = |seed: u64| {
            let (topic, folder) = (topic_name("long", seed), folder.join(seed.to_string()));
            away.kafka.create_topic(&topic, 3)?;
            let cluster = layout(&folder, &topic, &away, seed, "").start()?;
            let schedule = Schedule {
                lines: LINES,
                per_second: LINES / AWAY.as_secs(),
                rotations: Vec::new(),
            };
            let writer = Writer::new(&folder.join("logs"), 0, seed)?;
            anyhow::Ok((cluster, Background::start(writer, schedule)))
        };
        let both = [start(0)?, start(1)?];
        std::thread::sleep(Duration::from_secs(1));
        away.go();
        std::thread::sleep(AWAY);
        let mut told = Vec::new();
        for (cluster, writer) in both {
            let written = finish(vec![writer])?;
            let seen = until_acknowledged(&cluster, LINES)?;
            told.push((cluster, written, seen.spilled));
        }
        away.proxy.set(Mode::Pass);
        for (cluster, written, spilled) in told {
            ensure!(spilled > LINES * 9 / 10, "{spilled} lines were spilled");
            let counts = cluster.must_deliver(&away.kafka, &written)?;
            until_drained(&cluster)?;
            say(&format!("ten minutes: {counts:?}"));
        }
        Ok(())
    })
}

/// What does not fit stays with the agents; nothing is lost, and the table says what is where.
#[test]
fn a_full_spill_says_busy_and_loses_nothing() -> Result<()> {
    let away = Away::start("spill-full")?;
    scratch::scenario("spill-full", |folder| {
        away.kafka.create_topic("full", 1)?;
        away.go();
        let cluster = layout(folder, "full", &away, 2, "max = \"1MB\"").start()?;
        let mut writer = Writer::new(&folder.join("logs"), 0, 0)?;
        for _part in 0..20 {
            writer.write(2_000)?;
        }
        let lines = writer.written().lines();
        let seen = poll::until_seen(
            "a full spill",
            SPILL_LIMIT,
            || Ok((counts(&cluster)?, cluster.bus.status()?)),
            |(seen, status)| seen.read == lines && status["spill"]["full"].is_string(),
        )?;
        let (seen, status) = seen;
        ensure!(
            seen.delivered == 0 && seen.unexplained == 0 && seen.in_flight == lines,
            "{seen:?}"
        );
        let spill = &status["spill"];
        ensure!(
            spill["used_bytes"].as_u64() < spill["max_bytes"].as_u64().map(|max| max + max / 2),
            "{spill}"
        );
        away.proxy.set(Mode::Pass);
        cluster.must_deliver(&away.kafka, &[writer.written().clone()])?;
        until_drained(&cluster)
    })
}

/// A damaged record costs its batch, which the manager knows by its identity; all else arrives.
#[test]
fn a_damaged_spill_costs_what_is_damaged_and_the_ledger_says_what() -> Result<()> {
    let away = Away::start("spill-damage")?;
    scratch::scenario("spill-damage", |folder| {
        away.kafka.create_topic("damage", 1)?;
        away.go();
        let mut cluster = layout(folder, "damage", &away, 2, "").start()?;
        let mut writer = Writer::new(&folder.join("logs"), 0, 0)?;
        for _part in 0..5 {
            writer.write(2_000)?;
        }
        let lines = writer.written().lines();
        until_acknowledged(&cluster, lines)?;
        cluster.bus.kill()?;
        let spill = folder.join("bus/data/spill");
        inspect(folder, &spill, true)?;
        let segment = spill.join("main/0000000000000001.seg");
        let mut bytes = std::fs::read(&segment).context("no segment")?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        std::fs::write(&segment, bytes)?;
        let said = inspect(folder, &spill, false)?;
        ensure!(said.contains("damage"), "{said}");
        ensure!(said.contains("targets") && said.contains("next"), "{said}");
        cluster.bus.start()?;
        away.proxy.set(Mode::Pass);
        let seen = poll::until_seen(
            "all but the damaged batch",
            SPILL_LIMIT,
            || counts(&cluster),
            |seen| seen.in_flight == 0 && seen.dropped > 0,
        )?;
        ensure!(
            seen.unexplained == 0
                && seen.delivered + seen.dropped == lines
                && seen.delivered > 0
                && seen.doubled == 0,
            "{seen:?}"
        );
        let losses = tributary_tests::http::get(cluster.manager.admin(), "/api/v1/losses")?;
        ensure!(losses.text().contains("spill-damaged"), "{}", losses.text());
        let arrived = away.kafka.read_all("damage")?;
        ensure!(arrived.len() as u64 == seen.delivered, "{seen:?}");
        Ok(())
    })
}

/// What `tributary inspect spill --verify` says; it succeeds only where nothing is damaged.
fn inspect(folder: &Path, spill: &Path, sound: bool) -> Result<String> {
    let path = spill.display().to_string();
    let output = product::run(
        "tributary",
        &["inspect", "spill", &path, "--verify"],
        folder,
    )?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success() == sound,
        "inspect spill ended with {}: {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}
