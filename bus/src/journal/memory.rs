//! What the journal says, taken together: the state that its records add up to.
//!
//! The same [`Memory::apply`] runs for every record that is read at start and for every one that is
//! written, so what is in memory is what a restart would find. Pure.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use tributary_common::ids::{BatchId, Epoch, Name, StreamId};

use super::format::{Delivered, Record};
use crate::done::{DestinationNo, Done};

/// The most delivered batches whose facts are kept for a manager that does not answer; the agents
/// keep theirs, so what falls off here is told by them.
const MAX_UNTOLD: usize = 100_000;

/// So many pins are in one record at most: far below the longest body.
const PINS_A_RECORD: usize = 10_000;

/// Where a partition or file stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Position {
    /// Everything of this node before this offset is accounted for.
    pub(crate) end: i64,
    /// Where a recovery has to begin when something behind it is unresolved.
    pub(crate) floor: Option<i64>,
}

impl Position {
    /// The offset from which a recovery has to look.
    pub(crate) fn from(self) -> i64 {
        self.floor.map_or(self.end, |floor| floor.min(self.end))
    }
}

/// A physical topic or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its destination.
    pub(crate) destination: DestinationNo,
    /// Its name there.
    pub(crate) name: Arc<str>,
    /// A life wrote to it and did not close it: after a start this means an unclean end.
    pub(crate) open: bool,
    /// Per partition.
    pub(crate) positions: BTreeMap<i32, Position>,
    /// Which partition streams have, where they were given one.
    pub(crate) pins: HashMap<StreamId, i32>,
    /// The minute of the last delivery.
    pub(crate) touched: u32,
    /// Its `Target` record stands in the present file.
    pub(crate) written: bool,
}

/// A delivered batch whose fact the manager may not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Untold {
    /// Told when a report after this one is answered.
    Delivered(Delivered),
    /// A report's mark.
    Mark(u64),
}

/// The state.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The last life that was noted.
    pub(crate) epoch: Epoch,
    destinations: Vec<Name>,
    targets: BTreeMap<u32, Target>,
    by_name: HashMap<(DestinationNo, Arc<str>), u32>,
    next_target: u32,
    /// What destinations have.
    pub(crate) done: Done,
    /// Oldest first.
    pub(crate) untold: VecDeque<Untold>,
    /// Records that named a target that the file does not: lost to damage.
    pub(crate) orphans: u64,
}

impl Memory {
    /// The number of a destination in this process.
    pub(crate) fn destination(&mut self, name: &Name) -> DestinationNo {
        let known = self.destinations.iter().position(|known| known == name);
        let no = known.unwrap_or_else(|| {
            self.destinations.push(name.clone());
            self.destinations.len() - 1
        });
        DestinationNo::try_from(no).expect("a config has far fewer than 65,536 destinations")
    }

    /// The number of a target; it is made when it is new.
    pub(crate) fn target(&mut self, destination: DestinationNo, name: &str) -> u32 {
        let key = (destination, Arc::<str>::from(name));
        if let Some(&no) = self.by_name.get(&key) {
            return no;
        }
        let no = self.next_target;
        self.define(no, destination, Arc::clone(&key.1));
        no
    }

    fn define(&mut self, no: u32, destination: DestinationNo, name: Arc<str>) {
        self.next_target = self.next_target.max(no.saturating_add(1));
        self.by_name.insert((destination, Arc::clone(&name)), no);
        self.targets.entry(no).or_insert(Target {
            destination,
            name,
            open: false,
            positions: BTreeMap::new(),
            pins: HashMap::new(),
            touched: 0,
            written: false,
        });
    }

    /// A target by its number.
    pub(crate) fn get(&self, no: u32) -> Option<&Target> {
        self.targets.get(&no)
    }

    /// The targets of a destination.
    pub(crate) fn targets_of(&self, destination: DestinationNo) -> Vec<(u32, Target)> {
        let here = self
            .targets
            .iter()
            .filter(|(_no, target)| target.destination == destination);
        here.map(|(&no, target)| (no, target.clone())).collect()
    }

    /// The configured name of a destination's number.
    pub(crate) fn destination_name(&self, no: DestinationNo) -> Option<&Name> {
        self.destinations.get(usize::from(no))
    }

    /// The record that names a target, when the present file does not have it yet.
    pub(crate) fn unwritten(&mut self, no: u32) -> Option<Record> {
        let target = self.targets.get_mut(&no).filter(|target| !target.written)?;
        target.written = true;
        let destination = self
            .destinations
            .get(usize::from(target.destination))?
            .clone();
        Some(Record::Target {
            no,
            destination,
            target: target.name.to_string(),
        })
    }

