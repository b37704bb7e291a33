//! `tributary check FILE`: any part's config file, with all its faults.
//!
//! The part is told by `--part`, by the file's name, or by the keys that only one part has.

use std::{borrow::Cow, path::Path};

use anyhow::{Context as _, bail};
use tributary_common::config::{Env, Fault, Faults, Loaded};

use crate::out;

/// A part that has a config file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// tributary-agent
    Agent,
    /// tributary-bus
    Bus,
    /// tributary-manager
    Manager,
}

/// Whether the file is one that its daemon takes; its faults are printed, or what is good but probably not
/// meant.
///
/// # Errors
/// When the file cannot be read, or nobody can tell whose it is.
pub(crate) fn run(path: &Path, part: Option<Part>) -> anyhow::Result<bool> {
    let bytes =
        std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let Some(part) = part.or_else(|| by_name(path)).or_else(|| by_keys(&text)) else {
        bail!(
            "{} does not tell whose config it is; say --part agent, bus or manager",
            path.display()
        );
    };
    let name = path.display().to_string();
    let is_text = matches!(text, Cow::Borrowed(_));
    let verdict = match part {
        // Whoever loads the file says where it is no text.
        Part::Agent if !is_text => warnings(tributary_agent::config::load(path, &Env::none())),
        Part::Bus if !is_text => warnings(tributary_bus::config::load(path, &Env::none())),
        Part::Manager if !is_text => warnings(tributary_manager::config::load(path, &Env::none())),
        Part::Agent => warnings(tributary_agent::config::parse(&text, &name)),
        Part::Bus => warnings(tributary_bus::config::parse(&text, &name)),
        Part::Manager => warnings(tributary_manager::config::parse(&text, &name, &Env::none())),
    };
    match &verdict {
        Err(faults) => out::line(faults),
        Ok(warnings) => {
            for warning in warnings {
                out::line(format_args!("warning: {warning}"));
            }
            out::line(format_args!("{name}: good"));
        }
    }
    Ok(verdict.is_ok())
}

/// What is good but probably not meant.
fn warnings<C>(loaded: Result<Loaded<C>, Faults>) -> Result<Vec<Fault>, Faults> {
    loaded.map(|loaded| loaded.warnings().to_vec())
}

fn by_name(path: &Path) -> Option<Part> {
    let name = path.file_stem()?.to_string_lossy().into_owned();
    [
        ("agent", Part::Agent),
        ("bus", Part::Bus),
        ("manager", Part::Manager),
    ]
    .into_iter()
    .find_map(|(word, part)| name.contains(word).then_some(part))
}

/// Keys that stand at the start of a line in one part's file only.
fn by_keys(text: &str) -> Option<Part> {
    let begins = |word: &str| text.lines().any(|line| line.trim_start().starts_with(word));
    if begins("[[task]]") || begins("[[bus]]") || begins("state_dir") {
        Some(Part::Agent)
    } else if begins("[[destination]]") || begins("[[route]]") || begins("data_dir") {
        Some(Part::Bus)
    } else if begins("database") {
        Some(Part::Manager)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_is_told_by_name_or_keys() {
        assert_eq!(
            by_name(Path::new("/etc/tributary/bus.toml")),
            Some(Part::Bus)
        );
        assert_eq!(by_name(Path::new("x.toml")), None);
        let check = |text: &str, part| assert_eq!(by_keys(text), part);
        check("zone = \"a\"\n[[task]]\n", Some(Part::Agent));
        check("  [[route]]\n", Some(Part::Bus));
        check("database = \"sqlite://x\"\n", Some(Part::Manager));
        check("zone = \"a\"\n", None);
    }
}
