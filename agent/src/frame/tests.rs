//! Framing as the reader does it, block by block, against what must come out; and each span again, as
//! after a crash.

use std::time::Duration;

use proptest::prelude::*;
use text::Text;

use super::{Carry, Flags, Framed, Framer, LongLine, Multiline, Pattern, Rule, Source, Tail, text};

/// A record that came out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Got {
    text: Vec<u8>,
    at: u64,
    flags: Flags,
    time: Option<String>,
    stream: Option<&'static str>,
}

/// What came out of a file.
#[derive(Debug, Default)]
struct Out {
    records: Vec<Got>,
    dropped: Vec<std::ops::Range<u64>>,
    spans: usize,
}

impl Out {
    fn texts(&self) -> Vec<String> {
        let text = |got: &Got| String::from_utf8_lossy(&got.text).into_owned();
        self.records.iter().map(text).collect()
    }

    fn flags(&self) -> Vec<String> {
        let names = |got: &Got| got.flags.names().collect::<Vec<_>>().join(",");
        self.records.iter().map(names).collect()
    }
}

/// Frames with room for so many records, again where the reader would.
fn frame(framer: &Framer, mut source: Source<'_>, room: usize) -> (Framed, Vec<Got>, Carry) {
    let one_way = |source: Source<'_>| {
        let mut records: Vec<Got> = Vec::new();
        let framed = framer.frame(source, |piece| {
            if records.len() == room {
                return false;
            }
            records.push(Got {
                text: piece.bytes.to_vec(),
                at: source.at + piece.at as u64,
                flags: piece.flags,
                time: piece.time.map(str::to_owned),
                stream: piece.stream,
            });
            true
        });
        (framed, records)
    };
    let (mut framed, mut records) = one_way(source);
    if framed.beyond {
        let Some(again) = Framer::frame_again(source, &framed) else {
            return (framed, Vec::new(), source.carry);
        };
        source = again;
        (framed, records) = one_way(source);
        assert!(!framed.beyond && framed.used > 0, "{framed:?}");
    }
    assert_eq!(framed.records as usize, records.len());
    (framed, records, source.carry)
}

/// Frames a file as the reader does: in blocks, each batch having room for so many records.
fn run(framer: &Framer, file: &[u8], block: usize, room: usize) -> Out {
    let mut out = Out::default();
    let (mut at, mut left) = (0_usize, Carry::default());
    let is_big = file.starts_with(b"\xfe\xff");
    while at < file.len() {
        let carry = left.with(Carry::BIG, is_big);
        let mid_line = framer.text_of(carry).is_mid_line(at as u64, &file[..at]);
        let carry = carry.with(Carry::MID_LINE, mid_line);
        let look = framer.look_bytes().max(block);
        let mut moved = false;
        for (want, tail) in [
            (block, Tail::Leave),
            (look, Tail::Flush),
            (look, Tail::Take),
        ] {
            let end = file.len().min(at + want);
            // Only what does not go on is taken as it is.
            if tail == Tail::Take {
                assert_eq!(end, file.len(), "no progress at {at}");
            }
            let source = Source {
                bytes: &file[at..end],
                at: at as u64,
                carry,
                tail,
            };
            if carry.is_dropping() {
                let (used, is_over) = framer.rest(source);
                if used > 0 || is_over {
                    let lost =
                        used - framer.text_of(carry).width().min(used) * usize::from(is_over);
                    out.dropped.push(at as u64..(at + lost) as u64);
                    left = left.dropping(!is_over);
                    (at, moved) = (at + used, true);
                    break;
                }
                continue;
            }
            let (framed, records, before) = frame(framer, source, room);
            if framed.used == 0 {
                assert!(records.is_empty());
                continue;
            }
            again(
                framer,
                &file[at..at + framed.used],
                at,
                before,
                &framed,
                &records,
            );
            let dropped = framed.dropped.iter();
            out.dropped
                .extend(dropped.map(|range| (at + range.start) as u64..(at + range.end) as u64));
            out.records.extend(records);
            out.spans += 1;
            (at, left, moved) = (at + framed.used, framed.carry, true);
            break;
        }
        assert!(moved, "stands still at {at} of {}", file.len());
    }
    out
}

