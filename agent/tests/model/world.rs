//! The model: what was written to which physical file, and what may be lost of it.

use std::{
    fs::{self, File, FileTimes, OpenOptions},
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use flate2::{Compression, write::GzEncoder};
use tributary_common::wall;

/// Logs that are rotated; one more is a link.
pub(crate) const LOGS: usize = 2;
/// The log that is a link to what it means now.
pub(crate) const LINK: usize = LOGS;
const NAMES: [&str; LOGS + 1] = ["app.log", "web.log", "link.log"];

/// What must become of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// All of it arrives.
    Arrives,
    /// Its beginning arrives; a loss tells of the rest as far as the agent can have known it.
    MayEnd,
}

/// One physical file between two truncations.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fate: Fate,
    /// For people.
    pub(crate) name: String,
}

/// One log.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    /// The content that the path means; none while there is no file.
    current: Option<usize>,
    /// Renamed files, oldest first, with their contents.
    renamed: Vec<(PathBuf, usize)>,
    /// A line that is to be finished.
    unfinished: bool,
    /// It was copied and cut off once.
    copied: bool,
}

/// The folder, and what ought to come of it.
#[derive(Debug)]
pub(crate) struct World {
    folder: PathBuf,
    pub(crate) contents: Vec<Content>,
    logs: Vec<Log>,
    /// Contents without a name that the agent could find again.
    nameless: Vec<usize>,
    lines: u64,
    names: u64,
}

impl World {
    /// An empty folder; `elsewhere` is where links lead.
    pub(crate) fn new(folder: &Path, elsewhere: &Path) -> Self {
        fs::create_dir_all(elsewhere).unwrap();
        let log = |name: &&str| Log {
            path: folder.join(name),
            current: None,
            renamed: Vec::new(),
            unfinished: false,
            copied: false,
        };
        let mut world = Self {
            folder: folder.to_owned(),
            contents: Vec::new(),
            logs: NAMES.iter().map(log).collect(),
            nameless: Vec::new(),
            lines: 0,
            names: 0,
        };
        // What looks like one of theirs and never can be read must be in nobody's way.
        for name in NAMES {
            append(&folder.join(format!("{name}-0.gz")), &[0x1f, 0x8b, 8, 0]);
        }
        world.point_link(elsewhere);
        world
    }

    /// The content that a log's path means now, if it has any bytes.
    pub(crate) fn current(&self, log: usize) -> Option<usize> {
        let current = self.logs[log].current?;
        (!self.contents[current].bytes.is_empty()).then_some(current)
    }

    /// Whether a copy of something that the log was may lie beside it.
    pub(crate) fn was_copied(&self, log: usize) -> bool {
        self.logs[log].copied
    }

    fn begin(&mut self, log: usize) -> usize {
        let name = format!("{} of {}", self.contents.len(), NAMES[log]);
        self.contents.push(Content {
            bytes: Vec::new(),
            fate: Fate::Arrives,
            name,
        });
        self.logs[log].current = Some(self.contents.len() - 1);
        self.contents.len() - 1
    }

    /// Lines that nobody wrote before. Some contents begin alike.
    fn text(&mut self, content: usize, lines: u16) -> Vec<u8> {
        let mut text = Vec::new();
        if self.contents[content].bytes.is_empty() && content.is_multiple_of(2) {
            text.extend(b"# a header that many files have\n");
        }
        for _ in 0..lines {
            self.lines += 1;
            let filler = "x".repeat(usize::try_from(self.lines % 90).unwrap());
            text.extend(format!("line {:08} of {content} {filler}\n", self.lines).bytes());
        }
        text
    }

    /// Writes lines to a log, which is made when there is none.
    pub(crate) fn write(&mut self, log: usize, lines: u16, torn: bool) {
        let content = match self.logs[log].current {
            Some(content) => content,
            None => self.begin(log),
        };
        let mut text = self.text(content, lines);
        if self.logs[log].unfinished {
            // The rest of the line that was left before.
            text.splice(0..0, *b" and its end\n");
        }
        self.logs[log].unfinished = torn;
        if torn {
            text.pop();
        }
        append(&self.logs[log].path, &text);
        self.contents[content].bytes.extend(text);
    }

    /// Writes on in the file that was renamed last.
    pub(crate) fn late(&mut self, log: usize) {
        let Some((path, content)) = self.logs[log].renamed.last().cloned() else {
            return;
        };
        let text = self.text(content, 3);
        append(&path, &text);
        self.contents[content].bytes.extend(text);
    }

    fn finish_line(&mut self, log: usize) {
        if std::mem::take(&mut self.logs[log].unfinished)
            && let Some(content) = self.logs[log].current
        {
            append(&self.logs[log].path, b" and its end\n");
            self.contents[content].bytes.extend(b" and its end\n");
        }
    }

    /// Gives the log's file a name that nobody had.
    pub(crate) fn rename(&mut self, log: usize) {
        self.finish_line(log);
        let Some(content) = self.logs[log].current.take() else {
            return;
        };
        self.names += 1;
        let to = self.beside(log, &format!("-{:04}", self.names));
        fs::rename(&self.logs[log].path, &to).unwrap();
        self.logs[log].renamed.push((to, content));
    }

