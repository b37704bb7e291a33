//! Processes that the rig starts: their output in a file, signals, and none left behind.
//!
//! Every child is started with `setpriv --pdeathsig KILL`, so that it dies with the rig even when
//! the rig is killed itself. The kernel sends that signal when the *thread* that started the child
//! ends; so one thread, which never ends, starts them all.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{self, Command, ExitStatus, Stdio},
    sync::{
        OnceLock,
        mpsc::{self, SyncSender},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{poll, say};

/// What to start.
#[derive(Debug, Clone)]
pub struct Plan {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    folder: Option<PathBuf>,
    strict: bool,
}

impl Plan {
    /// A program by path, or by name from `PATH`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            folder: None,
            strict: false,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl Into<String>) -> Self {
        self.env.push((key.to_owned(), value.into()));
        self
    }

    /// Sets the working folder.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Even as root it must obey the permissions of files.
    #[must_use]
    pub fn obeys_permissions(mut self) -> Self {
        self.strict = true;
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        if self.strict && rustix::process::geteuid().is_root() {
            command.arg("--bounding-set=-dac_override,-dac_read_search");
        }
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.program)
            .args(&self.args);
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs it to its end and gives its output.
    ///
    /// # Errors
    /// When it cannot be started or is not successful, with all that it said.
    pub fn output(&self) -> Result<String> {
        let output = self.run()?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{} failed ({}):\n{said}{complaint}",
                self.program.display(),
                output.status
            );
        }
        Ok(said.into_owned())
    }

    /// Runs it to its end, whatever it answers.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self) -> Result<process::Output> {
        let mut command = self.command();
        command
            .output()
            .with_context(|| format!("failed to start {}", self.program.display()))
    }
}

/// A running process; killed and reaped when dropped.
#[derive(Debug)]
pub struct Child {
    name: String,
    log: PathBuf,
    process: process::Child,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Starts it; its standard output and error are appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, plan: &Plan, log: &Path) -> Result<Self> {
        let open = || fs::File::options().create(true).append(true).open(log);
        let mut command = plan.command();
        command.stdout(open()?).stderr(open()?);
        let process = spawn(command)
            .with_context(|| format!("failed to start {name} ({})", plan.program.display()))?;
        Ok(Self {
            name: name.to_owned(),
            log: log.to_owned(),
            process,
            ended: None,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Fails when it has ended by itself, with the end of its log.
    ///
    /// # Errors
    /// See above.
    pub fn must_run(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, self.log_tail()),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.must_run()?;
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| anyhow!("{} has no process id", self.name))?;
        kill_process(pid, signal)
            .with_context(|| format!("failed to send {signal:?} to {}", self.name))
    }

    /// `kill -9`, and waits for its end.
    ///
    /// # Errors
    /// When it has ended before by itself.
    pub fn kill(&mut self) -> Result<()> {
        self.must_run()?;
        self.process.kill()?;
        self.ended = Some(self.process.wait()?);
        Ok(())
    }

    /// SIGTERM, and waits for its orderly end.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        poll::until(&what, limit, || self.ended())
    }

    /// How many bytes it has said so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log_bytes(&self) -> Result<u64> {
        Ok(fs::metadata(&self.log)?.len())
    }

    /// What it has said since its log had `from` bytes.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log_since(&self, from: u64) -> Result<String> {
        let mut file = fs::File::open(&self.log)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The last lines of its log, for error messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = self
            .log_since(0)
            .unwrap_or_else(|error| format!("(no log: {error})"));
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        // It may have ended in this moment; both calls then fail, and nothing is left to end.
        if let Err(error) = self
            .process
            .kill()
            .and_then(|()| self.process.wait().map(drop))
        {
            say(&format!("failed to end {}: {error}", self.name));
        }
    }
}

type Order = (Command, SyncSender<std::io::Result<process::Child>>);

fn spawn(command: Command) -> Result<process::Child> {
    static STARTER: OnceLock<SyncSender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, next) = mpsc::sync_channel::<Order>(16);
        thread::spawn(move || {
            for (mut command, answer) in next {
                // The one who asked may be gone after a panic; the child is then dropped unheard.
                if let Err(mpsc::SendError(Ok(mut orphan))) = answer.send(command.spawn()) {
                    drop(orphan.kill());
                }
            }
        });
        orders
    });
    let (answer, started) = mpsc::sync_channel(1);
    starter
        .send((command, answer))
        .map_err(|_gone| anyhow!("the starter thread is gone"))?;
    Ok(started.recv()??)
}
