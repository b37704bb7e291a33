//! Walks a parsed document along a schema: finds every fault, applies environment and defaults.
//!
//! Not for: TOML itself, single values (`single`). Called by `parse`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    env::{Env, variable},
    fault::{Fault, Place},
    nearest::nearest,
    schema::{Absent, Key, Kind, Schema, Support, Variant},
    single::{Given, choose, single},
};

type Table<'a> = DeTable<'a>;
type Item<'a> = Spanned<DeValue<'a>>;

/// Turns byte offsets into places.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0)
            .chain(ends.map(|(at, _)| at + 1))
            .collect();
        Self { text, starts }
    }

    /// The place of a byte offset; the column counts characters.
    pub(super) fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line - 1];
        let before = self.text.get(start..offset).unwrap_or("");
        Place::At {
            line,
            column: before.chars().count() + 1,
        }
    }
}

/// What the walk has found so far.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    file: &'a str,
    lines: &'a Lines<'a>,
    env: &'a Env,
    /// Where everything is that the schema, not the document, says.
    fixed: Option<Place>,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Fault>,
    pub(super) places: BTreeMap<String, Place>,
}

/// A table's way down: its key's path, its place, and the prefix of its variables, if any.
#[derive(Debug, Clone)]
struct At<'p> {
    path: &'p str,
    place: Place,
    prefix: Option<&'p str>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(file: &'a str, lines: &'a Lines<'a>, env: &'a Env) -> Self {
        Self {
            file,
            lines,
            env,
            fixed: None,
            faults: Vec::new(),
            warnings: Vec::new(),
            places: BTreeMap::new(),
        }
    }

    /// Walks the whole document of a part.
    pub(super) fn document(&mut self, part: &str, schema: &Schema, table: &Table<'_>) -> Value {
        let prefix = format!("TRIBUTARY_{}", part.to_uppercase());
        let at = At {
            path: "",
            place: Place::Whole,
            prefix: Some(&prefix),
        };
        let root = self.table(&[schema.keys], Some(table), &at);
        for stranger in self.env.strangers(schema.keys, &prefix) {
            let place = Place::Environment(stranger.name);
            if stranger.is_meant {
                self.fault(place, "", stranger.why);
            } else {
                self.warnings.push(Fault {
                    file: self.file.to_owned(),
                    place,
                    key: String::new(),
                    why: stranger.why,
                });
            }
        }
        Value::Object(root)
    }

    /// Notes a fault.
    pub(super) fn fault(&mut self, place: Place, key: &str, why: String) {
        self.faults.push(Fault {
            file: self.file.to_owned(),
            place,
            key: key.to_owned(),
            why,
        });
    }

    /// The place of a span.
    pub(super) fn place(&self, span: std::ops::Range<usize>) -> Place {
        self.fixed
            .clone()
            .unwrap_or_else(|| self.lines.place(span.start))
    }

    /// Walks a table whose keys stand in `groups`.
    fn table(
        &mut self,
        groups: &[&[Key]],
        table: Option<&Table<'_>>,
        at: &At<'_>,
    ) -> Map<String, Value> {
        let known = || groups.iter().flat_map(|keys| keys.iter());
        for (name, value) in table.into_iter().flatten() {
            let path = join(at.path, name.get_ref());
            self.places.insert(path.clone(), self.place(value.span()));
            if !known().any(|key| key.name == name.get_ref()) {
                let names = known().map(|key| key.name);
                let why = unknown(name.get_ref(), names.collect());
                self.fault(self.place(name.span()), &path, why);
            }
        }
        let mut tree = Map::new();
        for key in known() {
            let given = table.and_then(|table| table.get_key_value(key.name));
            let path = join(at.path, key.name);
            if let Some(value) = self.key(key, given, &path, at) {
                tree.insert(key.name.to_owned(), value);
            }
        }
        tree
    }

    /// One key of a table: what serde gets for it, if anything.
    fn key(
        &mut self,
        key: &Key,
        given: Option<(&Spanned<std::borrow::Cow<'_, str>>, &Item<'_>)>,
        path: &str,
        at: &At<'_>,
    ) -> Option<Value> {
        let name = at.prefix.map(|prefix| variable(prefix, key.name));
        let env = self.env;
        let from_env = name
            .as_deref()
            .filter(|_| key.kind.is_single())
            .and_then(|name| env.get(name));
        let place = match (&from_env, &given, &name) {
            (Some(_), _, Some(name)) => Some(Place::Environment(name.clone())),
            (_, Some((key, _)), _) => Some(self.place(key.span())),
            _ => None,
        };
        if let Some(place) = place {
            match key.support {
                Support::Yes => {}
                Support::No(instead) => {
                    self.fault(place, path, format!("is not in this version; {instead}"));
                    return None;
                }
                Support::Ignored(effect) => {
                    let why = format!("is not in this version and ignored; {effect}");
                    let (file, key) = (self.file.to_owned(), path.to_owned());
                    self.warnings.push(Fault {
                        file,
                        place,
                        key,
                        why,
                    });
                    return None;
                }
            }
        }
        if let (Some(text), Some(name)) = (from_env, &name) {
            let place = Place::Environment(name.clone());
            self.places.insert(path.to_owned(), place.clone());
            let value = single(&key.kind, Given::Bare(text), key.secret);
            let value = value.map_err(|why| self.fault(place, path, why)).ok();
            return value.or_else(|| self.instead(key, path, at));
        }
        match given {
            Some((_, value)) => self
                .value(&key.kind, value, path, name.as_deref(), key.secret)
                .or_else(|| self.instead(key, path, at)),
            None => self.absent(key, path, at, name.as_deref()),
        }
    }

    /// What stands for a value at fault, so that the part can still look at the rest.
    fn instead(&mut self, key: &Key, path: &str, at: &At<'_>) -> Option<Value> {
        match key.absent {
            Absent::Default(text) => self.default(key, text, path, at),
            Absent::Nothing | Absent::Fault => None,
        }
    }

    /// A key that was not given.
    fn absent(
        &mut self,
        key: &Key,
        path: &str,
        at: &At<'_>,
        prefix: Option<&str>,
    ) -> Option<Value> {
        if let Kind::Table(schema) = key.kind {
            let by_env = prefix.is_some_and(|prefix| self.env.reaches(schema.keys, prefix));
            if by_env || matches!(key.absent, Absent::Default(_)) {
                let at = At {
                    path,
                    place: at.place.clone(),
                    prefix,
                };
                return Some(Value::Object(self.table(&[schema.keys], None, &at)));
            }
        }
        match key.absent {
            Absent::Nothing => None,
            Absent::Fault => {
                let why = format!("is missing; expected is {}", key.kind.allowed());
                self.fault(at.place.clone(), path, why);
                None
            }
            Absent::Default(text) => self.default(key, text, path, at),
        }
    }

    /// A default, read as the document would be.
    fn default(&mut self, key: &Key, text: &'static str, path: &str, at: &At<'_>) -> Option<Value> {
        if key.support != Support::Yes {
            return None;
        }
        if key.kind.is_single() {
            let value = single(&key.kind, Given::Bare(text), false);
            return value
                .map_err(|why| self.fault(at.place.clone(), path, slip(text, &why)))
                .ok();
        }
        match DeValue::parse(text) {
            Ok(value) => {
                let before = self.fixed.replace(at.place.clone());
                let value = self.value(&key.kind, &value, path, None, false);
                self.fixed = before;
                value
            }
            Err(error) => {
                self.fault(at.place.clone(), path, slip(text, error.message()));
                None
            }
        }
    }

    /// A value of the document.
    fn value(
        &mut self,
        kind: &Kind,
        value: &Item<'_>,
        path: &str,
        prefix: Option<&str>,
        secret: bool,
    ) -> Option<Value> {
        let place = self.place(value.span());
        match (kind, value.get_ref()) {
            (Kind::List { item, min, unique }, DeValue::Array(items)) => {
                if items.len() < *min {
                    let why = format!(
                        "{} items are too few; expected is {}",
                        items.len(),
                        kind.allowed()
                    );
                    self.fault(place, path, why);
                }
                Some(self.list(item, *unique, items.iter(), path))
            }
            (Kind::Table(schema), DeValue::Table(table)) => {
                let at = At {
                    path,
                    place,
                    prefix,
                };
                Some(Value::Object(self.table(&[schema.keys], Some(table), &at)))
            }
            (Kind::Map(kind), DeValue::Table(table)) => Some(self.map(kind, table, path)),
            (
                Kind::OneOf {
                    tag,
                    common,
                    variants,
                },
                DeValue::Table(table),
            ) => {
                let variant = self.variant(tag, variants, table, path, &place)?;
                let at = At {
                    path,
                    place,
                    prefix: None,
                };
                let tag_key = [Key::required(tag, Kind::Text, "")];
                let groups = [common, variant.keys, &tag_key];
                Some(Value::Object(self.table(&groups, Some(table), &at)))
            }
            (Kind::Any, _) => None,
            (kind, other) => single(kind, Given::Toml(other), secret)
                .map_err(|why| self.fault(place, path, why))
                .ok(),
        }
    }

    /// The items of a list.
    fn list<'i>(
        &mut self,
        kind: &Kind,
        unique: Option<&str>,
        items: impl Iterator<Item = &'i Item<'i>>,
        path: &str,
    ) -> Value {
        let mut list = Vec::new();
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for (at, item) in items.enumerate() {
            let path = format!("{path}[{at}]");
            self.places.insert(path.clone(), self.place(item.span()));
            let Some(value) = self.value(kind, item, &path, None, false) else {
                continue;
            };
            if let Some((unique, word)) =
                unique.and_then(|key| Some((key, value.get(key)?.as_str()?)))
            {
                let here = join(&path, unique);
                match seen.get(word) {
                    Some(first) => {
                        let place = self.places.get(&here).cloned().unwrap_or(Place::Whole);
                        self.fault(place, &here, format!("{word:?} stands in {first} already"));
                    }
                    None => drop(seen.insert(word.to_owned(), here)),
                }
            }
            list.push(value);
        }
        Value::Array(list)
    }

    /// A table of free keys.
    fn map(&mut self, kind: &Kind, table: &Table<'_>, path: &str) -> Value {
        let mut tree = Map::new();
        for (name, value) in table {
            let path = join(path, name.get_ref());
            self.places.insert(path.clone(), self.place(value.span()));
            let secret = looks_secret(name.get_ref());
            if let Some(value) = self.value(kind, value, &path, None, secret) {
                tree.insert(name.get_ref().clone().into_owned(), value);
            }
        }
        Value::Object(tree)
    }

    /// Which form a tagged table has.
    fn variant<'v>(
        &mut self,
        tag: &str,
        variants: &'v [Variant],
        table: &Table<'_>,
        path: &str,
        place: &Place,
    ) -> Option<&'v Variant> {
        let path = join(path, tag);
        let named = |support: fn(&Support) -> bool| -> Vec<&str> {
            variants
                .iter()
                .filter(|v| support(&v.support))
                .map(|v| v.name)
                .collect()
        };
        let allowed = named(|support| !matches!(support, Support::No(_)));
        let later = named(|support| matches!(support, Support::No(_)));
        let Some(given) = table.get(tag) else {
            let why = format!("is missing; allowed are {}", allowed.join(", "));
            self.fault(place.clone(), &path, why);
            return None;
        };
        let text = given.get_ref().as_str().unwrap_or_default();
        if let Err(why) = choose(text, &allowed, &later) {
            self.fault(self.place(given.span()), &path, format!("{text:?} {why}"));
            return None;
        }
        variants.iter().find(|variant| variant.name == text)
    }
}

/// A key's path below another.
fn join(path: &str, name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let name = if !name.is_empty() && name.chars().all(plain) {
        name.to_owned()
    } else {
        format!("{name:?}")
    };
    if path.is_empty() {
        name
    } else {
        format!("{path}.{name}")
    }
}

/// The fault of an unknown key.
fn unknown(name: &str, mut known: Vec<&str>) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("is unknown; did you mean {near:?}?"),
        None => {
            known.sort_unstable();
            format!("is unknown; allowed are {}", known.join(", "))
        }
    }
}

/// The fault of a default that its own schema refuses: our slip, not the user's.
fn slip(text: &str, why: &str) -> String {
    format!("the default {text:?} cannot be used: {why}; this is a bug, please report it")
}

/// Whether the value of a free key is one that must not be shown.
pub(super) fn looks_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    [
        "password",
        "secret",
        "token",
        "credential",
        "private",
        "jaas",
        ".pem",
    ]
    .iter()
    .any(|word| name.contains(word))
}
