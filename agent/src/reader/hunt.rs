//! Looks for files that are no longer where they were: renamed beside, or moved to a folder nearby.
//!
//! A file is known by its key, so any name will do. Looked at are its folder, the folders in it, and
//! those beside it (`olddir` of logrotate); what is farther away is found when a path of the task
//! names it.
//!
//! Not for: copies, which are other files (see [`super::copies`]).

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

use super::{Reader, copies::folder_of, turn::Step};
use crate::{
    content::Content,
    discover::is_absence,
    far::{self, open_file},
    handle::{self, FileKey},
    tail::{Astray, Place},
};

/// Folders nearby that are looked into, and entries in all of them.
const MAX_FOLDERS: usize = 64;
const MAX_ENTRIES: usize = 50_000;
/// Files of an earlier life that so many looks have not found, and for so long, are given up.
const GIVE_UP_LOOKS: u64 = 3;
const GIVE_UP_AFTER: Duration = Duration::from_secs(2);
/// The same, when not even their folder is there: it may be mounted later.
const GIVE_UP_FOLDER_AFTER: Duration = Duration::from_secs(600);
/// A file that was renamed while it was closed is looked for this long after it was missed.
const HUNT_AFTER: Duration = Duration::from_millis(500);

/// What has become of the folder that a file was in. A file that is missing is not deleted unless its
/// folder is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Folder {
    Here,
    /// There is none, or another one in its place: a mount that is away.
    Away,
    /// It may not be read, or does not answer: nothing is known.
    Unknown,
}

impl Folder {
    /// By the device of what is there, and that of the file (0: not known).
    fn of(there: &io::Result<u64>, device: u64) -> Self {
        match there {
            Ok(there) if device != 0 && *there != device => Self::Away,
            Ok(_) => Self::Here,
            Err(error) if is_absence(error) => Self::Away,
            Err(_) => Self::Unknown,
        }
    }

    /// How long a file that is missing is awaited; for ever when nothing is known of it.
    fn patience(self) -> Option<Duration> {
        match self {
            Self::Here => Some(GIVE_UP_AFTER),
            Self::Away => Some(GIVE_UP_FOLDER_AFTER),
            Self::Unknown => None,
        }
    }
}

/// What is in folders, by inode number; read once however many files are looked for.
#[derive(Debug, Default)]
pub(super) struct Folders {
    seen: HashMap<PathBuf, HashMap<u64, PathBuf>>,
    /// When the first of them was read.
    since: Option<Instant>,
    nearby: HashMap<PathBuf, Vec<PathBuf>>,
}

impl Folders {
    /// Time passes: what was seen may be no longer true.
    pub(super) fn forget(&mut self) {
        self.seen.clear();
        self.nearby.clear();
        self.since = None;
    }

    /// The same for what was seen before a time.
    fn forget_before(&mut self, time: Instant) {
        if self.since.is_some_and(|since| since <= time) {
            self.forget();
        }
    }

    /// The path in a folder that has this inode number and is this file.
    pub(super) fn find(&mut self, folder: &Path, inode: u64, key: FileKey) -> Option<PathBuf> {
        if !self.seen.contains_key(folder) {
            let entries = far::entries_there(folder).take(MAX_ENTRIES);
            let inodes = entries.map(|entry| (entry.inode, entry.path));
            self.seen.insert(folder.to_owned(), inodes.collect());
            self.since.get_or_insert_with(Instant::now);
        }
        let path = self.seen.get(folder)?.get(&inode)?;
        let is_it = handle::of_path(path).is_ok_and(|info| info.key == key);
        is_it.then(|| path.clone())
    }

    /// The folders in a folder, and beside it.
    fn nearby(&mut self, folder: &Path) -> Vec<PathBuf> {
        if let Some(known) = self.nearby.get(folder) {
            return known.clone();
        }
        let inside = |folder: &Path| {
            let entries = far::entries_there(folder).take(MAX_ENTRIES);
            let folders = entries.filter(|entry| matches!(&entry.kind, Ok(kind) if kind.is_dir()));
            let folders: Vec<PathBuf> = folders.map(|entry| entry.path).collect();
            folders
        };
        let mut found = inside(folder);
        // What lies beside a folder at the top has nothing to do with it.
        if let Some(parent) = folder.parent().filter(|parent| parent.parent().is_some()) {
            found.extend(inside(parent).into_iter().filter(|path| path != folder));
        }
        found.truncate(MAX_FOLDERS);
        self.nearby.insert(folder.to_owned(), found.clone());
        found
    }
}

impl Reader {
    /// Looks for a renamed file near where it was. True when its place is known: it is open, or opened
    /// in its turn.
    pub(super) fn hunt(&mut self, stream: usize, at: usize) -> bool {
        let channel = self.streams.get(stream).map_or(0, |known| known.channel);
        let Some(tail) = self.tail(stream, at) else {
            return false;
        };
        let (key, inode, generation) = (tail.key, tail.inode, tail.generation);
        let folder = folder_of(tail.real_path()).to_owned();
        // A file that was cut off belongs to a younger generation; this one may go on in a copy.
        if self.by_key.get(&(channel, key)) != Some(&(stream, generation)) {
            return self.find_its_copy(stream, at);
        }
        let path = self.folders.find(&folder, inode, key).or_else(|| {
            let nearby = self.folders.nearby(&folder);
            let mut nearby = nearby.iter();
            nearby.find_map(|folder| self.folders.find(folder, inode, key))
        });
        let Some(path) = path else {
            return false;
        };
        if !self.opened.has_room() {
            // It is opened in its turn.
            if let Some(tail) = self.tail(stream, at) {
                (tail.path, tail.real) = (path.into(), None);
                tail.astray = Astray::At;
            }
            return true;
        }
        let Ok(file) = open_file(&path) else {
            return false;
        };
        if !file.info().is_ok_and(|info| info.key == key) {
            return false;
        }
        let Some(tail) = self.tail(stream, at) else {
            return false;
        };
        (tail.path, tail.real) = (path.into(), None);
        tail.doubted = true;
        tail.astray = Astray::No;
        if tail.file.replace(Content::File(file)).is_none() {
            self.note_opened(stream);
        }
        true
    }

