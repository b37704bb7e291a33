//! Files that nobody knows: new ones, copies, and those that cannot be told yet.
//!
//! Copy-and-truncate makes a file that is like a living generation, grows while it is copied, and is
//! a copy only once the original was cut off. So a newcomer that is empty, or like a living
//! generation of the same folder and name, waits: while it grows, and a moment longer. What turns
//! out different is read at once.
//!
//! A copy may be written over the one before: a file with the name of a copy that was emptied, or began
//! empty, is judged as a newcomer when its first bytes come.
//!
//! One that cannot be opened waits as well while it may be a copy: taken for a file of its own it would be read
//! a second time.
//!
//! Not for: what happens to the cut-off generation (see [`super::copies`]).

use std::{io, path::Path, time::Duration};

use tokio::time::Instant;
use tributary_common::ids::GenerationId;

use super::{
    Reader,
    copies::{Copy, REMEMBER, UNLIKE, folder_of},
    near::like_beginning,
};
use crate::{
    checkpoint::Record,
    discover::is_absence,
    far::{LogFile, open_file},
    handle::{self, FileInfo, FileKey},
    identify::{Evidence, Fate, Match, Newcomer, compare_with_copy, newcomer},
    path::LogPath,
    shown::shown,
    tail::{FirstBytes, Form, Place, Tail},
};

/// How long a newcomer that is like a living generation, and does not grow, waits for that to be cut
/// off.
const WAIT_FOR_CUT: Duration = Duration::from_secs(3);

/// A file that may be the copy of a truncation under way.
#[derive(Debug)]
pub(super) struct Undecided {
    pub(super) channel: usize,
    pub(super) path: LogPath,
    pub(super) info: FileInfo,
    /// The generation that it resembles; none while it is empty.
    pub(super) like: Option<(usize, GenerationId)>,
    pub(super) decide_at: Instant,
    /// Since when it cannot be opened.
    pub(super) closed_since: Option<Instant>,
    /// It was a known file whose content went.
    pub(super) reborn: Option<Box<Reborn>>,
}

/// What a file becomes that was emptied, perhaps to be the next copy, if it is a file of its own.
#[derive(Debug)]
pub(super) struct Reborn {
    /// The generation that it was.
    pub(super) was: (usize, GenerationId),
    /// The next one, of the same stream.
    pub(super) tail: Tail,
}

/// What a newcomer is.
#[derive(Debug)]
enum Judgement {
    /// A file of its own.
    New,
    /// A copy of this generation.
    Copy(usize, GenerationId),
    /// Perhaps a copy, of this generation if it has content.
    Wait(Option<(usize, GenerationId)>),
}

impl Reader {
    /// A path names a file that is not known.
    pub(super) fn unknown_file(
        &mut self,
        channel: usize,
        path: LogPath,
        info: FileInfo,
        now: Instant,
    ) {
        // Looked at anew: a copy under way has grown since it was seen, and its original may be cut off.
        let opened = open_file(&path).and_then(|file| Ok((file.info()?, file)));
        let (info, file) = match opened {
            // Another file by now, and a known one.
            Ok((seen, _))
                if seen.key != info.key && self.by_key.contains_key(&(channel, seen.key)) =>
            {
                return;
            }
            Ok(seen) => seen,
            Err(error) if is_absence(&error) => return,
            Err(error) => return self.closed_newcomer(channel, path, info, &error, now),
        };
        let same =
            |waiting: &&mut Undecided| waiting.info.key == info.key && waiting.channel == channel;
        if let Some(waiting) = self.undecided.iter_mut().find(same) {
            waiting.path = path;
            return;
        }
        if self.look_at_originals(channel, &path, &info, now) {
            return;
        }
        let judgement = self.judge(channel, &path, &file, &info, None);
        tracing::debug!(
            path = shown(&path),
            size = info.size,
            ?judgement,
            "a file is new here"
        );
        match judgement {
            Judgement::New => self.new_file(channel, &path, &info, now),
            Judgement::Copy(stream, generation) => {
                self.adopt(stream, generation, Copy { path, file, info }, now);
            }
            Judgement::Wait(like) => {
                let decide_at = now + WAIT_FOR_CUT;
                self.undecided.push(Undecided {
                    channel,
                    path,
                    info,
                    like,
                    decide_at,
                    closed_since: None,
                    reborn: None,
                });
            }
        }
    }

