//! A recipe: everything that decides how the bytes of a task become records, and these a batch.
//!
//! A cut names the recipe that made it, and the checkpoint keeps each recipe once. So a batch that is
//! read again, after a crash or a change of the configuration, is made by the recipe that made it
//! first, and has the same records under the same identity, compressed in the same way. What does not change the records (paths,
//! class, rate) is no part of it.
//!
//! A [`Recipe`] is plain data, equal when it makes the same records; [`Recipe::compile`] makes it
//! ready for use. On disk it is JSON with named fields: a field that comes later has a default that
//! says what was done before it existed.
//!
//! Not for: the making itself (see [`crate::frame`], [`crate::times`]). The configuration makes
//! recipes, the checkpoint keeps them, the reader follows them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use regex::bytes::RegexBuilder;
use serde::{Deserialize, Serialize};
use tributary_common::batch::Codec;

use crate::{
    frame::{
        Carry, Framer, LongLine, Multiline, Pattern, Rule,
        text::{Label, Text},
    },
    group::Group,
    shape::Shape,
    times::{Time, TimeFrom},
};

/// The memory that a compiled pattern may take, in bytes.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// How the bytes of a task become records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// What is a record.
    pub(crate) framing: Framing,
    /// The encoding of the bytes, as a label.
    pub(crate) encoding: String,
    /// The longest record, in bytes of the source.
    pub(crate) max_line: u32,
    /// What becomes of longer lines.
    pub(crate) long_line: LongLine,
    /// What becomes of a carriage return at the end of a record.
    #[serde(default)]
    pub(crate) crlf: Crlf,
    /// Event times.
    pub(crate) time: Time,
    /// What of a line and its origin is the record.
    #[serde(default, skip_serializing_if = "Shape::is_raw")]
    pub(crate) shape: Shape,
    /// The host's name, where records carry it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) host: String,
    /// A regular expression that finds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// What people want to know of the task.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// How a batch is compressed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) compression: Codec,
}

fn is_default(codec: &Codec) -> bool {
    *codec == Codec::default()
}

/// What is a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Framing {
    /// Each line.
    Lines,
    /// Groups of lines, which exactly one of three patterns tells apart.
    Multiline {
        /// A group begins with such a line.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        start: Option<String>,
        /// Such a line goes on with the group before it.
        #[serde(default, skip_serializing_if = "Option::is_none", rename = "continue")]
        goes_on: Option<String>,
        /// A group ends with such a line.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<String>,
        /// A group that has not grown for so long is whole, in ms.
        timeout: u64,
        /// The most lines of a record.
        max_lines: u32,
        /// The longest record, in bytes of the source; absent: as long as a line may be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_bytes: Option<u32>,
    },
    /// The lines of CRI, joined.
    Cri,
    /// The lines of Docker's JSON files, joined.
    DockerJson,
}

/// What becomes of a carriage return at the end of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Crlf {
    /// It stays.
    #[default]
    Keep,
    /// One is taken off.
    Strip,
}

/// A recipe that is ready for use.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    /// What it was made from.
    pub(crate) recipe: Recipe,
    /// What is a record.
    pub(crate) framer: Framer,
    /// The encoding, as it is said.
    pub(crate) label: Label,
    /// A carriage return at the end of a record is taken off.
    pub(crate) strips_cr: bool,
    /// Event times.
    pub(crate) time: TimeFrom,
    /// Where the key is; `None` where the task asks for none.
    pub(crate) key: Option<Group>,
}

/// Equal when they make the same records.
impl PartialEq for Compiled {
    fn eq(&self, other: &Self) -> bool {
        self.recipe == other.recipe
    }
}

impl Eq for Compiled {}

