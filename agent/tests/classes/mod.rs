//! What classes and topics do to each other, by counts: who came to the bus before whom.

use std::{path::Path, time::Duration};

use tokio::time::{Instant, sleep};
use tributary_common::{header::BatchHeader, ids::Class};

use super::rig::{Agent, LIMIT, Manner, Place, append};

/// A task of a class on one file.
fn task(place: &Place, class: &str, topic: &str) -> String {
    format!(
        "[[task]]\nid = \"{topic}\"\ntopic = \"{topic}\"\nclass = \"{class}\"\npaths = [{:?}]\n",
        place.log(&format!("{topic}.log"))
    )
}

/// A file of so many MiB, in lines of 4 KiB of these letters.
fn write(path: &Path, mebibytes: usize, letters: std::ops::RangeInclusive<u8>) {
    let mut random = fastrand::Rng::with_seed(7);
    let line = |_| -> String {
        (0..4095)
            .map(|_| char::from(random.u8(letters.clone())))
            .collect()
    };
    let some: Vec<String> = (0..64).map(line).collect();
    for _ in 0..mebibytes * 4 {
        append(path, &some);
    }
}

/// The bytes of a class, in MiB.
fn mebibytes(headers: &[BatchHeader], class: Class) -> f64 {
    let of_class = headers.iter().filter(|header| header.class == class);
    let kibibytes: u64 = of_class.map(|header| header.raw_bytes / 1024).sum();
    f64::from(u32::try_from(kibibytes).unwrap()) / 1024.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_flood_of_p0_goes_first_and_leaves_every_class_its_floor() {
    let place = Place::new().await;
    // The window is too small for a topic to begin slowly in: order is a matter of turns, not of room.
    place.bus.grant(4);
    write(&place.log("P0.log"), 24, b' '..=b'~');
    for class in ["P1", "P2", "P3"] {
        write(&place.log(&format!("{class}.log")), 8, b' '..=b'~');
    }
    let mut tasks = ["P1", "P2", "P3"]
        .map(|class| task(&place, class, class))
        .concat();
    // All of P0 has room in what P0 is promised, so it never waits for an acknowledgement.
    tasks.push_str("[limits]\nmemory = \"256MiB\"\n");
    let agent = Agent::start(&place.config("P0.log", &tasks));
    let all = |headers: &[BatchHeader]| mebibytes(headers, Class::P0) >= 23.8;
    let headers = place.bus.headers(all).await;
    let last = headers.iter().rposition(|header| header.class == Class::P0);
    let until = &headers[..=last.expect("P0 came")];
    let shares = Class::ALL.map(|class| mebibytes(until, class) / 24.0);
    let [p0, bulk @ ..] = shares;
    assert!(p0 >= 0.98, "{shares:?}");
    // A floor is a twentieth of all, here about 6 % of what P0 has.
    assert!(
        bulk.iter().all(|share| (0.02..=0.2).contains(share)),
        "{shares:?}"
    );
    agent.stop().await;
}

/// What one topic gets of a small memory beside nine others of its class, to each of which the bus
/// does `harm`.
async fn check_harm(harm: impl Fn(&Place, &str)) {
    let place = Place::new().await;
    let mut tasks = String::new();
    for at in 0..9 {
        let topic = format!("stuck-{at}");
        write(&place.log(&format!("{topic}.log")), 2, b' '..=b'~');
        harm(&place, &topic);
        tasks.push_str(&task(&place, "P2", &topic));
    }
    tasks.push_str("[limits]\nmemory = \"8MiB\"\n");
    let agent = Agent::start(&place.config("good.log", &tasks).replace("\"P0\"", "\"P2\""));
    // All of them met it, and stay so.
    place.bus.headers(|_| place.bus.seen() >= 9).await;
    for round in 1..=3 {
        write(&place.log("good.log"), 2, b' '..=b'~');
        let wanted = f64::from(2 * round) - 0.2;
        let enough = |headers: &[BatchHeader]| mebibytes(headers, Class::P2) >= wanted;
        let headers = place.bus.headers(enough).await;
        assert!(
            enough(&headers),
            "round {round}: {}",
            mebibytes(&headers, Class::P2)
        );
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn files_of_lines_that_are_longer_than_their_memory_take_turns() {
    let place = Place::new().await;
    let mut wanted = Vec::new();
    for file in ["a.log", "b.log", "c.log"] {
        let long = |at: usize| format!("{file} {at} {}", "x".repeat(300_000));
        let lines: Vec<String> = (0..6).map(long).collect();
        append(&place.log(file), &lines);
        wanted.extend(lines);
    }
    // The other task's class is promised most of it.
    let mut more = task(&place, "P0", "urgent");
    more.push_str("[limits]\nmemory = \"8MiB\"\n");
    let mut config = place.config("*.log", "").replace("\"P0\"", "\"P1\"");
    config.push_str(&more);
    let agent = Agent::start(&config);
    place.bus.wait(|lines| lines.len() >= wanted.len()).await;
    let mut got = place.bus.lines();
    got.sort();
    assert!(got == wanted, "{} lines came", got.len());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn topics_that_are_refused_leave_memory_and_window_to_the_others() {
    check_harm(|place, topic| place.bus.refuse_topic(topic, true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn topics_that_are_never_answered_leave_memory_and_window_to_the_others() {
    check_harm(|place, topic| place.bus.never_answer(topic)).await;
}

/// The configuration of P0 beside P2 in so much memory, with P2's file; the bus answers nothing.
async fn silent(memory: &str) -> (Place, String) {
    let place = Place::new().await;
    place.bus.manner(Manner::Mute);
    write(&place.log("P2.log"), 6, b' '..=b'~');
    append(&place.log("P0.log"), &["an urgent line".to_owned()]);
    let mut more = task(&place, "P2", "P2");
    more.push_str(&format!("[limits]\nmemory = \"{memory}\"\n"));
    let document = place.config("P0.log", &more);
    (place, document)
}

/// Waits until this much is read of P2's file, in bytes; returns how much is.
async fn read_to(place: &Place, bytes: u64) -> u64 {
    let until = Instant::now() + LIMIT;
    loop {
        // The agent may be writing it.
        let summary = tributary_agent::checkpoint::inspect(&place.state()).ok();
        let streams = summary.iter().flat_map(|summary| &summary.streams);
        let of_p2 = streams.filter(|stream| stream.topic == "P2");
        let read = of_p2.flat_map(|stream| &stream.generations);
        let read = read.map(|generation| generation.read_to).sum();
        if read >= bytes || Instant::now() > until {
            return read;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// More of P2's source than fits into what it is promised beside P0 in 8 MiB: 410 KiB of batches.
const MUCH: u64 = 900 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn more_memory_and_less_counts_without_a_restart() {
    let (place, small) = silent("8MiB").await;
    let agent = Agent::start(&small);
    let read = read_to(&place, 1).await;
    assert!((1..MUCH).contains(&read), "{read}");
    let large = small.replace("8MiB", "64MiB");
    agent.reload(&place.state(), &large).await;
    let read = read_to(&place, MUCH).await;
    assert!(read >= MUCH, "{read}");
    // What is in use beyond the new bound comes back, and all goes on.
    agent.reload(&place.state(), &small).await;
    place.bus.end_silence();
    let all = |headers: &[BatchHeader]| mebibytes(headers, Class::P2) >= 5.9;
    assert!(all(&place.bus.headers(all).await));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_removed_task_leaves_its_memory_to_the_others() {
    let (place, both) = silent("8MiB").await;
    // P0 has no lines of its own here: it only is.
    std::fs::remove_file(place.log("P0.log")).unwrap();
    let agent = Agent::start(&both);
    let read = read_to(&place, 1).await;
    assert!((1..MUCH).contains(&read), "{read}");
    let (bus, tasks) = both.split_once("[[task]]").unwrap();
    let (_, alone) = tasks.split_once("[[task]]").unwrap();
    let alone = format!("{bus}[[task]]{alone}");
    agent.reload(&place.state(), &alone).await;
    let read = read_to(&place, MUCH).await;
    assert!(read >= MUCH, "{read}");
    place.bus.end_silence();
    agent.stop().await;
}
