//! The window against every mood of a bus.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;
use tributary_common::{
    header::{BatchHeader, MinuteCount},
    ids::{AgentId, Epoch, GenerationId, Name, NodeId, TaskId},
    span::Span,
};

use super::*;
use crate::limit::Budget;

fn outgoing(budget: &Arc<Budget>, stream: u64, seq: u64, class: Class) -> Outgoing {
    let header = BatchHeader {
        agent: AgentId::new("a").unwrap(),
        stream: StreamId(stream),
        epoch: Epoch(1),
        seq,
        generation: GenerationId(1),
        span: Span {
            start: seq,
            end: seq + 1,
        },
        task: TaskId::new("t").unwrap(),
        topic: Topic::new(&format!("topic-{}", stream % 2)).unwrap(),
        class,
        resends: 0,
        records: 1,
        raw_bytes: 1,
        minutes: vec![MinuteCount {
            minute: 1,
            records: 1,
        }],
        content_sum: 0,
        file: String::new(),
        keyed: false,
    };
    let share = budget.share(&Topic::new("any").unwrap(), class);
    let permit = share.take(1, 1).unwrap();
    Outgoing {
        header: Box::new(header),
        payload: Bytes::from_static(&[0; 100]),
        permit,
    }
}

fn welcome(window_batches: u32) -> Welcome {
    Welcome {
        node: NodeId::new("n").unwrap(),
        cluster: Name::new("c").unwrap(),
        epoch: Epoch(1),
        window_batches,
        window_bytes: 1 << 20,
    }
}

fn window(batches: u32) -> (Window, Arc<Budget>) {
    let mut window = Window::new(100);
    window.open(&welcome(batches));
    (window, Budget::new(1 << 20, || {}))
}

fn busy(batch: BatchId, scope: Scope) -> Busy {
    Busy {
        batch,
        retry_after_ms: 100,
        scope,
        reason: String::new(),
    }
}

fn take(window: &mut Window, now: Instant) -> Option<BatchId> {
    window
        .next(now, Class::P3)
        .map(|outgoing| outgoing.header.id())
}

#[test]
fn bulk_that_is_held_waits_unless_its_floor_is_due() {
    let (mut window, budget) = window(1000);
    let now = Instant::now();
    for seq in 1..=60 {
        window.push(outgoing(&budget, 1, seq, Class::P0));
        window.push(outgoing(&budget, 2, seq, Class::P3));
    }
    let mut order = Vec::new();
    while let Some(outgoing) = window.next(now, Class::P0) {
        let header = &outgoing.header;
        order.push(header.class);
        let id = header.id();
        window.acknowledge(id);
    }
    let bulk = order.iter().filter(|&&class| class == Class::P3).count();
    assert!((1..=3).contains(&bulk), "{order:?}");
    assert_eq!(order.len() - bulk, 60);
    assert!(window.next(now, Class::P3).is_some());
}

#[test]
fn urgent_batches_go_first_and_have_room_of_their_own() {
    let (mut window, budget) = window(8);
    for stream in 0..12 {
        window.push(outgoing(&budget, stream, 1, Class::P3));
    }
    let now = Instant::now();
    let bulk = std::iter::from_fn(|| take(&mut window, now)).count();
    assert!(
        (4..=6).contains(&bulk),
        "{bulk}: a quarter is left to urgent ones"
    );
    window.push(outgoing(&budget, 99, 1, Class::P0));
    assert_eq!(take(&mut window, now).unwrap().stream, StreamId(99));
}

#[test]
fn a_full_window_of_p0_leaves_every_class_its_floor() {
    let (mut window, budget) = window(8);
    let (mut seqs, mut sent) = ([0; 4], [0; 4]);
    let mut in_flight = VecDeque::new();
    let now = Instant::now();
    for _ in 0..4000 {
        for class in Class::ALL {
            let at = class as usize;
            while seqs[at] < sent[at] + 10 {
                seqs[at] += 1;
                window.push(outgoing(&budget, 2 * at as u64, seqs[at], class));
            }
        }
        while let Some(batch) = take(&mut window, now) {
            sent[usize::try_from(batch.stream.0).unwrap() / 2] += 1;
            in_flight.push_back(batch);
        }
        // The bus takes the oldest.
        window.acknowledge(in_flight.pop_front().unwrap()).unwrap();
    }
    for bulk in &sent[1..] {
        assert!((190..=220).contains(bulk), "{sent:?}");
    }
}

