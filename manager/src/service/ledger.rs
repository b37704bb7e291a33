//! What a fact does to the accounts: per (topic, stream, epoch) the set of batches that passed each
//! hop, and the difference that a new fact makes to the sums.
//!
//! # Constraints
//! Facts come late, twice, in any order, from agents and bus nodes; stating one again must change
//! nothing, and a loss must never be hidden by a surplus. So the state is sets of sequence numbers,
//! and a batch that was read is exactly one of: delivered, in flight, refused, dropped, missing. Of a delivered
//! batch the records that are dead or purged count as that, not as delivered.
//!
//! # Layout
//! A state is stored as one version byte ([`VERSION`]) and the fields of [`StreamState`] by
//! postcard. In the steady state each set is one range, so a state takes some 30 bytes.
//!
//! # Operation
//! [`StreamState::fact`] and [`StreamState::hold`] change the state and add the difference per
//! minute to [`Deltas`]. The sum of all differences equals what the states say.
//!
//! Pure. Only [`super::intake`] calls it.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use tributary_common::{header::MinuteCount, report::Hop, span::RangeSet};

use super::{letters::MinuteLetters, tally::Tally};

/// The version of a stored state that this build writes. It reads version 1 as well, which ends
/// before [`StreamState::lost`], version 2, which ends before [`StreamState::spilled`], and version 3, which
/// ends before [`StreamState::letters`].
const VERSION: u8 = 4;
/// Batches that were read and not delivered whose minutes a state remembers. An agent's window is
/// far below; beyond it the oldest ones count as they stood when they were forgotten.
const MAX_OPEN: usize = 100_000;
/// Bus nodes whose deliveries of one stream are told apart; older ones are merged.
const MAX_TELLERS: usize = 8;

/// Why a stored state can not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// Written by another version of the manager.
    #[error("stream state has version {0}; this build reads versions 1 to {VERSION}")]
    Version(u8),
    /// No state.
    #[error("stream state is empty")]
    Empty,
    /// The bytes do not parse.
    #[error("stream state is damaged: {0}")]
    Damaged(#[from] postcard::Error),
}

/// Differences per event minute.
pub(crate) type Deltas = HashMap<u32, Tally>;

/// Who states a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Teller {
    /// The agent that cut the batch.
    Agent,
    /// A bus node, by the database's number for it.
    Bus(i64),
}

/// What became of a batch that was read and not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    InFlight,
    /// In flight on a bus node's disk.
    Spilled,
    Refused,
    Dropped,
    Missing,
}

/// What one bus node delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Deliveries {
    node: i64,
    set: RangeSet,
}

/// The accounts of one stream and agent life.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct StreamState {
    read: RangeSet,
    sent: RangeSet,
    received: RangeSet,
    delivered: RangeSet,
    /// What bus nodes said that they delivered, the newest node last.
    by_bus: Vec<Deliveries>,
    /// The agent's last snapshot.
    in_flight: RangeSet,
    /// The agent's last snapshot.
    refused: RangeSet,
    /// Read and not delivered, with the records per minute.
    open: BTreeMap<u64, Vec<MinuteCount>>,
    /// Given up, by the agent or by a bus node that had it on its disk.
    lost: RangeSet,
    /// What a bus node has, or had, on its disk, acknowledged.
    spilled: RangeSet,
    /// Dead letters of batches that are not through: a batch is in flight as a whole.
    letters: BTreeMap<u64, MinuteLetters>,
}

fn count(deltas: &mut Deltas, minutes: &[MinuteCount], change: impl Fn(&mut Tally, i64)) {
    for minute in minutes {
        change(
            deltas.entry(minute.minute).or_default(),
            i64::from(minute.records),
        );
    }
}

/// Counts dead letters of a delivered batch, which are not delivered.
fn count_letters(deltas: &mut Deltas, letters: &MinuteLetters, sign: i64) {
    for (&minute, letters) in letters {
        let tally = deltas.entry(minute).or_default();
        tally.dead += sign * letters.dead;
        tally.purged += sign * letters.purged;
        tally.replayed += sign * letters.replayed;
        tally.delivered -= sign * (letters.dead + letters.purged);
    }
}

