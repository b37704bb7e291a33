//! The one entry of the daemons: arguments, configuration, logging, signals, exit codes.
//!
//! A part's `main.rs` is a [`Part`] and one call of [`main`]. Exit codes: 0 clean stop, 1 failure,
//! 2 bad configuration or arguments, 3 the state directory is held by another process.
//!
//! Not for: what a part does, nor the `tributary` program. Called by the `main.rs` of the daemons.

use std::{
    ffi::OsString,
    future::Future,
    io::{self, Write},
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use tokio::{
    runtime::{Builder, Runtime},
    select,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Env, Faults, Loaded},
    disk::{LockError, LockHeld},
    metrics,
    telemetry::{self, Log},
};

/// Exit code of a failure while running.
pub const EXIT_FAILURE: u8 = 1;
/// Exit code of a configuration or an argument that cannot be used.
pub const EXIT_CONFIG: u8 = 2;
/// Exit code when another process holds the state directory.
pub const EXIT_HELD: u8 = 3;
/// What background threads of libraries may take after everything of ours is done.
const LAST_GRACE: Duration = Duration::from_secs(1);

/// What makes one daemon different from another.
pub struct Part<C> {
    /// `agent`, `bus` or `manager`: part of the program's name, the default path, the environment.
    pub name: &'static str,
    /// What it is, in one sentence, for `--help`.
    pub about: &'static str,
    /// Its version: `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// Threads for async work.
    pub workers: usize,
    /// Loads and checks its configuration.
    pub load: fn(&Path, &Env) -> Result<Loaded<C>, Faults>,
    /// Its `[log]` table.
    pub log: fn(&C) -> &Log,
}

impl<C> std::fmt::Debug for Part<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What the outside asks of a running part.
#[derive(Debug)]
pub struct Signals<C> {
    /// Cancelled by SIGTERM or SIGINT.
    pub stop: CancellationToken,
    /// SIGHUP. A part that drops it says by that that it cannot reload.
    pub reload: Reload<C>,
}

/// Hears SIGHUP, and loads the configuration anew.
pub struct Reload<C> {
    asked: watch::Receiver<u64>,
    load: Box<dyn Fn() -> Result<Loaded<C>, Faults> + Send + Sync>,
}

impl<C> std::fmt::Debug for Reload<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload").finish_non_exhaustive()
    }
}

impl<C> Reload<C> {
    /// Loads whenever the number changes: for who runs a part without being a daemon.
    pub fn new(
        asked: watch::Receiver<u64>,
        load: impl Fn() -> Result<Loaded<C>, Faults> + Send + Sync + 'static,
    ) -> Self {
        let load = Box::new(load);
        Self { asked, load }
    }

    /// Waits for the next SIGHUP and loads the configuration; several of them since the last wait
    /// count as one. Never returns once the daemon is ending.
    ///
    /// # Errors
    /// All faults: the old configuration is to go on.
    pub async fn next(&mut self) -> Result<Loaded<C>, Faults> {
        if self.asked.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        (self.load)()
    }
}

/// What the arguments ask for.
enum Wish {
    Run,
    Check,
    Print,
    /// Both: what is printed is good, and what is to be warned of stands beside it.
    CheckAndPrint,
}

/// Runs a part as a daemon until it is told to stop, and gives the exit code.
pub fn main<C, F, R>(part: &Part<C>, run: R) -> ExitCode
where
    C: Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
    R: FnOnce(C, Signals<C>) -> F,
{
    with_args(part, std::env::args_os(), run)
}

/// As [`main`], with the arguments of somebody else.
fn with_args<C, F, R>(part: &Part<C>, args: impl IntoIterator<Item = OsString>, run: R) -> ExitCode
where
    C: Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
    R: FnOnce(C, Signals<C>) -> F,
{
    let matches = match command(part).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let (wish, path) = wish(&matches);
    let loaded = match (part.load)(path, &Env::of_process()) {
        Ok(loaded) => loaded,
        Err(faults) => {
            tell(io::stderr(), &faults.to_string());
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match wish {
        Wish::Check => {
            warn(&loaded);
            tell(io::stdout(), &format!("{} is good", path.display()));
            ExitCode::SUCCESS
        }
        Wish::CheckAndPrint => {
            warn(&loaded);
            tell(io::stderr(), &format!("{} is good", path.display()));
            tell(io::stdout(), loaded.effective().trim_end());
            ExitCode::SUCCESS
        }
        Wish::Print => {
            tell(io::stdout(), loaded.effective().trim_end());
            ExitCode::SUCCESS
        }
        Wish::Run => {
            let (path, load) = (path.to_owned(), part.load);
            let again = move || load(&path, &Env::of_process());
            start(part, loaded, again, run)
        }
    }
}

/// The arguments of every daemon.
fn command<C>(part: &Part<C>) -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    Command::new(format!("tributary-{}", part.name))
        .about(part.about)
        .version(part.version)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .default_value(format!("/etc/tributary/{}.toml", part.name))
                .help("The configuration file"),
        )
        .arg(flag(
            "check",
            "Print all faults of the configuration, then exit with 0 or 2",
        ))
        .arg(flag(
            "print-config",
            "Print the configuration that counts, without secrets, then exit; with --check the \
             verdict goes to stderr",
        ))
        .after_help(format!(
            "TRIBUTARY_{}_<KEY> overrides a single value of the configuration. SIGTERM stops, a \
             second one aborts; SIGHUP reloads.\nExit codes: 0 clean stop, 1 failure, 2 bad \
             configuration or arguments, 3 state directory held by another process.",
            part.name.to_uppercase()
        ))
}

