//! What became of the records of one batch that a destination refuses for good.
//!
//! # Constraints
//! Told late, twice, in any order, of several destinations and by several bus nodes. A record counts once,
//! by its place in the batch. At one destination the highest state that was told of it counts: dead,
//! purged, replayed. Over destinations it is dead while it is dead at one of them, else purged if it was
//! purged at one, else replayed.
//!
//! # Layout
//! Stored as one version byte ([`VERSION`]) and the fields of [`BatchLetters`] by postcard.
//!
//! Pure. [`super::writer`] calls it; what it does to the sums is [`super::ledger`]'s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tributary_common::{
    report::{DeadRecords, LetterState},
    span::RangeSet,
};

use super::ledger::StateError;

/// The version of a stored state.
const VERSION: u8 = 1;

/// Records by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct LetterCounts {
    pub(crate) dead: i64,
    pub(crate) purged: i64,
    pub(crate) replayed: i64,
}

/// Counts per event minute.
pub(crate) type MinuteLetters = BTreeMap<u32, LetterCounts>;

/// What was told of one destination, as places in the batch. A place may be in more than one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Places {
    dead: RangeSet,
    purged: RangeSet,
    replayed: RangeSet,
}

impl Places {
    fn set(&mut self, state: LetterState) -> &mut RangeSet {
        match state {
            LetterState::Dead => &mut self.dead,
            LetterState::Purged => &mut self.purged,
            LetterState::Replayed => &mut self.replayed,
        }
    }

    fn state(&self, place: u64) -> Option<LetterState> {
        if self.replayed.contains(place) {
            Some(LetterState::Replayed)
        } else if self.purged.contains(place) {
            Some(LetterState::Purged)
        } else {
            self.dead.contains(place).then_some(LetterState::Dead)
        }
    }

    /// Where something begins or ends.
    fn edges(&self) -> impl Iterator<Item = u64> + '_ {
        let sets = [&self.dead, &self.purged, &self.replayed];
        let ranges = sets.into_iter().flat_map(RangeSet::iter);
        ranges.flat_map(|(start, end)| [start, end])
    }
}

/// The dead letters of one batch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct BatchLetters {
    /// By event minute and destination.
    minutes: BTreeMap<u32, BTreeMap<String, Places>>,
}

impl BatchLetters {
    /// Takes what was told. Whether any of it is new.
    pub(crate) fn tell(&mut self, told: &DeadRecords) -> bool {
        let mut new = 0;
        for minute in &told.minutes {
            let destinations = self.minutes.entry(minute.minute).or_default();
            let places = destinations
                .entry(told.destination.as_str().to_owned())
                .or_default();
            let set = places.set(told.state);
            for &(first, end) in &minute.places {
                new += set.insert(first.into(), end.into());
            }
        }
        new > 0
    }

    /// The records per minute.
    pub(crate) fn counts(&self) -> MinuteLetters {
        let minutes = self.minutes.iter();
        minutes
            .map(|(&minute, destinations)| (minute, count(destinations)))
            .collect()
    }

    /// The state as stored.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, StateError> {
        Ok(postcard::to_extend(self, vec![VERSION])?)
    }

    /// Reads what [`BatchLetters::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        match bytes.split_first() {
            Some((&VERSION, body)) => Ok(postcard::from_bytes(body)?),
            Some((&version, _)) => Err(StateError::Version(version)),
            None => Err(StateError::Empty),
        }
    }
}

