//! An array map in this process's memory: read and written without a system call, while the program reads it too.

use std::{
    io,
    marker::PhantomData,
    os::fd::BorrowedFd,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use aya::Pod;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// A mapping of an array that was created with BPF_F_MMAPABLE (Linux 5.5). It keeps the map's memory, not its descriptor.
///
/// Others read and write at the same time, so a value is copied as a whole and may be a mix of old and new.
pub(crate) struct SharedArray<T> {
    start: NonNull<T>,
    length: usize,
    count: usize,
    values: PhantomData<T>,
}

// SAFETY: the mapping belongs to the process, not to a thread; values are plain and are copied.
unsafe impl<T: Send> Send for SharedArray<T> {}
// SAFETY: as above; writers need no exclusiveness, since the other side of the mapping never waits for any.
unsafe impl<T: Sync> Sync for SharedArray<T> {}

impl<T: Pod> SharedArray<T> {
    /// Maps an array of `count` values. Their size is a multiple of 8, as the kernel lays them.
    ///
    /// Children do not inherit it: a fork would copy the page tables of every group's mappings, for an exec to throw them away.
    pub(crate) fn map(array: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let length = count * size_of::<T>();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { mmap(ptr::null_mut(), length, access, MapFlags::SHARED, array, 0) }?;
        // SAFETY: the mapping that was just made. A refusal costs each fork time and nothing else.
        let _ = unsafe { madvise(start, length, Advice::LinuxDontFork) };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, length, count, values: PhantomData })
    }

    /// The value at an index; `None` beyond the last.
    pub(crate) fn read(&self, index: usize) -> Option<T> {
        // SAFETY: within the mapping, which lives as long as `self`; any bit pattern is a value.
        (index < self.count).then(|| unsafe { self.start.add(index).read_volatile() })
    }

    /// Writes the value at an index; nothing beyond the last.
    pub(crate) fn write(&self, index: usize, value: T) {
        if index < self.count {
            // SAFETY: within the mapping, which is writable.
            unsafe { self.start.add(index).write_volatile(value) }
        }
    }
}

impl SharedArray<u64> {
    /// Replaces a word if it is still the old one; whether it was.
    pub(crate) fn replace(&self, index: usize, old: u64, new: u64) -> bool {
        // SAFETY: within the mapping, which lives as long as `self`, is writable and begins at a page; the program's writes are
        // atomic too.
        index < self.count
            && unsafe { AtomicU64::from_ptr(self.start.add(index).as_ptr()) }
                .compare_exchange(old, new, Relaxed, Relaxed)
                .is_ok()
    }
}

impl<T> Drop for SharedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made; nothing refers to it any more. It cannot fail for one that is whole.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}
