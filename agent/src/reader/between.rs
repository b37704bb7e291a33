//! Whether a log was rotated twice between two looks: then a file lies between two of its generations that
//! nobody has seen as the log, and a record at the end of the one does not go on in the other.
//!
//! Known by its name, which is the log's with numbers added (`app.log.1`, `app-2026-11-22.log`), and by when it
//! was made: after the last line of the one, before the other. Looked for only when a record is about to be
//! joined over two files. Not for: what is in that file, which is another log to the agent.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use super::copies::folder_of;
use crate::{far, handle, tail::Tail};

/// Entries of a folder that are looked at.
const MAX_ENTRIES: usize = 50_000;

/// Whether a file lies between two generations of a log.
pub(super) fn lies_between(old: &Tail, next: &Tail) -> bool {
    let log: &Path = &next.path;
    let born = handle::glance(next.real_path()).ok();
    let Some(born) = born.and_then(|next| next.born_ns()) else {
        return false;
    };
    if old.mtime_ns == 0 || next.truncations > 0 {
        return false;
    }
    let Some(name) = log.file_name() else {
        return false;
    };
    let mut folders = vec![folder_of(log), folder_of(old.real_path())];
    folders.dedup();
    let entries = folders.into_iter().flat_map(far::entries_there);
    let mut rotated = entries.take(MAX_ENTRIES).filter(|entry| {
        entry
            .path
            .file_name()
            .is_some_and(|of| is_rotated(name, of))
    });
    rotated.any(|entry| is_made_between(&entry.path, (old, next), (old.mtime_ns, born)))
}

/// Whether a path names a third file that was made within a time.
fn is_made_between(path: &Path, (old, next): (&Tail, &Tail), (from, until): (i64, i64)) -> bool {
    let born = handle::glance(path).ok().and_then(|seen| seen.born_ns());
    if !born.is_some_and(|born| (from..=until).contains(&born)) {
        return false;
    }
    handle::of_path(path).is_ok_and(|info| ![old.key, next.key].contains(&info.key))
}

/// Whether a name is that of a log with numbers added, behind it or before its ending.
fn is_rotated(log: &OsStr, name: &OsStr) -> bool {
    let (log, name) = (log.as_bytes(), name.as_bytes());
    let parts = (0..=log.len()).rev().filter_map(|at| {
        let (begin, end) = log.split_at(at);
        let added = name.strip_prefix(begin)?.strip_suffix(end)?;
        (end.is_empty() || end.starts_with(b".")).then_some(added)
    });
    let is_number = |added: &[u8]| {
        added.first().is_some_and(|byte| b".-_".contains(byte))
            && added.iter().any(u8::is_ascii_digit)
            && added
                .iter()
                .all(|byte| byte.is_ascii_digit() || b".-_".contains(byte))
    };
    parts.into_iter().any(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_name_is_the_logs_with_numbers_added() {
        let check = |name: &str, rotated: bool| {
            assert_eq!(
                is_rotated(OsStr::new("app.log"), OsStr::new(name)),
                rotated,
                "{name}"
            );
        };
        for name in [
            "app.log.1",
            "app.log-20261122",
            "app.2.log",
            "app-2026-11-22_01.log",
        ] {
            check(name, true);
        }
        for name in [
            "app.log",
            "app.err.log",
            "app.log.gz",
            "app.log.1.gz",
            "app.log.",
            "other.log.1",
            "app",
        ] {
            check(name, false);
        }
    }
}
