//! The checkpoint against a model: random events, reopening, torn ends, damage.

mod damage;
mod faults;

use std::{collections::BTreeMap, fs, path::Path};

use proptest::prelude::*;
use tributary_common::{
    header::MinuteCount,
    ids::{BatchId, Epoch, GenerationId, StreamId, TaskId, Topic},
    span::Span,
};

use super::{
    Checkpoint, Cut, End, FileEnd, GenerationRecord, Joint, MadeBy, Record, State, Told, inspect,
    log,
};
use crate::{
    frame::{Carry, LongLine, Rule},
    handle::FileKey,
    identify::{Mark, Prefix},
    path::LogPath,
    recipe::{Recipe, tests::of_lines},
};

const STREAM: StreamId = StreamId(7);
const GENERATION: GenerationId = GenerationId(8);
/// The file before it, to whose end a batch may reach back.
const BEFORE: GenerationId = GenerationId(6);

fn beginning() -> Vec<Record> {
    let stream = Record::Stream {
        stream: STREAM,
        task: TaskId::new("t").unwrap(),
        topic: Topic::new("x").unwrap(),
        path: LogPath::of_bytes(b"/log"),
    };
    let generation = |generation, key| {
        Record::Generation(GenerationRecord {
            stream: STREAM,
            generation,
            key: FileKey(key),
            inode: 2,
            truncations: 0,
            path: LogPath::of_bytes(b"/log"),
            prefix: Prefix::default(),
            mark: Mark::default(),
            carry: Carry::default(),
            mtime_ns: 0,
            ended_ms: None,
        })
    };
    let recipe = Record::Recipe {
        no: 1,
        recipe: of_lines(100),
    };
    let files = [generation(GENERATION, 1), generation(BEFORE, 3)];
    [recipe, stream].into_iter().chain(files).collect()
}

/// A cut as [`next_cut`] makes it, with the next seven bytes of the file before.
fn joined(state: &State, cut: Cut) -> Record {
    let at = state.generation(STREAM, BEFORE).unwrap().mark.offset;
    let end = FileEnd {
        generation: BEFORE,
        span: Span {
            start: at,
            end: at + 7,
        },
        skipped: 0,
        mark: at,
    };
    let joint = Joint {
        from: vec![end],
        bytes: at.to_le_bytes()[..7].to_vec(),
    };
    Record::Joined { cut, joint }
}

/// Every third batch begins in the file before its own.
fn cut_or_joined(state: &State, cut: Cut) -> Record {
    if cut.id.seq.is_multiple_of(3) {
        joined(state, cut)
    } else {
        Record::Cut(cut)
    }
}

fn cut(epoch: Epoch, seq: u64) -> Cut {
    let start = epoch.0 * 1000 + seq * 10;
    Cut {
        id: BatchId {
            stream: STREAM,
            epoch,
            seq,
        },
        generation: GENERATION,
        span: Span {
            start,
            end: start + 10,
        },
        read_ms: 5,
        records: 1,
        minutes: vec![MinuteCount {
            minute: 1,
            records: 1,
        }],
        content_sum: 9,
        mark: 3,
        recipe: MadeBy::Recipe(1),
        before: Carry::default(),
        after: Carry::default(),
    }
}

/// A cut that begins where the one before ended.
fn next_cut(state: &State, seq: u64) -> Cut {
    let at = state.generation(STREAM, GENERATION).unwrap().mark.offset;
    Cut {
        span: Span {
            start: at,
            end: at + 10,
        },
        ..cut(state.epoch, seq)
    }
}

fn open(dir: &Path, now_ms: u64) -> Checkpoint {
    Checkpoint::open(dir, true, now_ms).unwrap().0
}

fn newest(dir: &Path) -> std::path::PathBuf {
    log::files(&dir.join(super::FOLDER))
        .unwrap()
        .pop()
        .unwrap()
        .1
}

#[test]
fn a_new_life_has_a_greater_epoch_whatever_the_clock_says() {
    let dir = tempfile::tempdir().unwrap();
    let epochs: Vec<u64> = [1000, 500, 2000]
        .map(|now| open(dir.path(), now).read(|state| state.epoch.0))
        .to_vec();
    assert_eq!(epochs, [1000, 1001, 2000]);
}

