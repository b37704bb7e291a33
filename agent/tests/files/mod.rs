//! Files as writers and rotation leave them: which are found, which is which, what is followed.
//!
//! Each case stands in `docs/rotation.md` with the name of its test.

mod finding;
mod identity;
mod open;
mod packed;
mod rotating;
mod spool;
mod stopped;

use std::{fs, io::Write as _, path::Path};

/// Cuts a file to `len` bytes in place.
fn truncate(path: &Path, len: u64) {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(len)
        .unwrap();
}

/// Writes a file anew in place: the same inode.
fn rewrite(path: &Path, lines: &[String]) {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path)
        .unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    file.write_all(text.as_bytes()).unwrap();
}
