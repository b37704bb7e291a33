//! A large checkpoint, to measure how long a start takes.
//!
//! Not for: programs. `cargo bench -p tributary-agent` calls it.

use std::path::Path;

use tributary_common::{
    header::MinuteCount,
    ids::{BatchId, GenerationId, StreamId, TaskId, Topic},
    span::Span,
};

use super::{
    Checkpoint, Cut, GenerationRecord, MadeBy, Record,
    log::{OpenError, Recovery},
};
use crate::{
    frame::{Carry, LongLine, Rule},
    handle::FileKey,
    identify::{Mark, Prefix},
    path::LogPath,
};

/// Records in one write, as a busy reader makes them.
const AT_ONCE: u64 = 256;

/// Leaves in a state directory the checkpoint of an agent with so many files, each with a batch that
/// is not acknowledged and not told: four entries a file.
///
/// # Errors
/// [`OpenError`].
///
/// # Panics
/// Never: the names in it are sound.
pub fn make(state_dir: &Path, files: u64) -> Result<(), OpenError> {
    let (checkpoint, _) = Checkpoint::open(state_dir, true, 1)?;
    let epoch = checkpoint.read(|state| state.epoch);
    let mut records = Vec::new();
    for file in 0..files {
        let (stream, generation) = (StreamId(file), GenerationId(file));
        let path = format!("/var/log/service-{}/app-{file}.log", file % 1000);
        let path = LogPath::of_bytes(path.as_bytes());
        records.push(Record::Stream {
            stream,
            task: TaskId::new("service").expect("a sound name"),
            topic: Topic::new("service.log").expect("a sound name"),
            path: path.clone(),
        });
        records.push(Record::Generation(GenerationRecord {
            stream,
            generation,
            key: FileKey(file),
            inode: file,
            truncations: 0,
            path,
            prefix: Prefix {
                len: 1024,
                hash: file,
            },
            mark: Mark::default(),
            carry: Carry::default(),
            mtime_ns: 0,
            ended_ms: None,
        }));
        records.push(Record::Cut(Cut {
            id: BatchId {
                stream,
                epoch,
                seq: 1,
            },
            generation,
            span: Span {
                start: 0,
                end: 100_000,
            },
            read_ms: 1_800_000_000_000,
            records: 300,
            minutes: vec![MinuteCount {
                minute: 30_000_000,
                records: 300,
            }],
            content_sum: 7,
            mark: file,
            recipe: MadeBy::Rule(Rule {
                max_line: 1 << 20,
                long_line: LongLine::Split,
            }),
            before: Carry::default(),
            after: Carry::default(),
        }));
        if file % AT_ONCE == 0 {
            checkpoint.write(std::mem::take(&mut records));
        }
    }
    checkpoint.write(records);
    checkpoint.sync(true);
    Ok(())
}

/// Opens it as an agent does at its start, new file included. Gives how many records it had.
///
/// # Errors
/// [`OpenError`].
pub fn open(state_dir: &Path) -> Result<u64, OpenError> {
    let (_checkpoint, Recovery { records, .. }) = Checkpoint::open(state_dir, true, 2)?;
    Ok(records)
}
