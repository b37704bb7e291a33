//! The last good configuration, kept in the state directory.
//!
//! # Constraints
//! It is for people: the agent starts from its own file, with what the manager gave over it (see
//! [`tributary_common::given`]).
//!
//! # Layout
//! `<state_dir>/config/agent.toml`: a line with format and version, a line with the sum of what
//! follows it, a line with the time, then the effective configuration as TOML. See `docs/formats.md`.
//!
//! # Recovery
//! It is replaced as a whole. A sum that does not agree means that somebody else wrote it.
//!
//! Not for: the checks of a configuration (see [`crate::config`]). [`super::Live`] writes it,
//! `tributary inspect` reads it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tributary_common::{
    crc::crc32c,
    disk::{self, DiskError},
};

use crate::config;

/// The folder below a state directory.
const FOLDER: &str = "config";
/// The file in it.
const FILE: &str = "agent.toml";
/// The beginning of the first line; the version follows.
const MAGIC: &str = "# tributary agent configuration, version ";
/// The version that this build writes and reads.
const VERSION: u32 = 1;

/// A kept configuration, for people.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// The file that was read.
    pub file: PathBuf,
    /// The name of its content, as in `/status`.
    pub version: String,
    /// Since when it counted, in ms since 1970.
    pub applied_ms: u64,
    /// The ids of its tasks.
    pub tasks: Vec<String>,
    /// The configuration.
    pub toml: String,
}

/// Keeps a configuration; the file that holds it.
///
/// # Errors
/// [`DiskError`]; what was kept before is still there.
pub(super) fn write(
    state_dir: &Path,
    effective: &str,
    applied_ms: u64,
) -> Result<PathBuf, DiskError> {
    let dir = state_dir.join(FOLDER);
    disk::create_dir_all(&dir)?;
    let path = dir.join(FILE);
    disk::replace(&path, document(effective, applied_ms).as_bytes())?;
    Ok(path)
}

fn document(effective: &str, applied_ms: u64) -> String {
    let body = format!("# applied {applied_ms}\n{effective}");
    let sum = crc32c(body.as_bytes());
    format!("{MAGIC}{VERSION}\n# crc32c {sum:08x}\n{body}")
}

/// Whether a file is a kept configuration.
///
/// # Errors
/// When it cannot be read.
pub fn is_kept(path: &Path) -> anyhow::Result<bool> {
    let mut file = disk::open_read(path)?;
    let mut magic = [0; MAGIC.len()];
    Ok(std::io::Read::read_exact(&mut file, &mut magic).is_ok() && magic == MAGIC.as_bytes())
}

/// Reads a kept configuration.
///
/// # Errors
/// When it cannot be read, is of another version, or is not what the agent wrote.
pub fn inspect(path: &Path) -> anyhow::Result<Kept> {
    let bytes = disk::read(path)?.with_context(|| format!("{} is missing", path.display()))?;
    let text = String::from_utf8(bytes)
        .with_context(|| format!("{} is no kept configuration", path.display()))?;
    let (applied_ms, toml) =
        read(&text).with_context(|| format!("failed to read {}", path.display()))?;
    let loaded = config::parse(toml, &path.display().to_string())?;
    let tasks = loaded.value.tasks.iter().map(|task| task.id.to_string());
    Ok(Kept {
        file: path.to_owned(),
        version: super::version_of(toml),
        applied_ms,
        tasks: tasks.collect(),
        toml: toml.to_owned(),
    })
}

/// When a kept document was applied, and the document.
fn read(text: &str) -> anyhow::Result<(u64, &str)> {
    let (first, rest) = text.split_once('\n').unwrap_or_default();
    match first.strip_prefix(MAGIC).map(str::parse::<u32>) {
        Some(Ok(VERSION)) => {}
        Some(Ok(other)) => bail!("it has version {other}; this build reads version {VERSION}"),
        Some(Err(_)) | None => bail!("it is no kept configuration"),
    }
    let (second, body) = rest.split_once('\n').unwrap_or_default();
    let sum = second.strip_prefix("# crc32c ").unwrap_or_default();
    if u32::from_str_radix(sum, 16).ok() != Some(crc32c(body.as_bytes())) {
        bail!("its sum does not agree: the agent did not write it so");
    }
    let (third, toml) = body.split_once('\n').unwrap_or_default();
    let applied = third.strip_prefix("# applied ").unwrap_or_default();
    Ok((applied.parse()?, toml))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let text = "state_dir = '/s'\n[[bus]]\nname = 'a'\nnodes = ['a:1']\n\
            [[task]]\nid = 't'\ntopic = 'x'\npaths = ['/x']\n";
        let config = config::parse(text, "test").unwrap().value;
        let path = write(dir.path(), &config.effective, 7).unwrap();
        assert!(is_kept(&path).unwrap());
        let kept = inspect(&path).unwrap();
        assert_eq!((kept.applied_ms, kept.tasks), (7, vec!["t".to_owned()]));
        assert_eq!(kept.toml, config.effective);
        // A daemon starts from it as from any file.
        let again = config::parse(&std::fs::read_to_string(&path).unwrap(), "kept").unwrap();
        assert_eq!(again.value.effective, config.effective);
    }

    #[test]
    fn what_somebody_else_wrote_is_named() {
        let check = |text: &str, wanted: &str| {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text:?}: {error}");
        };
        let good = document("zone = 'a'\n", 7);
        assert_eq!(read(&good).unwrap(), (7, "zone = 'a'\n"));
        check(&good.replace("'a'", "'b'"), "its sum does not agree");
        check(&good.replace("version 1", "version 2"), "it has version 2");
        check("zone = 'a'\n", "no kept configuration");
        check("", "no kept configuration");
    }
}
