//! The bytes that the first version wrote: every later version must read them.
//!
//! Not for: what compressors write, which may change with their versions.

use super::*;

const NONE: &str = "\
    0000000000000000000000aeffffffff0250c8179d0000000000020000018bcfe568000000018bcfe65648ffff\
    ffffffffffffffffffffffff00000003c4010000000172474554202f696e6465782e68746d6c20485454502f31\
    2e312032303020474554202f696e6465782e68746d6c20485454502f312e312032303002127472696275746172\
    79300000000001020304000000000000000700000000000000090c000102010000220090b90704026b10537472\
    61c39f650d00";
const GZIP: &str = "\
    00000000000000000000009fffffffff02d197b1990001000000020000018bcfe568000000018bcfe65648ffff\
    ffffffffffffffffffffffff000000031f8b08000000000000033bc2c8c0c0c058e4ee1aa2a09f9997925aa197\
    51929ba3e0111212a06fa867a8606460a0804f9249a8a42833a9b424b1a8d28001641413330b886660606087d2\
    9c3c0c8c4c8c0c0c4a0c1376b2b330650b049714251e9e9fcacb0000a102acfd7d000000";
const LZ4: &str = "\
    0000000000000000000000a3ffffffff02b66e0de60003000000020000018bcfe568000000018bcfe65648ffff\
    ffffffffffffffffffffffff0000000304224d186050fb63000000ff15c4010000000172474554202f696e6465\
    782e68746d6c20485454502f312e3120323030201d0009f2060212747269627574617279300000000001020304\
    00010012070700f00c00090c000102010000220090b90704026b1053747261c39f650d0000000000";
const ZSTD: &str = "\
    00000000000000000000009bffffffff02b5c5d2e10004000000020000018bcfe568000000018bcfe65648ffff\
    ffffffffffffffffffffffff0000000328b52ffd207d0d03005405c4010000000172474554202f696e6465782e\
    68746d6c20485454502f312e3120323030200212747269627574617279300000000001020304000700090c0001\
    02010000220090b90704026b1053747261c39f650d00030060e0b8811130ea09";

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

fn records() -> Vec<Owned> {
    let mut records = vec![
        line(
            1_700_000_000_000,
            b"GET /index.html HTTP/1.1 200 GET /index.html HTTP/1.1 200",
        ),
        line(1_699_999_999_999, b""),
        line(1_700_000_061_000, "Stra\u{df}e\r".as_bytes()),
    ];
    records[2].key = Some(b"k".to_vec());
    records
}

#[test]
fn the_first_versions_batches_are_still_read() {
    let kept = [
        (Codec::None, NONE),
        (Codec::Gzip, GZIP),
        (Codec::Lz4, LZ4),
        (Codec::Zstd, ZSTD),
    ];
    for (codec, hex) in kept {
        let decoded = decode(&bytes(hex), MAX_DECODED_BYTES).unwrap();
        assert_eq!(owned(&decoded), records());
        assert_eq!((decoded.codec(), decoded.id()), (codec, Some(ID)));
        assert_eq!(
            (decoded.content_sum(), decoded.raw_bytes()),
            (sum(&records()), 65)
        );
        let minutes: Vec<_> = decoded
            .minutes()
            .iter()
            .map(|m| (m.minute, m.records))
            .collect();
        assert_eq!(minutes, [(28_333_333, 2), (28_333_334, 1)]);
    }
}

#[test]
fn the_bytes_before_compression_have_not_changed() {
    assert_eq!(
        encode(&mut Encoder::new(Codec::None), &records()).payload,
        bytes(NONE)
    );
}
