//! A second document, some of whose keys take the place of those of a file.
//!
//! Faults name the document in which the key stands, with the line that it has there.
//!
//! Not for: what the documents mean. Called by `parse_over`, and by who takes such a document in and passes it
//! on.

use std::fmt;

use toml::de::DeTable;

use super::{
    DUPLICATE, Env, Fault, Faults, Place,
    walk::{Lines, Walk},
};

/// What a configuration was loaded from. It may hold secrets, and does not show them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file's name.
    pub(super) name: String,
    /// What it holds.
    pub(super) text: String,
    /// The variables beside it.
    pub(super) env: Env,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A document that goes over a file: a key that it has takes the place of the file's.
#[derive(Debug, Clone, Copy)]
pub struct Over<'a> {
    /// Its name, for faults.
    pub name: &'a str,
    /// What it holds.
    pub text: &'a str,
    /// The top-level keys that it may have. It must have one of them.
    pub keys: &'a [&'a str],
}

impl Over<'_> {
    /// Whether it is TOML and has nothing but its keys. What stands in them is for who knows the schema.
    ///
    /// # Errors
    /// All faults.
    pub fn check(&self) -> Result<(), Faults> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        let (lines, env) = (Lines::new(self.text), Env::none());
        let mut walk = Walk::new(self.name, &lines, &env);
        if !syntax(&errors, &mut walk) {
            let allowed = self.keys.join(", ");
            let table = table.get_ref();
            for (name, _value) in table {
                let (name, span) = (name.get_ref(), name.span());
                if !self.keys.contains(&name.as_ref()) {
                    let why = format!("cannot stand in this document; allowed are {allowed}");
                    walk.fault(lines.place(span.start), name, why);
                }
            }
            if !self.keys.iter().any(|key| table.contains_key(*key)) {
                walk.fault(Place::Whole, "", format!("has none of {allowed}"));
            }
        }
        match walk.faults.is_empty() {
            true => Ok(()),
            false => Err(Faults::new(walk.faults)),
        }
    }

    /// Both texts one after the other, and the second one with blanks in place of the first: its spans are
    /// those of the whole.
    pub(super) fn behind(&self, text: &str) -> (String, String) {
        let own = self.text.trim_start_matches('\u{feff}');
        let blank = text.bytes().map(|byte| match byte {
            b'\n' => '\n',
            _other => ' ',
        });
        let blank: String = blank.collect();
        (format!("{text}\n{own}"), format!("{blank}\n{own}"))
    }

    /// Where it begins behind a text.
    pub(super) fn seam(&self, text: &str) -> Seam {
        Seam {
            second: Some((text.matches('\n').count() + 1, self.name.to_owned())),
        }
    }
}

/// Where one document ends and the other one begins.
#[derive(Debug, Clone, Default)]
pub(super) struct Seam {
    /// Lines of the first one, and the name of the second one.
    second: Option<(usize, String)>,
}

impl Seam {
    /// A fault as the reader of the documents finds it.
    pub(super) fn told(&self, mut fault: Fault) -> Fault {
        if let (Place::At { line, .. }, Some((lines, name))) = (&mut fault.place, &self.second)
            && *line > *lines
        {
            *line -= lines;
            fault.file.clone_from(name);
        }
        fault
    }
}

/// Notes what is no TOML. Whether what follows it is guesswork: only a key that stands twice leaves the rest
/// readable.
pub(super) fn syntax(errors: &[toml::de::Error], walk: &mut Walk<'_>) -> bool {
    let offset = |error: &&toml::de::Error| error.span().map_or(usize::MAX, |span| span.start);
    let syntax = errors
        .iter()
        .filter(|error| error.message() != DUPLICATE)
        .min_by_key(offset);
    for error in syntax.map_or(errors, std::slice::from_ref) {
        let place = error.span().map_or(Place::Whole, |span| walk.place(span));
        walk.fault(place, "", error.message().to_owned());
    }
    syntax.is_some()
}
