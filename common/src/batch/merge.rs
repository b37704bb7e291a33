//! Makes one batch of several small ones: their records, in order, compressed once.
//!
//! A broker pays for batches, not for bytes. Of a record only its length and its two deltas change; key,
//! value and headers are copied, so that the batch ids stay on the first record of each batch inside.
//! Not for: which batches go together (the bus's producer). The bus calls it.

use std::fmt;

use bytes::Bytes;

use super::{
    BatchError, Codec, MAX_RAW_BYTES,
    compress::Compressor,
    decode::{RecordReader, check_head},
    decompress::Decompressors,
    layout::{BEFORE_LENGTH_ENDS, HEAD_BYTES, Head, MAGIC},
    varint,
};

/// Merges batches. It owns its buffers and compressors, about 5 MiB at most: use one for many.
pub struct Merger {
    decompressors: Decompressors,
    /// Those that were used before.
    compressors: Vec<Compressor>,
    /// The records of the batch that is being added.
    data: Vec<u8>,
    /// Room for the fixed fields, then all records.
    raw: Vec<u8>,
    /// Room for the fixed fields, then the compressed records, then rubbish.
    out: Vec<u8>,
    records: u32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl fmt::Debug for Merger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merger")
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

impl Default for Merger {
    fn default() -> Self {
        Self::new()
    }
}

impl Merger {
    /// A merger without a batch.
    #[must_use]
    pub fn new() -> Self {
        Self {
            decompressors: Decompressors::default(),
            compressors: Vec::new(),
            data: Vec::new(),
            raw: vec![0; HEAD_BYTES],
            out: Vec::new(),
            records: 0,
            base_timestamp: 0,
            max_timestamp: i64::MIN,
        }
    }

    /// Starts a batch and forgets an unfinished one.
    pub fn begin(&mut self) {
        self.raw.truncate(HEAD_BYTES);
        self.records = 0;
        self.max_timestamp = i64::MIN;
    }

    /// Adds all records of a batch behind those that are there. False when they have no room within
    /// [`MAX_RAW_BYTES`]; nothing of the batch stays then. The first one always has room.
    ///
    /// # Errors
    /// What is wrong with the batch; nothing of it stays.
    pub fn add(&mut self, payload: &[u8]) -> Result<bool, BatchError> {
        let before = (self.raw.len(), self.records);
        let times = (self.base_timestamp, self.max_timestamp);
        let added = self.copy(payload);
        let fits = self.records == before.1 || before.1 == 0 || self.raw_bytes() <= MAX_RAW_BYTES;
        if added.is_err() || !fits {
            self.raw.truncate(before.0);
            self.records = before.1;
            (self.base_timestamp, self.max_timestamp) = times;
        }
        added.map(|()| fits)
    }

    fn raw_bytes(&self) -> usize {
        self.raw.len() - HEAD_BYTES
    }

    fn copy(&mut self, payload: &[u8]) -> Result<(), BatchError> {
        let (head, codec) = check_head(payload)?;
        let packed = payload.get(HEAD_BYTES..).unwrap_or_default();
        let end = self.decompressors.decompress(
            codec,
            packed,
            &mut self.data,
            super::MAX_DECODED_BYTES,
        )?;
        let data = self.data.get(..end).unwrap_or_default();
        if self.records == 0 {
            self.base_timestamp = head.base_timestamp;
        }
        let mut latest = i64::MIN;
        let mut reader = RecordReader::new(data, head.base_timestamp);
        for index in 0..head.records.cast_unsigned() {
            let (record, rest) = reader.next_with_rest()?;
            latest = latest.max(record.timestamp_ms);
            // Kafka's own readers wrap around as well.
            let timestamp_delta = record.timestamp_ms.wrapping_sub(self.base_timestamp);
            let offset_delta = i64::from(self.records) + i64::from(index);
            let length = 1 + varint::len(timestamp_delta) + varint::len(offset_delta) + rest.len();
            let length = i64::try_from(length).expect("a record lies in memory");
            let mut framing = [0; 3 * varint::MAX_LONG_BYTES + 1];
            let mut at = varint::write(&mut framing, 0, length);
            framing[at] = 0; // No attributes.
            at = varint::write(&mut framing, at + 1, timestamp_delta);
            at = varint::write(&mut framing, at, offset_delta);
            self.raw.extend_from_slice(&framing[..at]);
            self.raw.extend_from_slice(rest);
        }
        reader.end()?;
        if latest != head.max_timestamp {
            return Err(BatchError::MaxTimestamp {
                stated: head.max_timestamp,
                counted: latest,
            });
        }
        self.records += head.records.cast_unsigned();
        self.max_timestamp = self.max_timestamp.max(latest);
        Ok(())
    }

