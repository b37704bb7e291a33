//! Records that a topic will never take: the rest of their batches goes on in order, they are kept with
//! their reason and counted, also when the bus is killed right behind them, and are delivered once when the
//! topic takes them.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tributary_tests::{
    cluster::{Cluster, Layout, topic_name},
    http,
    kafka::{self, Kafka},
    ledger::{self, Letters},
    poll, product, scratch,
};

/// By then a settled cluster has delivered everything, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
const LINES: u64 = 3_000;

/// A topic that does not take some records, and why.
struct Case {
    name: &'static str,
    /// What the topic is told not to take, and then to take.
    setting: (&'static str, &'static str, &'static str),
    /// The first word of the reason, by the producer of ours and by librdkafka.
    reason: [&'static str; 2],
    /// Lines of the task.
    task: &'static str,
    /// One line in so many is not taken.
    every: u64,
    /// The lines have so many keys in turns: order is asked for within each.
    keys: u64,
    line: fn(u64, bool) -> String,
}

/// Text that no codec makes shorter.
fn noise(bytes: usize, seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..bytes).map(|_at| random.alphanumeric()).collect()
}

const IN_2020: u64 = 1_577_836_800;
const TIMES: &str = "time = { from = \"line\", pattern = \"%s\" }";

const CASES: [Case; 4] = [
    Case {
        name: "large",
        setting: ("max.message.bytes", "20000", "2000000"),
        reason: ["MessageTooLarge"; 2],
        task: "",
        every: 1_000,
        keys: 1,
        line: |n, bad| format!("{n} {}", noise(if bad { 60_000 } else { 50 }, n)),
    },
    // Of a batch some partitions take their part, and others do not.
    Case {
        name: "large-keyed",
        setting: ("max.message.bytes", "20000", "2000000"),
        reason: ["MessageTooLarge"; 2],
        task: "key = \"user=(?<key>[a-z])\"",
        every: 1_000,
        keys: 7,
        line: |n, bad| {
            let user = ['a', 'b', 'c', 'd', 'e', 'f', 'g'][(n % 7) as usize];
            let noise = noise(if bad { 60_000 } else { 50 }, n);
            format!("{n} user={user} {noise}")
        },
    },
    Case {
        name: "late",
        setting: (
            "message.timestamp.before.max.ms",
            "3600000",
            "9223372036854775807",
        ),
        // Of each record librdkafka says no more than that.
        reason: ["InvalidTimestamp", "InvalidRecord"],
        task: TIMES,
        every: 100,
        keys: 1,
        line: |n, bad| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.unwrap_or_default().as_secs();
            format!("{} {n}", if bad { IN_2020 } else { now })
        },
    },
    Case {
        name: "keyless",
        setting: ("cleanup.policy", "compact", "delete"),
        reason: ["InvalidRecord"; 2],
        task: "key = \"user=(?<key>[a-z]+)\"",
        every: 3,
        keys: 1,
        line: |n, bad| format!("{n} {}", if bad { "nobody" } else { "user=one" }),
    },
];

impl Case {
    fn topic(&self, producer: &str) -> String {
        topic_name(&format!("refused-{}-{producer}", self.name), 0)
    }

    fn is_bad(&self, n: u64) -> bool {
        n % self.every == self.every / 2
    }

    fn dead(&self) -> u64 {
        (0..LINES).filter(|&n| self.is_bad(n)).count() as u64
    }

    fn write(&self, logs: &Path) -> Result<()> {
        fs::create_dir_all(logs)?;
        let mut file = File::create(logs.join("app.log"))?;
        for n in 0..LINES {
            writeln!(file, "{}", (self.line)(n, self.is_bad(n)))?;
        }
        Ok(())
    }

    /// The numbers of the lines in the topic, in the order in which they came.
    fn arrived(&self, kafka: &Kafka, topic: &str) -> Result<Vec<u64>> {
        let number = |value: &[u8]| {
            let text = String::from_utf8_lossy(value).into_owned();
            let mut words = text.split(' ');
            let word = if self.task == TIMES {
                words.nth(1)
            } else {
                words.next()
            };
            word.and_then(|word| word.parse().ok()).unwrap_or(u64::MAX)
        };
        let all = kafka.read_all(topic)?;
        Ok(all.iter().map(|one| number(&one.value)).collect())
    }

    /// The good lines are there once, those of a key in order; of the others the first `replayed`, behind them.
    fn must_have(&self, kafka: &Kafka, topic: &str, replayed: bool) -> Result<()> {
        let arrived = self.arrived(kafka, topic)?;
        for key in 0..self.keys {
            let is_of_key = |n: &u64| n % self.keys == key;
            let mut arrived: Vec<u64> = arrived.iter().copied().filter(is_of_key).collect();
            let all = (0..LINES).filter(is_of_key);
            let (bad, good): (Vec<u64>, Vec<u64>) = all.partition(|&n| self.is_bad(n));
            let mut behind = arrived.split_off(good.len().min(arrived.len()));
            ensure!(arrived == good, "{topic}: {arrived:?} of key {key}");
            behind.sort_unstable();
            let bad = if replayed { bad } else { Vec::new() };
            ensure!(behind == bad, "{topic}: {behind:?} behind the others");
        }
        Ok(())
    }
}

