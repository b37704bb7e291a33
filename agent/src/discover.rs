//! Finds the files of all tasks, and notices when their names come, go, or mean another file.
//!
//! Looking is the truth, hints of the kernel only make it look at once: at the names that the hint
//! is about, or at everything when directories come and go. A look has three results: present,
//! absent, unknown; what lies below a directory that cannot be read is unknown, and only what was
//! absent twice is said to be gone. Where no hints come, for want of watches or on file systems that
//! others write to, the tasks concerned are looked at often. The agent's own state directory and its
//! own log are never found.
//!
//! Not for: opening files, or which file it is (see [`crate::reader`]). Runs on a thread of its own,
//! started by [`crate::run`].

mod pattern;
mod rest;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use crossbeam_channel::Receiver;
use metrics::counter;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tributary_common::ids::Class;

pub(crate) use self::pattern::{Pattern, PatternSet, Visitor, is_absence};
use self::watch::{Hints, Watch, Watched};
use crate::{
    config::Task,
    far::{self, Mounts},
    flow::Flow,
    handle::{self, FileKind, Print},
    live::Plan,
    path::LogPath,
    shown::shown,
};

/// The longest time between two looks at everything, and at tasks without hints.
const LONGEST: Duration = Duration::from_secs(30);
const LONGEST_BLIND: Duration = Duration::from_secs(5);
/// The time between two looks when hints come, and when they do not.
const WITH_HINTS: Duration = Duration::from_secs(1);
const WITHOUT_HINTS: Duration = Duration::from_millis(200);
/// Looking may take this part of a core at most: a look waits so many times what the last one took.
const REST_WITH_HINTS: u32 = 300;
const REST_WITHOUT_HINTS: u32 = 20;
/// Looks because of hints follow each other no faster than so many times what the last one took.
const REST_ON_HINT: u32 = 10;
/// The longest time between a hint and the look.
const LONGEST_ON_HINT: Duration = Duration::from_secs(2);
/// Hints are left to gather this long, so that a busy file wakes a hundred times a second at most.
const GATHER: Duration = Duration::from_millis(10);
/// While hints keep coming and no task is critical: a busy file wakes ten times a second.
const GATHER_BUSY: Duration = Duration::from_millis(100);
/// A file that was absent once is looked for again after this long.
const ABSENT_AGAIN: Duration = Duration::from_millis(100);
/// What matches and is no file is shown up to so many paths a task.
const MAX_LEFT_OUT: usize = 100;
/// The stop token is looked at this often.
const STOP_EVERY: Duration = Duration::from_millis(200);

/// What the reader is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// The result of a look.
    Look(Look),
    /// Files were written to.
    Touched(Vec<PathBuf>),
    /// The list of tasks from now on. What was looked for before came before it, what is looked for
    /// by it comes after.
    Apply(Plan),
    /// Memory came back, or the bus takes batches of a topic again.
    Wake,
    /// Something was saved in the spool, or a compressed file was looked into.
    Spool(crate::spool::Done),
    /// It is time to stop.
    Stop,
}

/// What changed since the look before. Tasks are named by their places.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// Everything was looked at, not only what a hint was about.
    pub(crate) whole: bool,
    /// Paths that are new, or name another file than before.
    pub(crate) found: Vec<(usize, LogPath)>,
    /// Paths whose file has another size or time.
    pub(crate) touched: Vec<LogPath>,
    /// Paths that were absent twice.
    pub(crate) gone: Vec<(usize, LogPath)>,
    /// How it went, after a whole look.
    pub(crate) figures: Option<Figures>,
}

/// How looking goes, for people.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    /// How long the last whole look took.
    pub(crate) took: Duration,
    /// Paths that match now.
    pub(crate) paths: usize,
    /// Directories with hints.
    pub(crate) watched: usize,
    /// Tasks that are looked at often for want of hints, by their place.
    pub(crate) blind: BTreeSet<usize>,
    /// Per task: what matches and is no file.
    pub(crate) left_out: Vec<BTreeMap<PathBuf, FileKind>>,
    /// Per task: how many paths of each kind did not, so far.
    pub(crate) met: Vec<BTreeMap<FileKind, u64>>,
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

impl Where {
    /// Where the files of a task are.
    pub(crate) fn of(task: &Task) -> Self {
        Self {
            paths: task.paths.clone(),
            exclude: task.exclude.clone(),
            critical: task.class == Class::P0,
        }
    }

