//! One generation of a stream as the reader follows it.
//!
//! Not for: deciding whose turn it is, or what a path means (see [`crate::reader`]).

use std::time::Duration;

use tokio::time::Instant;
use tributary_common::ids::{GenerationId, StreamId};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    checkpoint::{Cut, GenerationRecord, Record},
    content::Content,
    far,
    few::Few,
    frame::Carry,
    handle::FileKey,
    identify::{Evidence, MARK_BYTES, Mark},
    path::LogPath,
    spool::has_packed_name,
};

/// A file without a name is closed when it has not grown for this long: its room is wanted back.
const CLOSE_DELETED: Duration = Duration::from_secs(5);
/// A renamed file that no path of the task names is closed when it has not grown for this long: its
/// writer may take minutes to go over to the new one.
const CLOSE_RENAMED: Duration = Duration::from_secs(300);

/// Marks that are remembered beside the last one.
const MARKS: usize = 16;

/// The name of a generation: its file, and how often that was cut off before.
pub(crate) fn generation_id(key: FileKey, truncations: u32) -> GenerationId {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&key.0.to_le_bytes());
    bytes[8..].copy_from_slice(&truncations.to_le_bytes());
    GenerationId(xxh3_64(&bytes))
}

/// Whether a generation's file can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// From an earlier life and not found yet, or its folder cannot be seen, since then: what is
    /// younger in its stream waits for it, but not for long.
    Awaited(Instant),
    /// A path of the task names it.
    Named,
    /// No path of the task names it any more, since then.
    Hidden(Instant),
}

/// How a file holds its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it was written.
    Plain,
    /// Compressed: what is to be read of it stands in the spool.
    Packed,
}

/// Whether a file that no path of the task names can be found by its path only, since it is not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Astray {
    /// It is open, or a path of the task names it.
    No,
    /// It is where its path says.
    At,
    /// It was not there, at that time.
    Missed(Instant),
}

/// The search for a vanished generation in compressed files.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seek {
    /// It is under way.
    pub(crate) running: bool,
    /// How often it began.
    pub(crate) times: u32,
    /// When it began last.
    pub(crate) since: Option<Instant>,
}

/// What is known of the first bytes of a generation, beside that they are its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FirstBytes {
    /// They were judged.
    #[default]
    Seen,
    /// It was empty when it was judged: they may be those of a copy.
    ToCome,
}

impl FirstBytes {
    /// Of a file that was judged at this size.
    pub(crate) fn of_size(size: u64) -> Self {
        if size == 0 { Self::ToCome } else { Self::Seen }
    }
}

/// One generation.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Its name for ever.
    pub(crate) generation: GenerationId,
    /// Its file; for a cut-off generation that goes on in a copy, the copy.
    pub(crate) key: FileKey,
    /// The file's inode number.
    pub(crate) inode: u64,
    /// How often the file was cut off before.
    pub(crate) truncations: u32,
    /// Where it was seen last: the name that people know.
    pub(crate) path: LogPath,
    /// Where the file is, when that name is a link.
    pub(crate) real: Option<Box<LogPath>>,
    /// Paths of the task that name it now.
    pub(crate) names: u32,
    /// The device that it was seen on; 0 when that is not known.
    pub(crate) device: u64,
    /// Whether it can be seen.
    pub(crate) place: Place,
    /// Whether it has to be found again.
    pub(crate) astray: Astray,
    /// Opened when there is something to read.
    pub(crate) file: Option<Content>,
    /// The file has no name any more.
    pub(crate) deleted: bool,
    /// How its file holds it.
    pub(crate) form: Form,
    /// Whether it is looked for in compressed files.
    pub(crate) seek: Seek,
    /// What is remembered of its content; the mark is where reading goes on.
    pub(crate) evidence: Evidence,
    /// Marks before the last one, oldest first.
    marks: Few<Mark>,
    /// What the bytes before the mark carry to those behind it.
    pub(crate) carry: Carry,
    /// When the bytes behind the mark began to wait for the end of their record.
    pub(crate) held_since: Option<Instant>,
    /// The evidence is from an earlier life, or the file was away: compare before reading.
    pub(crate) doubted: bool,
    /// Whether its first bytes are to be looked at.
    pub(crate) first: FirstBytes,
    /// No path of its task names it any more, or its task was removed: nothing new is read.
    pub(crate) leaving: bool,
    /// The greatest size seen, in bytes.
    pub(crate) size: u64,
    /// The greatest size at which the content was certainly this generation's: seen before its mark
    /// was found in place.
    verified: u64,
    /// The checkpoint knows that it was seen this far.
    noted: u64,
    /// Last change of its content, in ns since 1970.
    pub(crate) mtime_ns: i64,
    /// When it grew last.
    pub(crate) grown: Instant,
    /// When the oldest byte that is not read was seen.
    pub(crate) unread_since: Option<Instant>,
    /// Since when it can be neither read nor given up, or waits for the end of the one before.
    pub(crate) stuck_since: Option<Instant>,
    /// Cuts of an earlier life that have to be read and sent again first.
    pub(crate) replay: Few<Cut>,
}

