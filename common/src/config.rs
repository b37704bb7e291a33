//! Configuration: TOML checked against a schema, all faults at once, each with its place.
//!
//! The way of a document: parse with spans, walk it along the schema (unknown keys, kinds, ranges,
//! missing keys, environment, defaults), then hand the plain tree to the part's raw struct by
//! serde. In that tree a size is a number of bytes, a rate of bytes per second, a duration of ms, a
//! percentage a float. What spans several keys the part checks itself, in what it gives to
//! [`parse()`], with a [`Checker`] that knows the places.
//!
//! Not for: what a part does with its settings. Called by each part's `config.rs`, the daemons'
//! `--check` and `--print-config`, and the test that writes `docs/config.md`.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use serde::de::DeserializeOwned;
use toml::de::DeTable;

mod diff;
mod env;
mod fault;
mod nearest;
mod over;
mod print;
mod reference;
mod sample;
mod schema;
mod single;
mod units;
mod walk;

pub use diff::{Difference, differences};
pub use env::Env;
pub use fault::{Fault, Faults, Place};
use over::Seam;
pub use over::{Origin, Over};
pub use reference::reference_markdown;
pub use sample::samples;
pub use schema::{Absent, Key, Kind, Schema, Support, Variant, parses};
use walk::{Lines, Walk};

/// The parser's words for a key that stands twice.
const DUPLICATE: &str = "duplicate key";

/// Where each key of a document stands.
#[derive(Debug, Clone, Default)]
struct Source {
    file: String,
    seam: Seam,
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
        self.seam.told(Fault {
            file: self.file.clone(),
            place,
            key: key.to_owned(),
            why: why.to_string(),
        })
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
    origin: Arc<Origin>,
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

    /// What it was loaded from, without what went over it; for [`parse_over`].
    #[must_use]
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// A fault at a key such as `task[0].topic`.
    #[must_use]
    pub fn fault(&self, key: &str, why: impl fmt::Display) -> Fault {
        self.source.fault(key, why)
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

/// Loads a part's configuration from a file, as [`parse`] does from text.
///
/// # Errors
/// All faults; a missing or unreadable file is one.
pub fn load<T: DeserializeOwned, U>(
    part: &str,
    schema: &'static Schema,
    path: &Path,
    env: &Env,
    check: impl FnOnce(T, &mut Checker) -> Option<U>,
) -> Result<Loaded<U>, Faults> {
    let file = path.display().to_string();
    let refused = |place, why| {
        let (file, key) = (file.clone(), String::new());
        Faults::one(Fault {
            file,
            place,
            key,
            why,
        })
    };
    let bytes = std::fs::read(path).map_err(|error| {
        let why = format!("failed to read the configuration of the {part}: {error}");
        refused(Place::Whole, why)
    })?;
    let text = str::from_utf8(&bytes).map_err(|error| {
        let good = String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default());
        let place = Lines::new(&good).place(good.len());
        refused(place, "holds bytes that are no UTF-8".to_owned())
    })?;
    parse(part, schema, text, &file, env, check)
}

/// Loads a part's configuration from text. `name` stands in faults where a file's name would.
///
/// `check` turns the raw settings into the part's own: it tells the [`Checker`] each fault that spans
/// several keys, and gives `None` when it cannot go on. It runs also when single keys are at fault,
/// as long as the rest makes sense without them, so that a person sees all faults at once.
///
/// # Errors
/// All faults.
pub fn parse<T: DeserializeOwned, U>(
    part: &str,
    schema: &'static Schema,
    text: &str,
    name: &str,
    env: &Env,
    check: impl FnOnce(T, &mut Checker) -> Option<U>,
) -> Result<Loaded<U>, Faults> {
    let origin = Arc::new(Origin {
        name: name.to_owned(),
        text: text.to_owned(),
        env: env.clone(),
    });
    read(part, schema, &origin, None, check)
}

/// Loads a part's configuration from what it was loaded from before, with another document over it, or
/// without any. `check` as in [`parse()`].
///
/// # Errors
/// All faults, each with the name of the document that has it.
pub fn parse_over<T: DeserializeOwned, U>(
    part: &str,
    schema: &'static Schema,
    origin: &Arc<Origin>,
    over: Option<Over<'_>>,
    check: impl FnOnce(T, &mut Checker) -> Option<U>,
) -> Result<Loaded<U>, Faults> {
    over.as_ref().map_or(Ok(()), Over::check)?;
    read(part, schema, origin, over, check)
}

fn read<T: DeserializeOwned, U>(
    part: &str,
    schema: &'static Schema,
    origin: &Arc<Origin>,
    over: Option<Over<'_>>,
    check: impl FnOnce(T, &mut Checker) -> Option<U>,
) -> Result<Loaded<U>, Faults> {
    let (text, name) = (&origin.text, &origin.name);
    let (whole, second) = match over {
        Some(over) => over.behind(text),
        None => (text.clone(), String::new()),
    };
    let seam = over.map_or_else(Seam::default, |over| over.seam(text));
    let lines = Lines::new(&whole);
    let mut walk = Walk::new(name, &lines, &origin.env);
    let (mut table, errors) = DeTable::parse_recoverable(text);
    if over::syntax(&errors, &mut walk) {
        return Err(Faults::new(walk.faults));
    }
    if let Some(over) = over {
        let (second, _told_before) = DeTable::parse_recoverable(&second);
        let table = table.get_mut();
        for (key, value) in second.into_inner() {
            table.remove(key.get_ref().as_ref());
            table.insert(key, value);
        }
        debug_assert!(over.check().is_ok(), "its faults are told before");
    }
    let tree = walk.document(part, schema, table.get_ref());
    let told = |fault| seam.told(fault);
    let faults = walk.faults.into_iter().map(told).collect();
    let mut warnings: Vec<Fault> = walk.warnings.into_iter().map(told).collect();
    let effective = print::effective(schema, &tree);
    let source = Arc::new(Source {
        file: name.clone(),
        places: walk.places,
        seam,
    });
    let mut checker = Checker {
        source: Arc::clone(&source),
        faults,
        warnings: Vec::new(),
    };
    let value = match serde_json::from_value(tree) {
        Ok(raw) => check(raw, &mut checker),
        // A key that is missing because it is at fault: that fault is told already.
        Err(_follows) if !checker.faults.is_empty() => None,
        Err(error) => {
            checker.fault("", format_args!("cannot be used: {error}"));
            None
        }
    };
    warnings.append(&mut checker.warnings);
    match value {
        Some(value) if checker.faults.is_empty() => Ok(Loaded {
            value,
            source,
            warnings,
            effective,
            origin: Arc::clone(origin),
        }),
        None if checker.faults.is_empty() => Err(source.fault("", "cannot be used").into()),
        Some(_) | None => Err(Faults::new(checker.faults)),
    }
}

#[cfg(test)]
mod tests;
