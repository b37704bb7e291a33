//! What the manager gives a part: a document over the part's own file, taken whole or refused, and kept.
//!
//! # Constraints
//! The data path works while the manager is down, also from a cold start: a document that was taken is kept on the
//! disk and counts from the next start on. It never keeps a part from starting: where it does not fit the file
//! any more the part goes by the file, and says so. Without `[manager]` in the file nothing could take it back, so
//! it does not count.
//!
//! # Layout
//! A file below `<data_dir>/config/`: a line with format and version, a line with the sum of what follows it, a line
//! with the manager's version of the document, then the document as it came. See `docs/formats.md`.
//!
//! # Recovery
//! It is replaced as a whole. A sum that does not agree means that somebody else wrote it: it does not count.
//!
//! Not for: what a configuration means, and how a part goes from one to the next: that is its [`Part`]. Used by
//! agent and bus.

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::spawn_blocking};

use crate::{
    config::{Faults, Loaded, Origin, Over},
    crc::crc32c,
    disk,
};

/// The longest document, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// The folder below the data directory.
const FOLDER: &str = "config";
/// The version that this build writes and reads.
const VERSION: u32 = 1;
/// The longest version of a document, in bytes.
const MAX_VERSION_BYTES: usize = 100;

/// What a part can be given.
#[derive(Debug)]
pub struct Kind {
    /// The word for it in messages.
    pub what: &'static str,
    /// The top-level keys that a document may have.
    pub keys: &'static [&'static str],
    /// The file that keeps it.
    file: &'static str,
    /// The beginning of that file's first line; the version follows.
    magic: &'static str,
}

/// Where topics go: for the nodes of a bus cluster.
pub static ROUTES: Kind = Kind {
    what: "routes",
    keys: &["destination", "route"],
    file: "routes.toml",
    magic: "# tributary bus routes, version ",
};

/// What is collected, by which buses, within which limits: for agents.
pub static COLLECTION: Kind = Kind {
    what: "collection",
    keys: &["task", "bus", "limits"],
    file: "collection.toml",
    magic: "# tributary agent collection, version ",
};

/// A document, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Its version: another one each time that somebody asks for something.
    pub version: String,
    /// TOML with nothing but the keys of its kind; none where the part is to go by its file.
    pub text: Option<String>,
}

/// Whose document counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GivenFrom {
    /// The part's file alone.
    #[default]
    File,
    /// The manager's document over it; a key that it does not have is the file's.
    Manager,
}

/// What a part made of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GivenHealth {
    /// What counts.
    pub from: GivenFrom,
    /// The version that it took last; empty for none.
    pub version: String,
    /// The version that it refused since; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub refused: String,
    /// Why, a fault a line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fault: String,
}

/// A document that a part has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Document {
    version: String,
    text: String,
}

/// What a part has of the manager, also where it does not fit the file.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    document: Option<Document>,
    health: GivenHealth,
}

impl Standing {
    /// What is said of it.
    #[must_use]
    pub const fn health(&self) -> &GivenHealth {
        &self.health
    }
}

/// Why a document does not count.
pub type Refused = Vec<String>;

/// Who goes by a file, and by what the manager gives over it.
pub trait Part: Send {
    /// Its settings, checked.
    type Config: Send;

    /// What it can be given.
    fn kind(&self) -> &'static Kind;

    /// Where it is kept.
    fn data_dir(&self) -> PathBuf;

    /// The file that counts now.
    fn file(&self) -> Arc<Origin>;

    /// The configuration of a file with a document over it, or without any.
    ///
    /// # Errors
    /// All faults, each with the name of the document that has it.
    fn load(
        &self,
        file: &Arc<Origin>,
        over: Option<Over<'_>>,
    ) -> Result<Loaded<Self::Config>, Faults>;

    /// Goes by a good configuration from now on, unless it changes what cannot change; says in a word what
    /// became of it.
    ///
    /// # Errors
    /// All faults; the old one goes on.
    fn apply(
        &mut self,
        loaded: Loaded<Self::Config>,
    ) -> impl Future<Output = Result<&'static str, Refused>> + Send;

    /// What it has.
    fn standing(&mut self) -> &mut Standing;

    /// What it has is another now, or something else is said of it.
    fn show(&mut self);
}

/// A configuration, and what a part has of the manager.
#[derive(Debug)]
pub struct Start<C> {
    /// The configuration that counts.
    pub config: C,
    /// What it has.
    pub standing: Standing,
}

