//! Copy and truncate: a generation that was cut off goes on in its copy.
//!
//! When a file is cut off, what of it was not read may stand in a copy beside it: the generation
//! takes the copy's file and reads on at its offset, while the old file begins a new generation. A
//! copy inside the task's patterns is never read as a file of its own. It may turn up before the
//! truncation: a newcomer that is like a living generation waits a moment before it counts as new.
//!
//! Not for: the evidence itself (see [`crate::identify`]).

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;
use tributary_common::{ids::GenerationId, span::Span};

use super::{
    CutOff, Reader,
    files::Undecided,
    turn::{Step, open_file},
};
use crate::{
    checkpoint::{GenerationRecord, Record},
    clock,
    handle::{self, FileInfo, FileKey, FileKind},
    identify::{Evidence, Fate, MARK_BYTES, Match, Newcomer, newcomer, prefix_of},
    tail::{Place, Tail},
};

/// How long a cut-off generation looks for its copy.
pub(super) const REMEMBER: Duration = Duration::from_secs(60);
/// How long a newcomer that is like a living generation waits for that to be cut off.
const WAIT_FOR_CUT: Duration = Duration::from_secs(3);
/// The most files of a folder that are compared.
const MAX_COMPARED: usize = 64;

/// A copy that was found.
struct Copy {
    path: PathBuf,
    file: File,
    info: FileInfo,
}

impl Reader {
    /// The file of a generation was cut off or written anew: it goes on in a copy or ends, and a new
    /// generation begins.
    pub(super) fn cut_off(&mut self, stream: usize, at: usize, now: Instant) -> Step {
        let Some(known) = self.streams.get_mut(stream) else {
            return Step::Nothing(None);
        };
        let (id, channel) = (known.id, known.channel);
        let Some(old) = known.tails.get_mut(at) else {
            return Step::Nothing(None);
        };
        let evidence = old.evidence;
        let mut new = Tail::new(
            old.key,
            old.inode,
            old.truncations + 1,
            old.path.clone(),
            now,
        );
        new.place = old.place;
        new.file = old.file.take();
        let (key, generation, path) = (old.key, old.generation, old.path.clone());
        let new_generation = new.generation;
        let new_record = new.record(id);
        known.tails.push(new);
        self.count_cut_off(channel);
        self.by_key.insert((channel, key), (stream, new_generation));
        self.rename_names((channel, stream, generation), new_generation);
        self.cut_off.push(CutOff {
            channel,
            stream,
            generation,
            evidence,
            since: now,
        });
        let copy = find_copy(&path, evidence, |info| {
            info.key != key && !self.by_key.contains_key(&(channel, info.key))
        });
        self.wiring
            .checkpoint
            .write(vec![Record::Generation(new_record)]);
        match copy {
            Some(copy) => self.go_on_in(stream, generation, copy, now),
            None if self.wait_for_copy(stream, at) => {}
            None => self.end_cut_off(stream, at),
        }
        Step::Changed
    }

