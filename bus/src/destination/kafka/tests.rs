//! The destination against a real Kafka. `tributary-tests` runs the ignored ones with its broker
//! (`it/bus_on_kafka.rs`); by hand: `TRIBUTARY_TEST_KAFKA=host:port cargo test -p tributary-bus --
//! --ignored`.

use std::{
    collections::{HashMap, HashSet},
    sync::mpsc,
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};
use tempfile::TempDir;
use tributary_common::{batch::ID_HEADER, ids::StreamId, wire::Place};

use super::{
    super::{Accepted, Done, Outcome},
    keyed::partition_of_key,
    *,
};
use crate::testing::{accepted, batch, keyed_batch};

fn bootstrap() -> String {
    std::env::var("TRIBUTARY_TEST_KAFKA").expect("TRIBUTARY_TEST_KAFKA names a Kafka")
}

/// How many partitions the topics have.
const PARTITIONS: i32 = 4;

/// A topic that no other run has.
async fn fresh_topic(what: &str, bootstrap: &str) -> String {
    topic_with(what, bootstrap, &[]).await
}

async fn topic_with(what: &str, bootstrap: &str, settings: &[(&str, &str)]) -> String {
    let name = format!("bus-test-{what}-{}", fastrand::u32(..));
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .unwrap();
    let topic = NewTopic::new(&name, PARTITIONS, TopicReplication::Fixed(1));
    let topic = settings
        .iter()
        .fold(topic, |topic, (key, value)| topic.set(key, value));
    let made = admin.create_topics(&[topic], &AdminOptions::new()).await;
    made.unwrap().remove(0).unwrap();
    name
}

pub(super) struct Rig {
    pub(super) kafka: Kafka,
    owner: crate::journal::Owner,
    journal: Journal,
    dir: TempDir,
}

pub(super) fn start(producer: ProducerKind, dir: TempDir, bootstrap: &str) -> Rig {
    let (journal, owner, _opened) = Journal::open(dir.path(), false).unwrap();
    let name = Name::new("kafka-main").unwrap();
    let cluster = KafkaConfig {
        bootstrap: vec![bootstrap.to_owned()],
        options: BTreeMap::new(),
        producer,
        groups: None,
        partition_rate: 1_000_000,
    };
    let letters = Letters::open(&dir.path().join("dead"), &name, 64 << 20, false).unwrap();
    let own = (&Arc::new(letters), &journal);
    let kafka = Kafka::start(&name, &cluster, 64 << 20, own).unwrap();
    Rig {
        kafka,
        owner,
        journal,
        dir,
    }
}

impl Rig {
    pub(super) fn deliver(&self, target: &str, batch: &Arc<Accepted>) -> mpsc::Receiver<Outcome> {
        let (told, outcome) = mpsc::channel();
        let done = Done::new(move |outcome| told.send(outcome).unwrap_or_default());
        self.kafka.deliver(Job {
            replay: None,
            batch: Arc::clone(batch),
            target: target.to_owned(),
            done,
        });
        outcome
    }

    pub(super) fn is_down(&self, target: &str) -> bool {
        self.kafka.down(target).is_some()
    }

