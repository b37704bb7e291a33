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
    batch::{Headers, ID_HEADER, Record, RecordHeaders},
    header::BatchHeader,
    ids::{BatchId, Topic},
};

use super::escape;
use crate::template::Template;

/// The header of a record with the names of its flags.
const FLAGS_HEADER: &str = "tributary-flags";
/// The header with the place of a record in its file.
const OFFSET_HEADER: &str = "offset";
const MS_PER_MINUTE: i64 = 60_000;
/// Ends a document.
const END: &[u8] = b"}\n";

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
    batch: Batch,
    lead: Lead,
    first: First,
}

impl Writer {
    pub(super) fn new(document: Document) -> Self {
        Self {
            document,
            batch: Batch::default(),
            lead: Lead::default(),
            first: First::default(),
        }
    }

    /// The records that follow are of this batch, and go to this target.
    pub(super) fn begin(&mut self, header: &BatchHeader, target: &str) {
        self.batch.set(header, target);
        self.lead.minute = None;
    }

    /// Adds a record with the line before it. `at` is its place in its batch.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, at: u32, record: &Record<'_>) {
        self.lead.set(&self.batch, at, record.timestamp_ms);
        let own = match self.document {
            Document::Line => None,
            Document::Json {
                max_bytes,
                max_depth,
            } => object(record.value, max_bytes, max_depth),
        };
        match own {
            None => self.line(out, record),
            Some((has, inner)) => self.object(out, record, (has, inner)),
        }
    }

    /// A document of a text.
    fn line(&mut self, out: &mut Vec<u8>, record: &Record<'_>) {
        out.extend_from_slice(&self.lead.bytes);
        escape::inner(out, record.value);
        if record.headers.is_empty() {
            out.extend_from_slice(&self.batch.tail);
            return;
        }
        out.push(b'"');
        self.said(out, record, Has::default());
        out.extend_from_slice(END);
    }

    /// A document of an object.
    fn object(&mut self, out: &mut Vec<u8>, record: &Record<'_>, (has, inner): (Has, &[u8])) {
        out.extend_from_slice(self.lead.action());
        let begin = out.len();
        if has.lacks("@timestamp") {
            out.extend_from_slice(self.lead.time());
        }
        self.said(out, record, has);
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
        out.extend_from_slice(END);
    }

    /// The fields of a record's headers, and where it comes from as far as they do not say it.
    fn said(&mut self, out: &mut Vec<u8>, record: &Record<'_>, has: Has) {
        let known = record.headers.behind(&self.first.headers);
        let known = known.filter(|_rest| self.first.has == has && !self.first.headers.is_empty());
        let rest = known.unwrap_or_else(|| self.first.set(record.headers, has));
        let mut said = self.first.said;
        out.extend_from_slice(&self.first.fields);
        let mut labels = Vec::new();
        for (key, value) in rest.iter() {
            said.header(out, &mut labels, (key, value.unwrap_or_default()), has);
        }
        if has.lacks("labels") && !(self.first.labels.is_empty() && labels.is_empty()) {
            out.extend_from_slice(b",\"labels\":");
            let comma = out.len();
            out.extend_from_slice(&self.first.labels);
            out.extend_from_slice(&labels);
            if let Some(comma) = out.get_mut(comma) {
                *comma = b'{';
            }
            out.push(b'}');
        }
        self.batch.unsaid(out, said, has);
    }
}

/// What the records of a batch have in common.
#[derive(Debug, Default)]
struct Batch {
    /// Its identity in base64.
    id: [u8; ID_TEXT_BYTES],
    of: Option<Topic>,
    target: String,
    /// Of the target; none when it is a plain name.
    template: Option<Template>,
    /// Who sent it, from which file, to which topic: each as a field.
    host: Vec<u8>,
    file: Vec<u8>,
    topic: Vec<u8>,
    /// What ends a document of a text whose record says nothing of itself, from the text's quote on.
    tail: Vec<u8>,
}

impl Batch {
    fn set(&mut self, header: &BatchHeader, target: &str) {
        URL_SAFE_NO_PAD
            .encode_slice(header.id().to_bytes(), &mut self.id)
            .expect("the text of so many bytes is so long");
        if self.target != target {
            target.clone_into(&mut self.target);
            // A target was made by a template, so it parses as one; should it not, it is a plain name.
            self.template = Template::parse(target).ok();
        }
        self.of = Some(header.topic.clone());
        let fields = [
            (&mut self.host, "host", header.agent.as_str()),
            (&mut self.file, "file", header.file.as_str()),
            (&mut self.topic, "topic", header.topic.as_str()),
        ];
        self.tail.clear();
        self.tail.push(b'"');
        for (rendered, key, value) in fields {
            rendered.clear();
            field(rendered, key, value.as_bytes());
            self.tail.extend_from_slice(rendered);
        }
        self.tail.extend_from_slice(END);
    }