    /// Compresses the file that was renamed last, as `gzip` does: the plain file goes when the other
    /// is whole, which keeps its time.
    pub(crate) fn gzip(&mut self, log: usize) {
        let Some((path, _)) = self.logs[log].renamed.pop() else {
            return;
        };
        let to = packed(&path);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&fs::read(&path).unwrap()).unwrap();
        append(&to, &encoder.finish().unwrap());
        let times = FileTimes::new().set_modified(modified);
        open(&to).set_times(times).unwrap();
        fs::remove_file(path).unwrap();
    }

    fn beside(&self, log: usize, end: &str) -> PathBuf {
        self.folder.join(format!("{}{end}", NAMES[log]))
    }

    /// Shifts the numbered files on, so that `.1` is free.
    fn make_room(&mut self, log: usize) -> PathBuf {
        let numbered = |number: u32| format!("{}.{number}", NAMES[log]);
        for number in (1..40).rev() {
            let from = self.folder.join(numbered(number));
            let to = self.folder.join(numbered(number + 1));
            if packed(&from).try_exists().unwrap() {
                fs::rename(packed(&from), packed(&to)).unwrap();
            }
            if from.try_exists().unwrap() {
                fs::rename(&from, &to).unwrap();
                let known = self.logs[log].renamed.iter_mut();
                known
                    .filter(|(path, _)| *path == from)
                    .for_each(|(path, _)| path.clone_from(&to));
            }
        }
        self.folder.join(numbered(1))
    }

    /// Rotates as logrotate does by default.
    pub(crate) fn chain(&mut self, log: usize) {
        self.finish_line(log);
        let Some(content) = self.logs[log].current.take() else {
            return;
        };
        let to = self.make_room(log);
        fs::rename(&self.logs[log].path, &to).unwrap();
        self.logs[log].renamed.push((to, content));
    }

    /// Rotates as logrotate does with `copytruncate`.
    pub(crate) fn copy_truncate(&mut self, log: usize) {
        self.finish_line(log);
        if self.logs[log].current.is_none() {
            return;
        }
        let to = self.make_room(log);
        fs::copy(&self.logs[log].path, to).unwrap();
        open(&self.logs[log].path).set_len(0).unwrap();
        self.logs[log].copied = true;
        self.begin(log);
    }

    /// Cuts the log off, to nothing or to a third of it.
    pub(crate) fn truncate(&mut self, log: usize, to_zero: bool) {
        let Some(old) = self.logs[log].current else {
            return;
        };
        self.logs[log].unfinished = false;
        let len = if to_zero {
            0
        } else {
            let third = self.contents[old].bytes.len() / 3;
            let mut whole = self.contents[old].bytes[..third].iter();
            whole
                .rposition(|&byte| byte == b'\n')
                .map_or(0, |at| at + 1)
        };
        open(&self.logs[log].path).set_len(len as u64).unwrap();
        self.contents[old].fate = Fate::MayEnd;
        let left = self.contents[old].bytes[..len].to_vec();
        let new = self.begin(log);
        self.contents[new].bytes = left;
        if len > 0 {
            // Its own lines tell it from the one before.
            self.write(log, 2, false);
        }
    }

    /// Writes the log anew in place.
    pub(crate) fn rewrite(&mut self, log: usize, lines: u16) {
        let Some(old) = self.logs[log].current else {
            return;
        };
        self.logs[log].unfinished = false;
        self.contents[old].fate = Fate::MayEnd;
        let new = self.begin(log);
        let text = self.text(new, lines);
        fs::write(&self.logs[log].path, &text).unwrap();
        self.contents[new].bytes = text;
    }

    /// Deletes the log. `fate` is what the agent can do about it.
    pub(crate) fn delete(&mut self, log: usize, fate: Fate) {
        self.finish_line(log);
        let Some(content) = self.logs[log].current.take() else {
            return;
        };
        fs::remove_file(&self.logs[log].path).unwrap();
        self.contents[content].fate = fate;
        self.nameless.push(content);
    }

    /// The agent ends: what only it had open is gone.
    pub(crate) fn agent_ends(&mut self) {
        for content in self.nameless.drain(..) {
            self.contents[content].fate = Fate::MayEnd;
        }
    }

    fn point_link(&mut self, elsewhere: &Path) {
        self.names += 1;
        let target = elsewhere.join(format!("target-{}", self.names));
        File::create(&target).unwrap();
        let staged = self.folder.join("link.tmp");
        symlink(target, &staged).unwrap();
        fs::rename(staged, &self.logs[LINK].path).unwrap();
        self.begin(LINK);
    }

    /// The link means another file. `fate` is what the agent can do about the old one.
    pub(crate) fn swap(&mut self, elsewhere: &Path, fate: Fate) {
        self.finish_line(LINK);
        if let Some(old) = self.logs[LINK].current {
            self.contents[old].fate = fate;
            self.nameless.push(old);
        }
        self.point_link(elsewhere);
    }

    /// The clock jumps by a day while the log is written; for all worlds of this process.
    pub(crate) fn jump(&self, log: usize, forward: bool) {
        const DAY_MS: i64 = 86_400_000;
        wall::jump(if forward { DAY_MS } else { -DAY_MS });
        if self.logs[log].current.is_none() {
            return;
        }
        let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
        let then = if forward { now + day } else { now - day };
        let times = FileTimes::new().set_modified(then);
        open(&self.logs[log].path).set_times(times).unwrap();
    }

    /// Finishes all lines.
    pub(crate) fn finish(&mut self) {
        (0..=LOGS).for_each(|log| self.finish_line(log));
    }
}

/// What a file is called when it is compressed.
fn packed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

fn open(path: &Path) -> File {
    OpenOptions::new().append(true).open(path).unwrap()
}

fn append(path: &Path, text: &[u8]) {
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).open(path).unwrap();
    // In two pieces, cut anywhere.
    let (first, second) = text.split_at(text.len() * 2 / 3);
    file.write_all(first).unwrap();
    file.write_all(second).unwrap();
}
