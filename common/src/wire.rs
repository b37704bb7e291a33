//! The framed stream between agent and bus, without any I/O.
//!
//! # Constraints
//! One TCP connection, begun by HTTP/1.1 `Upgrade: tributary/1` on `GET /v1/stream`. The bus must
//! know a frame's size before it takes in its payload, so that it can take a permit first. A bad
//! frame ends that connection and nothing else. Every length has a limit.
//!
//! # Layout
//! ```text
//! u32 length          bytes that follow the prelude: header + payload      (big endian)
//! u16 header length   bytes of the header, 1 …                             (big endian)
//! header              u8 kind | body by postcard (a batch: its BatchHeader bytes)
//! payload             only a Batch frame has one: one Kafka RecordBatch v2
//! ```
//!
//! # Operation
//! The agent says [`Hello`] first, the bus answers [`Welcome`] or [`Frame::Error`] and closes.
//! Then the agent sends [`Frame::Batch`] up to the window, in order per stream; the bus answers
//! each batch once on this connection, in any order, with a [`Receipt`], a [`Busy`] or a
//! [`Refusal`]. After `Busy` for a batch the bus takes no later batch of that stream (it answers
//! `Busy`) until the batch comes again, so order holds. `GoAway` asks the agent to finish what is
//! in flight and to connect elsewhere.

use bytes::{Buf, Bytes};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    header::{BatchHeader, HeaderError},
    ids::{AgentId, BatchId, Epoch, Name, NodeId, Topic, Zone},
};

/// The protocol's name in the `Upgrade` header; its number is the version of everything here.
pub const PROTOCOL: &str = "tributary/1";
/// The path that is upgraded.
pub const STREAM_PATH: &str = "/v1/stream";
/// A request header of who has another node to try: a node with enough connections answers 503 then,
/// and the agent goes there. Without it everybody is let in.
pub const ELSEWHERE: &str = "tributary-elsewhere";
/// Bytes of the prelude.
pub const PRELUDE_BYTES: usize = 6;
/// The longest payload, in bytes: a record of 1 MiB that does not compress, with room for framing.
pub const MAX_PAYLOAD_BYTES: usize = (1 << 20) + (64 << 10);
/// The longest header, in bytes, kind included.
pub const MAX_HEADER_BYTES: usize = u16::MAX as usize;
/// The most receipts in one frame, so that the frame fits its header.
pub const MAX_RECEIPTS: usize = 256;

/// Why bytes are not a frame. Always: close this connection, and say so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The length of a frame is over the limit.
    #[error("frame announces {length} bytes; the limit is {}", MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES)]
    TooLong {
        /// The announced length in bytes.
        length: u64,
    },
    /// The header is longer than the frame, or has no bytes.
    #[error("frame announces a header of {header} bytes in {length} bytes")]
    HeaderLength {
        /// The announced header length in bytes.
        header: usize,
        /// The announced frame length in bytes.
        length: usize,
    },
    /// A payload after a header that has none.
    #[error("frame of kind {kind} has a payload of {payload} bytes; it has none in {PROTOCOL}")]
    Payload {
        /// The frame's kind.
        kind: u8,
        /// Bytes of payload.
        payload: usize,
    },
    /// A kind that this version does not know.
    #[error("frame kind {0} is unknown in {PROTOCOL}")]
    Kind(u8),
    /// The body does not parse.
    #[error("frame of kind {kind} is malformed: {why}")]
    Malformed {
        /// The frame's kind.
        kind: u8,
        /// The parser's word.
        why: String,
    },
    /// A batch's header is bad.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

/// The first six bytes of a frame, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prelude {
    /// Bytes of the header.
    pub header_bytes: usize,
    /// Bytes of the payload.
    pub payload_bytes: usize,
}

impl Prelude {
    /// Reads and checks a prelude.
    ///
    /// # Errors
    /// [`WireError::TooLong`] or [`WireError::HeaderLength`].
    pub fn decode(bytes: [u8; PRELUDE_BYTES]) -> Result<Self, WireError> {
        let [a, b, c, d, e, f] = bytes;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let header_bytes = usize::from(u16::from_be_bytes([e, f]));
        if length > MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES {
            return Err(WireError::TooLong {
                length: length as u64,
            });
        }
        if header_bytes == 0 || header_bytes > length {
            return Err(WireError::HeaderLength {
                header: header_bytes,
                length,
            });
        }
        let payload_bytes = length - header_bytes;
        if payload_bytes > MAX_PAYLOAD_BYTES {
            return Err(WireError::TooLong {
                length: length as u64,
            });
        }
        Ok(Self {
            header_bytes,
            payload_bytes,
        })
    }

