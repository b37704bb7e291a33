//! Any order of arrivals, answers, writes, failures and outages: nothing is lost, nothing is doubled,
//! every stream keeps its order, everybody is told once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

const STREAMS: u64 = 3;

fn id(stream: u64, seq: u64) -> BatchId {
    BatchId {
        stream: StreamId(stream),
        epoch: Epoch(1),
        seq,
    }
}

#[test]
fn every_mode_and_event_has_its_next_mode() {
    use Event::{Down, Empty, Kept, Up};
    use Mode::{Direct, Draining, Spilling};
    let table = [
        (Direct, Down, Spilling),
        (Direct, Up, Direct),
        (Direct, Kept, Draining),
        (Direct, Empty, Direct),
        (Spilling, Down, Spilling),
        (Spilling, Up, Draining),
        (Spilling, Kept, Spilling),
        (Spilling, Empty, Spilling),
        (Draining, Down, Spilling),
        (Draining, Up, Draining),
        (Draining, Kept, Draining),
        (Draining, Empty, Direct),
    ];
    for (mode, event, next) in table {
        assert_eq!(mode.on(event), next, "{mode:?} {event:?}");
    }
}

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The agent sends the stream's next batch, or the one that was not taken.
    Send(u64),
    /// The destination answers the oldest batch of a stream.
    Deliver(u64),
    /// It fails it, and all of the stream behind it.
    Fail(u64),
    /// The oldest write is on the disk.
    Store,
    /// So many writes fail together.
    NotStored(usize),
    /// The target goes down or up.
    Down(bool),
    /// The drain picks a batch.
    Pick,
    /// The drain gives what it picked.
    Give,
    /// What could not be written is tried again.
    Retry,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = || 0..STREAMS;
    let step = prop_oneof![
        6 => stream().prop_map(Step::Send),
        4 => stream().prop_map(Step::Deliver),
        1 => stream().prop_map(Step::Fail),
        4 => Just(Step::Store),
        1 => (1usize..4).prop_map(Step::NotStored),
        2 => any::<bool>().prop_map(Step::Down),
        3 => Just(Step::Pick),
        3 => Just(Step::Give),
        1 => Just(Step::Retry),
    ];
    prop::collection::vec(step, 0..200)
}

/// A world around the queue: an agent, a destination, a disk.
#[derive(Default)]
struct World {
    queue: Queue<()>,
    target: Option<Arc<str>>,
    next_seq: [u64; 3],
    /// Not taken: the agent sends the first of them before anything else of the stream.
    again: BTreeMap<u64, BTreeSet<u64>>,
    /// Batches that the agent waits for.
    waits: BTreeSet<BatchId>,
    on_the_way: BTreeMap<u64, VecDeque<u64>>,
    writing: VecDeque<BatchId>,
    picked: Option<BatchId>,
    delivered: BTreeMap<u64, Vec<u64>>,
    /// Acknowledged from the disk.
    spilled: BTreeSet<BatchId>,
    records: u64,
}

