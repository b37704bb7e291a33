//! Compressed log files: `.gz` and `.zst`, told by name and first bytes.
//!
//! Most are generations that were read before they were compressed: nothing of them is read again.
//! When the plain file vanished before it was read to its end, the rest comes from the compressed
//! one. One that is like no generation is a file of its own: an agent that did not run while files
//! rotated finds whole generations only so. All of it goes through the spool, on another thread.
//!
//! A compressed file of the task is a generation without bytes of its own, so that it is known after
//! a restart and not compared again. One that cannot be read to its end is being written, or damaged:
//! it is tried again, less and less often.
//!
//! Not for: `.tar.gz`, which holds files; other kinds of compression, which are read as they are.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;
use tributary_common::ids::{Class, GenerationId};

use super::{
    Reader,
    copies::{folder_of, stem_of},
};
use crate::{
    checkpoint::Record,
    clock,
    config::Start,
    content::Content,
    far::{self, LogFile, open_file},
    handle::{self, FileInfo},
    identify::{Evidence, Mark, Prefix, mark_at, prefix_of},
    path::LogPath,
    shown::shown,
    spool::{Compared, Job, Meta, SpoolFile, Ticket, has_packed_name, is_packed},
    tail::{Form, Place, Tail, generation_id},
};

/// A compressed file is looked into when it has not changed for this long.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// One that cannot be read to its end is tried again after a second, two, four, at most so long.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A person is told after so many failures.
const TELL_AFTER: u32 = 4;
/// A vanished file is looked for in compressed ones so often, while one is being written.
const MAX_SEEKS: u32 = 20;
/// Generations that one compressed file is compared with.
const MAX_COMPARED: usize = 256;

/// A compressed file that nobody knows.
#[derive(Debug)]
pub(super) struct Unknown {
    channel: usize,
    path: PathBuf,
    info: FileInfo,
    due: Instant,
    failures: u32,
    /// The task starts at the end, and it was there before.
    skip: bool,
    /// The other thread works on it.
    busy: bool,
}

impl Unknown {
    /// Whether it is a task's.
    pub(super) fn is_of(&self, channel: usize) -> bool {
        self.channel == channel
    }
}

impl Reader {
    /// A path names this compressed file. False when it is to be treated like any other: it is
    /// known, or not compressed after all.
    pub(super) fn packed_file(&mut self, channel: usize, path: &Path, info: &FileInfo) -> bool {
        let packed = open_file(path).and_then(|file| is_packed(path, &file));
        let key = (channel, info.key);
        if let Some(&(stream, generation)) = self.by_key.get(&key) {
            if matches!(packed, Ok(false))
                && let Some(at) = self.place_of(stream, generation)
                && let Some(tail) = self.tail(stream, at)
            {
                tail.form = Form::Plain;
            }
            return false;
        }
        if self.ended.contains_key(&key) || !matches!(packed, Ok(true)) {
            return false;
        }
        let same = |known: &&mut Unknown| known.channel == channel && known.info.key == info.key;
        if let Some(known) = self.packed.iter_mut().find(same) {
            path.clone_into(&mut known.path);
            return true;
        }
        let skip = self
            .channels
            .get(channel)
            .is_some_and(|known| known.fresh && known.task.start == Start::End);
        self.packed.push(Unknown {
            channel,
            path: path.to_owned(),
            info: *info,
            due: Instant::now() + SETTLED_AFTER,
            failures: 0,
            skip,
            busy: false,
        });
        true
    }

