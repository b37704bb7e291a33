//! Batches as parcels for partitions: checked and left closed, or opened where that is needed.
//!
//! A batch is opened only when its records go where their keys say, when a part of it is in the topic
//! already, and when it is too large for its topic. What is made of it then has the codec that it came
//! with. Not for: order (see [`super::lane`]).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use tributary_common::{
    batch::{
        BatchError, Codec, Decoded, Decoder, Draft, Encoder, Headers, ID_HEADER, MAX_DECODED_BYTES,
        Record, Sealed,
    },
    ids::{BatchId, Class},
    wire::RefuseReason,
};

use super::{
    super::{super::Failure, produced::Flight, topic::Topic},
    broker::Haste,
    frame::Load,
    lane::{Parcel, Shipment},
    says::Part,
};

/// A batch, or a part of one, on its way into a partition.
pub(super) struct Cargo {
    pub(super) flight: Arc<Flight>,
    pub(super) topic: Arc<Topic>,
    pub(super) partition: i32,
    payload: Bytes,
    sealed: Sealed,
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
        (payload, sealed): (Bytes, Sealed),
    ) -> Parcel<Arc<Self>> {
        Parcel {
            records: sealed.records(),
            bytes: sealed.byte_len(),
            haste: match flight.class() {
                Class::P0 => Haste::Urgent,
                Class::P1 | Class::P2 | Class::P3 => Haste::Common,
            },
            cargo: Arc::new(Self {
                flight: Arc::clone(flight),
                topic: Arc::clone(topic),
                partition,
                payload,
                sealed,
            }),
        }
    }

    /// The two halves of a batch that is too large.
    ///
    /// # Errors
    /// When it is a single record.
    pub(super) fn halves(&self, decoder: &mut Decoder) -> Result<Vec<Parcel<Arc<Self>>>, Failure> {
        let records = self.sealed.records();
        if records == 1 {
            let why = format!("topic {} takes no record of this size", self.topic.name);
            return Err(Failure::Rejected(RefuseReason::TooLarge, why));
        }
        let decoded = decoder
            .decode(&self.payload, MAX_DECODED_BYTES)
            .map_err(corrupt)?;
        let half = records.div_ceil(2);
        let mut encoder = Encoder::new(decoded.codec());
        let mut pieces = Vec::new();
        for (skip, take) in [(0, half), (half, records - half)] {
            let records = decoded.records().skip(skip as usize).take(take as usize);
            let piece = encode(&mut encoder, records.map(|record| (record, None)))?;
            pieces.push(Self::parcel(
                &self.flight,
                &self.topic,
                self.partition,
                piece,
            ));
        }
        decoder.recycle(decoded);
        Ok(pieces)
    }
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

/// The records of an opened batch from `skip` on, as a batch of their own.
pub(super) fn rest_of(decoded: &Decoded, skip: u32) -> Result<(Bytes, Sealed), Failure> {
    let records = decoded.records().skip(skip as usize);
    let mut encoder = Encoder::new(decoded.codec());
    encode(&mut encoder, records.map(|record| (record, None)))
}

/// A batch for each partition of these records; `id` begins one where a record is given it.
pub(super) fn spread<'a>(
    codec: Codec,
    records: impl Iterator<Item = (Record<'a>, i32, Option<BatchId>)>,
) -> Result<Vec<(i32, Bytes, Sealed)>, Failure> {
    let mut parts: BTreeMap<i32, Vec<(Record<'a>, Option<BatchId>)>> = BTreeMap::new();
    for (record, partition, id) in records {
        parts.entry(partition).or_default().push((record, id));
    }
    let mut encoder = Encoder::new(codec);
    let parts = parts.into_iter().map(|(partition, records)| {
        let (payload, sealed) = encode(&mut encoder, records.into_iter())?;
        Ok((partition, payload, sealed))
    });
    parts.collect()
}

/// Writes records with all their headers, and the batch id before those of the first one where it
/// shall have it and does not.
fn encode<'a>(
    encoder: &mut Encoder,
    records: impl Iterator<Item = (Record<'a>, Option<BatchId>)>,
) -> Result<(Bytes, Sealed), Failure> {
    let mut headers = Headers::new();
    let none = headers.mark();
    for (record, id) in records {
        headers.cut_back(none);
        if let Some(id) = id.filter(|_id| record.batch_id.is_none()) {
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
    }
    let encoded = encoder.finish().map_err(corrupt)?;
    let sealed = Sealed::check(&encoded.payload).map_err(corrupt)?;
    Ok((encoded.payload, sealed))
}

/// Checks a batch that stays closed.
///
/// # Errors
/// [`Failure::Rejected`] with [`RefuseReason::Corrupt`].
pub(super) fn seal(payload: &Bytes, records: u32) -> Result<(Bytes, Sealed), Failure> {
    let sealed = Sealed::check(payload).map_err(corrupt)?;
    if sealed.records() != records {
        let why = "the payload has another number of records than its header says".to_owned();
        return Err(Failure::Rejected(RefuseReason::Corrupt, why));
    }
    Ok((payload.clone(), sealed))
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn corrupt(error: BatchError) -> Failure {
    Failure::Rejected(RefuseReason::Corrupt, error.to_string())
}
