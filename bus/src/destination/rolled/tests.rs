//! What needs no place to write to: bytes, names, manifests, words. The rest is shown with a real one
//! (`it/hdfs.rs`).

use std::io::Read as _;

use hdfs_native::HdfsError;
use proptest::prelude::*;
use tributary_common::ids::{BatchId, Epoch, Name, NodeId, StreamId};

use super::{
    Compression,
    cluster::sentence,
    encode::Encoder,
    manifest::{Draft, Manifest},
    names::Names,
    settled::Settled,
};
use crate::testing;

fn id(stream: u64, seq: u64) -> BatchId {
    BatchId {
        stream: StreamId(stream),
        epoch: Epoch(1),
        seq,
    }
}

#[test]
fn a_file_unpacks_to_its_lines_and_is_as_its_sum_says() {
    let check = |compression: Compression, unpack: fn(&[u8]) -> Vec<u8>| {
        let lines: Vec<String> = (0..40_000)
            .map(|n| format!("line {n} {}", n * 7919))
            .collect();
        let mut encoder = Encoder::new(compression).unwrap();
        let mut stored = Vec::new();
        for some in lines.chunks(1000) {
            let some = some.join("\n") + "\n";
            stored.extend(encoder.add(some.as_bytes()).unwrap().unwrap_or_default());
            assert_eq!(encoder.stored_bytes(), stored.len() as u64);
        }
        let (last, sum) = encoder.finish().unwrap();
        stored.extend(last);
        let want = lines.join("\n") + "\n";
        assert!(unpack(&stored) == want.as_bytes(), "{compression:?}");
        assert_eq!(sum.raw_bytes, want.len() as u64);
        assert_eq!(sum.stored_bytes, stored.len() as u64);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &stored);
        let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(sum.sha256, hex);
    };
    check(Compression::Zstd, |bytes| zstd::decode_all(bytes).unwrap());
    check(Compression::Gzip, |bytes| {
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(bytes)
            .read_to_end(&mut text)
            .unwrap();
        text
    });
    check(Compression::None, <[u8]>::to_vec);
}

#[test]
fn names_are_never_the_same_and_found_again_by_their_path() {
    let next = || {
        let node = NodeId::new("bus1").unwrap();
        Names::next(
            "/logs/web",
            &node,
            Epoch(1_700_000_000_000),
            Compression::Gzip,
        )
    };
    let (first, second) = (next(), next());
    assert!(first.path() < second.path());
    assert!(
        first.path().starts_with("/logs/web/bus1-1700000000000-"),
        "{first:?}"
    );
    assert_eq!(first.temporary(), format!("/logs/web/.{}.tmp", first.file));
    assert_eq!(first.manifest(), format!("/logs/web/_{}.json", first.file));
    assert!(first.file.ends_with(".log.gz"));
    assert_eq!(Names::of_path(&first.path()), Some(first));
}

#[test]
fn a_manifest_says_what_is_in_its_file() {
    let mut draft = Draft::default();
    for (stream, seq) in [(9, 4), (9, 5), (9, 7), (u64::MAX, 1)] {
        draft.add(&testing::batch("web", stream, seq, &["a", "bc"]).0);
    }
    let mut encoder = Encoder::new(Compression::None).unwrap();
    encoder.add(b"x\n").unwrap();
    let sum = encoder.finish().unwrap().1;
    let (node, name) = (NodeId::new("bus1").unwrap(), Name::new("lake").unwrap());
    let bytes = draft.finish("f.log", sum, (&node, &name)).to_bytes();
    let manifest = Manifest::parse(&bytes).unwrap();
    let (few, many) = ((StreamId(9), Epoch(1)), (StreamId(u64::MAX), Epoch(1)));
    let want = vec![(few, (4, 6)), (few, (7, 8)), (many, (1, 2))];
    assert_eq!(manifest.batches().unwrap(), want);
    let page: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let check = |key: &str, want: serde_json::Value| assert_eq!(page[key], want, "{key}");
    check("version", 1.into());
    check("file", "f.log".into());
    check("topics", vec!["web"].into());
    check("batches", 4.into());
    check("records", 8.into());
    check("raw_bytes", 2.into());
    check("first_event", "1970-01-01T00:01:00Z".into());
    check("parts", serde_json::Value::Null);
    let other = String::from_utf8(bytes)
        .unwrap()
        .replace("\"version\": 1", "\"version\": 2");
    let refused = Manifest::parse(other.as_bytes()).unwrap_err();
    assert_eq!(refused, "has version 2; this build reads 1");
}

