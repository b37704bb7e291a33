//! Every call to the disk fails once, in every way: what was acknowledged as written or durable is
//! there in the next life, and nothing else is.

use std::path::Path;

use tributary_common::disk::faults::{Fault, Faults};

use super::{super::log, *};
use crate::checkpoint::Recovery;

/// Cuts of each life; enough for the files to change several times.
const CUTS: u64 = 17;

/// How a scripted story ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    /// The process is killed.
    Killed,
    /// The power is cut; chance decides what survives of what was not synced.
    PowerCut(u64),
}

/// A scripted story on a disk with one fault, and what may be there after it.
struct Story<'a> {
    dir: &'a Path,
    faults: &'a Faults,
    /// What was done so far makes this.
    model: State,
    /// What it was before, record by record.
    past: Vec<State>,
    /// Since here, all of it has left the process.
    written: usize,
    /// Since here, all of it is durable.
    synced: usize,
    greatest_epoch: Epoch,
    /// Every life so far could note that it began.
    epochs_noted: bool,
}

fn without_epoch(state: &State) -> State {
    State {
        epoch: Epoch(0),
        ..state.clone()
    }
}

impl<'a> Story<'a> {
    fn new(dir: &'a Path, faults: &'a Faults) -> Self {
        let model = State {
            keep_accounts: true,
            ..State::default()
        };
        Self {
            dir,
            faults,
            past: vec![model.clone()],
            model,
            written: 0,
            synced: 0,
            greatest_epoch: Epoch(0),
            epochs_noted: true,
        }
    }

    fn happens(&mut self, records: &[Record]) {
        for record in records {
            self.model.apply(record.clone()).unwrap();
            self.past.push(without_epoch(&self.model));
        }
    }

    fn write(&mut self, checkpoint: &Checkpoint, records: Vec<Record>) {
        self.happens(&records);
        checkpoint.write(records);
        if checkpoint.is_healthy() && !self.faults.is_dead() {
            self.written = self.past.len() - 1;
        }
    }

    fn note(&mut self, checkpoint: &Checkpoint, records: Vec<Record>) {
        self.happens(&records);
        checkpoint.note(records);
    }

    fn all_is_durable(&mut self, checkpoint: &Checkpoint) {
        if checkpoint.is_healthy() && !self.faults.is_dead() {
            self.written = self.past.len() - 1;
            self.synced = self.written;
        }
    }

    fn sync(&mut self, checkpoint: &Checkpoint) {
        checkpoint.sync(false);
        self.all_is_durable(checkpoint);
    }

    /// Compares a state that was found on disk with what may be there, and goes on from it.
    fn find(&mut self, found: &State, recovery: &Recovery, least: usize) -> Result<(), String> {
        if found.epoch <= self.greatest_epoch && self.epochs_noted {
            return Err(format!("{:?} comes again", found.epoch));
        }
        if !recovery.damaged.is_empty() || recovery.all_lost {
            return Err(format!("it speaks of damage: {recovery:?}"));
        }
        let found = without_epoch(found);
        let Some(at) = (least..self.past.len())
            .rev()
            .find(|&at| self.past[at] == found)
        else {
            let earlier = self.past[..least].iter().rposition(|past| *past == found);
            return Err(format!(
                "states {least} to {} may be there; found is {earlier:?} (None: none of them)",
                self.past.len() - 1
            ));
        };
        self.past.truncate(at + 1);
        self.model = found;
        (self.written, self.synced) = (at, at.min(self.synced));
        Ok(())
    }

    /// Starts a life, as a service manager would: again when it fails.
    fn open(&mut self, now_ms: u64) -> Result<Option<Checkpoint>, String> {
        for _try in 0..3 {
            if self.faults.is_dead() {
                return Ok(None);
            }
            let Ok((checkpoint, recovery)) = Checkpoint::open(self.dir, true, now_ms) else {
                continue;
            };
            self.find(&checkpoint.read(Clone::clone), &recovery, self.written)?;
            self.greatest_epoch = checkpoint.read(|state| state.epoch);
            self.epochs_noted &= checkpoint.is_healthy() && !self.faults.is_dead();
            self.all_is_durable(&checkpoint);
            return Ok(Some(checkpoint));
        }
        Ok(None)
    }

    /// One life: cuts, ends, reports, syncs, and files that change while things happen.
    fn life(&mut self, checkpoint: &Checkpoint) {
        if self.model.streams.is_empty() {
            self.write(checkpoint, beginning());
        }
        let epoch = checkpoint.read(|state| state.epoch);
        for seq in 1..=CUTS {
            let cut = Cut {
                id: BatchId {
                    stream: STREAM,
                    epoch,
                    seq,
                },
                ..next_cut(&self.model, seq)
            };
            let ended = Record::Ended {
                batch: cut.id,
                end: End::Delivered,
            };
            let cut = vec![cut_or_joined(&self.model, cut)];
            match seq % 9 {
                // What happens while the next file is being written.
                4 => {
                    let next = checkpoint.sync_file();
                    self.all_is_durable(checkpoint);
                    self.write(checkpoint, cut);
                    if let Some(next) = next {
                        checkpoint.go_over(next, false);
                    }
                }
                8 => {
                    self.write(checkpoint, cut);
                    let told = tell_everything(&self.model);
                    self.note(checkpoint, told);
                    self.sync(checkpoint);
                }
                _ => self.write(checkpoint, cut),
            }
            if seq % 5 != 0 {
                self.note(checkpoint, vec![ended]);
            }
            if self.faults.is_dead() {
                return;
            }
        }
    }

