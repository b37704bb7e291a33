//! One partition as the producer sees it: what waits for it, what is on its way, and in which order.
//!
//! # Constraints
//! What is given is taken by the broker in that order, each once. Brokers take a producer's batch only
//! when its sequence follows the one before, and answer one that they have with its old place; so a
//! batch whose answer was lost is sent again with the sequence that it had.
//!
//! # Operation
//! Up to five batches are on their way. After a failure, and with a producer that the broker has not
//! seen yet, only one: a broker takes any sequence of a producer that it does not know, so a second
//! batch could come before the first. Behind a refused batch nothing of its stream is sent: that one comes
//! again. Pure: no I/O, no clock.
//!
//! Not for: which broker leads (see [`super::cluster`]).

use std::collections::{HashSet, VecDeque};

use tokio::time::Instant;
use tributary_common::{backoff::Backoff, ids::StreamId};

use super::{
    broker::Haste,
    gather::{Flow, Run, Small},
    meaning::Meaning,
};

/// Batches on their way at a time; brokers keep the places of as many.
pub(super) const MAX_ON_THE_WAY: usize = 5;
/// A batch that is said to be damaged is sent so often.
const DAMAGED_TRIES: u32 = 4;

/// The number of a request; never used twice.
pub(super) type RequestNo = u64;
/// The number of a batch that is taken apart; a lane never uses one twice.
pub(super) type CutNo = u64;

/// Who the cluster says that we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Producer {
    pub(super) id: i64,
    pub(super) epoch: i16,
}

/// The streams whose order a batch is part of.
pub(super) type Streams<T> = fn(&T) -> Vec<StreamId>;

/// Bytes of batches that are merged, before a topic says that this is too much: what it takes where
/// nobody set it.
const MOST_BYTES: usize = 1 << 20;

/// A batch for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parcel<T> {
    pub(super) cargo: T,
    pub(super) records: u32,
    pub(super) bytes: usize,
    pub(super) haste: Haste,
    /// It may be merged with its neighbours.
    pub(super) small: Option<Small>,
    /// How many it was merged of; 1 where it was not.
    pub(super) batches: usize,
}

/// Whether a partition has something to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// No; what it waits for is an event.
    No,
    /// Of about so many bytes.
    Now(usize),
    /// Later: others may still join it.
    At(Instant),
}

/// A batch without a sequence.
#[derive(Debug)]
struct Waiting<T> {
    parcel: Parcel<T>,
    due: Instant,
}

/// A batch that is to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shipment<T> {
    pub(super) cargo: T,
    pub(super) producer: Producer,
    pub(super) sequence: i32,
}

/// What an answer leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<T> {
    /// Nothing but another try.
    Again,
    /// It is in the log, from this offset.
    Taken(Parcel<T>, i64),
    /// They are not taken until somebody allows it: what was refused, and what is behind it of its streams.
    Refused(Vec<Parcel<T>>),
    /// It is to be taken apart: [`Lane::cut`] takes what is left of it.
    Cut(CutNo),
    /// Nobody knows what is there: all of these are to be looked for.
    Broken(Vec<Parcel<T>>),
}

#[derive(Debug)]
enum State {
    /// In this request.
    Sent(RequestNo),
    /// To be sent again.
    Again,
    /// Too large, or spoilt by some of its records: waits for its pieces.
    Cutting(CutNo),
}

/// A batch with a sequence.
#[derive(Debug)]
struct Numbered<T> {
    parcel: Parcel<T>,
    sequence: i32,
    state: State,
    /// Its sequence changed while it was on its way.
    renumbered: bool,
    /// An answer to it was lost: the broker may have it.
    in_doubt: bool,
    /// A batch before it in its stream was refused: it is not to be sent again.
    doomed: bool,
    damaged: u32,
}

/// A partition.
#[derive(Debug)]
pub(super) struct Lane<T> {
    waiting: VecDeque<Waiting<T>>,
    /// The first ones of them that may go as one.
    run: Run,
    /// How they come.
    flow: Flow,
    /// Bytes of batches that are merged: less once that was too large for the topic.
    most: usize,
    numbered: VecDeque<Numbered<T>>,
    producer: Option<Producer>,
    next_sequence: i32,
    /// The broker has taken the last one of this producer that was answered.
    proven: bool,
    /// Something cannot be told: once all answers are there, everything is given back.
    broken: bool,
    not_before: Option<Instant>,
    backoff: Backoff,
    next_cut: CutNo,
    streams: Streams<T>,
}

