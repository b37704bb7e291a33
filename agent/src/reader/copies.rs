//! Copy and truncate: a generation that was cut off goes on in its copy.
//!
//! When a file is cut off, what of it was not read may stand in a copy beside it: the generation
//! takes the copy's file and reads on at its offset, while the old file begins a new generation. A
//! copy inside the task's patterns is never read as a file of its own. It may turn up before the
//! truncation: a newcomer that is like a living generation waits a moment before it counts as new.
//!
//! Not for: the evidence itself (see [`crate::identify`]).

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;
use tributary_common::{
    ids::{GenerationId, StreamId},
    span::Span,
};

use super::{CutOff, Reader, turn::Step};
use crate::{
    checkpoint::{GenerationRecord, Record, State},
    clock,
    content::Content,
    discover::is_absence,
    far::{self, LogFile, open_file},
    handle::{self, FileInfo, FileKey, FileKind},
    identify::{Fate, Mark, Match, Newcomer, Prefix, compare_with_copy, mark_at, newcomer},
    path::LogPath,
    shown::shown,
    tail::{Place, Tail, generation_id},
};

/// How long a cut-off generation looks for its copy.
pub(super) const REMEMBER: Duration = Duration::from_secs(60);
/// The most files of a folder that are compared.
pub(super) const MAX_COMPARED: usize = 64;

/// Where a copy may be that cannot be looked at: nobody knows whether there is one.
#[derive(Debug)]
pub(super) struct Unseen {
    path: PathBuf,
    error: io::Error,
}

/// A generation whose copy may be where nobody can look now.
#[derive(Debug)]
pub(super) struct Sought {
    stream: usize,
    generation: GenerationId,
    /// What cannot be looked at.
    path: PathBuf,
    /// Since when; `None` when everything could be looked at by now.
    since: Option<Instant>,
}

/// A copy that was found.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) path: LogPath,
    pub(super) file: LogFile,
    pub(super) info: FileInfo,
}

impl Reader {
    /// The file of a generation was cut off or written anew: it goes on in a copy or ends, and a new
    /// generation begins.
    pub(super) fn cut_off(&mut self, stream: usize, at: usize, now: Instant) -> Step {
        let Some(known) = self.streams.get(stream) else {
            return Step::Nothing(None);
        };
        let channel = known.channel;
        let Some(old) = known.tails.get(at) else {
            return Step::Nothing(None);
        };
        let (prefix, marks) = (old.evidence.prefix, old.marks());
        let (key, generation, path) = (old.key, old.generation, old.real_path().to_owned());
        self.count_cut_off(channel);
        if !self.is_judged_anew(stream, at, now) {
            self.begin_behind(stream, at, now);
        }
        let copy = find_copy(&path, (prefix, &marks), |info| {
            info.key != key && !self.by_key.contains_key(&(channel, info.key))
        });
        tracing::debug!(
            path = shown(&path),
            read_to = marks.last().map_or(0, |mark| mark.offset),
            ?copy,
            "a file was cut off"
        );
        self.cut_off.push(CutOff {
            channel,
            stream,
            generation,
            prefix,
            marks,
            since: now,
        });
        match copy {
            Ok(Some(copy)) => self.go_on_in(stream, generation, copy, now),
            Ok(None) if self.wait_for_copy(stream, at) || self.seek_packed(stream, at, now) => {}
            Ok(None) => self.end_cut_off(stream, at),
            Err(unseen) => {
                self.cannot_see(stream, at, unseen, now);
                if let Some(tail) = self.tail(stream, at) {
                    tail.place = Place::Awaited(now);
                    self.any_awaited = true;
                }
            }
        }
        Step::Changed
    }

    /// The copy of a generation may be where nobody can look: that is told, and tried again at each look.
    fn cannot_see(&mut self, stream: usize, at: usize, unseen: Unseen, now: Instant) {
        let Some(known) = self.streams.get(stream) else {
            return;
        };
        let Some(tail) = known.tails.get(at) else {
            return;
        };
        let (channel, generation) = (known.channel, tail.generation);
        self.tell_unreadable(channel, &unseen.path, &unseen.error);
        let is_it =
            |sought: &&mut Sought| (sought.stream, sought.generation) == (stream, generation);
        match self.sought.iter_mut().find(is_it) {
            Some(sought) => {
                sought.path = unseen.path;
                sought.since.get_or_insert(now);
            }
            None => {
                let mut all = std::mem::take(&mut self.sought);
                all.retain(|known| self.place_of(known.stream, known.generation).is_some());
                all.push(Sought {
                    stream,
                    generation,
                    path: unseen.path,
                    since: Some(now),
                });
                self.sought = all;
            }
        }
    }

