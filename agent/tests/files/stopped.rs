//! Rotation while no agent runs.

use std::{fs, path::Path, time::Duration};

use tokio::time::{Instant, sleep};
use tributary_agent::checkpoint;

use super::{open::open_in, rewrite, truncate};
use crate::rig::{Agent, LIMIT, Place, append, lines};

/// An agent reads `a`, stops, `meanwhile` happens after `b` was written, and the next one must bring
/// `more`.
async fn check(paths: &str, meanwhile: impl Fn(&Place), more: &[Vec<String>]) {
    let place = Place::new().await;
    append(&place.log("app.log"), &lines("a", 300));
    let agent = place.start(paths);
    place.bus.expect(&lines("a", 300)).await;
    agent.stop().await;
    append(&place.log("app.log"), &lines("b", 200));
    meanwhile(&place);
    let agent = place.start(paths);
    let wanted = [&[lines("a", 300)], more].concat().concat();
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len(), "{paths}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_chain_of_renames_while_stopped_is_followed() {
    for paths in ["app.log", "app.log*"] {
        let meanwhile = |place: &Place| {
            fs::rename(place.log("app.log"), place.log("app.log.1")).unwrap();
            fs::rename(place.log("app.log.1"), place.log("app.log.2")).unwrap();
            fs::rename(place.log("app.log.2"), place.log("app.log.3")).unwrap();
            append(&place.log("app.log"), &lines("c", 10));
        };
        check(paths, meanwhile, &[lines("b", 200), lines("c", 10)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_moved_to_a_folder_nearby_while_stopped_is_read_to_its_end() {
    for folder in ["logs/old", "archive"] {
        let meanwhile = |place: &Place| {
            let folder = place.dir.path().join(folder);
            fs::create_dir(&folder).unwrap();
            fs::rename(place.log("app.log"), folder.join("app.log-20260101")).unwrap();
            append(&place.log("app.log"), &lines("c", 10));
        };
        check("app.log", meanwhile, &[lines("b", 200), lines("c", 10)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_moved_to_another_file_system_while_stopped_goes_on_at_its_offset() {
    let place = Place::new().await;
    append(&place.log("app.log"), &lines("a", 300));
    let agent = place.start("app.log*");
    place.bus.expect(&lines("a", 300)).await;
    agent.stop().await;
    // As `mv` does across file systems: a copy with the same times, then the original goes.
    let (from, to) = (place.log("app.log"), place.log("app.log.1"));
    let modified = fs::metadata(&from).unwrap().modified().unwrap();
    fs::copy(&from, &to).unwrap();
    let copy = fs::OpenOptions::new().write(true).open(&to).unwrap();
    copy.set_modified(modified).unwrap();
    fs::remove_file(&from).unwrap();
    append(&place.log("app.log"), &lines("c", 100));
    let agent = place.start("app.log*");
    let wanted = [lines("a", 300), lines("c", 100)].concat();
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_cut_off_while_stopped_is_read_from_its_new_beginning() {
    let emptied = |place: &Place| {
        truncate(&place.log("app.log"), 0);
        append(&place.log("app.log"), &lines("c", 10));
    };
    // What was written meanwhile is nobody's to save.
    check("app.log", emptied, &[lines("c", 10)]).await;
    let longer = |place: &Place| rewrite(&place.log("app.log"), &lines("c", 900));
    check("app.log", longer, &[lines("c", 900)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_deleted_and_made_again_while_stopped_is_read_whole() {
    let meanwhile = |place: &Place| {
        fs::remove_file(place.log("app.log")).unwrap();
        append(&place.log("app.log"), &lines("c", 700));
    };
    check("app.log", meanwhile, &[lines("c", 700)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_link_swapped_while_stopped_leaves_nothing_behind() {
    let place = Place::new().await;
    fs::create_dir(place.dir.path().join("real")).unwrap();
    let real = |name: &str| place.dir.path().join("real").join(name);
    let swap = |name: &str| {
        std::os::unix::fs::symlink(real(name), place.log("new-link")).unwrap();
        fs::rename(place.log("new-link"), place.log("app.log")).unwrap();
    };
    append(&real("1"), &lines("one", 10));
    swap("1");
    let agent = place.start("app.log");
    place.bus.expect(&lines("one", 10)).await;
    agent.stop().await;
    append(&real("1"), &lines("late", 10));
    append(&real("2"), &lines("two", 10));
    swap("2");
    let agent = place.start("app.log");
    let wanted = [lines("one", 10), lines("late", 10), lines("two", 10)].concat();
    place.bus.expect(&wanted).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_log_written_to_and_deleted_right_after_a_start_is_read_to_its_end() {
    let place = Place::new().await;
    append(&place.log("app.log"), &lines("a", 300));
    append(&place.log("old.log"), &lines("old", 3));
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    let mut options = fs::OpenOptions::new();
    let old = options.write(true).open(place.log("old.log")).unwrap();
    old.set_modified(hour_ago).unwrap();
    drop(old);
    let agent = place.start("*.log");
    let mut wanted = [lines("a", 300), lines("old", 3)].concat();
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
    let agent = place.start("*.log");
    let is_open = || open_in(&place.dir.path().join("logs")) > 0;
    for _look in 0..30_000 {
        if is_open() {
            break;
        }
        sleep(Duration::from_millis(1)).await;
    }
    assert!(is_open(), "it was written to lately");
    append(&place.log("app.log"), &lines("b", 200));
    fs::remove_file(place.log("app.log")).unwrap();
    assert_eq!(open_in(&place.log("old.log")), 0, "nobody writes to it");
    wanted.extend(lines("b", 200));
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
}

/// An agent sees the whole of a file and reads a part, since a topic that is never answered takes as much
/// memory as it may. It stops, or is killed; then `meanwhile` happens. What the next life tells as lost.
async fn seen_and_gone(killed: bool, meanwhile: impl Fn(&Path)) -> (Vec<(u64, u64, String)>, u64) {
    let place = Place::new().await;
    place.bus.never_answer("x");
    let limit = "[limits]\nmemory = \"8MiB\"\n";
    let written = place.log("app.log");
    let mut seed = fastrand::Rng::with_seed(1);
    // Random, so that 20 MB do not fit into 8 MiB by being compressed.
    let line = |_| (0..1000).map(|_| seed.alphanumeric()).collect::<String>();
    append(&written, &(0..20_000).map(line).collect::<Vec<_>>());
    let agent = Agent::start(&place.config("app.log", limit));
    let read_to = || {
        let known = checkpoint::inspect(&place.state()).ok()?;
        let of = known.streams.first()?.generations.first()?;
        Some(of.read_to)
    };
    // It stands still when nothing more is read for a second.
    let until = Instant::now() + LIMIT;
    let mut last = (0, Instant::now());
    while last.0 == 0 || last.1.elapsed() < Duration::from_secs(1) {
        assert!(Instant::now() < until, "it never stands still");
        sleep(Duration::from_millis(20)).await;
        let now = read_to().unwrap_or(0);
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    let state = match killed {
        true => agent.kill(&place.bus, &place.state(), false).await,
        false => {
            agent.stop().await;
            place.state()
        }
    };
    let read_to = checkpoint::inspect(&state).unwrap().streams[0].generations[0].read_to;
    meanwhile(&written);
    let agent = Agent::start(&place.config_at(&state, "app.log", limit));
    let until = Instant::now() + LIMIT;
    let unread = loop {
        let losses = checkpoint::inspect(&state).unwrap().losses;
        let losses = losses.into_iter().map(|lost| lost.loss);
        let unread = losses.filter(|loss| loss.reason.ends_with("-unread"));
        let unread: Vec<_> = unread
            .map(|loss| (loss.span.start, loss.span.end, loss.reason))
            .collect();
        if !unread.is_empty() || Instant::now() > until {
            break unread;
        }
        sleep(Duration::from_millis(20)).await;
    };
    agent.stop().await;
    (unread, read_to)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_seen_and_not_read_and_is_cut_off_or_deleted_while_stopped_is_told_as_lost() {
    let size = 20_000 * 1001;
    let cut = |path: &Path| {
        truncate(path, 0);
        append(path, &lines("c", 10));
    };
    let delete = |path: &Path| fs::remove_file(path).unwrap();
    let (stopped_cut, killed_cut, stopped_deleted, killed_deleted) = tokio::join!(
        seen_and_gone(false, cut),
        seen_and_gone(true, cut),
        seen_and_gone(false, delete),
        seen_and_gone(true, delete),
    );
    for ((told, read_to), reason) in [
        (stopped_cut, "truncated-unread"),
        (killed_cut, "truncated-unread"),
        (stopped_deleted, "deleted-unread"),
        (killed_deleted, "deleted-unread"),
    ] {
        assert!(read_to > 0 && read_to < size, "{read_to}");
        assert_eq!(told, [(read_to, size, reason.to_owned())]);
    }
}
