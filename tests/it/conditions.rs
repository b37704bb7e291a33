//! Each way in which a Kafka can be unwell has its own word in `/status`, costs no line, and is over when it is over.

use std::{path::Path, thread, time::Duration};

use anyhow::Result;
use serde_json::Value;
use tokio::time::Instant;
use tributary_tests::{
    cluster::{Cluster, Layout, for_each_seed, glob_of, topic_name},
    kafka::{Kafka, free_port},
    poll,
    proxy::{Mode, Proxy},
    say, scratch,
    writer::Writer,
};

/// By then a cluster is called what it is, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A line of logs through a bus that delivers to one Kafka.
struct Line {
    cluster: Cluster,
    writer: Writer,
    /// Lines at each look, some twenty a second.
    lines: u64,
}

impl Line {
    /// By either producer, by the seed.
    fn start(folder: &Path, bootstrap: &str, topic: &str, seed: u64) -> Result<Self> {
        let writer = Writer::new(&folder.join("logs"), 1, seed)?;
        let layout = Layout::new(folder, topic).delivers_to(bootstrap, &[]);
        let layout = match seed % 2 {
            0 => layout.verbatim(),
            _ => layout,
        };
        let cluster = layout.agent(&[glob_of(&writer)]).start()?;
        let mut line = Self {
            cluster,
            writer,
            lines: 100,
        };
        line.until("up", "first lines")?;
        Ok(line)
    }

    /// Lines come until the destination is called so.
    fn until(&mut self, state: &str, why: &str) -> Result<()> {
        let (cluster, writer, lines) = (&self.cluster, &mut self.writer, self.lines);
        let look = || {
            writer.write(lines)?;
            let status = cluster.bus.status()?;
            let topics = status["topics"].as_object().cloned().unwrap_or_default();
            let delivered = topics
                .values()
                .next()
                .map(|one| one["delivered_records"].clone());
            Ok((status["destinations"][0].clone(), delivered))
        };
        let what = format!("a destination that is called {state}: {why}");
        let is = |(seen, delivered): &(Value, Option<Value>)| {
            seen["state"] == state && delivered.as_ref().is_some_and(|some| *some != 0)
        };
        let began = Instant::now();
        let (seen, _) = poll::until_seen(&what, LIMIT, look, is)?;
        say(&format!(
            "conditions: {why}: {state} after {:?}: {}",
            began.elapsed(),
            seen["detail"]
        ));
        Ok(())
    }

    /// Every line is there once, in order.
    fn finish(mut self, kafka: &Kafka) -> Result<()> {
        self.cluster
            .must_deliver(kafka, &[self.writer.written().clone()])?;
        self.cluster.stop()
    }
}

#[test]
fn each_fault_of_a_cluster_has_its_own_word_and_costs_no_line() -> Result<()> {
    let (first, mut second, mut third) = Kafka::three(&scratch::create("kafka-conditions")?)?;
    for_each_seed("conditions", 2, |seed, folder| {
        let topic = topic_name("conditions", seed);
        first.create_topic_on(&topic, &[3])?;
        let mut line = Line::start(&folder.join("lone"), &first.bootstrap(), &topic, seed)?;
        first.set_quota(Some(20_000))?;
        line.until("throttled", "a quota")?;
        first.set_quota(None)?;
        line.until("up", "no quota any more")?;
        third.kill()?;
        line.until("half-dead", "a partition without a leader")?;
        third.restart()?;
        line.until("up", "it has a leader again")?;
        line.finish(&first)?;
        let topic = topic_name("replicas", seed);
        first.create_replicated_topic(&topic, 3)?;
        let mut line = Line::start(&folder.join("replicas"), &first.bootstrap(), &topic, seed)?;
        second.kill()?;
        third.kill()?;
        line.until("half-dead", "not enough replicas")?;
        second.restart()?;
        line.until("up", "enough replicas again")?;
        third.restart()?;
        line.finish(&first)
    })
    .map(drop)
}

#[test]
fn a_cluster_that_is_far_away_is_called_slow_and_costs_no_line() -> Result<()> {
    let port = free_port()?;
    let proxy = Proxy::start(&format!("127.0.0.1:{port}"))?;
    let kafka = Kafka::start_at(&scratch::create("kafka-slow")?, port, &proxy.address())?;
    for_each_seed("slow", 2, |seed, folder| {
        let topic = topic_name("slow", seed);
        kafka.create_topic(&topic, 3)?;
        let mut line = Line::start(folder, &proxy.address(), &topic, seed)?;
        line.lines = 4;
        // What is on its way would have to come through that, piece by piece.
        thread::sleep(Duration::from_secs(1));
        proxy.set(Mode::Delay(Duration::from_millis(600)));
        line.until("slow", "answers take more than a second")?;
        proxy.set(Mode::Pass);
        line.until("up", "it answers quickly again")?;
        line.finish(&kafka)
    })
    .map(drop)
}
