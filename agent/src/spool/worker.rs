//! The thread that compresses and decompresses, so that the reader never waits for it.
//!
//! Two kinds of work: what of a deleted file was not acknowledged goes into the spool; and a
//! compressed file is compared with generations that were read, and what it has beyond goes into the
//! spool. One thing at a time, in order, each piece of it as `limits.cpu` allows (see [`Restraint`]).
//!
//! A compressed file may hold any number of bytes, and the spool has a limit: what does not fit into the
//! [`Room`] of one file is saved window by window. The next one replaces the last when the reader is
//! done with that; meanwhile the file stays open where its last window ended, so that it need not be
//! unpacked from its beginning again. A later life does that once.
//!
//! Not for: deciding what to do with the outcome (see [`crate::reader`]).

use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc::SyncSender,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use tokio::time::Instant;
use tributary_common::ids::{GenerationId, StreamId};

use super::{
    file::{CHUNK_BYTES, Meta, SpoolFile, SpoolWriter},
    unpack::Unpacker,
};
use crate::{
    discover::Event,
    far::LogFile,
    identify::{Evidence, PREFIX_BYTES, Prefix},
    limit::{AtStop, Restraint},
};

/// So many compressed files stay open between their windows; a decoder has some MiB at most.
const MAX_OPEN: usize = 4;
/// And for so long: one that was deleted keeps its room on the disk meanwhile.
const KEEP_OPEN: Duration = Duration::from_secs(600);

/// A generation, as the reader knows it.
pub(crate) type Ticket = (usize, GenerationId);

/// What a file of the spool may take, unless what it is of is shorter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Bytes on disk at most.
    pub(crate) disk: u64,
    /// Source bytes at least, whatever they take: the longest record must be among them.
    pub(crate) least: u64,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Job {
    /// Save a file from `meta.start` on.
    Save {
        /// Of which generation.
        of: Ticket,
        /// Its descriptor.
        file: LogFile,
        /// What to write down.
        meta: Meta,
        /// What it keeps to.
        restraint: Restraint,
    },
    /// Save what a compressed file has from `meta.start` on, or as much as there is room for, if it has
    /// the generation's content.
    Continue {
        /// Of which generation.
        of: Ticket,
        /// Compressed files that may be it.
        candidates: Vec<PathBuf>,
        /// Its content.
        evidence: Evidence,
        /// What to write down.
        meta: Meta,
        /// A file that ends within its compressed stream will not grow any more.
        final_try: bool,
        /// What it may take.
        room: Room,
        /// What it keeps to.
        restraint: Restraint,
    },
    /// Find out which generation a compressed file is.
    Compare {
        /// The file.
        path: PathBuf,
        /// Generations that it may be.
        known: Vec<(Ticket, Evidence)>,
        /// What to write down when it is none of them: then it is saved, as far as there is room.
        meta: Meta,
        /// What it may take.
        room: Room,
        /// What it keeps to.
        restraint: Restraint,
    },
    /// Remove a file of the spool.
    Remove(PathBuf),
}

/// What came of a job.
#[derive(Debug)]
pub(crate) enum Done {
    /// Bytes of a generation are in the spool.
    Saved {
        /// Which.
        of: Ticket,
        /// The file.
        path: PathBuf,
    },
    /// They are not.
    NotSaved {
        /// Of which generation.
        of: Ticket,
        /// Trying again may help: a candidate is being written.
        again: bool,
        /// Why, for people.
        why: String,
    },
    /// A compressed file was compared.
    Compared {
        /// The file.
        path: PathBuf,
        /// What it is.
        verdict: Compared,
    },
}

/// What a compressed file is.
#[derive(Debug)]
pub(crate) enum Compared {
    /// This generation, with so many bytes in all.
    Like(Ticket, u64),
    /// A file of its own, saved here, with this beginning.
    New(PathBuf, Prefix),
    /// It cannot be read to its end: half-written, or damaged.
    Broken(String),
}