impl Tail {
    /// A generation of a file that was found now.
    pub(crate) fn new(
        key: FileKey,
        inode: u64,
        truncations: u32,
        path: LogPath,
        now: Instant,
    ) -> Self {
        Self {
            generation: generation_id(key, truncations),
            key,
            inode,
            truncations,
            path,
            real: None,
            names: 0,
            device: 0,
            place: Place::Named,
            astray: Astray::No,
            file: None,
            deleted: false,
            form: Form::Plain,
            seek: Seek::default(),
            evidence: Evidence::default(),
            marks: Few::default(),
            carry: Carry::default(),
            held_since: None,
            doubted: false,
            first: FirstBytes::default(),
            leaving: false,
            size: 0,
            verified: 0,
            noted: 0,
            mtime_ns: 0,
            grown: now,
            unread_since: None,
            stuck_since: None,
            replay: Few::default(),
        }
    }

    /// A generation of an earlier life.
    pub(crate) fn restored(record: &GenerationRecord, replay: Vec<Cut>, now: Instant) -> Self {
        Self {
            generation: record.generation,
            place: Place::Awaited(now),
            form: if has_packed_name(&record.path) {
                Form::Packed
            } else {
                Form::Plain
            },
            evidence: Evidence {
                prefix: record.prefix,
                mark: record.mark,
            },
            carry: record.carry,
            doubted: true,
            first: FirstBytes::of_size(record.mark.offset),
            size: record.mark.offset,
            mtime_ns: record.mtime_ns,
            replay: replay.into(),
            ..Self::new(
                record.key,
                record.inode,
                record.truncations,
                record.path.clone(),
                now,
            )
        }
    }

    /// Another life saw it this far, in bytes.
    pub(crate) fn was_seen_to(&mut self, size: u64) {
        (self.verified, self.noted) = (size, size);
        self.size = self.size.max(size);
    }

    /// What the checkpoint is to know of how far it was seen: once for all that is read then, or `now`.
    pub(crate) fn seen_beyond(&mut self, stream: StreamId, now: bool) -> Option<Record> {
        let due = match now {
            true => self.verified > self.noted,
            false => self.noted <= self.offset(),
        };
        let is_file = self
            .file
            .as_ref()
            .is_some_and(|file| file.as_file().is_some());
        if !due || self.verified <= self.offset() || self.form == Form::Packed || !is_file {
            return None;
        }
        self.noted = self.verified;
        Some(Record::Seen {
            stream,
            generation: self.generation,
            size: self.verified,
        })
    }

    /// Where its file is, through links.
    pub(crate) fn real_path(&self) -> &LogPath {
        self.real.as_deref().unwrap_or(&self.path)
    }

    /// A path names it, on this device.
    pub(crate) fn seen_at(&mut self, path: &LogPath, device: u64) {
        self.path.clone_from(path);
        // Links are rare, and asking costs a call: the real path is for finding the file again.
        self.real = far::link_target(path).map(|real| Box::new(real.into()));
        self.device = device;
        self.place = Place::Named;
        self.astray = Astray::No;
    }

