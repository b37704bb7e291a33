//! A folder per scenario below `target/it/<process>/`: removed when the scenario passes, kept and
//! named when it fails. Folders of runs that have ended are removed by the next run.
//!
//! A scenario that hangs ends the whole run by name: a test runner that waits for ever says nothing.

use std::{
    fs,
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
    process,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::say;

/// A scenario that runs so long hangs: the longest of the gate take two minutes on a quiet machine. The soak's, which
/// are ten minutes of outage, are within it, too.
const HANGS: Duration = Duration::from_secs(25 * 60);

/// The repository's root.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the repository")
}

/// Runs one scenario in a folder of its own; the seed or case belongs into `name`.
///
/// # Errors
/// What the scenario says, with the kept folder.
pub fn scenario(name: &str, body: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder = Folder {
        path: create(name)?,
        done: false,
    };
    let ends = watch(name.to_owned());
    let result = body(&folder.path);
    drop(ends);
    match result {
        Ok(()) => folder.remove(),
        Err(error) => {
            let path = folder.path.display().to_string();
            Err(error.context(format!(
                "scenario '{name}' failed; its files are kept in {path}"
            )))
        }
    }
}

/// Ends this process when what it gives is still there after [`HANGS`].
fn watch(name: String) -> Sender<()> {
    let (ends, ended) = mpsc::channel();
    thread::spawn(move || {
        if ended.recv_timeout(HANGS) == Err(RecvTimeoutError::Timeout) {
            let minutes = HANGS.as_secs() / 60;
            // What is printed would be kept by the test runner, which never shows it.
            let said = writeln!(
                io::stderr(),
                "scenario '{name}' hangs: it runs for {minutes} minutes; the run ends here, its files are kept"
            );
            drop(said);
            #[expect(
                clippy::exit,
                clippy::disallowed_methods,
                reason = "the thread of the scenario waits for ever: nobody can be told"
            )]
            process::exit(101);
        }
    });
    ends
}

/// A new folder that stays until a later run removes it; for what the whole run shares.
///
/// # Errors
/// When it cannot be made.
pub fn create(name: &str) -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = run_folder()?.join(format!("{number:03}-{name}"));
    fs::create_dir_all(&path).with_context(|| format!("failed to create {}", path.display()))?;
    Ok(path)
}

struct Folder {
    path: PathBuf,
    done: bool,
}

impl Folder {
    fn remove(mut self) -> Result<()> {
        self.done = true;
        fs::remove_dir_all(&self.path)
            .with_context(|| format!("failed to remove {}", self.path.display()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.done {
            say(&format!("kept for a look: {}", self.path.display()));
        }
    }
}

fn run_folder() -> Result<&'static Path> {
    static RUN: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match RUN.get_or_init(|| make_run_folder().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(text) => Err(anyhow::anyhow!(text.clone())),
    }
}

fn make_run_folder() -> Result<PathBuf> {
    let all = repository().join("target/it");
    fs::create_dir_all(&all)?;
    for entry in fs::read_dir(&all)? {
        let entry = entry?;
        let owner = entry.file_name().to_string_lossy().parse::<u32>();
        let alive = owner.is_ok_and(|pid| Path::new(&format!("/proc/{pid}")).is_dir());
        if !alive {
            match fs::remove_dir_all(entry.path()) {
                // Another run that starts now is removing it, too.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
    }
    Ok(all.join(process::id().to_string()))
}
