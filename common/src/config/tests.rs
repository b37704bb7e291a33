//! Whole documents against a schema that has every kind of key.

use serde::Deserialize;

use super::*;
use crate::ids::{Class, Topic};

static LIMITS: Schema = Schema::new(
    "What it may use.",
    &[
        Key::default(
            "memory",
            Kind::size("1MiB", "64GiB"),
            "64MiB",
            "Bytes in memory.",
        ),
        Key::optional(
            "bandwidth",
            Kind::rate("1KB/s", "1TB/s"),
            "Bytes per second.",
        ),
        Key::optional(
            "cpu",
            Kind::Percent {
                min: 1.0,
                max: 800.0,
            },
            "Of one core.",
        )
        .ignored("the process is not limited"),
    ],
);

static MANAGER: Schema = Schema::new(
    "Who is told.",
    &[
        Key::required("url", Kind::Url(&["http", "https"]), "Its address."),
        Key::optional("password", Kind::Text, "Its password.").secret(),
    ],
);

static TASK: Schema = Schema::new(
    "What is read.",
    &[
        Key::required("id", Kind::Text, "Its name."),
        Key::required(
            "topic",
            Kind::checked("topic", "web.access", parses::<Topic>),
            "Where to.",
        ),
        Key::default(
            "class",
            Kind::choice(&["P0", "P1", "P2", "P3"]),
            "P2",
            "Priority.",
        ),
        Key::required("paths", Kind::list(&Kind::Path, 1), "Globs."),
        Key::default(
            "exclude",
            Kind::list(&Kind::Path, 0),
            r#"["**/*.tmp"]"#,
            "Globs.",
        ),
        Key::default(
            "framing",
            FRAMING,
            r#"{ kind = "lines" }"#,
            "What a record is.",
        ),
        Key::optional("labels", Kind::Map(&Kind::Text), "For people."),
    ],
);

const FRAMING: Kind = Kind::OneOf {
    tag: "kind",
    common: &[],
    variants: &[
        Variant::new("lines", "One record a line.", &[]),
        Variant::new(
            "fixed",
            "Records of one size.",
            &[Key::required(
                "bytes",
                Kind::Integer { min: 1, max: 1024 },
                "Their size.",
            )],
        ),
        Variant::not_yet("multiline", "Several lines a record."),
    ],
};

