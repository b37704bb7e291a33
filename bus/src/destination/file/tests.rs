//! Files across kills, taken-away roots and bad batches.

use std::{path::Path, sync::mpsc};

use tempfile::TempDir;
use tributary_common::wire::RefuseReason;

use super::{
    super::{Accepted, Done, Outcome},
    *,
};
use crate::{
    journal::Owner,
    testing::{accepted, batch},
};

struct Rig {
    sink: FileSink,
    owner: Owner,
    journal: Journal,
    dir: TempDir,
}

fn start(dir: TempDir) -> Rig {
    let (journal, owner, _opened) = Journal::open(&dir.path().join("dedupe"), false).unwrap();
    let path = format!("{}/out/{{topic}}/dt={{date}}", dir.path().display());
    let path = Template::parse(&path).unwrap();
    let node = NodeId::new("bus1").unwrap();
    let sink = FileSink::start(&Name::new("local").unwrap(), &path, &node, &journal).unwrap();
    Rig {
        sink,
        owner,
        journal,
        dir,
    }
}

impl Rig {
    fn new() -> Self {
        start(TempDir::new().unwrap())
    }

    fn target(&self) -> String {
        format!("{}/out/web/dt=1970-01-01", self.dir.path().display())
    }

    fn give(&self, batch: &Arc<Accepted>) -> mpsc::Receiver<Outcome> {
        let (told, outcome) = mpsc::channel();
        let done = Done::new(move |outcome| told.send(outcome).unwrap_or_default());
        self.sink.deliver(Job {
            replay: None,
            batch: Arc::clone(batch),
            target: self.target(),
            done,
        });
        outcome
    }

    async fn deliver(&self, seq: u64, lines: &[&str]) -> Outcome {
        let batch = accepted(batch("web", 1, seq, lines)).await;
        self.give(&batch)
            .recv_timeout(Duration::from_secs(10))
            .unwrap()
    }