#[test]
fn a_hole_is_a_contradiction_and_ends_what_is_used() {
    let mut state = State::default();
    for record in beginning() {
        state.apply(record).unwrap();
    }
    let first = next_cut(&state, 1);
    state.apply(Record::Cut(first.clone())).unwrap();
    let behind = Cut {
        span: Span {
            start: first.span.end + 1,
            end: first.span.end + 9,
        },
        ..first
    };
    assert!(state.apply(Record::Cut(behind)).is_err());
}

#[test]
fn a_joined_batch_moves_all_its_files_at_once_and_is_held_until_it_ends() {
    let mut state = State::default();
    for record in beginning() {
        state.apply(record).unwrap();
    }
    let offsets = |state: &State| {
        [BEFORE, GENERATION].map(|of| state.generation(STREAM, of).unwrap().mark.offset)
    };
    let cut = next_cut(&state, 1);
    let batch = cut.id;
    // A hole in either file is none of what was read.
    let hole = |from: u64, own: u64| {
        let mut cut = next_cut(&state, 1);
        (cut.span.start, cut.span.end) = (own, own + 1);
        let Record::Joined { cut, mut joint } = joined(&state, cut) else {
            panic!("it is joined");
        };
        joint.from[0].span.start = from;
        let mut state = state.clone();
        assert!(state.apply(Record::Joined { cut, joint }).is_err());
        assert_eq!((offsets(&state), state.cuts.len()), ([0, 0], 0));
    };
    hole(1, 0);
    hole(0, 1);
    state.apply(joined(&state, cut)).unwrap();
    assert_eq!((offsets(&state), state.joint_bytes()), ([7, 10], 7));
    let mut again = State::default();
    state.snapshot(&mut |record| again.apply(record.clone()).unwrap());
    assert_eq!(again, state);
    let end = End::Delivered;
    state.apply(Record::Ended { batch, end }).unwrap();
    assert_eq!((state.joint_bytes(), state.cuts.len()), (0, 0));
    // What nobody has cut has no beginning.
    let joint = again.joints.remove(&batch).unwrap();
    assert!(state.apply(Record::Joint { batch, joint }).is_err());
}

#[test]
fn the_watermark_of_a_file_whose_end_is_in_a_joined_batch_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = open(dir.path(), 1);
    checkpoint.write(beginning());
    let seen = || {
        let known = inspect(dir.path()).unwrap();
        let marks = known.streams[0].generations.iter();
        let marks: Vec<_> = marks.map(|of| (of.read_to, of.watermark)).collect();
        (known.joined_batches, known.joined_bytes, marks)
    };
    let cut = checkpoint.read(|state| next_cut(state, 1));
    let (batch, end) = (cut.id, End::Delivered);
    checkpoint.write(vec![checkpoint.read(|state| joined(state, cut))]);
    assert_eq!(seen(), (1, 7, vec![(10, 0), (7, 0)]));
    checkpoint.write(vec![Record::Ended { batch, end }]);
    assert_eq!(seen(), (0, 0, vec![(10, 10), (7, 7)]));
}

#[test]
fn files_of_versions_2_to_4_are_read_and_go_on_as_version_5() {
    let kept = include_bytes!("../../tests/fixtures/checkpoint-v2.bin");
    assert_eq!(kept[8], 2);
    goes_on(kept);
    // Later versions can say more, and say the same in the same way.
    for version in [3, 4] {
        let mut later = kept.to_vec();
        later[8] = version;
        let sum = crc32c::crc32c(&later[..12]).to_le_bytes();
        later[12..16].copy_from_slice(&sum);
        goes_on(&later);
    }
}

