//! A record as a document, and the line of a bulk request that creates it.
//!
//! # Constraints
//! A function of the record, its batch and the settings alone, so that a batch that comes again makes the
//! same documents under the same ids in the same indices: the server then removes the repeats.
//!
//! # Layout
//! ```text
//! {"create":{"_index":"logs-web-2026-11-22","_id":"…"}}
//! {"@timestamp":"2026-11-22T01:47:15.179Z","message":"…","host":"…","file":"…","offset":12,"topic":"web","labels":{…}}
//! ```
//! The id is the batch's identity (24 bytes) and the record's place in it (`u32`, big endian) in
//! URL-safe base64. A record that is a JSON object within the limits becomes that object where the
//! destination is told so: its own fields count, of ours those are added that it lacks. Its text is
//! copied, so that numbers stay as they are written.
//!
//! Pure. Not for: requests (see [`super::bulk`]).

use std::{borrow::Cow, fmt};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use tributary_common::{
    batch::Record,
    header::BatchHeader,
    ids::{BatchId, Topic},
};

use crate::template::Template;

/// The header of a record with the names of its flags.
const FLAGS_HEADER: &str = "tributary-flags";
/// The header with the batch's identity.
const ID_HEADER: &str = "tributary";

/// What of a record becomes the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// Its text, as `message`.
    Line,
    /// The JSON object that it is; its text where it is none, or beyond these limits.
    Json {
        /// The longest text, in bytes.
        max_bytes: usize,
        /// How deep objects and lists may stand in each other; 1 is an object of plain values.
        max_depth: usize,
    },
}

/// Our own fields, in their order.
const FIELDS: [&str; 7] = [
    "@timestamp",
    "message",
    "host",
    "file",
    "offset",
    "topic",
    "labels",
];

/// Which of [`FIELDS`] a document has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Has([bool; FIELDS.len()]);

impl Has {
    fn note(&mut self, key: &str) {
        let place = FIELDS.iter().position(|field| *field == key);
        if let Some(has) = place.and_then(|place| self.0.get_mut(place)) {
            *has = true;
        }
    }

    fn lacks(self, key: &str) -> bool {
        let place = FIELDS.iter().position(|field| *field == key);
        !place
            .and_then(|place| self.0.get(place))
            .is_some_and(|has| *has)
    }
}

/// Writes documents; keeps what is the same from one to the next.
#[derive(Debug)]
pub(super) struct Writer {
    document: Document,
    /// The second of the last time, and its text.
    second: Option<(i64, String)>,
    /// Target, topic and minute of the last index, and its name as JSON.
    index: Option<(String, u32, Vec<u8>)>,
    /// The last batch, and the fields that each of its records has which says nothing of itself.
    origin: Option<(BatchId, Vec<u8>)>,
}

impl Writer {
    pub(super) fn new(document: Document) -> Self {
        Self {
            document,
            second: None,
            index: None,
            origin: None,
        }
    }

    /// Adds a record with the line before it. `at` is its place in its batch.
    pub(super) fn write(
        &mut self,
        out: &mut Vec<u8>,
        (header, target): (&BatchHeader, &str),
        at: u32,
        record: &Record<'_>,
    ) {
        out.extend_from_slice(br#"{"create":{"_index":"#);
        let minute = u32::try_from(record.timestamp_ms.div_euclid(60_000)).unwrap_or(0);
        out.extend_from_slice(self.index(target, &header.topic, minute));
        out.extend_from_slice(br#","_id":""#);
        out.extend_from_slice(&id(header.id(), at));
        out.extend_from_slice(b"\"}}\n");
        self.document(out, header, record);
        out.push(b'\n');
    }

    /// The index of a minute.
    fn index<'a>(&'a mut self, target: &str, topic: &Topic, minute: u32) -> &'a [u8] {
        let kept = self.index.as_ref();
        if kept.is_none_or(|(of, at, _)| of != target || *at != minute) {
            // A target was made by a template, so it parses as one; should it not, it is a plain name.
            let name = Template::parse(target).map_or_else(
                |_no_template| target.to_owned(),
                |template| template.render(topic, minute),
            );
            let mut quoted = Vec::new();
            text(&mut quoted, &name);
            self.index = Some((target.to_owned(), minute, quoted));
        }
        self.index.as_ref().map_or(b"\"\"", |(_, _, name)| name)
    }

