//! A line's way on a good day: files, rotations and orderly restarts, to Kafka and to files.

use anyhow::{Context as _, Result, ensure};
use tributary_tests::{
    cluster::{Cluster, Layout, SETTLE_LIMIT, glob_of, topic_name},
    delivered, kafka, ledger,
    oracle::Verdict,
    say, scratch,
    writer::{Background, Rotation, Schedule, Writer, Written},
};

const WAYS: [Rotation; 3] = [Rotation::Rename, Rotation::Dated, Rotation::CopyTruncate];

/// One agent, three partitions, everything as it should be; `play` is the scenario.
fn on_kafka(
    name: &str,
    play: impl FnOnce(&mut Cluster, Writer) -> Result<Vec<Written>>,
) -> Result<()> {
    scratch::scenario(name, |folder| {
        let kafka = kafka::shared()?;
        let topic = topic_name(name, 0);
        kafka.create_topic(&topic, 3)?;
        let writer = Writer::new(&folder.join("logs"), 1, 1)?;
        let mut cluster = Layout::new(folder, &topic)
            .delivers_to(&kafka.bootstrap(), &[])
            .agent(&[glob_of(&writer)])
            .start()?;
        let written = play(&mut cluster, writer)?;
        cluster.must_deliver(kafka, &written)?;
        cluster.stop()
    })
}

#[test]
fn every_line_of_a_growing_file_reaches_kafka_once() -> Result<()> {
    on_kafka("grow", |_, mut writer| {
        writer.write(20_000)?;
        Ok(vec![writer.written().clone()])
    })
}

#[test]
fn every_rotation_of_logrotate_is_followed_while_running() -> Result<()> {
    on_kafka("rotate", |_, writer| {
        let mut random = fastrand::Rng::with_seed(11);
        let schedule = Schedule::random(20_000, 5_000, 9, &WAYS, &mut random);
        let writer = Background::start(writer, schedule).finish()?;
        Ok(vec![writer.written().clone()])
    })
}

#[test]
fn what_was_written_and_rotated_while_the_agent_was_stopped_is_read_later() -> Result<()> {
    on_kafka("offline", |cluster, mut writer| {
        writer.write(3_000)?;
        cluster.agents[0].stop_cleanly()?;
        for way in WAYS {
            writer.write(1_000)?;
            writer.rotate(way)?;
        }
        writer.write(500)?;
        cluster.agents[0].start()?;
        writer.write(500)?;
        Ok(vec![writer.written().clone()])
    })
}

#[test]
fn orderly_restarts_of_every_part_double_nothing() -> Result<()> {
    on_kafka("restart", |cluster, writer| {
        let schedule = Schedule {
            lines: 24_000,
            per_second: 4_000,
            rotations: Vec::new(),
        };
        let background = Background::start(writer, schedule);
        for _ in 0..2 {
            cluster.agents[0].stop_cleanly()?;
            cluster.agents[0].start()?;
            cluster.bus.stop_cleanly()?;
            cluster.bus.start()?;
            cluster.manager.stop_cleanly()?;
            cluster.manager.start()?;
        }
        Ok(vec![background.finish()?.written().clone()])
    })
}

/// The data path does not need the manager (invariant 4), and its facts wait for it.
#[test]
fn lines_flow_while_the_manager_is_away_and_are_counted_later() -> Result<()> {
    on_kafka("no-manager", |cluster, mut writer| {
        cluster.manager.kill()?;
        cluster.agents[0].kill_and_start()?;
        cluster.bus.kill_and_start()?;
        writer.write(5_000)?;
        let kafka = kafka::shared()?;
        let what = "the lines to arrive without a manager";
        tributary_tests::poll::until_seen(
            what,
            SETTLE_LIMIT,
            || kafka.end_offsets(&cluster.topic),
            |&records| records == 5_000,
        )?;
        cluster.manager.start()?;
        Ok(vec![writer.written().clone()])
    })
}

