//! What stands in a checkpoint file, and how its bytes are told apart from damage.
//!
//! # Constraints
//! The file is written by one process, line by line as things happen, and may end anywhere when
//! that process is killed or the power fails. What cannot be trusted is not used: a missing record
//! in the middle could hide unsent bytes, a missing end only sends some again.
//!
//! # Layout
//! See `docs/formats.md`, section Checkpoint: a header of 16 bytes, then frames
//! `u32 length | u32 CRC-32C | record by postcard`, integers little endian.
//!
//! # Recovery
//! The longest prefix of whole, checked frames counts. What follows is torn (the file ends within a
//! frame) or damaged (a frame whose sum is wrong); either way it is not read.
//!
//! Not for: what the records mean together (see [`super::state`]). Pure.

use serde::{Deserialize, Serialize};
use tributary_common::{
    crc::crc32c,
    header::MinuteCount,
    ids::{BatchId, Epoch, GenerationId, StreamId, TaskId, Topic},
    report::Loss,
    span::Span,
};

use super::v1;
use crate::{
    frame::{Carry, Rule},
    handle::FileKey,
    identify::{Mark, Prefix},
    path::LogPath,
    recipe::{self, Recipe},
};

/// The first bytes of every checkpoint file.
pub(crate) const MAGIC: [u8; 8] = *b"TRIBCKPT";
/// The version that this build writes.
pub(crate) const VERSION: u32 = 5;
/// The oldest version that it reads.
const OLDEST: u32 = 1;
/// The first of the versions that lack only records which came later: 2 those of joined batches and the
/// end of spilled ones, 3 how far a file was seen, 4 those of the names of tasks.
const WITH_RECIPES: u32 = 2;
/// Bytes of the file header: magic, version, CRC-32C of both.
pub(crate) const HEADER_BYTES: usize = 16;
/// Bytes before each record: length and sum.
const FRAME_BYTES: usize = 8;
/// The longest record, in bytes. Snapshots are cut into pieces far below it.
const MAX_RECORD_BYTES: usize = 4 << 20;

/// The most bytes that are summed while something sound is looked for behind a fault.
const MAX_SEARCH_BYTES: usize = 1 << 30;

/// A batch as it was cut: all that is needed to read it again with the same identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cut {
    /// Identity.
    pub(crate) id: BatchId,
    /// Truth, with [`Cut::span`].
    pub(crate) generation: GenerationId,
    /// Source bytes.
    pub(crate) span: Span,
    /// The clock when it was read, in ms since 1970: the event time where the line has none.
    pub(crate) read_ms: u64,
    /// Records in it.
    pub(crate) records: u32,
    /// Records per event minute.
    pub(crate) minutes: Vec<MinuteCount>,
    /// CRC-32C over the record values: proves that what is read again is the same.
    pub(crate) content_sum: u32,
    /// Hash of the bytes before the end of the span.
    pub(crate) mark: u64,
    /// How bytes became records.
    pub(crate) recipe: MadeBy,
    /// What the bytes before the span had carried to it.
    pub(crate) before: Carry,
    /// What it carries to the bytes behind it.
    pub(crate) after: Carry,
}

/// What of the files before its own a batch begins with: a record that began there goes on in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Joint {
    /// Whose ends the bytes are, oldest first.
    pub(crate) from: Vec<FileEnd>,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
}

/// The end of a file whose last record goes on in the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileEnd {
    /// Which file.
    pub(crate) generation: GenerationId,
    /// Its bytes; all that it has from here on.
    pub(crate) span: Span,
    /// So many of them, the first ones, are a byte order mark and left out.
    pub(crate) skipped: u8,
    /// Hash of the bytes before the end of the span.
    pub(crate) mark: u64,
}

/// What made the records of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MadeBy {
    /// The recipe with this number.
    Recipe(u32),
    /// The task's recipe of today with this rule: version 1 kept no more.
    Rule(Rule),
}

/// How a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    /// The bus said delivered.
    Delivered,
    /// The bus said that it had been delivered before.
    Duplicate,
    /// It can never be sent (again): its file is gone or changed. A loss says so.
    Lost,
    /// The bus has it on its disk. It delivers it, and tells the manager when it has.
    Spilled,
}

