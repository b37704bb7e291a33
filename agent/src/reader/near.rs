//! Which known files a newcomer may be a copy of, and whether it is like them.
//!
//! What is known of a file is as old as its last turn, and a copy shows what stands in it now: so a
//! file is looked at before a newcomer is compared with it.
//!
//! Not for: what follows from that (see [`super::newcomers`]).

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::time::Instant;
use tributary_common::ids::GenerationId;

use super::{
    Reader,
    copies::{MAX_COMPARED, UNLIKE, folder_of, stem_of},
};
use crate::{
    content::Content,
    far::{LogFile, open_file},
    handle::{self, FileInfo},
    identify::{Match, mark_at, prefix_of},
    path::LogPath,
    tail::{Place, Tail},
};

/// How many of the names that an original may have are tried.
const MAX_NAMES: usize = 8;

impl Reader {
    /// The generation of this name, if it is followed.
    pub(super) fn tail_of(&self, stream: usize, generation: GenerationId) -> Option<&Tail> {
        let tails = &self.streams.get(stream)?.tails;
        tails.iter().find(|tail| tail.generation == generation)
    }

    /// Living generations whose name a file has with something added.
    pub(super) fn originals(&self, channel: usize, path: &Path) -> Vec<(usize, GenerationId)> {
        original_names(path)
            .iter()
            .filter_map(|name| self.by_path.get(name.as_path()))
            .flatten()
            .filter(|&&(of, stream, generation)| {
                let tail = self.tail_of(stream, generation);
                of == channel && tail.is_some_and(|tail| tail.place == Place::Named)
            })
            .map(|&(_, stream, generation)| (stream, generation))
            .collect()
    }

    /// Living generations of which a newcomer may be a copy, the likeliest first: those in its folder,
    /// or in the one above, whose name begins as its own; at the start, those whose name it has with
    /// something added.
    pub(super) fn near(&self, channel: usize, path: &Path) -> Vec<(usize, GenerationId)> {
        let mut near = self.originals(channel, path);
        // Thousands of files may be found at the start, and few of them are copies just being made.
        if !self.any_known {
            return near;
        }
        let stem = stem_of(path);
        let folder = folder_of(path);
        for folder in [folder, folder_of(folder)] {
            let living = self
                .by_folder
                .get(&(channel, folder.to_owned()))
                .and_then(|stems| stems.get(stem))
                .into_iter()
                .flatten()
                .filter_map(|&at| Some((at, self.streams.get(at)?)));
            let tails = living.flat_map(|(at, stream)| stream.tails.iter().map(move |t| (at, t)));
            let beside = tails.filter(|(_, tail)| {
                tail.place == Place::Named
                    && folder_of(&tail.path) == folder
                    && stem_of(&tail.path) == stem
            });
            let beside = beside.map(|(stream, tail)| (stream, tail.generation));
            near.extend(beside.take(MAX_COMPARED));
        }
        near
    }

    /// Looks at files that changed since their last turn, before a newcomer is compared with them. True
    /// when one was cut off, and the newcomer is the copy in which it goes on.
    pub(super) fn look_at_originals(
        &mut self,
        channel: usize,
        path: &LogPath,
        info: &FileInfo,
        now: Instant,
    ) -> bool {
        for (stream, generation) in self.near(channel, path) {
            if self.tail_of(stream, generation).is_some_and(has_changed) {
                self.look_for_cut(stream, generation, now);
            }
        }
        self.by_key.contains_key(&(channel, info.key)) && self.known_file(channel, path, info)
    }
}

/// Paths that the original of a copy may have: `app.log` for `app.log.1`, `app.log-2026`,
/// `app-2026.log` and `old/app.log.1`.
fn original_names(path: &Path) -> Vec<PathBuf> {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    let name = path.file_name().unwrap_or_default().as_bytes();
    let ends = (1..name.len())
        .rev()
        .filter(|&at| name.get(at).is_some_and(|byte| b".-_".contains(byte)));
    let extension = path.extension().unwrap_or_default().as_bytes();
    let folder = folder_of(path);
    let mut names = Vec::new();
    for end in ends.take(MAX_NAMES) {
        let short = name.get(..end).unwrap_or_default();
        let with_extension = [short, b".", extension].concat();
        for name in [short, with_extension.as_slice()] {
            for folder in [folder, folder_of(folder)] {
                names.push(folder.join(OsStr::from_bytes(name)));
            }
        }
    }
    names.retain(|name| name != path);
    names
}

/// Whether a file is not as it was at the last look; true also when nobody can say.
fn has_changed(tail: &Tail) -> bool {
    let seen = match tail.file.as_ref().and_then(Content::as_file) {
        Some(file) => file.extent().map(|extent| (extent.size, extent.mtime_ns)),
        None => handle::of_path(tail.real_path()).map(|info| (info.size, info.mtime_ns)),
    };
    !seen.is_ok_and(|seen| seen == (tail.size, tail.mtime_ns))
}

/// Compares a newcomer with a living generation. A copy that is shorter than what was read, because it
/// is under way or nothing was read yet, is compared with the original itself. When the original was
/// just cut off, its beginning has to do; what was not read of it is read from the newcomer.
pub(super) fn like_beginning(tail: &Tail, file: &LogFile, info: &FileInfo) -> io::Result<Match> {
    let read_to = tail.offset();
    if read_to > 0 && info.size >= read_to {
        return tail.evidence.compare(file, info.size);
    }
    let opened;
    let original = match tail.file.as_ref().and_then(Content::as_file) {
        Some(original) => original,
        None => {
            opened = open_file(&tail.path)?;
            // Its name is the newcomer's by now, say: that is like itself, and no copy.
            if opened.info()?.key != tail.key {
                return Ok(UNLIKE);
            }
            &opened
        }
    };
    let all = like_all(original, file, info)?;
    let cut_off = read_to > 0 && original.extent()?.size < read_to;
    if cut_off && !(all.prefix && all.mark) {
        let known = tail.evidence.prefix;
        // A copy is whole before its original is cut off, also one that was under way when it was seen.
        let prefix = file.extent()?.size >= known.len && prefix_of(file, known.len)? == known;
        return Ok(Match {
            reaches: true,
            prefix,
            mark: prefix,
        });
    }
    Ok(all)
}

/// Compares a newcomer with as much of an original: beginning and end.
fn like_all(original: &LogFile, file: &LogFile, info: &FileInfo) -> io::Result<Match> {
    let there = mark_at(original, info.size)?;
    if there.is_none() {
        return Ok(UNLIKE);
    }
    Ok(Match {
        reaches: true,
        prefix: prefix_of(file, info.size)? == prefix_of(original, info.size)?,
        mark: mark_at(file, info.size)? == there,
    })
}
