//! The vocabulary in which a part describes its configuration: tables, keys, kinds, defaults.
//!
//! All of it is `const`, so a schema is one `static` that reads like a page of documentation:
//!
//! ```
//! use tributary_common::config::{Key, Kind, Schema};
//!
//! static LIMITS: Schema = Schema::new("What the agent may use.", &[
//!     Key::default("memory", Kind::size("1MiB", "64GiB"), "64MiB", "Bytes of batches in memory."),
//!     Key::optional("bandwidth", Kind::rate("1KB/s", "100GB/s"), "Bytes per second to the bus."),
//! ]);
//! pub static SCHEMA: Schema = Schema::new("The agent.", &[
//!     Key::required("zone", Kind::Text, "The data centre of this host."),
//!     Key::table("limits", &LIMITS),
//! ]);
//! ```
//!
//! Not for: checking (see `walk`). Called by each part's `config.rs`.

use super::units;

/// A table: its keys, in the order in which people read about them.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// What the table is for, in one sentence.
    pub doc: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

impl Schema {
    /// A table of these keys.
    #[must_use]
    pub const fn new(doc: &'static str, keys: &'static [Key]) -> Self {
        Self { doc, keys }
    }
}

/// One key of a table.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// What happens when it is not given.
    pub absent: Absent,
    /// Whether its value is never shown.
    pub secret: bool,
    /// What it is for, with unit and reason, in one sentence.
    pub doc: &'static str,
    /// Whether this version obeys it.
    pub support: Support,
}

/// What happens when a key is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// That is a fault.
    Fault,
    /// The part's struct gets nothing (`None`).
    Nothing,
    /// This value counts, written as in the file but without quotes around text: `64MiB`, `P2`,
    /// `true`, `["**/*"]`, `{ kind = "lines" }`. For a table: its own defaults.
    Default(&'static str),
}

/// Whether this version obeys a key, a choice or a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It does.
    Yes,
    /// Giving it is a fault, since ignoring it would change the meaning. The text says what is
    /// allowed instead.
    No(&'static str),
    /// Giving it makes a warning. The text says what follows.
    Ignored(&'static str),
}

impl Key {
    const fn new(name: &'static str, kind: Kind, absent: Absent, doc: &'static str) -> Self {
        Self {
            name,
            kind,
            absent,
            secret: false,
            doc,
            support: Support::Yes,
        }
    }

    /// A key that must be given.
    #[must_use]
    pub const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self::new(name, kind, Absent::Fault, doc)
    }

    /// A key without a default: an `Option` in the part's struct.
    #[must_use]
    pub const fn optional(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self::new(name, kind, Absent::Nothing, doc)
    }

    /// A key with a default, written as in [`Absent::Default`].
    #[must_use]
    pub const fn default(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        doc: &'static str,
    ) -> Self {
        Self::new(name, kind, Absent::Default(default), doc)
    }

    /// A table that is always there, since all its keys have defaults or are optional.
    #[must_use]
    pub const fn table(name: &'static str, schema: &'static Schema) -> Self {
        Self::new(name, Kind::Table(schema), Absent::Default("{}"), schema.doc)
    }

    /// A table that may be left out: an `Option` in the part's struct.
    #[must_use]
    pub const fn optional_table(name: &'static str, schema: &'static Schema) -> Self {
        Self::new(name, Kind::Table(schema), Absent::Nothing, schema.doc)
    }

    /// A list of tables (`[[name]]`), empty when left out.
    #[must_use]
    pub const fn tables(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self::new(name, kind, Absent::Default("[]"), doc)
    }

    /// The same key, never shown.
    #[must_use]
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// The same key, refused: a later version will have it. `instead` is a phrase on what to do.
    #[must_use]
    pub const fn not_yet(mut self, instead: &'static str) -> Self {
        self.support = Support::No(instead);
        self
    }

    /// The same key, ignored with a warning. `effect` is a phrase on what follows.
    #[must_use]
    pub const fn ignored(mut self, effect: &'static str) -> Self {
        self.support = Support::Ignored(effect);
        self
    }
}

