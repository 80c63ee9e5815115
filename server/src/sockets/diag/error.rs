//! Why sock_diag could not be asked, or what it answered.

use std::io;

use thiserror::Error;

/// sock_diag could not be asked or did not answer well.
#[derive(Debug, Error)]
pub enum DiagError {
    /// No netlink socket.
    #[error("cannot open a sock_diag socket")]
    Open(#[source] io::Error),
    /// The request could not be sent.
    #[error("cannot send a request to sock_diag")]
    Send(#[source] io::Error),
    /// No answer came.
    #[error("cannot receive the answer of sock_diag")]
    Receive(#[source] io::Error),
    /// The kernel answered with an error; ENOENT: its `tcp_diag` or `udp_diag` module is missing.
    #[error("sock_diag refused the request")]
    Refused(#[source] io::Error),
    /// The answer does not read.
    #[error("the answer of sock_diag is malformed: {0}")]
    Malformed(String),
    /// A part of the answer was longer than the room for it.
    #[error("a part of sock_diag's answer has {length} bytes where {room} were expected at most")]
    Truncated {
        /// The part's length, in bytes.
        length: usize,
        /// The room there was, in bytes.
        room: usize,
    },
    /// The kernel's tables changed under every attempt.
    #[error("sock_diag's answer was inconsistent {0} times in a row")]
    Inconsistent(u32),
}

impl DiagError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused(source) if source.raw_os_error() == Some(libc::ENOENT) => {
                Some("load the kernel's modules: modprobe tcp_diag udp_diag")
            }
            Self::Open(source) if source.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                Some("netlink sockets must be allowed: RestrictAddressFamilies= needs AF_NETLINK")
            }
            _ => None,
        }
    }
}