    /// Whether the copy of a generation may still be where nobody could look so far.
    pub(super) fn is_sought(&self, stream: usize, at: usize) -> bool {
        let tail = self
            .streams
            .get(stream)
            .and_then(|known| known.tails.get(at));
        tail.is_some_and(|tail| {
            let is_it =
                |sought: &&Sought| (sought.stream, sought.generation) == (stream, tail.generation);
            let sought = self.sought.iter().find(is_it);
            sought
                .is_some_and(|sought| sought.since.is_some_and(|since| since.elapsed() < REMEMBER))
        })
    }

    /// A generation is not sought any more: all could be looked at, or its time is over. True when it was.
    pub(super) fn seek_no_longer(&mut self, stream: usize, at: usize) -> bool {
        let tail = self.tail(stream, at);
        let Some(generation) = tail.map(|tail| tail.generation) else {
            return false;
        };
        let is_it = |sought: &Sought| (sought.stream, sought.generation) == (stream, generation);
        let Some(place) = self.sought.iter().position(is_it) else {
            return false;
        };
        let sought = self.sought.swap_remove(place);
        self.readable_again(stream, &sought.path);
        true
    }

    /// A number of truncations, at least this, under which the stream has no generation of the file: one
    /// that went on in a copy, or ended, keeps its name for ever.
    pub(super) fn unused_number(&self, stream: usize, key: FileKey, least: u32) -> u32 {
        let id = self.streams.get(stream).map(|known| known.id);
        let is_used = |number: &u32| {
            let generation = generation_id(key, *number);
            let known = |state: &State| {
                state
                    .generation(id.unwrap_or(StreamId(0)), generation)
                    .is_some()
            };
            self.tail_of(stream, generation).is_some() || self.wiring.checkpoint.read(known)
        };
        (least..).find(|number| !is_used(number)).unwrap_or(least)
    }

    /// The file of a generation is that of the next one, which begins.
    fn begin_behind(&mut self, stream: usize, at: usize, now: Instant) {
        let Some((key, next)) = self
            .tail(stream, at)
            .map(|old| (old.key, old.truncations + 1))
        else {
            return;
        };
        let next = self.unused_number(stream, key, next);
        let Some(known) = self.streams.get_mut(stream) else {
            return;
        };
        let (id, channel) = (known.id, known.channel);
        let Some(old) = known.tails.get_mut(at) else {
            return;
        };
        let mut new = Tail::new(key, old.inode, next, old.path.clone(), now);
        new.place = old.place;
        new.names = std::mem::take(&mut old.names);
        new.real.clone_from(&old.real);
        new.device = old.device;
        new.file = old.file.take();
        let generation = old.generation;
        let new_generation = new.generation;
        let new_record = new.record(id);
        known.tails.push(new);
        self.by_key.insert((channel, key), (stream, new_generation));
        self.rename_names((channel, stream, generation), new_generation);
        self.wiring
            .checkpoint
            .write(vec![Record::Generation(new_record)]);
    }

    /// Whether a copy may still turn up: one that was seen before the truncation is being judged.
    fn wait_for_copy(&mut self, stream: usize, at: usize) -> bool {
        let Some(tail) = self.tail(stream, at) else {
            return false;
        };
        let like = (stream, tail.generation);
        let waiting = self
            .undecided
            .iter()
            .any(|waiting| waiting.like == Some(like));
        if waiting {
            // `decide` brings it on.
            self.undecided
                .iter_mut()
                .filter(|waiting| waiting.like == Some(like))
                .for_each(|waiting| {
                    waiting.decide_at = Instant::now();
                });
            if let Some(tail) = self.tail(stream, at) {
                tail.place = Place::Awaited(Instant::now());
                self.any_awaited = true;
            }
        }
        waiting
    }

    /// Paths that named the cut-off generation name the new one.
    fn rename_names(&mut self, old: (usize, usize, GenerationId), new: GenerationId) {
        for names in self.by_path.values_mut() {
            names
                .iter_mut()
                .filter(|name| **name == old)
                .for_each(|name| name.2 = new);
        }
    }