    /// A newcomer cannot be opened. Where it may be a copy, it waits until it can; otherwise it begins, and reading it
    /// is tried again in its turn.
    fn closed_newcomer(
        &mut self,
        channel: usize,
        path: LogPath,
        info: FileInfo,
        error: &io::Error,
        now: Instant,
    ) {
        let waits =
            |waiting: &Undecided| waiting.info.key == info.key && waiting.channel == channel;
        if self.undecided.iter().any(waits) {
            return;
        }
        let was_cut_off = self.cut_off.iter().any(|cut| cut.channel == channel);
        if !was_cut_off && self.near(channel, &path).is_empty() {
            return self.new_file(channel, &path, &info, now);
        }
        self.tell_unreadable(channel, &path, error);
        self.undecided.push(Undecided {
            channel,
            path,
            info,
            like: None,
            decide_at: now + WAIT_FOR_CUT,
            closed_since: Some(now),
            reborn: None,
        });
    }

    /// A file that waits to be judged cannot be opened: it waits on, for as long as an original that is cut off is
    /// remembered, and is one of its own then.
    fn still_closed(&mut self, mut one: Undecided, error: &io::Error, now: Instant) {
        let since = *one.closed_since.get_or_insert(now);
        self.tell_unreadable(one.channel, &one.path, error);
        if now.saturating_duration_since(since) < REMEMBER {
            one.decide_at = now + WAIT_FOR_CUT;
            return self.undecided.push(one);
        }
        self.abandon(one.like);
        match one.reborn {
            Some(reborn) => self.begin_again(*reborn, one.channel, &one.path, &one.info, now),
            None => self.new_file(one.channel, &one.path, &one.info, now),
        }
    }

    /// A newcomer that waits was written to.
    pub(super) fn judge_again(&mut self, path: &Path) {
        let now = Instant::now();
        // An empty one shows what it is by its first bytes; a copy under way goes on growing.
        let mut shows = self
            .undecided
            .iter_mut()
            .filter(|waiting| *waiting.path == *path && waiting.like.is_none())
            .peekable();
        if shows.peek().is_some() && handle::glance(path).is_ok_and(|seen| seen.size == 0) {
            return;
        }
        shows.for_each(|waiting| waiting.decide_at = now);
        self.decide(now);
    }

    /// Decides about newcomers whose time is over, or whose generation was cut off meanwhile.
    pub(super) fn decide(&mut self, now: Instant) {
        let due = |waiting: &Undecided| waiting.decide_at <= now;
        // Whether they are copies depends on what became of the originals meanwhile.
        let like = self.undecided.iter().filter(|waiting| due(waiting));
        let originals: Vec<_> = like.filter_map(|waiting| waiting.like).collect();
        for (stream, generation) in originals {
            self.look_for_cut(stream, generation, now);
        }
        let (due, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.undecided)
            .into_iter()
            .partition(due);
        self.undecided = waiting;
        for one in due {
            self.decide_one(one, now);
        }
        self.folders.forget();
    }

    fn decide_one(&mut self, one: Undecided, now: Instant) {
        let found = match self.find_again(&one.path, &one.info) {
            Ok(found) => found,
            Err(error) => return self.still_closed(one, &error, now),
        };
        if one.closed_since.is_some() {
            self.readable_at(one.channel, &one.path);
        }
        match found {
            Some(found) => self.decide_found(one, found, now),
            None => self.abandon(one.like),
        }
    }

