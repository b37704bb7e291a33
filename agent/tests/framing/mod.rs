//! Records of several lines, of containers, of other encodings: across rotations, restarts and
//! crashes, through the whole agent.

mod joined;

use std::{fs, io::Write as _, path::Path, time::Duration};

use tokio::time::sleep;

use crate::rig::{Agent, Manner, Place};

const TRACES: &str = "framing = { kind = \"multiline\", start = '^\\[', timeout = \"1s\" }";

/// Writes bytes as they are.
fn write(path: &Path, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    file.write_all(bytes).unwrap();
}

/// A stack trace of `lines` lines.
fn trace(number: usize, lines: usize) -> String {
    let mut text = format!("[{number}] something failed");
    for at in 1..lines {
        text += &format!("\n\tat place {at} of {number}");
    }
    text
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn traces_are_whole_across_rotations_and_crashes() {
    let place = Place::new().await;
    let mut state = place.state();
    let mut wanted = Vec::new();
    let log = place.log("app.log");
    for round in 0..4 {
        let agent = Agent::start(&place.config_at(&state, "app.log*", TRACES));
        // Half of a trace waits for its rest, also while nobody reads.
        let traces: Vec<String> = (0..20)
            .map(|at| trace(round * 20 + at, 1 + at % 7))
            .collect();
        let text = traces.join("\n") + "\n";
        // Within a line, which has seconds to grow.
        let middle = (text.len() / 2..)
            .find(|&at| text.as_bytes()[at - 1] != b'\n')
            .unwrap();
        let (first, rest) = text.split_at(middle);
        if round == 1 {
            // What is cut now is never acknowledged, and is read again.
            place.bus.manner(Manner::Mute);
        }
        write(&log, first.as_bytes());
        if round > 0 {
            place.bus.wait(|lines| lines.len() > wanted.len()).await;
        }
        let agent = if round < 3 {
            state = agent.kill(&place.bus, &state, false).await;
            write(&log, rest.as_bytes());
            place.bus.manner(Manner::Take);
            Agent::start(&place.config_at(&state, "app.log*", TRACES))
        } else {
            write(&log, rest.as_bytes());
            agent
        };
        // The last trace of a file is whole when the next file begins, or its time is over.
        fs::rename(&log, place.log(&format!("app.log.{round}"))).unwrap();
        wanted.extend(traces);
        place.bus.expect(&wanted).await;
        state = agent.kill(&place.bus, &state, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_trace_whose_time_was_over_before_its_file_was_rotated_is_two_records() {
    let place = Place::new().await;
    let agent = Agent::start(&place.config("app.log*", TRACES));
    write(&place.log("app.log"), b"[1] one\n\tat a\n");
    place.bus.expect(&owned(&["[1] one\n\tat a"])).await;
    fs::rename(place.log("app.log"), place.log("app.log.1")).unwrap();
    write(&place.log("app.log"), b"\tat b\n[2] two\n");
    place
        .bus
        .expect(&owned(&["[1] one\n\tat a", "\tat b", "[2] two"]))
        .await;
    agent.stop().await;
    assert_eq!(place.bus.flags(), ["cut", "continues", "cut"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_writer_that_never_leaves_the_old_file_holds_the_next_one_for_seconds_only() {
    let place = Place::new().await;
    let agent = Agent::start(&place.config("app.log*", TRACES));
    write(&place.log("app.log"), b"[1] one\n");
    place.bus.expect(&owned(&["[1] one"])).await;
    fs::rename(place.log("app.log"), place.log("app.log.1")).unwrap();
    let new = owned(&["[0] new", "[0] newer"]);
    write(&place.log("app.log"), b"[0] new\n[0] newer\n");
    let until = tokio::time::Instant::now() + crate::rig::LIMIT;
    let mut number = 1;
    while !new.iter().all(|line| place.bus.lines().contains(line)) {
        number += 1;
        write(
            &place.log("app.log.1"),
            format!("[{number}] late\n").as_bytes(),
        );
        sleep(Duration::from_millis(100)).await;
        assert!(tokio::time::Instant::now() < until, "the next file is read");
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_record_whose_time_was_over_says_that_it_was_cut_and_its_rest_that_it_goes_on() {
    let place = Place::new().await;
    let agent = Agent::start(&place.config("app.log", TRACES));
    let mut wanted = owned(&["[1] one"]);
    write(&place.log("app.log"), b"[1] one\n");
    place.bus.expect(&wanted).await;
    write(&place.log("app.log"), b"\tat late\n[2] two\n");
    wanted.extend(owned(&["\tat late", "[2] two"]));
    place.bus.expect(&wanted).await;
    agent.stop().await;
    assert_eq!(place.bus.flags(), ["cut", "continues", "cut"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_an_earlier_recipe_had_cut_is_made_by_it_again() {
    let place = Place::new().await;
    let log = place.log("app.log");
    place.bus.manner(Manner::Mute);
    let agent = Agent::start(&place.config("app.log", "max_line = \"16B\""));
    write(
        &log,
        b"[1] one\n\tat a\na line that is longer than sixteen bytes\n",
    );
    place.bus.wait(|lines| lines.len() >= 5).await;
    let state = agent.kill(&place.bus, &place.state(), false).await;
    place.bus.manner(Manner::Take);
    let agent = Agent::start(&place.config_at(&state, "app.log", TRACES));
    write(&log, b"[2] two\n\tat b\n[3] three\n");
    let wanted = [
        "[1] one",
        "\tat a",
        "a line that is l",
        "onger than sixte",
        "en bytes",
        "[2] two\n\tat b",
        "[3] three",
    ];
    // The rig sees to it that repeats have the same records.
    place.bus.expect(&owned(&wanted)).await;
    agent.stop().await;
    assert!(
        place
            .bus
            .arrived()
            .iter()
            .any(|batch| batch.header.resends > 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn partial_lines_of_a_container_are_joined_across_a_restart() {
    let place = Place::new().await;
    let more = "framing = { kind = \"cri\" }\ntime = { from = \"line\" }";
    let line = |second: u32, stream: &str, tag: &str, text: &str| {
        format!("2026-11-21T04:30:{second:02}.5Z {stream} {tag} {text}\n")
    };
    let log = place.log("0.log");
    let agent = Agent::start(&place.config("0.log", more));
    let long = "x".repeat(16 << 10);
    let first = [
        line(1, "stdout", "F", "first"),
        line(2, "stdout", "P", &long),
        line(3, "stderr", "F", "between"),
    ];
    write(&log, first.concat().as_bytes());
    place.bus.expect(&owned(&["first"])).await;
    agent.stop().await;
    let agent = Agent::start(&place.config("0.log", more));
    let rest = [
        line(4, "stdout", "P", &long),
        line(5, "stdout", "F", "end"),
        "not from the runtime\n".to_owned(),
    ];
    write(&log, rest.concat().as_bytes());
    let joined = format!("{long}{long}end");
    let wanted = ["first", "between", &joined, "not from the runtime"];
    place.bus.expect(&owned(&wanted)).await;
    agent.stop().await;
    assert_eq!(place.bus.flags(), ["", "", "", "malformed"]);
    let times: Vec<i64> = place
        .bus
        .arrived()
        .iter()
        .flat_map(|b| b.times.clone())
        .collect();
    let second = 1_795_235_400_500;
    assert_eq!(times[..3], [second + 1000, second + 3000, second + 2000]);
}

/// As when a kubelet makes the log anew between the looks at it and at the link to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_new_log_that_is_seen_by_a_link_to_it_goes_on_where_the_log_was() {
    let place = Place::new().await;
    let more = "framing = { kind = \"cri\" }";
    let log = place.log("0.log");
    write(
        &log,
        b"2026-11-21T04:30:01Z stdout F first\n2026-11-21T04:30:02Z stdout P beg\n",
    );
    let agent = Agent::start(&place.config("0.log", more));
    place.bus.expect(&owned(&["first"])).await;
    agent.stop().await;
    fs::rename(&log, place.log("0.log.1")).unwrap();
    write(&log, b"2026-11-21T04:30:02Z stdout F un\n");
    std::os::unix::fs::symlink(&log, place.log("link.log")).unwrap();
    let by_link_only = format!("exclude = [\"**/0.log\"]\n{more}");
    let agent = Agent::start(&place.config("*", &by_link_only));
    place.bus.expect(&owned(&["first", "begun"])).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_log_that_was_first_seen_by_a_link_goes_on_where_the_next_one_is_seen_by_its_own_name() {
    let place = Place::new().await;
    let more = "framing = { kind = \"cri\" }";
    let log = place.log("0.log");
    write(&log, b"2026-11-21T04:30:01Z stdout F first\n");
    std::os::unix::fs::symlink(&log, place.log("link.log")).unwrap();
    let agent = Agent::start(&place.config("link.log", more));
    place.bus.expect(&owned(&["first"])).await;
    agent.stop().await;
    let agent = Agent::start(&place.config("*", more));
    write(
        &log,
        b"2026-11-21T04:30:02Z stdout F second\n2026-11-21T04:30:02Z stdout P beg\n",
    );
    place.bus.expect(&owned(&["first", "second"])).await;
    fs::rename(&log, place.log("0.log.1")).unwrap();
    write(&log, b"2026-11-21T04:30:03Z stdout F un\n");
    let wanted = ["first", "second", "begun"];
    place.bus.expect(&owned(&wanted)).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_partial_line_that_never_ends_holds_its_file_for_a_moment_only() {
    let place = Place::new().await;
    let agent = Agent::start(&place.config("0.log", "framing = { kind = \"cri\" }"));
    let log = place.log("0.log");
    write(&log, b"2026-11-21T04:30:01Z stdout P begun\n");
    let mut wanted = vec!["begun".to_owned()];
    // The other stream keeps the file growing.
    for number in 0..65 {
        let text = format!("line {number}");
        write(
            &log,
            format!("2026-11-21T04:30:02Z stderr F {text}\n").as_bytes(),
        );
        wanted.push(text);
        sleep(Duration::from_millis(100)).await;
    }
    place.bus.expect_sorted(&wanted).await;
    agent.stop().await;
    assert!(place.bus.flags().contains(&"cut".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn other_encodings_become_utf_8() {
    let text = "中文 one\r\nsecond 第二\n";
    let unit = |to: fn(u16) -> [u8; 2], text: &str| -> Vec<u8> {
        text.encode_utf16().flat_map(to).collect()
    };
    let marked = format!("\u{feff}{text}");
    let cases: [(&str, Vec<u8>); 7] = [
        ("gbk", encoding_rs::GBK.encode(text).0.into_owned()),
        ("gb18030", encoding_rs::GB18030.encode(text).0.into_owned()),
        ("big5", encoding_rs::BIG5.encode(text).0.into_owned()),
        ("utf-16", unit(u16::to_le_bytes, text)),
        ("utf-16", unit(u16::to_be_bytes, &marked)),
        ("utf-16be", unit(u16::to_be_bytes, text)),
        ("utf-8", marked.clone().into_bytes()),
    ];
    for (label, bytes) in cases {
        let place = Place::new().await;
        let more = format!("encoding = \"{label}\"\ncrlf = \"strip\"");
        let agent = Agent::start(&place.config("a.log", &more));
        // A character and a unit are cut in two by the writer.
        let (first, rest) = bytes.split_at(3);
        write(&place.log("a.log"), first);
        sleep(Duration::from_millis(50)).await;
        write(&place.log("a.log"), rest);
        place.bus.expect(&owned(&["中文 one", "second 第二"])).await;
        agent.stop().await;
        assert_eq!(place.bus.flags(), ["", ""], "{label}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_line_of_megabytes_comes_in_pieces_and_holds_nobody_else() {
    let framings = [
        "encoding = \"gbk\"",
        TRACES,
        "framing = { kind = \"cri\" }",
        "framing = { kind = \"docker-json\" }",
    ];
    for more in framings {
        let place = Place::new().await;
        let bytes = 3_500_000;
        write(&place.log("long.log"), &b"x".repeat(bytes));
        write(&place.log("long.log"), b"\n");
        let agent = Agent::start(&place.config("*.log", more));
        write(&place.log("other.log"), b"[1] sound\n");
        let sound = |line: &str| line == "[1] sound";
        place
            .bus
            .wait(|lines| lines.iter().any(|line| sound(line)))
            .await;
        let sum = |lines: &[String]| -> usize {
            let pieces = lines.iter().filter(|line| !sound(line));
            pieces.map(String::len).sum()
        };
        place.bus.wait(|lines| sum(lines) == bytes).await;
        agent.stop().await;
        let lines = place.bus.lines();
        assert_eq!(sum(&lines), bytes, "{more}");
        assert!(lines.iter().all(|line| line.len() <= 1 << 20));
        assert!(lines.iter().any(|line| sound(line)), "{more}");
    }
}
