//! What the manager has not heard of the letters of a destination.
//!
//! # Constraints
//! The file says everything, so nothing is noted of what was told: after a restart all that is in the file is
//! told once more, which changes nothing at the manager. A letter that is gone stays in the file until
//! the manager has its end, or until such ends are more, or take more bytes, than letters may: then the
//! oldest ones fall off, counted. The letters' room is not theirs: a manager that is away keeps nobody from
//! replaying and purging.
//!
//! Not for: the report itself (see [`crate::report`]). Only [`super::store`] calls it.

use std::collections::{BTreeMap, BTreeSet};

use tributary_common::{
    ids::{BatchId, Name, Topic},
    report::{DeadRecords, LetterState, MinutePlaces},
};

use super::{Card, Gone, store::MAX_LETTERS};

/// Letters by their numbers.
#[derive(Debug)]
pub(super) struct Telling {
    destination: Name,
    /// There is a manager. Without one nothing is kept.
    wanted: bool,
    /// The most bytes of `ended`.
    max: u64,
    untold: BTreeSet<u64>,
    /// Gone, and still in the file.
    ended: BTreeMap<u64, (Gone, Card)>,
    ended_bytes: u64,
    /// Ends that are in the report that is on its way.
    under_way: Vec<u64>,
}

impl Telling {
    pub(super) fn new(destination: &Name, wanted: bool, max: u64) -> Self {
        Self {
            destination: destination.clone(),
            wanted,
            max,
            untold: BTreeSet::new(),
            ended: BTreeMap::new(),
            ended_bytes: 0,
            under_way: Vec::new(),
        }
    }

    /// There is a new letter.
    pub(super) fn died(&mut self, no: u64) {
        if self.wanted {
            self.untold.insert(no);
        }
    }

    /// A letter is gone.
    pub(super) fn ended(&mut self, no: u64, how: Gone, card: Card) {
        if !self.wanted {
            return;
        }
        self.untold.insert(no);
        self.ended_bytes += u64::from(card.bytes);
        self.ended.insert(no, (how, card));
        while self.ended_bytes > self.max || self.ended.len() > MAX_LETTERS {
            let Some(&oldest) = self.ended.keys().next() else {
                break;
            };
            self.untold.remove(&oldest);
            self.drop_end(oldest);
            let name = self.destination.to_string();
            metrics::counter!("tributary_bus_dead_untold_records_total", "destination" => name)
                .increment(1);
        }
    }

    fn drop_end(&mut self, no: u64) {
        if let Some((_how, card)) = self.ended.remove(&no) {
            self.ended_bytes -= u64::from(card.bytes);
        }
    }

    /// Takes what is told next, of at most so many letters.
    pub(super) fn take<'a>(
        &'a mut self,
        most: usize,
        live: impl Fn(u64) -> Option<&'a Card>,
    ) -> Vec<DeadRecords> {
        let Self {
            destination,
            untold,
            ended,
            under_way,
            ..
        } = self;
        let mut by_batch: BTreeMap<(BatchId, LetterState, u32), (&Topic, BTreeSet<u32>)> =
            BTreeMap::new();
        let mut taken = 0;
        while taken < most
            && let Some(no) = untold.pop_first()
        {
            taken += 1;
            let (state, card) = match (live(no), ended.get(&no)) {
                (Some(card), _) => (LetterState::Dead, card),
                (None, Some((how, card))) => {
                    under_way.push(no);
                    (state_of(*how), card)
                }
                (None, None) => continue,
            };
            let (batch, place) = card.key;
            let (_topic, places) = by_batch
                .entry((batch, state, card.minute))
                .or_insert_with(|| (&card.topic, BTreeSet::new()));
            places.insert(place);
        }
        let mut told: Vec<DeadRecords> = Vec::new();
        for ((batch, state, minute), (topic, places)) in by_batch {
            let minute = MinutePlaces {
                minute,
                places: ranges(&places),
            };
            match told.last_mut() {
                Some(last) if (last.batch, last.state) == (batch, state) => {
                    last.minutes.push(minute);
                }
                _other => told.push(DeadRecords {
                    destination: destination.clone(),
                    topic: topic.clone(),
                    batch,
                    state,
                    minutes: vec![minute],
                }),
            }
        }
        told
    }

    /// The manager has what was taken.
    pub(super) fn told(&mut self) {
        for no in std::mem::take(&mut self.under_way) {
            self.drop_end(no);
        }
    }

    /// Whether it has everything.
    pub(super) fn is_empty(&self) -> bool {
        self.untold.is_empty() && self.under_way.is_empty()
    }

    /// Bytes in the file of letters that are gone and not told.
    pub(super) fn bytes(&self) -> u64 {
        self.ended_bytes
    }

    /// These letters.
    pub(super) fn ended_mut(&mut self) -> impl Iterator<Item = (&u64, &mut (Gone, Card))> {
        self.ended.iter_mut()
    }
}

fn state_of(how: Gone) -> LetterState {
    match how {
        Gone::Replayed => LetterState::Replayed,
        Gone::Purged => LetterState::Purged,
    }
}

