//! Finds the files of all tasks, and notices when their names come, go, or mean another file.
//!
//! Looking is the truth, hints of the kernel only make it look at once. A look has three results:
//! present, absent, unknown; what lies below a directory that cannot be read is unknown, and only
//! what was absent twice is said to be gone. The agent's own state directory and its own log are
//! never found.
//!
//! Not for: opening files, or which file it is (see [`crate::reader`]). Runs on a thread of its own,
//! started by [`crate::run`].

mod pattern;
mod watch;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crossbeam_channel::Sender;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::pattern::{Pattern, PatternSet, is_absence};
use self::{
    pattern::Visitor,
    watch::{Hints, Watch},
};
use crate::handle::{self, FileKind, Glance};

/// The longest time between two looks.
const LONGEST: Duration = Duration::from_secs(5);
/// The time between two looks when hints come, and when they do not.
const WITH_HINTS: Duration = Duration::from_secs(1);
const WITHOUT_HINTS: Duration = Duration::from_millis(200);
/// Looking may take this part of a core at most: a look waits so many times what the last one took.
const REST_WITH_HINTS: u32 = 200;
const REST_WITHOUT_HINTS: u32 = 20;
/// Looks because of hints follow each other no faster than so many times what the last one took.
const REST_ON_HINT: u32 = 10;
/// Hints are left to gather this long, so that a busy file wakes a hundred times a second at most.
const GATHER: Duration = Duration::from_millis(10);
/// While hints keep coming and no task is critical: a busy file wakes ten times a second.
const GATHER_BUSY: Duration = Duration::from_millis(100);
/// A file that was absent once is looked for again after this long.
const ABSENT_AGAIN: Duration = Duration::from_millis(100);
/// The stop token is looked at this often.
const STOP_EVERY: Duration = Duration::from_millis(200);

/// What the reader is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// The result of a look.
    Look(Look),
    /// Files were written to.
    Touched(Vec<PathBuf>),
    /// Memory came back, or the bus takes batches of a topic again.
    Wake,
    /// It is time to stop.
    Stop,
}

/// What changed since the look before. Tasks are named by their place in the configuration.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// 1 for the first one.
    pub(crate) round: u64,
    /// Paths that are new, or name another file than before.
    pub(crate) found: Vec<(usize, PathBuf)>,
    /// Paths whose file has another size or time.
    pub(crate) touched: Vec<PathBuf>,
    /// Paths that were absent twice.
    pub(crate) gone: Vec<(usize, PathBuf)>,
}

/// Where one task's files are.
#[derive(Debug)]
pub(crate) struct Where {
    /// Patterns of its files.
    pub(crate) paths: Vec<Pattern>,
    /// Patterns of what is left out.
    pub(crate) exclude: PatternSet,
    /// Its lines are wanted at once.
    pub(crate) critical: bool,
}

/// A path that was found.
#[derive(Debug)]
struct Known {
    glance: Glance,
    /// The last look that saw it.
    round: u64,
    /// Looks in a row that did not.
    absent: u8,
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Discover {
    tasks: Vec<Where>,
    state_dir: PathBuf,
    /// Device and inode of the agent's own log, when that is a file.
    own_log: Option<(u64, u64)>,
    events: Sender<Event>,
    watch: Option<Watch>,
    known: HashMap<(usize, PathBuf), Known>,
    round: u64,
    /// When hints were taken last.
    drained: Instant,
    /// Some task's lines are wanted at once.
    critical: bool,
    /// Paths that a person was told about: no files, or directories that cannot be read.
    told: HashSet<PathBuf>,
}

/// One walk's findings.
struct Walk<'a> {
    matched: Vec<(PathBuf, bool)>,
    unknown: Vec<PathBuf>,
    watch: Option<&'a mut Watch>,
    told: &'a mut HashSet<PathBuf>,
}

impl Visitor for Walk<'_> {
    fn directory(&mut self, path: &Path) {
        if let Some(watch) = &mut self.watch {
            watch.add(path);
        }
    }

    fn matched(&mut self, path: PathBuf, literal: bool) {
        self.matched.push((path, literal));
    }

    fn unknown(&mut self, path: &Path, error: &io::Error) {
        if self.told.insert(path.to_owned()) {
            tracing::warn!(
                path = %path.display(),
                error = error.to_string(),
                "a directory cannot be read; it is tried again regularly"
            );
        }
        self.unknown.push(path.to_owned());
    }
}