/// Counts the records of one minute.
fn count(destinations: &BTreeMap<String, Places>) -> LetterCounts {
    let mut edges: Vec<u64> = destinations.values().flat_map(Places::edges).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut counts = LetterCounts::default();
    for range in edges.windows(2) {
        let &[start, end] = range else { continue };
        // The least of the destinations' states: dead anywhere is dead.
        let states = destinations.values().filter_map(|one| one.state(start));
        let place = match states.min() {
            Some(LetterState::Dead) => &mut counts.dead,
            Some(LetterState::Purged) => &mut counts.purged,
            Some(LetterState::Replayed) => &mut counts.replayed,
            None => continue,
        };
        *place += i64::try_from(end - start).unwrap_or(i64::MAX);
    }
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tributary_common::{
        ids::{BatchId, Epoch, Name, StreamId, Topic},
        report::MinutePlaces,
    };

    use super::*;

    fn told(destination: &str, state: LetterState, places: &[(u32, u32)]) -> DeadRecords {
        DeadRecords {
            destination: Name::new(destination).unwrap(),
            topic: Topic::new("web").unwrap(),
            batch: BatchId {
                stream: StreamId(1),
                epoch: Epoch(1),
                seq: 1,
            },
            state,
            minutes: vec![MinutePlaces {
                minute: 7,
                places: places.to_vec(),
            }],
        }
    }

    /// Dead, purged, replayed.
    fn check(all: &[DeadRecords]) -> [i64; 3] {
        let mut letters = BatchLetters::default();
        for told in all {
            letters.tell(told);
        }
        let again = BatchLetters::decode(&letters.encode().unwrap()).unwrap();
        assert_eq!(again, letters);
        assert!(all.iter().all(|told| !letters.tell(told)), "told again");
        let counts = letters.counts().get(&7).copied().unwrap_or_default();
        [counts.dead, counts.purged, counts.replayed]
    }

    #[test]
    fn a_record_counts_once_by_the_highest_that_was_told() {
        use LetterState::{Dead, Purged, Replayed};
        let dead = told("es", Dead, &[(0, 3), (9, 10)]);
        let replayed = told("es", Replayed, &[(1, 3)]);
        let purged = told("es", Purged, &[(0, 2)]);
        assert_eq!(check(&[dead.clone(), dead.clone()]), [4, 0, 0]);
        assert_eq!(check(&[dead.clone(), replayed.clone()]), [2, 0, 2]);
        assert_eq!(check(&[replayed.clone(), dead.clone()]), [2, 0, 2]);
        assert_eq!(check(&[purged, replayed, dead]), [1, 1, 2]);
    }

    #[test]
    fn what_died_at_two_destinations_is_dead_until_it_is_replayed_at_both() {
        use LetterState::{Dead, Purged, Replayed};
        let (a, b) = (told("a", Dead, &[(0, 4)]), told("b", Dead, &[(2, 6)]));
        let at_a = told("a", Replayed, &[(0, 4)]);
        assert_eq!(check(&[a.clone(), b.clone()]), [6, 0, 0]);
        assert_eq!(check(&[a.clone(), b.clone(), at_a.clone()]), [4, 0, 2]);
        let at_b = told("b", Purged, &[(2, 6)]);
        assert_eq!(check(&[a, b, at_a, at_b]), [0, 4, 2]);
    }

    proptest! {
        #[test]
        fn counts_equal_plain_maps_in_any_order(
            steps in prop::collection::vec((0_u8..2, 0_u8..3, 0_u32..30, 1_u32..9), 0..20),
        ) {
            let mut model: BTreeMap<u32, BTreeMap<u8, LetterState>> = BTreeMap::new();
            let mut all = Vec::new();
            for (destination, state, first, len) in steps {
                let states = [LetterState::Dead, LetterState::Purged, LetterState::Replayed];
                let state = states[usize::from(state)];
                all.push(told(["a", "b"][usize::from(destination)], state, &[(first, first + len)]));
                for place in first..first + len {
                    let known = model.entry(place).or_default().entry(destination).or_insert(state);
                    *known = state.max(*known);
                }
            }
            let mut want = [0; 3];
            for states in model.values() {
                want[*states.values().min().unwrap() as usize] += 1;
            }
            prop_assert_eq!(check(&all), want);
            all.reverse();
            prop_assert_eq!(check(&all), want);
        }
    }
}
