//! A node with a destination and its standby: who gets what, whatever happens.

use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::{
    dedupe::{Answer, Waiter},
    destination::{
        Failure,
        memory::{MemorySink, Script},
    },
    route::Table,
    testing::{Rig, accepted_by, batch, rig, rig_with_spill},
};

async fn give(rig: &Rig, stream: u64, seq: u64) -> oneshot::Receiver<Answer> {
    let (told, answer) = oneshot::channel();
    let batch = accepted_by(&rig.node, batch("safe", stream, seq, &["x"])).await;
    rig.node.take(batch, Waiter::Lines(told));
    answer
}

async fn given(rig: &Rig, stream: u64, seq: u64) -> Answer {
    give(rig, stream, seq).await.await.unwrap()
}

/// Lets time pass for the breakers.
fn pass(rig: &Rig, now: &mut Instant, seconds: u64) {
    for _look in 0..seconds * 4 {
        *now += LOOK_EVERY;
        look(&rig.node, *now);
    }
}

async fn pass_really(rig: &Rig, seconds: u32) {
    for _look in 0..seconds * 4 {
        tokio::time::advance(LOOK_EVERY).await;
        look(&rig.node, Instant::now());
    }
}

fn arrived(sink: &MemorySink) -> Vec<(u64, u64)> {
    let all = sink.delivered().into_iter();
    all.map(|(id, ..)| (id.stream.0, id.seq)).collect()
}

fn uses(rig: &Rig) -> String {
    let routing = rig.node.routing();
    let page = routing
        .table()
        .with_standby()
        .next()
        .unwrap()
        .switch
        .status();
    page["uses"].as_str().unwrap().to_owned()
}

