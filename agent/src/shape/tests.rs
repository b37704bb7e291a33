//! The records of lines: exact values and headers, and JSON that is valid whatever the line.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::times::Flag;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn line(text: &[u8]) -> Line<'_> {
    Line {
        text,
        offset: 17,
        timed: Timed {
            ms: 1_795_235_400_007,
            flag: None,
        },
        stream: None,
        flags: "",
    }
}

/// The value, and the headers as text.
fn shaped(shape: Shape, line: &Line<'_>) -> (Vec<u8>, Vec<(String, String)>, Option<usize>) {
    use tributary_common::{
        batch::{Codec, Draft, Encoder, MAX_DECODED_BYTES, decode},
        ids::{BatchId, Epoch, StreamId},
    };
    let labels = labels(&[("app", "shop \"1\""), ("é", "ü")]);
    let origin = Origin {
        host: "web-1",
        file: b"/var/log/a\xff.log",
        labels: &labels,
    };
    let mut shaper = Shaper::default();
    shaper.begin(shape, origin);
    // A record does not see the one before it.
    shaper.shape(&Line {
        flags: "split",
        offset: 3,
        ..*line
    });
    let shaped = shaper.shape(line);
    let mut encoder = Encoder::new(Codec::None);
    let (stream, epoch) = (StreamId(1), Epoch(2));
    encoder.begin(BatchId {
        stream,
        epoch,
        seq: 3,
    });
    encoder.push_draft(&Draft {
        timestamp_ms: line.timed.ms,
        key: None,
        value: shaped.value,
        headers: shaped.headers,
    });
    let batch = decode(&encoder.finish().unwrap().payload, MAX_DECODED_BYTES).unwrap();
    let record = batch.records().next().unwrap();
    let headers = record.headers.iter().filter(|(key, _)| *key != ID_HEADER);
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap()).into_owned();
    let headers = headers.map(|(key, value)| (key.to_owned(), text(value)));
    (record.value.to_vec(), headers.collect(), shaped.cut_short)
}

fn pairs(headers: &[(String, String)]) -> Vec<(&str, &str)> {
    headers
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect()
}

#[test]
fn a_raw_record_is_its_line() {
    let (value, headers, _) = shaped(Shape::Raw, &line(b"a\xff\r"));
    assert_eq!((value.as_slice(), headers.len()), (&b"a\xff\r"[..], 0));
    let flagged = Line {
        flags: "split",
        ..line(b"a")
    };
    let (value, headers, _) = shaped(Shape::Raw, &flagged);
    assert_eq!(value, b"a");
    assert_eq!(pairs(&headers), [("tributary-flags", "split")]);
}

#[test]
fn headers_say_where_a_line_comes_from() {
    let (value, headers, _) = shaped(Shape::Headers, &line(b"a\xff"));
    assert_eq!(value, b"a\xff");
    let origin = [
        ("host", "web-1"),
        ("file", "/var/log/a\u{fffd}.log"),
        ("app", "shop \"1\""),
        ("é", "ü"),
        ("offset", "17"),
    ];
    assert_eq!(pairs(&headers), origin);
}

#[test]
fn an_object_says_all_of_it() {
    let (value, headers, _) = shaped(Shape::Json, &line(b"say \"hi\"\t\\ \x01\xff\xc3\xa9"));
    let wanted =
        r#"{"host":"web-1","file":"/var/log/a�.log","app":"shop \"1\"","é":"ü","offset":17,"#
            .to_owned()
            + r#""time":"2026-11-21T04:30:00.007Z","message":"say \"hi\"\t\\ \u0001�é"}"#;
    assert_eq!(String::from_utf8(value).unwrap(), wanted);
    assert!(headers.is_empty());
}

#[test]
fn the_stream_of_a_container_is_told() {
    let line = Line {
        stream: Some("stderr"),
        ..line(b"x")
    };
    let (_, headers, _) = shaped(Shape::Headers, &line);
    assert_eq!(pairs(&headers)[5], ("stream", "stderr"));
    let object: Value = serde_json::from_slice(&shaped(Shape::Json, &line).0).unwrap();
    assert_eq!(object["stream"], "stderr");
}