/// One physical file of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GenerationRecord {
    /// The stream.
    pub(crate) stream: StreamId,
    /// Its name for ever.
    pub(crate) generation: GenerationId,
    /// Which physical file.
    pub(crate) key: FileKey,
    /// Its inode number, to look for it cheaply.
    pub(crate) inode: u64,
    /// How often the file was cut off before.
    pub(crate) truncations: u32,
    /// Where it was seen last.
    pub(crate) path: LogPath,
    /// Evidence: its beginning.
    pub(crate) prefix: Prefix,
    /// Evidence: where reading stopped.
    pub(crate) mark: Mark,
    /// What the bytes before the mark carry to those behind it.
    pub(crate) carry: Carry,
    /// Last change of its content that was seen, in ns since 1970.
    pub(crate) mtime_ns: i64,
    /// When it was given up, in ms since 1970; `None` while it is read.
    pub(crate) ended_ms: Option<u64>,
}

/// A batch in the accounts: what is still to be told to the manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    /// Records per event minute.
    pub(crate) minutes: Vec<MinuteCount>,
    /// How it ended; `None` while it is held.
    pub(crate) end: Option<End>,
    /// Its end was told, and so was its sending.
    pub(crate) end_told: bool,
    /// It was given to a connection.
    pub(crate) sent: bool,
    /// That was told.
    pub(crate) sent_told: bool,
}

/// What a report has told, once the manager has answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// The stream.
    pub(crate) stream: StreamId,
    /// The life that cut the batches.
    pub(crate) epoch: Epoch,
    /// All batches before this number were told as read.
    pub(crate) read_before: u64,
    /// The ends of these batches were told, as ranges `[first, after last)`.
    pub(crate) ends: Vec<(u64, u64)>,
    /// The sending of these batches was told, as such ranges.
    pub(crate) sent: Vec<(u64, u64)>,
}

/// One record. New variants go at the end: their place is their number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    /// A process began its life.
    Life {
        /// Its epoch, greater than all before.
        epoch: Epoch,
    },
    /// A task's files were looked for once: `start` has had its say.
    Task {
        /// Which task.
        task: TaskId,
    },
    /// A stream.
    Stream {
        /// Its id.
        stream: StreamId,
        /// Its task.
        task: TaskId,
        /// Its topic, for reports.
        topic: Topic,
        /// The path that named it first.
        path: LogPath,
    },
    /// A generation began, or what is known of it changed.
    Generation(GenerationRecord),
    /// A batch was cut; written before it is first sent.
    Cut(Cut),
    /// A batch ended.
    Ended {
        /// Which batch.
        batch: BatchId,
        /// How.
        end: End,
    },
    /// Bytes that become no record: rests of long lines, a newline after an unfinished record.
    Skipped {
        /// The stream.
        stream: StreamId,
        /// The generation.
        generation: GenerationId,
        /// Where reading goes on.
        mark: Mark,
        /// What is carried there.
        carry: Carry,
    },
    /// Bytes were lost; kept until told.
    Lost(Loss),
    /// A report was answered.
    Told(Told),
    /// So many losses, the oldest first, were told.
    LossesTold(u64),
    /// A piece of the accounts, in a snapshot.
    Accounts {
        /// The stream.
        stream: StreamId,
        /// The life that cut the batches.
        epoch: Epoch,
        /// Sequence number of the first account.
        first_seq: u64,
        /// All batches before this number were told as read.
        read_before: u64,
        /// Consecutive accounts.
        accounts: Vec<Account>,
    },
    /// A cut that has not ended, in a snapshot: offset and accounts know of it already.
    Open(Cut),
    /// The snapshot at the beginning of the file is complete.
    SnapshotEnd,
    /// A recipe; written before the first cut that names it.
    Recipe {
        /// Its number.
        no: u32,
        /// What it says.
        #[serde(with = "recipe::as_json")]
        recipe: Recipe,
    },
    /// From this batch on a stream's lines go to another topic.
    Topic {
        /// The stream.
        stream: StreamId,
        /// The life of the first batch.
        epoch: Epoch,
        /// Its number.
        seq: u64,
        /// Where it goes.
        topic: Topic,
    },
    /// A task was removed, or came back.
    Removed {
        /// Which task.
        task: TaskId,
        /// When, in ms since 1970; `None` when it came back.
        at_ms: Option<u64>,
    },
    /// The bytes of a batch were lost; kept until told.
    LostBatch {
        /// Which batch.
        batch: BatchId,
        /// Its bytes.
        loss: Loss,
    },
    /// A batch was cut whose first record began in the files before: these are read to their end.
    Joined {
        /// The batch.
        cut: Cut,
        /// What it has of the files before.
        joint: Joint,
    },
    /// The same of a cut that has not ended, in a snapshot, behind its `Open`.
    Joint {
        /// The batch.
        batch: BatchId,
        /// What it has of the files before.
        joint: Joint,
    },
    /// A file was seen to be longer than what is read of it: what is gone of that before it is read is lost.
    Seen {
        /// The stream.
        stream: StreamId,
        /// The generation.
        generation: GenerationId,
        /// Its size, in bytes.
        size: u64,
    },
    /// Where a task looks.
    Looks {
        /// Which task.
        task: TaskId,
        /// A hash of its patterns.
        looks: u64,
    },
    /// A task has another name: all that is known of it stays.
    Renamed {
        /// Its name before.
        from: TaskId,
        /// Its name now.
        to: TaskId,
    },
    /// The streams of a task are numbered by another name than its own.
    Seed {
        /// Which task.
        task: TaskId,
        /// By what.
        seed: String,
    },
}

