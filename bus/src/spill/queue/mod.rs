//! Which batch goes to the destination, which to the disk, and which leaves the disk next: the state
//! of one destination, as pure transitions.
//!
//! # Constraints
//! A stream's batches are given to the destination in their order. A batch is told once: delivered,
//! or spilled when it is on the disk, or not taken. Nothing that is told leaves before the
//! destination has it.
//!
//! # Operation
//! Each target (a physical topic, a folder) has a [`Mode`]. A stream that has nothing on the disk goes
//! live while its target is up. Everything else spills. [`Queue::next`] gives what is to be drained:
//! the most urgent class first, in it the oldest; of a stream only what stands behind nothing but
//! batches that are on their way. A failure holds the stream back until all of it that is on its way
//! has answered.
//!
//! A batch that finds everything of its stream on its way, some of it from the disk, is told to wait
//! ([`Verdict::Wait`]): it would otherwise spill behind a spill that is gone in a moment, for ever.
//!
//! # Memory
//! An entry is as long as a batch is being written or on its way; both hold bytes of the node's budget. What
//! only waits on the disk is `far`: a few bytes a batch.
//!
//! Pure: no clock, no disk. Called by [`super::lane`] under its lock.

mod far;
mod mode;
mod stream;

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use tributary_common::ids::{BatchId, Class, Epoch, StreamId};

pub(crate) use self::mode::{Event, Mode};
use self::stream::Stream;

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The number of its segment.
    pub(crate) segment: u64,
    /// Where in it.
    pub(crate) at: u64,
    /// Bytes of the record.
    pub(crate) bytes: u32,
}

/// Whether a batch is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// No.
    No,
    /// It is being written.
    Writing,
    /// Yes, synced.
    At(Place),
}

/// A batch that is being written or on its way, or failed at either.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    /// What the caller keeps with it.
    pub(crate) data: T,
    /// Whether it is on the disk.
    pub(crate) stored: Stored,
    target: Arc<str>,
    order: u64,
    class: Class,
    flying: bool,
    /// An earlier batch of the stream could not be stored: this one must not be either.
    doomed: bool,
}

impl<T> Entry<T> {
    /// Whether it is on its way to the destination.
    pub(crate) fn is_flying(&self) -> bool {
        self.flying
    }
}

/// What becomes of a batch that arrives.
#[derive(Debug)]
pub(crate) enum Verdict<T> {
    /// Give it to the destination now.
    Live,
    /// Write it to the disk.
    Spill,
    /// Not now; in a moment.
    Wait(T),
}

type Key = (Epoch, u64);
type Ready = (Class, u64, StreamId);

/// A target.
#[derive(Debug)]
struct Way {
    mode: Mode,
    /// Batches on the disk, or being written.
    kept: u64,
    /// Batches of any kind.
    entries: u64,
    ready: BTreeSet<Ready>,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// Batches on the disk, not delivered.
    pub(crate) batches: u64,
    /// Their bytes on the disk.
    pub(crate) bytes: u64,
    /// Streams that the destination refuses.
    pub(crate) stuck_streams: u64,
}

/// The state of one destination.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    streams: HashMap<StreamId, Stream<T>>,
    ways: HashMap<Arc<str>, Way>,
    backlog: Backlog,
    /// Neither on the disk nor on their way, and not to be given back: later ones are on the disk.
    held: BTreeSet<BatchId>,
    next_order: u64,
    /// Nothing goes live: every batch is on the disk before it is given to the destination.
    disk_first: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            streams: HashMap::new(),
            ways: HashMap::new(),
            backlog: Backlog::default(),
            held: BTreeSet::new(),
            next_order: 0,
            disk_first: false,
        }
    }
}

impl<T: Default> Queue<T> {
    /// A queue of a destination for which every batch is to be on the disk first.
    pub(crate) fn disk_first() -> Self {
        Self {
            disk_first: true,
            ..Self::default()
        }
    }

    /// How much is on the disk.
    pub(crate) fn backlog(&self) -> Backlog {
        self.backlog
    }