    /// Bytes that follow the prelude.
    #[must_use]
    pub fn frame_bytes(self) -> usize {
        self.header_bytes + self.payload_bytes
    }
}

/// The agent's first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Which agent.
    pub agent: AgentId,
    /// Its host's name, for people.
    pub host: String,
    /// Where it lives.
    pub zone: Zone,
    /// Its current life.
    pub epoch: Epoch,
    /// Its software and version, for people.
    pub software: String,
}

/// The bus's answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Which node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: Name,
    /// The node's current life: a batch sent to another life is in doubt.
    pub epoch: Epoch,
    /// The window: most batches in flight on this connection.
    pub window_batches: u32,
    /// The window: most payload bytes in flight on this connection.
    pub window_bytes: u64,
}

/// A place in a Kafka partition or a file where a batch lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The destination's configured name.
    pub destination: Name,
    /// The physical topic, index or path.
    pub target: String,
    /// The partition; 0 where there is none.
    pub partition: i32,
    /// First offset (records in Kafka, bytes in a file).
    pub first: i64,
    /// The offset after the last one. With holes only where other producers write in between.
    pub end: i64,
}

/// What became of an accepted batch. The agent may forget it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Every destination of its route has it.
    Delivered(Vec<Place>),
    /// It was delivered before; this repeat was removed.
    Duplicate,
    /// The node has it on its own disk, synced, because a destination does not take it now. The node
    /// delivers it later and tells the manager.
    Spilled,
}

/// The acknowledgement of one batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Which batch.
    pub batch: BatchId,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a [`Busy`] holds back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Everything on this node.
    Node,
    /// Only this topic.
    Topic(Topic),
}

/// The batch was not taken: hold, and send it again later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    /// Which batch.
    pub batch: BatchId,
    /// When to try again, in ms.
    pub retry_after_ms: u32,
    /// What else would not be taken.
    pub scope: Scope,
    /// Why, for people.
    pub reason: String,
}

/// The batch was refused: sending it again unchanged will not help before an operator acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Which batch.
    pub batch: BatchId,
    /// Why, for branches.
    pub reason: RefuseReason,
    /// Why, for people.
    pub detail: String,
}

/// Why a batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefuseReason {
    /// No route matches its topic.
    NoRoute,
    /// The payload is not what the header says (checksum, counts).
    Corrupt,
    /// A record is larger than a destination takes.
    TooLarge,
    /// A destination refused it for good (authorisation, unknown topic).
    Destination,
}

impl RefuseReason {
    /// The reason as a metric label and in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRoute => "no-route",
            Self::Corrupt => "corrupt",
            Self::TooLarge => "too-large",
            Self::Destination => "destination",
        }
    }
}

/// One frame, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Agent to bus, first.
    Hello(Hello),
    /// Bus to agent, first.
    Welcome(Welcome),
    /// Agent to bus: a batch and its payload.
    Batch(Box<BatchHeader>, Bytes),
    /// Bus to agent: at most [`MAX_RECEIPTS`].
    Receipts(Vec<Receipt>),
    /// Bus to agent: not now.
    Busy(Busy),
    /// Bus to agent: no.
    Refuse(Refusal),
    /// Bus to agent: finish and connect elsewhere within so many ms.
    GoAway {
        /// The time to spread the reconnect over, in ms.
        reconnect_within_ms: u32,
    },
    /// Either side, before it closes: what the other did wrong.
    Error(String),
    /// Either side: are you there?
    Ping(u64),
    /// The answer to a ping, with its number.
    Pong(u64),
}

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const WELCOME: u8 = 2;
    pub(super) const BATCH: u8 = 3;
    pub(super) const RECEIPTS: u8 = 4;
    pub(super) const BUSY: u8 = 5;
    pub(super) const REFUSE: u8 = 6;
    pub(super) const GO_AWAY: u8 = 7;
    pub(super) const ERROR: u8 = 8;
    pub(super) const PING: u8 = 9;
    pub(super) const PONG: u8 = 10;
}

/// Whether a header begins a batch: the only kind with a payload. For readers that take a permit
/// before they read on.
#[must_use]
pub fn is_batch(header: &[u8]) -> bool {
    header.first() == Some(&kind::BATCH)
}

/// Prelude and header of a batch frame; its payload follows it on the wire unchanged, so that it
/// need not be copied.
///
/// # Errors
/// [`WireError`] when header or payload is over its limit.
pub fn encode_batch_head(header: &BatchHeader, payload_bytes: usize) -> Result<Vec<u8>, WireError> {
    let body = header.encode()?;
    assemble(kind::BATCH, &body, payload_bytes)
}

