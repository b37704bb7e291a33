//! The names of a file: final, temporary, and of its manifest.
//!
//! Readers of folders (Hive, Spark, `FileInputFormat`) pass over names that begin with `.` or `_`, so
//! the temporary file and the manifest are no data to them. Pure.

use std::sync::atomic::{AtomicU64, Ordering};

use tributary_common::ids::{Epoch, NodeId};

use super::Compression;

/// Files of this process, whichever destination they belong to: settings may change while it lives.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A file's folder and names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// The folder's path.
    pub(super) folder: String,
    /// Its name in it.
    pub(super) file: String,
}

impl Names {
    /// The names of a new file: `NODE-LIFE-NUMBER.log.zst`. Never the same twice, and ascending.
    pub(super) fn next(folder: &str, node: &NodeId, life: Epoch, compression: Compression) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let ending = match compression {
            Compression::Zstd => "log.zst",
            Compression::Gzip => "log.gz",
            Compression::None => "log",
        };
        Self {
            folder: folder.to_owned(),
            file: format!("{node}-{:013}-{number:06}.{ending}", life.0),
        }
    }

    /// The names of a file whose path is known.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        let (folder, file) = path.rsplit_once('/')?;
        Some(Self {
            folder: folder.to_owned(),
            file: file.to_owned(),
        })
    }

    /// The final path.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.folder, self.file)
    }

    /// The path while it is written.
    pub(super) fn temporary(&self) -> String {
        format!("{}/.{}.tmp", self.folder, self.file)
    }

    /// The manifest's path.
    pub(super) fn manifest(&self) -> String {
        format!("{}/_{}.json", self.folder, self.file)
    }
}