    /// The targets that are known, with how they are served.
    pub(crate) fn modes(&self) -> impl Iterator<Item = (&Arc<str>, Mode, u64)> {
        self.ways
            .iter()
            .map(|(target, way)| (target, way.mode, way.kept))
    }

    /// Whether the batch is on the disk and synced.
    pub(crate) fn holds(&self, batch: BatchId) -> bool {
        self.place_of(batch).is_some()
    }

    /// Where the batch lies; `None` when it is not on the disk.
    pub(crate) fn place_of(&self, batch: BatchId) -> Option<Place> {
        let stream = self.streams.get(&batch.stream)?;
        let key = (batch.epoch, batch.seq);
        match stream.entries.get(&key) {
            Some(entry) => match entry.stored {
                Stored::At(place) => (!entry.doomed).then_some(place),
                Stored::No | Stored::Writing => None,
            },
            None => stream.far.get(key).map(|(_common, item)| item.place),
        }
    }

    /// An entry; what only waits on the disk has none.
    pub(crate) fn entry(&self, batch: BatchId) -> Option<&Entry<T>> {
        let stream = self.streams.get(&batch.stream)?;
        stream.entries.get(&(batch.epoch, batch.seq))
    }

    /// The target of an entry; empty when there is none.
    pub(crate) fn target_of(&self, batch: BatchId) -> Arc<str> {
        self.entry(batch)
            .map_or_else(|| "".into(), |entry| Arc::clone(&entry.target))
    }

    /// An entry's data.
    pub(crate) fn data(&mut self, batch: BatchId) -> Option<&mut T> {
        let stream = self.streams.get_mut(&batch.stream)?;
        let entry = stream.entries.get_mut(&(batch.epoch, batch.seq))?;
        Some(&mut entry.data)
    }

    /// Whether there is no entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// The data of all entries.
    pub(crate) fn all(&mut self) -> impl Iterator<Item = &mut T> {
        let entries = self
            .streams
            .values_mut()
            .flat_map(|state| state.entries.values_mut());
        entries.map(|entry| &mut entry.data)
    }

    /// The target takes something, or does not. Returns the batches that are on their way to a
    /// target that has gone down: they are to be written to the disk as copies.
    pub(crate) fn set_down(&mut self, target: &Arc<str>, down: bool) -> Vec<BatchId> {
        let event = if down { Event::Down } else { Event::Up };
        let Some(way) = self.ways.get_mut(target) else {
            if down {
                self.way(target).mode = Mode::Spilling;
            }
            return Vec::new();
        };
        let before = way.mode;
        way.mode = way.mode.on(event);
        if way.mode == Mode::Draining && way.kept == 0 {
            way.mode = way.mode.on(Event::Empty);
        }
        if !down && way.entries == 0 {
            self.ways.remove(target);
        }
        match down && before != Mode::Spilling {
            true => self.rescue(target),
            false => Vec::new(),
        }
    }

    /// The batches on their way to a target that are not on the disk, in their order: they begin to
    /// be written.
    pub(crate) fn rescue(&mut self, target: &Arc<str>) -> Vec<BatchId> {
        let mut found: Vec<(u64, BatchId)> = Vec::new();
        let way = self.way(target);
        if way.entries == way.kept {
            return Vec::new();
        }
        for (&stream, state) in &mut self.streams {
            for (&(epoch, seq), entry) in &mut state.entries {
                if entry.stored == Stored::No && entry.target == *target {
                    entry.stored = Stored::Writing;
                    state.kept += 1;
                    let batch = BatchId { stream, epoch, seq };
                    found.push((entry.order, batch));
                }
            }
        }
        found.sort_unstable();
        let count = found.len() as u64;
        let way = self.way(target);
        way.kept += count;
        if count > 0 {
            way.mode = way.mode.on(Event::Kept);
        }
        found.into_iter().map(|(_order, batch)| batch).collect()
    }

