//! Real input: nginx under load, rotated by logrotate, read from Kafka by a stock consumer. Every
//! request is there once.

use std::{collections::HashSet, time::Duration};

use anyhow::{Result, ensure};
use tributary_tests::{
    cluster::{Layout, SETTLE_LIMIT},
    kafka, ledger,
    nginx::{Logrotate, Nginx},
    scratch,
};

const LOAD_SECONDS: u32 = 4;
const ROTATIONS: u32 = 4;

fn check(name: &str, how: Logrotate) -> Result<()> {
    scratch::scenario(name, |folder| {
        let kafka = kafka::shared()?;
        kafka.create_topic(name, 3)?;
        let mut nginx = Nginx::start(&folder.join("nginx"))?;
        let cluster = Layout::new(folder, name)
            .delivers_to(&kafka.bootstrap(), &[])
            .agent(&[format!("{}/access.log*", nginx.logs().display())])
            .start()?;
        let before = nginx.requests()?;
        let mut load = nginx.load(LOAD_SECONDS)?;
        for _ in 0..ROTATIONS {
            std::thread::sleep(Duration::from_millis(match how {
                // Its names have the second.
                Logrotate::DatedAndCompressed => 1_050,
                Logrotate::RenameUsr1 | Logrotate::CopyTruncate => 700,
            }));
            nginx.rotate(how)?;
        }
        ensure!(
            load.wait(Duration::from_secs(60))?.success(),
            "{}",
            load.log_tail()
        );
        let served = nginx.requests()? - before - 1;
        nginx.stop()?;

        // A cut file loses what was written between copy and cut, unless the agent was faster.
        let lines = nginx.lines()?;
        ensure!(
            lines.len() > 1_000,
            "only {} requests: no load",
            lines.len()
        );
        match how {
            Logrotate::RenameUsr1 | Logrotate::DatedAndCompressed => {
                ensure!(
                    lines.len() as u64 == served,
                    "{} lines of {served}",
                    lines.len()
                );
                ledger::must_agree(cluster.manager.admin(), name, served, SETTLE_LIMIT)?;
            }
            Logrotate::CopyTruncate => wait_for(kafka, name, lines.len() as u64)?,
        }
        let arrived = kafka.read_all(name)?;
        let once: HashSet<&[u8]> = arrived
            .iter()
            .map(|record| record.value.as_slice())
            .collect();
        ensure!(
            once.len() == arrived.len(),
            "{} are doubled",
            arrived.len() - once.len()
        );
        let missing: Vec<_> = lines
            .iter()
            .filter(|line| !once.contains(line.as_slice()))
            .collect();
        let example = missing.first().map(|line| String::from_utf8_lossy(line));
        ensure!(
            missing.is_empty(),
            "{} are missing: {example:?}",
            missing.len()
        );
        ensure!(
            once.len() as u64 <= served,
            "{} records of {served} requests",
            once.len()
        );
        let records = once.len() as u64;
        ledger::must_agree(cluster.manager.admin(), name, records, SETTLE_LIMIT)?;
        Ok(())
    })
}

/// At least so many records; how many more is not known before.
fn wait_for(kafka: &kafka::Kafka, topic: &str, records: u64) -> Result<()> {
    let what = format!("{records} records in {topic}");
    tributary_tests::poll::until_seen(
        &what,
        SETTLE_LIMIT,
        || kafka.end_offsets(topic),
        |&found| found >= records,
    )
    .map(drop)
}

#[test]
fn nginx_rotated_by_rename_and_usr1_is_delivered_whole() -> Result<()> {
    check("nginx-rename", Logrotate::RenameUsr1)
}

#[test]
fn nginx_rotated_under_dated_names_and_compressed_later_is_delivered_whole() -> Result<()> {
    check("nginx-dated", Logrotate::DatedAndCompressed)
}

#[test]
fn nginx_rotated_by_copytruncate_is_delivered_whole() -> Result<()> {
    check("nginx-copytruncate", Logrotate::CopyTruncate)
}