#[test]
fn many_files_of_two_agents_come_together() -> Result<()> {
    scratch::scenario("two-agents", |folder| {
        let kafka = kafka::shared()?;
        kafka.create_topic("two-agents", 4)?;
        let logs = [folder.join("logs-a"), folder.join("logs-b")];
        let cluster = Layout::new(folder, "two-agents")
            .delivers_to(&kafka.bootstrap(), &[])
            .agent(&[format!("{}/*.log*", logs[0].display())])
            .agent(&[format!("{}/**/*.log*", logs[1].display())])
            .start()?;
        let mut written = Vec::new();
        for file in 0..24 {
            let below = if file % 2 == 0 {
                logs[0].clone()
            } else {
                logs[1].join("deep/er")
            };
            let mut writer = Writer::new(&below, file, 5)?;
            writer.write(100 + u64::from(file) * 20)?;
            writer.rotate(Rotation::Rename)?;
            writer.write(50)?;
            written.push(writer.written().clone());
        }
        cluster.must_deliver(kafka, &written).map(drop)
    })
}

#[test]
fn the_file_destination_holds_every_line_once_after_kills_of_the_bus() -> Result<()> {
    scratch::scenario("files", |folder| {
        let writer = Writer::new(&folder.join("logs"), 1, 3)?;
        let layout = Layout::new(folder, "files").agent(&[glob_of(&writer)]);
        let mut cluster = layout.start()?;
        let schedule = Schedule {
            lines: 20_000,
            per_second: 5_000,
            rotations: Vec::new(),
        };
        let background = Background::start(writer, schedule);
        for _ in 0..3 {
            cluster.bus.kill_and_start()?;
        }
        let written = [background.finish()?.written().clone()];
        ledger::must_agree(cluster.manager.admin(), "files", 20_000, SETTLE_LIMIT)?;
        cluster.stop()?;
        let records = delivered::records(&layout.delivered())?;
        let records = records
            .iter()
            .map(|(place, line)| (*place, line.as_slice()));
        let verdict = Verdict::on(&written, records);
        // An hour may end during the run; order is then kept in each of its two files.
        ensure!(verdict.disordered <= 1, "{verdict}");
        Verdict {
            disordered: 0,
            ..verdict
        }
        .must_be_perfect()
    })
}

/// Many agents come in, one set of connections leads to the brokers, by either producer.
#[test]
fn a_node_has_as_many_connections_to_kafka_for_eight_agents_as_for_one() -> Result<()> {
    scratch::scenario("convergence", |folder| {
        let kafka = kafka::shared()?;
        let broker = kafka.bootstrap();
        for verbatim in [false, true] {
            let mut seen = Vec::new();
            for agents in [1, 8] {
                let topic = topic_name(&format!("convergence-{verbatim}"), agents);
                kafka.create_topic(&topic, 3)?;
                let folder = folder.join(&topic);
                let mut layout = Layout::new(&folder, &topic).delivers_to(&broker, &[]);
                if verbatim {
                    layout = layout.verbatim();
                }
                let mut writers = Vec::new();
                for number in 0..u32::try_from(agents)? {
                    let logs = folder.join(format!("logs-{number}"));
                    writers.push(Writer::new(&logs, number, agents)?);
                    layout = layout.agent(&[glob_of(&writers[number as usize])]);
                }
                let cluster = layout.start()?;
                for writer in &mut writers {
                    writer.write(500)?;
                }
                let written: Vec<Written> = writers.iter().map(|w| w.written().clone()).collect();
                cluster.must_deliver(kafka, &written)?;
                let status = cluster.bus.status()?;
                ensure!(status["connections"] == agents, "{status}");
                let out = status["connections_out"][&broker].as_u64();
                seen.push(out.with_context(|| format!("none to {broker}: {status}"))?);
            }
            say(&format!(
                "convergence: verbatim {verbatim}, connections out {seen:?}"
            ));
            // One more may be looking at what is in the topic.
            ensure!(seen[1] <= seen[0] + 1, "{seen:?}");
        }
        Ok(())
    })
}
