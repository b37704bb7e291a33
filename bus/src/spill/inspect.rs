//! A spill in words, for `tributary inspect spill`. Reads, never writes; a running node may go on.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use anyhow::Context as _;
use serde::Serialize;
use tributary_common::{disk, ids::Class};

use super::{
    format::Head,
    queue::Place,
    segment::{self, DAMAGED, DROPPED, HEADS, SEGMENT, Scan, number_of, path_of},
    store::numbers,
};

/// A spill.
#[derive(Debug, Serialize)]
pub struct Inspection {
    destinations: Vec<Destination>,
}

impl Inspection {
    /// Whether everything that is to be drained can be read; known only after a verification.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let mut segments = self.destinations.iter().flat_map(|one| &one.segments);
        segments.all(|segment| segment.damaged.is_empty() && segment.unreadable_batches.is_empty())
    }
}

#[derive(Debug, Serialize)]
struct Destination {
    destination: String,
    /// Not drained by the marks beside the segments; the bus's journal may know of some more.
    batches: u64,
    records: u64,
    bytes: u64,
    topics: BTreeMap<String, u64>,
    /// By the physical topic or path that they are for.
    targets: BTreeMap<String, Target>,
    /// What leaves the disk first, once its target takes something.
    next: Option<Next>,
    segments: Vec<Segment>,
    kept_damaged_segments: usize,
}

/// What waits for one physical topic or path.
#[derive(Debug, Default, Serialize)]
struct Target {
    batches: u64,
    records: u64,
    bytes: u64,
}

/// The batch that leaves first: of the most urgent class the one that came first.
#[derive(Debug, Serialize)]
struct Next {
    class: Class,
    /// Its place among all that came.
    order: u64,
    batch: String,
    topic: String,
    target: String,
    segment: String,
    /// Where in the segment it begins, in bytes.
    at: u64,
}

#[derive(Debug, Serialize)]
struct Segment {
    segment: String,
    /// Only what was in it is known.
    missing: bool,
    bytes: u64,
    batches: usize,
    drained_batches: usize,
    /// Given up because the spill was full, and not told to the manager yet.
    dropped_batches: usize,
    torn_bytes: u64,
    damaged: Vec<(u64, u64)>,
    /// Batches that were acknowledged and are not there, and, when verified, those whose payload is
    /// not what was written.
    unreadable_batches: Vec<String>,
}

/// Whether `dir` is a spill folder: it holds folders with segments, or it is one of those.
///
/// # Errors
/// When it cannot be read.
pub fn is_spill(dir: &Path) -> anyhow::Result<bool> {
    if !dir.is_dir() {
        return Ok(false);
    }
    let has_segments = |dir: &Path| -> anyhow::Result<bool> {
        Ok(disk::list(dir)?
            .iter()
            .any(|path| number_of(path).is_some()))
    };
    if has_segments(dir)? {
        return Ok(true);
    }
    for inside in disk::list(dir)?.iter().filter(|path| path.is_dir()) {
        if has_segments(inside)? {
            return Ok(true);
        }
    }
    Ok(dir.file_name().is_some_and(|name| name == "spill"))
}

/// Reads a spill folder, or that of one destination. With `verify` every payload is read as well.
///
/// # Errors
/// When it cannot be read, or a segment is of another version.
pub fn inspect(dir: &Path, verify: bool) -> anyhow::Result<Inspection> {
    let inside: Vec<_> = disk::list(dir)?.into_iter().collect();
    let is_one = inside.iter().any(|path| number_of(path).is_some());
    let folders = match is_one {
        true => vec![dir.to_owned()],
        false => inside.into_iter().filter(|path| path.is_dir()).collect(),
    };
    let destinations = folders.iter().map(|folder| look(folder, verify));
    Ok(Inspection {
        destinations: destinations.collect::<anyhow::Result<_>>()?,
    })
}

fn look(dir: &Path, verify: bool) -> anyhow::Result<Destination> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let mut found = Destination {
        destination: name.into_owned(),
        batches: 0,
        records: 0,
        bytes: 0,
        topics: BTreeMap::new(),
        targets: BTreeMap::new(),
        next: None,
        segments: Vec::new(),
        kept_damaged_segments: 0,
    };
    found.kept_damaged_segments = disk::list(dir)?
        .iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == DAMAGED))
        .count();
    for number in numbers(dir)? {
        let segment = look_at(dir, number, verify, &mut found)?;
        found.segments.push(segment);
    }
    Ok(found)
}

impl Destination {
    /// A batch that is to be drained.
    fn add(&mut self, place: Place, head: &Head) {
        let (records, bytes) = (u64::from(head.header.records), u64::from(place.bytes));
        self.batches += 1;
        self.records += records;
        self.bytes += bytes;
        let topic = head.header.topic.to_string();
        *self.topics.entry(topic.clone()).or_default() += records;
        let target = self.targets.entry(head.target.clone()).or_default();
        target.batches += 1;
        target.records += records;
        target.bytes += bytes;
        let (class, order) = (head.header.class, head.order);
        let first = |next: &Next| (next.class, next.order) <= (class, order);
        if !self.next.as_ref().is_some_and(first) {
            self.next = Some(Next {
                class,
                order,
                batch: head.header.id().to_string(),
                topic,
                target: head.target.clone(),
                segment: format!("{:016x}", place.segment),
                at: place.at,
            });
        }
    }
}

/// Looks at one segment, and adds what it holds to its destination's sums.
fn look_at(
    dir: &Path,
    number: u64,
    verify: bool,
    found: &mut Destination,
) -> anyhow::Result<Segment> {
    let path = path_of(dir, number, SEGMENT);
    let is_there = path.try_exists()?;
    let scan = match is_there {
        true => segment::scan(&path, number).with_context(|| path.display().to_string())?,
        false => Scan::default(),
    };
    let drained: HashSet<u64> = segment::drained(dir, number)?.into_iter().collect();
    let dropped = segment::heads(dir, number, DROPPED, |_at| true)?;
    let mut segment = Segment {
        dropped_batches: dropped.len(),
        segment: format!("{number:016x}"),
        missing: !is_there && dropped.is_empty(),
        bytes: scan.bytes,
        batches: scan.records.len(),
        drained_batches: 0,
        torn_bytes: scan.torn,
        damaged: scan.damage,
        unreadable_batches: Vec::new(),
    };
    let there: HashSet<u64> = scan.records.iter().map(|(place, _head)| place.at).collect();
    let file = is_there.then(|| disk::open_read(&path)).transpose()?;
    for (place, head) in scan.records {
        if drained.contains(&place.at) {
            segment.drained_batches += 1;
            continue;
        }
        found.add(place, &head);
        let sound = match (&file, verify) {
            (Some(file), true) => matches!(segment::read(file, place)?, Some((_, Some(_)))),
            (Some(_) | None, _) => true,
        };
        if !sound {
            segment
                .unreadable_batches
                .push(head.header.id().to_string());
        }
    }
    let gone = |at: u64| !there.contains(&at) && !drained.contains(&at);
    let gone = segment::heads(dir, number, HEADS, gone)?.into_iter();
    let gone = gone.map(|(_place, head)| head.header.id().to_string());
    segment.unreadable_batches.extend(gone);
    Ok(segment)
}
