//! What happens to a Kafka in a year, to a real one and under load: each costs no line, doubles none while the
//! producer lives, and leaves every stream in order, by both producers.
//!
//! Brokers that are killed or hang are in `faults`, single records that a topic never takes in `refused`.

use std::{
    collections::BTreeSet,
    ops::Range,
    path::Path,
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};
use tributary_tests::{
    certs::Authority,
    cluster::{Cluster, Layout, topic_name},
    kafka::{
        self, Kafka, free_port,
        secured::{PASSWORD, USER},
    },
    ledger, poll,
    proxy::{Mode, Proxy},
    scratch,
    writer::{Background, Schedule, Writer, Written},
};

/// By then something that is to happen has, also on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Both producers, side by side, each with a folder and a topic of its own.
pub(crate) fn by_both(
    name: &str,
    folder: &Path,
    run: impl Fn(&str, &Path, &str) -> Result<()> + Sync,
) -> Result<()> {
    thread::scope(|scope| {
        let run = &run;
        let runs = ["verbatim", "rdkafka"].map(|producer| {
            scope.spawn(move || {
                run(
                    producer,
                    &folder.join(producer),
                    &topic_name(name, u64::from(producer == "verbatim")),
                )
            })
        });
        runs.into_iter().try_for_each(|run| {
            let ended = run.join().map_err(|_panic| anyhow!("a run panicked"));
            ended.flatten()
        })
    })
}

pub(crate) fn layout(producer: &str, folder: &Path, topic: &str, to: (&str, &[&str])) -> Layout {
    let layout = Layout::new(folder, topic).delivers_to(to.0, to.1);
    let layout = match producer {
        "verbatim" => layout.verbatim(),
        _ => layout,
    };
    layout
        .class("P0")
        .agent(&[format!("{}/logs/app-*", folder.display())])
}

/// So many files that grow for so long, each line by line.
pub(crate) fn write(
    folder: &Path,
    files: Range<u32>,
    (lines, per_second): (u64, u64),
) -> Result<Vec<Background>> {
    let writers = files.map(|file| {
        let schedule = Schedule {
            lines,
            per_second,
            rotations: Vec::new(),
        };
        let writer = Writer::new(&folder.join("logs"), file, 1)?;
        Ok(Background::start(writer, schedule))
    });
    writers.collect()
}

pub(crate) fn written(writers: Vec<Background>) -> Result<Vec<Written>> {
    let written = writers.into_iter();
    written
        .map(|one| Ok(one.finish()?.written().clone()))
        .collect()
}

/// The right to write is taken away and given back at any moment, while batches are on their way: what is behind
/// a refused one in its stream must not be there before it comes again. The way to the broker takes a while, so
/// that there is much behind it.
#[test]
fn a_right_that_is_taken_away_and_given_back_costs_no_line_and_no_order() -> Result<()> {
    const TIMES: usize = 4;
    let name = "rights";
    scratch::scenario(name, |folder| {
        let door = free_port()?;
        let proxy = Proxy::start(&format!("127.0.0.1:{door}"))?;
        let kafka = Kafka::start_guarded(&folder.join("kafka"), door, &proxy.address())?;
        let options = [
            "\"security.protocol\" = \"SASL_PLAINTEXT\"".to_owned(),
            "\"sasl.mechanism\" = \"PLAIN\"".to_owned(),
            format!("\"sasl.username\" = {USER:?}"),
            format!("\"sasl.password\" = {PASSWORD:?}"),
        ];
        let options = options.each_ref().map(String::as_str);
        by_both(name, folder, |producer, folder, topic| {
            kafka.create_topic(topic, 2)?;
            let mut cluster =
                layout(producer, folder, topic, (&proxy.address(), &options)).start()?;
            proxy.set(Mode::Delay(Duration::from_millis(60)));
            let writers = write(folder, 0..8, (3_000, 400))?;
            let mut random = fastrand::Rng::with_seed(1);
            for _time in 0..TIMES {
                thread::sleep(Duration::from_millis(random.u64(200..600)));
                for _moment in 0..3 {
                    kafka.deny_writes(topic)?;
                    thread::sleep(Duration::from_millis(random.u64(50..300)));
                    kafka.allow_writes(topic)?;
                    thread::sleep(Duration::from_millis(random.u64(50..300)));
                }
                // It goes on at once; by itself it would in half a minute.
                cluster.agents[0].kill_and_start()?;
            }
            let written = written(writers)?;
            cluster.agents[0].kill_and_start()?;
            cluster.must_deliver(&kafka, &written)?;
            let refused = cluster.agents[0].log()?.contains("the bus refused a batch");
            ensure!(refused, "no right was missed");
            cluster.stop()
        })
    })
}

