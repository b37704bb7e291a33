//! The files of a file destination: open ones, their committed ends, and their recovery.
//!
//! Called by the destination's thread only. Every file is told to the journal before its first
//! byte is written, so that a restart knows where to cut.

use std::{
    collections::HashMap,
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tributary_common::{
    disk::{self, AppendFile, DiskError},
    ids::Name,
};

use super::offset;
use crate::{
    done::DestinationNo,
    journal::{Journal, format::Record, memory::Target},
};

/// The most open files; the longest unused one is closed for the next.
const MAX_OPEN: usize = 512;
/// A file that was not written to for this long is closed.
const IDLE: Duration = Duration::from_secs(600);
/// Below this many free bytes nothing is written: the last bytes belong to the journal.
const MIN_FREE_BYTES: u64 = 8 << 20;

/// One open file.
#[derive(Debug)]
struct Open {
    append: AppendFile,
    target: u32,
    /// Everything before this is durable and noted in the journal.
    committed: u64,
    /// Lines of the present group, not written yet.
    pending: Vec<u8>,
    used: Instant,
}

/// Where a batch's lines are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    /// The file's number in the journal.
    pub(super) target: u32,
    /// The file.
    pub(super) path: Arc<Path>,
    /// Its first byte.
    pub(super) first: u64,
    /// The byte after its last one.
    pub(super) end: u64,
}

