//! What the encoder writes, judged by Kafka itself: a batch is given to a broker ready-made, by hand or
//! by agent and bus, then Kafka's own dump tool opens it, and stock consumers read it.

use std::fs;

use anyhow::{Result, ensure};
use tributary_common::{
    batch::{Codec, Encoder},
    ids::{BatchId, Epoch, StreamId},
};
use tributary_tests::{
    cluster::{Layout, SETTLE_LIMIT},
    kafka::{self, Arrived, Kafka, Produced},
    poll, scratch,
};

const RECORDS: i64 = 1_000;
const FIRST_MS: i64 = 1_790_000_000_000;

fn id() -> BatchId {
    BatchId {
        stream: StreamId(0x0123_4567_89ab_cdef),
        epoch: Epoch(7),
        seq: 42,
    }
}

fn value(number: i64) -> String {
    format!(
        "{number} 10.0.0.{} - - \"GET /健康/{} HTTP/1.1\" 200",
        number % 250,
        number * 7919
    )
}

/// `codec` must be what Kafka calls `name`, and everybody must read what was pushed.
fn check(codec: Codec, name: &str) -> Result<()> {
    let kafka = kafka::shared()?;
    let topic = format!("dump.{name}");
    kafka.create_topic(&topic, 1)?;
    produce_two_batches(kafka, codec, &topic)?;
    check_consumer(&kafka.read_all(&topic)?)?;

    let values = kafka.java_consume(&topic, 1_000)?;
    let wrong = (0..)
        .zip(&values)
        .find(|(number, read)| **read != value(*number));
    ensure!(wrong.is_none(), "Kafka's own consumer reads {wrong:?}");

    let dump = kafka.dump_log(&topic, 0)?;
    let batches: Vec<&str> = dump
        .lines()
        .filter(|line| line.starts_with("baseOffset:"))
        .collect();
    let codec = format!("compresscodec: {name} ");
    let marks = ["isvalid: true", "magic: 2", &codec];
    let valid = |line: &&str| marks.iter().all(|mark| line.contains(mark));
    ensure!(
        batches.len() == 2 && batches.iter().all(valid),
        "DumpLogSegments says:\n{dump}"
    );
    let opened = dump
        .lines()
        .filter(|line| line.contains("| offset:"))
        .count();
    ensure!(
        opened == 1_000,
        "DumpLogSegments opened {opened} records:\n{dump}"
    );
    Ok(())
}

fn key(number: i64) -> Option<Vec<u8>> {
    (number % 3 == 0).then(|| format!("key-{number}").into_bytes())
}

/// By one encoder: the second batch must not carry anything of the first.
fn produce_two_batches(kafka: &Kafka, codec: Codec, topic: &str) -> Result<()> {
    let mut encoder = Encoder::new(codec);
    for half in [0..RECORDS / 2, RECORDS / 2..RECORDS] {
        encoder.begin(id());
        let first = half.start;
        for number in half {
            encoder.push(
                FIRST_MS + number,
                key(number).as_deref(),
                value(number).as_bytes(),
            );
        }
        let produced = kafka.produce_batch(topic, 0, &encoder.finish()?.payload)?;
        ensure!(
            produced
                == Produced {
                    error: 0,
                    base_offset: first
                },
            "Kafka says {produced:?}"
        );
    }
    Ok(())
}

fn check_consumer(arrived: &[Arrived]) -> Result<()> {
    ensure!(
        arrived.len() == 1_000,
        "librdkafka reads {} records",
        arrived.len()
    );
    for (number, record) in (0..).zip(arrived) {
        let first_of_batch = number % (RECORDS / 2) == 0;
        let header = || ("tributary".to_owned(), id().to_bytes().to_vec());
        let expected = Arrived {
            partition: 0,
            offset: number,
            timestamp_ms: FIRST_MS + number,
            key: key(number),
            value: value(number).into_bytes(),
            headers: first_of_batch.then(header).into_iter().collect(),
        };
        ensure!(*record == expected, "{record:?} instead of {expected:?}");
    }
    Ok(())
}

#[test]
fn kafka_takes_and_reads_a_plain_batch() -> Result<()> {
    check(Codec::None, "none")
}

#[test]
fn kafka_takes_and_reads_a_gzip_batch() -> Result<()> {
    check(Codec::Gzip, "gzip")
}

#[test]
fn kafka_takes_and_reads_an_lz4_batch() -> Result<()> {
    check(Codec::Lz4, "lz4")
}

#[test]
fn kafka_takes_and_reads_a_zstd_batch() -> Result<()> {
    check(Codec::Zstd, "zstd")
}

/// The broker checks what it is given; so an error of 0 above means something.
#[test]
fn kafka_refuses_a_batch_with_one_bit_changed() -> Result<()> {
    let kafka = kafka::shared()?;
    kafka.create_topic("dump.changed", 1)?;
    let mut encoder = Encoder::new(Codec::None);
    encoder.begin(id());
    encoder.push(FIRST_MS, None, b"a line that will be changed on its way");
    let mut bytes = encoder.finish()?.payload.to_vec();
    let last = bytes.len() - 10;
    bytes[last] ^= 1;
    let produced = kafka.produce_batch("dump.changed", 0, &bytes)?;
    ensure!(produced.error == 2, "Kafka answers {}", produced.error);
    Ok(())
}

/// One file, a task for each codec: its batches are in Kafka as the agent compressed them.
#[test]
fn the_codec_of_a_task_is_that_of_its_batches_in_kafka() -> Result<()> {
    let topic = |codec: Codec| format!("dump.task.{codec}");
    scratch::scenario("codecs", |folder| {
        let kafka = kafka::shared()?;
        let logs = folder.join("logs");
        fs::create_dir_all(&logs)?;
        let file = logs.join("app.log");
        let lines: Vec<String> = (0..RECORDS).map(value).collect();
        fs::write(&file, lines.join("\n") + "\n")?;
        let file = file.display().to_string();
        let mut tasks = "compression = \"zstd\"\n".to_owned();
        for codec in Codec::ALL {
            kafka.create_topic(&topic(codec), 1)?;
            if codec != Codec::Zstd {
                let topic = topic(codec);
                tasks += &format!(
                    "[[task]]\nid = \"{codec}\"\ntopic = {topic:?}\npaths = [{file:?}]\n\
                     compression = \"{codec}\"\n"
                );
            }
        }
        let mut cluster = Layout::new(folder, &topic(Codec::Zstd))
            .delivers_to(&kafka.bootstrap(), &[])
            .verbatim()
            .agent(std::slice::from_ref(&file))
            .extra("", &tasks, "")
            .start()?;
        for codec in Codec::ALL {
            let topic = topic(codec);
            poll::until_seen(
                &topic,
                SETTLE_LIMIT,
                || kafka.end_offsets(&topic),
                |&records| records >= lines.len() as u64,
            )?;
            let arrived = kafka.read_all(&topic)?;
            let values = arrived.iter().map(|record| record.value.as_slice());
            ensure!(
                values.eq(lines.iter().map(String::as_bytes)),
                "{topic}: others"
            );
            let dump = kafka.dump_log(&topic, 0)?;
            let mut batches = dump.lines().filter(|line| line.starts_with("baseOffset:"));
            let mark = format!("compresscodec: {codec} ");
            ensure!(
                batches.all(|line| line.contains(&mark) && line.contains("isvalid: true")),
                "{topic}: DumpLogSegments says:\n{dump}"
            );
        }
        cluster.stop()
    })
}
