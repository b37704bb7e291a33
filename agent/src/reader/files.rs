//! Who is who: paths that come and go, and the generations behind them.
//!
//! A physical file belongs to one stream of a channel for ever, whatever it is called. Known files
//! are settled before unknown ones are judged, so that a copy can be told from a new file.
//!
//! Not for: reading (see [`super::turn`]), copies (see [`super::copies`]).

use std::{io, os::unix::ffi::OsStrExt as _, path::Path};

use tokio::time::Instant;
use tributary_common::ids::{AgentId, GenerationId, StreamId};
use xxhash_rust::xxh3::Xxh3;

use super::{
    Next, Reader, Stream,
    copies::{folder_of, stem_of},
    opened::OnClock,
    pace::Pace,
};
use crate::{
    checkpoint::{GenerationRecord, Record, State},
    clock,
    config::Start,
    content::Content,
    discover::{Figures, Look, is_absence},
    far::open_file,
    frame::text::Label,
    handle::{self, FileInfo, FileKey, FileKind},
    identify::{MARK_BYTES, Mark, prefix_of},
    path::LogPath,
    shown::shown,
    spool::has_packed_name,
    status::Bad,
    tail::{FirstBytes, Place, Tail},
};

/// How far back from its end a file is searched for the beginning of its last line, in bytes.
const LAST_LINE_BYTES: u64 = 64 << 10;
/// Files that cannot be read are shown up to so many a task.
const MAX_SHOWN: usize = 100;

/// A file that cannot be read now.
#[derive(Debug)]
pub(super) struct NotTailed {
    error: io::ErrorKind,
}

/// A generation that was given up, should its file come back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) stream: StreamId,
    pub(super) generation: GenerationId,
    /// Last change of its content that was seen, in ns since 1970.
    pub(super) mtime_ns: i64,
}

/// The stream of a path, of the task with this seed: the same after a restart, another on another host.
pub(crate) fn stream_id(agent: &AgentId, seed: &str, path: &Path) -> StreamId {
    let mut hash = Xxh3::new();
    for part in [
        agent.as_str().as_bytes(),
        seed.as_bytes(),
        path.as_os_str().as_bytes(),
    ] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    StreamId(hash.digest())
}

impl Reader {
    pub(super) fn add_stream(&mut self, id: StreamId, channel: usize, path: &LogPath) -> usize {
        let stream = self.streams.len();
        self.streams.push(Stream {
            id,
            path: path.clone(),
            channel,
            tails: Vec::new(),
            seq: 1,
            next: Next::Idle,
            on_clock: OnClock::default(),
            pace: Pace::new(Instant::now()),
        });
        self.by_id.insert(id, stream);
        stream
    }

    pub(super) fn push_tail(&mut self, stream: usize, tail: Tail) {
        if let Some(known) = self.streams.get_mut(stream) {
            // Most streams have one generation, and there may be 100,000 of them.
            known.tails.reserve_exact(1);
            known.tails.push(tail);
        }
    }

    /// The place of a generation in its stream.
    pub(super) fn place_of(&self, stream: usize, generation: GenerationId) -> Option<usize> {
        self.streams
            .get(stream)?
            .tails
            .iter()
            .position(|tail| tail.generation == generation)
    }

    /// Something was written to a path.
    pub(super) fn on_touched(&mut self, path: &Path) {
        let named: Vec<usize> = self
            .by_path
            .get(path)
            .into_iter()
            .flatten()
            .map(|&(_, stream, _)| stream)
            .collect();
        let now = Instant::now();
        for stream in named {
            if !self.waits_for_more(stream, now) {
                self.make_ready(stream);
            }
        }
        if self.undecided.iter().any(|waiting| *waiting.path == *path) {
            self.judge_again(path);
        }
    }

