//! Lends librdkafka the lines of a batch: it reads them where they lie in the opened batch.
//!
//! The safe call of the `rdkafka` crate copies each line and looks its topic up by name, which was a
//! fifth of what a record costs here. Calls into C are not checked by the compiler: what each rests on
//! stands at its place (ADR 0034). Not for: which records go where
//! (see [`super::owner`]), what comes back (see [`super::produced`]).
//!
//! Source: librdkafka's `rdkafka.h`, `rd_kafka_producev` (<https://github.com/confluentinc/librdkafka>).

use std::{
    ffi::{CString, c_void},
    ptr,
    sync::Arc,
};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use rdkafka::{
    IntoOpaque as _,
    bindings::{
        RD_KAFKA_MSG_F_COPY, rd_kafka_header_add, rd_kafka_headers_destroy, rd_kafka_headers_new,
        rd_kafka_headers_t, rd_kafka_last_error, rd_kafka_producev, rd_kafka_topic_destroy,
        rd_kafka_topic_new, rd_kafka_topic_t, rd_kafka_vtype_t as Field,
    },
    error::RDKafkaErrorCode,
    producer::Producer as _,
};
use tributary_common::{
    batch::{Decoded, Decoder, ID_HEADER, Record, Records},
    ids::BatchId,
};

use super::{careful::Answer, produced::Flight, producer::Producer};

/// Opened batches that a thread keeps for the next ones.
const SPARES: usize = 4;

/// Opened batches that came back: their memory is used again.
#[derive(Clone)]
pub(super) struct Spares {
    give: Sender<Decoded>,
    take: Receiver<Decoded>,
}

impl Spares {
    pub(super) fn new() -> Self {
        let (give, take) = crossbeam_channel::bounded(SPARES);
        Self { give, take }
    }

    /// Gives the decoder memory for its next batch, where some came back.
    pub(super) fn refill(&self, decoder: &mut Decoder) {
        if let Ok(spare) = self.take.try_recv() {
            decoder.recycle(spare);
        }
    }
}

/// A batch whose lines are lent: it lives until librdkafka has answered each of them.
pub(super) struct Lent {
    pub(super) flight: Arc<Flight>,
    lines: Lines,
    /// Where its answers go, when it is a piece of a batch.
    pub(super) piece: Option<Sender<Answer>>,
}

/// Whose the lines are.
enum Lines {
    /// Always there until the drop.
    Own(Option<Decoded>, Spares),
    /// Those of a batch, of which this is a piece.
    Of(Arc<Lent>),
}

impl Lent {
    pub(super) fn new(flight: Arc<Flight>, lines: Decoded, spares: &Spares) -> Arc<Self> {
        Arc::new(Self {
            flight,
            lines: Lines::Own(Some(lines), spares.clone()),
            piece: None,
        })
    }

    /// A piece of a batch: what becomes of its records is told there.
    pub(super) fn piece(of: &Arc<Self>, tell: Sender<Answer>) -> Arc<Self> {
        Arc::new(Self {
            flight: Arc::clone(&of.flight),
            lines: Lines::Of(Arc::clone(of)),
            piece: Some(tell),
        })
    }

    /// Its records, in order.
    pub(super) fn records(&self) -> Records<'_> {
        self.lines().records()
    }

    fn lines(&self) -> &Decoded {
        match &self.lines {
            Lines::Own(lines, _spares) => lines.as_ref().expect("they are there until the drop"),
            Lines::Of(batch) => batch.lines(),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Lines::Own(lines, spares) = &mut self.lines
            && let Some(lines) = lines.take()
        {
            match spares.give.try_send(lines) {
                // There are enough, or their thread has ended.
                Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
            }
        }
    }
}

/// A topic of a producer, by librdkafka's own handle.
pub(super) struct Lender<'p> {
    producer: &'p Producer,
    topic: *mut rd_kafka_topic_t,
}

