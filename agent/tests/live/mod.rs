//! Another configuration while lines flow: nothing is missing, nothing is doubled.

use std::{collections::HashSet, fs, path::Path, time::Duration};

use crate::rig::{self, Agent, FakeBus, Manner, Place, append, assert_same, lines};

/// A document with these tasks: id, topic, path, further keys.
fn document(place: &Place, tasks: &[(&str, &str, &str, &str)]) -> String {
    document_to(place, &place.bus.addr, &place.state(), tasks)
}

fn document_to(
    place: &Place,
    bus: &str,
    state: &Path,
    tasks: &[(&str, &str, &str, &str)],
) -> String {
    let mut text = format!(
        "zone = \"dc1\"\nstate_dir = {:?}\nadmin = \"127.0.0.1:0\"\n\
         [[bus]]\nname = \"dc1\"\nnodes = [\"{bus}\"]\n",
        state,
    );
    for (id, topic, path, more) in tasks {
        text += &format!(
            "[[task]]\nid = {id:?}\ntopic = {topic:?}\npaths = [{:?}]\n{more}\n",
            place.log(path)
        );
    }
    text
}

/// The lines that arrived for a topic, in order. What a killed agent had still sent and its next life
/// sends again is the same batch: a bus removes the repeat.
fn of_topic(bus: &FakeBus, topic: &str) -> Vec<String> {
    let mut known = HashSet::new();
    let batches = bus.arrived().into_iter();
    let of_topic = batches.filter(|batch| batch.header.topic.as_str() == topic);
    let first = of_topic.filter(|batch| {
        let is_new = known.insert(batch.header.id());
        assert!(
            is_new || batch.header.resends > 0,
            "a repeat says that it is one"
        );
        is_new
    });
    first.flat_map(|batch| batch.lines).collect()
}