impl<T: Clone> Lane<T> {
    pub(super) fn new(backoff: Backoff, streams: Streams<T>) -> Self {
        Self {
            waiting: VecDeque::new(),
            run: Run::default(),
            flow: Flow::default(),
            most: MOST_BYTES,
            numbered: VecDeque::new(),
            producer: None,
            next_sequence: 0,
            proven: false,
            broken: false,
            not_before: None,
            backoff,
            next_cut: 0,
            streams,
        }
    }

    /// A batch behind all others. Bounded by the permits that they carry.
    pub(super) fn push(&mut self, parcel: Parcel<T>, now: Instant) {
        let due = Small::due(parcel.small, now);
        self.flow.came(now);
        self.run.add(&parcel, due, self.most);
        self.waiting.push_back(Waiting { parcel, due });
    }

    /// Looks anew which of those that wait may go as one.
    fn gather(&mut self) {
        let mut run = Run::default();
        let mut waiting = self.waiting.iter();
        while waiting
            .next()
            .is_some_and(|one| run.add(&one.parcel, one.due, self.most))
        {}
        self.run = run;
    }

    /// Takes out what goes next: one batch, or several as one.
    fn next(&mut self, merge: impl FnOnce(&[Parcel<T>]) -> Option<Parcel<T>>) -> Option<Parcel<T>> {
        let run = self.waiting.iter().take(self.run.count);
        let run: Vec<Parcel<T>> = run.map(|one| one.parcel.clone()).collect();
        let next = match run.len() {
            0 | 1 => None,
            _ => merge(&run),
        };
        // As it came where it is alone, or cannot be merged.
        let next = next.or_else(|| run.into_iter().next())?;
        self.waiting.drain(..next.batches.min(self.waiting.len()));
        self.gather();
        Some(next)
    }