impl<'p> Lender<'p> {
    /// # Errors
    /// A topic that librdkafka does not take.
    #[expect(
        unsafe_code,
        reason = "librdkafka's handles of topics are only to be had there"
    )]
    pub(super) fn new(producer: &'p Producer, topic: &str) -> Result<Self, RDKafkaErrorCode> {
        let name = CString::new(topic).map_err(|_nul| RDKafkaErrorCode::InvalidTopic)?;
        // SAFETY: the producer is alive; the name is a C string, which librdkafka copies; no
        // configuration means its defaults.
        let topic = unsafe {
            rd_kafka_topic_new(
                producer.client().native_ptr(),
                name.as_ptr(),
                ptr::null_mut(),
            )
        };
        if topic.is_null() {
            // SAFETY: reads a thread's own variable.
            return Err(unsafe { rd_kafka_last_error() }.into());
        }
        Ok(Self { producer, topic })
    }

    /// Gives librdkafka a record of `lent`, with `id` as a header where it begins a part of a batch.
    /// Its answer comes to [`super::produced`] with a handle of `lent`.
    ///
    /// # Errors
    /// The record was not taken; there will be no answer.
    #[expect(unsafe_code, reason = "only this way are lines not copied")]
    pub(super) fn lend(
        &self,
        lent: &Arc<Lent>,
        (record, partition): (&Record<'_>, i32),
        id: Option<BatchId>,
    ) -> Result<(), RDKafkaErrorCode> {
        // What lies elsewhere would not live long enough.
        let flags = match lent.lines().has(record.value) {
            true => 0,
            false => RD_KAFKA_MSG_F_COPY,
        };
        let key = record
            .key
            .map_or((ptr::null(), 0), |key| (key.as_ptr(), key.len()));
        let headers = headers_of(record, id);
        let opaque = Arc::clone(lent).into_ptr();
        // SAFETY: the pairs of field and value are those that `rdkafka.h` names, closed by END. The
        // value lies in memory that `opaque` keeps and nobody writes to; librdkafka gives `opaque`
        // back with the record's answer, after its last look at the value (it frees its own copies
        // then, where it has them). Key and name are copied at once.
        let code = unsafe {
            rd_kafka_producev(
                self.producer.client().native_ptr(),
                Field::RD_KAFKA_VTYPE_RKT,
                self.topic,
                Field::RD_KAFKA_VTYPE_PARTITION,
                partition,
                Field::RD_KAFKA_VTYPE_MSGFLAGS,
                flags,
                Field::RD_KAFKA_VTYPE_VALUE,
                record.value.as_ptr().cast::<c_void>(),
                record.value.len(),
                Field::RD_KAFKA_VTYPE_KEY,
                key.0.cast::<c_void>(),
                key.1,
                Field::RD_KAFKA_VTYPE_OPAQUE,
                opaque,
                Field::RD_KAFKA_VTYPE_TIMESTAMP,
                // Zero means "now" to librdkafka.
                record.timestamp_ms.max(1),
                Field::RD_KAFKA_VTYPE_HEADERS,
                headers,
                Field::RD_KAFKA_VTYPE_END,
            )
        };
        let code = RDKafkaErrorCode::from(code);
        if code == RDKafkaErrorCode::NoError {
            return Ok(());
        }
        // SAFETY: a record that is not taken leaves headers and opaque to the caller.
        unsafe {
            if !headers.is_null() {
                rd_kafka_headers_destroy(headers);
            }
            drop(Arc::<Lent>::from_ptr(opaque));
        }
        Err(code)
    }
}

impl Drop for Lender<'_> {
    #[expect(
        unsafe_code,
        reason = "librdkafka's handles of topics are only to be had there"
    )]
    fn drop(&mut self) {
        // SAFETY: it was made by `rd_kafka_topic_new` and is given back once, before its producer.
        unsafe { rd_kafka_topic_destroy(self.topic) };
    }
}