impl Compiled {
    /// What is carried to bytes at `at`, beside what those before them left: whether they are the
    /// rest of a line, by the bytes before them, and how UTF-16 is read, by the first of the file.
    pub(crate) fn carry(&self, left: Carry, at: u64, before: &[u8], is_big: bool) -> Carry {
        let carry = left.with(Carry::BIG, is_big);
        let begins = left.has(Carry::LINE_BEGINS);
        let is_mid_line = !begins && self.framer.text_of(carry).is_mid_line(at, before);
        carry.with(Carry::MID_LINE, is_mid_line)
    }
}

impl Recipe {
    /// Makes it ready for use.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn compile(self) -> Result<Arc<Compiled>, String> {
        let label = Label::find(&self.encoding)?;
        Ok(Arc::new(Compiled {
            framer: self.framer(label)?,
            label,
            strips_cr: self.crlf == Crlf::Strip,
            key: self.key.as_deref().map(key_group).transpose()?,
            time: self.framing.times(&self.time)?,
            recipe: self,
        }))
    }

    fn framer(&self, label: Label) -> Result<Framer, String> {
        let rule = Rule {
            max_line: self.max_line,
            long_line: self.long_line,
        };
        self.framing.fits(label)?;
        match &self.framing {
            Framing::Lines => Ok(Framer::lines(label.text(), rule)),
            Framing::Multiline {
                timeout,
                max_lines,
                max_bytes,
                ..
            } => {
                let multiline = Multiline {
                    pattern: self.framing.pattern()?,
                    timeout: Duration::from_millis(*timeout),
                    max_lines: *max_lines,
                };
                let max_line = max_bytes.unwrap_or(self.max_line);
                Ok(Framer::groups(
                    multiline,
                    label.text(),
                    Rule { max_line, ..rule },
                ))
            }
            Framing::Cri => Ok(Framer::cri(label.text(), rule)),
            Framing::DockerJson => Ok(Framer::docker_json(rule)),
        }
    }

    /// This recipe with another rule for lines: what version 1 of the checkpoint kept of it.
    pub(crate) fn with_rule(&self, rule: Rule) -> Self {
        Self {
            max_line: rule.max_line,
            long_line: rule.long_line,
            ..self.clone()
        }
    }
}

impl Framing {
    /// Whether lines of an encoding can be framed so.
    ///
    /// # Errors
    /// What is allowed instead.
    pub(crate) fn fits(&self, label: Label) -> Result<(), String> {
        match self {
            Self::Lines | Self::Multiline { .. } => Ok(()),
            Self::Cri if label.text().width() == 1 => Ok(()),
            Self::Cri => Err(
                "lines of cri are not written in utf-16; allowed are encodings that extend ASCII"
                    .to_owned(),
            ),
            Self::DockerJson if label.text() == Text::Utf8 => Ok(()),
            Self::DockerJson => {
                Err("lines of docker-json are written in utf-8; allowed is utf-8".to_owned())
            }
        }
    }

    /// Whether event times can be had so.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn times(&self, time: &Time) -> Result<TimeFrom, String> {
        let from = TimeFrom::new(time)?;
        match self {
            Self::Lines | Self::Multiline { .. } if from == TimeFrom::Runtime => Err(
                "pattern is missing; only lines of cri and docker-json have a time without one"
                    .to_owned(),
            ),
            Self::Lines | Self::Multiline { .. } | Self::Cri | Self::DockerJson => Ok(from),
        }
    }

    /// The pattern of groups.
    ///
    /// # Errors
    /// When there is not exactly one, or it is none.
    pub(crate) fn pattern(&self) -> Result<Pattern, String> {
        let Self::Multiline {
            start,
            goes_on,
            end,
            ..
        } = self
        else {
            return Err("only groups of lines have a pattern".to_owned());
        };
        match (start, goes_on, end) {
            (Some(start), None, None) => regex(start).map(Pattern::Start),
            (None, Some(goes_on), None) => regex(goes_on).map(Pattern::Continue),
            (None, None, Some(end)) => regex(end).map(Pattern::End),
            _ => {
                let given = [("start", start), ("continue", goes_on), ("end", end)];
                let given = given.iter().filter(|(_, pattern)| pattern.is_some());
                let names: Vec<&str> = given.map(|(name, _)| *name).collect();
                let names = match names.as_slice() {
                    [] => "no pattern is".to_owned(),
                    names => format!("{} are", names.join(" and ")),
                };
                Err(format!(
                    "{names} given; expected is exactly one of start, continue, end"
                ))
            }
        }
    }
}