    /// A look is over.
    pub(super) fn on_look(&mut self, look: Look) {
        let now = Instant::now();
        self.any_known |= !self.streams.is_empty() || !self.ended.is_empty();
        let mut unknown = Vec::new();
        for (channel, path) in look.found {
            match handle::of_path(&path) {
                Ok(info) if info.kind == FileKind::Regular => {
                    for bad in Bad::of_name(&path) {
                        self.count_bad(channel, bad, 1);
                    }
                    if has_packed_name(&path) && self.packed_file(channel, &path, &info) {
                        continue;
                    }
                    if !self.known_file(channel, &path, &info) {
                        unknown.push((channel, path, info));
                    }
                }
                Ok(_) => {}
                Err(error) if is_absence(&error) => {}
                Err(error) => self.tell_unreadable(channel, &path, &error),
            }
        }
        for (channel, path) in look.gone {
            self.hide(channel, &path, None);
            if self
                .not_tailed
                .remove(&(channel, path.to_path_buf()))
                .is_some()
                && let Some(channel) = self.channels.get_mut(channel)
            {
                channel.figures.unreadable.remove(&shown(&path));
            }
        }
        // Known files first get their turn to notice that they were cut off.
        self.check_for_cuts(&look.touched);
        // What turns up nearby is settled as well.
        if look.whole {
            self.channels
                .iter_mut()
                .for_each(|channel| channel.looks += 1);
            self.await_or_give_up();
        }
        // An original comes before its copy: that has a longer name.
        unknown.sort_by_key(|(_, path, _)| path.as_os_str().len());
        for (channel, path, info) in unknown {
            // Another name of it may have come first.
            if !self.known_file(channel, &path, &info) {
                let path = self.name_with_stream(channel, path, &info);
                self.unknown_file(channel, path, info, now);
            }
        }
        for path in &look.touched {
            self.doubt(path);
            self.on_touched(path);
        }
        if let Some(figures) = look.figures {
            self.count_left_out(&figures);
            self.wiring.status.looked(figures);
        }
        self.folders.forget();
        self.cut_off
            .retain(|cut| now.saturating_duration_since(cut.since) < super::copies::REMEMBER);
        if look.whole {
            self.any_known = true;
            self.first_looks_done();
        }
    }

