//! Batches as parcels for partitions: checked and left closed, or opened where that is needed.
//!
//! A batch is opened only when its records go where their keys say, when a part of it is in the topic
//! or among the dead letters already, when its topic does not take it as it is (see [`super::apart`]), and when it is merged with its neighbours. What is made of
//! it then has the codec that it came with; of several merged ones, the codec of most of their bytes.
//! A merged batch keeps what it was made of, so that each has its own answer and place, and so that it
//! can be taken apart. Not for: order (see [`super::lane`]), when batches are merged (see [`super::gather`]).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use tributary_common::{
    batch::{BatchError, Codec, Draft, Encoder, Headers, ID_HEADER, Merger, Record, Sealed},
    ids::{BatchId, Class, StreamId},
    wire::RefuseReason,
};

use super::{
    super::{
        super::{Accepted, Failure},
        Kafka,
        produced::Flight,
        topic::Topic,
    },
    broker::Haste,
    frame::Load,
    gather::Small,
    lane::{Parcel, Shipment},
    says::Part,
};

/// A batch as bytes.
pub(super) struct Packed {
    pub(super) payload: Bytes,
    sealed: Sealed,
    /// Bytes of all record values.
    raw_bytes: u64,
    /// The places of its records in their batch, where they are not all of them.
    places: Option<Arc<[u32]>>,
}

/// What is in a parcel.
pub(super) enum Inside {
    /// A batch, or the records of one that have these places.
    One(Arc<Flight>, Option<Arc<[u32]>>),
    /// Several, in order.
    Merged(Vec<Parcel<Arc<Cargo>>>),
}

/// A batch, a part of one, or several merged ones, on the way into a partition.
pub(super) struct Cargo {
    pub(super) inside: Inside,
    pub(super) topic: Arc<Topic>,
    pub(super) partition: i32,
    pub(super) payload: Bytes,
    pub(super) sealed: Sealed,
}

impl std::fmt::Debug for Cargo {
    /// Without contents: they are not for logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cargo")
            .field("topic", &self.topic.name)
            .field("partition", &self.partition)
            .field("sealed", &self.sealed)
            .finish_non_exhaustive()
    }
}

impl Cargo {
    /// A parcel for a partition of a topic.
    pub(super) fn parcel(
        flight: &Arc<Flight>,
        topic: &Arc<Topic>,
        partition: i32,
        packed: Packed,
    ) -> Parcel<Arc<Self>> {
        let Packed {
            payload,
            sealed,
            raw_bytes,
            places,
        } = packed;
        let class = flight.class();
        Parcel {
            records: sealed.records(),
            bytes: sealed.byte_len(),
            haste: match class {
                Class::P0 => Haste::Urgent,
                Class::P1 | Class::P2 | Class::P3 => Haste::Common,
            },
            small: Small::of(class, raw_bytes, sealed.records()),
            batches: 1,
            cargo: Arc::new(Self {
                inside: Inside::One(Arc::clone(flight), places),
                topic: Arc::clone(topic),
                partition,
                payload,
                sealed,
            }),
        }
    }

    /// It is in the log from this offset on: each batch in it at its own place.
    pub(super) fn landed(&self, mut offset: i64) {
        self.topic.progressed();
        match &self.inside {
            Inside::One(flight, _places) => {
                flight.landed_all(self.partition, offset, self.sealed.records());
            }
            Inside::Merged(parts) => {
                for part in parts {
                    part.cargo.landed(offset);
                    offset += i64::from(part.records);
                }
            }
        }
    }

    /// The streams whose order it is part of, in no order. A letter that goes out again is of none.
    pub(super) fn streams(&self) -> Vec<StreamId> {
        match &self.inside {
            Inside::One(flight, _places) => flight.stream().into_iter().collect(),
            Inside::Merged(parts) => {
                let parts = parts.iter();
                parts.flat_map(|part| part.cargo.streams()).collect()
            }
        }
    }

    /// Whether it stands behind a batch that was refused. For one that was not merged.
    pub(super) fn is_held(&self) -> bool {
        match &self.inside {
            Inside::One(flight, _places) => flight.is_held(),
            Inside::Merged(_) => false,
        }
    }

    /// Nothing of it will land.
    pub(super) fn failed(&self, failure: &Failure) {
        match &self.inside {
            Inside::One(flight, _places) => flight.failed(failure.clone(), self.sealed.records()),
            Inside::Merged(parts) => parts.iter().for_each(|part| part.cargo.failed(failure)),
        }
    }
}