    /// Three lives: the first is killed, the second stops in order; the clock goes back.
    fn run(&mut self) -> Result<(), String> {
        for (now_ms, is_orderly) in [(9000, false), (100, true), (200, false)] {
            let Some(checkpoint) = self.open(now_ms)? else {
                return Ok(());
            };
            self.life(&checkpoint);
            if is_orderly && !self.faults.is_dead() {
                self.sync(&checkpoint);
            }
        }
        Ok(())
    }
}

/// Plays the story with a fault at a call; how many calls it made.
fn play(fault: Option<(u64, Fault)>, ending: Ending) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::on(dir.path());
    if let Some((n, fault)) = fault {
        faults.at(n, fault);
    }
    let mut story = Story::new(dir.path(), &faults);
    let mut result = story.run();
    let Story {
        model,
        past,
        written,
        synced,
        greatest_epoch,
        epochs_noted,
        ..
    } = story;
    let (calls, hit) = (faults.calls(), faults.hit());
    let least = match ending {
        Ending::Killed => {
            drop(faults);
            written
        }
        Ending::PowerCut(seed) => {
            faults.cut_power(seed).unwrap();
            synced
        }
    };
    let faults = Faults::on(dir.path());
    let mut story = Story {
        dir: dir.path(),
        faults: &faults,
        model,
        past,
        written,
        synced,
        greatest_epoch,
        epochs_noted,
    };
    if result.is_ok() {
        result = match Checkpoint::open(dir.path(), true, 50) {
            Ok((checkpoint, recovery)) => {
                story.find(&checkpoint.read(Clone::clone), &recovery, least)
            }
            Err(error) => Err(error.to_string()),
        };
    }
    if let Err(why) = result {
        panic!("{fault:?} at {hit:?}, then {ending:?}: {why}");
    }
    calls
}

#[test]
fn whatever_call_fails_what_was_acknowledged_is_there() {
    let calls = play(None, Ending::Killed);
    assert!(calls > 100, "the story is too short: {calls} calls");
    let faults = [
        Fault::Error(libc::EIO),
        Fault::Error(libc::ENOSPC),
        Fault::Errors(libc::ENOSPC, 12),
        Fault::Errors(libc::EROFS, 4),
        Fault::Short,
        Fault::SyncLoses,
        Fault::Kill,
        Fault::KillAfter,
    ];
    for n in 0..calls {
        for (kind, fault) in faults.into_iter().enumerate() {
            let power_cut = Ending::PowerCut(n * 8 + kind as u64);
            match fault {
                Fault::Kill | Fault::KillAfter => {
                    play(Some((n, fault)), Ending::Killed);
                    play(Some((n, fault)), power_cut);
                }
                _ if n % 2 == 0 => drop(play(Some((n, fault)), Ending::Killed)),
                _ => drop(play(Some((n, fault)), power_cut)),
            }
        }
    }
}

#[test]
fn a_disk_that_is_full_at_the_start_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = open(dir.path(), 1);
    checkpoint.write(beginning());
    drop(checkpoint);
    let faults = Faults::on(dir.path());
    faults.at(0, Fault::Errors(libc::ENOSPC, 1_000));
    // Reading is possible on a full disk: only what makes and writes files fails.
    drop(faults);
    let files = log::files(&dir.path().join(super::super::FOLDER)).unwrap();
    let faults = Faults::on(dir.path());
    // List, open and read each; then the folder is there, and the new file cannot be made.
    let reads = 1 + 2 * files.len() as u64;
    faults.at(reads + 1, Fault::Errors(libc::ENOSPC, 1_000));
    let checkpoint = open(dir.path(), 2);
    assert!(!checkpoint.is_healthy());
    let cut = checkpoint.read(|state| next_cut(state, 1));
    checkpoint.write(vec![Record::Cut(cut)]);
    checkpoint.sync(true);
    assert!(!checkpoint.is_healthy());
    faults.at(0, Fault::Errors(libc::ENOSPC, 0));
    checkpoint.sync(true);
    checkpoint.sync(true);
    assert!(checkpoint.is_healthy());
    let before = checkpoint.read(without_epoch);
    drop(checkpoint);
    assert_eq!(open(dir.path(), 3).read(without_epoch), before);
}

#[test]
fn a_disk_that_is_read_only_at_the_start_is_said_by_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), 1));
    let faults = Faults::on(dir.path());
    faults.at(3, Fault::Errors(libc::EROFS, 1_000));
    let error = Checkpoint::open(dir.path(), true, 2)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("checkpoint") && error.contains("Read-only file system"),
        "{error}"
    );
}

#[test]
fn a_folder_that_somebody_removes_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = open(dir.path(), 1);
    checkpoint.write(beginning());
    fs::remove_dir_all(dir.path().join(super::super::FOLDER)).unwrap();
    checkpoint.sync(true);
    assert!(checkpoint.is_healthy());
    let cut = checkpoint.read(|state| next_cut(state, 1));
    checkpoint.write(vec![Record::Cut(cut)]);
    let before = checkpoint.read(without_epoch);
    drop(checkpoint);
    assert_eq!(open(dir.path(), 2).read(without_epoch), before);
}
