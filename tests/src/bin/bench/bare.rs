//! What a bare producer waits for, alone and beside another one that is as loud as a drain: less than that no
//! bus can wait on this machine.
//!
//! Two producers of librdkafka in this process, each with a connection of its own, into the Kafka that a bus has
//! drained into just before. Not for: what the bus adds (see [`crate::spill`]).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rdkafka::{
    ClientContext,
    config::ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};
use tokio::time::Instant;

use crate::{Delay, as_float};

/// Bytes of an urgent message, about those of a batch of ten lines.
const SMALL_BYTES: usize = 1 << 10;
/// Bytes of a loud message: a block of lines.
const LARGE_BYTES: usize = 256 << 10;
/// Bytes that wait in the loud producer, as a drain's window.
const WINDOW_KIB: u32 = 32 << 10;
const PARTITIONS: i32 = 8;
/// What was sent is answered within this.
const FLUSH_WITHIN: Duration = Duration::from_secs(60);

/// What came of the messages of one producer.
#[derive(Default)]
struct Answers {
    took_us: Mutex<Vec<u64>>,
    failed: AtomicU64,
}

impl ClientContext for Answers {}

impl ProducerContext for Answers {
    type DeliveryOpaque = Box<Instant>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Instant>) {
        let took = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut all = self.took_us.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(took);
        self.failed
            .fetch_add(u64::from(result.is_err()), Ordering::Relaxed);
    }
}

/// A producer that waits for all replicas, as the bus's do.
fn producer(bootstrap: &str) -> Result<ThreadedProducer<Answers>> {
    let window = WINDOW_KIB.to_string();
    let config = [
        ("bootstrap.servers", bootstrap),
        ("enable.idempotence", "true"),
        ("linger.ms", "0"),
        ("batch.size", "1000000"),
        ("queue.buffering.max.kbytes", &window),
    ];
    let mut client = ClientConfig::new();
    for (key, value) in config {
        client.set(key, value);
    }
    let made = client.create_with_context(Answers::default());
    made.context("failed to start a producer")
}

/// Sends a small message every so often until it is told to stop.
fn trickle(bootstrap: &str, every: Duration, stop: &AtomicBool) -> Result<Delay> {
    let producer = producer(bootstrap)?;
    let message = [b'u'; SMALL_BYTES];
    let send = || {
        let record = BaseRecord::with_opaque_to("urgent", Box::new(Instant::now()));
        let record = record.partition(0).key("").payload(&message);
        producer.send(record).map_err(|(error, _record)| error)
    };
    let answers = producer.context();
    // The first one waits for the connection and its producer id, and those behind it for the first one.
    send()?;
    producer.flush(FLUSH_WITHIN)?;
    let begun = Instant::now();
    let mut next = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(next.saturating_sub(begun.elapsed()));
        next += every;
        send()?;
    }
    producer.flush(FLUSH_WITHIN)?;
    ensure!(
        answers.failed.load(Ordering::Relaxed) == 0,
        "a message failed"
    );
    let mut took = answers
        .took_us
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    took.remove(0);
    Ok(Delay::of(std::mem::take(&mut took)))
}

/// Sends so many bytes, at most so many a second; the seconds that it took.
fn loud(bootstrap: &str, bytes: u64, per_s: f64) -> Result<f64> {
    let producer = producer(bootstrap)?;
    let message: Vec<u8> = (0..LARGE_BYTES).map(|_byte| fastrand::u8(..)).collect();
    let (begun, mut sent) = (Instant::now(), 0);
    for partition in (0..PARTITIONS).cycle() {
        if sent >= bytes {
            break;
        }
        let due = Duration::from_secs_f64(as_float(sent) / per_s);
        thread::sleep(due.saturating_sub(begun.elapsed()));
        loop {
            let record = BaseRecord::with_opaque_to("bulk", Box::new(Instant::now()));
            let record = record.partition(partition).key("").payload(&message);
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _record)) => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err((error, _record)) => return Err(error.into()),
            }
        }
        sent += LARGE_BYTES as u64;
    }
    producer.flush(FLUSH_WITHIN)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// What the small messages wait alone for so long, and while another producer sends so many bytes at this rate;
/// and the rate that it had.
///
/// # Errors
/// When Kafka does not take them.
pub(crate) fn measure(
    bootstrap: &str,
    (every, alone_for): (Duration, Duration),
    (bytes, per_s): (u64, f64),
) -> Result<(Delay, Delay, f64)> {
    let trickling = || {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, bootstrap) = (Arc::clone(&stop), bootstrap.to_owned());
        (
            stop,
            thread::spawn(move || trickle(&bootstrap, every, &told)),
        )
    };
    let (stop, thread) = trickling();
    thread::sleep(alone_for);
    stop.store(true, Ordering::Relaxed);
    let alone = thread.join().map_err(|_panic| anyhow!("a panic"))??;
    let (stop, thread) = trickling();
    let took = loud(bootstrap, bytes, per_s);
    stop.store(true, Ordering::Relaxed);
    let beside = thread.join().map_err(|_panic| anyhow!("a panic"))??;
    Ok((alone, beside, as_float(bytes) / took?))
}
