//! Against `kafka-protocol`, another implementation of the same format.

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    indexmap::IndexMap,
    protocol::StrBytes,
    records::{
        Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID,
        Record as TheirRecord, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions,
        TimestampType,
    },
};
use proptest::prelude::*;

use super::*;

fn their_codec(codec: Codec) -> Compression {
    match codec {
        Codec::None => Compression::None,
        Codec::Gzip => Compression::Gzip,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    }
}

fn their_record(offset: usize, record: &Owned) -> TheirRecord {
    let offset = i64::try_from(offset).unwrap();
    TheirRecord {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::Creation,
        offset,
        // It cuts a batch where sequence and offset do not go together.
        sequence: i32::try_from(offset).unwrap(),
        timestamp: record.timestamp_ms,
        key: record.key.clone().map(Bytes::from),
        value: Some(Bytes::from(record.value.clone())),
        headers: IndexMap::new(),
    }
}

fn write_theirs(compression: Compression, records: &[TheirRecord]) -> BytesMut {
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions {
        version: 2,
        compression,
    };
    RecordBatchEncoder::encode(&mut bytes, records, &options).unwrap();
    bytes
}

#[test]
fn another_implementation_reads_our_batches() {
    for codec in Codec::ALL {
        let mut records = log(400_000);
        records[3].key = Some(b"key".to_vec());
        records[5].timestamp_ms -= 86_400_000;
        records[7].headers = vec![("host".to_owned(), b"h\xff".to_vec())];
        let mut encoded = encode(&mut Encoder::new(codec), &records).payload;
        let theirs = RecordBatchDecoder::decode(&mut encoded).unwrap();
        assert!(encoded.is_empty());
        assert_eq!(theirs.records.len(), records.len());
        for (index, (theirs, ours)) in theirs.records.iter().zip(&records).enumerate() {
            assert_eq!(theirs.offset, i64::try_from(index).unwrap());
            assert_eq!(theirs.timestamp, ours.timestamp_ms);
            assert_eq!(theirs.key.as_deref(), ours.key.as_deref());
            assert_eq!(theirs.value.as_deref(), Some(&ours.value[..]));
            assert_eq!(theirs.producer_id, NO_PRODUCER_ID);
            assert_eq!(theirs.partition_leader_epoch, NO_PARTITION_LEADER_EPOCH);
            let ids = usize::from(index == 0);
            assert_eq!(theirs.headers.len(), ids + ours.headers.len());
            for (key, value) in &ours.headers {
                let theirs = theirs.headers.get(&StrBytes::from_string(key.clone()));
                assert_eq!(theirs.unwrap().as_deref(), Some(&value[..]));
            }
        }
        let id = theirs.records[0]
            .headers
            .get(&StrBytes::from_static_str(ID_HEADER));
        assert_eq!(id.unwrap().as_deref(), Some(&ID.to_bytes()[..]));
    }
}

#[test]
fn we_read_the_batches_of_another_implementation() {
    for codec in Codec::ALL {
        let records = log(100_000);
        let theirs: Vec<_> = records
            .iter()
            .enumerate()
            .map(|(at, record)| their_record(at, record))
            .collect();
        let bytes = write_theirs(their_codec(codec), &theirs);
        let decoded = decode(&bytes, MAX_DECODED_BYTES).unwrap();
        assert_eq!(owned(&decoded), records);
        assert_eq!(decoded.codec(), codec);
        assert_eq!(decoded.content_sum(), sum(&records));
        assert_eq!(decoded.id(), None);
    }
}

#[test]
fn snappy_is_refused_by_name() {
    let bytes = write_theirs(Compression::Snappy, &[their_record(0, &line(1, b"x"))]);
    refused(
        &bytes,
        "snappy (codec 2), which is not supported; allowed are none (0), gzip (1)",
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_implementations_read_the_same(codec in any_codec(), records in any_records()) {
        // The other one computes deltas without wrapping around.
        let records: Vec<_> = records
            .into_iter()
            .map(|record| Owned { timestamp_ms: record.timestamp_ms >> 8, ..record })
            .collect();
        let mut encoded = encode(&mut Encoder::new(codec), &records).payload;
        let read = RecordBatchDecoder::decode(&mut encoded).unwrap().records;
        let read: Vec<_> = read
            .into_iter()
            .map(|record| Owned {
                timestamp_ms: record.timestamp,
                key: record.key.map(Vec::from),
                value: record.value.map(Vec::from).unwrap(),
                headers: record
                    .headers
                    .into_iter()
                    .filter(|(key, _value)| key.as_str() != ID_HEADER)
                    .map(|(key, value)| (key.to_string(), value.unwrap().to_vec()))
                    .collect(),
            })
            .collect();
        prop_assert_eq!(read, &records[..]);
    }
}