    fn document(&mut self, out: &mut Vec<u8>, header: &BatchHeader, record: &Record<'_>) {
        let own = match self.document {
            Document::Line => None,
            Document::Json {
                max_bytes,
                max_depth,
            } => object(record.value, max_bytes, max_depth),
        };
        let (has, inner) = own.unwrap_or_default();
        let begin = out.len();
        if has.lacks("@timestamp") {
            out.extend_from_slice(b",\"@timestamp\":\"");
            self.time(out, record.timestamp_ms);
            out.push(b'"');
        }
        if own.is_none() {
            field(out, "message", record.value);
        }
        if own.is_none() && record.headers.iter().next().is_none() {
            out.extend_from_slice(self.origin(header));
        } else {
            let said = said(out, record, has);
            origin(out, header, has, &said);
        }
        if !inner.is_empty() {
            out.push(b',');
            // Outside of strings, where alone they may stand, these are space.
            let spaced = inner.iter().map(|byte| match byte {
                b'\n' | b'\r' => b' ',
                other => *other,
            });
            out.extend(spaced);
        }
        match out.get_mut(begin) {
            Some(comma) => *comma = b'{',
            None => out.push(b'{'),
        }
        out.push(b'}');
    }

    /// The fields of a record that says nothing of itself.
    fn origin<'a>(&'a mut self, header: &BatchHeader) -> &'a [u8] {
        let batch = header.id();
        if self.origin.as_ref().is_none_or(|(of, _)| *of != batch) {
            let mut fields = Vec::new();
            origin(&mut fields, header, Has::default(), &Said::default());
            self.origin = Some((batch, fields));
        }
        self.origin.as_ref().map_or(b"", |(_, fields)| fields)
    }

    fn time(&mut self, out: &mut Vec<u8>, ms: i64) {
        let second = ms.div_euclid(1000);
        if self.second.as_ref().is_none_or(|(of, _)| *of != second) {
            let time = jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::MAX);
            let said = time.strftime("%Y-%m-%dT%H:%M:%S").to_string();
            self.second = Some((second, said));
        }
        if let Some((_, said)) = &self.second {
            out.extend_from_slice(said.as_bytes());
        }
        let ms = ms.rem_euclid(1000);
        // Below 1,000, so three digits.
        let digit = |unit: i64| b'0' + u8::try_from(ms / unit % 10).unwrap_or(0);
        out.extend_from_slice(&[b'.', digit(100), digit(10), digit(1), b'Z']);
    }
}

/// Bytes of an id before they are text.
const ID_BYTES: usize = BatchId::BYTES + 4;
/// Bytes of an id as text: four for three, what is left without padding.
const ID_TEXT_BYTES: usize = (ID_BYTES * 4).div_ceil(3);

/// The id of a document, as ASCII.
fn id(batch: BatchId, at: u32) -> [u8; ID_TEXT_BYTES] {
    let mut bytes = [0; ID_BYTES];
    let (head, tail) = bytes.split_at_mut(BatchId::BYTES);
    head.copy_from_slice(&batch.to_bytes());
    tail.copy_from_slice(&at.to_be_bytes());
    let mut text = [0; ID_TEXT_BYTES];
    URL_SAFE_NO_PAD
        .encode_slice(bytes, &mut text)
        .expect("the text of so many bytes is so long");
    text
}

/// Where a record comes from, as far as it does not say so itself.
fn origin(out: &mut Vec<u8>, header: &BatchHeader, has: Has, said: &Said) {
    if has.lacks("host") && !said.host {
        field(out, "host", header.agent.as_str().as_bytes());
    }
    if has.lacks("file") && !said.file {
        field(out, "file", header.file.as_bytes());
    }
    if has.lacks("topic") {
        field(out, "topic", header.topic.as_str().as_bytes());
    }
}

