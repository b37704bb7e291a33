//! Writes a few valid inputs for each fuzz target to `<folder>/<target>/`, to begin with.
//!
//! Here rather than beside the targets, so that what it needs is not built a second time for them.
//!
//! Not for: fuzzing. `fuzz/run` calls it: `fuzz-seeds <folder>`.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tributary_common::{
    batch::{Codec, Encoded, Encoder},
    header::BatchHeader,
    ids::{
        AgentId, BatchId, Class, Epoch, GenerationId, Name, NodeId, StreamId, TaskId, Topic, Zone,
    },
    span::Span,
    wire::{
        self, Busy, Frame, Hello, Outcome, Place, Receipt, Refusal, RefuseReason, Scope, Welcome,
    },
};

const ID: BatchId = BatchId {
    stream: StreamId(1),
    epoch: Epoch(2),
    seq: 3,
};

fn main() -> Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .context("usage: fuzz-seeds <folder>")?;
    let folder = Path::new(&folder);

    let mut batches = Vec::new();
    for codec in Codec::ALL {
        for records in [1, 5, 300] {
            batches.push(batch(codec, records)?);
        }
    }
    let headers = batches.iter().map(header).collect::<Result<Vec<_>>>()?;
    let encoded = headers
        .iter()
        .map(BatchHeader::encode)
        .collect::<std::result::Result<_, _>>()?;
    save(folder, "header", encoded)?;
    save(folder, "frame", frames(&headers, &batches)?)?;
    save(
        folder,
        "record_batch",
        batches.into_iter().map(|b| b.payload.to_vec()).collect(),
    )?;
    save(folder, "framing", framing())?;
    save(folder, "checkpoint", vec![checkpoint(1)?, checkpoint(2)?])?;
    save(folder, "session", steps(200))?;
    save(folder, "catalogue", steps(40))?;
    save(folder, "dead", steps(10))
}

/// Some sequences of things that happen; the targets give each byte its meaning.
fn steps(bytes: usize) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(1);
    let some = |_no| (0..bytes).map(|_byte| random.u8(..)).collect();
    (0..8).map(some).collect()
}

fn save(folder: &Path, target: &str, inputs: Vec<Vec<u8>>) -> Result<()> {
    let folder = folder.join(target);
    fs::create_dir_all(&folder)?;
    for (index, input) in inputs.into_iter().enumerate() {
        fs::write(folder.join(format!("seed-{index}")), input)?;
    }
    Ok(())
}

fn batch(codec: Codec, records: i64) -> Result<Encoded> {
    let mut encoder = Encoder::new(codec);
    encoder.begin(ID);
    for index in 0..records {
        let line = format!(
            "10.0.0.{} GET /items/{} 200",
            index % 250,
            index * 7919 % 1000
        );
        let key = (index % 3 == 2).then_some(&b"key"[..]);
        encoder.push(1_700_000_000_000 + index * 1500, key, line.as_bytes());
    }
    Ok(encoder.finish()?)
}

fn header(batch: &Encoded) -> Result<BatchHeader> {
    Ok(BatchHeader {
        agent: AgentId::new("agent-1")?,
        stream: ID.stream,
        epoch: ID.epoch,
        seq: ID.seq,
        generation: GenerationId(4),
        span: Span {
            start: 10,
            end: 5000,
        },
        task: TaskId::new("nginx-access")?,
        topic: Topic::new("web.access")?,
        class: Class::P1,
        resends: 1,
        records: batch.records,
        raw_bytes: batch.raw_bytes,
        minutes: batch.minutes.clone(),
        content_sum: batch.content_sum,
        file: "/var/log/nginx/access.log".to_owned(),
        keyed: batch.keyed,
    })
}

/// One input per kind of frame, and one with all of them.
fn frames(headers: &[BatchHeader], batches: &[Encoded]) -> Result<Vec<Vec<u8>>> {
    let place = Place {
        destination: Name::new("main-kafka")?,
        target: "web.access".to_owned(),
        partition: 3,
        first: 100,
        end: 105,
    };
    let frames = [
        Frame::Hello(Hello {
            agent: AgentId::new("agent-1")?,
            host: "host".to_owned(),
            zone: Zone::new("dc1")?,
            epoch: Epoch(2),
            software: "tributary 0".to_owned(),
        }),
        Frame::Welcome(Welcome {
            node: NodeId::new("bus-1")?,
            cluster: Name::new("main")?,
            epoch: Epoch(9),
            window_batches: 64,
            window_bytes: 16 << 20,
        }),
        Frame::Batch(Box::new(headers[1].clone()), batches[1].payload.clone()),
        Frame::Batch(Box::new(headers[0].clone()), Bytes::new()),
        Frame::Receipts(vec![
            Receipt {
                batch: ID,
                outcome: Outcome::Delivered(vec![place]),
            },
            Receipt {
                batch: ID,
                outcome: Outcome::Duplicate,
            },
        ]),
        Frame::Busy(Busy {
            batch: ID,
            retry_after_ms: 500,
            scope: Scope::Topic(Topic::new("web.access")?),
            reason: "full".to_owned(),
        }),
        Frame::Refuse(Refusal {
            batch: ID,
            reason: RefuseReason::NoRoute,
            detail: "no route matches web.access".to_owned(),
        }),
        Frame::GoAway {
            reconnect_within_ms: 5000,
        },
        Frame::Error("hello first".to_owned()),
        Frame::Ping(7),
        Frame::Pong(7),
    ];
    let mut inputs = frames
        .iter()
        .map(wire::encode)
        .collect::<std::result::Result<Vec<_>, _>>()?;
    inputs.push(inputs.concat());
    Ok(inputs)
}

/// Some lines for each framing, behind the bytes that choose it.
fn framing() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 5] = [
        b"2026 one\n\tat a\n\tat b;\n2026 a longer line than the longest record may be\r\nend",
        b"2026-01-02T03:04:05Z stdout P a\n2026-01-02T03:04:05Z stderr F b\n2026-01-02T03:04:05Z stdout F c\n",
        b"2026-01-02T03:04:05Z stdout P a longer text than the longest record, and no end of its line",
        b"{\"log\":\"a\",\"stream\":\"stdout\"}\n{\"log\":\"b\\n\",\"stream\":\"stdout\"}\nx\n",
        b"\xfe\xff\0a\0\n\x4e\x2d\0\n\xd8\x3d\xde\0",
    ];
    let chosen = |kind: u8| {
        let with_room = move |room: u8| {
            let framed = move |text: &&[u8]| [&[kind, 40, room, 128], *text].concat();
            texts.iter().map(framed).collect::<Vec<_>>()
        };
        [9, 1].into_iter().flat_map(with_room)
    };
    (0..8).flat_map(chosen).collect()
}

/// A header and the simplest records: a life, a task, a stream.
fn checkpoint(version: u32) -> Result<Vec<u8>> {
    let mut file = b"TRIBCKPT".to_vec();
    file.extend(version.to_le_bytes());
    file.extend(crc32c::crc32c(&file).to_le_bytes());
    for record in [
        postcard::to_stdvec(&(0_u32, 7_u64))?,
        postcard::to_stdvec(&(1_u32, "nginx-access"))?,
        postcard::to_stdvec(&(
            2_u32,
            1_u64,
            "nginx-access",
            "web.access",
            &b"/var/log/a"[..],
        ))?,
    ] {
        file.extend(u32::try_from(record.len())?.to_le_bytes());
        file.extend(crc32c::crc32c(&record).to_le_bytes());
        file.extend(record);
    }
    Ok(file)
}