    /// Whether a path is one of this task's, and if so, whether no wildcard was needed.
    fn matches(&self, path: &Path) -> Option<bool> {
        let literal = self
            .paths
            .iter()
            .find_map(|pattern| pattern.matches(path))?;
        (!self.exclude.matches(path)).then_some(literal)
    }
}

/// A path that was found.
#[derive(Debug)]
struct Known {
    print: Print,
    /// The last look that saw it.
    round: u32,
    /// Looks in a row that did not.
    absent: u8,
    /// It is to be told as if it were new.
    again: bool,
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Discover {
    /// By place; `None` where a task was removed.
    tasks: Vec<Option<Where>>,
    plans: Receiver<Plan>,
    state_dir: PathBuf,
    /// Device and inode of the agent's own log, when that is a file.
    own_log: Option<(u64, u64)>,
    events: SyncSender<Event>,
    watch: Option<Watch>,
    /// Files whose hints are not wanted.
    flow: Arc<Flow>,
    /// Directories that may be watched.
    max_watches: usize,
    /// By the place of their task.
    known: Vec<HashMap<LogPath, Known>>,
    /// What files behind links are called where they are, and the links.
    links: HashMap<PathBuf, Vec<PathBuf>>,
    round: u32,
    /// When hints were taken last.
    drained: Instant,
    /// Some task's lines are wanted at once.
    critical: bool,
    /// Paths that a person was told about: no files, or directories that cannot be read.
    told: HashSet<PathBuf>,
    /// Which file systems may hang.
    mounts: Mounts,
    figures: Figures,
}

/// One walk's findings.
struct Walk<'a> {
    matched: Vec<(PathBuf, bool)>,
    unknown: Vec<PathBuf>,
    watch: Option<&'a mut Watch>,
    /// Some directory gives no hints.
    blind: bool,
    told: &'a mut HashSet<PathBuf>,
}

impl Visitor for Walk<'_> {
    fn directory(&mut self, path: &Path) {
        self.blind |= match &mut self.watch {
            Some(watch) => watch.add(path) == Watched::Blind,
            None => true,
        };
    }

    fn matched(&mut self, path: PathBuf, literal: bool) {
        self.matched.push((path, literal));
    }

    fn unknown(&mut self, path: &Path, error: &io::Error) {
        if self.told.insert(path.to_owned()) {
            tracing::warn!(
                path = shown(path),
                error = error.to_string(),
                "a directory cannot be read; it is tried again regularly"
            );
        }
        self.unknown.push(path.to_owned());
    }

    fn again(&mut self, link: &Path) {
        if self.told.insert(link.to_owned()) {
            tracing::info!(
                path = shown(link),
                "a link leads to a directory that is looked at already; it is not entered again"
            );
        }
    }
}

/// Which tasks are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    /// Those without hints.
    Blind,
}

impl Discover {
    /// Looks for the files of these tasks, and of those of the last plan from then on. `state_dir` is
    /// absolute.
    pub(crate) fn new(
        tasks: Vec<Option<Where>>,
        plans: Receiver<Plan>,
        state_dir: &Path,
        events: SyncSender<Event>,
        flow: Arc<Flow>,
    ) -> Self {
        Self::with_watches(tasks, plans, state_dir, events, flow, usize::MAX)
    }

    fn with_watches(
        tasks: Vec<Option<Where>>,
        plans: Receiver<Plan>,
        state_dir: &Path,
        events: SyncSender<Event>,
        flow: Arc<Flow>,
        max_watches: usize,
    ) -> Self {
        let own_log = handle::glance_at_stderr().map(|glance| (glance.device, glance.inode));
        let state_dir = state_dir
            .canonicalize()
            .unwrap_or_else(|_missing| state_dir.to_owned());
        let watch = Watch::new(max_watches, &flow).inspect_err(|error| {
            counter!("tributary_agent_polling_total", "reason" => "instance-limit").increment(1);
            tracing::warn!(
                error = error.to_string(),
                "the kernel gives no hints about files; they are found by looking regularly; \
                 raise fs.inotify.max_user_instances"
            );
        });
        let figures = Figures {
            left_out: vec![BTreeMap::new(); tasks.len()],
            met: vec![BTreeMap::new(); tasks.len()],
            ..Figures::default()
        };
        Self {
            drained: Instant::now(),
            critical: tasks.iter().flatten().any(|task| task.critical),
            tasks,
            plans,
            state_dir,
            own_log,
            events,
            watch: watch.ok(),
            flow,
            max_watches,
            known: Vec::new(),
            links: HashMap::new(),
            round: 0,
            told: HashSet::new(),
            mounts: Mounts::new(),
            figures,
        }
    }