fn is_delivered(answer: &Answer) -> bool {
    match answer {
        Answer::Receipt(receipt) => {
            matches!(
                receipt.outcome,
                tributary_common::wire::Outcome::Delivered(_)
            )
        }
        Answer::Busy(_) | Answer::Refuse(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_new_batches_and_what_was_given_stays_where_it_is() {
    let rig = rig_with_spill(TempDir::new().unwrap(), 10 << 20, 1 << 20);
    let mut now = Instant::now();
    assert!(is_delivered(&given(&rig, 1, 1).await));
    rig.sink.script([Script::Hold]);
    let hung = give(&rig, 1, 2).await;
    rig.sink.set_down(Some("away"));
    pass(&rig, &mut now, 2);
    assert_eq!(uses(&rig), "first", "a short trouble moves nothing");
    assert!(!is_delivered(&given(&rig, 2, 1).await), "it is spilled");
    pass(&rig, &mut now, 2);
    assert_eq!(uses(&rig), "second");
    // Its batch that hangs is on its disk by now, and not sent anywhere else.
    assert!(matches!(hung.await.unwrap(), Answer::Receipt(_)));
    for (stream, seq) in [(1, 2), (1, 3), (2, 1), (2, 2)] {
        let answer = given(&rig, stream, seq).await;
        assert!(matches!(answer, Answer::Receipt(_)), "{answer:?}");
    }
    assert_eq!(arrived(&rig.second), [(1, 3), (2, 2)]);

    rig.second.set_down(Some("away, too"));
    pass(&rig, &mut now, 4);
    assert_eq!(uses(&rig), "first", "nobody is well: its spill takes them");
    assert!(!is_delivered(&given(&rig, 3, 1).await));
    rig.second.set_down(None);
    rig.sink.set_down(None);
    rig.sink.release();
    for _look in 0..3_000 {
        if rig.spills().iter().all(|spill| spill.is_empty()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    pass(&rig, &mut now, 6);
    assert_eq!(uses(&rig), "first", "what its disk held was delivered");
    assert!(is_delivered(&given(&rig, 1, 4).await));
    let mut first = arrived(&rig.sink);
    first.sort_unstable();
    assert_eq!(first, [(1, 1), (1, 2), (1, 4), (2, 1), (3, 1)]);
    assert_eq!(arrived(&rig.second), [(1, 3), (2, 2)]);
    rig.end();
}

#[tokio::test(start_paused = true)]
async fn one_batch_sees_whether_the_primary_is_well_and_what_failed_goes_nowhere_else() {
    let rig = rig();
    let failed = Failure::Unavailable("gone".to_owned());
    rig.sink.script([Script::Fail(failed)]);
    assert!(matches!(given(&rig, 1, 1).await, Answer::Busy(_)));
    rig.sink.set_down(Some("away"));
    pass_really(&rig, 4).await;
    assert!(is_delivered(&given(&rig, 2, 1).await));
    rig.sink.set_down(None);
    assert!(
        is_delivered(&given(&rig, 1, 1).await),
        "it may be there, and only there"
    );
    pass_really(&rig, 1).await;
    assert!(is_delivered(&given(&rig, 2, 2).await));
    pass_really(&rig, 6).await;
    assert_eq!(uses(&rig), "second");
    for seq in [3, 4] {
        assert!(is_delivered(&given(&rig, 2, seq).await));
    }
    pass_really(&rig, 1).await;
    assert_eq!(uses(&rig), "first");
    assert_eq!(arrived(&rig.sink), [(1, 1), (2, 3)]);
    assert_eq!(arrived(&rig.second), [(2, 1), (2, 2), (2, 4)]);
    rig.end();
}

/// The rules of a rig for `safe*`, or the same topics straight to the second destination.
fn rules(to_second: bool) -> Table {
    let to = match to_second {
        true => "{ destination = 'second' }",
        false => "{ destination = 'first', standby = ['second'] }",
    };
    let text = format!(
        "zone = 'z'\ncluster = 'c'\nnode = 'n'\n\
         [[destination]]\nname = 'first'\nkind = 'file'\npath = '/a'\n\
         [[destination]]\nname = 'second'\nkind = 'file'\npath = '/b'\n\
         [[route]]\ntopic = 'safe*'\nto = [{to}]\n"
    );
    let config = crate::config::parse(&text, "test").unwrap().value;
    config.routes.moved_to(&[0, 1])
}

/// An agent's streams: each sends a batch until it is taken, then the next one.
struct Streams {
    rng: fastrand::Rng,
    next: Vec<u64>,
    waiting: Vec<Option<oneshot::Receiver<Answer>>>,
}

impl Streams {
    /// A stream hears its answer, or sends.
    async fn go_on(&mut self, rig: &Rig, stream: usize) {
        let Some(waiting) = &mut self.waiting[stream] else {
            let answer = give(rig, stream as u64, self.next[stream]).await;
            self.waiting[stream] = Some(answer);
            return;
        };
        match waiting.try_recv() {
            Ok(Answer::Receipt(_)) => self.next[stream] += 1,
            Ok(Answer::Busy(_)) => {}
            Ok(Answer::Refuse(no)) => panic!("{no:?}"),
            Err(_no_answer_yet) => return,
        }
        self.waiting[stream] = None;
    }
}

/// One run of random events; what each destination has in the end, and how many batches of each stream
/// were acknowledged.
async fn storm(seed: u64) -> ([Vec<(u64, u64)>; 2], Vec<u64>) {
    let rig = rig_with_spill(TempDir::new().unwrap(), 10 << 20, 1 << 20);
    let mut now = Instant::now();
    let mut streams = Streams {
        rng: fastrand::Rng::with_seed(seed),
        next: vec![1; 4],
        waiting: (0..4).map(|_no| None).collect(),
    };
    for _step in 0..600 {
        let sink = if streams.rng.bool() {
            &rig.sink
        } else {
            &rig.second
        };
        match streams.rng.u8(..40) {
            0 => rig.second.set_down(Some("away")),
            11..13 => rig.sink.set_down(Some("away")),
            1 => sink.set_down(None),
            2 => sink.script([Script::Hold, Script::Hold]),
            3 => sink.release(),
            4 => sink.script([Script::Fail(Failure::Unavailable("no".to_owned()))]),
            5 => {
                let table = rules(streams.rng.u8(..4) == 0);
                rig.node.reroute(|routing| routing.route_by(table));
            }
            6..9 => {
                let seconds = streams.rng.u64(1..5);
                pass(&rig, &mut now, seconds);
            }
            9 => tokio::time::sleep(Duration::from_millis(20)).await,
            13..19 => {
                // The answer to it was lost.
                let stream = streams.rng.usize(..4);
                let seq = streams.rng.u64(1..=streams.next[stream]);
                if seq < streams.next[stream] {
                    let answer = given(&rig, stream as u64, seq).await;
                    assert!(
                        matches!(answer, Answer::Receipt(_)),
                        "seed {seed}: {answer:?}"
                    );
                }
            }
            _ => {
                let stream = streams.rng.usize(..4);
                streams.go_on(&rig, stream).await;
            }
        }
    }
    let is_idle = |streams: &Streams| streams.waiting.iter().all(Option::is_none);
    for _look in 0..3_000 {
        for sink in [&rig.sink, &rig.second] {
            sink.set_down(None);
            sink.release();
        }
        for stream in 0..4 {
            if streams.waiting[stream].is_some() {
                streams.go_on(&rig, stream).await;
            }
        }
        if is_idle(&streams) && rig.spills().iter().all(|spill| spill.is_empty()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(is_idle(&streams), "seed {seed}: somebody is never answered");
    let places = [arrived(&rig.sink), arrived(&rig.second)];
    rig.end();
    (places, streams.next.iter().map(|next| next - 1).collect())
}

/// Destinations come and go, hang and fail, rules change: every batch that was acknowledged lies in one
/// of them, once, behind the earlier ones of its stream there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_each_batch_lies_in_one_destination_and_in_order() {
    let mut shared = 0;
    for seed in 0..10 {
        let (places, acknowledged) = storm(seed).await;
        for arrived in &places {
            for stream in 0..4 {
                let seqs = arrived.iter().filter(|(of, _seq)| *of == stream);
                let seqs: Vec<u64> = seqs.map(|(_stream, seq)| *seq).collect();
                assert!(seqs.is_sorted(), "seed {seed}, stream {stream}: {seqs:?}");
            }
        }
        let mut all = places.concat();
        all.sort_unstable();
        let wanted = (0..4).zip(&acknowledged);
        let wanted = wanted.flat_map(|(stream, &last)| (1..=last).map(move |seq| (stream, seq)));
        let wanted: Vec<(u64, u64)> = wanted.collect();
        // One that failed at last and was not sent again may be there, too.
        all.retain(|batch| wanted.binary_search(batch).is_ok());
        assert_eq!(all, wanted, "seed {seed}");
        shared += usize::from(places.iter().all(|place| !place.is_empty()));
    }
    assert!(shared > 4, "the second one was hardly used: {shared}");
}
