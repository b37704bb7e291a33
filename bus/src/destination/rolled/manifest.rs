//! What stands beside a file: which batches are in it, how much that is, and a checksum.
//!
//! JSON, for people and programs; after a kill the bus itself reads it (see [`super::settled`]). A
//! manifest counts when its file is there: it is written just before that gets its name. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tributary_common::{
    header::BatchHeader,
    ids::{Epoch, Name, NodeId, StreamId, Topic},
    span::RangeSet,
};

use super::encode::Sum;

/// The version that this build writes and reads.
const VERSION: u16 = 1;
/// The longest manifest that is read, in bytes.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// Batches `[start, end)` of one stream and agent life.
pub(super) type Batches = ((StreamId, Epoch), (u64, u64));

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u16,
    file: String,
    node: NodeId,
    destination: Name,
    topics: Vec<Topic>,
    /// Which records are whose, where there are several topics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Part>,
    batches: u64,
    records: u64,
    raw_bytes: u64,
    stored_bytes: u64,
    sha256: String,
    /// Minutes of the first and the last event.
    first_event: String,
    last_event: String,
    streams: Vec<Stream>,
}

/// Records of one topic that stand together, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    topic: Topic,
    records: u64,
    /// Bytes `[start, end)` of the unpacked file.
    bytes: (u64, u64),
}

/// The batches of one stream and agent life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stream {
    /// In hexadecimal: it is larger than a number of JSON.
    stream: String,
    epoch: Epoch,
    /// Sequence numbers `[start, end)`.
    batches: Vec<(u64, u64)>,
}

impl Manifest {
    /// Reads one.
    ///
    /// # Errors
    /// Why it is none, for people.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match manifest.version {
            VERSION => Ok(manifest),
            other => Err(format!("has version {other}; this build reads {VERSION}")),
        }
    }

    /// Its bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .expect("its keys are text, and nothing in it can fail to be written");
        bytes.push(b'\n');
        bytes
    }

    /// The batches that are in the file.
    ///
    /// # Errors
    /// A stream that is no number.
    pub(super) fn batches(&self) -> Result<Vec<Batches>, String> {
        let mut all = Vec::new();
        for stream in &self.streams {
            let id = u64::from_str_radix(&stream.stream, 16)
                .map_err(|error| format!("has the stream {:?}: {error}", stream.stream))?;
            let key = (StreamId(id), stream.epoch);
            all.extend(stream.batches.iter().map(|&range| (key, range)));
        }
        Ok(all)
    }
}

/// A manifest that is being made.
#[derive(Debug, Default)]
pub(super) struct Draft {
    topics: BTreeSet<Topic>,
    parts: Vec<Part>,
    streams: BTreeMap<(StreamId, Epoch), RangeSet>,
    batches: u64,
    records: u64,
    minutes: Option<(u32, u32)>,
}

impl Draft {
    /// A batch is in the file.
    pub(super) fn add(&mut self, header: &BatchHeader) {
        if !self.topics.contains(&header.topic) {
            self.topics.insert(header.topic.clone());
        }
        let records = u64::from(header.records);
        let begin = self.parts.last().map_or(0, |last| last.bytes.1);
        // Each record ends with a newline.
        let end = begin + header.raw_bytes + records;
        match self.parts.last_mut() {
            Some(last) if last.topic == header.topic => {
                last.records += records;
                last.bytes.1 = end;
            }
            _ => self.parts.push(Part {
                topic: header.topic.clone(),
                records,
                bytes: (begin, end),
            }),
        }
        let stream = self.streams.entry((header.stream, header.epoch));
        stream.or_default().insert(header.seq, header.seq + 1);
        self.batches += 1;
        self.records += u64::from(header.records);
        for count in &header.minutes {
            let (first, last) = self.minutes.unwrap_or((count.minute, count.minute));
            self.minutes = Some((first.min(count.minute), last.max(count.minute)));
        }
    }

    /// How many batches there are.
    pub(super) fn batches(&self) -> u64 {
        self.batches
    }

    /// The manifest of the whole file.
    pub(super) fn finish(
        self,
        file: &str,
        sum: Sum,
        (node, destination): (&NodeId, &Name),
    ) -> Manifest {
        let (first, last) = self.minutes.unwrap_or_default();
        let streams = self.streams.into_iter();
        let streams = streams.map(|((stream, epoch), seqs)| Stream {
            stream: stream.to_string(),
            epoch,
            batches: seqs.iter().collect(),
        });
        Manifest {
            version: VERSION,
            file: file.to_owned(),
            node: node.clone(),
            destination: destination.clone(),
            parts: match self.topics.len() {
                0 | 1 => Vec::new(),
                _several => self.parts,
            },
            topics: self.topics.into_iter().collect(),
            batches: self.batches,
            records: self.records,
            raw_bytes: sum.raw_bytes,
            stored_bytes: sum.stored_bytes,
            sha256: sum.sha256,
            first_event: time(first),
            last_event: time(last),
            streams: streams.collect(),
        }
    }
}

/// A minute since 1970 as `2026-01-31T23:59:00Z`.
fn time(minute: u32) -> String {
    let time = jiff::Timestamp::from_second(i64::from(minute) * 60);
    // A minute beyond the calendar comes from a broken clock.
    time.map_or_else(|_beyond| String::new(), |time| time.to_string())
}