async fn expect_topic(bus: &FakeBus, topic: &str, wanted: &[String]) {
    bus.wait(|_| of_topic(bus, topic).len() >= wanted.len())
        .await;
    assert_same(&of_topic(bus, topic), wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn changes_under_load_lose_nothing_and_double_nothing() {
    let place = Place::new().await;
    place.bus.manner(Manner::SometimesBusy);
    let tasks = |round: usize| {
        let class = format!(
            "class = \"P{}\"\nlabels = {{ round = \"{round}\" }}\nrate = \"{}MB/s\"",
            round % 4,
            1 + round % 3
        );
        let topic = if round.is_multiple_of(5) { "x" } else { "y" };
        let paths = if round.is_multiple_of(2) {
            "a*.log"
        } else {
            "*.log"
        };
        document(
            &place,
            &[
                ("one", topic, paths, &class),
                ("two", "z", "other/*.log", ""),
            ],
        )
    };
    fs::create_dir(place.log("other")).unwrap();
    let agent = Agent::start(&tasks(0));
    let mut wanted = Vec::new();
    for round in 0..25 {
        for name in ["a1.log", "a2.log", "other/b.log"] {
            let new = lines(&format!("{name} round {round}"), 200);
            append(&place.log(name), &new);
            wanted.extend(new);
        }
        agent.reload(&place.state(), &tasks(round)).await;
    }
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
    place.bus.expect_sorted(&wanted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn of_a_hundred_documents_at_once_the_last_one_counts() {
    let place = Place::new().await;
    let nth = |round: usize| {
        let labels = format!("labels = {{ round = \"{round}\" }}");
        let topic = if round < 100 { "x" } else { "y" };
        document(&place, &[("t", topic, "a.log", &labels)])
    };
    let agent = Agent::start(&nth(0));
    let mut wanted = lines("before", 50);
    append(&place.log("a.log"), &wanted);
    expect_topic(&place.bus, "x", &wanted).await;
    for round in 1..100 {
        agent.offer(&nth(round));
        let new = lines(&format!("beside {round}"), 3);
        append(&place.log("a.log"), &new);
        wanted.extend(new);
    }
    agent.reload(&place.state(), &nth(100)).await;
    let last = lines("last", 5);
    append(&place.log("a.log"), &last);
    wanted.extend(last.clone());
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
    assert!(of_topic(&place.bus, "y").ends_with(&last));
    place.bus.expect_sorted(&wanted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_bad_document_changes_nothing() {
    let place = Place::new().await;
    let good = document(&place, &[("t", "x", "a.log", "")]);
    let agent = Agent::start(&good);
    let mut wanted = lines("before", 50);
    append(&place.log("a.log"), &wanted);
    place.bus.expect(&wanted).await;
    // A fault; no document at all; a good document that needs a restart and has another topic.
    agent.offer(&good.replace("topic", "topik"));
    agent.offer("= what");
    agent.offer(&good.replace("dc1", "dc2").replace("\"x\"", "\"y\""));
    let new = lines("after", 50);
    append(&place.log("a.log"), &new);
    wanted.extend(new);
    expect_topic(&place.bus, "x", &wanted).await;
    // It still listens.
    agent
        .reload(&place.state(), &good.replace("\"x\"", "\"y\""))
        .await;
    append(&place.log("a.log"), &lines("last", 5));
    expect_topic(&place.bus, "y", &lines("last", 5)).await;
    agent.stop().await;
    expect_topic(&place.bus, "x", &wanted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_task_that_comes_back_goes_on_where_it_was() {
    let place = Place::new().await;
    let both = document(&place, &[("a", "x", "a.log", ""), ("b", "y", "b.log", "")]);
    let one = document(&place, &[("b", "y", "b.log", "")]);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let write = |round: usize, a: &mut Vec<String>, b: &mut Vec<String>| {
        for (name, all) in [("a.log", a), ("b.log", b)] {
            let new = lines(&format!("{name} {round}"), 100);
            append(&place.log(name), &new);
            all.extend(new);
        }
    };
    let mut agent = Agent::start(&both);
    for round in 0..3 {
        write(round * 2, &mut a, &mut b);
        expect_topic(&place.bus, "x", &a).await;
        expect_topic(&place.bus, "y", &b).await;
        agent.reload(&place.state(), &one).await;
        let before = a.clone();
        write(round * 2 + 1, &mut a, &mut b);
        expect_topic(&place.bus, "y", &b).await;
        assert_same(&of_topic(&place.bus, "x"), &before);
        // Back in the same life, and in the next one.
        if round == 1 {
            agent.stop().await;
            agent = Agent::start(&both);
        } else {
            agent.reload(&place.state(), &both).await;
        }
        expect_topic(&place.bus, "x", &a).await;
    }
    agent.stop().await;
    expect_topic(&place.bus, "x", &a).await;
    expect_topic(&place.bus, "y", &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_task_that_comes_back_finds_its_rotated_file() {
    let place = Place::new().await;
    let with = document(&place, &[("a", "x", "a.log", "")]);
    let without = document(&place, &[]);
    let agent = Agent::start(&with);
    let mut wanted = lines("first", 30);
    append(&place.log("a.log"), &wanted);
    expect_topic(&place.bus, "x", &wanted).await;
    agent.reload(&place.state(), &without).await;
    for name in ["unseen", "young"] {
        append(&place.log("a.log"), &lines(name, 30));
        wanted.extend(lines(name, 30));
        if name == "unseen" {
            fs::rename(place.log("a.log"), place.log("a.log.1")).unwrap();
        }
    }
    agent.reload(&place.state(), &with).await;
    expect_topic(&place.bus, "x", &wanted).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_task_with_another_name_goes_on_where_it_was_and_its_old_name_is_free() {
    let place = Place::new().await;
    let named = |name: &str| {
        document(
            &place,
            &[(name, "x", "a.log*", ""), ("other", "z", "b", "")],
        )
    };
    let mut agent = Agent::start(&named("a"));
    let mut wanted = Vec::new();
    let write = |what: &str, wanted: &mut Vec<String>| {
        append(&place.log("a.log"), &lines(what, 100));
        wanted.extend(lines(what, 100));
    };
    write("a", &mut wanted);
    expect_topic(&place.bus, "x", &wanted).await;
    for (name, how) in [
        ("b", "live"),
        ("c", "restart"),
        ("a", "live"),
        ("d", "kill"),
    ] {
        // Some of it is on its way under the old name.
        place.bus.manner(Manner::Busy);
        write(&format!("{name} held"), &mut wanted);
        wait_for_unacknowledged(&place.state(), 100).await;
        let mut state = place.state();
        match how {
            "live" => agent.reload(&state, &named(name)).await,
            "restart" => {
                agent.stop().await;
                agent = Agent::start(&named(name));
            }
            _ => {
                state = agent.kill(&place.bus, &state, false).await;
                let tasks = [(name, "x", "a.log*", ""), ("other", "z", "b", "")];
                agent = Agent::start(&document_to(&place, &place.bus.addr, &state, &tasks));
            }
        }
        place.bus.manner(Manner::Take);
        expect_topic(&place.bus, "x", &wanted).await;
        fs::rename(place.log("a.log"), place.log(&format!("a.log.{name}"))).unwrap();
        write(&format!("{name} rotated"), &mut wanted);
        expect_topic(&place.bus, "x", &wanted).await;
        let streams = place.bus.arrived();
        let of_x = streams
            .iter()
            .filter(|batch| batch.header.topic.as_str() == "x");
        let streams: HashSet<_> = of_x.map(|batch| batch.header.stream).collect();
        assert_eq!(streams.len(), 1, "the file's lines stay one stream");
        if how == "kill" {
            // Who has an old name now is another task, which begins at the beginning.
            let tasks = [
                (name, "x", "a.log*", ""),
                ("other", "z", "b", ""),
                ("a", "y", "a.log", ""),
            ];
            let text = document_to(&place, &place.bus.addr, &state, &tasks);
            agent.reload(&state, &text).await;
            expect_topic(&place.bus, "y", &lines(&format!("{name} rotated"), 100)).await;
        }
    }
    write("last", &mut wanted);
    expect_topic(&place.bus, "x", &wanted).await;
    agent.stop().await;
    expect_topic(&place.bus, "x", &wanted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_cut_is_delivered_after_its_task_is_gone() {
    let place = Place::new().await;
    let with = document(&place, &[("a", "x", "a.log", "")]);
    place.bus.manner(Manner::Busy);
    let agent = Agent::start(&with);
    let wanted = lines("a", 2000);
    append(&place.log("a.log"), &wanted);
    wait_for_cuts(&place.state()).await;
    agent.reload(&place.state(), &document(&place, &[])).await;
    append(&place.log("a.log"), &lines("late", 10));
    place.bus.manner(Manner::Take);
    expect_topic(&place.bus, "x", &wanted).await;
    agent.stop().await;
    expect_topic(&place.bus, "x", &wanted).await;
}

/// Waits until 2,000 records were cut and are not acknowledged.
async fn wait_for_cuts(state: &Path) {
    wait_for_unacknowledged(state, 2000).await;
}

async fn wait_for_unacknowledged(state: &Path, records: u64) {
    let dir = state.join("checkpoint");
    let until = tokio::time::Instant::now() + rig::LIMIT;
    let cuts = || {
        let summary = tributary_agent::checkpoint::inspect(&dir).ok();
        summary.map_or(0, |summary| summary.unacknowledged_records)
    };
    while cuts() != records {
        assert!(tokio::time::Instant::now() < until, "{} cut", cuts());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_file_in_two_tasks_has_two_offsets() {
    let place = Place::new().await;
    let text = document(&place, &[("a", "x", "a.log", ""), ("b", "y", "*.log", "")]);
    place.bus.refuse_topic("y", true);
    let agent = Agent::start(&text);
    let mut wanted = lines("first", 500);
    append(&place.log("a.log"), &wanted);
    expect_topic(&place.bus, "x", &wanted).await;
    assert!(of_topic(&place.bus, "y").is_empty());
    agent.stop().await;
    place.bus.refuse_topic("y", false);
    wanted.extend(lines("second", 500));
    append(&place.log("a.log"), &lines("second", 500));
    let agent = Agent::start(&text);
    for topic in ["x", "y"] {
        expect_topic(&place.bus, topic, &wanted).await;
    }
    let streams = |topic: &str| {
        let arrived = place.bus.arrived();
        let batch = arrived
            .iter()
            .find(|batch| batch.header.topic.as_str() == topic)
            .unwrap();
        (batch.header.stream, batch.header.generation)
    };
    let (one, other) = (streams("x"), streams("y"));
    assert_ne!(one.0, other.0, "each task has a stream of its own");
    assert_eq!(one.1, other.1, "it is one file");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_that_is_left_out_is_not_read_on_until_it_is_named_again() {
    let place = Place::new().await;
    let all = document(&place, &[("a", "x", "*.log", "")]);
    let some = document(&place, &[("a", "x", "*.log", "exclude = [\"**/b.log\"]")]);
    let mut agent = Agent::start(&all);
    let mut wanted = Vec::new();
    let write = |name: &str, what: &str| {
        let new = lines(&format!("{name} {what}"), 20);
        append(&place.log(name), &new);
        new
    };
    wanted.extend(write("a.log", "1"));
    wanted.extend(write("b.log", "1"));
    place.bus.expect_sorted(&wanted).await;
    for again in ["live", "restart"] {
        if again == "live" {
            agent.reload(&place.state(), &some).await;
        } else {
            agent.stop().await;
            agent = Agent::start(&some);
        }
        let waiting = write("b.log", &format!("{again} 2"));
        wanted.extend(write("a.log", &format!("{again} 2")));
        place.bus.expect_sorted(&wanted).await;
        // Long enough for what would be read of the other.
        tokio::time::sleep(Duration::from_millis(700)).await;
        place.bus.expect_sorted(&wanted).await;
        wanted.extend(waiting);
        agent.reload(&place.state(), &all).await;
        place.bus.expect_sorted(&wanted).await;
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_bus_takes_over_when_the_old_one_is_not_named_any_more() {
    let place = Place::new().await;
    let other = FakeBus::start().await;
    let to = |addr: &str| document_to(&place, addr, &place.state(), &[("a", "x", "a.log", "")]);
    let agent = Agent::start(&to(&place.bus.addr));
    let first = lines("first", 100);
    append(&place.log("a.log"), &first);
    place.bus.expect(&first).await;
    agent.reload(&place.state(), &to(&other.addr)).await;
    let second = lines("second", 100);
    append(&place.log("a.log"), &second);
    other
        .wait(|got| got.len() + place.bus.lines().len() >= 200)
        .await;
    append(&place.log("a.log"), &lines("third", 1));
    other.wait(|got| got.ends_with(&lines("third", 1))).await;
    let mut got = place.bus.lines();
    got.extend(other.lines());
    let wanted: Vec<String> = [first, second, lines("third", 1)].concat();
    assert_same(&got, &wanted);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_cut_for_a_topic_goes_to_it_after_a_change_and_a_kill() {
    let place = Place::new().await;
    let task = |topic| [("a", topic, "a.log", "")];
    place.bus.manner(Manner::Busy);
    let agent = Agent::start(&document(&place, &task("x")));
    let old = lines("old", 2000);
    append(&place.log("a.log"), &old);
    wait_for_cuts(&place.state()).await;
    let changed = document(&place, &task("y"));
    agent.reload(&place.state(), &changed).await;
    let left = agent.kill(&place.bus, &place.state(), false).await;
    let new = lines("new", 100);
    append(&place.log("a.log"), &new);
    place.bus.manner(Manner::Take);
    let text = document_to(&place, &place.bus.addr, &left, &task("y"));
    let agent = Agent::start(&text);
    expect_topic(&place.bus, "y", &new).await;
    agent.stop().await;
    expect_topic(&place.bus, "x", &old).await;
    expect_topic(&place.bus, "y", &new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_cut_is_delivered_by_a_life_that_does_not_know_its_task() {
    let place = Place::new().await;
    let tasks = [("a", "x", "a.log", ""), ("b", "y", "b.log", "")];
    place.bus.manner(Manner::Busy);
    let agent = Agent::start(&document(&place, &tasks));
    let mut wanted = lines("cut", 2000);
    append(&place.log("a.log"), &wanted);
    wait_for_cuts(&place.state()).await;
    let left = agent.kill(&place.bus, &place.state(), false).await;
    let late = lines("late", 50);
    append(&place.log("a.log"), &late);
    place.bus.manner(Manner::Take);
    let text = |tasks| document_to(&place, &place.bus.addr, &left, tasks);
    let agent = Agent::start(&text(&tasks[1..]));
    expect_topic(&place.bus, "x", &wanted).await;
    // Its other lines wait for it.
    agent.reload(&left, &text(&tasks)).await;
    wanted.extend(late);
    expect_topic(&place.bus, "x", &wanted).await;
    agent.stop().await;
    expect_topic(&place.bus, "x", &wanted).await;
}

/// Each line begins with the codec that counted when it was written. What was cut is taken by the bus
/// and not answered; then another codec counts, live or in the next life, and all of it comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_codec_counts_from_the_next_batch_on_and_what_was_cut_keeps_its_own() {
    let place = Place::new().await;
    let with = |state: &Path, codec: &str| {
        let more = format!("compression = {codec:?}");
        document_to(
            &place,
            &place.bus.addr,
            state,
            &[("a", "x", "a.log", &more)],
        )
    };
    let mut state = place.state();
    let mut agent = Agent::start(&with(&state, "zstd"));
    let mut wanted = Vec::new();
    let mut write = |codec: &str, count: usize| {
        let new = lines(&format!("{codec} {}", wanted.len()), count);
        append(&place.log("a.log"), &new);
        wanted.extend(new);
        wanted.clone()
    };
    let codecs = ["zstd", "lz4", "gzip", "none", "zstd"];
    for (round, change) in codecs.windows(2).enumerate() {
        let [old, new] = change else { unreachable!() };
        place.bus.manner(Manner::Mute);
        let wanted = write(old, 2000);
        wait_for_cuts(&state).await;
        place.bus.expect(&wanted).await;
        // Live, and then killed; or killed, with the other codec in the next life.
        if round.is_multiple_of(2) {
            agent.reload(&state, &with(&state, new)).await;
        }
        state = agent.kill(&place.bus, &state, false).await;
        let sent = place.bus.arrived().len();
        let wanted = write(new, 100);
        place.bus.manner(Manner::Take);
        agent = Agent::start(&with(&state, new));
        place.bus.expect(&wanted).await;
        wait_for_unacknowledged(&state, 0).await;
        let again = place.bus.arrived().split_off(sent);
        let is_again = |batch: &rig::Arrived| batch.header.resends > 0;
        assert!(
            again.iter().any(is_again),
            "what was not answered is sent again"
        );
    }
    agent.stop().await;
    for batch in place.bus.arrived() {
        let codec = batch.codec.as_str();
        let other = batch.lines.iter().find(|line| !line.starts_with(codec));
        assert_eq!(other, None, "in a batch of {codec}");
    }
    // The bytes of repeats are compared here.
    place.bus.expect(&write("zstd", 0)).await;
}
