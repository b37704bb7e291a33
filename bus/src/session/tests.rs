//! Conversations over a pipe: what an agent sees.

use std::collections::HashSet;

use tokio::{
    io::{DuplexStream, duplex},
    task::JoinSet,
};
use tributary_common::{
    header::BatchHeader,
    ids::{AgentId, BatchId, Class, Epoch, StreamId, Topic, Zone},
    wire::{Outcome, RefuseReason, Scope},
};

use super::*;
use crate::{
    destination::{Failure, memory::Script},
    testing::{Rig, batch, rig},
};

/// An agent's end of the pipe.
struct Agent {
    pipe: DuplexStream,
    _session: JoinSet<()>,
}

fn hello() -> Frame {
    Frame::Hello(Hello {
        agent: AgentId::new("a").unwrap(),
        host: "h".into(),
        zone: Zone::new("z").unwrap(),
        epoch: Epoch(1),
        software: "test".into(),
    })
}

impl Agent {
    /// A connection without a word.
    fn dial(rig: &Rig) -> Self {
        let (pipe, theirs) = duplex(64 << 10);
        let mut session = JoinSet::new();
        session.spawn(run(Open::new(Arc::clone(&rig.node)), theirs));
        Self {
            pipe,
            _session: session,
        }
    }

    async fn connect(rig: &Rig) -> Self {
        let mut agent = Self::dial(rig);
        agent.say(&hello()).await;
        let Some(Frame::Welcome(welcome)) = agent.hear().await else {
            panic!("no welcome")
        };
        assert_eq!(welcome.window_batches, WINDOW_BATCHES);
        agent
    }

    async fn say(&mut self, frame: &Frame) {
        self.pipe
            .write_all(&wire::encode(frame).unwrap())
            .await
            .unwrap();
    }

    async fn send(&mut self, (header, payload): (BatchHeader, Bytes)) -> BatchId {
        let id = header.id();
        self.say(&Frame::Batch(Box::new(header), payload)).await;
        id
    }

    /// The next frame; `None` when the bus has closed.
    async fn hear(&mut self) -> Option<Frame> {
        let mut prelude = [0; PRELUDE_BYTES];
        self.pipe.read_exact(&mut prelude).await.ok()?;
        let prelude = Prelude::decode(prelude).unwrap();
        let bytes = read_bytes(&mut self.pipe, prelude.frame_bytes())
            .await
            .unwrap();
        Some(wire::decode(prelude, bytes).unwrap())
    }

