//! A Kafka that hangs: sockets open, no answers. What it was given stays in the node's memory until it answers, so
//! it is the fault that an outage by refused connections does not show.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use tokio::time::Instant;
use tributary_tests::{
    cluster::{Cluster, Layout, SETTLE_LIMIT, for_each_seed, glob_of, topic_name},
    http,
    kafka::Kafka,
    ledger::{self, Counts},
    oracle::Verdict,
    poll, say, scratch,
    writer::{Background, Schedule, Writer, Written},
};

/// By then everything that was read is on the bus's disk, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// An orderly stop has ten seconds; the rest is for a busy machine to start and end processes.
const STOPS_WITHIN: Duration = Duration::from_secs(12);
/// A node with little memory, and a second destination, which is well.
const NODE: &str = "[limits]\nmemory = \"16MiB\"\n[spill]\n[[destination]]\nname = \"well\"\n\
                    kind = \"discard\"\n[[route]]\ntopic = \"other\"\nto = [{ destination = \"well\" }]\n";

/// One alone is not granted all of a node's memory.
const AGENTS: u32 = 4;

/// Either producer, by the seed, and a usual class or the most urgent one.
fn layout(folder: &Path, kafka: &Kafka, topic: &str, seed: u64) -> Layout {
    let layout = Layout::new(folder, topic).delivers_to(&kafka.bootstrap(), &[]);
    let layout = match seed % 2 {
        0 => layout.verbatim(),
        _ => layout,
    };
    layout.class(if seed % 2 == seed / 2 % 2 { "P2" } else { "P0" })
}

/// Waits until the agents have handed over `lines`, all that were written, and most lie on the disk.
fn until_on_disk(cluster: &Cluster, lines: u64) -> Result<()> {
    let look = || ledger::topic(cluster.manager.admin(), &cluster.topic);
    let seen = poll::until_seen("every line to be on the disk", LIMIT, look, |seen| {
        seen.read == lines
            && seen.in_flight == seen.spilled
            && seen.delivered + seen.spilled == lines
    })?;
    ensure!(
        seen.spilled > lines / 2 && seen.unexplained == 0 && seen.doubled == 0,
        "while it hangs: {seen:?}"
    );
    Ok(())
}

/// Of lines for the other destination, sent a while long: how many requests, and the longest of them. One that is
/// told to come again does.
fn posts(cluster: &Cluster, class: &str, how_long: Duration) -> Result<(u32, Duration)> {
    let (begun, mut count, mut longest) = (Instant::now(), 0, Duration::ZERO);
    let path = format!("/v1/lines/other?class={class}");
    while begun.elapsed() < how_long {
        let sent = Instant::now();
        poll::until("lines for the other destination", LIMIT, || {
            let answer = http::post(&cluster.listen, &path, &[], b"a line\n")?;
            ensure!(
                [200, 429].contains(&answer.status),
                "{} {}",
                answer.status,
                answer.text()
            );
            Ok((answer.status == 200).then_some(()))
        })?;
        longest = longest.max(sent.elapsed());
        count += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok((count, longest))
}

/// More comes for a Kafka that hangs than the node has memory: it takes no more of that than its share, so all
/// of it goes to the disk, and what goes elsewhere is delivered as ever.
#[test]
fn a_kafka_that_hangs_under_a_flood_keeps_the_memory_from_nobody() -> Result<()> {
    let mut kafka = Kafka::start(&scratch::create("kafka-hung")?)?;
    for_each_seed("hung", 2, |seed, folder| {
        let topic = topic_name("hung", seed);
        kafka.create_topic(&topic, 4)?;
        let new = |file| Writer::new(&folder.join("logs"), file, seed);
        let mut writers = (0..AGENTS).map(new).collect::<Result<Vec<Writer>>>()?;
        let layout = layout(folder, &kafka, &topic, seed).extra("", "", NODE);
        let with_agent = |layout: Layout, writer| layout.agent(&[glob_of(writer)]);
        let mut cluster = writers.iter().fold(layout, with_agent).start()?;
        let mut write = |lines| writers.iter_mut().try_for_each(|one| one.write(lines));
        write(100)?;
        let first = u64::from(AGENTS) * 100;
        let look = || ledger::topic(cluster.manager.admin(), &topic);
        let all = |seen: &Counts| seen.delivered == first;
        poll::until_seen("the first lines", LIMIT, look, all)?;
        kafka.pause()?;
        write(60_000)?;
        let (count, longest) = posts(&cluster, "P3", Duration::from_secs(12))?;
        let written: Vec<Written> = writers.iter().map(|one| one.written().clone()).collect();
        until_on_disk(&cluster, written.iter().map(Written::lines).sum())?;
        let status = cluster.bus.status()?;
        kafka.resume()?;
        let memory = &status["memory"];
        ensure!(
            memory["used_bytes"].as_u64() <= memory["limit_bytes"].as_u64().map(|all| all / 2),
            "{status:#}"
        );
        ensure!(longest < Duration::from_secs(5), "{longest:?}");
        cluster.must_deliver(&kafka, &written)?;
        say(&format!(
            "hung {seed}: {count} posts elsewhere, the longest {longest:?}; {memory}"
        ));
        cluster.stop()
    })
    .map(drop)
}

/// A bus is stopped while its Kafka hangs: it ends in order within its time, what it could not deliver lies on its
/// disk, and what the Kafka takes after all when it goes on is known by then.
#[test]
fn a_bus_that_stops_while_its_kafka_hangs_ends_in_time_and_loses_nothing() -> Result<()> {
    let mut kafka = Kafka::start(&scratch::create("kafka-hung-stop")?)?;
    for_each_seed("hung-stop", 2, |seed, folder| {
        let topic = topic_name("hung-stop", seed);
        kafka.create_topic(&topic, 2)?;
        let writer = Writer::new(&folder.join("logs"), 0, seed)?;
        let mut cluster = layout(folder, &kafka, &topic, seed)
            .agent(&[glob_of(&writer)])
            .start()?;
        let schedule = Schedule {
            lines: 12_000,
            per_second: 1_000,
            rotations: Vec::new(),
        };
        let background = Background::start(writer, schedule);
        let look = || ledger::topic(cluster.manager.admin(), &topic);
        poll::until_seen("some lines", LIMIT, look, |seen| seen.delivered > 500)?;
        kafka.pause()?;
        // Before it is known that it hangs, and after.
        std::thread::sleep(Duration::from_millis(if seed % 2 == 0 {
            4_500
        } else {
            700
        }));
        let stopping = Instant::now();
        cluster.bus.stop_cleanly()?;
        let took = stopping.elapsed();
        ensure!(took < STOPS_WITHIN, "it took {took:?}");
        cluster.bus.start()?;
        std::thread::sleep(Duration::from_secs(1));
        kafka.resume()?;
        let written = [background.finish()?.written().clone()];
        let lines = written[0].lines();
        let look = || ledger::topic(cluster.manager.admin(), &topic);
        let counts = poll::until_seen("every line to be delivered", SETTLE_LIMIT, look, |seen| {
            [seen.read, seen.delivered] == [lines; 2] && seen.in_flight == 0
        })?;
        let verdict = Verdict::on_kafka(&written, &kafka.read_all(&topic)?);
        say(&format!(
            "hung stop {seed}: stopped in {took:?}; {verdict:?}, {counts:?}"
        ));
        verdict.must_be_perfect()?;
        cluster.stop()
    })
    .map(drop)
}
