//! A node with a spill: outages, hung destinations, kills, full and broken disks, damage.

mod damage;

use std::{collections::BTreeSet, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::{sync::oneshot, time::timeout};
use tributary_common::{
    disk::faults::{Fault, Faults},
    ids::BatchId,
    report::Hop,
    wire::Outcome,
};

use super::{queue::Mode, segment::number_of};
use crate::{
    budget,
    config::WhenFull,
    dedupe::{Answer, Waiter},
    destination::{Accepted, memory::Script},
    testing::{Rig, batch, rig_that_drops, rig_with_spill, until},
};

const MAX: u64 = 64 << 20;
/// Small segments: a few batches each.
const SEGMENT: u64 = 2 << 10;
const EIO: i32 = 5;
const EROFS: i32 = 30;

fn rig() -> Rig {
    rig_with_spill(TempDir::new().unwrap(), MAX, SEGMENT)
}

fn again(rig: Rig) -> Rig {
    rig_with_spill(rig.end(), MAX, SEGMENT)
}

/// Sends a batch and does not wait.
async fn give(rig: &Rig, topic: &str, stream: u64, seq: u64) -> oneshot::Receiver<Answer> {
    let line = format!("{stream}/{seq}");
    let (header, payload) = batch(topic, stream, seq, &[&line]);
    let permit = rig
        .node
        .budget
        .take(budget::cost(&header, payload.len()))
        .await;
    let (told, answer) = oneshot::channel();
    let accepted = Accepted::new(header, payload, permit);
    rig.node.take(accepted, Waiter::Lines(told));
    answer
}

async fn hear(answer: oneshot::Receiver<Answer>) -> String {
    let answer = timeout(Duration::from_secs(30), answer).await.unwrap();
    match answer.unwrap() {
        Answer::Receipt(receipt) => match receipt.outcome {
            Outcome::Delivered(_) => "delivered".to_owned(),
            Outcome::Duplicate => "duplicate".to_owned(),
            Outcome::Spilled => "spilled".to_owned(),
        },
        Answer::Busy(busy) => format!("busy: {}", busy.reason),
        Answer::Refuse(refusal) => format!("refused: {}", refusal.detail),
    }
}

async fn send(rig: &Rig, topic: &str, stream: u64, seq: u64) -> String {
    hear(give(rig, topic, stream, seq).await).await
}

async fn drained(rig: &Rig) {
    until("an empty spill", || {
        rig.spills()
            .iter()
            .all(|spill| spill.backlog().batches == 0 && spill.mode() == Mode::Direct)
    })
    .await;
}

/// The sequence numbers of a stream as the first destination has them.
fn arrived(rig: &Rig, stream: u64) -> Vec<u64> {
    let all = rig.sink.delivered().into_iter().map(|(id, ..)| id);
    all.filter(|id| id.stream.0 == stream)
        .map(|id| id.seq)
        .collect()
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let folder = dir.join("spill/first");
    let paths = tributary_common::disk::list(&folder).unwrap();
    paths
        .into_iter()
        .filter(|path| number_of(path).is_some())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_destination_is_down_batches_are_acknowledged_from_the_disk() {
    let rig = rig();
    assert_eq!(send(&rig, "web", 1, 1).await, "delivered");
    rig.sink.set_down(Some("away"));
    for seq in 2..=20 {
        assert_eq!(send(&rig, "web", 1, seq).await, "spilled");
        assert_eq!(send(&rig, "web", 2, seq - 1).await, "spilled");
    }
    assert_eq!(rig.spill().mode(), Mode::Spilling);
    assert_eq!(rig.node.counts()[&"web".parse().unwrap()].spilled, 38);
    assert_eq!(send(&rig, "web", 1, 5).await, "spilled", "a repeat");
    rig.sink.set_down(None);
    drained(&rig).await;
    assert_eq!(arrived(&rig, 1), (1..=20).collect::<Vec<_>>());
    assert_eq!(arrived(&rig, 2), (1..=19).collect::<Vec<_>>());
    assert_eq!(send(&rig, "web", 1, 21).await, "delivered");
    assert_eq!(send(&rig, "web", 1, 5).await, "duplicate");
    assert_eq!(rig.node.counts()[&"web".parse().unwrap()].delivered, 40);
    until("an empty disk", || segments(rig.dir.path()).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_life_drains_what_the_last_one_spilled() {
    let rig = rig();
    rig.sink.set_down(Some("away"));
    for seq in 1..=10 {
        assert_eq!(send(&rig, "web", 1, seq).await, "spilled");
    }
    let rig = again(rig);
    drained(&rig).await;
    assert_eq!(arrived(&rig, 1), (1..=10).collect::<Vec<_>>());
    assert_eq!(send(&rig, "web", 1, 3).await, "duplicate");
    let rig = again(rig);
    assert_eq!(rig.spill().backlog().batches, 0);
    assert!(arrived(&rig, 1).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_to_a_hung_destination_is_acknowledged_from_the_disk() {
    let rig = rig();
    rig.sink.script(vec![Script::Hold; 3]);
    let mut waiting = Vec::new();
    for seq in 1..=3 {
        waiting.push(give(&rig, "web", 1, seq).await);
    }
    until("held batches", || rig.sink.held() == 3).await;
    rig.sink.set_down(Some("hangs"));
    for answer in waiting {
        assert_eq!(hear(answer).await, "spilled");
    }
    assert_eq!(send(&rig, "web", 1, 4).await, "spilled");
    // It answers after all: nothing is delivered twice.
    rig.sink.set_down(None);
    rig.sink.release();
    drained(&rig).await;
    assert_eq!(arrived(&rig, 1), [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_delivered_when_the_last_destination_has_it() {
    let rig = rig();
    rig.second.set_down(Some("away"));
    assert_eq!(send(&rig, "both", 1, 1).await, "spilled");
    let counts = || rig.node.counts()[&"both".parse().unwrap()];
    assert_eq!((counts().spilled, counts().delivered), (1, 0));
    rig.second.set_down(None);
    drained(&rig).await;
    assert_eq!(rig.second.delivered().len(), 1);
    assert_eq!(rig.sink.delivered().len(), 1);
    assert_eq!(counts().delivered, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spill_says_busy_and_takes_again_once_it_is_drained() {
    let rig = rig_with_spill(TempDir::new().unwrap(), 8 << 10, SEGMENT);
    rig.sink.set_down(Some("away"));
    let mut taken = 0;
    let why = loop {
        let answer = send(&rig, "web", 1, taken + 1).await;
        if answer != "spilled" {
            break answer;
        }
        taken += 1;
        assert!(taken < 100, "8 KiB never end");
    };
    assert!(taken > 5, "{taken}");
    assert!(why.starts_with("busy: the spill is full"), "{why}");
    rig.sink.set_down(None);
    drained(&rig).await;
    assert_eq!(arrived(&rig, 1), (1..=taken).collect::<Vec<_>>());
    assert_eq!(send(&rig, "web", 1, taken + 1).await, "delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spill_that_may_drop_gives_up_its_oldest_batches_and_tells_which() {
    let full = (8 << 10, WhenFull::DropOldest);
    let rig = rig_that_drops(TempDir::new().unwrap(), full, SEGMENT);
    rig.sink.set_down(Some("away"));
    for seq in 1..=60 {
        assert_eq!(send(&rig, "web", 1, seq).await, "spilled");
    }
    let told = |rig: &Rig| -> Vec<u64> {
        let told = rig.node.ledger.take();
        let reasons = told.losses.iter().map(|lost| lost.loss.reason.as_str());
        assert!(reasons.into_iter().all(|reason| reason == "spill-full"));
        let batches = told.losses.iter().filter_map(|lost| lost.batch);
        batches.map(|batch| batch.seq).collect()
    };
    let lost = told(&rig);
    assert!(!lost.is_empty() && lost.is_sorted(), "{lost:?}");
    // Nobody heard of it: the next life tells it again, and delivers the rest.
    let rig = rig_that_drops(rig.end(), full, SEGMENT);
    drained(&rig).await;
    let mut again = told(&rig);
    again.sort_unstable();
    assert_eq!(again, lost);
    let rest: Vec<u64> = (1..=60).filter(|seq| !lost.contains(seq)).collect();
    assert_eq!(arrived(&rig, 1), rest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_costs_one_batch_which_is_told_and_nothing_else() {
    for at_part in [0, 4, 9] {
        let rig = rig();
        rig.sink.set_down(Some("away"));
        for seq in 1..=6 {
            assert_eq!(send(&rig, "web", seq, 1).await, "spilled");
        }
        let dir = rig.end();
        let path = segments(dir.path()).remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        let scan = super::segment::scan(&path, 1).unwrap();
        // The last record of a file may be a torn tail, which nobody could tell from damage.
        let (first, head) = &scan.records[0];
        assert!(scan.records.len() > 1);
        let payload = first.at + u64::from(head.payload_at);
        let length = u64::from(head.payload_bytes());
        let at = usize::try_from(payload + at_part * (length - 1) / 9).unwrap();
        bytes[at] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();

        let rig = rig_with_spill(dir, MAX, SEGMENT);
        drained(&rig).await;
        let lost = head.header.id();
        let there: BTreeSet<BatchId> = rig
            .sink
            .delivered()
            .into_iter()
            .map(|(id, ..)| id)
            .collect();
        assert!(!there.contains(&lost));
        assert_eq!(there.len(), 5);
        let told = rig.node.ledger.take();
        let of_lost = told.facts.iter().filter(|fact| fact.hop == Hop::Lost);
        assert_eq!(
            of_lost.map(|fact| fact.run.stream).collect::<Vec<_>>(),
            [lost.stream]
        );
        assert_eq!(told.losses.len(), 1);
        assert_eq!(told.losses[0].loss.reason, "spill-damaged");
        assert_eq!(told.losses[0].batch, Some(lost));
        assert!(
            path.try_exists().unwrap(),
            "it is kept until the manager knows"
        );
        rig.node.loss_told(told.losses[0].batch);
        let kept = path.with_extension("damaged");
        until("the damaged segment to be set aside", || {
            kept.try_exists().unwrap()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_heads_hide_no_record_behind_them() {
    let rig = rig();
    rig.sink.set_down(Some("away"));
    for seq in 1..=6 {
        assert_eq!(send(&rig, "web", seq, 1).await, "spilled");
    }
    let dir = rig.end();
    let path = segments(dir.path()).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[super::format::FILE_HEADER_BYTES + 12] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let rig = rig_with_spill(dir, MAX, SEGMENT);
    drained(&rig).await;
    assert_eq!(rig.sink.delivered().len(), 5);
}

/// Six streams' first batches are on the disk; somebody spoils the first segment; the next life delivers
/// what is there and tells the rest as lost, by its identity.
async fn every_batch_arrives_or_is_told(what: &str, spoil: impl Fn(&Path)) {
    let rig = rig();
    rig.sink.set_down(Some("away"));
    for seq in 1..=6 {
        assert_eq!(send(&rig, "web", seq, 1).await, "spilled");
    }
    let dir = rig.end();
    spoil(&segments(dir.path()).remove(0));
    // A life that cannot tell the manager, and one that can.
    let mut told = BTreeSet::new();
    let mut there = BTreeSet::new();
    let mut dir = Some(dir);
    for life in 0..2 {
        let rig = rig_with_spill(dir.take().unwrap(), MAX, SEGMENT);
        drained(&rig).await;
        let delivered = rig.sink.delivered().into_iter();
        there.extend(delivered.map(|(id, ..)| id.stream.0));
        let losses = rig.node.ledger.take().losses;
        told = losses.iter().filter_map(|lost| lost.batch).collect();
        if life == 1 {
            for batch in &told {
                rig.node.loss_told(Some(*batch));
            }
            let folder = rig.dir.path().join("spill/first");
            let gone = || super::store::numbers(&folder).unwrap().is_empty();
            until("the segments to be set aside", gone).await;
        }
        dir = Some(rig.end());
    }
    let lost: BTreeSet<u64> = told.iter().map(|batch| batch.stream.0).collect();
    assert!(!lost.is_empty(), "{what}");
    assert!(lost.is_disjoint(&there), "{what}: {lost:?} and {there:?}");
    let all: BTreeSet<u64> = lost.union(&there).copied().collect();
    assert_eq!(all, (1..=6).collect(), "{what}");
    let rig = rig_with_spill(dir.take().unwrap(), MAX, SEGMENT);
    assert_eq!(rig.node.ledger.take().losses.len(), 0, "{what}: told twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_segment_every_batch_arrives_or_is_told_as_lost() {
    let with = |change: fn(&mut Vec<u8>)| {
        move |path: &Path| {
            let mut bytes = std::fs::read(path).unwrap();
            change(&mut bytes);
            std::fs::write(path, bytes).unwrap();
        }
    };
    every_batch_arrives_or_is_told("gone", |path| std::fs::remove_file(path).unwrap()).await;
    every_batch_arrives_or_is_told("emptied", with(Vec::clear)).await;
    every_batch_arrives_or_is_told("cut off", with(|bytes| bytes.truncate(bytes.len() / 2))).await;
    every_batch_arrives_or_is_told("zeros", with(|bytes| bytes.fill(0))).await;
    let last = with(|bytes| *bytes.last_mut().unwrap() ^= 1);
    every_batch_arrives_or_is_told("a flip in the last payload", last).await;
    let head = with(|bytes| bytes[super::format::FILE_HEADER_BYTES + 6] ^= 1);
    every_batch_arrives_or_is_told("a flip in the first head", head).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_files_beside_the_segments_everything_arrives() {
    let rig = rig();
    rig.sink.set_down(Some("away"));
    for seq in 1..=6 {
        assert_eq!(send(&rig, "web", seq, 1).await, "spilled");
    }
    let dir = rig.end();
    for path in tributary_common::disk::list(&dir.path().join("spill/first")).unwrap() {
        if number_of(&path).is_none() {
            std::fs::remove_file(path).unwrap();
        }
    }
    let rig = rig_with_spill(dir, MAX, SEGMENT);
    drained(&rig).await;
    assert_eq!(rig.sink.delivered().len(), 6);
    assert_eq!(rig.node.ledger.take().losses.len(), 0);
}

#[test]
fn a_segment_of_a_newer_version_stops_the_start_and_stays() {
    let rig = TempDir::new().unwrap();
    let folder = rig.path().join("spill/first");
    std::fs::create_dir_all(&folder).unwrap();
    let path = super::segment::path_of(&folder, 1, super::segment::SEGMENT);
    let mut newer = *b"TRBS\0\x09\0\0\0\0\0\0";
    let sum = crc32c::crc32c(&newer[..8]);
    newer[8..].copy_from_slice(&sum.to_be_bytes());
    std::fs::write(&path, newer).unwrap();
    let usage = std::sync::Arc::new(super::Usage::small(
        rig.path(),
        (MAX, WhenFull::Busy),
        SEGMENT,
    ));
    let opened = super::store::Store::open(&folder, &usage, |_place, _head| true);
    let error = format!("{:#}", opened.unwrap_err());
    assert!(error.contains("has spill segment version 9"), "{error}");
    assert!(path.try_exists().unwrap());
}

/// One life on a disk that fails at its `n`-th call: what is acknowledged; whether the fault came.
async fn life(
    dir: TempDir,
    n: u64,
    fault: Fault,
    cut: Option<u64>,
) -> (TempDir, BTreeSet<u64>, bool) {
    // The journal is elsewhere: its own tests are about it.
    let rig = rig_with_spill(dir, MAX, 600);
    let faults = Faults::on(&rig.dir.path().join("spill"));
    faults.at(n, fault);
    rig.sink.set_down(Some("away"));
    let mut acknowledged = BTreeSet::new();
    // Groups of several, and of one.
    for group in [1..=3, 4..=4, 5..=8] {
        let mut waiting = Vec::new();
        for seq in group {
            waiting.push((seq, give(&rig, "web", 1, seq).await));
        }
        for (seq, answer) in waiting {
            if hear(answer).await == "spilled" {
                acknowledged.insert(seq);
            }
        }
    }
    let hit = faults.hit().is_some();
    let dir = rig.end();
    match cut {
        Some(seed) => faults.cut_power(seed).unwrap(),
        None => drop(faults),
    }
    (dir, acknowledged, hit)
}

/// At every call of the disk: what is acknowledged is there afterwards, once and in order.
async fn survives(fault: Fault, cut: bool) {
    for n in 0.. {
        let cut = cut.then_some(n);
        let dir = TempDir::new().unwrap();
        let (dir, acknowledged, hit) = life(dir, n, fault, cut).await;
        let rig = rig_with_spill(dir, MAX, 600);
        drained(&rig).await;
        let there = arrived(&rig, 1);
        assert!(there.is_sorted_by(|a, b| a < b), "{fault:?} {n}: {there:?}");
        let there: BTreeSet<u64> = there.into_iter().collect();
        let missing: Vec<_> = acknowledged.difference(&there).collect();
        assert!(
            missing.is_empty(),
            "{fault:?} at call {n}: {missing:?} are missing"
        );
        drop(rig.end());
        if !hit {
            assert!(n > 10, "the disk was hardly called");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_call_of_the_disk_loses_nothing_acknowledged() {
    survives(Fault::Kill, false).await;
    survives(Fault::KillAfter, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_call_of_the_disk_loses_nothing_acknowledged() {
    survives(Fault::Kill, true).await;
    survives(Fault::KillAfter, true).await;
    survives(Fault::SyncLoses, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_now_and_then_loses_nothing_acknowledged() {
    survives(Fault::Short, false).await;
    survives(Fault::Error(EIO), true).await;
    survives(Fault::Errors(EROFS, 1_000), false).await;
}
