//! `tributary`: everything for one machine and for people.
//!
//! Parses arguments and turns results into exit codes: 0 clean, 1 failure, 2 bad config or
//! arguments. Each command lives in a file of its own.

mod bench;
mod check;
mod ctl;
mod demo;
mod inspect;
mod out;
mod table;
mod up;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use tributary_common::{daemon, metrics, telemetry};

/// Threads for the async work of all three parts.
const WORKERS: usize = 2;

/// Collects logs from files and brings each line, counted, to where it is used.
#[derive(Debug, Parser)]
#[command(name = "tributary", version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Collect your own logs: agent, bus and manager in one process.
    Up(up::UpArgs),
    /// Watch it work: programs write and rotate logs, the destination goes away and comes back.
    Demo(demo::DemoArgs),
    /// Validate a config file of any part and print all its faults.
    Check {
        /// The file.
        file: PathBuf,
        /// Whose config it is, where name and keys do not tell.
        #[arg(long)]
        part: Option<check::Part>,
    },
    /// Look into what an agent's tasks match, a checkpoint, a bus's journal, spill or dead letters, or a file of captured frames; offline.
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Inspect {
        /// What to look at by the configuration.
        #[command(subcommand)]
        what: Option<inspect::What>,
        /// A file or folder.
        #[arg(required = true)]
        path: Option<PathBuf>,
        /// How to print.
        #[arg(short, long, value_enum, default_value = "text")]
        output: inspect::Format,
    },
    /// Measure on this machine.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Ask running parts to do something.
    #[command(subcommand)]
    Ctl(ctl::Ctl),
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Up(args) => with_parts(|stop| async move { up::run(&args, stop).await }),
        Command::Demo(args) => with_parts(|stop| demo::run(args, stop)),
        Command::Check { file, part } => match check::run(&file, part) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::from(daemon::EXIT_CONFIG),
            Err(error) => return refuse(&error),
        },
        Command::Ctl(ctl::Ctl::Rebalance(asked)) => {
            daemon::run_until_signal(WORKERS, |stop| ctl::rebalance(asked, stop))
        }
        Command::Ctl(ctl::Ctl::Dead(asked)) => {
            daemon::run_until_signal(WORKERS, |stop| ctl::dead::run(asked, stop))
        }
        Command::Ctl(ctl::Ctl::Groups(asked)) => {
            daemon::run_until_signal(WORKERS, |stop| ctl::groups::run(asked, stop))
        }
        Command::Ctl(ctl::Ctl::Other(words)) => {
            let asked = words.first().map(|word| word.to_string_lossy());
            return refuse(&anyhow::anyhow!(
                "ctl {} is not in this version; there are ctl rebalance, ctl dead and ctl groups; the manager's console and its \
                 /api/v1/topics show the counts, and agents have their tasks in agent.toml",
                asked.unwrap_or_default()
            ));
        }
        Command::Inspect { what, path, output } => match (what, path) {
            (Some(what), _) => what.run(),
            (None, path) => inspect::run(&path.unwrap_or_default(), output),
        },
        Command::Bench(bench) => bench::run(&bench),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => daemon::exit_code(&error),
    }
}

/// Says what is wrong with the arguments.
fn refuse(error: &anyhow::Error) -> ExitCode {
    let _failure = daemon::exit_code(error);
    ExitCode::from(daemon::EXIT_CONFIG)
}

/// Runs agent, bus and manager beside a table that a person reads: only what needs somebody to act
/// is logged.
fn with_parts<F>(run: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    telemetry::init(telemetry::Format::Auto, "warn");
    metrics::install();
    daemon::run_until_signal(WORKERS, run)
}
