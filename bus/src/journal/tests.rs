//! The journal across restarts, kills and full disks.

use tempfile::TempDir;
use tributary_common::ids::{BatchId, Name, StreamId, Topic};

use super::{format::Delivered, writer::COMPACT_BYTES, *};

fn open(dir: &TempDir) -> (Journal, Owner, Opened) {
    Journal::open(dir.path(), true).unwrap()
}

fn close(_journal: Journal, owner: Owner) {
    owner.close();
}

fn batch(seq: u64) -> BatchId {
    BatchId {
        stream: StreamId(7),
        epoch: Epoch(8),
        seq,
    }
}

fn deliver(journal: &Journal, seq: u64, end: i64) {
    let target = {
        let mut memory = journal.memory();
        let destination = memory.destination(&Name::new("local").unwrap());
        memory.target(destination, "/data/web/bus1.log")
    };
    let delivered = Record::Delivered(Delivered {
        target,
        partition: 0,
        first: end - 10,
        end,
        batch: batch(seq),
        topic: Topic::new("web").unwrap(),
        minutes: vec![],
        at: now_minute(),
    });
    journal.commit_and_wait(vec![delivered]).unwrap();
}

fn has(journal: &Journal, seq: u64) -> bool {
    let mut memory = journal.memory();
    let destination = memory.destination(&Name::new("local").unwrap());
    memory.done.contains(destination, batch(seq))
}

#[test]
fn what_was_committed_is_known_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let (journal, owner, _opened) = open(&dir);
    deliver(&journal, 1, 10);
    deliver(&journal, 2, 20);
    let epoch = journal.memory().epoch;
    close(journal, owner);

    let (journal, owner, _opened) = open(&dir);
    assert!(has(&journal, 1) && has(&journal, 2) && !has(&journal, 3));
    assert!(journal.memory().epoch > epoch);
    let destination = journal.memory().destination(&Name::new("local").unwrap());
    let targets = journal.memory().targets_of(destination);
    assert_eq!(&*targets[0].1.name, "/data/web/bus1.log");
    assert_eq!(targets[0].1.positions[&0].end, 20);
    close(journal, owner);
}

#[test]
fn a_torn_tail_costs_only_what_was_torn() {
    let dir = TempDir::new().unwrap();
    let (journal, owner, _opened) = open(&dir);
    deliver(&journal, 1, 10);
    deliver(&journal, 2, 20);
    close(journal, owner);
    let path = dir.path().join(FILE);
    let len = std::fs::metadata(&path).unwrap().len();
    disk::truncate(&path, len - 3).unwrap();

    let (journal, owner, opened) = open(&dir);
    assert!(opened.torn_bytes > 0);
    assert!(has(&journal, 1) && !has(&journal, 2));
    close(journal, owner);
    let (_journal, _owner, opened) = open(&dir);
    assert_eq!(opened.torn_bytes, 0);
}

#[test]
fn damage_in_the_middle_is_set_aside_and_the_rest_is_kept() {
    let dir = TempDir::new().unwrap();
    let (journal, owner, _opened) = open(&dir);
    deliver(&journal, 1, 10);
    let hole = std::fs::metadata(dir.path().join(FILE)).unwrap().len();
    deliver(&journal, 2, 20);
    deliver(&journal, 3, 30);
    close(journal, owner);
    let path = dir.path().join(FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[usize::try_from(hole).unwrap() + 12] ^= 0xff;
    disk::replace(&path, &bytes).unwrap();

    let (journal, owner, opened) = open(&dir);
    assert!(opened.damaged_bytes > 0);
    assert!(has(&journal, 1) && !has(&journal, 2) && has(&journal, 3));
    assert_eq!(
        std::fs::read(path.with_extension("damaged")).unwrap(),
        bytes
    );
    close(journal, owner);
}

#[test]
fn another_version_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(FILE);
    std::fs::write(&path, b"TRBJ\0\x09\0\0newer").unwrap();
    let error = Journal::open(dir.path(), true)
        .map(|_opened| ())
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("has journal version 9; this build reads versions 1 to 2")
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"TRBJ\0\x09\0\0newer");
}

#[test]
fn a_long_journal_is_compacted_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let (journal, owner, _opened) = open(&dir);
    deliver(&journal, 1, 10);
    let filler: Vec<Record> = (0..20_000)
        .map(|number| Record::Told {
            number: number << 40,
        })
        .collect();
    for _round in 0..45 {
        journal.commit(filler.clone(), false, Box::new(|outcome| outcome.unwrap()));
    }
    deliver(&journal, 2, 20);
    close(journal, owner);
    assert!(std::fs::metadata(dir.path().join(FILE)).unwrap().len() < COMPACT_BYTES);
    let (journal, owner, _opened) = open(&dir);
    assert!(has(&journal, 1) && has(&journal, 2));
    close(journal, owner);
}

#[test]
fn a_journal_is_shown_in_words() {
    let dir = TempDir::new().unwrap();
    let (journal, owner, _opened) = open(&dir);
    deliver(&journal, 1, 10);
    close(journal, owner);
    assert!(is_journal(dir.path()).unwrap());
    assert!(is_journal(&dir.path().join(FILE)).unwrap());
    let json = serde_json::to_value(inspect(dir.path()).unwrap()).unwrap();
    assert_eq!(json["destinations"][0]["destination"], "local");
    assert_eq!(json["destinations"][0]["targets"][0]["positions"][0][1], 10);
    std::fs::write(dir.path().join("other"), b"x").unwrap();
    assert!(!is_journal(&dir.path().join("other")).unwrap());
}
