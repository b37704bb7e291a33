//! Configuration: TOML checked against a schema, all faults at once, each with its place.
//!
//! The way of a document: parse with spans, walk it along the schema (unknown keys, kinds, ranges,
//! missing keys, environment, defaults), then hand the plain tree to the part's raw struct by
//! serde. In that tree a size is a number of bytes, a rate of bytes per second, a duration of ms, a
//! percentage a float. What spans several keys the part checks itself with [`Loaded::check`],
//! which knows the places too.
//!
//! Not for: what a part does with its settings. Called by each part's `config.rs`, the daemons'
//! `--check` and `--print-config`, and the test that writes `docs/config.md`.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use serde::de::DeserializeOwned;

mod fault;
mod schema;
mod units;

pub use fault::{Fault, Faults, Place};
pub use schema::{Absent, Key, Kind, Schema, Support, Variant, parses};

/// The environment variables that a load looks at; passed in, so that tests and `up` need no
/// process-wide state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env(BTreeMap<String, String>);

impl Env {
    /// No variables.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The variables of this process that begin with `TRIBUTARY_`.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        let all = std::env::vars_os().filter_map(text);
        Self(all.filter(|(name, _)| name.starts_with("TRIBUTARY_")).collect())
    }

    /// These variables.
    pub fn of<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Where each key of a document stands.
#[derive(Debug, Clone, Default)]
struct Source {
    file: String,
    places: BTreeMap<String, Place>,
}

impl Source {
    /// A fault at a key, or at the nearest key above it that the document has.
    fn fault(&self, key: &str, why: impl fmt::Display) -> Fault {
        let mut near = key;
        let place = loop {
            if let Some(place) = self.places.get(near) {
                break place.clone();
            }
            match near.rfind(['.', '[']) {
                Some(cut) => near = near.get(..cut).unwrap_or(""),
                None => break Place::Whole,
            }
        };
        Fault { file: self.file.clone(), place, key: key.to_owned(), why: why.to_string() }
    }
}

/// A configuration that agrees with its schema.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The part's settings.
    pub value: T,
    source: Arc<Source>,
    warnings: Vec<Fault>,
    effective: String,
}

impl<T> Loaded<T> {
    /// What was given but is not obeyed; to be logged at the start.
    #[must_use]
    pub fn warnings(&self) -> &[Fault] {
        &self.warnings
    }

    /// The configuration that counts, as TOML: defaults filled in, secrets redacted.
    #[must_use]
    pub fn effective(&self) -> &str {
        &self.effective
    }

    /// A fault at a key such as `task[0].topic`.
    #[must_use]
    pub fn fault(&self, key: &str, why: impl fmt::Display) -> Fault {
        self.source.fault(key, why)
    }

    /// Turns the raw settings into checked ones. `check` tells the [`Checker`] each fault that it
    /// finds, and gives `None` when it cannot go on.
    ///
    /// # Errors
    /// All faults that were told.
    pub fn check<U>(
        self,
        check: impl FnOnce(T, &mut Checker) -> Option<U>,
    ) -> Result<Loaded<U>, Faults> {
        let Self { value, source, mut warnings, effective } = self;
        let mut checker =
            Checker { source: Arc::clone(&source), faults: Vec::new(), warnings: Vec::new() };
        let value = check(value, &mut checker);
        warnings.append(&mut checker.warnings);
        match value {
            Some(value) if checker.faults.is_empty() => {
                Ok(Loaded { value, source, warnings, effective })
            }
            Some(_) | None if !checker.faults.is_empty() => Err(Faults::new(checker.faults)),
            Some(_) | None => Err(source.fault("", "cannot be used").into()),
        }
    }
}

/// Takes the faults that span several keys.
#[derive(Debug)]
pub struct Checker {
    source: Arc<Source>,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl Checker {
    /// A fault at a key such as `task[0].topic`.
    pub fn fault(&mut self, key: &str, why: impl fmt::Display) {
        self.faults.push(self.source.fault(key, why));
    }

    /// Something that is not as it looks, at a key.
    pub fn warn(&mut self, key: &str, why: impl fmt::Display) {
        self.warnings.push(self.source.fault(key, why));
    }

    /// The value of a result, or its error as a fault at the key.
    pub fn take<V, E: fmt::Display>(&mut self, key: &str, result: Result<V, E>) -> Option<V> {
        result.map_err(|error| self.fault(key, error)).ok()
    }
}

/// Loads a part's configuration from a file.
///
/// # Errors
/// All faults; a missing or unreadable file is one.
pub fn load<T: DeserializeOwned>(
    part: &str,
    schema: &'static Schema,
    path: &Path,
    env: &Env,
) -> Result<Loaded<T>, Faults> {
    let file = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(part, schema, &text, &file, env),
        Err(error) => {
            let why = format!("failed to read the configuration of the {part}: {error}");
            Err(Fault { file, place: Place::Whole, key: String::new(), why }.into())
        }
    }
}

/// Loads a part's configuration from text. `name` stands in faults where a file's name would.
///
/// # Errors
/// All faults.
pub fn parse<T: DeserializeOwned>(
    part: &str,
    schema: &'static Schema,
    text: &str,
    name: &str,
    env: &Env,
) -> Result<Loaded<T>, Faults> {
    let _ = (part, schema, text, env);
    Err(Fault { file: name.to_owned(), place: Place::Whole, key: String::new(), why: "being written".to_owned() }.into())
}

/// The text of `docs/config.md`: one chapter a part.
#[must_use]
pub fn reference_markdown(parts: &[(&str, &'static Schema)]) -> String {
    let _ = parts;
    String::new()
}
