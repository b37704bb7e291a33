//! What is said of a batch beside its payload: identity, truth, counts.
//!
//! # Constraints
//! The header travels in front of every batch, is read before the payload is taken in, and will
//! stand in the spill. So it is small, versioned, and bounded.
//!
//! # Layout
//! One version byte ([`VERSION`], or [`KEYED_VERSION`] where records have keys), then the fields of [`BatchHeader`] in order, by postcard
//! (<https://postcard.jamesmunns.com/wire-format>): integers as LEB128 varints, text as length and
//! UTF-8. A reader refuses a version that it does not know, by name.
//!
//! Not for: the records (see [`crate::batch`]).

use serde::{Deserialize, Serialize};

use crate::{
    ids::{AgentId, BatchId, Class, Epoch, GenerationId, StreamId, TaskId, Topic},
    span::Span,
};

/// The version that this build writes and reads.
pub const VERSION: u8 = 1;

/// The version of the header of a batch whose records may have keys: the same fields. A bus that does
/// not know it would put all its records into one partition, so it must refuse it.
pub const KEYED_VERSION: u8 = 2;

/// The longest encoded header, in bytes: what `u16 header length` of a frame can say.
pub const MAX_BYTES: usize = u16::MAX as usize;
/// What a header of a few minutes takes, with a path: no growing while it is written.
const USUAL_BYTES: usize = 256;

/// Why bytes are not a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No bytes at all.
    #[error("batch header is empty")]
    Empty,
    /// Written by another version of Tributary.
    #[error(
        "batch header has version {0}; this build reads versions {VERSION} and {KEYED_VERSION}"
    )]
    Version(u8),
    /// The fields do not parse, or contradict each other.
    #[error("batch header is malformed: {0}")]
    Malformed(String),
    /// Encoded it would not fit a frame.
    #[error("batch header takes {0} bytes; the limit is {MAX_BYTES}")]
    TooLong(usize),
}

/// Records per event minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MinuteCount {
    /// Minutes since 1970-01-01 00:00 UTC.
    pub minute: u32,
    /// Records of the batch whose event time lies in that minute.
    pub records: u32,
}

/// Everything known of a batch without opening it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchHeader {
    /// The agent that cut it.
    pub agent: AgentId,
    /// Identity, with [`BatchHeader::epoch`] and [`BatchHeader::seq`].
    pub stream: StreamId,
    /// The life of the agent that first cut it.
    pub epoch: Epoch,
    /// Place in the stream, from 1.
    pub seq: u64,
    /// Truth, with [`BatchHeader::span`]: which physical file.
    pub generation: GenerationId,
    /// Truth: which source bytes of it.
    pub span: Span,
    /// The task that asked for it.
    pub task: TaskId,
    /// Where it goes.
    pub topic: Topic,
    /// How urgent it is.
    pub class: Class,
    /// How often it was sent before: above 0 an earlier life of the bus may have delivered it.
    pub resends: u32,
    /// Records in the payload, at least 1.
    pub records: u32,
    /// Bytes of all record values together, without newlines.
    pub raw_bytes: u64,
    /// Records per event minute, ascending; their sum is `records`.
    pub minutes: Vec<MinuteCount>,
    /// CRC-32C over all record values in order, without separators: survives re-encoding.
    pub content_sum: u32,
    /// The path that the file had when the batch was cut, for people; lossy where not UTF-8.
    pub file: String,
    /// Records may have keys, which choose their partitions. The same for all batches of a task.
    #[serde(skip)]
    pub keyed: bool,
}

impl BatchHeader {
    /// The identity.
    #[must_use]
    pub fn id(&self) -> BatchId {
        BatchId {
            stream: self.stream,
            epoch: self.epoch,
            seq: self.seq,
        }
    }

