//! Proves the bind hook: a process in the cgroup binds a socket that knows nothing of SO_REUSEPORT.

use std::io;

use socket2::SockAddr;

use super::WorkersCgroup;
use crate::{
    sockets::address::{ListenAddress, Protocol},
    workers::spawn::fork::fork_into,
};

/// Exit codes of the child beside error numbers, which are below.
const NOT_ENTERED: i32 = 200;

/// What the proof has shown.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// It could not be tried.
    #[error("cannot try a bind in the workers' cgroup: cannot {operation}")]
    NotTried {
        /// What failed.
        operation: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The address was refused, though the hook is attached.
    #[error("a bind in the workers' cgroup to {address} was refused")]
    Refused {
        /// The address.
        address: ListenAddress,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Binds a socket of this owner to an address at which the group has a listener: without the hook that is EADDRINUSE. The socket never
/// listens and is closed at once. Takes as long as a fork.
pub fn prove(cgroup: &WorkersCgroup, address: ListenAddress, owner: Option<u32>) -> Result<(), ProofError> {
    let failed = |operation| move |source| ProofError::NotTried { operation, source };
    let kind = match address.protocol {
        Protocol::Tcp => libc::SOCK_STREAM,
        Protocol::Udp => libc::SOCK_DGRAM,
    };
    let name = SockAddr::from(address.address);
    let domain = name.family().into();
    let child = |entered: Result<(), i32>| {
        if entered.is_err() {
            // SAFETY: a system call.
            unsafe { libc::_exit(NOT_ENTERED) };
        }
        // SAFETY: system calls, with memory that was made before the fork.
        unsafe {
            // In the child: to the kernel a socket is in the cgroup of the process that made it.
            let socket = libc::socket(domain, kind, 0);
            let is_bound = socket >= 0
                && owner.is_none_or(|owner| libc::fchown(socket, owner, libc::gid_t::MAX) == 0)
                && libc::bind(socket, name.as_ptr().cast(), name.len()) == 0;
            libc::_exit(if is_bound { 0 } else { *libc::__errno_location() });
        }
    };
    use std::os::fd::AsFd as _;
    // SAFETY: the child makes system calls only.
    let pid = unsafe { fork_into(Some(cgroup.as_fd()), child) }.map_err(failed("start a process there"))?;
    match exit_code(pid).map_err(failed("wait for it"))? {
        0 => Ok(()),
        NOT_ENTERED => Err(failed("enter it")(io::Error::from(io::ErrorKind::PermissionDenied))),
        errno => Err(ProofError::Refused { address, source: io::Error::from_raw_os_error(errno) }),
    }
}

fn exit_code(pid: libc::pid_t) -> io::Result<i32> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    loop {
        match rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status.exit_status().unwrap_or(NOT_ENTERED)),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
