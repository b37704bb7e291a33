//! A spill whose files any bytes spoil, and what the bus finds when it opens it: no panic, nothing twice,
//! nothing that was not written; what was not touched is found, and what is gone is known by its identity.
//! Opened once more it is the same, and so it is from the segments alone.
//!
//! The store is taken from the bus by its files, as in `segment`.
#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use libfuzzer_sys::fuzz_target;
use tributary_common::{
    header::{BatchHeader, MinuteCount},
    ids::{BatchId, Class, Epoch, GenerationId, StreamId},
    span::Span,
};

use self::{
    config::{SpillLimits, WhenFull},
    format::{
        FILE_HEADER_BYTES, drained, drained_header, encode, encode_head, heads_header,
        segment_header,
    },
    queue::Queue,
    segment::{DRAINED, HEADS, SEGMENT, path_of},
    store::{Store, Why},
    usage::Usage,
};

#[expect(dead_code, reason = "what the inspector needs")]
#[path = "../../bus/src/spill/format.rs"]
mod format;
#[expect(dead_code, reason = "what the lane needs")]
#[path = "../../bus/src/spill/queue/mod.rs"]
mod queue;
#[expect(dead_code, reason = "what the inspector needs")]
#[path = "../../bus/src/spill/segment.rs"]
mod segment;
#[expect(dead_code, reason = "what the writer and the lane need")]
#[path = "../../bus/src/spill/store.rs"]
mod store;
#[expect(dead_code, reason = "what the writer and the lane need")]
#[path = "../../bus/src/spill/usage.rs"]
mod usage;

