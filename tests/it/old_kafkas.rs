//! Every Kafka since 2.1: brokers of other versions than the one that all scenarios use.

use anyhow::{Context as _, Result};
use tributary_tests::{
    kafka::old::{Old, VERSIONS},
    poll, scratch,
};

use super::kafka_faults::{LIMIT, by_both, layout, write, written};

/// The topic is created as the route says, and the bus is killed under load, which has it look through the log.
#[test]
fn lines_come_into_every_kafka_since_2_1_and_a_killed_bus_loses_and_doubles_none() -> Result<()> {
    let versions = VERSIONS.into_iter();
    let mut runs = versions.map(|version| {
        let run = scratch::scenario(&format!("kafka-{version}"), |folder| {
            let old = Old::start(&folder.join("kafka"), version)?;
            by_both("old", folder, |producer, folder, topic| {
                let layout = layout(producer, folder, topic, (&old.kafka.bootstrap(), &[]));
                let layout = layout.routed(", create = { partitions = 2, replicas = 1 }");
                let mut cluster = layout.start()?;
                let writers = write(folder, 0..4, (6_000, 1_000))?;
                let flows = |lines: &u64| *lines > 2_000;
                let lines = || Ok(old.kafka.end_offsets(topic).unwrap_or_default());
                poll::until_seen("lines in the topic", LIMIT, lines, flows)?;
                cluster.bus.kill_and_start()?;
                cluster.must_deliver(&old.kafka, &written(writers)?)?;
                cluster.stop()
            })
        });
        run.with_context(|| format!("Kafka {version}"))
    });
    runs.try_for_each(|run| run)
}
