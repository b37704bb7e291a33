//! Takes a new configuration while the agent runs.
//!
//! A document comes as SIGHUP's load of the file, or from the manager. It is refused whole, with all its faults, when it
//! is no good or changes what cannot change while the agent runs; the old one goes on. What is good
//! becomes a `Plan`: discovery looks for the new list's files from its next look on, the reader
//! takes it over between two batches, the sender uses the new list of clusters when it connects next.
//! Only when the reader has it does it count as applied.
//!
//! What the manager gives is taken in the same way, over the file that counts, and kept (see
//! [`tributary_common::given`]); SIGHUP puts it over the new file.
//!
//! Not for: what a change means to files and streams (see `crate::reader`). Started by
//! [`crate::run_live`].

mod kept;

use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tributary_common::{
    config::{Difference, Faults, Loaded, Origin, Over, differences},
    daemon::Reload,
    given::{self, COLLECTION, Given, Kind, Part, Refused, Standing, Start, words},
    ids::TaskId,
};
use xxhash_rust::xxh3::xxh3_64;

pub use self::kept::{Kept, inspect as inspect_kept, is_kept};
use crate::{
    checkpoint::Checkpoint,
    clock,
    config::{self, Config, LIVE_KEYS, LIVE_LISTS, Limits, SCHEMA, Task},
    send::Ways,
    status::{Applied, Status},
};

/// The tasks from now on. Those that are not named stop.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Ceilings. The bandwidth is the sender's and comes another way.
    pub(crate) limits: Limits,
    /// Each with its place, which is its own for the whole life of the process.
    pub(crate) tasks: Vec<(usize, Task)>,
    /// The places of those whose files have to be found anew: they are new, or look elsewhere.
    pub(crate) moved: Vec<usize>,
    /// Those that only have another name, old name first.
    pub(crate) renamed: Vec<(TaskId, TaskId)>,
    /// Told when the reader has taken it over.
    pub(crate) applied: oneshot::Sender<()>,
}

/// The place of each task in the lists of reader and discovery. A place is never given to another
/// task: what is under way names tasks by it. A task that gets another name keeps it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(Vec<Option<TaskId>>);

impl Places {
    /// The place of a task: the one that it had, or a new one at the end.
    pub(crate) fn of(&mut self, task: &TaskId) -> usize {
        if let Some(place) = self.find(task) {
            return place;
        }
        self.0.push(Some(task.clone()));
        self.0.len() - 1
    }

    fn find(&self, task: &TaskId) -> Option<usize> {
        self.0.iter().position(|known| known.as_ref() == Some(task))
    }

    /// A task has another name from now on. Who had that before is forgotten by now.
    fn rename(&mut self, from: &TaskId, to: &TaskId) {
        for (old, new) in [(to, None), (from, Some(to.clone()))] {
            let place = self.find(old).and_then(|place| self.0.get_mut(place));
            if let Some(place) = place {
                *place = new;
            }
        }
    }
}

/// The name of a document's content: the same for the same settings, however they are written.
pub(crate) fn version_of(effective: &str) -> String {
    format!("{:016x}", xxh3_64(effective.as_bytes()))
}

/// The loop's state.
#[derive(Debug)]
pub(crate) struct Live {
    config: Config,
    /// What it has of the manager.
    standing: Standing,
    places: Places,
    plans: crossbeam_channel::Sender<Plan>,
    ways: watch::Sender<Ways>,
    checkpoint: Arc<Checkpoint>,
    status: Arc<Status>,
}

impl Live {
    /// Goes on from what the parts were started with.
    pub(crate) fn new(
        Start { config, standing }: Start<Config>,
        places: Places,
        plans: crossbeam_channel::Sender<Plan>,
        ways: watch::Sender<Ways>,
        (checkpoint, status): (Arc<Checkpoint>, Arc<Status>),
    ) -> Self {
        Self {
            config,
            standing,
            places,
            plans,
            ways,
            checkpoint,
            status,
        }
    }

    /// Applies what comes until `stop`.
    ///
    /// # Errors
    /// None: what cannot be applied is refused.
    pub(crate) async fn run(
        mut self,
        mut reload: Reload<Config>,
        mut offers: watch::Receiver<Option<Given>>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        self.keep(clock::now_ms()).await;
        let taking = async {
            loop {
                let outcome = tokio::select! {
                    document = reload.next() => Some(self.consider(document).await),
                    given = given::next(&mut offers) => given::offered(&mut self, given).await,
                };
                if let Some(outcome) = outcome {
                    metrics::counter!("tributary_agent_config_loads_total", "outcome" => outcome)
                        .increment(1);
                }
            }
        };
        // What is under way when all ends is not waited for.
        let _ended = stop.run_until_cancelled(taking).await;
        Ok(())
    }

