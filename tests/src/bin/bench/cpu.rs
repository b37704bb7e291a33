//! The kernel's own accounting of another process, or of a thread.

use std::fs;

use anyhow::Context as _;

/// What a process used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// User seconds, in steps of 10 ms.
    pub(crate) user_s: f64,
    /// System seconds, in steps of 10 ms.
    pub(crate) system_s: f64,
    /// Peak resident memory, in MiB.
    pub(crate) peak_mib: f64,
}

impl Usage {
    pub(crate) fn cpu_s(self) -> f64 {
        self.user_s + self.system_s
    }

    /// What was used since `before`; the peak is the whole life's.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            user_s: self.user_s - before.user_s,
            system_s: self.system_s - before.system_s,
            peak_mib: self.peak_mib,
        }
    }
}

/// Reads what the running process `pid` used so far.
///
/// # Errors
/// When there is no such process.
pub(crate) fn usage(pid: u32) -> anyhow::Result<Usage> {
    usage_in(&format!("/proc/{pid}"))
}

/// Reads what this thread used so far; the peak is the whole process's.
///
/// # Errors
/// When the kernel does not say it.
pub(crate) fn usage_of_thread() -> anyhow::Result<Usage> {
    usage_in("/proc/thread-self")
}

fn usage_in(folder: &str) -> anyhow::Result<Usage> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let read = |name: &str| {
        let path = format!("{folder}/{name}");
        fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))
    };
    let stat = read("stat")?;
    // After the name in parentheses come fields 3 …; user and system time are fields 14 and 15.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let seconds = |field: usize| -> anyhow::Result<f64> {
        let ticks: f64 = fields.get(field - 3).context("stat is short")?.parse()?;
        Ok(ticks / TICKS_PER_SECOND)
    };
    let status = read("status")?;
    let peak_kib: f64 = status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmHWM:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .context("status has no VmHWM")?;
    Ok(Usage {
        user_s: seconds(14)?,
        system_s: seconds(15)?,
        peak_mib: peak_kib / 1024.0,
    })
}
