//! Sockets that take no descriptors.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// `SO_PASSRIGHTS` of asm-generic/socket.h, the same everywhere but on PA-RISC and SPARC; not in libc yet.
const SO_PASSRIGHTS: libc::c_int = 83;

/// Has the kernel refuse descriptors on their way to a unix socket (SO_PASSRIGHTS, Linux 6.16): who passes some gets EPERM. What
/// a listener accepts takes after it. Returns whether the kernel can.
pub fn refuse(socket: impl AsFd) -> io::Result<bool> {
    set_takes_rights(socket, false)
}

pub(super) fn set_takes_rights(socket: impl AsFd, takes: bool) -> io::Result<bool> {
    if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) {
        return Ok(false);
    }
    let takes = libc::c_int::from(takes);
    // SAFETY: the pointer and the size are those of an integer that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const takes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::sockets::passed::tests::{pass, pipe_end};

    #[test]
    fn what_a_refusing_listener_accepts_refuses_too() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        if !refuse(&listener).unwrap() {
            println!("not run: SO_PASSRIGHTS needs Linux 6.16");
            return;
        }
        let client = UnixStream::connect(&path).unwrap();
        let before = pass(&client, b"x", &pipe_end()).unwrap_err();
        let (_accepted, _) = listener.accept().unwrap();
        let after = pass(&client, b"x", &pipe_end()).unwrap_err();
        assert_eq!([before, after].map(|error| error.raw_os_error()), [Some(libc::EPERM); 2]);
    }
}