    /// Once a second: looks into the next compressed file.
    pub(super) fn tend_packed(&mut self, now: Instant) {
        let most = self.wiring.limits.spool / 2;
        if self.packed.iter().any(|known| known.busy) || self.spooling.bytes() > most {
            return;
        }
        let Some(place) = self.packed.iter().position(|known| known.due <= now) else {
            return;
        };
        let channel = self.packed.get(place).map_or(0, |known| known.channel);
        let room = self.room_of(channel);
        if !self.has_room_for(room, 0) {
            return;
        }
        let Some(known) = self.packed.get_mut(place) else {
            return;
        };
        let info = match handle::of_path(&known.path) {
            Ok(info) if info.key == known.info.key => info,
            Ok(_) | Err(_) => {
                self.packed.swap_remove(place);
                return;
            }
        };
        let changed = (info.size, info.mtime_ns) != (known.info.size, known.info.mtime_ns);
        known.info = info;
        if changed || info.size == 0 {
            known.due = now + SETTLED_AFTER;
            return;
        }
        known.busy = true;
        let (channel, path, skip) = (known.channel, known.path.clone(), known.skip);
        if skip {
            let known = self.packed.swap_remove(place);
            return self.begin_packed(&known, None, now);
        }
        let known = self.evidence_near(channel, &path);
        let Some(meta) = self.meta_of_packed(channel, &path, &info) else {
            return;
        };
        let class = self.channels.get(channel).map(|known| known.task.class);
        let job = Job::Compare {
            path,
            known,
            meta,
            room,
            restraint: self.restraint_of(class.unwrap_or(Class::P3)),
        };
        if self.wiring.spool.jobs.try_send(job).is_ok() {
            self.spooling.unpacking += 1;
        } else if let Some(known) = self.packed.get_mut(place) {
            known.busy = false;
        }
    }

    fn meta_of_packed(&self, channel: usize, path: &Path, info: &FileInfo) -> Option<Meta> {
        let seed = &self.channels.get(channel)?.seed;
        Some(Meta {
            stream: super::files::stream_id(&self.wiring.agent, seed, path),
            generation: generation_id(info.key, 0),
            path: shown(path),
            start: 0,
            saved_ms: clock::now_ms(),
            total: None,
        })
    }

    /// What is known of generations that a compressed file may be: those of its task whose names
    /// begin alike, wherever they are or were.
    fn evidence_near(&self, channel: usize, path: &Path) -> Vec<(Ticket, Evidence)> {
        let stem = stem_of(path);
        let mut found = Vec::new();
        for (number, stream) in self.streams.iter().enumerate() {
            if stream.channel != channel {
                continue;
            }
            let tails = stream.tails.iter().filter(|tail| {
                tail.form == Form::Plain
                    && (stem_of(&tail.path) == stem || stem_of(tail.real_path()) == stem)
            });
            let tickets =
                tails.filter_map(|tail| Some(((number, tail.generation), whole_evidence(tail)?)));
            found.extend(tickets);
        }
        let ended = self.ended.iter().filter(|((of, _), _)| *of == channel);
        self.wiring.checkpoint.read(|state| {
            for (_, ended) in ended {
                let known = state.generation(ended.stream, ended.generation);
                let (Some(record), Some(&number)) = (known, self.by_id.get(&ended.stream)) else {
                    continue;
                };
                if stem_of(&record.path) == stem {
                    let evidence = Evidence {
                        prefix: record.prefix,
                        mark: record.mark,
                    };
                    found.push(((number, ended.generation), evidence));
                }
            }
        });
        found.truncate(MAX_COMPARED);
        found
    }

    /// A compressed file was compared.
    pub(super) fn compared(&mut self, path: &Path, verdict: Compared) {
        let now = Instant::now();
        let Some(place) = self.packed.iter().position(|known| known.busy) else {
            return;
        };
        match verdict {
            Compared::Like((stream, generation), total) => {
                let known = self.packed.swap_remove(place);
                tracing::info!(
                    path = shown(path),
                    "a compressed file is one that was read before it was compressed"
                );
                self.begin_packed(&known, Some(stream), now);
                self.rest_of(stream, generation, total, path, now);
            }
            Compared::New(spool, prefix) => {
                let known = self.packed.swap_remove(place);
                self.read_packed(&known, &spool, prefix, now);
            }
            Compared::Broken(why) => {
                let Some(known) = self.packed.get_mut(place) else {
                    return;
                };
                known.busy = false;
                known.failures += 1;
                let pause = Duration::from_secs(1 << known.failures.min(6));
                known.due = now + pause.min(LONGEST_PAUSE);
                if known.failures == TELL_AFTER {
                    let (channel, path) = (known.channel, known.path.clone());
                    let why = format!("it cannot be decompressed to its end: {why}");
                    let error = io::Error::new(io::ErrorKind::InvalidData, why);
                    self.tell_unreadable(channel, &path, &error);
                }
            }
        }
    }

