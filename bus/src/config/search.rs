//! A destination of the kind `elasticsearch`: its keys, and what is wrong with them.
//!
//! Called by the check of the whole. Not for: which topics go there (see [`super::routes`]).

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;
use tributary_common::{
    config::{Checker, Key, Kind, Variant},
    disk,
    tls::Dialer,
};

use crate::{
    destination::search::{Document, SearchConfig, TemplateKind},
    template::Template,
};

static URL: Kind = Kind::Url(&["http", "https"]);
/// The longest name of an index, in bytes.
const MAX_INDEX: usize = 255;

/// The keys.
pub(super) const VARIANT: Variant = Variant::new(
    "elasticsearch",
    "Elasticsearch or OpenSearch, by bulk requests. Each record is a document with an id of its own, created once however often it is sent.",
    KEYS,
);

const KEYS: &[Key] = &[
    Key::required(
        "urls",
        Kind::list(&URL, 1),
        "Its nodes, such as \"http://es1:9200\"; one that does not answer is left for a while.",
    ),
    Key::optional(
        "user",
        Kind::Text,
        "Who this is; only together with `password_file`.",
    ),
    Key::optional(
        "password_file",
        Kind::Path,
        "A file with the user's password.",
    ),
    Key::optional(
        "api_key_file",
        Kind::Path,
        "A file with an API key (encoded, as the server gives it out), in place of a user.",
    ),
    Key::optional(
        "ca",
        Kind::Path,
        "With https: certificates of the authorities that are trusted, PEM. Left out: those of the system.",
    ),
    Key::default(
        "document",
        Kind::choice(&["line", "json"]),
        "line",
        "What a document is. line: the record's text as `message`, with `@timestamp`, `host`, `file`, `topic`, and `offset` and `labels` where the task's `shape` is headers. json: the JSON object that the record is, with those of these fields that it lacks; a record that is none is a line.",
    ),
    Key::default(
        "json_max",
        Kind::size("1KiB", "8MiB"),
        "256KiB",
        "With document = \"json\": a longer record is a line.",
    ),
    Key::default(
        "json_depth",
        Kind::Integer { min: 1, max: 100 },
        "16",
        "With document = \"json\": a record with objects and lists deeper in each other is a line.",
    ),
    Key::default(
        "template",
        Kind::choice(&["none", "index", "data-stream"]),
        "none",
        "The index template that is installed for a target which has none of ours: none, one that maps our fields, or one that makes the target a data stream as well.",
    ),
    Key::default(
        "request",
        Kind::size("64KiB", "64MiB"),
        "4MiB",
        "The most bytes of a request before it is packed; fewer while the server says that it gets too much.",
    ),
    Key::default(
        "connections",
        Kind::Integer { min: 1, max: 64 },
        "4",
        "The most requests at a time; fewer while the server says that it gets too much. Each takes memory for a request and 8 MiB.",
    ),
    Key::default(
        "timeout",
        Kind::duration("1s", "10m"),
        "30s",
        "A node that has not answered a request by then is left, and another gets it.",
    ),
    Key::default("gzip", Kind::Bool, "true", "Requests are packed with gzip."),
];

