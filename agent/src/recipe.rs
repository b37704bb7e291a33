//! A recipe: everything that decides how the bytes of a task become records.
//!
//! A cut names the recipe that made it, and the checkpoint keeps each recipe once. So a batch that is
//! read again, after a crash or a change of the configuration, is made by the recipe that made it
//! first, and has the same records under the same identity. What does not change the records (paths,
//! class, rate) is no part of it.
//!
//! A [`Recipe`] is plain data, equal when it makes the same records; [`Recipe::compile`] makes it
//! ready for use. On disk it is JSON with named fields: a field that comes later has a default that
//! says what was done before it existed.
//!
//! Not for: the making itself (see [`crate::frame`], [`crate::times`]). The configuration makes
//! recipes, the checkpoint keeps them, the reader follows them.

use std::{collections::BTreeMap, sync::Arc};

use encoding_rs::Encoding;
use serde::{Deserialize, Serialize};

use crate::{
    frame::{LongLine, Rule},
    times::{Time, TimeFrom},
};

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
    /// Event times.
    pub(crate) time: Time,
    /// What people want to know of the task.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
}

/// What is a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Framing {
    /// Each line.
    Lines,
}

/// A recipe that is ready for use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiled {
    /// What it was made from.
    pub(crate) recipe: Recipe,
    /// The rule for lines.
    pub(crate) rule: Rule,
    /// The encoding; `None` passes bytes as they are.
    pub(crate) encoding: Option<&'static Encoding>,
    /// Event times.
    pub(crate) time: TimeFrom,
}

impl Recipe {
    /// Makes it ready for use.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn compile(self) -> Result<Arc<Compiled>, String> {
        let Framing::Lines = &self.framing;
        Ok(Arc::new(Compiled {
            rule: self.rule(),
            encoding: find_encoding(&self.encoding)?,
            time: TimeFrom::new(&self.time)?,
            recipe: self,
        }))
    }

    /// The rule for lines.
    fn rule(&self) -> Rule {
        Rule {
            max_line: self.max_line,
            long_line: self.long_line,
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

/// The encoding of a label; `None` for UTF-8, whose bytes pass as they are.
///
/// # Errors
/// What is allowed instead.
pub(crate) fn find_encoding(label: &str) -> Result<Option<&'static Encoding>, String> {
    let Some(encoding) = Encoding::for_label(label.as_bytes()) else {
        return Err(format!(
            "{label:?} is no encoding; expected is a WHATWG label such as utf-8, gbk, big5"
        ));
    };
    if encoding == encoding_rs::UTF_8 {
        return Ok(None);
    }
    // Newlines are looked for as bytes.
    if !encoding.is_ascii_compatible() {
        let name = encoding.name();
        return Err(format!(
            "{name} is not in this version; allowed are encodings that extend ASCII"
        ));
    }
    Ok(Some(encoding))
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
            time: Time::Read,
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn the_words_of_a_recipe_on_disk_stay() {
        let recipe = Recipe {
            time: Time::Line {
                pattern: "%Y-%m-%d".to_owned(),
                at: None,
                zone: None,
            },
            ..of_lines(100)
        };
        let text = r#"{"framing":{"kind":"lines"},"encoding":"utf-8","max_line":100,"#.to_owned()
            + r#""long_line":"split","time":{"from":"line","pattern":"%Y-%m-%d"},"labels":{}}"#;
        assert_eq!(serde_json::to_string(&recipe).unwrap(), text);
        assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
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
        check(
            encoding("iso-2022-jp"),
            "allowed are encodings that extend ASCII",
        );
        assert_eq!(
            encoding("gbk").compile().unwrap().encoding,
            Some(encoding_rs::GBK)
        );
    }
}