    /// Takes note of what a writer of a channel's files should not have done.
    pub(super) fn count_bad(&mut self, channel: usize, bad: Bad, times: u64) {
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.count_bad(bad, times);
        }
    }

    /// The same, of a stream's.
    pub(super) fn note_bad(&mut self, stream: usize, bad: Bad) {
        if let Some(channel) = self.streams.get(stream).map(|known| known.channel) {
            self.count_bad(channel, bad, 1);
        }
    }

    /// Counts what matches and cannot be a log; the look knows how often it met such a path so far.
    fn count_left_out(&mut self, figures: &Figures) {
        for (channel, met) in figures.met.iter().enumerate() {
            for (kind, &times) in met {
                let bad = match kind {
                    FileKind::Pipe => Bad::Pipe,
                    FileKind::Socket => Bad::Socket,
                    FileKind::Device => Bad::Device,
                    FileKind::Regular | FileKind::Directory => continue,
                };
                let known = self.channels.get(channel);
                let known = known.and_then(|known| known.figures.mishaps.bad.get(&bad).copied());
                self.count_bad(channel, bad, times.saturating_sub(known.unwrap_or(0)));
            }
        }
    }

    /// After the first look, `start` has had its say.
    fn first_looks_done(&mut self) {
        for channel in &mut self.channels {
            if channel.looks == 1 {
                // People see its files at once.
                self.next_figures.at = Instant::now();
            }
            if std::mem::take(&mut channel.fresh) {
                let task = channel.task.id.clone();
                self.wiring.checkpoint.write(vec![Record::Task { task }]);
            }
        }
    }

    /// A file that changed without growing may have been written anew.
    fn doubt(&mut self, path: &Path) {
        let named: Vec<(usize, GenerationId)> = self
            .by_path
            .get(path)
            .into_iter()
            .flatten()
            .map(|&(_, stream, generation)| (stream, generation))
            .collect();
        for (stream, generation) in named {
            if let Some(at) = self.place_of(stream, generation)
                && let Some(tail) = self.tail(stream, at)
            {
                tail.doubted = true;
            }
            self.make_ready(stream);
        }
    }

    /// Known files that are shorter than what was read of them are looked at before newcomers are
    /// judged: those of an earlier life that turned up, and those that are not open and changed.
    fn check_for_cuts(&mut self, touched: &[LogPath]) {
        let mut cut = std::mem::take(&mut self.shorter);
        for path in touched {
            for &(_, stream, generation) in self.by_path.get(path).into_iter().flatten() {
                let tails = self.streams.get(stream).map(|known| known.tails.iter());
                let tail = tails
                    .into_iter()
                    .flatten()
                    .find(|t| t.generation == generation);
                let shorter = tail.is_some_and(|tail| {
                    tail.file.is_none()
                        && handle::glance(path).is_ok_and(|glance| glance.size < tail.offset())
                });
                if shorter {
                    cut.push((stream, generation));
                }
            }
        }
        let now = Instant::now();
        for (stream, generation) in cut {
            self.look_for_cut(stream, generation, now);
        }
    }

    /// A path names this file. True when the file is known.
    pub(super) fn known_file(&mut self, channel: usize, path: &LogPath, info: &FileInfo) -> bool {
        let known = match self.by_key.get(&(channel, info.key)) {
            Some(&known) => Some(known),
            None => self.revive(channel, info.key),
        };
        let Some((stream, generation)) = known else {
            return false;
        };
        self.name(channel, path, stream, generation);
        self.note_link(channel, path, stream);
        self.undecided
            .retain(|waiting| waiting.channel != channel || waiting.path != *path);
        let Some(at) = self.place_of(stream, generation) else {
            return false;
        };
        let id = self
            .streams
            .get(stream)
            .map_or(StreamId(0), |known| known.id);
        let (mut shorter, mut quiet) = (false, false);
        if let Some(tail) = self.tail(stream, at) {
            // A second name of the same file, or a rename: one is enough to open it by.
            let was = tail.real_path().clone();
            tail.seen_at(path, info.device);
            let moved = *tail.real_path() != was;
            shorter = tail.file.is_none() && info.size < tail.offset();
            // Nothing happened to it since an earlier life: it needs no descriptor yet.
            quiet = tail.file.is_none()
                && tail.doubted
                && tail.replay.is_empty()
                && (info.size, info.mtime_ns) == (tail.offset(), tail.mtime_ns);
            let record = tail.record(id);
            if moved {
                self.wiring
                    .checkpoint
                    .write(vec![Record::Generation(record)]);
            }
        }
        if shorter {
            self.shorter.push((stream, generation));
        }
        if !quiet
            || self.opened.opens_quiet(info.mtime_ns, clock::now_ms())
            || self
                .streams
                .get(stream)
                .is_none_or(|known| known.tails.len() > 1)
        {
            self.make_ready(stream);
        }
        true
    }

    /// A generation that was given up is there again.
    pub(super) fn revive(&mut self, channel: usize, key: FileKey) -> Option<(usize, GenerationId)> {
        let ended = self.ended.remove(&(channel, key))?;
        let (id, generation) = (ended.stream, ended.generation);
        let record = self
            .wiring
            .checkpoint
            .read(|state| state.generation(id, generation).cloned())?;
        let stream = match self.by_id.get(&id) {
            Some(&stream) => stream,
            None => {
                let of_stream = |state: &State| Some(state.streams.get(&id)?.path.clone());
                let path = self.wiring.checkpoint.read(of_stream);
                self.add_stream(id, channel, path.as_ref().unwrap_or(&record.path))
            }
        };
        let mut tail = Tail::restored(&record, Vec::new(), Instant::now());
        tail.place = Place::Named;
        self.wiring
            .checkpoint
            .write(vec![Record::Generation(tail.record(id))]);
        // It is older than what the stream reads now.
        if let Some(known) = self.streams.get_mut(stream) {
            known.tails.insert(0, tail);
        }
        self.by_key.insert((channel, key), (stream, generation));
        Some((stream, generation))
    }

    /// From now on the path names this generation; what it named before is hidden.
    pub(super) fn name(
        &mut self,
        channel: usize,
        path: &LogPath,
        stream: usize,
        generation: GenerationId,
    ) {
        if self.hide(channel, path, Some((stream, generation))) {
            return;
        }
        let names = self.by_path.entry(path.clone()).or_default();
        names.reserve_exact(1);
        names.push((channel, stream, generation));
        if let Some(at) = self.place_of(stream, generation)
            && let Some(tail) = self.tail(stream, at)
        {
            tail.names += 1;
        }
        let stems = self
            .by_folder
            .entry((channel, folder_of(path).to_owned()))
            .or_default();
        match stems.get_mut(stem_of(path)) {
            Some(streams) => {
                streams.insert(stream);
            }
            None => {
                stems.insert(stem_of(path).to_owned(), [stream].into());
            }
        }
    }

    /// The path names this generation no longer, though it is not hidden; false when it did not.
    pub(super) fn unname(
        &mut self,
        channel: usize,
        path: &Path,
        stream: usize,
        generation: GenerationId,
    ) -> bool {
        let Some(names) = self.by_path.get_mut(path) else {
            return false;
        };
        let name = (channel, stream, generation);
        let Some(place) = names.iter().position(|&known| known == name) else {
            return false;
        };
        names.swap_remove(place);
        if names.is_empty() {
            self.by_path.remove(path);
        }
        true
    }

    /// The path does not name what it named before, unless that is `except`: true then.
    fn hide(&mut self, channel: usize, path: &Path, except: Option<(usize, GenerationId)>) -> bool {
        let Some(names) = self.by_path.get_mut(path) else {
            return false;
        };
        let Some(place) = names.iter().position(|&(of, _, _)| of == channel) else {
            return false;
        };
        if let Some(&(_, stream, generation)) = names.get(place)
            && except == Some((stream, generation))
        {
            return true;
        }
        let (_, stream, generation) = names.swap_remove(place);
        if names.is_empty() {
            self.by_path.remove(path);
        }
        let Some(at) = self.place_of(stream, generation) else {
            return false;
        };
        if let Some(tail) = self.tail(stream, at) {
            tail.names = tail.names.saturating_sub(1);
            // It may have another name already, which was seen first.
            if tail.names > 0 {
                return false;
            }
            tail.place = Place::Hidden(Instant::now());
            if tail.file.is_none() {
                self.hunt(stream, at);
            }
        }
        self.make_ready(stream);
        false
    }

    /// Gives a generation up: its file is gone, or read to its end and no longer of interest.
    pub(super) fn end(&mut self, stream: usize, at: usize) {
        self.end_with(stream, at, "deleted-unread");
    }

    /// The same, with the reason for the loss of what was not read.
    pub(super) fn end_with(&mut self, stream: usize, at: usize, reason: &str) {
        if let Some(tail) = self.tail(stream, at) {
            // What a window leaves out of a compressed file is known, too.
            tail.size += tail.file.as_ref().map_or(0, Content::beyond);
        }
        self.close(stream, at);
        let Some(known) = self.streams.get_mut(stream) else {
            return;
        };
        if at >= known.tails.len() {
            return;
        }
        let tail = known.tails.remove(at);
        let (id, channel) = (known.id, known.channel);
        let file = shown(&tail.path);
        for cut in &tail.replay {
            self.lose_cut(stream, cut, file.clone(), "deleted-unsent");
        }
        if tail.unread() > 0 {
            let span = tributary_common::span::Span {
                start: tail.offset(),
                end: tail.size,
            };
            self.lose(stream, tail.generation, file, span, reason, None);
        }
        if self.by_key.get(&(channel, tail.key)) == Some(&(stream, tail.generation)) {
            self.by_key.remove(&(channel, tail.key));
            let ended = Ended {
                stream: id,
                generation: tail.generation,
                mtime_ns: tail.mtime_ns,
            };
            self.ended.insert((channel, tail.key), ended);
        }
        let record = GenerationRecord {
            ended_ms: Some(clock::now_ms()),
            ..tail.record(id)
        };
        self.wiring
            .checkpoint
            .write(vec![Record::Generation(record)]);
    }

    /// A file of its own begins.
    pub(super) fn new_file(
        &mut self,
        channel: usize,
        path: &LogPath,
        info: &FileInfo,
        now: Instant,
    ) {
        let Some(known) = self.channels.get(channel) else {
            return;
        };
        let from_end = known.fresh && known.task.start == Start::End;
        let label = known.task.recipe.label;
        let (task, topic) = (known.task.id.clone(), known.task.topic.clone());
        let id = stream_id(&self.wiring.agent, &known.seed, path);
        let mut records = Vec::new();
        // The checkpoint forgets a stream whose files ended long ago.
        let is_kept = |state: &State| state.streams.contains_key(&id);
        if !self.wiring.checkpoint.read(is_kept) {
            let path = path.clone();
            records.push(Record::Stream {
                stream: id,
                task,
                topic,
                path,
            });
        }
        let stream = match self.by_id.get(&id) {
            Some(&stream) => stream,
            None => self.add_stream(id, channel, path),
        };
        let number = self.unused_number(stream, info.key, 0);
        let mut tail = Tail::new(info.key, info.inode, number, path.clone(), now);
        tail.seen_at(path, info.device);
        if from_end {
            match begin_at_end(path, &mut tail, label) {
                Ok(()) => {}
                Err(error) => return self.tell_unreadable(channel, path, &error),
            }
        }
        tail.first = FirstBytes::of_size(info.size);
        tail.note_size(info.size, now, now);
        let generation = tail.generation;
        records.push(Record::Generation(tail.record(id)));
        self.wiring.checkpoint.write(records);
        self.by_key
            .insert((channel, info.key), (stream, generation));
        self.push_tail(stream, tail);
        self.name(channel, path, stream, generation);
        self.make_ready(stream);
    }

    /// Tells a person once that a file cannot be read.
    pub(super) fn tell_unreadable(&mut self, channel: usize, path: &Path, error: &io::Error) {
        let key = (channel, path.to_owned());
        let kind = error.kind();
        if self
            .not_tailed
            .get(&key)
            .is_some_and(|known| known.error == kind)
        {
            return;
        }
        tracing::warn!(
            path = shown(path),
            error = error.to_string(),
            "a file cannot be read; it is tried again regularly, the others go on"
        );
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.figures.failed(path, error);
            channel.count_bad(Bad::Unreadable, 1);
            if channel.figures.unreadable.len() < MAX_SHOWN {
                let (path, error) = (shown(path), error.to_string());
                channel.figures.unreadable.insert(path, error);
            }
        }
        self.not_tailed.insert(key, NotTailed { error: kind });
    }

    /// Opens a file anew that is open and cannot be read: its file system may have been mounted anew, and
    /// what was open before is dead.
    pub(super) fn open_anew(&mut self, stream: usize, at: usize) {
        let Some(tail) = self.tail(stream, at) else {
            return;
        };
        if tail.place != Place::Named || !matches!(tail.file, Some(Content::File(_))) {
            return;
        }
        let opened = open_file(tail.real_path()).and_then(|file| Ok((file.info()?, file)));
        if let Ok((info, file)) = opened
            && info.key == tail.key
        {
            tail.file = Some(Content::File(file));
            tail.doubted = true;
        }
    }

    /// A file was looked at, or read, as it should be.
    pub(super) fn is_well(&mut self, stream: usize, at: usize) {
        // A renamed one says nothing of the file that has its name now.
        if !self.not_tailed.is_empty()
            && let Some(tail) = self.tail(stream, at)
            && tail.place == Place::Named
        {
            let path = tail.path.clone();
            self.readable_again(stream, &path);
        }
    }

    /// A file can be read (again).
    pub(super) fn readable_again(&mut self, stream: usize, path: &Path) {
        if let Some(channel) = self.streams.get(stream).map(|known| known.channel) {
            self.readable_at(channel, path);
        }
    }

    /// As [`Self::readable_again`], for a file that may have no stream yet.
    pub(super) fn readable_at(&mut self, channel: usize, path: &Path) {
        if !self.not_tailed.is_empty()
            && self
                .not_tailed
                .remove(&(channel, path.to_owned()))
                .is_some()
        {
            tracing::info!(path = shown(path), "a file can be read again");
            if let Some(channel) = self.channels.get_mut(channel) {
                channel.figures.last_error = None;
                channel.figures.unreadable.remove(&shown(path));
            }
        }
    }
}

/// Begins after the last whole line of a file.
fn begin_at_end(path: &Path, tail: &mut Tail, label: Label) -> io::Result<()> {
    let file = open_file(path)?;
    let size = file.extent()?.size;
    let from = size.saturating_sub(LAST_LINE_BYTES);
    let mut bytes = vec![0; usize::try_from(size - from).unwrap_or(0)];
    file.read_exact_at(&mut bytes, from)?;
    let mut first = vec![0; usize::try_from(size.min(2)).unwrap_or(0)];
    file.read_exact_at(&mut first, 0)?;
    let nowhere = if from == 0 { 0 } else { bytes.len() };
    let end = label.last_line(&bytes, from, &first).unwrap_or(nowhere);
    let offset = from + end as u64;
    let before = bytes.get(..end).unwrap_or_default();
    // A line longer than what was searched: its rest is a record of its own.
    debug_assert!(before.len() as u64 >= offset.min(MARK_BYTES));
    tail.evidence.mark = Mark::at(offset, before);
    tail.evidence.prefix = prefix_of(&file, offset)?;
    Ok(())
}