    /// A cut-off generation without a copy: what was not read of it is lost.
    pub(super) fn end_cut_off(&mut self, stream: usize, at: usize) {
        let Some(known) = self.streams.get_mut(stream) else {
            return;
        };
        if at >= known.tails.len() {
            return;
        }
        let tail = known.tails.remove(at);
        let id = known.id;
        let file = shown(&tail.path);
        for cut in &tail.replay {
            self.lose_cut(stream, cut, file.clone(), "truncated-unsent");
        }
        if tail.unread() > 0 {
            let span = Span {
                start: tail.offset(),
                end: tail.size,
            };
            self.lose(
                stream,
                tail.generation,
                file,
                span,
                "truncated-unread",
                None,
            );
        }
        let record = GenerationRecord {
            ended_ms: Some(clock::now_ms()),
            ..tail.record(id)
        };
        self.wiring
            .checkpoint
            .write(vec![Record::Generation(record)]);
    }

    /// A generation whose file is a younger one's: it was cut off, and whoever noticed was killed
    /// before he could say in which copy it goes on.
    pub(super) fn was_left_cut_off(&mut self, stream: usize, at: usize, now: Instant) {
        let Some(known) = self.streams.get(stream) else {
            return;
        };
        let Some(tail) = known.tails.get(at) else {
            return;
        };
        self.cut_off.push(CutOff {
            channel: known.channel,
            stream,
            generation: tail.generation,
            prefix: tail.evidence.prefix,
            marks: tail.marks(),
            since: now,
        });
    }

    /// Looks for the copy of a generation that was left cut off; true when it goes on in one.
    pub(super) fn find_its_copy(&mut self, stream: usize, at: usize) -> bool {
        let Some(known) = self.streams.get(stream) else {
            return false;
        };
        let Some(tail) = known.tails.get(at) else {
            return false;
        };
        let (channel, generation) = (known.channel, tail.generation);
        let copy = find_copy(&tail.path, (tail.evidence.prefix, &tail.marks()), |info| {
            info.key != tail.key && !self.by_key.contains_key(&(channel, info.key))
        });
        let now = Instant::now();
        match copy {
            Ok(Some(copy)) => {
                self.go_on_in(stream, generation, copy, now);
                true
            }
            Ok(None) => {
                let is_it = |sought: &&mut Sought| {
                    (sought.stream, sought.generation) == (stream, generation)
                };
                if let Some(sought) = self.sought.iter_mut().find(is_it) {
                    sought.since = None;
                }
                false
            }
            Err(unseen) => {
                self.cannot_see(stream, at, unseen, now);
                false
            }
        }
    }

    /// The generation reads on in its copy.
    fn go_on_in(&mut self, stream: usize, generation: GenerationId, copy: Copy, now: Instant) {
        let Some(at) = self.place_of(stream, generation) else {
            return;
        };
        self.seek_no_longer(stream, at);
        let Some(known) = self.streams.get_mut(stream) else {
            return;
        };
        let (id, channel) = (known.id, known.channel);
        let Some(tail) = known.tails.get_mut(at) else {
            return;
        };
        tracing::info!(
            path = shown(&tail.path),
            copy = shown(&copy.path),
            "a file was cut off; what was not read of it is read from its copy"
        );
        tail.key = copy.info.key;
        tail.inode = copy.info.inode;
        tail.path = copy.path;
        tail.real = None;
        tail.device = copy.info.device;
        tail.place = Place::Hidden(now);
        // The copy may lack what came between copying and cutting off, read before or lost.
        if copy.info.size < tail.offset() {
            // Where that is shorter again, or unreadable, its turn says so.
            if let Ok(Some(mark)) = mark_at(&copy.file, copy.info.size) {
                tail.is_read_up_to(mark);
            }
        }
        tail.size = copy.info.size.max(tail.offset());
        tail.note_size(copy.info.size, now, now);
        tail.is_another_file();
        let was_open = tail.file.replace(Content::File(copy.file)).is_some();
        let (record, path) = (tail.record(id), tail.path.clone());
        if !was_open {
            self.note_opened(stream);
        }
        self.by_key
            .insert((channel, copy.info.key), (stream, generation));
        self.wiring
            .checkpoint
            .write(vec![Record::Generation(record)]);
        let judged = self.undecided.len();
        self.undecided
            .retain(|waiting| waiting.info.key != copy.info.key || waiting.channel != channel);
        if self.undecided.len() < judged {
            self.name(channel, &path, stream, generation);
            if let Some(tail) = self.tail(stream, at) {
                tail.place = Place::Named;
            }
        }
        self.make_ready(stream);
    }

