//! The bus daemon. All of it is in the library; see [`tributary_bus::run`].

use std::process::ExitCode;

use tributary_common::{
    daemon::{self, Part, Signals},
    heap,
};

/// The largest block that comes from the allocator's own memory.
const OWN: i32 = 32 << 20;
/// Freed memory that is kept at the end of each thread's heap: librdkafka takes and frees three buffers
/// of a megabyte for every request, and pages that came anew for them were a sixth of the CPU.
const KEPT: i32 = 16 << 20;

fn main() -> ExitCode {
    heap::keep_freed(OWN, KEPT);
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
