//! What a person sees of the agent, and machines of its tasks.
//!
//! Each part writes its own piece: the reader its figures, the sender its connection. `/status` and
//! the reports put them together with the checkpoint's.
//!
//! Not for: the accounts (see [`crate::checkpoint`]).

mod rate;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Counter, Gauge, counter, gauge};
use serde_json::{Value, json};
use tokio::time::Instant;
use tributary_common::{
    given::GivenHealth,
    ids::{Class, StreamId, TaskId, Topic},
    report::{ConfigHealth, TaskHealth},
};

pub(crate) use self::rate::Rate;
use crate::{
    checkpoint::{Checkpoint, State, as_gauge},
    clock,
    discover::Figures,
    far,
    frame::strange::Strange,
    limit::{Budget, Reason, Throttled},
    send::ClassLoad,
    shown::shown,
    times::Flag,
};

/// Paths that match and are no files, of which a task's page shows this many.
const MAX_LEFT_OUT: usize = 100;

/// Records that are not as their task wants them: flagged, counted, never dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Oddities {
    /// They have the time of reading: their line says none.
    pub(crate) time_not_found: u64,
    /// They have the time of reading: their line's time is impossible.
    pub(crate) time_impossible: u64,
    /// They are not whole: pieces of long ones, unfinished ones.
    pub(crate) split: u64,
    /// They are lines that are none of the container runtime's.
    pub(crate) malformed: u64,
    /// Characters in them that stand for bytes that are no text in the task's encoding.
    pub(crate) undecodable: u64,
    /// They have no key although the task asks for one.
    pub(crate) keyless: u64,
    /// Their text was cut, or the record would be too long.
    pub(crate) shortened: u64,
    /// Lines that are too long to be one record.
    pub(crate) long: u64,
    /// Lines with bytes that they should not have.
    pub(crate) strange: Strange,
}

impl Oddities {
    /// Counts a record.
    pub(crate) fn untimed(&mut self, flag: Option<Flag>) {
        match flag {
            None => {}
            Some(Flag::NotFound) => self.time_not_found += 1,
            Some(Flag::Impossible) => self.time_impossible += 1,
        }
    }

    /// Those that only a writer of bad input makes, each with its reason.
    pub(crate) fn bad(&self) -> [(Bad, u64); 4] {
        [
            (Bad::LongLine, self.long),
            (Bad::Nul, self.strange.nul),
            (Bad::LoneReturn, self.strange.lone_return),
            (Bad::NotUtf8, self.strange.not_utf8),
        ]
    }

    /// Adds those of a batch.
    pub(crate) fn add(&mut self, more: Self) {
        self.time_not_found += more.time_not_found;
        self.time_impossible += more.time_impossible;
        self.split += more.split;
        self.malformed += more.malformed;
        self.undecodable += more.undecodable;
        self.keyless += more.keyless;
        self.shortened += more.shortened;
        self.long += more.long;
        self.strange.nul += more.strange.nul;
        self.strange.lone_return += more.strange.lone_return;
        self.strange.not_utf8 += more.strange.not_utf8;
    }
}

/// What a writer of logs should not do, by its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bad {
    /// Lines longer than a record may be.
    LongLine,
    /// Lines with a NUL.
    Nul,
    /// Runs of NUL that were never written.
    Hole,
    /// Lines with a carriage return that is not followed by a newline.
    LoneReturn,
    /// Lines that are no UTF-8.
    NotUtf8,
    /// Names of files with control characters, newlines among them.
    ControlInName,
    /// Names of files that are no UTF-8.
    NameNotUtf8,
    /// Pipes that match.
    Pipe,
    /// Sockets that match.
    Socket,
    /// Devices that match.
    Device,
    /// Files that became shorter than what was read of them.
    Shrunk,
    /// Files whose content became another one where it was read.
    Rewritten,
    /// Files that could not be read for a while.
    Unreadable,
}

