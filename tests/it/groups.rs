//! Resource groups of a Kafka: topics lie inside their group, are moved there, and a group whose brokers
//! hang spoils no other.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tokio::time::Instant;
use tributary_tests::{
    cluster::{Cluster, Layout, glob_of},
    http,
    kafka::Kafka,
    poll, product, say, scratch,
    writer::{Background, Schedule, Writer},
};

/// By then the cluster has done what it was told, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Small enough that the batches of one group could take all of it.
const NODE: &str = "[limits]\nmemory = \"16MiB\"\n";

/// Posts lines; how long until they were safe.
fn post(cluster: &Cluster, topic: &str, class: &str, lines: &str) -> Result<Duration> {
    let path = format!("/v1/lines/{topic}?class={class}");
    let begun = Instant::now();
    let answer = http::post(&cluster.listen, &path, &[], lines.as_bytes())?;
    ensure!(answer.status == 200, "{topic}: {}", answer.text());
    Ok(begun.elapsed())
}

/// Waits until the topic's replicas lie on these brokers: a broker hears of what the controller did a
/// moment later.
fn lies_on(kafka: &Kafka, topic: &str, brokers: &[i32]) -> Result<()> {
    let inside = |replicas: &Vec<Vec<i32>>| {
        let mut all = replicas.iter().flatten();
        !replicas.is_empty() && all.all(|id| brokers.contains(id))
    };
    let what = format!("{topic} to lie on {brokers:?}");
    poll::until_seen(&what, LIMIT, || kafka.replicas(topic), inside)?;
    Ok(())
}

fn ctl(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let folder = scratch::repository();
    let args = [&["ctl", "groups"], words, &[cluster.bus.admin()]].concat();
    let said = product::run("tributary", &args, folder)?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.status.success(), "{args:?}: {said:?}");
    Ok(text)
}

/// New topics lie inside; one that was there before is seen, and moved.
fn topics_lie_inside(kafka: &Kafka) -> Result<()> {
    scratch::scenario("groups-move", |folder| {
        let mut cluster = Layout::new(folder, "none")
            .delivers_to(&kafka.bootstrap(), &[])
            .verbatim()
            .groups("P0 = [1, 2], P2 = [3], partitions = 4")
            .start()?;
        kafka.create_topic("stray", 6)?;
        post(&cluster, "pay", "P0", "1\n")?;
        post(&cluster, "bulk", "P3", "1\n")?;
        post(&cluster, "stray", "P2", "1\n2\n")?;
        lies_on(kafka, "pay", &[1, 2])?;
        lies_on(kafka, "bulk", &[3])?;
        let replicas = kafka.replicas("pay")?;
        ensure!(replicas.len() == 4, "{replicas:?}");
        ensure!(replicas.iter().all(|of| of.len() == 2), "{replicas:?}");

        let outside = || Ok(cluster.bus.status()?["destinations"][0]["groups"]["outside"].clone());
        let named = |outside: &serde_json::Value| outside[0].to_string().contains("stray: ");
        poll::until_seen("the status to name a topic outside", LIMIT, outside, named)?;
        let list = ctl(&cluster, &["list"])?;
        ensure!(list.contains("group P2: brokers 3"), "{list}");
        ensure!(list.contains("pay (P0): inside of group P0"), "{list}");
        ensure!(list.contains("stray (P2): "), "{list}");
        let moved = ctl(&cluster, &["move", "--destination", "main"])?;
        ensure!(
            moved.starts_with("stray: ") && moved.ends_with("moved\n"),
            "{moved}"
        );
        lies_on(kafka, "stray", &[3])?;
        let progress = ctl(&cluster, &["progress"])?;
        ensure!(progress.contains("nothing moves"), "{progress}");
        post(&cluster, "stray", "P2", "3\n")?;
        ensure!(kafka.read_all("stray")?.len() == 3, "records were lost");
        // Elsewhere, because somebody says so; two replicas do not fit on one broker.
        ctl(
            &cluster,
            &[
                "move",
                "--destination",
                "main",
                "--topic",
                "stray",
                "--to",
                "P0",
            ],
        )?;
        lies_on(kafka, "stray", &[1, 2])?;
        let path = "/v1/groups/move?destination=main&topic=pay&to=P2";
        let refused = http::post(cluster.bus.admin(), path, &[], b"")?;
        ensure!(refused.text().contains("2 replicas"), "{}", refused.text());
        let path = "/v1/groups/move?destination=main&topic=pay&to=P1";
        let refused = http::post(cluster.bus.admin(), path, &[], b"")?;
        ensure!(
            refused.text().contains("there are P0, P2"),
            "{}",
            refused.text()
        );
        cluster.stop()
    })
}

/// How many posts are looked at, before and while a group hangs.
const POSTS: usize = 100;

