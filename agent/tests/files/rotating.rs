//! Rotation under a running agent.

use std::{
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    time::Duration,
};

use super::{rewrite, truncate};
use crate::rig::{Agent, Place, append, lines};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_that_was_emptied_is_read_from_its_new_beginning() {
    let place = Place::new().await;
    let agent = place.start("app.log");
    let log = place.log("app.log");
    append(&log, &lines("old", 100));
    place.bus.expect(&lines("old", 100)).await;
    truncate(&log, 0);
    append(&log, &lines("new", 20));
    let wanted = [lines("old", 100), lines("new", 20)].concat();
    place.bus.expect(&wanted).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_that_became_shorter_is_a_new_generation_from_its_beginning() {
    let place = Place::new().await;
    let agent = place.start("app.log");
    let log = place.log("app.log");
    append(&log, &lines("old", 100));
    place.bus.expect(&lines("old", 100)).await;
    rewrite(&log, &lines("n", 3));
    let wanted = [lines("old", 100), lines("n", 3)].concat();
    place.bus.expect(&wanted).await;
    agent.stop().await;
    let arrived = place.bus.arrived();
    let (first, last) = (&arrived[0].header, &arrived[arrived.len() - 1].header);
    assert_ne!(first.generation, last.generation);
    assert_eq!(last.span.start, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_written_anew_in_place_is_read_whole_whatever_its_size() {
    for (old, new) in [(100, 100), (100, 300)] {
        let place = Place::new().await;
        let agent = place.start("app.log");
        let log = place.log("app.log");
        append(&log, &lines("aaa", old));
        place.bus.expect(&lines("aaa", old)).await;
        rewrite(&log, &lines("bbb", new));
        place
            .bus
            .expect(&[lines("aaa", old), lines("bbb", new)].concat())
            .await;
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_copy_of_what_was_written_at_the_same_moment_is_no_file_of_its_own() {
    let place = Place::new().await;
    let agent = place.start("app.log*");
    let log = place.log("app.log");
    let mut wanted = Vec::new();
    for round in 0..6 {
        // The agent has seen the file empty, and learns of its content and of the copy at once.
        append(&log, &[]);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let new = lines(&format!("round {round}"), 100 + round);
        append(&log, &new);
        fs::copy(&log, place.log(&format!("app.log.{round}"))).unwrap();
        wanted.extend(new);
        place.bus.expect_sorted(&wanted).await;
        truncate(&log, 0);
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_copy_in_a_folder_below_is_no_file_of_its_own() {
    let place = Place::new().await;
    let agent = place.start("**/app.log*");
    let log = place.log("app.log");
    fs::create_dir(place.log("old")).unwrap();
    let mut wanted = Vec::new();
    for round in 0..4 {
        let new = lines(&format!("round {round}"), 100 + round);
        append(&log, &new);
        wanted.extend(new);
        place.bus.expect_sorted(&wanted).await;
        fs::copy(&log, place.log(&format!("old/app.log.{round}"))).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        truncate(&log, 0);
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_log_that_is_copied_and_cut_off_twice_at_once_is_read_once() {
    let place = Place::new().await;
    let agent = place.start("app.log*");
    let log = place.log("app.log");
    let copy = |number: usize| place.log(&format!("app.log.{number}"));
    let mut wanted = Vec::new();
    let mut copies = 0;
    for round in 0..5 {
        for half in 0..2 {
            // More than the agent reads in one turn: it is in the middle of the one or the other.
            let new = lines(&format!("round {round} {half}"), 20_000);
            append(&log, &new);
            wanted.extend(new);
            for number in (1..=copies).rev() {
                fs::rename(copy(number), copy(number + 1)).unwrap();
            }
            copies += 1;
            fs::copy(&log, copy(1)).unwrap();
            truncate(&log, 0);
        }
        tokio::time::sleep(Duration::from_millis(150 * round)).await;
    }
    place.bus.expect_sorted(&wanted).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_copy_over_the_copy_before_is_no_file_of_its_own() {
    for waits in [true, false] {
        let place = Place::new().await;
        let agent = place.start("app.log*");
        let (log, copy) = (place.log("app.log"), place.log("app.log.1"));
        let mut wanted = Vec::new();
        // The first copy is one of nothing.
        append(&log, &[]);
        fs::copy(&log, &copy).unwrap();
        let pause = if waits { 3500 } else { 300 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        for round in 0..4 {
            let new = lines(&format!("round {round}"), 100 + 50 * (round % 2));
            append(&log, &new);
            wanted.extend(new);
            if waits {
                place.bus.expect_sorted(&wanted).await;
            }
            fs::copy(&log, &copy).unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            truncate(&log, 0);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        place.bus.expect_sorted(&wanted).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        agent.stop().await;
        assert_eq!(place.bus.lines().len(), wanted.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_writer_that_does_not_append_leaves_a_hole_that_is_not_sent() {
    let place = Place::new().await;
    let agent = place.start("app.log");
    let log = place.log("app.log");
    let mut writer = fs::File::create(&log).unwrap();
    let text = |name: &str, count| -> String {
        lines(name, count)
            .iter()
            .map(|line| format!("{line}\n"))
            .collect()
    };
    writer.write_all(text("old", 500).as_bytes()).unwrap();
    place.bus.expect(&lines("old", 500)).await;
    // Its offset is far away, as after days of writing.
    writer.seek(SeekFrom::Start(1 << 30)).unwrap();
    truncate(&log, 0);
    writer.write_all(text("new", 50).as_bytes()).unwrap();
    let wanted = [lines("old", 500), lines("new", 50)].concat();
    place.bus.expect(&wanted).await;
    writer.write_all(text("more", 5).as_bytes()).unwrap();
    let wanted = [wanted, lines("more", 5)].concat();
    place.bus.expect(&wanted).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_deleted_and_made_again_at_once_is_two_files() {
    let place = Place::new().await;
    let agent = place.start("*.log");
    let log = place.log("app.log");
    let mut wanted = Vec::new();
    for round in 0..20 {
        // Of the same size each time: only the file itself differs.
        let new = lines(&format!("round {round:02}"), 30);
        append(&log, &new);
        wanted.extend(new);
        place.bus.expect(&wanted).await;
        fs::remove_file(&log).unwrap();
    }
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deleted_file_is_followed_while_its_writer_goes_on() {
    let place = Place::new().await;
    let agent = place.start("*.log");
    let log = place.log("app.log");
    append(&log, &lines("a", 10));
    place.bus.expect(&lines("a", 10)).await;
    let mut writer = fs::OpenOptions::new().append(true).open(&log).unwrap();
    fs::remove_file(&log).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    writer.write_all(b"late 1\n").unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    writer.write_all(b"late 2\n").unwrap();
    let late = ["late 1".to_owned(), "late 2".to_owned()];
    place
        .bus
        .expect(&[&lines("a", 10)[..], &late].concat())
        .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_link_that_is_swapped_leads_to_the_next_file_and_the_old_one_is_finished() {
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
    append(&real("1"), &lines("late", 10));
    append(&real("2"), &lines("two", 10));
    swap("2");
    let wanted = [lines("one", 10), lines("late", 10), lines("two", 10)].concat();
    place.bus.expect(&wanted).await;
    // The link's own folder says nothing when the file behind it grows.
    append(&real("2"), &lines("more", 10));
    let wanted = [wanted, lines("more", 10)].concat();
    place.bus.expect(&wanted).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_hundred_files_that_are_deleted_while_the_bus_is_busy_arrive() {
    let place = Place::new().await;
    place.bus.manner(crate::rig::Manner::Busy);
    let agent = place.start("*.log");
    let mut wanted = Vec::new();
    for file in 0..100 {
        let name = format!("{file:03}.log");
        let new = lines(&format!("file {file:03}"), 50);
        append(&place.log(&name), &new);
        wanted.extend(new);
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for file in 0..100 {
        fs::remove_file(place.log(&format!("{file:03}.log"))).unwrap();
        append(&place.log(&format!("{file:03}.log")), &lines("next", 1));
        wanted.extend(lines("next", 1));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    place.bus.manner(crate::rig::Manner::Take);
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_renamed_file_is_followed_out_of_the_glob_and_into_another_folder() {
    let place = Place::new().await;
    fs::create_dir(place.dir.path().join("elsewhere")).unwrap();
    let agent = place.start("app.log");
    let log = place.log("app.log");
    append(&log, &lines("a", 10));
    place.bus.expect(&lines("a", 10)).await;
    let mut writer = fs::OpenOptions::new().append(true).open(&log).unwrap();
    fs::rename(&log, place.dir.path().join("elsewhere/old")).unwrap();
    append(&log, &lines("b", 10));
    writer.write_all(b"late\n").unwrap();
    let wanted = [lines("a", 10), vec!["late".to_owned()], lines("b", 10)].concat();
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_line_finished_after_the_rename_is_one_line() {
    let place = Place::new().await;
    let agent = Agent::start(&place.config("app.log*", ""));
    let log = place.log("app.log");
    append(&log, &lines("a", 10));
    place.bus.expect(&lines("a", 10)).await;
    let mut writer = fs::OpenOptions::new().append(true).open(&log).unwrap();
    writer.write_all(b"begun ").unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    fs::rename(&log, place.log("app.log.1")).unwrap();
    append(&log, &lines("b", 10));
    tokio::time::sleep(Duration::from_millis(300)).await;
    writer.write_all(b"and ended\n").unwrap();
    let begun = vec!["begun and ended".to_owned()];
    let wanted = [lines("a", 10), begun, lines("b", 10)].concat();
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_writer_that_goes_on_after_the_rename_is_followed_though_no_new_log_comes() {
    let place = Place::new().await;
    let agent = place.start("app.log");
    append(&place.log("app.log"), &lines("a", 10));
    place.bus.expect(&lines("a", 10)).await;
    fs::rename(place.log("app.log"), place.log("app.log.1")).unwrap();
    let mut wanted = lines("a", 10);
    for round in 0..3 {
        // Longer than what follows a change of names.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let late = lines(&format!("late {round}"), 3);
        append(&place.log("app.log.1"), &late);
        wanted.extend(late);
    }
    place.bus.expect(&wanted).await;
    agent.stop().await;
}
