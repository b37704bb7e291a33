//! The settings of librdkafka: ours, on which the guarantees rest, and the operator's.
//!
//! Source: librdkafka's CONFIGURATION.md (<https://github.com/confluentinc/librdkafka>). Pure.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;

use super::verbatim::security::TOKEN;

/// Settings of producers that an operator may change.
const DEFAULTS: [(&str, &str); 7] = [
    ("compression.type", "zstd"),
    ("compression.level", "1"),
    // Batches come ready; this only joins those of one partition that come together, and gives a
    // batch's records the time to come. A full request does not wait for it.
    ("linger.ms", "8"),
    // Before compression. How much of it a request gets is decided in `pace`.
    ("batch.size", "3300000"),
    // A topic that the broker may make by itself is made with the broker's defaults.
    ("allow.auto.create.topics", "true"),
    // Back within a second after an outage; the default is ten.
    ("reconnect.backoff.max.ms", "1000"),
    ("client.id", "tributary-bus"),
];

/// Settings of producers that nobody may change.
const OURS: [(&str, &str); 7] = [
    ("enable.idempotence", "true"),
    ("acks", "all"),
    // No timeout that drops: a batch is delivered, or the agent still has it.
    ("message.timeout.ms", "0"),
    // A whole request before compression; a record is at most 1 MiB with its framing.
    ("message.max.bytes", "4000000"),
    // Bytes are bounded by permits and batch.size; counts would only bound tiny records.
    ("queue.buffering.max.messages", "0"),
    ("batch.num.messages", "1000000"),
    (SAYS, "0"),
];

/// How often librdkafka says how it is, in ms; 0 for never. Only what produces does.
pub(super) const SAYS: &str = "statistics.interval.ms";

/// Other names of ours, and settings that would undo them.
const REFUSED: [&str; 16] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "request.required.acks",
    "delivery.timeout.ms",
    "retries",
    "message.send.max.retries",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "queue.buffering.max.kbytes",
    "queuing.strategy",
    "transactional.id",
    "enable.gapless.guarantee",
    "delivery.report.only.error",
    "partitioner",
    "group.id",
    "enable.auto.commit",
];

/// Two names of one setting: librdkafka takes whichever comes last.
const ALIASES: [(&str, &str); 2] = [
    ("compression.codec", CODEC),
    ("queue.buffering.max.ms", "linger.ms"),
];

/// The operator's settings, each by the name that is used here; and which were given by both names.
pub(crate) fn by_one_name(
    mut options: BTreeMap<String, String>,
) -> (BTreeMap<String, String>, Vec<(&'static str, &'static str)>) {
    let mut twice = Vec::new();
    for (alias, name) in ALIASES {
        let Some(value) = options.remove(alias) else {
            continue;
        };
        if options.insert(name.to_owned(), value).is_some() {
            twice.push((alias, name));
        }
    }
    (options, twice)
}

/// Whether a setting is not the operator's.
pub(crate) fn is_ours(key: &str) -> bool {
    OURS.iter().any(|(ours, _value)| *ours == key) || REFUSED.contains(&key)
}

/// What batches are compressed with; verbatim keeps what their agents took.
pub(crate) const CODEC: &str = "compression.type";

/// The settings of the producer. `memory` bounds what the bus gives it, in bytes. With `groups` no broker
/// makes a topic where it likes.
pub(super) fn producer(
    bootstrap: &[String],
    options: &BTreeMap<String, String>,
    memory: u64,
    groups: bool,
) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap.join(","));
    for (key, value) in DEFAULTS {
        config.set(key, value);
    }
    for (key, value) in options.iter().filter(|(key, _)| *key != TOKEN) {
        config.set(key, value);
    }
    for (key, value) in OURS {
        config.set(key, value);
    }
    if groups {
        config.set("allow.auto.create.topics", "false");
    }
    // Twice the permits: librdkafka counts its own bookkeeping too, and must not be the bound.
    let kbytes = (memory / 1024).saturating_mul(2).clamp(1024, 2_147_483_647);
    config.set("queue.buffering.max.kbytes", kbytes.to_string());
    config
}

/// The settings of the consumer that looks what is in a topic.
pub(super) fn reader(bootstrap: &[String], options: &BTreeMap<String, String>) -> ClientConfig {
    const NOT_ITS: [&str; 10] = [
        TOKEN,
        "compression.type",
        "compression.codec",
        "compression.level",
        "linger.ms",
        "queue.buffering.max.ms",
        "batch.size",
        "batch.num.messages",
        "request.timeout.ms",
        "sticky.partitioning.linger.ms",
    ];
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap.join(","));
    config.set("client.id", "tributary-bus-recovery");
    for (key, value) in options
        .iter()
        .filter(|(key, _)| !NOT_ITS.contains(&key.as_str()))
    {
        config.set(key, value);
    }
    // A group is only named: offsets are given, nothing is committed.
    config.set("group.id", "tributary-bus-recovery");
    config.set("enable.auto.commit", "false");
    config.set("enable.partition.eof", "true");
    config.set("auto.offset.reset", "error");
    config.set("reconnect.backoff.max.ms", "1000");
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_settings_count_unless_they_are_ours() {
        let options = BTreeMap::from([
            ("compression.type".to_owned(), "lz4".to_owned()),
            ("acks".to_owned(), "0".to_owned()),
        ]);
        let config = producer(&["k:9092".to_owned()], &options, 1 << 30, false);
        assert_eq!(config.get("compression.type"), Some("lz4"));
        assert_eq!(config.get("acks"), Some("all"));
        assert!(is_ours("acks") && is_ours("retries") && !is_ours("linger.ms"));
    }

    #[test]
    fn librdkafka_can_secure_its_connections() {
        let options = [
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "u"),
            ("sasl.password", "p"),
        ];
        let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let options = BTreeMap::from(options.map(own));
        let config = producer(&["127.0.0.1:1".to_owned()], &options, 1 << 30, false);
        // Fails where librdkafka was built without OpenSSL.
        let made: Result<rdkafka::producer::BaseProducer, _> = config.create();
        made.unwrap();
    }

    #[test]
    fn a_setting_with_two_names_is_one_and_not_to_be_given_twice() {
        let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let given = [("compression.codec", "lz4"), ("linger.ms", "2")].map(own);
        let (options, twice) = by_one_name(given.into());
        let named = BTreeMap::from([("compression.type", "lz4"), ("linger.ms", "2")].map(own));
        assert_eq!((options, twice), (named, Vec::new()));
        let given = [("queue.buffering.max.ms", "1"), ("linger.ms", "2")].map(own);
        let (_options, twice) = by_one_name(given.into());
        assert_eq!(twice, [("queue.buffering.max.ms", "linger.ms")]);
    }

    #[test]
    fn librdkafka_knows_every_setting() {
        let config = producer(
            &["127.0.0.1:1".to_owned()],
            &BTreeMap::new(),
            1 << 30,
            false,
        );
        config.create_native_config().unwrap();
        reader(&["127.0.0.1:1".to_owned()], &BTreeMap::new())
            .create_native_config()
            .unwrap();
    }
}
