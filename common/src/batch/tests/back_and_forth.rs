//! What was written is what is read.

use proptest::prelude::*;

use super::*;

#[test]
fn an_encoder_starts_afresh_after_every_batch() {
    for codec in Codec::ALL {
        let mut encoder = Encoder::new(codec);
        let mut decoder = Decoder::new();
        let big = encode(&mut encoder, &log(300_000));
        for records in [log(200), log(700_000), vec![line(-5, b"")], log(300_000)] {
            let encoded = encode(&mut encoder, &records);
            let decoded = decoder.decode(&encoded.payload, MAX_DECODED_BYTES).unwrap();
            assert_eq!(owned(&decoded), records);
            assert_eq!(decoded.codec(), codec);
            decoder.recycle(decoded);
        }
        assert_eq!(encode(&mut encoder, &log(300_000)), big);
    }
}

#[test]
fn what_does_not_compress_survives_as_well() {
    for codec in Codec::ALL {
        let records = vec![line(0, &noise(1 << 20))];
        let encoded = encode(&mut Encoder::new(codec), &records);
        assert!(encoded.payload.len() <= crate::wire::MAX_PAYLOAD_BYTES);
        assert_eq!(
            owned(&decode(&encoded.payload, MAX_DECODED_BYTES).unwrap()),
            records
        );
    }
}

#[test]
fn every_codec_but_none_compresses_logs() {
    let sizes = Codec::ALL.map(|c| encode(&mut Encoder::new(c), &log(250_000)).payload.len());
    let [none, packed @ ..] = sizes;
    assert!(packed.into_iter().all(|size| size * 2 < none), "{sizes:?}");
}

#[test]
fn only_the_first_record_carries_the_id() {
    let encoded = encode(&mut Encoder::new(Codec::Zstd), &log(1000));
    let decoded = decode(&encoded.payload, MAX_DECODED_BYTES).unwrap();
    let ids: Vec<_> = decoded.records().map(|record| record.batch_id).collect();
    assert_eq!(ids[0], Some(ID));
    assert!(ids[1..].iter().all(Option::is_none));
    assert_eq!(decoded.id(), Some(ID));
}

#[test]
fn headers_are_cut_back_to_a_mark() {
    let mut headers = Headers::new();
    headers.push("host", b"a");
    let (mark, one) = (headers.mark(), headers.clone());
    headers.push("offset", b"17");
    assert_eq!(headers.len(), 2);
    headers.cut_back(mark);
    assert_eq!(headers, one);
}

proptest! {
    #[test]
    fn a_batch_survives_its_bytes(codec in any_codec(), records in any_records()) {
        let encoded = encode(&mut Encoder::new(codec), &records);
        let decoded = decode(&encoded.payload, MAX_DECODED_BYTES).unwrap();
        prop_assert_eq!(owned(&decoded), &records[..]);
        prop_assert_eq!(decoded.len() as usize, records.len());
        prop_assert_eq!(decoded.records().count(), records.len());
        prop_assert_eq!(encoded.records, decoded.len());
        prop_assert_eq!(encoded.keyed, records.iter().any(|record| record.key.is_some()));
        prop_assert_eq!(decoded.keyed(), encoded.keyed);
        prop_assert_eq!(encoded.raw_bytes, decoded.raw_bytes());
        prop_assert_eq!(encoded.content_sum, sum(&records));
        prop_assert_eq!(decoded.content_sum(), encoded.content_sum);
        prop_assert_eq!(decoded.minutes(), &encoded.minutes[..]);
        let counted: u32 = encoded.minutes.iter().map(|minute| minute.records).sum();
        prop_assert_eq!(counted, encoded.records);
        for MinuteCount { minute, records: count } in encoded.minutes {
            let of = records.iter().filter(|r| minute_of(r.timestamp_ms) == minute).count();
            prop_assert_eq!(of, count as usize);
        }
    }
}

#[test]
fn an_encoder_that_changes_its_codec_writes_what_others_write() {
    let records = log(2000);
    let mut changing = Encoder::new(Codec::Zstd);
    for _ in 0..2 {
        for codec in Codec::ALL {
            changing.set_codec(codec);
            let encoded = encode(&mut changing, &records);
            assert_eq!(
                encoded,
                encode(&mut Encoder::new(codec), &records),
                "{codec}"
            );
        }
    }
}