    /// A file that was closed when no path of the task named it is not where it was then. What to do
    /// meanwhile while it is looked for; `None` when it is nowhere.
    pub(super) fn hunt_astray(&mut self, stream: usize, at: usize, now: Instant) -> Option<Step> {
        let tail = self.tail(stream, at)?;
        let missed = match tail.astray {
            Astray::No => return None,
            Astray::At => {
                // Others may be missed as well: they are looked for together.
                tail.astray = Astray::Missed(now);
                return Some(self.hold(stream, at, Some(now + HUNT_AFTER), now));
            }
            Astray::Missed(since) if now < since + HUNT_AFTER => {
                return Some(self.hold(stream, at, Some(since + HUNT_AFTER), now));
            }
            Astray::Missed(since) => since,
        };
        tail.astray = Astray::No;
        self.folders.forget_before(missed);
        self.hunt(stream, at).then_some(Step::Changed)
    }

    /// Files of an earlier life that no path names: renamed nearby, or gone.
    pub(super) fn await_or_give_up(&mut self) {
        if !std::mem::take(&mut self.any_awaited) {
            return;
        }
        for stream in 0..self.streams.len() {
            let mut at = 0;
            while let Some(tail) = self.tail(stream, at) {
                let Place::Awaited(since) = tail.place else {
                    at += 1;
                    continue;
                };
                let since = tail.seek.since.unwrap_or(since);
                let tail_is_sought = tail.seek.running;
                if self.is_left_out(stream, at) {
                    if !self.leave(stream, at) {
                        at += 1;
                    }
                } else if tail_is_sought {
                    self.any_awaited = true;
                    at += 1;
                } else if self.hunt(stream, at) {
                    if let Some(tail) = self.tail(stream, at)
                        && matches!(tail.place, Place::Awaited(_))
                    {
                        tail.place = Place::Hidden(Instant::now());
                    }
                    self.make_ready(stream);
                    at += 1;
                } else if self.may_give_up(stream, at, since) {
                    if self.seek_packed(stream, at, Instant::now()) {
                        at += 1;
                    } else if self.seek_no_longer(stream, at) {
                        self.end_cut_off(stream, at);
                        self.make_ready(stream);
                    } else {
                        self.end(stream, at);
                        self.make_ready(stream);
                    }
                } else {
                    self.any_awaited = true;
                    at += 1;
                }
            }
        }
    }

    /// Whether a file was awaited for long enough.
    fn may_give_up(&self, stream: usize, at: usize, since: Instant) -> bool {
        let channel = self.streams.get(stream).map_or(0, |known| known.channel);
        let looks = self.channels.get(channel).map_or(0, |known| known.looks);
        if looks < GIVE_UP_LOOKS || self.is_sought(stream, at) {
            return false;
        }
        let patience = self.look_at_folder(stream, at).patience();
        patience.is_some_and(|after| since.elapsed() >= after)
    }

    /// What has become of the folder of a file.
    fn look_at_folder(&self, stream: usize, at: usize) -> Folder {
        let known = self.streams.get(stream);
        let Some(tail) = known.and_then(|known| known.tails.get(at)) else {
            return Folder::Here;
        };
        let folder = folder_of(tail.real_path());
        let device = far::entries(folder)
            .map(|_entries| handle::glance(folder).map_or(tail.device, |glance| glance.device));
        Folder::of(&device, tail.device)
    }

    /// The path of a hidden file names nothing. True when that is because its folder is away: the
    /// file is awaited.
    pub(super) fn await_folder(&mut self, stream: usize, at: usize, now: Instant) -> bool {
        // Only a file that cannot be looked up any more is gone.
        let path = self
            .tail(stream, at)
            .map(|tail| tail.real_path().to_owned());
        let unknown = path
            .and_then(|path| handle::glance(&path).err())
            .is_some_and(|error| !is_absence(&error));
        let away = unknown || self.look_at_folder(stream, at) != Folder::Here;
        if away && let Some(tail) = self.tail(stream, at) {
            tail.place = Place::Awaited(now);
            self.any_awaited = true;
        }
        away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_a_folder_that_says_nothing_is_never_given_up() {
        let error = |kind| Err(io::Error::from(kind));
        let cases = [
            (Ok(7), Folder::Here, Some(GIVE_UP_AFTER)),
            (Ok(8), Folder::Away, Some(GIVE_UP_FOLDER_AFTER)),
            (
                error(io::ErrorKind::NotFound),
                Folder::Away,
                Some(GIVE_UP_FOLDER_AFTER),
            ),
            (
                error(io::ErrorKind::PermissionDenied),
                Folder::Unknown,
                None,
            ),
            (error(io::ErrorKind::TimedOut), Folder::Unknown, None),
            (Err(io::Error::from_raw_os_error(5)), Folder::Unknown, None),
        ];
        for (there, folder, patience) in cases {
            assert_eq!(Folder::of(&there, 7), folder, "{there:?}");
            assert_eq!(folder.patience(), patience, "{there:?}");
        }
        // A checkpoint of an earlier version knows no device.
        assert_eq!(Folder::of(&Ok(8), 0), Folder::Here);
    }
}
