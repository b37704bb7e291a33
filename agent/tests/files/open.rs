//! `limits.open_files`: never more logs are open than may be, whatever grows, and all of it arrives.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use crate::rig::{self, Agent, Place, append, lines};

/// How many logs of a folder, or at a path, this process has open.
pub(super) fn open_in(folder: &Path) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|path| path.starts_with(folder) && path.to_string_lossy().contains(".log"))
        .count()
}

/// Counts the open logs of a folder again and again.
struct Watch {
    ended: Arc<AtomicBool>,
    most: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Watch {
    fn begin(folder: PathBuf) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let most = Arc::new(AtomicUsize::new(0));
        let (done, max) = (Arc::clone(&ended), Arc::clone(&most));
        let thread = std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                max.fetch_max(open_in(&folder), Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        Self {
            ended,
            most,
            thread,
        }
    }

    /// The most that were open at once.
    fn end(self) -> usize {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.most.load(Ordering::Relaxed)
    }
}

/// Adds three lines to each of these files, in two writes, and waits until all of `wanted` arrived. The
/// most logs that were open meanwhile, of this process: the one that is written to is one of them.
async fn grow(place: &Place, round: &str, files: usize, wanted: &mut Vec<String>) -> usize {
    let watch = Watch::begin(place.dir.path().join("logs"));
    for part in [1, 2] {
        for file in 0..files {
            let new = lines(&format!("{round} {part} {file:03}"), part);
            append(&place.log(&format!("{file:03}.log")), &new);
            wanted.extend(new);
        }
    }
    place.bus.expect_sorted(wanted).await;
    watch.end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn never_are_more_logs_open_than_the_limit_and_a_live_change_counts_at_once() {
    const FILES: usize = 300;
    let place = Place::new().await;
    let folder = place.dir.path().join("logs");
    let limit = |most: usize| place.config("*.log", &format!("[limits]\nopen_files = {most}"));
    let mut wanted = Vec::new();
    let agent = Agent::start(&limit(32));
    for round in ["first", "second"] {
        // One is that of the writer, which is this process.
        let most = grow(&place, round, FILES, &mut wanted).await;
        assert!(most <= 32 + 1, "{most} logs were open");
    }
    // Raised: those that are read stay open.
    agent.reload(&place.state(), &limit(100)).await;
    let most = grow(&place, "raised", FILES, &mut wanted).await;
    assert!((60..=100 + 1).contains(&most), "{most} logs were open");
    // Lowered: too many are closed before the change counts.
    agent.reload(&place.state(), &limit(16)).await;
    let open = open_in(&folder);
    assert!(open <= 16, "{open} logs are open");
    let most = grow(&place, "lowered", FILES, &mut wanted).await;
    assert!(most <= 16 + 1, "{most} logs were open");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_deleted_and_unread_stays_open_when_the_limit_is_lowered() {
    let place = Place::new().await;
    let limit = |most: usize| {
        let more = format!("[limits]\nmemory = \"8MiB\"\nopen_files = {most}");
        place.config("*.log", &more)
    };
    let agent = Agent::start(&limit(64));
    place.bus.manner(rig::Manner::Busy);
    // More than memory takes, so that the last ones are open and unread.
    let mut random = fastrand::Rng::with_seed(23);
    let mut noise = || (0..900).map(|_| random.alphanumeric()).collect::<String>();
    let mut wanted = Vec::new();
    for file in 0..40 {
        let new: Vec<String> = (0..500)
            .map(|line| format!("{file} {line} {}", noise()))
            .collect();
        let path = place.log(&format!("{file}.log"));
        append(&path, &new);
        rig::found(&path).await;
        wanted.extend(new);
    }
    for file in 0..40 {
        fs::remove_file(place.log(&format!("{file}.log"))).unwrap();
    }
    agent.reload(&place.state(), &limit(16)).await;
    place.bus.manner(rig::Manner::Take);
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
}

#[test]
fn a_limit_that_leaves_no_room_is_refused() {
    let text = "[[bus]]\nname = 'a'\nnodes = ['b:1']\n[limits]\nopen_files = 4\n";
    let faults = tributary_agent::config::parse(text, "test").unwrap_err();
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let told = |fault: &String| fault.contains("open_files") && fault.contains("16 to 1000000");
    assert!(faults.iter().any(told), "{faults:?}");
}

/// How many bytes of a file are in memory.
fn in_memory(path: &Path) -> u64 {
    let mut asks = std::process::Command::new("fincore");
    let said = asks.args(["--bytes", "--noheadings", "--output", "RES"]);
    let said = said.arg(path).output().unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    text.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_writer_has_in_memory_stays_there_when_it_was_read() {
    let place = Place::new().await;
    let wanted = lines("kept", 50_000);
    append(&place.log("a.log"), &wanted);
    // Nobody drives out what is not on the disk yet.
    fs::File::open(place.log("a.log"))
        .unwrap()
        .sync_all()
        .unwrap();
    let before = in_memory(&place.log("a.log"));
    let size = fs::metadata(place.log("a.log")).unwrap().len();
    assert!(before >= size, "{before} of {size} bytes");
    let agent = place.start("*.log");
    place.bus.expect(&wanted).await;
    assert_eq!(in_memory(&place.log("a.log")), before, "while it is open");
    agent.stop().await;
    assert_eq!(in_memory(&place.log("a.log")), before, "after a stop");
}
