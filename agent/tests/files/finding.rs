//! Which files are found.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, time::Duration};

use crate::rig::{Agent, Place, append, lines};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn folders_that_come_later_are_found_at_any_depth() {
    let place = Place::new().await;
    let agent = place.start("later/**/*.log");
    let mut wanted = Vec::new();
    for folder in ["later", "later/a", "later/a/b/c", "later/d"] {
        tokio::time::sleep(Duration::from_millis(200)).await;
        fs::create_dir_all(place.log(folder)).unwrap();
        append(&place.log(&format!("{folder}/x.log")), &lines(folder, 10));
        wanted.extend(lines(folder, 10));
        place.bus.expect_sorted(&wanted).await;
    }
    // Removed and made again, and moved.
    fs::remove_dir_all(place.log("later/d")).unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    fs::create_dir(place.log("later/d")).unwrap();
    append(&place.log("later/d/y.log"), &lines("again", 10));
    fs::rename(place.log("later/a"), place.log("later/moved")).unwrap();
    append(&place.log("later/moved/x.log"), &lines("moved", 10));
    wanted.extend([lines("again", 10), lines("moved", 10)].concat());
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn links_to_folders_are_followed_once_and_loops_end() {
    let place = Place::new().await;
    fs::create_dir_all(place.dir.path().join("data/deep")).unwrap();
    append(&place.dir.path().join("data/deep/x.log"), &lines("x", 10));
    std::os::unix::fs::symlink(place.dir.path().join("data"), place.log("link")).unwrap();
    std::os::unix::fs::symlink(place.dir.path().join("data"), place.log("link2")).unwrap();
    std::os::unix::fs::symlink(place.log(""), place.dir.path().join("data/up")).unwrap();
    append(&place.log("y.log"), &lines("y", 10));
    let agent = place.start("**/*.log");
    let mut wanted = [lines("x", 10), lines("y", 10)].concat();
    place.bus.expect_sorted(&wanted).await;
    append(
        &place.dir.path().join("data/deep/x.log"),
        &lines("more", 10),
    );
    append(&place.dir.path().join("data/z.log"), &lines("z", 10));
    wanted.extend([lines("more", 10), lines("z", 10)].concat());
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn words_for_dates_match_any_date_and_nothing_else() {
    let place = Place::new().await;
    let agent = place.start("app-{yyyy}-{MM}-{dd}-{HH}.{log,txt}");
    for name in [
        "app-2026-13-01-00.log",
        "app-2026-12-32-00.log",
        "app-26-12-01-00.log",
        "app-2026-12-01-24.log",
        "app-yyyy-MM-dd-HH.log",
    ] {
        append(&place.log(name), &lines("no date", 1));
    }
    append(&place.log("app-2026-01-31-23.log"), &lines("first", 10));
    append(&place.log("app-2031-12-09-00.txt"), &lines("second", 10));
    let wanted = [lines("first", 10), lines("second", 10)].concat();
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn excluded_files_are_none_of_the_task_until_they_are_renamed() {
    let place = Place::new().await;
    let agent = Agent::start(&place.config("**/*.log*", "exclude = [\"**/*.tmp\", \"**/no/**\"]"));
    fs::create_dir(place.log("no")).unwrap();
    append(&place.log("no/x.log"), &lines("no", 10));
    append(&place.log("a.log.tmp"), &lines("a", 10));
    append(&place.log("b.log"), &lines("b", 10));
    place.bus.expect(&lines("b", 10)).await;
    fs::rename(place.log("a.log.tmp"), place.log("a.log")).unwrap();
    let wanted = [lines("b", 10), lines("a", 10)].concat();
    place.bus.expect(&wanted).await;
    agent.stop().await;
    assert_eq!(place.bus.lines().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn names_of_any_bytes_are_collected_and_shown_escaped() {
    let place = Place::new().await;
    let agent = place.start("*.log");
    let names: [&[u8]; 3] = [b"new\nline.log", b"no \xff utf-8.log", b"back\\slash.log"];
    let mut wanted = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let path = place.log("").join(OsStr::from_bytes(name));
        append(&path, &lines(&format!("file {at}"), 10));
        wanted.extend(lines(&format!("file {at}"), 10));
    }
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
    let mut files: Vec<String> = place
        .bus
        .arrived()
        .iter()
        .map(|batch| batch.header.file.clone())
        .collect();
    files.sort();
    files.dedup();
    let folder = place.log("").display().to_string();
    let shown = ["back\\\\slash.log", "new\\nline.log", "no \\xff utf-8.log"];
    assert_eq!(files, shown.map(|name| format!("{folder}{name}")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_no_file_is_never_opened() {
    let place = Place::new().await;
    let fifo = place.log("fifo.log");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let socket = std::os::unix::net::UnixListener::bind(place.log("socket.log")).unwrap();
    fs::create_dir(place.log("folder.log")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", place.log("device.log")).unwrap();
    std::os::unix::fs::symlink(place.log("none"), place.log("dangling.log")).unwrap();
    std::os::unix::fs::symlink(place.log("loop.log"), place.log("loop.log")).unwrap();
    let agent = place.start("*.log");
    append(&place.log("a.log"), &lines("a", 10));
    place.bus.expect(&lines("a", 10)).await;
    // A pipe that somebody has open to read can be opened to write without waiting.
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
    let opened = rustix::fs::open(&fifo, flags, rustix::fs::Mode::empty());
    assert_eq!(
        opened.err(),
        Some(rustix::io::Errno::NXIO),
        "nobody reads it"
    );
    // It becomes a file after all.
    fs::remove_file(&fifo).unwrap();
    append(&fifo, &lines("b", 10));
    place
        .bus
        .expect(&[lines("a", 10), lines("b", 10)].concat())
        .await;
    agent.stop().await;
    drop(socket);
}
