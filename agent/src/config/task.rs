//! A `[[task]]`: which files go to which topic, and how.
//!
//! Keys that this version does not obey are known to the schema: those that would change what is
//! collected are refused with what is allowed.
//!
//! Not for: what a task's files are at the moment (see [`crate::discover`]). Called by [`super`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Deserialize;
use tributary_common::{
    batch::Codec,
    config::{Checker, Key, Kind, Schema, Variant, parses},
    ids::{Class, TaskId, Topic},
};
use xxhash_rust::xxh3::Xxh3;

use crate::{
    discover::{Pattern, PatternSet},
    frame::{LongLine, text::Label},
    group::Group,
    host,
    recipe::{self, Compiled, Crlf, Framing, Recipe},
    shape::{self, Shape},
    times::{self, LineTime, Time},
};

/// Where a line is in its group.
const PATTERN: Kind = Kind::checked("regular expression", "^[0-9]{4}-", check_regex);

static MULTILINE: &[Key] = &[
    Key::optional("start", PATTERN, "A line that fits begins a group."),
    Key::optional(
        "continue",
        PATTERN,
        "A line that fits goes on with the group before it.",
    ),
    Key::optional("end", PATTERN, "A line that fits ends its group."),
    Key::default(
        "timeout",
        Kind::duration("10ms", "1h"),
        "2s",
        "A group that has not grown for so long is whole.",
    ),
    Key::default(
        "max_lines",
        Kind::Integer {
            min: 1,
            max: 1_000_000,
        },
        "1000",
        "The most lines of a record.",
    ),
    Key::optional(
        "max_bytes",
        Kind::size("16B", "1MiB"),
        "The longest record; absent: max_line.",
    ),
];

static FRAMING: Kind = Kind::OneOf {
    tag: "kind",
    common: &[],
    variants: &[
        Variant::new("lines", "Each line is a record.", &[]),
        Variant::new(
            "multiline",
            "Groups of lines are records, newlines within them included. One of start, continue and end tells them apart; `truncate` drops what is over the caps, `split` makes a record of its own of it.",
            MULTILINE,
        ),
        Variant::new(
            "cri",
            "Lines of a container runtime (`<time> <stream> <P|F> <text>`): the text is the record, joined where partial. Other lines are sent as they stand, flagged and counted.",
            &[],
        ),
        Variant::new(
            "docker-json",
            "Lines of Docker's JSON files: `log` is the record, joined up to its newline. Other lines are sent as they stand, flagged and counted.",
            &[],
        ),
    ],
};

static TIME: Kind = Kind::OneOf {
    tag: "from",
    common: &[],
    variants: &[
        Variant::new(
            "read",
            "The event time of a record is when it was read.",
            &[],
        ),
        Variant::new(
            "line",
            "The event time is in the line; where there is none, or an impossible one (no such day, before 1990, more than a day after it was read), the time of reading counts, and `tributary_agent_untimed_records_total` too.",
            &[
                Key::optional(
                    "pattern",
                    Kind::checked("pattern", "%d/%b/%Y:%H:%M:%S %z", LineTime::check_pattern),
                    "How the time is written, as in strftime: `%d/%b/%Y:%H:%M:%S %z`. Parts of seconds are `%f`, `%3f`, `%.f`; seconds since 1970 `%s`, ms `%s%3f`. Without a year or a date it is the one nearest to the time of reading. Absent: the time that the container runtime wrote, with framing cri and docker-json.",
                ),
                Key::optional(
                    "at",
                    Kind::checked("regular expression", "ts=(?<time>[^ ]+)", check_time_group),
                    "A regular expression whose group `time` is where the time begins; absent: the first place where the pattern fits at the beginning of the line or after one of space, tab, `[ ( \" = > |` in its first 256 bytes.",
                ),
                Key::optional(
                    "zone",
                    Kind::checked("time zone", "Asia/Shanghai", check_zone),
                    "The zone of times that say none, by its IANA name; absent: UTC.",
                ),
            ],
        ),
    ],
};