impl Bad {
    /// The reason in a word or two.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::LongLine => "long-line",
            Self::Nul => "nul",
            Self::Hole => "hole",
            Self::LoneReturn => "lone-carriage-return",
            Self::NotUtf8 => "not-utf-8",
            Self::ControlInName => "control-character-in-name",
            Self::NameNotUtf8 => "name-not-utf-8",
            Self::Pipe => "pipe",
            Self::Socket => "socket",
            Self::Device => "device",
            Self::Shrunk => "shrunk",
            Self::Rewritten => "rewritten",
            Self::Unreadable => "unreadable",
        }
    }

    /// What is bad about the name of a file.
    pub(crate) fn of_name(path: &Path) -> impl Iterator<Item = Self> {
        let name = path.as_os_str().as_encoded_bytes();
        let control = name.iter().any(u8::is_ascii_control);
        let no_text = path.to_str().is_none();
        let control = control.then_some(Self::ControlInName);
        control
            .into_iter()
            .chain(no_text.then_some(Self::NameNotUtf8))
    }
}

/// What became of a task's files that no writer of logs should do to them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mishaps {
    /// Files that were cut off or written anew.
    pub(crate) truncations: u64,
    /// Bytes that were never written, and jumped over.
    pub(crate) hole_bytes: u64,
    /// Bytes that will never be sent, by reason.
    pub(crate) lost_bytes: BTreeMap<String, u64>,
    /// How often each happened in this life.
    pub(crate) bad: BTreeMap<Bad, u64>,
}

/// One task, as its reader sees it.
#[derive(Debug, Clone, Default)]
pub(crate) struct TaskFigures {
    /// Files that match now.
    pub(crate) files: u64,
    /// Bytes of them that are not read.
    pub(crate) unread_bytes: u64,
    /// When the oldest of those was seen.
    pub(crate) oldest_unread: Option<Instant>,
    /// Source bytes read in this life.
    pub(crate) read_bytes: u64,
    /// Records read in this life.
    pub(crate) read_records: u64,
    /// Of these, the odd ones.
    pub(crate) odd: Oddities,
    /// What became of its files.
    pub(crate) mishaps: Mishaps,
    /// Both per second, over the last minute.
    pub(crate) rates: (u64, u64),
    /// The last error, while it lasts.
    pub(crate) last_error: Option<TaskError>,
    /// Files that cannot be read now, and why; the first hundred.
    pub(crate) unreadable: BTreeMap<String, String>,
}

impl TaskFigures {
    /// Something is wrong with a file.
    pub(crate) fn failed(&mut self, path: &Path, error: &std::io::Error) {
        self.last_error = Some(TaskError {
            at_ms: clock::now_ms(),
            path: shown(path),
            text: error.to_string(),
        });
    }
}

/// What is wrong with a task's file.
#[derive(Debug, Clone)]
pub(crate) struct TaskError {
    /// Since when, in ms since 1970.
    pub(crate) at_ms: u64,
    /// The file.
    pub(crate) path: String,
    /// What.
    pub(crate) text: String,
}

/// One task on this agent.
#[derive(Debug, Clone)]
pub(crate) struct TaskView {
    /// Its place, by which discovery knows it.
    pub(crate) place: usize,
    /// Its id.
    pub(crate) task: TaskId,
    /// Its topic.
    pub(crate) topic: Topic,
    /// Its class.
    pub(crate) class: Class,
    /// How it goes.
    pub(crate) figures: TaskFigures,
}

/// The configuration that counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Applied {
    /// The name of its content.
    pub(crate) version: String,
    /// Since when, in ms since 1970.
    pub(crate) applied_ms: u64,
    /// Where it is kept as the last good one; `None` when that failed.
    pub(crate) kept: Option<PathBuf>,
    /// Why the last document was refused, a fault a line; empty when it was applied.
    pub(crate) fault: String,
    /// When that was, in ms since 1970; 0 for never.
    pub(crate) fault_ms: u64,
    /// What it has of the manager.
    pub(crate) given: GivenHealth,
}