static SCHEMA: Schema = Schema::new(
    "A part for tests.",
    &[
        Key::required("zone", Kind::Text, "Where it is."),
        Key::default("admin", Kind::Socket, "127.0.0.1:7402", "Where it answers."),
        Key::default(
            "linger",
            Kind::duration("1ms", "1m"),
            "200ms",
            "How long it waits.",
        ),
        Key::default("fast", Kind::Bool, "false", "Whether it hurries."),
        Key::optional("tls", Kind::Any, "Certificates.").not_yet("use a private network"),
        Key::table("limits", &LIMITS),
        Key::optional_table("manager", &MANAGER),
        Key::tables(
            "task",
            Kind::list_by(&Kind::Table(&TASK), "id"),
            "What is read.",
        ),
    ],
);

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    zone: String,
    admin: std::net::SocketAddr,
    linger: u64,
    fast: bool,
    limits: RawLimits,
    manager: Option<RawManager>,
    task: Vec<RawTask>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    memory: u64,
    bandwidth: Option<u64>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManager {
    url: String,
    password: Option<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTask {
    id: String,
    topic: Topic,
    class: Class,
    paths: Vec<std::path::PathBuf>,
    exclude: Vec<String>,
    framing: RawFraming,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum RawFraming {
    Lines,
    Fixed { bytes: u32 },
}

fn load_text(text: &str, env: &[(&str, &str)]) -> Result<Loaded<Raw>, Faults> {
    let env = Env::of(env.iter().copied());
    parse("test", &SCHEMA, text, "t.toml", &env, as_is)
}

/// A part without faults of its own.
#[expect(clippy::unnecessary_wraps, reason = "the shape of every part's check")]
fn as_is(raw: Raw, _faults: &mut Checker) -> Option<Raw> {
    Some(raw)
}

/// Checks that a document is refused with exactly these faults.
#[track_caller]
fn check(text: &str, env: &[(&str, &str)], wanted: &[&str]) {
    let faults = load_text(text, env).unwrap_err().to_string();
    assert_eq!(faults.lines().collect::<Vec<_>>(), wanted);
}

const TASK_TEXT: &str = "[[task]]\nid = 'a'\ntopic = 't'\npaths = ['/x']\n";

#[test]
fn defaults_are_filled_and_units_become_numbers() {
    let text = format!("zone = 'z'\nlinger = '1.5s'\n{TASK_TEXT}");
    let raw = load_text(&text, &[]).unwrap().value;
    assert_eq!(
        (raw.linger, raw.limits.memory, raw.limits.bandwidth),
        (1500, 64 << 20, None)
    );
    assert_eq!(raw.manager, None);
    assert_eq!(raw.task[0].framing, RawFraming::Lines);
    assert_eq!(raw.task[0].exclude, ["**/*.tmp"]);
    assert_eq!(raw.task[0].class, Class::P2);
}

#[test]
fn all_faults_are_listed_at_once_each_with_its_place() {
    check(
        "zoen = 'z'\n\
         admin = 'localhost'\n\
         [limits]\n\
         memory = '1KiB'\n\
         [[task]]\n\
         id = 'a'\n\
         topic = 'a b'\n\
         class   = 'P7'\n\
         paths = []\n\
         framing = { kind = 'fixed', bytes = 0 }\n\
         [[task]]\n\
         id = 'a'\n\
         topic = 't'\n\
         paths = ['/x', 3]\n\
         labels = { 'ä.b' = 1 }\n",
        &[],
        &[
            "t.toml: zone: is missing; expected is text",
            "t.toml:1:1: zoen: is unknown; did you mean \"zone\"?",
            "t.toml:2:9: admin: \"localhost\" is no IP address with a port; expected is an address and port such as \"127.0.0.1:7401\"",
            "t.toml:4:10: limits.memory: \"1KiB\" is out of range; allowed are 1MiB to 64GiB (B, KB, MB, GB, TB, KiB … TiB)",
            "t.toml:7:9: task[0].topic: topic \"a b\" is not a name; allowed are 1 to 249 of a-z A-Z 0-9 . _ - (not . or ..)",
            "t.toml:8:11: task[0].class: \"P7\" is unknown; allowed are P0, P1, P2, P3",
            "t.toml:9:9: task[0].paths: 0 items are too few; expected is a list of at least 1, each a path",
            "t.toml:10:37: task[0].framing.bytes: 0 is out of range; allowed are 1 to 1024",
            "t.toml:12:6: task[1].id: \"a\" stands in task[0].id already",
            "t.toml:14:16: task[1].paths[1]: 3 is no text; expected is a path",
            "t.toml:15:20: task[1].labels.\"ä.b\": 1 is no text; expected is text",
        ],
    );
}

#[test]
fn a_missing_key_stands_at_its_table() {
    check(
        "zone = 'z'\n[[task]]\nid = 'a'\npaths = ['/x']\n",
        &[],
        &["t.toml:2:1: task[0].topic: is missing; expected is a topic such as \"web.access\""],
    );
}

#[test]
fn what_is_no_toml_is_one_fault() {
    let faults = load_text("zone = 'z'\nadmin = \nzoen = 1\n[x\n", &[]).unwrap_err();
    assert_eq!(faults.iter().count(), 1, "{faults}");
    assert!(faults.to_string().starts_with("t.toml:2:"), "{faults}");
}

#[test]
fn a_key_that_stands_twice_leaves_the_other_faults_readable() {
    check(
        "zone = 'z'\nzone = 'y'\nfast = 1\n",
        &[],
        &[
            "t.toml:2:1: duplicate key",
            "t.toml:3:8: fast: 1 is no truth value; expected is true, false",
        ],
    );
}

#[test]
fn what_a_later_version_will_have_is_refused_or_warned_of() {
    check(
        &format!("zone = 'z'\n{TASK_TEXT}framing = {{ kind = 'multiline' }}\n[tls]\nca = 'x'\n"),
        &[],
        &[
            "t.toml:6:20: task[0].framing.kind: \"multiline\" is not in this version; allowed are lines, fixed",
            "t.toml:7:2: tls: is not in this version; use a private network",
        ],
    );
    let loaded = load_text("zone = 'z'\nlimits.cpu = '50%'\n", &[]).unwrap();
    let warnings: Vec<_> = loaded.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["t.toml:2:8: limits.cpu: is not in this version and ignored; the process is not limited"]
    );
}

#[test]
fn the_environment_overrides_single_values() {
    let raw = load_text(
        "zone = 'z'\nfast = 3\n",
        &[
            ("TRIBUTARY_TEST_FAST", "true"),
            ("TRIBUTARY_TEST_LIMITS_MEMORY", "1GiB"),
            ("TRIBUTARY_TEST_MANAGER_URL", "http://m"),
            ("TRIBUTARY_OTHER_X", "ignored"),
        ],
    );
    let raw = raw.unwrap().value;
    assert!(raw.fast);
    assert_eq!(raw.limits.memory, 1 << 30);
    assert_eq!(raw.manager.unwrap().url, "http://m");
}

#[test]
fn faults_of_the_environment_name_the_variable() {
    check(
        "zone = 'z'\n",
        &[
            ("TRIBUTARY_TEST_LINGER", "5"),
            ("TRIBUTARY_TEST_LIMITS_MEMROY", "1GiB"),
            ("TRIBUTARY_TEST_TASK", "x"),
        ],
        &[
            "TRIBUTARY_TEST_LIMITS_MEMROY: gives no key; did you mean TRIBUTARY_TEST_LIMITS_MEMORY? The environment can give single values, no lists, and nothing in a list",
            "TRIBUTARY_TEST_LINGER: linger: \"5\" is no duration; expected is 1ms to 1m (ms, s, m, h, d)",
            "TRIBUTARY_TEST_TASK: gives no key. The environment can give single values, no lists, and nothing in a list",
        ],
    );
}

#[test]
fn variables_that_nobody_meant_for_a_key_are_warned_of() {
    // What Kubernetes sets beside a service.
    let of_service = [
        ("TRIBUTARY_TEST_PORT", "tcp://10.0.0.1:7400"),
        ("TRIBUTARY_TEST_SERVICE_HOST", "10.0.0.1"),
    ];
    let loaded = load_text("zone = 'z'\n", &of_service).unwrap();
    let warnings: Vec<_> = loaded.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "TRIBUTARY_TEST_PORT: gives no key and is ignored.",
            "TRIBUTARY_TEST_SERVICE_HOST: gives no key and is ignored.",
        ]
    );
}