    /// Takes a record in.
    pub(crate) fn apply(&mut self, record: &Record, keep_untold: bool) {
        match record {
            Record::Life { epoch } => self.epoch = self.epoch.max(*epoch),
            Record::Target {
                no,
                destination,
                target,
            } => {
                let destination = self.destination(destination);
                self.define(*no, destination, target.as_str().into());
                self.with(*no, |target| target.written = true);
            }
            Record::Delivered(delivered) => self.delivered(delivered, keep_untold),
            Record::Done {
                destination,
                stream,
                epoch,
                ranges,
                touched,
            } => {
                let destination = self.destination(destination);
                for &range in ranges {
                    self.done
                        .insert(destination, (*stream, *epoch), range, *touched);
                }
            }
            Record::Position {
                target,
                partition,
                end,
                floor,
            } => {
                let position = Position {
                    end: *end,
                    floor: *floor,
                };
                self.with(*target, |target| {
                    target.positions.insert(*partition, position);
                });
            }
            Record::Opened { target } => self.with(*target, |target| target.open = true),
            Record::Closed { target } => self.with(*target, |target| target.open = false),
            Record::Forgotten { target } => {
                if let Some(gone) = self.targets.remove(target) {
                    self.by_name.remove(&(gone.destination, gone.name));
                }
            }
            Record::Mark { number } => {
                if keep_untold {
                    self.untold.push_back(Untold::Mark(*number));
                }
            }
            Record::Told { number } => self.told(*number),
            Record::Resolved { target } => self.with(*target, |target| {
                target
                    .positions
                    .values_mut()
                    .for_each(|position| position.floor = None);
            }),
            Record::Pinned { target, pins } => {
                self.with(*target, |target| target.pins.extend(pins.iter().copied()));
            }
        }
    }

    fn with(&mut self, no: u32, change: impl FnOnce(&mut Target)) {
        match self.targets.get_mut(&no) {
            Some(target) => change(target),
            None => self.orphans += 1,
        }
    }

    fn delivered(&mut self, delivered: &Delivered, keep_untold: bool) {
        let Some(target) = self.targets.get_mut(&delivered.target) else {
            self.orphans += 1;
            return;
        };
        let position = target.positions.entry(delivered.partition).or_default();
        position.end = position.end.max(delivered.end);
        target.touched = target.touched.max(delivered.at);
        let BatchId { stream, epoch, seq } = delivered.batch;
        let destination = target.destination;
        self.done
            .insert(destination, (stream, epoch), (seq, seq + 1), delivered.at);
        if keep_untold {
            self.untold.push_back(Untold::Delivered(delivered.clone()));
            if self.untold.len() > MAX_UNTOLD {
                self.untold.pop_front();
            }
        }
    }

    /// Drops what stands before the mark. A mark that is not there was told before.
    fn told(&mut self, number: u64) {
        let at = self
            .untold
            .iter()
            .position(|entry| *entry == Untold::Mark(number));
        if let Some(at) = at {
            self.untold.drain(..=at);
        }
    }

    /// The records that say which partitions streams have; those of streams that were forgotten are, too.
    fn pins(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        for (&no, target) in &mut self.targets {
            let (done, destination) = (&self.done, target.destination);
            let pins = &mut target.pins;
            pins.retain(|&stream, _partition| done.knows(destination, stream));
            let pins: Vec<(StreamId, i32)> = pins.iter().map(|(&at, &pin)| (at, pin)).collect();
            let some = pins.chunks(PINS_A_RECORD);
            records.extend(some.map(|pins| Record::Pinned {
                target: no,
                pins: pins.to_vec(),
            }));
        }
        records
    }