/// One task's metrics, looked up once.
pub(crate) struct Counters {
    topic: String,
    bytes: Counter,
    records: Counter,
    pieces: Counter,
    untimed: [Counter; 2],
    malformed: Counter,
    undecodable: Counter,
    keyless: Counter,
    shortened: Counter,
    batches: Counter,
    truncations: Counter,
    behind: Gauge,
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl Counters {
    /// The counters of a topic.
    pub(crate) fn of_topic(topic: &Topic) -> Self {
        let topic = topic.as_str().to_owned();
        let untimed = |flag: Flag| counter!("tributary_agent_untimed_records_total", "topic" => topic.clone(), "reason" => flag.as_str());
        Self {
            untimed: [untimed(Flag::NotFound), untimed(Flag::Impossible)],
            bytes: counter!("tributary_agent_read_bytes_total", "topic" => topic.clone()),
            records: counter!("tributary_agent_read_records_total", "topic" => topic.clone()),
            pieces: counter!("tributary_agent_split_records_total", "topic" => topic.clone()),
            malformed: counter!("tributary_agent_malformed_records_total", "topic" => topic.clone()),
            undecodable: counter!("tributary_agent_undecodable_characters_total", "topic" => topic.clone()),
            keyless: counter!("tributary_agent_keyless_records_total", "topic" => topic.clone()),
            shortened: counter!("tributary_agent_shortened_records_total", "topic" => topic.clone()),
            batches: counter!("tributary_agent_read_batches_total", "topic" => topic.clone()),
            truncations: counter!("tributary_agent_truncations_total", "topic" => topic.clone()),
            behind: gauge!("tributary_agent_behind_bytes", "topic" => topic.clone()),
            topic,
        }
    }

    /// Bytes wait to be read.
    pub(crate) fn behind(&self, bytes: u64) {
        self.behind.set(as_gauge(bytes));
    }

    /// A batch was read.
    pub(crate) fn read(&self, bytes: u64, records: u32) {
        self.bytes.increment(bytes);
        self.records.increment(records.into());
        self.batches.increment(1);
    }

    /// Records are not as their task wants them.
    pub(crate) fn odd(&self, odd: Oddities) {
        let [not_found, impossible] = &self.untimed;
        not_found.increment(odd.time_not_found);
        impossible.increment(odd.time_impossible);
        self.pieces.increment(odd.split);
        self.malformed.increment(odd.malformed);
        self.undecodable.increment(odd.undecodable);
        self.keyless.increment(odd.keyless);
        self.shortened.increment(odd.shortened);
    }

    /// A file was cut off or written anew.
    pub(crate) fn truncated(&self) {
        self.truncations.increment(1);
    }

    /// Bytes that were never written were jumped over.
    pub(crate) fn hole(&self, bytes: u64) {
        counter!("tributary_agent_hole_bytes_total", "topic" => self.topic.clone())
            .increment(bytes);
    }

    /// A writer did what it should not.
    pub(crate) fn bad(&self, bad: Bad, times: u64) {
        counter!("tributary_agent_bad_input_total", "topic" => self.topic.clone(), "reason" => bad.as_str())
            .increment(times);
    }

    /// Bytes were lost.
    pub(crate) fn lost(&self, bytes: u64, reason: &str) {
        let topic = self.topic.clone();
        counter!("tributary_agent_lost_bytes_total", "topic" => topic, "reason" => reason.to_owned())
            .increment(bytes);
    }
}

/// The connection to the bus.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkFigures {
    /// `connecting` or `connected`.
    pub(crate) connected: bool,
    /// The node's address, when connected.
    pub(crate) node: String,
    /// Its cluster.
    pub(crate) cluster: String,
    /// Batches sent and not answered.
    pub(crate) in_flight: u64,
    /// Batches that wait to be sent.
    pub(crate) waiting: u64,
    /// The same by class.
    pub(crate) classes: [ClassLoad; 4],
    /// The last error in words, while it lasts.
    pub(crate) last_error: String,
}

/// A stream that the bus refused.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    /// Its task.
    pub(crate) task: TaskId,
    /// Its topic.
    pub(crate) topic: Topic,
    /// Why.
    pub(crate) reason: String,
}

