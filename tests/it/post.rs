//! Lines posted by any client: safe when answered, bombs refused, nobody else hurt.

use std::io::Write as _;

use anyhow::{Result, ensure};
use flate2::{Compression, write::GzEncoder};
use tributary_tests::{
    cluster::{Cluster, Layout},
    http::{self, Answer},
    kafka, scratch,
};

fn post(cluster: &Cluster, headers: &[&str], body: &[u8]) -> Result<Answer> {
    let path = format!("/v1/lines/{}", cluster.topic);
    http::post(&cluster.listen, &path, headers, body)
}

fn gzip(parts: impl Iterator<Item = Vec<u8>>) -> Result<Vec<u8>> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    for part in parts {
        packer.write_all(&part)?;
    }
    Ok(packer.finish()?)
}

/// A bus without agents in front of Kafka; `play` posts, and says what Kafka must then hold.
fn check(name: &str, play: impl FnOnce(&mut Cluster) -> Result<Vec<String>>) -> Result<()> {
    scratch::scenario(name, |folder| {
        let kafka = kafka::shared()?;
        kafka.create_topic(name, 2)?;
        let mut cluster = Layout::new(folder, name)
            .delivers_to(&kafka.bootstrap(), &[])
            .start()?;
        let mut expected = play(&mut cluster)?;
        // Answered is safe: no waiting here.
        let arrived = kafka.read_all(name)?;
        let mut arrived: Vec<String> = arrived
            .iter()
            .map(|record| String::from_utf8_lossy(&record.value).into_owned())
            .collect();
        arrived.sort();
        expected.sort();
        ensure!(
            arrived == expected,
            "{} records, {} expected",
            arrived.len(),
            expected.len()
        );
        cluster.stop()
    })
}

#[test]
fn posted_lines_are_in_kafka_when_they_are_answered() -> Result<()> {
    check("post-plain", |cluster| {
        let mut expected = Vec::new();
        for number in 0..20 {
            let lines: Vec<String> = (0..50).map(|line| format!("{number} {line} ü")).collect();
            // The last line may come without its newline.
            let body = lines.join("\n") + if number % 2 == 0 { "\n" } else { "" };
            let answer = match number % 3 {
                0 => post(
                    cluster,
                    &["content-encoding: gzip"],
                    &gzip([body.into()].into_iter())?,
                )?,
                _ => post(cluster, &[], body.as_bytes())?,
            };
            ensure!(
                answer.status == 200,
                "post {number}: {} {}",
                answer.status,
                answer.text()
            );
            expected.extend(lines);
        }
        Ok(expected)
    })
}

#[test]
fn a_killed_bus_keeps_what_it_answered() -> Result<()> {
    check("post-kill", |cluster| {
        let answer = post(cluster, &[], b"before\n")?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        cluster.bus.kill_and_start()?;
        let answer = post(cluster, &[], b"after\n")?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(vec!["before".to_owned(), "after".to_owned()])
    })
}

/// 1 GiB in 4.6 MB, one endless line or nothing but line ends: refused before it fills any memory, as is all that is no gzip.
#[test]
fn a_compressed_bomb_and_junk_are_refused_and_stop_nothing() -> Result<()> {
    check("post-bomb", |cluster| {
        for byte in [0, b'\n'] {
            let bomb = gzip((0..1_024).map(|_| vec![byte; 1 << 20]))?;
            let answer = post(cluster, &["content-encoding: gzip"], &bomb)?;
            ensure!(
                answer.status == 413,
                "a bomb: {} {}",
                answer.status,
                answer.text()
            );
        }
        let resident = cluster.bus.metric("process_resident_memory_bytes")?;
        ensure!(resident < 400e6, "the bus holds {resident} bytes");

        let answer = post(cluster, &["content-encoding: gzip"], b"no gzip at all")?;
        ensure!(
            answer.status == 400,
            "junk: {} {}",
            answer.status,
            answer.text()
        );
        let answer = post(cluster, &["content-encoding: br"], b"x")?;
        ensure!(
            (400..500).contains(&answer.status),
            "brotli: {}",
            answer.status
        );
        let answer = http::post(&cluster.listen, "/v1/lines/b%20d", &[], b"x\n")?;
        ensure!(
            [400, 404].contains(&answer.status),
            "a bad topic: {}",
            answer.status
        );
        let answer = http::get(&cluster.listen, "/v1/nothing")?;
        ensure!(answer.status == 404, "an unknown path: {}", answer.status);

        let answer = post(cluster, &[], b"still here\n")?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(vec!["still here".to_owned()])
    })
}
