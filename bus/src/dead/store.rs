//! The dead letters of one destination: a file, and what is known of each letter in memory.
//!
//! # Constraints
//! A letter is on the disk, behind a sync, before its batch is acknowledged. There is one letter for a
//! record, however often its batch comes. The file is bounded; what does not fit is not taken, and its
//! batch waits: nothing is thrown away by itself.
//!
//! # Operation
//! Letters, and what becomes of them, are appended. When more than half of the file is of letters that
//! are gone, it is written anew and takes the old one's place. What of them the manager has not heard is
//! kept that long (see [`super::telling`]). About 250 bytes of memory per letter, and so many letters at
//! most that it is some 50 MiB.
//!
//! Blocks on the disk: called by threads of destinations, and where an operator asks.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, bail};
use tributary_common::{
    disk::{self, AppendFile},
    header::BatchHeader,
    ids::{BatchId, Name},
    report::{DeadGroup, DeadHealth, DeadRecords},
};

use super::{
    card::{Card, Filter, grouped, kind_of},
    format::{self, Entry, Letter},
    telling::Telling,
};

/// The file in the destination's folder.
pub(super) const FILE: &str = "letters";
/// A file below this is not written anew.
const MIN_REWRITE_BYTES: u64 = 1 << 20;
/// The most letters of a destination: each is known in memory.
pub(super) const MAX_LETTERS: usize = 200_000;

/// A record that is to be kept.
#[derive(Debug)]
pub(crate) struct Dead {
    pub(crate) header: Arc<BatchHeader>,
    pub(crate) at: u32,
    pub(crate) target: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) status: u16,
    pub(crate) reason: String,
}

/// How a letter ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The destination has it.
    Replayed,
    /// Somebody gave it up.
    Purged,
}

#[derive(Debug)]
struct State {
    file: AppendFile,
    cards: BTreeMap<u64, Card>,
    /// By batch and place.
    known: BTreeMap<(BatchId, u32), u64>,
    kinds: HashMap<Arc<str>, ()>,
    /// Bytes of letters that are not gone.
    live: u64,
    next: u64,
    /// What the manager has not heard.
    telling: Telling,
    /// The letters by topic and reason, until they change.
    groups: Option<Vec<DeadGroup>>,
}

/// The dead letters of a destination.
pub(crate) struct Letters {
    name: Name,
    path: PathBuf,
    max: u64,
    state: Mutex<State>,
}