/// What the parts show.
#[derive(Debug, Default)]
pub(crate) struct Status {
    tasks: Mutex<Vec<TaskView>>,
    config: Mutex<Applied>,
    looks: Mutex<Figures>,
    spool: Mutex<(u64, u64, u64)>,
    /// Log files that are open, and that may be.
    open_files: Mutex<(u64, u64)>,
    link: Mutex<LinkFigures>,
    refused: Mutex<BTreeMap<StreamId, Refused>>,
    throttled: Throttled,
    /// Bytes per second to the bus; 0 is no ceiling.
    bandwidth: AtomicU64,
}

/// Plain data: it is whole even when a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Status {
    /// The reader's tasks and their figures.
    pub(crate) fn publish(&self, tasks: Vec<TaskView>) {
        *lock(&self.tasks) = tasks;
    }

    /// What became of the last configuration.
    pub(crate) fn config(&self, change: impl FnOnce(&mut Applied)) {
        let mut applied = lock(&self.config);
        change(&mut applied);
        gauge!("tributary_agent_config_applied_seconds").set(as_gauge(applied.applied_ms / 1000));
        let good = applied.fault.is_empty() && applied.given.fault.is_empty();
        let faulty = u64::from(!good);
        gauge!("tributary_agent_config_faulty_count").set(as_gauge(faulty));
    }

    /// The configuration, for reports.
    pub(crate) fn config_health(&self) -> ConfigHealth {
        let applied = lock(&self.config).clone();
        ConfigHealth {
            version: applied.version,
            applied_ms: applied.applied_ms,
            fault: applied.fault,
            fault_ms: applied.fault_ms,
        }
    }

    /// What it has of the manager, for reports.
    pub(crate) fn given(&self) -> GivenHealth {
        lock(&self.config).given.clone()
    }

    /// Discovery's figures.
    pub(crate) fn looked(&self, figures: Figures) {
        gauge!("tributary_agent_left_out_files_count").set(as_gauge(
            figures.left_out.iter().map(|left| left.len() as u64).sum(),
        ));
        *lock(&self.looks) = figures;
    }

    /// What deleted files hold, in bytes: open, in the spool, and at most.
    pub(crate) fn spooled(&self, held: u64, spooled: u64, limit: u64) {
        *lock(&self.spool) = (held, spooled, limit);
    }

    /// So many log files are open, of so many that may be.
    pub(crate) fn open_files(&self, open: u64, limit: u64) {
        *lock(&self.open_files) = (open, limit);
        gauge!("tributary_agent_open_files").set(as_gauge(open));
        gauge!("tributary_agent_open_files_limit").set(as_gauge(limit));
    }

    /// The sender's figures.
    pub(crate) fn link(&self, change: impl FnOnce(&mut LinkFigures)) {
        change(&mut lock(&self.link));
    }

    /// The sender keeps to this ceiling from now on, in bytes per second.
    pub(crate) fn set_bandwidth(&self, bandwidth: Option<u64>) {
        self.bandwidth
            .store(bandwidth.unwrap_or(0), Ordering::Relaxed);
    }

    /// The ceiling that the sender keeps to.
    pub(crate) fn bandwidth(&self) -> Option<u64> {
        Some(self.bandwidth.load(Ordering::Relaxed)).filter(|&bandwidth| bandwidth > 0)
    }

    /// Where it is noted what holds a class back.
    pub(crate) fn throttled(&self) -> &Throttled {
        &self.throttled
    }

    /// Shows machines what there is of each class.
    pub(crate) fn show_classes(&self, budget: &Budget) {
        self.throttled.show();
        let loads = lock(&self.link).classes;
        for (class, load) in Class::ALL.into_iter().zip(loads) {
            let show = |name: &'static str, value: u64| {
                gauge!(name, "class" => class.as_str()).set(as_gauge(value));
            };
            show("tributary_agent_class_memory_bytes", budget.used_by(class));
            show("tributary_agent_class_waiting_count", load.waiting);
            show(
                "tributary_agent_class_in_flight_bytes",
                load.in_flight_bytes,
            );
        }
    }

    /// Each class, the most urgent first: what waits, what is in flight, what held it back.
    fn classes(&self, link: &LinkFigures, budget: &Budget) -> Vec<Value> {
        let class = |(class, load): (Class, ClassLoad)| {
            let seconds = |reason| self.throttled.total(class, reason).as_secs_f64();
            let throttled: serde_json::Map<String, Value> = Reason::ALL
                .into_iter()
                .map(|reason| (reason.as_str().to_owned(), seconds(reason).into()))
                .collect();
            json!({
                "class": class, "batches_waiting": load.waiting,
                "batches_in_flight": load.in_flight, "in_flight_bytes": load.in_flight_bytes,
                "memory_bytes": budget.used_by(class), "throttled_seconds": throttled,
            })
        };
        Class::ALL
            .into_iter()
            .zip(link.classes)
            .map(class)
            .collect()
    }

    /// Whether there is a connection.
    pub(crate) fn is_connected(&self) -> bool {
        lock(&self.link).connected
    }

    /// The bus refused a stream.
    pub(crate) fn refuse(&self, stream: StreamId, refused: Refused) {
        lock(&self.refused).insert(stream, refused);
    }

    /// The bus takes a stream again.
    pub(crate) fn accept(&self, stream: StreamId) {
        lock(&self.refused).remove(&stream);
    }

    /// The streams that stand still because the bus refused them.
    pub(crate) fn refused(&self) -> BTreeMap<StreamId, Refused> {
        lock(&self.refused).clone()
    }

    /// Each task's health, for reports.
    pub(crate) fn health(&self, checkpoint: &Checkpoint) -> Vec<TaskHealth> {
        let tasks = lock(&self.tasks).clone();
        self.health_of(&tasks, checkpoint)
    }

    fn health_of(&self, tasks: &[TaskView], checkpoint: &Checkpoint) -> Vec<TaskHealth> {
        let unacked = checkpoint.read(unacked);
        let refused = self.refused();
        let link_error = lock(&self.link).last_error.clone();
        let (now, now_ms) = (Instant::now(), clock::now_ms());
        let health = |task: &TaskView| {
            let figures = &task.figures;
            let (bytes, oldest_ms) = unacked.get(&task.task).copied().unwrap_or((0, u64::MAX));
            let unread_ms = figures.oldest_unread.map_or(0, |since| {
                u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX)
            });
            let refusal = refused.values().find(|refused| refused.task == task.task);
            let error = match refusal {
                Some(refused) => refused.reason.clone(),
                None => match &figures.last_error {
                    Some(error) => format!("{}: {}", error.path, error.text),
                    None => link_error.clone(),
                },
            };
            TaskHealth {
                task: task.task.clone(),
                topic: task.topic.clone(),
                files: figures.files,
                bytes_behind: figures.unread_bytes + bytes,
                oldest_unacked_ms: now_ms.saturating_sub(oldest_ms).max(unread_ms),
                last_error: error,
            }
        };
        tasks.iter().map(health).collect()
    }

    /// What `/status` answers.
    pub(crate) fn page(&self, checkpoint: &Checkpoint, budget: &Budget) -> Value {
        let views = lock(&self.tasks).clone();
        let link = lock(&self.link).clone();
        let looks = lock(&self.looks).clone();
        let spool = *lock(&self.spool);
        let open_files = *lock(&self.open_files);
        let health = self.health_of(&views, checkpoint);
        let polled = views
            .iter()
            .filter(|view| looks.blind.contains(&view.place));
        let polled: Vec<&TaskId> = polled.map(|view| &view.task).collect();
        let tasks: Vec<Value> = health
            .iter()
            .zip(&views)
            .map(|(health, view)| task_page(health, view, &looks))
            .collect();
        let refused: Vec<Value> = self
            .refused()
            .into_iter()
            .map(|(stream, refused)| {
                json!({
                    "stream": stream.to_string(), "task": refused.task, "topic": refused.topic,
                    "reason": refused.reason,
                })
            })
            .collect();
        json!({
            "tasks": tasks,
            "refused": refused,
            "deleted_files": {
                "unread_bytes": spool.0, "spool_bytes": spool.1, "limit_bytes": spool.2,
            },
            "discovery": {
                "paths": looks.paths, "watched_folders": looks.watched,
                "polled_tasks": polled,
                "silent_mounts": far::silent(),
                "look_ms": u64::try_from(looks.took.as_millis()).unwrap_or(u64::MAX),
            },
            "bus": {
                "connected": link.connected, "cluster": link.cluster, "node": link.node,
                "batches_in_flight": link.in_flight, "batches_waiting": link.waiting,
                "last_error": link.last_error,
            },
            "classes": self.classes(&link, budget),
            "memory": { "used_bytes": budget.used(), "limit_bytes": budget.limit() },
            "open_files": { "open": open_files.0, "limit": open_files.1 },
            "checkpoint": {
                "healthy": checkpoint.is_healthy(),
                "damaged_files": checkpoint.damaged_files(),
            },
            "config": config_page(&lock(&self.config)),
        })
    }
}

