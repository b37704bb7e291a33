//! Whose turn it is: classes by urgency with a floor each, tasks and streams in turns by bytes.
//!
//! The same rule at every place where batches compete: the reader asks it which stream to read, the
//! window which stream may send. Between classes the most urgent one that waits goes first; a class
//! that waits gets a twentieth of the bytes all the same, so that a flood of P0 starves nobody. Inside
//! a class the tasks share by deficit round robin, and inside a task its streams do: a task of a
//! thousand files gets no more than a task of one.
//!
//! A piece's size is known only after its turn, so a turn may overdraw; who has overdrawn waits until
//! the others caught up. Between two that wait all the time the difference stays within one quantum
//! and one piece.
//!
//! Not for: memory (see [`crate::limit`]). Pure: [`crate::reader`] and the sender's window call it.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use tributary_common::ids::Class;

/// The part of all bytes that each class gets while it waits, in percent (design section 6).
pub(crate) const FLOOR_PERCENT: i64 = 5;
/// A class is owed so many quanta of its floor at most, and owes so many.
const CATCH_UP: i64 = 4;

/// Who waits for a turn. `G` is a task, `K` a stream of it; each stream stands here once.
#[derive(Debug)]
pub(crate) struct Turns<G, K> {
    /// Bytes of one turn in the round, and what a class must be owed before its floor goes first.
    quantum: i64,
    classes: [Queue<G, K>; 4],
}

/// A turn that was given. It ends with [`Turns::done`].
#[derive(Debug)]
pub(crate) struct Pick<G, K> {
    /// Whose it is.
    pub(crate) class: Class,
    /// Its task.
    pub(crate) group: G,
    /// Its stream.
    pub(crate) key: K,
    /// Bytes that the stream may still use in this round.
    deficit: i64,
}

/// One class.
#[derive(Debug)]
struct Queue<G, K> {
    /// Tasks with waiting streams; the first is being served.
    order: VecDeque<G>,
    groups: HashMap<G, Group<K>>,
    /// Streams that wait.
    waiting: usize,
    /// What it is owed of its floor, in hundredths of a byte; below 0 it had more.
    owed: i64,
}

/// One task of a class.
#[derive(Debug)]
struct Group<K> {
    deficit: i64,
    keys: VecDeque<(K, i64)>,
}

impl<G: Clone + Eq + Hash, K> Turns<G, K> {
    /// Nobody waits. `quantum` is in bytes: what a piece usually has at most.
    pub(crate) fn new(quantum: u64) -> Self {
        let queue = || Queue {
            order: VecDeque::new(),
            groups: HashMap::new(),
            waiting: 0,
            owed: 0,
        };
        Self {
            quantum: i64::try_from(quantum).unwrap_or(i64::MAX / 1024).max(1),
            classes: [queue(), queue(), queue(), queue()],
        }
    }

    /// A stream that did not stand here waits for its turn.
    pub(crate) fn add(&mut self, class: Class, group: G, key: K) {
        self.queue(class).push(group, key, 0);
    }

    /// How many streams of a class wait.
    pub(crate) fn waiting(&self, class: Class) -> usize {
        let [p0, p1, p2, p3] = &self.classes;
        match class {
            Class::P0 => p0.waiting,
            Class::P1 => p1.waiting,
            Class::P2 => p2.waiting,
            Class::P3 => p3.waiting,
        }
    }

    /// Gives the next turn to a class that is `allowed` one; its second argument says that the class
    /// is owed it by its floor.
    pub(crate) fn pick(&mut self, allowed: impl Fn(Class, bool) -> bool) -> Option<Pick<G, K>> {
        let quantum = self.quantum;
        let mut owed = |class: &Class| {
            let queue = self.queue(*class);
            queue.waiting > 0 && queue.owed >= quantum * 100
        };
        let by_floor = Class::ALL
            .into_iter()
            .filter(&mut owed)
            .find(|&class| allowed(class, true));
        let class = by_floor.or_else(|| {
            let mut classes = Class::ALL.into_iter();
            classes.find(|&class| self.waiting(class) > 0 && allowed(class, false))
        })?;
        let (group, key, deficit) = self.queue(class).next(quantum)?;
        Some(Pick {
            class,
            group,
            key,
            deficit,
        })
    }

    /// A turn is over and took `bytes`. With `again` the stream waits for another one.
    pub(crate) fn done(&mut self, pick: Pick<G, K>, bytes: u64, again: bool) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX / 1024);
        let most = self.quantum.saturating_mul(100 * CATCH_UP);
        let class = pick.class;
        self.queue(class).end(pick, bytes, again);
        for other in Class::ALL {
            let queue = self.queue(other);
            let paid = if other == class { bytes * 100 } else { 0 };
            let owed = queue.owed + bytes * FLOOR_PERCENT - paid;
            // Who does not wait is owed nothing.
            queue.owed = if queue.waiting > 0 {
                owed.clamp(-most, most)
            } else {
                0
            };
        }
    }

    fn queue(&mut self, class: Class) -> &mut Queue<G, K> {
        let [p0, p1, p2, p3] = &mut self.classes;
        match class {
            Class::P0 => p0,
            Class::P1 => p1,
            Class::P2 => p2,
            Class::P3 => p3,
        }
    }
}

impl<G: Clone + Eq + Hash, K> Queue<G, K> {
    /// Puts a stream to where it belongs: who may go on stands first.
    fn push(&mut self, group: G, key: K, deficit: i64) {
        self.waiting += 1;
        let order = &mut self.order;
        let known = self.groups.entry(group).or_insert_with_key(|group| {
            order.push_back(group.clone());
            Group {
                deficit: 0,
                keys: VecDeque::new(),
            }
        });
        if deficit > 0 {
            known.keys.push_front((key, deficit));
        } else {
            known.keys.push_back((key, deficit));
        }
    }

    /// Takes out the stream whose turn it is, with what it may use.
    fn next(&mut self, quantum: i64) -> Option<(G, K, i64)> {
        loop {
            let group = self.groups.get_mut(self.order.front()?)?;
            if !visit(&mut group.deficit, quantum) {
                self.order.rotate_left(1);
                continue;
            }
            loop {
                let (_, deficit) = group.keys.front_mut()?;
                if visit(deficit, quantum) {
                    break;
                }
                group.keys.rotate_left(1);
            }
            let (key, deficit) = group.keys.pop_front()?;
            self.waiting -= 1;
            return Some((self.order.front()?.clone(), key, deficit));
        }
    }

    /// Books a turn. Its task still stands first: a class gives one turn at a time.
    fn end(&mut self, pick: Pick<G, K>, bytes: i64, again: bool) {
        if again {
            self.push(pick.group.clone(), pick.key, pick.deficit - bytes);
        }
        let Some(group) = self.groups.get_mut(&pick.group) else {
            return;
        };
        group.deficit -= bytes;
        let first = self.order.front() == Some(&pick.group);
        debug_assert!(first, "one turn at a time");
        if group.keys.is_empty() {
            self.groups.remove(&pick.group);
            self.order.pop_front();
        } else if group.deficit <= 0 {
            self.order.rotate_left(1);
        }
    }
}

/// One comes up in the round: it may use a quantum more, unless it has some left. False when what it
/// had overdrawn is still more than that.
fn visit(deficit: &mut i64, quantum: i64) -> bool {
    if *deficit <= 0 {
        *deficit += quantum;
    }
    *deficit > 0
}

#[cfg(test)]
mod tests;