/// Which folder this is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl From<Metadata> for Identity {
    fn from(metadata: Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// All files of a destination.
#[derive(Debug)]
pub(super) struct Files {
    destination: DestinationNo,
    name: Name,
    root: PathBuf,
    identity: Identity,
    journal: Journal,
    open: HashMap<Arc<Path>, Open>,
}

impl Files {
    /// Makes the root.
    ///
    /// # Errors
    /// A root that cannot be made.
    pub(super) fn open(
        name: &Name,
        root: PathBuf,
        destination: DestinationNo,
        journal: Journal,
    ) -> anyhow::Result<Self> {
        disk::create_dir_all(&root)?;
        let identity = std::fs::metadata(&root)?.into();
        let name = name.clone();
        Ok(Self {
            destination,
            name,
            root,
            identity,
            journal,
            open: HashMap::new(),
        })
    }

    /// Cuts every file that an earlier life left open back to what the journal knows of it. A file
    /// that is not there now is cut when it is next opened.
    pub(super) fn recover(&self) {
        let targets = self.journal.memory().targets_of(self.destination);
        for (_no, target) in targets.iter().filter(|(_no, target)| target.open) {
            if let Err(error) = self.cut(Path::new(&*target.name), target) {
                tracing::error!(destination = %self.name, file = &*target.name, %error, "a file could not be cut back to its acknowledged end");
            }
        }
    }

    /// Cuts one file that was left open; `None` when there is no such file.
    fn cut(&self, path: &Path, target: &Target) -> Result<Option<u64>, DiskError> {
        let len = match std::fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(DiskError {
                    doing: "look at",
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let known = target
            .positions
            .get(&0)
            .map_or(len, |at| u64::try_from(at.end).unwrap_or(0));
        if len > known {
            tracing::warn!(
                destination = %self.name,
                file = %path.display(),
                cut_bytes = len - known,
                "lines that were never acknowledged are cut off; they come again"
            );
            disk::truncate(path, known)?;
        } else if len < known {
            // Somebody else shortened it. What is gone was acknowledged: this is a loss to tell.
            metrics::counter!("tributary_bus_destination_missing_bytes_total", "destination" => self.name.to_string())
                .increment(known - len);
            tracing::error!(
                destination = %self.name,
                file = %path.display(),
                missing_bytes = known - len,
                "a file is shorter than what was acknowledged in it"
            );
        }
        Ok(Some(len.min(known)))
    }

    /// Whether the root is there and has room.
    ///
    /// # Errors
    /// Why not, for people.
    pub(super) fn probe(&mut self) -> Result<(), String> {
        let root = self.root.display().to_string();
        let found = match std::fs::metadata(&self.root) {
            Ok(metadata) if metadata.is_dir() => Identity::from(metadata),
            Ok(_file) => return Err(format!("{root} is not a folder any more")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(format!("{root} was taken away (unmounted or moved?)"));
            }
            Err(error) => return Err(format!("{root} cannot be looked at: {error}")),
        };
        if found != self.identity {
            tracing::warn!(destination = %self.name, %root, "another folder stands in the place of the root; files begin anew there");
            self.close_all();
            self.identity = found;
        }
        match disk::free_space(&self.root) {
            Ok(space) if space.free < MIN_FREE_BYTES => Err(format!(
                "the disk of {root} is full: {} bytes are free, {MIN_FREE_BYTES} are needed",
                space.free
            )),
            Ok(_space) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Adds lines to the present group of a file.
    ///
    /// # Errors
    /// Why the file cannot be opened; nothing was added.
    pub(super) fn append<'a>(
        &mut self,
        path: &Path,
        lines: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Written, Arc<DiskError>> {
        if !self.open.contains_key(path) {
            let opened = self.open_file(path)?;
            self.open.insert(path.into(), opened);
        }
        let (path, file) = self
            .open
            .get_key_value(path)
            .map(|(path, _file)| Arc::clone(path))
            .and_then(|path| Some((Arc::clone(&path), self.open.get_mut(&path)?)))
            .expect("the file was opened above");
        let first = file.append.len() + file.pending.len() as u64;
        for line in lines {
            file.pending.extend_from_slice(line);
            file.pending.push(b'\n');
        }
        file.used = Instant::now();
        let end = file.append.len() + file.pending.len() as u64;
        Ok(Written {
            target: file.target,
            path,
            first,
            end,
        })
    }

    /// Opens a file and tells the journal where this life begins in it.
    fn open_file(&mut self, path: &Path) -> Result<Open, Arc<DiskError>> {
        self.make_room();
        if let Some(parent) = path.parent() {
            disk::create_dir_all(parent)?;
        }
        let name = path.display().to_string();
        let (no, known) = {
            let mut memory = self.journal.memory();
            let no = memory.target(self.destination, &name);
            (no, memory.get(no).cloned())
        };
        if let Some(target) = known.filter(|target| target.open) {
            self.cut(path, &target)?;
        }
        let append = AppendFile::open(path)?;
        let committed = append.len();
        self.journal.commit_and_wait(vec![
            Record::Position {
                target: no,
                partition: 0,
                end: offset(committed),
                floor: None,
            },
            Record::Opened { target: no },
        ])?;
        Ok(Open {
            append,
            target: no,
            committed,
            pending: Vec::new(),
            used: Instant::now(),
        })
    }

    /// Closes the longest unused files until one more may be open.
    fn make_room(&mut self) {
        while self.open.len() >= MAX_OPEN {
            // Files of the present group are the youngest ones, and a group has fewer batches.
            let idle = self.open.iter().filter(|(_path, file)| file.is_clean());
            let oldest = idle
                .min_by_key(|(_path, file)| file.used)
                .map(|(path, _)| Arc::clone(path));
            let Some(path) = oldest else { return };
            self.close(&path);
        }
    }

    /// Writes the group of every file and makes it durable.
    ///
    /// # Errors
    /// Why not; undo the group.
    pub(super) fn flush(&mut self) -> Result<(), String> {
        let mut dirty: Vec<_> = self
            .open
            .values_mut()
            .filter(|file| !file.pending.is_empty())
            .collect();
        for file in &mut dirty {
            file.append
                .append(&file.pending)
                .map_err(|error| error.to_string())?;
            file.pending.clear();
            // A large group's buffer is not kept for quiet times.
            file.pending.shrink_to(1 << 20);
        }
        for file in dirty {
            file.append.sync().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The journal knows the group.
    pub(super) fn committed(&mut self) {
        for file in self.open.values_mut() {
            file.committed = file.append.len();
        }
    }

    /// Takes the present group out of every file again. A file that cannot be cut is closed as it
    /// is: the journal still has it open, so it is cut when it is next opened.
    pub(super) fn undo(&mut self) {
        self.open.retain(|path, file| {
            file.pending.clear();
            if file.append.len() == file.committed {
                return true;
            }
            match file.append.truncate(file.committed) {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "a failed write could not be cut off yet");
                    false
                }
            }
        });
    }

    /// Closes files that nobody writes to.
    pub(super) fn tidy(&mut self) {
        let idle = self
            .open
            .iter()
            .filter(|(_path, file)| file.used.elapsed() >= IDLE);
        let idle: Vec<_> = idle.map(|(path, _file)| Arc::clone(path)).collect();
        for path in idle {
            self.close(&path);
        }
    }

    /// Closes all files.
    pub(super) fn close_all(&mut self) {
        let all: Vec<_> = self.open.keys().cloned().collect();
        for path in all {
            self.close(&path);
        }
    }

    /// Closes a file whose content is committed; the journal need not keep its end any more.
    fn close(&mut self, path: &Path) {
        let Some(file) = self.open.remove(path) else {
            return;
        };
        if file.is_clean() {
            let forgotten = vec![Record::Forgotten {
                target: file.target,
            }];
            self.journal
                .commit(forgotten, false, Box::new(|_written| {}));
        }
    }
}

impl Open {
    /// Whether everything in the file is committed.
    fn is_clean(&self) -> bool {
        self.pending.is_empty() && self.append.len() == self.committed
    }
}