fn count_fate(deltas: &mut Deltas, minutes: &[MinuteCount], fate: Fate, sign: i64) {
    count(deltas, minutes, |tally, records| {
        let place = match fate {
            Fate::InFlight => &mut tally.in_flight,
            Fate::Spilled => {
                tally.spilled += sign * records;
                &mut tally.in_flight
            }
            Fate::Refused => &mut tally.refused,
            Fate::Dropped => &mut tally.dropped,
            Fate::Missing => &mut tally.missing,
        };
        *place += sign * records;
    });
}

impl StreamState {
    /// Takes the fact that the batches `first_seq`, `first_seq + 1` … passed a hop. What is known
    /// already changes nothing. Delivered implies Received, and Received of what an agent read implies
    /// Sent: an agent that is killed may never tell that. The caller has checked that
    /// `first_seq + batches.len()` is a number. The answer: batches that are delivered now although
    /// they were told as lost.
    pub(crate) fn fact(
        &mut self,
        teller: Teller,
        hop: Hop,
        first_seq: u64,
        batches: &[Vec<MinuteCount>],
        deltas: &mut Deltas,
    ) -> Vec<u64> {
        let mut found = Vec::new();
        for (place, minutes) in batches.iter().enumerate() {
            let seq = first_seq + place as u64;
            match hop {
                Hop::Read => self.read(seq, minutes, deltas),
                Hop::Sent => self.sent(seq, minutes, deltas),
                Hop::Received => self.received(seq, minutes, deltas),
                Hop::Lost => self.refate(seq, deltas, |state| &mut state.lost),
                Hop::Delivered => {
                    self.received(seq, minutes, deltas);
                    if self.delivered(seq, minutes, deltas) && self.lost.contains(seq) {
                        found.push(seq);
                    }
                    if let Teller::Bus(node) = teller {
                        self.delivered_by(node, seq, minutes, deltas);
                    }
                }
                Hop::Spilled => {
                    self.received(seq, minutes, deltas);
                    self.refate(seq, deltas, |state| &mut state.spilled);
                }
            }
        }
        while self.open.len() > MAX_OPEN {
            self.open.pop_first();
        }
        found
    }

    /// Takes what is known now of a batch's dead letters, and what was before.
    pub(crate) fn letters(
        &mut self,
        seq: u64,
        before: &MinuteLetters,
        after: MinuteLetters,
        deltas: &mut Deltas,
    ) {
        if self.delivered.contains(seq) {
            count_letters(deltas, before, -1);
            count_letters(deltas, &after, 1);
        } else {
            self.letters.insert(seq, after);
            while self.letters.len() > MAX_OPEN {
                self.letters.pop_first();
            }
        }
    }

    /// Whether a batch is known to be delivered.
    pub(crate) fn is_delivered(&self, seq: u64) -> bool {
        self.delivered.contains(seq)
    }

    /// Replaces the snapshot of what the agent holds. Whether it differs from the one before.
    pub(crate) fn hold(
        &mut self,
        in_flight: RangeSet,
        refused: RangeSet,
        deltas: &mut Deltas,
    ) -> bool {
        if self.in_flight == in_flight && self.refused == refused {
            return false;
        }
        let before: Vec<Fate> = self.open.keys().map(|&seq| self.fate(seq)).collect();
        self.in_flight = in_flight;
        self.refused = refused;
        for ((&seq, minutes), before) in self.open.iter().zip(before) {
            let after = self.fate(seq);
            if before != after {
                count_fate(deltas, minutes, before, -1);
                count_fate(deltas, minutes, after, 1);
            }
        }
        true
    }

    /// Whether the agent's last snapshot holds anything here.
    pub(crate) fn is_held(&self) -> bool {
        !self.in_flight.is_empty() || !self.refused.is_empty()
    }

    fn fate(&self, seq: u64) -> Fate {
        if self.lost.contains(seq) {
            Fate::Dropped
        } else if self.spilled.contains(seq) {
            Fate::Spilled
        } else if self.refused.contains(seq) {
            Fate::Refused
        } else if self.in_flight.contains(seq) {
            Fate::InFlight
        } else {
            Fate::Missing
        }
    }