/// Puts what is kept in a data directory over the configuration of the file, where there is a `manager` in it.
/// Blocks shortly.
pub fn start<C>(
    kind: &'static Kind,
    (config, data_dir, manager): (C, &Path, bool),
    load: impl FnOnce(Over<'_>) -> Result<Loaded<C>, Faults>,
) -> Start<C> {
    let mut start = Start {
        config,
        standing: Standing::default(),
    };
    let what = kind.what;
    let document = match kind.read(data_dir) {
        Ok(None) => return start,
        Ok(Some(document)) => document,
        Err(error) => {
            let error = format!("{error:#}");
            tracing::error!(%error, what, "what was kept of the manager's cannot be read; the file counts until the manager says it again");
            start.standing.health.fault = error;
            return start;
        }
    };
    if !manager {
        tracing::warn!(version = %document.version, what, "there is something of a manager on the disk and no [manager] in the file; the file counts");
        return start;
    }
    let health = &mut start.standing.health;
    match document.over(kind, load) {
        Ok(loaded) => {
            tracing::info!(version = %document.version, what, "what the manager gave counts");
            start.config = loaded.value;
            health.from = GivenFrom::Manager;
            health.version.clone_from(&document.version);
        }
        Err(faults) => {
            for fault in &faults {
                tracing::error!("{fault}");
            }
            tracing::error!(version = %document.version, what, "what the manager gave does not fit the file any more; the file counts");
            health.refused.clone_from(&document.version);
            health.fault = faults.to_string();
        }
    }
    start.standing.document = Some(document);
    start
}

/// Applies a new file, with the manager's document over it where there is one; what became of it, in a word. A
/// document that counts and does not fit the new file keeps that out; one that did not fit before keeps nothing out.
///
/// # Errors
/// All faults; the old one goes on.
pub async fn reload<P: Part>(
    part: &mut P,
    loaded: Loaded<P::Config>,
) -> Result<&'static str, Refused> {
    let Standing { document, health } = part.standing().clone();
    let Some(document) = document else {
        return part.apply(loaded).await;
    };
    let counts = health.from == GivenFrom::Manager;
    // A later one that was refused stays so: it is for the manager to say another.
    let newer = !health.refused.is_empty() && health.refused != document.version;
    let merged = document.over(part.kind(), |over| part.load(loaded.origin(), Some(over)));
    match merged {
        Ok(merged) => {
            let outcome = part.apply(merged).await?;
            took(part, GivenFrom::Manager, document.version);
            if newer {
                show_refused(part, health.refused, health.fault);
            }
            Ok(outcome)
        }
        Err(faults) if counts => Err(words(&faults)),
        Err(faults) => {
            let outcome = part.apply(loaded).await?;
            if !newer {
                refuse(part, document.version, &words(&faults));
            }
            Ok(outcome)
        }
    }
}

/// Applies what the manager says, or says why not. What became of it in a word, unless it is known.
pub async fn offered<P: Part>(part: &mut P, given: Given) -> Option<&'static str> {
    let Given { version, text } = given;
    let health = &mut part.standing().health;
    if health.refused == version {
        return None;
    }
    if health.version == version {
        // A later one was refused, and is not wanted any more.
        if !health.refused.is_empty() {
            health.refused.clear();
            health.fault.clear();
            part.show();
        }
        return None;
    }
    let document = text.map(|text| Document {
        version: version.clone(),
        text,
    });
    let (kind, file) = (part.kind(), part.file());
    let loaded = match &document {
        Some(document) => document.over(kind, |over| part.load(&file, Some(over))),
        None => part.load(&file, None),
    };
    let outcome = match loaded {
        Ok(loaded) => part.apply(loaded).await,
        Err(faults) => Err(words(&faults)),
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(faults) => {
            refuse(part, version, &faults);
            return Some("refused");
        }
    };
    let from = match document {
        Some(_) => GivenFrom::Manager,
        None => GivenFrom::File,
    };
    tracing::info!(%version, what = kind.what, ?from, "what the manager gives counts");
    part.standing().document.clone_from(&document);
    took(part, from, version);
    keep(part, document).await;
    Some(outcome)
}

/// Keeps what counts for the next start. Without that it counts all the same, and the fault says what a restart
/// would do.
async fn keep<P: Part>(part: &mut P, document: Option<Document>) {
    let (kind, data_dir) = (part.kind(), part.data_dir());
    let keeping = spawn_blocking(move || kind.keep(&data_dir, document.as_ref()));
    let kept = keeping.await.context("the writing failed");
    if let Err(error) = kept.flatten() {
        let fault = format!(
            "it counts, but is not kept: {error:#}; after a restart what was kept before counts, until the manager \
             says it again"
        );
        tracing::error!("{fault}");
        part.standing().health.fault = fault;
        part.show();
    }
}

