//! A writer of stamped lines, which rotates its file in the ways of logrotate.
//!
//! A line says which file, which generation and which place it is, guards itself by a CRC-32C, and
//! is as long as a line of an access log:
//! `stamp=1 file=0007 gen=003 seq=000000000042 crc=89abcdef 10.0.3.7 - - "GET /… HTTP/1.1" 200 …`.
//! Lines reach the file in pieces cut anywhere, as buffered writers cut them.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::time::Instant;

/// What a stamped line says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp {
    /// Which writer.
    pub file: u32,
    /// Which of its physical files, from 0.
    pub generation: u32,
    /// Place among all lines of the writer, from 0.
    pub seq: u64,
}

/// Why a line carries no good stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadStamp {
    /// Nobody stamped it.
    Foreign,
    /// It was stamped, and changed since.
    Corrupt,
}

impl Stamp {
    /// The line, without its newline.
    pub(crate) fn line(self, filler: &str) -> String {
        let Self {
            file,
            generation,
            seq,
        } = self;
        let place = format!("file={file:04} gen={generation:03} seq={seq:012}");
        let crc = crc32c::crc32c_append(crc32c::crc32c(place.as_bytes()), filler.as_bytes());
        format!("stamp=1 {place} crc={crc:08x} {filler}")
    }

    /// Reads a line back.
    ///
    /// # Errors
    /// [`BadStamp`].
    pub fn read(line: &[u8]) -> Result<Self, BadStamp> {
        let line = std::str::from_utf8(line).map_err(|_not_text| BadStamp::Foreign)?;
        let rest = line.strip_prefix("stamp=1 ").ok_or(BadStamp::Foreign)?;
        let (place, rest) = rest.split_once(" crc=").ok_or(BadStamp::Corrupt)?;
        let (crc, filler) = rest.split_once(' ').ok_or(BadStamp::Corrupt)?;
        let right = crc32c::crc32c_append(crc32c::crc32c(place.as_bytes()), filler.as_bytes());
        if crc != format!("{right:08x}") {
            return Err(BadStamp::Corrupt);
        }
        let mut numbers = place
            .split(' ')
            .map(|part| part.split_once('=').map(|(_, n)| n));
        let mut next = || numbers.next().flatten().ok_or(BadStamp::Corrupt);
        let (file, generation, seq) = (next()?, next()?, next()?);
        let parsed = (file.parse(), generation.parse(), seq.parse());
        let (Ok(file), Ok(generation), Ok(seq)) = parsed else {
            return Err(BadStamp::Corrupt);
        };
        Ok(Self {
            file,
            generation,
            seq,
        })
    }
}

/// What a writer has written: for the oracle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Which writer.
    pub file: u32,
    /// Lines per physical file.
    pub generations: Vec<u64>,
}

impl Written {
    /// Lines in all.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.generations.iter().sum()
    }
}

/// The ways of logrotate. Old files are kept, so that nothing is lost by nature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// `app.log.1` -> `app.log.2` …, `app.log` -> `app.log.1`, new `app.log`.
    Rename,
    /// `app.log` -> `app.log-<number>` (dateext), new `app.log`.
    Dated,
    /// The chain of [`Rotation::Rename`], but `app.log` is copied and cut to 0.
    CopyTruncate,
    /// The file is removed and made anew. Its unread lines are gone unless somebody holds it open.
    Delete,
}

/// A log file in the making.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    out: File,
    written: Written,
    random: fastrand::Rng,
}

impl Writer {
    /// A new log `app-<file>.log` in `folder`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(folder: &Path, file: u32, seed: u64) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("app-{file}.log"));
        let out = open(&path)?;
        let random = fastrand::Rng::with_seed(seed ^ (u64::from(file) << 32));
        Ok(Self {
            path,
            out,
            written: Written {
                file,
                generations: vec![0],
            },
            random,
        })
    }

    /// The live file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it has written so far.
    #[must_use]
    pub fn written(&self) -> &Written {
        &self.written
    }

    /// Appends lines.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, lines: u64) -> Result<()> {
        let mut text = String::new();
        for _ in 0..lines {
            let stamp = Stamp {
                file: self.written.file,
                generation: u32::try_from(self.written.generations.len() - 1)?,
                seq: self.written.lines(),
            };
            text.push_str(&stamp.line(&filler(&mut self.random)));
            text.push('\n');
            if let Some(current) = self.written.generations.last_mut() {
                *current += 1;
            }
        }
        let mut bytes = text.as_bytes();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(self.random.usize(1..=bytes.len().min(20_000)));
            self.out.write_all(piece)?;
            bytes = rest;
        }
        Ok(())
    }

    /// Rotates; what follows goes to a new generation.
    ///
    /// # Errors
    /// When a file cannot be moved.
    pub fn rotate(&mut self, rotation: Rotation) -> Result<()> {
        match rotation {
            Rotation::Rename => {
                fs::rename(&self.path, self.make_room()?)?;
                self.out = open(&self.path)?;
            }
            Rotation::Dated => {
                let number = self.written.generations.len();
                fs::rename(&self.path, self.beside(&format!("-{number:08}")))?;
                self.out = open(&self.path)?;
            }
            Rotation::CopyTruncate => {
                fs::copy(&self.path, self.make_room()?)?;
                self.out.set_len(0)?;
            }
            Rotation::Delete => {
                fs::remove_file(&self.path)?;
                self.out = open(&self.path)?;
            }
        }
        self.written.generations.push(0);
        Ok(())
    }

    /// Moves the chain of old files up by one and gives the free name `….1`.
    fn make_room(&self) -> Result<PathBuf> {
        let name = |number: usize| self.beside(&format!(".{number}"));
        let mut last = 1;
        while name(last).is_file() {
            last += 1;
        }
        for number in (1..last).rev() {
            fs::rename(name(number), name(number + 1))?;
        }
        Ok(name(1))
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }
}

