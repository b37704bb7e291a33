//! How long an agent with many files takes to open its checkpoint, and what memory that costs.
//!
//! `cargo bench -p tributary-agent --bench checkpoint` prints a row of a table per size; 125,000 files
//! are 500,000 entries (stream, generation, cut, account). `make bench` takes the rows.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark talks to a person, and stops when it cannot go on"
)]

use std::fs;

use tokio::time::Instant;
use tributary_agent::checkpoint::rehearsal;

/// Opened so often; the median counts.
const TIMES: usize = 5;

/// This process's resident memory in MiB: now, or at its peak.
fn memory(what: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

fn main() {
    for files in [5_000, 125_000] {
        let dir = tempfile::tempdir().unwrap();
        rehearsal::make(dir.path(), files).unwrap();
        let mut seconds: Vec<f64> = (0..TIMES)
            .map(|_| {
                let began = Instant::now();
                rehearsal::open(dir.path()).unwrap();
                began.elapsed().as_secs_f64()
            })
            .collect();
        seconds.sort_by(f64::total_cmp);
        let folder = fs::read_dir(dir.path().join("checkpoint")).unwrap();
        let largest = folder
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .max();
        println!(
            "| checkpoint of {} entries ({} MiB) opened, median (slowest) of {TIMES} | {:.2} ({:.2}) s | \
             {} MiB at the peak; bar 2 s for 500,000 |",
            files * 4,
            largest.unwrap() >> 20,
            seconds[TIMES / 2],
            seconds[TIMES - 1],
            memory("VmHWM"),
        );
    }
}
