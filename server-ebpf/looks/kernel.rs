//! Typed loads from kernel structures, at offsets that the verifier knows as constants.

use core::ffi::c_void;

use server_common::looks::Offsets;

/// The field offsets, set by the loader. They are one constant: LLVM merges two constants of equal value, and the
/// loader would then overwrite both.
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
    task_thread: u32::MAX,
    task_group: u32::MAX,
    task_parent: u32::MAX,
    task_exit_state: u32::MAX,
    task_signal: u32::MAX,
    signal_session: u32::MAX,
    pid_number: u32::MAX,
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

/// Reads a constant from the loaded data. A plain read would be folded to the value above.
#[inline(always)]
pub(crate) fn constant(word: &'static u32) -> u32 {
    // SAFETY: a reference is valid to read.
    unsafe { core::ptr::from_ref(word).read_volatile() }
}

/// A pointer to a kernel structure. The verifier knows its type.
pub(crate) type Pointer = *const c_void;

/// Loads a field.
///
/// # Safety
///
/// The pointer must be one whose type the verifier knows; it refuses a load outside that type. The pointer must have
/// been compared with null, or be one whose faults the kernel turns into 0.
#[inline(always)]
pub(crate) unsafe fn load<T>(structure: Pointer, offset: u32) -> T {
    // SAFETY: as the caller promises. Volatile keeps the loads in source order.
    unsafe { structure.byte_add(offset as usize).cast::<T>().read_volatile() }
}

/// `struct bpf_iter_meta`.
#[repr(C)]
pub(crate) struct Meta {
    /// The `struct seq_file` that takes the output.
    pub(crate) seq: *mut c_void,
}
