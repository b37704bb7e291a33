//! A stock consumer (librdkafka) that reads a topic whole.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::{BorrowedMessage, Headers as _},
};
use tokio::time::Instant;

use super::Kafka;

const LIMIT: Duration = Duration::from_secs(60);

/// One record, as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// The partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Its timestamp in ms since 1970.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Vec<u8>,
    /// Its headers.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Kafka {
    /// All records of a topic from its beginning to where it ends now, by partition and offset.
    ///
    /// # Errors
    /// When the broker does not answer in time or a batch cannot be read.
    pub fn read_all(&self, topic: &str) -> Result<Vec<Arrived>> {
        let consumer = self.consumer()?;
        let mut open = self.assign_from_beginning(&consumer, topic)?;
        let mut arrived = Vec::new();
        let deadline = Instant::now() + LIMIT;
        while open > 0 {
            ensure!(
                Instant::now() < deadline,
                "topic {topic} is not read within {LIMIT:?}"
            );
            match consumer.poll(Duration::from_millis(100)) {
                None => {}
                Some(Ok(message)) => arrived.push(Arrived::from(&message)),
                Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
                Some(Err(error)) => return Err(error).context("failed to consume"),
            }
        }
        arrived.sort_by_key(|record| (record.partition, record.offset));
        Ok(arrived)
    }

    /// How many offsets a topic has, over all partitions: cheap to ask while waiting.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn end_offsets(&self, topic: &str) -> Result<u64> {
        let (low, high) = self.offsets(topic)?;
        Ok(high - low)
    }

    /// How many records of a topic it has dropped, and how many it has taken, over all partitions.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn offsets(&self, topic: &str) -> Result<(u64, u64)> {
        let consumer = self.consumer()?;
        let mut sums = (0, 0);
        for partition in partitions(&consumer, topic)? {
            let (low, high) = consumer.fetch_watermarks(topic, partition, LIMIT)?;
            sums = (sums.0 + u64::try_from(low)?, sums.1 + u64::try_from(high)?);
        }
        Ok(sums)
    }

    /// The brokers of each partition of a topic.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn replicas(&self, topic: &str) -> Result<Vec<Vec<i32>>> {
        let metadata = self.consumer()?.fetch_metadata(Some(topic), LIMIT)?;
        let partitions = metadata
            .topics()
            .iter()
            .flat_map(|topic| topic.partitions());
        Ok(partitions.map(|one| one.replicas().to_vec()).collect())
    }

    fn consumer(&self) -> Result<BaseConsumer> {
        let mut config = self.client();
        config
            .set("group.id", "tributary-rig")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "50");
        Ok(config.create()?)
    }

    fn assign_from_beginning(&self, consumer: &BaseConsumer, topic: &str) -> Result<usize> {
        let mut list = TopicPartitionList::new();
        let partitions = partitions(consumer, topic)?;
        for &partition in &partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        Ok(partitions.len())
    }
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT)?;
    let topics = metadata.topics();
    let found = topics.iter().find(|found| found.name() == topic);
    let found = found.with_context(|| format!("no topic {topic}"))?;
    ensure!(
        !found.partitions().is_empty(),
        "topic {topic} has no partitions"
    );
    Ok(found
        .partitions()
        .iter()
        .map(rdkafka::metadata::MetadataPartition::id)
        .collect())
}

impl From<&BorrowedMessage<'_>> for Arrived {
    fn from(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map(|headers| {
            let pairs = headers.iter();
            pairs
                .map(|one| (one.key.to_owned(), one.value.unwrap_or_default().to_vec()))
                .collect()
        });
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().unwrap_or_default().to_vec(),
            headers: headers.unwrap_or_default(),
        }
    }
}
