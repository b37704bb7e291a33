//! Event times: where they are found, which moment they are, which are refused.

use proptest::prelude::*;

use super::*;

/// 2026-11-21 04:30:00 UTC.
const NOW: i64 = 1_795_235_400_000;

fn line_time(pattern: &str, at: Option<&str>, zone: Option<&str>) -> LineTime {
    LineTime::new(pattern, at, zone).unwrap()
}

/// A moment in words of RFC 3339.
fn at(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

fn check(pattern: &str, line: &str, wanted: Result<i64, Flag>) {
    let found = line_time(pattern, None, None).find(line.as_bytes(), NOW);
    assert_eq!(found, wanted, "{pattern:?} in {line:?}");
}

#[test]
fn a_time_is_found_where_logs_have_it() {
    let nginx = "%d/%b/%Y:%H:%M:%S %z";
    let line = r#"10.0.0.1 - - [21/Nov/2026:05:30:00 +0100] "GET / HTTP/1.1" 200"#;
    check(nginx, line, Ok(NOW));
    check(nginx, "no time here", Err(Flag::NotFound));
    check(nginx, "", Err(Flag::NotFound));
    check("%Y-%m-%d %H:%M:%S", "2026-11-21 04:30:00 started", Ok(NOW));
    check("%F %T,%3f", "2026-11-21 04:30:00,123 INFO", Ok(NOW + 123));
    check(
        "%FT%T%.f%:z",
        "2026-11-21T05:30:00.25+01:00 x",
        Ok(NOW + 250),
    );
    check("%FT%T%.f%z", "time=2026-11-21T04:30:00Z", Ok(NOW));
    check(
        "%FT%T.%f%z",
        "{\"t\":\"2026-11-21T04:30:00.1234567Z\"}",
        Ok(NOW + 123),
    );
    check("%s", "1795235400 up", Ok(NOW));
    check("%s.%f", "1795235400.5 up", Ok(NOW + 500));
    check("%s%3f", "1795235400007 up", Ok(NOW + 7));
    check(
        "%a %b %e %T %Y",
        "[Sat Nov 21 04:30:00 2026] [error]",
        Ok(NOW),
    );
    check(
        "%A, %d-%b-%y %T %Z",
        "Saturday, 21-Nov-26 04:30:00 GMT",
        Ok(NOW),
    );
    check(
        "%d %B %Y %I:%M:%S %p",
        "21 november 2026 04:30:00 am",
        Ok(NOW),
    );
    check(
        "%d %b %Y %l:%M %p",
        "21 Nov 2026 12:05 AM",
        Ok(at("2026-11-21T00:05:00Z")),
    );
    check("%Y/%j %R", "2026/325 04:30", Ok(NOW));
}

#[test]
fn a_group_says_where_the_time_is() {
    let check = |at: &str, line: &str, wanted: Result<i64, Flag>| {
        let time = line_time("%F %T", Some(at), None);
        assert_eq!(time.find(line.as_bytes(), NOW), wanted, "{line:?}");
    };
    let second = "started .* ended (?<time>.*)";
    let line = "started 2026-11-20 00:00:00 ended 2026-11-21 04:30:00 ok";
    check(second, line, Ok(NOW));
    check(second, "started 2026-11-20 00:00:00", Err(Flag::NotFound));
    check("(?<time>ended)", line, Err(Flag::NotFound));
    check("@(?<time>[^@]+)@", "\u{ff}@2026-11-21 04:30:00@", Ok(NOW));
}

#[test]
fn a_time_without_zone_is_in_the_zone_of_the_task() {
    let check = |zone: Option<&str>, pattern: &str, line: &str, wanted: &str| {
        let time = line_time(pattern, None, zone);
        assert_eq!(time.find(line.as_bytes(), NOW), Ok(at(wanted)), "{line}");
    };
    let (shanghai, plain) = (Some("Asia/Shanghai"), "%F %T");
    check(None, plain, "2026-11-21 04:30:00", "2026-11-21T04:30:00Z");
    check(
        shanghai,
        plain,
        "2026-11-21 04:30:00",
        "2026-11-20T20:30:00Z",
    );
    check(
        shanghai,
        "%F %T %z",
        "2026-11-21 04:30:00 +0000",
        "2026-11-21T04:30:00Z",
    );
    check(
        shanghai,
        "%F %T %Z",
        "2026-11-21 04:30:00 CST",
        "2026-11-20T20:30:00Z",
    );
    check(
        shanghai,
        "%F %T %Z",
        "2026-11-21 04:30:00 UTC",
        "2026-11-21T04:30:00Z",
    );
    let ambiguous = line_time("%F %T %Z", None, None);
    let line = b"2026-11-21 04:30:00 CST";
    assert_eq!(ambiguous.find(line, NOW), Err(Flag::Impossible));
}

#[test]
fn clocks_set_forward_and_back_give_sane_moments() {
    let berlin = line_time("%F %T", None, Some("Europe/Berlin"));
    let check = |line: &str, read: &str, wanted: &str| {
        assert_eq!(
            berlin.find(line.as_bytes(), at(read)),
            Ok(at(wanted)),
            "{line}, {read}"
        );
    };
    // 02:30 never was: half an hour after 02:00, which was 03:00.
    check(
        "2026-03-29 02:30:00",
        "2026-03-29T01:31:00Z",
        "2026-03-29T01:30:00Z",
    );
    // 02:30 came twice: the nearer one.
    check(
        "2026-10-25 02:30:00",
        "2026-10-25T00:30:05Z",
        "2026-10-25T00:30:00Z",
    );
    check(
        "2026-10-25 02:30:00",
        "2026-10-25T01:30:05Z",
        "2026-10-25T01:30:00Z",
    );
}

#[test]
fn what_is_missing_is_taken_from_the_moment_nearest_to_reading() {
    let check = |pattern: &str, line: &str, read: &str, wanted: &str| {
        let time = line_time(pattern, None, None);
        assert_eq!(
            time.find(line.as_bytes(), at(read)),
            Ok(at(wanted)),
            "{line}, {read}"
        );
    };
    let syslog = "%b %e %T";
    check(
        syslog,
        "Nov 21 04:30:00 host sshd[1]: x",
        "2026-11-21T04:30:01Z",
        "2026-11-21T04:30:00Z",
    );
    check(
        syslog,
        "<34>Nov  1 04:30:00 host",
        "2026-11-21T04:30:01Z",
        "2026-11-01T04:30:00Z",
    );
    check(
        syslog,
        "Dec 31 23:59:59 host",
        "2027-01-01T00:00:02Z",
        "2026-12-31T23:59:59Z",
    );
    check(
        syslog,
        "Jan  1 00:00:01 host",
        "2026-12-31T23:59:59Z",
        "2027-01-01T00:00:01Z",
    );
    // Only a leap year has the day.
    check(
        syslog,
        "Feb 29 12:00:00 host",
        "2025-01-05T00:00:00Z",
        "2024-02-29T12:00:00Z",
    );
    check(
        "%T.%f",
        "23:59:59.900 INFO",
        "2026-11-21T00:00:01Z",
        "2026-11-20T23:59:59.900Z",
    );
    check(
        "%T.%f",
        "04:30:00.001 INFO",
        "2026-11-21T04:30:00Z",
        "2026-11-21T04:30:00.001Z",
    );
}

#[test]
fn the_edges_of_days_and_minutes_are_moments() {
    check(
        "%F %T",
        "2026-11-20 24:00:00",
        Ok(at("2026-11-21T00:00:00Z")),
    );
    check(
        "%F %T",
        "2016-12-31 23:59:60",
        Ok(at("2016-12-31T23:59:59Z")),
    );
    check("%F", "2024-02-29", Ok(at("2024-02-29T00:00:00Z")));
}

#[test]
fn impossible_times_are_flagged_and_have_the_time_of_reading() {
    let impossible = Err(Flag::Impossible);
    for text in [
        "2026-02-30 00:00:00",
        "2026-13-01 00:00:00",
        "2026-11-21 25:00:00",
        "2026-11-21 24:00:01",
        "2026-11-21 00:60:00",
        "2026-11-21 00:00:61",
        "2025-02-29 00:00:00",
        "0000-00-00 00:00:00",
        "1970-01-01 00:00:00",
        "1989-12-31 23:59:59",
        "9999-12-31 23:59:59",
    ] {
        check("%F %T", text, impossible);
    }
    check("%F %T", "1990-01-01 00:00:00", Ok(EARLIEST_MS));
    check("%F %T", "2026-11-22 04:30:00", Ok(NOW + AHEAD_MS));
    check("%F %T", "2026-11-22 04:30:01", impossible);
    check("%s", "999999999999 x", impossible);
    check("%y%j", "26366", impossible);

    let time = TimeFrom::new(&Time::Line {
        pattern: Some("%F".to_owned()),
        at: None,
        zone: None,
    });
    let of = |line: &[u8]| time.as_ref().unwrap().of(line, None, NOW);
    assert_eq!((of(b"x").ms, of(b"x").flag), (NOW, Some(Flag::NotFound)));
    let flagged = of(b"1970-01-01 x");
    assert_eq!((flagged.ms, flagged.flag), (NOW, Some(Flag::Impossible)));
    assert_eq!(TimeFrom::Read.of(b"", None, 5), Timed { ms: 5, flag: None });
}

#[test]
fn the_time_of_a_container_runtime_counts_where_it_is_one() {
    let check = |text: Option<&str>, wanted: (i64, Option<Flag>)| {
        let timed = TimeFrom::Runtime.of(b"2026-01-01", text, NOW);
        assert_eq!((timed.ms, timed.flag), wanted, "{text:?}");
    };
    let ms = 1_795_235_400_250;
    check(Some("2026-11-21T04:30:00.250999Z"), (ms, None));
    check(Some("2026-11-21T12:30:00.25+08:00"), (ms, None));
    check(Some("yesterday"), (NOW, Some(Flag::NotFound)));
    check(None, (NOW, Some(Flag::NotFound)));
    check(Some("1970-01-01T00:00:00Z"), (NOW, Some(Flag::Impossible)));
}

#[test]
fn a_pattern_that_says_no_moment_is_refused() {
    let check = |pattern: &str, part: &str| {
        let error = LineTime::new(pattern, None, None).unwrap_err();
        assert!(error.contains(part), "{error}");
    };
    check("%H", "takes a date, hour and minute, or %s");
    check("%Y %T", "takes %m (or %b) with %d, or %j");
    check("%F %I:%M", "%I together with %p");
    check("%Q", "has the directive %Q; allowed are %Y");
    check("%F %", "ends within a directive");
    let error = LineTime::new("%F", Some("(.*)"), None).unwrap_err();
    assert!(error.contains("(?<time>...)"), "{error}");
    let error = LineTime::new("%F", None, Some("China")).unwrap_err();
    assert!(error.contains("such as Asia/Shanghai"), "{error}");
}

proptest! {
    /// What jiff writes is read back, to the millisecond where the pattern has them.
    #[test]
    fn what_another_implementation_writes_is_read(
        ms in EARLIEST_MS..3_100_000_000_000_i64,
        pattern in prop::sample::select(vec![
            ("%Y-%m-%dT%H:%M:%S%.3f%:z", 1), ("%d/%b/%Y:%H:%M:%S %z", 1000), ("%s", 1000),
            ("%A %B %e %T %Y", 1000), ("%Y%m%d%H%M%S", 1000), ("%Y %j %R", 60_000),
            ("%D %I:%M:%S %p", 1000), ("%b %e %T", 1000), ("%F", DAY_MS),
        ]),
        lead in prop::sample::select(vec!["", "[", "10.0.0.1 - [", "<34>"]),
    ) {
        let (pattern, unit) = pattern;
        let moment = jiff::Timestamp::from_millisecond(ms).unwrap();
        let text = moment.to_zoned(TimeZone::UTC).strftime(pattern).to_string();
        let found = line_time(pattern, None, None).find(format!("{lead}{text}] x").as_bytes(), ms);
        prop_assert_eq!(found, Ok(ms.div_euclid(unit) * unit), "{}", text);
    }

    /// In every zone, the moment has the local time that the line says, unless there is no such.
    #[test]
    fn a_local_time_is_found_in_its_zone(
        ms in EARLIEST_MS..3_100_000_000_000_i64,
        name in prop::sample::select(vec!["Asia/Shanghai", "Europe/Berlin", "America/St_Johns", "UTC"]),
    ) {
        let zoned = jiff::Timestamp::from_millisecond(ms).unwrap().to_zoned(find_zone(name).unwrap());
        let text = zoned.strftime("%F %T.%3f").to_string();
        // Read at that moment, so of two the nearer one is the right one.
        let found = line_time("%F %T.%3f", None, Some(name)).find(text.as_bytes(), ms);
        prop_assert_eq!(found, Ok(ms), "{}", text);
    }

    #[test]
    fn any_bytes_are_looked_through_without_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..80),
        pattern in prop::sample::select(vec!["%s%3f", "%d/%b/%Y:%T %Z", "%T%.f", "%y%j%p%I"]),
    ) {
        if let Ok(time) = LineTime::new(pattern, None, Some("Asia/Shanghai")) {
            let _found = time.find(&bytes, NOW);
        }
        let digits: Vec<u8> = bytes.iter().map(|byte| b'0' + byte % 11).collect();
        let _found = line_time("%s%3f", None, None).find(&digits, NOW);
    }
}
