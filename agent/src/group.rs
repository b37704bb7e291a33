//! A regular expression with one named group: where in a line a task finds something.
//!
//! Not for: what the found bytes mean (see [`crate::times`], [`crate::shape`]).

use regex::bytes::{Regex, RegexBuilder};

/// How far into a line is looked, in bytes: a hostile line must not cost without end.
pub(crate) const LOOK_BYTES: usize = 16 << 10;
/// The memory that a compiled expression may take, in bytes.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// The expression.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    regex: Regex,
    /// The group's number in it.
    index: usize,
}

/// Equal when they find the same.
impl PartialEq for Group {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str() && self.index == other.index
    }
}

impl Eq for Group {}

impl Group {
    /// An expression that has a group of this name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(text: &str, name: &str) -> Result<Self, String> {
        let regex = RegexBuilder::new(text)
            .size_limit(MAX_COMPILED_BYTES)
            .build()
            .map_err(|error| {
                // The lines before draw a picture of the place.
                let error = error.to_string();
                let why = error.lines().last().unwrap_or_default();
                let why = why.strip_prefix("error: ").unwrap_or(why);
                format!("{text:?} is no regular expression: {why}")
            })?;
        let index = regex.capture_names().position(|group| group == Some(name));
        match index {
            Some(index) => Ok(Self { regex, index }),
            None => Err(format!(
                "{text:?} has no group {name:?}; expected is a regular expression with (?<{name}>...)"
            )),
        }
    }

    /// What the group caught, in the first [`LOOK_BYTES`] of a line; `None` when the expression does
    /// not fit or the group has no part in it.
    pub(crate) fn find<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        let head = line.get(..LOOK_BYTES).unwrap_or(line);
        let found = self.regex.captures(head)?.get(self.index)?;
        Some(found.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_catches_bytes_of_any_kind() {
        let group = Group::new(r"(user|uid)=(?<key>[^ ]*)", "key").unwrap();
        assert_eq!(group.find(b"\xff uid=a\xc3\xa9 x"), Some("aé".as_bytes()));
        // Without (?-u) an expression is of characters.
        assert_eq!(group.find(b"uid=a\xfe rest"), Some(&b"a"[..]));
        let bytes = Group::new(r"(?-u)uid=(?<key>[^ ]*)", "key").unwrap();
        assert_eq!(bytes.find(b"uid=a\xfe rest"), Some(&b"a\xfe"[..]));
        assert_eq!(group.find(b"user= x"), Some(&b""[..]));
        assert_eq!(group.find(b"nobody"), None);
        let far = [&[b' '; LOOK_BYTES][..], b"uid=a"].concat();
        assert_eq!(group.find(&far), None);
        assert_eq!(Group::new("a|(?<key>b)", "key").unwrap().find(b"xa"), None);
    }

    #[test]
    fn an_expression_that_catches_nothing_is_refused() {
        let check = |text: &str, wanted: &str| {
            let error = Group::new(text, "key").unwrap_err();
            assert!(error.contains(wanted), "{error}");
        };
        check(
            "user=(.*)",
            "expected is a regular expression with (?<key>...)",
        );
        check("(?<key>", "is no regular expression: unclosed group");
        check("(?<key>a{1000}){1000}", "size limit");
    }
}
