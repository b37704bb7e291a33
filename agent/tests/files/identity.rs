//! Which file is which.

use std::{fs, time::Duration};

use crate::rig::{Place, append, lines};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn equal_headers_of_any_length_never_merge_two_files() {
    for bytes in [1, 64, 1024, 4096, 65_536] {
        let place = Place::new().await;
        let agent = place.start("*.log");
        let header = "h".repeat(bytes);
        let file = |name: &str| [vec![header.clone()], lines(name, 5)].concat();
        append(&place.log("a.log"), &file("a"));
        place.bus.expect(&file("a")).await;
        append(&place.log("b.log"), &file("b"));
        let wanted = [file("a"), file("b")].concat();
        place.bus.expect_sorted(&wanted).await;
        // The same header again after rotation.
        fs::rename(place.log("a.log"), place.log("a.log.1")).unwrap();
        append(&place.log("a.log"), &file("c"));
        let wanted = [wanted, file("c")].concat();
        place.bus.expect_sorted(&wanted).await;
        agent.stop().await;
        assert_eq!(place.bus.lines().len(), wanted.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tiny_files_that_grow_byte_by_byte_are_read_like_any_other() {
    let place = Place::new().await;
    let agent = place.start("*.log");
    fs::write(place.log("empty.log"), "").unwrap();
    let mut text = String::new();
    for byte in "one\ntwo\nthree\n".chars() {
        text.push(byte);
        fs::write(place.log("gone.log"), "").unwrap();
        fs::remove_file(place.log("gone.log")).unwrap();
    }
    for at in 0..14 {
        use std::io::Write as _;
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(place.log("tiny.log"))
            .unwrap();
        file.write_all(&text.as_bytes()[at..=at]).unwrap();
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    let wanted: Vec<String> = text.lines().map(str::to_owned).collect();
    place.bus.expect(&wanted).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn two_names_of_one_file_are_one_file() {
    let place = Place::new().await;
    append(&place.log("a.log"), &lines("a", 20));
    fs::hard_link(place.log("a.log"), place.log("hard.log")).unwrap();
    std::os::unix::fs::symlink(place.log("a.log"), place.log("soft.log")).unwrap();
    let agent = place.start("*.log");
    place.bus.expect(&lines("a", 20)).await;
    append(&place.log("hard.log"), &lines("b", 20));
    let wanted = [lines("a", 20), lines("b", 20)].concat();
    place.bus.expect(&wanted).await;
    // One name goes, the file stays.
    fs::remove_file(place.log("a.log")).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    append(&place.log("hard.log"), &lines("c", 20));
    let wanted = [wanted, lines("c", 20)].concat();
    place.bus.expect(&wanted).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_folder_that_was_away_comes_back_as_the_same_files() {
    let place = Place::new().await;
    let agent = place.start("*.log");
    append(&place.log("a.log"), &lines("a", 20));
    place.bus.expect(&lines("a", 20)).await;
    let (here, away) = (place.dir.path().join("logs"), place.dir.path().join("away"));
    // Gone, as a mount that is taken away.
    fs::rename(&here, &away).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    append(&away.join("a.log"), &lines("b", 20));
    fs::rename(&away, &here).unwrap();
    let wanted = [lines("a", 20), lines("b", 20)].concat();
    place.bus.expect(&wanted).await;
    agent.stop().await;
    // The same while stopped, found empty at the start.
    append(&place.log("a.log"), &lines("c", 20));
    fs::rename(&here, &away).unwrap();
    fs::create_dir(&here).unwrap();
    let agent = place.start("*.log");
    tokio::time::sleep(Duration::from_millis(3000)).await;
    fs::remove_dir(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    let wanted = [wanted, lines("c", 20)].concat();
    place.bus.expect(&wanted).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_cannot_be_looked_at_is_not_taken_for_deleted() {
    let place = Place::new().await;
    let agent = place.start("*.log");
    append(&place.log("a.log"), &lines("a", 20));
    place.bus.expect(&lines("a", 20)).await;
    let (here, away) = (place.dir.path().join("logs"), place.dir.path().join("away"));
    // A folder that answers ELOOP cannot be looked at, as one that answers EIO, EACCES or ESTALE.
    fs::rename(&here, &away).unwrap();
    std::os::unix::fs::symlink(&here, &here).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    append(&away.join("a.log"), &lines("b", 20));
    fs::remove_file(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    let wanted = [lines("a", 20), lines("b", 20)].concat();
    place.bus.expect(&wanted).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}