impl Discover {
    /// Looks for the files of these tasks. `state_dir` is absolute.
    pub(crate) fn new(tasks: Vec<Where>, state_dir: &Path, events: Sender<Event>) -> Self {
        let watch = match Watch::new() {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!(
                    error = error.to_string(),
                    "the kernel gives no hints about files; they are found by looking regularly"
                );
                None
            }
        };
        let own_log = handle::glance_at_stderr().map(|glance| (glance.device, glance.inode));
        let state_dir = state_dir
            .canonicalize()
            .unwrap_or_else(|_missing| state_dir.to_owned());
        Self {
            drained: Instant::now(),
            critical: tasks.iter().any(|task| task.critical),
            tasks,
            state_dir,
            own_log,
            events,
            watch,
            known: HashMap::new(),
            round: 0,
            told: HashSet::new(),
        }
    }

    /// Looks until `stop`.
    ///
    /// # Errors
    /// None: what cannot be read is tried again.
    pub(crate) fn run(mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut renamed = Vec::new();
        while !stop.is_cancelled() {
            let began = Instant::now();
            let (look, absent_once) = self.look(&renamed);
            let cost = began.elapsed();
            renamed.clear();
            if self.events.send(Event::Look(look)).is_err() {
                return Ok(());
            }
            let now = Instant::now();
            let mut next = now + self.pause(cost, absent_once);
            let soonest = now + (cost * REST_ON_HINT).clamp(GATHER, LONGEST);
            while Instant::now() < next && !stop.is_cancelled() {
                let hints = self.wait(next);
                if hints.structure() {
                    next = soonest;
                }
                renamed.extend(hints.renamed);
                if !hints.touched.is_empty()
                    && self.events.send(Event::Touched(hints.touched)).is_err()
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// How long to rest after a look that took `cost`.
    fn pause(&self, cost: Duration, absent_once: bool) -> Duration {
        let (least, rest) = match &self.watch {
            Some(watch) if watch.is_complete() => (WITH_HINTS, REST_WITH_HINTS),
            Some(_) | None => (WITHOUT_HINTS, REST_WITHOUT_HINTS),
        };
        let pause = (cost * rest).clamp(least, LONGEST);
        if absent_once {
            pause.min(ABSENT_AGAIN)
        } else {
            pause
        }
    }

    /// Waits for hints until `until`, at most a moment.
    fn wait(&mut self, until: Instant) -> Hints {
        let limit = until
            .saturating_duration_since(Instant::now())
            .min(STOP_EVERY);
        let Some(watch) = &mut self.watch else {
            std::thread::sleep(limit);
            return Hints::default();
        };
        if !watch.wait(limit) {
            return Hints::default();
        }
        // More is coming: one waking for all of it.
        let busy = !self.critical && self.drained.elapsed() < GATHER_BUSY * 2;
        std::thread::sleep(if busy { GATHER_BUSY } else { GATHER });
        self.drained = Instant::now();
        watch.drain()
    }

    /// One look at everything. `renamed` are paths whose file must be looked at anew, even when it
    /// looks the same. Also says whether something was absent for the first time.
    fn look(&mut self, renamed: &[PathBuf]) -> (Look, bool) {
        self.round += 1;
        let mut look = Look {
            round: self.round,
            ..Look::default()
        };
        let mut unknown = Vec::new();
        for task in 0..self.tasks.len() {
            for (path, literal) in self.walk(task, &mut unknown) {
                self.see(task, path, literal, renamed, &mut look);
            }
        }
        let round = self.round;
        let mut absent_once = false;
        self.known.retain(|(task, path), known| {
            if known.round == round || unknown.iter().any(|dir| path.starts_with(dir)) {
                return true;
            }
            known.absent += 1;
            absent_once = true;
            if known.absent < 2 {
                return true;
            }
            look.gone.push((*task, path.clone()));
            false
        });
        (look, absent_once)
    }

    /// All paths of one task that match now. Adds directories that could not be read to `unknown`.
    fn walk(&mut self, task: usize, unknown: &mut Vec<PathBuf>) -> Vec<(PathBuf, bool)> {
        let Some(place) = self.tasks.get(task) else {
            return Vec::new();
        };
        let mut walk = Walk {
            matched: Vec::new(),
            unknown: Vec::new(),
            watch: self.watch.as_mut(),
            told: &mut self.told,
        };
        place
            .paths
            .iter()
            .for_each(|pattern| pattern.walk(&mut walk));
        let Walk {
            mut matched,
            unknown: failed,
            ..
        } = walk;
        unknown.extend(failed);
        matched.sort_unstable();
        matched.dedup_by(|a, b| a.0 == b.0);
        matched
            .retain(|(path, _)| !place.exclude.matches(path) && !path.starts_with(&self.state_dir));
        matched
    }

    /// A path matches: what is it, and is it new?
    fn see(
        &mut self,
        task: usize,
        path: PathBuf,
        literal: bool,
        renamed: &[PathBuf],
        look: &mut Look,
    ) {
        let key = (task, path);
        let glance = match handle::glance(&key.1) {
            Ok(glance) => glance,
            Err(error) if is_absence(&error) => return,
            Err(_unknown) => {
                if let Some(known) = self.known.get_mut(&key) {
                    known.round = self.round;
                }
                return;
            }
        };
        if glance.kind != FileKind::Regular {
            self.tell_no_file(&key.1, glance.kind, literal);
            return;
        }
        if self.own_log == Some((glance.device, glance.inode)) {
            return;
        }
        let round = self.round;
        match self.known.get_mut(&key) {
            Some(known) if known.glance.is_same_file(&glance) && !renamed.contains(&key.1) => {
                if known.glance != glance {
                    look.touched.push(key.1);
                }
                *known = Known {
                    glance,
                    round,
                    absent: 0,
                };
            }
            Some(_) | None => {
                look.found.push(key.clone());
                self.known.insert(
                    key,
                    Known {
                        glance,
                        round,
                        absent: 0,
                    },
                );
            }
        }
    }

    /// Tells a person once that a path is no file. A pattern with wildcards matches directories all
    /// the time; a path without was meant.
    fn tell_no_file(&mut self, path: &Path, kind: FileKind, literal: bool) {
        if !self.told.insert(path.to_owned()) {
            return;
        }
        let message = "a task's paths match something that is no file; it is left out";
        let hint = match kind {
            FileKind::Directory => "to collect the files in it, write /* behind it",
            FileKind::Regular | FileKind::Other => "only files can be collected",
        };
        if literal {
            tracing::warn!(path = %path.display(), found = kind.as_str(), hint, message);
        } else {
            tracing::info!(path = %path.display(), found = kind.as_str(), hint, message);
        }
    }
}