    /// A compressed file becomes a generation without bytes of its own, in this stream or its own.
    fn begin_packed(&mut self, file: &Unknown, stream: Option<usize>, now: Instant) {
        let Some(stream) = stream.or_else(|| self.stream_of(file.channel, &file.path)) else {
            return;
        };
        let Some(known) = self.streams.get_mut(stream) else {
            return;
        };
        let path = LogPath::from(file.path.as_path());
        let mut tail = Tail::new(file.info.key, file.info.inode, 0, path.clone(), now);
        tail.seen_at(&path, file.info.device);
        tail.form = Form::Packed;
        tail.mtime_ns = file.info.mtime_ns;
        let (generation, record) = (tail.generation, tail.record(known.id));
        known.tails.insert(0, tail);
        self.wiring
            .checkpoint
            .write(vec![Record::Generation(record)]);
        self.by_key
            .insert((file.channel, file.info.key), (stream, generation));
        self.name(file.channel, &path, stream, generation);
    }

    /// A compressed file that is like no generation is read.
    fn read_packed(&mut self, file: &Unknown, spool: &Path, prefix: Prefix, now: Instant) {
        let spool = match SpoolFile::open(spool) {
            Ok(spool) => spool,
            Err(error) => return self.tell_unreadable(file.channel, &file.path, &error),
        };
        self.begin_packed(file, None, now);
        let Some(&(stream, generation)) = self.by_key.get(&(file.channel, file.info.key)) else {
            return;
        };
        let Some(at) = self.place_of(stream, generation) else {
            return;
        };
        if let Some(tail) = self.tail(stream, at) {
            tail.evidence.prefix = prefix;
        }
        self.attach(stream, at, spool);
        self.make_ready(stream);
    }

    /// A compressed file has so many bytes of a generation: is there more than was read, and is the
    /// plain file gone?
    fn rest_of(
        &mut self,
        stream: usize,
        generation: GenerationId,
        total: u64,
        path: &Path,
        now: Instant,
    ) {
        if self.place_of(stream, generation).is_none() {
            let ended = self
                .ended
                .iter()
                .find(|(_, ended)| ended.generation == generation)
                .map(|(&key, _)| key);
            let Some((channel, key)) = ended else {
                return;
            };
            let id = self.streams.get(stream).map(|known| known.id);
            let read = self.wiring.checkpoint.read(|state| {
                let record = state.generation(id?, generation);
                Some(record?.mark.offset)
            });
            if read.is_none_or(|read| read >= total) || self.revive(channel, key).is_none() {
                return;
            }
        }
        let Some(at) = self.place_of(stream, generation) else {
            return;
        };
        let Some(tail) = self.tail(stream, at) else {
            return;
        };
        let here = tail.file.is_some()
            || handle::of_path(tail.real_path()).is_ok_and(|info| info.key == tail.key);
        if !here && tail.offset() < total {
            tail.place = Place::Awaited(now);
            self.any_awaited = true;
            self.seek_in(stream, at, vec![path.to_owned()], now);
        }
    }

    /// A generation whose file is gone may go on in a compressed one beside it. True when that is
    /// being found out: it is awaited meanwhile.
    pub(super) fn seek_packed(&mut self, stream: usize, at: usize, now: Instant) -> bool {
        let Some(tail) = self.tail(stream, at) else {
            return false;
        };
        if tail.seek.running {
            return true;
        }
        // Without content nothing can be told to be its own.
        if tail.form == Form::Packed || tail.offset() == 0 || tail.seek.times >= MAX_SEEKS {
            return false;
        }
        let path = tail.real_path().to_owned();
        let candidates = packed_beside(&path);
        !candidates.is_empty() && self.seek_in(stream, at, candidates, now)
    }

