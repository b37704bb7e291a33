//! Records that begin in one file and go on in the next: one record, whatever happens meanwhile.

use std::{fs, path::Path, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tributary_agent::checkpoint::{Summary, inspect};

use super::{TRACES, owned, trace, write};
use crate::rig::{Agent, LIMIT, Manner, Place};

/// As [`TRACES`], but nothing is sent because its time was over, however slow the machine is.
const PATIENT: &str = "framing = { kind = \"multiline\", start = '^\\[', timeout = \"60s\" }";

/// What a log is rotated to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rotated {
    Renamed,
    Copied,
}

fn rotate(place: &Place, name: &str, to: &str, rotated: Rotated) {
    let (log, to) = (place.log(name), place.log(to));
    if rotated == Rotated::Renamed {
        fs::rename(log, to).unwrap();
    } else {
        fs::copy(&log, to).unwrap();
        let log = fs::OpenOptions::new().write(true).open(log).unwrap();
        log.set_len(0).unwrap();
    }
}

/// What stands in two files, and what arrives.
struct Case {
    framing: &'static str,
    /// A whole record first, so that the file is known; then the beginning of one.
    first: String,
    old: String,
    new: String,
    wanted: Vec<String>,
    /// So many of them are whole before the file is rotated.
    before: usize,
}

fn cri(stream: &str, tag: &str, text: &str) -> String {
    format!("2026-11-21T04:30:01.5Z {stream} {tag} {text}\n")
}

fn docker(stream: &str, tag: &str, text: &str) -> String {
    let end = if tag == "P" { "" } else { "\\n" };
    let time = "2026-11-21T04:30:01.5Z";
    format!("{{\"log\":\"{text}{end}\",\"stream\":\"{stream}\",\"time\":\"{time}\"}}\n")
}

/// Pieces of two streams, both open where the files change.
fn of_containers(framing: &'static str, line: impl Fn(&str, &str, &str) -> String) -> Case {
    let old = [
        line("stdout", "P", "begun"),
        line("stderr", "F", "other"),
        line("stderr", "P", "also"),
    ];
    let new = [
        line("stderr", "F", " more"),
        line("stdout", "P", " and on"),
        line("stdout", "F", " to its end"),
        line("stdout", "F", "next"),
    ];
    Case {
        framing,
        first: line("stdout", "F", "before"),
        old: old.concat(),
        new: new.concat(),
        wanted: owned(&[
            "before",
            "other",
            "also more",
            "begun and on to its end",
            "next",
        ]),
        before: 1,
    }
}

fn of_groups(framing: &'static str, texts: [&str; 3], wanted: &[&str]) -> Case {
    let [first, old, new] = texts.map(str::to_owned);
    // Those of groups show their end by what follows.
    let before = if framing.contains("end =") { 1 } else { 2 };
    Case {
        framing,
        first,
        old,
        new,
        wanted: owned(wanted),
        before,
    }
}

fn cases() -> Vec<Case> {
    let one = "[1] one\n\tat a\n\tat b";
    let texts = [
        "[0] before\n[0] done\n",
        "[1] one\n\tat a\n",
        "\tat b\n[2] two\n[3] three\n",
    ];
    // What comes before the first record of the old file is there already.
    let groups = ["[0] before", "[0] done", one, "[2] two"];
    vec![
        of_groups(PATIENT, texts, &groups),
        of_groups(
            "framing = { kind = \"multiline\", continue = '^\\s', timeout = \"60s\" }",
            texts,
            &groups,
        ),
        of_groups(
            "framing = { kind = \"multiline\", end = ';$', timeout = \"60s\" }",
            [
                "select 0;\n",
                "select\n1,\n",
                "2\nfrom t;\nselect 3;\nselect",
            ],
            &["select 0;", "select\n1,\n2\nfrom t;", "select 3;"],
        ),
        // A record of three lines may not be longer.
        of_groups(
            "framing = { kind = \"multiline\", start = '^\\[', timeout = \"60s\", max_lines = 3 }",
            [
                "[0] before\n[0] done\n",
                "[1] one\n\tat a\n",
                "\tat b\n\tat c\n[2] two\n[3] three\n",
            ],
            &["[0] before", "[0] done", one, "\tat c", "[2] two"],
        ),
        of_groups(
            "framing = { kind = \"multiline\", start = '^\\[', timeout = \"60s\" }\nencoding = \"gbk\"",
            texts,
            &groups,
        ),
        of_containers("framing = { kind = \"cri\" }", cri),
        of_containers("framing = { kind = \"docker-json\" }", docker),
    ]
}