/// Why a file is no checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Too short for a header, or other first bytes.
    #[error("it is no checkpoint: it does not begin with TRIBCKPT and a sound header")]
    Magic,
    /// Written by another version.
    #[error("it has checkpoint version {0}; this build reads versions {OLDEST} to {VERSION}")]
    Version(u32),
}

/// Where and why reading stopped before the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    /// The file ends within a frame: the writer was stopped.
    Torn,
    /// A frame's bytes are not what was written, or contradict those before.
    Damaged,
}

/// The file header.
pub(crate) fn header() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(crc32c(&bytes).to_le_bytes());
    bytes
}

/// Adds a record's frame to `out`.
pub(crate) fn encode(record: &Record, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend([0; FRAME_BYTES]);
    let body = postcard::to_extend(record, std::mem::take(out))
        .expect("writing integers and text into a Vec cannot fail");
    *out = body;
    let (sum, len) = {
        let body = out.get(at + FRAME_BYTES..).unwrap_or_default();
        (crc32c(body), u32::try_from(body.len()).unwrap_or(u32::MAX))
    };
    if let Some(frame) = out.get_mut(at..at + FRAME_BYTES) {
        frame[..4].copy_from_slice(&len.to_le_bytes());
        frame[4..].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Checks the file header and gives the version of what follows it, and that.
///
/// # Errors
/// [`FormatError`]; the file must not be touched.
pub(crate) fn check_header(bytes: &[u8]) -> Result<(u32, &[u8]), FormatError> {
    let (head, rest) = bytes
        .split_at_checked(HEADER_BYTES)
        .ok_or(FormatError::Magic)?;
    let (text, sum) = head.split_at(12);
    let (magic, version) = text.split_at(8);
    if magic != MAGIC || word(sum) != crc32c(text) {
        return Err(FormatError::Magic);
    }
    match word(version) {
        version @ OLDEST..=VERSION => Ok((version, rest)),
        other => Err(FormatError::Version(other)),
    }
}

/// The frames after a header, in order.
#[derive(Debug)]
pub(crate) struct Frames<'a> {
    version: u32,
    bytes: &'a [u8],
    /// Bytes of whole, sound frames so far.
    pub(crate) sound: usize,
    /// Why reading stopped early.
    pub(crate) fault: Option<Fault>,
}

impl<'a> Frames<'a> {
    /// Reads what [`check_header`] gave.
    pub(crate) fn new((version, bytes): (u32, &'a [u8])) -> Self {
        Self {
            version,
            bytes,
            sound: 0,
            fault: None,
        }
    }

    fn read(&self) -> Result<(Record, usize), Fault> {
        let rest = self.bytes.get(self.sound..).unwrap_or_default();
        let (frame, rest) = rest.split_at_checked(FRAME_BYTES).ok_or(Fault::Torn)?;
        let (len, sum) = frame.split_at(4);
        let len = word(len) as usize;
        // A file system may leave zeros where a torn write was to go.
        if len == 0 {
            let zeros = rest.iter().chain(frame).all(|&byte| byte == 0);
            return Err(if zeros { Fault::Torn } else { Fault::Damaged });
        }
        if len > MAX_RECORD_BYTES {
            return Err(Fault::Damaged);
        }
        let body = rest.get(..len).ok_or(Fault::Torn)?;
        if crc32c(body) != word(sum) {
            return Err(Fault::Damaged);
        }
        let decoded = match self.version {
            WITH_RECIPES..=VERSION => postcard::take_from_bytes(body),
            _older => postcard::take_from_bytes::<v1::Record>(body)
                .map(|(record, rest)| (record.into(), rest)),
        };
        match decoded {
            Ok((record, [])) => Ok((record, FRAME_BYTES + len)),
            Ok(_) | Err(_) => Err(Fault::Damaged),
        }
    }
}

impl Iterator for Frames<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        if self.fault.is_some() || self.sound == self.bytes.len() {
            return None;
        }
        match self.read() {
            Ok((record, len)) => {
                self.sound += len;
                Some(record)
            }
            Err(fault) => {
                self.fault = Some(fault);
                None
            }
        }
    }
}