/// Which fields the headers said.
#[derive(Default)]
struct Said {
    host: bool,
    file: bool,
}

/// The fields that a record's headers say: host, file and offset, what is known of flags and stream,
/// all others as labels.
fn said(out: &mut Vec<u8>, record: &Record<'_>, has: Has) -> Said {
    let mut said = Said::default();
    let mut labels = Vec::new();
    for (key, value) in record.headers.iter() {
        let value = value.unwrap_or_default();
        match key {
            ID_HEADER => {}
            "host" => {
                said.host = true;
                if has.lacks("host") {
                    field(out, key, value);
                }
            }
            "file" => {
                said.file = true;
                if has.lacks("file") {
                    field(out, key, value);
                }
            }
            "offset" => {
                let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                if digits && value.len() < 19 && has.lacks("offset") {
                    out.extend_from_slice(b",\"offset\":");
                    out.extend_from_slice(value);
                }
            }
            FLAGS_HEADER => field(&mut labels, "flags", value),
            other => field(&mut labels, other, value),
        }
    }
    if !labels.is_empty() && has.lacks("labels") {
        out.extend_from_slice(b",\"labels\":{");
        out.extend(labels.iter().skip(1));
        out.push(b'}');
    }
    said
}

/// `,"key":"value"`; what is no UTF-8 becomes U+FFFD.
fn field(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    out.push(b',');
    text(out, key);
    out.push(b':');
    match std::str::from_utf8(value) {
        Ok(value) => text(out, value),
        Err(_not_text) => text(out, &String::from_utf8_lossy(value)),
    }
}

/// A text as JSON.
fn text(out: &mut Vec<u8>, text: &str) {
    // Writing text into memory cannot fail.
    serde_json::to_writer(out, text).unwrap_or_default();
}

/// What stands between the braces of a JSON object, and which of our fields it has; `None` when the
/// text is none, or beyond the limits.
fn object(bytes: &[u8], max_bytes: usize, max_depth: usize) -> Option<(Has, &[u8])> {
    let bytes = bytes.trim_ascii();
    if bytes.len() > max_bytes || bytes.first() != Some(&b'{') || depth(bytes) > max_depth {
        return None;
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let has = reader.deserialize_map(Keys).ok()?;
    reader.end().ok()?;
    // Strings are looked at as bytes before, so that this is UTF-8 has to be seen as well.
    std::str::from_utf8(bytes).ok()?;
    let inner = bytes.get(1..bytes.len().checked_sub(1)?)?;
    Some((has, inner.trim_ascii()))
}

/// How deep braces stand in each other, outside of strings.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut within, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if within => escaped = true,
            b'"' => within = !within,
            b'{' | b'[' if !within => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !within => depth = depth.saturating_sub(1),
            _other => {}
        }
    }
    deepest
}

