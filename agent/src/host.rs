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
/// More open files than this bring nothing.
const MAX_OPEN_FILES: u64 = 8192;

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

/// Gives memory that was freed back to the host: the allocator keeps it otherwise, up to as much as
/// was ever used at once. Takes a millisecond or a few; a matter for quiet moments.
#[expect(
    unsafe_code,
    reason = "nothing else has malloc_trim; it takes a number and touches free memory only"
)]
pub(crate) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call has no preconditions, and may come from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// How many log files may be open at once; the process's limit is raised to what it may be.
pub(crate) fn max_open_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_not_allowed) => limit.current,
    };
    let files = current
        .unwrap_or(u64::MAX)
        .saturating_sub(SPARE_FILES)
        .clamp(16, MAX_OPEN_FILES);
    usize::try_from(files).unwrap_or(1024)
}