    /// Whether a copy may still turn up: one that was seen before the truncation is being judged.
    fn wait_for_copy(&mut self, stream: usize, at: usize) -> bool {
        let Some(tail) = self.tail(stream, at) else {
            return false;
        };
        let like = (stream, tail.generation);
        let waiting = self.undecided.iter().any(|waiting| waiting.like == like);
        if waiting {
            // `decide` brings it on.
            self.undecided
                .iter_mut()
                .filter(|waiting| waiting.like == like)
                .for_each(|waiting| {
                    waiting.decide_at = Instant::now();
                });
            if let Some(tail) = self.tail(stream, at) {
                tail.place = Place::Awaited;
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
    fn end_cut_off(&mut self, stream: usize, at: usize) {
        let Some(known) = self.streams.get_mut(stream) else {
            return;
        };
        if at >= known.tails.len() {
            return;
        }
        let tail = known.tails.remove(at);
        let id = known.id;
        let file = tail.path.to_string_lossy().into_owned();
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

    /// The generation reads on in its copy.
    fn go_on_in(&mut self, stream: usize, generation: GenerationId, copy: Copy, now: Instant) {
        let Some(at) = self.place_of(stream, generation) else {
            return;
        };
        let Some(known) = self.streams.get_mut(stream) else {
            return;
        };
        let (id, channel) = (known.id, known.channel);
        let Some(tail) = known.tails.get_mut(at) else {
            return;
        };
        tracing::info!(
            path = %tail.path.display(),
            copy = %copy.path.display(),
            "a file was cut off; what was not read of it is read from its copy"
        );
        tail.key = copy.info.key;
        tail.inode = copy.info.inode;
        tail.path = copy.path;
        tail.place = Place::Hidden(now);
        // The copy may lack what came between copying and cutting off, read before or lost.
        tail.size = copy.info.size.max(tail.offset());
        tail.note_size(copy.info.size, now);
        if tail.file.replace(copy.file).is_none() {
            self.open_files += 1;
        }
        let (record, path) = (tail.record(id), tail.path.clone());
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
        }
    }

    /// A path names a file that is not known.
    pub(super) fn unknown_file(
        &mut self,
        channel: usize,
        path: PathBuf,
        info: FileInfo,
        now: Instant,
    ) {
        if let Some(waiting) = self
            .undecided
            .iter_mut()
            .find(|waiting| waiting.info.key == info.key && waiting.channel == channel)
        {
            waiting.path = path;
            waiting.info = info;
            return;
        }
        let file = match open_file(&path) {
            Ok(file) => file,
            Err(error) if crate::discover::is_absence(&error) => return,
            // It begins all the same: reading it is tried again in its turn.
            Err(_) => return self.new_file(channel, path, &info, now),
        };
        if let Some((stream, generation)) = self.copy_of_cut_off(channel, &file, &info) {
            return self.adopt(stream, generation, Copy { path, file, info }, now);
        }
        if let Some((key, stream, generation)) = self.copy_of_vanished(channel, &file, &info) {
            self.ended.remove(&(channel, key));
            return self.adopt(stream, generation, Copy { path, file, info }, now);
        }
        match self.like_living(channel, &path, &file, &info) {
            Some(like) => {
                let decide_at = now + WAIT_FOR_CUT;
                self.undecided.push(Undecided {
                    channel,
                    path,
                    info,
                    like,
                    decide_at,
                });
            }
            None => self.new_file(channel, path, &info, now),
        }
    }

    /// The cut-off generation of which a file is a copy.
    fn copy_of_cut_off(
        &self,
        channel: usize,
        file: &File,
        info: &FileInfo,
    ) -> Option<(usize, GenerationId)> {
        let cut = self
            .cut_off
            .iter()
            .rev()
            .filter(|cut| cut.channel == channel)
            .find(|cut| {
                let seen = cut.evidence.compare(file, info.size).unwrap_or(UNLIKE);
                newcomer(seen, cut.evidence.mark.offset, Fate::CutOff) == Newcomer::Copy
            })?;
        Some((cut.stream, cut.generation))
    }

    /// The vanished generation that a file is: moved here from another file system, or restored.
    fn copy_of_vanished(
        &mut self,
        channel: usize,
        file: &File,
        info: &FileInfo,
    ) -> Option<(FileKey, usize, GenerationId)> {
        let ended = self.ended.iter().filter(|((of, _), _)| *of == channel);
        let (key, id, generation) = self.wiring.checkpoint.read(|state| {
            ended
                .map(|(&(_, key), &(id, generation))| (key, id, generation))
                .find(|&(_, id, generation)| {
                    let Some(record) = state.generations.get(&(id, generation)) else {
                        return false;
                    };
                    let same_time = record.mtime_ns == info.mtime_ns;
                    let fate = if same_time {
                        Fate::VanishedSameTime
                    } else {
                        Fate::Vanished
                    };
                    // Reading is for those only that may be the same.
                    let evidence = Evidence {
                        prefix: record.prefix,
                        mark: record.mark,
                    };
                    let seen = match fate {
                        Fate::VanishedSameTime => {
                            evidence.compare(file, info.size).unwrap_or(UNLIKE)
                        }
                        Fate::Vanished | Fate::CutOff | Fate::Alive => UNLIKE,
                    };
                    newcomer(seen, record.mark.offset, fate) == Newcomer::Copy
                })
        })?;
        let stream = match self.by_id.get(&id) {
            Some(&stream) => stream,
            None => self.add_stream(id, channel),
        };
        Some((key, stream, generation))
    }

    /// A copy turned up: its generation goes on in it, or has ended and only must not be read twice.
    fn adopt(&mut self, stream: usize, generation: GenerationId, copy: Copy, now: Instant) {
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
                .read(|state| state.generations.get(&(id, generation)).cloned());
            let Some(record) = record else { return };
            let mut tail = Tail::restored(&record, path.clone(), Vec::new(), now);
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

    /// The living generation of the same folder that a newcomer is like, if any.
    fn like_living(
        &self,
        channel: usize,
        path: &Path,
        file: &File,
        info: &FileInfo,
    ) -> Option<(usize, GenerationId)> {
        let stem = stem_of(path);
        let living = self
            .streams
            .iter()
            .enumerate()
            .filter(|(_, stream)| stream.channel == channel);
        let tails = living.flat_map(|(at, stream)| stream.tails.iter().map(move |tail| (at, tail)));
        let near = tails.filter(|(_, tail)| {
            tail.place == Place::Named
                && tail.offset() > 0
                && tail.path.parent() == path.parent()
                && stem_of(&tail.path) == stem
        });
        near.take(MAX_COMPARED).find_map(|(stream, tail)| {
            let seen = like_beginning(tail, file, info).unwrap_or(UNLIKE);
            let verdict = newcomer(seen, tail.offset(), Fate::Alive);
            (verdict == Newcomer::Undecided).then_some((stream, tail.generation))
        })
    }

    /// Decides about newcomers whose time is over, or whose generation was cut off meanwhile.
    pub(super) fn decide(&mut self, now: Instant) {
        let due = |waiting: &Undecided| waiting.decide_at <= now;
        let (decided, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.undecided)
            .into_iter()
            .partition(due);
        self.undecided = waiting;
        for Undecided {
            channel,
            path,
            info,
            like: (stream, generation),
            ..
        } in decided
        {
            let was_cut = self
                .cut_off
                .iter()
                .any(|cut| (cut.stream, cut.generation) == (stream, generation));
            // It may have grown while it waited: the copy was under way.
            let again = open_file(&path).and_then(|file| Ok((handle::of_file(&file)?, file)));
            match again {
                Ok((now_info, file)) if now_info.key == info.key => {
                    if was_cut {
                        self.adopt(
                            stream,
                            generation,
                            Copy {
                                path,
                                file,
                                info: now_info,
                            },
                            now,
                        );
                    } else {
                        self.new_file(channel, path, &now_info, now);
                    }
                }
                Ok(_) | Err(_) => self.abandon(stream, generation),
            }
        }
        self.undecided.sort_by_key(|waiting| waiting.decide_at);
    }

    /// A copy that a cut-off generation waited for is gone.
    fn abandon(&mut self, stream: usize, generation: GenerationId) {
        if let Some(at) = self.place_of(stream, generation)
            && self
                .tail(stream, at)
                .is_some_and(|tail| tail.place == Place::Awaited)
        {
            self.end_cut_off(stream, at);
            self.make_ready(stream);
        }
    }
}

/// What counts when a file cannot be compared.
const UNLIKE: Match = Match {
    reaches: false,
    prefix: false,
    mark: false,
};

/// The part of a file's name that rotation keeps: up to the first character that is neither letter
/// nor digit, without digits at its end.
fn stem_of(path: &Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt as _;
    let name = path.file_name().unwrap_or_default().as_bytes();
    let end = name
        .iter()
        .position(|byte| !byte.is_ascii_alphabetic())
        .unwrap_or(name.len());
    name.get(..end.max(1)).unwrap_or(name)
}

/// Compares a newcomer with a living generation. A copy under way is shorter than the original: then
/// its last bytes are compared with those of the original at the same place.
fn like_beginning(tail: &Tail, file: &File, info: &FileInfo) -> io::Result<Match> {
    if info.size >= tail.offset() {
        return tail.evidence.compare(file, info.size);
    }
    let Some(original) = &tail.file else {
        return Ok(UNLIKE);
    };
    if info.size == 0 {
        return Ok(UNLIKE);
    }
    let covered = info.size.min(MARK_BYTES);
    let read = |file: &File| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(covered).unwrap_or(0)];
        file.read_exact_at(&mut bytes, info.size - covered)?;
        Ok(bytes)
    };
    let prefix = prefix_of(file, info.size)? == prefix_of(original, info.size)?;
    Ok(Match {
        reaches: true,
        prefix,
        mark: read(file)? == read(original)?,
    })
}

/// Looks beside a cut-off file for its copy: the largest that has the evidence.
fn find_copy(path: &Path, evidence: Evidence, may_be: impl Fn(&FileInfo) -> bool) -> Option<Copy> {
    if evidence.mark.offset == 0 {
        return None;
    }
    let stem = stem_of(path);
    let entries = std::fs::read_dir(path.parent()?).ok()?;
    let mut found: Vec<(PathBuf, FileInfo)> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|beside| beside != path && stem_of(beside) == stem)
        .filter_map(|beside| Some((handle::of_path(&beside).ok()?, beside)))
        .filter(|(info, _)| {
            info.kind == FileKind::Regular && info.size >= evidence.mark.offset && may_be(info)
        })
        .map(|(info, beside)| (beside, info))
        .collect();
    // The newest first: it is the one just made.
    found.sort_by_key(|(_, info)| std::cmp::Reverse(info.mtime_ns));
    found
        .into_iter()
        .take(MAX_COMPARED)
        .find_map(|(path, info)| {
            let file = open_file(&path).ok()?;
            let seen = evidence.compare(&file, info.size).ok()?;
            let verdict = newcomer(seen, evidence.mark.offset, Fate::CutOff);
            (verdict == Newcomer::Copy).then_some(Copy { path, file, info })
        })
}
