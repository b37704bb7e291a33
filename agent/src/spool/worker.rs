//! The thread that compresses and decompresses, so that the reader never waits for it.
//!
//! Two kinds of work: what of a deleted file was not acknowledged goes into the spool; and a
//! compressed file is compared with generations that were read, and what it has beyond goes into the
//! spool. One thing at a time, in order, each piece of it as `limits.cpu` allows (see [`Restraint`]).
//!
//! Not for: deciding what to do with the outcome (see [`crate::reader`]).

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::mpsc::SyncSender,
};

use crossbeam_channel::Receiver;
use flate2::read::MultiGzDecoder;
use tributary_common::ids::GenerationId;
use xxhash_rust::xxh3::xxh3_64;

use super::file::{CHUNK_BYTES, Meta, SpoolWriter};
use crate::{
    discover::Event,
    far::{LogFile, open_file},
    identify::{Evidence, MARK_BYTES, PREFIX_BYTES, Prefix},
    limit::{AtStop, Restraint},
};

/// Memory that a zstd file may ask for, as a power of two.
const MAX_ZSTD_WINDOW_LOG: u32 = 25;

/// A generation, as the reader knows it.
pub(crate) type Ticket = (usize, GenerationId);

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
    /// Save what a compressed file has from `meta.start` on, if it has the generation's content.
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
        /// What it keeps to.
        restraint: Restraint,
    },
    /// Find out which generation a compressed file is.
    Compare {
        /// The file.
        path: PathBuf,
        /// Generations that it may be.
        known: Vec<(Ticket, Evidence)>,
        /// What to write down when it is none of them: then all of it is saved.
        meta: Meta,
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
    while let Ok(job) = jobs.recv() {
        let done = match job {
            Job::Save {
                of,
                file,
                meta,
                restraint,
            } => save(folder, of, &file, &meta, &restraint),
            Job::Continue {
                of,
                candidates,
                evidence,
                meta,
                final_try,
                restraint,
            } => {
                let work = Work { folder, restraint };
                work.go_on(of, &candidates, &evidence, &meta, final_try)
            }
            Job::Compare {
                path,
                known,
                meta,
                restraint,
            } => {
                let work = Work { folder, restraint };
                let verdict = work.compare(&path, &known, &meta);
                Done::Compared { path, verdict }
            }
            Job::Remove(path) => {
                if let Err(error) = tributary_common::disk::remove(&path) {
                    tracing::warn!(error = error.to_string(), "the spool keeps a file too long");
                }
                continue;
            }
        };
        if events.send(Event::Spool(done)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Copies what `read` gives from the source offset `start` on into the spool.
fn copy_into(
    folder: &Path,
    meta: &Meta,
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> Result<PathBuf, String> {
    let mut writer = SpoolWriter::create(folder, meta).map_err(|error| error.to_string())?;
    let mut room = vec![0; CHUNK_BYTES];
    loop {
        let pushed = match read(&mut room) {
            Ok(0) => break,
            Ok(len) => writer
                .push(room.get(..len).unwrap_or_default())
                .map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = pushed {
            writer.abandon();
            return Err(error);
        }
    }
    writer
        .finish()
        .map(|(path, _)| path)
        .map_err(|error| error.to_string())
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
    match copy_into(folder, meta, read) {
        Ok(path) => Done::Saved { of, path },
        Err(why) => Done::NotSaved {
            of,
            again: true,
            why,
        },
    }
}

/// A compressed file as it is read: bytes so far, and the hashes that tell what it is.
struct Unpacker<'a> {
    decoder: Box<dyn Read>,
    restraint: &'a Restraint,
    offset: u64,
    /// Its first bytes, up to what a prefix covers.
    head: Vec<u8>,
    /// The last bytes, as many as a mark covers.
    last: Vec<u8>,
}

impl<'a> Unpacker<'a> {
    fn open(path: &Path, restraint: &'a Restraint) -> io::Result<Self> {
        let file = open_file(path)?;
        let mut magic = [0; 4];
        let len = file.read_at(&mut magic, 0)?;
        let decoder: Box<dyn Read> = match super::kind_of(magic.get(..len).unwrap_or_default()) {
            Some(super::Packing::Gzip) => {
                Box::new(MultiGzDecoder::new(io::BufReader::new(file.reader())))
            }
            Some(super::Packing::Zstd) => {
                let mut decoder = zstd::stream::read::Decoder::new(file.reader())?;
                decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
            None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        };
        Ok(Self {
            decoder,
            restraint,
            offset: 0,
            head: Vec::new(),
            last: Vec::new(),
        })
    }

    /// Reads on, at most to the source offset `upto`.
    fn read(&mut self, room: &mut [u8], upto: u64) -> io::Result<usize> {
        self.restraint.next_piece(AtStop::Leave)?;
        let want = usize::try_from(upto - self.offset).unwrap_or(usize::MAX);
        let len = room.len().min(want);
        let len = self.decoder.read(room.get_mut(..len).unwrap_or_default())?;
        let bytes = room.get(..len).unwrap_or_default();
        self.offset += len as u64;
        let missing = usize::try_from(PREFIX_BYTES).unwrap_or(0) - self.head.len();
        self.head.extend(bytes.iter().take(missing));
        let covered = usize::try_from(MARK_BYTES).unwrap_or(0);
        self.last
            .extend_from_slice(bytes.get(len.saturating_sub(covered)..).unwrap_or_default());
        let surplus = self.last.len().saturating_sub(covered);
        self.last.drain(..surplus);
        Ok(len)
    }

    /// Reads up to an offset; false when it ends before.
    fn skip_to(&mut self, offset: u64, room: &mut [u8]) -> io::Result<bool> {
        while self.offset < offset {
            if self.read(room, offset)? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the beginning is the one that was read, as far as that went.
    fn begins_like(&self, prefix: Prefix) -> bool {
        let len = usize::try_from(prefix.len).unwrap_or(usize::MAX);
        let head = self.head.get(..len);
        head.is_some_and(|head| prefix.len == 0 || xxh3_64(head) == prefix.hash)
    }

    /// Whether the bytes before here are those of the mark, which is here.
    fn is_at(&self, evidence: &Evidence) -> bool {
        let covered = usize::try_from(evidence.mark.offset.min(MARK_BYTES)).unwrap_or(0);
        let from = self.last.len().saturating_sub(covered);
        let last = self.last.get(from..).unwrap_or_default();
        covered == 0 || xxh3_64(last) == evidence.mark.hash
    }
}

/// A job on compressed files.
struct Work<'a> {
    folder: &'a Path,
    restraint: Restraint,
}

impl Work<'_> {
    /// Saves the rest of a generation from the compressed file that has its content.
    fn go_on(
        &self,
        of: Ticket,
        candidates: &[PathBuf],
        evidence: &Evidence,
        meta: &Meta,
        final_try: bool,
    ) -> Done {
        let (mut again, mut why) = (false, "no compressed file has its content".to_owned());
        for path in candidates {
            match self.has_content(path, evidence) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    (again, why) = (true, error.to_string());
                    continue;
                }
            }
            match self.save_rest(path, meta, final_try) {
                Ok(path) => return Done::Saved { of, path },
                Err(error) => (again, why) = (true, error),
            }
        }
        Done::NotSaved { of, again, why }
    }

    fn has_content(&self, path: &Path, evidence: &Evidence) -> io::Result<bool> {
        let mut unpacker = Unpacker::open(path, &self.restraint)?;
        let mut room = vec![0; CHUNK_BYTES];
        let reaches = unpacker.skip_to(evidence.prefix.len, &mut room)?
            && unpacker.begins_like(evidence.prefix)
            && unpacker.skip_to(evidence.mark.offset, &mut room)?;
        Ok(reaches && unpacker.is_at(evidence))
    }

    fn save_rest(&self, path: &Path, meta: &Meta, final_try: bool) -> Result<PathBuf, String> {
        let mut unpacker =
            Unpacker::open(path, &self.restraint).map_err(|error| error.to_string())?;
        let mut room = vec![0; CHUNK_BYTES];
        unpacker
            .skip_to(meta.start, &mut room)
            .map_err(|error| error.to_string())?;
        // What can be had of a damaged file is better than nothing; the stop damages none.
        let is_end = |error: &io::Error| {
            final_try && error.kind() != io::ErrorKind::Interrupted && !self.restraint.is_ending()
        };
        copy_into(self.folder, meta, |room| {
            match unpacker.read(room, u64::MAX) {
                Err(error) if is_end(&error) => Ok(0),
                read => read,
            }
        })
    }

    /// Compares a compressed file with generations, and saves it whole when it is none of them.
    fn compare(&self, path: &Path, known: &[(Ticket, Evidence)], meta: &Meta) -> Compared {
        match self.like(path, known) {
            Ok(Some((of, total))) => Compared::Like(of, total),
            Ok(None) => {
                let prefix = match self.beginning(path) {
                    Ok(prefix) => prefix,
                    Err(error) => return Compared::Broken(error.to_string()),
                };
                match self.save_rest(path, meta, false) {
                    Ok(spool) => Compared::New(spool, prefix),
                    Err(why) => Compared::Broken(why),
                }
            }
            Err(error) => Compared::Broken(error.to_string()),
        }
    }

    fn beginning(&self, path: &Path) -> io::Result<Prefix> {
        let mut unpacker = Unpacker::open(path, &self.restraint)?;
        unpacker.skip_to(PREFIX_BYTES, &mut [0; 4096])?;
        Ok(Prefix {
            len: unpacker.head.len() as u64,
            hash: xxh3_64(&unpacker.head),
        })
    }

    /// The generation that a compressed file is, of those the one read farthest; and its length.
    fn like(&self, path: &Path, known: &[(Ticket, Evidence)]) -> io::Result<Option<(Ticket, u64)>> {
        let mut unpacker = Unpacker::open(path, &self.restraint)?;
        let mut room = vec![0; CHUNK_BYTES];
        unpacker.skip_to(PREFIX_BYTES, &mut room)?;
        let mut left: Vec<_> = known
            .iter()
            .filter(|(_, evidence)| {
                evidence.mark.offset > 0 && unpacker.begins_like(evidence.prefix)
            })
            .collect();
        // A generation that was read for less than what is in the room already.
        left.sort_by_key(|(_, evidence)| evidence.mark.offset);
        let mut found = None;
        let mut again = Unpacker::open(path, &self.restraint)?;
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
}
