//! A ready-made RecordBatch, given to the broker as it is: the smallest Produce client.
//!
//! Only for the proof that the encoder's bytes are what Kafka takes. Produce version 7 (the first
//! that may carry zstd), request header version 1, as in
//! <https://kafka.apache.org/protocol#The_Messages_Produce>; one broker, which leads everything.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Result, ensure};

use super::Kafka;
use crate::poll;

const PRODUCE: i16 = 0;
const VERSION: i16 = 7;
const CORRELATION: i32 = 7;
const ACKS_ALL: i16 = -1;
const TIMEOUT_MS: i32 = 10_000;
/// What a broker says of a partition of which it has not heard yet from the controller, which has
/// answered already: unknown topic, no leader, another one's.
const NOT_YET: [i16; 3] = [3, 5, 6];
/// By then it has heard.
const HEARD_WITHIN: Duration = Duration::from_secs(30);

/// The broker's word on a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// Kafka's error code; 0 is success, 2 a bad checksum or a corrupt batch, 87 invalid records.
    pub error: i16,
    /// The offset of the first record.
    pub base_offset: i64,
}

impl Kafka {
    /// Gives one RecordBatch to one partition, as soon as the broker knows of that.
    ///
    /// # Errors
    /// When the broker cannot be reached, its answer makes no sense, or it never hears of the
    /// partition. Any other refusal is no error here.
    pub fn produce_batch(&self, topic: &str, partition: i32, batch: &[u8]) -> Result<Produced> {
        poll::until("the broker to know the partition", HEARD_WITHIN, || {
            let produced = self.try_batch(topic, partition, batch)?;
            Ok((!NOT_YET.contains(&produced.error)).then_some(produced))
        })
    }

    fn try_batch(&self, topic: &str, partition: i32, batch: &[u8]) -> Result<Produced> {
        let mut stream = TcpStream::connect(self.bootstrap())?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(&request(topic, partition, batch)?)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length))?];
        stream.read_exact(&mut answer)?;
        read_answer(&answer, topic)
    }
}

fn request(topic: &str, partition: i32, batch: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::with_capacity(batch.len() + 128);
    body.extend(PRODUCE.to_be_bytes());
    body.extend(VERSION.to_be_bytes());
    body.extend(CORRELATION.to_be_bytes());
    text(&mut body, "rig")?;
    body.extend((-1i16).to_be_bytes()); // no transaction
    body.extend(ACKS_ALL.to_be_bytes());
    body.extend(TIMEOUT_MS.to_be_bytes());
    body.extend(1i32.to_be_bytes()); // topics
    text(&mut body, topic)?;
    body.extend(1i32.to_be_bytes()); // partitions
    body.extend(partition.to_be_bytes());
    body.extend(i32::try_from(batch.len())?.to_be_bytes());
    body.extend(batch);
    let mut request = u32::try_from(body.len())?.to_be_bytes().to_vec();
    request.extend(body);
    Ok(request)
}

pub(super) fn text(body: &mut Vec<u8>, text: &str) -> Result<()> {
    body.extend(i16::try_from(text.len())?.to_be_bytes());
    body.extend(text.as_bytes());
    Ok(())
}

/// correlation i32 | topics i32 | name | partitions i32 | index i32 | error i16 | base offset i64 …
fn read_answer(answer: &[u8], topic: &str) -> Result<Produced> {
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    ensure!(
        answer.len() >= at + 10,
        "the answer has only {} bytes",
        answer.len()
    );
    ensure!(
        answer[..4] == CORRELATION.to_be_bytes(),
        "the answer is for another request"
    );
    let error = i16::from_be_bytes([answer[at], answer[at + 1]]);
    let mut offset = [0; 8];
    offset.copy_from_slice(&answer[at + 2..at + 10]);
    Ok(Produced {
        error,
        base_offset: i64::from_be_bytes(offset),
    })
}
