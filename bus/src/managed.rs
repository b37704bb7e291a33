//! Where topics go as the manager says it: a document over the node's own file, and what is kept of it.
//!
//! # Constraints
//! The data path works while the manager is down, also from a cold start: a document that was taken is kept on the
//! disk and counts from the next start on. It never keeps the node from starting: where it does not fit the file
//! any more the node goes by the file, and says so. Without `[manager]` in the file nothing could take it back, so
//! it does not count.
//!
//! # Layout
//! `<data_dir>/config/routes.toml`: a line with format and version, a line with the sum of what follows it, a line
//! with the manager's version of the document, then the document as it came. See `docs/formats.md`.
//!
//! # Recovery
//! It is replaced as a whole. A sum that does not agree means that somebody else wrote it: it does not count.
//!
//! Not for: how a document is applied (see [`crate::live`]), who asks for it (see [`crate::report`]).

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, bail};
use tributary_common::{
    config::{Faults, Loaded, Origin, Over},
    crc::crc32c,
    disk,
    report::{ROUTES_KEYS, RoutesFrom, RoutesHealth},
};

use crate::config::{self, Config};

/// The folder below the data directory.
const FOLDER: &str = "config";
/// The file in it.
const FILE: &str = "routes.toml";
/// The beginning of the first line; the version follows.
const MAGIC: &str = "# tributary bus routes, version ";
/// The version that this build writes and reads.
const VERSION: u32 = 1;
/// The longest version of a document, in bytes.
const MAX_VERSION_BYTES: usize = 100;

/// A document of the manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    /// Its version.
    pub(crate) version: String,
    /// TOML.
    pub(crate) text: String,
}

impl Document {
    /// The configuration of a file with this document over it.
    ///
    /// # Errors
    /// All faults, each with the name of the file or of this document.
    pub(crate) fn over(&self, file: &Arc<Origin>) -> Result<Loaded<Config>, Faults> {
        let name = format!("routes {} of the manager", self.version);
        let over = Over {
            name: &name,
            text: &self.text,
            keys: ROUTES_KEYS,
        };
        config::load_over(file, Some(over))
    }
}

