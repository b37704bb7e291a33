//! The program `tributary-agent`.

use std::process::ExitCode;

use tributary_agent::config;
use tributary_common::daemon::{self, Part};

/// Threads for async work: sending and reporting need one.
const WORKERS: usize = 1;

fn main() -> ExitCode {
    let part = Part {
        name: "agent",
        about: "Follows log files and brings each line, counted, to the bus",
        version: env!("CARGO_PKG_VERSION"),
        workers: WORKERS,
        load: config::load,
        log: |config| &config.log,
    };
    daemon::main(&part, |config, signals| {
        tributary_agent::run_live(config, signals.reload, signals.stop)
    })
}
