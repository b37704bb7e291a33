//! What the file destination holds: every line with its place.
//!
//! Not for: Kafka (see [`crate::kafka`]).

use std::{fs, path::Path};

use anyhow::{Result, ensure};

use crate::oracle::Place;

/// All lines in all files below `folder`, with the number of the file and of the line in it;
/// nothing when there is no folder yet.
///
/// # Errors
/// When a file cannot be read.
pub fn lines(folder: &Path) -> Result<Vec<(Place, Vec<u8>)>> {
    let mut lines = Vec::new();
    for (number, path) in (0..).zip(files(folder)?) {
        let text = fs::read(&path)?;
        // What follows the last newline is being written.
        let whole = text
            .split_inclusive(|&byte| byte == b'\n')
            .filter_map(|l| l.strip_suffix(b"\n"));
        lines.extend(
            (0..)
                .zip(whole)
                .map(|(at, line)| ((number, at), line.to_vec())),
        );
    }
    Ok(lines)
}

/// As [`lines`], for a bus that has stopped: every file must end with a whole line.
///
/// # Errors
/// When a file ends within a line.
pub fn records(folder: &Path) -> Result<Vec<(Place, Vec<u8>)>> {
    for path in files(folder)? {
        let text = fs::read(&path)?;
        ensure!(
            text.is_empty() || text.ends_with(b"\n"),
            "{} ends within a line",
            path.display()
        );
    }
    lines(folder)
}

fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