    fn decide_found(
        &mut self,
        one: Undecided,
        (path, seen, file): (LogPath, FileInfo, LogFile),
        now: Instant,
    ) {
        let Undecided {
            channel,
            path: was_at,
            info,
            like,
            reborn,
            ..
        } = one;
        // A look at the original of another one found that this is a copy.
        if self.by_key.contains_key(&(channel, seen.key)) {
            if path == was_at {
                self.known_file(channel, &path, &seen);
            }
            return self.abandon(like);
        }
        if let Some((stream, generation)) =
            like.filter(|&like| self.was_cut_off(like, &file, &seen))
        {
            let copy = Copy {
                path,
                file,
                info: seen,
            };
            return self.adopt(stream, generation, copy, now);
        }
        self.abandon(like);
        // Where it is now, it is judged when it is found there, if its task wants it.
        if path != was_at || self.look_at_originals(channel, &path, &seen, now) {
            return;
        }
        let grew = (seen.size, seen.mtime_ns) != (info.size, info.mtime_ns);
        let was = reborn.as_ref().map(|reborn| reborn.was);
        let judgement = self.judge(channel, &path, &file, &seen, was);
        tracing::debug!(
            path = shown(&path),
            size = seen.size,
            ?judgement,
            "a file that waited is judged"
        );
        match judgement {
            Judgement::Copy(stream, generation) => {
                self.adopt(
                    stream,
                    generation,
                    Copy {
                        path,
                        file,
                        info: seen,
                    },
                    now,
                );
            }
            // Still being copied.
            Judgement::Wait(like) if grew => {
                let decide_at = now + WAIT_FOR_CUT;
                self.undecided.push(Undecided {
                    channel,
                    path,
                    info: seen,
                    like,
                    decide_at,
                    closed_since: None,
                    reborn,
                });
            }
            Judgement::Wait(_) | Judgement::New => match reborn {
                Some(reborn) => self.begin_again(*reborn, channel, &path, &seen, now),
                None => self.new_file(channel, &path, &seen, now),
            },
        }
    }

    /// The file of a generation was emptied, or has its first bytes. When its name is that of a copy, a
    /// copy may be written into it: it is judged as a newcomer then. False when it is not.
    pub(super) fn is_judged_anew(&mut self, stream: usize, at: usize, now: Instant) -> bool {
        let Some(channel) = self.streams.get(stream).map(|known| known.channel) else {
            return false;
        };
        let Some(old) = self.tail(stream, at) else {
            return false;
        };
        let (key, generation, path) = (old.key, old.generation, old.path.clone());
        let is_plain = old.form == Form::Plain && old.place == Place::Named && old.names == 1;
        let owner = self.by_key.get(&(channel, key));
        if !is_plain || owner != Some(&(stream, generation)) {
            return false;
        }
        let of_another = |&(of, at): &(usize, GenerationId)| {
            self.tail_of(of, at).is_some_and(|tail| tail.key != key)
        };
        if !self.originals(channel, &path).iter().any(of_another) {
            return false;
        }
        let Ok(info) = handle::of_path(&path) else {
            return false;
        };
        if info.key != key || !self.unname(channel, &path, stream, generation) {
            return false;
        }
        self.close(stream, at);
        self.by_key.remove(&(channel, key));
        let Some(old) = self.tail(stream, at) else {
            return false;
        };
        old.names = 0;
        let (inode, next) = (old.inode, old.truncations + 1);
        let next = self.unused_number(stream, key, next);
        let tail = Tail::new(key, inode, next, path.clone(), now);
        let was = (stream, generation);
        let wait = if info.size == 0 {
            WAIT_FOR_CUT
        } else {
            Duration::ZERO
        };
        self.undecided.push(Undecided {
            channel,
            path,
            // As if nothing of it had been seen: what is there has come since.
            info: FileInfo { size: 0, ..info },
            like: None,
            decide_at: now + wait,
            closed_since: None,
            reborn: Some(Box::new(Reborn { was, tail })),
        });
        true
    }

    /// Ends a generation of which nothing was read, and whose file is judged anew.
    pub(super) fn end_unread(&mut self, stream: usize, at: usize) {
        if let Some(tail) = self.tail(stream, at) {
            // What stands there is of whatever it will be.
            tail.size = tail.offset();
        }
        self.end(stream, at);
    }

