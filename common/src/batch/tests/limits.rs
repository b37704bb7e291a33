//! Bounds of the encoder and of the decoder.

use super::*;

#[test]
fn an_encoder_without_records_says_so() {
    let mut encoder = Encoder::new(Codec::None);
    assert_eq!(encoder.finish(), Err(BatchError::Empty));
    encoder.begin(ID);
    assert_eq!(encoder.finish(), Err(BatchError::Empty));
}

#[test]
fn a_batch_with_room_is_never_over_its_bound() {
    for value in [&b""[..], b"x", &[7; 300], &[7; 70_000]] {
        let mut encoder = Encoder::new(Codec::None);
        encoder.begin(ID);
        let mut timestamp_ms = 0;
        while encoder.has_room(None, value) {
            encoder.push(timestamp_ms, None, value);
            timestamp_ms += 1;
        }
        let bytes = encoder.finish().unwrap().payload.len();
        assert!(bytes <= MAX_RAW_BYTES + layout::HEAD_BYTES, "{bytes}");
        assert!(bytes + value.len() + 200 > MAX_RAW_BYTES, "{bytes}");
    }
}

#[test]
fn a_large_record_stands_alone() {
    let mut encoder = Encoder::new(Codec::Zstd);
    encoder.begin(ID);
    let large = noise(1 << 20);
    assert!(encoder.has_room(None, &large));
    encoder.push(0, None, &large);
    assert!(!encoder.has_room(None, b""));
    assert!(encoder.finish().is_ok());
}

#[test]
fn a_batch_that_no_reader_takes_is_not_written_and_forgotten() {
    let mut encoder = Encoder::new(Codec::Lz4);
    encoder.begin(ID);
    encoder.push(0, None, b"small");
    encoder.push(0, None, &vec![0; 2 << 20]);
    encoder.push(0, None, b"small");
    let error = encoder.finish().unwrap_err();
    assert!(
        matches!(error, BatchError::TooLarge { bytes, .. } if bytes > 2 << 20),
        "{error}"
    );
    assert!(
        error.to_string().contains(&MAX_DECODED_BYTES.to_string()),
        "{error}"
    );
    let records = log(100);
    assert_eq!(
        encode(&mut encoder, &records).records as usize,
        records.len()
    );
}

#[test]
fn a_batch_never_touches_more_minutes_than_a_header_says() {
    let mut encoder = Encoder::new(Codec::None);
    encoder.begin(ID);
    let mut timestamp_ms = i64::from(u32::MAX) * 60_000;
    while encoder.has_room(None, b"x") {
        encoder.push(timestamp_ms, None, b"x");
        timestamp_ms -= 60_000;
    }
    let encoded = encoder.finish().unwrap();
    assert!(encoded.minutes.len() <= MAX_MINUTES);
    assert!(header(&encoded).encode().is_ok());
}

#[test]
fn two_minutes_in_turns_do_not_fill_a_batch() {
    let mut encoder = Encoder::new(Codec::None);
    encoder.begin(ID);
    for index in 0..20_000 {
        assert!(encoder.has_room(None, b"x"));
        encoder.push(60_000 * (index % 2), None, b"x");
    }
    assert_eq!(encoder.finish().unwrap().minutes.len(), 2);
}

#[test]
fn a_bomb_is_refused_within_the_limit() {
    let huge = vec![0_u8; 64 << 20];
    let mut plain = Vec::new();
    let level = flate2::Compression::best();
    let mut gzip = flate2::write::GzEncoder::new(&mut plain, level);
    std::io::Write::write_all(&mut gzip, &huge).unwrap();
    gzip.finish().unwrap();
    let mut unannounced = zstd::Encoder::new(Vec::new(), 1).unwrap();
    std::io::Write::write_all(&mut unannounced, &huge).unwrap();
    let mut framed = lz4_flex::frame::FrameEncoder::new(Vec::new());
    std::io::Write::write_all(&mut framed, &huge).unwrap();
    for (codec, bomb) in [
        (1, plain.clone()),
        (3, framed.finish().unwrap()),
        (4, zstd::bulk::compress(&huge, 1).unwrap()),
        (4, unannounced.finish().unwrap()),
    ] {
        let mut decoder = Decoder::new();
        let error = decoder.decode(&wrap(codec, 1, &bomb), 100_000).unwrap_err();
        assert!(
            matches!(error, BatchError::TooLarge { limit: 100_000, .. }),
            "{error}"
        );
        assert!(decoder.memory() <= 100_000, "{codec}: {}", decoder.memory());
    }
}

#[test]
fn the_limit_itself_is_allowed_and_a_byte_more_is_not() {
    for codec in Codec::ALL {
        let records = log(50_000);
        let encoded = encode(&mut Encoder::new(codec), &records);
        let plain = encode(&mut Encoder::new(Codec::None), &records)
            .payload
            .len();
        let bytes = plain - layout::HEAD_BYTES;
        assert_eq!(owned(&decode(&encoded.payload, bytes).unwrap()), records);
        let error = decode(&encoded.payload, bytes - 1).unwrap_err();
        assert!(
            matches!(error, BatchError::TooLarge { .. }),
            "{codec}: {error}"
        );
        assert!(
            error
                .to_string()
                .contains(&format!("the limit is {}", bytes - 1))
        );
    }
}
