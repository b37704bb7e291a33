//! File systems that other hosts serve: written to without events, mounted anew, and hung.

use std::{os::unix::fs::symlink, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tributary_tests::{
    cluster::{Cluster, Layout, SETTLE_LIMIT, topic_name},
    far::Far,
    http, kafka, poll, scratch,
    writer::{Background, Rotation, Schedule, Writer, Written},
};

const WAYS: [Rotation; 3] = [Rotation::Rename, Rotation::Dated, Rotation::CopyTruncate];

/// One agent that collects from a far folder and a near one; `play` is the scenario.
fn on_kafka(
    name: &str,
    play: impl FnOnce(&mut Cluster, Far, [Writer; 2]) -> Result<(Far, Vec<Written>)>,
) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        tributary_tests::say("not run: only root can mount a folder through FUSE");
        return Ok(());
    }
    scratch::scenario(name, |folder| {
        let kafka = kafka::shared()?;
        let topic = topic_name(name, 0);
        kafka.create_topic(&topic, 2)?;
        let far = Far::mount(Path::new(env!("CARGO_BIN_EXE_far-server")), folder)?;
        let near = folder.join("near");
        let writers = [Writer::new(&far.source, 1, 1)?, Writer::new(&near, 2, 2)?];
        let globs = [&far.mount, &near].map(|at| format!("{}/*.log*", at.display()));
        let mut cluster = Layout::new(folder, &topic)
            .delivers_to(&kafka.bootstrap(), &[])
            .agent(&globs)
            .start()?;
        let (far, written) = play(&mut cluster, far, writers)?;
        cluster.must_deliver(kafka, &written)?;
        cluster.stop()?;
        drop(far);
        Ok(())
    })
}

/// Waits until that many lines are in Kafka.
fn must_come(cluster: &Cluster, lines: u64) -> Result<()> {
    let kafka = kafka::shared()?;
    poll::until_seen(
        "the lines to be in Kafka",
        SETTLE_LIMIT,
        || kafka.end_offsets(&cluster.topic),
        |&records| records >= lines,
    )?;
    Ok(())
}

fn of(writers: &[Writer]) -> Vec<Written> {
    writers.iter().map(|one| one.written().clone()).collect()
}

#[test]
fn what_another_host_writes_and_rotates_is_read_without_events() -> Result<()> {
    on_kafka("far", |_cluster, far, [writer, near]| {
        let mut random = fastrand::Rng::with_seed(23);
        let schedule = Schedule::random(20_000, 2_000, 5, &WAYS, &mut random);
        let writer = Background::start(writer, schedule).finish()?;
        Ok((far, of(&[writer, near])))
    })
}

#[test]
fn a_folder_that_is_mounted_anew_is_read_on_where_it_was() -> Result<()> {
    on_kafka("far-again", |cluster, far, [mut writer, near]| {
        writer.write(3_000)?;
        must_come(cluster, 3_000)?;
        // Long enough for its files to be gone.
        let far = far.mount_again(Duration::from_secs(4))?;
        writer.write(1_000)?;
        must_come(cluster, 4_000)?;
        cluster.agents[0].stop_cleanly()?;
        writer.write(500)?;
        let far = far.mount_again(Duration::ZERO)?;
        writer.write(500)?;
        cluster.agents[0].start()?;
        Ok((far, of(&[writer, near])))
    })
}

#[test]
fn a_server_that_hangs_holds_up_no_other_file() -> Result<()> {
    on_kafka("far-hung", |cluster, mut far, [mut writer, mut near]| {
        writer.write(1_000)?;
        near.write(1_000)?;
        must_come(cluster, 2_000)?;
        far.hang()?;
        // A link that nobody has followed before.
        let name = writer.path().file_name().context("it has no name")?;
        symlink(
            far.mount.join(name),
            near.path().with_file_name("linked.log"),
        )?;
        writer.write(500)?;
        let admin = cluster.agents[0].admin().to_owned();
        let silent = || {
            let status = http::get(&admin, "/status")?.json()?;
            Ok(status["discovery"]["silent_mounts"].clone())
        };
        let mount = serde_json::json!([far.mount]);
        let what = "the status to say it";
        poll::until_seen(what, SETTLE_LIMIT, silent, |seen| *seen == mount)?;
        near.write(3_000)?;
        near.rotate(Rotation::Rename)?;
        near.write(1_000)?;
        must_come(cluster, 6_000)?;
        let kafka = kafka::shared()?;
        let come = kafka.end_offsets(&cluster.topic)?;
        ensure!(come == 6_000, "it did not hang: {come} lines");
        // Neither does it keep the agent from stopping, nor from starting.
        cluster.agents[0].stop_cleanly()?;
        cluster.agents[0].start()?;
        near.write(1_000)?;
        must_come(cluster, 7_000)?;
        far.answer()?;
        writer.write(500)?;
        must_come(cluster, 8_000)?;
        let what = "the status to be well";
        let none = serde_json::json!([]);
        poll::until_seen(what, SETTLE_LIMIT, silent, |seen| *seen == none)?;
        Ok((far, of(&[writer, near])))
    })
}