#[test]
fn topics_whose_answers_do_not_come_leave_room_to_others() {
    let (mut window, budget) = window(64);
    let now = Instant::now();
    // Even streams are of one topic, odd ones of another: the even one is stuck.
    for stream in 0..40 {
        for seq in 1..=4 {
            window.push(outgoing(&budget, stream * 2, seq, Class::P2));
        }
    }
    // It was answered at first, and then no more.
    for _ in 0..60 {
        let batch = take(&mut window, now).unwrap();
        window.acknowledge(batch).unwrap();
    }
    let stuck = std::iter::from_fn(|| take(&mut window, now)).count();
    assert!(
        stuck > 30,
        "a topic that is alone may use most of the window"
    );
    for round in 1..=50 {
        window.push(outgoing(&budget, 1, round, Class::P2));
        let sent: Vec<BatchId> = std::iter::from_fn(|| take(&mut window, now)).collect();
        assert_eq!(sent.len(), 1, "{stuck} are stuck");
        assert_eq!(sent[0].stream, StreamId(1));
        window.acknowledge(sent[0]).unwrap();
    }
}

#[test]
fn after_busy_a_stream_goes_on_with_its_oldest_batch_when_all_is_answered() {
    let (mut window, budget) = window(8);
    for seq in 1..=4 {
        window.push(outgoing(&budget, 2, seq, Class::P2));
    }
    let now = Instant::now();
    let sent: Vec<BatchId> = std::iter::from_fn(|| take(&mut window, now))
        .take(3)
        .collect();
    let topic = Scope::Topic(Topic::new("topic-0").unwrap());
    window.busy(&busy(sent[0], topic.clone()), now);
    let later = now + Duration::from_millis(150);
    assert_eq!(take(&mut window, later), None, "two are still in flight");
    window.busy(&busy(sent[1], topic.clone()), now);
    window.busy(&busy(sent[2], topic), now);
    assert_eq!(take(&mut window, now), None);
    assert!(window.next_time().is_some());
    let mut again = Vec::new();
    while let Some(batch) = take(&mut window, later) {
        // One first: whether the bus takes it tells whether it takes the others.
        if again.is_empty() {
            assert_eq!(take(&mut window, later), None);
        }
        again.push(batch.seq);
        window.acknowledge(batch).unwrap();
    }
    assert_eq!(again, [1, 2, 3, 4]);
}

#[test]
fn a_refused_stream_stops_and_the_others_go_on() {
    let (mut window, budget) = window(8);
    for stream in [2, 3] {
        window.push(outgoing(&budget, stream, 1, Class::P2));
        window.push(outgoing(&budget, stream, 2, Class::P2));
    }
    let now = Instant::now();
    let first = take(&mut window, now).unwrap();
    let refused = window.refuse(first, now).unwrap();
    assert_eq!((refused.header.seq, refused.header.resends), (1, 1));
    let others: Vec<StreamId> = std::iter::from_fn(|| take(&mut window, now))
        .map(|batch| batch.stream)
        .collect();
    assert!(others.iter().all(|&stream| stream != first.stream) && others.len() == 2);
    let again = take(&mut window, now + REFUSED_AGAIN).unwrap();
    assert_eq!((again.stream, again.seq), (first.stream, 1));
}

/// What a bus may do next.
#[derive(Debug, Clone, Copy)]
enum Act {
    Push(u64),
    Send,
    Acknowledge(usize),
    Busy(usize, u8),
    Refuse(usize),
    Reset,
    Pass(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0u64..4).prop_map(Act::Push),
        5 => Just(Act::Send),
        3 => any::<usize>().prop_map(Act::Acknowledge),
        2 => (any::<usize>(), 0u8..2).prop_map(|(at, scope)| Act::Busy(at, scope)),
        1 => any::<usize>().prop_map(Act::Refuse),
        1 => Just(Act::Reset),
        2 => (0u64..400).prop_map(Act::Pass),
    ];
    prop::collection::vec(act, 0..200)
}

/// The bus, as far as order goes: per stream the oldest batch that it could not take, before which
/// it takes no later one.
#[derive(Default)]
struct Model {
    in_flight: Vec<BatchId>,
    not_taken: BTreeMap<StreamId, u64>,
    done: u64,
}