/// What a crash needs: the span of a batch, read again, gives the same records.
fn again(framer: &Framer, span: &[u8], at: usize, before: Carry, framed: &Framed, records: &[Got]) {
    let source = Source {
        bytes: span,
        at: at as u64,
        carry: before,
        tail: Tail::Again(framed.carry),
    };
    let (second, got, _) = frame(framer, source, usize::MAX);
    assert_eq!(got, records, "{span:?} read again, {framed:?}");
    assert_eq!(second.used, span.len(), "{framed:?}");
}

fn rule(max_line: u32, long_line: LongLine) -> Rule {
    Rule {
        max_line,
        long_line,
    }
}

const SPLIT: LongLine = LongLine::Split;
const TRUNCATE: LongLine = LongLine::Truncate;

fn lines(max_line: u32, long_line: LongLine) -> Framer {
    Framer::lines(Text::Utf8, rule(max_line, long_line))
}

fn groups(pattern: Pattern, max_lines: u32, rule: Rule) -> Framer {
    let timeout = Duration::from_secs(1);
    let multiline = Multiline {
        pattern,
        timeout,
        max_lines,
    };
    Framer::groups(multiline, Text::Utf8, rule)
}

fn regex(pattern: &str) -> regex::bytes::Regex {
    regex::bytes::Regex::new(pattern).unwrap()
}

fn all(framer: &Framer, file: &[u8]) -> Out {
    run(framer, file, 1 << 20, usize::MAX)
}

#[test]
fn lines_become_records_and_an_unfinished_one_waits() {
    let framer = lines(100, SPLIT);
    let source = Source {
        bytes: b"a\r\n\nbc\nd",
        at: 0,
        carry: Carry::default(),
        tail: Tail::Leave,
    };
    let (framed, records, _) = frame(&framer, source, usize::MAX);
    assert_eq!((framed.used, records.len(), framed.pieces), (7, 3, 0));
    let out = all(&framer, b"a\r\n\nbc\nd");
    assert_eq!(out.texts(), ["a\r", "", "bc", "d"]);
    assert_eq!(out.flags(), ["", "", "", "cut"]);
}

#[test]
fn a_newline_after_an_unfinished_record_is_no_record_and_a_rest_says_so() {
    let framer = lines(100, SPLIT);
    let check = |rest: &[u8], wanted: &[(&str, &str)]| {
        let source = Source {
            bytes: rest,
            at: 5,
            carry: Carry::default().with(Carry::MID_LINE, true),
            tail: Tail::Leave,
        };
        let (framed, records, _) = frame(&framer, source, usize::MAX);
        assert_eq!(framed.used, rest.len());
        let out = Out {
            records,
            ..Out::default()
        };
        let got: Vec<_> = out.texts().into_iter().zip(out.flags()).collect();
        let got: Vec<_> = got.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(got, wanted);
    };
    check(b"\nx\n", &[("x", "")]);
    check(b"rest\nx\n", &[("rest", "continues"), ("x", "")]);
    check(b"\n", &[]);
}

#[test]
fn long_lines_are_split_or_truncated() {
    let out = all(&lines(3, SPLIT), b"abcdefgh\nxy\nabc\n");
    assert_eq!(out.texts(), ["abc", "def", "gh", "xy", "abc"]);
    assert_eq!(out.flags(), ["cut", "continues,cut", "continues", "", ""]);
    let out = all(&lines(3, TRUNCATE), b"abcdefgh\nxy\nabcdef");
    assert_eq!(out.texts(), ["abc", "xy", "abc"]);
    assert_eq!(out.flags(), ["truncated", "", "truncated"]);
    assert_eq!(out.dropped, [3..8, 15..18]);
    let text = "aé\u{20ac}z\n";
    assert_eq!(
        all(&lines(4, SPLIT), text.as_bytes()).texts(),
        ["aé", "\u{20ac}z"]
    );
}

