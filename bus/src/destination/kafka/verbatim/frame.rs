//! A request as it goes to the socket: in pieces, so that batches go from where they lie.
//!
//! [`produce`] writes by hand what the crate for the messages would copy every batch for; a test holds
//! the two to the same bytes. Not for: the other requests and all answers (see [`super::proto`]).

use std::{collections::VecDeque, io::IoSlice, sync::Arc};

use anyhow::{Context as _, Result};
use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use tributary_common::batch::Sealed;

/// From this version on lengths are short and fields may follow.
const COMPACT_FROM: i16 = 9;
/// Small pieces of a request: about so many bytes for each batch.
const FRAMING_BYTES: usize = 96;

/// A batch in a request: its topic, its partition, its fixed fields as this producer sends them, and
/// the records behind them.
pub(super) struct Load {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) head: [u8; Sealed::HEAD_BYTES],
    pub(super) records: Bytes,
}

/// Bytes to be written, in pieces.
#[derive(Debug, Default)]
pub(super) struct Frame {
    /// None is empty.
    pieces: VecDeque<Bytes>,
    left: usize,
}

impl Frame {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.left += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// More to be written behind it.
    pub(super) fn append(&mut self, mut more: Self) {
        self.left += more.left;
        self.pieces.append(&mut more.pieces);
    }
}

impl From<Bytes> for Frame {
    fn from(bytes: Bytes) -> Self {
        let mut frame = Self::default();
        frame.push(bytes);
        frame
    }
}

impl Buf for Frame {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut written: usize) {
        self.left = self.left.saturating_sub(written);
        while let Some(front) = self.pieces.front_mut() {
            if written < front.len() {
                return front.advance(written);
            }
            written -= front.len();
            self.pieces.pop_front();
        }
    }
}

/// What lengths look like in a version of a request.
struct Writer {
    compact: bool,
    out: BytesMut,
}