/// Works until the reader is gone.
///
/// # Errors
/// None: what fails is told to the reader.
pub(crate) fn run(
    folder: &Path,
    jobs: &Receiver<Job>,
    events: &SyncSender<Event>,
) -> anyhow::Result<()> {
    let mut worker = Worker {
        folder,
        open: Vec::new(),
    };
    loop {
        let job = match jobs.recv_timeout(KEEP_OPEN) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => {
                worker.close_old(Instant::now());
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        worker.close_old(Instant::now());
        if let Some(done) = worker.work(job)
            && events.send(Event::Spool(done)).is_err()
        {
            return Ok(());
        }
    }
}

/// What came of copying.
enum Copied {
    /// All of it is there.
    Whole(PathBuf),
    /// As much as there was room for.
    Part(SpoolWriter),
}

/// Copies `before`, and what `read` gives behind it, into a file of the spool from the source offset
/// `meta.start` on.
fn copy_into(
    folder: &Path,
    meta: &Meta,
    room: Option<Room>,
    before: &[u8],
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> Result<Copied, String> {
    let mut writer = SpoolWriter::create(folder, meta).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; CHUNK_BYTES];
    let mut copied = before.len() as u64;
    let mut pushed = writer.push(before).map_err(|error| error.to_string());
    loop {
        if let Err(error) = pushed {
            writer.abandon();
            return Err(error);
        }
        if room.is_some_and(|room| copied >= room.least && writer.disk_bytes() >= room.disk) {
            return Ok(Copied::Part(writer));
        }
        pushed = match read(&mut bytes) {
            Ok(0) => break,
            Ok(len) => {
                copied += len as u64;
                let bytes = bytes.get(..len).unwrap_or_default();
                writer.push(bytes).map_err(|error| error.to_string())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.to_string()),
        };
    }
    finish(writer).map(Copied::Whole)
}

fn finish(writer: SpoolWriter) -> Result<PathBuf, String> {
    let finished = writer.finish().map(|(path, _)| path);
    finished.map_err(|error| error.to_string())
}

/// Saves a file, as far as it goes now.
pub(crate) fn save(
    folder: &Path,
    of: Ticket,
    file: &LogFile,
    meta: &Meta,
    restraint: &Restraint,
) -> Done {
    let mut offset = meta.start;
    let read = |room: &mut [u8]| {
        // It has no name any more: nobody finds it after the stop.
        restraint.next_piece(AtStop::Finish)?;
        let len = file.read_at(room, offset)?;
        offset += len as u64;
        Ok(len)
    };
    let path = match copy_into(folder, meta, None, &[], read) {
        Ok(Copied::Whole(path)) => Ok(path),
        Ok(Copied::Part(writer)) => finish(writer),
        Err(why) => Err(why),
    };
    match path {
        Ok(path) => Done::Saved { of, path },
        Err(why) => Done::NotSaved {
            of,
            again: true,
            why,
        },
    }
}

/// A compressed file whose next window is awaited.
struct Open {
    of: (StreamId, GenerationId),
    unpacker: Unpacker,
    since: Instant,
}

/// The search for the rest of a generation in compressed files.
struct Search {
    evidence: Evidence,
    meta: Meta,
    room: Room,
    final_try: bool,
    restraint: Restraint,
}

/// What the thread keeps between two jobs.
struct Worker<'a> {
    folder: &'a Path,
    /// The latest last.
    open: Vec<Open>,
}