    /// The next answers, one a line, as `seq word`.
    async fn answers(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count {
            match self.hear().await.expect("the bus goes on") {
                Frame::Receipts(receipts) => lines.extend(receipts.iter().map(|receipt| {
                    let word = match &receipt.outcome {
                        Outcome::Delivered(places) => format!("delivered {}", places.len()),
                        Outcome::Duplicate => "duplicate".to_owned(),
                        Outcome::Spilled => "spilled".to_owned(),
                    };
                    format!("{} {word}", receipt.batch.seq)
                })),
                Frame::Busy(busy) => lines.push(format!("{} busy {}", busy.batch.seq, busy.reason)),
                Frame::Refuse(no) => lines.push(format!("{} {}", no.batch.seq, no.reason.as_str())),
                // It waited, and said that it is there.
                Frame::Pong(0) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        lines
    }
}

fn web(seq: u64) -> (BatchHeader, Bytes) {
    batch("web", 7, seq, &["one", "two"])
}

fn of_class(class: Class, (mut header, payload): (BatchHeader, Bytes)) -> (BatchHeader, Bytes) {
    header.class = class;
    (header, payload)
}

fn unavailable() -> Script {
    Script::Fail(Failure::Unavailable("gone".into()))
}

#[tokio::test]
async fn a_batch_is_delivered_and_acknowledged() {
    let rig = rig();
    let mut agent = Agent::connect(&rig).await;
    agent.send(web(1)).await;
    assert_eq!(agent.answers(1).await, ["1 delivered 1"]);
    let (id, target, values) = rig.sink.delivered().remove(0);
    assert_eq!(
        id,
        BatchId {
            stream: StreamId(7),
            epoch: Epoch(1),
            seq: 1
        }
    );
    assert_eq!(target, "x-web");
    assert_eq!(values, [b"one".to_vec(), b"two".to_vec()]);
    assert_eq!(rig.node.budget.used(), 0);
    assert_eq!(rig.node.in_flight(), 0);
}

#[tokio::test]
async fn a_batch_whose_predecessor_fails_while_its_payload_comes_is_not_taken() {
    let rig = rig();
    let mut agent = Agent::connect(&rig).await;
    rig.sink.script([Script::Hold]);
    agent.send(web(1)).await;
    while rig.sink.held() == 0 {
        tokio::task::yield_now().await;
    }
    let of_one = rig.node.budget.used();
    let (header, payload) = web(2);
    let frame = wire::encode(&Frame::Batch(Box::new(header), payload)).unwrap();
    let (begun, rest) = frame.split_at(frame.len() - 1);
    agent.pipe.write_all(begun).await.unwrap();
    while rig.node.budget.used() == of_one {
        tokio::task::yield_now().await;
    }
    // What is held is dropped, which fails it.
    rig.sink.close();
    assert_eq!(agent.answers(1).await, ["1 busy the destination stopped"]);
    agent.pipe.write_all(rest).await.unwrap();
    let late = agent.answers(1).await;
    assert_eq!(late, ["2 busy an earlier batch of this stream is awaited"]);
    for seq in [1, 2] {
        agent.send(web(seq)).await;
    }
    assert_eq!(agent.answers(2).await, ["1 delivered 1", "2 delivered 1"]);
}

#[tokio::test]
async fn a_repeat_is_acknowledged_and_not_delivered_again() {
    let rig = rig();
    let mut agent = Agent::connect(&rig).await;
    agent.send(web(1)).await;
    assert_eq!(agent.answers(1).await, ["1 delivered 1"]);
    agent.send(web(1)).await;
    assert_eq!(agent.answers(1).await, ["1 duplicate"]);
    assert_eq!(rig.sink.delivered().len(), 1);
}

#[tokio::test]
async fn a_new_connection_waits_for_the_delivery_on_its_way() {
    let rig = rig();
    rig.sink.script([Script::Hold]);
    let mut first = Agent::connect(&rig).await;
    first.send(web(1)).await;
    while rig.sink.held() == 0 {
        tokio::task::yield_now().await;
    }
    drop(first);
    let mut second = Agent::connect(&rig).await;
    second.send(web(1)).await;
    second.say(&Frame::Ping(5)).await;
    assert_eq!(second.hear().await, Some(Frame::Pong(5)));
    rig.sink.release();
    assert_eq!(second.answers(1).await, ["1 delivered 1"]);
    assert_eq!(rig.sink.delivered().len(), 1);
}

#[tokio::test]
async fn all_destinations_have_it_before_the_receipt() {
    let rig = rig();
    rig.second.script([unavailable()]);
    let mut agent = Agent::connect(&rig).await;
    agent.send(batch("both", 7, 1, &["x"])).await;
    assert_eq!(agent.answers(1).await, ["1 busy gone"]);
    agent.send(batch("both", 7, 1, &["x"])).await;
    assert_eq!(agent.answers(1).await, ["1 delivered 1"]);
    assert_eq!(
        (rig.sink.delivered().len(), rig.second.delivered().len()),
        (1, 1)
    );
}

#[tokio::test]
async fn behind_a_busy_batch_nothing_of_its_stream_is_taken() {
    let rig = rig();
    rig.sink.script([unavailable()]);
    let mut agent = Agent::connect(&rig).await;
    agent.send(web(1)).await;
    assert_eq!(agent.answers(1).await, ["1 busy gone"]);
    agent.send(web(2)).await;
    agent.send(batch("web", 8, 2, &["other stream"])).await;
    let mut answers = agent.answers(2).await;
    answers.sort();
    assert_eq!(
        answers,
        [
            "2 busy an earlier batch of this stream is awaited",
            "2 delivered 1"
        ]
    );
    agent.send(web(1)).await;
    agent.send(web(2)).await;
    assert_eq!(agent.answers(2).await, ["1 delivered 1", "2 delivered 1"]);
}

#[tokio::test]
async fn a_destination_that_is_down_is_told_before_the_payload_comes() {
    let rig = rig();
    rig.sink.set_down(Some("kafka-main is down"));
    let mut agent = Agent::connect(&rig).await;
    let (header, payload) = web(1);
    let head = wire::encode_batch_head(&header, payload.len()).unwrap();
    agent.pipe.write_all(&head).await.unwrap();
    assert_eq!(agent.answers(1).await, ["1 busy kafka-main is down"]);
    agent.pipe.write_all(&payload).await.unwrap();
    rig.sink.set_down(None);
    agent.send(web(1)).await;
    assert_eq!(agent.answers(1).await, ["1 delivered 1"]);
}

#[tokio::test]
async fn what_no_route_takes_is_refused_and_so_is_a_lying_payload() {
    let rig = rig();
    let mut agent = Agent::connect(&rig).await;
    for _again in 0..3 {
        agent.send(batch("db", 7, 1, &["x"])).await;
        assert_eq!(agent.answers(1).await, ["1 no-route"]);
    }
    let counts = rig.node.counts();
    assert_eq!(
        counts[&Topic::new("db").unwrap()].refused,
        1,
        "counted once"
    );
    let check = |change: fn(&mut BatchHeader)| {
        let (mut header, payload) = web(1);
        header.stream = StreamId(99);
        change(&mut header);
        (header, payload)
    };
    // The payload's own id is of stream 7, so every one of these lies; each on its own stream.
    agent.send(check(|_header| {})).await;
    assert_eq!(agent.answers(1).await, ["1 corrupt"]);
    let (mut header, payload) = web(1);
    header.raw_bytes += 1;
    agent.send((header, payload)).await;
    assert_eq!(agent.answers(1).await, ["1 corrupt"]);
    let (mut header, payload) = web(1);
    header.raw_bytes = u64::MAX;
    agent.send((header, payload)).await;
    assert_eq!(
        agent.answers(1).await,
        [format!("1 {}", RefuseReason::Corrupt.as_str())]
    );
    assert_eq!(rig.sink.delivered().len(), 0);
    agent.send(web(1)).await;
    assert_eq!(agent.answers(1).await, ["1 delivered 1"]);
    assert_eq!(rig.node.budget.used(), 0);
}

#[tokio::test]
async fn bad_bytes_end_this_connection_only_and_say_why() {
    let check = |bytes: Vec<u8>, text: &'static str| async move {
        let rig = rig();
        let mut good = Agent::connect(&rig).await;
        let mut bad = Agent::connect(&rig).await;
        bad.pipe.write_all(&bytes).await.unwrap();
        match bad.hear().await {
            Some(Frame::Error(said)) => assert!(said.contains(text), "{said}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(bad.hear().await, None);
        good.send(web(1)).await;
        assert_eq!(good.answers(1).await, ["1 delivered 1"]);
    };
    check(vec![0xff; 6], "announces 4294967295 bytes").await;
    check(vec![0, 0, 0, 1, 0, 1, 77], "frame kind 77 is unknown").await;
    check(vec![0, 0, 0, 2, 0, 1, 9, 0], "payload of 1 bytes").await;
    check(vec![0, 0, 0, 2, 0, 2, 3, 9], "batch header has version 9").await;
    check(
        wire::encode(&Frame::GoAway {
            reconnect_within_ms: 1,
        })
        .unwrap(),
        "batches, pings",
    )
    .await;
    check(wire::encode(&hello()).unwrap(), "batches, pings").await;
}

#[tokio::test]
async fn the_first_word_must_be_hello() {
    let rig = rig();
    let mut agent = Agent::dial(&rig);
    agent.say(&Frame::Ping(1)).await;
    assert_eq!(
        agent.hear().await,
        Some(Frame::Error("the first frame must be a hello".into()))
    );
    assert_eq!(agent.hear().await, None);
}

#[tokio::test]
async fn random_bytes_never_hang_or_panic_the_node() {
    let rig = rig();
    let mut rng = fastrand::Rng::with_seed(7);
    for _round in 0..200 {
        let mut agent = Agent::connect(&rig).await;
        let mut bytes: Vec<u8> = (0..rng.usize(1..200)).map(|_at| rng.u8(..)).collect();
        if rng.bool() {
            // A plausible prelude in front, so that the bodies are reached.
            let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
            let header = u16::try_from(rng.usize(1..=bytes.len()))
                .unwrap()
                .to_be_bytes();
            bytes.splice(0..0, length.into_iter().chain(header));
        }
        agent.pipe.write_all(&bytes).await.unwrap();
        drop(agent);
    }
    let mut good = Agent::connect(&rig).await;
    good.send(web(1)).await;
    assert_eq!(good.answers(1).await, ["1 delivered 1"]);
    while rig.node.open_connections() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.node.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_stalls_ends_the_connection_and_frees_its_memory() {
    let rig = rig();
    let mut agent = Agent::connect(&rig).await;
    let (header, payload) = web(1);
    let head = wire::encode_batch_head(&header, payload.len()).unwrap();
    agent.pipe.write_all(&head).await.unwrap();
    let last = loop {
        match agent.hear().await {
            Some(Frame::Pong(0)) => {}
            last => break last,
        }
    };
    assert!(matches!(last, Some(Frame::Error(text)) if text.contains("longer than 30 s")));
    assert_eq!(rig.node.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_trickles_what_is_thrown_away_is_not_waited_for() {
    let rig = rig();
    let mut agent = Agent::connect(&rig).await;
    let (header, payload) = batch("nowhere", 1, 1, &["a line that has no route"]);
    let head = wire::encode_batch_head(&header, payload.len()).unwrap();
    agent.pipe.write_all(&head).await.unwrap();
    let last = loop {
        tokio::select! {
            said = agent.hear() => match said {
                Some(Frame::Pong(_) | Frame::Ping(_) | Frame::Refuse(_)) => {}
                last => break last,
            },
            () = tokio::time::sleep(Duration::from_secs(10)) => drop(agent.pipe.write_all(&[0]).await),
        }
    };
    assert!(
        matches!(&last, Some(Frame::Error(text)) if text.contains("longer than 30 s")),
        "{last:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_quiet_peer_is_pinged_and_given_up_when_it_does_not_answer() {
    let rig = rig();
    let mut agent = Agent::connect(&rig).await;
    assert_eq!(agent.hear().await, Some(Frame::Ping(1)));
    agent.say(&Frame::Pong(1)).await;
    for number in 1..=u64::from(MAX_PINGS) {
        assert_eq!(agent.hear().await, Some(Frame::Ping(number)));
    }
    assert_eq!(
        agent.hear().await,
        Some(Frame::Error("the peer is silent".into()))
    );
}

#[tokio::test]
async fn when_memory_is_full_nothing_is_read_until_some_is_free() {
    let rig = rig();
    let mut agent = Agent::connect(&rig).await;
    let all = rig.node.budget.take(u64::MAX).await;
    agent.send(of_class(Class::P0, web(1))).await;
    agent.say(&Frame::Ping(1)).await;
    tokio::task::yield_now().await;
    assert!(rig.sink.delivered().is_empty());
    drop(all);
    let frames = [agent.hear().await.unwrap(), agent.hear().await.unwrap()];
    assert!(frames.contains(&Frame::Pong(1)));
    assert_eq!(rig.sink.delivered().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_memory_hears_that_the_node_is_there() {
    let rig = rig();
    let mut agent = Agent::connect(&rig).await;
    let all = rig.node.budget.take(u64::MAX).await;
    agent.send(of_class(Class::P0, web(1))).await;
    for _ in 0..5 {
        assert_eq!(agent.hear().await, Some(Frame::Pong(0)));
    }
    drop(all);
}

#[tokio::test]
async fn bulk_waits_while_there_is_memory_for_what_is_urgent() {
    let rig = rig();
    let mut agent = Agent::connect(&rig).await;
    let budget = &rig.node.budget;
    let most = budget.take(budget.limit() / 100 * 61).await;
    agent.send(of_class(Class::P3, web(1))).await;
    let Some(Frame::Busy(busy)) = agent.hear().await else {
        panic!("bulk came in")
    };
    assert_eq!(busy.scope, Scope::Topic(Topic::new("web").unwrap()));
    let shown = rig.node.quotas.shown(Instant::now());
    assert_eq!(shown[0]["why"], "memory", "{shown}");
    for (stream, class) in [(1, Class::P0), (2, Class::P1), (3, Class::P2)] {
        let urgent = batch("web", stream, 1, &["x"]);
        agent.send(of_class(class, urgent)).await;
        assert_eq!(agent.answers(1).await, ["1 delivered 1"], "{class:?}");
    }
    drop(most);
    agent.send(of_class(Class::P3, web(1))).await;
    assert_eq!(agent.answers(1).await, ["1 delivered 1"]);
}

#[tokio::test]
async fn a_stopping_node_asks_agents_to_leave_and_answers_what_it_has() {
    let rig = rig();
    rig.sink.script([Script::Hold]);
    let mut agent = Agent::connect(&rig).await;
    agent.send(web(1)).await;
    while rig.sink.held() == 0 {
        tokio::task::yield_now().await;
    }
    rig.stop.cancel();
    assert_eq!(
        agent.hear().await,
        Some(Frame::GoAway {
            reconnect_within_ms: RECONNECT_WITHIN_MS
        })
    );
    rig.sink.release();
    assert_eq!(agent.answers(1).await, ["1 delivered 1"]);
    assert_eq!(agent.hear().await, None);
}

#[tokio::test]
async fn an_agent_that_is_handed_over_is_answered_first() {
    let rig = rig();
    rig.sink.script([Script::Hold]);
    let mut agent = Agent::connect(&rig).await;
    agent.send(web(1)).await;
    while rig.sink.held() == 0 {
        tokio::task::yield_now().await;
    }
    let now = Instant::now();
    let balance = &rig.node.balance;
    balance.open("connections=0&within=1s", 1, now).unwrap();
    balance.tick(now + Duration::from_secs(1));
    assert_eq!(
        agent.hear().await,
        Some(Frame::GoAway {
            reconnect_within_ms: HAND_OVER_WITHIN_MS
        })
    );
    rig.sink.release();
    assert_eq!(agent.answers(1).await, ["1 delivered 1"]);
    assert_eq!(agent.hear().await, None);
    Agent::connect(&rig).await;
}

#[tokio::test]
async fn a_restarted_node_knows_what_it_delivered() {
    let first = rig();
    let mut agent = Agent::connect(&first).await;
    agent.send(web(1)).await;
    assert_eq!(agent.answers(1).await, ["1 delivered 1"]);
    first.owner.close();
    let second = crate::testing::rig_in(first.dir, budget::MIN_BYTES);
    let mut agent = Agent::connect(&second).await;
    agent.send(web(1)).await;
    agent.send(web(2)).await;
    let mut answers = agent.answers(2).await;
    answers.sort();
    assert_eq!(answers, ["1 duplicate", "2 delivered 1"]);
}

/// What happens to a stream between its batches.
#[derive(Debug, Clone)]
enum Step {
    /// The next batches meet these: true is a failure.
    Script(Vec<bool>),
    /// The agent sends its window and hears all answers.
    Go,
    /// The agent sends its window, and the connection breaks before an answer is heard.
    CutOff,
    /// The node is started anew.
    Restart,
}

fn any_step() -> impl proptest::strategy::Strategy<Value = Step> {
    use proptest::prelude::*;
    prop_oneof![
        prop::collection::vec(any::<bool>(), 1..4).prop_map(Step::Script),
        Just(Step::Go),
        Just(Step::CutOff),
        Just(Step::Restart),
    ]
}

/// Plays the steps with an agent that sends batches 1 to 12 of one stream, four at a time, and
/// returns the order in which they were delivered.
async fn play(steps: Vec<Step>) -> Vec<u64> {
    const LAST: u64 = 12;
    let mut rig = rig();
    let mut agent = Agent::connect(&rig).await;
    let (mut next, mut delivered) = (1, Vec::new());
    let seqs = |rig: &Rig| -> Vec<u64> {
        rig.sink
            .delivered()
            .iter()
            .map(|(id, _target, _values)| id.seq)
            .collect()
    };
    for step in steps.into_iter().chain(std::iter::repeat(Step::Go)) {
        if next > LAST {
            break;
        }
        let window = next..(next + 4).min(LAST + 1);
        match step {
            Step::Script(fails) => {
                let steps = fails
                    .iter()
                    .map(|&fail| if fail { unavailable() } else { Script::Deliver });
                rig.sink.script(steps);
            }
            Step::Go => {
                let count = usize::try_from(window.end - window.start).unwrap();
                for seq in window {
                    agent.send(web(seq)).await;
                }
                let answers = agent.answers(count).await;
                let safe: HashSet<u64> = answers
                    .iter()
                    .filter(|answer| !answer.contains("busy"))
                    .map(|answer| answer.split(' ').next().unwrap().parse().unwrap())
                    .collect();
                while safe.contains(&next) {
                    next += 1;
                }
            }
            Step::CutOff => {
                for seq in window {
                    agent.send(web(seq)).await;
                }
                agent = Agent::connect(&rig).await;
            }
            Step::Restart => {
                drop(agent);
                while rig.node.open_connections() > 0 {
                    tokio::task::yield_now().await;
                }
                delivered.extend(seqs(&rig));
                rig.owner.close();
                rig = crate::testing::rig_in(rig.dir, budget::MIN_BYTES);
                agent = Agent::connect(&rig).await;
            }
        }
    }
    delivered.extend(seqs(&rig));
    delivered
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_breaks_each_batch_is_delivered_once_and_in_order(
        steps in proptest::collection::vec(any_step(), 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let delivered = runtime.block_on(play(steps));
        proptest::prop_assert_eq!(delivered, (1..=12).collect::<Vec<u64>>());
    }
}
