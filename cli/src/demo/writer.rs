//! The demo's log writers: three programs as one finds them on a server, and how each rotates.
//!
//! They stand for foreign programs, so they write with plain `std::fs`, not through the disk door.
//! Each line carries its number, so that the check at the end can name what is missing or doubled.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// How a program's log is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    /// Renamed to `.1`, `.1` to `.2`, and begun anew, as logrotate's default.
    Rename,
    /// Copied to `.1` and cut to nothing, as logrotate's `copytruncate`.
    CopyTruncate,
}

/// What a program writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An access log in the combined format.
    Access,
    /// JSON lines.
    Json,
    /// Key and value.
    Audit,
}

/// One program.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) topic: &'static str,
    kind: Kind,
    rotation: Rotation,
    path: PathBuf,
    file: File,
    written: u64,
    random: fastrand::Rng,
}

/// How many rotated files stay; older ones would be deleted by logrotate.
const KEEP: usize = 9;

impl Program {
    /// Begins a log.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn start(
        folder: &Path,
        topic: &'static str,
        kind: Kind,
        rotation: Rotation,
    ) -> io::Result<Self> {
        let path = folder.join(format!("{topic}.log"));
        let file = open(&path)?;
        let random = fastrand::Rng::with_seed(topic.len() as u64);
        Ok(Self {
            topic,
            kind,
            rotation,
            path,
            file,
            written: 0,
            random,
        })
    }

    /// Lines written so far: numbers 1 to this.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Writes some lines in one go.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub(super) fn write(&mut self, lines: u64) -> io::Result<()> {
        let mut text = String::new();
        for number in self.written + 1..=self.written + lines {
            text.push_str(&line(self.kind, number, &mut self.random));
            text.push('\n');
        }
        self.file.write_all(text.as_bytes())?;
        self.written += lines;
        Ok(())
    }

    /// Rotates the log once.
    ///
    /// # Errors
    /// When a file cannot be renamed, copied or begun.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        let rotated = |number: usize| self.path.with_extension(format!("log.{number}"));
        for number in (1..KEEP).rev() {
            match fs::rename(rotated(number), rotated(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        match self.rotation {
            Rotation::Rename => {
                fs::rename(&self.path, rotated(1))?;
                self.file = open(&self.path)?;
            }
            Rotation::CopyTruncate => {
                fs::copy(&self.path, rotated(1))?;
                self.file.set_len(0)?;
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

const PATHS: [&str; 6] = [
    "/",
    "/cart",
    "/checkout",
    "/search?q=shoes",
    "/item/8812",
    "/assets/app.7f3a.js",
];
const AGENTS: [&str; 3] = [
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/154.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
    "curl/8.11.1",
];

/// One line; it carries `seq=<number>`.
fn line(kind: Kind, number: u64, random: &mut fastrand::Rng) -> String {
    let host = random.u8(1..255);
    match kind {
        Kind::Access => format!(
            "10.0.{}.{host} - - [21/Nov/2026:12:{:02}:{:02} +0000] \"GET {}&seq={number} HTTP/1.1\" {} {} \"https://shop.example/\" \"{}\"",
            random.u8(..),
            number / 60_000 % 60,
            number / 1_000 % 60,
            PATHS[random.usize(..PATHS.len())],
            if random.u8(..) < 5 { 502 } else { 200 },
            random.u32(200..90_000),
            AGENTS[random.usize(..AGENTS.len())],
        ),
        Kind::Json => format!(
            "{{\"level\":\"info\",\"service\":\"orders\",\"message\":\"order placed\",\"order\":\"seq={number}\",\"items\":{},\"total_cents\":{},\"took_ms\":{}}}",
            random.u8(1..9),
            random.u32(500..90_000),
            random.u16(3..900),
        ),
        Kind::Audit => format!(
            "user={:08x} action=pay amount={} result=ok seq={number} node=pay-{host}",
            random.u32(..),
            random.u32(100..99_999),
        ),
    }
}

/// Stands before a line's number, and nowhere else in it.
const MARK: &[u8] = b"seq=";

/// The number that a line carries; `None` when it is no line of the demo.
pub(super) fn number_in(line: &[u8]) -> Option<u64> {
    let at = line.windows(MARK.len()).position(|window| window == MARK)?;
    let digits = line.get(at + MARK.len()..)?;
    let end = digits
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(digits.len());
    std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_carries_its_number() {
        let mut random = fastrand::Rng::with_seed(1);
        for kind in [Kind::Access, Kind::Json, Kind::Audit] {
            for number in [1, 77, 1_000_000] {
                let text = line(kind, number, &mut random);
                assert_eq!(number_in(text.as_bytes()), Some(number), "{text}");
            }
        }
        assert_eq!(number_in(b"something else"), None);
    }

    #[test]
    fn rotation_keeps_every_line() {
        for rotation in [Rotation::Rename, Rotation::CopyTruncate] {
            let folder = tempfile::tempdir().unwrap();
            let mut program = Program::start(folder.path(), "t", Kind::Audit, rotation).unwrap();
            for _ in 0..4 {
                program.write(10).unwrap();
                program.rotate().unwrap();
            }
            let lines: usize = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| {
                    fs::read_to_string(entry.unwrap().path())
                        .unwrap()
                        .lines()
                        .count()
                })
                .sum();
            assert_eq!(lines as u64, program.written());
        }
    }
}
