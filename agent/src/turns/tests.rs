//! The rule against a model: random classes, tasks, streams, pieces and arrivals.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const QUANTUM: u64 = 1000;

/// A stream of the model.
type Key = (usize, u8, u8);

fn class(at: usize) -> Class {
    Class::ALL[at % 4]
}

fn of(class: Class) -> usize {
    Class::ALL.iter().position(|&known| known == class).unwrap()
}

/// What was served.
#[derive(Default)]
struct Model {
    /// Who waits, and what it was given since it came.
    waiting: BTreeMap<Key, u64>,
    /// What each class was given, and all, since the class has waited without a pause.
    classes: [(u64, u64); 4],
    /// What less urgent classes were given since a class has waited without a pause.
    below: [u64; 4],
}

impl Model {
    fn arrive(&mut self, key: Key) -> bool {
        if self.waiting.contains_key(&key) {
            return false;
        }
        if !self.waits(key.0) {
            self.classes[key.0] = (0, 0);
            self.below[key.0] = 0;
        }
        // Whoever is compared with it is compared from now on.
        for (other, given) in &mut self.waiting {
            if other.0 == key.0 {
                *given = 0;
            }
        }
        self.waiting.insert(key, 0);
        true
    }

    fn waits(&self, class: usize) -> bool {
        self.waiting.keys().any(|key| key.0 == class)
    }

    fn serve(&mut self, key: Key, bytes: u64) {
        *self.waiting.get_mut(&key).unwrap() += bytes;
        for at in 0..4 {
            if self.waits(at) {
                self.classes[at].1 += bytes;
                if at < key.0 {
                    self.below[at] += bytes;
                }
            }
        }
        self.classes[key.0].0 += bytes;
    }

    fn leave(&mut self, key: Key) {
        self.waiting.remove(&key);
        for (other, given) in &mut self.waiting {
            if other.0 == key.0 {
                *given = 0;
            }
        }
    }

    /// What must hold at any time.
    fn check(&self, most: u64) {
        for at in 0..4 {
            if !self.waits(at) {
                continue;
            }
            let (given, all) = self.classes[at];
            // The floor: a twentieth, but for what it may be owed before it goes first, and for
            // the others that are owed theirs at the same time.
            assert!(
                given + QUANTUM + 4 * most >= all / 20,
                "P{at} got {given} of {all}"
            );
            // Strictness: who is less urgent gets its floor and no more.
            let floors = (3 - at as u64) * (all / 20 + QUANTUM + most);
            assert!(
                self.below[at] <= floors,
                "below P{at}: {} of {all}",
                self.below[at]
            );
        }
        self.check_rounds(most);
    }

    /// Two tasks of a class that wait got the same but for a round, and so did two streams of a task.
    fn check_rounds(&self, most: u64) {
        let mut tasks: BTreeMap<(usize, u8), u64> = BTreeMap::new();
        for (key, given) in &self.waiting {
            *tasks.entry((key.0, key.1)).or_default() += given;
        }
        // From any moment on, not only from the begin of a round: a round before, one after.
        let bound = 2 * (QUANTUM + most);
        for ((class, task), given) in &tasks {
            for ((other_class, other), others) in &tasks {
                if class == other_class {
                    let apart = given.abs_diff(*others);
                    assert!(apart <= bound, "P{class}: task {task} and {other}: {apart}");
                }
            }
        }
        for (key, given) in &self.waiting {
            for (other, others) in &self.waiting {
                if (key.0, key.1) == (other.0, other.1) {
                    let apart = given.abs_diff(*others);
                    assert!(apart <= bound, "{key:?} and {other:?}: {apart}");
                }
            }
        }
    }
}

/// What happens next.
#[derive(Debug, Clone)]
enum Act {
    Arrive(Key),
    /// The next turn takes so many bytes; then the stream may have nothing more.
    Serve(u64, bool),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        1 => (0usize..4, 0u8..3, 0u8..3).prop_map(Act::Arrive),
        20 => (1..=QUANTUM, prop::bool::weighted(0.02)).prop_map(|(n, ends)| Act::Serve(n, ends)),
    ];
    prop::collection::vec(act, 0..600)
}