    /// Whether there is anything that has no place in the log yet.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.numbered.is_empty()
    }

    /// Batches in requests without an answer.
    pub(super) fn on_the_way(&self) -> usize {
        let sent = |one: &&Numbered<T>| matches!(one.state, State::Sent(_));
        self.numbered.iter().filter(sent).count()
    }

    /// Before when nothing is sent.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// Whether a producer is missing to go on.
    pub(super) fn needs_producer(&self) -> bool {
        self.producer.is_none() && !self.waiting.is_empty()
    }

    /// Whether something may be sent now.
    pub(super) fn ready(&self, now: Instant) -> Ready {
        if self.broken || self.not_before.is_some_and(|at| at > now) {
            return Ready::No;
        }
        let on_the_way = self.on_the_way();
        if on_the_way < self.numbered.len() {
            // In order: the first one alone, once no answer is missing.
            let first = self.numbered.front();
            let ready = first.filter(|one| on_the_way == 0 && matches!(one.state, State::Again));
            return ready.map_or(Ready::No, |one| Ready::Now(one.parcel.bytes));
        }
        let window = if self.proven { MAX_ON_THE_WAY } else { 1 };
        if on_the_way >= window || self.waiting.is_empty() {
            return Ready::No;
        }
        match self.run.goes(on_the_way > 0, &self.flow, now) {
            at if at > now => Ready::At(at),
            _ => Ready::Now(self.run.bytes),
        }
    }

    /// Takes the batch that may be sent now into a request. `producer` counts where none was used yet.
    /// `merge` makes one batch of several, or of as many of the first ones as go together, if any do.
    pub(super) fn send(
        &mut self,
        request: RequestNo,
        producer: Option<Producer>,
        now: Instant,
        merge: impl FnOnce(&[Parcel<T>]) -> Option<Parcel<T>>,
    ) -> Option<Shipment<T>> {
        if !matches!(self.ready(now), Ready::Now(_)) {
            return None;
        }
        let producer = self.producer.or(producer)?;
        self.producer = Some(producer);
        let again = self.numbered.front_mut();
        let again = again.filter(|first| matches!(first.state, State::Again));
        if let Some(first) = again {
            first.state = State::Sent(request);
            first.renumbered = false;
            return Some(Shipment {
                cargo: first.parcel.cargo.clone(),
                producer,
                sequence: first.sequence,
            });
        }
        let parcel = self.next(merge)?;
        let sequence = self.next_sequence;
        self.next_sequence = moved(sequence, i64::from(parcel.records));
        let cargo = parcel.cargo.clone();
        self.numbered.push_back(Numbered {
            parcel,
            sequence,
            state: State::Sent(request),
            renumbered: false,
            in_doubt: false,
            doomed: false,
            damaged: 0,
        });
        Some(Shipment {
            cargo,
            producer,
            sequence,
        })
    }

    /// The answer to this lane's batch in a request; `offset` is where a taken one begins.
    pub(super) fn answered(
        &mut self,
        request: RequestNo,
        meaning: Meaning,
        offset: i64,
        (now, random): (Instant, &mut fastrand::Rng),
    ) -> Verdict<T> {
        let sent = |one: &Numbered<T>| matches!(one.state, State::Sent(no) if no == request);
        let Some(at) = self.numbered.iter().position(sent) else {
            return Verdict::Again;
        };
        let first = at == 0;
        if meaning == Meaning::Taken {
            // Those before it have no answer that says so, but are there; the broker has judged by their
            // sequence. Where one cannot be, the order is lost, and what is there is looked for.
            let mut before = self.numbered.iter().take(at);
            self.broken |= !before.all(|one| one.in_doubt);
            self.proven = first;
            if first {
                self.not_before = None;
                self.backoff.reset();
            }
            return match self.numbered.remove(at) {
                Some(one) => Verdict::Taken(one.parcel, offset),
                None => Verdict::Again,
            };
        }
        self.proven = false;
        let Some(one) = self.numbered.get_mut(at) else {
            return Verdict::Again;
        };
        one.in_doubt |= matches!(meaning, Meaning::Later | Meaning::Moved);
        one.state = State::Again;
        match meaning {
            _ if self.broken => {}
            _ if one.doomed && one.in_doubt => self.broken = true,
            // What came behind it meanwhile did not know of that.
            _ if one.doomed => return Verdict::Refused(self.refuse(at)),
            Meaning::Moved | Meaning::Later => self.pause(now, random),
            Meaning::OutOfOrder if !first || one.renumbered => {}
            Meaning::Damaged if one.damaged + 1 < DAMAGED_TRIES => {
                one.damaged += 1;
                self.pause(now, random);
            }
            Meaning::TooLarge | Meaning::Damaged | Meaning::Unfit if !one.in_doubt => {
                let cut = self.next_cut;
                self.next_cut += 1;
                one.state = State::Cutting(cut);
                let (bytes, batches) = (one.parcel.bytes, one.parcel.batches);
                if meaning == Meaning::TooLarge && batches > 1 {
                    self.most = self.most.min(bytes / 2);
                    self.gather();
                }
                return Verdict::Cut(cut);
            }
            Meaning::Refused(_) if !one.in_doubt => return Verdict::Refused(self.refuse(at)),
            Meaning::Taken
            | Meaning::TooLarge
            | Meaning::Damaged
            | Meaning::Unfit
            | Meaning::Refused(_)
            | Meaning::OutOfOrder
            | Meaning::Broken => self.broken = true,
        }
        self.settle()
    }

    /// The answer to this lane's batch in a request will not come.
    pub(super) fn lost(&mut self, request: RequestNo) -> Verdict<T> {
        for one in &mut self.numbered {
            if matches!(one.state, State::Sent(no) if no == request) {
                one.state = State::Again;
                one.in_doubt = true;
                self.proven = false;
                // The broker may still come to its old sequence, which may be another batch's now.
                self.broken |= one.renumbered;
            }
        }
        self.settle()
    }

    /// Gives everything back once it is broken and no answer is missing: what is still on its way may
    /// come into the log, and nobody shall look before.
    pub(super) fn settle(&mut self) -> Verdict<T> {
        match self.broken && self.on_the_way() == 0 {
            true => Verdict::Broken(self.take_all()),
            false => Verdict::Again,
        }
    }

    /// The batch that is taken apart under this number; none where it was given back in between.
    pub(super) fn cutting(&self, cut: CutNo) -> Option<&Parcel<T>> {
        self.numbered.get(self.cut_at(cut)?).map(|one| &one.parcel)
    }

    fn cut_at(&self, cut: CutNo) -> Option<usize> {
        let mut all = self.numbered.iter();
        all.position(|one| matches!(one.state, State::Cutting(no) if no == cut))
    }

    /// What is left of a batch that was taken apart, in order: the pieces have its sequences, and what is
    /// behind them moves up by the records that are in none. Where nothing is left it is given back.
    pub(super) fn cut(&mut self, cut: CutNo, pieces: Vec<Parcel<T>>) -> Option<Parcel<T>> {
        let mut at = self.cut_at(cut)?;
        let whole = self.numbered.remove(at)?;
        let (begins, mut sequence) = (at, whole.sequence);
        for parcel in pieces {
            // A single one is damaged only when it is so again and again.
            let damaged = if parcel.records > 1 { whole.damaged } else { 0 };
            let records = i64::from(parcel.records);
            let piece = Numbered {
                parcel,
                sequence,
                state: State::Again,
                renumbered: false,
                in_doubt: false,
                doomed: false,
                damaged,
            };
            self.numbered.insert(at, piece);
            sequence = moved(sequence, records);
            at += 1;
        }
        let end = moved(whole.sequence, i64::from(whole.parcel.records));
        if sequence != end {
            self.move_up(at, i64::from(end) - i64::from(sequence));
        }
        (at == begins).then_some(whole.parcel)
    }

    /// Leaves out the batch that is taken apart under this number, and what is behind it of its streams.
    /// [`Lane::settle`] is to be asked then.
    pub(super) fn refuse_cut(&mut self, cut: CutNo) -> Vec<Parcel<T>> {
        let at = self.cut_at(cut);
        at.map_or_else(Vec::new, |at| self.refuse(at))
    }

    /// Takes out a refused batch, and what is behind it of its streams, which must not be in the log before it
    /// comes again. What is on its way of that has an answer still to come.
    fn refuse(&mut self, mut at: usize) -> Vec<Parcel<T>> {
        let mut out: Vec<Parcel<T>> = self.leave_out(at).into_iter().collect();
        let of = |parcel: &Parcel<T>| (self.streams)(&parcel.cargo);
        let mut streams: HashSet<StreamId> = out.iter().flat_map(of).collect();
        while let Some(one) = self.numbered.get_mut(at) {
            let of = (self.streams)(&one.parcel.cargo);
            if !of.iter().any(|stream| streams.contains(stream)) {
                at += 1;
                continue;
            }
            // Merged ones bring in the other streams that they are of.
            streams.extend(of);
            match one.state {
                State::Sent(_) => (one.doomed, at) = (true, at + 1),
                State::Again if one.in_doubt => (self.broken, at) = (true, at + 1),
                State::Again | State::Cutting(_) => out.extend(self.leave_out(at)),
            }
        }
        let is_behind = |one: &Waiting<T>| {
            let of = (self.streams)(&one.parcel.cargo);
            of.iter().any(|stream| streams.contains(stream))
        };
        let behind = extract(&mut self.waiting, is_behind);
        out.extend(behind.into_iter().map(|one| one.parcel));
        self.gather();
        out
    }

    /// Takes everything out; the next batch begins with a new producer.
    pub(super) fn take_all(&mut self) -> Vec<Parcel<T>> {
        self.producer = None;
        self.next_sequence = 0;
        self.proven = false;
        self.broken = false;
        self.not_before = None;
        self.run = Run::default();
        let numbered = self.numbered.drain(..).map(|one| one.parcel);
        let waiting = self.waiting.drain(..).map(|one| one.parcel);
        numbered.chain(waiting).collect()
    }

    /// Waits before the next try.
    pub(super) fn pause(&mut self, now: Instant, random: &mut fastrand::Rng) {
        // Answers that come together are one failure.
        if self.not_before.is_none_or(|at| at <= now) {
            self.not_before = Some(now + self.backoff.next(random));
        }
    }

    /// Takes out a batch that is certainly not in the log: those behind it move up.
    fn leave_out(&mut self, at: usize) -> Option<Parcel<T>> {
        let out = self.numbered.remove(at)?;
        self.move_up(at, i64::from(out.parcel.records));
        Some(out.parcel)
    }

    /// Those from `at` on have sequences that are so many records lower.
    fn move_up(&mut self, at: usize, records: i64) {
        for behind in self.numbered.iter_mut().skip(at) {
            behind.sequence = moved(behind.sequence, -records);
            behind.renumbered = true;
        }
        self.next_sequence = moved(self.next_sequence, -records);
    }
}

/// Takes out those of which it is true; both keep their order.
fn extract<V>(from: &mut VecDeque<V>, is_out: impl Fn(&V) -> bool) -> Vec<V> {
    let mut out = Vec::new();
    for one in std::mem::take(from) {
        match is_out(&one) {
            true => out.push(one),
            false => from.push_back(one),
        }
    }
    out
}

/// A sequence so many records further; after the largest comes 0.
fn moved(sequence: i32, records: i64) -> i32 {
    const COUNT: i64 = 1 << 31;
    let moved = (i64::from(sequence) + records).rem_euclid(COUNT);
    i32::try_from(moved).unwrap_or_default()
}

#[cfg(test)]
mod tests;