    fn way(&mut self, target: &Arc<str>) -> &mut Way {
        self.ways.entry(Arc::clone(target)).or_insert_with(|| Way {
            mode: Mode::Direct,
            kept: 0,
            entries: 0,
            ready: BTreeSet::new(),
        })
    }

    /// Why a batch would not be taken at once, or whether it would go to the disk; for deciding
    /// before its payload is read.
    pub(crate) fn would(&self, batch: BatchId, down: bool) -> Verdict<()> {
        match self.streams.get(&batch.stream) {
            None if self.disk_first => Verdict::Spill,
            None if down => Verdict::Spill,
            None => Verdict::Live,
            Some(stream) => match stream.verdict(down, self.disk_first) {
                Verdict::Live => Verdict::Live,
                Verdict::Spill => Verdict::Spill,
                Verdict::Wait(()) => Verdict::Wait(()),
            },
        }
    }

    /// A batch arrives.
    pub(crate) fn arrive(
        &mut self,
        batch: BatchId,
        target: &Arc<str>,
        class: Class,
        data: T,
    ) -> Verdict<T> {
        let key = (batch.epoch, batch.seq);
        let down = self.way(target).mode == Mode::Spilling;
        let stream = self.streams.entry(batch.stream).or_default();
        let verdict = stream.verdict(down, self.disk_first);
        if stream.contains(key) || matches!(verdict, Verdict::Wait(())) {
            return Verdict::Wait(data);
        }
        let flying = matches!(verdict, Verdict::Live);
        let entry = Entry {
            data,
            stored: if flying { Stored::No } else { Stored::Writing },
            target: Arc::clone(target),
            order: self.next_order,
            class,
            flying,
            doomed: false,
        };
        self.next_order += 1;
        stream.entries.insert(key, entry);
        stream.flying += usize::from(flying);
        stream.kept += usize::from(!flying);
        let way = self.way(target);
        way.entries += 1;
        if flying {
            return Verdict::Live;
        }
        way.kept += 1;
        way.mode = way.mode.on(Event::Kept);
        Verdict::Spill
    }

    /// A batch of an earlier life is on the disk. False when it is known already.
    pub(crate) fn recovered(
        &mut self,
        batch: BatchId,
        target: &Arc<str>,
        (class, order): (Class, u64),
        place: Place,
    ) -> bool {
        self.next_order = self.next_order.max(order + 1);
        let stream = self.streams.entry(batch.stream).or_default();
        let key = (batch.epoch, batch.seq);
        if stream.contains(key) {
            return false;
        }
        stream.waits(key, Entry::stored(target, (class, order), place));
        stream.kept += 1;
        self.backlog.batches += 1;
        self.backlog.bytes += u64::from(place.bytes);
        let way = self.way(target);
        (way.entries, way.kept) = (way.entries + 1, way.kept + 1);
        way.mode = way.mode.on(Event::Kept);
        self.refresh(batch.stream);
        true
    }

    /// The order number of an entry, which its record carries.
    pub(crate) fn order_of(&self, batch: BatchId) -> Option<u64> {
        self.entry(batch).map(|entry| entry.order)
    }

    /// The destination has the batch, or it is lost, or nobody is to have it: it leaves.
    pub(crate) fn remove(&mut self, batch: BatchId) -> Option<Entry<T>> {
        let stream = self.streams.get_mut(&batch.stream)?;
        let key = (batch.epoch, batch.seq);
        let entry = match stream.entries.remove(&key) {
            Some(entry) => entry,
            None => Entry::from_far(stream.far.remove(key)?),
        };
        stream.flying -= usize::from(entry.flying);
        let was_kept = entry.stored != Stored::No;
        stream.kept -= usize::from(was_kept);
        stream.doomed -= usize::from(entry.doomed);
        if stream.flying == 0 {
            stream.failed = false;
        }
        self.left_disk(&entry.stored);
        if let Some(way) = self.ways.get_mut(&entry.target) {
            way.entries -= 1;
            if was_kept {
                way.kept -= 1;
            }
            if way.kept == 0 {
                way.mode = way.mode.on(Event::Empty);
            }
        }
        self.refresh(batch.stream);
        if let Some(way) = self.ways.get(&entry.target)
            && way.entries == 0
            && way.mode == Mode::Direct
        {
            self.ways.remove(&entry.target);
        }
        Some(entry)
    }