/// A topic gets more partitions under load. What flows stays where it is, who comes new may have a new one, and the
/// next life of the bus finds there what a kill cut off.
#[test]
fn partitions_that_are_added_are_used_by_new_streams_and_no_stream_moves() -> Result<()> {
    let name = "growth";
    let kafka = kafka::shared()?;
    scratch::scenario(name, |folder| {
        by_both(name, folder, |producer, folder, topic| {
            kafka.create_topic(topic, 1)?;
            let often = "\"topic.metadata.refresh.interval.ms\" = \"500\"";
            let layout = layout(producer, folder, topic, (&kafka.bootstrap(), &[often]));
            let mut cluster = layout.start()?;
            let writers = write(folder, 0..4, (4_000, 1_000))?;
            let flows = |ends: &u64| *ends > 1_000;
            poll::until_seen(
                "lines in the topic",
                LIMIT,
                || kafka.end_offsets(topic),
                flows,
            )?;
            kafka.grow_topic(topic, 8)?;
            let noticed = |log: &String| log.contains("a topic has more partitions");
            poll::until_seen("the new partitions", LIMIT, || cluster.bus.log(), noticed)?;
            // Each begins with a batch that is not small, so it may have any partition.
            let mut all = write(folder, 4..12, (12_000, 4_000))?;
            let used = || {
                let arrived = kafka.read_all(topic)?;
                Ok(arrived.iter().map(|one| one.partition).collect())
            };
            let some = |used: &BTreeSet<i32>| used.len() > 2;
            poll::until_seen("new partitions in use", LIMIT, used, some)?;
            cluster.bus.kill_and_start()?;
            all.extend(writers);
            cluster.must_deliver(kafka, &written(all)?)?;
            cluster.stop()
        })
    })
}

/// The only controller goes away with the partitions that it leads, under load, and comes back: nobody chooses new
/// leaders meanwhile.
#[test]
fn a_lost_controller_of_three_brokers_costs_no_line() -> Result<()> {
    let name = "controller";
    scratch::scenario(name, |folder| {
        let (mut first, second, _third) = Kafka::three(&folder.join("kafka"))?;
        let (told, flowing) = mpsc::channel();
        let back = OnceLock::new();
        thread::scope(|scope| {
            let (back, second) = (&back, &second);
            let runs = scope.spawn(move || {
                by_both(name, folder, |producer, folder, topic| {
                    second.create_replicated_topic(topic, 3)?;
                    let bootstrap = second.bootstrap();
                    let mut cluster = layout(producer, folder, topic, (&bootstrap, &[])).start()?;
                    let writers = write(folder, 0..4, (10_000, 1_000))?;
                    let flows = |ends: &u64| *ends > 1_000;
                    let ends = || second.end_offsets(topic);
                    poll::until_seen("lines in the topic", LIMIT, ends, flows)?;
                    told.send(())?;
                    // As long as the other producer may take to get here, and the broker to come back.
                    poll::until("the broker to be back", 4 * LIMIT, || Ok(back.get()))?;
                    cluster.must_deliver(second, &written(writers)?)?;
                    cluster.stop()
                })
            });
            // Who fails before does not say so here; the other goes on all the same.
            let flowing = (0..2).all(|_run| flowing.recv_timeout(3 * LIMIT).is_ok());
            let restarted = first.kill().and_then(|()| first.restart());
            let _first = back.set(());
            runs.join().map_err(|_panic| anyhow!("a run panicked"))??;
            restarted?;
            ensure!(flowing, "no lines flowed");
            Ok(())
        })
    })
}

/// Waits until the bus says of its Kafka what is wrong, and never the password.
fn until_said(cluster: &Cluster, word: &str) -> Result<()> {
    let look = || Ok(cluster.bus.status()?["destinations"][0].to_string());
    let said = |seen: &String| {
        let is_up = seen.contains("\"state\":\"up\"");
        !is_up && seen.to_lowercase().contains(word) && !seen.contains(PASSWORD)
    };
    poll::until_seen(word, LIMIT, look, said).map(drop)
}

/// The password is another one in Kafka, then in the bus's file, while lines flow. Who is logged in has to log in
/// again every two seconds.
#[test]
fn a_password_that_is_rotated_is_asked_for_and_costs_no_line() -> Result<()> {
    let name = "rotated";
    scratch::scenario(name, |folder| {
        let authority = Authority::new(&folder.join("ca"))?;
        let (kafka, doors) = Kafka::start_secured(&folder.join("kafka"), &authority)?;
        by_both(name, folder, |producer, folder, topic| {
            kafka.create_topic(topic, 2)?;
            kafka.set_password(producer, PASSWORD)?;
            let options = [
                "\"security.protocol\" = \"SASL_PLAINTEXT\"".to_owned(),
                "\"sasl.mechanism\" = \"SCRAM-SHA-256\"".to_owned(),
                format!("\"sasl.username\" = {producer:?}"),
                format!("\"sasl.password\" = {PASSWORD:?}"),
            ];
            let options = options.each_ref().map(String::as_str);
            let mut cluster = layout(producer, folder, topic, (&doors.scram, &options)).start()?;
            let writers = write(folder, 0..4, (10_000, 1_000))?;
            let flows = |ends: &u64| *ends > 1_000;
            let ends = || kafka.end_offsets(topic);
            poll::until_seen("lines in the topic", LIMIT, ends, flows)?;
            kafka.set_password(producer, "the new one")?;
            until_said(&cluster, "authentication")?;
            let config = std::fs::read_to_string(cluster.bus.folder().join("config.toml"))?;
            cluster
                .bus
                .reload(&config.replace(PASSWORD, "the new one"))?;
            cluster.must_deliver(&kafka, &written(writers)?)?;
            cluster.stop()
        })
    })
}