/// Makes one batch of the first ones of these, as many as go together; `None` when that is one.
pub(super) fn merge(
    parts: &[Parcel<Arc<Cargo>>],
    merger: &mut Merger,
) -> Option<Parcel<Arc<Cargo>>> {
    merger.begin();
    let added = parts.iter().take_while(|part| {
        let added = merger.add(&part.cargo.payload);
        if let Err(error) = &added {
            tracing::debug!(topic = &*part.cargo.topic.name, %error, "a batch cannot be merged, and goes alone");
        }
        added.unwrap_or(false)
    });
    let parts = parts.get(..added.count())?;
    let [first, _second, ..] = parts else {
        return None;
    };
    let payload = merger.finish(codec_of(parts)).ok()?;
    let sealed = Sealed::check(&payload).ok()?;
    Some(Parcel {
        records: sealed.records(),
        bytes: sealed.byte_len(),
        haste: first.haste,
        small: None,
        batches: parts.len(),
        cargo: Arc::new(Cargo {
            inside: Inside::Merged(parts.to_vec()),
            topic: Arc::clone(&first.cargo.topic),
            partition: first.cargo.partition,
            payload,
            sealed,
        }),
    })
}

/// These as one batch, which they were before; as they came, should that not be.
pub(super) fn together(
    parts: &[Parcel<Arc<Cargo>>],
    merger: &mut Merger,
) -> Vec<Parcel<Arc<Cargo>>> {
    let whole = merge(parts, merger).filter(|merged| merged.batches == parts.len());
    whole.map_or_else(|| parts.to_vec(), |merged| vec![merged])
}

/// The codec of most bytes.
fn codec_of(parts: &[Parcel<Arc<Cargo>>]) -> Codec {
    let of = |codec: Codec| {
        let those = parts.iter().filter(|one| one.cargo.sealed.codec() == codec);
        let small = those.filter_map(|one| one.small);
        small.map(|small| small.bytes).sum::<usize>()
    };
    let most = Codec::ALL.into_iter().max_by_key(|codec| of(*codec));
    most.unwrap_or_default()
}

/// What goes into a request: the batch with its producer and sequence.
pub(super) fn stamped(part: Part<Arc<Cargo>>) -> Load {
    let Shipment {
        cargo,
        producer,
        sequence,
    } = part.shipment;
    Load {
        topic: part.topic,
        partition: part.partition,
        head: cargo.sealed.stamped(producer.id, producer.epoch, sequence),
        // A sealed batch has a head.
        records: cargo.payload.slice(Sealed::HEAD_BYTES..),
    }
}