    /// The index of a minute.
    fn index(&self, minute: u32) -> Cow<'_, str> {
        match (&self.template, &self.of) {
            (Some(template), Some(topic)) => template.render(topic, minute).into(),
            _plain => Cow::Borrowed(&self.target),
        }
    }

    /// Where a record comes from, as far as it does not say so itself.
    fn unsaid(&self, out: &mut Vec<u8>, said: Said, has: Has) {
        if has.lacks("host") && !said.host {
            out.extend_from_slice(&self.host);
        }
        if has.lacks("file") && !said.file {
            out.extend_from_slice(&self.file);
        }
        if has.lacks("topic") {
            out.extend_from_slice(&self.topic);
        }
    }
}

/// What stands before a record's text: the line before its document, its time, and the key of the text.
/// Made once a batch and minute; of it the place, the seconds and the milliseconds are set anew for each.
#[derive(Debug, Default)]
struct Lead {
    bytes: Vec<u8>,
    minute: Option<i64>,
    /// Where the digits of the place begin, the document, the seconds, and the key.
    place: usize,
    document: usize,
    seconds: usize,
    key: usize,
}

impl Lead {
    fn set(&mut self, batch: &Batch, at: u32, timestamp_ms: i64) {
        let minute = timestamp_ms.div_euclid(MS_PER_MINUTE);
        if self.minute != Some(minute) {
            self.minute = Some(minute);
            self.make(batch, minute);
        }
        if let Some(place) = self.bytes.get_mut(self.place..) {
            let digits = place_digits(at);
            place[..digits.len()].copy_from_slice(&digits);
        }
        // Below 60,000.
        let ms = u32::try_from(timestamp_ms.rem_euclid(MS_PER_MINUTE)).unwrap_or(0);
        if let Some(time) = self.bytes.get_mut(self.seconds..) {
            let digit = |unit: u32| b'0' + u8::try_from(ms / unit % 10).unwrap_or(0);
            time[0] = b'0' + u8::try_from(ms / 10_000).unwrap_or(0);
            time[1] = digit(1_000);
            time[3..6].copy_from_slice(&[digit(100), digit(10), digit(1)]);
        }
    }

    fn make(&mut self, batch: &Batch, minute: i64) {
        let out = &mut self.bytes;
        out.clear();
        out.extend_from_slice(b"{\"create\":{\"_index\":");
        let index = batch.index(u32::try_from(minute).unwrap_or(0));
        escape::quoted(out, index.as_bytes());
        out.extend_from_slice(b",\"_id\":\"");
        out.extend_from_slice(&batch.id);
        self.place = out.len();
        out.extend_from_slice(&place_digits(0));
        out.extend_from_slice(b"\"}}\n");
        self.document = out.len();
        out.extend_from_slice(b"{\"@timestamp\":\"");
        let time = jiff::Timestamp::from_second(minute.saturating_mul(60));
        let time = time.unwrap_or(jiff::Timestamp::MAX);
        out.extend_from_slice(time.strftime("%Y-%m-%dT%H:%M:").to_string().as_bytes());
        self.seconds = out.len();
        out.extend_from_slice(b"00.000Z\"");
        self.key = out.len();
        out.extend_from_slice(b",\"message\":\"");
    }

    /// The line before the document.
    fn action(&self) -> &[u8] {
        self.bytes.get(..self.document).unwrap_or_default()
    }

    /// The document's brace and its time.
    fn time(&self) -> &[u8] {
        self.bytes.get(self.document..self.key).unwrap_or_default()
    }
}

/// Bytes of a batch's identity as text: four for three, so that what follows it in an id is apart.
const ID_TEXT_BYTES: usize = BatchId::BYTES / 3 * 4;
const _WHOLE: () = assert!(BatchId::BYTES.is_multiple_of(3));

/// A record's place, the end of its id: four bytes in base64 without padding.
fn place_digits(at: u32) -> [u8; 6] {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // The last digit has the last two bits, and four that are 0.
    [26, 20, 14, 8, 2, 0].map(|shift| match shift {
        0 => DIGITS[((at << 4) & 0x3f) as usize],
        shift => DIGITS[((at >> shift) & 0x3f) as usize],
    })
}

/// Which fields the headers said.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    host: bool,
    file: bool,
}

impl Said {
    /// Adds what a header says: host, file and offset as fields, what is known of flags and stream, and all
    /// else, as labels.
    fn header(
        &mut self,
        out: &mut Vec<u8>,
        labels: &mut Vec<u8>,
        (key, value): (&str, &[u8]),
        has: Has,
    ) {
        match key {
            ID_HEADER => {}
            "host" => {
                self.host = true;
                if has.lacks("host") {
                    field(out, key, value);
                }
            }
            "file" => {
                self.file = true;
                if has.lacks("file") {
                    field(out, key, value);
                }
            }
            OFFSET_HEADER => {
                let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                if digits && value.len() < 19 && has.lacks("offset") {
                    out.extend_from_slice(b",\"offset\":");
                    out.extend_from_slice(value);
                }
            }
            FLAGS_HEADER => field(labels, "flags", value),
            other => field(labels, other, value),
        }
    }
}

