//! The bus daemon. All of it is in the library; see [`tributary_bus::run`].

use std::process::ExitCode;

use tributary_common::daemon::{self, Part, Signals};

fn main() -> ExitCode {
    tributary_bus::host::keep_freed_memory();
    let part = Part {
        name: "bus",
        about: "A bus node: takes batches from agents and brings them to Kafka and files.",
        version: env!("CARGO_PKG_VERSION"),
        workers: 2,
        load: tributary_bus::config::load,
        log: |config| &config.log,
    };
    daemon::main(&part, |config, Signals { stop, reload }| {
        tributary_bus::run_live(config, reload, stop)
    })
}
