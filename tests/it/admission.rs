//! A bus that has more than it can do: what is urgent goes on, and only who is over a quota waits.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use tributary_tests::{
    cluster::{Cluster, Layout, SETTLE_LIMIT, glob_of},
    kafka::{Kafka, free_port},
    ledger, poll,
    proxy::{Mode, Proxy},
    scratch,
    writer::Writer,
};

const LIMIT: Duration = Duration::from_secs(90);

/// An agent with a task of the topic's own and one more of another topic.
fn two_tasks(other: &str, class: &str, writer: &Writer) -> String {
    format!(
        "[[task]]\nid = \"other\"\ntopic = {other:?}\nclass = {class:?}\npaths = [{:?}]\n",
        glob_of(writer)
    )
}

fn all_arrive(cluster: &Cluster, kafka: &Kafka, written: [(&str, &Writer); 2]) -> Result<()> {
    for (topic, writer) in written {
        let lines = writer.written().lines();
        ledger::must_agree(cluster.manager.admin(), topic, lines, SETTLE_LIMIT)?;
        let arrived = kafka.read_all(topic)?.len() as u64;
        ensure!(arrived == lines, "{topic}: {arrived} of {lines}");
    }
    Ok(())
}

fn delivered(cluster: &Cluster, topic: &str) -> Result<u64> {
    Ok(ledger::topic(cluster.manager.admin(), topic)?.delivered)
}

/// Who is held back by the bus now, and why.
fn held_back(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let status = cluster.bus.status()?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let rows = status["held_back"].as_array().cloned().unwrap_or_default();
    Ok(rows
        .iter()
        .map(|row| (text(&row["why"]), text(&row["who"])))
        .collect())
}

fn writers(folder: &Path) -> Result<(Writer, Writer)> {
    Ok((
        Writer::new(&folder.join("logs"), 1, 1)?,
        Writer::new(&folder.join("urgent"), 2, 1)?,
    ))
}

#[test]
fn urgent_lines_go_on_beside_a_flood_that_fills_the_memory() -> Result<()> {
    scratch::scenario("flood", |folder| {
        let (flood, urgent) = ("flood", "flood-urgent");
        let port = free_port()?;
        let proxy = Proxy::start(&format!("127.0.0.1:{port}"))?;
        let kafka = Kafka::start_at(&folder.join("kafka"), port, &proxy.address())?;
        kafka.create_topic(flood, 1)?;
        kafka.create_topic(urgent, 1)?;
        let (mut bulk, mut trickle) = writers(folder)?;
        let bus = "[limits]\nmemory = \"16MiB\"\n[spill]\nmax = \"0B\"\n";
        let cluster = Layout::new(folder, flood)
            .delivers_to(&proxy.address(), &[])
            .class("P3")
            .agent(&[glob_of(&bulk)])
            .extra("", &two_tasks(urgent, "P0", &trickle), bus)
            .start()?;
        // Answers open the window of a topic: first they come.
        bulk.write(40_000)?;
        poll::until("the first lines to be delivered", LIMIT, || {
            Ok((delivered(&cluster, flood)? == 40_000).then_some(()))
        })?;
        proxy.set(Mode::Throttle(250_000));
        bulk.write(100_000)?;
        let full = (String::from("destination"), flood.to_owned());
        poll::until("the flood to be held back", LIMIT, || {
            Ok(held_back(&cluster)?.contains(&full).then_some(()))
        })?;
        for _ in 0..3 {
            trickle.write(10)?;
            let lines = trickle.written().lines();
            poll::until("urgent lines to be delivered", LIMIT, || {
                Ok((delivered(&cluster, urgent)? == lines).then_some(()))
            })?;
        }
        let flooded = delivered(&cluster, flood)?;
        ensure!(
            flooded < 140_000,
            "the flood was over before: nothing is proved"
        );
        proxy.set(Mode::Pass);
        all_arrive(&cluster, &kafka, [(flood, &bulk), (urgent, &trickle)])
    })
}

#[test]
fn a_topic_over_its_quota_waits_and_the_others_go_on() -> Result<()> {
    scratch::scenario("quota", |folder| {
        let (loud, quiet) = ("quota-loud", "quota-quiet");
        let kafka = tributary_tests::kafka::shared()?;
        kafka.create_topic(loud, 1)?;
        kafka.create_topic(quiet, 1)?;
        let (mut much, mut little) = writers(folder)?;
        let cluster = Layout::new(folder, loud)
            .delivers_to(&kafka.bootstrap(), &[])
            .agent(&[glob_of(&much)])
            .extra(
                "",
                &two_tasks(quiet, "P2", &little),
                "[limits]\ntopic_rate = \"300KB/s\"\n",
            )
            .start()?;
        much.write(20_000)?;
        let over = (String::from("topic_rate"), loud.to_owned());
        poll::until("the loud topic to be held back", LIMIT, || {
            Ok(held_back(&cluster)?.contains(&over).then_some(()))
        })?;
        little.write(100)?;
        poll::until("the quiet topic to be delivered", LIMIT, || {
            Ok((delivered(&cluster, quiet)? == 100).then_some(()))
        })?;
        all_arrive(&cluster, kafka, [(loud, &much), (quiet, &little)])
    })
}