/// What was taken from the manager counts.
fn took(part: &mut impl Part, from: GivenFrom, version: String) {
    part.standing().health = GivenHealth {
        from,
        version,
        ..GivenHealth::default()
    };
    part.show();
}

/// Says that what the manager says does not count.
fn refuse(part: &mut impl Part, version: String, faults: &[String]) {
    for fault in faults {
        tracing::error!("{fault}");
    }
    let what = part.kind().what;
    tracing::error!(%version, what, faults = faults.len(), "what the manager gives is refused as a whole; the old one goes on");
    show_refused(part, version, faults.join("\n"));
}

fn show_refused(part: &mut impl Part, version: String, fault: String) {
    let health = &mut part.standing().health;
    (health.refused, health.fault) = (version, fault);
    part.show();
}

/// Faults as they are told.
#[must_use]
pub fn words(faults: &Faults) -> Refused {
    faults.iter().map(ToString::to_string).collect()
}

/// Passes on what the manager says. It is said again while it is being applied.
pub fn pass_on(offer: &watch::Sender<Option<Given>>, given: Given) {
    if is_version(&given.version) {
        offer.send_replace(Some(given));
    } else {
        tracing::warn!(version = ?given.version, "what the manager gives has a version that is none; it does not count");
    }
}

/// The next thing that the manager says; never, where there is no manager.
pub async fn next(offers: &mut watch::Receiver<Option<Given>>) -> Given {
    loop {
        if offers.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if let Some(given) = offers.borrow_and_update().clone() {
            return given;
        }
    }
}

/// Whether a version can be one: it stands in a line of its own.
fn is_version(text: &str) -> bool {
    let fits = (1..=MAX_VERSION_BYTES).contains(&text.len());
    fits && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Document {
    /// What a loader makes of this document over a file.
    fn over<C>(
        &self,
        kind: &Kind,
        load: impl FnOnce(Over<'_>) -> Result<Loaded<C>, Faults>,
    ) -> Result<Loaded<C>, Faults> {
        let name = format!("{} {} of the manager", kind.what, self.version);
        load(Over {
            name: &name,
            text: &self.text,
            keys: kind.keys,
        })
    }
}

impl Kind {
    /// Keeps a document, or nothing any more. Blocks.
    ///
    /// # Errors
    /// A disk that fails, or a file of another version, which is never overwritten; what was kept before is still
    /// there.
    fn keep(&self, data_dir: &Path, document: Option<&Document>) -> anyhow::Result<()> {
        let dir = data_dir.join(FOLDER);
        let path = dir.join(self.file);
        let before = disk::read(&path)?.unwrap_or_default();
        let head = before.split(|&byte| byte == b'\n').next();
        let head = String::from_utf8_lossy(head.unwrap_or_default());
        let version = head.strip_prefix(self.magic).map(str::parse::<u32>);
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
                // It may hold a password.
                disk::replace_private(&path, self.written(document).as_bytes())?;
            }
        }
        Ok(())
    }

    fn written(&self, Document { version, text }: &Document) -> String {
        let body = format!("# given {version}\n{text}");
        let sum = crc32c(body.as_bytes());
        format!("{}{VERSION}\n# crc32c {sum:08x}\n{body}", self.magic)
    }

    fn read(&self, data_dir: &Path) -> anyhow::Result<Option<Document>> {
        let path = data_dir.join(FOLDER).join(self.file);
        let failed = || format!("failed to read {}", path.display());
        let Some(bytes) = disk::read(&path)? else {
            return Ok(None);
        };
        let text = str::from_utf8(&bytes).with_context(failed)?;
        self.parse(text).with_context(failed).map(Some)
    }

    fn parse(&self, text: &str) -> anyhow::Result<Document> {
        let (first, rest) = text.split_once('\n').unwrap_or_default();
        match first.strip_prefix(self.magic).map(str::parse::<u32>) {
            Some(Ok(VERSION)) => {}
            Some(Ok(other)) => bail!("it has version {other}; this build reads version {VERSION}"),
            Some(Err(_)) | None => bail!("it is no kept document"),
        }
        let (second, body) = rest.split_once('\n').unwrap_or_default();
        let sum = second.strip_prefix("# crc32c ").unwrap_or_default();
        if u32::from_str_radix(sum, 16).ok() != Some(crc32c(body.as_bytes())) {
            bail!("its sum does not agree: it was not written so");
        }
        let (third, text) = body.split_once('\n').unwrap_or_default();
        let version = third.strip_prefix("# given ").unwrap_or_default();
        Ok(Document {
            version: version.to_owned(),
            text: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests;