/// The first headers of a record, as fields: those of the record behind it are mostly the same.
#[derive(Debug, Default)]
struct First {
    headers: Headers,
    has: Has,
    said: Said,
    fields: Vec<u8>,
    labels: Vec<u8>,
}

impl First {
    /// Takes those of a record up to the first one that is its own; gives the others.
    fn set<'a>(&mut self, headers: RecordHeaders<'a>, has: Has) -> RecordHeaders<'a> {
        let own = [ID_HEADER, OFFSET_HEADER, FLAGS_HEADER];
        let common = |(key, _value): &(&str, _)| !own.contains(key);
        let (first, rest) = headers.split(headers.iter().take_while(common).count());
        self.headers = first.to_owned();
        (self.has, self.said) = (has, Said::default());
        self.fields.clear();
        self.labels.clear();
        for (key, value) in first.iter() {
            let header = (key, value.unwrap_or_default());
            self.said
                .header(&mut self.fields, &mut self.labels, header, has);
        }
        rest
    }
}

/// `,"key":"value"`; what is no UTF-8 becomes U+FFFD.
fn field(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    out.push(b',');
    escape::quoted(out, key.as_bytes());
    out.push(b':');
    escape::quoted(out, value);
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
        let mut writer = Writer::new(document);
        writer.begin(&header, "logs-{topic}-{date}");
        writer.write(&mut out, 7, &record);
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

    /// The last document of a batch of a file whose records say these headers, and the line before it.
    fn last(
        writer: &mut Writer,
        (file, timestamp_ms): (&str, i64),
        said: &[(&str, &str)],
    ) -> (String, Value) {
        let mut header = testing::header_of("web");
        header.file = file.to_owned();
        let mut headers = Headers::new();
        for (key, value) in said {
            headers.push(key, value.as_bytes());
        }
        let mut encoder = Encoder::new(Codec::None);
        encoder.begin(header.id());
        for value in [&b"first"[..], b"x"] {
            encoder.push_draft(&Draft {
                timestamp_ms,
                key: None,
                value,
                headers: &headers,
            });
        }
        let payload = encoder.finish().unwrap().payload;
        let decoded = Decoder::new().decode(&payload, 2 << 20).unwrap();
        let mut out = Vec::new();
        writer.begin(&header, "web-{hour}");
        for (at, record) in (0..).zip(decoded.records()) {
            out.clear();
            writer.write(&mut out, at, &record);
        }
        let text = String::from_utf8(out).unwrap();
        let (action, document) = text.split_once('\n').unwrap();
        (action.to_owned(), serde_json::from_str(document).unwrap())
    }

    /// Batches one after the other, with records whose first headers are mostly the same: none gets what
    /// another one said.
    #[test]
    fn what_one_record_says_is_not_said_of_another() {
        let mut writer = Writer::new(Document::Line);
        let mut check = |file: &str, ms: i64, said: &[(&str, &str)], want: Value| {
            let (action, document) = last(&mut writer, (file, ms), said);
            let time = jiff::Timestamp::from_millisecond(ms).unwrap();
            let stamp = time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
            assert_eq!(document["@timestamp"], stamp);
            let index = time.strftime("\"web-%H\"").to_string();
            assert!(action.contains(&index), "{action}");
            let pick = |key| document.get(key).cloned().unwrap_or_default();
            let got = ["host", "file", "offset", "labels"].map(pick);
            assert_eq!(json!(got), want, "{document}");
        };
        let same = [("host", "h"), ("file", "/f")];
        let app = [&same[..], &[("app", "shop"), ("offset", "1")]].concat();
        let other = [&same[..], &[("offset", "2"), ("stream", "err")]].concat();
        let cut = [&app[..], &[("tributary-flags", "cut")]].concat();
        let none = Value::Null;
        let shop = json!({ "app": "shop" });
        let shop_cut = json!({ "app": "shop", "flags": "cut" });
        check("/a", 0, &[], json!(["a", "/a", none, none]));
        check("/a", 59_999, &app, json!(["h", "/f", 1, shop]));
        check("/b", 60_000, &[], json!(["a", "/b", none, none]));
        let err = json!({ "stream": "err" });
        check("/b", 3_600_000, &other, json!(["h", "/f", 2, err]));
        check("/b", 86_399_123, &cut, json!(["h", "/f", 1, shop_cut]));
        check("/c", 86_399_124, &same, json!(["h", "/f", none, none]));
        check("/c", 86_399_124, &same[..1], json!(["h", "/c", none, none]));
    }

    proptest! {
        /// The place in an id is what base64 makes of the whole.
        #[test]
        fn an_id_is_the_base64_of_its_batch_and_place(at: u32) {
            let whole = [&[7; BatchId::BYTES][..], &at.to_be_bytes()].concat();
            let whole = URL_SAFE_NO_PAD.encode(whole);
            prop_assert_eq!(whole.as_bytes().split_at(ID_TEXT_BYTES).1, &place_digits(at));
        }

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
