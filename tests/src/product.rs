//! Our own programs, started as a person starts them: a config file, a process, its admin port.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{self, ExitStatus},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::process::Signal;

use crate::{
    child::{Child, Plan},
    http, poll, scratch,
};

/// A start takes a tenth of a second; on a machine that also compiles it may take long.
const START_LIMIT: Duration = Duration::from_secs(60);
/// An orderly stop must be done by then.
pub const STOP_LIMIT: Duration = Duration::from_secs(40);

/// A daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `tributary-agent`
    Agent,
    /// `tributary-bus`
    Bus,
    /// `tributary-manager`
    Manager,
}

impl Part {
    /// The program's name.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Agent => "tributary-agent",
            Self::Bus => "tributary-bus",
            Self::Manager => "tributary-manager",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

/// A program of ours, built from the sources as they are.
///
/// `TRIBUTARY_BIN_DIR` names a folder where somebody has built them already; without it they are
/// built here, once per run, in the profile of the tests.
///
/// # Errors
/// When they do not build.
pub fn program(name: &str) -> Result<PathBuf> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = FOLDER
        .get_or_init(|| programs().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|text| anyhow!("no programs to test: {text}"))?;
    let path = folder.join(name);
    ensure!(path.is_file(), "{} is missing", path.display());
    Ok(path)
}

fn programs() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("TRIBUTARY_BIN_DIR") {
        return Ok(folder.into());
    }
    // …/target/<profile>/deps/it-0123456789abcdef
    let tests = std::env::current_exe()?;
    let folder = tests
        .ancestors()
        .nth(2)
        .context("the test binary lies in no target folder")?;
    let parts = [
        "tributary",
        "tributary-agent",
        "tributary-bus",
        "tributary-manager",
    ];
    let mut cargo = Plan::new(env!("CARGO"))
        .folder(scratch::repository())
        .args(["build", "--locked", "--quiet", "--bins"])
        .args(parts.iter().flat_map(|part| ["-p", part]));
    if folder.ends_with("release") {
        cargo = cargo.args(["--release"]);
    }
    cargo.output()?;
    Ok(folder.to_owned())
}

/// Runs a program of ours to its end; for arguments, bad input, exit codes.
///
/// # Errors
/// When it cannot be started.
pub fn run(name: &str, args: &[&str], folder: &Path) -> Result<process::Output> {
    Plan::new(program(name)?)
        .args(args.iter().copied())
        .folder(folder)
        .run()
}

/// One daemon with its folder, which outlives its processes.
#[derive(Debug)]
pub struct Node {
    part: Part,
    folder: PathBuf,
    admin: String,
    process: Option<Child>,
    strict: bool,
    stop_at: Option<&'static str>,
    environment: Vec<(&'static str, String)>,
}

impl Node {
    /// A daemon that is not running yet. `admin` is where it answers `/healthz`.
    ///
    /// # Errors
    /// When its folder cannot be written.
    pub fn new(part: Part, folder: &Path, admin: &str, config: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let node = Self {
            part,
            folder: folder.to_owned(),
            admin: admin.to_owned(),
            process: None,
            strict: false,
            stop_at: None,
            environment: Vec::new(),
        };
        node.configure(config)?;
        Ok(node)
    }

    /// Where it answers `/healthz`; for a manager, where its API is.
    #[must_use]
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Replaces its configuration; the next start reads it. A bus whose configuration does not say
    /// how much of the disk it leaves alone leaves nothing: what else fills the disk of the machine
    /// that tests is no reason to refuse lines.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, config: &str) -> Result<()> {
        const NOTHING: &str = "[spill]\nmin_free = \"0%\"\n";
        let config = match self.part == Part::Bus && !config.contains("min_free") {
            true if config.contains("[spill]\n") => config.replace("[spill]\n", NOTHING),
            true => format!("{config}\n{NOTHING}"),
            false => config.to_owned(),
        };
        Ok(fs::write(self.folder.join("config.toml"), config)?)
    }

    /// Replaces its configuration and sends SIGHUP.
    ///
    /// # Errors
    /// When it cannot be written, or the process is not running.
    pub fn reload(&mut self, config: &str) -> Result<()> {
        self.configure(config)?;
        self.running()?.signal(Signal::HUP)
    }