/// What the store knows of the configuration.
#[expect(dead_code, reason = "what the writer needs")]
mod config {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum WhenFull {
        Busy,
        DropOldest,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    pub struct SpillLimits {
        pub max: u64,
        pub min_free_percent: f64,
        pub when_full: WhenFull,
    }
}

const SEGMENTS: u64 = 3;
/// Records of a segment.
const RECORDS: u64 = 4;
const STREAMS: u64 = 3;

/// A record as it was written.
struct Written {
    segment: u64,
    from: usize,
    to: usize,
    /// Its entry in the list of what was acknowledged.
    noted: (usize, usize),
    header: BatchHeader,
    /// The journal says so.
    drained: bool,
    /// So does the list beside its segment.
    marked: bool,
}

/// A file's bytes, and which of them are not as they were written.
struct Spoiled {
    bytes: Vec<u8>,
    touched: Vec<bool>,
    gone: bool,
}

/// What is found when it is opened.
#[derive(Debug, PartialEq)]
struct Found {
    /// In the order in which it would leave, with what its payload is; none where that is damaged.
    leaves: Vec<(BatchId, Option<Vec<u8>>)>,
    lost: BTreeSet<BatchId>,
}

thread_local! {
    static DIR: PathBuf = {
        let dir = PathBuf::from(format!("/dev/shm/tributary-fuzz-catalogue-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("memory has room");
        dir
    };
}

fuzz_target!(|data: &[u8]| {
    DIR.with(|dir| {
        let folder = dir.join("spill");
        one(data, &folder);
        fs::remove_dir_all(&folder).expect("it was made");
    });
});

fn one(data: &[u8], dir: &Path) {
    let (&[drained, how], changes) = data.split_first_chunk().unwrap_or((&[0, 0], &[]));
    let (mut written, mut files) = sound(u16::from(drained) << 4 | u16::from(how >> 4));
    spoil(&mut files, changes);
    for one in &mut written {
        let marks = &files[&(one.segment, DRAINED)];
        one.marked &= marks.is_whole(0, marks.touched.len());
    }
    let header_touched = files.iter().any(|((_no, kind), file)| {
        *kind == SEGMENT
            && file
                .touched
                .iter()
                .take(FILE_HEADER_BYTES)
                .any(|&touched| touched)
    });
    fs::create_dir_all(dir).expect("memory has room");
    for ((number, kind), file) in &files {
        if !file.gone {
            fs::write(path_of(dir, *number, kind), &file.bytes).expect("memory has room");
        }
    }
    let Some(found) = open(dir, &written) else {
        // Its version may have become another one by a sum that fits: only by chance.
        assert!(header_touched);
        return;
    };
    is_what_was_written(&found, &written, &files);
    assert_eq!(open(dir, &written).as_ref(), Some(&found), "opened again");
    if how & 1 > 0 {
        given_up(dir, &written, &found);
    } else {
        from_segments_alone(dir, &mut written, &found);
    }
}

/// Some segments and what lies beside them.
fn sound(drains: u16) -> (Vec<Written>, BTreeMap<(u64, &'static str), Spoiled>) {
    let (mut written, mut files) = (Vec::new(), BTreeMap::new());
    for number in 1..=SEGMENTS {
        let mut segment = segment_header().to_vec();
        let (mut noted, mut done) = (heads_header().to_vec(), drained_header().to_vec());
        for record in 0..RECORDS {
            let order = (number - 1) * RECORDS + record;
            let (from, noted_from) = (segment.len(), noted.len());
            let header = header(order % STREAMS, order + 1);
            let payload = payload(&header);
            let target = if order % STREAMS == 0 { "a" } else { "b" };
            let bytes =
                encode(order, target, &header, &payload, &mut segment).expect("a short header");
            encode_head((from as u64, bytes), order, target, &header, &mut noted);
            let is_drained = drains >> order & 1 > 0;
            if is_drained {
                done.extend(drained(from as u64));
            }
            written.push(Written {
                segment: number,
                from,
                to: segment.len(),
                noted: (noted_from, noted.len()),
                header,
                drained: is_drained,
                marked: is_drained,
            });
        }
        for (kind, bytes) in [(SEGMENT, segment), (HEADS, noted), (DRAINED, done)] {
            let touched = vec![false; bytes.len()];
            let gone = false;
            files.insert(
                (number, kind),
                Spoiled {
                    bytes,
                    touched,
                    gone,
                },
            );
        }
    }
    (written, files)
}

/// Four bytes are one change: which file, where, what.
fn spoil(files: &mut BTreeMap<(u64, &'static str), Spoiled>, changes: &[u8]) {
    for change in changes.chunks_exact(4) {
        let which = usize::from(change[0]) % files.len();
        let Some(file) = files.values_mut().nth(which) else {
            continue;
        };
        let at = usize::from(u16::from_be_bytes([change[1], change[2]]));
        match change[0] >> 4 {
            0..=9 => {
                if let Some(byte) = file.bytes.get_mut(at) {
                    file.touched[at] |= *byte != change[3];
                    *byte = change[3];
                }
            }
            10..=11 => {
                file.bytes.truncate(at);
                // What comes there later is something else.
                let cut = file.touched.get_mut(at..).unwrap_or_default();
                cut.fill(true);
            }
            12 => file.gone = true,
            13 => file.bytes.extend(std::iter::repeat_n(change[3], at % 64)),
            // What lies elsewhere in it comes once more.
            _ => {
                let again = file.bytes.get(at..).unwrap_or_default().to_vec();
                file.bytes.extend(again);
            }
        }
        file.touched
            .resize(file.bytes.len().max(file.touched.len()), true);
    }
}

impl Spoiled {
    /// Whether these bytes are as they were written.
    fn is_whole(&self, from: usize, to: usize) -> bool {
        let touched = self.touched.get(from..to);
        !self.gone
            && to <= self.bytes.len()
            && touched.is_some_and(|touched| !touched.contains(&true))
    }
}

/// Opens it as a lane does, and reads all that would leave; `None` when it is of another version.
fn open(dir: &Path, written: &[Written]) -> Option<Found> {
    let limits = SpillLimits {
        max: 1 << 30,
        min_free_percent: 0.0,
        when_full: WhenFull::Busy,
    };
    let usage = Arc::new(Usage::new(dir, limits));
    let mut queue = Queue::<()>::default();
    let mut told = BTreeSet::new();
    let (store, opened) = Store::open(dir, &usage, |place, waiting| {
        let batch = waiting.batch;
        let known = written.iter().find(|one| one.header.id() == batch);
        let known = known.expect("nothing that was not written");
        let is_home = (place.segment, place.at) == (known.segment, known.from as u64);
        assert!(!known.marked || !is_home, "{batch} is marked as drained");
        if known.drained {
            return false;
        }
        let class = (waiting.class, waiting.order);
        let new = queue.recovered(batch, &waiting.target, class, place);
        assert_eq!(new, told.insert(batch));
        new
    })
    .ok()?;
    let backlog = queue.backlog();
    assert_eq!(backlog.batches, opened.batches);
    let lost = opened.lost.iter().map(|lost| lost.header.id());
    // As the lane does: what was delivered, or lies there once more, is not lost.
    let lost: BTreeSet<BatchId> = lost
        .filter(|id| !told.contains(id) && !is_delivered(written, *id))
        .collect();
    let mut leaves = Vec::new();
    while let Some((batch, _target, place)) = queue.next() {
        let read = store.read(place).expect("memory can be read");
        let payload = read.and_then(|(head, payload)| {
            assert_eq!(head.header.id(), batch);
            let known = written.iter().any(|one| one.header == head.header);
            assert!(known, "{:?} was never written", head.header);
            payload
        });
        leaves.push((batch, payload.map(|payload| payload.to_vec())));
        queue.remove(batch).expect("it was there");
    }
    assert_eq!(leaves.len() as u64, backlog.batches);
    assert!(queue.is_empty());
    Some(Found { leaves, lost })
}

/// Nothing twice, in order, and all that can be there.
fn is_what_was_written(
    found: &Found,
    written: &[Written],
    files: &BTreeMap<(u64, &'static str), Spoiled>,
) {
    let there: BTreeSet<BatchId> = found
        .leaves
        .iter()
        .map(|(batch, _payload)| *batch)
        .collect();
    assert_eq!(there.len(), found.leaves.len(), "twice");
    assert!(there.is_disjoint(&found.lost), "both there and lost");
    for stream in 0..STREAMS {
        let of_stream = found
            .leaves
            .iter()
            .filter(|(batch, _payload)| batch.stream.0 == stream);
        let seqs: Vec<u64> = of_stream.map(|(batch, _payload)| batch.seq).collect();
        assert!(seqs.is_sorted(), "{seqs:?}");
    }
    for one in written {
        let id = one.header.id();
        let file = |kind| &files[&(one.segment, kind)];
        if one.drained {
            assert!(!there.contains(&id), "{id} was delivered");
            continue;
        }
        let payload = found.leaves.iter().find(|(batch, _payload)| *batch == id);
        if let Some((_id, Some(read))) = payload {
            assert_eq!(*read, self::payload(&one.header), "{id}");
        }
        if file(SEGMENT).is_whole(one.from, one.to) {
            assert!(
                there.contains(&id),
                "{id} was not touched, and is not found"
            );
        }
        if file(HEADS).is_whole(one.noted.0, one.noted.1) {
            let is_known = there.contains(&id) || found.lost.contains(&id);
            assert!(is_known, "{id} is gone, and nobody says so");
        }
    }
}

/// Without what lies beside the segments the same is there, and nobody says what is gone.
fn from_segments_alone(dir: &Path, written: &mut [Written], found: &Found) {
    for number in 1..=SEGMENTS {
        for kind in [HEADS, DRAINED] {
            drop(fs::remove_file(path_of(dir, number, kind)));
        }
    }
    written.iter_mut().for_each(|one| one.marked = false);
    let alone = open(dir, written).expect("it was opened before");
    assert_eq!(alone.lost, BTreeSet::new());
    assert_eq!(alone.leaves, found.leaves);
}

/// A segment that is given up is told as lost in the next life, whole, and never delivered.
fn given_up(dir: &Path, written: &[Written], found: &Found) {
    let limits = SpillLimits {
        max: 1 << 30,
        min_free_percent: 0.0,
        when_full: WhenFull::DropOldest,
    };
    let usage = Arc::new(Usage::new(dir, limits));
    let (store, _opened) = Store::open(dir, &usage, |_place, _head| true).expect("opened before");
    let Some(&oldest) = store.sealed().first() else {
        return;
    };
    let held = store.held(oldest).expect("memory can be read");
    store
        .give_up(oldest, &held, |_head| true)
        .expect("memory has room");
    let next = open(dir, written).expect("it was opened before");
    for (_place, head) in &held {
        let id = head.header.id();
        let elsewhere = next.leaves.iter().any(|(batch, _payload)| *batch == id);
        let is_known = elsewhere || next.lost.contains(&id) || is_delivered(written, id);
        assert!(is_known, "{id} was given up, and nobody says so");
    }
    let there = |id: &BatchId| found.leaves.iter().any(|(batch, _payload)| batch == id);
    assert!(next.leaves.iter().all(|(id, _payload)| there(id)));
    assert_eq!(Why::Dropped.as_str(), "spill-full");
}

/// Whether the journal knows a batch.
fn is_delivered(written: &[Written], id: BatchId) -> bool {
    written
        .iter()
        .any(|one| one.drained && one.header.id() == id)
}

fn payload(header: &BatchHeader) -> Vec<u8> {
    let byte = u8::try_from(header.seq).expect("a few");
    vec![byte; 11 * usize::from(byte)]
}

fn header(stream: u64, seq: u64) -> BatchHeader {
    BatchHeader {
        agent: "a".parse().expect("a name"),
        stream: StreamId(stream),
        epoch: Epoch(1),
        seq,
        generation: GenerationId(1),
        span: Span {
            start: seq,
            end: seq + 1,
        },
        task: "t".parse().expect("a name"),
        topic: "topic".parse().expect("a name"),
        class: if stream == 1 { Class::P0 } else { Class::P2 },
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