impl World {
    fn target(&mut self) -> Arc<str> {
        Arc::clone(self.target.get_or_insert_with(|| "t".into()))
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send(stream) => self.send(stream),
            Step::Deliver(stream) => {
                let first = self.on_the_way.entry(stream).or_default().pop_front();
                if let Some(seq) = first {
                    self.delivered.entry(stream).or_default().push(seq);
                    self.queue.remove(id(stream, seq)).unwrap();
                    self.waits.remove(&id(stream, seq));
                }
            }
            Step::Fail(stream) => {
                let all = std::mem::take(self.on_the_way.entry(stream).or_default());
                for seq in all {
                    if self.queue.failed(id(stream, seq)) {
                        self.writing.push_back(id(stream, seq));
                    }
                }
            }
            Step::Store => {
                if let Some(batch) = self.writing.pop_front() {
                    self.store(batch);
                }
            }
            Step::NotStored(count) => {
                let count = count.min(self.writing.len());
                let failed: Vec<_> = self.writing.drain(..count).collect();
                for batch in failed {
                    if self.queue.not_stored(batch).is_some() {
                        self.not_taken(batch);
                    }
                }
            }
            Step::Down(down) => {
                let target = self.target();
                self.writing.extend(self.queue.set_down(&target, down));
                if down {
                    self.writing.extend(self.queue.rescue(&target));
                }
            }
            Step::Retry => {
                let again = self.queue.retry();
                self.writing
                    .extend(again.into_iter().map(|(batch, _target)| batch));
            }
            Step::Pick => {
                if self.picked.is_none() {
                    self.picked = self.queue.next().map(|(batch, ..)| batch);
                }
            }
            Step::Give => {
                let Some(batch) = self.picked.take() else {
                    return;
                };
                match self.queue.may_fly(batch) {
                    true => self.fly(batch),
                    false => self.queue.put_back(batch),
                }
            }
        }
    }

    fn fly(&mut self, batch: BatchId) {
        let line = self.on_the_way.entry(batch.stream.0).or_default();
        line.push_back(batch.seq);
    }

    fn store(&mut self, batch: BatchId) {
        self.records += 1;
        let place = Place {
            segment: 1,
            at: self.records,
            bytes: 10,
        };
        if self.queue.stored(batch, place).is_some() {
            self.waits.remove(&batch);
            self.spilled.insert(batch);
        } else if self.queue.is_doomed(batch) {
            self.queue.remove(batch).unwrap();
            self.not_taken(batch);
        }
    }

    fn not_taken(&mut self, batch: BatchId) {
        assert!(
            self.waits.remove(&batch),
            "{batch} was told before, and again that it was not taken"
        );
        let again = self.again.entry(batch.stream.0).or_default();
        again.insert(batch.seq);
    }

    fn send(&mut self, stream: u64) {
        let again = self.again.entry(stream).or_default().pop_first();
        let next = &mut self.next_seq[usize::try_from(stream).unwrap()];
        let seq = again.unwrap_or_else(|| {
            *next += 1;
            *next
        });
        let (batch, target) = (id(stream, seq), self.target());
        self.waits.insert(batch);
        match self.queue.arrive(batch, &target, Class::P2, ()) {
            Verdict::Live => self.fly(batch),
            Verdict::Spill => self.writing.push_back(batch),
            Verdict::Wait(()) => self.not_taken(batch),
        }
    }

    /// Everything is well from now on: all that was sent arrives.
    fn settle(&mut self) {
        self.step(Step::Down(false));
        for _round in 0..2_000 {
            let again = self.again.values().any(|again| !again.is_empty());
            if !again && self.waits.is_empty() && self.queue.streams.is_empty() {
                break;
            }
            for stream in 0..STREAMS {
                if self
                    .again
                    .get(&stream)
                    .is_some_and(|again| !again.is_empty())
                {
                    self.send(stream);
                }
                self.step(Step::Deliver(stream));
            }
            self.step(Step::Retry);
            self.step(Step::Store);
            self.step(Step::Give);
            self.step(Step::Pick);
        }
        // Of a record that nobody waited for.
        while let Some(batch) = self.writing.pop_front() {
            self.store(batch);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn nothing_is_lost_doubled_or_out_of_order(steps in steps()) {
        let mut world = World::default();
        for step in steps {
            world.step(step);
        }
        world.settle();
        prop_assert!(world.waits.is_empty(), "nobody told of {:?}", world.waits);
        for stream in 0..STREAMS {
            let last = world.next_seq[usize::try_from(stream).unwrap()];
            let delivered = world.delivered.remove(&stream).unwrap_or_default();
            prop_assert_eq!(delivered, (1..=last).collect::<Vec<_>>());
        }
        prop_assert_eq!(world.queue.backlog(), Backlog::default());
        prop_assert!(world.queue.streams.is_empty());
        prop_assert!(world.queue.ways.is_empty(), "{:?}", world.queue.ways);
    }
}

fn kept(queue: &mut Queue<()>, target: &str, batch: BatchId, class: Class, order: u64) {
    let place = Place {
        segment: 1,
        at: order,
        bytes: 10,
    };
    assert!(queue.recovered(batch, &target.into(), (class, order), place));
}

#[test]
fn the_most_urgent_class_leaves_first_and_in_it_the_oldest() {
    let mut queue = Queue::default();
    kept(&mut queue, "a", id(1, 1), Class::P2, 1);
    kept(&mut queue, "b", id(2, 1), Class::P0, 5);
    kept(&mut queue, "a", id(3, 1), Class::P0, 4);
    kept(&mut queue, "a", id(1, 2), Class::P2, 2);
    kept(&mut queue, "b", id(4, 1), Class::P2, 0);
    let mut order = Vec::new();
    while let Some((batch, ..)) = queue.next() {
        order.push((batch.stream.0, batch.seq));
    }
    assert_eq!(order, [(3, 1), (2, 1), (4, 1), (1, 1), (1, 2)]);
}

#[test]
fn a_target_that_is_down_holds_up_no_other() {
    let mut queue = Queue::default();
    kept(&mut queue, "a", id(1, 1), Class::P0, 1);
    kept(&mut queue, "b", id(2, 1), Class::P2, 2);
    queue.set_down(&"a".into(), true);
    assert_eq!(queue.next().map(|(batch, ..)| batch), Some(id(2, 1)));
    assert_eq!(queue.next(), None);
    queue.set_down(&"a".into(), false);
    assert_eq!(queue.next().map(|(batch, ..)| batch), Some(id(1, 1)));
}

#[test]
fn other_streams_go_live_while_one_is_drained() {
    let mut queue = Queue::default();
    kept(&mut queue, "a", id(1, 1), Class::P2, 1);
    kept(&mut queue, "a", id(1, 2), Class::P2, 2);
    let mut arrive = |batch| queue.arrive(batch, &"a".into(), Class::P2, ());
    assert!(matches!(arrive(id(2, 1)), Verdict::Live));
    assert!(matches!(arrive(id(1, 3)), Verdict::Spill));
    assert!(matches!(arrive(id(2, 2)), Verdict::Live));
}

#[test]
fn a_stream_that_the_destination_refuses_waits_and_holds_up_no_other() {
    let mut queue = Queue::default();
    kept(&mut queue, "a", id(1, 1), Class::P0, 1);
    kept(&mut queue, "a", id(2, 1), Class::P2, 2);
    let (first, ..) = queue.next().unwrap();
    assert!(!queue.failed(first), "it is on the disk");
    queue.stick(first.stream);
    assert_eq!(queue.next().map(|(batch, ..)| batch), Some(id(2, 1)));
    assert_eq!((queue.next(), queue.backlog().stuck_streams), (None, 1));
    queue.unstick();
    assert_eq!(queue.next().map(|(batch, ..)| batch), Some(first));
}

#[test]
fn what_only_waits_on_the_disk_has_no_entry_and_is_known() {
    let mut queue = Queue::default();
    for seq in 1..=1_000 {
        kept(&mut queue, "a", id(1, seq), Class::P2, seq);
    }
    let entries = |queue: &Queue<()>| queue.streams[&StreamId(1)].entries.len();
    assert_eq!(entries(&queue), 0);
    for seq in 1..=10 {
        assert_eq!(queue.next().map(|(batch, ..)| batch), Some(id(1, seq)));
    }
    assert_eq!(entries(&queue), 10);
    assert!((1..=1_000).all(|seq| queue.holds(id(1, seq))));
    assert!(!queue.holds(id(1, 1_001)));
    assert!(queue.remove(id(1, 500)).is_some());
    assert_eq!(queue.place_of(id(1, 500)), None);
    assert_eq!(queue.backlog().batches, 999);
}