/// What a value may be, and what the part's struct gets.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text, not empty: a `String`.
    Text,
    /// A text with a form of its own: a `String`, or a type that parses it.
    Checked {
        /// What it is, for people: `topic`, `regex`.
        what: &'static str,
        /// A good one.
        example: &'static str,
        /// Says why a text is none.
        check: fn(&str) -> Result<(), String>,
    },
    /// One of some words: a `String` or an enum.
    Choice {
        /// What this version knows.
        allowed: &'static [&'static str],
        /// What a later version will know.
        later: &'static [&'static str],
    },
    /// A size such as `64MiB`: a `u64` of bytes.
    Size {
        /// The least, in the same notation.
        min: &'static str,
        /// The most, in the same notation.
        max: &'static str,
    },
    /// A rate such as `20MB/s`: a `u64` of bytes per second.
    Rate {
        /// The least, in the same notation.
        min: &'static str,
        /// The most, in the same notation.
        max: &'static str,
    },
    /// A duration such as `200ms` or `7d`: a `u64` of ms.
    Duration {
        /// The least, in the same notation.
        min: &'static str,
        /// The most, in the same notation.
        max: &'static str,
    },
    /// A percentage such as `5%`: an `f64`, 5.0 for `5%`.
    Percent {
        /// The least.
        min: f64,
        /// The most.
        max: f64,
    },
    /// A whole number: an integer type that takes the range.
    Integer {
        /// The least.
        min: i64,
        /// The most.
        max: i64,
    },
    /// `true` or `false`: a `bool`.
    Bool,
    /// An IP address and a port to listen on, such as `127.0.0.1:7401`: a `String` or a
    /// `SocketAddr`.
    Socket,
    /// A host and a port, such as `bus1.dc1:7400`: a `String`.
    HostPort,
    /// A URL of one of these schemes: a `String`. A password in it is not shown.
    Url(&'static [&'static str]),
    /// A file or folder: a `PathBuf`. Relative ones count from the working folder of the process.
    Path,
    /// A list: a `Vec`. Of [`Kind::Table`] or [`Kind::OneOf`] it may be written `[[name]]`.
    List {
        /// What each item may be.
        item: &'static Self,
        /// How many there must be at least.
        min: usize,
        /// A key of each item (a table) that must differ from those of the others.
        unique: Option<&'static str>,
    },
    /// A table: a struct.
    Table(&'static Schema),
    /// A table of free keys: a map. Values whose key looks secret are never shown.
    Map(&'static Self),
    /// A table whose form depends on one of its keys: an enum with `#[serde(tag = …)]`, or a
    /// struct that flattens one.
    OneOf {
        /// The key that tells: `kind`, `from`.
        tag: &'static str,
        /// Keys that all variants have.
        common: &'static [Key],
        /// The forms.
        variants: &'static [Variant],
    },
    /// Anything: for keys that this version refuses or ignores.
    Any,
}

impl Kind {
    /// One of these words.
    #[must_use]
    pub const fn choice(allowed: &'static [&'static str]) -> Self {
        Self::Choice {
            allowed,
            later: &[],
        }
    }

    /// A text with a form of its own.
    #[must_use]
    pub const fn checked(
        what: &'static str,
        example: &'static str,
        check: fn(&str) -> Result<(), String>,
    ) -> Self {
        Self::Checked {
            what,
            example,
            check,
        }
    }

    /// A size from `min` to `max`.
    #[must_use]
    pub const fn size(min: &'static str, max: &'static str) -> Self {
        Self::Size { min, max }
    }

    /// A rate from `min` to `max`.
    #[must_use]
    pub const fn rate(min: &'static str, max: &'static str) -> Self {
        Self::Rate { min, max }
    }

    /// A duration from `min` to `max`.
    #[must_use]
    pub const fn duration(min: &'static str, max: &'static str) -> Self {
        Self::Duration { min, max }
    }

    /// A list of at least `min` items.
    #[must_use]
    pub const fn list(item: &'static Self, min: usize) -> Self {
        Self::List {
            item,
            min,
            unique: None,
        }
    }

    /// A list of tables in which each has another value of the key `unique`.
    #[must_use]
    pub const fn list_by(item: &'static Self, unique: &'static str) -> Self {
        Self::List {
            item,
            min: 0,
            unique: Some(unique),
        }
    }

    /// What is allowed, for a fault or the reference: a phrase.
    #[must_use]
    pub fn allowed(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Checked { what, example, .. } => format!("a {what} such as \"{example}\""),
            Self::Choice { allowed, .. } => allowed.join(", "),
            Self::Size { min, max } => format!("{min} to {max} (B, KB, MB, GB, TB, KiB … TiB)"),
            Self::Rate { min, max } => format!("{min} to {max}"),
            Self::Duration { min, max } => format!("{min} to {max} (ms, s, m, h, d)"),
            Self::Percent { min, max } => {
                format!(
                    "{} to {}",
                    units::show_percent(*min),
                    units::show_percent(*max)
                )
            }
            Self::Integer { min, max } => format!("{min} to {max}"),
            Self::Bool => "true, false".to_owned(),
            Self::Socket => "an address and port such as \"127.0.0.1:7401\"".to_owned(),
            Self::HostPort => "a host and port such as \"bus1.dc1:7400\"".to_owned(),
            Self::Url(schemes) => {
                let schemes: Vec<_> = schemes
                    .iter()
                    .map(|scheme| format!("{scheme}://…"))
                    .collect();
                format!("a URL: {}", schemes.join(", "))
            }
            Self::Path => "a path".to_owned(),
            Self::List { item, min, .. } => {
                let least = match min {
                    0 => String::new(),
                    min => format!(" of at least {min}"),
                };
                format!("a list{least}, each {}", item.allowed())
            }
            Self::Table(_) => "a table".to_owned(),
            Self::Map(value) => format!("a table of {}", value.allowed()),
            Self::OneOf { tag, variants, .. } => {
                let names = variants.iter().filter(|v| v.support == Support::Yes);
                let names: Vec<_> = names.map(|v| format!("\"{}\"", v.name)).collect();
                format!("a table with {tag} = {}", names.join(" or "))
            }
            Self::Any => "anything".to_owned(),
        }
    }

    /// Whether the environment can give it.
    pub(super) const fn is_single(&self) -> bool {
        match self {
            Self::Text
            | Self::Checked { .. }
            | Self::Choice { .. }
            | Self::Size { .. }
            | Self::Rate { .. }
            | Self::Duration { .. }
            | Self::Percent { .. }
            | Self::Integer { .. }
            | Self::Bool
            | Self::Socket
            | Self::HostPort
            | Self::Url(_)
            | Self::Path => true,
            Self::List { .. } | Self::Table(_) | Self::Map(_) | Self::OneOf { .. } | Self::Any => {
                false
            }
        }
    }
}

/// One form of a [`Kind::OneOf`].
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    /// The tag's value.
    pub name: &'static str,
    /// What it is, in one sentence.
    pub doc: &'static str,
    /// Its keys beside the tag and the common ones.
    pub keys: &'static [Key],
    /// Whether this version has it.
    pub support: Support,
}

impl Variant {
    /// A form with these keys.
    #[must_use]
    pub const fn new(name: &'static str, doc: &'static str, keys: &'static [Key]) -> Self {
        Self {
            name,
            doc,
            keys,
            support: Support::Yes,
        }
    }

    /// A form that a later version will have.
    #[must_use]
    pub const fn not_yet(name: &'static str, doc: &'static str) -> Self {
        Self {
            name,
            doc,
            keys: &[],
            support: Support::No(""),
        }
    }
}

/// Makes a check of [`Kind::Checked`] from a type that parses text: `parses::<Topic>`.
///
/// # Errors
/// What the type's own parsing says.
pub fn parses<T>(text: &str) -> Result<(), String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse::<T>()
        .map(drop)
        .map_err(|error| error.to_string())
}
