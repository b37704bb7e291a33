//! What of a stream waits on the disk and is not near its turn: a few bytes a batch.
//!
//! A backlog of hours is millions of batches, and all that is to be known of one is where it lies. So they
//! are kept in runs: the first and the last of a run as they are, and between them only how each differs
//! from the one before. Batches come in behind and leave in front; one in the middle is found by reading its
//! run through.
//!
//! Pure. Not for: what is on its way or being written (see [`super`]).

use std::{collections::VecDeque, sync::Arc};

use tributary_common::ids::{Class, Epoch};

use super::{Key, Place};

/// Batches of a run: what is read through to find one.
const RUN: u32 = 256;

/// A batch that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) seq: u64,
    pub(super) order: u64,
    pub(super) place: Place,
}

/// What all batches of a run have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Common {
    pub(super) target: Arc<str>,
    pub(super) class: Class,
    pub(super) epoch: Epoch,
}

/// Batches that lie behind one another in their stream.
#[derive(Debug)]
struct Run {
    common: Common,
    first: Item,
    last: Item,
    /// How each after the first differs from the one before; what is left of it.
    steps: VecDeque<u8>,
    count: u32,
}

/// All of a stream, in its order.
#[derive(Debug, Default)]
pub(super) struct Far {
    runs: VecDeque<Box<Run>>,
    len: usize,
}

impl Far {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The first batch.
    pub(super) fn front(&self) -> Option<(Key, &Common, Item)> {
        let run = self.runs.front()?;
        Some(((run.common.epoch, run.first.seq), &run.common, run.first))
    }

    /// The key of the last batch.
    pub(super) fn last(&self) -> Option<Key> {
        let run = self.runs.back()?;
        Some((run.common.epoch, run.last.seq))
    }

    /// One more, behind all others.
    pub(super) fn push(&mut self, common: Common, item: Item) {
        debug_assert!(
            self.last() < Some((common.epoch, item.seq)),
            "it comes behind all others"
        );
        self.len += 1;
        match self.runs.back_mut() {
            Some(run) if run.count < RUN && run.common == common => {
                step(run.last, item, &mut run.steps);
                run.last = item;
                run.count += 1;
                if run.count == RUN {
                    run.steps.shrink_to_fit();
                }
            }
            Some(_) | None => self.runs.push_back(Box::new(Run {
                common,
                first: item,
                last: item,
                steps: VecDeque::new(),
                count: 1,
            })),
        }
    }

    /// The first batch leaves.
    pub(super) fn pop(&mut self) -> Option<(Common, Item)> {
        let run = self.runs.front_mut()?;
        let (common, item) = (run.common.clone(), run.first);
        self.len -= 1;
        run.count -= 1;
        match run.count {
            0 => drop(self.runs.pop_front()),
            _some => run.first = next(item, || run.steps.pop_front()),
        }
        Some((common, item))
    }

    /// A batch, where there is one of this key.
    pub(super) fn get(&self, key: Key) -> Option<(&Common, Item)> {
        let run = self.runs.get(self.run_of(key)?)?;
        let item = run.items().find(|item| item.seq == key.1)?;
        Some((&run.common, item))
    }

    /// One in the middle leaves.
    pub(super) fn remove(&mut self, key: Key) -> Option<(Common, Item)> {
        let at = self.run_of(key)?;
        if at == 0 && self.front().is_some_and(|(first, ..)| first == key) {
            return self.pop();
        }
        let run = self.runs.get_mut(at)?;
        let item = run.items().find(|item| item.seq == key.1)?;
        let common = run.common.clone();
        let mut rest = Self::default();
        for kept in run.items().filter(|kept| *kept != item) {
            rest.push(common.clone(), kept);
        }
        match rest.runs.pop_front() {
            Some(rest) => *run = rest,
            None => drop(self.runs.remove(at)),
        }
        self.len -= 1;
        Some((common, item))
    }

    /// The run in which a batch of this key would be.
    fn run_of(&self, key: Key) -> Option<usize> {
        let at = self
            .runs
            .partition_point(|run| (run.common.epoch, run.last.seq) < key);
        let run = self.runs.get(at)?;
        ((run.common.epoch, run.first.seq) <= key).then_some(at)
    }
}

