//! Rotation while no agent runs.

use std::fs;

use super::{open::open_in, rewrite, truncate};
use crate::rig::{Place, append, lines};

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
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
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
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert!(is_open(), "it was written to lately");
    append(&place.log("app.log"), &lines("b", 200));
    fs::remove_file(place.log("app.log")).unwrap();
    assert_eq!(open_in(&place.log("old.log")), 0, "nobody writes to it");
    wanted.extend(lines("b", 200));
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
}
