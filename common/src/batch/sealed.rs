//! Forwards batches as they came: checks what can be known without opening one, and patches the
//! three fields that a producer owns.
//!
//! A broker takes an idempotent producer's batch only with its producer id, epoch and base sequence in
//! the fixed fields. They lie under the checksum, so that one is made anew; nothing else is touched.
//! Not for: what is in the records (see [`super::Decoder`]). The bus calls it.

use super::{
    BatchError, Codec,
    decode::check_head,
    layout::{self, HEAD_BYTES, Stamp},
};

/// The fixed fields of a checked batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    head: [u8; HEAD_BYTES],
    records: u32,
    codec: Codec,
    bytes: usize,
}

impl Sealed {
    /// Checks length, magic, CRC, codec and number of records, without opening the batch.
    ///
    /// # Errors
    /// [`BatchError`]: refuse the batch.
    pub fn check(payload: &[u8]) -> Result<Self, BatchError> {
        let (head, codec) = check_head(payload)?;
        let bytes = payload.len();
        Ok(Self {
            head: *payload.first_chunk().ok_or(BatchError::Short { bytes })?,
            records: head.records.cast_unsigned(),
            codec,
            bytes,
        })
    }

    /// How many records there are, at least 1.
    #[must_use]
    pub fn records(&self) -> u32 {
        self.records
    }

    /// How the records are compressed.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Bytes of the whole batch.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes
    }

    /// The fixed fields as this producer sends them; they take the place of the first
    /// [`Sealed::HEAD_BYTES`] of the batch. The records are not read again: the checksum is linear, so
    /// it changes by what the fields change.
    #[must_use]
    pub fn stamped(
        &self,
        producer_id: i64,
        producer_epoch: i16,
        base_sequence: i32,
    ) -> [u8; HEAD_BYTES] {
        let stamp = Stamp {
            producer_id,
            producer_epoch,
            base_sequence,
        };
        layout::stamped(&self.head, stamp, self.bytes - HEAD_BYTES)
    }

    /// Bytes of the fixed fields.
    pub const HEAD_BYTES: usize = HEAD_BYTES;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Encoder, *};
    use crate::ids::{BatchId, Epoch, StreamId};

    fn batch(codec: Codec, lines: &[Vec<u8>]) -> Vec<u8> {
        let mut encoder = Encoder::new(codec);
        encoder.begin(BatchId {
            stream: StreamId(1),
            epoch: Epoch(1),
            seq: 1,
        });
        for line in lines {
            encoder.push(60_000, None, line);
        }
        encoder.finish().unwrap().payload.to_vec()
    }

    proptest! {
        #[test]
        fn a_stamped_batch_differs_in_its_producer_and_checksum_alone(
            lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..30),
            codec in prop::sample::select(Codec::ALL.to_vec()),
            id: i64, epoch: i16, sequence: i32,
        ) {
            let payload = batch(codec, &lines);
            let sealed = Sealed::check(&payload).unwrap();
            prop_assert_eq!(sealed.records() as usize, lines.len());
            prop_assert_eq!((sealed.codec(), sealed.byte_len()), (codec, payload.len()));
            let mut patched = payload.clone();
            patched[..HEAD_BYTES].copy_from_slice(&sealed.stamped(id, epoch, sequence));
            prop_assert_eq!(&patched[43..51], &id.to_be_bytes());
            prop_assert_eq!(&patched[51..53], &epoch.to_be_bytes());
            prop_assert_eq!(&patched[53..57], &sequence.to_be_bytes());
            // The checksum is checked with it.
            Sealed::check(&patched).unwrap();
            patched[43..57].copy_from_slice(&payload[43..57]);
            patched[17..21].copy_from_slice(&payload[17..21]);
            prop_assert_eq!(patched, payload);
        }

        #[test]
        fn a_batch_with_a_changed_byte_is_refused(at: prop::sample::Index, bit in 0u32..8) {
            let payload = batch(Codec::Lz4, &[b"a line".to_vec(), b"another".to_vec()]);
            let mut changed = payload;
            // Base offset and leader epoch belong to the broker, the magic has its own check.
            let at = 16 + at.index(changed.len() - 16);
            changed[at] ^= 1_u8 << bit;
            prop_assert!(Sealed::check(&changed).is_err());
        }
    }
}