/// A batch for each partition of these records: each with its place in the batch of this id.
pub(super) fn spread<'a>(
    codec: Codec,
    id: BatchId,
    records: impl Iterator<Item = (u32, Record<'a>, i32)>,
) -> Result<Vec<(i32, Packed)>, Failure> {
    let mut parts: BTreeMap<i32, Vec<(u32, Record<'a>)>> = BTreeMap::new();
    for (place, record, partition) in records {
        parts.entry(partition).or_default().push((place, record));
    }
    let parts = parts
        .into_iter()
        .map(|(partition, records)| Ok((partition, encode(codec, id, records.into_iter())?)));
    parts.collect()
}

/// Writes some records of a batch, with all their headers, as one that has its id before those of its first
/// record: so whoever looks through the topic finds them.
pub(super) fn encode<'a>(
    codec: Codec,
    id: BatchId,
    records: impl Iterator<Item = (u32, Record<'a>)>,
) -> Result<Packed, Failure> {
    let mut encoder = Encoder::new(codec);
    let mut headers = Headers::new();
    let none = headers.mark();
    let mut places = Vec::new();
    for (place, record) in records {
        headers.cut_back(none);
        if places.is_empty() && record.batch_id.is_none() {
            headers.push(ID_HEADER, &id.to_bytes());
        }
        for (key, value) in record.headers.iter() {
            headers.push(key, value.unwrap_or_default());
        }
        encoder.push_draft(&Draft {
            timestamp_ms: record.timestamp_ms,
            key: record.key,
            value: record.value,
            headers: &headers,
        });
        places.push(place);
    }
    let encoded = encoder.finish().map_err(corrupt)?;
    Ok(Packed {
        sealed: Sealed::check(&encoded.payload).map_err(corrupt)?,
        payload: encoded.payload,
        raw_bytes: encoded.raw_bytes,
        places: Some(places.into()),
    })
}

impl Kafka {
    /// Checks a batch that is forwarded as it came.
    pub(crate) fn prepare(&self, batch: &Accepted) {
        if self.verbatim && !batch.header.keyed {
            // The producer is told the same.
            drop(batch.seal());
        }
    }
}

/// Checks a batch that stays closed.
///
/// # Errors
/// [`Failure::Rejected`] with [`RefuseReason::Corrupt`].
pub(super) fn seal(batch: &Accepted) -> Result<Packed, Failure> {
    let sealed = batch.seal()?;
    Ok(Packed {
        payload: batch.payload.clone(),
        sealed,
        raw_bytes: batch.header.raw_bytes,
        places: None,
    })
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
pub(super) fn corrupt(error: BatchError) -> Failure {
    Failure::Rejected(RefuseReason::Corrupt, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::mpsc};

    use tributary_common::{
        batch::{Decoder, MAX_DECODED_BYTES, decode},
        ids::BatchId,
    };

    use super::{
        super::{
            super::{
                super::{Done, Job, Outcome},
                Kafka, ProducerKind, tests,
            },
            apart,
        },
        *,
    };
    use crate::testing::{accepted, batch};

    /// A batch on its way, and where its answer comes.
    type Sent = (Parcel<Arc<Cargo>>, mpsc::Receiver<Outcome>, BatchId);

    async fn send(kafka: &Kafka, topic: &Arc<Topic>, no: u64, random: &mut fastrand::Rng) -> Sent {
        let lines: Vec<String> = (0..random.u32(1..9))
            .map(|line| format!("{no}/{line}/{}", "x".repeat(random.usize(..200))))
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let batch = accepted(batch("web", random.u64(..3), no, &lines)).await;
        let (told, outcome) = mpsc::channel();
        let id = batch.header.id();
        let packed = seal(&batch).unwrap();
        let job = Job {
            batch,
            target: "web".to_owned(),
            replay: None,
            done: Done::new(move |outcome| told.send(outcome).unwrap_or_default()),
        };
        let records = packed.sealed.records();
        let whose = (kafka.shared(), topic);
        topic.entered(&job.batch.header);
        let flight = Flight::new(whose, (2, None), records, std::iter::empty(), (job, 0));
        (Cargo::parcel(&flight, topic, 2, packed), outcome, id)
    }

    /// Takes a parcel apart by halves, as when nothing of it is ever taken, and lands the rest in order.
    fn land(parcel: &Parcel<Arc<Cargo>>, at: &mut i64, apart: u32, log: &mut Vec<Bytes>) {
        let (mut decoder, mut merger) = (Decoder::new(), Merger::new());
        if apart > 0 && parcel.batches > 1 {
            for half in apart::halves(&parcel.cargo, &mut decoder, &mut merger).unwrap() {
                land(&half, at, apart - 1, log);
            }
            return;
        }
        log.push(parcel.cargo.payload.clone());
        parcel.cargo.landed(*at);
        *at += i64::from(parcel.records);
    }

    #[tokio::test]
    async fn each_of_the_merged_batches_has_its_own_place_also_when_they_are_taken_apart() {
        let dir = tempfile::TempDir::new().unwrap();
        let rig = tests::start(ProducerKind::Verbatim, dir, "127.0.0.1:1");
        let topic = Arc::new(Topic::new("web".into(), 0, 4, HashMap::new()));
        let mut merger = Merger::new();
        for seed in 0..40 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut sent = Vec::new();
            for no in 0..random.u64(2..30) {
                sent.push(send(&rig.kafka, &topic, no, &mut random).await);
            }
            let parts: Vec<_> = sent.iter().map(|one| one.0.clone()).collect();
            let merged = merge(&parts, &mut merger).unwrap();
            assert_eq!(merged.batches, parts.len(), "seed {seed}");
            let (base, mut log) = (random.i64(0..1 << 40), Vec::new());
            let mut at = base;
            land(&merged, &mut at, random.u32(..7), &mut log);
            let mut begins = Vec::new();
            for payload in log {
                let decoded = decode(&payload, MAX_DECODED_BYTES).unwrap();
                begins.extend(decoded.records().map(|record| record.batch_id));
            }
            for (_parcel, outcome, id) in sent {
                let place = outcome.recv().unwrap().unwrap();
                let first = usize::try_from(place.first - base).unwrap();
                let end = usize::try_from(place.end - base).unwrap();
                assert_eq!(begins[first], Some(id), "seed {seed}");
                assert!(
                    begins[first + 1..end].iter().all(Option::is_none),
                    "seed {seed}"
                );
                assert_eq!((place.partition, place.target.as_str()), (2, "web"));
            }
            assert_eq!(
                i64::try_from(begins.len()).unwrap(),
                at - base,
                "seed {seed}"
            );
        }
        drop(rig.kill());
    }

    #[tokio::test]
    async fn a_batch_that_cannot_be_opened_is_merged_with_none_and_neither_are_those_behind_it() {
        let dir = tempfile::TempDir::new().unwrap();
        let rig = tests::start(ProducerKind::Verbatim, dir, "127.0.0.1:1");
        let topic = Arc::new(Topic::new("web".into(), 0, 4, HashMap::new()));
        let mut random = fastrand::Rng::with_seed(1);
        let mut parts = Vec::new();
        for no in 0..6 {
            parts.push(send(&rig.kafka, &topic, no, &mut random).await.0);
        }
        let whole = &parts[3].cargo;
        let mut bytes = whole.payload.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        parts[3].cargo = Arc::new(Cargo {
            inside: Inside::Merged(Vec::new()),
            topic: Arc::clone(&topic),
            partition: 2,
            payload: bytes.into(),
            sealed: whole.sealed,
        });
        let mut merger = Merger::new();
        let batches = |from: usize, merger: &mut Merger| {
            merge(&parts[from..], merger).map(|merged| merged.batches)
        };
        assert_eq!(batches(0, &mut merger), Some(3));
        assert_eq!(batches(2, &mut merger), None);
        assert_eq!(batches(3, &mut merger), None);
        assert_eq!(batches(4, &mut merger), Some(2));
        drop(rig.kill());
    }
}
