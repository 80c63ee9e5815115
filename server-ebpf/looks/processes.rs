//! The processes of the host, with their parents and sessions.

use aya_ebpf::helpers::generated::bpf_seq_write;
use server_common::looks::ProcessRecord;

use crate::kernel::{Meta, Pointer, load, offset};

/// The context: `struct bpf_iter__task`.
#[repr(C)]
struct Visit {
    meta: *const Meta,
    task: Pointer,
}

/// Runs for each thread, and once more without one at the end. Writes a record for each process. Between two reads
/// the kernel resumes at the next thread number, so a process that lives throughout is visited exactly once.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn processes(context: *const core::ffi::c_void) -> i32 {
    // SAFETY: the kernel passes this context; the verifier checks each access.
    let (meta, task) = unsafe {
        let visit = context.cast::<Visit>();
        ((&raw const (*visit).meta).read_volatile(), (&raw const (*visit).task).read_volatile())
    };
    if task.is_null() {
        return 0;
    }
    // SAFETY: the verifier knows the type of each pointer, and the kernel turns a fault into 0.
    unsafe {
        let pid: u32 = load(task, offset!(task_group));
        if load::<u32>(task, offset!(task_thread)) != pid {
            return 0;
        }
        let parent: Pointer = load(task, offset!(task_parent));
        let signal: Pointer = load(task, offset!(task_signal));
        let session: Pointer = load(signal, offset!(signal_session));
        let record = ProcessRecord {
            pid,
            parent: load(parent, offset!(task_group)),
            session: load(session, offset!(pid_number)),
            exit_state: load(task, offset!(task_exit_state)),
        };
        // If a record does not fit, the kernel visits the thread again at the next read.
        let seq = (&raw const (*meta).seq).read_volatile();
        bpf_seq_write(seq.cast(), (&raw const record).cast_mut().cast(), size_of::<ProcessRecord>() as u32);
    }
    0
}
