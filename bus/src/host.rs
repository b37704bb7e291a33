//! What the bus asks of its host's C library. Not for: limits of files and sockets
//! (see `listen.rs`). Called once, by the daemon's `main.rs`: where a bus shares its process with
//! others, the allocator is theirs, too.

/// Blocks up to this many bytes come from the allocator's own memory. It is the largest value that
/// glibc takes.
#[cfg(target_env = "gnu")]
const OWN: libc::c_int = 32 << 20;
/// As much free memory at the end of a thread's heap is kept.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 16 << 20;

/// Lets the allocator keep what librdkafka takes and frees for every request: three buffers of a
/// megabyte each, whose pages came new and zeroed from the kernel each time, for a sixth of this
/// process's CPU.
#[expect(unsafe_code, reason = "nothing else has mallopt; it takes two numbers")]
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: both parameters are glibc's own; a value that it does not like is ignored.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}
