//! Any bytes as a segment of the bus's spill, and sound segments that any bytes spoil: no panic, no
//! record that is not as it was written, and what was not touched is found.
//!
//! The reader is taken from the bus by its files, without the bus: librdkafka would be built with
//! the sanitizer, for nothing.
#![no_main]

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
    path::PathBuf,
};

use libfuzzer_sys::fuzz_target;
use tributary_common::{
    disk,
    header::{BatchHeader, MinuteCount},
    ids::{BatchId, Class, Epoch, GenerationId, StreamId},
    span::Span,
};

use self::{
    format::{
        FILE_HEADER_BYTES, encode, encode_head, heads_header, read_drained, read_heads,
        segment_header,
    },
    segment::{Scan, read, scan},
};

#[expect(dead_code, reason = "what the writer needs")]
#[path = "../../bus/src/spill/format.rs"]
mod format;
#[expect(dead_code, reason = "only the place of a record is needed")]
#[path = "../../bus/src/spill/queue/mod.rs"]
mod queue;
#[expect(dead_code, reason = "what the store needs")]
#[path = "../../bus/src/spill/segment.rs"]
mod segment;

/// Records of a sound segment.
const RECORDS: u64 = 4;

thread_local! {
    /// The reader reads files: one in memory, that nobody finds afterwards.
    static FILE: (File, PathBuf) = {
        let path = format!("/dev/shm/tributary-fuzz-segment-{}", std::process::id());
        let file = File::create_new(&path).expect("memory has room");
        fs::remove_file(&path).expect("it was made");
        let found = format!("/proc/self/fd/{}", file.as_raw_fd());
        (file, found.into())
    };
}

fuzz_target!(|data: &[u8]| {
    let _drained = read_drained(data);
    let _heads = read_heads(data).count();
    if let Some(scan) = looked_at(data) {
        is_consistent(&scan, data);
    }
    // A newer version and a bad beginning hide what is behind them.
    let with_header = [&segment_header(), data].concat();
    let scan = looked_at(&with_header).expect("our own version");
    is_consistent(&scan, &with_header);
    spoiled(data);
});

/// A scan of these bytes as a file; `None` when they are of another version.
fn looked_at(bytes: &[u8]) -> Option<Scan> {
    FILE.with(|(_file, path)| {
        fs::write(path, bytes).expect("memory has room");
        scan(path, 1).ok()
    })
}

/// Records lie behind one another within the file, damage lies between them, and each reads as its head
/// says, or not at all.
fn is_consistent(scan: &Scan, bytes: &[u8]) {
    assert_eq!(scan.bytes, bytes.len() as u64);
    assert!(scan.torn <= scan.bytes);
    let end = scan.bytes - scan.torn;
    let records = scan
        .records
        .iter()
        .map(|(place, _head)| (place.at, place.at + u64::from(place.bytes)));
    let mut ranges: Vec<(u64, u64)> = records.chain(scan.damage.iter().copied()).collect();
    ranges.sort_unstable();
    for (from, to) in &ranges {
        assert!(from <= to && *to <= end.max(*to).min(scan.bytes));
    }
    assert!(
        ranges.windows(2).all(|two| two[0].1 <= two[1].0),
        "{ranges:?}"
    );
    let file = FILE.with(|(_file, path)| disk::open_read(path).expect("it was written"));
    for (place, head) in &scan.records {
        let (again, payload) = read(&file, *place)
            .expect("memory can be read")
            .expect("a sound head");
        assert_eq!(again, *head);
        if let Some(payload) = payload {
            assert_eq!(crc32c::crc32c(&payload), head.payload_sum);
            assert_eq!(payload.len(), head.payload_bytes() as usize);
        }
    }
}

/// Some records; the bytes say which byte becomes what, and where the file ends.
fn spoiled(data: &[u8]) {
    let Some((&cut, changes)) = data.split_first() else {
        return;
    };
    let (mut segment, mut noted, mut places) = (
        segment_header().to_vec(),
        heads_header().to_vec(),
        Vec::new(),
    );
    for seq in 1..=RECORDS {
        let at = segment.len();
        let payload =
            vec![u8::try_from(seq).expect("a few"); 20 * usize::try_from(seq).expect("a few")];
        let header = header(seq);
        let bytes = encode(seq, "topic", &header, &payload, &mut segment).expect("a short header");
        encode_head((at as u64, bytes), seq, "topic", &header, &mut noted);
        places.push((at, segment.len(), seq));
    }
    let mut touched = vec![false; segment.len()];
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % segment.len();
        touched[at] |= segment[at] != change[2];
        segment[at] = change[2];
    }
    // Half of the inputs are not cut.
    let left = match cut.checked_sub(128) {
        Some(cut) => segment.len() * usize::from(cut) / 128,
        None => segment.len(),
    };
    segment.truncate(left);
    let Some(found) = looked_at(&segment) else {
        // Its version may have become another one by a sum that fits: only by chance.
        assert!(touched[..FILE_HEADER_BYTES].contains(&true));
        return;
    };
    is_consistent(&found, &segment);
    let noted: Vec<_> = read_heads(&noted).collect();
    assert_eq!(noted.len() as u64, RECORDS);
    for (from, to, seq) in places {
        let whole = to <= left && !touched[from..to].contains(&true);
        let is_there = found
            .records
            .iter()
            .any(|(place, head)| place.at == from as u64 && head.header.seq == seq);
        assert!(
            is_there || !whole,
            "record {seq} at {from} was not touched, and is not found"
        );
        // What is not there is known by its identity.
        assert!(
            noted
                .iter()
                .any(|((at, _bytes), head)| *at == from as u64 && head.header.seq == seq)
        );
    }
}

fn header(seq: u64) -> BatchHeader {
    let id = BatchId {
        stream: StreamId(7),
        epoch: Epoch(1),
        seq,
    };
    BatchHeader {
        agent: "a".parse().expect("a name"),
        stream: id.stream,
        epoch: id.epoch,
        seq,
        generation: GenerationId(1),
        span: Span {
            start: seq,
            end: seq + 1,
        },
        task: "t".parse().expect("a name"),
        topic: "topic".parse().expect("a name"),
        class: Class::P2,
        resends: 0,
        records: 1,
        raw_bytes: 1,
        minutes: vec![MinuteCount {
            minute: 1,
            records: 1,
        }],
        content_sum: 1,
        file: "/f".into(),
        keyed: false,
    }
}
