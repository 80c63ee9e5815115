//! Gives memory back that was needed for a moment.

/// To be called after groups were opened: to read, relocate and load the program takes some 20 MiB, and glibc keeps what was freed of
/// them for each thread's arena, of which there are eight for each processor. Without this a daemon grew by a step with each reload that
/// brought a group in a thread where none had been opened yet.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, returns one, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