    /// Adds a batch to a set that decides its fate, and counts it where it stands then.
    fn refate(&mut self, seq: u64, deltas: &mut Deltas, set: impl Fn(&mut Self) -> &mut RangeSet) {
        let before = self.fate(seq);
        set(self).insert(seq, seq + 1);
        let after = self.fate(seq);
        if before != after
            && let Some(minutes) = self.open.get(&seq)
        {
            count_fate(deltas, minutes, before, -1);
            count_fate(deltas, minutes, after, 1);
        }
    }

    fn read(&mut self, seq: u64, minutes: &[MinuteCount], deltas: &mut Deltas) {
        if self.read.insert(seq, seq + 1) == 0 {
            return;
        }
        count(deltas, minutes, |tally, records| tally.read += records);
        if self.received.contains(seq) {
            self.sent(seq, minutes, deltas);
        }
        if self.delivered.contains(seq) {
            count(deltas, minutes, |tally, records| tally.ahead -= records);
        } else {
            count_fate(deltas, minutes, self.fate(seq), 1);
            self.open.insert(seq, minutes.to_vec());
        }
    }

    fn sent(&mut self, seq: u64, minutes: &[MinuteCount], deltas: &mut Deltas) {
        if self.sent.insert(seq, seq + 1) == 1 {
            count(deltas, minutes, |tally, records| tally.sent += records);
        }
    }

    fn received(&mut self, seq: u64, minutes: &[MinuteCount], deltas: &mut Deltas) {
        if self.received.insert(seq, seq + 1) == 1 {
            count(deltas, minutes, |tally, records| tally.received += records);
            if self.read.contains(seq) {
                self.sent(seq, minutes, deltas);
            }
        }
    }

    /// Whether that is new.
    fn delivered(&mut self, seq: u64, minutes: &[MinuteCount], deltas: &mut Deltas) -> bool {
        if self.delivered.insert(seq, seq + 1) == 0 {
            return false;
        }
        count(deltas, minutes, |tally, records| tally.delivered += records);
        if let Some(letters) = self.letters.remove(&seq) {
            count_letters(deltas, &letters, 1);
        }
        if self.read.contains(seq) {
            let open = self.open.remove(&seq);
            count_fate(
                deltas,
                open.as_deref().unwrap_or(minutes),
                self.fate(seq),
                -1,
            );
        } else {
            count(deltas, minutes, |tally, records| tally.ahead += records);
        }
        true
    }

    /// A bus node says that it delivered a batch. When another node said so before, the batch is
    /// there twice. When the same node says so again it only repeats itself: after a restart it
    /// tells what it had delivered before, and its journal keeps it from delivering it again.
    fn delivered_by(&mut self, node: i64, seq: u64, minutes: &[MinuteCount], deltas: &mut Deltas) {
        let before = self
            .by_bus
            .iter()
            .any(|by| by.node != node && by.set.contains(seq));
        let new = match self.by_bus.iter_mut().find(|by| by.node == node) {
            Some(by) => by.set.insert(seq, seq + 1) == 1,
            None => {
                let mut set = RangeSet::default();
                set.insert(seq, seq + 1);
                self.by_bus.push(Deliveries { node, set });
                true
            }
        };
        if new && before {
            count(deltas, minutes, |tally, records| tally.doubled += records);
        }
        if self.by_bus.len() > MAX_TELLERS {
            let oldest = self.by_bus.remove(0);
            for (start, end) in oldest.set.iter() {
                self.by_bus[0].set.insert(start, end);
            }
        }
    }

