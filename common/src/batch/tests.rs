//! Tests of the batch as a whole, and what they share.
//!
//! Not for: single codecs of numbers (see `varint`).

mod back_and_forth;
mod damage;
mod kept;
mod limits;
mod oracle;

use proptest::prelude::*;

use super::{layout::Head, *};
use crate::{
    header::{BatchHeader, MinuteCount},
    ids::{AgentId, BatchId, Class, Epoch, GenerationId, StreamId, TaskId, Topic},
    span::Span,
};

const ID: BatchId = BatchId {
    stream: StreamId(0x0102_0304),
    epoch: Epoch(7),
    seq: 9,
};

/// A record with memory of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owned {
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
}

fn line(timestamp_ms: i64, value: &[u8]) -> Owned {
    Owned {
        timestamp_ms,
        key: None,
        value: value.to_vec(),
        headers: Vec::new(),
    }
}

fn encode(encoder: &mut Encoder, records: &[Owned]) -> Encoded {
    encoder.begin(ID);
    for record in records {
        let mut headers = Headers::new();
        for (key, value) in &record.headers {
            headers.push(key, value);
        }
        encoder.push_draft(&Draft {
            timestamp_ms: record.timestamp_ms,
            key: record.key.as_deref(),
            value: &record.value,
            headers: &headers,
        });
    }
    encoder.finish().unwrap()
}

fn owned(decoded: &Decoded) -> Vec<Owned> {
    let records = decoded.records().map(|record| Owned {
        timestamp_ms: record.timestamp_ms,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.to_vec(),
        headers: record
            .headers
            .iter()
            .filter(|(key, _value)| *key != ID_HEADER)
            .map(|(key, value)| (key.to_owned(), value.unwrap().to_vec()))
            .collect(),
    });
    records.collect()
}

fn sum(records: &[Owned]) -> u32 {
    let values: Vec<u8> = records
        .iter()
        .flat_map(|record| record.value.clone())
        .collect();
    crc32c::crc32c(&values)
}

/// Log lines that compress, about `bytes` in sum.
fn log(bytes: usize) -> Vec<Owned> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut left = bytes;
    let mut records = Vec::new();
    while left > 0 {
        let at = records.len();
        let text = format!(
            "10.0.{}.{} - - [{at}] \"GET /api/v1/items/{} HTTP/1.1\" 200 {}",
            random.u8(..),
            random.u8(..),
            random.u32(..5000),
            random.u32(..100_000)
        );
        left = left.saturating_sub(text.len());
        records.push(line(
            1_700_000_000_000 + 700 * i64::try_from(at).unwrap(),
            text.as_bytes(),
        ));
    }
    records
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..))
        .take(bytes)
        .collect()
}

fn any_record() -> impl Strategy<Value = Owned> {
    let timestamp = prop_oneof![
        3 => 1_700_000_000_000_i64..1_700_000_900_000,
        1 => any::<i64>(),
        1 => -100_000_i64..100_000
    ];
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    let value = prop_oneof![4 => "[ -~]{0,90}".prop_map(String::into_bytes), 1 => bytes(300)];
    let headers = prop::collection::btree_map("[a-zé]{0,70}", bytes(200), 0..4)
        .prop_map(|headers| headers.into_iter().collect());
    let key = prop::option::weighted(0.2, bytes(20));
    (timestamp, key, value, headers).prop_map(|(timestamp_ms, key, value, headers)| Owned {
        timestamp_ms,
        key,
        value,
        headers,
    })
}

fn any_records() -> impl Strategy<Value = Vec<Owned>> {
    prop::collection::vec(any_record(), 1..60)
}

fn any_codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(Codec::ALL.to_vec())
}

/// Writes the right length and checksum into a batch that was tampered with.
fn seal(batch: &mut [u8]) {
    let length = i32::try_from(batch.len() - 12).unwrap();
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = layout::checksum(batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// A sealed batch around `records`, as they stand after the fixed fields.
fn wrap(codec: u8, count: i32, records: &[u8]) -> Vec<u8> {
    let mut batch = vec![0; layout::HEAD_BYTES];
    batch.extend_from_slice(records);
    let head = Head {
        length: 0,
        magic: 0,
        crc: 0,
        attributes: u16::from(codec),
        last_offset_delta: count - 1,
        base_timestamp: 0,
        max_timestamp: 0,
        records: count,
    };
    head.write(&mut batch);
    seal(&mut batch);
    batch
}

fn refused(payload: &[u8], part: &str) {
    let error = decode(payload, MAX_DECODED_BYTES).unwrap_err().to_string();
    assert!(error.contains(part), "{error:?} lacks {part:?}");
}

fn header(encoded: &Encoded) -> BatchHeader {
    BatchHeader {
        agent: AgentId::new("a-1").unwrap(),
        stream: ID.stream,
        epoch: ID.epoch,
        seq: ID.seq,
        generation: GenerationId(4),
        span: Span { start: 10, end: 30 },
        task: TaskId::new("nginx-access").unwrap(),
        topic: Topic::new("web.access").unwrap(),
        class: Class::P1,
        resends: 0,
        records: encoded.records,
        raw_bytes: encoded.raw_bytes,
        minutes: encoded.minutes.clone(),
        content_sum: encoded.content_sum,
        file: String::new(),
        keyed: encoded.keyed,
    }
}

#[test]
fn a_batch_knows_its_own_bytes() {
    let encoded = encode(&mut Encoder::new(Codec::Lz4), &log(100));
    let decoded = decode(&encoded.payload, MAX_DECODED_BYTES).unwrap();
    for record in decoded.records() {
        assert!(decoded.has(record.value));
        let copy = record.value.to_vec();
        assert!(!decoded.has(&copy));
    }
}

#[test]
fn a_payload_is_checked_against_its_header() {
    let encoded = encode(&mut Encoder::new(Codec::Lz4), &log(1000));
    let decoded = decode(&encoded.payload, MAX_DECODED_BYTES).unwrap();
    assert_eq!(decoded.check(&header(&encoded)), Ok(()));
    let check = |change: fn(&mut BatchHeader), part: &str| {
        let mut header = header(&encoded);
        change(&mut header);
        let error = decoded.check(&header).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    check(
        |h| h.seq = 10,
        "batch id 0000000001020304/0000000000000007/10; the payload has 0000",
    );
    check(|h| h.records += 1, "says records");
    check(|h| h.raw_bytes = 5, "says raw bytes 5;");
    check(|h| h.content_sum ^= 1, "says content sum");
    let mut keyed = log(1000);
    keyed[1].key = Some(b"k".to_vec());
    let keyed = encode(&mut Encoder::new(Codec::Lz4), &keyed);
    let decoded = decode(&keyed.payload, MAX_DECODED_BYTES).unwrap();
    assert_eq!(decoded.check(&header(&keyed)), Ok(()));
    let mut silent = header(&keyed);
    silent.keyed = false;
    let error = decoded.check(&silent).unwrap_err().to_string();
    assert!(
        error.contains("says keys false; the payload has true"),
        "{error}"
    );
    check(|h| h.minutes.clear(), "says event minutes 0 of them");
}