    fn count_cut_off(&mut self, channel: usize) {
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.counters.truncated();
            channel.figures.mishaps.truncations += 1;
        }
    }

    /// A copy turned up: its generation goes on in it, or has ended and only must not be read twice.
    pub(super) fn adopt(
        &mut self,
        stream: usize,
        generation: GenerationId,
        copy: Copy,
        now: Instant,
    ) {
        let Some(known) = self.streams.get(stream) else {
            return;
        };
        let (id, channel) = (known.id, known.channel);
        let (path, key) = (copy.path.clone(), copy.info.key);
        if self.place_of(stream, generation).is_none() {
            // Given up already; what the copy has beyond is read after all.
            let record = self
                .wiring
                .checkpoint
                .read(|state| state.generation(id, generation).cloned());
            let Some(record) = record else { return };
            self.no_longer_ended(channel, stream, generation);
            let mut tail = Tail::restored(&record, Vec::new(), now);
            tail.place = Place::Hidden(now);
            if let Some(known) = self.streams.get_mut(stream) {
                known.tails.insert(0, tail);
            }
        }
        self.go_on_in(stream, generation, copy, now);
        self.name(channel, &path, stream, generation);
        if let Some(at) = self.place_of(stream, generation)
            && let Some(tail) = self.tail(stream, at)
        {
            tail.place = Place::Named;
        }
        self.by_key.insert((channel, key), (stream, generation));
    }
}

/// What counts when a file cannot be compared.
pub(super) const UNLIKE: Match = Match {
    reaches: false,
    prefix: false,
    mark: false,
};

/// The part of a file's name that rotation keeps: the letters that it begins with.
pub(super) fn stem_of(path: &Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt as _;
    let name = path.file_name().unwrap_or_default().as_bytes();
    let end = name
        .iter()
        .position(|byte| !byte.is_ascii_alphabetic())
        .unwrap_or(name.len());
    name.get(..end.max(1)).unwrap_or(name)
}

/// The folder of a path.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Looks beside a cut-off file for its copy.
///
/// # Errors
/// When there is none among what can be looked at, and something cannot: too many files are open, say.
fn find_copy(
    path: &Path,
    (prefix, marks): (Prefix, &[Mark]),
    may_be: impl Fn(&FileInfo) -> bool,
) -> Result<Option<Copy>, Unseen> {
    let first = marks.iter().find(|mark| mark.offset > 0);
    let (Some(first), Some(folder)) = (first.map(|mark| mark.offset), path.parent()) else {
        return Ok(None);
    };
    let mut unseen = None;
    let mut note = |path: &Path, error: io::Error| {
        if !is_absence(&error) {
            let path = path.to_owned();
            unseen.get_or_insert(Unseen { path, error });
        }
    };
    let stem = stem_of(path);
    let mut found: Vec<(PathBuf, FileInfo)> = Vec::new();
    let listed = far::entries(folder).map_err(|error| note(folder, error));
    for entry in listed.into_iter().flatten() {
        let beside = match entry {
            Ok(entry) => entry.path,
            Err(error) => {
                note(folder, error);
                continue;
            }
        };
        if beside == path || stem_of(&beside) != stem {
            continue;
        }
        match handle::of_path(&beside) {
            Ok(info) => {
                if info.kind == FileKind::Regular && info.size >= first && may_be(&info) {
                    found.push((beside, info));
                }
            }
            Err(error) => note(&beside, error),
        }
    }
    // The newest first: it is the one just made.
    found.sort_by_key(|(_, info)| std::cmp::Reverse(info.mtime_ns));
    for (path, info) in found.into_iter().take(MAX_COMPARED) {
        let seen = open_file(&path).and_then(|file| {
            let seen = compare_with_copy(prefix, marks, &file, info.size)?;
            Ok((file, seen))
        });
        match seen {
            Ok((file, seen)) if newcomer(seen, first, Fate::CutOff) == Newcomer::Copy => {
                let path = path.into();
                return Ok(Some(Copy { path, file, info }));
            }
            Ok(_) => {}
            Err(error) => note(&path, error),
        }
    }
    unseen.map_or(Ok(None), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::prefix_of;

    #[test]
    fn a_copy_that_cannot_be_looked_at_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let (log, copy) = (dir.path().join("app.log"), dir.path().join("app.log.1"));
        std::fs::write(&log, b"all of it\n").unwrap();
        let file = open_file(&log).unwrap();
        let (prefix, mark) = (
            prefix_of(&file, 10).unwrap(),
            mark_at(&file, 10).unwrap().unwrap(),
        );
        let find = || find_copy(&log, (prefix, &[mark]), |_| true);
        assert!(matches!(find(), Ok(None)));
        // A link to itself is there, and nobody can say what it is.
        std::os::unix::fs::symlink("app.log.1", &copy).unwrap();
        assert_eq!(find().unwrap_err().path, copy);
        std::fs::remove_file(&copy).unwrap();
        std::fs::copy(&log, &copy).unwrap();
        assert_eq!(find().unwrap().unwrap().path.to_path_buf(), copy);
    }
}
