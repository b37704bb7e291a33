//! Kill or hang anything at any moment: nothing missing, foreign, corrupt, doubled or out of order,
//! and the manager's counts equal the oracle's. Each fault runs with 20 seeds.
//!
//! A seed decides the files, how many, the rotations, the class, the producer and the moments.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use tributary_tests::{
    cluster::{Cluster, Layout, for_each_seed, topic_name},
    kafka::{Kafka, free_port},
    ledger::Counts,
    poll,
    proxy::{Mode, Proxy},
    say, scratch,
    writer::{Background, Rotation, Schedule, Writer, Written},
};

const SEEDS: u64 = 20;
/// The copy of a cut file is inside the glob, so no way of rotation loses a line by nature.
const WAYS: [Rotation; 3] = [Rotation::Rename, Rotation::Dated, Rotation::CopyTruncate];

/// What a seed decides, and the running writers.
struct Play {
    random: fastrand::Rng,
    writers: Vec<Background>,
}

impl Play {
    /// Two files that grow and rotate for two to three seconds, or twelve slow ones whose small batches
    /// are merged.
    fn start(seed: u64, folder: &Path, ways: &[Rotation]) -> Result<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut writers = Vec::new();
        let files = if seed % 8 >= 6 { 12 } else { 2 };
        for file in 0..files {
            let lines = random.u64(4_000..8_000) / u64::from(files);
            let per_second = random.u64(2_000..4_000) / u64::from(files);
            let rotations = random.usize(0..4);
            let schedule = Schedule::random(lines, per_second, rotations, ways, &mut random);
            writers.push(Background::start(
                Writer::new(folder, file, seed)?,
                schedule,
            ));
        }
        Ok(Self { random, writers })
    }

    /// Lets the line run for a random part of a second: the fault comes at any moment.
    fn any_moment(&mut self) {
        std::thread::sleep(Duration::from_millis(self.random.u64(50..900)));
    }

    fn finish(self) -> Result<Vec<Written>> {
        self.writers
            .into_iter()
            .map(|writer| Ok(writer.finish()?.written().clone()))
            .collect()
    }
}

/// The class decides how often batches are cut: every 20 ms, or every 200. Most seeds go through
/// librdkafka, some through the producer that forwards batches as they came.
fn layout(folder: &Path, topic: &str, bootstrap: &str, seed: u64) -> Layout {
    // Short timeouts: a hung broker is longer away than a client would wait.
    let options = [
        "\"socket.timeout.ms\" = \"1500\"",
        "\"reconnect.backoff.max.ms\" = \"500\"",
    ];
    let layout = Layout::new(folder, topic).delivers_to(bootstrap, &options);
    // Pairs of seeds, of both classes, take turns between the producers.
    let layout = match seed % 4 {
        2 | 3 => layout.verbatim(),
        _ => layout,
    };
    layout
        .class(if seed.is_multiple_of(2) { "P0" } else { "P2" })
        .agent(&[format!("{}/logs/app-*", folder.display())])
}

/// `fault` is done `times` times to a cluster, for each seed. The way to the broker takes 25 ms, so
/// that many faults come while a batch is in Kafka and nobody knows yet.
fn check(
    name: &str,
    times: usize,
    mut fault: impl FnMut(&mut Cluster, &mut fastrand::Rng) -> Result<()>,
) -> Result<()> {
    let port = free_port()?;
    let proxy = Proxy::start(&format!("127.0.0.1:{port}"))?;
    let folder = scratch::create(&format!("kafka-{name}"))?;
    let kafka = Kafka::start_at(&folder, port, &proxy.address())?;
    let mut sums = Sums::default();
    let seeds = for_each_seed(name, SEEDS, |seed, folder| {
        let topic = topic_name(name, seed);
        kafka.create_topic(&topic, 3)?;
        let mut cluster = layout(folder, &topic, &proxy.address(), seed).start()?;
        proxy.set(Mode::Delay(Duration::from_millis(25)));
        let mut play = Play::start(seed, &folder.join("logs"), &WAYS)?;
        for _ in 0..times {
            play.any_moment();
            fault(&mut cluster, &mut play.random)?;
        }
        let written = play.finish()?;
        proxy.set(Mode::Pass);
        sums.add(&cluster, cluster.must_deliver(&kafka, &written)?)
    })?;
    sums.must_have(Sums::hits, name, seeds)
}

/// As [`check`], with faults of the broker.
fn check_broker(
    name: &str,
    mut fault: impl FnMut(&mut Kafka, &mut fastrand::Rng) -> Result<()>,
) -> Result<()> {
    let mut kafka = Kafka::start(&scratch::create(&format!("kafka-{name}"))?)?;
    let mut sums = Sums::default();
    let seeds = for_each_seed(name, SEEDS, |seed, folder| {
        let topic = topic_name(name, seed);
        kafka.create_topic(&topic, 3)?;
        let cluster = layout(folder, &topic, &kafka.bootstrap(), seed).start()?;
        let mut play = Play::start(seed, &folder.join("logs"), &WAYS)?;
        play.any_moment();
        fault(&mut kafka, &mut play.random)?;
        let written = play.finish()?;
        sums.add(&cluster, cluster.must_deliver(&kafka, &written)?)
    })?;
    sums.must_have(|sums| sums.outages as u64, name, seeds)
}

/// What the faults left behind, over all seeds. Nothing at all in so many lives would say that they
/// came when nothing was on its way, and that the test proves nothing.
#[derive(Default)]
struct Sums {
    /// Lines that were delivered.
    delivered: u64,
    /// Lines that came to the bus again, and that it knew.
    removed: u64,
    /// Batches that a killed bus had delivered without knowing it, and that its next life found.
    found: usize,
    /// Times that the bus had batches on their way to a broker that was gone.
    outages: usize,
    /// Producers that the bus gave up.
    replaced: usize,
}