    /// An emptied file is one of its own after all.
    fn begin_again(
        &mut self,
        reborn: Reborn,
        channel: usize,
        path: &LogPath,
        info: &FileInfo,
        now: Instant,
    ) {
        let (stream, mut tail) = (reborn.was.0, reborn.tail);
        let Some(id) = self.streams.get(stream).map(|known| known.id) else {
            return;
        };
        tail.seen_at(path, info.device);
        tail.first = FirstBytes::of_size(info.size);
        tail.note_size(info.size, now, now);
        let generation = tail.generation;
        self.wiring
            .checkpoint
            .write(vec![Record::Generation(tail.record(id))]);
        self.by_key
            .insert((channel, info.key), (stream, generation));
        self.push_tail(stream, tail);
        self.name(channel, path, stream, generation);
        self.make_ready(stream);
    }

    /// A newcomer by its path, or by another one beside it: the next rotation may have renamed it.
    ///
    /// # Errors
    /// When it is there and cannot be opened.
    fn find_again(
        &mut self,
        path: &LogPath,
        info: &FileInfo,
    ) -> io::Result<Option<(LogPath, FileInfo, LogFile)>> {
        let open = |path: &Path| {
            let opened = open_file(path).and_then(|file| Ok((file.info()?, file)));
            match opened {
                Ok((seen, file)) => Ok((seen.key == info.key).then_some((seen, file))),
                Err(error) if is_absence(&error) => Ok(None),
                Err(error) => match handle::of_path(path) {
                    Ok(seen) if seen.key == info.key => Err(error),
                    Ok(_) | Err(_) => Ok(None),
                },
            }
        };
        if let Some((seen, file)) = open(path)? {
            return Ok(Some((path.clone(), seen, file)));
        }
        let Some(path) = self.folders.find(folder_of(path), info.inode, info.key) else {
            return Ok(None);
        };
        let found = open(&path)?;
        Ok(found.map(|(seen, file)| (path.into(), seen, file)))
    }

    /// A copy that a cut-off generation waited for is gone.
    fn abandon(&mut self, like: Option<(usize, GenerationId)>) {
        let Some((stream, generation)) = like else {
            return;
        };
        if let Some(at) = self.place_of(stream, generation)
            && self
                .tail(stream, at)
                .is_some_and(|tail| matches!(tail.place, Place::Awaited(_)))
        {
            self.end_cut_off(stream, at);
            self.make_ready(stream);
        }
    }

    /// Whether a generation was cut off, and nothing speaks against this file being its copy. A copy
    /// that ends before what was read has been compared with the original already.
    fn was_cut_off(&self, like: (usize, GenerationId), file: &LogFile, info: &FileInfo) -> bool {
        let Some(cut) = self
            .cut_off
            .iter()
            .find(|cut| (cut.stream, cut.generation) == like)
        else {
            return false;
        };
        match compare_with_copy(cut.prefix, &cut.marks, file, info.size) {
            Ok(Match {
                reaches: true,
                prefix,
                mark,
            }) => prefix && mark,
            Ok(Match { reaches: false, .. }) | Err(_) => true,
        }
    }

    /// What a file is that `was` this generation, if it was any: it is no copy of that.
    fn judge(
        &self,
        channel: usize,
        path: &Path,
        file: &LogFile,
        info: &FileInfo,
        was: Option<(usize, GenerationId)>,
    ) -> Judgement {
        if let Some((stream, generation)) = self.copy_of_cut_off(channel, file, info, was) {
            return Judgement::Copy(stream, generation);
        }
        if self.any_known
            && let Some((stream, generation)) = self.copy_of_vanished(channel, file, info)
        {
            return Judgement::Copy(stream, generation);
        }
        if info.size == 0 {
            // Whether its original has content by now or not: that may come before the copy's.
            return if !self.near(channel, path).is_empty() {
                Judgement::Wait(None)
            } else {
                Judgement::New
            };
        }
        match self.like_living(channel, path, file, info) {
            Some(like) => Judgement::Wait(Some(like)),
            None => Judgement::New,
        }
    }

