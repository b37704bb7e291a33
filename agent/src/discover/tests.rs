//! Looking without watches, at what is no file, and at names that go.

use std::fs;

use super::*;

/// Looks for `*.log` with so many watches until `done`, while `act` happens after each look.
fn check(max_watches: usize, act: impl Fn(&Path, u64), done: impl Fn(&Look) -> bool) -> Look {
    let dir = tempfile::tempdir().unwrap();
    let pattern = format!("{}/*/*.log", dir.path().display());
    let place = Where {
        paths: vec![Pattern::new(&pattern).unwrap()],
        exclude: PatternSet::new(&[]).unwrap(),
        critical: true,
    };
    let (events, looks) = std::sync::mpsc::sync_channel(1);
    let state = dir.path().join("state");
    let discover = Discover::with_watches(
        vec![Some(place)],
        crossbeam_channel::never(),
        &state,
        events,
        Arc::new(Flow::new().unwrap()),
        max_watches,
    );
    let stop = CancellationToken::new();
    let token = stop.clone();
    let thread = std::thread::spawn(move || discover.run(&token));
    let limit = Duration::from_secs(20);
    let mut count = 0;
    let found = loop {
        match looks.recv_timeout(limit).expect("it looks") {
            Event::Look(look) if done(&look) => break look,
            Event::Look(_) | Event::Touched(_) => {}
            Event::Apply(_) | Event::Wake | Event::Spool(_) | Event::Stop => {
                panic!("discovery says no such thing")
            }
        }
        count += 1;
        assert!(count < 1000, "it never comes");
        act(dir.path(), count);
    };
    stop.cancel();
    drop(looks);
    thread.join().unwrap().unwrap();
    found
}

fn make_file(dir: &Path, count: u64) {
    if count == 2 {
        fs::create_dir_all(dir.join("later")).unwrap();
        fs::write(dir.join("later/a.log"), "x").unwrap();
    }
}

#[test]
fn without_watches_files_are_found_by_looking_and_the_task_is_named() {
    for watches in [0, 1] {
        let look = check(watches, make_file, |look| !look.found.is_empty());
        assert!(look.found[0].1.ends_with("later/a.log"));
        let look = check(watches, make_file, |look| {
            look.figures.as_ref().is_some_and(|f| f.paths == 1)
        });
        let figures = look.figures.unwrap();
        assert!(figures.blind.contains(&0) && figures.watched <= watches);
    }
}

#[test]
fn what_is_no_file_is_shown_as_left_out() {
    let act = |dir: &Path, count: u64| {
        if count == 1 {
            fs::create_dir_all(dir.join("a/folder.log")).unwrap();
        }
    };
    let look = check(usize::MAX, act, |look| {
        let left_out = look
            .figures
            .as_ref()
            .map(|figures| figures.left_out[0].len());
        left_out == Some(1)
    });
    assert!(look.found.is_empty());
    assert!(look.figures.unwrap().blind.is_empty());
}

#[test]
fn a_name_that_goes_is_gone_after_two_looks() {
    let act = |dir: &Path, count: u64| {
        make_file(dir, count);
        if count > 2 && dir.join("later/a.log").is_file() {
            fs::remove_file(dir.join("later/a.log")).unwrap();
        }
    };
    let look = check(usize::MAX, act, |look| !look.gone.is_empty());
    assert!(look.gone[0].1.ends_with("later/a.log"));
}