impl Sums {
    fn add(&mut self, cluster: &Cluster, counts: Counts) -> Result<()> {
        self.delivered += counts.delivered;
        self.removed += counts.duplicates_removed;
        let log = cluster.bus.log()?;
        self.found += log.matches("is found in the topic").count();
        self.outages += log.matches("the destination is down").count();
        self.replaced += log.matches("is replaced").count();
        Ok(())
    }

    /// Says all, and that the faults met something. A single seed may miss.
    fn must_have(&self, hits: impl Fn(&Self) -> u64, name: &str, seeds: u64) -> Result<()> {
        self.say(name, seeds);
        ensure!(
            hits(self) > 0 || seeds < SEEDS,
            "{name}: no fault came at a moment that mattered"
        );
        Ok(())
    }

    fn hits(&self) -> u64 {
        self.removed + self.found as u64
    }

    fn say(&self, name: &str, seeds: u64) {
        let Self {
            delivered,
            removed,
            found,
            outages,
            replaced,
        } = self;
        say(&format!(
            "{name}: {seeds} seeds, {delivered} lines delivered once; {removed} repeated lines removed, \
             {found} batches found in Kafka after a kill, {outages} outages of the destination, \
             {replaced} producers replaced"
        ));
    }
}

#[test]
fn kill_9_of_the_agent_loses_and_doubles_nothing() -> Result<()> {
    check("kill-agent", 3, |cluster, _| {
        cluster.agents[0].kill_and_start()
    })
}

#[test]
fn kill_9_of_the_bus_loses_and_doubles_nothing() -> Result<()> {
    check("kill-bus", 3, |cluster, _| cluster.bus.kill_and_start())
}

#[test]
fn kill_9_of_two_at_once_loses_and_doubles_nothing() -> Result<()> {
    check("kill-two", 4, |cluster, random| {
        let Cluster {
            manager,
            bus,
            agents,
            ..
        } = cluster;
        let mut nodes = [manager, bus, &mut agents[0]];
        random.shuffle(&mut nodes);
        let [first, second, _] = nodes;
        first.kill()?;
        second.kill_and_start()?;
        first.start()
    })
}

#[test]
fn kill_9_of_the_broker_loses_and_doubles_nothing() -> Result<()> {
    check_broker("kill-broker", |kafka, _| {
        kafka.kill()?;
        kafka.restart()
    })
}

/// The pause is longer than the session of the broker (3 s) and all timeouts of the bus (1.5 s).
#[test]
fn a_hung_broker_loses_and_doubles_nothing() -> Result<()> {
    check_broker("hang-broker", |kafka, random| {
        kafka.pause()?;
        std::thread::sleep(Duration::from_millis(random.u64(3_200..4_500)));
        kafka.resume()
    })
}

/// Partitions change their leaders, and replicas fall behind and come back. Seeds alternate between the
/// producers.
#[test]
fn one_broker_of_three_is_killed_again_and_again_and_nothing_is_lost_or_doubled() -> Result<()> {
    const TIMES: usize = 4;
    let folder = scratch::create("kafka-three")?;
    let first = Kafka::start(&folder.join("1"))?;
    let mut others = [
        first.join(&folder.join("2"), 2)?,
        first.join(&folder.join("3"), 3)?,
    ];
    let mut sums = Sums::default();
    let seeds = for_each_seed("kill-one-of-three", 2, |seed, folder| {
        let topic = topic_name("kill-one-of-three", seed);
        first.create_replicated_topic(&topic, 6)?;
        let cluster = Layout::new(folder, &topic).delivers_to(&first.bootstrap(), &[]);
        let cluster = match seed % 2 {
            0 => cluster.verbatim(),
            _ => cluster,
        };
        let cluster = cluster.agent(&[format!("{}/logs/app-*", folder.display())]);
        let cluster = cluster.class("P0").start()?;
        let schedule = Schedule {
            lines: 40_000,
            per_second: 2_000,
            rotations: Vec::new(),
        };
        let writer = Writer::new(&folder.join("logs"), 1, seed)?;
        let background = Background::start(writer, schedule);
        for time in 0..TIMES {
            let broker = &mut others[time % 2];
            broker.kill()?;
            broker.restart()?;
        }
        let written = [background.finish()?.written().clone()];
        sums.add(&cluster, cluster.must_deliver(&first, &written)?)
    })?;
    sums.say("kill-one-of-three", seeds);
    Ok(())
}

/// While the broker is away the agents hold, and say so; nothing is called lost.
#[test]
fn while_the_broker_is_down_lines_are_in_flight_and_not_lost() -> Result<()> {
    let mut kafka = Kafka::start(&scratch::create("kafka-down")?)?;
    scratch::scenario("broker-down", |folder| {
        kafka.create_topic("down", 1)?;
        kafka.kill()?;
        let cluster = layout(folder, "down", &kafka.bootstrap(), 1).start()?;
        let mut writer = Writer::new(&folder.join("logs"), 0, 0)?;
        writer.write(2_000)?;
        let counts = poll::until_seen(
            "the ledger to see lines in flight",
            Duration::from_secs(30),
            || tributary_tests::ledger::topic(cluster.manager.admin(), "down"),
            |counts| counts.read == 2_000 && counts.in_flight == 2_000,
        )?;
        ensure!(
            counts.delivered == 0 && counts.unexplained == 0,
            "{counts:?}"
        );
        kafka.restart()?;
        cluster
            .must_deliver(&kafka, &[writer.written().clone()])
            .map(drop)
    })
}