#[test]
fn a_manifest_of_several_topics_says_whose_the_records_are() {
    let mut draft = Draft::default();
    for (topic, seq) in [("web", 1), ("web", 2), ("app", 3), ("web", 4)] {
        draft.add(&testing::batch(topic, 1, seq, &["a", "bc"]).0);
    }
    let sum = Encoder::new(Compression::None).unwrap().finish().unwrap().1;
    let (node, name) = (NodeId::new("bus1").unwrap(), Name::new("lake").unwrap());
    let bytes = draft.finish("f.log", sum, (&node, &name)).to_bytes();
    Manifest::parse(&bytes).unwrap();
    let page: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let part = |topic: &str, records: u64, from: u64, to: u64| serde_json::json!({ "topic": topic, "records": records, "bytes": [from, to] });
    let parts = vec![
        part("web", 4, 0, 10),
        part("app", 2, 10, 15),
        part("web", 2, 15, 20),
    ];
    assert_eq!(page["parts"], serde_json::Value::from(parts));
    assert_eq!(page["topics"], serde_json::json!(["app", "web"]));
}

#[test]
fn failures_say_what_they_mean_in_one_line() {
    let check = |error: HdfsError, want: &str| {
        let said = sentence("create a file", &error);
        assert!(
            said.starts_with(&format!("failed to create a file: {want}")),
            "{said}"
        );
        assert!(!said.contains('\n'), "{said}");
    };
    let remote = |class: &str, said: &str| HdfsError::RPCError(class.to_owned(), said.to_owned());
    check(
        remote(
            "org.apache.hadoop.hdfs.server.namenode.SafeModeException",
            "Cannot create /x. Name node is in safe mode.\n\tat Java",
        ),
        "the NameNode is in safe mode and takes no changes",
    );
    check(
        remote(
            "org.apache.hadoop.hdfs.protocol.DSQuotaExceededException",
            "full",
        ),
        "the quota of the folder is full: ",
    );
    check(
        remote(
            "org.apache.hadoop.security.AccessControlException",
            "denied",
        ),
        "the user may not write there: ",
    );
    check(
        remote(
            "java.io.IOException",
            "File /x could only be written to 0 of the 1 minReplication nodes",
        ),
        "no DataNode has room for it: ",
    );
    check(
        remote(
            "java.io.IOException",
            "Unexpected BlockUCState: blk_1_2 is COMPLETE but not UNDER_CONSTRUCTION",
        ),
        "another writer holds the file's lease: ",
    );
    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    check(
        HdfsError::DataTransferError("odd".to_owned()),
        "data transfer error: odd",
    );
    check(HdfsError::IOError(refused), "IO error");
}

proptest! {
    /// Whatever is added and in whichever order it comes: each batch is found once, in its file, and the
    /// last of a file is said to be the last.
    #[test]
    fn a_settled_batch_is_found_once(
        added in prop::collection::btree_map((0u64..3, 0u64..30), 0u32..3, 1..60),
        seed in any::<u64>(),
    ) {
        let mut settled = Settled::default();
        let mut left = [0u64; 3];
        for (&(stream, seq), &file) in &added {
            settled.add(id(stream, seq), file);
            left[file as usize] += 1;
        }
        let mut order: Vec<(u64, u64)> = (0..3).flat_map(|a| (0..31).map(move |b| (a, b))).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut order);
        for (stream, seq) in order {
            let found = settled.take(id(stream, seq));
            let Some(&file) = added.get(&(stream, seq)) else {
                prop_assert_eq!(found, None);
                continue;
            };
            left[file as usize] -= 1;
            let found = found.expect("it was added");
            prop_assert_eq!((found.file, found.last), (file, left[file as usize] == 0));
            prop_assert_eq!(settled.take(id(stream, seq)), None);
        }
    }
}
