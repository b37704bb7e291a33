//! A checkpoint for people, and its decoder for a fuzzer.
//!
//! Not for: recovery (see [`super::log`]). `tributary inspect` and the fuzz targets call it. Reads
//! only.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Serialize;
use tributary_common::{disk, report::Lost};

use super::{
    log::{self, Content},
    record::{Fault, FormatError, GenerationRecord, MAGIC},
    state::State,
};
use crate::recipe::Recipe;

/// What a checkpoint file holds.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The file that was read.
    pub file: PathBuf,
    /// Sound records in it.
    pub records: u64,
    /// Bytes at its end that cannot be used.
    pub unsound_bytes: u64,
    /// Why not: `torn` by a stopped writer, or `damaged`.
    fault: Option<Fault>,
    /// Whether the snapshot at its beginning is whole.
    pub complete: bool,
    /// The last life, as ms since 1970.
    pub epoch: u64,
    /// Batches that were cut and have not ended.
    pub unacknowledged_batches: u64,
    /// Their records.
    pub unacknowledged_records: u64,
    /// Those of them that begin with the ends of files before their own: a record went on in the next
    /// file.
    pub joined_batches: u64,
    /// Bytes of these ends.
    pub joined_bytes: u64,
    /// Batches whose facts were not yet told to the manager.
    pub untold_batches: u64,
    /// Losses that were not yet told.
    pub untold_losses: u64,
    /// These losses, oldest first.
    pub losses: Vec<Lost>,
    /// How the records of its cuts are made, by number.
    recipes: BTreeMap<u32, Recipe>,
    /// All streams.
    pub streams: Vec<StreamSummary>,
}

/// One stream.
#[derive(Debug, Serialize)]
pub struct StreamSummary {
    /// Its id.
    pub stream: String,
    /// Its task.
    pub task: String,
    /// Its topic.
    pub topic: String,
    /// The path that named it first.
    pub path: String,
    /// Its files, oldest first.
    pub generations: Vec<GenerationSummary>,
}

/// One file.
#[derive(Debug, Serialize)]
pub struct GenerationSummary {
    /// Its name for ever.
    pub generation: String,
    /// Where it was seen last.
    pub path: String,
    /// Its inode number.
    pub inode: u64,
    /// How often it was cut off before.
    pub truncations: u32,
    /// Read up to here, in bytes.
    pub read_to: u64,
    /// Acknowledged without a hole up to here, in bytes.
    pub watermark: u64,
    /// When it was given up, in ms since 1970.
    pub ended_ms: Option<u64>,
}

/// Reads the bytes of a checkpoint file. For fuzzing: any bytes give an answer.
///
/// # Errors
/// [`FormatError`] when they are no checkpoint of this version.
pub fn decode(bytes: &[u8]) -> Result<Summary, FormatError> {
    Ok(summary(PathBuf::new(), &log::read(bytes, true)?))
}

/// Whether `path` is a checkpoint: a file by its first bytes, a folder when it (or its
/// `checkpoint/`) holds one.
///
/// # Errors
/// When it cannot be read.
pub fn is_checkpoint(path: &Path) -> anyhow::Result<bool> {
    if path.is_dir() {
        return Ok(newest(path)?.is_some());
    }
    let mut file = disk::open_read(path)?;
    let mut magic = [0; MAGIC.len()];
    Ok(std::io::Read::read_exact(&mut file, &mut magic).is_ok() && magic == MAGIC)
}

/// Reads a checkpoint file, or the newest one of a folder.
///
/// # Errors
/// When it cannot be read, or is no checkpoint of this version.
pub fn inspect(path: &Path) -> anyhow::Result<Summary> {
    let file = if path.is_dir() {
        newest(path)?.with_context(|| format!("{} holds no checkpoint", path.display()))?
    } else {
        path.to_owned()
    };
    let bytes = disk::read(&file)?.with_context(|| format!("{} is missing", file.display()))?;
    let content =
        log::read(&bytes, true).with_context(|| format!("failed to read {}", file.display()))?;
    Ok(summary(file, &content))
}

/// What the checkpoint of a state directory says; `None` when there is none.
///
/// # Errors
/// When it cannot be read, or is no checkpoint of this version.
pub(crate) fn last_state(state_dir: &Path) -> anyhow::Result<Option<State>> {
    let dir = state_dir.join(super::FOLDER);
    let file = if dir.is_dir() { newest(&dir)? } else { None };
    let Some(file) = file else {
        return Ok(None);
    };
    let bytes = disk::read(&file)?.unwrap_or_default();
    let content =
        log::read(&bytes, false).with_context(|| format!("failed to read {}", file.display()))?;
    Ok(Some(content.state))
}

/// The newest file of a checkpoint folder, or of the state directory around it.
fn newest(dir: &Path) -> anyhow::Result<Option<PathBuf>> {
    let inner = dir.join(super::FOLDER);
    let mut files = log::files(dir)?;
    if inner.is_dir() {
        files.extend(log::files(&inner)?);
    }
    for (_, file) in files.into_iter().rev() {
        if is_checkpoint(&file)? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

fn summary(file: PathBuf, content: &Content) -> Summary {
    let state = &content.state;
    let untold = state
        .ledger
        .series
        .values()
        .map(|series| series.accounts.len() as u64);
    Summary {
        file,
        records: content.records,
        unsound_bytes: content.unsound_bytes,
        fault: content.fault,
        complete: content.complete,
        epoch: state.epoch.0,
        unacknowledged_batches: state.cuts.len() as u64,
        unacknowledged_records: state.cuts.values().map(|cut| u64::from(cut.records)).sum(),
        joined_batches: state.joints.len() as u64,
        joined_bytes: state.joint_bytes() as u64,
        untold_batches: untold.sum(),
        untold_losses: state.ledger.losses.len() as u64,
        losses: state.ledger.losses.iter().cloned().collect(),
        recipes: state.recipes.clone(),
        streams: streams(state),
    }
}

fn streams(state: &State) -> Vec<StreamSummary> {
    let text = |path: &crate::path::LogPath| String::from_utf8_lossy(path.as_bytes()).into_owned();
    let mut unended: HashMap<_, u64> = HashMap::new();
    let cuts = state.cuts.values();
    let cuts = cuts.map(|cut| (cut.id.stream, cut.generation, cut.span));
    let joints = state.joints.iter().flat_map(|(batch, joint)| {
        let ends = joint.from.iter();
        ends.map(|end| (batch.stream, end.generation, end.span))
    });
    for (stream, generation, span) in cuts.chain(joints) {
        let start = unended.entry((stream, generation)).or_insert(span.start);
        *start = span.start.min(*start);
    }
    let generation = |known: &GenerationRecord| {
        let unended = unended.get(&(known.stream, known.generation)).copied();
        let watermark = unended.unwrap_or(known.mark.offset);
        GenerationSummary {
            generation: known.generation.to_string(),
            path: text(&known.path),
            inode: known.inode,
            truncations: known.truncations,
            read_to: known.mark.offset,
            watermark,
            ended_ms: known.ended_ms,
        }
    };
    let streams = state.streams.iter().map(|(&id, stream)| StreamSummary {
        stream: id.to_string(),
        task: stream.task.to_string(),
        topic: stream.topic.to_string(),
        path: text(&stream.path),
        generations: stream.generations.iter().map(generation).collect(),
    });
    streams.collect()
}
