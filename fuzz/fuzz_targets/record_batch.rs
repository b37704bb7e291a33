//! Any bytes as a RecordBatch, as they are and with a length and checksum that fit them: no
//! panic, no memory beyond the limit, and records that were read are written back to a batch
//! that reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tributary_common::{
    batch::{Codec, Decoded, Encoder, decode},
    ids::{BatchId, Epoch, StreamId},
};

/// Small, so that the limit is met often.
const LIMIT: usize = 64 << 10;
const ID: BatchId = BatchId {
    stream: StreamId(1),
    epoch: Epoch(2),
    seq: 3,
};

fuzz_target!(|data: &[u8]| {
    if let Ok(decoded) = decode(data, LIMIT) {
        write_back(&decoded);
    }
    let mut sealed = data.to_vec();
    if sealed.len() >= 61 {
        let length = u32::try_from(sealed.len() - 12).expect("inputs are short");
        sealed[8..12].copy_from_slice(&length.to_be_bytes());
        sealed[16] = 2;
        let sum = crc32c::crc32c(&sealed[21..]);
        sealed[17..21].copy_from_slice(&sum.to_be_bytes());
    }
    if let Ok(decoded) = decode(&sealed, LIMIT) {
        write_back(&decoded);
    }
});

fn write_back(read: &Decoded) {
    assert!(read.raw_bytes() <= LIMIT as u64);
    assert_eq!(read.records().count(), read.len() as usize);
    let mut encoder = Encoder::new(Codec::Lz4);
    encoder.begin(ID);
    for record in read.records() {
        encoder.push(record.timestamp_ms, record.key, record.value);
    }
    let written = encoder.finish().expect("64 KiB of records are written");
    // The id takes its room as well.
    let again = decode(&written.payload, LIMIT + 256).expect("our own batch is sound");
    assert_eq!(again.id(), Some(ID));
    assert_eq!(again.content_sum(), read.content_sum());
    assert_eq!(again.minutes(), read.minutes());
    for (ours, theirs) in again.records().zip(read.records()) {
        assert_eq!(ours.timestamp_ms, theirs.timestamp_ms);
        assert_eq!((ours.key, ours.value), (theirs.key, theirs.value));
    }
}
