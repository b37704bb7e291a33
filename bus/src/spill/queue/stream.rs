//! The batches of one stream: those that are near their turn or not yet on the disk, each with its entry, and
//! what only waits there.
//!
//! Far ones are in their order; a near one may stand before or behind them. Not for: targets, and which
//! stream is next (see [`super`]). Pure.

use std::{collections::BTreeMap, sync::Arc};

use tributary_common::ids::Class;

use super::{
    Entry, Key, Place, Ready, Stored, Verdict,
    far::{Common, Far, Item},
};

/// A stream.
#[derive(Debug)]
pub(super) struct Stream<T> {
    pub(super) entries: BTreeMap<Key, Entry<T>>,
    /// What only waits on the disk.
    pub(super) far: Far,
    pub(super) flying: usize,
    /// Batches that are on the disk or being written.
    pub(super) kept: usize,
    /// Entries that are doomed: they come again, and nothing goes before them.
    pub(super) doomed: usize,
    /// A batch failed, and not all that were on their way with it have answered.
    pub(super) failed: bool,
    /// The destination refuses its next batch for good, so far.
    pub(super) stuck: bool,
    /// Where it stands among those that can go on.
    pub(super) ready: Option<(Arc<str>, Ready)>,
}

impl<T> Default for Stream<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            far: Far::default(),
            flying: 0,
            kept: 0,
            doomed: 0,
            failed: false,
            stuck: false,
            ready: None,
        }
    }
}

/// The first batch of a stream that is not on its way.
pub(super) struct Next<'a> {
    pub(super) key: Key,
    pub(super) target: &'a Arc<str>,
    pub(super) class: Class,
    pub(super) order: u64,
    pub(super) is_stored: bool,
}

impl<T: Default> Entry<T> {
    /// One that is on the disk.
    pub(super) fn stored(target: &Arc<str>, (class, order): (Class, u64), place: Place) -> Self {
        Self {
            data: T::default(),
            stored: Stored::At(place),
            target: Arc::clone(target),
            order,
            class,
            flying: false,
            doomed: false,
        }
    }

    pub(super) fn from_far((common, item): (Common, Item)) -> Self {
        Self::stored(&common.target, (common.class, item.order), item.place)
    }
}

impl<T: Default> Stream<T> {
    /// All of its batches.
    pub(super) fn len(&self) -> usize {
        self.entries.len() + self.far.len()
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.entries.contains_key(&key) || self.far.get(key).is_some()
    }

    /// A batch is on the disk, and nobody waits for it. One that comes before others which are far stays near.
    pub(super) fn waits(&mut self, key: Key, entry: Entry<T>) {
        match entry.stored {
            Stored::At(place) if self.far.last() < Some(key) => {
                let common = Common {
                    target: entry.target,
                    class: entry.class,
                    epoch: key.0,
                };
                let (seq, order) = (key.1, entry.order);
                self.far.push(common, Item { seq, order, place });
            }
            Stored::At(_) | Stored::Writing | Stored::No => {
                self.entries.insert(key, entry);
            }
        }
    }

    /// The first batch that is not on its way.
    pub(super) fn next(&self) -> Option<Next<'_>> {
        let near = self.entries.iter().find(|(_key, entry)| !entry.flying);
        let far = self.far.front();
        let before = |key: &Key| far.is_none_or(|(first, ..)| *key < first);
        match (near.filter(|(key, _entry)| before(key)), far) {
            (Some((&key, entry)), _) => Some(Next {
                key,
                target: &entry.target,
                class: entry.class,
                order: entry.order,
                is_stored: matches!(entry.stored, Stored::At(_)),
            }),
            (None, Some((key, common, item))) => Some(Next {
                key,
                target: &common.target,
                class: common.class,
                order: item.order,
                is_stored: true,
            }),
            (None, None) => None,
        }
    }

    /// The first of what is far gets an entry, when it is the one of this key.
    pub(super) fn come_near(&mut self, key: Key) {
        if self.far.front().is_some_and(|(first, ..)| first == key)
            && let Some(far) = self.far.pop()
        {
            self.entries.insert(key, Entry::from_far(far));
        }
    }

    /// What becomes of a batch that comes behind all of them.
    pub(super) fn verdict(&self, down: bool, disk_first: bool) -> Verdict<()> {
        let all_fly = self.flying == self.len() && !self.failed && !self.stuck;
        if self.doomed > 0 {
            return Verdict::Wait(());
        }
        if disk_first {
            return Verdict::Spill;
        }
        match (down, all_fly, self.kept) {
            (false, true, 0) => Verdict::Live,
            (false, true, _some) => Verdict::Wait(()),
            (true, _, _) | (false, false, _) => Verdict::Spill,
        }
    }
}