    fn seek_in(
        &mut self,
        stream: usize,
        at: usize,
        candidates: Vec<PathBuf>,
        now: Instant,
    ) -> bool {
        let Some(meta) = self.meta_of(stream, at) else {
            return false;
        };
        let restraint = self.restraint_of(self.class_of(stream));
        let channel = self.streams.get(stream).map_or(0, |known| known.channel);
        let room = self.room_of(channel);
        let Some(tail) = self.tail(stream, at) else {
            return false;
        };
        tail.seek.running = true;
        tail.seek.times += 1;
        tail.seek.since = Some(now);
        if !matches!(tail.place, Place::Awaited(_)) {
            tail.place = Place::Awaited(now);
        }
        let job = Job::Continue {
            of: (stream, tail.generation),
            candidates,
            evidence: tail.evidence,
            meta,
            final_try: tail.seek.times >= MAX_SEEKS,
            room,
            restraint,
        };
        self.any_awaited = true;
        if self.wiring.spool.jobs.try_send(job).is_ok() {
            self.spooling.unpacking += 1;
        } else if let Some(tail) = self.tail(stream, at) {
            // The next look tries again.
            tail.seek.running = false;
            tail.seek.times -= 1;
        }
        true
    }

    /// No compressed file has the rest of a generation, or not yet.
    pub(super) fn not_found_packed(&mut self, of: Ticket, again: bool, why: &str) {
        if let Some(at) = self.place_of(of.0, of.1)
            && let Some(tail) = self.tail(of.0, at)
        {
            if tail
                .file
                .as_ref()
                .is_some_and(|file| file.as_file().is_none())
            {
                return self.no_window(of.0, at, again, why);
            }
            tail.seek.running = false;
            if !again {
                tail.seek.times = MAX_SEEKS;
            }
        }
    }

    /// The stream of a path, made where it is new.
    fn stream_of(&mut self, channel: usize, path: &Path) -> Option<usize> {
        let known = self.channels.get(channel)?;
        let id = super::files::stream_id(&self.wiring.agent, &known.seed, path);
        let (task, topic) = (known.task.id.clone(), known.task.topic.clone());
        if let Some(&stream) = self.by_id.get(&id) {
            return Some(stream);
        }
        let path = LogPath::from(path);
        self.wiring.checkpoint.write(vec![Record::Stream {
            stream: id,
            task,
            topic,
            path: path.clone(),
        }]);
        Some(self.add_stream(id, channel, &path))
    }
}

/// What is known of a generation's content: of all that is in its file when that is open, so that
/// one that was not read yet can be told, too.
fn whole_evidence(tail: &Tail) -> Option<Evidence> {
    let opened;
    let file = match tail.file.as_ref().and_then(Content::as_file) {
        Some(file) => Some(file),
        None if tail.offset() == 0 => {
            opened = open_file(tail.real_path()).ok();
            opened.as_ref()
        }
        None => None,
    };
    let of_file = |file: &LogFile| -> io::Result<Evidence> {
        let size = file.extent()?.size;
        Ok(Evidence {
            prefix: prefix_of(file, size)?,
            mark: mark_at(file, size)?.unwrap_or(Mark::default()),
        })
    };
    match file.map(of_file) {
        Some(Ok(evidence)) => Some(evidence),
        Some(Err(_)) | None => Some(tail.evidence).filter(|evidence| evidence.mark.offset > 0),
    }
}

/// Compressed files beside a path whose names begin alike, the newest first.
pub(super) fn packed_beside(path: &Path) -> Vec<PathBuf> {
    let stem = stem_of(path);
    let packed = far::entries_there(folder_of(path))
        .map(|entry| entry.path)
        .filter(|beside| has_packed_name(beside) && stem_of(beside) == stem);
    let mut times: HashMap<PathBuf, i64> = packed
        .filter_map(|beside| Some((handle::of_path(&beside).ok()?.mtime_ns, beside)))
        .map(|(time, beside)| (beside, time))
        .collect();
    let mut found: Vec<PathBuf> = times.keys().cloned().collect();
    found.sort_by_key(|beside| std::cmp::Reverse(times.remove(beside)));
    found.truncate(64);
    found
}
