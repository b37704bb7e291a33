//! `tributary-manager`: the control plane as a daemon.

use std::process::ExitCode;

use tributary_common::daemon::{self, Part};
use tributary_manager::{Config, config};

/// Threads for requests; SQLite has threads of its own.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let part = Part::<Config> {
        name: "manager",
        about: "Takes the reports of agents and bus nodes, keeps the ledger, serves API and console",
        version: env!("CARGO_PKG_VERSION"),
        workers: WORKERS,
        load: config::load,
        log: |config| &config.log,
    };
    daemon::main(&part, |config, signals| {
        tributary_manager::run(config, signals.stop)
    })
}
