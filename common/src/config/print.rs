//! The configuration that counts, as TOML that can be loaded again; secrets redacted.
//!
//! Top-level tables and lists of tables get headers; what is inside a list is written inline.
//!
//! Not for: the reference (see `reference`). Called once per load.

use serde_json::{Map, Value};

use super::{
    schema::{Key, Kind, Schema},
    units,
    walk::looks_secret,
};

/// What stands for a secret.
const REDACTED: &str = "<redacted>";

/// The document of a checked tree.
pub(super) fn effective(schema: &Schema, tree: &Value) -> String {
    let mut out = String::new();
    if let Value::Object(tree) = tree {
        section(&mut out, "", schema.keys, tree);
    }
    out.trim_start().to_owned()
}

/// The keys of a table: first its values, then its tables, each under a header.
fn section(out: &mut String, path: &str, keys: &[Key], tree: &Map<String, Value>) {
    let given = || {
        keys.iter()
            .filter_map(|key| Some((key, tree.get(key.name)?)))
    };
    for (key, value) in given().filter(|(key, value)| !has_header(key, value)) {
        out.push_str(&format!(
            "{} = {}\n",
            key.name,
            inline(&key.kind, value, key.secret)
        ));
    }
    for (key, value) in given().filter(|(key, value)| has_header(key, value)) {
        let path = if path.is_empty() {
            key.name.to_owned()
        } else {
            format!("{path}.{}", key.name)
        };
        match (&key.kind, value) {
            (Kind::Table(schema), Value::Object(table)) => {
                out.push_str(&format!("\n[{path}]\n"));
                section(out, &path, schema.keys, table);
            }
            (Kind::List { item, .. }, Value::Array(items)) => {
                for table in items {
                    out.push_str(&format!("\n[[{path}]]\n"));
                    for (name, kind, secret, value) in fields(item, table) {
                        out.push_str(&format!(
                            "{} = {}\n",
                            bare(name),
                            inline(kind, value, secret)
                        ));
                    }
                }
            }
            _ => {}
        }
    }
}

/// Whether a value is written under a header of its own.
fn has_header(key: &Key, value: &Value) -> bool {
    match (&key.kind, value) {
        (Kind::Table(_), Value::Object(_)) => true,
        (
            Kind::List {
                item: Kind::Table(_) | Kind::OneOf { .. },
                ..
            },
            Value::Array(items),
        ) => !items.is_empty(),
        _ => false,
    }
}

/// The fields of a table value, in the schema's order: name, kind, whether secret, value.
fn fields<'v>(kind: &'v Kind, value: &'v Value) -> Vec<(&'v str, &'v Kind, bool, &'v Value)> {
    const TAG: &Kind = &Kind::Text;
    let Value::Object(tree) = value else {
        return Vec::new();
    };
    let of = |keys: &'v [Key]| {
        keys.iter()
            .filter_map(|key| Some((key.name, &key.kind, key.secret, tree.get(key.name)?)))
    };
    match kind {
        Kind::Table(schema) => of(schema.keys).collect(),
        Kind::OneOf {
            tag,
            common,
            variants,
        } => {
            let name = tree.get(*tag).and_then(Value::as_str);
            let keys = variants
                .iter()
                .find(|v| Some(v.name) == name)
                .map_or(&[][..], |v| v.keys);
            let tag = tree.get(*tag).map(|value| (*tag, TAG, false, value));
            tag.into_iter().chain(of(common)).chain(of(keys)).collect()
        }
        Kind::Map(kind) => tree
            .iter()
            .map(|(name, value)| (name.as_str(), *kind, looks_secret(name), value))
            .collect(),
        _ => Vec::new(),
    }
}

/// A value on one line.
fn inline(kind: &Kind, value: &Value, secret: bool) -> String {
    if secret {
        return format!("{REDACTED:?}");
    }
    match (kind, value) {
        (Kind::Size { .. }, Value::Number(number)) => quoted(number.as_u64(), units::show_size),
        (Kind::Rate { .. }, Value::Number(number)) => quoted(number.as_u64(), units::show_rate),
        (Kind::Duration { .. }, Value::Number(number)) => {
            quoted(number.as_u64(), units::show_duration)
        }
        (Kind::Percent { .. }, Value::Number(number)) => {
            quoted(number.as_f64(), units::show_percent)
        }
        (Kind::Url(_), Value::String(url)) => text(&without_password(url)),
        (Kind::List { item, .. }, Value::Array(items)) => {
            let items: Vec<_> = items
                .iter()
                .map(|value| inline(item, value, false))
                .collect();
            format!("[{}]", items.join(", "))
        }
        (Kind::Table(_) | Kind::OneOf { .. } | Kind::Map(_), Value::Object(_)) => {
            let fields: Vec<_> = fields(kind, value)
                .into_iter()
                .map(|(name, kind, secret, value)| {
                    format!("{} = {}", bare(name), inline(kind, value, secret))
                })
                .collect();
            if fields.is_empty() {
                "{}".to_owned()
            } else {
                format!("{{ {} }}", fields.join(", "))
            }
        }
        (_, Value::String(string)) => text(string),
        (_, other) => other.to_string(),
    }
}

/// A number with its unit, in quotes.
fn quoted<N>(number: Option<N>, show: fn(N) -> String) -> String {
    number
        .map(|number| format!("\"{}\"", show(number)))
        .unwrap_or_default()
}

/// A TOML string: literal where that reads better (regexes), else basic.
fn text(string: &str) -> String {
    let literal = string.contains(['\\', '"']) && !string.contains('\'');
    if literal && !string.chars().any(char::is_control) {
        return format!("'{string}'");
    }
    let mut out = String::from('"');
    for c in string.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A key, in quotes where TOML wants them.
fn bare(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !name.is_empty() && name.chars().all(plain) {
        name.to_owned()
    } else {
        text(name)
    }
}

/// A URL whose password is redacted: `postgres://user:<redacted>@host`.
fn without_password(url: &str) -> String {
    let parts = || {
        let (scheme, rest) = url.split_once("://")?;
        let (authority, path) = rest
            .split_once('/')
            .map_or((rest, None), |(a, p)| (a, Some(p)));
        let (user, host) = authority.rsplit_once('@')?;
        let (user, _password) = user.split_once(':')?;
        let path = path.map(|path| format!("/{path}")).unwrap_or_default();
        Some(format!("{scheme}://{user}:{REDACTED}@{host}{path}"))
    };
    parts().unwrap_or_else(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back() {
        for string in [
            "",
            "a",
            "a\"b",
            r"\d+'",
            r"^\d+ \[",
            "a\nb\tc\u{7f}\u{1}",
            "中文 🦀",
            "'",
        ] {
            let toml = format!("k = {}", text(string));
            let table = toml::de::DeTable::parse(&toml).unwrap();
            assert_eq!(
                table.get_ref()["k"].get_ref().as_str(),
                Some(string),
                "{toml}"
            );
        }
    }

    #[test]
    fn a_password_in_a_url_is_redacted() {
        assert_eq!(
            without_password("postgres://me:hunter2@db:5432/x"),
            "postgres://me:<redacted>@db:5432/x"
        );
        for plain in [
            "http://m:7500",
            "http://me@m/x:y@z",
            "sqlite:///a/b.db",
            "x",
        ] {
            assert_eq!(without_password(plain), plain);
        }
    }
}
