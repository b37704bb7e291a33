//! Calls to a file system of this machine: each with a time limit, for a disk behind a network may hang.
//!
//! A call that hangs keeps its thread until the disk answers; what it does then meets names that are used
//! once. Not for: retries; files that are appended to (see [`super::super::file`]).

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::{task::spawn_blocking, time::timeout};
use tributary_common::disk::{self, AppendFile, DiskError};

use super::{manifest::MAX_BYTES, store::Stamp};

/// How long a call may take.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(60);

/// The file systems of this machine.
#[derive(Debug)]
pub(super) struct Folder;

/// A file that is being written; none after a call that failed.
pub(super) struct Writer {
    file: Option<AppendFile>,
}

impl Folder {
    /// A file that is there; `None` when there is none.
    ///
    /// # Errors
    /// When the disk does not say it within `limit`.
    pub(super) async fn look(&self, path: &str, limit: Duration) -> Result<Option<Stamp>, String> {
        let look = |path: &Path| match fs::metadata(path) {
            Ok(known) => {
                let since = known
                    .modified()
                    .map(|at| at.duration_since(SystemTime::UNIX_EPOCH));
                let ms = since
                    .ok()
                    .and_then(Result::ok)
                    .unwrap_or_default()
                    .as_millis();
                let ms = u64::try_from(ms).unwrap_or(u64::MAX);
                Ok(Some(Stamp(
                    ms,
                    usize::try_from(known.len()).unwrap_or(usize::MAX),
                )))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("failed to look at {}: {error}", path.display())),
        };
        within(limit, path, move |path| look(&path)).await
    }

    /// Begins a new file, in a folder that is made where it is not there; an old one of the name is
    /// replaced.
    ///
    /// # Errors
    /// Why not; it may be there nevertheless.
    pub(super) async fn create(&self, path: &str) -> Result<Writer, String> {
        let create = |path: PathBuf| {
            if let Some(folder) = path.parent() {
                disk::create_dir_all(folder)?;
            }
            AppendFile::stage(&path)
        };
        let file = within(CALL_LIMIT, path, move |path| said(create(path))).await?;
        Ok(Writer { file: Some(file) })
    }

    /// Deletes a file; none is as good.
    ///
    /// # Errors
    /// When it may still be there.
    pub(super) async fn delete(&self, path: &str) -> Result<(), String> {
        let remove = |path: PathBuf| match disk::remove(&path) {
            // Without its folder it is not there, either.
            Err(error) if !error.is_missing() => said(Err(error)),
            Ok(_there_was_one) => Ok(()),
            Err(_missing) => Ok(()),
        };
        within(CALL_LIMIT, path, remove).await
    }

    /// The length of a file; `None` when there is none.
    ///
    /// # Errors
    /// When that cannot be said.
    pub(super) async fn length(&self, path: &str) -> Result<Option<usize>, String> {
        let stamp = self.look(path, CALL_LIMIT).await?;
        Ok(stamp.map(|Stamp(_ms, length)| length))
    }

    /// Renames a file, durably; nothing may have the new name.
    ///
    /// # Errors
    /// Why not; it may have it nevertheless.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), String> {
        let to = PathBuf::from(to);
        let rename = move |from: PathBuf| match to.try_exists() {
            Ok(false) => said(disk::rename(&from, &to)),
            Ok(true) => Err(format!("{} is there already", to.display())),
            Err(error) => Err(format!("failed to look at {}: {error}", to.display())),
        };
        within(CALL_LIMIT, from, rename).await
    }

    /// Reads a small file whole.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub(super) async fn get(&self, path: &str) -> Result<Bytes, String> {
        let read = |path: PathBuf| {
            let mut bytes = said(disk::read(&path))?
                .ok_or_else(|| format!("{} is not there", path.display()))?;
            bytes.truncate(MAX_BYTES);
            Ok(Bytes::from(bytes))
        };
        within(CALL_LIMIT, path, read).await
    }
}

impl Writer {
    /// Writes bytes behind those that are there.
    ///
    /// # Errors
    /// Why not: the file is of no use any more.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), String> {
        let mut file = self.take()?;
        let path = file.path().display().to_string();
        let append = move |_path| {
            said(file.append(&bytes))?;
            Ok(file)
        };
        self.file = Some(within(CALL_LIMIT, &path, append).await?);
        Ok(())
    }

    /// Makes the bytes durable, and closes the file.
    ///
    /// # Errors
    /// Why not: the file is of no use any more.
    pub(super) async fn close(&mut self) -> Result<(), String> {
        let file = self.take()?;
        let path = file.path().display().to_string();
        let sync = move |path: PathBuf| {
            said(file.sync())?;
            said(disk::sync_dir(path.parent().unwrap_or(&path)))
        };
        within(CALL_LIMIT, &path, sync).await
    }

    fn take(&mut self) -> Result<AppendFile, String> {
        let gone = || "the file is given up, for a call before failed".to_owned();
        self.file.take().ok_or_else(gone)
    }
}

fn said<T>(done: Result<T, DiskError>) -> Result<T, String> {
    done.map_err(|error| error.to_string())
}

/// Does something that may hang, on a thread of its own.
async fn within<T: Send + 'static>(
    limit: Duration,
    path: &str,
    call: impl FnOnce(PathBuf) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let of = PathBuf::from(path);
    match timeout(limit, spawn_blocking(move || call(of))).await {
        Ok(Ok(done)) => done,
        Ok(Err(_panic)) => Err(format!("a call for {path} panicked")),
        Err(_elapsed) => {
            let seconds = limit.as_secs_f32();
            Err(format!("the disk has not answered for {seconds} s: {path}"))
        }
    }
}