/// Looks at the keys of an object, and throws its values away.
struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Has;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Has, A::Error> {
        let mut has = Has::default();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            has.note(&key);
            map.next_value::<IgnoredAny>()?;
        }
        Ok(has)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tributary_common::batch::{Codec, Decoder, Draft, Encoder, Headers};

    use super::*;
    use crate::testing;

    const JSON: Document = Document::Json {
        max_bytes: 1000,
        max_depth: 3,
    };

    /// The two lines that a record makes.
    fn written(document: Document, value: &[u8], said: &[(&str, &[u8])]) -> (String, Value) {
        let header = testing::header_of("web");
        let mut headers = Headers::new();
        for (key, value) in said {
            headers.push(key, value);
        }
        let mut encoder = Encoder::new(Codec::None);
        encoder.begin(header.id());
        encoder.push_draft(&Draft {
            timestamp_ms: 1_795_312_035_179,
            key: None,
            value,
            headers: &headers,
        });
        let encoded = encoder.finish().unwrap();
        let decoded = Decoder::new().decode(&encoded.payload, 2 << 20).unwrap();
        let record = decoded.records().next().unwrap();
        let mut out = Vec::new();
        Writer::new(document).write(&mut out, (&header, "logs-{topic}-{date}"), 7, &record);
        let text = String::from_utf8(out).unwrap();
        let (action, document) = text.split_once('\n').unwrap();
        let document = document.strip_suffix('\n').unwrap();
        assert!(!document.contains('\n'), "{document}");
        (action.to_owned(), serde_json::from_str(document).unwrap())
    }

    #[test]
    fn a_line_becomes_a_document_with_its_origin() {
        let (action, document) = written(Document::Line, b"a \"b\"\n\tc", &[]);
        assert_eq!(
            action,
            r#"{"create":{"_index":"logs-web-2026-11-22","_id":"AAAAAAAAAAEAAAAAAAAAAQAAAAAAAAABAAAABw"}}"#
        );
        assert_eq!(
            document,
            json!({
                "@timestamp": "2026-11-22T01:47:15.179Z", "message": "a \"b\"\n\tc", "host": "a",
                "file": "/var/log/x", "topic": "web",
            })
        );
        let headers: [(&str, &[u8]); 5] = [
            ("host", b"h1"),
            ("file", b"/f"),
            ("offset", b"12"),
            ("app", b"shop"),
            ("tributary-flags", b"cut"),
        ];
        let (_, document) = written(Document::Line, b"x\xff", &headers);
        assert_eq!(
            document,
            json!({
                "@timestamp": "2026-11-22T01:47:15.179Z", "message": "x\u{fffd}", "host": "h1",
                "file": "/f", "offset": 12, "topic": "web", "labels": { "app": "shop", "flags": "cut" },
            })
        );
    }

    #[test]
    fn an_object_keeps_its_own_fields_and_gets_those_that_it_lacks() {
        let line = br#" {"n": 12345678901234567890123, "host": "own", "@timestamp": "t", "in": {"a": [1]}} "#;
        let (_, document) = written(JSON, line, &[("host", b"h1"), ("app", b"shop")]);
        assert_eq!(document["host"], "own");
        assert_eq!(document["@timestamp"], "t");
        assert_eq!(document["in"], json!({ "a": [1] }));
        assert_eq!(document["file"], "/var/log/x");
        assert_eq!(document["labels"], json!({ "app": "shop" }));
        assert!(document.get("message").is_none());
        let (_, empty) = written(JSON, b"{}", &[]);
        assert_eq!(empty["topic"], "web");
        assert!(empty.get("message").is_none());
    }

    #[test]
    fn what_is_no_object_or_beyond_the_limits_is_a_message() {
        let check = |line: &[u8]| {
            let (_, document) = written(JSON, line, &[]);
            assert_eq!(document["message"], String::from_utf8_lossy(line).as_ref());
        };
        check(b"plain");
        check(b"[1]");
        check(br#"{"a":1} x"#);
        check(br#"{"a":}"#);
        check(b"{\"a\":\"\xff\"}");
        check(br#"{"a":{"b":{"c":{}}}}"#);
        check(format!("{{\"a\":\"{}\"}}", "x".repeat(1000)).as_bytes());
        check(b"");
    }

    proptest! {
        /// Whatever a line holds, a document comes out that is one line of JSON.
        #[test]
        fn every_line_makes_a_document(line in proptest::collection::vec(any::<u8>(), 0..200), json in any::<bool>()) {
            let document = if json { JSON } else { Document::Line };
            let (_, document) = written(document, &line, &[]);
            prop_assert!(document.is_object());
        }

        #[test]
        fn every_object_keeps_what_it_says(map in proptest::collection::btree_map("[a-z\"\\\\\n]{0,4}", any::<i64>(), 0..5)) {
            let line = serde_json::to_vec_pretty(&map).unwrap();
            let (_, document) = written(JSON, &line, &[]);
            for (key, value) in map {
                prop_assert_eq!(&document[&key], &json!(value));
            }
        }
    }
}
