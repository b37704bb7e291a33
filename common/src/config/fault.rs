//! What is wrong with a configuration, and where.
//!
//! Not for: finding it. Shown by [`crate::daemon`], `tributary check` and the tests of each part.

use std::fmt;

/// Where a fault is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The file as a whole.
    Whole,
    /// A place in the file; both count from 1, columns in characters.
    At {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// An environment variable.
    Environment(String),
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file's name.
    pub file: String,
    /// Where.
    pub place: Place,
    /// Which key, as `task[0].class`; empty for the file as a whole.
    pub key: String,
    /// Why, with the value and what is allowed.
    pub why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Whole => write!(f, "{}: ", self.file)?,
            Place::At { line, column } => write!(f, "{}:{line}:{column}: ", self.file)?,
            Place::Environment(name) => write!(f, "{name}: ")?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.why)
    }
}

/// All faults of a configuration, in the order of the file; never empty. The daemons exit with
/// code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// These faults, sorted by place.
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        debug_assert!(!faults.is_empty(), "a configuration without faults is good");
        faults.sort_by(|a, b| a.place.cmp(&b.place));
        faults.dedup();
        Self(faults)
    }

    /// One fault.
    pub(super) fn one(fault: Fault) -> Self {
        Self(vec![fault])
    }

    /// There is no file to load: the program has no configuration of its own.
    pub(crate) fn nothing_to_load() -> Self {
        Self::one(Fault {
            file: "configuration".to_owned(),
            place: Place::Whole,
            key: String::new(),
            why: "there is no file to load".to_owned(),
        })
    }

    /// Each fault.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self::one(fault)
    }
}

impl fmt::Display for Faults {
    /// One fault a line, without a newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