fn task_page(health: &TaskHealth, view: &TaskView, looks: &Figures) -> Value {
    let figures = &view.figures;
    let left_out = looks.left_out.get(view.place).into_iter().flatten();
    let left_out: Vec<Value> = left_out
        .take(MAX_LEFT_OUT)
        .map(|(path, kind)| json!({ "path": shown(path), "reason": kind.as_str() }))
        .collect();
    let error = figures.last_error.as_ref();
    let bad = figures.mishaps.bad.iter();
    let bad: BTreeMap<&str, u64> = bad.map(|(bad, &times)| (bad.as_str(), times)).collect();
    json!({
        "task": health.task, "topic": health.topic, "class": view.class, "files": health.files,
        "bytes_behind": health.bytes_behind,
        "oldest_unacked_ms": health.oldest_unacked_ms,
        "read_bytes": figures.read_bytes, "read_records": figures.read_records,
        "read_bytes_per_second": figures.rates.0, "read_records_per_second": figures.rates.1,
        "untimed_records": {
            "not_found": figures.odd.time_not_found,
            "impossible": figures.odd.time_impossible,
        },
        "split_records": figures.odd.split,
        "malformed_records": figures.odd.malformed,
        "undecodable_characters": figures.odd.undecodable,
        "keyless_records": figures.odd.keyless,
        "shortened_records": figures.odd.shortened,
        "bad_input": bad,
        "truncations": figures.mishaps.truncations,
        "hole_bytes": figures.mishaps.hole_bytes,
        "lost_bytes": figures.mishaps.lost_bytes,
        "last_error": health.last_error,
        "last_error_ms": error.map(|error| error.at_ms),
        "last_error_path": error.map(|error| &error.path),
        "unreadable": figures.unreadable, "left_out": left_out,
    })
}

fn config_page(applied: &Applied) -> Value {
    let given = &applied.given;
    json!({
        "version": applied.version, "applied_ms": applied.applied_ms, "kept": applied.kept,
        "fault": applied.fault,
        "fault_ms": (applied.fault_ms > 0).then_some(applied.fault_ms),
        "collection_from": given.from, "collection_version": given.version,
        "collection_refused": given.refused, "collection_fault": given.fault,
    })
}

/// Per task: source bytes cut and not acknowledged, and when the oldest of them was read.
fn unacked(state: &State) -> BTreeMap<TaskId, (u64, u64)> {
    let mut sums: BTreeMap<TaskId, (u64, u64)> = BTreeMap::new();
    for cut in state.cuts.values() {
        if let Some(stream) = state.streams.get(&cut.id.stream) {
            let sum = sums.entry(stream.task.clone()).or_insert((0, u64::MAX));
            sum.0 += cut.span.bytes();
            sum.1 = sum.1.min(cut.read_ms);
        }
    }
    sums
}
