//! Who may have how much of the memory: half of it is promised, half is lent.
//!
//! Each topic of a class has a share. Half of the memory is promised to the shares: P0 is promised four
//! parts, P1 two, P2 and P3 one, as far as they are in use, and the shares of a class get equal parts. A share always gets what
//! it is promised, whatever the others do, so no class starves and one that stands still holds only
//! itself. The other half is lent, within three bounds:
//! - a share borrows what was acknowledged of it before: a topic that the bus never took borrows
//!   nothing, one that begins to stand still begins anew;
//! - it borrows at most half of what is there to lend, so that several that stop one after the other
//!   leave something;
//! - each class leaves a sixteenth to every more urgent one.
//!
//! A piece larger than its share is promised, a very long line, goes when the share holds nothing else;
//! while it waits for that nobody borrows.
//!
//! Not for: counting, waking (see [`super`]). Pure.

use tributary_common::ids::Class;

/// The part of the memory that is promised.
const PROMISED_PART: u64 = 2;
/// How many parts of that a class is promised.
const PARTS: [(Class, u64); 4] = [
    (Class::P0, 4),
    (Class::P1, 2),
    (Class::P2, 1),
    (Class::P3, 1),
];
/// What is left of the memory to each more urgent class in use.
const URGENT_PART: u64 = 16;
/// A share takes at least this part of what it may have at once, so that it does not live on crumbs.
const WORTH_PART: u64 = 4;
/// After so many returns without its asking again, a large piece no longer holds the others back.
const FORGET_AFTER: u32 = 64;

/// The memory, by shares. A share is a number from [`Pool::add`].
#[derive(Debug)]
pub(super) struct Pool {
    limit: u64,
    used: u64,
    /// Promised and not used, in all.
    reserved: u64,
    shares: Vec<Option<Share>>,
    /// The share with a large piece that waits, and how many returns it is remembered for.
    large: Option<(usize, u32)>,
}

#[derive(Debug)]
struct Share {
    class: Class,
    used: u64,
    promise: u64,
    /// Acknowledged since it last stood still: so much it may borrow.
    earned: u64,
    /// It stands still at the bus.
    held: bool,
}

impl Share {
    /// Promised and not used.
    fn reserved(&self) -> u64 {
        self.promise.saturating_sub(self.used)
    }

    /// Used beyond the promise.
    fn lent(&self) -> u64 {
        self.used.saturating_sub(self.promise)
    }
}

