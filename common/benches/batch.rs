//! What a batch costs beside and with its compression: `cargo bench -p tributary-common`.
//!
//! One batch is 256 KiB of access-log lines of about 360 bytes. `bare zstd` is the same bytes
//! through zstd alone, the measure that the agent's costs are held against.

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput};
use tributary_common::{
    batch::{Codec, Decoder, Encoded, Encoder, MAX_DECODED_BYTES},
    ids::{BatchId, Epoch, StreamId},
};

const BATCH_BYTES: usize = 256 << 10;
const ID: BatchId = BatchId {
    stream: StreamId(1),
    epoch: Epoch(2),
    seq: 3,
};

fn lines() -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut bytes = 0;
    let mut lines = Vec::new();
    while bytes < BATCH_BYTES {
        let line = format!(
            "10.{}.{}.{} - user{} [14/Nov/2023:22:13:{:02} +0000] \"GET /api/v2/items/{}?session=\
             {:016x}&page={} HTTP/1.1\" {} {} \"https://shop.example.com/catalogue/{}\" \
             \"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
             Chrome/119.0.0.0 Safari/537.36\" rt=0.{:03} uct=0.{:03} upstream=10.1.{}.{}:8080 \
             request_id={:032x}",
            random.u8(..),
            random.u8(..),
            random.u8(..),
            random.u16(..5000),
            random.u8(..60),
            random.u32(..100_000),
            random.u64(..),
            random.u8(..50),
            [200, 200, 200, 304, 404, 500][random.usize(..6)],
            random.u32(..200_000),
            random.u16(..900),
            random.u16(..1000),
            random.u16(..1000),
            random.u8(..),
            random.u8(..),
            random.u128(..),
        );
        bytes += line.len();
        lines.push(line);
    }
    lines
}

fn encode(encoder: &mut Encoder, lines: &[String]) -> Encoded {
    encoder.begin(ID);
    for line in lines {
        encoder.push(1_700_000_000_000, None, line.as_bytes());
    }
    encoder.finish().expect("the batch is within its bounds")
}

fn main() {
    let mut criterion = Criterion::default()
        .configure_from_args()
        .sample_size(20)
        .measurement_time(Duration::from_secs(2));
    let lines = lines();
    let joined = lines.join("\n");

    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(lines.len() as u64));
    group.bench_function("bare zstd", |bencher| {
        let mut zstd = zstd::bulk::Compressor::new(1).expect("level 1 exists");
        let mut out = vec![0; zstd::zstd_safe::compress_bound(joined.len())];
        bencher.iter(|| zstd.compress_to_buffer(black_box(joined.as_bytes()), &mut out[..]));
    });
    for codec in Codec::ALL {
        let mut encoder = Encoder::new(codec);
        group.bench_function(BenchmarkId::from_parameter(codec), |bencher| {
            bencher.iter(|| encode(&mut encoder, black_box(&lines)));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(lines.len() as u64));
    for codec in Codec::ALL {
        let payload = encode(&mut Encoder::new(codec), &lines).payload;
        let mut decoder = Decoder::new();
        group.bench_function(BenchmarkId::from_parameter(codec), |bencher| {
            bencher.iter(|| {
                let decoded = decoder
                    .decode(black_box(&payload), MAX_DECODED_BYTES)
                    .expect("the encoder's batches decode");
                let bytes: usize = decoded.records().map(|record| record.value.len()).sum();
                decoder.recycle(decoded);
                bytes
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
