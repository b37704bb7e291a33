//! Where the files lie: an HDFS, or a file system of this machine.
//!
//! Both take the same calls, each with a time limit and each failure as one clear sentence; one that is over
//! may still be carried out later (see [`super::upload`] for what that means). Before anything is written it is
//! looked whether this is the place that it was (see [`super::mark`]). Not for: retries.

use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::{
    Place, RolledConfig,
    cluster::{self, Cluster},
    folder::{self, Folder},
    mark::Mark,
};

/// What tells a file from another one under its path: its time in ms, its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(pub(super) u64, pub(super) usize);

/// Stands before the paths of this machine where they are noted: those of files that lines are appended to have
/// nothing there, and were begun by another kind of destination.
const LOCAL: &str = "file://";

#[derive(Debug)]
enum Door {
    Hdfs(Cluster),
    Local(Folder),
}

/// The place.
#[derive(Debug)]
pub(super) struct Store {
    door: Door,
    mark: Mark,
}

/// A file that is being written.
pub(super) enum Writer<'a> {
    Hdfs(Box<cluster::Writer<'a>>),
    Local(folder::Writer),
}

impl Store {
    /// Nothing is asked of it before it is first used, on the given runtime.
    ///
    /// # Errors
    /// Settings that make no address.
    pub(super) fn new(config: &RolledConfig, mark: Mark, runtime: &Handle) -> anyhow::Result<Self> {
        let door = match &config.place {
            Place::Hdfs(hdfs) => Door::Hdfs(Cluster::new(hdfs, runtime)?),
            Place::Local => Door::Local(Folder),
        };
        Ok(Self { door, mark })
    }

    /// What it is, for people.
    pub(super) fn noun(&self) -> &'static str {
        match self.door {
            Door::Hdfs(_) => "HDFS",
            Door::Local(_) => "disk",
        }
    }

    /// How a person writes a small file there.
    pub(super) fn by_hand(&self, text: &str, path: &str) -> String {
        match self.door {
            Door::Hdfs(_) => format!("echo {text} | hdfs dfs -put - {path}"),
            Door::Local(_) => format!("echo {text} > {path}"),
        }
    }

    /// A path with the address before it.
    pub(super) fn full(&self, path: &str) -> String {
        match &self.door {
            Door::Hdfs(cluster) => cluster.full(path),
            Door::Local(_) => format!("{LOCAL}{path}"),
        }
    }

    /// The path of a full one, when it is of this address.
    pub(super) fn path_of<'a>(&self, full: &'a str) -> Option<&'a str> {
        match &self.door {
            Door::Hdfs(cluster) => cluster.path_of(full),
            Door::Local(_) => full.strip_prefix(LOCAL),
        }
    }

    /// Whether it answers within `limit`, and is the one that it was.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn check(&self, limit: Duration) -> Result<(), String> {
        // Its future takes many KiB, and each file has one.
        Box::pin(self.mark.check(self, limit)).await
    }

    /// [`Self::check`], with as much time as any call has.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn check_in_time(&self) -> Result<(), String> {
        let limit = match &self.door {
            Door::Hdfs(cluster) => cluster.limit(),
            Door::Local(_) => folder::CALL_LIMIT,
        };
        self.check(limit).await
    }

    /// Whether it was another one when it was checked last.
    pub(super) fn is_other(&self) -> bool {
        self.mark.is_other()
    }

    /// A file that is there; `None` when there is none.
    ///
    /// # Errors
    /// When that is not said within `limit`.
    pub(super) async fn look(&self, path: &str, limit: Duration) -> Result<Option<Stamp>, String> {
        match &self.door {
            Door::Hdfs(cluster) => cluster.look(path, limit).await,
            Door::Local(folder) => folder.look(path, limit).await,
        }
    }

    /// Begins a new file; an old one of the name is replaced.
    ///
    /// # Errors
    /// Why not; it may be there nevertheless.
    pub(super) async fn create(&self, path: &str) -> Result<Writer<'_>, String> {
        match &self.door {
            Door::Hdfs(cluster) => {
                let writer = cluster.create(path).await;
                writer.map(|writer| Writer::Hdfs(Box::new(writer)))
            }
            Door::Local(folder) => folder.create(path).await.map(Writer::Local),
        }
    }

    /// Deletes a file; none is as good.
    ///
    /// # Errors
    /// When it may still be there.
    pub(super) async fn delete(&self, path: &str) -> Result<(), String> {
        match &self.door {
            Door::Hdfs(cluster) => cluster.delete(path).await,
            Door::Local(folder) => folder.delete(path).await,
        }
    }

    /// The length of a file; `None` when there is none.
    ///
    /// # Errors
    /// When that cannot be said.
    pub(super) async fn length(&self, path: &str) -> Result<Option<usize>, String> {
        match &self.door {
            Door::Hdfs(cluster) => cluster.length(path).await,
            Door::Local(folder) => folder.length(path).await,
        }
    }

    /// Renames a file within its folder; nothing may have the new name.
    ///
    /// # Errors
    /// Why not; it may have it nevertheless.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), String> {
        match &self.door {
            Door::Hdfs(cluster) => cluster.rename(from, to).await,
            Door::Local(folder) => folder.rename(from, to).await,
        }
    }

    /// Writes a small file whole.
    ///
    /// # Errors
    /// Why not; a part of it may be there.
    pub(super) async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<(), String> {
        let mut writer = self.create(path).await?;
        writer.write(bytes.into()).await?;
        writer.close().await
    }

    /// Reads a small file whole.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub(super) async fn get(&self, path: &str) -> Result<Bytes, String> {
        match &self.door {
            Door::Hdfs(cluster) => cluster.get(path).await,
            Door::Local(folder) => folder.get(path).await,
        }
    }
}

impl Writer<'_> {
    /// Writes bytes behind those that are there.
    ///
    /// # Errors
    /// Why not: the file is of no use any more.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), String> {
        match self {
            Self::Hdfs(writer) => writer.write(bytes).await,
            Self::Local(writer) => writer.write(bytes).await,
        }
    }

    /// Makes the bytes durable, and closes the file.
    ///
    /// # Errors
    /// Why not: the file is of no use any more.
    pub(super) async fn close(&mut self) -> Result<(), String> {
        match self {
            Self::Hdfs(writer) => writer.close().await,
            Self::Local(writer) => writer.close().await,
        }
    }
}

/// Whether a failure, in words, is one that only a person changes: a file that may not be written.
pub(super) fn is_for_good(why: &str) -> bool {
    [
        "QuotaExceeded",
        "AccessControlException",
        "AuthorizationException",
        "Permission denied",
        "Disk quota exceeded",
    ]
    .iter()
    .any(|word| why.contains(word))
}
