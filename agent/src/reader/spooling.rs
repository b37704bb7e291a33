//! Deleted files that are not read yet: kept open, then saved, then dropped, as `limits.spool` says.
//!
//! What counts against the limit is what deleted files hold open and what the spool's files take on
//! disk. Over it, deleted files are saved one by one, the least urgent first, which takes a fraction
//! of their size; when nothing is left to save, the least urgent is dropped and told as a loss. At
//! the stop everything that is deleted and not acknowledged is saved, as the limit allows.
//!
//! Not for: the spool's files (see [`crate::spool`]), compressed logs (see [`super::packed`]).

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use crossbeam_channel::Sender;
use tokio::time::Instant;
use tributary_common::ids::{GenerationId, StreamId};

use super::Reader;
use crate::{
    checkpoint::as_gauge,
    clock,
    content::Content,
    identify::MARK_BYTES,
    shown::shown,
    spool::{self, Done, Job, Meta, SpoolFile, Ticket},
    tail::{Form, Place},
};

/// A file of the spool that was read is removed when its batches ended and the checkpoint has been
/// synced since.
const REMOVE_AFTER: Duration = Duration::from_secs(3);
/// Saving at the stop may take so long.
const SAVE_AT_STOP: Duration = Duration::from_secs(6);

/// Where the spool is, and who works for it.
#[derive(Debug)]
pub(crate) struct SpoolWiring {
    /// `<state_dir>/spool`.
    pub(crate) folder: PathBuf,
    /// To the thread that compresses.
    pub(crate) jobs: Sender<Job>,
}

/// What the reader knows of the spool.
#[derive(Debug, Default)]
pub(super) struct Spooling {
    /// Some deleted file is open and not read.
    pub(super) any_held: bool,
    /// What is being saved.
    saving: Option<Ticket>,
    /// Sizes on disk.
    files: HashMap<(StreamId, GenerationId), u64>,
    /// Files of generations that are not read now: of tasks that are not configured.
    unclaimed: HashMap<(StreamId, GenerationId), SpoolFile>,
    /// Files that were read.
    finished: Vec<Finished>,
    /// Compressed files that the other thread unpacks, or will.
    pub(super) unpacking: u64,
}

#[derive(Debug)]
struct Finished {
    of: (StreamId, GenerationId),
    path: PathBuf,
    since: Instant,
}

impl Spooling {
    /// Bytes on disk, read or not.
    pub(super) fn on_disk(&self) -> u64 {
        self.files.values().sum()
    }

    /// Bytes on disk that are not read yet.
    pub(super) fn bytes(&self) -> u64 {
        let all: u64 = self.files.values().sum();
        let read = self
            .finished
            .iter()
            .filter_map(|done| self.files.get(&done.of));
        all.saturating_sub(read.sum())
    }
}

impl Reader {
    /// Once a second, and when something was saved: keeps to the limit, and removes what is done with.
    pub(super) fn tend_spool(&mut self, now: Instant) {
        self.remove_finished(now);
        if !self.spooling.any_held && self.spooling.files.is_empty() {
            return;
        }
        loop {
            let (held, spooled) = (self.held_bytes(), self.spooling.bytes());
            metrics::gauge!("tributary_agent_spool_bytes").set(as_gauge(spooled));
            metrics::gauge!("tributary_agent_deleted_unread_bytes").set(as_gauge(held));
            self.wiring
                .status
                .spooled(held, spooled, self.wiring.limits.spool);
            if held + spooled <= self.wiring.limits.spool || self.spooling.saving.is_some() {
                return;
            }
            if let Some((stream, at)) = self.least_urgent(is_held) {
                return self.save(stream, at);
            }
            let Some((stream, at)) = self.least_urgent(is_spooled) else {
                return;
            };
            self.drop_spooled(stream, at);
        }
    }

    /// Drops the least urgent, at once: room is needed. Batches of it that are under way may still
    /// arrive.
    fn drop_spooled(&mut self, stream: usize, at: usize) {
        self.end_with(stream, at, "spool-full");
        if let Some(done) = self.spooling.finished.pop() {
            self.spooling.files.remove(&done.of);
            // Left behind, it is removed at the next start.
            drop(self.wiring.spool.jobs.try_send(Job::Remove(done.path)));
        }
    }