    /// Compresses and closes the batch. The merger is empty afterwards, whatever comes out.
    ///
    /// # Errors
    /// [`BatchError::Empty`] when nothing was added.
    pub fn finish(&mut self, codec: Codec) -> Result<Bytes, BatchError> {
        let merged = self.close(codec);
        self.begin();
        merged
    }

    fn close(&mut self, codec: Codec) -> Result<Bytes, BatchError> {
        let Some(last) = self.records.checked_sub(1) else {
            return Err(BatchError::Empty);
        };
        let known = self.compressors.iter().position(|one| one.codec() == codec);
        let at = known.unwrap_or_else(|| {
            self.compressors.push(Compressor::new(codec));
            self.compressors.len() - 1
        });
        let batch = match self.compressors.get_mut(at) {
            None | Some(Compressor::None) => self.raw.as_mut_slice(),
            Some(compressor) => {
                let raw = self.raw.get(HEAD_BYTES..).unwrap_or_default();
                let end = compressor.compress(raw, &mut self.out, HEAD_BYTES)?;
                self.out.get_mut(..end).unwrap_or_default()
            }
        };
        let length = i32::try_from(batch.len() - BEFORE_LENGTH_ENDS)
            .expect("records of MAX_DECODED_BYTES do not compress to 2 GiB");
        Head {
            length,
            attributes: u16::from(codec.id()),
            last_offset_delta: last.cast_signed(),
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            records: self.records.cast_signed(),
            magic: MAGIC,
            crc: 0,
        }
        .write(batch);
        Ok(Bytes::copy_from_slice(batch))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{Decoder, Draft, Encoder, Headers, MAX_DECODED_BYTES, Record},
        *,
    };
    use crate::ids::{BatchId, Epoch, StreamId};

    /// A record with memory of its own: time, key, value, headers with the batch id.
    type Kept = (i64, Option<Vec<u8>>, Vec<u8>, Vec<(String, Vec<u8>)>);

    fn kept(record: Record<'_>) -> Kept {
        let headers = record.headers.iter();
        let headers = headers
            .map(|(key, value)| (key.to_owned(), value.unwrap_or_default().to_vec()))
            .collect();
        let (key, value) = (record.key.map(<[u8]>::to_vec), record.value.to_vec());
        (record.timestamp_ms, key, value, headers)
    }

    fn open(payload: &[u8]) -> Vec<Kept> {
        let decoded = Decoder::new().decode(payload, MAX_DECODED_BYTES).unwrap();
        decoded.records().map(kept).collect()
    }

    /// Times that repeat, go back, and are as far apart as they can be.
    fn time() -> impl Strategy<Value = i64> {
        prop_oneof![
            4 => 1_700_000_000_000_i64..1_700_000_100_000,
            1 => any::<i64>(),
        ]
    }

    fn record() -> impl Strategy<Value = Kept> {
        let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
        let headers = prop::collection::vec(("[a-z]{1,9}", bytes(9)), 0..3);
        (time(), prop::option::of(bytes(20)), bytes(300), headers)
    }

