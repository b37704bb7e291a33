//! Dead letters in words, for `tributary inspect dead`. Reads, never writes; a running node may go on.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Serialize;
use tributary_common::disk;

use super::{
    card::{Card, grouped, kind_of},
    format::{self, Entry},
    store::FILE,
};

/// The dead letters of a node.
#[derive(Debug, Serialize)]
pub struct Inspection {
    destinations: Vec<Destination>,
}

impl Inspection {
    /// Whether everything that was written can be read.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let mut all = self.destinations.iter();
        all.all(|one| one.damaged_bytes == 0 && one.unreadable_letters == 0)
    }
}

#[derive(Debug, Serialize)]
struct Destination {
    destination: String,
    letters: usize,
    /// Of the letters.
    bytes: u64,
    file_bytes: usize,
    /// In the file still, or again.
    replayed: usize,
    purged: usize,
    /// Cut off at the next start: nothing of it was acknowledged.
    torn_bytes: usize,
    damaged_bytes: usize,
    /// Whose batch is not known.
    unreadable_letters: usize,
    reasons: Vec<Reason>,
}

#[derive(Debug, Serialize)]
struct Reason {
    topic: String,
    reason: String,
    status: u16,
    letters: u64,
    first_ms: u64,
    last_ms: u64,
}

/// The folders with letters in `dir`: itself, or those in it.
fn folders(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if dir.join(FILE).is_file() {
        return Ok(vec![dir.to_owned()]);
    }
    let inside = disk::list(dir)?.into_iter();
    Ok(inside.filter(|path| path.join(FILE).is_file()).collect())
}

/// Whether `dir` is a folder of dead letters: of a node, or of one of its destinations.
///
/// # Errors
/// When it cannot be read.
pub fn is_dead(dir: &Path) -> anyhow::Result<bool> {
    let named = || dir.file_name().is_some_and(|name| name == "dead");
    Ok(dir.is_dir() && (!folders(dir)?.is_empty() || named()))
}

/// Reads the dead letters of a node, or of one of its destinations.
///
/// # Errors
/// When they cannot be read, or are of another version.
pub fn inspect(dir: &Path) -> anyhow::Result<Inspection> {
    let folders = folders(dir)?;
    let destinations = folders.iter().map(|folder| look(folder));
    Ok(Inspection {
        destinations: destinations.collect::<anyhow::Result<_>>()?,
    })
}

fn look(dir: &Path) -> anyhow::Result<Destination> {
    let path = dir.join(FILE);
    let bytes = disk::read(&path)?.unwrap_or_default();
    let scanned = format::scan(&bytes).with_context(|| path.display().to_string())?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let mut found = Destination {
        destination: name.into_owned(),
        letters: 0,
        bytes: 0,
        file_bytes: bytes.len(),
        replayed: 0,
        purged: 0,
        torn_bytes: bytes.len() - scanned.end,
        damaged_bytes: scanned.damaged,
        unreadable_letters: 0,
        reasons: Vec::new(),
    };
    let mut cards: BTreeMap<u64, Card> = BTreeMap::new();
    for (entry, at, long) in scanned.entries {
        match entry {
            Entry::Letter(letter) => {
                match Card::new(&letter, kind_of(&letter.reason).into(), (at, long)) {
                    Some(card) => drop(cards.insert(letter.no, card)),
                    None => found.unreadable_letters += 1,
                }
            }
            Entry::Again {
                no,
                status,
                reason,
                at_ms,
            } => {
                if let Some(card) = cards.get_mut(&no) {
                    card.status = status;
                    card.kind = kind_of(&reason).into();
                    card.last_ms = at_ms;
                }
            }
            Entry::Replayed { no } => found.replayed += usize::from(cards.remove(&no).is_some()),
            Entry::Purged { no } => found.purged += usize::from(cards.remove(&no).is_some()),
        }
    }
    found.letters = cards.len();
    found.bytes = cards.values().map(|card| u64::from(card.bytes)).sum();
    let reasons = grouped(cards.values()).into_iter().map(|group| Reason {
        topic: group.topic.into(),
        reason: group.reason,
        status: group.status,
        letters: group.letters,
        first_ms: group.first_ms,
        last_ms: group.last_ms,
    });
    found.reasons = reasons.collect();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tempfile::TempDir;
    use tributary_common::ids::Name;

    use super::*;
    use crate::{
        dead::{Dead, Gone, Letters},
        testing,
    };

    fn dead(seq: u64, reason: &str) -> Dead {
        let (header, payload) = testing::batch("web", 1, seq, &["x"]);
        Dead {
            header: Arc::new(header),
            at: 0,
            target: "logs".into(),
            payload: payload.to_vec(),
            status: 400,
            reason: reason.into(),
        }
    }

    #[test]
    fn letters_are_told_by_reason_and_a_flipped_bit_is_seen() {
        let dir = TempDir::new().unwrap();
        let letters = Letters::open(dir.path(), &Name::new("es").unwrap(), 1 << 20, true).unwrap();
        let four = ["a: 1", "a: 2", "b: 3", "a: 4"].iter().zip(1..);
        letters
            .keep(four.map(|(why, seq)| dead(seq, why)).collect(), 5)
            .unwrap();
        letters.end(&[1], Gone::Replayed).unwrap();
        letters.keep(vec![dead(2, "b: 5")], 9).unwrap();
        drop(letters);
        let path = dir.path().join("es").join(FILE);
        let before = std::fs::read(&path).unwrap();
        for folder in [dir.path(), &dir.path().join("es")] {
            assert!(is_dead(folder).unwrap());
            let found = inspect(folder).unwrap();
            assert!(found.is_sound());
            let es = &found.destinations[0];
            assert_eq!((es.letters, es.replayed, es.purged), (3, 1, 0));
            let reasons = es.reasons.iter();
            let reasons: Vec<_> = reasons
                .map(|one| (&*one.reason, one.letters, one.first_ms, one.last_ms))
                .collect();
            assert_eq!(reasons, [("b", 2, 5, 9), ("a", 1, 5, 5)]);
        }
        assert_eq!(std::fs::read(&path).unwrap(), before, "it only reads");
        let mut spoiled = before;
        spoiled[60] ^= 1;
        std::fs::write(&path, spoiled).unwrap();
        let found = inspect(dir.path()).unwrap();
        assert!(!found.is_sound());
        assert_eq!(found.destinations[0].letters, 3);
        let empty = TempDir::new().unwrap();
        assert!(!is_dead(empty.path()).unwrap());
    }
}