impl fmt::Debug for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letters")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Letters {
    /// Opens the letters of a destination, at most so many bytes of them, in a folder below `dir`. `told`:
    /// there is a manager that wants to hear of them; what is in the file is told it once more.
    ///
    /// # Errors
    /// A disk that does not answer, a file of another version: do not start.
    pub(crate) fn open(dir: &Path, name: &Name, max: u64, told: bool) -> anyhow::Result<Self> {
        let folder = dir.join(name.as_str());
        disk::create_dir_all(&folder)?;
        let path = folder.join(FILE);
        let bytes = disk::read(&path)?.unwrap_or_default();
        let scanned = format::scan(&bytes).with_context(|| path.display().to_string())?;
        let torn = bytes.len() - scanned.end;
        if scanned.damaged > 0 {
            tracing::error!(destination = %name, damaged_bytes = scanned.damaged, "the file of dead letters was damaged; what could be read counts");
        }
        let mut file = AppendFile::open(&path)?;
        if torn > 0 {
            tracing::warn!(destination = %name, torn_bytes = torn, "the file of dead letters had a torn tail; it is cut off");
            file.truncate(scanned.end as u64)?;
        }
        if file.is_empty() {
            file.append(&format::file_header())?;
            file.sync()?;
        }
        let mut state = State {
            file,
            cards: BTreeMap::new(),
            known: BTreeMap::new(),
            kinds: HashMap::new(),
            live: 0,
            next: 1,
            telling: Telling::new(name, told, max),
            groups: None,
        };
        for (entry, at, bytes) in scanned.entries {
            state.apply(entry, (at, bytes));
        }
        let letters = Self {
            name: name.clone(),
            path,
            max,
            state: Mutex::new(state),
        };
        letters.gauges(&letters.lock());
        Ok(letters)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is in memory follows the file entry by entry, also in a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps letters, all or none; those of records that are kept already only count their try. Synced
    /// when it returns. Gives how many are new.
    ///
    /// # Errors
    /// When there is no room, or the disk fails.
    pub(crate) fn keep(&self, dead: Vec<Dead>, now_ms: u64) -> anyhow::Result<usize> {
        let mut state = self.lock();
        let mut entries = Vec::with_capacity(dead.len());
        let mut next = state.next;
        let mut new = 0;
        for dead in dead {
            let key = (dead.header.id(), dead.at);
            if let Some(&no) = state.known.get(&key) {
                entries.push(Entry::Again {
                    no,
                    status: dead.status,
                    reason: dead.reason,
                    at_ms: now_ms,
                });
                continue;
            }
            entries.push(Entry::Letter(Letter {
                no: next,
                header: dead.header.encode()?,
                at: dead.at,
                target: dead.target,
                payload: dead.payload,
                status: dead.status,
                reason: dead.reason,
                first_ms: now_ms,
            }));
            next += 1;
            new += 1;
        }
        let mut bytes = Vec::new();
        entries
            .iter()
            .for_each(|entry| format::encode(entry, &mut bytes));
        if new > 0 && state.live + bytes.len() as u64 > self.max {
            bail!(
                "its dead letters are full: {} of {} bytes ([dead] max); replay or purge some",
                state.live,
                self.max
            );
        }
        if new > 0 && state.cards.len() + new > MAX_LETTERS {
            bail!(
                "its dead letters are full: {} of {MAX_LETTERS} letters; replay or purge some",
                state.cards.len()
            );
        }
        self.add(&mut state, entries)?;
        Ok(new)
    }

    /// Appends entries and syncs them; then they count.
    fn add(&self, state: &mut State, entries: Vec<Entry>) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        let mut places = Vec::with_capacity(entries.len());
        let begin = state.file.len();
        for entry in &entries {
            let before = bytes.len();
            format::encode(entry, &mut bytes);
            let long = u32::try_from(bytes.len() - before).unwrap_or(u32::MAX);
            places.push((begin + before as u64, long));
        }
        let written = state.file.append(&bytes).and_then(|_at| state.file.sync());
        if let Err(error) = written {
            // None of it counts; a sync that failed says nothing of what it left.
            state.file.truncate(begin)?;
            return Err(error.into());
        }
        for (entry, place) in entries.into_iter().zip(places) {
            state.apply(entry, place);
        }
        self.rewrite_when_empty(state)?;
        self.gauges(state);
        Ok(())
    }

    /// Ends letters, synced when it returns.
    ///
    /// # Errors
    /// When the disk fails; then none has ended.
    pub(crate) fn end(&self, which: &[u64], how: Gone) -> anyhow::Result<usize> {
        let mut state = self.lock();
        let there = which.iter().filter(|no| state.cards.contains_key(no));
        let entries = there.map(|&no| ended(no, how));
        let entries: Vec<_> = entries.collect();
        let count = entries.len();
        if count > 0 {
            self.add(&mut state, entries)?;
        }
        Ok(count)
    }

    /// The letters that are meant, the oldest first.
    pub(crate) fn cards(&self, filter: &Filter) -> Vec<Card> {
        let state = self.lock();
        let cards = state.cards.values().filter(|card| filter.takes(card));
        cards.cloned().collect()
    }

    /// A letter as it was kept, with its last reason where it was tried again.
    ///
    /// # Errors
    /// When it is not there, or the disk fails.
    pub(crate) fn read(&self, no: u64) -> anyhow::Result<Letter> {
        let state = self.lock();
        let card = state.cards.get(&no).context("there is no such letter")?;
        let mut bytes = vec![0; card.bytes as usize];
        state.file.file().read_exact_at(&mut bytes, card.at)?;
        match format::frame(&bytes) {
            Some((Entry::Letter(letter), _)) => Ok(letter),
            _other => bail!("letter {no} of destination {} is damaged", self.name),
        }
    }

    /// Whether a letter is there.
    pub(crate) fn has(&self, no: u64) -> bool {
        self.lock().cards.contains_key(&no)
    }

    /// The letters of a batch: place and number, in order.
    pub(crate) fn of(&self, batch: BatchId) -> Vec<(u32, u64)> {
        let state = self.lock();
        let of = state.known.range((batch, 0)..=(batch, u32::MAX));
        of.map(|(&(_batch, place), &no)| (place, no)).collect()
    }

    /// How many there are, and their bytes.
    pub(crate) fn size(&self) -> (usize, u64) {
        let state = self.lock();
        (state.cards.len(), state.live)
    }

    /// The most bytes.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// What the manager is told next, of at most so many letters.
    pub(crate) fn take_untold(&self, most: usize) -> Vec<DeadRecords> {
        let mut state = self.lock();
        let State { cards, telling, .. } = &mut *state;
        telling.take(most, |no| cards.get(&no))
    }

    /// The manager has what was taken last.
    pub(crate) fn told(&self) {
        self.lock().telling.told();
    }

    /// Whether the manager has heard of all.
    pub(crate) fn is_told(&self) -> bool {
        self.lock().telling.is_empty()
    }

    /// What is there now, in words for the manager.
    pub(crate) fn health(&self) -> DeadHealth {
        let mut state = self.lock();
        let groups = match state.groups.take() {
            Some(groups) => groups,
            None => grouped(state.cards.values()),
        };
        state.groups = Some(groups.clone());
        DeadHealth {
            letters: state.cards.len() as u64,
            bytes: state.live,
            max_bytes: self.max,
            groups,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    fn gauges(&self, state: &State) {
        let name = || self.name.to_string();
        metrics::gauge!("tributary_bus_dead_letters_count", "destination" => name())
            .set(state.cards.len() as f64);
        metrics::gauge!("tributary_bus_dead_letters_bytes", "destination" => name())
            .set(state.live as f64);
    }

    /// Writes the file anew without what is gone and told, once that is more than half of it.
    fn rewrite_when_empty(&self, state: &mut State) -> anyhow::Result<()> {
        let len = state.file.len();
        if len < MIN_REWRITE_BYTES || (state.live + state.telling.bytes()) * 2 > len {
            return Ok(());
        }
        let mut next = AppendFile::stage(&self.path.with_extension("new"))?;
        next.append(&format::file_header())?;
        let State {
            file,
            cards,
            telling,
            ..
        } = state;
        let mut copy = |card: &mut Card, end: Option<Entry>| -> anyhow::Result<()> {
            let mut bytes = vec![0; card.bytes as usize];
            file.file().read_exact_at(&mut bytes, card.at)?;
            if let Some(end) = end {
                format::encode(&end, &mut bytes);
            }
            card.moved = next.append(&bytes)?;
            Ok(())
        };
        // The ends come first: a record that came again after its end has a letter behind it.
        for (&no, (how, card)) in telling.ended_mut() {
            copy(card, Some(ended(no, *how)))?;
        }
        for card in cards.values_mut() {
            let again = (card.tries > 1).then(|| Entry::Again {
                no: card.no,
                status: card.status,
                reason: card.kind.to_string(),
                at_ms: card.last_ms,
            });
            copy(card, again)?;
        }
        next.sync()?;
        next.rename(&self.path)?;
        if let Some(folder) = self.path.parent() {
            disk::sync_dir(folder)?;
        }
        let gone = telling.ended_mut().map(|(_no, (_how, card))| card);
        for card in cards.values_mut().chain(gone) {
            card.at = card.moved;
        }
        state.file = next;
        Ok(())
    }
}

/// The entry of an end.
fn ended(no: u64, how: Gone) -> Entry {
    match how {
        Gone::Replayed => Entry::Replayed { no },
        Gone::Purged => Entry::Purged { no },
    }
}

impl State {
    fn kind(&mut self, reason: &str) -> Arc<str> {
        let kind = kind_of(reason);
        if let Some((kind, ())) = self.kinds.get_key_value(kind) {
            return Arc::clone(kind);
        }
        let kind: Arc<str> = kind.into();
        // Kinds come from the destination's words: bounded, as it is not ours what it says.
        if self.kinds.len() < 1000 {
            self.kinds.insert(Arc::clone(&kind), ());
        }
        kind
    }

    fn apply(&mut self, entry: Entry, (at, bytes): (u64, u32)) {
        self.groups = None;
        match entry {
            Entry::Letter(letter) => {
                self.next = self.next.max(letter.no + 1);
                let kind = self.kind(&letter.reason);
                let Some(card) = Card::new(&letter, kind, (at, bytes)) else {
                    return;
                };
                self.live += u64::from(bytes);
                self.known.insert(card.key, letter.no);
                self.telling.died(letter.no);
                self.cards.insert(letter.no, card);
            }
            Entry::Again {
                no,
                status,
                reason,
                at_ms,
            } => {
                let kind = self.kind(&reason);
                if let Some(card) = self.cards.get_mut(&no) {
                    card.status = status;
                    card.kind = kind;
                    card.last_ms = at_ms;
                    card.tries += 1;
                }
            }
            Entry::Replayed { no } => self.end(no, Gone::Replayed),
            Entry::Purged { no } => self.end(no, Gone::Purged),
        }
    }

    fn end(&mut self, no: u64, how: Gone) {
        if let Some(card) = self.cards.remove(&no) {
            self.known.remove(&card.key);
            self.live -= u64::from(card.bytes);
            self.telling.ended(no, how, card);
        }
        self.next = self.next.max(no + 1);
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::testing;

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

    fn open(dir: &TempDir) -> Letters {
        Letters::open(dir.path(), &Name::new("es").unwrap(), 4 << 20, false).unwrap()
    }

    fn numbers(letters: &Letters) -> Vec<(u64, u32)> {
        let cards = letters.cards(&Filter::default());
        cards.iter().map(|card| (card.no, card.tries)).collect()
    }

    #[test]
    fn letters_are_there_after_a_restart_and_one_for_each_record() {
        let dir = TempDir::new().unwrap();
        let letters = open(&dir);
        assert_eq!(
            letters.keep(vec![dead(1, 0, 9), dead(1, 1, 9)], 5).unwrap(),
            2
        );
        assert_eq!(
            letters.keep(vec![dead(1, 1, 9), dead(2, 0, 9)], 6).unwrap(),
            1
        );
        let want = [(1, 1), (2, 2), (3, 1)];
        assert_eq!(numbers(&letters), want);
        drop(letters);
        let letters = open(&dir);
        assert_eq!(numbers(&letters), want);
        let second = &letters.cards(&Filter::default())[1];
        assert_eq!((second.first_ms, second.last_ms), (5, 6));
        assert_eq!(&*second.kind, "mapper_parsing_exception");
        let letter = letters.read(2).unwrap();
        assert_eq!((letter.at, letter.payload), (1, vec![7; 9]));
        assert_eq!(letters.end(&[1, 9], Gone::Replayed).unwrap(), 1);
        assert_eq!(letters.end(&[2], Gone::Purged).unwrap(), 1);
        drop(letters);
        assert_eq!(numbers(&open(&dir)), [(3, 1)]);
    }

    #[test]
    fn what_does_not_fit_is_not_taken_and_room_comes_back() {
        let dir = TempDir::new().unwrap();
        let letters = open(&dir);
        for seq in 1..=3 {
            letters.keep(vec![dead(seq, 0, 1 << 20)], 1).unwrap();
        }
        let error = letters.keep(vec![dead(4, 0, 1 << 20)], 1).unwrap_err();
        assert!(error.to_string().contains("are full"), "{error}");
        // A record that is there may come as often as it likes.
        letters.keep(vec![dead(3, 0, 1 << 20)], 2).unwrap();
        letters.end(&[1, 2], Gone::Purged).unwrap();
        letters.keep(vec![dead(4, 0, 1 << 20)], 3).unwrap();
        assert_eq!(numbers(&letters), [(3, 2), (4, 1)]);
        assert_eq!(letters.read(3).unwrap().payload.len(), 1 << 20);
        let size = std::fs::metadata(dir.path().join("es/letters")).unwrap();
        assert!(size.len() < 3 << 20, "{}", size.len());
        drop(letters);
        assert_eq!(numbers(&open(&dir)), [(3, 2), (4, 1)]);
    }

    #[test]
    fn only_the_letters_that_are_meant_are_given() {
        let dir = TempDir::new().unwrap();
        let letters = open(&dir);
        letters.keep(vec![dead(1, 0, 1), dead(1, 1, 1)], 1).unwrap();
        let check = |filter: Filter, want: usize| {
            assert_eq!(letters.cards(&filter).len(), want, "{filter:?}");
        };
        let topic = |topic: &str| Filter {
            topic: Some(topic.into()),
            ..Filter::default()
        };
        check(topic("web"), 2);
        check(topic("other"), 0);
        check(
            Filter {
                no: Some(2),
                ..Filter::default()
            },
            1,
        );
        check(
            Filter {
                reason: Some("mapper_parsing_exception".into()),
                ..Filter::default()
            },
            2,
        );
    }
}
