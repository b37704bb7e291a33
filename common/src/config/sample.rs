//! Documents that have every key of a schema: for the test of each part that its schema and its
//! raw struct know the same keys.
//!
//! Not for: the sample files in `deploy/`, which people write. Called by tests.

use super::schema::{Absent, Key, Kind, Schema, Support};

/// Two documents: one with every key that this version obeys, a list having an item for each form
/// of its tables; and one with only what must be given. Each part's test parses both.
#[must_use]
pub fn samples(schema: &'static Schema) -> [String; 2] {
    [true, false].map(|all| {
        let mut out = Vec::new();
        lines(&mut out, "", schema.keys, all);
        out.join("\n") + "\n"
    })
}

/// Dotted keys, one a line; lists of tables inline.
fn lines(out: &mut Vec<String>, path: &str, keys: &[Key], all: bool) {
    for key in keys.iter().filter(|key| wanted(key, all)) {
        match &key.kind {
            Kind::Table(schema) => lines(out, &format!("{path}{}.", key.name), schema.keys, all),
            kind => out.push(format!(
                "{path}{} = {}",
                key.name,
                value(kind, key.absent, all, 0)
            )),
        }
    }
}

/// Whether a sample has a key.
fn wanted(key: &Key, all: bool) -> bool {
    key.support == Support::Yes && (all || key.absent == Absent::Fault)
}

/// The fields of an inline table. `nth` makes the texts of items differ.
fn fields(keys: &[&[Key]], all: bool, nth: usize) -> String {
    let keys = keys
        .iter()
        .flat_map(|keys| keys.iter())
        .filter(|key| wanted(key, all));
    let field = |key: &Key| format!("{} = {}", key.name, value(&key.kind, key.absent, all, nth));
    keys.map(field).collect::<Vec<_>>().join(", ")
}

/// A value that a kind allows.
fn value(kind: &Kind, absent: Absent, all: bool, nth: usize) -> String {
    match (kind, absent) {
        (Kind::Text, Absent::Default(text)) => format!("{text:?}"),
        (Kind::Text, _) => format!("\"text-{nth}\""),
        (Kind::Checked { example, .. }, _) => format!("'{example}'"),
        (Kind::Choice { allowed, .. }, _) => format!("{:?}", allowed.last().unwrap_or(&"")),
        (Kind::Size { max, .. } | Kind::Rate { max, .. } | Kind::Duration { max, .. }, _) => {
            format!("{max:?}")
        }
        (Kind::Percent { max, .. }, _) => format!("\"{max}%\""),
        (Kind::Integer { max, .. }, _) => max.to_string(),
        (Kind::Bool, _) => "true".to_owned(),
        (Kind::Socket, _) => "\"127.0.0.1:7401\"".to_owned(),
        (Kind::HostPort, _) => "\"bus1.dc1:7400\"".to_owned(),
        (Kind::Url(schemes), _) => format!("\"{}://host/path\"", schemes.first().unwrap_or(&"")),
        (Kind::Path, _) => "\"/tmp/path\"".to_owned(),
        (Kind::Map(kind), _) => format!("{{ key = {} }}", value(kind, absent, all, nth)),
        (Kind::Table(schema), _) => format!("{{ {} }}", fields(&[schema.keys], all, nth)),
        (Kind::OneOf { .. }, _) => forms(kind, all).swap_remove(0),
        (Kind::List { item, .. }, _) => match item {
            Kind::OneOf { .. } => format!("[{}]", forms(item, all).join(", ")),
            item => format!("[{}]", value(item, absent, all, nth)),
        },
        (Kind::Any, _) => "\"anything\"".to_owned(),
    }
}

/// Each form of a tagged table.
fn forms(kind: &Kind, all: bool) -> Vec<String> {
    let Kind::OneOf {
        tag,
        common,
        variants,
    } = kind
    else {
        return vec!["{}".to_owned()];
    };
    let known = variants
        .iter()
        .filter(|variant| variant.support == Support::Yes);
    let form = |(nth, variant): (usize, &super::Variant)| {
        let rest = fields(&[common, variant.keys], all, nth);
        let comma = if rest.is_empty() { "" } else { ", " };
        format!("{{ {tag} = {:?}{comma}{rest} }}", variant.name)
    };
    known.enumerate().map(form).collect()
}
