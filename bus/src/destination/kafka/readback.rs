//! Looks into a topic for batches that a life of this node produced and did not note any more.
//!
//! # Constraints
//! After a kill, what was produced behind the journal's last word may be in Kafka: wholly, in part,
//! or still in a broker's queue. Agents send those batches again. Each begins with a record whose
//! `tributary` header is its id, so reading from the journal's offset to the end finds every one.
//!
//! # Operation
//! The ends of the partitions are looked at until they stand still, so that the dead process's last
//! requests are in. Then the records between are read; of each a hash is kept, of each header its
//! place. When a found batch comes again, its records are matched against the hashes in order:
//! what is there is not produced again, what is missing is. Producers keep their order within a
//! partition, so what is there is a beginning of the batch; other producers may write in between.
//!
//! Not for: witnessing in general.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, Timestamp, TopicPartitionList,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult},
    message::Headers,
};
use tokio::time::Instant;
use tributary_common::{
    batch::{ID_HEADER, Record},
    ids::BatchId,
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{produced::log, verbatim::bearer::Bearer};

/// A client asks for its token at once when it begins.
const TOKEN_WITHIN: Duration = Duration::from_millis(100);
/// One request to the cluster takes at most this long.
const REQUEST: Duration = Duration::from_secs(5);
/// The ends of partitions stand still when two looks this far apart agree.
const SETTLE: Duration = Duration::from_millis(200);
/// Where other producers write without a pause, this many looks are enough: a request does not
/// lie in a broker's queue for two seconds.
const SETTLE_LOOKS: u32 = 10;
/// Reading gives up when nothing came for this long; the topic is tried again.
const PATIENCE: Duration = Duration::from_secs(15);

/// The records of one partition behind the journal's word: offset and hash each.
type Log = Vec<(i64, u64)>;

/// A batch that is in a partition, at least with its first record.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Where.
    pub(super) partition: i32,
    log: Arc<Log>,
    at: usize,
}

/// The batches that were found, with their part in each partition.
pub(super) type FoundBatches = HashMap<BatchId, Vec<Found>>;

/// The hashes of the records with a batch's id, of all that were seen: its first one, and letters of it that
/// went out again.
pub(super) type Begins = HashMap<BatchId, Vec<u64>>;

/// How much of a batch is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Present {
    /// How many of its records, from the first.
    pub(super) records: u32,
    /// The offset of its first record.
    pub(super) first: i64,
    /// The offset after the last one that is there.
    pub(super) end: i64,
}

impl Found {
    /// Compares the records of a batch that came again, those of this partition where it is keyed,
    /// with what is there.
    pub(super) fn present<'a>(&self, records: impl Iterator<Item = Record<'a>>) -> Present {
        self.matched(records.map(|record| hash_of(&record)))
    }

    fn matched(&self, hashes: impl Iterator<Item = [u64; 2]>) -> Present {
        let behind = self.log.get(self.at..).unwrap_or_default();
        let mut log = behind.iter();
        let first = behind.first().map_or(0, |(offset, _hash)| *offset);
        let mut present = Present {
            records: 0,
            first,
            end: first,
        };
        for wanted in hashes {
            let Some((offset, _hash)) = log.find(|(_offset, hash)| wanted.contains(hash)) else {
                break;
            };
            present.records += 1;
            present.end = offset + 1;
        }
        present
    }
}

/// The hashes that a record may have in the log: with its own time, or without where the topic
/// keeps the brokers' time.
pub(super) fn hash_of(record: &Record<'_>) -> [u64; 2] {
    let content = hash_content(record.key, record.value);
    [
        with_time(content, Some(record.timestamp_ms)),
        with_time(content, None),
    ]
}

fn hash_content(key: Option<&[u8]>, value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, key.map_or(0, |key| xxh3_64(key) | 1))
}