/// What was asked for, and the configuration's path.
fn wish(matches: &ArgMatches) -> (Wish, &Path) {
    let wish = match (matches.get_flag("check"), matches.get_flag("print-config")) {
        (true, true) => Wish::CheckAndPrint,
        (true, false) => Wish::Check,
        (false, true) => Wish::Print,
        (false, false) => Wish::Run,
    };
    let path = matches
        .get_one::<PathBuf>("config")
        .expect("the argument has a default");
    (wish, path)
}

/// Prints help, version or a usage error where each belongs.
fn usage(error: &clap::Error) -> ExitCode {
    // A closed pipe is no reason for another exit code.
    drop(error.print());
    if error.use_stderr() {
        ExitCode::from(EXIT_CONFIG)
    } else {
        ExitCode::SUCCESS
    }
}

/// Tells the person who called what is good but probably not meant.
fn warn<C>(loaded: &Loaded<C>) {
    for warning in loaded.warnings() {
        tell(io::stderr(), &format!("warning: {warning}"));
    }
}

/// Writes a line for the person who called.
fn tell(mut out: impl Write, text: &str) {
    // A closed pipe (`| head`) is no reason for another exit code.
    drop(writeln!(out, "{text}"));
}

/// Starts logging, figures and the runtime, and runs the part to its end.
fn start<C, F, R>(
    part: &Part<C>,
    loaded: Loaded<C>,
    again: impl Fn() -> Result<Loaded<C>, Faults> + Send + Sync + 'static,
    run: R,
) -> ExitCode
where
    C: Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
    R: FnOnce(C, Signals<C>) -> F,
{
    let log = (part.log)(&loaded.value);
    telemetry::init(log.format, &log.level);
    metrics::install();
    for warning in loaded.warnings() {
        tracing::warn!("{warning}");
    }
    tracing::info!(
        version = part.version,
        pid = std::process::id(),
        "{} starts",
        part.name
    );
    let runtime = match Builder::new_multi_thread()
        .worker_threads(part.workers)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(error = %error, "failed to start threads");
            return ExitCode::from(EXIT_FAILURE);
        }
    };
    let result = supervise(&runtime, part.name, loaded.value, again, run);
    runtime.shutdown_timeout(LAST_GRACE);
    match result {
        Ok(()) => {
            tracing::info!("{} has stopped", part.name);
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "{} failed", part.name);
            ExitCode::from(code_of(&error))
        }
    }
}

/// Runs something on a runtime of its own until it ends; SIGTERM and SIGINT cancel its token, a
/// second signal aborts it. For the programs that are no daemon.
///
/// # Errors
/// When threads cannot be started, and what `run` says.
pub fn run_until_signal<F>(
    workers: usize,
    run: impl FnOnce(CancellationToken) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()?;
    let never = || Err(Faults::nothing_to_load());
    let result = supervise(&runtime, "tributary", (), never, |(), signals| {
        run(signals.stop)
    });
    runtime.shutdown_timeout(LAST_GRACE);
    result
}

/// Tells the person what failed, and gives the exit code; for the programs that are no daemon.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    tell(io::stderr(), &format!("{error:#}"));
    ExitCode::from(code_of(error))
}

/// The code of an error: 3 when [`LockHeld`] caused it, 2 when [`Faults`] did, else 1.
fn code_of(error: &anyhow::Error) -> u8 {
    let held = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<LockHeld>() || matches!(cause.downcast_ref(), Some(LockError::Held(_)))
    };
    if error.chain().any(held) {
        EXIT_HELD
    } else if error.chain().any(|cause| cause.is::<Faults>()) {
        EXIT_CONFIG
    } else {
        EXIT_FAILURE
    }
}

/// Runs the part beside the signals.
fn supervise<C, F, R>(
    runtime: &Runtime,
    name: &str,
    config: C,
    again: impl Fn() -> Result<Loaded<C>, Faults> + Send + Sync + 'static,
    run: R,
) -> anyhow::Result<()>
where
    C: Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
    R: FnOnce(C, Signals<C>) -> F,
{
    // Signals are heard on a runtime of their own: a part that blocks all of its threads cannot
    // keep the second signal from us.
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut hear = Hear::new()?;
        let stop = CancellationToken::new();
        let (hup, reload) = watch::channel(0);
        let mut upkeep = pin!(metrics::upkeep(CancellationToken::new()));
        let signals = Signals { stop: stop.clone(), reload: Reload::new(reload, again) };
        let future = {
            let _entered = runtime.enter();
            run(config, signals)
        };
        let mut part = JoinSet::new();
        part.spawn_on(future, runtime.handle());
        loop {
            select! {
                Some(done) = part.join_next() => return match done {
                    Ok(result) => result,
                    Err(error) => Err(anyhow::Error::new(error).context("the main task failed")),
                },
                () = &mut upkeep => unreachable!("its token is never cancelled"),
                asked = hear.next() => match asked {
                    Asked::Stop if stop.is_cancelled() => {
                        anyhow::bail!("aborted by a second signal");
                    }
                    Asked::Stop => {
                        tracing::info!("{name} stops");
                        stop.cancel();
                    }
                    Asked::Reload if hup.receiver_count() > 0 => {
                        hup.send_modify(|number| *number += 1);
                        tracing::info!("{name} reloads its configuration");
                    }
                    Asked::Reload => {
                        tracing::warn!("{name} cannot reload its configuration; restart it instead");
                    }
                },
            }
        }
    })
}

/// What a signal asks for.
enum Asked {
    Stop,
    Reload,
}

/// The signals that a daemon hears.
struct Hear {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Hear {
    fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        select! {
            Some(()) = self.term.recv() => Asked::Stop,
            Some(()) = self.int.recv() => Asked::Stop,
            Some(()) = self.hup.recv() => Asked::Reload,
            else => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests;
