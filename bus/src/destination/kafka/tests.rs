//! Against a real Kafka, when `TRIBUTARY_TEST_KAFKA` names its bootstrap server; otherwise these
//! tests pass without looking. The rig of `tributary-tests` starts one and kills it, too.

use std::{collections::HashSet, sync::mpsc};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};
use tempfile::TempDir;
use tributary_common::{batch::ID_HEADER, wire::Place};

use super::{
    super::{Accepted, Done, Outcome},
    *,
};
use crate::testing::{accepted, batch};

fn bootstrap() -> Option<String> {
    std::env::var("TRIBUTARY_TEST_KAFKA").ok()
}

/// A topic name that no other run has.
fn fresh_topic(what: &str) -> String {
    format!("bus-test-{what}-{}", fastrand::u32(..))
}

struct Rig {
    kafka: Kafka,
    owner: crate::journal::Owner,
    journal: Journal,
    dir: TempDir,
}

fn start(dir: TempDir, bootstrap: &str) -> Rig {
    let (journal, owner, _opened) = Journal::open(dir.path(), false).unwrap();
    let name = Name::new("kafka-main").unwrap();
    let kafka = Kafka::start(
        &name,
        &[bootstrap.to_owned()],
        &BTreeMap::new(),
        64 << 20,
        &journal,
    )
    .unwrap();
    Rig {
        kafka,
        owner,
        journal,
        dir,
    }
}

impl Rig {
    fn deliver(&self, target: &str, batch: &Arc<Accepted>) -> mpsc::Receiver<Outcome> {
        let (told, outcome) = mpsc::channel();
        let done = Done::new(move |outcome| told.send(outcome).unwrap_or_default());
        self.kafka.deliver(Job {
            batch: Arc::clone(batch),
            target: target.to_owned(),
            done,
        });
        outcome
    }

    /// Ends as a kill would: nothing is noted any more.
    fn kill(self) -> TempDir {
        self.owner.close();
        drop(self.journal);
        self.kafka.close(Duration::ZERO);
        self.dir
    }
}

fn wait(outcome: &mpsc::Receiver<Outcome>) -> Place {
    outcome
        .recv_timeout(Duration::from_secs(30))
        .unwrap()
        .unwrap()
}

/// All records of a topic: (partition, offset, value, has the header).
fn records(bootstrap: &str, topic: &str, partitions: i32) -> Vec<(i32, i64, String, bool)> {
    let config = settings::reader(&[bootstrap.to_owned()], &BTreeMap::new());
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&list).unwrap();
    let (mut found, mut open) = (Vec::new(), partitions);
    while open > 0 {
        match consumer.poll(Duration::from_secs(10)) {
            Some(Ok(message)) => {
                use rdkafka::message::Headers;
                let value = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
                let marked = message
                    .headers()
                    .is_some_and(|h| h.iter().any(|h| h.key == ID_HEADER));
                found.push((message.partition(), message.offset(), value, marked));
            }
            Some(Err(KafkaError::PartitionEOF(_partition))) => open -= 1,
            Some(Err(error)) => panic!("{error}"),
            None => panic!("Kafka says nothing"),
        }
    }
    found
}

#[tokio::test]
async fn a_batch_lies_in_one_piece_at_the_place_that_is_told() {
    let Some(bootstrap) = bootstrap() else { return };
    let rig = start(TempDir::new().unwrap(), &bootstrap);
    let topic = fresh_topic("place");
    let mut waiting = Vec::new();
    for seq in 1..=20 {
        for stream in 0..5 {
            let lines = [format!("{stream}/{seq}/a"), format!("{stream}/{seq}/b")];
            let lines = lines.each_ref().map(String::as_str);
            let batch = accepted(batch("web", stream, seq, &lines)).await;
            waiting.push((stream, seq, rig.deliver(&topic, &batch)));
        }
    }
    let mut places = Vec::new();
    for (stream, seq, outcome) in waiting {
        let place = wait(&outcome);
        assert_eq!(place.end - place.first, 2);
        places.push((stream, seq, place));
    }
    let records = records(&bootstrap, &topic, 4);
    assert_eq!(records.len(), 200);
    for (stream, seq, place) in places {
        for (at, part) in [(place.first, "a"), (place.first + 1, "b")] {
            let wanted = (
                place.partition,
                at,
                format!("{stream}/{seq}/{part}"),
                part == "a",
            );
            assert!(records.contains(&wanted), "{wanted:?}");
        }
    }
    // Order within each stream.
    for stream in 0..5 {
        let prefix = format!("{stream}/");
        let seqs: Vec<u64> = records
            .iter()
            .filter(|record| record.2.starts_with(&prefix) && record.3)
            .map(|record| record.2.split('/').nth(1).unwrap().parse().unwrap())
            .collect();
        assert_eq!(seqs, (1..=20).collect::<Vec<u64>>());
    }
    rig.kafka.close(Duration::from_secs(5));
}

#[tokio::test]
async fn after_a_kill_what_is_there_is_not_produced_again() {
    let Some(bootstrap) = bootstrap() else { return };
    let topic = fresh_topic("kill");
    let first = start(TempDir::new().unwrap(), &bootstrap);
    let noted = accepted(batch("web", 1, 1, &["noted"])).await;
    wait(&first.deliver(&topic, &noted));
    let dir = first.kill();

    // What a killed life leaves: two batches produced and not noted, the second one only in part.
    let whole = accepted(batch("web", 1, 2, &["w1", "w2", "w3"])).await;
    let part = accepted(batch("web", 1, 3, &["p1", "p2", "p3"])).await;
    let elsewhere = start(TempDir::new().unwrap(), &bootstrap);
    let place = wait(&elsewhere.deliver(&topic, &whole));
    elsewhere.kafka.close(Duration::from_secs(5));
    produce_part(&bootstrap, &topic, place.partition, &part);

    let second = start(dir, &bootstrap);
    let again = wait(&second.deliver(&topic, &whole));
    assert_eq!(
        (again.partition, again.first, again.end),
        (place.partition, place.first, place.end)
    );
    wait(&second.deliver(&topic, &part));
    let new = accepted(batch("web", 1, 4, &["n1"])).await;
    wait(&second.deliver(&topic, &new));
    let values: Vec<String> = records(&bootstrap, &topic, 4)
        .into_iter()
        .map(|record| record.2)
        .collect();
    assert_eq!(values, ["noted", "w1", "w2", "w3", "p1", "p2", "p3", "n1"]);
    second.kafka.close(Duration::from_secs(5));
}