/// A record's headers, and the batch id before them where the record begins a part of a batch;
/// null for none. They belong to the caller.
#[expect(unsafe_code, reason = "the crate's own are not to be had as a pointer")]
fn headers_of(record: &Record<'_>, id: Option<BatchId>) -> *mut rd_kafka_headers_t {
    let id = id.filter(|_id| record.batch_id.is_none());
    if record.headers.is_empty() && id.is_none() {
        return ptr::null_mut();
    }
    // SAFETY: takes a number.
    let headers = unsafe { rd_kafka_headers_new(record.headers.len() + 1) };
    let add = |name: &str, value: Option<&[u8]>| {
        let length = |bytes: &[u8]| isize::try_from(bytes.len()).unwrap_or(isize::MAX);
        let (value, size) = value.map_or((ptr::null(), 0), |value| (value.as_ptr(), length(value)));
        // SAFETY: `headers` is alive; name and value are copied, by the lengths given.
        unsafe {
            rd_kafka_header_add(
                headers,
                name.as_ptr().cast(),
                length(name.as_bytes()),
                value.cast(),
                size,
            );
        }
    };
    if let Some(id) = id {
        add(ID_HEADER, Some(&id.to_bytes()));
    }
    for (name, value) in record.headers.iter() {
        add(name, value);
    }
    headers
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::mpsc};

    use tempfile::TempDir;

    use super::{
        super::{
            super::{Done, Failure, Job},
            ProducerKind, tests,
            topic::Topic,
        },
        *,
    };
    use crate::testing::{accepted, batch};

    /// Nobody listens there.
    const NOWHERE: &str = "127.0.0.1:1";

    #[tokio::test]
    async fn lines_are_kept_until_the_last_of_them_has_its_answer_and_then_used_again() {
        let rig = tests::start(ProducerKind::Rdkafka, TempDir::new().unwrap(), NOWHERE);
        let topic = Arc::new(Topic::new("web".into(), 0, 4, HashMap::new()));
        let lines: Vec<String> = (0..500)
            .map(|no| format!("{no} {}", "x".repeat(no)))
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let batch = accepted(batch("web", 1, 1, &lines)).await;
        topic.entered(&batch.header);
        let decoded = batch.open(&mut Decoder::new()).unwrap();
        let (told, outcome) = mpsc::channel();
        let job = Job {
            batch,
            target: "web".to_owned(),
            replay: None,
            done: Done::new(move |outcome| told.send(outcome).unwrap_or_default()),
        };
        let shared = rig.kafka.shared();
        let flight = Flight::new(
            (shared, &topic),
            (2, None),
            500,
            std::iter::empty(),
            (job, 0),
        );
        let spares = Spares::new();
        let lent = Lent::new(flight, decoded, &spares);

        let producer = shared.producer().unwrap();
        let lender = Lender::new(&producer, "web").unwrap();
        for record in lent.records() {
            lender.lend(&lent, (&record, 2), None).unwrap();
        }
        drop(lender);
        // One handle is the test's own; librdkafka has one for each line.
        assert_eq!(Arc::strong_count(&lent), 501);
        drop(lent);
        assert!(spares.take.is_empty(), "the lines are still lent");
        // It has sent nothing, and gives up what it has.
        drop(producer);
        let failed = outcome.recv().unwrap();
        assert!(matches!(failed, Err(Failure::Unavailable(_))), "{failed:?}");
        let back = spares.take.recv().unwrap();
        assert_eq!(back.len(), 500);
        rig.kill();
    }

    #[tokio::test]
    async fn a_topic_that_librdkafka_does_not_take_is_an_error() {
        let rig = tests::start(ProducerKind::Rdkafka, TempDir::new().unwrap(), NOWHERE);
        let producer = rig.kafka.shared().producer().unwrap();
        for name in ["a\0b".to_owned(), "a".repeat(600)] {
            assert!(Lender::new(&producer, &name).is_err(), "{name:?}");
        }
        drop(producer);
        rig.kill();
    }
}
