//! The segments of one destination: which there are, how much of each is not drained, how much disk
//! all of them take.
//!
//! # Operation
//! A folder for each destination, segments numbered upwards, the newest being written. Beside a
//! segment lie a list of what is drained of it and, written behind the acknowledgements, one of what
//! was acknowledged: that one is never needed, but names what damage took. A segment without anything
//! to drain is removed some seconds later, when the journal's word on its batches is synced; one with
//! damage is kept under another name for people to look at, and counts no more.
//!
//! Not for: writing records (see [`super::writer`]), what they mean (see [`super::queue`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::time::Instant;
use tributary_common::{
    disk::{self, AppendFile, DiskError},
    header::BatchHeader,
    ids::{BatchId, Class, Name},
};

use super::{
    format::{Head, encode_head, heads_header},
    queue::Place,
    segment::{self, DAMAGED, DRAINED, DROPPED, HEADS, SEGMENT, Scan, number_with, path_of},
    usage::Usage,
};
#[derive(Debug, Default)]
struct Segment {
    bytes: u64,
    /// Records that are not drained.
    live: u64,
    sealed: bool,
    damaged: bool,
    /// Lost batches that the manager does not know of: until then the segment says so to a next life.
    untold: HashSet<BatchId>,
    idle_since: Option<Instant>,
    reader: Option<Arc<File>>,
    /// Offsets that are drained and not noted beside the segment.
    unnoted: Vec<u64>,
}

/// What opening found, for the log.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Batches that are to be drained.
    pub(crate) batches: u64,
    /// Bytes behind the last record of segments: what was being written when a life ended.
    pub(crate) torn_bytes: u64,
    /// Bytes that are no records, with records behind them.
    pub(crate) damaged_bytes: u64,
    /// Batches that were acknowledged and are not there, with the number of their segment.
    pub(super) lost: Vec<Lost>,
}

/// A batch that was acknowledged and will not be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    /// The number of its segment.
    pub(super) segment: u64,
    pub(super) header: BatchHeader,
    pub(super) why: Why,
}

/// A record that is not drained, as far as it is to be known until its turn comes.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) batch: BatchId,
    pub(super) target: Arc<str>,
    pub(super) class: Class,
    pub(super) order: u64,
}

impl Waiting {
    /// Of a head; targets are few, and shared.
    fn of(head: &Head, targets: &mut HashSet<Arc<str>>) -> Self {
        let target = match targets.get(head.target.as_str()) {
            Some(target) => Arc::clone(target),
            None => {
                let target: Arc<str> = head.target.as_str().into();
                targets.insert(Arc::clone(&target));
                target
            }
        };
        Self {
            batch: head.header.id(),
            target,
            class: head.header.class,
            order: head.order,
        }
    }
}

/// Why a batch is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The disk does not have it as it was written.
    Damaged,
    /// It was among the oldest of a full spill.
    Dropped,
}

impl Why {
    /// The word for people and metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Damaged => "spill-damaged",
            Self::Dropped => "spill-full",
        }
    }
}

impl Opened {
    /// Says what was found.
    pub(crate) fn tell(&self, name: &Name) {
        if self.batches > 0 {
            tracing::info!(destination = %name, batches = self.batches, "the spill of an earlier life is to be drained");
        }
        if self.torn_bytes > 0 {
            tracing::warn!(destination = %name, torn_bytes = self.torn_bytes, "a spill segment had a torn tail, which nobody was acknowledged; it is passed over");
        }
        if self.damaged_bytes > 0 {
            tracing::error!(destination = %name, damaged_bytes = self.damaged_bytes, "a spill segment is damaged; all that can be read is delivered, the segment is kept");
            metrics::counter!("tributary_bus_spill_damaged_bytes_total", "destination" => name.to_string())
                .increment(self.damaged_bytes);
        }
    }
}

/// The segments of one destination.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    usage: Arc<Usage>,
    segments: Mutex<BTreeMap<u64, Segment>>,
    /// The highest number of those that are kept for people.
    kept_damaged: AtomicU64,
}