/// A pattern for lines.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn regex(pattern: &str) -> Result<regex::bytes::Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(MAX_PATTERN_BYTES)
        .build()
        .map_err(|error| format!("{pattern:?} is no regular expression: {error}"))
}

/// The expression of a task's keys.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn key_group(text: &str) -> Result<Group, String> {
    Group::new(text, "key")
}

/// A recipe within a record of the checkpoint: as JSON, whose fields have names.
pub(crate) mod as_json {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _, ser::Error as _};

    use super::Recipe;

    /// Writes it.
    pub(crate) fn serialize<S: Serializer>(recipe: &Recipe, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&serde_json::to_string(recipe).map_err(S::Error::custom)?)
    }

    /// Reads it.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Recipe, D::Error> {
        let text = <&str>::deserialize(from)?;
        serde_json::from_str(text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Plain lines of at most `max_line` bytes.
    pub(crate) fn of_lines(max_line: u32) -> Recipe {
        Recipe {
            framing: Framing::Lines,
            encoding: "utf-8".to_owned(),
            max_line,
            long_line: LongLine::Split,
            crlf: Crlf::Keep,
            time: Time::Read,
            shape: Shape::Raw,
            host: String::new(),
            key: None,
            labels: BTreeMap::new(),
            compression: Codec::default(),
        }
    }

    #[test]
    fn the_words_of_a_recipe_on_disk_stay() {
        let recipe = Recipe {
            time: Time::Line {
                pattern: Some("%Y-%m-%d".to_owned()),
                at: None,
                zone: None,
            },
            ..of_lines(100)
        };
        let text = r#"{"framing":{"kind":"lines"},"encoding":"utf-8","max_line":100,"#.to_owned()
            + r#""long_line":"split","crlf":"keep","time":{"from":"line","pattern":"%Y-%m-%d"},"labels":{}}"#;
        assert_eq!(serde_json::to_string(&recipe).unwrap(), text);
        assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
        let lz4 = Recipe {
            compression: Codec::Lz4,
            ..recipe
        };
        let text = text.replace("{}}", r#"{},"compression":"lz4"}"#);
        assert_eq!(serde_json::to_string(&lz4).unwrap(), text);
        assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), lz4);
        let unknown = text.replace("labels", "colours");
        assert!(serde_json::from_str::<Recipe>(&unknown).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        let check = |recipe: Recipe, wanted: &str| {
            let error = recipe.compile().unwrap_err();
            assert!(error.contains(wanted), "{error}");
        };
        let encoding = |label: &str| Recipe {
            encoding: label.to_owned(),
            ..of_lines(100)
        };
        check(encoding("klingon"), "is no encoding");
        check(encoding("iso-2022-jp"), "allowed are encodings that extend");
        check(
            Recipe {
                framing: Framing::DockerJson,
                ..encoding("gbk")
            },
            "allowed is utf-8",
        );
        let multiline = |start: Option<&str>, end: Option<&str>| Recipe {
            framing: Framing::Multiline {
                start: start.map(str::to_owned),
                goes_on: None,
                end: end.map(str::to_owned),
                timeout: 2000,
                max_lines: 500,
                max_bytes: None,
            },
            ..of_lines(100)
        };
        check(multiline(Some("("), None), "is no regular expression");
        check(
            multiline(None, None),
            "no pattern is given; expected is exactly one",
        );
        check(multiline(Some("a"), Some("b")), "start and end are given;");
        assert!(multiline(Some("a"), None).compile().is_ok());
    }
}
