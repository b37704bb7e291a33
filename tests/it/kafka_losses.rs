//! A Kafka that loses what it took: its topic is deleted, it drops records for their age, it comes back with the
//! log of yesterday. What it took before is gone, and nobody can bring it back; all that comes later is there once and
//! in order, by both producers, and nothing stands still.
//!
//! That something is gone the destination does not say: the ledger counts what was taken. Not for: faults that
//! cost nothing (`kafka_faults`).

use std::{fs, ops::Range, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use tributary_tests::{
    cluster::Cluster,
    kafka::{self, Kafka},
    ledger, poll, scratch,
    writer::{Stamp, Writer},
};

use super::kafka_faults::{LIMIT, by_both, layout, write, written};

const FILES: u32 = 3;
const LINES: u64 = 2_000;

fn writers(folder: &Path) -> Result<Vec<Writer>> {
    let logs = folder.join("logs");
    (0..FILES).map(|file| Writer::new(&logs, file, 1)).collect()
}

/// More lines of each, which the ledger counts as delivered.
fn flow(cluster: &Cluster, topic: &str, writers: &mut [Writer]) -> Result<()> {
    writers.iter_mut().try_for_each(|one| one.write(LINES))?;
    let all = writers.iter().map(|one| one.written().lines()).sum();
    ledger::must_agree(cluster.manager.admin(), topic, all, LIMIT).map(drop)
}

/// Of each file the topic has its first lines, so many, and then these, in order, and no other one.
fn must_have(kafka: &Kafka, topic: &str, first: u64, then: Range<u64>) -> Result<()> {
    let arrived = kafka.read_all(topic)?;
    let stamps = arrived.iter().map(|one| Stamp::read(&one.value));
    let stamps: Vec<Stamp> = stamps
        .collect::<Result<_, _>>()
        .map_err(|bad| anyhow::anyhow!("{topic}: {bad:?}"))?;
    for file in 0..FILES {
        let seqs = stamps.iter().filter(|one| one.file == file);
        let seqs: Vec<u64> = seqs.map(|one| one.seq).collect();
        let wanted: Vec<u64> = (0..first).chain(then.clone()).collect();
        let differs = seqs.iter().zip(&wanted).position(|(a, b)| a != b);
        ensure!(
            seqs == wanted,
            "{topic}, file {file}: {} lines for {}, different from place {differs:?} on",
            seqs.len(),
            wanted.len()
        );
    }
    Ok(())
}

/// It is made anew with fewer partitions, so some streams are where there is no place any more; and the bus is
/// killed, so its next life looks through a topic that ends before where it was.
#[test]
fn a_topic_that_is_deleted_and_made_anew_has_all_that_comes_then() -> Result<()> {
    let name = "anew";
    let kafka = kafka::shared()?;
    scratch::scenario(name, |folder| {
        by_both(name, folder, |producer, folder, topic| {
            kafka.create_topic(topic, 4)?;
            let mut cluster = layout(producer, folder, topic, (&kafka.bootstrap(), &[])).start()?;
            let mut writers = writers(folder)?;
            flow(&cluster, topic, &mut writers)?;
            kafka.delete_topic(topic)?;
            // A client that asks for it may have made it already.
            let made = kafka.create_topic(topic, 1);
            let exists = |error: &anyhow::Error| error.to_string().contains("AlreadyExists");
            ensure!(made.as_ref().err().is_none_or(exists), "{made:?}");
            flow(&cluster, topic, &mut writers)?;
            must_have(kafka, topic, 0, LINES..2 * LINES)?;
            cluster.bus.kill_and_start()?;
            flow(&cluster, topic, &mut writers)?;
            must_have(kafka, topic, 0, LINES..3 * LINES)?;
            cluster.stop()
        })
    })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(done.success(), "{} cannot be copied", from.display());
    Ok(())
}

#[test]
fn a_broker_that_comes_back_with_an_older_log_takes_all_that_comes_then() -> Result<()> {
    let name = "older";
    scratch::scenario(name, |folder| {
        let home = folder.join("kafka");
        let mut kafka = Kafka::start(&home)?;
        let (data, old) = (home.join("data"), home.join("old"));
        let mut runs = Vec::new();
        for producer in ["verbatim", "rdkafka"] {
            let (topic, folder) = (format!("{name}.{producer}"), folder.join(producer));
            kafka.create_topic(&topic, 2)?;
            let cluster = layout(producer, &folder, &topic, (&kafka.bootstrap(), &[])).start()?;
            runs.push((topic, cluster, writers(&folder)?));
        }
        let flow_all = |runs: &mut Vec<(String, Cluster, Vec<Writer>)>| {
            let mut runs = runs.iter_mut();
            runs.try_for_each(|(topic, cluster, writers)| {
                flow(cluster, topic, writers).with_context(|| topic.clone())
            })
        };
        flow_all(&mut runs)?;
        kafka.kill()?;
        copy(&data, &old)?;
        kafka.restart()?;
        flow_all(&mut runs)?;
        kafka.kill()?;
        fs::remove_dir_all(&data)?;
        copy(&old, &data)?;
        kafka.restart()?;
        flow_all(&mut runs)?;
        for (topic, cluster, writers) in &mut runs {
            must_have(&kafka, topic, LINES, 2 * LINES..3 * LINES)?;
            cluster.bus.kill_and_start()?;
            flow(cluster, topic, writers)?;
            must_have(&kafka, topic, LINES, 2 * LINES..4 * LINES)?;
            cluster.stop()?;
        }
        Ok(())
    })
}

/// Half a second after it was taken a record may be dropped, and soon is, under load. The bus is killed: what it
/// had delivered by then is gone where its next life looks for it.
#[test]
fn a_topic_that_keeps_nothing_for_long_takes_each_line_once_and_is_looked_through_after_a_kill()
-> Result<()> {
    let name = "retention";
    scratch::scenario(name, |folder| {
        let often = "log.retention.check.interval.ms=300\nlog.segment.delete.delay.ms=100\n";
        let kafka = Kafka::start_with(&folder.join("kafka"), often)?;
        by_both(name, folder, |producer, folder, topic| {
            kafka.create_topic_with(topic, &[("retention.ms", "500"), ("segment.ms", "300")])?;
            let mut cluster = layout(producer, folder, topic, (&kafka.bootstrap(), &[])).start()?;
            let flowing = write(folder, 0..FILES, (4_000, 1_000))?;
            let dropped = |offsets: &(u64, u64)| offsets.0 > 1_000;
            let look = || kafka.offsets(topic);
            poll::until_seen("dropped records", LIMIT, look, dropped)?;
            let lines = u64::from(FILES) * 4_000;
            let written = written(flowing)?;
            ensure!(written.len() == FILES as usize, "{written:?}");
            ledger::must_agree(cluster.manager.admin(), topic, lines, LIMIT)?;
            let (_dropped, taken) = kafka.offsets(topic)?;
            ensure!(taken == lines, "{topic}: {taken} taken of {lines} lines");
            // All of it is gone but for what is in the last segment.
            let gone = |offsets: &(u64, u64)| offsets.0 > lines / 2;
            poll::until_seen("old records to go", LIMIT, look, gone)?;
            cluster.bus.kill_and_start()?;
            let mut more = Writer::new(&folder.join("logs"), FILES, 1)?;
            more.write(LINES)?;
            let all = lines + LINES;
            ledger::must_agree(cluster.manager.admin(), topic, all, LIMIT)?;
            let (_dropped, taken) = kafka.offsets(topic)?;
            ensure!(taken == all, "{topic}: {taken} taken of {all} lines");
            cluster.stop()
        })
    })
}
