//! Whether a file is the one that was read before: evidence, and the verdict on it.
//!
//! The key of [`crate::handle`] says which physical file it is. The evidence says whether its
//! content is still the one that was read: a hash of its first bytes, and a hash of the bytes just
//! before the offset. Same key and same evidence resume; same key and other evidence is a new
//! generation; an unknown key with the evidence of a generation that was just cut off or vanished
//! is a copy of it and continues at its offset. Two files with equal beginnings stay two files.
//!
//! Not for: looking for files. The reader calls it. The verdicts are pure.

use std::io;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::far::LogFile;

/// Bytes that the hash of a file's beginning covers at most.
pub(crate) const PREFIX_BYTES: u64 = 1024;
/// Bytes before an offset that its mark covers at most.
pub(crate) const MARK_BYTES: u64 = 256;

/// A hash of the first `len` bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Prefix {
    /// Bytes covered, at most [`PREFIX_BYTES`].
    pub(crate) len: u64,
    /// Their hash.
    pub(crate) hash: u64,
}

/// An offset, and a hash of the bytes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// In bytes from the file's start.
    pub(crate) offset: u64,
    /// Hash of the [`MARK_BYTES`] before it, or of all when there are fewer.
    pub(crate) hash: u64,
}

impl Mark {
    /// The mark at the end of `before`, which ends at `offset` and holds at least the bytes that a
    /// mark covers.
    pub(crate) fn at(offset: u64, before: &[u8]) -> Self {
        let covered = usize::try_from(offset.min(MARK_BYTES)).unwrap_or(0);
        debug_assert!(before.len() >= covered);
        let tail = before
            .get(before.len().saturating_sub(covered)..)
            .unwrap_or_default();
        Self {
            offset,
            hash: xxh3_64(tail),
        }
    }
}

/// What is remembered of a generation's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Evidence {
    /// Its beginning.
    pub(crate) prefix: Prefix,
    /// Where reading stopped.
    pub(crate) mark: Mark,
}

/// How a file's content compares with the evidence of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Match {
    /// The file reaches at least to the mark.
    pub(crate) reaches: bool,
    /// The first bytes are the same, as far as both go.
    pub(crate) prefix: bool,
    /// The bytes before the mark are the same; false when the file does not reach there.
    pub(crate) mark: bool,
}

impl Evidence {
    /// Compares with a file of `size` bytes.
    ///
    /// # Errors
    /// What reading says; the answer is unknown then.
    pub(crate) fn compare(&self, file: &LogFile, size: u64) -> io::Result<Match> {
        let reaches = size >= self.mark.offset;
        // A file shorter than the remembered beginning cannot be judged by its hash.
        let prefix = size >= self.prefix.len
            && (self.prefix.len == 0
                || hash_of(file, 0, self.prefix.len)? == Some(self.prefix.hash));
        let mark = reaches && {
            let covered = self.mark.offset.min(MARK_BYTES);
            covered == 0
                || hash_of(file, self.mark.offset - covered, covered)? == Some(self.mark.hash)
        };
        Ok(Match {
            reaches,
            prefix,
            mark,
        })
    }
}

/// Compares a file with a generation that was cut off: at the last of its marks that the file
/// reaches, since what was read last may have come after the copy was made. `marks` ascend.
///
/// # Errors
/// What reading says.
pub(crate) fn compare_with_copy(
    prefix: Prefix,
    marks: &[Mark],
    file: &LogFile,
    size: u64,
) -> io::Result<Match> {
    let reached = marks
        .iter()
        .rev()
        .find(|mark| mark.offset <= size && mark.offset > 0);
    match reached {
        Some(&mark) => Evidence { prefix, mark }.compare(file, size),
        None => Ok(Match {
            reaches: false,
            prefix: false,
            mark: false,
        }),
    }
}

/// The prefix of an open file, of at most `upto` bytes.
///
/// # Errors
/// What reading says.
pub(crate) fn prefix_of(file: &LogFile, upto: u64) -> io::Result<Prefix> {
    let len = upto.min(PREFIX_BYTES);
    let hash = hash_of(file, 0, len)?;
    Ok(hash.map_or(Prefix::default(), |hash| Prefix { len, hash }))
}

/// The mark at an offset of an open file; `None` when it ends before.
///
/// # Errors
/// What reading says.
pub(crate) fn mark_at(file: &LogFile, offset: u64) -> io::Result<Option<Mark>> {
    let covered = offset.min(MARK_BYTES);
    let hash = hash_of(file, offset - covered, covered)?;
    Ok(hash.map(|hash| Mark { offset, hash }))
}