/// Whether a version can be one: it stands in a line of its own.
pub(crate) fn is_version(text: &str) -> bool {
    let fits = (1..=MAX_VERSION_BYTES).contains(&text.len());
    fits && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What a node starts with.
#[derive(Debug)]
pub(crate) struct Start {
    /// The configuration that counts.
    pub(crate) config: Config,
    /// The document that is kept.
    pub(crate) document: Option<Document>,
    /// What is said of it.
    pub(crate) health: RoutesHealth,
}

/// Puts what is kept over the configuration of the file. Blocks shortly.
pub(crate) fn start(config: Config) -> Start {
    let mut start = Start {
        config,
        document: None,
        health: RoutesHealth::default(),
    };
    let document = match read(&start.config.data_dir) {
        Ok(None) => return start,
        Ok(Some(document)) => document,
        Err(error) => {
            let error = format!("{error:#}");
            tracing::error!(%error, "the manager's routes that were kept cannot be read; the node goes by those of its file until the manager says them again");
            start.health.fault = error;
            return start;
        }
    };
    if start.config.manager.is_none() {
        tracing::warn!(version = %document.version, "there are routes of a manager on the disk and no [manager] in the file; the node goes by those of its file");
        return start;
    }
    match document.over(&start.config.origin) {
        Ok(loaded) => {
            tracing::info!(version = %document.version, "the node goes by the manager's routes");
            start.config = loaded.value;
            start.health.from = RoutesFrom::Manager;
            start.health.version.clone_from(&document.version);
        }
        Err(faults) => {
            for fault in &faults {
                tracing::error!("{fault}");
            }
            tracing::error!(version = %document.version, "the manager's routes do not fit the file any more; the node goes by those of its file");
            start.health.refused.clone_from(&document.version);
            start.health.fault = faults.to_string();
        }
    }
    start.document = Some(document);
    start
}

/// Keeps a document, or nothing any more. Blocks.
///
/// # Errors
/// A disk that fails, or a file of another version, which is never overwritten; what was kept before is still there.
pub(crate) fn keep(data_dir: &Path, document: Option<&Document>) -> anyhow::Result<()> {
    let dir = data_dir.join(FOLDER);
    let path = dir.join(FILE);
    let before = disk::read(&path)?.unwrap_or_default();
    let head = before
        .split(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default();
    let head = String::from_utf8_lossy(head);
    let version = head.strip_prefix(MAGIC).map(str::parse::<u32>);
    if let Some(Ok(other)) = version.filter(|version| *version != Ok(VERSION)) {
        bail!(
            "{} has version {other}; this build writes version {VERSION}, and leaves it alone",
            path.display()
        );
    }
    match document {
        None => disk::remove(&path).map(drop)?,
        Some(document) => {
            disk::create_dir_all(&dir)?;
            disk::replace(&path, written(document).as_bytes())?;
        }
    }
    Ok(())
}

fn written(Document { version, text }: &Document) -> String {
    let body = format!("# given {version}\n{text}");
    let sum = crc32c(body.as_bytes());
    format!("{MAGIC}{VERSION}\n# crc32c {sum:08x}\n{body}")
}

fn read(data_dir: &Path) -> anyhow::Result<Option<Document>> {
    let path = data_dir.join(FOLDER).join(FILE);
    let failed = || format!("failed to read {}", path.display());
    let Some(bytes) = disk::read(&path)? else {
        return Ok(None);
    };
    let text = str::from_utf8(&bytes).with_context(failed)?;
    parse(text).with_context(failed).map(Some)
}

fn parse(text: &str) -> anyhow::Result<Document> {
    let (first, rest) = text.split_once('\n').unwrap_or_default();
    match first.strip_prefix(MAGIC).map(str::parse::<u32>) {
        Some(Ok(VERSION)) => {}
        Some(Ok(other)) => bail!("it has version {other}; this build reads version {VERSION}"),
        Some(Err(_)) | None => bail!("it is no document that the bus kept"),
    }
    let (second, body) = rest.split_once('\n').unwrap_or_default();
    let sum = second.strip_prefix("# crc32c ").unwrap_or_default();
    if u32::from_str_radix(sum, 16).ok() != Some(crc32c(body.as_bytes())) {
        bail!("its sum does not agree: the bus did not write it so");
    }
    let (third, text) = body.split_once('\n').unwrap_or_default();
    let version = third.strip_prefix("# given ").unwrap_or_default();
    Ok(Document {
        version: version.to_owned(),
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const ELSEWHERE: &str = "[[destination]]\nname = 'b'\nkind = 'file'\npath = '/b/{topic}'\n\
        [[route]]\ntopic = '*'\nto = [{ destination = 'b' }]\n";

    fn file(dir: &TempDir, manager: &str) -> Config {
        let dir = dir.path().display();
        let text = format!(
            "zone = 'z'\ncluster = 'c'\nnode = 'n'\ndata_dir = '{dir}'\n{manager}\n\
             [[destination]]\nname = 'a'\nkind = 'file'\npath = '/a/{{topic}}'\n\
             [[route]]\ntopic = '*'\nto = [{{ destination = 'a' }}]\n"
        );
        config::parse(&text, "bus.toml").unwrap().value
    }

    fn document(text: &str) -> Document {
        Document {
            version: "7-0a".to_owned(),
            text: text.to_owned(),
        }
    }

    /// What a node starts with whose disk has this document: whose routes, its destinations, what it refused.
    fn check(manager: &str, text: &str, wanted: (RoutesFrom, &str, &str), fault: &str) {
        let dir = TempDir::new().unwrap();
        keep(dir.path(), Some(&document(text))).unwrap();
        let start = start(file(&dir, manager));
        let names = start.config.destinations.iter();
        let names: Vec<&str> = names.map(|one| one.name.as_str()).collect();
        let health = start.health;
        let found = (health.from, names.join(" "), health.refused.as_str());
        assert_eq!(found, (wanted.0, wanted.1.to_owned(), wanted.2));
        assert_eq!(health.fault, fault);
    }

    #[test]
    fn what_was_taken_counts_from_the_next_start_on_where_it_fits_the_file() {
        let manager = "[manager]\nurl = 'http://127.0.0.1:1'";
        check(manager, ELSEWHERE, (RoutesFrom::Manager, "b", ""), "");
        check("", ELSEWHERE, (RoutesFrom::File, "a", ""), "");
        // What the document does not have is the file's.
        let routes = "[[route]]\ntopic = 'x'\nto = [{ destination = 'a' }]\n";
        check(manager, routes, (RoutesFrom::Manager, "a", ""), "");
        let unknown = "\n[[route]]\ntopic = 'x'\nto = [{ destination = 'c' }]\n";
        check(
            manager,
            unknown,
            (RoutesFrom::File, "a", "7-0a"),
            "routes 7-0a of the manager:4:23: route[0].to[0].destination: \"c\" is no [[destination]]; there are a",
        );
    }

    #[test]
    fn what_is_kept_is_read_again_and_what_somebody_else_wrote_is_named() {
        let dir = TempDir::new().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        keep(dir.path(), Some(&document(ELSEWHERE))).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(document(ELSEWHERE)));
        keep(dir.path(), None).unwrap();
        keep(dir.path(), None).unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let newer = dir.path().join(FOLDER).join(FILE);
        disk::replace(&newer, b"# tributary bus routes, version 2\nx").unwrap();
        for other in [None, Some(&document(ELSEWHERE))] {
            let error = keep(dir.path(), other).unwrap_err().to_string();
            assert!(error.contains("has version 2"), "{error}");
        }
        assert!(disk::read(&newer).unwrap().is_some(), "it is left alone");
        let check = |text: &str, wanted: &str| {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text:?}: {error}");
        };
        let good = written(&document(ELSEWHERE));
        assert_eq!(parse(&good).unwrap(), document(ELSEWHERE));
        check(&good.replace("'b'", "'c'"), "its sum does not agree");
        check(&good.replace("version 1", "version 2"), "it has version 2");
        check(ELSEWHERE, "no document that the bus kept");
        check("", "no document that the bus kept");
    }
}
