//! What of a line and its origin becomes the record: value, headers, key.
//!
//! - `raw`: the value is the line; no headers but flags.
//! - `headers`: the value is the line; headers say host, file, offset and labels.
//! - `json`: the value is one JSON object with all of it. It is valid JSON whatever the bytes of the
//!   line: what is no UTF-8 becomes U+FFFD.
//!
//! A function of the line, its origin and the recipe alone, so that a batch that is read again has the
//! same records. So `file` is the path that named the stream first, which a rotation does not change,
//! and other bytes for the same line need another shape beside these.
//!
//! Not for: which bytes are a line (see [`crate::frame`]). The reader calls it.

mod json;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use tributary_common::batch::{Headers, HeadersMark, ID_HEADER};

use self::json::Json;
use crate::{group::Group, times::Timed};

/// The header with the names of a record's flags, in every shape but `json`.
pub(crate) const FLAGS_HEADER: &str = "tributary-flags";
/// Names that no label may have: what the shapes say themselves.
const RESERVED: [&str; 9] = [
    "message",
    "host",
    "file",
    "offset",
    "time",
    "stream",
    "flags",
    ID_HEADER,
    FLAGS_HEADER,
];
/// The most bytes that the labels of a task may take in each of its records: keys and values
/// together. With host, path and offset the headers of a record stay within 16 KiB.
const MAX_LABEL_BYTES: usize = 8 << 10;
/// The longest value of a record, in bytes; what is over it is dropped, flagged and counted.
const MAX_VALUE_BYTES: usize = 1 << 20;
/// The longest key, in bytes; a longer one is none.
const MAX_KEY_BYTES: usize = 4 << 10;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    /// The line.
    #[default]
    Raw,
    /// The line, with headers.
    Headers,
    /// An object.
    Json,
}

impl Shape {
    /// For recipes, which leave out what is the default.
    pub(crate) fn is_raw(&self) -> bool {
        *self == Self::Raw
    }
}

/// Where lines come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    /// The host's name.
    pub(crate) host: &'a str,
    /// The path that named the stream first, as bytes of the file system.
    pub(crate) file: &'a [u8],
    /// The task's labels.
    pub(crate) labels: &'a BTreeMap<String, String>,
}

/// A line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    /// Its text.
    pub(crate) text: &'a [u8],
    /// Where it begins in its file, in bytes.
    pub(crate) offset: u64,
    /// Its time.
    pub(crate) timed: Timed,
    /// Where a container wrote it: `stdout`, `stderr`.
    pub(crate) stream: Option<&'static str>,
    /// The names of what is special about it, with commas between; empty for nothing.
    pub(crate) flags: &'a str,
}

/// What of a record the shape decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shaped<'a> {
    /// The value.
    pub(crate) value: &'a [u8],
    /// The headers.
    pub(crate) headers: &'a Headers,
    /// Only so many bytes of the text are in it: the record would be too long.
    pub(crate) cut_short: Option<usize>,
}

/// Shapes records. It owns its buffers: use one for many batches.
#[derive(Debug, Default)]
pub(crate) struct Shaper {
    shape: Shape,
    /// Those of all records, and what one record adds.
    headers: Headers,
    of_all: Option<HeadersMark>,
    digits: String,
    json: Json,
}

impl Shaper {
    /// Begins with lines of another origin.
    pub(crate) fn begin(&mut self, shape: Shape, origin: Origin<'_>) {
        self.shape = shape;
        self.headers = Headers::new();
        match shape {
            Shape::Raw => {}
            Shape::Headers => {
                self.headers.push("host", origin.host.as_bytes());
                self.headers.push("file", origin.file);
                for (key, value) in origin.labels {
                    self.headers.push(key, value.as_bytes());
                }
            }
            Shape::Json => self.json.begin(origin),
        }
        self.of_all = Some(self.headers.mark());
    }

