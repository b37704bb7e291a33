//! Byte ranges of files, and which of them are acknowledged.
//!
//! Not for: which file it is (see [`crate::ids::GenerationId`]). The agent's window and checkpoint
//! and the bus's journal call it. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A byte range `[start, end)` of a generation, in source bytes from the start of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Span {
    /// First byte.
    pub start: u64,
    /// The byte after the last one; never less than `start`.
    pub end: u64,
}

impl Span {
    /// A span; `None` when `end < start`.
    #[must_use]
    pub fn new(start: u64, end: u64) -> Option<Self> {
        (start <= end).then_some(Self { start, end })
    }

    /// Bytes in the span.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.end - self.start
    }
}

/// A set of numbers kept as ranges `[start, end)`: acknowledged bytes of a generation, or sequence
/// numbers of a stream. Adding what is already inside changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RangeSet {
    /// start -> end; disjoint, not touching.
    ranges: BTreeMap<u64, u64>,
}

/// Acknowledged bytes of a generation.
pub type AckedSpans = RangeSet;

impl RangeSet {
    /// Adds `[start, end)` and returns how many of its numbers were new.
    pub fn insert(&mut self, start: u64, end: u64) -> u64 {
        if start >= end {
            return 0;
        }
        let (mut new_start, mut new_end, mut known) = (start, end, 0);
        // Every range that overlaps or touches: those that begin at or before `end`, walked back.
        let touching: Vec<(u64, u64)> = self
            .ranges
            .range(..=end)
            .rev()
            .take_while(|&(_, &range_end)| range_end >= start)
            .map(|(&range_start, &range_end)| (range_start, range_end))
            .collect();
        for (range_start, range_end) in touching {
            known += range_end.min(end).saturating_sub(range_start.max(start));
            new_start = new_start.min(range_start);
            new_end = new_end.max(range_end);
            self.ranges.remove(&range_start);
        }
        self.ranges.insert(new_start, new_end);
        end - start - known
    }

    /// Takes `number` out; whether it was inside.
    pub fn remove(&mut self, number: u64) -> bool {
        let Some((&start, end)) = self.ranges.range_mut(..=number).next_back() else {
            return false;
        };
        if number >= *end {
            return false;
        }
        let after = std::mem::replace(end, number);
        if start == number {
            self.ranges.remove(&start);
        }
        if number + 1 < after {
            self.ranges.insert(number + 1, after);
        }
        true
    }

    /// Whether `number` is inside.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        self.ranges
            .range(..=number)
            .next_back()
            .is_some_and(|(_, &end)| number < end)
    }

    /// The end of the range that covers `from`, or `from` when nothing does: with `from` = where
    /// reading began this is the watermark.
    #[must_use]
    pub fn prefix_end(&self, from: u64) -> u64 {
        match self.ranges.range(..=from).next_back() {
            Some((_, &end)) if end > from => end,
            _ => from,
        }
    }

    /// The ranges in order, as `(start, end)`.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(&start, &end)| (start, end))
    }

    /// How many separate ranges there are: the memory that the set takes.
    #[must_use]
    pub fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// How many numbers are inside.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.iter().map(|(start, end)| end - start).sum()
    }

    /// Whether nothing is inside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_taken_out_leaves_the_rest(
            steps in prop::collection::vec((0_u64..40, 0_u64..6, any::<bool>()), 0..60),
        ) {
            let (mut ranges, mut model) = (RangeSet::default(), BTreeSet::new());
            for (start, len, adds) in steps {
                if adds {
                    ranges.insert(start, start + len);
                    model.extend(start..start + len);
                } else {
                    prop_assert_eq!(ranges.remove(start), model.remove(&start));
                }
                let inside: Vec<u64> = ranges.iter().flat_map(|(start, end)| start..end).collect();
                prop_assert_eq!(inside, model.iter().copied().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_watermark_stops_at_the_first_hole() {
        let mut acked = AckedSpans::default();
        acked.insert(10, 20);
        acked.insert(30, 40);
        assert_eq!(acked.prefix_end(10), 20);
        assert_eq!(acked.prefix_end(0), 0);
        acked.insert(20, 30);
        assert_eq!(acked.prefix_end(10), 40);
        assert_eq!(acked.ranges(), 1);
    }

    proptest! {
        #[test]
        fn a_range_set_equals_a_plain_set(inserts in prop::collection::vec((0u64..60, 0u64..12), 0..40)) {
            let (mut ranges, mut model) = (RangeSet::default(), BTreeSet::new());
            for (start, len) in inserts {
                let new = (start..start + len).filter(|&n| model.insert(n)).count() as u64;
                prop_assert_eq!(ranges.insert(start, start + len), new);
            }
            prop_assert_eq!(ranges.len(), model.len() as u64);
            for number in 0..80 {
                prop_assert_eq!(ranges.contains(number), model.contains(&number));
                let end = (number..).find(|n| !model.contains(n)).unwrap();
                prop_assert_eq!(ranges.prefix_end(number), end);
            }
            let mut last_end = None;
            for (start, end) in ranges.iter() {
                prop_assert!(start < end && last_end < Some(start));
                last_end = Some(end);
            }
        }
    }
}
