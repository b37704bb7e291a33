//! The program `tributary-agent`.

use std::process::ExitCode;

use tributary_agent::config;
use tributary_common::{
    daemon::{self, Part},
    heap,
};

/// Threads for async work: sending and reporting need one.
const WORKERS: usize = 1;
/// Freed memory that is kept while lines flow, and the largest block of it: the payload of a batch of
/// each class. In a quiet moment it is given back.
const KEPT: i32 = 4 << 20;

fn main() -> ExitCode {
    heap::keep_freed(KEPT, KEPT);
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