    /// Bytes that deleted files hold on their disks because they are not read.
    fn held_bytes(&self) -> u64 {
        let tails = self.streams.iter().flat_map(|stream| &stream.tails);
        tails
            .filter(|tail| is_held(tail))
            .map(crate::tail::Tail::unread)
            .sum()
    }

    /// The least urgent generation of a kind; within a class the first, which is the oldest of its
    /// stream.
    fn least_urgent(&self, is_one: fn(&crate::tail::Tail) -> bool) -> Option<(usize, usize)> {
        let mut found: Option<(u8, usize, usize)> = None;
        for (number, stream) in self.streams.iter().enumerate() {
            let Some(at) = stream.tails.iter().position(is_one) else {
                continue;
            };
            let class = self.class_of(number) as u8;
            if found.is_none_or(|(most, _, _)| class > most) {
                found = Some((class, number, at));
            }
        }
        found.map(|(_, stream, at)| (stream, at))
    }

    /// What is to be written down of a generation that is saved: from its first byte that is not
    /// acknowledged, and what a mark covers before it.
    pub(super) fn meta_of(&self, stream: usize, at: usize) -> Option<Meta> {
        let known = self.streams.get(stream)?;
        let tail = known.tails.get(at)?;
        let cuts = self
            .wiring
            .checkpoint
            .read(|state| state.cuts_of(known.id, tail.generation));
        let oldest = cuts.iter().map(|cut| cut.span.start).min();
        let from = oldest.unwrap_or(u64::MAX).min(tail.offset());
        Some(Meta {
            stream: known.id,
            generation: tail.generation,
            path: shown(&tail.path),
            start: from.saturating_sub(MARK_BYTES),
            saved_ms: clock::now_ms(),
            total: None,
        })
    }

    /// Finds what an earlier life had saved.
    pub(super) fn recover_spool(&mut self) {
        self.spooling.unclaimed = spool::recover(&self.wiring.spool.folder);
        let files = self.spooling.unclaimed.iter();
        self.spooling.files = files.map(|(&of, spool)| (of, spool.bytes)).collect();
    }

    /// A generation is taken up: what was saved of it is where it is read.
    pub(super) fn claim_spool(&mut self, stream: usize, of: (StreamId, GenerationId)) {
        if let Some(spool) = self.spooling.unclaimed.remove(&of)
            && let Some(at) = self.place_of(stream, of.1)
        {
            self.attach(stream, at, spool);
            self.make_ready(stream);
        }
    }

    /// A generation is dropped with its task, which may come back: what was saved of it stays.
    pub(super) fn keep_spool(&mut self, stream: usize, at: usize) {
        let is_spool = |content: &mut Content| matches!(content, Content::Spool(_));
        let file = self.tail(stream, at).map(|tail| &mut tail.file);
        if let Some(Content::Spool(spool)) = file.and_then(|file| file.take_if(is_spool)) {
            self.opened.count -= 1;
            let of = (spool.meta.stream, spool.meta.generation);
            self.spooling.unclaimed.insert(of, *spool);
        }
    }

    /// What was saved of generations that have ended is not needed, unless their task is not
    /// configured: it may come back.
    pub(super) fn finish_unclaimed(&mut self) {
        let tasks: HashSet<_> = self.channels.iter().map(|known| &known.task.id).collect();
        let ended: Vec<_> = self.wiring.checkpoint.read(|state| {
            let unclaimed = self.spooling.unclaimed.keys().copied();
            let is_ended = |of: &(StreamId, GenerationId)| {
                let stream = state.streams.get(&of.0);
                stream.is_none_or(|stream| tasks.contains(&stream.task))
            };
            unclaimed.filter(is_ended).collect()
        });
        for of in ended {
            if let Some(spool) = self.spooling.unclaimed.remove(&of) {
                self.finish(&spool);
            }
        }
    }

