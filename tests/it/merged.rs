//! Many slow files: their small batches meet in one partition of many and reach Kafka merged, each line
//! once, in order.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use tributary_tests::{
    cluster::{Layout, topic_name},
    kafka::Kafka,
    scratch,
    writer::Writer,
};

const PARTITIONS: i32 = 8;
const FILES: u32 = 60;
const ROUNDS: u64 = 60;
/// A few lines of each file at a time: a batch for each.
const LINES: u64 = 2;
/// The class's own linger, so that every round is a batch of each file.
const PAUSE: Duration = Duration::from_millis(40);

/// The broker is killed twice while lines flow; what was on its way then is sent again as it was merged. The
/// bus is killed between, and its next life gives each file the partition that it had.
#[test]
fn small_batches_are_merged_and_a_killed_broker_loses_and_doubles_none() -> Result<()> {
    let mut kafka = Kafka::start(&scratch::create("kafka-merged")?)?;
    scratch::scenario("merged", |folder| {
        let topic = topic_name("merged", 0);
        kafka.create_topic(&topic, PARTITIONS)?;
        let logs = folder.join("logs");
        let mut cluster = Layout::new(folder, &topic)
            .delivers_to(&kafka.bootstrap(), &[])
            .verbatim()
            .class("P0")
            .agent(&[format!("{}/*", logs.display())])
            .start()?;
        let writers = (0..FILES).map(|file| Writer::new(&logs, file, 1));
        let mut writers = writers.collect::<Result<Vec<_>>>()?;
        for round in 0..ROUNDS {
            for writer in &mut writers {
                writer.write(LINES)?;
            }
            if [ROUNDS / 3, ROUNDS * 2 / 3].contains(&round) {
                kafka.kill()?;
                kafka.restart()?;
            }
            if round == ROUNDS / 2 {
                cluster.bus.kill_and_start()?;
            }
            std::thread::sleep(PAUSE);
        }
        let written: Vec<_> = writers.iter().map(|one| one.written().clone()).collect();
        cluster.must_deliver(&kafka, &written)?;

        let small = cluster
            .bus
            .metric("tributary_bus_merged_in_batches_total")?;
        let merged = cluster
            .bus
            .metric("tributary_bus_merged_out_batches_total")?;
        ensure!(
            merged > 0.0 && small > 2.0 * merged,
            "{small} batches were merged to {merged}"
        );
        cluster.stop()?;
        let records = kafka.read_all(&topic)?;
        let used: BTreeSet<i32> = records.iter().map(|record| record.partition).collect();
        ensure!(used.len() == 1, "slow files lie in partitions {used:?}");
        must_be_clean(&kafka, &topic, &used)
    })
}

/// Kafka's own tools open every batch and every record.
fn must_be_clean(kafka: &Kafka, topic: &str, partitions: &BTreeSet<i32>) -> Result<()> {
    let (mut batches, mut begins) = (0, 0);
    for &partition in partitions {
        let dump = kafka.dump_log(topic, partition)?;
        let is_batch = |line: &&str| line.starts_with("baseOffset:");
        let valid = |line: &str| line.contains("isvalid: true");
        ensure!(dump.lines().filter(is_batch).all(valid), "{dump}");
        batches += dump.lines().filter(is_batch).count();
        begins += dump.matches("headerKeys: [tributary").count();
    }
    ensure!(
        begins > 2 * batches,
        "{begins} batches of the agent in {batches} batches of Kafka"
    );
    let lines = usize::try_from(u64::from(FILES) * ROUNDS * LINES)?;
    kafka.java_consume(topic, lines).map(drop)
}
