//! More files than a process may have open: all of them are collected, and no more are open at once
//! than may be.
//!
//! A program of its own, since the limit is that of the whole process.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so"
)]

#[path = "rig/mod.rs"]
#[expect(dead_code, reason = "the rig serves other tests as well")]
mod rig;

use std::{fs, path::Path};

use rustix::process::{Resource, Rlimit, setrlimit};
use tributary_agent::checkpoint;

use self::rig::{Agent, Manner, Place, append, lines};

/// What the process may have open. The agent leaves 128 of them for other things.
const LIMIT: u64 = 160;
const LOGS_OPEN: usize = 32;
const FILES: usize = 200;

/// How many logs of a folder this process has open.
fn open_in(folder: &Path) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|path| path.starts_with(folder) && path.to_string_lossy().contains(".log"))
        .count()
}

/// Limits what this process may have open.
fn limit_open_files() {
    let most = Some(LIMIT);
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// Writes two lines to each file.
fn write(place: &Place, end: &str, round: &str, wanted: &mut Vec<String>) {
    for file in 0..FILES {
        let new = lines(&format!("{round} {file:03}"), 2);
        append(&place.log(&format!("{file:03}{end}")), &new);
        wanted.extend(new);
    }
}

/// Renames all files.
fn rename(place: &Place, from: &str, to: &str) {
    for file in 0..FILES {
        let name = |end| place.log(&format!("{file:03}{end}"));
        fs::rename(name(from), name(to)).unwrap();
    }
}

/// Waits until everything arrived, each line once; not too many files are open then.
async fn arrived(place: &Place, wanted: &[String]) {
    place.bus.expect_sorted(wanted).await;
    let open = open_in(&place.dir.path().join("logs"));
    assert!(open <= LOGS_OPEN, "{open} logs are open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn more_files_than_may_be_open_are_all_collected_and_a_deleted_one_stays_open() {
    limit_open_files();
    let place = Place::new().await;
    let mut wanted = Vec::new();
    write(&place, ".log", "first", &mut wanted);
    let agent = Agent::start(&place.config("*.log", "[limits]\nmemory = \"8MiB\""));
    arrived(&place, &wanted).await;
    // Those that were closed are opened again.
    write(&place, ".log", "second", &mut wanted);
    arrived(&place, &wanted).await;
    // A file that is not read to its end, since the bus takes nothing and memory is full, and is
    // deleted then: it keeps its descriptor whatever else is opened.
    place.bus.manner(Manner::Busy);
    let mut random = fastrand::Rng::with_seed(7);
    let mut noise = || (0..200).map(|_| random.alphanumeric()).collect::<String>();
    let large: Vec<String> = (0..50_000)
        .map(|line| format!("{line} {}", noise()))
        .collect();
    append(&place.log("large.log"), &large);
    wanted.extend(large);
    let is_open = || {
        let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|path| path.to_string_lossy().contains("large.log"))
    };
    until("it to be opened", is_open).await;
    fs::remove_file(place.log("large.log")).unwrap();
    write(&place, ".log", "third", &mut wanted);
    place.bus.manner(Manner::Take);
    arrived(&place, &wanted).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn more_files_than_may_be_open_are_all_renamed_and_their_writers_go_on_in_them() {
    limit_open_files();
    let place = Place::new().await;
    let mut wanted = Vec::new();
    write(&place, ".log", "first", &mut wanted);
    let agent = place.start("*.log");
    arrived(&place, &wanted).await;
    // No path of the task names them any more, and most are closed.
    rename(&place, ".log", ".log.1");
    write(&place, ".log", "new", &mut wanted);
    write(&place, ".log.1", "late", &mut wanted);
    arrived(&place, &wanted).await;
    rename(&place, ".log.1", ".log.2");
    write(&place, ".log.2", "later", &mut wanted);
    arrived(&place, &wanted).await;
    write(&place, ".log", "last", &mut wanted);
    arrived(&place, &wanted).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_deleted_while_it_is_closed_and_unread_is_told_as_lost() {
    limit_open_files();
    let place = Place::new().await;
    let more = "[limits]\nmemory = \"8MiB\"\nspool = \"1MiB\"";
    let agent = Agent::start(&place.config("*.log", more));
    // The bus takes nothing: memory is full of some files, and no descriptor is left for others.
    place.bus.manner(Manner::Busy);
    let mut random = fastrand::Rng::with_seed(11);
    let mut noise = || {
        (0..1_000)
            .map(|_| random.alphanumeric())
            .collect::<String>()
    };
    let mut written = 0;
    for file in 0..LOGS_OPEN * 3 {
        let content: Vec<String> = (0..400).map(|line| format!("{line} {}", noise())).collect();
        written += content.iter().map(|line| line.len() + 1).sum::<usize>();
        let path = place.log(&format!("{file}.tmp"));
        append(&path, &content);
        fs::rename(path, place.log(&format!("{file}.log"))).unwrap();
    }
    let known =
        || checkpoint::inspect(&place.state()).is_ok_and(|it| it.streams.len() >= LOGS_OPEN * 3);
    until("all files to be known", known).await;
    for file in 0..LOGS_OPEN * 3 {
        fs::remove_file(place.log(&format!("{file}.log"))).unwrap();
    }
    place.bus.manner(Manner::Take);
    let sum = || {
        let told = checkpoint::inspect(&place.state()).unwrap().losses;
        let told: u64 = told
            .iter()
            .map(|loss| loss.loss.span.end - loss.loss.span.start)
            .sum();
        let lines = place.bus.lines();
        lines.iter().map(|line| line.len() + 1).sum::<usize>() + usize::try_from(told).unwrap()
    };
    until("each byte to arrive or to be told", || sum() >= written).await;
    agent.stop().await;
    assert_eq!(sum(), written);
    let told = checkpoint::inspect(&place.state()).unwrap().losses;
    assert!(!told.is_empty(), "some had no descriptor");
}

/// Waits for a condition.
async fn until(what: &str, done: impl Fn() -> bool) {
    let until = tokio::time::Instant::now() + rig::LIMIT;
    while !done() {
        assert!(tokio::time::Instant::now() < until, "waited for {what}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
