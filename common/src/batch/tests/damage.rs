//! Bytes that are no batch: an error that says why, never a panic.

use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;

#[test]
fn every_prefix_of_a_batch_is_refused() {
    for codec in Codec::ALL {
        let payload = encode(&mut Encoder::new(codec), &log(300)).payload;
        for len in 0..payload.len() {
            assert!(
                decode(&payload[..len], MAX_DECODED_BYTES).is_err(),
                "{codec} {len}"
            );
        }
    }
}

#[test]
fn fixed_fields_are_checked() {
    let good = encode(&mut Encoder::new(Codec::None), &log(300)).payload;
    let check = |change: fn(&mut Vec<u8>), sealed: bool, part: &str| {
        let mut bytes = good.to_vec();
        change(&mut bytes);
        if sealed {
            seal(&mut bytes);
        }
        refused(&bytes, part);
    };
    check(
        |b| b.truncate(60),
        false,
        "batch has 60 bytes; its fixed fields alone take 61",
    );
    check(|b| b.push(0), false, "batch announces ");
    check(|b| b[8] = 0x80, false, "batch announces -2147");
    check(|b| b[16] = 1, false, "magic 1; this build reads magic 2");
    check(|b| b[70] ^= 1, false, "states CRC-32C");
    check(
        |b| b[22] = 5,
        true,
        "codec 5, which is unknown; allowed are none (0), gzip (1)",
    );
    check(
        |b| b[22] = 0x10,
        true,
        "attributes 0x0010; allowed are the codec's bits",
    );
    check(|b| b[21] = 1, true, "attributes 0x0100");
    check(|b| b[57..61].fill(0), true, "batch has no records");
    check(|b| b[57..61].fill(0xff), true, "announces -1 records");
    check(|b| b[26] ^= 0x40, true, "last offset delta of");
    check(|b| b[42] ^= 1, true, "as its latest timestamp");
    check(|b| b.push(0), true, "1 bytes after its last record");
}

#[test]
fn records_are_checked() {
    let check = |record: &[u8], part: &str| {
        let mut length = [0; varint::MAX_LONG_BYTES];
        let end = varint::write(&mut length, 0, i64::try_from(record.len()).unwrap());
        let bytes = [&length[..end], record].concat();
        refused(&wrap(0, 1, &bytes), part);
    };
    let sound = [0, 0, 0, 1, 2, b'x', 0];
    let decoded = decode(&wrap(0, 1, &[&[14][..], &sound].concat()), 100).unwrap();
    assert_eq!(owned(&decoded), [line(0, b"x")]);

    check(
        &[],
        "record 0 of the batch is malformed: its timestamp delta is no varint",
    );
    check(&[0, 0x80], "timestamp delta is no varint");
    check(&[0, 0, 2, 1, 2, b'x', 0], "its offset delta is 1");
    check(&[0, 0, 0, 3, 2, b'x', 0], "key length is -2 before 3 bytes");
    check(&[0, 0, 0, 1, 1, 0], "its value is null");
    check(
        &[0, 0, 0, 1, 20, b'x', 0],
        "value length is 10 before 2 bytes",
    );
    check(&[0, 0, 0, 1, 2, b'x'], "number of headers is no varint");
    check(&[0, 0, 0, 1, 2, b'x', 1], "it has -1 headers");
    check(&[0, 0, 0, 1, 2, b'x', 0, 9], "1 bytes after its headers");
    check(&[0, 0, 0, 1, 2, b'x', 2, 2, 0xff, 0], "header is no UTF-8");
    check(&[0, 0, 0, 1, 0, 2, 1], "header key is null");
    check(
        &[0, 0, 0, 1, 0, 0xfe, 0xff, 0xff, 0xff, 0xf],
        "header key length is no varint",
    );
    check(
        &[&[0, 0, 0, 1, 0, 2, 18][..], b"tributary", &[2, 7]].concat(),
        "id has 1 bytes",
    );
    refused(
        &wrap(0, 1, &[200, 1, 0]),
        "its length is 100 before 1 bytes",
    );
    refused(&wrap(0, 1, &[1]), "its length is null");
    refused(
        &wrap(0, i32::MAX, &[&[14][..], &sound].concat()),
        "record 1 of the batch",
    );
    let id = [&[18][..], b"tributary", &[48], &[0; 24]].concat();
    check(
        &[&[0, 0, 0, 1, 0, 4][..], &id, &id].concat()[..],
        "two batch ids",
    );
}