/// A writer at work on a thread of its own.
#[derive(Debug)]
pub struct Background(JoinHandle<Result<Writer>>);

/// What a writer does in the background.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Lines in all.
    pub lines: u64,
    /// Lines per second, about.
    pub per_second: u64,
    /// After which lines it rotates, and how; ascending.
    pub rotations: Vec<(u64, Rotation)>,
}

impl Schedule {
    /// `count` rotations of the given ways at random places.
    #[must_use]
    pub fn random(
        lines: u64,
        per_second: u64,
        count: usize,
        ways: &[Rotation],
        random: &mut fastrand::Rng,
    ) -> Self {
        let pick = |_| (random.u64(0..=lines), ways[random.usize(0..ways.len())]);
        let mut rotations: Vec<_> = (0..count).map(pick).collect();
        rotations.sort_by_key(|&(after, _)| after);
        Self {
            lines,
            per_second,
            rotations,
        }
    }
}

impl Background {
    /// Starts writing.
    #[must_use]
    pub fn start(mut writer: Writer, schedule: Schedule) -> Self {
        Self(thread::spawn(move || {
            follow(&mut writer, &schedule)?;
            Ok(writer)
        }))
    }

    /// Waits for the end of the schedule.
    ///
    /// # Errors
    /// What the writer met.
    pub fn finish(self) -> Result<Writer> {
        self.0
            .join()
            .map_err(|_panic| anyhow!("the writer panicked"))?
    }
}

fn follow(writer: &mut Writer, schedule: &Schedule) -> Result<()> {
    let began = Instant::now();
    let first = writer.written().lines();
    let mut rotations = schedule.rotations.iter().peekable();
    loop {
        let done = writer.written().lines() - first;
        while let Some((_, way)) = rotations.next_if(|&&(after, _)| after <= done) {
            writer.rotate(*way)?;
        }
        if done >= schedule.lines {
            return Ok(());
        }
        let stop = rotations
            .peek()
            .map_or(schedule.lines, |&&(after, _)| after.min(schedule.lines));
        let some = writer.random.u64(1..=100);
        writer.write(some.min(stop - done))?;
        // Pacing, not waiting: a real log is not written at once.
        let due =
            Duration::from_millis((writer.written().lines() - first) * 1_000 / schedule.per_second);
        thread::sleep(due.saturating_sub(began.elapsed()));
    }
}

fn open(path: &Path) -> Result<File> {
    File::options()
        .append(true)
        .create(true)
        .open(path)
        .with_context(|| format!("failed to open {}", path.display()))
}

/// The rest of a line as access logs have it: mostly 150 to 450 bytes, now and then 2 KB.
pub(crate) fn filler(random: &mut fastrand::Rng) -> String {
    const PATHS: [&str; 5] = [
        "/",
        "/api/v1/cart/items",
        "/static/js/app.3f9c.js",
        "/search",
        "/健康",
    ];
    let length = if random.u8(..) == 0 {
        2_000
    } else {
        random.usize(60..360)
    };
    let query: String = std::iter::repeat_with(|| random.alphanumeric())
        .take(length)
        .collect();
    format!(
        "10.{}.{}.{} - - \"GET {}?q={query} HTTP/1.1\" {} {} \"-\" \"Mozilla/5.0\"",
        random.u8(..),
        random.u8(..),
        random.u8(..),
        PATHS[random.usize(0..PATHS.len())],
        [200, 204, 301, 404, 502][random.usize(0..5)],
        random.u32(0..100_000),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_and_every_changed_byte_is_seen() {
        let stamp = Stamp {
            file: 7,
            generation: 3,
            seq: 42,
        };
        let line = stamp.line("10.0.0.1 - - filler").into_bytes();
        assert_eq!(Stamp::read(&line), Ok(stamp));
        for at in 0..line.len() {
            let mut changed = line.clone();
            changed[at] ^= 1;
            assert!(Stamp::read(&changed).is_err(), "byte {at}");
        }
        assert_eq!(Stamp::read(b"something else"), Err(BadStamp::Foreign));
    }

    #[test]
    fn every_way_of_rotation_keeps_every_line_but_deletion() {
        let folder = crate::scratch::create("writer").unwrap();
        let mut writer = Writer::new(&folder, 1, 1).unwrap();
        for way in [
            Rotation::Rename,
            Rotation::CopyTruncate,
            Rotation::Dated,
            Rotation::Rename,
        ] {
            writer.write(10).unwrap();
            writer.rotate(way).unwrap();
        }
        writer.write(3).unwrap();
        let mut stamps = Vec::new();
        for entry in fs::read_dir(&folder).unwrap() {
            let text = fs::read(entry.unwrap().path()).unwrap();
            let lines = text
                .split(|&byte| byte == b'\n')
                .filter(|line| !line.is_empty());
            stamps.extend(lines.map(|line| Stamp::read(line).unwrap().seq));
        }
        stamps.sort_unstable();
        assert_eq!(stamps, (0..43).collect::<Vec<u64>>());
        assert_eq!(writer.written().generations, [10, 10, 10, 10, 3]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