    /// Has a deleted file saved.
    fn save(&mut self, stream: usize, at: usize) {
        let Some(meta) = self.meta_of(stream, at) else {
            return;
        };
        let of = (stream, meta.generation);
        let restraint = self.restraint_of(self.class_of(stream));
        let tail = self.tail(stream, at);
        let file = tail.and_then(|tail| tail.file.as_ref()?.as_file()?.try_clone().ok());
        let Some(file) = file else {
            return;
        };
        // A full queue: the next tick tries again.
        if self
            .wiring
            .spool
            .jobs
            .try_send(Job::Save {
                of,
                file,
                meta,
                restraint,
            })
            .is_ok()
        {
            self.spooling.saving = Some(of);
        }
    }

    /// The other thread is done with something.
    pub(super) fn on_spool(&mut self, done: Done) {
        match done {
            Done::Saved { of, path } => {
                self.after_job(of);
                self.saved(of, &path);
            }
            Done::NotSaved { of, again, why } => {
                if self.spooling.saving == Some(of) {
                    metrics::counter!("tributary_agent_spool_failures_total").increment(1);
                    tracing::error!(
                        error = why,
                        "a deleted file cannot be saved; it stays open, and is tried again"
                    );
                    self.spooling.saving = None;
                } else {
                    self.spooling.unpacking = self.spooling.unpacking.saturating_sub(1);
                    self.not_found_packed(of, again, &why);
                }
            }
            Done::Compared { path, verdict } => {
                self.spooling.unpacking = self.spooling.unpacking.saturating_sub(1);
                self.compared(&path, verdict);
            }
        }
    }

    fn after_job(&mut self, of: Ticket) {
        if self.spooling.saving == Some(of) {
            self.spooling.saving = None;
        } else {
            self.spooling.unpacking = self.spooling.unpacking.saturating_sub(1);
        }
    }

    /// A generation's bytes are in the spool: from now on it is read from there.
    fn saved(&mut self, of: Ticket, path: &std::path::Path) {
        let (stream, generation) = of;
        let spool = match SpoolFile::open(path) {
            Ok(spool) => spool,
            Err(error) => {
                tracing::error!(error = error.to_string(), "what was saved cannot be read");
                return;
            }
        };
        let Some(at) = self.place_of(stream, generation) else {
            return self.finish(&spool);
        };
        let tail = self.tail(stream, at);
        let file = tail.and_then(|tail| tail.file.as_ref()?.extent().ok());
        if file.is_some_and(|extent| extent.size > spool.end) {
            // Its writer goes on: keep the file, save it anew.
            let removal = Job::Remove(path.to_owned());
            // Left behind, it is removed at the next start.
            drop(self.wiring.spool.jobs.try_send(removal));
            return;
        }
        self.attach(stream, at, spool);
        self.make_ready(stream);
        // The next one need not wait for its second: disks fill meanwhile.
        self.tend_spool(Instant::now());
    }

    /// A generation is read from the spool.
    pub(super) fn attach(&mut self, stream: usize, at: usize, spool: SpoolFile) {
        let of = (spool.meta.stream, spool.meta.generation);
        self.spooling.files.insert(of, spool.bytes);
        // A file of an earlier life had the same name, which is this one's now.
        self.spooling.finished.retain(|done| done.of != of);
        let (now, end) = (Instant::now(), spool.end);
        let Some(tail) = self.tail(stream, at) else {
            return;
        };
        tail.doubted = false;
        (tail.seek.running, tail.seek.times) = (false, 0);
        tail.size = tail.offset();
        tail.note_size(end, now, now);
        if matches!(tail.place, Place::Awaited(_)) {
            tail.place = Place::Hidden(now);
        }
        match tail.file.replace(Content::Spool(Box::new(spool))) {
            // The deleted file that was saved: nobody else has it any more.
            Some(Content::File(file)) => self.wiring.closer.close(file),
            Some(Content::Spool(_)) => {}
            None => self.note_opened(stream),
        }
    }

    /// A file of the spool is not needed any more, once its batches have ended.
    pub(super) fn finish(&mut self, spool: &SpoolFile) {
        let of = (spool.meta.stream, spool.meta.generation);
        self.spooling.files.insert(of, spool.bytes);
        self.spooling.finished.push(Finished {
            of,
            path: spool.path.clone(),
            since: Instant::now(),
        });
    }