fn with_time(content: u64, timestamp_ms: Option<i64>) -> u64 {
    let time = timestamp_ms.unwrap_or(i64::MIN).to_le_bytes();
    xxh3_64_with_seed(&time, content)
}

/// Looks without saying much.
pub(super) struct Quiet {
    pub(super) destination: String,
    /// Whose token is shown.
    pub(super) bearer: Option<Bearer>,
}

/// The token that librdkafka asks for.
pub(super) fn token(bearer: Option<&Bearer>) -> Result<OAuthToken, Box<dyn Error>> {
    let bearer = bearer.ok_or("nobody says where tokens are")?;
    Ok(bearer.for_librdkafka()?)
}

impl ClientContext for Quiet {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        token(self.bearer.as_ref())
    }

    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        log(&self.destination, level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(destination = self.destination, %error, reason, "the recovery's consumer reports an error");
    }
}

impl ConsumerContext for Quiet {}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The batches.
    pub(super) found: FoundBatches,
    /// Whatever has a batch's id.
    pub(super) begins: Begins,
    /// Per partition the end up to which was read.
    pub(super) ends: BTreeMap<i32, i64>,
    /// Records that were read.
    pub(super) records: usize,
}

/// Reads every partition of `topic` from its offset in `from` to its end.
///
/// # Errors
/// When the cluster does not answer; try again later.
pub(super) fn look(
    config: &ClientConfig,
    (destination, bearer): (&str, Option<&Bearer>),
    topic: &str,
    from: &BTreeMap<i32, i64>,
) -> KafkaResult<Look> {
    let context = Quiet {
        destination: destination.to_owned(),
        bearer: bearer.cloned(),
    };
    let consumer: BaseConsumer<Quiet> = config.create_with_context(context)?;
    if bearer.is_some() {
        // It asks for its token in here, and nothing is assigned that could come.
        drop(consumer.poll(TOKEN_WITHIN));
    }
    let ends = settle(&consumer, topic, from)?;
    let mut wanted = BTreeMap::new();
    for (&partition, &(low, high)) in &ends {
        let at = from.get(&partition).copied().unwrap_or(high);
        // Behind the end: the topic was made anew, everything in it is of after that.
        let at = if at > high { low } else { at.max(low) };
        if at < high {
            wanted.insert(partition, (at, high));
        }
    }
    let logs = read(&consumer, topic, &wanted)?;
    let mut look = Look {
        ends: ends
            .into_iter()
            .map(|(partition, (_low, high))| (partition, high))
            .collect(),
        ..Look::default()
    };
    for (partition, PartitionLog { log, starts }) in logs {
        look.records += log.len();
        let log = Arc::new(log);
        for (batch, at) in starts {
            let hash = log.get(at).map(|(_offset, hash)| *hash);
            look.begins.entry(batch).or_default().extend(hash);
            let parts = look.found.entry(batch).or_default();
            // The first one counts: a later copy was produced although the first was there.
            if parts.last().is_none_or(|part| part.partition != partition) {
                parts.push(Found {
                    partition,
                    log: Arc::clone(&log),
                    at,
                });
            }
        }
    }
    Ok(look)
}

