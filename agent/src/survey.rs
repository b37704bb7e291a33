//! What the tasks of a configuration match on this host, who reads what, and how far: offline.
//!
//! It looks at the files and at the checkpoint and changes neither, so it may run beside the agent;
//! what the agent did in the last moment may not be in the checkpoint yet.
//!
//! Not for: a running agent's figures (its `/status`). `tributary inspect files` calls it.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;
use tributary_common::ids::{GenerationId, StreamId, TaskId};

use crate::{
    checkpoint::{State, last_state},
    config::{self, Config, Start, Task},
    discover::{Visitor, is_absence},
    handle::{self, FileKey, FileKind},
    shown::shown,
};

/// What a file is to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is read, and known to the checkpoint.
    Read,
    /// It matches and was never read.
    New,
    /// No path of the task names it any more; it is read to its end.
    Renamed,
    /// It matches, and the task leaves it out.
    Excluded,
    /// It matches and is no file.
    NoFile,
    /// It cannot be read, or what is below it cannot be seen.
    Unreadable,
    /// It is the agent's own.
    Own,
}

impl Standing {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::New => "new",
            Self::Renamed => "renamed",
            Self::Excluded => "excluded",
            Self::NoFile => "no file",
            Self::Unreadable => "unreadable",
            Self::Own => "own",
        }
    }
}

/// One file of one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileRow {
    /// Its path; bytes that are no text are escaped.
    pub path: String,
    /// The task.
    pub task: String,
    /// What it is to the task.
    pub standing: Standing,
    /// Why, in words, where there is something to say.
    pub why: String,
    /// Its size in bytes, where it is a file.
    pub size: Option<u64>,
    /// Read up to here, in bytes.
    pub read_to: Option<u64>,
    /// Acknowledged without a hole up to here, in bytes.
    pub acknowledged_to: Option<u64>,
    /// Its stream, where it has one.
    pub stream: Option<String>,
    /// Other tasks that read the same file.
    pub also_in: Vec<String>,
}

/// All files of the tasks that were asked for.
#[derive(Debug, Serialize)]
pub struct Survey {
    /// Whether there is a checkpoint: otherwise everything is new.
    pub has_checkpoint: bool,
    /// Tasks that match nothing.
    pub without_files: Vec<String>,
    /// The files, by path and task.
    pub files: Vec<FileRow>,
}

/// What one walk meets.
#[derive(Default)]
struct Met {
    matched: Vec<PathBuf>,
    unknown: Vec<(PathBuf, String)>,
}

impl Visitor for Met {
    fn directory(&mut self, _path: &Path) {}

    fn matched(&mut self, path: PathBuf, _literal: bool) {
        self.matched.push(path);
    }

    fn unknown(&mut self, path: &Path, error: &io::Error) {
        self.unknown.push((path.to_owned(), error.to_string()));
    }

    fn again(&mut self, _link: &Path) {}
}

/// Looks at the files of all tasks, or of one.
///
/// # Errors
/// When there is no such task, or the checkpoint is none of this version.
pub fn survey(config: &Config, only: Option<&str>) -> anyhow::Result<Survey> {
    if let Some(only) = only
        && !config.tasks.iter().any(|task| task.id.as_str() == only)
    {
        let ids: Vec<&str> = config.tasks.iter().map(|task| task.id.as_str()).collect();
        anyhow::bail!("there is no task {only:?}; there are: {}", ids.join(", "));
    }
    let state = last_state(&config.state_dir)?;
    let has_checkpoint = state.is_some();
    let looker = Looker::new(config, state.unwrap_or_default());
    let mut rows = Vec::new();
    let mut readers: HashMap<FileKey, Vec<TaskId>> = HashMap::new();
    let mut keys = Vec::new();
    let mut without_files = Vec::new();
    for task in &config.tasks {
        let before = rows.len();
        for (row, key) in looker.task(task) {
            if let Some(key) = key.filter(|_| row.standing != Standing::Excluded) {
                readers.entry(key).or_default().push(task.id.clone());
            }
            rows.push(row);
            keys.push(key);
        }
        if rows.len() == before {
            without_files.push(task.id.to_string());
        }
    }
    for (row, key) in rows.iter_mut().zip(keys) {
        let others = key.and_then(|key| readers.get(&key)).into_iter().flatten();
        let others = others.map(ToString::to_string);
        row.also_in = others.filter(|task| *task != row.task).collect();
        row.also_in.dedup();
    }
    let wanted = |task: &str| only.is_none_or(|only| only == task);
    rows.retain(|row| wanted(&row.task));
    without_files.retain(|task| wanted(task));
    rows.sort_by(|a, b| (&a.path, &a.task).cmp(&(&b.path, &b.task)));
    Ok(Survey {
        has_checkpoint,
        without_files,
        files: rows,
    })
}

