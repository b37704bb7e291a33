//! The demo's own witness: reads back what the file destination holds and compares it, line by
//! line, with what the programs wrote. It trusts none of Tributary's counts.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    path::Path,
};

use super::writer::number_in;

/// What one topic's files hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Found {
    /// Lines in the files.
    pub(super) lines: u64,
    /// Numbers that are nowhere.
    pub(super) missing: u64,
    /// Lines whose number was there before.
    pub(super) doubled: u64,
    /// Lines without a number of this demo.
    pub(super) foreign: u64,
}

/// Reads every file under `<delivered>/<topic>` for each topic and how many lines were written.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn read_back(
    delivered: &Path,
    written: &[(&'static str, u64)],
) -> io::Result<BTreeMap<&'static str, Found>> {
    written
        .iter()
        .map(|&(topic, lines)| Ok((topic, topic_found(&delivered.join(topic), lines)?)))
        .collect()
}

fn topic_found(folder: &Path, written: u64) -> io::Result<Found> {
    let mut found = Found::default();
    let mut seen = vec![false; usize::try_from(written).unwrap_or_default() + 1];
    visit(folder, &mut |line| {
        found.lines += 1;
        let number = number_in(line).and_then(|number| usize::try_from(number).ok());
        match number.and_then(|number| seen.get_mut(number)) {
            Some(place) if *place => found.doubled += 1,
            Some(place) => *place = true,
            None => found.foreign += 1,
        }
    })?;
    found.missing = seen.iter().skip(1).filter(|&&seen| !seen).count() as u64;
    Ok(found)
}

fn visit(folder: &Path, on_line: &mut impl FnMut(&[u8])) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            visit(&path, on_line)?;
            continue;
        }
        let mut reader = BufReader::new(File::open(&path)?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            on_line(line.strip_suffix(b"\n").unwrap_or(&line));
            line.clear();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_doubled_or_foreign_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("t/dt=x/hour=1");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("a.log"), "seq=1\nseq=2\nseq=2\n").unwrap();
        fs::write(deep.join("b.log"), "seq=5\nwho am I\nseq=99\n").unwrap();
        let found = read_back(folder.path(), &[("t", 5), ("never", 2)]).unwrap();
        assert_eq!(
            found["t"],
            Found {
                lines: 6,
                missing: 2,
                doubled: 1,
                foreign: 2
            }
        );
        assert_eq!(
            found["never"],
            Found {
                lines: 0,
                missing: 2,
                doubled: 0,
                foreign: 0
            }
        );
    }
}
