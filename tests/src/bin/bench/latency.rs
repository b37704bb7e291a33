//! A steady load: CPU of agent and bus, and how long a line takes until a consumer can read it.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};
use tokio::time::Instant;
use tributary_tests::kafka::Kafka;

use crate::{
    Delay,
    cpu::{Usage, usage},
    load::{now_us, push_line, stamp_us},
};

/// Lines are written so often.
const TICK: Duration = Duration::from_millis(5);
/// The first seconds are not counted: connections, metadata, first files.
pub(crate) const WARM_UP: Duration = Duration::from_secs(3);
/// How long the last lines may take.
const DRAIN: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Debug)]
pub(crate) struct Steady {
    pub(crate) bytes: u64,
    pub(crate) wall: Duration,
    /// What each of the processes used.
    pub(crate) used: Vec<Usage>,
    pub(crate) delay: Delay,
}

/// Writes `bytes_per_s` for `time` into one file in `logs` and consumes it from the topic as it arrives;
/// `pids` carry it there.
///
/// # Errors
/// When a line does not arrive.
pub(crate) fn steady(
    kafka: &Kafka,
    topic: &str,
    logs: &Path,
    pids: &[u32],
    bytes_per_s: u64,
    time: Duration,
) -> Result<Steady> {
    let consumer = consumer(kafka, topic)?;
    let path = logs.join("steady.log");
    let now = || {
        pids.iter()
            .map(|&pid| usage(pid))
            .collect::<Result<Vec<_>>>()
    };
    // The CPU of the whole life counts, the warm-up included: its bytes count, too.
    let before = now()?;
    let begun = Instant::now();
    let writer = thread::spawn(move || write(&path, bytes_per_s, time));
    let mut delays_us: Vec<u64> = Vec::new();
    let (mut arrived, mut written) = (0_u64, None);
    let mut writer = Some(writer);
    let counted_from_us = now_us() + u64::try_from(WARM_UP.as_micros())?;
    while written.is_none_or(|(_, lines)| arrived < lines) {
        if begun.elapsed() > time + DRAIN {
            return Err(anyhow!("{arrived} of {written:?} lines arrived in time"));
        }
        if let Some(message) = consumer.poll(Duration::from_millis(1)) {
            let message = message?;
            arrived += 1;
            let stamp =
                stamp_us(message.payload().unwrap_or_default()).context("a foreign line")?;
            if stamp >= counted_from_us {
                delays_us.push(now_us().saturating_sub(stamp));
            }
        }
        if let Some(done) = writer.take_if(|writer| writer.is_finished()) {
            written = Some(
                done.join()
                    .map_err(|_panic| anyhow!("the writer panicked"))??,
            );
        }
    }
    let wall = begun.elapsed();
    let used = now()?.into_iter().zip(before);
    Ok(Steady {
        bytes: written.map_or(0, |(bytes, _)| bytes),
        wall,
        used: used.map(|(after, before)| after.since(before)).collect(),
        delay: Delay::of(delays_us),
    })
}

/// Writes `bytes_per_s` of stamped lines for `time`; gives bytes and lines.
///
/// # Errors
/// When the disk does not take it.
pub(crate) fn write(path: &PathBuf, bytes_per_s: u64, time: Duration) -> Result<(u64, u64)> {
    let mut file = File::create(path)?;
    let mut random = fastrand::Rng::with_seed(3);
    let (mut text, mut bytes, mut lines) = (String::new(), 0_u64, 0_u64);
    let begun = Instant::now();
    while begun.elapsed() < time {
        let due = u64::try_from(begun.elapsed().as_micros())? * bytes_per_s / 1_000_000;
        text.clear();
        while bytes + (text.len() as u64) < due {
            push_line(&mut text, &mut random, now_us());
            lines += 1;
        }
        file.write_all(text.as_bytes())?;
        bytes += text.len() as u64;
        thread::sleep(TICK);
    }
    Ok((bytes, lines))
}

pub(crate) fn consumer(kafka: &Kafka, topic: &str) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "5")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_LIMIT)?;
    let mut list = TopicPartitionList::new();
    for partition in metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions())
    {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}
