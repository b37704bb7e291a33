//! Any damage between two lives, by seed: what was acknowledged arrives once and in order, or is told as lost by
//! its identity.
//!
//! `TRIBUTARY_SEEDS` says how many, `TRIBUTARY_SEED` chooses one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tributary_common::ids::BatchId;

use super::{MAX, SEGMENT, drained, give, hear, until};
use crate::{
    spill::segment::{SEGMENT as SEGMENT_EXTENSION, number_with},
    testing::{Rig, rig_with_spill},
};

const SEEDS: u64 = 10;
const STREAMS: u64 = 3;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What the first destination has, in the order of its coming.
fn there(rig: &Rig) -> Vec<BatchId> {
    let delivered = rig.sink.delivered().into_iter();
    delivered.map(|(id, ..)| id).collect()
}

/// What a life tells as lost.
fn told(rig: &Rig) -> BTreeSet<BatchId> {
    let losses = rig.node.ledger.take().losses;
    losses.iter().filter_map(|lost| lost.batch).collect()
}

/// A life that spills, drains a part now and then, and ends: what it has acknowledged, what is delivered.
async fn spill(random: &mut fastrand::Rng) -> (TempDir, BTreeSet<BatchId>, Vec<BatchId>) {
    let rig = rig_with_spill(TempDir::new().unwrap(), MAX, SEGMENT);
    rig.sink.set_down(Some("away"));
    let mut acknowledged = BTreeSet::new();
    let mut next: BTreeMap<u64, u64> = BTreeMap::new();
    for _batch in 0..random.u64(10..40) {
        let stream = random.u64(1..=STREAMS);
        let seq = next.entry(stream).or_default();
        *seq += 1;
        let id = crate::testing::batch("web", stream, *seq, &["x"]).0.id();
        if hear(give(&rig, "web", stream, *seq).await).await == "spilled" {
            acknowledged.insert(id);
        } else {
            // It would come again.
            *seq -= 1;
        }
        if random.u8(..) < 12 {
            let before = there(&rig).len();
            rig.sink.set_down(None);
            until("something to be drained", || there(&rig).len() > before).await;
            rig.sink.set_down(Some("away"));
        }
    }
    assert!(!acknowledged.is_empty(), "nothing was spilled");
    let delivered = there(&rig);
    // It may have been a moment before the last ones: what comes after counts as delivered, too.
    let sink = rig.sink.clone();
    let dir = rig.end();
    let delivered = match sink.delivered().len() == delivered.len() {
        true => delivered,
        false => sink.delivered().into_iter().map(|(id, ..)| id).collect(),
    };
    (dir, acknowledged, delivered)
}

/// Spoils a file in one way; says how.
fn spoil(path: &Path, random: &mut fastrand::Rng) -> String {
    let mut bytes = fs::read(path).unwrap();
    let what = match random.u8(0..6) {
        0 => {
            fs::remove_file(path).unwrap();
            return format!("{} is gone", path.display());
        }
        1 => {
            bytes.truncate(random.usize(..=bytes.len()));
            format!("cut off at {}", bytes.len())
        }
        2 => {
            let from = random.usize(..=bytes.len());
            let to = bytes.len().min(from + random.usize(..700));
            bytes[from..to].fill(0);
            format!("zeros from {from} to {to}")
        }
        3 => {
            let at = random.usize(..=bytes.len());
            let some: Vec<u8> = (0..random.usize(1..300))
                .map(|_byte| random.u8(..))
                .collect();
            bytes.splice(at..at, some);
            format!("something between at {at}")
        }
        _flips => {
            let flips = random.usize(1..6).min(bytes.len());
            for _flip in 0..flips {
                let at = random.usize(..bytes.len());
                bytes[at] ^= 1 << random.u8(..8);
            }
            format!("{flips} bits flipped")
        }
    };
    fs::write(path, bytes).unwrap();
    format!("{}: {what}", path.display())
}

async fn one(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (dir, acknowledged, before) = spill(&mut random).await;
    // Either the segments or what lies beside them: a record and its second name are not lost at once.
    let segments = random.u8(..3) > 0;
    let all = tributary_common::disk::list(&dir.path().join("spill/first")).unwrap();
    let files: Vec<PathBuf> = all
        .into_iter()
        .filter(|path| number_with(path, SEGMENT_EXTENSION).is_some() == segments)
        .collect();
    let mut spoiled = Vec::new();
    for _file in 0..random.usize(1..4) {
        if let Some(path) = random
            .choice(&files)
            .filter(|path| path.try_exists().unwrap())
        {
            spoiled.push(spoil(path, &mut random));
        }
    }
    let says = |what: &str| format!("seed {seed}: {what}; {spoiled:?}");

    let rig = rig_with_spill(dir, MAX, SEGMENT);
    drained(&rig).await;
    let (after, lost) = (there(&rig), told(&rig));
    // Nobody has heard of it: the next life tells the same, and delivers nothing more.
    let rig = rig_with_spill(rig.end(), MAX, SEGMENT);
    drained(&rig).await;
    assert_eq!(there(&rig), [], "{}", says("delivered once more"));
    assert_eq!(told(&rig), lost, "{}", says("told otherwise"));

    let arrived: BTreeSet<BatchId> = before.iter().chain(&after).copied().collect();
    assert_eq!(
        arrived.len(),
        before.len() + after.len(),
        "{}",
        says("doubled")
    );
    let unknown: Vec<_> = acknowledged
        .iter()
        .filter(|id| !arrived.contains(id) && !lost.contains(id))
        .collect();
    assert!(
        unknown.is_empty(),
        "{}",
        says(&format!("{unknown:?} are missing"))
    );
    assert!(
        arrived.is_disjoint(&lost),
        "{}",
        says("both there and lost")
    );
    assert!(
        lost.is_subset(&acknowledged),
        "{}",
        says("never taken, and lost")
    );
    assert!(
        segments || lost.is_empty(),
        "{}",
        says("nothing of it was lost")
    );
    for stream in 1..=STREAMS {
        let of_stream = after.iter().filter(|id| id.stream.0 == stream);
        let seqs: Vec<u64> = of_stream.map(|id| id.seq).collect();
        assert!(
            seqs.is_sorted(),
            "{}",
            says(&format!("out of order: {seqs:?}"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_any_damage_what_was_acknowledged_arrives_or_is_told_as_lost() {
    if let Some(seed) = number("TRIBUTARY_SEED") {
        return one(seed).await;
    }
    for seed in 0..number("TRIBUTARY_SEEDS").unwrap_or(SEEDS) {
        one(seed).await;
    }
}