    /// Applies a document, or says why not; what became of it.
    async fn consider(&mut self, document: Result<Loaded<Config>, Faults>) -> &'static str {
        let outcome = match document {
            Err(faults) => Err(words(&faults)),
            Ok(loaded) => given::reload(self, loaded).await,
        };
        outcome.unwrap_or_else(|faults| {
            self.refuse(&faults);
            "refused"
        })
    }

    /// Gives the reader the new tasks, and waits until it has them.
    async fn hand_over(&mut self, new: &Config, found: &[Difference]) -> Result<(), Refused> {
        let looks = config::all_looks(&new.tasks);
        let renamed = self.checkpoint.read(|state| state.renamed(&looks));
        for (from, to) in &renamed {
            self.places.rename(from, to);
        }
        let tasks: Vec<(usize, Task)> = new
            .tasks
            .iter()
            .map(|task| (self.places.of(&task.id), task.clone()))
            .collect();
        let moved = tasks
            .iter()
            .filter(|(_, task)| looks_elsewhere(task, found))
            .filter(|(_, task)| !renamed.iter().any(|(_, to)| *to == task.id));
        let moved = moved.map(|&(place, _)| place).collect();
        let (applied, taken) = oneshot::channel();
        let plan = Plan {
            limits: new.limits.clone(),
            tasks,
            moved,
            renamed,
            applied,
        };
        // One at a time is under way, and discovery takes it: a refusal means that all is ending.
        let ending = || vec!["the agent is stopping".to_owned()];
        self.plans.try_send(plan).map_err(|_full| ending())?;
        taken.await.map_err(|_dropped| ending())
    }

    /// Says that a document does not count.
    fn refuse(&self, faults: &[String]) {
        for fault in faults {
            tracing::error!("{fault}");
        }
        tracing::error!(
            faults = faults.len(),
            "the new configuration is refused as a whole; the old one goes on"
        );
        self.status.config(|applied| {
            applied.fault = faults.join("\n");
            applied.fault_ms = clock::now_ms();
        });
    }

    /// Stores what counts as the last good configuration, and shows it.
    async fn keep(&self, applied_ms: u64) {
        let (effective, state_dir) = (self.config.effective.clone(), self.config.state_dir.clone());
        let version = version_of(&effective);
        // The disk may be slow; other tasks of this thread go on.
        let write = move || kept::write(&state_dir, &effective, applied_ms);
        let written = tokio::task::spawn_blocking(write).await;
        let written = written
            .context("the writer failed")
            .and_then(|done| Ok(done?));
        let kept = match written {
            Ok(path) => Some(path),
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the configuration counts, but cannot be kept in the state directory"
                );
                None::<PathBuf>
            }
        };
        self.status.config(|applied| {
            *applied = Applied {
                version,
                applied_ms,
                kept,
                given: self.standing.health().clone(),
                ..Applied::default()
            };
        });
    }
}

impl Part for Live {
    type Config = Config;

    fn kind(&self) -> &'static Kind {
        &COLLECTION
    }

    fn data_dir(&self) -> PathBuf {
        self.config.state_dir.clone()
    }

    fn file(&self) -> Arc<Origin> {
        Arc::clone(&self.config.origin)
    }

    fn load(&self, file: &Arc<Origin>, over: Option<Over<'_>>) -> Result<Loaded<Config>, Faults> {
        config::load_over(file, over)
    }

    async fn apply(&mut self, loaded: Loaded<Config>) -> Result<&'static str, Refused> {
        for warning in loaded.warnings() {
            tracing::warn!("{warning}");
        }
        let new = &loaded.value;
        let found = differences(&SCHEMA, &self.config.effective, &new.effective);
        let fixed: Refused = found
            .iter()
            .filter_map(fixed_key)
            .map(|key| {
                let why = "cannot change while the agent runs; restart it to change it";
                loaded.fault(key, why).to_string()
            })
            .collect();
        if !fixed.is_empty() {
            return Err(fixed);
        }
        if found.is_empty() {
            tracing::info!("the configuration is the one that counts already");
            self.status.config(|applied| applied.fault.clear());
            // What the manager's document hides may be another.
            self.config.origin = loaded.value.origin;
            return Ok("unchanged");
        }
        let now_ms = clock::now_ms();
        self.hand_over(new, &found).await?;
        self.ways.send_replace(Ways::of(new));
        self.config = loaded.value;
        let version = version_of(&self.config.effective);
        let changes: Vec<String> = found.iter().map(ToString::to_string).collect();
        tracing::info!(
            version,
            tasks = self.config.tasks.len(),
            changes = changes.join("; "),
            "the new configuration counts"
        );
        self.keep(now_ms).await;
        Ok("applied")
    }

    fn standing(&mut self) -> &mut Standing {
        &mut self.standing
    }

    fn show(&mut self) {
        let given = self.standing.health().clone();
        self.status.config(|applied| applied.given = given);
    }
}