/// What the checkpoint knows, by file.
struct Looker {
    state: State,
    state_dir: PathBuf,
    by_key: HashMap<(TaskId, FileKey), (StreamId, GenerationId)>,
    /// The beginning of the oldest batch of a generation that has not ended.
    unended: BTreeMap<(StreamId, GenerationId), u64>,
}

impl Looker {
    fn new(config: &Config, mut state: State) -> Self {
        // As the agent will once it takes this configuration.
        for (from, to) in state.renamed(&config::all_looks(&config.tasks)) {
            state.rename(&from, &to);
        }
        let mut by_key = HashMap::new();
        for (&id, stream) in &state.streams {
            for known in &stream.generations {
                by_key.insert((stream.task.clone(), known.key), (id, known.generation));
            }
        }
        let mut unended: BTreeMap<(StreamId, GenerationId), u64> = BTreeMap::new();
        for cut in state.cuts.values() {
            let start = unended.entry((cut.id.stream, cut.generation));
            let start = start.or_insert(cut.span.start);
            *start = cut.span.start.min(*start);
        }
        let state_dir = config.state_dir.canonicalize();
        Self {
            state,
            state_dir: state_dir.unwrap_or_else(|_missing| config.state_dir.clone()),
            by_key,
            unended,
        }
    }

    /// All files of a task.
    fn task(&self, task: &Task) -> Vec<(FileRow, Option<FileKey>)> {
        let mut met = Met::default();
        task.paths.iter().for_each(|path| path.walk(&mut met));
        met.matched.sort_unstable();
        met.matched.dedup();
        // A path without wildcards matches before there is a file.
        met.matched
            .retain(|path| !handle::glance(path).is_err_and(|error| is_absence(&error)));
        let mut rows: Vec<_> = met
            .matched
            .iter()
            .map(|path| self.file(task, path))
            .collect();
        for (path, error) in met.unknown {
            rows.push((row(task, &path, Standing::Unreadable, error), None));
        }
        let met = &met.matched;
        let renamed = self.by_key.iter().filter(|((of, key), _)| {
            *of == task.id && !rows.iter().any(|(_, seen)| seen.as_ref() == Some(key))
        });
        let mut more = Vec::new();
        for ((_, key), &at) in renamed {
            let Some(known) = self.state.generation(at.0, at.1) else {
                continue;
            };
            let path = &known.path;
            if known.ended_ms.is_some() || self.is_left_out(path, *key, met) {
                continue;
            }
            let why = "no path names it now; it is looked for by its identity".to_owned();
            let mut found = row(task, path, Standing::Renamed, why);
            self.place(&mut found, at);
            more.push((found, Some(*key)));
        }
        rows.extend(more);
        rows
    }

    /// A file that is where it was, and that the patterns do not name: nobody reads it.
    fn is_left_out(&self, path: &Path, key: FileKey, met: &[PathBuf]) -> bool {
        !met.iter().any(|other| other == path)
            && handle::of_path(path).is_ok_and(|info| info.key == key)
    }