fn goes_on(kept: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(super::FOLDER);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("0000000000000001.log"), kept).unwrap();
    let check = |state: &State| {
        let cuts: Vec<_> = state
            .cuts
            .values()
            .map(|cut| (cut.id.seq, cut.span.start))
            .collect();
        assert_eq!(cuts, [(2, 10), (3, 20)]);
        assert_eq!(
            state.generation(STREAM, GENERATION).unwrap().mark.offset,
            30
        );
        assert_eq!((state.recipes.len(), state.joints.len()), (1, 0));
    };
    let (checkpoint, recovery) = Checkpoint::open(dir.path(), true, 3000).unwrap();
    assert_eq!((recovery.torn_bytes, recovery.damaged.len()), (0, 0));
    checkpoint.read(check);
    drop(checkpoint);
    assert_eq!(fs::read(newest(dir.path())).unwrap()[8], 5);
    open(dir.path(), 4000).read(check);
}

#[test]
fn how_far_a_file_was_seen_is_known_until_it_is_read_that_far_ends_or_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = open(dir.path(), 1);
    checkpoint.write(beginning());
    let seen = |size| Record::Seen {
        stream: STREAM,
        generation: GENERATION,
        size,
    };
    let known = |checkpoint: &Checkpoint| {
        checkpoint.read(|state| state.seen.get(&(STREAM, GENERATION)).copied())
    };
    checkpoint.write(vec![seen(25)]);
    let cut = |no| vec![Record::Cut(checkpoint.read(|state| next_cut(state, no)))];
    checkpoint.write(cut(1));
    checkpoint.write(cut(2));
    assert_eq!(known(&checkpoint), Some(25), "20 are read");
    // The next life's snapshot has it.
    let next = tempfile::tempdir().unwrap();
    fs::create_dir_all(next.path().join(super::FOLDER)).unwrap();
    let copy = next.path().join(super::FOLDER).join("0000000000000001.log");
    fs::copy(newest(dir.path()), copy).unwrap();
    drop(open(next.path(), 2));
    assert_eq!(known(&open(next.path(), 3)), Some(25));
    checkpoint.write(cut(3));
    assert_eq!(known(&checkpoint), None);
    let record = checkpoint.read(|state| state.generation(STREAM, GENERATION).cloned());
    let record = record.unwrap();
    let ended = GenerationRecord {
        ended_ms: Some(5),
        ..record.clone()
    };
    checkpoint.write(vec![seen(90), Record::Generation(ended)]);
    assert_eq!(known(&checkpoint), None);
    let copied = GenerationRecord {
        key: FileKey(record.key.0 ^ 1),
        ..record
    };
    checkpoint.write(vec![seen(90), Record::Generation(copied)]);
    assert_eq!(known(&checkpoint), None);
}

#[test]
fn another_version_stops_the_start_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), 1));
    let path = newest(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 9;
    let sum = crc32c::crc32c(&bytes[..12]).to_le_bytes();
    bytes[12..16].copy_from_slice(&sum);
    fs::write(&path, &bytes).unwrap();
    let error = Checkpoint::open(dir.path(), true, 2)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("has checkpoint version 9; this build reads versions 1 to 5"),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_file_of_version_1_is_read_and_goes_on_as_version_5() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(super::FOLDER);
    fs::create_dir_all(&folder).unwrap();
    let kept = include_bytes!("../../tests/fixtures/checkpoint-v1.bin");
    fs::write(folder.join("0000000000000001.log"), kept).unwrap();
    let rule = |long_line| {
        MadeBy::Rule(Rule {
            max_line: 100,
            long_line,
        })
    };
    let check = |state: &State| {
        let cuts: Vec<_> = state
            .cuts
            .values()
            .map(|cut| (cut.id.seq, cut.span.start, cut.recipe, cut.before))
            .collect();
        let mid_line = Carry::default().with(Carry::MID_LINE, true);
        let wanted = [
            (2, 10, rule(LongLine::Truncate), mid_line),
            (3, 25, rule(LongLine::Split), Carry::default()),
            (1, 35, rule(LongLine::Split), Carry::default()),
        ];
        assert_eq!(cuts, wanted);
        let known = state.generation(STREAM, GENERATION).unwrap();
        assert_eq!((known.mark.offset, known.carry), (45, Carry::default()));
        assert_eq!((state.ledger.losses.len(), state.tasks.len()), (1, 1));
    };
    let (checkpoint, recovery) = Checkpoint::open(dir.path(), true, 3000).unwrap();
    assert_eq!((recovery.torn_bytes, recovery.damaged.len()), (0, 0));
    checkpoint.read(check);
    drop(checkpoint);
    // Read from a file of this version now.
    let bytes = fs::read(newest(dir.path())).unwrap();
    assert_eq!(bytes[8], 5);
    open(dir.path(), 4000).read(check);
}

