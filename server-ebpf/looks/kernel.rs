//! Reads the kernel's structures by offsets that are constants for the verifier.

use core::ffi::c_void;

use server_common::looks::Offsets;

/// Where everything is; the loader sets it. It is one constant because LLVM takes two of one value for the same, and the loader
/// would change both.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Offsets = Offsets {
    state: u32::MAX,
    family: u32::MAX,
    port: u32::MAX,
    address_v4: u32::MAX,
    address_v6: u32::MAX,
    protocol: u32::MAX,
    ack_backlog: u32::MAX,
    receive_queue: u32::MAX,
    requests: u32::MAX,
    fast_open: u32::MAX,
    reader_queue: u32::MAX,
    socket_sock: u32::MAX,
    file_inode: u32::MAX,
    inode_number: u32::MAX,
    net: u32::MAX,
    net_number: u32::MAX,
    has_net: 1,
    has_v6: 1,
    reads_memory: 1,
};

/// One of the offsets.
macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::constant(&$crate::kernel::OFFSETS.$field)
    };
}
pub(crate) use offset;

/// A constant as it is loaded: the compiler would take the value above for it.
#[inline(always)]
pub(crate) fn constant(word: &'static u32) -> u32 {
    // SAFETY: a reference is valid to read.
    unsafe { core::ptr::from_ref(word).read_volatile() }
}

/// A pointer to a structure of the kernel, whose type the verifier knows.
pub(crate) type Pointer = *const c_void;

/// Loads a field.
///
/// # Safety
///
/// The verifier refuses a load that is not within the structure that it knows the pointer to be of. The pointer is not null: it was
/// compared, or the kernel turns a fault into a 0.
#[inline(always)]
pub(crate) unsafe fn load<T>(structure: Pointer, offset: u32) -> T {
    // SAFETY: as the caller promises. Volatile, so that loads stay in the order that they are written in.
    unsafe { structure.byte_add(offset as usize).cast::<T>().read_volatile() }
}

/// What each run of an iterator is told of the whole: `struct bpf_iter_meta`.
#[repr(C)]
pub(crate) struct Meta {
    /// The `struct seq_file` that the run may write to.
    pub(crate) seq: *mut c_void,
}