#[test]
fn a_byte_order_mark_at_the_beginning_is_left_out() {
    let check = |file: &[u8], wanted: &[&str]| {
        assert_eq!(all(&lines(100, SPLIT), file).texts(), wanted);
    };
    check(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", &["a", "\u{feff}b"]);
    check(b"\xef\xbb\xbf\nb\n", &["", "b"]);
    check(b"\xef\xbb\xbf", &[]);
}

#[test]
fn utf_16_is_split_at_whole_units_with_and_without_a_mark() {
    let encode = |text: &str, big: bool| -> Vec<u8> {
        let unit = if big {
            u16::to_be_bytes
        } else {
            u16::to_le_bytes
        };
        text.encode_utf16().flat_map(unit).collect()
    };
    // U+0A0A, U+0A00 and U+000A side by side: only the last is a newline.
    let text = "a\u{0a0a}\u{0a00}b\r\n\nc\u{1f600}d\nend";
    for big in [false, true] {
        for mark in ["", "\u{feff}"] {
            if big && mark.is_empty() {
                continue;
            }
            let file = encode(&format!("{mark}{text}"), big);
            let framer = Framer::lines(Text::Utf16 { big: false }, rule(1000, SPLIT));
            for block in [1, 3, 64] {
                let out = run(&framer, &file, block, 1);
                let mut buffer = String::new();
                let texts: Vec<String> = out
                    .records
                    .iter()
                    .map(|got| {
                        let (text, bad) =
                            Text::Utf16 { big }.decode(&got.text, got.at, &mut buffer);
                        assert_eq!(bad, 0);
                        String::from_utf8(text.to_vec()).unwrap()
                    })
                    .collect();
                let wanted = ["a\u{0a0a}\u{0a00}b\r", "", "c\u{1f600}d", "end"];
                assert_eq!(texts, wanted, "big {big}, block {block}");
            }
        }
    }
}

const TRACE: &[u8] = b"2026 one\n\tat a\n\n\tat b\n2026 two\n2026 three\n\tat c\n";

#[test]
fn groups_are_told_apart_by_start_continue_or_end() {
    let wanted = [
        "2026 one\n\tat a\n\n\tat b",
        "2026 two",
        "2026 three\n\tat c",
    ];
    let check = |pattern: Pattern, file: &[u8], wanted: &[&str]| {
        for block in [1, 5, 1000] {
            let framer = groups(pattern.clone(), 100, rule(60, SPLIT));
            let out = run(&framer, file, block, usize::MAX);
            assert_eq!(out.texts(), wanted, "block {block}");
        }
    };
    check(Pattern::Start(regex("^2026")), TRACE, &wanted);
    check(Pattern::Continue(regex(r"^(\s|$)")), TRACE, &wanted);
    check(
        Pattern::End(regex(r";\r?$")),
        b"a\nb;\r\nc;\nd\n",
        &["a\nb;\r", "c;", "d"],
    );
    check(
        Pattern::Start(regex("x$")),
        b"x\r\ny\r\nx\n",
        &["x\r\ny\r", "x"],
    );
}

#[test]
fn a_group_is_held_until_it_is_known_to_be_whole() {
    let framer = groups(Pattern::Start(regex("^2026")), 100, rule(60, SPLIT));
    let source = Source {
        bytes: TRACE,
        at: 0,
        carry: Carry::default(),
        tail: Tail::Leave,
    };
    let (framed, records, _) = frame(&framer, source, usize::MAX);
    assert_eq!((framed.used, records.len()), (31, 2));
    assert!(!framed.carry.has(Carry::REST));
    let (framed, records, _) = frame(
        &framer,
        Source {
            tail: Tail::Take,
            ..source
        },
        usize::MAX,
    );
    assert_eq!((framed.used, records.len()), (TRACE.len(), 3));
    // The rest of a group that was taken before its time.
    assert!(framed.carry.has(Carry::REST));
    let late = Source {
        bytes: b"\tat d\n2026 four\n",
        at: 100,
        carry: framed.carry,
        tail: Tail::Take,
    };
    let (_, records, _) = frame(&framer, late, usize::MAX);
    assert!(records[0].flags.has(Flags::CONTINUES) && !records[1].flags.has(Flags::CONTINUES));
}

#[test]
fn groups_over_their_caps_are_split_or_truncated() {
    let check = |max_lines: u32, rule: Rule, wanted: &[(&str, &str)]| {
        let framer = groups(Pattern::Start(regex("^S")), max_lines, rule);
        for block in [1, 7, 1000] {
            let out = run(
                &framer,
                b"S1\na\nb\nc\nS2\nlonglonglong\nS3\n",
                block,
                usize::MAX,
            );
            let got: Vec<_> = out.texts().into_iter().zip(out.flags()).collect();
            let got: Vec<_> = got.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            assert_eq!(got, wanted, "block {block}");
            let bytes: u64 = out
                .dropped
                .iter()
                .map(|range| range.end - range.start)
                .sum();
            let lost = rule.long_line == TRUNCATE;
            assert_eq!(bytes > 0, lost, "{:?}", out.dropped);
        }
    };
    let wanted = [
        ("S1\na", "cut"),
        ("b\nc", "continues"),
        ("S2\nlonglonglong", ""),
        ("S3", "cut"),
    ];
    check(2, rule(100, SPLIT), &wanted);
    let wanted = [
        ("S1\na", "truncated"),
        ("S2\nlonglonglong", ""),
        ("S3", "cut"),
    ];
    check(2, rule(100, TRUNCATE), &wanted);
    let wanted = [
        ("S1\na\nb", "cut"),
        ("c", "continues"),
        ("S2", "cut"),
        ("longlon", "continues,cut"),
        ("glong", "continues"),
        ("S3", "cut"),
    ];
    check(100, rule(7, SPLIT), &wanted);
}

const CRI: &[u8] = b"2024-01-02T03:04:05.6Z stdout P one \n\
2024-01-02T03:04:05.7Z stderr F other\n\
2024-01-02T03:04:05.8Z stdout P and \n\
2024-01-02T03:04:05.8Z stderr P x\n\
2024-01-02T03:04:05.9Z stdout F two\n\
2024-01-02T03:04:05.9Z stderr F y\n\
no line of a runtime\n\
2024-01-02T03:04:06.0Z stdout F last\n";

#[test]
fn partial_lines_of_a_container_are_joined_per_stream() {
    let framer = Framer::cri(Text::Utf8, rule(1000, SPLIT));
    for block in [1, 50, 10_000] {
        let out = run(&framer, CRI, block, usize::MAX);
        let wanted = ["other", "one and two", "xy", "no line of a runtime", "last"];
        assert_eq!(out.texts(), wanted);
        assert_eq!(out.flags(), ["", "", "", "malformed", ""]);
        assert_eq!(
            out.records[1].time.as_deref(),
            Some("2024-01-02T03:04:05.6Z")
        );
        assert_eq!(out.records[1].stream, Some("stdout"));
    }
    // With room for one record only, no record can wait for the other stream.
    let out = run(&framer, CRI, 10_000, 1);
    assert_eq!(
        out.records.iter().map(|got| got.text.len()).sum::<usize>(),
        5 + 11 + 2 + 20 + 4
    );
    let docker = br#"{"log":"one ","stream":"stdout","time":"2024-01-02T03:04:05Z"}
{"log":"err\n","stream":"stderr","time":"2024-01-02T03:04:05Z"}
{"log":"two\n","stream":"stdout","time":"2024-01-02T03:04:06Z"}
{"log":"torn
"#;
    let out = all(&Framer::docker_json(rule(1000, SPLIT)), docker);
    assert_eq!(out.texts(), ["err", "one two", "{\"log\":\"torn"]);
    assert_eq!(out.flags(), ["", "", "malformed"]);
}

#[test]
fn a_partial_line_without_an_end_does_not_hold_the_file_for_ever() {
    let framer = Framer::cri(Text::Utf8, rule(1000, SPLIT));
    let file = b"2024-01-02T03:04:05.6Z stdout P begun\n2024-01-02T03:04:05.7Z stderr F other\n";
    let source = Source {
        bytes: file,
        at: 0,
        carry: Carry::default(),
        tail: Tail::Leave,
    };
    let (framed, _, _) = frame(&framer, source, usize::MAX);
    assert_eq!(framed.used, 0);
    let taken = Source {
        tail: Tail::Flush,
        ..source
    };
    let (framed, records, before) = frame(&framer, taken, usize::MAX);
    assert_eq!((framed.used, records.len()), (file.len(), 2));
    again(&framer, file, 0, before, &framed, &records);
    let rest = Source {
        bytes: b"2024-01-02T03:04:05.8Z stdout F ended\n",
        at: 100,
        carry: framed.carry,
        tail: Tail::Leave,
    };
    let (_, records, _) = frame(&framer, rest, usize::MAX);
    assert!(records[0].flags.has(Flags::CONTINUES));
}

#[test]
fn a_long_runtime_line_without_an_end_comes_in_pieces_where_a_batch_has_room_for_one() {
    let file = b"2024-01-02T03:04:05.6Z stdout P a text of two records";
    let out = run(&Framer::cri(Text::Utf8, rule(20, SPLIT)), file, 10_000, 1);
    assert_eq!(out.texts().concat().as_bytes(), file);
    assert_eq!(
        out.records[0].flags.names().collect::<Vec<_>>(),
        ["cut", "malformed"]
    );
}

#[test]
fn joined_records_over_the_cap_are_split_or_truncated() {
    let line = |tag: &str, text: &str| format!("2024-01-02T03:04:05.6Z stdout {tag} {text}\n");
    let file = [
        line("P", "abcd"),
        line("P", "efgh"),
        line("F", "ij"),
        line("F", "k"),
    ]
    .concat();
    let out = all(&Framer::cri(Text::Utf8, rule(5, SPLIT)), file.as_bytes());
    assert_eq!(out.texts(), ["abcde", "fghij", "k"]);
    assert_eq!(out.flags(), ["cut", "continues", ""]);
    let out = all(&Framer::cri(Text::Utf8, rule(5, TRUNCATE)), file.as_bytes());
    assert_eq!(out.texts(), ["abcde", "k"]);
    assert_eq!(out.flags(), ["truncated", ""]);
    assert_eq!(out.dropped.len(), 2);
}

fn any_rule() -> impl Strategy<Value = Rule> {
    (8u32..24, any::<bool>())
        .prop_map(|(max, truncate)| rule(max, if truncate { TRUNCATE } else { SPLIT }))
}

/// Bytes that hostile writers like.
fn junk() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"a"[..],
        b"S",
        b";",
        b"\n",
        b"\n",
        b"\r\n",
        b"\r",
        b"\0\0\0",
        b"\xc3\xa9",
        b"\xff",
        b"\xe4\xb8\xad",
        b"\n\0",
        b"\0\n",
        b"\xd8",
        b"aaaaaaaaaaaaaaa",
        b"\xef\xbb\xbf",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// Lines of a container runtime, sound and torn.
fn runtime_lines() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"2024-01-02T03:04:05.6Z stdout P abc\n"[..],
        b"2024-01-02T03:04:05.6Z stderr P de\n",
        b"2024-01-02T03:04:05.6Z stdout F f\xff\n",
        b"2024-01-02T03:04:05.6Z stderr F\n",
        b"2024-01-02T03:04:05.6Z stdout F a longer text of a line\n",
        b"2024-01-02T03:04:05.6Z stdout",
        b"2024-01-02T03:04:05.6Z stdout P a text that is longer than a record may be",
        br#"{"log":"part","stream":"stdout"}
"#,
        br#"{"log":"end\n","stream":"stdout"}
"#,
        br#"{"log":"e\u0041\n","stream":"stderr"}
"#,
        b"{\n",
        b"\n",
        b"\0\0",
    ]);
    prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