    fn remove_finished(&mut self, now: Instant) {
        if self.spooling.finished.is_empty() {
            return;
        }
        let held: HashSet<(StreamId, GenerationId)> = self.wiring.checkpoint.read(|state| {
            let cuts = state.cuts.values();
            cuts.map(|cut| (cut.id.stream, cut.generation)).collect()
        });
        let jobs = self.wiring.spool.jobs.clone();
        let files = &mut self.spooling.files;
        self.spooling.finished.retain(|done| {
            let old = now.saturating_duration_since(done.since) >= REMOVE_AFTER;
            if !old || held.contains(&done.of) {
                return true;
            }
            let removed = jobs.try_send(Job::Remove(done.path.clone())).is_ok();
            if removed {
                files.remove(&done.of);
            }
            !removed
        });
    }

    /// What was deleted since its last turn.
    fn look_for_deleted(&mut self) {
        let now = Instant::now();
        for tail in self
            .streams
            .iter_mut()
            .flat_map(|stream| &mut stream.tails)
            .filter(|tail| !tail.deleted)
        {
            let file = tail.file.as_ref().and_then(Content::as_file);
            let seen = file.and_then(|file| file.extent().ok());
            if let Some(extent) = seen.filter(|extent| extent.links == 0) {
                tail.deleted = true;
                tail.note_size(extent.size, now, now);
            }
        }
    }

    /// At the stop: what is deleted and not acknowledged would be gone with this process.
    pub(super) fn save_at_stop(&mut self) {
        self.look_for_deleted();
        let until = Instant::now() + SAVE_AT_STOP;
        let mut places: Vec<(u8, usize, usize)> = Vec::new();
        for (number, stream) in self.streams.iter().enumerate() {
            let deleted = stream.tails.iter().enumerate();
            let deleted = deleted.filter(|(_, tail)| {
                tail.deleted
                    && tail
                        .file
                        .as_ref()
                        .is_some_and(|file| file.as_file().is_some())
            });
            let class = self.class_of(number) as u8;
            places.extend(deleted.map(|(at, _)| (class, number, at)));
        }
        // The most urgent first.
        places.sort_unstable();
        for (_, stream, at) in places {
            if Instant::now() >= until || self.spooling.bytes() >= self.wiring.limits.spool {
                return;
            }
            let Some(meta) = self.meta_of(stream, at) else {
                continue;
            };
            let of = (stream, meta.generation);
            let Some(tail) = self.tail(stream, at) else {
                continue;
            };
            let acknowledged = meta.start + MARK_BYTES >= tail.size.max(MARK_BYTES);
            if (acknowledged && tail.unread() == 0) || self.spooling.saving == Some(of) {
                continue;
            }
            let tail = self
                .streams
                .get(stream)
                .and_then(|known| known.tails.get(at));
            let file = tail.and_then(|tail| tail.file.as_ref()?.as_file());
            let Some(file) = file else {
                continue;
            };
            let restraint = self.restraint_of(self.class_of(stream));
            match spool::save(&self.wiring.spool.folder, of, file, &meta, &restraint) {
                Done::Saved { path, .. } => {
                    let bytes = SpoolFile::open(&path).map_or(0, |spool| spool.bytes);
                    let of = (meta.stream, meta.generation);
                    self.spooling.files.insert(of, bytes);
                }
                Done::NotSaved { why, .. } => {
                    tracing::error!(error = why, "a deleted file cannot be saved");
                }
                Done::Compared { .. } => {}
            }
        }
    }
}

/// A deleted file that is open and not read.
pub(super) fn is_held(tail: &crate::tail::Tail) -> bool {
    let is_file = |source: &Content| source.as_file().is_some();
    tail.deleted && tail.unread() > 0 && tail.file.as_ref().is_some_and(is_file)
}

/// A generation that stands in the spool only.
fn is_spooled(tail: &crate::tail::Tail) -> bool {
    let is_spool = |source: &Content| source.as_file().is_none();
    tail.form == Form::Plain && tail.file.as_ref().is_some_and(is_spool)
}