#[test]
fn bytes_after_the_compressed_stream_are_refused() {
    for codec in [Codec::Gzip, Codec::Lz4, Codec::Zstd] {
        let payload = encode(&mut Encoder::new(codec), &log(300)).payload;
        let mut bytes = payload.to_vec();
        bytes.push(0);
        seal(&mut bytes);
        refused(&bytes, "1 bytes after");
        let mut short = payload.to_vec();
        short.pop();
        seal(&mut short);
        refused(
            &short,
            &format!("failed to decompress a batch by {codec}: "),
        );
    }
}

#[test]
fn lz4_blocks_that_kafka_refuses_are_refused() {
    let mut info = lz4_flex::frame::FrameInfo::new();
    info.block_mode = lz4_flex::frame::BlockMode::Linked;
    let mut frame = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    std::io::Write::write_all(&mut frame, b"abc").unwrap();
    refused(
        &wrap(3, 1, &frame.finish().unwrap()),
        "blocks depend on each other",
    );
}

#[test]
fn lz4_frames_with_every_checksum_are_read_and_checked() {
    let info = lz4_flex::frame::FrameInfo::new()
        .block_checksums(true)
        .content_checksum(true)
        .content_size(Some(8));
    let mut frame = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    std::io::Write::write_all(&mut frame, &[14, 0, 0, 0, 1, 2, b'x', 0]).unwrap();
    let frame = frame.finish().unwrap();
    assert_eq!(decode(&wrap(3, 1, &frame), 8).unwrap().len(), 1);
    for at in 0..frame.len() {
        let mut damaged = frame.clone();
        damaged[at] ^= 2;
        assert!(decode(&wrap(3, 1, &damaged), 100).is_err(), "{at}");
    }
}

proptest! {
    #[test]
    fn a_flipped_bit_is_an_error_or_changes_nothing(
        codec in any_codec(),
        records in any_records(),
        place in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let mut bytes = encode(&mut Encoder::new(codec), &records).payload.to_vec();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        if let Ok(decoded) = decode(&bytes, MAX_DECODED_BYTES) {
            // Base offset and leader epoch are not under the checksum.
            prop_assert!(place < 8 || (12..16).contains(&place));
            prop_assert_eq!(owned(&decoded), records);
        }
    }

    #[test]
    fn sealed_damage_never_panics(
        codec in any_codec(),
        records in any_records(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<NonZeroU16>(),
    ) {
        let mut bytes = encode(&mut Encoder::new(codec), &records).payload.to_vec();
        bytes.truncate(usize::from(cut.get()).max(layout::HEAD_BYTES));
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes[16] = 2;
        seal(&mut bytes);
        if let Ok(decoded) = decode(&bytes, 100_000) {
            prop_assert_eq!(decoded.records().count(), decoded.len() as usize);
        }
    }

    #[test]
    fn any_bytes_as_records_never_panic(
        codec in 0u8..6,
        count in prop_oneof![1i32..4, any::<i32>()],
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let count: i32 = count.max(i32::MIN + 1);
        if let Ok(decoded) = decode(&wrap(codec, count, &bytes), 10_000) {
            prop_assert_eq!(decoded.records().count(), decoded.len() as usize);
        }
        prop_assert!(decode(&bytes, 10_000).is_err());
    }
}
