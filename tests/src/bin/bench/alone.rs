//! The agent alone, in front of a bus that only counts: what reading, encoding and sending cost.
//!
//! Not for: the way to Kafka (see [`crate::line`] and [`crate::latency`]).

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use tokio::time::Instant;
use tributary_tests::{child::Child, poll};

use crate::{
    Delay,
    counter::{Counter, Manner},
    cpu::{Usage, usage},
    latency::{self, WARM_UP},
    line::{AgentPlan, BACKLOG_LIMIT},
    load::now_us,
};

/// How long the last lines may take.
const DRAIN: Duration = Duration::from_secs(10);

/// What one run cost.
#[derive(Debug)]
pub(crate) struct Alone {
    pub(crate) agent: Usage,
    pub(crate) wall: Duration,
    /// Bytes read from files.
    pub(crate) bytes: u64,
    pub(crate) batches: u64,
    pub(crate) payload_bytes: u64,
    /// Write of a line to its acknowledgement, where that is known.
    pub(crate) delay: Option<Delay>,
}

fn start(folder: &Path, class: &str, codec: &str, counter: &Counter) -> Result<Child> {
    fs::create_dir_all(folder.join("logs"))?;
    AgentPlan {
        folder,
        class,
        topic: "alone",
        bus_port: counter.port,
        more: &format!("compression = \"{codec}\"\n"),
    }
    .start()
}

/// A whole file of `bytes` and `lines` to acknowledged.
///
/// # Errors
/// When that takes too long.
pub(crate) fn backlog(
    folder: &Path,
    codec: &str,
    file: &Path,
    (bytes, lines): (u64, u64),
) -> Result<Alone> {
    let counter = Counter::start(Manner::default())?;
    let agent = start(folder, "P2", codec, &counter)?;
    let begun = Instant::now();
    fs::hard_link(file, folder.join("logs/backlog.log"))?;
    poll::until("the whole backlog to be counted", BACKLOG_LIMIT, || {
        Ok((counter.records() >= lines).then_some(()))
    })
    .with_context(|| agent.log_tail())?;
    let wall = begun.elapsed();
    Ok(Alone {
        agent: usage(agent.pid())?,
        wall,
        bytes,
        batches: counter.batches(),
        payload_bytes: counter.payload_bytes(),
        delay: None,
    })
}

/// A steady load of one class into one file, in a codec.
///
/// # Errors
/// When a line does not arrive.
pub(crate) fn steady(
    folder: &Path,
    (class, codec): (&str, &str),
    bytes_per_s: u64,
    time: Duration,
) -> Result<Alone> {
    let counter = Counter::start(Manner::stamped())?;
    let agent = start(folder, class, codec, &counter)?;
    let path = folder.join("logs/steady.log");
    let before = usage(agent.pid())?;
    let begun = Instant::now();
    let counted_from_us = now_us() + u64::try_from(WARM_UP.as_micros())?;
    let writer = thread::spawn(move || latency::write(&path, bytes_per_s, time));
    let (bytes, lines) = writer
        .join()
        .map_err(|_panic| anyhow!("the writer panicked"))??;
    poll::until("every line to be counted", DRAIN, || {
        Ok((counter.records() >= lines).then_some(()))
    })
    .with_context(|| agent.log_tail())?;
    Ok(Alone {
        agent: usage(agent.pid())?.since(before),
        wall: begun.elapsed(),
        bytes,
        batches: counter.batches(),
        payload_bytes: counter.payload_bytes(),
        delay: Some(Delay::of(counter.delays_us(counted_from_us))),
    })
}
