//! The repository's own rules, as tests: a ratchet. An exception that is no longer needed fails the
//! test, too, so the lists below can only shrink.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use tributary_tests::{child::Plan, product, scratch};

/// Lines of a file; past it, ask which second thing moved in.
const MAX_LINES: usize = 700;

/// Files that may be longer. Shrink it.
const LONG: [&str; 0] = [];

/// Who writes files beside the door `common/src/disk`, and why. Shrink it.
const WRITERS: [(&str, &str); 2] = [
    (
        "cli/src/demo/mod.rs",
        "stands for the person who takes the destination away",
    ),
    (
        "cli/src/demo/writer.rs",
        "stands for foreign programs that write logs",
    ),
];

/// Who opens sockets beside the door `common/src/net.rs`. Shrink it.
const DIALERS: [(&str, &str); 0] = [];

/// Whom a package may depend on, in this repository.
const EDGES: [(&str, &[&str]); 6] = [
    ("tributary-common", &[]),
    ("tributary-agent", &["tributary-common"]),
    ("tributary-bus", &["tributary-common"]),
    ("tributary-manager", &["tributary-common"]),
    (
        "tributary",
        &[
            "tributary-common",
            "tributary-agent",
            "tributary-bus",
            "tributary-manager",
        ],
    ),
    (
        "tributary-tests",
        &[
            "tributary-common",
            "tributary-agent",
            "tributary-bus",
            "tributary-manager",
        ],
    ),
];

/// What only the disk door may say.
const WRITES: [&str; 14] = [
    "File::create",
    ".append(true)",
    ".create(true)",
    ".create_new(true)",
    ".write(true)",
    "fs::write(",
    "fs::copy(",
    "fs::rename(",
    "fs::remove_",
    "fs::create_dir",
    "fs::hard_link",
    "fs::set_permissions",
    "tokio::fs",
    ".set_len(",
];

/// What only the net door may say.
const SOCKETS: [&str; 7] = [
    "TcpStream::connect",
    "TcpListener::bind",
    "TcpSocket::",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "rustix::net",
];

/// A source file of ours, with its path from the root.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The text without its tests: those may do what they like.
    fn product(&self) -> &str {
        let tests = ["\n#[cfg(test)]\nmod ", "\n#[cfg(test)]\npub(crate) mod "];
        let cut = tests.iter().filter_map(|mark| self.text.find(mark)).min();
        self.text
            .get(..cut.unwrap_or(self.text.len()))
            .unwrap_or_default()
    }

    fn is_test(&self) -> bool {
        let parts: Vec<&str> = self.path.split('/').collect();
        parts.contains(&"tests")
            || parts.contains(&"benches")
            || ["tests.rs", "build.rs"]
                .iter()
                .any(|name| parts.ends_with(&[name]))
    }
}

fn files(extensions: &[&str]) -> Result<Vec<Source>> {
    let root = scratch::repository();
    let mut found = Vec::new();
    walk(root, &mut |path| {
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        if extensions.contains(&extension.as_ref()) {
            found.push(path.to_owned());
        }
    })?;
    ensure!(
        found.len() > 5,
        "only {} files found: is this the repository?",
        found.len()
    );
    found.sort();
    let read = |path: PathBuf| -> Result<Source> {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Source {
            path: path.strip_prefix(root)?.display().to_string(),
            text,
        })
    };
    found.into_iter().map(read).collect()
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) -> Result<()> {
    const SKIP: [&str; 9] = [
        "target",
        "node_modules",
        "dist",
        "artifacts",
        "corpus",
        ".git",
        ".tools",
        "tributary-data",
        "tributary-demo",
    ];
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        if kind.is_dir() && !SKIP.iter().any(|skip| name == *skip) {
            walk(&entry.path(), visit)?;
        } else if kind.is_file() {
            visit(&entry.path());
        }
    }
    Ok(())
}

/// Objects unless `found` is exactly what the exceptions name.
fn only_the_exceptions(rule: &str, found: &BTreeSet<String>, exceptions: &[&str]) -> Result<()> {
    let allowed: BTreeSet<String> = exceptions.iter().map(|path| (*path).to_owned()).collect();
    let new: Vec<_> = found.difference(&allowed).collect();
    ensure!(new.is_empty(), "{rule}: {new:#?}");
    let stale: Vec<_> = allowed.difference(found).collect();
    ensure!(
        stale.is_empty(),
        "these exceptions are no longer needed, remove them: {stale:#?}"
    );
    Ok(())
}