proptest! {
    /// Whatever the bus does: nothing is forgotten, nothing goes twice at once, and after a batch
    /// was not taken nothing later of its stream goes before it.
    #[test]
    fn nothing_is_forgotten_and_order_is_kept(acts in acts()) {
        let (mut window, budget) = window(6);
        let (mut model, mut seqs) = (Model::default(), BTreeMap::<u64, u64>::new());
        let mut now = Instant::now();
        let mut pushed = 0;
        for act in acts {
            let pick = |at: usize, model: &mut Model| {
                let len = model.in_flight.len();
                (len > 0).then(|| model.in_flight.remove(at % len))
            };
            match act {
                Act::Push(stream) => {
                    let seq = seqs.entry(stream).or_insert(0);
                    *seq += 1;
                    pushed += 1;
                    window.push(outgoing(&budget, stream, *seq, Class::P2));
                }
                Act::Send => if let Some(batch) = take(&mut window, now) {
                    prop_assert!(!model.in_flight.contains(&batch));
                    if let Some(&first) = model.not_taken.get(&batch.stream) {
                        prop_assert!(batch.seq <= first, "{batch} before {first}");
                        model.not_taken.remove(&batch.stream);
                    }
                    model.in_flight.push(batch);
                },
                Act::Acknowledge(at) => if let Some(batch) = pick(at, &mut model) {
                    prop_assert!(window.acknowledge(batch).is_some());
                    model.done += 1;
                },
                Act::Busy(at, scope) => if let Some(batch) = pick(at, &mut model) {
                    let scope = if scope == 0 { Scope::Node } else {
                        Scope::Topic(Topic::new(&format!("topic-{}", batch.stream.0 % 2)).unwrap())
                    };
                    window.busy(&busy(batch, scope), now);
                    let first = model.not_taken.entry(batch.stream).or_insert(batch.seq);
                    *first = batch.seq.min(*first);
                },
                Act::Refuse(at) => if let Some(batch) = pick(at, &mut model) {
                    window.refuse(batch, now);
                    let first = model.not_taken.entry(batch.stream).or_insert(batch.seq);
                    *first = batch.seq.min(*first);
                },
                Act::Reset => {
                    window.reset();
                    model.in_flight.clear();
                    model.not_taken.clear();
                }
                Act::Pass(ms) => now += Duration::from_millis(ms),
            }
            prop_assert_eq!(window.in_flight(), model.in_flight.len() as u64);
            let known = window.waiting() + window.in_flight() + model.done;
            prop_assert_eq!(known, pushed);
        }
        // A bus that takes everything gets everything.
        while !window.is_empty() {
            for batch in std::mem::take(&mut model.in_flight) {
                window.acknowledge(batch);
            }
            now += REFUSED_AGAIN;
            while let Some(batch) = take(&mut window, now) {
                window.acknowledge(batch);
            }
        }
        prop_assert_eq!(budget.used(), 0);
    }
}

/// A topic that had one batch acknowledged after the other may have as many in flight when it comes again,
/// until it is busy, or another node is asked.
#[test]
fn what_a_topic_may_have_in_flight_is_known_after_a_rest() {
    let now = Instant::now();
    let (mut window, budget) = window(64);
    let burst = |window: &mut Window, seq: u64| {
        for stream in 0..40 {
            window.push(outgoing(&budget, 2 * stream, seq, Class::P2));
        }
        let first: Vec<BatchId> = std::iter::from_fn(|| take(window, now)).collect();
        let mut sent = first.clone();
        while let Some(batch) = sent.pop() {
            window.acknowledge(batch);
            sent.extend(std::iter::from_fn(|| take(window, now)));
        }
        assert!(window.is_empty());
        first.len()
    };
    assert_eq!(burst(&mut window, 1), 4, "nobody knows yet");
    assert_eq!(burst(&mut window, 2), 40);
    window.push(outgoing(&budget, 0, 3, Class::P2));
    let batch = take(&mut window, now).unwrap();
    let topic = Topic::new("topic-0").unwrap();
    window.busy(&busy(batch, Scope::Topic(topic)), now);
    let later = now + Duration::from_secs(1);
    let batch = take(&mut window, later).unwrap();
    window.acknowledge(batch);
    assert_eq!(burst(&mut window, 4), 4, "it was busy");
    assert_eq!(burst(&mut window, 5), 40);
    window.reset();
    assert_eq!(burst(&mut window, 6), 4, "another node");
}
