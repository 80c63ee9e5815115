//! Gives memory back that was needed for a moment. Allocators other than glibc's keep less of it, and are left alone.

/// Has what is larger than this go back to the kernel as soon as it is let go, in bytes. Tables and what they are worked out from
/// are made now and then and are large; by default the first that is let go has those after it come from heaps, of which each
/// thread that publishes has its own, and which keep them.
pub(super) fn return_large() {
    #[cfg(target_env = "gnu")]
    {
        const LARGE: i32 = 64 << 10;
        // SAFETY: a setting of the allocator. One that is refused leaves it as it was.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    }
}

/// To be called after groups were opened: to read and relocate the program takes many small pieces, and glibc keeps what was freed
/// of them for each thread's arena, of which there are eight for each processor.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, returns one, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