pub(super) static TASK: Schema = Schema::new(
    "Which files go to which topic, and how.",
    &[
        Key::required(
            "id",
            Kind::checked("task id", "nginx-access", parses::<TaskId>),
            "Its name. Under another one, with the same `paths` and `exclude`, it goes on where it was.",
        ),
        Key::required(
            "topic",
            Kind::checked("topic", "web.access", parses::<Topic>),
            "Where its lines go.",
        ),
        Key::default(
            "class",
            Kind::choice(&["P0", "P1", "P2", "P3"]),
            "P2",
            "How urgent it is: P0 critical to P3 bulk.",
        ),
        Key::required(
            "paths",
            Kind::list(
                &Kind::checked("path", "/var/log/nginx/**/access*.log", Pattern::check),
                1,
            ),
            "Its files: absolute paths with `*`, `?`, `[a-z]`, `{a,b}`, `**`, and `{yyyy}`, `{MM}`, `{dd}`, `{HH}`, `{mm}` for any date.",
        ),
        Key::default(
            "exclude",
            Kind::list(&Kind::checked("pattern", "**/*.tmp", PatternSet::check), 0),
            "[]",
            "Files that are none of its, by the same patterns.",
        ),
        Key::default(
            "start",
            Kind::choice(&["beginning", "end"]),
            "beginning",
            "Where to begin in files that exist when the task first starts.",
        ),
        Key::default(
            "encoding",
            Kind::checked("encoding", "utf-8", check_encoding),
            "utf-8",
            "The files' encoding, as a WHATWG label. utf-8 passes all bytes as they are; others become UTF-8, and what is no text in them U+FFFD, counted. utf-16 goes by the byte order mark, and is little-endian without one. A byte order mark at the beginning of a file is left out.",
        ),
        Key::default(
            "max_line",
            Kind::size("16B", "1MiB"),
            "1MiB",
            "The longest record.",
        ),
        Key::default(
            "long_line",
            Kind::choice(&["split", "truncate"]),
            "split",
            "Longer lines become several records, or lose their rest. Both are counted.",
        ),
        Key::default(
            "crlf",
            Kind::choice(&["keep", "strip"]),
            "keep",
            "What becomes of a carriage return before the newline that ends a record.",
        ),
        Key::default(
            "framing",
            FRAMING,
            "{ kind = \"lines\" }",
            "How bytes become records.",
        ),
        Key::default(
            "time",
            TIME,
            "{ from = \"read\" }",
            "The event time of a record.",
        ),
        Key::default(
            "shape",
            Kind::choice(&["raw", "headers", "json"]),
            "raw",
            "What a record is: the line; the line with the Kafka headers `host`, `file`, `offset` and the labels; or a JSON object of `host`, `file`, labels, `offset`, `time` and `message`. `file` is the path that was seen first, which a rotation does not change; `offset` counts bytes from the beginning of the file. docs/formats.md says more.",
        ),
        Key::optional(
            "key",
            Kind::checked("regular expression", "user=(?<key>[^ ]+)", check_key_group),
            "A regular expression whose group `key` becomes the Kafka key, and chooses the partition as Java's clients do. A line without one (or over 4 KiB) has no key, and `tributary_agent_keyless_records_total` counts it. Only a line's first 16 KiB are looked at. Absent: no keys, a file stays in its partition.",
        ),
        Key::default(
            "compression",
            Kind::choice(&["zstd", "lz4", "gzip", "none"]),
            "zstd",
            "The codec of its batches, up to Kafka's consumers: zstd (level 1), lz4 (a quarter less CPU here, and two thirds more bytes), gzip (level 6, much CPU) or none. A destination with `producer = \"rdkafka\"` compresses them anew as its options say.",
        ),
        Key::optional(
            "rate",
            Kind::rate("1KB/s", "100GB/s"),
            "Bytes per second read for this task; absent: no limit.",
        ),
        Key::default(
            "labels",
            Kind::Map(&Kind::Text),
            "{}",
            "What people want to know of it; records carry them where `shape` is not raw. Their names must not be those of other headers and fields there, and all of them take at most 8 KiB.",
        ),
    ],
);

/// Where to begin in files that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// At the first byte.
    Beginning,
    /// After the last line that is there.
    End,
}

/// One task.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Where its lines go.
    pub topic: Topic,
    /// How urgent it is.
    pub class: Class,
    /// Which files.
    pub(crate) paths: Vec<Pattern>,
    /// Which not.
    pub(crate) exclude: PatternSet,
    /// A hash of both: the same for the same patterns, in any order.
    pub(crate) looks: u64,
    /// Where to begin.
    pub start: Start,
    /// How their bytes become records.
    pub(crate) recipe: Arc<Compiled>,
    /// Bytes per second.
    pub rate: Option<u64>,
}

/// Where each task of a list looks.
pub(crate) fn all_looks(tasks: &[Task]) -> BTreeMap<TaskId, u64> {
    let looks = tasks.iter().map(|task| (task.id.clone(), task.looks));
    looks.collect()
}

/// The recipe of the checkpoint's first version, by which lines are records.
const PLAIN: &str = r#"{"framing":{"kind":"lines"},"encoding":"utf-8","max_line":1048576,
    "long_line":"split","time":{"from":"read"}}"#;