/// The broker's certificate has ended when it starts again; with a good one all goes on.
#[test]
fn a_certificate_that_has_ended_is_said_and_costs_no_line() -> Result<()> {
    let name = "ended";
    scratch::scenario(name, |folder| {
        let authority = Authority::new(&folder.join("ca"))?;
        let (mut kafka, doors) = Kafka::start_secured(&folder.join("kafka"), &authority)?;
        let options = [
            "\"security.protocol\" = \"SASL_SSL\"".to_owned(),
            "\"sasl.mechanism\" = \"PLAIN\"".to_owned(),
            format!("\"sasl.username\" = {USER:?}"),
            format!("\"sasl.password\" = {PASSWORD:?}"),
            format!("\"ssl.ca.location\" = {:?}", authority.ca()),
        ];
        let options = options.each_ref().map(String::as_str);
        let mut runs = Vec::new();
        for producer in ["verbatim", "rdkafka"] {
            let (topic, folder) = (format!("{name}.{producer}"), folder.join(producer));
            kafka.create_topic(&topic, 2)?;
            let cluster = layout(producer, &folder, &topic, (&doors.plain, &options)).start()?;
            let writers = write(&folder, 0..2, (20_000, 1_000))?;
            let flows = |ends: &u64| *ends > 1_000;
            let ends = || kafka.end_offsets(&topic);
            poll::until_seen("lines in the topic", LIMIT, ends, flows)?;
            runs.push((cluster, writers));
        }
        kafka.kill()?;
        kafka.certify(&authority, true)?;
        kafka.restart()?;
        for (cluster, _writers) in &runs {
            until_said(cluster, "certificate")?;
        }
        kafka.kill()?;
        kafka.certify(&authority, false)?;
        kafka.restart()?;
        for (mut cluster, writers) in runs {
            cluster.must_deliver(&kafka, &written(writers)?)?;
            cluster.stop()?;
        }
        Ok(())
    })
}

/// A Kafka whose brokers make no topics. Without a word of the route the topic is refused, with more replicas than
/// there are brokers as well; then it is created as the route says.
#[test]
fn a_topic_that_is_missing_is_created_where_its_route_says_so_and_refused_otherwise() -> Result<()>
{
    let name = "missing";
    scratch::scenario(name, |folder| {
        let none = "auto.create.topics.enable=false\n";
        let kafka = Kafka::start_with(&folder.join("kafka"), none)?;
        by_both(name, folder, |producer, folder, topic| {
            let layout = layout(producer, folder, topic, (&kafka.bootstrap(), &[]));
            let mut cluster = layout.routed(", topic = \"x-{topic}\"").start()?;
            let writers = write(folder, 0..2, (1_000, 1_000))?;
            let config = std::fs::read_to_string(cluster.bus.folder().join("config.toml"))?;
            let said = |cluster: &mut Cluster, words: &str| {
                let log = || cluster.bus.log();
                poll::until_seen(words, LIMIT, log, |log| log.contains(words))?;
                // It comes again at once; by itself it would in half a minute.
                cluster.agents[0].kill_and_start()
            };
            said(&mut cluster, "the brokers do not make it")?;
            let create = |replicas: u32| {
                let create =
                    format!(", create = {{ partitions = 3, replicas = {replicas} }}, topic =");
                config.replace(", topic =", &create)
            };
            cluster.bus.reload(&create(3))?;
            said(&mut cluster, "does not let this node create topic")?;
            cluster.bus.reload(&create(1))?;
            cluster.agents[0].kill_and_start()?;
            let written = written(writers)?;
            let lines = written.iter().map(Written::lines).sum();
            ledger::must_agree(cluster.manager.admin(), topic, lines, LIMIT)?;
            let made = format!("x-{topic}");
            let ends = kafka.end_offsets(&made)?;
            ensure!(ends == lines, "{ends} records of {lines}");
            let partitions = kafka.replicas(&made)?.len();
            ensure!(partitions == 3, "{partitions} partitions");
            cluster.stop()
        })
    })
}
