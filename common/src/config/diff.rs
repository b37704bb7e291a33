//! What two good documents of one schema differ in, for people and for who applies the new one.
//!
//! Both are effective documents ([`super::Loaded::effective`]): defaults are filled in, so that a key
//! that is left out equals its default, and comments and order of keys do not count.
//!
//! Not for: whether a change can be made while a part runs (the part knows). Called by the parts that
//! reload. Pure.

use std::{collections::BTreeSet, fmt};

use toml::{Table, Value};

use super::schema::{Kind, Schema};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// A value is another: `zone`, `limits.memory`. Lists without names count as one value.
    Key(String),
    /// A list, such as `task`, has an item of this name now.
    Added {
        /// The list.
        list: String,
        /// The item.
        name: String,
    },
    /// A list has no item of this name any more.
    Removed {
        /// The list.
        list: String,
        /// The item.
        name: String,
    },
    /// An item of a list has other values.
    Changed {
        /// The list.
        list: String,
        /// The item.
        name: String,
        /// The keys whose values are others.
        keys: Vec<String>,
    },
    /// A list has its items in another order.
    Order {
        /// The list.
        list: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "{key} changed"),
            Self::Added { list, name } => write!(f, "{list} {name} added"),
            Self::Removed { list, name } => write!(f, "{list} {name} removed"),
            Self::Changed { list, name, keys } => {
                write!(f, "{list} {name} changed its {}", keys.join(", "))
            }
            Self::Order { list } => write!(f, "the order of {list} changed"),
        }
    }
}

/// What differs between two effective documents, in the order of the schema. A document that is none
/// counts as empty.
#[must_use]
pub fn differences(schema: &Schema, old: &str, new: &str) -> Vec<Difference> {
    let table = |text: &str| text.parse::<Table>().unwrap_or_default();
    let mut found = Vec::new();
    of_table("", schema, &table(old), &table(new), &mut found);
    found
}

fn of_table(path: &str, schema: &Schema, old: &Table, new: &Table, out: &mut Vec<Difference>) {
    for key in schema.keys {
        let (was, is) = (old.get(key.name), new.get(key.name));
        if was == is {
            continue;
        }
        let path = if path.is_empty() {
            key.name.to_owned()
        } else {
            format!("{path}.{}", key.name)
        };
        match key.kind {
            Kind::Table(inner) => {
                let table = |value: Option<&Value>| {
                    let table = value.and_then(Value::as_table);
                    table.cloned().unwrap_or_default()
                };
                // A table that came or went may have no keys of its own.
                if was.is_none() != is.is_none() {
                    out.push(Difference::Key(path));
                } else {
                    of_table(&path, inner, &table(was), &table(is), out);
                }
            }
            Kind::List {
                unique: Some(name), ..
            } => of_list(&path, &items(was, name), &items(is, name), out),
            _ => out.push(Difference::Key(path)),
        }
    }
}

/// The items of a list, by name.
fn items<'a>(list: Option<&'a Value>, key: &str) -> Vec<(&'a str, &'a Table)> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    let named = items.filter_map(|item| {
        let table = item.as_table()?;
        Some((table.get(key)?.as_str()?, table))
    });
    named.collect()
}

fn of_list(list: &str, old: &[(&str, &Table)], new: &[(&str, &Table)], out: &mut Vec<Difference>) {
    let find = |items: &[(&str, &Table)], name: &str| items.iter().position(|item| item.0 == name);
    let name_of = |name: &str| (list.to_owned(), name.to_owned());
    for (name, was) in old {
        let (list, name) = name_of(name);
        match find(new, &name).and_then(|at| new.get(at)) {
            None => out.push(Difference::Removed { list, name }),
            Some((_, is)) if was != is => {
                let keys: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
                let keys = keys.into_iter().filter(|key| was.get(*key) != is.get(*key));
                let keys = keys.cloned().collect();
                out.push(Difference::Changed { list, name, keys });
            }
            Some(_) => {}
        }
    }
    for (name, _) in new.iter().filter(|(name, _)| find(old, name).is_none()) {
        let (list, name) = name_of(name);
        out.push(Difference::Added { list, name });
    }
    let kept = |of: &[(&str, &Table)], other: &[(&str, &Table)]| -> Vec<String> {
        let names = of.iter().map(|item| item.0.to_owned());
        names.filter(|name| find(other, name).is_some()).collect()
    };
    if kept(old, new) != kept(new, old) {
        out.push(Difference::Order {
            list: list.to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Key, *};

    static ITEM: Schema = Schema::new(
        "An item.",
        &[
            Key::required("id", Kind::Text, "Its name."),
            Key::default("paths", Kind::list(&Kind::Text, 0), "[]", "Paths."),
            Key::default("labels", Kind::Map(&Kind::Text), "{}", "Labels."),
        ],
    );
    static LIMITS: Schema = Schema::new(
        "Limits.",
        &[
            Key::optional("memory", Kind::Text, "Memory."),
            Key::optional("cpu", Kind::Text, "CPU."),
        ],
    );
    static SCHEMA: Schema = Schema::new(
        "A document.",
        &[
            Key::optional("zone", Kind::Text, "A zone."),
            Key::table("limits", &LIMITS),
            Key::optional_table("manager", &LIMITS),
            Key::tables("task", Kind::list_by(&Kind::Table(&ITEM), "id"), "Items."),
        ],
    );

    fn check(old: &str, new: &str, wanted: &[&str]) {
        let found = differences(&SCHEMA, old, new);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, wanted, "{old} against {new}");
    }

    #[test]
    fn what_stands_elsewhere_in_the_file_is_no_difference() {
        check("", "", &[]);
        check("zone = 'a' # here", "\n\nzone = \"a\"\n", &[]);
        check(
            "[[task]]\nid = 'a'\npaths = ['x']\nlabels = { b = '1', c = '2' }",
            "[[task]]\nlabels = { c = '2', b = '1' }\npaths = [\n'x' ]\nid = 'a'",
            &[],
        );
    }

    #[test]
    fn single_values_are_named_with_their_tables() {
        check("zone = 'a'", "zone = 'b'", &["zone changed"]);
        check("zone = 'a'", "", &["zone changed"]);
        check(
            "[limits]\nmemory = '1'\ncpu = '2'",
            "[limits]\nmemory = '2'",
            &["limits.memory changed", "limits.cpu changed"],
        );
        check("", "[manager]", &["manager changed"]);
    }

    #[test]
    fn items_are_compared_by_name() {
        let task = |id: &str, more: &str| format!("[[task]]\nid = '{id}'\n{more}\n");
        check(
            &(task("a", "") + &task("b", "paths = ['x']")),
            &(task("c", "") + &task("b", "paths = ['x', 'y']\nlabels = { d = '1' }")),
            &[
                "task a removed",
                "task b changed its labels, paths",
                "task c added",
            ],
        );
        check(
            &(task("a", "") + &task("b", "")),
            &(task("b", "") + &task("a", "")),
            &["the order of task changed"],
        );
        check(
            &(task("a", "") + &task("b", "")),
            &task("b", ""),
            &["task a removed"],
        );
    }
}
