//! The memory against random askers: shares that flow, stand still, come and go.

use proptest::prelude::*;

use super::*;

const LIMIT: u64 = 64_000;

/// What a share does next.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// Asks for so much.
    Take(usize, u64),
    /// The oldest piece of it is acknowledged.
    Acknowledge(usize),
    /// It stands still, or no longer.
    Hold(usize, bool),
    /// Another topic comes, or one that holds nothing goes.
    Add(usize),
    Remove(usize),
    /// The bound is another one.
    Resize(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let at = || 0usize..12;
    let act = prop_oneof![
        8 => (at(), 1u64..4000).prop_map(|(at, bytes)| Act::Take(at, bytes)),
        6 => at().prop_map(Act::Acknowledge),
        1 => (at(), any::<bool>()).prop_map(|(at, held)| Act::Hold(at, held)),
    ];
    prop::collection::vec(act, 0..400)
}

/// Shares with the pieces that they hold.
struct Model {
    pool: Pool,
    shares: Vec<(usize, Class, Vec<u64>, bool)>,
}

impl Model {
    fn new(shares: usize) -> Self {
        let mut pool = Pool::new(LIMIT);
        let add = |at: usize| {
            let class = Class::ALL[at % 4];
            (pool.add(class), class, Vec::new(), false)
        };
        let shares = (0..shares).map(add).collect();
        Self { pool, shares }
    }

    fn act(&mut self, act: Act) {
        let count = self.shares.len();
        match act {
            Act::Take(at, bytes) => {
                let (id, _, pieces, _) = &mut self.shares[at % count];
                if let Some(given) = self.pool.take(*id, bytes / 8, bytes) {
                    assert!((1..=bytes).contains(&given));
                    pieces.push(given);
                }
            }
            Act::Acknowledge(at) => {
                let (id, _, pieces, held) = &mut self.shares[at % count];
                // The bus takes nothing of one that stands still.
                if !*held && !pieces.is_empty() {
                    let bytes = pieces.remove(0);
                    self.pool.earn(*id, bytes);
                    self.pool.give_back(*id, bytes);
                }
            }
            Act::Hold(at, hold) => {
                let (id, _, _, held) = &mut self.shares[at % count];
                self.pool.hold(*id, hold);
                *held = hold;
            }
            Act::Add(at) => {
                let class = Class::ALL[at % 4];
                self.shares
                    .push((self.pool.add(class), class, Vec::new(), false));
            }
            Act::Resize(limit) => self.pool.resize(limit),
            Act::Remove(at) => {
                if count > 1 && self.shares[at % count].2.is_empty() {
                    let (id, ..) = self.shares.remove(at % count);
                    self.pool.remove(id);
                }
            }
        }
    }

    /// The bound holds, and the sums are what the shares hold.
    fn check_sums(&self) {
        let used: u64 = self
            .shares
            .iter()
            .flat_map(|(_, _, pieces, _)| pieces)
            .sum();
        assert_eq!(self.pool.used(), used);
        assert!(used <= LIMIT, "{used}");
        let by_class: u64 = Class::ALL
            .iter()
            .map(|&class| self.pool.used_by(class))
            .sum();
        assert_eq!(by_class, used);
    }

    /// Every share that does not stand still gets what it is promised, now.
    fn check_promises(&mut self) {
        let promise = |pool: &Pool, id: usize| pool.shares[id].as_ref().unwrap().promise;
        for at in 0..self.shares.len() {
            let (id, _, pieces, held) = &self.shares[at];
            let (id, held, used) = (*id, *held, pieces.iter().sum::<u64>());
            let left = promise(&self.pool, id).saturating_sub(used);
            if held || left == 0 {
                continue;
            }
            let (own, _) = self.pool.room(id).unwrap();
            assert_eq!(own, left, "share {at} is promised {left}");
        }
        // A class is promised more than its floor.
        for class in Class::ALL {
            let shares = self.shares.iter().filter(|share| share.1 == class);
            let sum: u64 = shares.map(|share| promise(&self.pool, share.0)).sum();
            assert!(sum == 0 || sum + 12 >= LIMIT / 16, "{class} has {sum}");
        }
    }
}

/// Takes pieces of 1000 bytes of each share in turns until nobody gets any.
fn fill_all(model: &mut Model) {
    while model
        .shares
        .iter_mut()
        .fold(false, |any, (id, _, pieces, _)| {
            let given = model.pool.take(*id, 1000, 1000);
            pieces.extend(given);
            any || given.is_some()
        })
    {}
}

