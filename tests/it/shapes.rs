//! What records are: the raw line, the line with headers, JSON; keys and event times from the line.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use serde_json::Value;
use tributary_tests::{
    cluster::{Layout, SETTLE_LIMIT},
    kafka::{self, Arrived, Kafka},
    poll, scratch,
};

const RAW: &str = "shapes.raw";
const HEADERS: &str = "shapes.headers";
const JSON: &str = "shapes.json";
/// Where a stock client puts the same keys.
const STOCK: &str = "shapes.stock";
const PARTITIONS: i32 = 6;
const LINES: usize = 120;
/// 2021-02-02 20:05:00 UTC.
const FIRST_MS: i64 = 1_612_296_300_000;

/// A line, and what must be known of it.
struct Line {
    text: Vec<u8>,
    offset: usize,
    key: Option<String>,
    time_ms: i64,
}

/// Every seventh line names nobody, and some bytes are no UTF-8.
fn lines() -> Vec<Line> {
    let mut offset = 0;
    let line = |no: usize| {
        let key = (no % 7 != 3).then(|| format!("user-{}", no % 11));
        let who = key
            .as_ref()
            .map_or("-".to_owned(), |key| format!("user={key}"));
        let second = no % 60;
        let head = format!("{who} [03/Feb/2021:04:05:{second:02} +0800] \"GET /{no}\" ");
        let text = [head.as_bytes(), b"\xff\t\xe4\xbd\xa0"].concat();
        let time_ms = FIRST_MS + i64::try_from(second).unwrap_or(0) * 1000;
        let line = Line {
            offset,
            key,
            time_ms,
            text,
        };
        offset += line.text.len() + 1;
        line
    };
    (0..LINES).map(line).collect()
}

/// The keys of three tasks on one file.
fn tasks(glob: &str) -> String {
    let common = r#"key = 'user=(?<key>\S+)'
time = { from = "line", pattern = "%d/%b/%Y:%H:%M:%S %z", at = '\[(?<time>[^]]+)\]' }
labels = { app = "shop \"1\"" }
"#;
    let task = |shape: &str, topic: &str, codec: &str| {
        format!(
            "\n[[task]]\nid = {shape:?}\ntopic = {topic:?}\npaths = [{glob:?}]\nshape = {shape:?}\n\
             compression = {codec:?}\n{common}"
        )
    };
    let (headers, json) = (task("headers", HEADERS, "lz4"), task("json", JSON, "none"));
    [common, "compression = \"gzip\"\n", &headers, &json].concat()
}

#[test]
fn records_are_shaped_keyed_and_timed_as_their_tasks_say() -> Result<()> {
    scratch::scenario("shapes", |folder| {
        let kafka = kafka::shared()?;
        for topic in [RAW, HEADERS, JSON, STOCK] {
            kafka.create_topic(topic, PARTITIONS)?;
        }
        let file = folder.join("logs/app.log");
        fs::create_dir_all(folder.join("logs"))?;
        let lines = lines();
        let text: Vec<&[u8]> = lines.iter().map(|line| line.text.as_slice()).collect();
        fs::write(&file, [text.join(&b'\n'), b"\n".to_vec()].concat())?;
        let file = file.display().to_string();
        let mut cluster = Layout::new(folder, RAW)
            .delivers_to(&kafka.bootstrap(), &[])
            .agent(std::slice::from_ref(&file))
            .extra("", &tasks(&file), "")
            .start()?;
        for topic in [RAW, HEADERS, JSON] {
            // Not by the ledger: the minutes of these lines are too old for its window.
            let what = format!("the records of {topic}");
            poll::until_seen(
                &what,
                SETTLE_LIMIT,
                || kafka.end_offsets(topic),
                |&records| records >= LINES as u64,
            )?;
        }
        let places = stock_partitions(kafka, &lines)?;
        let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
        let host = host.trim();

        let by_value = |record: &Arrived| Ok(record.value.clone());
        for (line, record) in matched(kafka, RAW, &lines, &places, by_value)? {
            ensure!(record.value == line.text, "{record:?}");
            ensure!(headers(&record).is_empty(), "{record:?}");
        }
        for (line, record) in matched(kafka, HEADERS, &lines, &places, by_value)? {
            let offset = line.offset.to_string();
            let wanted = [
                ("host", host),
                ("file", &file),
                ("app", "shop \"1\""),
                ("offset", &offset),
            ];
            ensure!(headers(&record) == wanted, "{record:?}");
        }
        let find = |record: &Arrived| {
            let object: Value = serde_json::from_slice(&record.value)?;
            let offset = object["offset"].as_u64().context("no offset")?;
            let line = lines.iter().find(|line| line.offset as u64 == offset);
            Ok(line.context("no line there")?.text.clone())
        };
        for (line, record) in matched(kafka, JSON, &lines, &places, find)? {
            let object: Value = serde_json::from_slice(&record.value)?;
            let time = format!(
                "2021-02-02T20:05:{:02}.000Z",
                (line.time_ms - FIRST_MS) / 1000
            );
            let wanted = serde_json::json!({
                "host": host, "file": file, "app": "shop \"1\"", "offset": line.offset, "time": time,
                "message": String::from_utf8_lossy(&line.text),
            });
            ensure!(object == wanted, "{object}");
            ensure!(headers(&record).is_empty(), "{record:?}");
        }
        let keyless = lines.iter().filter(|line| line.key.is_none()).count();
        let counted = cluster.agents[0].metric("tributary_agent_keyless_records_total")?;
        ensure!(
            (counted - 3.0 * keyless as f64).abs() < 0.5,
            "{counted} keyless, not 3 * {keyless}"
        );
        cluster.stop()
    })
}