#[test]
fn every_source_file_says_first_what_it_is_for() -> Result<()> {
    let silent = files(&["rs"])?.into_iter().filter(|source| {
        let first = source.text.lines().find(|line| !line.starts_with("#!"));
        !first.is_some_and(|line| line.starts_with("//! "))
    });
    let silent: BTreeSet<String> = silent.map(|source| source.path).collect();
    only_the_exceptions(
        "these files do not open with //! and a sentence",
        &silent,
        &[],
    )
}

#[test]
fn no_source_file_is_too_long() -> Result<()> {
    let long = files(&["rs", "ts", "tsx"])?
        .into_iter()
        .filter(|source| source.text.lines().count() > MAX_LINES && !generated(source));
    let long: BTreeSet<String> = long.map(|source| source.path).collect();
    only_the_exceptions(
        &format!("these files have over {MAX_LINES} lines"),
        &long,
        &LONG,
    )
}

fn generated(source: &Source) -> bool {
    let head: String = source.text.lines().take(5).collect();
    head.contains("auto-generated")
}

/// Whether `code` has `word`, not as the end of another one: `AppendFile::create` is the door's.
fn says(code: &str, word: &str) -> bool {
    let alone = |at: usize| {
        let before = code.get(..at).unwrap_or_default();
        !before.ends_with(char::is_alphanumeric)
    };
    code.match_indices(word)
        .any(|(at, _)| !word.starts_with(char::is_alphanumeric) || alone(at))
}

/// Product files (not the rig, not tests) that say one of `words`.
fn who_says(words: &[&str], door: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for source in files(&["rs"])? {
        let ours = !["tests/", "fuzz/"]
            .iter()
            .any(|folder| source.path.starts_with(folder));
        if ours && !source.is_test() && !source.path.starts_with(door) {
            let said = |line: &str| {
                let code = line.split("//").next().unwrap_or_default();
                words.iter().any(|word| says(code, word))
            };
            if source.product().lines().any(said) {
                found.insert(source.path);
            }
        }
    }
    Ok(found)
}

#[test]
fn only_the_disk_door_writes_files() -> Result<()> {
    let rule = "only common/src/disk.rs writes files; these do, too";
    only_the_exceptions(
        rule,
        &who_says(&WRITES, "common/src/disk")?,
        &WRITERS.map(|(path, _)| path),
    )
}

#[test]
fn only_the_net_door_opens_sockets() -> Result<()> {
    let rule = "only common/src/net.rs opens sockets; these do, too";
    only_the_exceptions(
        rule,
        &who_says(&SOCKETS, "common/src/net")?,
        &DIALERS.map(|(path, _)| path),
    )
}

#[test]
fn packages_depend_on_each_other_only_as_designed() -> Result<()> {
    let metadata = Plan::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--locked",
            "--offline",
        ])
        .folder(scratch::repository())
        .output()?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in metadata["packages"].as_array().context("no packages")? {
        let name = package["name"].as_str().context("no name")?;
        let used = edges.entry(name).or_default();
        for dependency in package["dependencies"]
            .as_array()
            .context("no dependencies")?
        {
            if dependency["path"].is_string() {
                used.insert(dependency["name"].as_str().context("no name")?);
            }
        }
    }
    for (name, used) in &edges {
        let allowed = EDGES.iter().find(|(known, _)| known == name);
        let (_, allowed) = allowed.with_context(|| format!("unknown package {name}"))?;
        let wrong: Vec<_> = used.iter().filter(|one| !allowed.contains(one)).collect();
        ensure!(wrong.is_empty(), "{name} must not depend on {wrong:?}");
    }
    Ok(())
}

