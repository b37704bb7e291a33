//! Bits that flip on the disk: the sound part or the file before is used, and what is lost is told.

use std::path::{Path, PathBuf};

use super::{super::log, *};
use crate::checkpoint::Recovery;

/// A checkpoint of two files, and all states that it ever had.
struct Written {
    dir: tempfile::TempDir,
    past: Vec<State>,
    epoch: Epoch,
}

fn without_epoch(state: &State) -> State {
    State {
        epoch: Epoch(0),
        ..state.clone()
    }
}

fn written() -> Written {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = open(dir.path(), 9000);
    checkpoint.write(vec![Record::Task {
        task: TaskId::new("t").unwrap(),
    }]);
    checkpoint.write(beginning());
    let mut past = vec![checkpoint.read(without_epoch)];
    let mut seq = 0;
    let mut cut = |checkpoint: &Checkpoint| {
        seq += 1;
        let cut = checkpoint.read(|state| next_cut(state, seq));
        let batch = cut.id;
        checkpoint.write(vec![Record::Cut(cut)]);
        past.push(checkpoint.read(without_epoch));
        let end = End::Delivered;
        checkpoint.write(vec![Record::Ended { batch, end }]);
        past.push(checkpoint.read(without_epoch));
    };
    (0..8).for_each(|_| cut(&checkpoint));
    drop(checkpoint);
    let checkpoint = open(dir.path(), 100);
    (0..8).for_each(|_| cut(&checkpoint));
    let epoch = checkpoint.read(|state| state.epoch);
    Written { dir, past, epoch }
}

fn checkpoint_files(dir: &Path) -> Vec<PathBuf> {
    let files = log::files(&dir.join(super::super::FOLDER)).unwrap();
    files.into_iter().map(|(_, path)| path).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1 << (at % 8);
    fs::write(path, bytes).unwrap();
}

/// Opens what is there, checks that it is of the past, and says what was found.
fn reopen(written: &Written, what: &str) -> (Checkpoint, Recovery) {
    let (checkpoint, recovery) = Checkpoint::open(written.dir.path(), true, 50)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = checkpoint.read(without_epoch);
    assert!(
        written.past.contains(&found) || recovery.all_lost,
        "{what}: nothing is invented"
    );
    assert!(
        checkpoint.read(|state| state.epoch) > written.epoch,
        "{what}: no epoch is used twice"
    );
    (checkpoint, recovery)
}

#[test]
fn a_flipped_bit_anywhere_never_starts_anew_and_is_told() {
    let written = written();
    let files = checkpoint_files(written.dir.path());
    let newest = files.last().unwrap().clone();
    let kept: Vec<_> = files
        .iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let len = fs::read(&newest).unwrap().len();
    for at in (0..len).step_by(7) {
        for path in checkpoint_files(written.dir.path()) {
            fs::remove_file(path).unwrap();
        }
        for (path, bytes) in &kept {
            fs::write(path, bytes).unwrap();
        }
        flip(&newest, at);
        let (_checkpoint, recovery) = reopen(&written, &format!("byte {at} of {len}"));
        assert!(!recovery.all_lost, "byte {at} of {len}");
        let told = recovery.damaged == std::slice::from_ref(&newest) || recovery.torn_bytes > 0;
        assert!(told, "byte {at} of {len}: {recovery:?}");
        let in_the_middle = at + 200 < len;
        assert!(
            !in_the_middle || !recovery.damaged.is_empty(),
            "byte {at} of {len} is no torn end"
        );
    }
}

#[test]
fn a_damaged_file_leaves_the_one_before_it_and_goes_aside() {
    let written = written();
    let before = checkpoint_files(written.dir.path());
    flip(&before[1], 40);
    let (checkpoint, recovery) = reopen(&written, "a bit of the snapshot");
    assert_eq!(recovery.damaged, before[1..]);
    assert_eq!(checkpoint.damaged_files(), 1);
    drop(checkpoint);
    let after = checkpoint_files(written.dir.path());
    assert_eq!((after.len(), &after[0]), (2, &before[0]));
    assert!(before[1].with_extension("log.damaged").is_file());
    // The next damage finds a sound file before it as well.
    flip(&after[1], 40);
    let (_checkpoint, recovery) = reopen(&written, "a bit of the next snapshot");
    assert!(!recovery.all_lost);
}

#[test]
fn when_every_file_is_damaged_nothing_counts_as_new() {
    let written = written();
    for path in checkpoint_files(written.dir.path()) {
        flip(&path, 30);
    }
    let (checkpoint, recovery) = reopen(&written, "a bit of each");
    assert!(recovery.all_lost && recovery.damaged.len() == 2);
    assert!(checkpoint.read(|state| state.streams.is_empty()));
    assert!(
        checkpoint.knows_task(&TaskId::new("t").unwrap()),
        "start = \"end\" must not skip what was not sent"
    );
}

#[test]
fn accounts_of_many_minutes_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = open(dir.path(), 1);
    checkpoint.write(beginning());
    for seq in 1..=300 {
        let minutes = (0..4096).map(|minute| MinuteCount {
            minute: 29_000_000 + minute,
            records: 70_000,
        });
        let cut = Cut {
            minutes: minutes.collect(),
            ..checkpoint.read(|state| next_cut(state, seq))
        };
        let batch = cut.id;
        checkpoint.write(vec![Record::Cut(cut)]);
        let end = End::Delivered;
        checkpoint.write(vec![Record::Ended { batch, end }]);
    }
    let before = checkpoint.read(without_epoch);
    drop(checkpoint);
    drop(open(dir.path(), 2));
    let (checkpoint, recovery) = Checkpoint::open(dir.path(), true, 3).unwrap();
    assert_eq!(recovery.damaged, Vec::<PathBuf>::new());
    assert_eq!(checkpoint.read(without_epoch), before);
}