    /// The state as stored.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, StateError> {
        Ok(postcard::to_extend(self, vec![VERSION])?)
    }

    /// Reads what [`StreamState::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        match bytes.split_first() {
            Some((&VERSION, body)) => Ok(postcard::from_bytes(body)?),
            Some((&version @ 1..VERSION, body)) => {
                let mut body = body.to_vec();
                // An empty set or map, each.
                for _missing in version..VERSION {
                    body = postcard::to_extend(&RangeSet::default(), body)?;
                }
                Ok(postcard::from_bytes(&body)?)
            }
            Some((&version, _)) => Err(StateError::Version(version)),
            None => Err(StateError::Empty),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::letters::LetterCounts, *};

    fn one(records: u32) -> Vec<Vec<MinuteCount>> {
        vec![vec![MinuteCount { minute: 7, records }]]
    }

    /// Runs facts `(teller, hop, seq)` of 10 records each and returns the sums.
    fn check(facts: &[(Teller, Hop, u64)]) -> Tally {
        let (mut state, mut deltas) = (StreamState::default(), Deltas::new());
        for &(teller, hop, seq) in facts {
            let _ = state.fact(teller, hop, seq, &one(10), &mut deltas);
        }
        let state_again = StreamState::decode(&state.encode().unwrap()).unwrap();
        assert_eq!(state_again, state);
        deltas.get(&7).copied().unwrap_or_default()
    }

    #[test]
    fn a_fact_counts_once() {
        let read = (Teller::Agent, Hop::Read, 1);
        assert_eq!(
            check(&[read, read]),
            Tally {
                read: 10,
                missing: 10,
                ..Tally::default()
            }
        );
    }

    #[test]
    fn delivered_implies_received_and_ends_missing() {
        let tally = check(&[
            (Teller::Agent, Hop::Read, 1),
            (Teller::Agent, Hop::Delivered, 1),
        ]);
        assert_eq!(
            tally,
            Tally {
                read: 10,
                sent: 10,
                received: 10,
                delivered: 10,
                ..Tally::default()
            }
        );
    }

    #[test]
    fn what_is_told_as_lost_is_dropped_unless_it_was_delivered() {
        let read = (Teller::Agent, Hop::Read, 1);
        let lost = (Teller::Agent, Hop::Lost, 1);
        let delivered = (Teller::Bus(1), Hop::Delivered, 1);
        let dropped = Tally {
            read: 10,
            dropped: 10,
            ..Tally::default()
        };
        assert_eq!(check(&[read, lost, lost]), dropped);
        assert_eq!(check(&[lost, read]), dropped);
        let whole = Tally {
            read: 10,
            sent: 10,
            received: 10,
            delivered: 10,
            ..Tally::default()
        };
        assert_eq!(check(&[read, lost, delivered]), whole);
        assert_eq!(check(&[read, delivered, lost]), whole);
        assert_eq!(check(&[delivered, lost, read]), whole);
    }

    #[test]
    fn what_a_bus_node_has_on_its_disk_is_in_flight_until_it_is_delivered_or_lost() {
        let read = (Teller::Agent, Hop::Read, 1);
        let spilled = (Teller::Agent, Hop::Spilled, 1);
        let lost = (Teller::Bus(1), Hop::Lost, 1);
        let delivered = (Teller::Bus(1), Hop::Delivered, 1);
        let sums = |facts: &[_]| {
            let tally = check(facts);
            assert_eq!((tally.received, tally.missing), (10, 0));
            (
                tally.delivered,
                tally.in_flight,
                tally.spilled,
                tally.dropped,
            )
        };
        assert_eq!(sums(&[read, spilled, spilled]), (0, 10, 10, 0));
        assert_eq!(sums(&[spilled, read]), (0, 10, 10, 0));
        assert_eq!(sums(&[read, spilled, delivered]), (10, 0, 0, 0));
        assert_eq!(sums(&[read, delivered, spilled]), (10, 0, 0, 0));
        assert_eq!(sums(&[read, spilled, lost]), (0, 0, 0, 10));
        assert_eq!(sums(&[lost, spilled, read]), (0, 0, 0, 10));
    }

    #[test]
    fn dead_letters_count_once_their_batch_is_through_in_any_order() {
        let read = (Teller::Agent, Hop::Read, 1);
        let delivered = (Teller::Bus(1), Hop::Delivered, 1);
        let counts = |dead, purged, replayed| {
            let counts = LetterCounts {
                dead,
                purged,
                replayed,
            };
            MinuteLetters::from([(7, counts)])
        };
        let sums = |facts: &[(Teller, Hop, u64)], early: bool| {
            let (mut state, mut deltas) = (StreamState::default(), Deltas::new());
            let letters = |state: &mut StreamState, deltas: &mut Deltas| {
                let (died, after) = (counts(3, 0, 0), counts(1, 1, 1));
                state.letters(1, &MinuteLetters::new(), died.clone(), deltas);
                state.letters(1, &died, after, deltas);
            };
            if early {
                letters(&mut state, &mut deltas);
            }
            for &(teller, hop, seq) in facts {
                let _ = state.fact(teller, hop, seq, &one(10), &mut deltas);
            }
            if !early {
                letters(&mut state, &mut deltas);
            }
            let tally = deltas.get(&7).copied().unwrap_or_default();
            let ends = [tally.delivered, tally.in_flight, tally.missing];
            (
                tally.received,
                ends,
                [tally.dead, tally.purged, tally.replayed],
            )
        };
        for early in [true, false] {
            assert_eq!(sums(&[read, delivered], early), (10, [8, 0, 0], [1, 1, 1]));
            assert_eq!(sums(&[delivered, read], early), (10, [8, 0, 0], [1, 1, 1]));
            // Nothing is known of the batch, or it is not through.
            assert_eq!(sums(&[], early), (0, [0; 3], [0; 3]));
            assert_eq!(sums(&[read], early), (0, [0, 0, 10], [0; 3]));
        }
    }

    #[test]
    fn states_of_older_versions_are_read() {
        let (mut state, mut deltas) = (StreamState::default(), Deltas::new());
        let _ = state.fact(Teller::Agent, Hop::Read, 1, &one(10), &mut deltas);
        let mut bytes = state.encode().unwrap();
        for version in (1..VERSION).rev() {
            assert_eq!(bytes.pop(), Some(0), "an empty set");
            bytes[0] = version;
            assert_eq!(StreamState::decode(&bytes).unwrap(), state);
        }
    }

    #[test]
    fn a_surplus_does_not_hide_a_loss() {
        let tally = check(&[
            (Teller::Agent, Hop::Read, 1),
            (Teller::Bus(1), Hop::Delivered, 2),
        ]);
        assert_eq!((tally.missing, tally.ahead), (10, 10));
        assert_eq!(tally.unexplained(), 10);
    }

    #[test]
    fn two_bus_nodes_that_deliver_the_same_double_it() {
        let told = |node| (Teller::Bus(node), Hop::Delivered, 1);
        assert_eq!(check(&[told(1), told(1)]).doubled, 0);
        assert_eq!(
            check(&[told(1), (Teller::Agent, Hop::Delivered, 1)]).doubled,
            0
        );
        assert_eq!(check(&[told(1), told(2)]).doubled, 10);
        assert_eq!(check(&[told(1), told(2), told(1), told(2)]).doubled, 10);
        let many: Vec<_> = (1..=20).map(told).collect();
        assert_eq!(check(&many).doubled, 190);
    }

    #[test]
    fn a_snapshot_moves_between_fates() {
        let (mut state, mut deltas) = (StreamState::default(), Deltas::new());
        let held = |seq: u64| {
            let mut set = RangeSet::default();
            set.insert(seq, seq + 1);
            set
        };
        state.hold(held(1), RangeSet::default(), &mut deltas);
        let _ = state.fact(Teller::Agent, Hop::Read, 1, &one(10), &mut deltas);
        assert_eq!(
            deltas[&7],
            Tally {
                read: 10,
                in_flight: 10,
                ..Tally::default()
            }
        );
        state.hold(RangeSet::default(), held(1), &mut deltas);
        assert_eq!(
            deltas[&7],
            Tally {
                read: 10,
                refused: 10,
                ..Tally::default()
            }
        );
        state.hold(RangeSet::default(), RangeSet::default(), &mut deltas);
        assert_eq!(
            deltas[&7],
            Tally {
                read: 10,
                missing: 10,
                ..Tally::default()
            }
        );
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let error = StreamState::decode(&[9, 0]).unwrap_err().to_string();
        assert_eq!(
            error,
            "stream state has version 9; this build reads versions 1 to 4"
        );
        assert!(StreamState::decode(&[]).is_err());
    }

    proptest! {
        /// Facts and snapshots in any order and number: the sums equal plain sets.
        #[test]
        fn the_sums_equal_plain_sets(
            steps in prop::collection::vec((0u8..9, 1u64..20, 1u64..5), 0..60)
        ) {
            use std::collections::BTreeSet;
            let (mut state, mut deltas) = (StreamState::default(), Deltas::new());
            let mut sets: [BTreeSet<u64>; 4] = Default::default();
            let (mut in_flight, mut refused, mut lost) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            let mut spilled = BTreeSet::new();
            for (kind, first, len) in steps {
                let seqs = first..first + len;
                let batches: Vec<_> = seqs.clone().flat_map(|seq| one(u32::try_from(seq).unwrap())).collect();
                let range = |on: bool| {
                    let mut set = RangeSet::default();
                    if on { set.insert(first, first + len); }
                    set
                };
                match kind {
                    0..4 => {
                        let hop = Hop::ALL[usize::from(kind)];
                        let _ = state.fact(Teller::Agent, hop, first, &batches, &mut deltas);
                        sets[usize::from(kind)].extend(seqs.clone());
                        if hop == Hop::Delivered { sets[2].extend(seqs); }
                    }
                    4 => {
                        let _ = state.fact(Teller::Bus(i64::try_from(first % 2).unwrap()), Hop::Delivered, first, &batches, &mut deltas);
                        sets[3].extend(seqs.clone());
                        sets[2].extend(seqs);
                    }
                    5 => {
                        let _ = state.fact(Teller::Agent, Hop::Lost, first, &batches, &mut deltas);
                        lost.extend(seqs);
                    }
                    7 => {
                        let _ = state.fact(Teller::Agent, Hop::Spilled, first, &batches, &mut deltas);
                        spilled.extend(seqs.clone());
                        sets[2].extend(seqs);
                    }
                    6 => {
                        state.hold(range(true), range(false), &mut deltas);
                        (in_flight, refused) = (seqs.collect(), BTreeSet::new());
                    }
                    _ => {
                        state.hold(range(false), range(true), &mut deltas);
                        (in_flight, refused) = (BTreeSet::new(), seqs.collect());
                    }
                }
            }
            let sum = |set: &mut dyn Iterator<Item = u64>| set.map(|seq| i64::try_from(seq).unwrap()).sum::<i64>();
            let [read, sent, received, delivered] = &sets;
            let sent: BTreeSet<u64> = sent.iter().chain(read.intersection(received)).copied().collect();
            let given_up: BTreeSet<u64> = read.difference(delivered).filter(|seq| lost.contains(seq)).copied().collect();
            let open: BTreeSet<u64> = read.difference(delivered).filter(|seq| !lost.contains(seq)).copied().collect();
            prop_assert_eq!(deltas.get(&7).copied().unwrap_or_default().dropped, sum(&mut given_up.iter().copied()));
            let tally = deltas.get(&7).copied().unwrap_or_default();
            prop_assert_eq!(tally.read, sum(&mut read.iter().copied()));
            prop_assert_eq!(tally.sent, sum(&mut sent.iter().copied()));
            prop_assert_eq!(tally.received, sum(&mut received.iter().copied()));
            prop_assert_eq!(tally.delivered, sum(&mut delivered.iter().copied()));
            let on_disk = |seq: &u64| spilled.contains(seq);
            let held = |seq: &u64| in_flight.contains(seq) || on_disk(seq);
            prop_assert_eq!(tally.spilled, sum(&mut open.iter().copied().filter(on_disk)));
            prop_assert_eq!(tally.in_flight, sum(&mut open.iter().copied().filter(held)));
            let refused = open.intersection(&refused).copied().filter(|seq| !on_disk(seq));
            prop_assert_eq!(tally.refused, sum(&mut { refused }));
            prop_assert_eq!(tally.ahead, sum(&mut delivered.difference(read).copied()));
            prop_assert_eq!(
                tally.read + tally.ahead,
                tally.delivered + tally.in_flight + tally.refused + tally.dropped + tally.missing
            );
        }
    }
}