    /// The records that make this state from nothing; marks every target as written.
    pub(crate) fn snapshot(&mut self, now: u32) -> Vec<Record> {
        self.done.prune(now);
        let mut records = vec![Record::Life { epoch: self.epoch }];
        let numbers: Vec<u32> = self.targets.keys().copied().collect();
        for &no in &numbers {
            self.with(no, |target| target.written = false);
            records.extend(self.unwritten(no));
        }
        // Before the positions, which say the last word on where a target ends.
        records.extend(self.untold.iter().filter_map(|entry| match entry {
            Untold::Delivered(told) if !self.targets.contains_key(&told.target) => None,
            Untold::Delivered(untold) => Some(Record::Delivered(untold.clone())),
            Untold::Mark(number) => Some(Record::Mark { number: *number }),
        }));
        for (&no, target) in &self.targets {
            if target.open {
                records.push(Record::Opened { target: no });
            }
            for (&partition, &Position { end, floor }) in &target.positions {
                records.push(Record::Position {
                    target: no,
                    partition,
                    end,
                    floor,
                });
            }
        }
        records.extend(self.pins());
        for (destination, stream, done) in self.done.iter() {
            let Some(name) = self.destinations.get(usize::from(destination)) else {
                continue;
            };
            for (epoch, seqs) in &done.epochs {
                records.push(Record::Done {
                    destination: name.clone(),
                    stream,
                    epoch: *epoch,
                    ranges: seqs.iter().collect(),
                    touched: done.touched,
                });
            }
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tributary_common::ids::Topic;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn state(memory: &mut Memory) -> Vec<String> {
        let mut lines: Vec<String> = memory
            .snapshot(0)
            .into_iter()
            .map(|record| format!("{record:?}"))
            .collect();
        lines.sort();
        lines
    }

    fn replay(records: &[Record]) -> Memory {
        let mut memory = Memory::default();
        for record in records {
            memory.apply(record, true);
        }
        memory
    }

    fn delivered(target: u32, seq: u64, end: i64) -> Record {
        Record::Delivered(Delivered {
            target,
            partition: 0,
            first: end - 10,
            end,
            batch: BatchId {
                stream: StreamId(7),
                epoch: Epoch(8),
                seq,
            },
            topic: Topic::new("web").unwrap(),
            minutes: vec![],
            at: 0,
        })
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let target = 0u32..3;
        prop_oneof![
            (1u64..9).prop_map(|epoch| Record::Life {
                epoch: Epoch(epoch)
            }),
            target.clone().prop_map(|no| Record::Target {
                no,
                destination: name("d"),
                target: format!("t{no}"),
            }),
            (target.clone(), 1u64..40, 10i64..500).prop_map(|(t, seq, end)| delivered(t, seq, end)),
            (target.clone(), 0i64..500, prop::option::of(0i64..500)).prop_map(
                |(target, end, floor)| Record::Position {
                    target,
                    partition: 0,
                    end,
                    floor
                }
            ),
            target.clone().prop_map(|target| Record::Opened { target }),
            target.clone().prop_map(|target| Record::Closed { target }),
            (target.clone(), 7u64..9, 0i32..4).prop_map(|(target, stream, at)| Record::Pinned {
                target,
                pins: vec![(StreamId(stream), at)]
            }),
            target.prop_map(|target| Record::Forgotten { target }),
            (1u64..4).prop_map(|number| Record::Mark { number }),
            (1u64..4).prop_map(|number| Record::Told { number }),
        ]
    }

    /// Numbers of targets are never used again once they are forgotten.
    fn without_reuse(mut records: Vec<Record>) -> Vec<Record> {
        let mut forgotten = std::collections::HashSet::new();
        records.retain(|record| match record {
            Record::Target { no, .. } => !forgotten.contains(no),
            Record::Forgotten { target } => {
                forgotten.insert(*target);
                true
            }
            _other => true,
        });
        records
    }

    proptest! {
        #[test]
        fn a_snapshot_makes_the_same_state_again(records in prop::collection::vec(any_record(), 0..60)) {
            let records = without_reuse(records);
            let mut memory = replay(&records);
            let snapshot = memory.snapshot(0);
            let mut again = replay(&snapshot);
            prop_assert_eq!(state(&mut memory), state(&mut again));
        }
    }

    #[test]
    fn a_told_mark_clears_what_stands_before_it() {
        let mut memory = Memory::default();
        let destination = memory.destination(&name("d"));
        let target = memory.target(destination, "t");
        for record in [
            delivered(target, 1, 10),
            Record::Mark { number: 1 },
            delivered(target, 2, 20),
            Record::Mark { number: 2 },
            delivered(target, 3, 30),
            Record::Told { number: 1 },
        ] {
            memory.apply(&record, true);
        }
        let left = |memory: &Memory| memory.untold.len();
        assert_eq!(left(&memory), 3);
        memory.apply(&Record::Told { number: 2 }, true);
        assert_eq!(left(&memory), 1);
        memory.apply(&Record::Told { number: 2 }, true);
        assert_eq!(left(&memory), 1);
    }

    #[test]
    fn a_floor_holds_the_recovery_back() {
        assert_eq!(
            Position {
                end: 10,
                floor: None
            }
            .from(),
            10
        );
        assert_eq!(
            Position {
                end: 10,
                floor: Some(4)
            }
            .from(),
            4
        );
        assert_eq!(
            Position {
                end: 10,
                floor: Some(14)
            }
            .from(),
            10
        );
    }
}
