//! The text of `docs/config.md`, made from the schemas, so that it cannot be untrue.
//!
//! Not for: introductions and recipes; those are written by hand elsewhere. Called by a test.

use super::schema::{Absent, Key, Kind, Schema, Support, Variant};

/// One chapter a part: `(part, schema)`.
#[must_use]
pub fn reference_markdown(parts: &[(&str, &'static Schema)]) -> String {
    let mut out = String::from(
        "# Configuration\n\nMade from the schemas in the code; a test compares the two.\n\nTOML. \
         Unknown keys are refused, all faults are listed at once with line and column. Sizes, \
         rates and durations are text with a unit: `\"64MiB\"`, `\"20MB/s\"`, `\"200ms\"`, \
         `\"7d\"`. A single value that is in no list can come from the environment: \
         `TRIBUTARY_<PART>_<KEY>`, with `_` between table and key (`TRIBUTARY_BUS_LIMITS_MEMORY`); \
         a misspelt one is refused, others that begin so are ignored with a warning. `--check` lists the faults, `--print-config` prints what counts, without secrets.\n",
    );
    for (part, schema) in parts {
        out.push_str(&format!("\n## {part}.toml\n\n{}\n", schema.doc));
        keys_table(&mut out, schema.keys);
        children(&mut out, "", schema.keys);
    }
    out
}

/// The table of some keys.
fn keys_table(out: &mut String, keys: &[Key]) {
    if keys.is_empty() {
        return;
    }
    out.push_str("\n| key | value | default | meaning |\n|---|---|---|---|\n");
    for key in keys {
        let (value, default) = match key.support {
            Support::No(_) => ("not in this version".to_owned(), String::new()),
            Support::Ignored(_) => (key.kind.allowed(), "ignored".to_owned()),
            Support::Yes => (key.kind.allowed(), default(key)),
        };
        let more = match key.support {
            Support::Yes => String::new(),
            Support::No(text) => format!(" Refused: {text}."),
            Support::Ignored(text) => format!(" Ignored with a warning: {text}."),
        };
        let secret = if key.secret { " Never shown." } else { "" };
        out.push_str(&format!(
            "| `{}` | {} | {default} | {}{more}{secret} |\n",
            key.name,
            cell(&value),
            cell(key.doc)
        ));
    }
}

/// What counts when a key is not given.
fn default(key: &Key) -> String {
    match (key.absent, &key.kind) {
        (Absent::Fault, _) => "required".to_owned(),
        (Absent::Nothing, _) => "none".to_owned(),
        (Absent::Default(_), Kind::Table(_)) => "its defaults".to_owned(),
        (Absent::Default(text), _) => format!("`{}`", cell(text)),
    }
}

/// Text that does not break a table's row.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// A section for each table below.
fn children(out: &mut String, path: &str, keys: &[Key]) {
    for key in keys.iter().filter(|key| key.support == Support::Yes) {
        let path = if path.is_empty() {
            key.name.to_owned()
        } else {
            format!("{path}.{}", key.name)
        };
        nested(out, &path, &key.kind, false);
    }
}

/// The sections of a kind that holds tables.
fn nested(out: &mut String, path: &str, kind: &Kind, listed: bool) {
    let title = if listed {
        format!("[[{path}]]")
    } else {
        format!("[{path}]")
    };
    match kind {
        Kind::List { item, .. } => nested(out, path, item, true),
        Kind::Table(schema) => {
            out.push_str(&format!("\n### `{title}`\n\n{}\n", schema.doc));
            keys_table(out, schema.keys);
            children(out, path, schema.keys);
        }
        Kind::OneOf {
            tag,
            common,
            variants,
        } => {
            out.push_str(&format!(
                "\n### `{title}`\n\nIts form depends on `{tag}`.\n"
            ));
            keys_table(out, common);
            children(out, path, common);
            for variant in *variants {
                form(out, path, tag, variant);
            }
        }
        _ => {}
    }
}

/// The section of one form of a table.
fn form(out: &mut String, path: &str, tag: &str, variant: &Variant) {
    out.push_str(&format!(
        "\n#### `{path}` with `{tag} = \"{}\"`\n\n{}",
        variant.name, variant.doc
    ));
    match variant.support {
        Support::Yes => out.push('\n'),
        Support::No(_) | Support::Ignored(_) => out.push_str(" Not in this version.\n"),
    }
    keys_table(out, variant.keys);
    children(out, path, variant.keys);
}