#[test]
fn the_effective_configuration_reads_back_and_hides_secrets() {
    let text = format!(
        "zone = 'z'\nlimits.bandwidth = '20MB/s'\nmanager = {{ url = 'http://u:hunter2@m', password = \
         'hunter2' }}\n{TASK_TEXT}framing = {{ kind = 'fixed', bytes = 7 }}\n\
         labels = {{ 'a.b' = '\\d\"', password = 'hunter2' }}\n"
    );
    let loaded = load_text(&text, &[]).unwrap();
    let effective = loaded.effective();
    assert!(!effective.contains("hunter2"), "{effective}");
    assert_eq!(
        effective,
        r#"zone = "z"
admin = "127.0.0.1:7402"
linger = "200ms"
fast = false

[limits]
memory = "64MiB"
bandwidth = "20MB/s"

[manager]
url = "http://u:<redacted>@m"
password = "<redacted>"

[[task]]
id = "a"
topic = "t"
class = "P2"
paths = ["/x"]
exclude = ["**/*.tmp"]
framing = { kind = "fixed", bytes = 7 }
labels = { "a.b" = '\d"', password = "<redacted>" }
"#
    );
    let again = load_text(effective, &[]).unwrap();
    assert_eq!(again.effective(), effective);
    assert_eq!(again.value.task[0].framing, loaded.value.task[0].framing);
}

#[test]
fn samples_of_a_schema_are_good_and_whole() {
    for sample in samples(&SCHEMA) {
        let loaded = load_text(&sample, &[]).unwrap_or_else(|faults| panic!("{sample}\n{faults}"));
        assert_eq!(loaded.warnings(), []);
    }
    let [all, least] = samples(&SCHEMA);
    assert!(
        all.contains("manager.password = ") && all.contains("exclude = "),
        "{all}"
    );
    assert_eq!(least, "zone = \"text-0\"\n");
}

#[test]
fn a_part_adds_its_own_faults_with_their_places() {
    let own = |raw: Raw, faults: &mut Checker| {
        faults.fault("task[0].topic", "has no route");
        faults.fault("task[0].class", "is too urgent");
        faults.fault("limits.memory", "is not enough");
        let parsed = faults.take("zone", raw.zone.parse::<u32>());
        parsed.map(|_| ())
    };
    let check = |text: &str, wanted: &str| {
        let faults = parse("test", &SCHEMA, text, "t.toml", &Env::none(), own).unwrap_err();
        assert_eq!(faults.to_string(), wanted);
    };
    check(
        &format!("zone = 'z'\n{TASK_TEXT}"),
        "t.toml: limits.memory: is not enough\n\
         t.toml:1:8: zone: invalid digit found in string\n\
         t.toml:2:1: task[0].class: is too urgent\n\
         t.toml:4:9: task[0].topic: has no route",
    );
    // Beside a key that nobody knows, all the same.
    check(
        &format!("zone = '7'\nzonee = 1\n{TASK_TEXT}"),
        "t.toml: limits.memory: is not enough\n\
         t.toml:2:1: zonee: is unknown; did you mean \"zone\"?\n\
         t.toml:3:1: task[0].class: is too urgent\n\
         t.toml:5:9: task[0].topic: has no route",
    );
}

