//! The agent from file to acknowledgement, against a bus that is a test double.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so"
)]

mod classes;
mod files;
mod framing;
mod live;
mod rig;

use std::{fs, time::Duration};

use rig::{Agent, Manner, Place, append, found, lines};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn lines_arrive_once_and_in_order() {
    let place = Place::new().await;
    let mut wanted = lines("first", 5000);
    append(&place.log("a.log"), &wanted);
    let agent = place.start("*.log");
    place.bus.expect(&wanted).await;
    append(&place.log("a.log"), &lines("second", 10));
    wanted.extend(lines("second", 10));
    place.bus.expect(&wanted).await;
    agent.stop().await;
    place.bus.expect(&wanted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_restart_goes_on_where_it_was() {
    let place = Place::new().await;
    let mut wanted = Vec::new();
    for round in 0..4 {
        let new = lines(&format!("round {round}"), 300);
        append(&place.log("a.log"), &new);
        wanted.extend(new);
        let agent = place.start("a.log");
        place.bus.expect(&wanted).await;
        agent.stop().await;
    }
    assert!(
        place
            .bus
            .arrived()
            .iter()
            .all(|batch| batch.header.resends == 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_renamed_file_is_read_to_its_end_and_the_new_one_follows() {
    for paths in ["app.log", "app.log*"] {
        let place = Place::new().await;
        let agent = place.start(paths);
        let mut wanted = Vec::new();
        for round in 0..6 {
            // A file must have been seen once under its name; what is written after that counts.
            let new = lines(&format!("round {round}"), 200);
            append(&place.log("app.log"), &new[..1]);
            wanted.push(new[0].clone());
            place.bus.expect_sorted(&wanted).await;
            append(&place.log("app.log"), &new[1..]);
            wanted.extend_from_slice(&new[1..]);
            for number in (1..6).rev() {
                let from = place.log(&format!("app.log.{number}"));
                if from.try_exists().unwrap() {
                    fs::rename(from, place.log(&format!("app.log.{}", number + 1))).unwrap();
                }
            }
            fs::rename(place.log("app.log"), place.log("app.log.1")).unwrap();
            // A writer that has not heard of it yet.
            let late = lines(&format!("late {round}"), 3);
            append(&place.log("app.log.1"), &late);
            wanted.extend(late);
            place.bus.expect_sorted(&wanted).await;
        }
        agent.stop().await;
        assert_eq!(place.bus.lines().len(), wanted.len(), "{paths}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rotation_while_stopped_loses_and_doubles_nothing() {
    for paths in ["app.log", "app.log*"] {
        let place = Place::new().await;
        let mut wanted = lines("a", 100);
        append(&place.log("app.log"), &wanted);
        let agent = place.start(paths);
        place.bus.expect(&wanted).await;
        agent.stop().await;
        append(&place.log("app.log"), &lines("b", 100));
        fs::rename(place.log("app.log"), place.log("app.log.1")).unwrap();
        append(&place.log("app.log"), &lines("c", 100));
        wanted.extend(lines("b", 100));
        wanted.extend(lines("c", 100));
        let agent = place.start(paths);
        place.bus.expect(&wanted).await;
        agent.stop().await;
        assert_eq!(place.bus.lines().len(), wanted.len(), "{paths}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn copy_and_truncate_reads_the_rest_from_the_copy() {
    for paths in ["app.log", "app.log*"] {
        let place = Place::new().await;
        let agent = place.start(paths);
        let mut wanted = Vec::new();
        for round in 0..3 {
            let new = lines(&format!("round {round}"), 400);
            append(&place.log("app.log"), &new[..1]);
            wanted.push(new[0].clone());
            place.bus.expect_sorted(&wanted).await;
            append(&place.log("app.log"), &new[1..]);
            wanted.extend_from_slice(&new[1..]);
            if round == 1 {
                place.bus.expect_sorted(&wanted).await;
            }
            fs::copy(place.log("app.log"), place.log(&format!("app.log.{round}"))).unwrap();
            fs::OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(place.log("app.log"))
                .unwrap();
            place.bus.expect_sorted(&wanted).await;
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        agent.stop().await;
        assert_eq!(place.bus.lines().len(), wanted.len(), "{paths}");
    }
}

/// What was written between the copy and the truncation stands in no copy, but it was read.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_copy_that_ends_before_what_was_read_is_not_read_again() {
    for paths in ["app.log", "app.log*"] {
        let place = Place::new().await;
        let agent = place.start(paths);
        let mut wanted = lines("copied", 300);
        append(&place.log("app.log"), &wanted);
        place.bus.expect_sorted(&wanted).await;
        fs::copy(place.log("app.log"), place.log("app.log.1")).unwrap();
        let late = lines("late", 200);
        append(&place.log("app.log"), &late);
        wanted.extend(late);
        place.bus.expect_sorted(&wanted).await;
        fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(place.log("app.log"))
            .unwrap();
        let new = lines("after the truncation", 100);
        append(&place.log("app.log"), &new);
        wanted.extend(new);
        place.bus.expect_sorted(&wanted).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        agent.stop().await;

        let agent = place.start(paths);
        let new = lines("after a restart", 100);
        append(&place.log("app.log"), &new);
        wanted.extend(new);
        place.bus.expect_sorted(&wanted).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        agent.stop().await;
        assert_eq!(place.bus.lines().len(), wanted.len(), "{paths}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn copy_and_truncate_while_stopped_reads_the_rest_from_the_copy() {
    for paths in ["app.log", "app.log*"] {
        let place = Place::new().await;
        let mut wanted = lines("a", 300);
        append(&place.log("app.log"), &wanted);
        let agent = place.start(paths);
        place.bus.expect(&wanted).await;
        agent.stop().await;
        append(&place.log("app.log"), &lines("b", 300));
        fs::copy(place.log("app.log"), place.log("app.log.1")).unwrap();
        fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(place.log("app.log"))
            .unwrap();
        append(&place.log("app.log"), &lines("c", 100));
        wanted.extend(lines("b", 300));
        wanted.extend(lines("c", 100));
        let agent = place.start(paths);
        place.bus.expect_sorted(&wanted).await;
        agent.stop().await;
        assert_eq!(place.bus.lines().len(), wanted.len(), "{paths}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn files_with_equal_content_stay_two_files() {
    let place = Place::new().await;
    let agent = place.start("*.log");
    let header = lines("header", 100);
    append(&place.log("a.log"), &header);
    place.bus.expect(&header).await;
    append(&place.log("b.log"), &header);
    fs::copy(place.log("a.log"), place.log("a-2.log")).unwrap();
    let wanted: Vec<String> = [&header[..], &header[..], &header[..]].concat();
    place.bus.expect_sorted(&wanted).await;
    // Written anew under the same name, too.
    fs::remove_file(place.log("a.log")).unwrap();
    append(&place.log("a.log"), &header);
    let wanted: Vec<String> = [&wanted[..], &header[..]].concat();
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_unread_deleted_file_is_read_to_its_end() {
    let place = Place::new().await;
    place.bus.manner(Manner::Busy);
    let agent = place.start("*.log");
    append(&place.log("a.log"), &lines("a", 10));
    // Seen, opened, and not taken: now it goes.
    found(&place.log("a.log")).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    append(&place.log("a.log"), &lines("b", 2000));
    fs::remove_file(place.log("a.log")).unwrap();
    place.bus.manner(Manner::Take);
    place
        .bus
        .expect(&[lines("a", 10), lines("b", 2000)].concat())
        .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_moody_bus_gets_everything_in_order() {
    for manner in [Manner::SometimesBusy, Manner::SometimesDrop] {
        let place = Place::new().await;
        place.bus.manner(manner);
        let agent = place.start("*.log");
        let mut wanted = Vec::new();
        for round in 0..60 {
            let new = lines(&format!("round {round}"), 20);
            append(&place.log("a.log"), &new);
            wanted.extend(new);
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        place.bus.expect(&wanted).await;
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn after_a_crash_the_same_batches_come_again() {
    let place = Place::new().await;
    place.bus.manner(Manner::Mute);
    let mut wanted = lines("a", 4000);
    append(&place.log("a.log"), &wanted);
    let agent = place.start("*.log");
    place.bus.expect(&wanted).await;
    let left = agent.kill(&place.bus, &place.state(), false).await;
    let before = place.bus.arrived().len();
    append(&place.log("a.log"), &lines("b", 100));
    fs::rename(place.log("a.log"), place.log("renamed")).unwrap();
    place.bus.manner(Manner::Take);
    let agent = Agent::start(&place.config_at(&left, "*.log", ""));
    wanted.extend(lines("b", 100));
    place.bus.expect(&wanted).await;
    assert!(place.bus.arrived().len() > before, "they came again");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_refused_topic_holds_only_itself() {
    let place = Place::new().await;
    place.bus.refuse_topic("x", true);
    let other = format!(
        "[[task]]\nid = \"u\"\ntopic = \"y\"\npaths = [{:?}]\n[limits]\nmemory = \"8MiB\"\n",
        place.log("other.log")
    );
    append(&place.log("a.log"), &lines("a", 200_000));
    let agent = Agent::start(&place.config("a.log", &other));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let wanted = lines("other", 50_000);
    append(&place.log("other.log"), &wanted);
    place.bus.expect(&wanted).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn long_lines_are_split_and_an_unfinished_one_is_sent_in_time() {
    let place = Place::new().await;
    let agent = Agent::start(&place.config("a.log", "max_line = \"100KiB\""));
    let long = "y".repeat(5 << 20);
    fs::write(
        place.log("a.log"),
        format!("short\n{long}\nend\nunfinished"),
    )
    .unwrap();
    let pieces = (5 << 20) / (100 << 10) + 1;
    place.bus.wait(|lines| lines.len() >= pieces + 3).await;
    let got = place.bus.lines();
    assert_eq!(got.len(), pieces + 3);
    assert_eq!(got[0], "short");
    assert_eq!(got[1..=pieces].concat(), long);
    assert_eq!(got[pieces + 1..], ["end", "unfinished"]);
    append(&place.log("a.log"), &["".to_owned(), "next".to_owned()]);
    place.bus.wait(|lines| lines.len() > pieces + 3).await;
    assert_eq!(place.bus.lines()[pieces + 3..], ["next"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn long_lines_are_truncated_and_what_follows_is_whole() {
    let place = Place::new().await;
    let more = "max_line = \"1KiB\"\nlong_line = \"truncate\"";
    let agent = Agent::start(&place.config("a.log", more));
    let long = "y".repeat(3 << 20);
    fs::write(place.log("a.log"), format!("short\n{long}\nend\n")).unwrap();
    place
        .bus
        .expect(&["short".to_owned(), "y".repeat(1024), "end".to_owned()])
        .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn start_at_the_end_skips_what_was_there_and_nothing_else() {
    let place = Place::new().await;
    append(&place.log("old.log"), &lines("old", 100));
    let config = place.config("*.log", "start = \"end\"");
    let agent = Agent::start(&config);
    found(&place.log("old.log")).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    append(&place.log("old.log"), &lines("new", 5));
    append(&place.log("later.log"), &lines("later", 5));
    place
        .bus
        .expect_sorted(&[lines("new", 5), lines("later", 5)].concat())
        .await;
    agent.stop().await;
    append(&place.log("third.log"), &lines("third", 5));
    let agent = Agent::start(&config);
    place
        .bus
        .expect_sorted(&[lines("new", 5), lines("later", 5), lines("third", 5)].concat())
        .await;
    agent.stop().await;
}

/// Copies as `cp` does: piece by piece, while the original grows.
fn slow_copy(from: &std::path::Path, to: &std::path::Path) {
    use std::io::{Read, Write};
    let (mut from, mut to) = (fs::File::open(from).unwrap(), fs::File::create(to).unwrap());
    std::thread::sleep(Duration::from_millis(30));
    let mut piece = vec![0; 8 << 10];
    loop {
        let len = from.read(&mut piece).unwrap();
        if len == 0 {
            return;
        }
        to.write_all(&piece[..len]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn copy_and_truncate_under_a_busy_writer_doubles_nothing() {
    let place = Place::new().await;
    let agent = place.start("app.log*");
    let log = place.log("app.log");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (writer_log, writer_stop) = (log.clone(), std::sync::Arc::clone(&stop));
    let writer = std::thread::spawn(move || {
        let mut count = 0;
        while !writer_stop.load(std::sync::atomic::Ordering::Relaxed) {
            let new: Vec<String> = (count..count + 20)
                .map(|n| format!("line {n:08}"))
                .collect();
            append(&writer_log, &new);
            count += 20;
            std::thread::sleep(Duration::from_millis(1));
        }
        count
    });
    for _round in 0..4 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        for number in (1..5).rev() {
            let from = place.log(&format!("app.log.{number}"));
            if from.try_exists().unwrap() {
                fs::rename(from, place.log(&format!("app.log.{}", number + 1))).unwrap();
            }
        }
        slow_copy(&log, &place.log("app.log.1"));
        fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&log)
            .unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let count = writer.join().unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    agent.stop().await;
    let mut got = place.bus.lines();
    got.sort();
    let all = got.len();
    got.dedup();
    assert_eq!(all, got.len(), "nothing twice");
    // What was written between the copy's end and the truncation is nobody's to save.
    assert!(all + 200 > count, "{all} of {count}");
}

/// Whether a life in which the agent is killed before the `n`-th call to its disk after a log was cut
/// off ends well; false when there are not as many calls.
async fn killed_while_a_log_is_cut_off(paths: &str, n: u64) -> bool {
    let place = Place::new().await;
    let mut wanted = lines("a", 300);
    append(&place.log("app.log"), &wanted);
    let agent = place.start(paths);
    place.bus.expect(&wanted).await;
    place.bus.kill_at(&place.state(), n);
    append(&place.log("app.log"), &lines("b", 300));
    fs::copy(place.log("app.log"), place.log("app.log.1")).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(place.log("app.log"))
        .unwrap();
    append(&place.log("app.log"), &lines("c", 20));
    wanted.extend(lines("b", 300));
    wanted.extend(lines("c", 20));
    let all = |got: &[String]| got.len() >= wanted.len() || place.bus.is_killed();
    place.bus.wait(all).await;
    let left = agent.kill(&place.bus, &place.state(), false).await;
    let was_killed = place.bus.was_killed();
    let agent = Agent::start(&place.config_at(&left, paths, ""));
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
    place.bus.expect_sorted(&wanted).await;
    was_killed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_kill_at_any_write_while_a_log_is_cut_off_doubles_and_loses_nothing() {
    for paths in ["app.log", "app.log*"] {
        let mut n = 0;
        while n < 12 && killed_while_a_log_is_cut_off(paths, n).await {
            n += 1;
        }
        assert!(n > 2, "{paths}: only {n} moments were met");
    }
}

/// What may happen to a log and its agent.
#[derive(Debug, Clone, Copy)]
enum Act {
    Write,
    Rename,
    CopyTruncate,
    Restart,
    Crash,
    Wait,
}

/// Rotates a log as logrotate does, without and with `copytruncate`.
fn rotate(log: &std::path::Path, to: &std::path::Path, act: Act) {
    if matches!(act, Act::Rename) {
        fs::rename(log, to).unwrap();
    } else {
        fs::copy(log, to).unwrap();
        fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(log)
            .unwrap();
    }
}

/// Compares what arrived with what was written, whatever the order between files.
fn compare(mut got: Vec<String>, mut wanted: Vec<String>, life: &str) {
    got.sort();
    wanted.sort();
    if got != wanted {
        let lost: Vec<_> = wanted
            .iter()
            .filter(|line| !got.contains(line))
            .take(5)
            .collect();
        panic!(
            "{life}: got {} of {}, missing {lost:?}",
            got.len(),
            wanted.len()
        );
    }
}

/// Random writes, rotations, restarts and crashes: every line arrives, each batch once or again the
/// same, in order within a file.
async fn random_life(seed: u64, inside: bool) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let place = Place::new().await;
    let paths = if inside { "app.log*" } else { "app.log" };
    let log = place.log("app.log");
    let mut state = place.state();
    let mut agent = Agent::start(&place.config_at(&state, paths, ""));
    let (mut wanted, mut round, mut acts) = (Vec::<String>::new(), 0, Vec::new());
    for _act in 0..25 {
        let all = [
            Act::Write,
            Act::Write,
            Act::Write,
            Act::Rename,
            Act::CopyTruncate,
            Act::Restart,
            Act::Crash,
            Act::Wait,
        ];
        let act = all[rng.usize(..all.len())];
        acts.push(act);
        match act {
            Act::Write => {
                let count = rng.usize(1..400);
                let new: Vec<String> = (0..count)
                    .map(|n| format!("{seed} {round:03} {n:04}"))
                    .collect();
                append(&log, &new);
                wanted.extend(new);
                round += 1;
            }
            Act::Rename | Act::CopyTruncate if log.try_exists().unwrap() => {
                // What nobody has seen under its name yet cannot be followed.
                for word in ["seen", "late"] {
                    place.bus.wait(|lines| lines.len() >= wanted.len()).await;
                    let line = vec![format!("{seed} {round:03} {word}")];
                    append(&log, &line);
                    wanted.extend(line);
                }
                rotate(&log, &place.log(&format!("app.log.{round}")), act);
                round += 1;
            }
            Act::Rename | Act::CopyTruncate => {}
            Act::Restart => {
                agent.stop().await;
                agent = Agent::start(&place.config_at(&state, paths, ""));
            }
            Act::Crash => {
                state = agent.kill(&place.bus, &state, false).await;
                agent = Agent::start(&place.config_at(&state, paths, ""));
            }
            Act::Wait => tokio::time::sleep(Duration::from_millis(rng.u64(1..150))).await,
        }
    }
    place.bus.wait(|lines| lines.len() >= wanted.len()).await;
    agent.stop().await;
    let life = format!("seed {seed}, copies inside: {inside}, {acts:?}");
    compare(place.bus.lines(), wanted, &life);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn random_lives_lose_and_double_nothing() {
    let seeds = std::env::var("SEEDS").map_or(6, |text| text.parse().unwrap());
    for seed in 0..seeds {
        random_life(seed, seed % 2 == 0).await;
    }
}
