//! Figures of the process itself, under the names that every Prometheus client uses.
//!
//! Not for: figures of a part. Called when the figures are rendered, and by heartbeats.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};

/// Memory that the process holds in RAM, in bytes; 0 where `/proc` does not say.
#[must_use]
pub fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * page_size() as u64
}

/// User and system CPU time of the process so far, in seconds; `None` where `/proc` does not say.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name stands in brackets and may hold anything; fields 14 and 15 are utime and
    // stime in clock ticks (proc_pid_stat(5)), so the 12th and 13th behind the name.
    let (_name, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields
        .split_ascii_whitespace()
        .skip(11)
        .map(str::parse::<u32>);
    let (user, system) = (ticks.next()?.ok()?, ticks.next()?.ok()?);
    let per_second = u32::try_from(clock_ticks_per_second()).ok()?;
    Some((f64::from(user) + f64::from(system)) / f64::from(per_second))
}

/// Sets the figures of this moment.
pub(super) fn update() {
    let count = |number: u64| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    metrics::gauge!("process_resident_memory_bytes").set(count(resident_bytes() / 1024) * 1024.0);
    if let Some(seconds) = cpu_seconds() {
        metrics::gauge!("process_cpu_seconds_total").set(seconds);
    }
    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(count(descriptors.count() as u64));
    }
}