/// The records that arrived, without those whose time was over: the last one of a log.
async fn must_arrive(place: &Place, wanted: &[String], told: &str) {
    place.bus.wait(|lines| lines.len() >= wanted.len()).await;
    let got = place.bus.lines();
    assert_eq!(got.get(..wanted.len()), Some(wanted), "{told}");
}

/// Waits until the agent's checkpoint says so.
async fn until(state: &Path, is_so: impl Fn(&Summary) -> bool) {
    let until = Instant::now() + LIMIT;
    while !inspect(state).is_ok_and(|known| is_so(&known)) {
        assert!(Instant::now() < until, "it never comes so far");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Lives lives at the same time, since most of them is waiting.
async fn live<T: Send + 'static>(
    lives: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    lives.into_iter().collect::<JoinSet<T>>().join_all().await
}

/// An agent that has seen the log, and what is to be the file before the next one.
async fn begin(case: &Case) -> (Place, Agent) {
    let place = Place::new().await;
    let agent = Agent::start(&place.config("app.log*", case.framing));
    write(&place.log("app.log"), case.first.as_bytes());
    let is_there = |lines: &[String]| lines.contains(&case.wanted[0]);
    place.bus.wait(is_there).await;
    (place, agent)
}

async fn one_record(case: Case, rotated: Rotated) {
    let told = format!("{}, {rotated:?}", case.framing);
    let (place, agent) = begin(&case).await;
    write(&place.log("app.log"), case.old.as_bytes());
    rotate(&place, "app.log", "app.log.1", rotated);
    write(&place.log("app.log"), case.new.as_bytes());
    must_arrive(&place, &case.wanted, &told).await;
    agent.stop().await;
    let flags = place.bus.flags();
    let of_wanted = flags[..case.wanted.len()].iter();
    let is_split = of_wanted.clone().any(|flag| flag.contains("cut"));
    let capped = case.framing.contains("max_lines");
    assert_eq!(is_split, capped, "{told}: {flags:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_record_that_goes_on_in_the_next_file_is_one_record_in_every_framing() {
    for rotated in [Rotated::Renamed, Rotated::Copied] {
        live(cases().into_iter().map(|case| one_record(case, rotated))).await;
    }
}

async fn one_record_after(case: Case, killed: bool) {
    let told = format!("{}, killed: {killed}", case.framing);
    let (place, agent) = begin(&case).await;
    let mut state = place.state();
    // The time of a container's record is fixed, and a stop may take as long.
    let is_patient = case.framing.contains("multiline");
    if is_patient {
        write(&place.log("app.log"), case.old.as_bytes());
    }
    if killed {
        state = agent.kill(&place.bus, &state, true).await;
    } else {
        agent.stop().await;
    }
    if !is_patient {
        write(&place.log("app.log"), case.old.as_bytes());
    }
    rotate(&place, "app.log", "app.log.1", Rotated::Renamed);
    write(&place.log("app.log"), case.new.as_bytes());
    let agent = Agent::start(&place.config_at(&state, "app.log*", case.framing));
    must_arrive(&place, &case.wanted, &told).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_record_that_goes_on_in_the_next_file_is_one_record_also_after_a_stop_or_a_kill() {
    for killed in [false, true] {
        let lives = cases().into_iter();
        live(lives.map(|case| one_record_after(case, killed))).await;
    }
}

async fn comes_again(case: Case) {
    let (place, agent) = begin(&case).await;
    // What is of the old file alone goes with it, and must be acknowledged.
    let is_patient = case.framing.contains("multiline");
    if is_patient {
        write(&place.log("app.log"), case.old.as_bytes());
        let before = case.before;
        place.bus.wait(|lines| lines.len() >= before).await;
    }
    until(&place.state(), |known| known.unacknowledged_batches == 0).await;
    place.bus.manner(Manner::Mute);
    if !is_patient {
        write(&place.log("app.log"), case.old.as_bytes());
    }
    rotate(&place, "app.log", "app.log.1", Rotated::Renamed);
    write(&place.log("app.log"), case.new.as_bytes());
    must_arrive(&place, &case.wanted, case.framing).await;
    let before = place.bus.arrived().len();
    let state = agent.kill(&place.bus, &place.state(), false).await;
    fs::remove_file(place.log("app.log.1")).unwrap();
    place.bus.manner(Manner::Take);
    // The recipe that made it makes it again, whatever the task says by now.
    let agent = Agent::start(&place.config_at(&state, "app.log*", ""));
    let again = || place.bus.arrived().len() > before;
    place.bus.wait(|_| again()).await;
    must_arrive(&place, &case.wanted, case.framing).await;
    agent.stop().await;
    // The rig compares repeats with what came first.
    assert!(again(), "{}", case.framing);
    let known = inspect(&state).unwrap();
    assert_eq!((known.joined_batches, known.losses.len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_joined_batch_comes_again_as_it_was_though_its_old_file_is_gone() {
    live(cases().into_iter().map(comes_again)).await;
}

/// Whether a life in which the agent is killed before the `n`-th call to its disk while a record is
/// in two files ends well; false when there are not as many calls.
async fn killed_while_a_record_is_in_two_files(case: Case, n: u64) -> bool {
    let (place, agent) = begin(&case).await;
    place.bus.kill_at(&place.state(), n);
    write(&place.log("app.log"), case.old.as_bytes());
    rotate(&place, "app.log", "app.log.1", Rotated::Renamed);
    write(&place.log("app.log"), case.new.as_bytes());
    let all = |got: &[String]| got.len() >= case.wanted.len() || place.bus.is_killed();
    place.bus.wait(all).await;
    let left = agent.kill(&place.bus, &place.state(), false).await;
    let was_killed = place.bus.was_killed();
    let agent = Agent::start(&place.config_at(&left, "app.log*", case.framing));
    let told = format!("{}, killed at call {n}", case.framing);
    must_arrive(&place, &case.wanted, &told).await;
    agent.stop().await;
    must_arrive(&place, &case.wanted, &told).await;
    was_killed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_kill_at_any_write_while_a_record_is_in_two_files_splits_doubles_and_loses_nothing() {
    for case in [0, 5] {
        let case = || cases().into_iter().nth(case).unwrap();
        let lives = (0..10).map(|n| killed_while_a_record_is_in_two_files(case(), n));
        let met = live(lives).await.into_iter().filter(|&killed| killed);
        let (met, framing) = (met.count(), case().framing);
        assert!(met > 2, "{framing}: only {met} moments were met");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_record_in_four_files_is_one_record() {
    let place = Place::new().await;
    let agent = Agent::start(&place.config("app.log", PATIENT));
    write(&place.log("app.log"), b"[0] before\n[0] done\n");
    place.bus.wait(|lines| !lines.is_empty()).await;
    write(&place.log("app.log"), b"[1] one\n");
    for number in 1..4 {
        // What nobody has seen under its name cannot be followed.
        until(&place.state(), |known| {
            known.streams[0].generations.len() == number
        })
        .await;
        rotate(
            &place,
            "app.log",
            &format!("old.{number}"),
            Rotated::Renamed,
        );
        write(&place.log("app.log"), format!("\tat {number}\n").as_bytes());
    }
    write(&place.log("app.log"), b"[2] two\n[3] three\n");
    let wanted = [
        "[0] before",
        "[0] done",
        "[1] one\n\tat 1\n\tat 2\n\tat 3",
        "[2] two",
    ];
    must_arrive(&place, &owned(&wanted), "four files").await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_record_that_is_whole_at_the_end_of_its_file_is_not_flagged() {
    let place = Place::new().await;
    let agent = Agent::start(&place.config("app.log*", PATIENT));
    write(&place.log("app.log"), b"[0] before\n[0] done\n");
    place.bus.wait(|lines| !lines.is_empty()).await;
    let one = trace(1, 5);
    write(&place.log("app.log"), format!("{one}\n").as_bytes());
    rotate(&place, "app.log", "app.log.1", Rotated::Renamed);
    write(&place.log("app.log"), b"[2] two\n\tat a\n[3] three\n");
    let wanted = ["[0] before", "[0] done", &one, "[2] two\n\tat a"];
    must_arrive(&place, &owned(&wanted), "whole").await;
    agent.stop().await;
    assert_eq!(place.bus.flags()[..4], ["", "", "", ""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_record_whose_next_file_never_shows_its_end_arrives_as_far_as_it_came() {
    for more in ["\tat b\n", "\tat b", ""] {
        let place = Place::new().await;
        let agent = Agent::start(&place.config("app.log*", TRACES));
        write(&place.log("app.log"), b"[0] before\n[0] done\n");
        place.bus.wait(|lines| !lines.is_empty()).await;
        write(&place.log("app.log"), b"[1] one\n\tat a\n");
        rotate(&place, "app.log", "app.log.1", Rotated::Renamed);
        write(&place.log("app.log"), more.as_bytes());
        let one = format!("[1] one\n\tat a\n{more}").trim_end().to_owned();
        let wanted = ["[0] before", "[0] done", &one];
        must_arrive(&place, &owned(&wanted), more).await;
        agent.stop().await;
        assert_eq!(place.bus.flags(), ["", "", "cut"], "{more:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_record_whose_next_file_is_gone_arrives_alone() {
    let place = Place::new().await;
    let agent = Agent::start(&place.config("app.log*", PATIENT));
    write(&place.log("app.log"), b"[0] before\n[0] done\n");
    place.bus.wait(|lines| !lines.is_empty()).await;
    write(&place.log("app.log"), b"[1] one\n\tat a\n");
    rotate(&place, "app.log", "app.log.1", Rotated::Renamed);
    write(&place.log("app.log"), b"\tat b\n");
    crate::rig::found(&place.log("app.log")).await;
    let state = agent.kill(&place.bus, &place.state(), false).await;
    fs::remove_file(place.log("app.log")).unwrap();
    write(&place.log("app.log"), b"[2] two\n[3] three\n");
    let agent = Agent::start(&place.config_at(&state, "app.log*", PATIENT));
    let wanted = ["[0] before", "[0] done", "[1] one\n\tat a", "[2] two"];
    must_arrive(&place, &owned(&wanted), "gone").await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_that_was_begun_too_late_does_not_go_on_with_a_record() {
    let place = Place::new().await;
    let agent = Agent::start(&place.config("app.log*", TRACES));
    write(&place.log("app.log"), b"[0] before\n[0] done\n");
    place.bus.wait(|lines| !lines.is_empty()).await;
    write(&place.log("app.log"), b"[1] one\n\tat a\n");
    let state = agent.kill(&place.bus, &place.state(), false).await;
    rotate(&place, "app.log", "app.log.1", Rotated::Renamed);
    // Between the two was time for another file, which nobody has seen.
    sleep(Duration::from_millis(1100)).await;
    write(
        &place.log("app.log"),
        b"\tat of another\n[2] two\n[3] three\n",
    );
    let agent = Agent::start(&place.config_at(&state, "app.log*", TRACES));
    let wanted = [
        "[0] before",
        "[0] done",
        "[1] one\n\tat a",
        "\tat of another",
        "[2] two",
    ];
    must_arrive(&place, &owned(&wanted), "too late").await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_record_does_not_go_on_behind_a_file_that_nobody_saw() {
    let place = Place::new().await;
    let agent = Agent::start(&place.config("app.log", PATIENT));
    write(&place.log("app.log"), b"[0] before\n[0] done\n");
    place.bus.wait(|lines| !lines.is_empty()).await;
    write(&place.log("app.log"), b"[1] one\n\tat a\n");
    let state = agent.kill(&place.bus, &place.state(), false).await;
    // Twice between two looks, and all within the record's time.
    rotate(&place, "app.log", "app.log.1", Rotated::Renamed);
    write(
        &place.log("app.log"),
        b"\tat of the file between\n[9] nine\n",
    );
    rotate(&place, "app.log.1", "app.log.2", Rotated::Renamed);
    rotate(&place, "app.log", "app.log.1", Rotated::Renamed);
    write(&place.log("app.log"), b"\tat of nine\n[2] two\n[3] three\n");
    let agent = Agent::start(&place.config_at(&state, "app.log", PATIENT));
    let wanted = [
        "[0] before",
        "[0] done",
        "[1] one\n\tat a",
        "\tat of nine",
        "[2] two",
    ];
    must_arrive(&place, &owned(&wanted), "a file between").await;
    agent.stop().await;
}