proptest! {
    /// A smaller bound holds as soon as what was taken before came back; a larger one is used.
    #[test]
    fn another_bound_counts_at_once_for_what_is_taken(
        shares in 1usize..12,
        acts in acts(),
        other in (LIMIT / 4)..(LIMIT * 4),
    ) {
        let mut model = Model::new(shares);
        acts.into_iter().for_each(|act| model.act(act));
        let before = model.pool.used();
        model.act(Act::Resize(other));
        fill_all(&mut model);
        prop_assert!(model.pool.used() <= before.max(other));
        for at in 0..shares {
            model.act(Act::Hold(at, false));
            while !model.shares[at].2.is_empty() {
                model.act(Act::Acknowledge(at));
            }
        }
        fill_all(&mut model);
        let used = model.pool.used();
        // Each share has its part of the promised half, to a piece.
        let least = (other / 2).saturating_sub(1000 * shares as u64);
        prop_assert!((least..=other).contains(&used), "{} of {}", used, other);
    }

    /// Whatever they ask for: the bound holds, and nobody's promise is touched by the others.
    #[test]
    fn promises_are_kept_whatever_the_others_do(shares in 1usize..12, acts in acts()) {
        let mut model = Model::new(shares);
        for act in acts {
            model.act(act);
            model.check_sums();
            model.check_promises();
        }
    }

    /// Also while topics come and go, and in the end all is free again.
    #[test]
    fn sums_hold_while_topics_come_and_go(
        acts in acts(),
        changes in prop::collection::vec((any::<bool>(), 0usize..12), 0..60),
    ) {
        let mut model = Model::new(3);
        let mut changes = changes.into_iter();
        for (at, act) in acts.into_iter().enumerate() {
            if at % 5 == 0 && let Some((add, at)) = changes.next() {
                model.act(if add { Act::Add(at) } else { Act::Remove(at) });
            }
            model.act(act);
            model.check_sums();
        }
        for (id, _, pieces, _) in std::mem::take(&mut model.shares) {
            pieces.iter().for_each(|&bytes| model.pool.give_back(id, bytes));
            model.pool.remove(id);
        }
        prop_assert_eq!((model.pool.used(), model.pool.reserved), (0, 0));
        let id = model.pool.add(Class::P3);
        prop_assert_eq!(model.pool.take(id, 1, LIMIT / 2), Some(LIMIT / 2));
    }
}

/// Takes pieces of 1000 bytes until there are no more.
fn fill(pool: &mut Pool, id: usize) -> u64 {
    let mut taken = 0;
    while let Some(bytes) = pool.take(id, 1000, 1000) {
        taken += bytes;
    }
    taken
}

#[test]
fn p3_cannot_take_everything_and_p0_leaves_a_floor() {
    let mut pool = Pool::new(LIMIT);
    let ids = Class::ALL.map(|class| pool.add(class));
    for id in ids {
        pool.earn(id, LIMIT);
    }
    let [p0, _, p2, p3] = ids;
    let bulk = fill(&mut pool, p3);
    assert!(bulk < LIMIT / 2, "{bulk}");
    let rest = fill(&mut pool, p0);
    assert!(rest > LIMIT / 4, "{rest}");
    // Whoever comes last gets its floor.
    assert!(fill(&mut pool, p2) + 1000 > LIMIT / 16);
}

#[test]
fn topics_that_stand_still_hold_only_what_is_theirs() {
    let mut pool = Pool::new(LIMIT);
    let ids: Vec<usize> = (0..8).map(|_| pool.add(Class::P2)).collect();
    // Seven are refused from the beginning, and stay so for long.
    for _ in 0..1000 {
        for &id in &ids[1..] {
            fill(&mut pool, id);
            pool.hold(id, true);
        }
    }
    let promise = LIMIT / 2 / 8;
    assert!(pool.used() <= 7 * promise);
    // The eighth flows as if they were not there.
    let mut most = 0;
    for _ in 0..100 {
        let taken = fill(&mut pool, ids[0]);
        most = taken.max(most);
        pool.earn(ids[0], taken);
        pool.give_back(ids[0], taken);
    }
    assert!(most > promise + LIMIT / 5, "{most}");
}

#[test]
fn several_that_stop_one_after_the_other_leave_something_to_lend() {
    let mut pool = Pool::new(LIMIT);
    let ids: Vec<usize> = (0..6).map(|_| pool.add(Class::P1)).collect();
    for &id in &ids[..5] {
        // It flowed well, took what it could get, and stopped.
        pool.earn(id, LIMIT);
        fill(&mut pool, id);
        pool.hold(id, true);
    }
    let left = fill(&mut pool, ids[5]);
    assert!(left + 1000 > LIMIT / 2 / 6, "{left}");
    assert_eq!(
        pool.take(ids[0], 1, 1000),
        None,
        "it holds what it had, and no more"
    );
}

#[test]
fn a_very_long_line_gets_its_memory_while_others_ask() {
    let mut pool = Pool::new(LIMIT);
    let ids: Vec<usize> = (0..40).map(|at| pool.add(Class::ALL[at % 4])).collect();
    for &id in &ids {
        pool.earn(id, LIMIT);
    }
    let large = LIMIT / 4;
    let mut held = std::collections::VecDeque::new();
    for round in 0..1000 {
        for &id in &ids[1..] {
            while let Some(bytes) = pool.take(id, 500, 500) {
                held.push_back((id, bytes));
            }
        }
        if pool.take(ids[0], large, large).is_some() {
            assert!(round > 0, "there was room at once: the test tests nothing");
            return;
        }
        let (id, bytes) = held.pop_front().unwrap();
        pool.earn(id, bytes);
        pool.give_back(id, bytes);
    }
    panic!("it never went");
}