/// The partition that a stock producer with the partitioner of Java's clients chooses for each key.
fn stock_partitions(kafka: &Kafka, lines: &[Line]) -> Result<BTreeMap<String, i32>> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("partitioner", "murmur2_random")
        .create()?;
    for key in lines.iter().filter_map(|line| line.key.as_ref()) {
        let record = BaseRecord::<str, str>::to(STOCK)
            .key(key.as_str())
            .payload("x");
        producer.send(record).map_err(|(error, _record)| error)?;
    }
    producer.flush(Duration::from_secs(30))?;
    let mut places = BTreeMap::new();
    for record in kafka.read_all(STOCK)? {
        let key = String::from_utf8(record.key.context("no key")?)?;
        places.insert(key, record.partition);
    }
    ensure!(
        places.values().any(|place| *place != places["user-0"]),
        "all keys in one partition"
    );
    Ok(places)
}

/// Each line with its record, which `text_of` finds by its text: the key, partition, time and order
/// must be right.
fn matched<'a>(
    kafka: &Kafka,
    topic: &str,
    lines: &'a [Line],
    places: &BTreeMap<String, i32>,
    text_of: impl Fn(&Arrived) -> Result<Vec<u8>>,
) -> Result<Vec<(&'a Line, Arrived)>> {
    let mut pairs: Vec<(&Line, Arrived)> = Vec::new();
    let mut of_keyless = None;
    for record in kafka.read_all(topic)? {
        let text = text_of(&record)?;
        let line = lines.iter().find(|line| line.text == text);
        let line = line.with_context(|| format!("nobody wrote {record:?}"))?;
        ensure!(
            record.key.as_deref() == line.key.as_deref().map(str::as_bytes),
            "{record:?}"
        );
        ensure!(record.timestamp_ms == line.time_ms, "{record:?}");
        let place = match &line.key {
            Some(key) => places[key],
            None => *of_keyless.get_or_insert(record.partition),
        };
        ensure!(
            record.partition == place,
            "{record:?} is not in partition {place}"
        );
        let before = pairs.last().filter(|(_, before)| before.partition == place);
        ensure!(
            before.is_none_or(|(before, _)| before.offset < line.offset),
            "out of order: {record:?}"
        );
        pairs.push((line, record));
    }
    ensure!(pairs.len() == LINES, "{} records in {topic}", pairs.len());
    Ok(pairs)
}

/// A record's headers but the batch id.
fn headers(record: &Arrived) -> Vec<(&str, &str)> {
    let ours = record.headers.iter().filter(|(key, _)| key != "tributary");
    ours.map(|(key, value)| (key.as_str(), std::str::from_utf8(value).unwrap_or("?")))
        .collect()
}