    fn left_disk(&mut self, stored: &Stored) {
        if let Stored::At(place) = stored {
            self.backlog.batches -= 1;
            self.backlog.bytes -= u64::from(place.bytes);
        }
    }

    /// The destination did not take the batch. Returns whether it is to be written to the disk.
    pub(crate) fn failed(&mut self, batch: BatchId) -> bool {
        let Some(stream) = self.streams.get_mut(&batch.stream) else {
            return false;
        };
        let Some(entry) = stream.entries.get_mut(&(batch.epoch, batch.seq)) else {
            return false;
        };
        if std::mem::take(&mut entry.flying) {
            stream.flying -= 1;
        }
        stream.failed = stream.flying > 0;
        let write = entry.stored == Stored::No;
        let target = Arc::clone(&entry.target);
        if write {
            entry.stored = Stored::Writing;
            stream.kept += 1;
            let way = self.way(&target);
            way.kept += 1;
            way.mode = way.mode.on(Event::Kept);
        }
        self.refresh(batch.stream);
        write
    }

    /// The batch is on the disk and synced: what was kept with it is given back. `None` when nobody waits
    /// for that any more: the record is of no use.
    pub(crate) fn stored(&mut self, batch: BatchId, place: Place) -> Option<T> {
        let stream = self.streams.get_mut(&batch.stream)?;
        let key = (batch.epoch, batch.seq);
        let entry = stream.entries.get_mut(&key)?;
        if entry.doomed || entry.stored != Stored::Writing {
            return None;
        }
        entry.stored = Stored::At(place);
        let data = std::mem::take(&mut entry.data);
        if !entry.flying
            && let Some(entry) = stream.entries.remove(&key)
        {
            stream.waits(key, entry);
        }
        self.backlog.batches += 1;
        self.backlog.bytes += u64::from(place.bytes);
        self.refresh(batch.stream);
        Some(data)
    }

    /// The batch could not be written. One that is on its way stays, and so does one whose stream has
    /// later batches on the disk: it is tried again. Another leaves, to be told that it was not taken.
    pub(crate) fn not_stored(&mut self, batch: BatchId) -> Option<Entry<T>> {
        let stream = self.streams.get_mut(&batch.stream)?;
        let key = (batch.epoch, batch.seq);
        let entry = stream.entries.get_mut(&key)?;
        if entry.stored != Stored::Writing {
            return None;
        }
        let flying = entry.flying;
        let mut later = stream.entries.range((Excluded(key), Unbounded));
        let is_passed = later.any(|(_key, later)| matches!(later.stored, Stored::At(_)))
            || stream.far.last() > Some(key);
        if flying || is_passed {
            if !flying {
                self.held.insert(batch);
            }
            let entry = stream.entries.get_mut(&key)?;
            entry.stored = Stored::No;
            stream.kept -= 1;
            let target = Arc::clone(&entry.target);
            let way = self.way(&target);
            way.kept -= 1;
            if way.kept == 0 {
                way.mode = way.mode.on(Event::Empty);
            }
            return None;
        }
        for (_key, later) in stream.entries.range_mut((Excluded(key), Unbounded)) {
            if later.stored == Stored::Writing && !later.flying && !later.doomed {
                later.doomed = true;
                stream.doomed += 1;
            }
        }
        self.remove(batch)
    }