proptest! {
    /// Whatever comes: a turn is given exactly while somebody waits, urgent classes go first, none
    /// is starved, and neighbours share.
    #[test]
    fn turns_are_strict_with_floors_and_fair_inside(acts in acts()) {
        let mut turns = Turns::new(QUANTUM);
        let mut model = Model::default();
        for act in acts {
            match act {
                Act::Arrive(key) => if model.arrive(key) {
                    turns.add(class(key.0), key.1, key);
                },
                Act::Serve(bytes, ends) => {
                    let pick = turns.pick(|_, _| true);
                    prop_assert_eq!(pick.is_some(), !model.waiting.is_empty());
                    let Some(pick) = pick else { continue };
                    let key = pick.key;
                    prop_assert_eq!((of(pick.class), pick.group), (key.0, key.1));
                    model.serve(key, bytes);
                    turns.done(pick, bytes, !ends);
                    if ends {
                        model.leave(key);
                    }
                    model.check(QUANTUM);
                }
            }
            for at in 0..4 {
                let known = model.waiting.keys().filter(|key| key.0 == at).count();
                prop_assert_eq!(turns.waiting(class(at)), known);
            }
        }
    }
}

/// Serves pieces of 100 bytes to whoever is first, and sums up what each stream got.
fn serve(turns: &mut Turns<u8, Key>, times: usize) -> BTreeMap<Key, u64> {
    let mut given = BTreeMap::new();
    for _ in 0..times {
        let pick = turns.pick(|_, _| true).unwrap();
        *given.entry(pick.key).or_default() += 100;
        turns.done(pick, 100, true);
    }
    given
}

#[test]
fn a_flood_of_p0_leaves_every_class_a_twentieth() {
    let mut turns = Turns::new(QUANTUM);
    for at in 0..4 {
        turns.add(class(at), 0, (at, 0, 0));
    }
    let given = serve(&mut turns, 100_000);
    for at in 1..4 {
        let share = given[&(at, 0, 0)];
        assert!((490_000..=510_000).contains(&share), "P{at}: {share}");
    }
    assert!(given[&(0, 0, 0)] >= 8_400_000);
}

#[test]
fn a_task_of_many_files_gets_no_more_than_a_task_of_one() {
    let mut turns = Turns::new(QUANTUM);
    turns.add(Class::P2, 0, (2, 0, 0));
    for stream in 0..100 {
        turns.add(Class::P2, 1, (2, 1, stream));
    }
    let given = serve(&mut turns, 4000);
    let one = given[&(2, 0, 0)];
    assert!((199_000..=201_000).contains(&one), "{one}");
    let others = given.values().copied().filter(|&bytes| bytes != one);
    assert!(others.clone().min() >= Some(1000) && others.max() <= Some(3000));
}

#[test]
fn who_took_a_large_piece_waits_until_the_others_caught_up() {
    let mut turns = Turns::new(QUANTUM);
    turns.add(Class::P1, 0, "large");
    let pick = turns.pick(|_, _| true).unwrap();
    turns.add(Class::P1, 0, "small");
    turns.done(pick, 5 * QUANTUM, true);
    let mut small = 0;
    loop {
        let pick = turns.pick(|_, _| true).unwrap();
        if pick.key == "large" {
            break;
        }
        small += 500;
        turns.done(pick, 500, true);
    }
    assert!((4 * QUANTUM..=6 * QUANTUM).contains(&small), "{small}");
}

#[test]
fn a_class_that_is_not_allowed_is_passed_over_and_catches_up_a_little() {
    let mut turns = Turns::new(QUANTUM);
    turns.add(Class::P0, 0, (0, 0, 0));
    turns.add(Class::P3, 0, (3, 0, 0));
    for _ in 0..10_000 {
        let pick = turns.pick(|class, _| class == Class::P0).unwrap();
        assert_eq!(pick.class, Class::P0);
        turns.done(pick, 100, true);
    }
    assert!(turns.pick(|_, _| false).is_none());
    let given = serve(&mut turns, 1000);
    let late = given[&(3, 0, 0)];
    assert!((4000..=10_000).contains(&late), "{late}");
}