    /// The header's bytes.
    ///
    /// # Errors
    /// [`HeaderError::TooLong`] when it would not fit a frame.
    pub fn encode(&self) -> Result<Vec<u8>, HeaderError> {
        let version = match self.keyed {
            true => KEYED_VERSION,
            false => VERSION,
        };
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        bytes.push(version);
        let bytes = postcard::to_extend(self, bytes)
            .map_err(|error| HeaderError::Malformed(error.to_string()))?;
        if bytes.len() > MAX_BYTES {
            return Err(HeaderError::TooLong(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads a header; all of `bytes` must be used.
    ///
    /// # Errors
    /// [`HeaderError`]; the batch must be refused, its bytes cannot be trusted.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        match bytes {
            [] => Err(HeaderError::Empty),
            [version @ (VERSION | KEYED_VERSION), fields @ ..] => {
                let (mut header, rest) = postcard::take_from_bytes::<Self>(fields)
                    .map_err(|error| HeaderError::Malformed(error.to_string()))?;
                if !rest.is_empty() {
                    return Err(HeaderError::Malformed(format!(
                        "{} bytes too many",
                        rest.len()
                    )));
                }
                header.keyed = *version == KEYED_VERSION;
                header.check()?;
                Ok(header)
            }
            [version, ..] => Err(HeaderError::Version(*version)),
        }
    }

    /// The contradictions that types cannot exclude.
    fn check(&self) -> Result<(), HeaderError> {
        let malformed = |why: &str| Err(HeaderError::Malformed(why.to_owned()));
        if self.span.end < self.span.start {
            return malformed("span ends before it starts");
        }
        if self.records == 0 || self.seq == 0 {
            return malformed("records and seq begin at 1");
        }
        let counted: u64 = self
            .minutes
            .iter()
            .map(|minute| u64::from(minute.records))
            .sum();
        if counted != u64::from(self.records) {
            return malformed("records per minute do not sum up to the records");
        }
        if !self.minutes.is_sorted_by(|a, b| a.minute < b.minute) {
            return malformed("minutes are not ascending");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> BatchHeader {
        BatchHeader {
            agent: AgentId::new("a-1").unwrap(),
            stream: StreamId(1),
            epoch: Epoch(2),
            seq: 3,
            generation: GenerationId(4),
            span: Span { start: 10, end: 30 },
            task: TaskId::new("nginx-access").unwrap(),
            topic: Topic::new("web.access").unwrap(),
            class: Class::P1,
            resends: 0,
            records: 3,
            raw_bytes: 17,
            minutes: vec![
                MinuteCount {
                    minute: 7,
                    records: 1,
                },
                MinuteCount {
                    minute: 9,
                    records: 2,
                },
            ],
            content_sum: 0xdead_beef,
            file: "/var/log/nginx/access.log".into(),
            keyed: false,
        }
    }

    #[test]
    fn a_header_survives_its_bytes() {
        for keyed in [false, true] {
            let header = BatchHeader { keyed, ..sample() };
            assert_eq!(BatchHeader::decode(&header.encode().unwrap()), Ok(header));
        }
    }

    /// The bytes that version 1 wrote on its first day: every later reader must read them.
    #[test]
    fn the_first_versions_bytes_are_still_read() {
        const KEPT: &str = "0103612d310102030\
            40a1e0c6e67696e782d6163636573730a7765622e616363657373010003110207010902\
            effdb6f50d192f7661722f6c6f672f6e67696e782f6163636573732e6c6f67";
        let digits: Vec<u8> = KEPT.bytes().filter(u8::is_ascii_hexdigit).collect();
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        assert_eq!(BatchHeader::decode(&bytes), Ok(sample()));
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let mut bytes = sample().encode().unwrap();
        bytes[0] = 9;
        assert_eq!(
            BatchHeader::decode(&bytes).unwrap_err().to_string(),
            "batch header has version 9; this build reads versions 1 and 2"
        );
        assert_eq!(BatchHeader::decode(&[]), Err(HeaderError::Empty));
    }

    #[test]
    fn contradictions_are_refused() {
        let check = |change: fn(&mut BatchHeader), part: &str| {
            let mut header = sample();
            change(&mut header);
            let error = BatchHeader::decode(&header.encode().unwrap())
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{error}");
        };
        check(
            |h| h.span = Span { start: 2, end: 1 },
            "ends before it starts",
        );
        check(|h| h.records = 0, "begin at 1");
        check(|h| h.seq = 0, "begin at 1");
        check(|h| h.records = 4, "do not sum up");
        check(|h| h.minutes.swap(0, 1), "not ascending");
    }

    #[test]
    fn every_prefix_of_a_header_is_refused_without_panic() {
        let bytes = sample().encode().unwrap();
        for len in 0..bytes.len() {
            assert!(BatchHeader::decode(&bytes[..len]).is_err(), "{len}");
        }
    }
}