    /// The batches that could not be written and have to be: they begin to be written again.
    pub(crate) fn retry(&mut self) -> Vec<(BatchId, Arc<str>)> {
        let mut again = Vec::new();
        for batch in std::mem::take(&mut self.held) {
            let Some(stream) = self.streams.get_mut(&batch.stream) else {
                continue;
            };
            let Some(entry) = stream.entries.get_mut(&(batch.epoch, batch.seq)) else {
                continue;
            };
            if entry.stored != Stored::No || entry.flying {
                continue;
            }
            entry.stored = Stored::Writing;
            stream.kept += 1;
            let target = Arc::clone(&entry.target);
            let way = self.way(&target);
            way.kept += 1;
            way.mode = way.mode.on(Event::Kept);
            again.push((batch, target));
        }
        again
    }

    /// Whether a batch was given up because one before it could not be stored.
    pub(crate) fn is_doomed(&self, batch: BatchId) -> bool {
        self.entry(batch).is_some_and(|entry| entry.doomed)
    }

    /// The batch that leaves the disk next; it counts as on its way.
    pub(crate) fn next(&mut self) -> Option<(BatchId, Arc<str>, Place)> {
        let draining = self.ways.values().filter(|way| way.mode == Mode::Draining);
        let &(_class, _order, stream) = draining.filter_map(|way| way.ready.first()).min()?;
        let state = self.streams.get_mut(&stream)?;
        let (epoch, seq) = state.next()?.key;
        state.come_near((epoch, seq));
        let entry = state.entries.get_mut(&(epoch, seq))?;
        let Stored::At(place) = entry.stored else {
            return None;
        };
        entry.flying = true;
        state.flying += 1;
        let target = Arc::clone(&entry.target);
        self.refresh(stream);
        Some((BatchId { stream, epoch, seq }, target, place))
    }

    /// Whether a batch that [`Queue::next`] gave may still go: nothing before it failed meanwhile.
    pub(crate) fn may_fly(&self, batch: BatchId) -> bool {
        let stream = self.streams.get(&batch.stream);
        stream.is_some_and(|stream| !stream.failed && !stream.stuck)
    }

    /// A batch that [`Queue::next`] gave was not given on.
    pub(crate) fn put_back(&mut self, batch: BatchId) {
        let Some(stream) = self.streams.get_mut(&batch.stream) else {
            return;
        };
        if let Some(entry) = stream.entries.get_mut(&(batch.epoch, batch.seq))
            && std::mem::take(&mut entry.flying)
        {
            stream.flying -= 1;
        }
        if stream.flying == 0 {
            stream.failed = false;
        }
        self.refresh(batch.stream);
    }

    /// The destination refuses the stream's next batch for good: it stands still.
    pub(crate) fn stick(&mut self, stream: StreamId) {
        if let Some(state) = self.streams.get_mut(&stream)
            && !std::mem::replace(&mut state.stuck, true)
        {
            self.backlog.stuck_streams += 1;
        }
        self.refresh(stream);
    }

    /// What stands still is tried again.
    pub(crate) fn unstick(&mut self) {
        if self.backlog.stuck_streams == 0 {
            return;
        }
        self.backlog.stuck_streams = 0;
        let stuck = self
            .streams
            .iter_mut()
            .filter_map(|(&stream, state)| std::mem::take(&mut state.stuck).then_some(stream));
        let stuck: Vec<StreamId> = stuck.collect();
        for stream in stuck {
            self.refresh(stream);
        }
    }

    /// Puts a stream where it stands among those that can go on; forgets it when nothing is left.
    fn refresh(&mut self, stream: StreamId) {
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        let next = match state.failed || state.stuck {
            true => None,
            false => state.next(),
        };
        let ready = next
            .filter(|next| next.is_stored)
            .map(|next| (Arc::clone(next.target), (next.class, next.order, stream)));
        let before = std::mem::replace(&mut state.ready, ready.clone());
        if state.len() == 0 {
            if state.stuck {
                self.backlog.stuck_streams -= 1;
            }
            self.streams.remove(&stream);
        }
        if before == ready {
            return;
        }
        if let Some((target, key)) = before
            && let Some(way) = self.ways.get_mut(&target)
        {
            way.ready.remove(&key);
        }
        if let Some((target, key)) = ready {
            self.way(&target).ready.insert(key);
        }
    }
}

#[cfg(test)]
mod tests;