    fn read(&self) -> String {
        std::fs::read_to_string(format!("{}/bus1.log", self.target())).unwrap()
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Ends as a kill would: files stay open in the journal.
    fn kill(self) -> TempDir {
        self.owner.close();
        self.sink.close(Duration::from_secs(5));
        self.dir
    }

    async fn wait_until(&self, up: bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.sink.down("").is_none() != up {
            assert!(Instant::now() < deadline, "{:?}", self.sink.down(""));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn lines_are_in_the_file_when_the_answer_comes() {
    let rig = Rig::new();
    let place = rig.deliver(1, &["one", "two"]).await.unwrap();
    assert_eq!((place.first, place.end, place.partition), (0, 8, 0));
    assert!(place.target.ends_with("/out/web/dt=1970-01-01/bus1.log"));
    let place = rig.deliver(2, &["", "x\r"]).await.unwrap();
    assert_eq!((place.first, place.end), (8, 12));
    assert_eq!(rig.read(), "one\ntwo\n\nx\r\n");
}

#[tokio::test]
async fn many_batches_share_a_group_and_keep_their_order() {
    let rig = Rig::new();
    let mut waiting = Vec::new();
    for seq in 1..=300 {
        let line = seq.to_string();
        let batch = accepted(batch("web", 1, seq, &[&line])).await;
        waiting.push(rig.give(&batch));
    }
    for outcome in waiting {
        outcome
            .recv_timeout(Duration::from_secs(10))
            .unwrap()
            .unwrap();
    }
    let want: String = (1..=300).map(|seq| format!("{seq}\n")).collect();
    assert_eq!(rig.read(), want);
}

#[tokio::test]
async fn after_a_kill_unacknowledged_lines_are_cut_off_and_come_again() {
    let rig = Rig::new();
    rig.deliver(1, &["acknowledged"]).await.unwrap();
    let file = format!("{}/bus1.log", rig.target());
    let dir = rig.kill();
    // What a killed life leaves: lines behind the journal's last word, the last one torn.
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.extend_from_slice(b"not acknowledged\nto");
    std::fs::write(&file, bytes).unwrap();

    let rig = start(dir);
    assert_eq!(rig.read(), "acknowledged\n");
    rig.deliver(2, &["not acknowledged", "torn"]).await.unwrap();
    assert_eq!(rig.read(), "acknowledged\nnot acknowledged\ntorn\n");
}

#[tokio::test]
async fn a_new_file_without_any_acknowledged_line_is_cut_to_nothing() {
    let rig = Rig::new();
    let file = format!("{}/bus1.log", rig.target());
    // The journal was told of the file, then the process died before the batch was noted.
    {
        let mut memory = rig.journal.memory();
        let no = memory.destination(&Name::new("local").unwrap());
        let target = memory.target(no, &file);
        drop(memory);
        let start = vec![
            crate::journal::format::Record::Position {
                target,
                partition: 0,
                end: 0,
                floor: None,
            },
            crate::journal::format::Record::Opened { target },
        ];
        rig.journal.commit_and_wait(start).unwrap();
    }
    let target = rig.target();
    let dir = rig.kill();
    std::fs::create_dir_all(target).unwrap();
    std::fs::write(&file, b"never acknowledged\n").unwrap();
    let rig = start(dir);
    assert_eq!(rig.read(), "");
}

#[tokio::test]
async fn after_an_orderly_stop_others_may_write_to_the_file() {
    let rig = Rig::new();
    rig.deliver(1, &["ours"]).await.unwrap();
    let file = format!("{}/bus1.log", rig.target());
    rig.sink.close(Duration::from_secs(5));
    rig.owner.close();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.extend_from_slice(b"theirs\n");
    std::fs::write(&file, bytes).unwrap();
    let rig = start(rig.dir);
    let place = rig.deliver(2, &["more"]).await.unwrap();
    assert_eq!(place.first, 12);
    assert_eq!(rig.read(), "ours\ntheirs\nmore\n");
}

#[tokio::test]
async fn a_corrupt_batch_is_refused_and_the_others_of_its_group_are_not() {
    let rig = Rig::new();
    let (mut header, payload) = batch("web", 1, 1, &["x"]);
    header.content_sum ^= 1;
    let bad = accepted((header, payload)).await;
    let good = accepted(batch("web", 1, 2, &["good"])).await;
    let (bad, good) = (rig.give(&bad), rig.give(&good));
    let failure = bad
        .recv_timeout(Duration::from_secs(10))
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(failure, Failure::Rejected(RefuseReason::Corrupt, _)),
        "{failure:?}"
    );
    good.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
    assert_eq!(rig.read(), "good\n");
}

#[tokio::test]
async fn a_root_that_is_taken_away_is_waited_for_and_never_made_again() {
    let rig = Rig::new();
    rig.deliver(1, &["before"]).await.unwrap();
    let (root, aside) = (rig.root(), rig.dir.path().join("aside"));
    std::fs::rename(&root, &aside).unwrap();
    let failure = rig.deliver(2, &["away"]).await.unwrap_err();
    let reason = format!("{} was taken away (unmounted or moved?)", root.display());
    assert_eq!(failure, Failure::Unavailable(reason.clone()));
    rig.wait_until(false).await;
    assert_eq!(rig.sink.health().detail, reason);
    assert!(!root.try_exists().unwrap());
    std::fs::rename(&aside, &root).unwrap();
    rig.wait_until(true).await;
    rig.deliver(2, &["after"]).await.unwrap();
    assert_eq!(rig.read(), "before\nafter\n");
}

#[tokio::test]
async fn another_folder_in_the_place_of_the_root_begins_anew() {
    let rig = Rig::new();
    rig.deliver(1, &["old disk"]).await.unwrap();
    std::fs::rename(rig.root(), rig.dir.path().join("aside")).unwrap();
    std::fs::create_dir(rig.root()).unwrap();
    let place = rig.deliver(2, &["new disk"]).await.unwrap();
    assert_eq!(place.first, 0);
    assert_eq!(rig.read(), "new disk\n");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_to_stops_no_other() {
    let rig = Rig::new();
    rig.deliver(1, &["before"]).await.unwrap();
    // A file in the place of a folder.
    std::fs::write(rig.root().join("bad"), b"").unwrap();
    let target = rig.root().join("bad/dt=1970-01-01").display().to_string();
    let give = |batch: &Arc<Accepted>| {
        let (told, outcome) = mpsc::channel();
        let done = Done::new(move |outcome| told.send(outcome).unwrap_or_default());
        rig.sink.deliver(Job {
            replay: None,
            batch: Arc::clone(batch),
            target: target.clone(),
            done,
        });
        outcome
    };
    let first = give(&accepted(batch("bad", 9, 1, &["x"])).await);
    let second = give(&accepted(batch("bad", 9, 2, &["x"])).await);
    rig.deliver(2, &["after"]).await.unwrap();
    for outcome in [first, second] {
        let failure = outcome
            .recv_timeout(Duration::from_secs(10))
            .unwrap()
            .unwrap_err();
        assert!(matches!(failure, Failure::Unavailable(_)), "{failure:?}");
    }
    assert!(rig.sink.down(&target).is_some());
    assert_eq!(rig.sink.down(&rig.target()), None);
    assert_eq!(rig.read(), "before\nafter\n");
}

#[test]
fn the_root_is_what_stands_before_the_first_placeholder() {
    let check = |path: &str, root: &str| {
        assert_eq!(root_of(&Template::parse(path).unwrap()), Path::new(root));
    };
    check("/data/{topic}/x", "/data");
    check("/data/x-{topic}", "/data");
    check("/{topic}", "/");
    check("data/{topic}", "data");
    check("{topic}", ".");
}