    /// Shapes a line.
    pub(crate) fn shape<'a>(&'a mut self, line: &Line<'a>) -> Shaped<'a> {
        if let Some(mark) = self.of_all {
            self.headers.cut_back(mark);
        }
        let (value, kept) = match self.shape {
            Shape::Json => self.json.object(line, MAX_VALUE_BYTES),
            Shape::Headers | Shape::Raw => {
                let kept = cut_at(line.text, MAX_VALUE_BYTES);
                (line.text.get(..kept).unwrap_or_default(), kept)
            }
        };
        let cut_short = (kept < line.text.len()).then_some(kept);
        match self.shape {
            Shape::Headers => {
                self.digits.clear();
                push_number(&mut self.digits, line.offset);
                self.headers.push("offset", self.digits.as_bytes());
                if let Some(stream) = line.stream {
                    self.headers.push("stream", stream.as_bytes());
                }
                let flags = all_flags(line, cut_short.is_some(), true);
                if !flags.is_empty() {
                    self.headers.push(FLAGS_HEADER, flags.as_bytes());
                }
            }
            Shape::Raw => {
                let flags = all_flags(line, cut_short.is_some(), false);
                if !flags.is_empty() {
                    self.headers.push(FLAGS_HEADER, flags.as_bytes());
                }
            }
            Shape::Json => {}
        }
        Shaped {
            value,
            headers: &self.headers,
            cut_short,
        }
    }
}

/// The flags of a line with those that a shape adds. Whether its time is that of reading is told
/// where all of its origin is (`with_time`); else only when its own was impossible.
fn all_flags<'a>(line: &Line<'a>, cut_short: bool, with_time: bool) -> Cow<'a, str> {
    use crate::times::Flag;
    let time = match line.timed.flag {
        Some(Flag::Impossible) => "time-impossible",
        Some(Flag::NotFound) if with_time => "time-not-found",
        Some(Flag::NotFound) | None => "",
    };
    let truncated = if cut_short { "truncated" } else { "" };
    if time.is_empty() && truncated.is_empty() {
        return Cow::Borrowed(line.flags);
    }
    // Framing has its own word of it.
    let is_told = line.flags.split(',').any(|flag| flag == truncated);
    let all = [line.flags, time, if is_told { "" } else { truncated }];
    let said: Vec<&str> = all.into_iter().filter(|flag| !flag.is_empty()).collect();
    Cow::Owned(said.join(","))
}

/// Where to cut a text that is longer than `max`: there, or a little before, between characters.
fn cut_at(text: &[u8], max: usize) -> usize {
    if text.len() <= max {
        return text.len();
    }
    let is_inside = |at: usize| text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let place = (max.saturating_sub(3)..=max)
        .rev()
        .find(|&at| !is_inside(at));
    place.unwrap_or(max)
}

fn push_number(out: &mut String, number: u64) {
    use std::fmt::Write as _;
    write!(out, "{number}").expect("a string takes everything");
}

/// The key of a record: what the group catches, unless that is nothing or too long.
pub(crate) fn key_of<'a>(group: &Group, text: &'a [u8]) -> Option<&'a [u8]> {
    let key = group.find(text)?;
    (1..=MAX_KEY_BYTES).contains(&key.len()).then_some(key)
}

/// Whether records of a shape can carry the labels.
///
/// # Errors
/// The label that cannot be, and what is allowed.
pub(crate) fn check_labels(shape: Shape, labels: &BTreeMap<String, String>) -> Result<(), String> {
    if shape == Shape::Raw {
        return Ok(());
    }
    if let Some(name) = labels.keys().find(|name| RESERVED.contains(&name.as_str())) {
        return Err(format!(
            "the label {name:?} has a name that every record has; allowed are all names but {}",
            RESERVED.join(", ")
        ));
    }
    let bytes: usize = labels
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > MAX_LABEL_BYTES {
        return Err(format!(
            "the labels take {bytes} bytes of every record; allowed are {MAX_LABEL_BYTES} for all \
             names and values together"
        ));
    }
    Ok(())
}
