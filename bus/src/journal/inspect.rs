//! A journal in words, for `tributary inspect`. Reads, never writes.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use tributary_common::disk;

use super::{
    FILE,
    format::{self, scan},
    memory::Memory,
};

/// A journal in words, for `tributary inspect`.
#[derive(Debug, Serialize)]
pub struct Inspection {
    version: u16,
    bytes: usize,
    records: usize,
    torn_bytes: usize,
    damaged: Vec<(usize, usize)>,
    epoch: u64,
    untold_batches: usize,
    destinations: Vec<InspectedDestination>,
}

#[derive(Debug, Serialize)]
struct InspectedDestination {
    destination: String,
    streams: usize,
    batches: u64,
    targets: Vec<InspectedTarget>,
}

#[derive(Debug, Serialize)]
struct InspectedTarget {
    target: String,
    open: bool,
    /// Per partition the end, and the floor where a recovery would begin.
    positions: Vec<(i32, i64, Option<i64>)>,
}

/// Whether `path` is a journal, or a folder that holds one.
///
/// # Errors
/// When it cannot be read.
pub fn is_journal(path: &Path) -> anyhow::Result<bool> {
    let Some(path) = journal_file(path)? else {
        return Ok(false);
    };
    let bytes = disk::read(&path)?.unwrap_or_default();
    Ok(bytes.starts_with(&format::MAGIC))
}

/// Reads a journal (or the one in a folder) without touching it.
///
/// # Errors
/// When there is none, or it is of another version.
pub fn inspect(path: &Path) -> anyhow::Result<Inspection> {
    let file =
        journal_file(path)?.with_context(|| format!("{} holds no journal", path.display()))?;
    let bytes = disk::read(&file)?.with_context(|| format!("{} is missing", file.display()))?;
    let found = scan(&bytes).with_context(|| file.display().to_string())?;
    let mut memory = Memory::default();
    for record in &found.records {
        memory.apply(record, true);
    }
    let mut destinations = Vec::new();
    for no in 0.. {
        let Some(name) = memory.destination_name(no) else {
            break;
        };
        let here = memory
            .done
            .iter()
            .filter(|(destination, _stream, _done)| *destination == no);
        let (mut streams, mut batches) = (0, 0);
        for (_destination, _stream, done) in here {
            streams += 1;
            batches += done
                .epochs
                .iter()
                .map(|(_epoch, seqs)| seqs.len())
                .sum::<u64>();
        }
        let targets = memory
            .targets_of(no)
            .into_iter()
            .map(|(_no, target)| InspectedTarget {
                target: target.name.to_string(),
                open: target.open,
                positions: target
                    .positions
                    .iter()
                    .map(|(&p, at)| (p, at.end, at.floor))
                    .collect(),
            });
        destinations.push(InspectedDestination {
            destination: name.to_string(),
            streams,
            batches,
            targets: targets.collect(),
        });
    }
    Ok(Inspection {
        version: format::version(&bytes)?.unwrap_or_default(),
        bytes: bytes.len(),
        records: found.records.len(),
        torn_bytes: bytes.len() - found.valid_bytes,
        damaged: found.damage,
        epoch: memory.epoch.0,
        untold_batches: memory.untold.len(),
        destinations,
    })
}

/// The journal's file at or in `path`; `None` when a folder holds none.
fn journal_file(path: &Path) -> anyhow::Result<Option<PathBuf>> {
    if !path.is_dir() {
        return Ok(Some(path.to_owned()));
    }
    let inside = path.join(FILE);
    Ok(inside.try_exists()?.then_some(inside))
}