    /// Looks until `stop`.
    ///
    /// # Errors
    /// None: what cannot be read is tried again.
    pub(crate) fn run(mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut renamed = Vec::new();
        // When to look at everything, at tasks without hints, and at `renamed`.
        let (mut all_at, mut blind_at, mut some_at) = (Instant::now(), Instant::now(), None);
        while !stop.is_cancelled() {
            if let Ok(plan) = self.plans.try_recv() {
                self.take_over(&plan);
                all_at = Instant::now();
                if self.events.send(Event::Apply(plan)).is_err() {
                    return Ok(());
                }
            }
            let began = Instant::now();
            let is_due = |at: &Instant| *at <= began;
            let (look, absent) = if all_at <= began {
                self.look(Scope::All, &std::mem::take(&mut renamed))
            } else if blind_at <= began && !self.figures.blind.is_empty() {
                self.look(Scope::Blind, &[])
            } else if some_at.as_ref().is_some_and(is_due) {
                self.look_at(&std::mem::take(&mut renamed))
            } else {
                (None, Vec::new())
            };
            let (cost, now) = (began.elapsed(), Instant::now());
            if let Some(look) = look {
                let rest = |least: Duration, times: u32, most| (cost * times).clamp(least, most);
                if look.whole {
                    all_at = now + rest(WITH_HINTS, REST_WITH_HINTS, LONGEST);
                }
                blind_at = now + rest(WITHOUT_HINTS, REST_WITHOUT_HINTS, LONGEST_BLIND);
                if !absent.is_empty() {
                    some_at = Some(now + ABSENT_AGAIN);
                } else if renamed.is_empty() {
                    some_at = None;
                }
                renamed.extend(absent);
                if self.events.send(Event::Look(look)).is_err() {
                    return Ok(());
                }
            }
            // Without such tasks nobody looks then, and a time that is over would never pass.
            let blind = (!self.figures.blind.is_empty()).then_some(blind_at);
            let next = [Some(all_at), blind, some_at];
            let next = next.into_iter().flatten().min().unwrap_or(all_at);
            let hints = self.wait(next);
            let soonest = now + (cost * REST_ON_HINT).clamp(GATHER, LONGEST_ON_HINT);
            if hints.everything {
                all_at = all_at.min(soonest);
            }
            if !hints.renamed.is_empty() {
                some_at = Some(some_at.map_or(now, |at: Instant| at.min(now)));
                renamed.extend(hints.renamed);
            }
            if !hints.touched.is_empty() && self.events.send(Event::Touched(hints.touched)).is_err()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// From now on these tasks are looked for.
    fn take_over(&mut self, plan: &Plan) {
        self.tasks.iter_mut().for_each(|task| *task = None);
        for (place, task) in &plan.tasks {
            if self.tasks.len() <= *place {
                self.tasks.resize_with(place + 1, || None);
            }
            if let Some(known) = self.tasks.get_mut(*place) {
                *known = Some(Where::of(task));
            }
        }
        self.critical = self.tasks.iter().flatten().any(|task| task.critical);
        let tasks = &self.tasks;
        let stays = |task: usize| tasks.get(task).is_some_and(Option::is_some);
        for (task, known) in self.known.iter_mut().enumerate() {
            if !stays(task) {
                *known = HashMap::new();
            }
            let moved = plan.moved.contains(&task);
            known.values_mut().for_each(|known| known.again |= moved);
        }
        self.figures.blind.retain(|task| stays(*task));
        self.figures
            .left_out
            .resize_with(tasks.len(), BTreeMap::new);
        self.figures.met.resize_with(tasks.len(), BTreeMap::new);
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
        if !watch.wait(limit, &self.flow) {
            return Hints::default();
        }
        // More is coming: one waking for all of it. Names do not wait for writes.
        let busy = !self.critical && self.drained.elapsed() < GATHER_BUSY * 2;
        if !busy || watch.wait_for_names(GATHER_BUSY) {
            std::thread::sleep(GATHER);
        }
        self.drained = Instant::now();
        let mut hints = watch.drain();
        self.add_links(&mut hints.touched);
        self.add_links(&mut hints.renamed);
        if let Some(watch) = &mut self.watch {
            watch.leave_out_flowing(&mut hints.touched, &self.flow);
        }
        hints
    }

    /// What happens to a file happens to the links to it.
    fn add_links(&self, paths: &mut Vec<PathBuf>) {
        if self.links.is_empty() {
            return;
        }
        let links = paths.iter().filter_map(|path| self.links.get(path));
        let links: Vec<PathBuf> = links.flatten().cloned().collect();
        paths.extend(links);
    }

    /// One look at everything, or at tasks without hints. `renamed` are paths whose file must be
    /// looked at anew, even when it looks the same. Also says what was absent for the first time.
    fn look(&mut self, scope: Scope, renamed: &[PathBuf]) -> (Option<Look>, Vec<PathBuf>) {
        let began = Instant::now();
        self.round = self.round.wrapping_add(1);
        self.mounts.look();
        if self.watch.is_none() {
            self.watch = Watch::new(self.max_watches, &self.flow).ok();
        }
        let mut look = Look {
            whole: scope == Scope::All,
            ..Look::default()
        };
        let renamed: HashSet<&PathBuf> = renamed.iter().collect();
        let mut unknown = Vec::new();
        let tasks: Vec<usize> = (0..self.tasks.len())
            .filter(|task| scope == Scope::All || self.figures.blind.contains(task))
            .collect();
        for &task in &tasks {
            if let Some(left_out) = self.figures.left_out.get_mut(task) {
                left_out.clear();
            }
            for (path, literal) in self.walk(task, &mut unknown) {
                let anew = renamed.contains(&path);
                self.see(task, &path, literal, anew, &mut look);
            }
        }
        let round = self.round;
        let mut absent = Vec::new();
        for (task, known) in self.known.iter_mut().enumerate() {
            if !tasks.contains(&task) {
                continue;
            }
            known.retain(|path, known| {
                if known.round == round || unknown.iter().any(|dir| path.starts_with(dir)) {
                    return true;
                }
                known.absent += 1;
                if known.absent < 2 {
                    absent.push(path.to_path_buf());
                    return true;
                }
                look.gone.push((task, path.clone()));
                false
            });
        }
        self.forget_links(&look.gone);
        self.figures.took = began.elapsed();
        self.figures.paths = self.known.iter().map(HashMap::len).sum();
        self.figures.watched = self.watch.as_ref().map_or(0, Watch::len);
        look.figures = Some(self.figures.clone());
        (Some(look), absent)
    }

    /// A look at these paths only: hints said that something happened to their names.
    fn look_at(&mut self, paths: &[PathBuf]) -> (Option<Look>, Vec<PathBuf>) {
        let mut look = Look::default();
        let mut absent = Vec::new();
        for path in paths {
            for task in 0..self.tasks.len() {
                let Some(literal) = self
                    .tasks
                    .get(task)
                    .and_then(Option::as_ref)
                    .and_then(|place| place.matches(path))
                else {
                    continue;
                };
                if path.starts_with(&self.state_dir) {
                    continue;
                }
                if let Some(known) = self.known(task).get_mut(path.as_path()) {
                    known.absent += 1;
                }
                self.see(task, path, literal, true, &mut look);
                let known = self.known(task);
                match known.get(path.as_path()).map(|known| known.absent) {
                    Some(0) | None => {}
                    Some(1) => absent.push(path.clone()),
                    Some(_) => {
                        if let Some((path, _)) = known.remove_entry(path.as_path()) {
                            look.gone.push((task, path));
                        }
                    }
                }
            }
        }
        self.forget_links(&look.gone);
        (Some(look), absent)
    }

    /// What is known of one task.
    fn known(&mut self, task: usize) -> &mut HashMap<LogPath, Known> {
        if self.known.len() <= task {
            self.known.resize_with(task + 1, HashMap::new);
        }
        self.known.get_mut(task).expect("it is as long as that")
    }

    /// A path as it stands in what is known of a task, or anew.
    fn known_name(&mut self, task: usize, path: &Path) -> LogPath {
        let known = self.known(task).get_key_value(path);
        known.map_or_else(|| path.into(), |(path, _)| path.clone())
    }

    /// Links that are gone lead nowhere.
    fn forget_links(&mut self, gone: &[(usize, LogPath)]) {
        if self.links.is_empty() || gone.is_empty() {
            return;
        }
        gone.iter().for_each(|(_, path)| far::forget_link(path));
        let gone: HashSet<&Path> = gone.iter().map(|(_, path)| &**path).collect();
        self.links.retain(|_, links| {
            links.retain(|link| !gone.contains(link.as_path()));
            !links.is_empty()
        });
    }

    /// A path was found anew: when it is a link, the folder of its file tells what happens to it.
    fn follow_link(&mut self, path: &Path) {
        for links in self.links.values_mut() {
            links.retain(|link| link != path);
        }
        let Some(target) = far::link_target(path) else {
            return;
        };
        if let (Some(watch), Some(folder)) = (&mut self.watch, target.parent()) {
            watch.add(folder);
        }
        self.links.entry(target).or_default().push(path.to_owned());
    }

    /// All paths of one task that match now. Adds directories that could not be read to `unknown`.
    fn walk(&mut self, task: usize, unknown: &mut Vec<PathBuf>) -> Vec<(PathBuf, bool)> {
        let Some(Some(place)) = self.tasks.get(task) else {
            return Vec::new();
        };
        let mut walk = Walk {
            matched: Vec::new(),
            unknown: Vec::new(),
            watch: self.watch.as_mut(),
            blind: false,
            told: &mut self.told,
        };
        place
            .paths
            .iter()
            .for_each(|pattern| pattern.walk(&mut walk));
        let Walk {
            mut matched,
            unknown: failed,
            blind,
            ..
        } = walk;
        unknown.extend(failed);
        if blind {
            self.figures.blind.insert(task);
        } else {
            self.figures.blind.remove(&task);
        }
        matched.sort_unstable();
        matched.dedup_by(|a, b| a.0 == b.0);
        matched
            .retain(|(path, _)| !place.exclude.matches(path) && !path.starts_with(&self.state_dir));
        matched
    }

    /// A path matches: what is it, and is it new? `anew`: it is told even when it looks the same.
    fn see(&mut self, task: usize, path: &Path, literal: bool, anew: bool, look: &mut Look) {
        let round = self.round;
        let glance = match handle::glance(path) {
            Ok(glance) => glance,
            Err(error) if is_absence(&error) => return,
            Err(_unknown) => {
                if let Some(known) = self.known(task).get_mut(path) {
                    known.round = round;
                    known.absent = 0;
                }
                return;
            }
        };
        if glance.kind != FileKind::Regular {
            self.leave_out(task, path, glance.kind, literal);
            return;
        }
        if self.own_log == Some((glance.device, glance.inode)) {
            return;
        }
        let seen = Known {
            print: glance.print(),
            round,
            absent: 0,
            again: false,
        };
        let known = self.known(task);
        if let Some(known) = known.get_mut(path)
            && known.print.file == seen.print.file
            && !anew
            && !known.again
        {
            let touched = known.print.content != seen.print.content;
            *known = seen;
            if touched {
                look.touched.push(self.known_name(task, path));
            }
            return;
        }
        let path = self.known_name(task, path);
        self.known(task).insert(path.clone(), seen);
        self.follow_link(&path);
        look.found.push((task, path));
    }

    /// A path is no file, and never opened. Told once: a pattern with wildcards matches directories
    /// all the time; a path without was meant.
    fn leave_out(&mut self, task: usize, path: &Path, kind: FileKind, literal: bool) {
        if let Some(left_out) = self.figures.left_out.get_mut(task)
            && left_out.len() < MAX_LEFT_OUT
        {
            left_out.insert(path.to_owned(), kind);
        }
        if !self.told.insert(path.to_owned()) {
            return;
        }
        if let Some(met) = self.figures.met.get_mut(task) {
            *met.entry(kind).or_default() += 1;
        }
        let message = "a task's paths match something that is no file; it is left out";
        let hint = match kind {
            FileKind::Directory => "to collect the files in it, write /* behind it",
            FileKind::Regular | FileKind::Pipe | FileKind::Socket | FileKind::Device => {
                "only files can be collected"
            }
        };
        if literal {
            tracing::warn!(path = shown(path), found = kind.as_str(), hint, message);
        } else {
            tracing::info!(path = shown(path), found = kind.as_str(), hint, message);
        }
    }
}