impl Store {
    /// Opens the folder, making it when there is none. `found` is told of every record that is not
    /// drained and says whether it is to be.
    ///
    /// # Errors
    /// A disk that does not answer, a segment of another version: do not start.
    pub(super) fn open(
        dir: &Path,
        usage: &Arc<Usage>,
        mut found: impl FnMut(Place, Waiting) -> bool,
    ) -> anyhow::Result<(Self, Opened)> {
        disk::create_dir_all(dir)?;
        let store = Self {
            dir: dir.to_owned(),
            usage: Arc::clone(usage),
            segments: Mutex::default(),
            kept_damaged: AtomicU64::new(0),
        };
        let mut opened = Opened::default();
        let numbers = numbers(dir)?;
        for path in disk::list(dir)? {
            let other = [DRAINED, DAMAGED]
                .into_iter()
                .find_map(|kind| Some((kind, number_with(&path, kind)?)));
            match other {
                // Of a segment that is gone; it must not speak for another one.
                Some((DRAINED, number)) if !numbers.contains(&number) => {
                    disk::remove(&path)?;
                }
                Some((DAMAGED, number)) => {
                    store.kept_damaged.fetch_max(number, Ordering::Relaxed);
                }
                Some(_) | None => {}
            }
        }
        for number in numbers {
            let segment = store.open_segment(number, &mut opened, &mut found)?;
            store.lock().insert(number, segment);
        }
        Ok((store, opened))
    }

    fn open_segment(
        &self,
        number: u64,
        opened: &mut Opened,
        found: &mut impl FnMut(Place, Waiting) -> bool,
    ) -> anyhow::Result<Segment> {
        let path = path_of(&self.dir, number, SEGMENT);
        let dropped = segment::heads(&self.dir, number, DROPPED, |_at| true)?;
        let is_dropped = !dropped.is_empty();
        if is_dropped {
            disk::remove(&path)?;
        }
        let mut targets = HashSet::new();
        let scan = match path.try_exists()? {
            true => segment::scan_for(&path, number, |head| Waiting::of(&head, &mut targets))
                .with_context(|| format!("failed to read {}", path.display()))?,
            // Only what was in it is known.
            false => Scan::default(),
        };
        let drained: HashSet<u64> = segment::drained(&self.dir, number)?.into_iter().collect();
        let there: HashSet<u64> = scan.records.iter().map(|(place, _head)| place.at).collect();
        let is_gone = |at: u64| !there.contains(&at) && !drained.contains(&at);
        let (gone, why) = match is_dropped {
            true => (dropped, Why::Dropped),
            false => {
                let heads = segment::heads(&self.dir, number, HEADS, is_gone)?;
                (heads, Why::Damaged)
            }
        };
        let gone = gone
            .into_iter()
            .filter(|((at, _bytes), _head)| is_gone(*at));
        let gone: Vec<_> = gone
            .map(|(_place, Head { header, .. })| Lost {
                segment: number,
                header,
                why,
            })
            .collect();
        let mut live = 0;
        for (place, head) in scan.records {
            if !drained.contains(&place.at) && found(place, head) {
                live += 1;
            }
        }
        opened.batches += live;
        self.usage.more_batches(live);
        opened.torn_bytes += scan.torn;
        opened.damaged_bytes += scan.damage.iter().map(|(from, to)| to - from).sum::<u64>();
        self.usage.add(scan.bytes);
        let damaged = !scan.damage.is_empty() || !gone.is_empty();
        opened.lost.extend(gone);
        Ok(Segment {
            bytes: scan.bytes,
            live,
            sealed: true,
            damaged,
            idle_since: (live == 0).then(Instant::now),
            ..Segment::default()
        })
    }

    /// A batch that the segment does not have any more is told to the manager before the segment goes.
    pub(super) fn until_told(&self, number: u64, batch: BatchId) {
        if let Some(segment) = self.lock().get_mut(&number) {
            segment.untold.insert(batch);
        }
    }

