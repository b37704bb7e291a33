//! The C library's allocator: how much freed memory it keeps, and when it gives it back.
//!
//! A page that was given back comes anew and zeroed from the kernel; on a virtual machine its host may
//! have to find it first. Without glibc both functions do nothing. Not for: how much memory a daemon may
//! use (that is counted where it is taken).

/// Lets the allocator keep up to `kept` bytes of freed memory at the end of each thread's heap, and take
/// blocks of up to `block` bytes (32 MiB at most) from there in place of a mapping of their own. Called
/// once, by a daemon's `main.rs`: who shares a process with others shares their allocator.
#[expect(unsafe_code, reason = "nothing else has mallopt; it takes two numbers")]
pub fn keep_freed(block: i32, kept: i32) {
    #[cfg(target_env = "gnu")]
    // SAFETY: both parameters are glibc's own; a value that it does not like is ignored.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, block);
        libc::mallopt(libc::M_TRIM_THRESHOLD, kept);
    }
    #[cfg(not(target_env = "gnu"))]
    let _not_here = (block, kept);
}

/// Gives all freed memory back to the host, also what [`keep_freed`] keeps. Takes a millisecond or a few;
/// a matter for quiet moments.
#[expect(
    unsafe_code,
    reason = "nothing else has malloc_trim; it takes a number and touches free memory only"
)]
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call has no preconditions, and may come from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
