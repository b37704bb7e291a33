//! Files that are deleted before they are read.

use std::{fs, path::Path, time::Duration};

use crate::rig::{Agent, LIMIT, Manner, Place, append, found, lines};

/// Lines that do not compress.
fn noise(seed: u64, count: usize) -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..count)
        .map(|at| {
            let noise: String = (0..200).map(|_| rng.alphanumeric()).collect();
            format!("{seed} {at:06} {noise}")
        })
        .collect()
}

fn spool_files(state: &Path) -> usize {
    let entries = fs::read_dir(state.join("spool")).into_iter().flatten();
    entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "spool"))
        .count()
}

async fn wait_for(what: &str, done: impl Fn() -> bool) {
    let until = tokio::time::Instant::now() + LIMIT;
    while !done() {
        assert!(tokio::time::Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn over_the_limit_deleted_files_are_saved_and_read_from_there_also_after_a_crash() {
    let place = Place::new().await;
    place.bus.manner(Manner::Busy);
    let more = "[limits]\nmemory = \"8MiB\"\nspool = \"8MiB\"";
    let wanted = lines("a", 400_000);
    append(&place.log("a.log"), &wanted);
    let agent = Agent::start(&place.config("a.log", more));
    found(&place.log("a.log")).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    fs::remove_file(place.log("a.log")).unwrap();
    let state = place.state();
    wait_for("it is saved", || spool_files(&state) == 1).await;
    assert!(tributary_agent::spool::is_spool(&state.join("spool")).unwrap());
    let inspected = tributary_agent::spool::inspect(&state.join("spool")).unwrap();
    assert!(format!("{inspected:?}").contains("content: \"ok\""));
    // It is in no file any more but the spool's.
    let left = agent.kill(&place.bus, &state, false).await;
    place.bus.manner(Manner::Take);
    let agent = Agent::start(&place.config_at(&left, "a.log", more));
    place.bus.expect(&wanted).await;
    wait_for("it is removed", || spool_files(&left) == 0).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn over_a_full_spool_the_least_urgent_is_dropped_and_counted() {
    let place = Place::new().await;
    place.bus.manner(Manner::Busy);
    let more = format!(
        "[[task]]\nid = \"bulk\"\ntopic = \"spool-bulk\"\nclass = \"P3\"\npaths = [{:?}]\n\
         [limits]\nmemory = \"8MiB\"\nspool = \"12MiB\"",
        place.log("bulk.log")
    );
    let (urgent, bulk) = (noise(1, 60_000), noise(2, 60_000));
    append(&place.log("a.log"), &urgent);
    append(&place.log("bulk.log"), &bulk);
    let agent = Agent::start(&place.config("a.log", &more));
    found(&place.log("bulk.log")).await;
    found(&place.log("a.log")).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    fs::remove_file(place.log("bulk.log")).unwrap();
    fs::remove_file(place.log("a.log")).unwrap();
    let dropped = || {
        let text = tributary_common::metrics::render();
        text.lines()
            .any(|line| line.contains("spool-bulk") && line.contains("spool-full"))
    };
    wait_for("something is dropped", dropped).await;
    place.bus.manner(Manner::Take);
    let urgent_of = |lines: &[String]| lines.iter().filter(|l| l.starts_with("1 ")).count();
    place
        .bus
        .wait(|lines| urgent_of(lines) >= urgent.len())
        .await;
    agent.stop().await;
    let got = place.bus.lines();
    assert_eq!(urgent_of(&got), urgent.len());
    assert!(got.len() < urgent.len() + bulk.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_deleted_and_not_acknowledged_at_the_stop_is_saved() {
    let place = Place::new().await;
    place.bus.manner(Manner::Mute);
    let more = "[limits]\nmemory = \"8MiB\"";
    let wanted = lines("a", 200_000);
    append(&place.log("a.log"), &wanted);
    let agent = Agent::start(&place.config("a.log", more));
    found(&place.log("a.log")).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    fs::remove_file(place.log("a.log")).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    agent.stop().await;
    assert_eq!(spool_files(&place.state()), 1);
    place.bus.manner(Manner::Take);
    let agent = Agent::start(&place.config("a.log", more));
    place.bus.expect(&wanted).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_written_and_deleted_a_moment_before_the_stop_is_saved() {
    for round in 0..5 {
        let place = Place::new().await;
        let config = place.config("a.log", "");
        append(&place.log("a.log"), &lines("a", 10));
        let agent = Agent::start(&config);
        place.bus.expect(&lines("a", 10)).await;
        append(&place.log("a.log"), &lines("b", 10 + round));
        fs::remove_file(place.log("a.log")).unwrap();
        agent.stop().await;
        let agent = Agent::start(&config);
        let wanted = [lines("a", 10), lines("b", 10 + round)].concat();
        place.bus.expect(&wanted).await;
        agent.stop().await;
        assert_eq!(place.bus.lines().len(), wanted.len());
    }
}
