//! What the agent is told by its host: its own id, the host's name, how many files may be open.
//!
//! Not for: configuration. [`crate::run`] calls it.

use std::path::Path;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tributary_common::{disk, ids::AgentId};

/// The file in the state directory that holds the id.
const ID_FILE: &str = "agent-id";
/// Descriptors that are left for sockets, the checkpoint and opening.
const SPARE_FILES: u64 = 128;
/// However few the process may open, so many log files are tried.
const LEAST_FILES: u64 = 16;

/// The agent's id: made once, kept for ever.
///
/// # Errors
/// When the file cannot be read, written, or holds no id.
pub(crate) fn agent_id(state_dir: &Path) -> anyhow::Result<AgentId> {
    let path = state_dir.join(ID_FILE);
    if let Some(bytes) = disk::read(&path)? {
        let text = String::from_utf8_lossy(&bytes);
        return AgentId::new(text.trim()).with_context(|| {
            format!(
                "{} holds no agent id; delete it to get a new one, which sends all files anew",
                path.display()
            )
        });
    }
    let id = format!("{:016x}", fastrand::u64(..));
    disk::replace(&path, format!("{id}\n").as_bytes())?;
    Ok(AgentId::new(&id)?)
}

/// The host's name.
pub(crate) fn name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// How many log files may be open at once where `wanted` are asked for; the process's limit is raised
/// to what it may be. Warns when that is too low.
pub(crate) fn open_files(wanted: u64) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_not_allowed) => limit.current,
    };
    let process = current.unwrap_or(u64::MAX);
    let used = files_within(process, wanted);
    if used < wanted {
        tracing::warn!(
            limits.open_files = wanted,
            process.open_files = process,
            used,
            "limits.open_files is {wanted}, but this process may open {process} files: {used} log files \
             are open at most; raise the process's limit (LimitNOFILE of its unit), or lower the key"
        );
    }
    usize::try_from(used).unwrap_or(usize::MAX)
}

/// The log files that a process may have open beside all else, `wanted` at most.
fn files_within(process: u64, wanted: u64) -> u64 {
    let room = process.saturating_sub(SPARE_FILES).max(LEAST_FILES);
    wanted.min(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_bounds_what_may_be_open() {
        let check = |process, wanted, used| {
            assert_eq!(files_within(process, wanted), used, "{process} {wanted}");
        };
        check(u64::MAX, 8192, 8192);
        check(65536, 16, 16);
        check(8192 + SPARE_FILES, 8192, 8192);
        check(1024, 8192, 1024 - SPARE_FILES);
        // Better some errors than no logs.
        check(64, 8192, LEAST_FILES);
    }
}
