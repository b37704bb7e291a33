//! Files that are compressed after rotation.

use std::{
    fs,
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tributary_common::header::BatchHeader;

use crate::rig::{Agent, Manner, Place, append, assert_same, lines};

/// Compresses bytes as the name says.
fn packed(name: &str, bytes: &[u8]) -> Vec<u8> {
    if name.ends_with(".zst") {
        return zstd::encode_all(bytes, 3).unwrap();
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Replaces a file by its compressed form, as `gzip` and `zstd --rm` do.
fn pack(from: &Path, to: &Path) {
    let bytes = packed(to.to_str().unwrap(), &fs::read(from).unwrap());
    fs::write(to, bytes).unwrap();
    fs::remove_file(from).unwrap();
}

fn text(lines: &[String]) -> Vec<u8> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    text.into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_compressed_while_stopped_goes_on_at_its_offset() {
    for (paths, name) in [
        ("app.log", "app.log.1.gz"),
        ("app.log*", "app.log.1.gz"),
        ("app.log*", "app.log.1.zst"),
    ] {
        let place = Place::new().await;
        append(&place.log("app.log"), &lines("a", 3000));
        let agent = place.start(paths);
        place.bus.expect(&lines("a", 3000)).await;
        agent.stop().await;
        append(&place.log("app.log"), &lines("b", 2000));
        pack(&place.log("app.log"), &place.log(name));
        append(&place.log("app.log"), &lines("c", 10));
        let agent = place.start(paths);
        let wanted = [lines("a", 3000), lines("b", 2000), lines("c", 10)].concat();
        place.bus.expect_sorted(&wanted).await;
        agent.stop().await;
        assert_eq!(place.bus.lines().len(), wanted.len(), "{paths} {name}");
        // Neither again.
        let agent = place.start(paths);
        append(&place.log("app.log"), &lines("d", 10));
        let wanted = [wanted, lines("d", 10)].concat();
        place.bus.expect_sorted(&wanted).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        agent.stop().await;
        assert_eq!(place.bus.lines().len(), wanted.len(), "{paths} {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_read_before_it_was_compressed_is_not_read_again() {
    let place = Place::new().await;
    let agent = place.start("app.log*");
    let mut wanted = Vec::new();
    for round in 0..3 {
        let new = lines(&format!("round {round}"), 1000);
        append(&place.log("app.log"), &new);
        wanted.extend(new);
        place.bus.expect_sorted(&wanted).await;
        let plain = place.log(&format!("app.log.{round}"));
        fs::rename(place.log("app.log"), &plain).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        pack(&plain, &place.log(&format!("app.log.{round}.gz")));
    }
    // It takes its time to be looked into, also when it was half-written at first.
    tokio::time::sleep(Duration::from_secs(6)).await;
    agent.stop().await;
    let agent = place.start("app.log*");
    append(&place.log("app.log"), &lines("last", 5));
    wanted.extend(lines("last", 5));
    place.bus.expect_sorted(&wanted).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_generation_that_only_a_compressed_file_holds_is_read() {
    let place = Place::new().await;
    append(&place.log("app.log"), &lines("a", 100));
    let agent = place.start("app.log*");
    place.bus.expect(&lines("a", 100)).await;
    agent.stop().await;
    // Two rotations: what was written between them stands in a compressed file only.
    fs::rename(place.log("app.log"), place.log("app.log.2")).unwrap();
    pack(&place.log("app.log.2"), &place.log("app.log.2.gz"));
    let both = [
        packed("x.gz", &text(&lines("b", 100))),
        packed("x.gz", &text(&lines("c", 100))),
    ];
    fs::write(place.log("app.log.1.gz"), both.concat()).unwrap();
    append(&place.log("app.log"), &lines("d", 10));
    let agent = place.start("app.log*");
    let all = ["a", "b", "c"].map(|name| lines(name, 100)).concat();
    let wanted = [all, lines("d", 10)].concat();
    place.bus.expect_sorted(&wanted).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_half_written_compressed_file_waits_and_a_damaged_one_holds_nobody() {
    let place = Place::new().await;
    let agent = place.start("app.log*");
    let bytes = packed("x.gz", &text(&lines("a", 20_000)));
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    fs::write(place.log("app.log.1.gz"), first).unwrap();
    let mut damaged = packed("x.gz", &text(&lines("never", 20_000)));
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0x55);
    fs::write(place.log("app.log.2.gz"), damaged).unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(place.bus.lines().is_empty());
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(place.log("app.log.1.gz"))
        .unwrap();
    file.write_all(rest).unwrap();
    append(&place.log("app.log"), &lines("b", 10));
    let wanted = [lines("a", 20_000), lines("b", 10)].concat();
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
}

/// An agent whose bus says nothing is killed after a rotation; then the renamed file is compressed
/// out of its sight, beside one that nobody can read, and a new log begins.
async fn lost_from_sight(paths: &str, is_left: bool, wanted: &[String]) {
    let place = Place::new().await;
    let more = "exclude = [\"**/*.gz\"]\n[manager]\nurl = \"http://127.0.0.1:9\"";
    place.bus.manner(Manner::Mute);
    fs::write(place.log("app.log-0.gz"), [0x1f, 0x8b, 8, 0]).unwrap();
    append(&place.log("app.log"), &lines("a", 3000));
    let agent = Agent::start(&place.config_at(&place.state(), paths, more));
    place.bus.wait(|lines| lines.len() >= 3000).await;
    fs::rename(place.log("app.log"), place.log("app.log.1")).unwrap();
    let state = agent.kill(&place.bus, &place.state(), false).await;
    let before = place.bus.arrived().len();
    pack(&place.log("app.log.1"), &place.log("app.log.1.gz"));
    if !is_left {
        fs::remove_file(place.log("app.log.1.gz")).unwrap();
    }
    append(&place.log("app.log"), &lines("c", 10));
    place.bus.manner(Manner::Take);
    let agent = Agent::start(&place.config_at(&state, paths, more));
    let arrived = || {
        let batches = place.bus.arrived().into_iter().skip(before);
        let mut lines: Vec<String> = batches.flat_map(|batch| batch.lines).collect();
        lines.sort();
        lines
    };
    place.bus.wait(|_| arrived().len() >= wanted.len()).await;
    let mut wanted = wanted.to_vec();
    wanted.sort();
    assert_same(&arrived(), &wanted);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_not_acknowledged_of_a_file_compressed_while_stopped_is_sent_again() {
    for paths in ["*.log", "*.log*"] {
        let wanted = [lines("a", 3000), lines("c", 10)].concat();
        lost_from_sight(paths, true, &wanted).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_that_can_not_be_found_holds_the_log_that_follows_for_seconds_only() {
    lost_from_sight("*.log", false, &lines("c", 10)).await;
}

/// Lines that hardly compress, of so many MiB in all.
fn noise(mebibytes: usize) -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(11);
    let line = |at: usize| -> String {
        let noise: String = (0..1000).map(|_| rng.alphanumeric()).collect();
        format!("{at:07} {noise}")
    };
    (0..mebibytes << 10).map(line).collect()
}

/// What the spool takes on disk now, in bytes.
fn spooled(state: &Path) -> u64 {
    let entries = fs::read_dir(state.join("spool")).into_iter().flatten();
    let sizes = entries.flatten().filter_map(|entry| entry.metadata().ok());
    sizes.map(|metadata| metadata.len()).sum()
}

/// Watches what the spool takes until it is told to end, and gives the most.
fn watch(state: &Path) -> (Arc<AtomicBool>, std::thread::JoinHandle<u64>) {
    let over = Arc::new(AtomicBool::new(false));
    let (state, end) = (state.to_owned(), Arc::clone(&over));
    let watching = std::thread::spawn(move || {
        let mut most = 0;
        while !end.load(Ordering::Relaxed) {
            most = most.max(spooled(&state));
            std::thread::sleep(Duration::from_millis(1));
        }
        most
    });
    (over, watching)
}

/// Waits until so many records came.
async fn arrived(place: &Place, wanted: usize) {
    let records = |headers: &[BatchHeader]| -> u64 {
        headers.iter().map(|header| u64::from(header.records)).sum()
    };
    let wanted = wanted as u64;
    let headers = place
        .bus
        .headers(|headers| records(headers) >= wanted)
        .await;
    assert!(records(&headers) >= wanted, "{} came", records(&headers));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_compressed_file_far_larger_than_the_spool_is_read_within_it_also_across_a_kill() {
    const LIMIT: u64 = 4 << 20;
    for (name, mebibytes) in [("app.log.1.gz", 64), ("app.log.1.zst", 16)] {
        let place = Place::new().await;
        let wanted = noise(mebibytes);
        fs::write(place.log(name), packed(name, &text(&wanted))).unwrap();
        let more = "[limits]\nmemory = \"8MiB\"\nspool = \"4MiB\"";
        let state = place.state();
        let (over, watching) = watch(&state);
        let agent = Agent::start(&place.config("app.log*", more));
        arrived(&place, wanted.len() / 2).await;
        let left = agent.kill(&place.bus, &state, false).await;
        over.store(true, Ordering::Relaxed);
        let most = watching.join().unwrap();
        let (over, watching) = watch(&left);
        let agent = Agent::start(&place.config_at(&left, "app.log*", more));
        arrived(&place, wanted.len()).await;
        place.bus.expect(&wanted).await;
        over.store(true, Ordering::Relaxed);
        let most = most.max(watching.join().unwrap());
        assert!(
            most > 1 << 20 && most <= LIMIT * 11 / 10,
            "{name}: {most} bytes"
        );
        // It is known: nothing of it is read again.
        agent.stop().await;
        let agent = Agent::start(&place.config_at(&left, "app.log*", more));
        append(&place.log("app.log"), &lines("last", 5));
        let wanted = [wanted, lines("last", 5)].concat();
        place.bus.expect_sorted(&wanted).await;
        agent.stop().await;
        assert_eq!(place.bus.lines().len(), wanted.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_vanished_file_had_beyond_is_read_from_a_large_compressed_one_within_the_spool() {
    let place = Place::new().await;
    let more = "[limits]\nmemory = \"8MiB\"\nspool = \"4MiB\"";
    let noise = noise(16);
    let (first, rest) = noise.split_at(1000);
    append(&place.log("app.log"), first);
    let agent = Agent::start(&place.config("app.log", more));
    place.bus.expect(first).await;
    agent.stop().await;
    append(&place.log("app.log"), rest);
    pack(&place.log("app.log"), &place.log("app.log.1.gz"));
    append(&place.log("app.log"), &lines("c", 10));
    let (over, watching) = watch(&place.state());
    let agent = Agent::start(&place.config("app.log", more));
    let wanted = [noise, lines("c", 10)].concat();
    arrived(&place, wanted.len()).await;
    place.bus.expect_sorted(&wanted).await;
    over.store(true, Ordering::Relaxed);
    let most = watching.join().unwrap();
    assert!(most > 1 << 20 && most <= 9 << 19, "{most} bytes");
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_large_compressed_file_that_is_removed_while_it_is_read_is_read_to_its_end() {
    let place = Place::new().await;
    let wanted = noise(16);
    let log = place.log("app.log.1.gz");
    fs::write(&log, packed("x.gz", &text(&wanted))).unwrap();
    let more = "[limits]\nmemory = \"8MiB\"\nspool = \"4MiB\"";
    let agent = Agent::start(&place.config("app.log*", more));
    arrived(&place, wanted.len() / 4).await;
    fs::remove_file(&log).unwrap();
    arrived(&place, wanted.len()).await;
    agent.stop().await;
    assert_same(&place.bus.lines(), &wanted);
}