/// What a fault was, seen with everything behind it: a stopped writer, or a power cut, leaves
/// nothing sound behind, and only what it did not finish.
pub(crate) fn tell_apart(fault: Fault, left: &[u8]) -> Fault {
    let zeros_at_the_end = left.last() == Some(&0);
    let unfinished = fault == Fault::Torn || zeros_at_the_end;
    if unfinished && !has_sound_frame(left.get(1..).unwrap_or_default()) {
        Fault::Torn
    } else {
        Fault::Damaged
    }
}

/// Whether a sound frame stands anywhere in `bytes`.
fn has_sound_frame(bytes: &[u8]) -> bool {
    let mut work = 0;
    for at in 0..bytes.len() {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some((frame, rest)) = rest.split_at_checked(FRAME_BYTES) else {
            return false;
        };
        let (len, sum) = frame.split_at(4);
        let len = word(len) as usize;
        if len == 0 || len > MAX_RECORD_BYTES {
            continue;
        }
        if let Some(body) = rest.get(..len) {
            if crc32c(body) == word(sum) {
                return true;
            }
            work += len;
            if work > MAX_SEARCH_BYTES {
                return false;
            }
        }
    }
    false
}

fn word(bytes: &[u8]) -> u32 {
    bytes
        .first_chunk()
        .map_or(0, |word| u32::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = header();
        for epoch in 1..=5 {
            encode(
                &Record::Life {
                    epoch: Epoch(epoch * 1000),
                },
                &mut bytes,
            );
        }
        bytes
    }

    fn read(bytes: &[u8]) -> (usize, Option<Fault>) {
        let mut frames = Frames::new(check_header(bytes).unwrap());
        let count = frames.by_ref().count();
        (count, frames.fault)
    }

    #[test]
    fn records_survive_their_bytes() {
        assert_eq!(read(&sample()), (5, None));
    }

    #[test]
    fn a_torn_end_leaves_the_longest_prefix() {
        let bytes = sample();
        let frame = (bytes.len() - HEADER_BYTES) / 5;
        for cut in HEADER_BYTES..bytes.len() {
            let (count, fault) = read(&bytes[..cut]);
            assert_eq!(count, (cut - HEADER_BYTES) / frame);
            let whole = (cut - HEADER_BYTES).is_multiple_of(frame);
            assert_eq!(fault, (!whole).then_some(Fault::Torn));
        }
        let mut zeros = bytes.clone();
        zeros.extend([0; 100]);
        assert_eq!(read(&zeros), (5, Some(Fault::Torn)));
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let mut bytes = header();
        bytes[8] = 9;
        let sum = crc32c(&bytes[..12]).to_le_bytes();
        bytes[12..].copy_from_slice(&sum);
        assert_eq!(
            check_header(&bytes).unwrap_err().to_string(),
            "it has checkpoint version 9; this build reads versions 1 to 5"
        );
        assert_eq!(check_header(b"TRIBCKP"), Err(FormatError::Magic));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_never_passes(at in HEADER_BYTES..90, bit in 0u8..8) {
            let mut bytes = sample();
            prop_assume!(at < bytes.len());
            bytes[at] ^= 1 << bit;
            let (count, fault) = read(&bytes);
            prop_assert!(count < 5 && fault.is_some());
        }
    }
}