    /// The cut-off generation of which a file is a copy.
    fn copy_of_cut_off(
        &self,
        channel: usize,
        file: &LogFile,
        info: &FileInfo,
        was: Option<(usize, GenerationId)>,
    ) -> Option<(usize, GenerationId)> {
        let cut_off = self
            .cut_off
            .iter()
            .rev()
            .filter(|cut| cut.channel == channel && was != Some((cut.stream, cut.generation)));
        let cut = cut_off.into_iter().find(|cut| {
            let seen = compare_with_copy(cut.prefix, &cut.marks, file, info.size);
            let read_to = cut.marks.last().map_or(0, |mark| mark.offset);
            newcomer(seen.unwrap_or(UNLIKE), read_to, Fate::CutOff) == Newcomer::Copy
        })?;
        Some((cut.stream, cut.generation))
    }

    /// The vanished generation that a file is: moved here from another file system, or restored.
    fn copy_of_vanished(
        &self,
        channel: usize,
        file: &LogFile,
        info: &FileInfo,
    ) -> Option<(usize, GenerationId)> {
        if let Some(awaited) = self.copy_of_awaited(channel, file, info) {
            return Some(awaited);
        }
        // Reading is for those only that may be the same.
        let mut ended = self
            .ended
            .iter()
            .filter(|((of, _), ended)| *of == channel && ended.mtime_ns == info.mtime_ns)
            .map(|(_, &ended)| ended);
        let found = self.wiring.checkpoint.read(|state| {
            ended.find(|ended| {
                let known = state.generation(ended.stream, ended.generation);
                known.is_some_and(|record| {
                    let evidence = Evidence {
                        prefix: record.prefix,
                        mark: record.mark,
                    };
                    let seen = evidence.compare(file, info.size).unwrap_or(UNLIKE);
                    let fate = Fate::VanishedSameTime;
                    newcomer(seen, record.mark.offset, fate) == Newcomer::Copy
                })
            })
        })?;
        Some((*self.by_id.get(&found.stream)?, found.generation))
    }

    /// The same, while the vanished file is still awaited.
    fn copy_of_awaited(
        &self,
        channel: usize,
        file: &LogFile,
        info: &FileInfo,
    ) -> Option<(usize, GenerationId)> {
        if !self.any_awaited {
            return None;
        }
        let streams = self.streams.iter().enumerate();
        let of_channel = streams.filter(|(_, stream)| stream.channel == channel);
        let tails = of_channel.flat_map(|(at, stream)| stream.tails.iter().map(move |t| (at, t)));
        tails
            .filter(|(_, tail)| {
                matches!(tail.place, Place::Awaited(_)) && tail.mtime_ns == info.mtime_ns
            })
            .find(|(_, tail)| {
                let seen = tail.evidence.compare(file, info.size).unwrap_or(UNLIKE);
                newcomer(seen, tail.offset(), Fate::VanishedSameTime) == Newcomer::Copy
            })
            .map(|(at, tail)| (at, tail.generation))
    }

    /// The generation that was given up, if this is its key: it is not given up any more.
    pub(super) fn no_longer_ended(
        &mut self,
        channel: usize,
        stream: usize,
        generation: GenerationId,
    ) {
        let Some(id) = self.streams.get(stream).map(|known| known.id) else {
            return;
        };
        let is_it = |(of, _): &(usize, FileKey)| *of == channel;
        self.ended.retain(|key, ended| {
            !is_it(key) || (ended.stream, ended.generation) != (id, generation)
        });
    }

    /// The living generation that a newcomer is like, if any.
    fn like_living(
        &self,
        channel: usize,
        path: &Path,
        file: &LogFile,
        info: &FileInfo,
    ) -> Option<(usize, GenerationId)> {
        self.near(channel, path)
            .into_iter()
            .find(|&(stream, generation)| {
                let tail = self.tail_of(stream, generation);
                let seen = tail.filter(|tail| tail.size.max(tail.offset()) > 0);
                let seen = seen.and_then(|tail| like_beginning(tail, file, info).ok());
                let verdict = newcomer(seen.unwrap_or(UNLIKE), info.size, Fate::Alive);
                verdict == Newcomer::Undecided
            })
    }
}