    /// Where it is said what was acknowledged of a segment.
    pub(super) fn heads_path(&self, number: u64) -> PathBuf {
        path_of(&self.dir, number, HEADS)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Segment>> {
        // Every change below is whole before the lock is given back, also in a panic.
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The whole node's share of the disk.
    pub(super) fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// What lies here does not count any more: somebody else opens it. After the end.
    pub(super) fn leave(&self) {
        for (_number, segment) in std::mem::take(&mut *self.lock()) {
            self.usage.sub(segment.bytes);
            self.usage.fewer_batches(segment.live);
        }
    }

    /// A new segment's number and path. It is made by the writer.
    pub(super) fn begin(&self) -> (u64, PathBuf) {
        let mut segments = self.lock();
        let last = segments.keys().next_back().copied().unwrap_or_default();
        let number = last.max(self.kept_damaged.load(Ordering::Relaxed)) + 1;
        segments.insert(number, Segment::default());
        (number, path_of(&self.dir, number, SEGMENT))
    }

    /// Bytes were written to a segment.
    pub(super) fn grown(&self, number: u64, bytes: u64) {
        if let Some(segment) = self.lock().get_mut(&number) {
            segment.bytes += bytes;
            self.usage.add(bytes);
        }
    }

    /// A record of a segment is acknowledged: it is to be drained.
    pub(super) fn kept(&self, number: u64) {
        if let Some(segment) = self.lock().get_mut(&number) {
            segment.live += 1;
            segment.idle_since = None;
            self.usage.more_batches(1);
        }
    }

    /// Nothing more is written to a segment.
    pub(super) fn seal(&self, number: u64) {
        if let Some(segment) = self.lock().get_mut(&number) {
            segment.sealed = true;
            if segment.live == 0 {
                segment.idle_since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Whether a segment that is being written holds nothing to drain.
    pub(super) fn is_idle(&self, number: u64) -> bool {
        let segments = self.lock();
        segments
            .get(&number)
            .is_some_and(|segment| segment.live == 0)
    }

    fn one_less(&self, segment: &mut Segment) {
        if segment.live > 0 {
            segment.live -= 1;
            self.usage.fewer_batches(1);
        }
        if segment.live == 0 {
            segment.idle_since = Some(Instant::now());
        }
    }

    /// A record is delivered.
    pub(super) fn drained(&self, place: Place) {
        if let Some(segment) = self.lock().get_mut(&place.segment) {
            self.one_less(segment);
            segment.unnoted.push(place.at);
        }
    }

    /// A record cannot be read: its segment is kept for people.
    pub(super) fn damaged(&self, place: Place, untold: Option<BatchId>) {
        if let Some(segment) = self.lock().get_mut(&place.segment) {
            segment.damaged = true;
            segment.untold.extend(untold);
            self.one_less(segment);
        }
    }

    /// The sealed segments that hold something, the oldest first.
    pub(super) fn sealed(&self) -> Vec<u64> {
        let segments = self.lock();
        let held = segments
            .iter()
            .filter(|(_number, segment)| segment.sealed && segment.live > 0);
        held.map(|(&number, _segment)| number).collect()
    }

    /// What a segment holds that is not drained, by the segment itself.
    pub(super) fn held(&self, number: u64) -> anyhow::Result<Vec<(Place, Head)>> {
        let mut scan = segment::scan(&path_of(&self.dir, number, SEGMENT), number)?;
        let mut drained: HashSet<u64> = segment::drained(&self.dir, number)?.into_iter().collect();
        if let Some(segment) = self.lock().get(&number) {
            drained.extend(&segment.unnoted);
        }
        scan.records
            .retain(|(place, _head)| !drained.contains(&place.at));
        Ok(scan.records)
    }

    /// Gives a segment up with what it holds; that is said on the disk first, until it is told.
    ///
    /// # Errors
    /// When it cannot be said or removed: nothing is given up.
    pub(super) fn give_up(
        &self,
        number: u64,
        held: &[(Place, Head)],
        mut told: impl FnMut(&Head) -> bool,
    ) -> Result<(), DiskError> {
        let mut said = heads_header().to_vec();
        for (place, head) in held {
            let at = (place.at, place.bytes);
            encode_head(at, head.order, &head.target, &head.header, &mut said);
        }
        let mut file = AppendFile::create(&path_of(&self.dir, number, DROPPED))?;
        file.append(&said)?;
        file.sync()?;
        disk::remove(&path_of(&self.dir, number, SEGMENT))?;
        disk::remove(&path_of(&self.dir, number, HEADS))?;
        disk::remove(&path_of(&self.dir, number, DRAINED))?;
        let untold = held
            .iter()
            .filter(|(_place, head)| told(head))
            .map(|(_place, head)| head.header.id());
        let untold: Vec<BatchId> = untold.collect();
        if let Some(segment) = self.lock().get_mut(&number) {
            self.usage.sub(std::mem::take(&mut segment.bytes));
            self.usage.fewer_batches(std::mem::take(&mut segment.live));
            segment.untold.extend(untold);
            segment.unnoted.clear();
            segment.idle_since = Some(Instant::now());
        }
        Ok(())
    }

    /// What was noted beside the segment of a record whose own head is damaged.
    pub(super) fn noted_head(&self, place: Place) -> Option<Head> {
        let here = segment::heads(&self.dir, place.segment, HEADS, |at| at == place.at).ok()?;
        here.into_iter().next().map(|(_place, head)| head)
    }

    /// The manager knows of a lost batch.
    pub(super) fn loss_told(&self, batch: BatchId) {
        for segment in self.lock().values_mut() {
            segment.untold.remove(&batch);
        }
    }

    /// A record as it was written: its head and payload as far as they are sound.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn read(&self, place: Place) -> anyhow::Result<Option<(Head, Option<Bytes>)>> {
        let reader = {
            let mut segments = self.lock();
            let segment = segments
                .get_mut(&place.segment)
                .context("the segment is gone")?;
            match &segment.reader {
                Some(reader) => Arc::clone(reader),
                None => {
                    let path = path_of(&self.dir, place.segment, SEGMENT);
                    let reader = Arc::new(disk::open_read(&path)?);
                    segment.reader = Some(Arc::clone(&reader));
                    reader
                }
            }
        };
        segment::read(&reader, place)
    }

    /// What is drained and not noted, by segment; those that will be removed are left out.
    pub(super) fn take_unnoted(&self) -> Vec<(PathBuf, Vec<u64>)> {
        let mut segments = self.lock();
        let partly = segments
            .iter_mut()
            .filter(|(_number, segment)| segment.live > 0 && !segment.unnoted.is_empty());
        partly
            .map(|(&number, segment)| {
                let path = path_of(&self.dir, number, DRAINED);
                (path, std::mem::take(&mut segment.unnoted))
            })
            .collect()
    }

    /// Removes the segments that hold nothing any more; `now` those that became so just now, too.
    pub(super) fn tidy(&self, now: bool) {
        let old = |segment: &Segment| {
            let idle = segment.idle_since;
            segment.sealed
                && segment.untold.is_empty()
                && idle.is_some_and(|at| now || at.elapsed() >= self.usage.remove_after)
        };
        let gone: Vec<(u64, bool)> = {
            let segments = self.lock();
            let old = segments.iter().filter(|(_number, segment)| old(segment));
            old.map(|(&number, segment)| (number, segment.damaged))
                .collect()
        };
        for (number, damaged) in gone {
            match self.remove(number, damaged) {
                Ok(()) => {
                    if let Some(segment) = self.lock().remove(&number) {
                        self.usage.sub(segment.bytes);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a drained segment cannot be removed; tried again");
                }
            }
        }
    }

    fn remove(&self, number: u64, damaged: bool) -> Result<(), DiskError> {
        let path = path_of(&self.dir, number, SEGMENT);
        // What says more than there is goes first: nothing is missed when this stops half way.
        disk::remove(&path_of(&self.dir, number, HEADS))?;
        disk::remove(&path_of(&self.dir, number, DROPPED))?;
        match damaged {
            true => match disk::rename(&path, &path_of(&self.dir, number, DAMAGED)) {
                Ok(()) => drop(self.kept_damaged.fetch_max(number, Ordering::Relaxed)),
                // Somebody has removed it.
                Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            },
            false => {
                disk::remove(&path)?;
            }
        }
        disk::remove(&path_of(&self.dir, number, DRAINED)).map(drop)
    }
}

/// The segments of a folder, also those of which only the heads are there.
pub(super) fn numbers(dir: &Path) -> anyhow::Result<BTreeSet<u64>> {
    let paths = disk::list(dir)?;
    let numbers = paths.iter().filter_map(|path| {
        let kinds = [SEGMENT, HEADS, DROPPED];
        kinds.into_iter().find_map(|kind| number_with(path, kind))
    });
    Ok(numbers.collect())
}
