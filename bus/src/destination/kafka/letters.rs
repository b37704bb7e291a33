//! Records that the cluster will never take: kept as dead letters, left out when their batch comes again, sent
//! once more when somebody says so.
//!
//! # Constraints
//! A letter is on the disk before anything behind its record is sent. So a batch that comes again, after a kill
//! or a failure, is what it was less its letters, and what of that is in the topic is a beginning of it
//! (see [`super::readback`]).
//!
//! A letter that goes out again is a batch of one record under the id of its batch. Its end is written before the journal says anything of a
//! batch that was produced behind it; so after a kill it is found behind the journal's word, and is
//! not sent twice.
//!
//! Not for: which answers are final (see [`super::verbatim::meaning`], [`super::careful`]), the file (see [`crate::dead`]).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crossbeam_channel::Receiver;
use tributary_common::{
    batch::{Decoded, Decoder, MAX_DECODED_BYTES, Record},
    ids::BatchId,
};

use super::{
    Shared,
    owner::Work,
    readback::{Begins, Found, hash_of},
};
use crate::{
    budget::{Budget, MIN_BYTES, Permit, cost},
    dead::{Dead, Filter, Gone, Letters, again},
    destination::{Accepted, Done, Job, Replay},
    journal::now_ms,
};

/// A replay that finds no room looks again after this.
const ROOM_PAUSE: Duration = Duration::from_millis(5);

/// The records of a batch that are not among the dead letters.
pub(super) struct Alive<'a> {
    decoded: &'a Decoded,
    /// Places, ascending.
    dead: Vec<u32>,
    /// The only record has this place in its batch.
    alone: Option<u32>,
}