#[test]
fn a_recipe_stays_while_a_cut_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), 1);
    let [lines, other, third]: [Recipe; 3] = [100, 200, 300].map(of_lines);
    assert_eq!(first.adopt_recipes(&[&lines, &other, &lines]), [1, 2, 1]);
    first.write(beginning());
    let cut = first.read(|state| next_cut(state, 1));
    let batch = cut.id;
    first.write(vec![Record::Cut(cut)]);
    drop(first);
    let second = open(dir.path(), 2);
    assert_eq!(second.adopt_recipes(&[&third, &other]), [3, 2]);
    let known = |checkpoint: &Checkpoint| {
        checkpoint.read(|state| state.recipes.keys().copied().collect::<Vec<_>>())
    };
    assert_eq!(known(&second), [1, 2, 3]);
    let end = End::Delivered;
    second.write(vec![Record::Ended { batch, end }]);
    assert_eq!(second.adopt_recipes(&[&third]), [3]);
    assert_eq!(known(&second), [3]);
    drop(second);
    let third = open(dir.path(), 3);
    third.adopt_recipes(&[&other]);
    // A cut of a recipe that nobody wrote is a contradiction.
    let cut = third.read(|state| next_cut(state, 1));
    let mut state = third.read(Clone::clone);
    assert!(state.apply(Record::Cut(cut)).is_err());
}

#[test]
fn damage_is_set_aside_and_what_is_before_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = open(dir.path(), 1);
    checkpoint.write(beginning());
    for seq in 1..=20 {
        let cut = checkpoint.read(|state| next_cut(state, seq));
        checkpoint.write(vec![Record::Cut(cut)]);
    }
    drop(checkpoint);
    let path = newest(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&path, &bytes).unwrap();
    let (checkpoint, recovery) = Checkpoint::open(dir.path(), true, 2).unwrap();
    assert_eq!(recovery.damaged, std::slice::from_ref(&path));
    let cuts = checkpoint.read(|state| state.cuts.len());
    assert!((1..20).contains(&cuts), "{cuts}");
    assert_eq!(fs::read(path.with_extension("log.damaged")).unwrap(), bytes);
}

#[test]
fn many_records_make_new_files_of_which_two_stay() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = open(dir.path(), 1);
    checkpoint.write(beginning());
    for seq in 1..=3000 {
        let cut = checkpoint.read(|state| next_cut(state, seq));
        let batch = cut.id;
        checkpoint.write(vec![
            Record::Cut(cut),
            Record::Ended {
                batch,
                end: End::Delivered,
            },
        ]);
        if seq % 500 == 0 {
            let told = Told {
                stream: STREAM,
                epoch: batch.epoch,
                read_before: seq + 1,
                ends: vec![(1, seq + 1)],
                sent: Vec::new(),
            };
            checkpoint.write(vec![Record::Told(told)]);
            checkpoint.sync(true);
        }
    }
    let files = log::files(&dir.path().join(super::FOLDER)).unwrap();
    assert!(files.len() == 2 && files[1].0 > 1, "{files:?}");
    let before = checkpoint.read(Clone::clone);
    drop(checkpoint);
    let after = open(dir.path(), 1).read(Clone::clone);
    assert_eq!(
        State {
            epoch: before.epoch,
            ..after
        },
        before
    );
    let summary = inspect(dir.path()).unwrap();
    assert_eq!(
        (summary.unacknowledged_batches, summary.untold_batches),
        (0, 0)
    );
    assert_eq!(summary.streams[0].generations[0].watermark, 30_000);
}