/// The first and last offsets of the partitions, once the ends stand still.
fn settle(
    consumer: &BaseConsumer<Quiet>,
    topic: &str,
    partitions: &BTreeMap<i32, i64>,
) -> KafkaResult<BTreeMap<i32, (i64, i64)>> {
    let look = || {
        let ends = partitions.keys().map(|&partition| {
            Ok((
                partition,
                consumer.fetch_watermarks(topic, partition, REQUEST)?,
            ))
        });
        ends.collect::<KafkaResult<BTreeMap<_, _>>>()
    };
    let mut last = look()?;
    for _look in 0..SETTLE_LOOKS {
        std::thread::sleep(SETTLE);
        let now = look()?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}

#[derive(Debug, Default)]
struct PartitionLog {
    log: Log,
    starts: Vec<(BatchId, usize)>,
}

fn read(
    consumer: &BaseConsumer<Quiet>,
    topic: &str,
    wanted: &BTreeMap<i32, (i64, i64)>,
) -> KafkaResult<BTreeMap<i32, PartitionLog>> {
    let mut logs: BTreeMap<i32, PartitionLog> = BTreeMap::new();
    if wanted.is_empty() {
        return Ok(logs);
    }
    let mut list = TopicPartitionList::new();
    for (&partition, &(from, _end)) in wanted {
        list.add_partition_offset(topic, partition, Offset::Offset(from))?;
    }
    consumer.assign(&list)?;
    let mut open: BTreeMap<i32, i64> = wanted.iter().map(|(&p, &(_from, end))| (p, end)).collect();
    let mut heard = Instant::now();
    while !open.is_empty() {
        match consumer.poll(SETTLE) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let (partition, offset) = (message.partition(), message.offset());
                let end = open.get(&partition).copied().unwrap_or(0);
                if offset < end {
                    take(logs.entry(partition).or_default(), &message);
                }
                if offset + 1 >= end {
                    open.remove(&partition);
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            Some(Err(error)) if heard.elapsed() >= PATIENCE => return Err(error),
            None if heard.elapsed() >= PATIENCE => {
                return Err(KafkaError::Canceled);
            }
            Some(Err(_)) | None => {}
        }
    }
    Ok(logs)
}

fn take<M: Message>(into: &mut PartitionLog, message: &M) {
    let timestamp_ms = match message.timestamp() {
        Timestamp::CreateTime(ms) => Some(ms),
        Timestamp::LogAppendTime(_) | Timestamp::NotAvailable => None,
    };
    let content = hash_content(message.key(), message.payload().unwrap_or_default());
    if let Some(batch) = message.headers().and_then(batch_id) {
        into.starts.push((batch, into.log.len()));
    }
    into.log
        .push((message.offset(), with_time(content, timestamp_ms)));
}

/// The batch id among a record's headers.
fn batch_id<H: Headers>(headers: &H) -> Option<BatchId> {
    let header = headers.iter().find(|header| header.key == ID_HEADER)?;
    BatchId::from_bytes(header.value?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(log: &[u64], at: usize) -> Found {
        let log = log.iter().enumerate();
        let log = log
            .map(|(place, &hash)| (100 + i64::try_from(place).unwrap(), hash))
            .collect();
        Found {
            partition: 0,
            log: Arc::new(log),
            at,
        }
    }

    fn present(log: &[u64], at: usize, batch: &[u64]) -> (u32, i64, i64) {
        let present = found(log, at).matched(batch.iter().map(|&hash| [hash, hash]));
        (present.records, present.first, present.end)
    }

    #[test]
    fn what_is_there_is_a_beginning_of_the_batch() {
        assert_eq!(present(&[9, 1, 2, 3], 1, &[1, 2, 3]), (3, 101, 104));
        assert_eq!(present(&[9, 1, 2], 1, &[1, 2, 3]), (2, 101, 103));
        assert_eq!(present(&[1, 2, 7, 8, 3], 0, &[1, 2, 3]), (3, 100, 105));
        assert_eq!(present(&[1, 2, 7, 8], 0, &[1, 2, 3]), (2, 100, 102));
    }

    proptest! {
        #[test]
        fn any_cut_and_any_strangers_between_are_seen_through(
            cut in 1usize..20,
            strangers in prop::collection::vec((0usize..20, 1000u64..), 0..10),
        ) {
            let batch: Vec<u64> = (1..=20).collect();
            let mut log: Vec<u64> = batch[..cut].to_vec();
            for (at, stranger) in strangers {
                // Never before the first record: that one was found by its header.
                log.insert(1 + at % log.len(), stranger);
            }
            let (records, first, _end) = present(&log, 0, &batch);
            prop_assert_eq!((records, first), (u32::try_from(cut).unwrap(), 100));
        }
    }
}