#[derive(Debug, Deserialize)]
pub(super) struct RawSearch {
    urls: Vec<String>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    api_key_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    document: RawDocument,
    json_max: u64,
    json_depth: usize,
    template: RawTemplate,
    request: u64,
    connections: usize,
    timeout: u64,
    gzip: bool,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawDocument {
    Line,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawTemplate {
    None,
    Index,
    DataStream,
}

impl RawSearch {
    /// Whether its targets are data streams.
    pub(super) fn is_stream(&self) -> bool {
        self.template == RawTemplate::DataStream
    }

    /// Says what is wrong, and reads the files so that a missing one is told here.
    pub(super) fn check(self, key: &str, checker: &mut Checker) -> SearchConfig {
        self.check_credentials(key, checker);
        for (at, url) in self.urls.iter().enumerate() {
            let at = format!("{key}.urls[{at}]");
            if url.contains('@') {
                checker.fault(&at, "holds credentials; they belong in `user` and `password_file`, or in `api_key_file`");
            }
            if url.contains(['?', '#']) {
                checker.fault(&at, "has a query; expected is http://host:port");
            }
        }
        let secure = self.urls.iter().any(|url| url.starts_with("https:"));
        if !secure && self.ca.is_some() {
            checker.fault(&format!("{key}.ca"), "is of no use: no URL is https");
        }
        if secure && let Err(error) = Dialer::new(self.ca.as_deref(), None) {
            checker.fault(&format!("{key}.ca"), &error);
        }
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        SearchConfig {
            urls: self.urls,
            user: self.user,
            password_file: self.password_file,
            api_key_file: self.api_key_file,
            ca: self.ca,
            document: match self.document {
                RawDocument::Line => Document::Line,
                RawDocument::Json => Document::Json {
                    max_bytes: bytes(self.json_max),
                    max_depth: self.json_depth,
                },
            },
            template: match self.template {
                RawTemplate::None => TemplateKind::None,
                RawTemplate::Index => TemplateKind::Index,
                RawTemplate::DataStream => TemplateKind::DataStream,
            },
            request: bytes(self.request),
            connections: self.connections,
            timeout: Duration::from_millis(self.timeout),
            gzip: self.gzip,
        }
    }

    fn check_credentials(&self, key: &str, checker: &mut Checker) {
        match (&self.user, &self.password_file) {
            (Some(_), None) => {
                checker.fault(
                    &format!("{key}.user"),
                    "is of no use without `password_file`",
                );
            }
            (None, Some(_)) => {
                checker.fault(
                    &format!("{key}.password_file"),
                    "is of no use without `user`",
                );
            }
            (Some(_), Some(_)) if self.api_key_file.is_some() => {
                checker.fault(
                    &format!("{key}.api_key_file"),
                    "and `user` cannot both say who this is; leave one of them out",
                );
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        let files = [
            ("password_file", &self.password_file),
            ("api_key_file", &self.api_key_file),
        ];
        for (name, file) in files {
            if let Some(Err(error)) = file.as_deref().map(disk::read_secret) {
                checker.fault(&format!("{key}.{name}"), &error);
            }
        }
    }
}

/// The names of a topic's indices: dates and hours stay, to be filled in for each record.
pub(super) fn index(
    text: &str,
    stream: bool,
    key: &str,
    checker: &mut Checker,
) -> Option<Template> {
    let template = checker.take(key, Template::parse(text))?;
    let plain: String = without_braces(text);
    let wrong = |c: char| c.is_ascii_uppercase() || " \\/*?\"<>|,#:".contains(c) || c.is_control();
    let why = match () {
        () if text.len() > MAX_INDEX => Some(format!("is longer than {MAX_INDEX} bytes")),
        () if plain.contains(wrong) => Some(format!(
            "{text:?} is no name of an index: no capital letters, no space, none of \\ / * ? \" < > | , # :"
        )),
        () if text.starts_with(['-', '_', '+', '.']) => Some(format!(
            "{text:?} is no name of an index: it begins with {:?}",
            text.chars().next().unwrap_or_default()
        )),
        () => None,
    };
    if let Some(why) = why {
        checker.fault(key, why);
        return None;
    }
    if stream && template.has_time() {
        let why = "has a date, and the destination makes data streams, which roll over by themselves; leave {date} and {hour} out";
        checker.fault(key, why);
        return None;
    }
    Some(template.by_record())
}

/// The text outside of braces.
fn without_braces(text: &str) -> String {
    let mut within = false;
    let outside = text.chars().filter(|c| {
        within = (within || *c == '{') && *c != '}';
        !within && *c != '}'
    });
    outside.collect()
}
