//! Which environment variable gives which key, and which variables give none.
//!
//! Not for: their values (see `single`). Called by the walk.

use std::collections::BTreeMap;

use super::{
    nearest::nearest,
    schema::{Key, Kind},
};

/// The environment variables that the process was given; passed in, so that tests and `up` need no
/// process-wide state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env(BTreeMap<String, String>);

/// A variable that begins as those of a part do and gives no key.
#[derive(Debug)]
pub(super) struct Stranger {
    pub(super) name: String,
    pub(super) why: String,
    /// Somebody meant a key by it: it is a fault. Others are somebody else's, such as what
    /// Kubernetes sets in all containers beside a service named `tributary-bus`.
    pub(super) is_meant: bool,
}

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
            Some((
                name.into_string().ok()?,
                value.to_string_lossy().into_owned(),
            ))
        };
        let all = std::env::vars_os().filter_map(text);
        Self(
            all.filter(|(name, _)| name.starts_with("TRIBUTARY_"))
                .collect(),
        )
    }

    /// These variables.
    pub fn of<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }

    /// The value that a variable gives.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether any variable gives a key of this table or of one below it.
    pub(super) fn reaches(&self, keys: &[Key], prefix: &str) -> bool {
        let mut names = Vec::new();
        collect(keys, prefix, &mut names);
        names.iter().any(|name| self.0.contains_key(name))
    }

    /// The variables that begin as a part's do and give no key of it.
    pub(super) fn strangers(&self, keys: &[Key], prefix: &str) -> Vec<Stranger> {
        let mut known = Vec::new();
        let lists: Vec<_> = keys.iter().map(|key| variable(prefix, key.name)).collect();
        collect(keys, prefix, &mut known);
        let ours = |name: &&String| name.starts_with(&format!("{prefix}_"));
        // The prefix is the same for all: it must not make them look alike.
        let tail = |name: &str| name.get(prefix.len() + 1..).unwrap_or_default().to_owned();
        let tails: Vec<_> = known.iter().map(|name| tail(name)).collect();
        let stranger = |name: &String| {
            let near = nearest(&tail(name), tails.iter().map(String::as_str));
            let hint = match near {
                Some(near) => format!("; did you mean {prefix}_{near}?"),
                None => ".".to_owned(),
            };
            let is_meant = near.is_some() || lists.contains(name);
            let (effect, why) = if is_meant {
                (
                    "",
                    " The environment can give single values, no lists, and nothing in a list",
                )
            } else {
                (" and is ignored", "")
            };
            Stranger {
                name: name.clone(),
                why: format!("gives no key{effect}{hint}{why}"),
                is_meant,
            }
        };
        self.0
            .keys()
            .filter(ours)
            .filter(|name| !known.contains(name))
            .map(stranger)
            .collect()
    }
}

/// The variable of a key.
pub(super) fn variable(prefix: &str, key: &str) -> String {
    format!("{prefix}_{}", key.to_uppercase().replace('-', "_"))
}

/// Collects the variables of all single values of a table.
fn collect(keys: &[Key], prefix: &str, names: &mut Vec<String>) {
    for key in keys {
        let name = variable(prefix, key.name);
        match key.kind {
            Kind::Table(schema) => collect(schema.keys, &name, names),
            kind if kind.is_single() => names.push(name),
            _ => {}
        }
    }
}