/// All bytes of a frame. A batch is better sent by [`encode_batch_head`], without the copy.
///
/// # Errors
/// [`WireError`] when header or payload is over its limit.
pub fn encode(frame: &Frame) -> Result<Vec<u8>, WireError> {
    match frame {
        Frame::Hello(hello) => assemble(kind::HELLO, &body(kind::HELLO, hello)?, 0),
        Frame::Welcome(welcome) => assemble(kind::WELCOME, &body(kind::WELCOME, welcome)?, 0),
        Frame::Batch(header, payload) => {
            let mut bytes = encode_batch_head(header, payload.len())?;
            bytes.extend_from_slice(payload);
            Ok(bytes)
        }
        Frame::Receipts(receipts) => assemble(kind::RECEIPTS, &body(kind::RECEIPTS, receipts)?, 0),
        Frame::Busy(busy) => assemble(kind::BUSY, &body(kind::BUSY, busy)?, 0),
        Frame::Refuse(refusal) => assemble(kind::REFUSE, &body(kind::REFUSE, refusal)?, 0),
        Frame::GoAway {
            reconnect_within_ms,
        } => assemble(kind::GO_AWAY, &body(kind::GO_AWAY, reconnect_within_ms)?, 0),
        Frame::Error(text) => assemble(kind::ERROR, &body(kind::ERROR, text)?, 0),
        Frame::Ping(number) => assemble(kind::PING, &body(kind::PING, number)?, 0),
        Frame::Pong(number) => assemble(kind::PONG, &body(kind::PONG, number)?, 0),
    }
}

/// Decodes what follows a prelude. `frame` holds exactly [`Prelude::frame_bytes`] bytes; the
/// payload of a batch is a slice of it, not a copy.
///
/// # Errors
/// [`WireError`]: close the connection.
pub fn decode(prelude: Prelude, mut frame: Bytes) -> Result<Frame, WireError> {
    if frame.len() != prelude.frame_bytes() {
        return Err(WireError::HeaderLength {
            header: prelude.header_bytes,
            length: frame.len(),
        });
    }
    let payload = frame.split_off(prelude.header_bytes);
    let kind = frame.get_u8();
    if kind != kind::BATCH && !payload.is_empty() {
        return Err(WireError::Payload {
            kind,
            payload: payload.len(),
        });
    }
    match kind {
        kind::HELLO => Ok(Frame::Hello(parse(kind, &frame)?)),
        kind::WELCOME => Ok(Frame::Welcome(parse(kind, &frame)?)),
        kind::BATCH => Ok(Frame::Batch(
            Box::new(BatchHeader::decode(&frame)?),
            payload,
        )),
        kind::RECEIPTS => Ok(Frame::Receipts(parse(kind, &frame)?)),
        kind::BUSY => Ok(Frame::Busy(parse(kind, &frame)?)),
        kind::REFUSE => Ok(Frame::Refuse(parse(kind, &frame)?)),
        kind::GO_AWAY => Ok(Frame::GoAway {
            reconnect_within_ms: parse(kind, &frame)?,
        }),
        kind::ERROR => Ok(Frame::Error(parse(kind, &frame)?)),
        kind::PING => Ok(Frame::Ping(parse(kind, &frame)?)),
        kind::PONG => Ok(Frame::Pong(parse(kind, &frame)?)),
        unknown => Err(WireError::Kind(unknown)),
    }
}

fn body<T: Serialize>(kind: u8, value: &T) -> Result<Vec<u8>, WireError> {
    postcard::to_stdvec(value).map_err(|error| WireError::Malformed {
        kind,
        why: error.to_string(),
    })
}

fn parse<T: DeserializeOwned>(kind: u8, bytes: &[u8]) -> Result<T, WireError> {
    let malformed = |why: String| WireError::Malformed { kind, why };
    let (value, rest) =
        postcard::take_from_bytes(bytes).map_err(|error| malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed(format!("{} bytes too many", rest.len())));
    }
    Ok(value)
}