    /// Where reading goes on, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        self.evidence.mark.offset
    }

    /// Bytes that are known and not read.
    pub(crate) fn unread(&self) -> u64 {
        self.size.saturating_sub(self.offset())
    }

    /// The last marks, ascending.
    pub(crate) fn marks(&self) -> Vec<Mark> {
        self.marks
            .iter()
            .copied()
            .chain([self.evidence.mark])
            .collect()
    }

    /// Its record in the checkpoint.
    pub(crate) fn record(&self, stream: StreamId) -> GenerationRecord {
        GenerationRecord {
            stream,
            generation: self.generation,
            key: self.key,
            inode: self.inode,
            truncations: self.truncations,
            path: self.real_path().clone(),
            prefix: self.evidence.prefix,
            mark: self.evidence.mark,
            carry: self.carry,
            mtime_ns: self.mtime_ns,
            ended_ms: None,
        }
    }

    /// Takes note of the file's size; what is new may be there since `since`.
    pub(crate) fn note_size(&mut self, size: u64, since: Instant, now: Instant) {
        if size > self.size {
            self.size = size;
            self.grown = now;
        }
        if size > self.offset() {
            self.unread_since.get_or_insert(since);
        }
    }

    /// The mark was found in place: what was seen of the file before is this generation's.
    pub(crate) fn verify(&mut self) {
        self.verified = self.size;
    }

    /// Another content stands in the file: a size that was seen since the mark was found in place may
    /// be that one's, and no loss may speak of bytes that were never there.
    pub(crate) fn forget_unverified(&mut self) {
        self.size = self.verified.max(self.offset());
    }

    /// Whether `covered`, which was read before the offset just now, is what the mark covers.
    pub(crate) fn is_in_place(&mut self, covered: &[u8]) -> bool {
        if (covered.len() as u64) < self.offset().min(MARK_BYTES) {
            // Cut off since the look: what was seen of it was there.
            return false;
        }
        let is_same = covered.is_empty() || Mark::at(self.offset(), covered) == self.evidence.mark;
        if is_same {
            self.verify();
        } else {
            self.forget_unverified();
        }
        is_same
    }

    /// Moves the offset on.
    pub(crate) fn advance(&mut self, mark: Mark, carry: Carry, now: Instant) {
        if self.marks.len() == MARKS {
            self.marks.pop_front();
        }
        // The beginning of a file is like that of any other.
        if self.offset() > 0 {
            self.marks.push_back(self.evidence.mark);
        }
        self.evidence.mark = mark;
        self.carry = carry;
        self.held_since = None;
        self.stuck_since = None;
        self.size = self.size.max(mark.offset);
        self.unread_since = (self.unread() > 0).then_some(now);
    }

    /// Goes on in a copy that ends before the offset: what follows was read from the original, and the
    /// copy has nothing more. Counted from the copy's own end it is not taken for a file cut off.
    pub(crate) fn is_read_up_to(&mut self, mark: Mark) {
        self.marks.retain(|known| known.offset < mark.offset);
        self.evidence.mark = mark;
        self.carry = Carry::default();
        self.held_since = None;
        self.size = mark.offset;
        self.unread_since = None;
    }

    /// It goes on in another file, whose size is known and whose content was compared.
    pub(crate) fn is_another_file(&mut self) {
        (self.verified, self.noted) = (self.size, 0);
    }

    /// When it may be given up, if it is read to its end and does not grow; `None` while a path
    /// names it.
    pub(crate) fn close_at(&self, links: u64) -> Option<Instant> {
        let Place::Hidden(_) = self.place else {
            return None;
        };
        let quiet = if links == 0 {
            CLOSE_DELETED
        } else {
            CLOSE_RENAMED
        };
        Some(self.hidden_and_quiet_since() + quiet)
    }

    /// When it grew last, or lost its last name if that was later.
    pub(crate) fn hidden_and_quiet_since(&self) -> Instant {
        match self.place {
            Place::Hidden(since) => since.max(self.grown),
            Place::Named | Place::Awaited(_) => self.grown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_takes_little_room() {
        // An agent may have 100,000 of them; what is rare has its room elsewhere.
        assert!(size_of::<Tail>() <= 296, "{} bytes", size_of::<Tail>());
    }
}