/// Numbers as `(first, end)`.
fn ranges(numbers: &BTreeSet<u32>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_first, end)) if *end == number => *end = number.saturating_add(1),
            _other => ranges.push((number, number.saturating_add(1))),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tempfile::TempDir;

    use super::*;
    use crate::{
        dead::{Dead, Letters},
        testing,
    };

    const MAX: u64 = 2 << 20;

    fn dead(seq: u64, at: u32, payload: usize) -> Dead {
        let (header, _payload) = testing::batch("web", 1, seq, &["x"]);
        Dead {
            header: Arc::new(header),
            at,
            target: "logs".into(),
            payload: vec![7; payload],
            status: 400,
            reason: "mapper_parsing_exception: no number".into(),
        }
    }

    fn open(dir: &TempDir, told: bool) -> Letters {
        Letters::open(dir.path(), &Name::new("es").unwrap(), MAX, told).unwrap()
    }

    /// Batch, state, places.
    type Told = (u64, LetterState, Vec<(u32, u32)>);

    /// What the next report says; the manager has it.
    fn told(letters: &Letters) -> Vec<Told> {
        let taken = letters.take_untold(100);
        letters.told();
        let told = taken.into_iter().map(|one| {
            assert_eq!((one.destination.as_str(), one.minutes.len()), ("es", 1));
            (
                one.batch.seq,
                one.state,
                one.minutes.into_iter().flat_map(|m| m.places).collect(),
            )
        });
        told.collect()
    }

    #[test]
    fn a_letter_is_told_when_it_dies_and_when_it_ends_and_once_more_after_a_restart() {
        use LetterState::{Dead, Purged, Replayed};
        let dir = TempDir::new().unwrap();
        let letters = open(&dir, true);
        let four = vec![dead(1, 0, 9), dead(1, 1, 9), dead(1, 5, 9), dead(2, 3, 9)];
        letters.keep(four, 5).unwrap();
        let died = [(1, Dead, vec![(0, 2), (5, 6)]), (2, Dead, vec![(3, 4)])];
        assert!(!letters.is_told());
        assert_eq!(told(&letters), died);
        // It is refused again: nothing has changed.
        letters.keep(vec![dead(1, 1, 9)], 6).unwrap();
        assert_eq!(told(&letters), []);
        assert!(letters.is_told());
        drop(letters);
        let letters = open(&dir, true);
        assert_eq!(told(&letters), died);
        letters.end(&[1], Gone::Replayed).unwrap();
        letters.end(&[4], Gone::Purged).unwrap();
        let ended = [(1, Replayed, vec![(0, 1)]), (2, Purged, vec![(3, 4)])];
        drop(letters);
        // A kill before the report: the file says both.
        let letters = open(&dir, true);
        let mut all = vec![(1, Dead, vec![(1, 2), (5, 6)])];
        all.extend(ended);
        assert_eq!(told(&letters), all);
    }

    #[test]
    fn an_end_that_is_not_told_outlives_the_file_that_it_was_written_to() {
        let dir = TempDir::new().unwrap();
        let letters = open(&dir, true);
        let size = || {
            std::fs::metadata(dir.path().join("es/letters"))
                .unwrap()
                .len()
        };
        letters.keep(vec![dead(1, 0, 10)], 1).unwrap();
        letters.end(&[1], Gone::Purged).unwrap();
        // What comes again after its end is a letter of its own.
        letters.keep(vec![dead(1, 0, 11)], 1).unwrap();
        let taken = letters.take_untold(100);
        assert_eq!(taken.len(), 2, "{taken:?}");
        // The report is on its way, and the rest of the file is told and gone.
        letters.keep(vec![dead(2, 0, 1 << 20)], 1).unwrap();
        assert_eq!(letters.take_untold(100).len(), 1);
        letters.told();
        letters.end(&[3], Gone::Purged).unwrap();
        assert!(size() > 1 << 20);
        drop(letters);
        let letters = open(&dir, true);
        let states: Vec<_> = told(&letters).iter().map(|told| (told.0, told.1)).collect();
        let purged = LetterState::Purged;
        assert_eq!(states, [(1, LetterState::Dead), (1, purged), (2, purged)]);
        // They are told: the next end writes the file without them.
        letters.keep(vec![dead(3, 0, 1 << 20)], 1).unwrap();
        letters.end(&[2], Gone::Purged).unwrap();
        assert!(size() < 3 << 19, "{}", size());
        let found = letters.cards(&crate::dead::Filter::default());
        assert_eq!(found.len(), 1);
        assert_eq!(letters.read(found[0].no).unwrap().payload.len(), 1 << 20);
        drop(letters);
        let states: Vec<_> = told(&open(&dir, true)).iter().map(|t| (t.0, t.1)).collect();
        assert_eq!(states, [(1, purged), (3, LetterState::Dead)]);
    }

    /// Small letters that are purged over and over while nobody hears of it.
    #[test]
    fn no_more_ends_are_kept_than_letters_may_be() {
        let dir = TempDir::new().unwrap();
        let letters = open(&dir, true);
        letters.keep(vec![dead(1, 0, 9)], 1).unwrap();
        let card = letters.cards(&crate::dead::Filter::default()).remove(0);
        let mut telling = Telling::new(&Name::new("es").unwrap(), true, u64::MAX);
        for no in 0..=MAX_LETTERS as u64 {
            telling.ended(no, Gone::Purged, card.clone());
        }
        let first = telling.ended_mut().next().map(|(no, _end)| *no);
        assert_eq!((telling.ended_mut().count(), first), (MAX_LETTERS, Some(1)));
    }

    #[test]
    fn a_manager_that_is_away_takes_no_room_from_letters_and_the_oldest_ends_fall_off() {
        let dir = TempDir::new().unwrap();
        let letters = open(&dir, true);
        for seq in 1..=9 {
            letters.keep(vec![dead(seq, 0, 900 << 10)], 1).unwrap();
            letters.end(&[seq], Gone::Purged).unwrap();
        }
        let seqs: Vec<_> = told(&letters).iter().map(|told| told.0).collect();
        assert_eq!(seqs, [8, 9]);
        let dir = TempDir::new().unwrap();
        let letters = open(&dir, false);
        letters.keep(vec![dead(1, 0, 10)], 1).unwrap();
        letters.end(&[1], Gone::Purged).unwrap();
        assert!(letters.is_told(), "nobody wants to hear it");
    }
}
