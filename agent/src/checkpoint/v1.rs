//! Version 1 of the checkpoint's records, to be read and made into today's.
//!
//! Frozen: kept bytes of version 1 must be read for as long as hosts may have them
//! (`tests/fixtures/checkpoint-v1.bin`). A cut held the rule for lines only; all else of its recipe is
//! the task's of today, as it was when version 1 read a batch again.
//!
//! Not for: writing. Called by [`super::record`].

use serde::Deserialize;
use tributary_common::{
    header::MinuteCount,
    ids::{BatchId, Epoch, GenerationId, StreamId, TaskId, Topic},
    report::Loss,
    span::Span,
};

use super::record::{self, Account, End, Told};
use crate::{
    frame::{Carry, Rule},
    handle::FileKey,
    identify::{Mark, Prefix},
    path::LogPath,
};

#[derive(Debug, Deserialize)]
pub(super) struct Cut {
    id: BatchId,
    generation: GenerationId,
    span: Span,
    read_ms: u64,
    records: u32,
    minutes: Vec<MinuteCount>,
    content_sum: u32,
    mark: u64,
    rule: Rule,
    mid_line: bool,
    dropping: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct GenerationRecord {
    stream: StreamId,
    generation: GenerationId,
    key: FileKey,
    inode: u64,
    truncations: u32,
    path: LogPath,
    prefix: Prefix,
    mark: Mark,
    dropping: bool,
    mtime_ns: i64,
    ended_ms: Option<u64>,
}

/// One record; the order is the format.
#[derive(Debug, Deserialize)]
pub(super) enum Record {
    Life {
        epoch: Epoch,
    },
    Task {
        task: TaskId,
    },
    Stream {
        stream: StreamId,
        task: TaskId,
        topic: Topic,
        path: LogPath,
    },
    Generation(GenerationRecord),
    Cut(Cut),
    Ended {
        batch: BatchId,
        end: End,
    },
    Skipped {
        stream: StreamId,
        generation: GenerationId,
        mark: Mark,
        dropping: bool,
    },
    Lost(Loss),
    Told(Told),
    LossesTold(u64),
    Accounts {
        stream: StreamId,
        epoch: Epoch,
        first_seq: u64,
        read_before: u64,
        accounts: Vec<Account>,
    },
    Open(Cut),
    SnapshotEnd,
}

impl From<Cut> for record::Cut {
    fn from(cut: Cut) -> Self {
        Self {
            id: cut.id,
            generation: cut.generation,
            span: cut.span,
            read_ms: cut.read_ms,
            records: cut.records,
            minutes: cut.minutes,
            content_sum: cut.content_sum,
            mark: cut.mark,
            recipe: record::MadeBy::Rule(cut.rule),
            before: Carry::default().with(Carry::MID_LINE, cut.mid_line),
            after: Carry::default().dropping(cut.dropping),
        }
    }
}

impl From<GenerationRecord> for record::GenerationRecord {
    fn from(known: GenerationRecord) -> Self {
        Self {
            stream: known.stream,
            generation: known.generation,
            key: known.key,
            inode: known.inode,
            truncations: known.truncations,
            path: known.path,
            prefix: known.prefix,
            mark: known.mark,
            carry: Carry::default().dropping(known.dropping),
            mtime_ns: known.mtime_ns,
            ended_ms: known.ended_ms,
        }
    }
}

impl From<Record> for record::Record {
    fn from(old: Record) -> Self {
        match old {
            Record::Life { epoch } => Self::Life { epoch },
            Record::Task { task } => Self::Task { task },
            Record::Stream {
                stream,
                task,
                topic,
                path,
            } => Self::Stream {
                stream,
                task,
                topic,
                path,
            },
            Record::Generation(known) => Self::Generation(known.into()),
            Record::Cut(cut) => Self::Cut(cut.into()),
            Record::Ended { batch, end } => Self::Ended { batch, end },
            Record::Skipped {
                stream,
                generation,
                mark,
                dropping,
            } => Self::Skipped {
                stream,
                generation,
                mark,
                carry: Carry::default().dropping(dropping),
            },
            Record::Lost(loss) => Self::Lost(loss),
            Record::Told(told) => Self::Told(told),
            Record::LossesTold(count) => Self::LossesTold(count),
            Record::Accounts {
                stream,
                epoch,
                first_seq,
                read_before,
                accounts,
            } => Self::Accounts {
                stream,
                epoch,
                first_seq,
                read_before,
                accounts,
            },
            Record::Open(cut) => Self::Open(cut.into()),
            Record::SnapshotEnd => Self::SnapshotEnd,
        }
    }
}