fn assemble(kind: u8, body: &[u8], payload_bytes: usize) -> Result<Vec<u8>, WireError> {
    let header_bytes = body.len() + 1;
    let length = header_bytes + payload_bytes;
    let too_long = || WireError::TooLong {
        length: length as u64,
    };
    let header_length = u16::try_from(header_bytes).map_err(|_too_big| too_long())?;
    if payload_bytes > MAX_PAYLOAD_BYTES {
        return Err(too_long());
    }
    let frame_length = u32::try_from(length).map_err(|_too_big| too_long())?;
    let mut bytes = Vec::with_capacity(PRELUDE_BYTES + header_bytes);
    bytes.extend_from_slice(&frame_length.to_be_bytes());
    bytes.extend_from_slice(&header_length.to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(body);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        header::MinuteCount,
        ids::{Class, GenerationId, StreamId, TaskId},
        span::Span,
    };

    fn header() -> BatchHeader {
        BatchHeader {
            agent: AgentId::new("a").unwrap(),
            stream: StreamId(1),
            epoch: Epoch(2),
            seq: 3,
            generation: GenerationId(4),
            span: Span { start: 0, end: 5 },
            task: TaskId::new("t").unwrap(),
            topic: Topic::new("x").unwrap(),
            class: Class::P2,
            resends: 1,
            records: 1,
            raw_bytes: 4,
            minutes: vec![MinuteCount {
                minute: 1,
                records: 1,
            }],
            content_sum: 0,
            file: "f".into(),
            keyed: false,
        }
    }

    fn read(bytes: &[u8]) -> Result<Frame, WireError> {
        let prelude = Prelude::decode(bytes[..PRELUDE_BYTES].try_into().unwrap())?;
        decode(prelude, Bytes::copy_from_slice(&bytes[PRELUDE_BYTES..]))
    }

    fn samples() -> Vec<Frame> {
        let batch = header().id();
        let place = Place {
            destination: Name::new("kafka-main").unwrap(),
            target: "web".into(),
            partition: 3,
            first: 10,
            end: 20,
        };
        vec![
            Frame::Hello(Hello {
                agent: AgentId::new("a").unwrap(),
                host: "web-17".into(),
                zone: Zone::new("dc1").unwrap(),
                epoch: Epoch(1),
                software: "tributary-agent 0.1.0".into(),
            }),
            Frame::Welcome(Welcome {
                node: NodeId::new("bus1").unwrap(),
                cluster: Name::new("dc1").unwrap(),
                epoch: Epoch(9),
                window_batches: 64,
                window_bytes: 1 << 24,
            }),
            Frame::Batch(Box::new(header()), Bytes::from_static(b"payload")),
            Frame::Receipts(vec![
                Receipt {
                    batch,
                    outcome: Outcome::Delivered(vec![place]),
                },
                Receipt {
                    batch,
                    outcome: Outcome::Duplicate,
                },
            ]),
            Frame::Busy(Busy {
                batch,
                retry_after_ms: 100,
                scope: Scope::Topic(Topic::new("x").unwrap()),
                reason: "kafka-main is down".into(),
            }),
            Frame::Refuse(Refusal {
                batch,
                reason: RefuseReason::NoRoute,
                detail: "no route matches".into(),
            }),
            Frame::GoAway {
                reconnect_within_ms: 5,
            },
            Frame::Error("no".into()),
            Frame::Ping(1),
            Frame::Pong(u64::MAX),
        ]
    }

    #[test]
    fn every_frame_survives_its_bytes() {
        for frame in samples() {
            assert_eq!(read(&encode(&frame).unwrap()), Ok(frame));
        }
    }

    #[test]
    fn absurd_lengths_are_refused_from_the_prelude_alone() {
        let check = |bytes: [u8; 6], text: &str| {
            assert_eq!(Prelude::decode(bytes).unwrap_err().to_string(), text);
        };
        check(
            [0xff; 6],
            "frame announces 4294967295 bytes; the limit is 1179647",
        );
        check(
            [0, 0, 0, 9, 0, 0],
            "frame announces a header of 0 bytes in 9 bytes",
        );
        check(
            [0, 0, 0, 1, 0, 2],
            "frame announces a header of 2 bytes in 1 bytes",
        );
    }

    #[test]
    fn unknown_kinds_and_stray_payloads_are_named() {
        let text = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert_eq!(
            text(&[0, 0, 0, 1, 0, 1, 77]),
            "frame kind 77 is unknown in tributary/1"
        );
        let mut ping = encode(&Frame::Ping(1)).unwrap();
        ping.push(0);
        ping[3] += 1;
        assert!(
            text(&ping).contains("has a payload of 1 bytes"),
            "{}",
            text(&ping)
        );
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(kind in 0u8..12, body in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(bytes) = assemble(kind, &body, 0)
                && let Ok(frame) = read(&bytes)
            {
                // What is accepted is said again in the same bytes or shorter (varints may be padded).
                prop_assert!(encode(&frame).unwrap().len() <= bytes.len());
            }
        }
    }
}
