//! The `[limits]` table: what the agent may use of the host.
//!
//! Not for: keeping to them (see [`crate::limit`]). Called by [`super`].

use serde::Deserialize;
use tributary_common::config::{Key, Kind, Schema};

pub(super) static LIMITS: Schema = Schema::new(
    "What the agent may use of the host.",
    &[
        Key::default(
            "memory",
            Kind::size("8MiB", "64GiB"),
            "64MiB",
            "Memory of the whole agent, beside about 10 MiB of its program that the kernel may take back. Half of it is for batches that are not acknowledged yet.",
        ),
        Key::optional(
            "bandwidth",
            Kind::rate("1KB/s", "100GB/s"),
            "Compressed bytes per second to the bus; absent: no limit.",
        ),
        Key::optional(
            "cpu",
            Kind::Percent {
                min: 1.0,
                max: 10_000.0,
            },
            "CPU time of the process, as a share of one core; reading and the spool wait when it is used up, bulk first; absent: no limit.",
        ),
        Key::default(
            "spool",
            Kind::size("0B", "1024TiB"),
            "2GiB",
            "What files that are deleted before they are read may hold: open at first, then compressed in <state_dir>/spool; over it the least urgent is dropped and told as a loss.",
        ),
        Key::default(
            "open_files",
            Kind::Integer {
                min: 16,
                max: 1_000_000,
            },
            "8192",
            "Log files that are open at once; when one more is to be read, one that is read to its end is closed. Where the process may open fewer (the hard limit of open files, less 128 for all else), that counts, with a warning. A file that is deleted before it is read stays open.",
        ),
    ],
);

/// Ceilings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes per second to the bus.
    pub bandwidth: Option<u64>,
    /// CPU time, in percent of one core.
    pub cpu: Option<f64>,
    /// Bytes that files may hold which are deleted before they are read.
    pub spool: u64,
    /// Log files that are open at once.
    pub open_files: u64,
}

impl Limits {
    /// Limits with only a memory bound, in bytes.
    #[must_use]
    pub fn of_memory(memory: u64) -> Self {
        Self {
            memory,
            bandwidth: None,
            cpu: None,
            spool: 2 << 30,
            open_files: 8192,
        }
    }
}