/// The slowest but two of a hundred posts, one after the other.
fn slow(cluster: &Cluster, (topic, class): (&str, &str), pause_ms: u64) -> Result<Duration> {
    let took = (0..POSTS).map(|no| {
        let took = post(
            cluster,
            topic,
            class,
            &format!("{no} {}\n", "x".repeat(100)),
        );
        thread::sleep(Duration::from_millis(pause_ms));
        took
    });
    let mut took = took.collect::<Result<Vec<Duration>>>()?;
    took.sort_unstable();
    took.get(POSTS - 3).copied().context("there are a hundred")
}

/// The brokers of one group hang while an agent floods it: the posts of the other group are delivered,
/// none over the disk, about as fast as before, and nothing of the flood is lost or doubled.
fn one_hangs(kafka: &Kafka, hangs: &mut Kafka, names: (&str, &str), groups: &str) -> Result<()> {
    let (flooded, quick) = names;
    let (flood, topic) = (format!("flood-{flooded}"), format!("quick-{quick}"));
    scratch::scenario(&format!("groups-{flood}"), |folder| {
        let writer = Writer::new(&folder.join("logs"), 0, 1)?;
        let class = if flooded == "P0" { "P0" } else { "P3" };
        let mut cluster = Layout::new(folder, &flood)
            .delivers_to(&kafka.bootstrap(), &[])
            .verbatim()
            .groups(groups)
            .class(class)
            .extra("", "", NODE)
            .agent(&[glob_of(&writer)])
            .start()?;
        let schedule = Schedule {
            lines: 100_000,
            per_second: 15_000,
            rotations: Vec::new(),
        };
        let background = Background::start(writer, schedule);
        post(&cluster, &topic, quick, "first\n")?;
        let before = slow(&cluster, (&topic, quick), 10)?;
        hangs.pause()?;
        // Longer than it takes to find out that brokers hang, and to ask them what it is about.
        let during = slow(&cluster, (&topic, quick), 60)?;
        let status = cluster.bus.status()?;
        hangs.resume()?;
        say(&format!(
            "groups: {flooded} hangs: {quick} took {before:?} before, {during:?} then"
        ));
        let counts = &status["topics"][&topic];
        ensure!(
            counts["delivered_records"] == 201 && counts["spilled_records"] == 0,
            "{status:#}"
        );
        // Twice, and what a machine with two cores and three brokers may take away for a moment.
        let limit = before * 2 + Duration::from_secs(2);
        ensure!(
            during <= limit,
            "{during:?} instead of {before:?}: {status:#}"
        );
        let held = &status["destinations"][0]["groups"];
        ensure!(held["share_bytes"] == 8 << 20, "{held}");
        let half = |what: &str| held["memory"][flooded][what].as_u64() <= Some(4 << 20);
        ensure!(half("waiting_bytes") && half("given_bytes"), "{held}");
        cluster.must_deliver(kafka, &[background.finish()?.written().clone()])?;
        ensure!(kafka.read_all(&topic)?.len() == 201, "posts were lost");
        cluster.stop()
    })
}

/// The same where brokers belong to no groups: a topic that does not lie on the broker that hangs goes on, and none
/// of it over the disk, whichever broker is asked meanwhile how the cluster is.
fn one_hangs_without_groups(kafka: &Kafka, hangs: &mut Kafka) -> Result<()> {
    let (flood, topic) = ("flood-away", "near");
    scratch::scenario("groups-none", |folder| {
        kafka.create_topic_on(flood, &[3])?;
        kafka.create_topic_on(topic, &[1, 2])?;
        let writer = Writer::new(&folder.join("logs"), 0, 1)?;
        let mut cluster = Layout::new(folder, flood)
            .delivers_to(&kafka.bootstrap(), &[])
            .verbatim()
            .agent(&[glob_of(&writer)])
            .start()?;
        let schedule = Schedule {
            lines: 30_000,
            per_second: 3_000,
            rotations: Vec::new(),
        };
        let background = Background::start(writer, schedule);
        post(&cluster, topic, "P2", "first\n")?;
        hangs.pause()?;
        slow(&cluster, (topic, "P2"), 60)?;
        let status = cluster.bus.status()?;
        hangs.resume()?;
        let counts = &status["topics"][topic];
        ensure!(
            counts["delivered_records"] == 101 && counts["spilled_records"] == 0,
            "{status:#}"
        );
        cluster.must_deliver(kafka, &[background.finish()?.written().clone()])?;
        ensure!(kafka.read_all(topic)?.len() == 101, "posts were lost");
        cluster.stop()
    })
}

#[test]
fn topics_lie_inside_their_group_and_one_that_hangs_spoils_no_other() -> Result<()> {
    let (first, _second, mut third) = Kafka::three(&scratch::create("kafka-groups")?)?;
    one_hangs_without_groups(&first, &mut third)?;
    topics_lie_inside(&first)?;
    one_hangs(&first, &mut third, ("P2", "P0"), "P0 = [1, 2], P2 = [3]")?;
    one_hangs(&first, &mut third, ("P0", "P2"), "P0 = [3], P2 = [1, 2]")
}