    /// Small batches as agents write them: codec and records.
    fn batches() -> impl Strategy<Value = Vec<(Codec, Vec<Kept>)>> {
        let codec = prop::sample::select(Codec::ALL.to_vec());
        let records = prop::collection::vec(record(), 1..9);
        prop::collection::vec((codec, records), 1..20)
    }

    fn write(no: u64, (codec, records): &(Codec, Vec<Kept>)) -> Bytes {
        let mut encoder = Encoder::new(*codec);
        encoder.begin(BatchId {
            stream: StreamId(no),
            epoch: Epoch(1),
            seq: no,
        });
        for (timestamp_ms, key, value, pairs) in records {
            let mut headers = Headers::new();
            for (key, value) in pairs {
                headers.push(key, value);
            }
            encoder.push_draft(&Draft {
                timestamp_ms: *timestamp_ms,
                key: key.as_deref(),
                value,
                headers: &headers,
            });
        }
        encoder.finish().unwrap().payload
    }

    proptest! {
        #[test]
        fn any_batches_merge_to_the_same_records_in_the_same_order(
            batches in batches(),
            codec in prop::sample::select(Codec::ALL.to_vec()),
        ) {
            let mut merger = Merger::new();
            // Twice: nothing of the first time is left.
            for _time in 0..2 {
                let mut wanted = Vec::new();
                for (no, batch) in (0..).zip(&batches) {
                    let payload = write(no, batch);
                    wanted.extend(open(&payload));
                    prop_assert!(merger.add(&payload).unwrap());
                }
                let merged = merger.finish(codec).unwrap();
                let decoded = Decoder::new().decode(&merged, MAX_DECODED_BYTES).unwrap();
                prop_assert_eq!(decoded.codec(), codec);
                prop_assert_eq!(open(&merged), wanted);
            }
        }

        #[test]
        fn a_damaged_batch_leaves_nothing_among_the_others(
            batches in batches(), at: prop::sample::Index, bit in 0_u32..8,
        ) {
            let mut merger = Merger::new();
            let mut wanted = Vec::new();
            for (no, batch) in (0..).zip(&batches) {
                let payload = write(no, batch);
                let mut damaged = payload.to_vec();
                let at = 16 + at.index(damaged.len() - 16);
                damaged[at] ^= 1 << bit;
                prop_assert!(merger.add(&damaged).is_err());
                wanted.extend(open(&payload));
                prop_assert!(merger.add(&payload).unwrap());
                prop_assert!(merger.add(&damaged).is_err());
            }
            prop_assert_eq!(open(&merger.finish(Codec::Zstd).unwrap()), wanted);
        }
    }

    #[test]
    fn records_that_are_damaged_under_a_right_checksum_are_refused() {
        let payload = write(
            1,
            &(Codec::None, vec![(5, None, b"a line".to_vec(), vec![])]),
        );
        // Length, attributes, deltas, lengths of key and value of the record.
        for at in HEAD_BYTES..HEAD_BYTES + 6 {
            let mut damaged = payload.to_vec();
            damaged[at] ^= 0x10;
            let head = Head::read(&damaged).unwrap();
            head.write(&mut damaged);
            let mut merger = Merger::new();
            let added = merger.add(&damaged);
            // The attributes of a record mean nothing.
            assert_eq!(added.is_ok(), at == HEAD_BYTES + 1, "{at}: {added:?}");
        }
    }

    #[test]
    fn what_has_no_room_stays_out() {
        let line = vec![b'x'; 400 << 10];
        let batch = write(1, &(Codec::Zstd, vec![(5, None, line, vec![])]));
        let mut merger = Merger::new();
        assert!(merger.add(&batch).unwrap());
        assert!(merger.add(&batch).unwrap());
        assert!(!merger.add(&batch).unwrap());
        assert_eq!(open(&merger.finish(Codec::Lz4).unwrap()).len(), 2);
        assert!(matches!(merger.finish(Codec::Lz4), Err(BatchError::Empty)));
    }
}