/// Produces the first two records of a batch, as a life that was killed in the middle.
fn produce_part(bootstrap: &str, topic: &str, partition: i32, batch: &Accepted) {
    use rdkafka::{
        message::{Header, OwnedHeaders},
        producer::{BaseRecord, Producer},
    };
    let config = settings::producer(&[bootstrap.to_owned()], &BTreeMap::new(), 64 << 20);
    let producer: rdkafka::producer::ThreadedProducer<rdkafka::producer::DefaultProducerContext> =
        config.create().unwrap();
    let decoded = batch
        .open(&mut tributary_common::batch::Decoder::new())
        .unwrap();
    for (at, record) in decoded.records().take(2).enumerate() {
        let id = batch.header.id().to_bytes();
        let headers = OwnedHeaders::new().insert(Header {
            key: ID_HEADER,
            value: Some(&id),
        });
        let mut base = BaseRecord::<[u8], [u8]>::to(topic)
            .partition(partition)
            .timestamp(record.timestamp_ms)
            .payload(record.value);
        base.headers = (at == 0).then_some(headers);
        producer
            .send(base)
            .map_err(|(error, _record)| error)
            .unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();
}

#[tokio::test]
async fn an_orderly_stop_needs_no_recovery() {
    let Some(bootstrap) = bootstrap() else { return };
    let topic = fresh_topic("stop");
    let rig = start(TempDir::new().unwrap(), &bootstrap);
    let one = accepted(batch("web", 1, 1, &["x"])).await;
    wait(&rig.deliver(&topic, &one));
    rig.kafka.close(Duration::from_secs(5));
    let no = rig.kafka.no();
    rig.journal.commit_and_wait(Vec::new()).unwrap();
    let open: HashSet<bool> = rig
        .journal
        .memory()
        .targets_of(no)
        .into_iter()
        .map(|(_no, target)| target.open)
        .collect();
    assert_eq!(open, HashSet::from([false]));
}

#[tokio::test]
async fn a_cluster_that_is_away_takes_the_destination_down() {
    let rig = start(TempDir::new().unwrap(), "127.0.0.1:1");
    let one = accepted(batch("web", 1, 1, &["x"])).await;
    let outcome = rig.deliver("web", &one);
    let deadline = Instant::now() + Duration::from_secs(20);
    while rig.kafka.down("web").is_none() {
        assert!(Instant::now() < deadline, "the destination stays up");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(rig.kafka.health().state, "down");
    rig.kafka.close(Duration::from_secs(5));
    assert!(matches!(
        outcome.recv().unwrap(),
        Err(Failure::Unavailable(_))
    ));
}

/// `cargo test --release -p tributary-bus -- --ignored --nocapture speed`: CPU seconds per GB.
#[tokio::test]
#[ignore = "a measurement"]
async fn speed() {
    let Some(bootstrap) = bootstrap() else { return };
    let rig = start(TempDir::new().unwrap(), &bootstrap);
    let topic = fresh_topic("speed");
    let mut rng = fastrand::Rng::with_seed(1);
    let mut batches = Vec::new();
    for seq in 1..=64u64 {
        let lines: Vec<String> = (0..728)
            .map(|_line| {
                format!(
                    "10.{}.{}.{} - - [21/Nov/2026:05:{:02}:{:02} +0000] \"GET /api/v1/items/{}?session={:016x} HTTP/1.1\" 200 {} \"https://shop.example/{}\" \"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36\" rt=0.{:03} uct=0.001 request_id={:032x} upstream=10.0.{}.{}:8080 cache=MISS tenant={} region=dc1-a{}",
                    rng.u8(..), rng.u8(..), rng.u8(..), rng.u8(..60), rng.u8(..60), rng.u32(..), rng.u64(..),
                    rng.u16(..), rng.u32(..), rng.u16(..1000), rng.u128(..), rng.u8(..), rng.u8(..), rng.u16(..), rng.u8(..9)
                )
            })
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        batches.push(batch("web", seq % 8, seq, &lines));
    }
    let raw: u64 = batches
        .iter()
        .map(|(header, _payload)| header.raw_bytes)
        .sum();
    let records: u64 = batches
        .iter()
        .map(|(header, _payload)| u64::from(header.records))
        .sum();
    let before = cpu_seconds();
    let started = Instant::now();
    let rounds = 20;
    for _round in 0..rounds {
        let mut waiting = Vec::new();
        for (header, payload) in &batches {
            let one = accepted((header.clone(), payload.clone())).await;
            waiting.push(rig.deliver(&topic, &one));
        }
        for outcome in waiting {
            wait(&outcome);
        }
    }
    let gb = f64::from(u32::try_from(raw * rounds / 1000).unwrap()) / 1e6;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{gb:.3} GB, {} records: {:.2} CPU s/GB, {:.0} MB/s",
        records * rounds,
        (cpu_seconds() - before) / gb,
        gb * 1000.0 / seconds
    );
    rig.kafka.close(Duration::from_secs(5));
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}