impl Task {
    /// A task that is not in the configuration any more: it stands for what it has cut, which has
    /// recipes of its own.
    pub(crate) fn left(id: TaskId, topic: Topic) -> Self {
        let recipe: Recipe = serde_json::from_str(PLAIN).expect("a test reads it");
        let recipe = recipe.compile();
        Self {
            id,
            topic,
            class: Class::P2,
            paths: Vec::new(),
            exclude: PatternSet::new(&[]).expect("no pattern is a bad one"),
            looks: 0,
            start: Start::Beginning,
            recipe: recipe.expect("a test compiles it"),
            rate: None,
        }
    }
}

/// A task as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTask {
    id: TaskId,
    topic: Topic,
    class: Class,
    paths: Vec<String>,
    exclude: Vec<String>,
    start: Start,
    encoding: String,
    max_line: u64,
    long_line: LongLine,
    crlf: Crlf,
    framing: Framing,
    time: Time,
    shape: Shape,
    key: Option<String>,
    compression: Codec,
    rate: Option<u64>,
    labels: BTreeMap<String, String>,
}

/// Checks the task at a place of the list.
pub(super) fn check_task(at: usize, raw: RawTask, checker: &mut Checker) -> Option<Task> {
    let mut paths = Vec::new();
    for (place, path) in raw.paths.iter().enumerate() {
        paths.extend(checker.take(&format!("task[{at}].paths[{place}]"), Pattern::new(path)));
    }
    let exclude = checker.take(
        &format!("task[{at}].exclude"),
        PatternSet::new(&raw.exclude),
    );
    let recipe = check_recipe(at, &raw, checker);
    let looks = looks(&raw.paths, &raw.exclude);
    Some(Task {
        id: raw.id,
        topic: raw.topic,
        class: raw.class,
        paths,
        exclude: exclude?,
        looks,
        start: raw.start,
        recipe: recipe?,
        rate: raw.rate,
    })
}

/// Where a task looks, as one number. The checkpoint keeps it: it has to be the same in every build.
fn looks(paths: &[String], exclude: &[String]) -> u64 {
    let mut hash = Xxh3::new();
    for list in [paths, exclude] {
        let patterns: BTreeSet<&String> = list.iter().collect();
        hash.update(&(patterns.len() as u64).to_le_bytes());
        for pattern in patterns {
            hash.update(&(pattern.len() as u64).to_le_bytes());
            hash.update(pattern.as_bytes());
        }
    }
    hash.digest()
}

/// Checks how bytes become records, key by key so that a person sees all faults.
fn check_recipe(at: usize, raw: &RawTask, checker: &mut Checker) -> Option<Arc<Compiled>> {
    let encoding = Label::find(&raw.encoding).and_then(|label| raw.framing.fits(label));
    let encoding = checker.take(&format!("task[{at}].encoding"), encoding);
    let pattern = match &raw.framing {
        Framing::Multiline { .. } => raw.framing.pattern().map(drop),
        Framing::Lines | Framing::Cri | Framing::DockerJson => Ok(()),
    };
    let pattern = checker.take(&format!("task[{at}].framing"), pattern);
    let time = checker.take(&format!("task[{at}].time"), raw.framing.times(&raw.time));
    let labels = shape::check_labels(raw.shape, &raw.labels);
    let labels = checker.take(&format!("task[{at}].labels"), labels);
    encoding.and(pattern).and(time).and(labels)?;
    let recipe = Recipe {
        framing: raw.framing.clone(),
        encoding: raw.encoding.clone(),
        max_line: u32::try_from(raw.max_line).unwrap_or(u32::MAX),
        long_line: raw.long_line,
        crlf: raw.crlf,
        time: raw.time.clone(),
        shape: raw.shape,
        host: match raw.shape {
            Shape::Raw => String::new(),
            Shape::Headers | Shape::Json => host::name(),
        },
        key: raw.key.clone(),
        labels: raw.labels.clone(),
        compression: raw.compression,
    };
    checker.take(&format!("task[{at}]"), recipe.compile())
}

fn check_key_group(text: &str) -> Result<(), String> {
    recipe::key_group(text).map(drop)
}

fn check_time_group(text: &str) -> Result<(), String> {
    Group::new(text, "time").map(drop)
}

fn check_zone(name: &str) -> Result<(), String> {
    times::find_zone(name).map(drop)
}

fn check_encoding(label: &str) -> Result<(), String> {
    Label::find(label).map(drop)
}

fn check_regex(pattern: &str) -> Result<(), String> {
    recipe::regex(pattern).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_left_stands_for_its_cuts() {
        let left = Task::left(TaskId::new("t").unwrap(), Topic::new("x").unwrap());
        assert!(left.paths.is_empty() && !left.exclude.matches(std::path::Path::new("/x")));
    }
}