impl Pool {
    /// A pool of `limit` bytes without shares.
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            used: 0,
            reserved: 0,
            shares: Vec::new(),
            large: None,
        }
    }

    /// Another bound, in bytes. What is in use beyond it comes back as it is acknowledged; until
    /// then nothing is given.
    pub(super) fn resize(&mut self, limit: u64) {
        self.limit = limit;
        for share in self.shares.iter_mut().flatten() {
            share.earned = share.earned.min(limit);
        }
        self.promise();
    }

    /// The bound, in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Bytes in use by a class.
    pub(super) fn used_by(&self, class: Class) -> u64 {
        let shares = self.shares.iter().flatten();
        let of_class = shares.filter(|share| share.class == class);
        of_class.map(|share| share.used).sum()
    }

    /// A topic begins to use memory.
    pub(super) fn add(&mut self, class: Class) -> usize {
        let share = Share {
            class,
            used: 0,
            promise: 0,
            earned: 0,
            held: false,
        };
        let free = self.shares.iter().position(Option::is_none);
        let id = free.unwrap_or(self.shares.len());
        match self.shares.get_mut(id) {
            Some(place) => *place = Some(share),
            None => self.shares.push(Some(share)),
        }
        self.promise();
        id
    }

    /// A topic has given everything back and needs no more.
    pub(super) fn remove(&mut self, id: usize) {
        if let Some(place) = self.shares.get_mut(id) {
            debug_assert!(place.as_ref().is_none_or(|share| share.used == 0));
            *place = None;
        }
        self.large.take_if(|(large, _)| *large == id);
        self.promise();
    }

    /// Gives bytes to a share: at most `most`, and no less than `least` or what is worth it; `None`
    /// when it has to wait.
    pub(super) fn take(&mut self, id: usize, least: u64, most: u64) -> Option<u64> {
        let (own, lent) = self.room(id)?;
        let spare = self.spare();
        let limit = self.limit;
        let share = self.shares.get_mut(id)?.as_mut()?;
        let worth = (share.promise + share.earned) / WORTH_PART;
        let least = worth.max(least).min(most).min(limit / PROMISED_PART);
        // While nothing else of it is there, a large piece gets what is not promised to others.
        let room = if own + lent < least && share.used == 0 {
            own + spare
        } else {
            own + lent
        };
        let bytes = room.min(most);
        if bytes < least {
            if share.used == 0 && least > share.promise {
                self.large = Some((id, FORGET_AFTER));
            }
            return None;
        }
        self.large.take_if(|(large, _)| *large == id);
        self.reserved -= share.reserved();
        share.used += bytes;
        self.reserved += share.reserved();
        self.used += bytes;
        Some(bytes)
    }

    /// Bytes of a share come back.
    pub(super) fn give_back(&mut self, id: usize, bytes: u64) {
        let Some(share) = self.shares.get_mut(id).and_then(Option::as_mut) else {
            return;
        };
        debug_assert!(bytes <= share.used, "{bytes} of {}", share.used);
        self.reserved -= share.reserved();
        share.used -= bytes;
        self.reserved += share.reserved();
        self.used -= bytes;
        self.large = self
            .large
            .and_then(|(large, left)| Some((large, left.checked_sub(1)?)));
    }

    /// Bytes of a share were acknowledged: it flows.
    pub(super) fn earn(&mut self, id: usize, bytes: u64) {
        let limit = self.limit;
        if let Some(share) = self.shares.get_mut(id).and_then(Option::as_mut) {
            share.earned = share.earned.saturating_add(bytes).min(limit);
        }
    }

    /// A share begins to stand still at the bus, or ends to. True when that is new.
    pub(super) fn hold(&mut self, id: usize, held: bool) -> bool {
        let Some(share) = self.shares.get_mut(id).and_then(Option::as_mut) else {
            return false;
        };
        if held {
            share.earned = 0;
            self.large.take_if(|(large, _)| *large == id);
        }
        std::mem::replace(&mut share.held, held) != held
    }

    /// What a share may take now: of its own, and borrowed.
    fn room(&self, id: usize) -> Option<(u64, u64)> {
        let share = self.shares.get(id)?.as_ref()?;
        if share.held && share.used > 0 {
            return None;
        }
        let free = self.limit.saturating_sub(self.used);
        let own = share.reserved().min(free);
        let others_wait = self.large.is_some_and(|(large, _)| large != id);
        if share.held || others_wait {
            return Some((own, 0));
        }
        let for_urgent = self.limit / URGENT_PART * self.more_urgent(share.class);
        let to_lend = self.spare().saturating_sub(for_urgent);
        let fair = to_lend.saturating_sub(share.lent()) / 2;
        let earned = share.earned.saturating_sub(share.lent());
        Some((own, fair.min(earned)))
    }

    /// What is neither used nor promised.
    fn spare(&self) -> u64 {
        self.limit.saturating_sub(self.used + self.reserved)
    }

    /// How many classes in use are more urgent than this one.
    fn more_urgent(&self, class: Class) -> u64 {
        let in_use = |of: &Class| self.count(*of) > 0;
        let urgent = Class::ALL.into_iter().take_while(|&of| of != class);
        urgent.filter(in_use).count() as u64
    }

    fn count(&self, class: Class) -> u64 {
        let shares = self.shares.iter().flatten();
        shares.filter(|share| share.class == class).count() as u64
    }

    /// Makes the promises anew: the shares changed.
    fn promise(&mut self) {
        let counts = PARTS.map(|(class, parts)| (class, parts, self.count(class)));
        let in_use = counts.iter().filter(|(.., count)| *count > 0);
        let all: u64 = in_use.map(|(_, parts, _)| parts).sum();
        self.reserved = 0;
        for share in self.shares.iter_mut().flatten() {
            let of_class = counts.iter().find(|(class, ..)| *class == share.class);
            let (parts, count) = of_class.map_or((0, 1), |&(_, parts, count)| (parts, count));
            share.promise = self.limit / PROMISED_PART * parts / all.max(1) / count.max(1);
            self.reserved += share.reserved();
        }
    }
}

#[cfg(test)]
mod tests;