    /// One path that matches.
    fn file(&self, task: &Task, path: &Path) -> (FileRow, Option<FileKey>) {
        let info = match handle::of_path(path) {
            Ok(info) => info,
            Err(error) => {
                return (
                    row(task, path, Standing::Unreadable, error.to_string()),
                    None,
                );
            }
        };
        let standing = if path.starts_with(&self.state_dir) {
            (
                Standing::Own,
                "it is below the agent's state directory".to_owned(),
            )
        } else if info.kind != FileKind::Regular {
            (Standing::NoFile, format!("it is a {}", info.kind.as_str()))
        } else if task.exclude.matches(path) {
            (
                Standing::Excluded,
                "a pattern of exclude matches it".to_owned(),
            )
        } else if let Err(error) = std::fs::File::open(path) {
            (Standing::Unreadable, error.to_string())
        } else if self.by_key.contains_key(&(task.id.clone(), info.key)) {
            (Standing::Read, String::new())
        } else if task.start == Start::End && !self.state.tasks.contains(&task.id) {
            (Standing::New, "it is read from its end on".to_owned())
        } else {
            (Standing::New, "it is read from its beginning".to_owned())
        };
        let mut row = row(task, path, standing.0, standing.1);
        let key = (info.kind == FileKind::Regular).then_some(info.key);
        row.size = key.map(|_| info.size);
        if let Some(&at) = self.by_key.get(&(task.id.clone(), info.key)) {
            self.place(&mut row, at);
        }
        (row, key)
    }

    /// How far a generation was read.
    fn place(&self, row: &mut FileRow, at: (StreamId, GenerationId)) {
        let read_to = self
            .state
            .generation(at.0, at.1)
            .map(|known| known.mark.offset);
        row.read_to = read_to;
        row.acknowledged_to = self.unended.get(&at).copied().or(read_to);
        row.stream = Some(at.0.to_string());
    }
}

fn row(task: &Task, path: &Path, standing: Standing, why: String) -> FileRow {
    FileRow {
        path: shown(path),
        task: task.id.to_string(),
        standing,
        why,
        size: None,
        read_to: None,
        acknowledged_to: None,
        stream: None,
        also_in: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config;

    /// What the survey says of each file, as `name task standing`.
    fn check(files: &[&str], tasks: &str, only: Option<&str>, wanted: &[&str]) -> Survey {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            match file.strip_suffix('/') {
                Some(folder) => fs::create_dir_all(dir.path().join(folder)).unwrap(),
                None => fs::write(dir.path().join(file), "line\n").unwrap(),
            }
        }
        let at = dir.path().display().to_string();
        let text = format!(
            "state_dir = '{at}/state'\n[[bus]]\nname = 'a'\nnodes = ['a:1']\n{}",
            tasks.replace("DIR", &at)
        );
        let config = config::parse(&text, "test").unwrap().value;
        let survey = survey(&config, only).unwrap();
        let said: Vec<String> = survey
            .files
            .iter()
            .map(|row| {
                let name = row.path.trim_start_matches(&at).trim_start_matches('/');
                let also = row.also_in.join("+");
                format!("{name} {} {} {also}", row.task, row.standing.as_str())
            })
            .map(|text| text.trim_end().to_owned())
            .collect();
        assert_eq!(said, wanted);
        survey
    }

    const TASKS: &str = "[[task]]\nid = 'a'\ntopic = 'x'\npaths = ['DIR/*.log', 'DIR/state/*']\n\
        exclude = ['**/no.log']\n\
        [[task]]\nid = 'b'\ntopic = 'x'\npaths = ['DIR/two*']\n\
        [[task]]\nid = 'c'\ntopic = 'x'\npaths = ['DIR/none']\n";

    #[test]
    fn each_file_is_told_with_its_tasks_and_reasons() {
        let files = [
            "one.log",
            "two.log",
            "no.log",
            "dir.log/",
            "state/",
            "state/own",
        ];
        let all = [
            "dir.log a no file",
            "no.log a excluded",
            "one.log a new",
            "state/own a own",
            "two.log a new b",
            "two.log b new a",
        ];
        let survey = check(&files, TASKS, None, &all);
        assert_eq!(survey.without_files, ["c"]);
        assert!(!survey.has_checkpoint);
        check(&files, TASKS, Some("b"), &["two.log b new a"]);
    }

    #[test]
    fn an_unknown_task_is_named_with_those_that_are_there() {
        let text = "[[bus]]\nname = 'a'\nnodes = ['a:1']\n\
            [[task]]\nid = 'known'\ntopic = 'x'\npaths = ['/x']\n";
        let config = config::parse(text, "test").unwrap().value;
        let error = survey(&config, Some("other")).unwrap_err().to_string();
        assert!(error.contains("there are: known"), "{error}");
    }
}