    /// Ends as a kill would: nothing is noted any more.
    pub(super) fn kill(self) -> TempDir {
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
fn records(bootstrap: &str, topic: &str) -> Vec<(i32, i64, String, bool)> {
    let config = settings::reader(&[bootstrap.to_owned()], &BTreeMap::new());
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&list).unwrap();
    let (mut found, mut open) = (Vec::new(), PARTITIONS);
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
#[ignore = "needs a Kafka, which it/bus_on_kafka.rs gives"]
async fn a_batch_lies_in_one_piece_at_the_place_that_is_told() {
    place_of_batches(ProducerKind::Rdkafka).await;
    place_of_batches(ProducerKind::Verbatim).await;
}

async fn place_of_batches(producer: ProducerKind) {
    let bootstrap = bootstrap();
    let rig = start(producer, TempDir::new().unwrap(), &bootstrap);
    let topic = fresh_topic("place", &bootstrap).await;
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
    let records = records(&bootstrap, &topic);
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
#[ignore = "needs a Kafka, which it/bus_on_kafka.rs gives"]
async fn after_a_kill_what_is_there_is_not_produced_again() {
    after_a_kill(ProducerKind::Rdkafka).await;
    after_a_kill(ProducerKind::Verbatim).await;
}

async fn after_a_kill(producer: ProducerKind) {
    let bootstrap = bootstrap();
    let topic = fresh_topic("kill", &bootstrap).await;
    let first = start(producer, TempDir::new().unwrap(), &bootstrap);
    let noted = accepted(batch("web", 1, 1, &["noted"])).await;
    wait(&first.deliver(&topic, &noted));
    let dir = first.kill();

    // What a killed life leaves: two batches produced and not noted, the second one only in part.
    let whole = accepted(batch("web", 1, 2, &["w1", "w2", "w3"])).await;
    let part = accepted(batch("web", 1, 3, &["p1", "p2", "p3"])).await;
    let elsewhere = start(producer, TempDir::new().unwrap(), &bootstrap);
    let place = wait(&elsewhere.deliver(&topic, &whole));
    elsewhere.kafka.close(Duration::from_secs(5));
    produce_part(&bootstrap, &topic, &part, &[place.partition; 2]);

    let second = start(producer, dir, &bootstrap);
    let again = wait(&second.deliver(&topic, &whole));
    assert_eq!(
        (again.partition, again.first, again.end),
        (place.partition, place.first, place.end)
    );
    wait(&second.deliver(&topic, &part));
    let new = accepted(batch("web", 1, 4, &["n1"])).await;
    wait(&second.deliver(&topic, &new));
    let values: Vec<String> = records(&bootstrap, &topic)
        .into_iter()
        .map(|record| record.2)
        .collect();
    assert_eq!(values, ["noted", "w1", "w2", "w3", "p1", "p2", "p3", "n1"]);
    second.kafka.close(Duration::from_secs(5));
}

#[tokio::test]
#[ignore = "needs a Kafka, which it/bus_on_kafka.rs gives"]
async fn keyed_batches_are_spread_by_their_keys_and_found_after_a_kill() {
    keyed_batches(ProducerKind::Rdkafka).await;
    keyed_batches(ProducerKind::Verbatim).await;
}

async fn keyed_batches(producer: ProducerKind) {
    let bootstrap = bootstrap();
    let topic = fresh_topic("keyed", &bootstrap).await;
    let names: Vec<String> = (0..12).map(|no| format!("user-{no}")).collect();
    let keys: Vec<Option<&str>> = (0..40)
        .map(|at| names.get(at * 7 % 13).map(String::as_str))
        .collect();
    let batches = [1, 2, 3, 4].map(|seq| accepted(keyed_batch("web", 1, seq, &keys)));
    let mut all = Vec::new();
    for batch in batches {
        all.push(batch.await);
    }
    let first = start(producer, TempDir::new().unwrap(), &bootstrap);
    wait(&first.deliver(&topic, &all[0]));
    let dir = first.kill();

    // A killed life left one batch whole and one in part.
    let elsewhere = start(producer, TempDir::new().unwrap(), &bootstrap);
    wait(&elsewhere.deliver(&topic, &all[1]));
    elsewhere.kafka.close(Duration::from_secs(5));
    let of = |key: Option<&str>| match key {
        Some(key) => partition_of_key(key.as_bytes(), PARTITIONS),
        None => Topic::new("t".into(), 0, PARTITIONS, HashMap::new()).partition_of(StreamId(1)),
    };
    let begun: Vec<i32> = keys.iter().take(9).map(|key| of(*key)).collect();
    produce_part(&bootstrap, &topic, &all[2], &begun);

    let second = start(producer, dir, &bootstrap);
    let waiting: Vec<_> = all
        .iter()
        .skip(1)
        .map(|batch| second.deliver(&topic, batch))
        .collect();
    waiting.iter().for_each(|outcome| drop(wait(outcome)));

    let records = records(&bootstrap, &topic);
    assert_eq!(records.len(), 4 * keys.len());
    for (partition, _offset, value, _marked) in &records {
        let key = value.split('/').next().unwrap();
        assert_eq!(*partition, of((key != "none").then_some(key)), "{value}");
    }
    for partition in 0..PARTITIONS {
        let here = records.iter().filter(|record| record.0 == partition);
        let places: Vec<(u64, u64, bool)> = here
            .map(|(_, _, value, marked)| {
                let mut parts = value.split('/').skip(2).map(|part| part.parse().unwrap());
                (parts.next().unwrap(), parts.next().unwrap(), *marked)
            })
            .collect();
        assert!(places.is_sorted(), "{places:?}");
        // What was missing of a batch has its id as well.
        let batches = || places.chunk_by(|one, next| one.0 == next.0);
        assert_eq!(batches().count(), 4, "{places:?}");
        assert!(batches().all(|records| records[0].2), "{places:?}");
    }
    second.kafka.close(Duration::from_secs(5));
}

/// Produces the first records of a batch into these partitions, as a life that was killed in the
/// middle.
fn produce_part(bootstrap: &str, topic: &str, batch: &Accepted, partitions: &[i32]) {
    use rdkafka::{
        message::{Header, OwnedHeaders},
        producer::{BaseRecord, Producer},
    };
    let config = settings::producer(&[bootstrap.to_owned()], &BTreeMap::new(), 64 << 20, false);
    let producer: rdkafka::producer::ThreadedProducer<rdkafka::producer::DefaultProducerContext> =
        config.create().unwrap();
    let decoded = batch
        .open(&mut tributary_common::batch::Decoder::new())
        .unwrap();
    for (at, (record, partition)) in decoded.records().zip(partitions).enumerate() {
        let id = batch.header.id().to_bytes();
        let headers = OwnedHeaders::new().insert(Header {
            key: ID_HEADER,
            value: Some(&id),
        });
        let mut base = BaseRecord::<[u8], [u8]>::to(topic)
            .partition(*partition)
            .timestamp(record.timestamp_ms)
            .payload(record.value);
        base.key = record.key;
        let is_first = partitions.iter().position(|one| one == partition) == Some(at);
        base.headers = is_first.then_some(headers);
        producer
            .send(base)
            .map_err(|(error, _record)| error)
            .unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kafka, which it/bus_on_kafka.rs gives"]
async fn an_orderly_stop_needs_no_recovery() {
    orderly_stop(ProducerKind::Rdkafka).await;
    orderly_stop(ProducerKind::Verbatim).await;
}

async fn orderly_stop(producer: ProducerKind) {
    let bootstrap = bootstrap();
    let topic = fresh_topic("stop", &bootstrap).await;
    let rig = start(producer, TempDir::new().unwrap(), &bootstrap);
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

/// librdkafka stands still while the cluster is well: here because it waits for its linger.
#[tokio::test]
#[ignore = "needs a Kafka, which it/bus_on_kafka.rs gives"]
async fn a_producer_that_stands_still_is_replaced_and_nothing_is_doubled() {
    let bootstrap = bootstrap();
    let topic = fresh_topic("still", &bootstrap).await;
    let rig = start(ProducerKind::Rdkafka, TempDir::new().unwrap(), &bootstrap);
    let one = accepted(batch("web", 1, 1, &["x"])).await;
    wait(&rig.deliver(&topic, &one));

    let shared = Arc::clone(&rig.kafka.shared);
    let mut still = shared.settings.clone();
    still.set("linger.ms", "900000");
    let still = still.create_with_context(Context { shared }).unwrap();
    *rig.kafka.producer.lock() = Some(Arc::new(Producer::new(still).unwrap()));
    rig.kafka.shared.health().lost_leader = true;
    let two = accepted(batch("web", 1, 2, &["y", "z"])).await;
    let outcome = rig.deliver(&topic, &two);
    // It is given up 3 s and 5 s later; what it held is to come again.
    let failed = outcome.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(matches!(failed, Err(Failure::Unavailable(_))), "{failed:?}");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let again = rig.deliver(&topic, &two);
        match again.recv_timeout(Duration::from_secs(30)).unwrap() {
            Ok(_place) => break,
            Err(failure) => assert!(Instant::now() < deadline, "{failure:?}"),
        }
    }
    let mut values: Vec<String> = records(&bootstrap, &topic)
        .into_iter()
        .map(|(_partition, _offset, value, _marked)| value)
        .collect();
    values.sort();
    assert_eq!(values, ["x", "y", "z"]);
    rig.kafka.close(Duration::from_secs(5));
}

/// A topic that takes batches of 4 KiB gets a batch of 20 records of 1 KiB, whose bytes do not compress.
#[tokio::test]
#[ignore = "needs a Kafka, which it/bus_on_kafka.rs gives"]
async fn a_batch_that_is_too_large_for_its_topic_is_cut_and_a_record_becomes_a_dead_letter() {
    let bootstrap = bootstrap();
    let topic = topic_with("large", &bootstrap, &[("max.message.bytes", "4096")]).await;
    let rig = start(ProducerKind::Verbatim, TempDir::new().unwrap(), &bootstrap);
    let mut random = fastrand::Rng::with_seed(7);
    let mut line =
        |bytes: usize| -> String { (0..bytes).map(|_at| random.alphanumeric()).collect() };
    let lines: Vec<String> = (0..20).map(|_no| line(1024)).collect();
    let all: Vec<&str> = lines.iter().map(String::as_str).collect();
    let huge = line(8192);
    let batches = [
        accepted(batch("web", 1, 1, &["before"])).await,
        accepted(batch("web", 1, 2, &all)).await,
        accepted(batch("web", 1, 3, &[&huge])).await,
        accepted(batch("web", 1, 4, &["behind"])).await,
    ];
    let outcomes: Vec<_> = batches.iter().map(|one| rig.deliver(&topic, one)).collect();
    let outcomes: Vec<Outcome> = outcomes
        .iter()
        .map(|one| one.recv_timeout(Duration::from_secs(30)).unwrap())
        .collect();
    let place = outcomes[1].as_ref().unwrap();
    assert_eq!(place.end - place.first, 20);
    let nowhere = outcomes[2].as_ref().unwrap();
    assert_eq!(nowhere.end, nowhere.first, "{outcomes:?}");
    let values: Vec<String> = records(&bootstrap, &topic)
        .into_iter()
        .map(|record| record.2)
        .collect();
    assert_eq!(values, [vec!["before"], all, vec!["behind"]].concat());
    let dir = rig.kill();
    let name = Name::new("kafka-main").unwrap();
    let letters = Letters::open(&dir.path().join("dead"), &name, 64 << 20, false).unwrap();
    let cards = letters.cards(&Filter::default());
    assert_eq!((cards.len(), &*cards[0].kind), (1, "MessageTooLarge"));
}

#[tokio::test]
async fn a_cluster_that_is_away_takes_the_destination_down() {
    away(ProducerKind::Rdkafka).await;
    away(ProducerKind::Verbatim).await;
}

async fn away(producer: ProducerKind) {
    let rig = start(producer, TempDir::new().unwrap(), "127.0.0.1:1");
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

#[tokio::test]
#[ignore = "needs a Kafka, which it/bus_on_kafka.rs gives"]
async fn a_cluster_of_another_id_than_before_is_not_written_to() {
    let first = accepted(batch("web", 1, 1, &["a"])).await;
    let second = accepted(batch("web", 1, 2, &["b"])).await;
    let topic = fresh_topic("which", &bootstrap()).await;
    let rig = start(
        ProducerKind::Verbatim,
        TempDir::new().unwrap(),
        &bootstrap(),
    );
    // An earlier life knew another cluster under this name.
    let no = rig.kafka.no();
    let this = (&Name::new("k").unwrap(), no);
    crate::destination::which::same(&mut rig.journal.memory(), this, "another").unwrap();
    let outcome = rig.deliver(&topic, &first);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !rig.is_down(&topic) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let why = rig.kafka.down(&topic).expect("it is down");
    assert!(why.contains("was cluster another before"), "{why}");
    assert_eq!(rig.kafka.condition(), Condition::Refused);
    assert!(outcome.try_recv().is_err(), "nobody answers it");
    assert!(records(&bootstrap(), &topic).is_empty());
    // The same cluster is known again in the next life.
    rig.kill();
    let rig = start(
        ProducerKind::Verbatim,
        TempDir::new().unwrap(),
        &bootstrap(),
    );
    wait(&rig.deliver(&topic, &first));
    let rig = start(ProducerKind::Verbatim, rig.kill(), &bootstrap());
    wait(&rig.deliver(&topic, &second));
    assert_eq!(records(&bootstrap(), &topic).len(), 2);
    rig.kill();
}