/// Words that must not be in what we hand over. Put together here, so that this file has none.
#[test]
fn nothing_is_left_undone_or_tied_to_one_machine() -> Result<()> {
    let words = [
        ["FIX", "ME"].concat(),
        ["TO", "DO:"].concat(),
        ["XX", "X:"].concat(),
        ["/wo", "rk/"].concat(),
        ["/ro", "ot/"].concat(),
        ["crates", ".io/api"].concat(),
    ];
    let kinds = [
        "rs", "toml", "md", "ts", "tsx", "js", "json", "sh", "sql", "yml", "yaml", "css",
    ];
    let mut guilty = BTreeSet::new();
    for source in files(&kinds)? {
        for (number, line) in (1..).zip(source.text.lines()) {
            if let Some(word) = words.iter().find(|word| line.contains(word.as_str())) {
                guilty.insert(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    only_the_exceptions("left undone, or tied to a machine", &guilty, &[])
}

/// Documents that name tests name those that there are.
#[test]
fn every_test_that_a_document_names_is_there() -> Result<()> {
    let sources = files(&["rs"])?;
    let is_there = |name: &str| {
        let head = format!("fn {name}(");
        sources.iter().any(|source| source.text.contains(&head))
    };
    let is_test = |word: &str| {
        let is_name = |c: char| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit();
        word.matches('_').count() >= 3
            && word.chars().all(is_name)
            && !word.starts_with("tributary_")
    };
    let mut guilty = BTreeSet::new();
    for page in files(&["md"])? {
        if !["docs/prior-art.md", "docs/rotation.md"].contains(&page.path.as_str()) {
            continue;
        }
        let words = page.text.split('`').filter(|word| is_test(word));
        let missing = words.filter(|word| !is_there(word));
        guilty.extend(missing.map(|word| format!("{}: {word}", page.path)));
    }
    only_the_exceptions("tests that are not there", &guilty, &[])
}

#[test]
fn every_sample_config_is_good() -> Result<()> {
    let samples: Vec<Source> = files(&["toml"])?
        .into_iter()
        .filter(|file| file.path.starts_with("deploy/"))
        .collect();
    ensure!(
        samples.len() >= 3,
        "agent.toml, bus.toml and manager.toml belong into deploy/"
    );
    for sample in samples {
        let checked = product::run("tributary", &["check", &sample.path], scratch::repository())?;
        let said = String::from_utf8_lossy(&checked.stdout);
        let complaint = String::from_utf8_lossy(&checked.stderr);
        ensure!(
            checked.status.success(),
            "{}:\n{said}{complaint}",
            sample.path
        );
    }
    Ok(())
}

/// A unit starts its part with the file that the sample becomes, and may write where that says.
#[test]
fn every_unit_fits_the_sample_of_its_part() -> Result<()> {
    for (part, folder_key) in [
        ("agent", "state_dir"),
        ("bus", "data_dir"),
        ("manager", "database"),
    ] {
        let read = |path: &str| fs::read_to_string(scratch::repository().join(path));
        let unit = read(&format!("deploy/systemd/tributary-{part}.service"))?;
        let command =
            format!("\nExecStart=/usr/bin/tributary-{part} --config /etc/tributary/{part}.toml\n");
        ensure!(
            unit.contains(&command),
            "{part}: no {command:?} in its unit"
        );
        let sample = read(&format!("deploy/{part}.toml"))?;
        let value = sample.lines().find(|line| line.starts_with(folder_key));
        let value = value.with_context(|| format!("{part}: no {folder_key} in its sample"))?;
        let folders = unit
            .lines()
            .find_map(|line| line.strip_prefix("StateDirectory="));
        let folders = folders.with_context(|| format!("{part}: no StateDirectory in its unit"))?;
        ensure!(
            folders
                .split(' ')
                .any(|folder| value.contains(&format!("/var/lib/{folder}"))),
            "{part}: the unit makes {folders:?}, the sample says {value}"
        );
    }
    Ok(())
}

/// `docs/config.md` is written from the types that read the files: `UPDATE=1` writes it again.
#[test]
fn the_config_reference_is_what_the_code_says() -> Result<()> {
    let made = tributary_common::config::reference_markdown(&[
        ("agent", &tributary_agent::config::SCHEMA),
        ("bus", &tributary_bus::config::SCHEMA),
        ("manager", &tributary_manager::config::SCHEMA),
    ]);
    let path = scratch::repository().join("docs/config.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &made)?;
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    ensure!(
        written == made,
        "docs/config.md is old: run UPDATE=1 cargo it -- config_reference"
    );
    Ok(())
}

/// A key stands in the schema, which checks and documents it, and in the struct, which obeys it.
#[test]
fn every_key_of_a_config_is_known_to_schema_and_struct() -> Result<()> {
    use tributary_common::config::{Env, Faults, samples};
    type Parse = fn(&str) -> Result<(), Faults>;
    let parts: [(&str, _, Parse); 3] = [
        ("agent", samples(&tributary_agent::config::SCHEMA), |text| {
            tributary_agent::config::parse(text, "sample").map(drop)
        }),
        ("bus", samples(&tributary_bus::config::SCHEMA), |text| {
            tributary_bus::config::parse(text, "sample").map(drop)
        }),
        (
            "manager",
            samples(&tributary_manager::config::SCHEMA),
            |text| tributary_manager::config::parse(text, "sample", &Env::none()).map(drop),
        ),
    ];
    // A key that only one of them knows ends the loading with these words; what the part then says
    // of the sample's values (two destinations of one name) is another matter.
    for (part, [every_key, _least], parse) in parts {
        let faults = parse(&every_key).err().map(|faults| faults.to_string());
        let faults = faults.unwrap_or_default();
        ensure!(
            !faults.contains("cannot be used"),
            "{part}:\n{faults}\nin\n{every_key}"
        );
    }
    Ok(())
}