/// Every byte is in a record, among the dropped, or a newline (or the mark) between them.
fn nothing_is_missing(file: &[u8], out: &Out, text: Text) {
    let mut taken = out.dropped.clone();
    taken.extend(
        out.records
            .iter()
            .map(|got| got.at..got.at + got.text.len() as u64),
    );
    taken.sort_unstable_by_key(|range| (range.start, range.end));
    let mut at = 0;
    let between = |range: std::ops::Range<u64>| {
        let gap = &file[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        let (mark, newline): (&[u8], &[u8]) = match text {
            Text::Utf8 => (b"\xef\xbb\xbf", b"\n"),
            Text::Ascii(_) => (b"", b"\n"),
            Text::Utf16 { .. } => (b"\xff\xfe", b"\n\0"),
        };
        let unmarked = gap.strip_prefix(mark).filter(|_| range.start == 0);
        let mut between = unmarked.unwrap_or(gap).chunks(newline.len());
        assert!(between.all(|unit| unit == newline), "{gap:?} of {out:?}");
    };
    for range in taken {
        assert!(range.start >= at, "twice at {range:?}: {out:?}");
        between(at..range.start);
        at = range.end;
    }
    between(at..file.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn lines_lose_no_byte_and_are_the_same_again(
        file in junk(), rule in any_rule(), block in 1usize..40, room in 1usize..6, kind in 0..4,
    ) {
        let text = match kind {
            0 => Text::Utf8,
            1 => Text::Ascii(encoding_rs::GBK),
            2 => Text::Ascii(encoding_rs::GB18030),
            _ => Text::Utf16 { big: false },
        };
        let framer = Framer::lines(text, rule);
        // A mark of the other order would change the encoding under the check.
        prop_assume!(!file.starts_with(b"\xfe\xff"));
        nothing_is_missing(&file, &run(&framer, &file, block, room), text);
    }

    #[test]
    fn groups_lose_no_byte_and_are_the_same_again(
        file in junk(), rule in any_rule(), block in 1usize..40, room in 1usize..6,
        max_lines in 1u32..5, kind in 0..3,
    ) {
        let pattern = match kind {
            0 => Pattern::Start(regex("^S")),
            1 => Pattern::Continue(regex("^a")),
            _ => Pattern::End(regex(";$")),
        };
        let framer = groups(pattern, max_lines, rule);
        nothing_is_missing(&file, &run(&framer, &file, block, room), Text::Utf8);
    }

    /// How a file is read changes no line; nor any group, unless it is dropped.
    #[test]
    fn blocks_and_batches_change_no_record(
        file in junk(), max in 8u32..24, block in 1usize..40, room in 1usize..6, start: bool,
    ) {
        let framer = if start {
            groups(Pattern::Start(regex("^S")), 3, rule(max, SPLIT))
        } else {
            lines(max, SPLIT)
        };
        prop_assert_eq!(run(&framer, &file, block, room).texts(), all(&framer, &file).texts());
    }

    #[test]
    fn runtime_lines_are_the_same_again_and_lose_no_text(
        file in runtime_lines(), max in 1u32..40, block in 1usize..200, room in 1usize..6,
        docker: bool,
    ) {
        let framer = if docker {
            Framer::docker_json(rule(max, SPLIT))
        } else {
            Framer::cri(Text::Utf8, rule(max, SPLIT))
        };
        let by_stream = |out: &Out, stream| -> Vec<u8> {
            let own = out.records.iter().filter(|got| got.stream == stream);
            own.flat_map(|got| got.text.clone()).collect()
        };
        let (out, whole) = (run(&framer, &file, block, room), all(&framer, &file));
        // A line whose text has no room beside others is sent as it stands: then it says so.
        let odd = |out: &Out| out.records.iter().filter(|got| got.flags.has(Flags::MALFORMED)).count();
        if odd(&out) == odd(&whole) {
            for stream in [None, Some("stdout"), Some("stderr")] {
                prop_assert_eq!(by_stream(&out, stream), by_stream(&whole, stream));
            }
        }
        prop_assert!(out.dropped.is_empty());
    }

    #[test]
    fn truncated_runtime_lines_are_the_same_again(
        file in runtime_lines(), max in 1u32..40, block in 1usize..200, room in 1usize..6,
    ) {
        let framer = Framer::cri(Text::Utf8, rule(max, TRUNCATE));
        run(&framer, &file, block, room);
    }
}