    /// Even when the rig runs as root, it must obey the permissions of files from its next start on.
    pub fn obey_permissions(&mut self) {
        self.strict = true;
    }

    /// From its next start on it has these variables in its environment.
    pub fn set_environment(&mut self, variables: Vec<(&'static str, String)>) {
        self.environment = variables;
    }

    /// From its next start on it stands still at a named point of its work, and says so in its log. Only
    /// what was built for debugging does.
    pub fn stop_at(&mut self, point: Option<&'static str>) {
        self.stop_at = point;
    }

    /// What stands still at a point goes on, and does not stop there again.
    ///
    /// # Errors
    /// When its folder cannot be written.
    pub fn go_on(&self) -> Result<()> {
        Ok(fs::write(self.go_on_file(), "")?)
    }

    fn go_on_file(&self) -> PathBuf {
        self.folder.join("go-on")
    }

    /// Starts it and waits until it answers `/healthz`.
    ///
    /// # Errors
    /// When it ends or does not answer, with the end of its log.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        let admin = self.admin.clone();
        let what = format!("{} to answer on {admin}", self.part);
        let process = self.running()?;
        poll::until(&what, START_LIMIT, || {
            process.must_run()?;
            let answer = http::get(&admin, "/healthz").ok();
            Ok(answer.filter(|answer| answer.status == 200))
        })
        .with_context(|| process.log_tail())
        .map(drop)
    }

    /// Starts it and does not wait for anything.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        let mut plan = Plan::new(program(self.part.program())?)
            .args(["--config", "config.toml"])
            .folder(&self.folder);
        for (key, value) in &self.environment {
            plan = plan.env(key, value);
        }
        if self.strict {
            plan = plan.obeys_permissions();
        }
        if let Some(point) = self.stop_at {
            let go_on = self.go_on_file();
            plan = plan.env("TRIBUTARY_STOP_AT", point);
            plan = plan.env("TRIBUTARY_STOP_UNTIL", go_on.display().to_string());
        }
        let log = self.folder.join("log");
        self.process = Some(Child::start(self.part.program(), &plan, &log)?);
        Ok(())
    }

    /// The running process.
    ///
    /// # Errors
    /// When it was never started.
    pub fn running(&mut self) -> Result<&mut Child> {
        self.process
            .as_mut()
            .with_context(|| format!("{} was not started", self.part))
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it has ended before by itself.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?.kill()
    }

    /// `kill -9`, and a new start.
    ///
    /// # Errors
    /// As [`Node::kill`] and [`Node::start`].
    pub fn kill_and_start(&mut self) -> Result<()> {
        self.kill()?;
        self.start()
    }

    /// SIGTERM; it must end by itself in time.
    ///
    /// # Errors
    /// When it does not.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.running()?.terminate(STOP_LIMIT)
    }

    /// SIGTERM; it must end in time with exit code 0.
    ///
    /// # Errors
    /// When it does not, with the end of its log.
    pub fn stop_cleanly(&mut self) -> Result<()> {
        let status = self.stop()?;
        ensure!(
            status.success(),
            "{} ended with {status}:\n{}",
            self.part,
            self.log()?
        );
        Ok(())
    }

    /// SIGSTOP: it hangs.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pause(&mut self) -> Result<()> {
        self.running()?.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it is not running.
    pub fn resume(&mut self) -> Result<()> {
        self.running()?.signal(Signal::CONT)
    }

    /// `GET /status` as JSON.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<serde_json::Value> {
        http::get(&self.admin, "/status")?.json()
    }

    /// `GET /metrics`: the sum of a metric over all its labels; 0 when there is none.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = http::get(&self.admin, "/metrics")?.text();
        let mut sum = 0.0;
        for line in text.lines() {
            let (key, value) = line.rsplit_once(' ').unwrap_or_default();
            if key.split('{').next() == Some(name) {
                sum += value
                    .parse::<f64>()
                    .with_context(|| format!("no number: {line}"))?;
            }
        }
        Ok(sum)
    }

    /// All that it has logged, over all its lives.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(self.folder.join("log"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