impl Run {
    fn items(&self) -> impl Iterator<Item = Item> {
        let mut steps = self.steps.iter().copied();
        let mut item = self.first;
        (0..self.count).map(move |no| {
            if no > 0 {
                item = next(item, || steps.next());
            }
            item
        })
    }
}

/// Writes how a batch differs from the one before.
fn step(before: Item, item: Item, out: &mut VecDeque<u8>) {
    let (from, to) = (before.place, item.place);
    for (before, now) in [
        (before.seq, item.seq),
        (before.order, item.order),
        (from.segment, to.segment),
        (from.at, to.at),
        (u64::from(from.bytes), u64::from(to.bytes)),
    ] {
        // Small in either direction: the sign is the lowest bit.
        let by = now.wrapping_sub(before).cast_signed();
        let mut left = (by << 1 ^ by >> 63).cast_unsigned();
        while left > 0x7f {
            out.push_back((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        out.push_back((left & 0x7f) as u8);
    }
}

/// The batch that comes after one.
fn next(before: Item, mut byte: impl FnMut() -> Option<u8>) -> Item {
    let mut after = |before: u64| {
        let (mut left, mut shift) = (0_u64, 0);
        // Every step was written whole, so there is a byte.
        while let Some(byte) = byte() {
            left |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let by = (left >> 1) ^ (left & 1).wrapping_neg();
        before.wrapping_add(by)
    };
    let (seq, order) = (after(before.seq), after(before.order));
    let (segment, at) = (after(before.place.segment), after(before.place.at));
    let bytes = after(u64::from(before.place.bytes));
    let place = Place {
        segment,
        at,
        bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
    };
    Item { seq, order, place }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn item(seq: u64, far: u64) -> Item {
        Item {
            seq,
            order: far.rotate_left(17) ^ seq,
            place: Place {
                segment: far >> 32,
                at: far.wrapping_mul(31),
                bytes: (far & 0xffff_ffff) as u32,
            },
        }
    }

    fn common(epoch: u64, class: Class) -> Common {
        Common {
            target: "t".into(),
            class,
            epoch: Epoch(epoch),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_as_a_map_of_all_that_wait(
            steps in prop::collection::vec((0_u8..8, 1_u64..400, any::<u64>()), 0..900),
        ) {
            let (mut far, mut model) = (Far::default(), BTreeMap::new());
            let (mut epoch, mut seq) = (1, 0);
            for (what, by, some) in steps {
                match what {
                    0..=4 => {
                        if what == 4 && by > 390 {
                            (epoch, seq) = (epoch + 1, 0);
                        }
                        seq += if by > 380 { by } else { 1 };
                        let class = Class::ALL[usize::from(by == 7)];
                        let (common, item) = (common(epoch, class), item(seq, some >> (some % 64)));
                        far.push(common.clone(), item);
                        model.insert((Epoch(epoch), seq), (common, item));
                    }
                    5 => prop_assert_eq!(far.pop(), model.pop_first().map(|(_key, one)| one)),
                    _ => {
                        let nth = usize::try_from(by).unwrap() % (model.len() + 1);
                        let key = model.keys().nth(nth).copied();
                        let key = key.unwrap_or((Epoch(epoch), seq + 1));
                        let is_there = model.get(&key).map(|(common, item)| (common, *item));
                        prop_assert_eq!(far.get(key), is_there);
                        if what == 7 {
                            prop_assert_eq!(far.remove(key), model.remove(&key));
                        }
                    }
                }
                prop_assert_eq!(far.len(), model.len());
                prop_assert_eq!(far.last(), model.keys().next_back().copied());
                let first = far.front().map(|(key, common, item)| (key, (common.clone(), item)));
                prop_assert_eq!(first, model.first_key_value().map(|(key, one)| (*key, one.clone())));
            }
        }
    }

    #[test]
    fn a_batch_takes_a_few_bytes() {
        let mut far = Far::default();
        for seq in 0..100_000 {
            let at = seq * 11_000 * 53_000;
            let place = Place {
                segment: at >> 26,
                at: at % (64 << 20),
                bytes: 50_000 + (seq % 1_000) as u32,
            };
            let item = Item {
                seq,
                order: seq * 11_000,
                place,
            };
            far.push(common(1, Class::P2), item);
        }
        let runs = far.runs.iter();
        let bytes: usize = runs
            .map(|run| run.steps.capacity() + size_of::<Run>() + 8)
            .sum();
        assert!(bytes < 100_000 * 14, "{bytes}");
    }
}
