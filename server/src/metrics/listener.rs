//! The bound address that metrics are served at.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
};

use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};

use crate::{
    control::{ControlSocket, socket::BindError},
    sockets::passed::{Closer, ReceivingStream},
};

use super::MetricsAddress;

/// Why metrics cannot be served where they should be.
#[derive(Debug, Error)]
pub enum MetricsListenerError {
    /// The address cannot be bound.
    #[error("cannot serve metrics at {address}")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The socket's path cannot be taken.
    #[error("cannot serve metrics at a unix socket")]
    Unix(#[source] BindError),
    /// The listener cannot join the runtime.
    #[error("cannot wait for scrapes at {address}")]
    Runtime {
        /// Where.
        address: MetricsAddress,
        /// What the system says.
        source: io::Error,
    },
}

impl MetricsListenerError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Tcp { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => Some(
                    "another program listens there: choose another port with --metrics, or unix:PATH"
                        .to_owned(),
                ),
                io::ErrorKind::PermissionDenied => {
                    Some("choose a port above 1023 with --metrics, or unix:PATH".to_owned())
                }
                io::ErrorKind::AddrNotAvailable => {
                    Some("give that address to lo, or choose 127.0.0.1 with --metrics".to_owned())
                }
                _ => None,
            },
            Self::Unix(error) => error.hint().map(|hint| hint.replace("--socket", "--metrics")),
            Self::Runtime { .. } => None,
        }
    }

    /// Whether another has the place already.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Tcp { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
            Self::Unix(error) => !matches!(error, BindError::TooLong { .. } | BindError::System { .. }),
            Self::Runtime { .. } => false,
        }
    }
}

/// A connection of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A listener at a [`MetricsAddress`]. Dropping it removes a unix socket from the file system.
#[derive(Debug)]
pub struct MetricsListener {
    listener: Listener,
    address: MetricsAddress,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Closes what clients pass.
        closer: Closer,
        /// Removes the socket at its end.
        _socket: ControlSocket,
    },
}

impl MetricsListener {
    /// Binds and listens. A unix socket is made as the control socket is: for root and the group `steer`, in place of one
    /// that nobody listens on any more, and with a lock beside it. Needs a runtime.
    ///
    /// What clients of a unix socket pass goes to the `closer`.
    pub fn bind(address: &MetricsAddress, closer: &Closer) -> Result<Self, MetricsListenerError> {
        let runtime = |source| MetricsListenerError::Runtime { address: address.clone(), source };
        let listener = match address {
            MetricsAddress::Tcp(address) => {
                let error = |source| MetricsListenerError::Tcp { address: *address, source };
                let listener = StdListener::bind(address).map_err(error)?;
                listener.set_nonblocking(true).map_err(runtime)?;
                Listener::Tcp(TcpListener::from_std(listener).map_err(runtime)?)
            }
            MetricsAddress::Unix(path) => {
                let socket = ControlSocket::bind(path).map_err(MetricsListenerError::Unix)?;
                let listener = socket.listener().and_then(UnixListener::from_std).map_err(runtime)?;
                Listener::Unix { listener, closer: closer.clone(), _socket: socket }
            }
        };
        let address = match &listener {
            // The kernel may have chosen the port.
            Listener::Tcp(listener) => MetricsAddress::Tcp(listener.local_addr().map_err(runtime)?),
            Listener::Unix { .. } => address.clone(),
        };
        Ok(Self { listener, address })
    }

    /// Where it is.
    pub fn address(&self) -> &MetricsAddress {
        &self.address
    }

    #[cfg(test)]
    pub(super) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd as _;
        match &self.listener {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix { listener, .. } => listener.as_fd(),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.listener {
            Listener::Tcp(listener) => Box::new(listener.accept().await?.0),
            Listener::Unix { listener, closer, .. } => {
                Box::new(ReceivingStream::new(listener.accept().await?.0, closer.sender())?)
            }
        })
    }
}