impl Worker<'_> {
    fn close_old(&mut self, now: Instant) {
        self.open
            .retain(|open| now.saturating_duration_since(open.since) < KEEP_OPEN);
    }

    fn work(&mut self, job: Job) -> Option<Done> {
        let done = match job {
            Job::Save {
                of,
                file,
                meta,
                restraint,
            } => save(self.folder, of, &file, &meta, &restraint),
            Job::Continue {
                of,
                candidates,
                evidence,
                meta,
                final_try,
                room,
                restraint,
            } => {
                let search = Search {
                    evidence,
                    meta,
                    room,
                    final_try,
                    restraint,
                };
                self.go_on(of, &candidates, &search)
            }
            Job::Compare {
                path,
                known,
                meta,
                room,
                restraint,
            } => {
                let search = Search {
                    evidence: Evidence::default(),
                    meta,
                    room,
                    final_try: false,
                    restraint,
                };
                let verdict = self.compare(&path, &known, &search);
                Done::Compared { path, verdict }
            }
            Job::Remove(path) => {
                if let Err(error) = tributary_common::disk::remove(&path) {
                    tracing::warn!(error = error.to_string(), "the spool keeps a file too long");
                }
                return None;
            }
        };
        Some(done)
    }

    /// Saves the rest of a generation from the compressed file that has its content.
    fn go_on(&mut self, of: Ticket, candidates: &[PathBuf], search: &Search) -> Done {
        if let Some(saved) = self.next_window(search) {
            return match saved {
                Ok(path) => Done::Saved { of, path },
                Err(why) => Done::NotSaved {
                    of,
                    again: true,
                    why,
                },
            };
        }
        let (mut again, mut why) = (false, "no compressed file has its content".to_owned());
        for path in candidates {
            match self.save_if_its(path, search) {
                Ok(Some(path)) => return Done::Saved { of, path },
                Ok(None) => {}
                Err(error) => (again, why) = (true, error),
            }
        }
        Done::NotSaved { of, again, why }
    }

    /// Goes on in the file that was left open where the last window ended; `None` without one.
    fn next_window(&mut self, search: &Search) -> Option<Result<PathBuf, String>> {
        let of = (search.meta.stream, search.meta.generation);
        let place = self.open.iter().position(|open| open.of == of)?;
        let mut unpacker = self.open.remove(place).unpacker;
        search.meta.total?;
        let before = match unpacker.since(search.meta.start) {
            Some(before) => before.to_vec(),
            None => self.last_window(&search.meta, unpacker.offset)?,
        };
        unpacker.restraint = search.restraint.clone();
        Some(self.save_window(unpacker, search, &search.meta, &before))
    }

    /// What the last window has from `meta.start` on, up to `end`, where it ends: the beginning of a record.
    fn last_window(&self, meta: &Meta, end: u64) -> Option<Vec<u8>> {
        // What is wrong with it costs time only: the file is unpacked from its beginning.
        let last = SpoolFile::open(&SpoolFile::path_of(self.folder, meta)).ok()?;
        let len = usize::try_from(last.end.checked_sub(meta.start)?).ok()?;
        if last.end != end || last.meta.start > meta.start {
            return None;
        }
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            let room = bytes.get_mut(filled..)?;
            match last.read_at(room, meta.start + filled as u64).ok()? {
                0 => return None,
                read => filled += read,
            }
        }
        Some(bytes)
    }

    /// Saves what a compressed file has from `meta.start` on, if it has the generation's content.
    fn save_if_its(&mut self, path: &Path, search: &Search) -> Result<Option<PathBuf>, String> {
        let its = has_content(path, &search.evidence, &search.restraint);
        match its.map_err(|error| error.to_string())? {
            Some(unpacker) => self.save_rest(unpacker, path, search).map(Some),
            None => Ok(None),
        }
    }

    /// Saves what a compressed file has from `meta.start` on, or a window of it. `unpacker` is where the
    /// file was found to be the right one.
    fn save_rest(
        &mut self,
        unpacker: Unpacker,
        path: &Path,
        search: &Search,
    ) -> Result<PathBuf, String> {
        if search.meta.total.is_some() {
            let unpacker = go_to(unpacker, path, search)?;
            let before = behind(&unpacker, search)?;
            return self.save_window(unpacker, search, &search.meta, &before);
        }
        let mut unpacker = go_to(unpacker, path, search)?;
        let before = behind(&unpacker, search)?;
        let copied = copy_into(
            self.folder,
            &search.meta,
            Some(search.room),
            &before,
            |room| search.read(&mut unpacker, room),
        );
        match copied? {
            Copied::Whole(path) => return Ok(path),
            Copied::Part(writer) => writer.abandon(),
        }
        // There is more than there is room for; how much must be known, and that it can be read.
        let mut room = vec![0; CHUNK_BYTES];
        loop {
            match search.read(&mut unpacker, &mut room) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        let meta = Meta {
            total: Some(unpacker.offset),
            ..search.meta.clone()
        };
        let unpacker = go_to(unpacker, path, search)?;
        let before = behind(&unpacker, search)?;
        self.save_window(unpacker, search, &meta, &before)
    }

    /// Saves `before`, and behind it as much as there is room for; keeps the file open where that ends.
    fn save_window(
        &mut self,
        mut unpacker: Unpacker,
        search: &Search,
        meta: &Meta,
        before: &[u8],
    ) -> Result<PathBuf, String> {
        let copied = copy_into(self.folder, meta, Some(search.room), before, |room| {
            search.read(&mut unpacker, room)
        });
        match copied? {
            Copied::Whole(path) if meta.total.is_none_or(|total| unpacker.offset >= total) => {
                Ok(path)
            }
            // What was saved before ends here as well: the file was changed since.
            Copied::Whole(_) => Err("it has become shorter".to_owned()),
            Copied::Part(writer) => {
                let path = finish(writer)?;
                if self.open.len() == MAX_OPEN {
                    self.open.remove(0);
                }
                self.open.push(Open {
                    of: (meta.stream, meta.generation),
                    unpacker,
                    since: Instant::now(),
                });
                Ok(path)
            }
        }
    }

    /// Compares a compressed file with generations, and saves it when it is none of them.
    fn compare(&mut self, path: &Path, known: &[(Ticket, Evidence)], search: &Search) -> Compared {
        let saved = match like(path, known, &search.restraint) {
            Ok(Some((of, total))) => return Compared::Like(of, total),
            Ok(None) => beginning(path, &search.restraint).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let saved = saved.and_then(|unpacker| {
            let prefix = unpacker.prefix();
            let saved = self.save_rest(unpacker, path, search)?;
            Ok(Compared::New(saved, prefix))
        });
        saved.unwrap_or_else(Compared::Broken)
    }
}

impl Search {
    /// Reads on.
    fn read(&self, unpacker: &mut Unpacker, room: &mut [u8]) -> io::Result<usize> {
        // What can be had of a damaged file is better than nothing; the stop damages none.
        let is_end = |error: &io::Error| {
            self.final_try
                && error.kind() != io::ErrorKind::Interrupted
                && !self.restraint.is_ending()
        };
        match unpacker.read(room, u64::MAX) {
            Err(error) if is_end(&error) => Ok(0),
            read => read,
        }
    }
}

/// The file at `meta.start`, or where the bytes from there on are at hand.
fn go_to(unpacker: Unpacker, path: &Path, search: &Search) -> Result<Unpacker, String> {
    let start = search.meta.start;
    let mut unpacker = match unpacker.since(start) {
        Some(_) => return Ok(unpacker),
        None if unpacker.offset <= start => unpacker,
        None => Unpacker::open(path, &search.restraint).map_err(|error| error.to_string())?,
    };
    match unpacker.skip_to(start, &mut vec![0; CHUNK_BYTES]) {
        Ok(true) => Ok(unpacker),
        Ok(false) => Err("it is shorter than what was read of it".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// What was unpacked from `meta.start` on.
fn behind(unpacker: &Unpacker, search: &Search) -> Result<Vec<u8>, String> {
    let before = unpacker.since(search.meta.start).map(<[u8]>::to_vec);
    before.ok_or_else(|| "its beginning is not at hand".to_owned())
}

/// The compressed file behind the content of a generation, if it has that.
fn has_content(
    path: &Path,
    evidence: &Evidence,
    restraint: &Restraint,
) -> io::Result<Option<Unpacker>> {
    let mut unpacker = Unpacker::open(path, restraint)?;
    let mut room = vec![0; CHUNK_BYTES];
    let reaches = unpacker.skip_to(evidence.prefix.len, &mut room)?
        && unpacker.begins_like(evidence.prefix)
        && unpacker.skip_to(evidence.mark.offset, &mut room)?;
    Ok(Some(unpacker).filter(|unpacker| reaches && unpacker.is_at(evidence)))
}

/// The compressed file behind its first bytes.
fn beginning(path: &Path, restraint: &Restraint) -> io::Result<Unpacker> {
    let mut unpacker = Unpacker::open(path, restraint)?;
    unpacker.skip_to(PREFIX_BYTES, &mut [0; 4096])?;
    Ok(unpacker)
}

/// The generation that a compressed file is, of those the one read farthest; and its length.
fn like(
    path: &Path,
    known: &[(Ticket, Evidence)],
    restraint: &Restraint,
) -> io::Result<Option<(Ticket, u64)>> {
    let mut unpacker = Unpacker::open(path, restraint)?;
    let mut room = vec![0; CHUNK_BYTES];
    unpacker.skip_to(PREFIX_BYTES, &mut room)?;
    let mut left: Vec<_> = known
        .iter()
        .filter(|(_, evidence)| evidence.mark.offset > 0 && unpacker.begins_like(evidence.prefix))
        .collect();
    // A generation that was read for less than what is in the room already.
    left.sort_by_key(|(_, evidence)| evidence.mark.offset);
    let mut found = None;
    let mut again = Unpacker::open(path, restraint)?;
    for (of, evidence) in left {
        if !again.skip_to(evidence.mark.offset, &mut room)? {
            break;
        }
        if again.is_at(evidence) {
            found = Some(*of);
        }
    }
    let Some(of) = found else {
        return Ok(None);
    };
    while again.read(&mut room, u64::MAX)? > 0 {}
    Ok(Some((of, again.offset)))
}