#[test]
fn what_is_special_is_flagged_in_every_shape() {
    let check = |flag, flags, wanted: [&str; 3]| {
        let mut line = Line {
            flags,
            ..line(b"x")
        };
        line.timed.flag = flag;
        let said = |shape| {
            let (_, headers, _) = shaped(shape, &line);
            let header = headers.into_iter().find(|(key, _)| key == FLAGS_HEADER);
            header.map_or(String::new(), |(_, value)| value)
        };
        let object: Value = serde_json::from_slice(&shaped(Shape::Json, &line).0).unwrap();
        let object = object["flags"].as_array().map_or(String::new(), |flags| {
            let flags: Vec<&str> = flags.iter().filter_map(Value::as_str).collect();
            flags.join(",")
        });
        assert_eq!([said(Shape::Raw), said(Shape::Headers), object], wanted);
    };
    check(None, "", ["", "", ""]);
    check(None, "a,b", ["a,b", "a,b", "a,b"]);
    let missing = "time-not-found";
    check(Some(Flag::NotFound), "", ["", missing, missing]);
    let impossible = "a,time-impossible";
    check(
        Some(Flag::Impossible),
        "a",
        [impossible, impossible, impossible],
    );
}

#[test]
fn a_record_that_grows_too_long_is_cut_short_and_says_so() {
    // Every byte becomes six.
    let control = vec![1_u8; MAX_VALUE_BYTES];
    let (value, _, cut_short) = shaped(Shape::Json, &line(&control));
    assert!(value.len() <= MAX_VALUE_BYTES);
    assert!(value.len() + 1000 > MAX_VALUE_BYTES, "{}", value.len());
    let object: Value = serde_json::from_slice(&value).unwrap();
    assert_eq!(object["flags"][0], "truncated");
    assert_eq!(object["message"].as_str().map(str::len), cut_short);

    let text = "é".repeat(MAX_VALUE_BYTES / 2) + "x";
    let (value, headers, cut_short) = shaped(Shape::Raw, &line(text.as_bytes()));
    assert_eq!(
        (value.len(), cut_short),
        (MAX_VALUE_BYTES, Some(MAX_VALUE_BYTES))
    );
    assert_eq!(pairs(&headers), [(FLAGS_HEADER, "truncated")]);
    let (_, _, cut_short) = shaped(Shape::Json, &line(&vec![b'x'; 1000]));
    assert_eq!(cut_short, None);
}

#[test]
fn labels_that_records_cannot_carry_are_refused() {
    let check = |shape, pairs: &[(&str, &str)], part: &str| {
        let error = check_labels(shape, &labels(pairs)).unwrap_err();
        assert!(error.contains(part), "{error}");
    };
    check(
        Shape::Json,
        &[("app", "x"), ("host", "y")],
        "\"host\" has a name that every record has; allowed",
    );
    check(Shape::Headers, &[("tributary", "y")], "\"tributary\"");
    let long = "x".repeat(MAX_LABEL_BYTES);
    check(
        Shape::Headers,
        &[("a", &long)],
        "take 8193 bytes of every record; allowed are 8192",
    );
    assert!(check_labels(Shape::Raw, &labels(&[("host", "x")])).is_ok());
    assert!(check_labels(Shape::Json, &labels(&[("app", "x")])).is_ok());
}

#[test]
fn a_key_is_what_the_group_catches() {
    let group = Group::new("user=(?<key>[^ ]*)", "key").unwrap();
    assert_eq!(key_of(&group, b"x user=ann y"), Some(&b"ann"[..]));
    assert_eq!(key_of(&group, b"x user= y"), None);
    assert_eq!(key_of(&group, b"x y"), None);
    let long = ["user=", &"x".repeat(MAX_KEY_BYTES + 1)].concat();
    assert_eq!(key_of(&group, long.as_bytes()), None);
}

proptest! {
    #[test]
    fn an_object_is_valid_whatever_the_bytes(
        text in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\"\\\n\x00\xc3\xa9\xf0\x9f\x98\x80".to_vec())], 0..200),
        ms in -62_000_000_000_000_i64..250_000_000_000_000,
        max in 600_usize..1500,
    ) {
        let mut json = Json::default();
        let labels = labels(&[("app", "shop")]);
        json.begin(Origin { host: "h", file: &text, labels: &labels });
        let mut line = line(&text);
        line.timed.ms = ms;
        let (object, kept) = json.object(&line, max + json_beginning(&text));
        prop_assert!(object.len() <= max + json_beginning(&text));
        let object: Value = serde_json::from_slice(object).unwrap();
        let whole = String::from_utf8_lossy(&text);
        prop_assert_eq!(object["file"].as_str().unwrap(), &whole);
        let message = object["message"].as_str().unwrap();
        prop_assert_eq!(message, String::from_utf8_lossy(&text[..kept]));
        prop_assert!(whole.starts_with(message));
        prop_assert_eq!(&object["offset"], &Value::from(17));
        let time: jiff::Timestamp = object["time"].as_str().unwrap().parse().unwrap();
        prop_assert_eq!(time.as_millisecond(), ms);
    }
}

/// The most bytes before the offset in the property above.
fn json_beginning(text: &[u8]) -> usize {
    100 + 6 * text.len()
}