impl Writer {
    /// A length or count: as so many bytes, or short and one more.
    fn len(&mut self, len: usize) -> Result<()> {
        let len = u32::try_from(len).context("a request of more than 4 GiB")?;
        match self.compact {
            true => self.varint(len + 1),
            false => self.out.put_u32(len),
        }
        Ok(())
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.put_u8(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.out.put_u8(value.to_le_bytes()[0]);
    }

    fn text(&mut self, text: &str) -> Result<()> {
        match self.compact {
            true => self.len(text.len())?,
            false => self.out.put_u16(u16::try_from(text.len())?),
        }
        self.out.put_slice(text.as_bytes());
        Ok(())
    }

    /// The end of a structure: no fields that are not known by their place.
    fn end(&mut self) {
        if self.compact {
            self.out.put_u8(0);
        }
    }

    fn piece(&mut self) -> Bytes {
        self.out.split().freeze()
    }
}

/// Batches for one broker, acknowledged by all replicas.
pub(super) fn produce(
    (version, correlation): (i16, i32),
    (client, replicas_within_ms): (&str, i32),
    loads: Vec<Load>,
) -> Result<Frame> {
    let mut topics: Vec<(Arc<str>, Vec<Load>)> = Vec::new();
    for load in loads {
        match topics
            .iter_mut()
            .find(|(topic, _loads)| *topic == load.topic)
        {
            Some((_topic, loads)) => loads.push(load),
            None => topics.push((Arc::clone(&load.topic), vec![load])),
        }
    }
    let batches: usize = topics.iter().map(|(_topic, loads)| loads.len()).sum();
    let mut writer = Writer {
        compact: false,
        out: BytesMut::with_capacity(FRAMING_BYTES * (batches + topics.len() + 1)),
    };
    writer.out.put_i16(ApiKey::Produce as i16);
    writer.out.put_i16(version);
    writer.out.put_i32(correlation);
    writer.text(client)?;
    writer.compact = version >= COMPACT_FROM;
    writer.end();
    // No transaction.
    match writer.compact {
        true => writer.varint(0),
        false => writer.out.put_i16(-1),
    }
    // All replicas.
    writer.out.put_i16(-1);
    writer.out.put_i32(replicas_within_ms);
    writer.len(topics.len())?;
    let mut rest = Frame::default();
    for (topic, loads) in topics {
        writer.text(&topic)?;
        writer.len(loads.len())?;
        for load in loads {
            writer.out.put_i32(load.partition);
            writer.len(load.head.len() + load.records.len())?;
            writer.out.put_slice(&load.head);
            rest.push(writer.piece());
            rest.push(load.records);
            writer.end();
        }
        writer.end();
    }
    writer.end();
    rest.push(writer.piece());
    let len = u32::try_from(rest.left).context("a request of more than 4 GiB")?;
    let mut frame = Frame::from(Bytes::copy_from_slice(&len.to_be_bytes()));
    frame.append(rest);
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::{
        messages::{
            ProduceRequest, RequestHeader, TopicName,
            produce_request::{PartitionProduceData, TopicProduceData},
        },
        protocol::{Encodable as _, HeaderVersion as _, StrBytes},
    };
    use proptest::prelude::*;

    use super::*;

    fn load(topic: usize, partition: i32, records: usize) -> Load {
        Load {
            topic: format!("topic-{topic}").into(),
            partition,
            head: [u8::try_from(partition).unwrap(); Sealed::HEAD_BYTES],
            records: vec![7; records].into(),
        }
    }

    /// The same request by the crate for the messages.
    fn by_the_crate(version: i16, loads: &[(usize, i32, usize)]) -> Vec<u8> {
        let mut topics: Vec<TopicProduceData> = Vec::new();
        for &(topic, partition, records) in loads {
            let name = TopicName(StrBytes::from_string(format!("topic-{topic}")));
            let load = load(topic, partition, records);
            let data = PartitionProduceData::default()
                .with_index(partition)
                .with_records(Some([&load.head[..], &load.records].concat().into()));
            match topics.iter_mut().find(|one| one.name == name) {
                Some(one) => one.partition_data.push(data),
                None => topics.push(
                    TopicProduceData::default()
                        .with_name(name)
                        .with_partition_data(vec![data]),
                ),
            }
        }
        let body = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(10_000)
            .with_topic_data(topics);
        let header = RequestHeader::default()
            .with_request_api_key(ApiKey::Produce as i16)
            .with_request_api_version(version)
            .with_correlation_id(5)
            .with_client_id(Some(StrBytes::from_static_str("us")));
        let mut out = BytesMut::new();
        header
            .encode(&mut out, ProduceRequest::header_version(version))
            .unwrap();
        body.encode(&mut out, version).unwrap();
        let len = u32::try_from(out.len()).unwrap();
        [&len.to_be_bytes()[..], &out].concat()
    }

    proptest! {
        #[test]
        fn a_request_in_pieces_is_the_one_that_the_crate_for_the_messages_writes(
            version in 7_i16..=9,
            loads in prop::collection::vec((0_usize..4, 0_i32..9, prop::sample::select(vec![0, 1, 66, 127, 20_000])), 0..9),
            steps in prop::collection::vec(1_usize..30_000, 1..9),
        ) {
            let whole = by_the_crate(version, &loads);
            let given = loads.iter().map(|&(topic, partition, records)| load(topic, partition, records));
            let mut frame = produce((version, 5), ("us", 10_000), given.collect()).unwrap();
            let mut written = Vec::new();
            // As a socket takes it: some of it at a time, over the ends of pieces.
            for step in steps.iter().cycle() {
                if !frame.has_remaining() {
                    break;
                }
                prop_assert_eq!(frame.remaining(), whole.len() - written.len());
                let mut slices = [IoSlice::new(&[]); 3];
                let count = frame.chunks_vectored(&mut slices);
                let there = slices[..count].iter().flat_map(|slice| slice.to_vec());
                let there: Vec<u8> = there.collect();
                let took = there.len().min(*step);
                written.extend_from_slice(&there[..took]);
                frame.advance(took);
            }
            prop_assert_eq!(written, whole);
        }
    }
}