impl<'a> Alive<'a> {
    /// The records but for those of these places.
    pub(super) fn new(decoded: &'a Decoded, mut dead: Vec<u32>) -> Self {
        dead.retain(|&place| place < decoded.len());
        let alone = None;
        Self {
            decoded,
            dead,
            alone,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> u32 {
        let dead = u32::try_from(self.dead.len()).unwrap_or(u32::MAX);
        self.decoded.len().saturating_sub(dead)
    }

    /// Each with its place in the batch.
    pub(super) fn records(&self) -> impl Iterator<Item = (u32, Record<'a>)> {
        let alive = without(self.decoded.records(), &self.dead);
        alive.map(|(place, record)| (self.alone.unwrap_or(place), record))
    }
}

/// The records of a batch but for those of these places, ascending; each with its place.
pub(super) fn without<'a>(
    records: impl Iterator<Item = Record<'a>>,
    dead: &[u32],
) -> impl Iterator<Item = (u32, Record<'a>)> {
    let mut dead = dead.iter().copied().peekable();
    let placed = (0..).zip(records);
    placed.filter(move |(place, _record)| dead.next_if_eq(place).is_none())
}

/// What the destination has to do with dead letters.
pub(super) struct Mail {
    letters: Arc<Letters>,
    /// Letters that are to be sent once more, or were: whether each is in the log, which their file does not
    /// say yet.
    replays: Mutex<HashMap<u64, bool>>,
    /// Bytes of letters that are on their way once more; beside what the node may hold.
    budget: Budget,
}

impl Mail {
    pub(super) fn new(letters: &Arc<Letters>) -> Self {
        Self {
            letters: Arc::clone(letters),
            replays: Mutex::default(),
            budget: Budget::new(MIN_BYTES),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, bool>> {
        // Its changes are whole.
        self.replays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Letters that are to be sent once more, less those that are on their way.
    pub(super) fn want(&self, filter: &Filter) -> Vec<u64> {
        let mut replays = self.lock();
        let cards = self.letters.cards(filter);
        let mut fresh: Vec<u64> = cards.iter().map(|card| card.no).collect();
        fresh.retain(|no| !replays.contains_key(no));
        replays.extend(fresh.iter().map(|&no| (no, false)));
        fresh
    }

    /// How many are on their way once more.
    pub(super) fn replaying(&self) -> usize {
        self.lock().len()
    }

    /// A letter that went out again was answered. One that landed is on its way until its end is written.
    fn answered(&self, letter: u64) {
        let mut replays = self.lock();
        if replays.get(&letter) == Some(&false) {
            replays.remove(&letter);
        }
    }
}

impl Shared {
    /// The records of a batch that are to be in the topic.
    pub(super) fn alive<'a>(&self, job: &Job, decoded: &'a Decoded) -> Alive<'a> {
        let mut alive = Alive::new(decoded, self.dead_of(job));
        alive.alone = job.replay.map(|replay| replay.place);
        alive
    }

    /// The places of a batch's records that are dead letters; of a letter that goes out again, none.
    pub(super) fn dead_of(&self, job: &Job) -> Vec<u32> {
        if job.replay.is_some() {
            return Vec::new();
        }
        let of = self.mail.letters.of(job.batch.header.id());
        of.into_iter().map(|(place, _no)| place).collect()
    }

    /// Gives the batch on, unless it is a letter that has ended while its topic was opened, as the look has
    /// found it there: that one is answered.
    pub(super) fn unless_ended(&self, work: Work) -> Option<Work> {
        let ended = |replay: Replay| !self.mail.letters.has(replay.letter);
        if !work.job.replay.is_some_and(ended) {
            return Some(work);
        }
        let Work { topic, job, .. } = work;
        topic.left(&job.batch.header);
        let place = self.nowhere(&topic, &job.batch.header);
        job.done.tell(Ok(place));
        None
    }

    /// What a recovery found of a batch.
    pub(super) fn found(&self, work: &Work) -> Vec<Found> {
        match work.job.replay {
            // The look has ended those that are there.
            Some(_letter) => Vec::new(),
            None => work.topic.find(work.job.batch.header.id()),
        }
    }

    /// Keeps records as dead letters. Blocks on the disk.
    ///
    /// # Errors
    /// When they are full, or the disk fails; none is kept then.
    pub(super) fn bury(&self, dead: Vec<Dead>) -> Result<(), String> {
        let first = dead
            .first()
            .map(|one| (one.target.clone(), one.reason.clone()));
        let new = self.mail.letters.keep(dead, now_ms());
        let new = new.map_err(|error| format!("{}: {error:#}", self.name))?;
        if let Some((target, why)) = first.filter(|_first| new > 0) {
            metrics::counter!("tributary_bus_dead_records_total", "destination" => self.name.to_string())
                .increment(new as u64);
            tracing::warn!(destination = %self.name, target, dead_records = new, "records were put to the dead letters: {why}");
        }
        Ok(())
    }

    /// A letter that went out again is in the log. Said before it is answered.
    pub(super) fn replayed(&self, letter: u64) {
        self.mail.lock().insert(letter, true);
    }

    /// Ends the letters that are in the log. Before the journal says more of what is behind them. Blocks on
    /// the disk where there are some.
    pub(super) fn end_replayed(&self) {
        let landed = |(&no, &landed): (&u64, &bool)| landed.then_some(no);
        let landed: Vec<u64> = self.mail.lock().iter().filter_map(landed).collect();
        if self.end_letters(&landed) {
            let mut replays = self.mail.lock();
            replays.retain(|no, _landed| !landed.contains(no));
        }
    }

    fn end_letters(&self, letters: &[u64]) -> bool {
        if letters.is_empty() {
            return true;
        }
        match self.mail.letters.end(letters, Gone::Replayed) {
            Ok(ended) => {
                metrics::counter!("tributary_bus_dead_replayed_records_total", "destination" => self.name.to_string())
                    .increment(ended as u64);
                tracing::info!(destination = %self.name, replayed = ended, "dead letters were replayed");
                true
            }
            Err(error) => {
                tracing::error!(destination = %self.name, letters = letters.len(), "dead letters are delivered, and it cannot be written that they are; replayed by another life they are doubled: {error:#}");
                false
            }
        }
    }

    /// Ends the letters that a look has found in their topic: a life that was killed has sent them again.
    pub(super) fn end_found(&self, topic: &str, begins: &Begins) {
        let mut decoder = Decoder::new();
        let mut is_there = |batch: BatchId, no: u64| {
            let letter = self.mail.letters.read(no).ok()?;
            let hashes = begins
                .get(&batch)
                .filter(|_hashes| letter.target == topic)?;
            let decoded = decoder.decode(&letter.payload, MAX_DECODED_BYTES).ok()?;
            let wanted = decoded.records().next().map(|record| hash_of(&record))?;
            hashes
                .iter()
                .any(|hash| wanted.contains(hash))
                .then_some(no)
        };
        let mut there = Vec::new();
        for &batch in begins.keys() {
            let of = self.mail.letters.of(batch);
            there.extend(
                of.into_iter()
                    .filter_map(|(_place, no)| is_there(batch, no)),
            );
        }
        self.end_letters(&there);
    }

    /// Sends letters once more, over the lane of the batches that come, until the destination closes.
    pub(super) fn replay(&self, numbers: &Receiver<Vec<u64>>, deliver: impl Fn(Job)) {
        let mut decoder = Decoder::new();
        for no in numbers.iter().flatten() {
            match self.job_of(no, &mut decoder) {
                Some(job) => deliver(job),
                None => self.mail.answered(no),
            }
        }
    }

    /// A letter as a job, once there is room for it; none where it is gone.
    fn job_of(&self, no: u64, decoder: &mut Decoder) -> Option<Job> {
        // It may have been purged, or replayed, while it waited.
        let letter = self.mail.letters.read(no).ok()?;
        let (target, place) = (letter.target.clone(), letter.at);
        let (header, payload) = match again(letter, decoder) {
            Ok(again) => again,
            Err(error) => {
                tracing::error!(destination = %self.name, letter = no, "a dead letter cannot be read: {error}");
                return None;
            }
        };
        let permit = self.room(cost(&header, payload.len()))?;
        let (name, mail) = (self.name.clone(), Arc::clone(&self.mail));
        let done = Done::new(move |outcome| {
            mail.answered(no);
            if let Err(failure) = outcome {
                tracing::warn!(destination = %name, letter = no, ?failure, "a dead letter was not replayed");
            }
        });
        Some(Job {
            batch: Arc::new(Accepted::new(header, payload, permit)),
            target,
            done,
            replay: Some(Replay { letter: no, place }),
        })
    }

    fn room(&self, bytes: u64) -> Option<Permit> {
        loop {
            if self.is_closing() {
                return None;
            }
            if let Some(permit) = self.mail.budget.try_take(bytes) {
                return Some(permit);
            }
            std::thread::sleep(ROOM_PAUSE);
        }
    }
}