#[derive(Debug, Clone)]
enum Act {
    Cut,
    End(u64, bool),
    Tell,
    Sync,
    Reopen,
    /// Reopen after the end was torn off by so many bytes.
    Tear(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        5 => Just(Act::Cut),
        4 => (1u64..30, any::<bool>()).prop_map(|(back, lost)| Act::End(back, lost)),
        1 => Just(Act::Tell),
        1 => Just(Act::Sync),
        1 => Just(Act::Reopen),
        1 => (0usize..200).prop_map(Act::Tear),
    ];
    prop::collection::vec(act, 1..80)
}

fn tell_everything(state: &State) -> Vec<Record> {
    let told = state
        .ledger
        .series
        .iter()
        .map(|(&(stream, epoch), series)| {
            let ended = (series.first_seq..)
                .zip(&series.accounts)
                .filter(|(_, a)| a.end.is_some());
            Record::Told(Told {
                stream,
                epoch,
                read_before: series.first_seq + series.accounts.len() as u64,
                ends: ended.map(|(seq, _)| (seq, seq + 1)).collect(),
                sent: Vec::new(),
            })
        });
    told.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A reopened checkpoint is what it was; a torn one is what it was at some point before.
    #[test]
    fn reopening_gives_what_was_or_an_earlier_state(acts in acts()) {
        let dir = tempfile::tempdir().unwrap();
        let mut checkpoint = open(dir.path(), 1);
        let mut seqs: BTreeMap<Epoch, u64> = BTreeMap::new();
        let mut past = Vec::new();
        for record in beginning() {
            checkpoint.write(vec![record]);
            past.push(checkpoint.read(Clone::clone));
        }
        for act in acts {
            match act {
                Act::Cut => {
                    let epoch = checkpoint.read(|state| state.epoch);
                    let seq = seqs.entry(epoch).or_insert(0);
                    *seq += 1;
                    let cut = checkpoint.read(|state| cut_or_joined(state, next_cut(state, *seq)));
                    checkpoint.write(vec![cut]);
                }
                Act::End(back, lost) => {
                    let cuts = checkpoint.read(|state| state.cuts.keys().copied().collect::<Vec<_>>());
                    if let Some(&batch) = cuts.iter().rev().nth(usize::try_from(back).unwrap() % cuts.len().max(1)) {
                        let end = if lost { End::Lost } else { End::Delivered };
                        checkpoint.write(vec![Record::Ended { batch, end }]);
                    }
                }
                Act::Tell => {
                    for record in checkpoint.read(tell_everything) {
                        checkpoint.write(vec![record]);
                        past.push(checkpoint.read(Clone::clone));
                    }
                }
                Act::Sync => checkpoint.sync(true),
                Act::Reopen | Act::Tear(_) => {
                    let before = checkpoint.read(Clone::clone);
                    drop(checkpoint);
                    if let Act::Tear(bytes) = act {
                        let path = newest(dir.path());
                        let len = fs::metadata(&path).unwrap().len();
                        let bytes = bytes as u64;
                        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len.saturating_sub(bytes)).unwrap();
                    }
                    checkpoint = open(dir.path(), 1);
                    let after = checkpoint.read(Clone::clone);
                    let with_epoch = |epoch| State { epoch, ..after.clone() };
                    match act {
                        Act::Tear(_) => prop_assert!(past.iter().chain([&before]).any(|past| *past == with_epoch(past.epoch))
                            || after.streams.is_empty()),
                        _ => prop_assert_eq!(with_epoch(before.epoch), before),
                    }
                    if after.generations().count() < 2 {
                        for record in beginning() {
                            checkpoint.write(vec![record]);
                            past.push(checkpoint.read(Clone::clone));
                        }
                    }
                }
            }
            past.push(checkpoint.read(Clone::clone));
        }
    }

    /// The decoder answers to anything, and so do the summaries of what it reads.
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), sound: bool) {
        let mut all = if sound { super::record::header() } else { Vec::new() };
        all.extend(bytes);
        drop(super::decode(&all));
    }
}