/// The key of a difference that needs a restart.
fn fixed_key(difference: &Difference) -> Option<&str> {
    match difference {
        Difference::Key(key) => Some(key.as_str()).filter(|key| !LIVE_KEYS.contains(key)),
        Difference::Added { list, .. }
        | Difference::Removed { list, .. }
        | Difference::Changed { list, .. }
        | Difference::Order { list } => {
            Some(list.as_str()).filter(|list| !LIVE_LISTS.contains(list))
        }
    }
}

/// Whether a task is new, or its files may be others now.
fn looks_elsewhere(task: &Task, found: &[Difference]) -> bool {
    found.iter().any(|difference| match difference {
        Difference::Added { list, name } => list == "task" && name == task.id.as_str(),
        Difference::Changed { list, name, keys } => {
            let elsewhere = |key: &String| key == "paths" || key == "exclude";
            list == "task" && name == task.id.as_str() && keys.iter().any(elsewhere)
        }
        Difference::Key(_) | Difference::Removed { .. } | Difference::Order { .. } => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const OLD: &str = "zone = 'dc1'\nstate_dir = '/s'\n[limits]\nbandwidth = '1MB/s'\n\
        [[bus]]\nname = 'dc1'\nnodes = ['a:1']\n\
        [[task]]\nid = 'a'\ntopic = 'x'\npaths = ['/a']\n\
        [[task]]\nid = 'b'\ntopic = 'x'\npaths = ['/b']\n";

    /// What a change of the document needs: a restart for these keys, and these tasks anew.
    fn check(from: &str, to: &str, fixed: &[&str], moved: &[&str]) {
        let load = |text: &str| config::parse(text, "test").unwrap().value;
        let (old, new) = (load(OLD), load(&OLD.replace(from, to)));
        let found = differences(&SCHEMA, &old.effective, &new.effective);
        let keys: Vec<&str> = found.iter().filter_map(fixed_key).collect();
        assert_eq!(keys, fixed, "{from} -> {to}: {found:?}");
        let anew = new
            .tasks
            .iter()
            .filter(|task| looks_elsewhere(task, &found));
        let anew: Vec<&str> = anew.map(|task| task.id.as_str()).collect();
        assert_eq!(anew, moved, "{from} -> {to}: {found:?}");
    }

    #[test]
    fn what_the_process_was_started_with_needs_a_restart() {
        check("'dc1'", "'dc2'", &["zone"], &[]);
        check("'/s'", "'/t'", &["state_dir"], &[]);
        check("zone", "admin = '127.0.0.1:1'\nzone", &["admin"], &[]);
        check(
            "[limits]",
            "[manager]\nurl = 'http://m:1'\n[log]\nlevel = 'debug'\n[limits]",
            &["manager", "log.level"],
            &[],
        );
    }

    #[test]
    fn tasks_clusters_and_limits_change_live() {
        let all = "[limits]\nmemory = '1GiB'\ncpu = '20%'\nspool = '1GiB'\nopen_files = 100";
        check("[limits]", all, &[], &[]);
        check("'1MB/s'", "'2MB/s'", &[], &[]);
        check("['a:1']", "['a:1', 'b:1']", &[], &[]);
        check("topic = 'x'", "topic = 'y'\nclass = 'P0'", &[], &[]);
        check("'/a'", "'/a', '/c'", &[], &["a"]);
        check("['/b']", "['/b']\nexclude = ['*.gz']", &[], &["b"]);
        check("id = 'a'", "id = 'c'", &[], &["c"]);
    }

    #[test]
    fn a_place_is_of_one_task_for_ever() {
        let mut places = Places::default();
        let id = |name: &str| TaskId::new(name).unwrap();
        assert_eq!((places.of(&id("a")), places.of(&id("b"))), (0, 1));
        assert_eq!((places.of(&id("c")), places.of(&id("a"))), (2, 0));
        // Its other name has its place; who comes with its name of before has another one.
        places.rename(&id("c"), &id("a"));
        assert_eq!((places.of(&id("a")), places.of(&id("c"))), (2, 3));
    }
}
