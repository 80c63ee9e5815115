//! The processes of the host.

use std::{
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
};

use server_common::looks::ProcessRecord;

use super::{
    error::LooksError,
    iterator::{Link, Over, read_to_end},
    object::{Object, names},
};
use crate::sockets::procfs;

/// The size of the kernel's own buffer: one read returns no more.
const BUFFER: usize = 32 * 1024;

/// The inode of the initial pid namespace: `PROC_PID_INIT_INO` of include/linux/proc_ns.h.
const INITIAL_NAMESPACE: u64 = 0xeffffffc;

/// The link of the `processes` program.
pub(super) struct ProcessList {
    link: Link,
    buffer: Vec<u8>,
}

impl ProcessList {
    /// Loads and links the program, and tries it on this process: fails in a pid namespace of its own, where processes have
    /// other numbers than the program reads.
    pub(super) fn new(object: &mut Object) -> Result<Self, LooksError> {
        let namespace = fs::metadata("/proc/self/ns/pid").map_err(error("find the pid namespace of"))?;
        if namespace.ino() != INITIAL_NAMESPACE {
            let source = io::Error::other("the pid namespace is not the initial one");
            return Err(error("use")(source));
        }
        let program = object.processes()?;
        let link = Link::create(program.as_fd(), Over::Threads).map_err(error("link"))?;
        let mut list = Self { link, buffer: vec![0; BUFFER] };
        // The session is read, not asked for: getsid(2) of a process that PID 1 started without one is 0, which `rustix` takes
        // for a pid.
        let this = procfs::stat(std::process::id()).map(|stat| stat.record());
        let this = this.ok_or_else(|| error("try")(io::Error::other("/proc does not show this process")))?;
        match list.look()?.contains(&this) {
            true => Ok(list),
            false => Err(error("try")(io::Error::other("this process was not found by it"))),
        }
    }

    /// Reads all processes.
    pub(super) fn look(&mut self) -> Result<Vec<ProcessRecord>, LooksError> {
        let mut found = Vec::new();
        let iteration = self.link.open().map_err(error("open"))?;
        read_to_end(&iteration, &mut self.buffer, |bytes| found.extend(records(bytes)))
            .map_err(error("read"))?;
        Ok(found)
    }
}

/// Decodes the output of one read, which holds whole records only.
fn records(bytes: &[u8]) -> impl Iterator<Item = ProcessRecord> {
    let (records, _) = bytes.as_chunks::<{ size_of::<ProcessRecord>() }>();
    records.iter().map(|record| {
        // SAFETY: the bytes of one record; any bit pattern is valid.
        unsafe { std::ptr::from_ref(record).cast::<ProcessRecord>().read_unaligned() }
    })
}

fn error(operation: &'static str) -> impl Fn(io::Error) -> LooksError {
    move |source| LooksError::Iterator { operation, program: names::PROCESSES, source }
}