/// The hash of a range; `None` when the file ends before it does.
fn hash_of(file: &LogFile, start: u64, len: u64) -> io::Result<Option<u64>> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    match file.read_exact_at(&mut bytes, start) {
        Ok(()) => Ok(Some(xxh3_64(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// What became of a file whose key is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The same content, perhaps with more behind it: go on at the offset.
    Same,
    /// Shorter than what was read: a new generation begins at 0.
    Truncated,
    /// Not shorter, but other content: a new generation begins at 0.
    Rewritten,
}

/// The verdict on a file with a known key.
pub(crate) fn verdict(seen: Match) -> Verdict {
    match seen {
        Match { reaches: false, .. } => Verdict::Truncated,
        Match {
            prefix: true,
            mark: true,
            ..
        } => Verdict::Same,
        Match {
            prefix: _,
            mark: _,
            reaches: true,
        } => Verdict::Rewritten,
    }
}

/// What happened to the generation that a newcomer resembles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its file is still there, whole: the newcomer may be a copy made before a truncation.
    Alive,
    /// Its file was cut off or rewritten a moment ago.
    CutOff,
    /// Its file is gone, and the newcomer was changed last at the very moment (in ns) when that
    /// file was: moved across file systems, or restored.
    VanishedSameTime,
}

/// What a file with an unknown key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Newcomer {
    /// A file of its own: read it from the beginning.
    New,
    /// A copy: it continues the generation at its offset.
    Copy,
    /// Perhaps the copy of a copy-and-truncate under way: wait a moment for the truncation.
    Undecided,
}

/// The verdict on a file with an unknown key, compared with one generation.
///
/// Equal content alone proves nothing: applications write equal headers, and a file may be deleted
/// and written anew. It takes the generation's fate as well.
pub(crate) fn newcomer(seen: Match, offset: u64, fate: Fate) -> Newcomer {
    let alike = seen.prefix && seen.mark && offset > 0;
    match (alike, fate) {
        (true, Fate::CutOff | Fate::VanishedSameTime) => Newcomer::Copy,
        (true, Fate::Alive) => Newcomer::Undecided,
        (false, _) => Newcomer::New,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn evidence(content: &[u8], offset: usize) -> Evidence {
        let len = content.len().min(offset).min(1024);
        Evidence {
            prefix: Prefix {
                len: len as u64,
                hash: xxh3_64(&content[..len]),
            },
            mark: Mark::at(offset as u64, &content[..offset]),
        }
    }

    fn compare(evidence: Evidence, content: &[u8]) -> Match {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, content).unwrap();
        evidence
            .compare(&crate::far::open_file(&path).unwrap(), content.len() as u64)
            .unwrap()
    }

    #[test]
    fn a_known_file_is_the_same_cut_off_or_rewritten() {
        let old: Vec<u8> = (0..5000u32).flat_map(|n| n.to_le_bytes()).collect();
        let check = |content: &[u8], wanted: Verdict| {
            assert_eq!(verdict(compare(evidence(&old, 4000), content)), wanted);
        };
        check(&old, Verdict::Same);
        check(&old[..4000], Verdict::Same);
        check(&old[..3999], Verdict::Truncated);
        check(b"", Verdict::Truncated);
        let mut other = old.clone();
        other[3999] ^= 1;
        check(&other, Verdict::Rewritten);
        let mut other = old.clone();
        other[0] ^= 1;
        check(&other, Verdict::Rewritten);
    }

    #[test]
    fn an_unread_file_is_always_the_same() {
        assert_eq!(verdict(compare(Evidence::default(), b"")), Verdict::Same);
        assert_eq!(
            verdict(compare(Evidence::default(), b"anything")),
            Verdict::Same
        );
    }

    #[test]
    fn only_the_fate_of_the_old_file_makes_a_copy() {
        let old = b"header\nline 1\nline 2\n";
        let check = |content: &[u8], fate: Fate, wanted: Newcomer| {
            let evidence = evidence(old, old.len());
            assert_eq!(
                newcomer(compare(evidence, content), evidence.mark.offset, fate),
                wanted
            );
        };
        check(
            b"header\nline 1\nline 2\nline 3\n",
            Fate::CutOff,
            Newcomer::Copy,
        );
        check(old, Fate::VanishedSameTime, Newcomer::Copy);
        check(old, Fate::Alive, Newcomer::Undecided);
        check(b"header\nline 1\nline X\n", Fate::CutOff, Newcomer::New);
        check(b"header\n", Fate::CutOff, Newcomer::New);
    }

    #[test]
    fn nothing_is_a_copy_of_a_file_that_was_not_read() {
        let seen = compare(Evidence::default(), b"x\n");
        assert_eq!(newcomer(seen, 0, Fate::CutOff), Newcomer::New);
    }
}