#[test]
fn a_missing_file_is_one_clear_fault() {
    let path = Path::new("/nowhere/t.toml");
    let faults = load("test", &SCHEMA, path, &Env::none(), as_is)
        .unwrap_err()
        .to_string();
    assert_eq!(
        faults,
        "/nowhere/t.toml: failed to read the configuration of the test: No such file or directory (os error 2)"
    );
}

#[test]
fn bytes_that_are_no_text_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    crate::disk::replace(&path, b"zone = 'z'\nfast = '\xff'\n").unwrap();
    let faults = load("test", &SCHEMA, &path, &Env::none(), as_is)
        .unwrap_err()
        .to_string();
    assert_eq!(
        faults,
        format!("{}:2:9: holds bytes that are no UTF-8", path.display())
    );
}

#[test]
fn the_reference_names_every_key() {
    let text = reference_markdown(&[("test", &SCHEMA)]);
    for line in [
        "## test.toml",
        "| `zone` | text | required | Where it is. |",
        "| `memory` | 1MiB to 64GiB (B, KB, MB, GB, TB, KiB … TiB) | `64MiB` | Bytes in memory. |",
        "| `tls` | not in this version |  | Certificates. Refused: use a private network. |",
        "### `[[task]]`",
        "#### `task.framing` with `kind = \"fixed\"`",
        "| `password` | text | none | Its password. Never shown. |",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

mod any_text {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn makes_faults_but_no_panic(text in r#"[a-z='"\[\]{}.,#\n0-9äP -]{0,80}"#, tail: String) {
            drop(load_text(&text, &[]));
            drop(load_text(&format!("zone = {tail}"), &[("TRIBUTARY_TEST_LINGER", &text)]));
        }
    }
}

#[test]
fn a_document_over_a_file_replaces_its_keys_and_each_fault_names_its_document() {
    let file = format!("zone = 'z' # ü\n[limits]\nmemory = '2MiB'\n{TASK_TEXT}");
    let load = |text: &str| {
        let over = Over {
            name: "over",
            text,
            keys: &["task", "fast"],
        };
        let origin = Arc::clone(load_text(&file, &[]).unwrap().origin());
        parse_over("test", &SCHEMA, &origin, Some(over), as_is)
    };
    let check = |text: &str, wanted: &[&str]| {
        let faults = load(text).unwrap_err().to_string();
        assert_eq!(faults.lines().collect::<Vec<_>>(), wanted);
    };
    let loaded = load("\u{feff}fast = true\n[[task]]\nid = 'b'\ntopic = 't'\npaths = ['/y']\n");
    let loaded = loaded.unwrap();
    let raw = &loaded.value;
    assert_eq!((raw.fast, raw.limits.memory), (true, 2 << 20));
    assert_eq!((raw.task.len(), raw.task[0].id.as_str()), (1, "b"));
    let far = loaded.fault("task[0].paths", "is far");
    assert_eq!(far.to_string(), "over:5:9: task[0].paths: is far");
    let far = loaded.fault("limits.memory", "is far");
    assert_eq!(far.to_string(), "t.toml:3:10: limits.memory: is far");
    // A key that it does not have is the file's; without it all of them are.
    let raw = load("fast = true").unwrap().value;
    assert_eq!((raw.fast, raw.task[0].id.as_str()), (true, "a"));
    let origin = Arc::clone(load("fast = true").unwrap().origin());
    let back = parse_over("test", &SCHEMA, &origin, None, as_is).unwrap();
    assert_eq!((back.value.fast, back.value.task.len()), (false, 1));

    check(
        "\n[[task]]\nid = 'b'\ntopic = 't'\npath = ['/y']\nclass = 'P9'\n",
        &[
            "over:2:1: task[0].paths: is missing; expected is a list of at least 1, each a path",
            "over:5:1: task[0].path: is unknown; did you mean \"paths\"?",
            "over:6:9: task[0].class: \"P9\" is unknown; allowed are P0, P1, P2, P3",
        ],
    );
    check(
        "zone = 'y'\n[limits]\n",
        &[
            "over: has none of task, fast",
            "over:1:1: zone: cannot stand in this document; allowed are task, fast",
            "over:2:2: limits: cannot stand in this document; allowed are task, fast",
        ],
    );
    check(
        "fast = \n",
        &["over:1:8: string values must be quoted, expected literal string"],
    );
}