fn letters(cluster: &Cluster) -> Result<Value> {
    let list = http::get(cluster.bus.admin(), "/v1/dead?destination=main")?.json()?;
    Ok(list["destinations"][0].clone())
}

fn replay(cluster: &Cluster) -> Result<()> {
    let args = [
        "ctl",
        "dead",
        "replay",
        cluster.bus.admin(),
        "--destination",
        "main",
    ];
    let done = product::run("tributary", &args, cluster.bus.folder())?;
    ensure!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

fn refuses(producer: &str, case: &Case) -> Result<()> {
    let kafka = kafka::shared()?;
    let topic = case.topic(producer);
    scratch::scenario(&topic, |folder| {
        let (key, strict, lenient) = case.setting;
        kafka.create_topic(&topic, if case.keys > 1 { 4 } else { 1 })?;
        kafka.set_topic(&topic, key, strict)?;
        let logs = folder.join("logs");
        let mut layout = Layout::new(folder, &topic).delivers_to(&kafka.bootstrap(), &[]);
        if producer == "verbatim" {
            layout = layout.verbatim();
        }
        case.write(&logs)?;
        let layout = layout
            .extra("", case.task, "")
            .agent(&[format!("{}/*", logs.display())]);
        let mut cluster = layout.start()?;
        let some = |seen: &Value| seen["letters"].as_u64() > Some(0);
        poll::until_seen("a dead letter", LIMIT, || letters(&cluster), some)?;
        cluster.bus.kill_and_start()?;
        let dead = case.dead();
        let agree = |cluster: &Cluster, [dead, replayed]: [u64; 2]| {
            let ends = Letters {
                dead,
                purged: 0,
                replayed,
            };
            ledger::must_agree_but(cluster.manager.admin(), &topic, LINES, ends, LIMIT)
        };
        agree(&cluster, [dead, 0])?;
        case.must_have(kafka, &topic, false)?;
        let group = letters(&cluster)?["groups"][0].clone();
        let reason = case.reason[usize::from(producer != "verbatim")];
        ensure!(
            group["letters"] == dead && group["reason"] == reason,
            "{group}"
        );

        kafka.set_topic(&topic, key, lenient)?;
        replay(&cluster)?;
        cluster.bus.kill_and_start()?;
        // What the kill cut off is sent by this; what was delivered before it is found, and not sent twice.
        replay(&cluster)?;
        agree(&cluster, [0, dead])?;
        case.must_have(kafka, &topic, true)?;
        cluster.stop()
    })
}

#[test]
fn a_record_that_its_topic_never_takes_is_kept_and_the_rest_goes_on() -> Result<()> {
    std::thread::scope(|scope| {
        let runs = CASES
            .iter()
            .map(|case| scope.spawn(|| refuses("verbatim", case)));
        let others = CASES
            .iter()
            .map(|case| scope.spawn(|| refuses("rdkafka", case)));
        let runs: Vec<_> = runs.chain(others).collect();
        runs.into_iter().try_for_each(|run| {
            let panicked = |_panic| anyhow::anyhow!("a case panicked");
            run.join().map_err(panicked)?
        })
    })
}

/// librdkafka is given several batches for one request. Whether those are too large together is known
/// only when the topic says so.
#[test]
fn a_topic_that_takes_single_batches_only_gets_them_one_by_one() -> Result<()> {
    const FILES: u64 = 40;
    const LINES_EACH: u64 = 100;
    let kafka = kafka::shared()?;
    let topic = topic_name("single", 0);
    scratch::scenario(&topic, |folder| {
        kafka.create_topic_with(&topic, &[("max.message.bytes", "40000")])?;
        let logs = folder.join("logs");
        fs::create_dir_all(&logs)?;
        let mut cluster = Layout::new(folder, &topic)
            .delivers_to(&kafka.bootstrap(), &[])
            .agent(&[format!("{}/*", logs.display())])
            .start()?;
        // So that they come all at once. One takes 24 kB, two together are too large.
        cluster.bus.kill()?;
        for name in 0..FILES {
            let mut file = File::create(logs.join(format!("{name}.log")))?;
            for n in 0..LINES_EACH {
                writeln!(file, "{name} {n} {}", noise(300, name * LINES_EACH + n))?;
            }
        }
        let all = FILES * LINES_EACH;
        let read = |seen: &Value| seen["tasks"][0]["read_records"] == all;
        poll::until_seen("the files read", LIMIT, || cluster.agents[0].status(), read)?;
        cluster.bus.start()?;
        ledger::must_agree(cluster.manager.admin(), &topic, all, LIMIT)?;
        let mut next = vec![0; usize::try_from(FILES)?];
        for one in kafka.read_all(&topic)? {
            let text = String::from_utf8_lossy(&one.value).into_owned();
            let mut words = text.split(' ').map(str::parse::<usize>);
            let (Some(Ok(file)), Some(Ok(n))) = (words.next(), words.next()) else {
                bail!("not a line of ours: {text}");
            };
            let expected = next.get_mut(file).context("no such file")?;
            ensure!(
                n == *expected,
                "file {file}: {n} in the place of {expected}"
            );
            *expected += 1;
        }
        let log = cluster.bus.log()?;
        let said = log.contains("one by one from now on");
        ensure!(said, "they were never too large together");
        cluster.stop()
    })
}
