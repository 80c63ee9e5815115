//! What can go wrong with a listen address's listeners.

use crate::{
    dataplane::error::DataplaneError,
    sockets::{listener::ListenerError, options::SocketError},
};

/// A listener could not be made, put or shut down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error(transparent)]
    Listener(#[from] ListenerError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
}

impl EndpointError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Listener(error) => error.hint(),
            Self::Socket(_) => None,
            Self::Dataplane(error) => error.hint().map(str::to_owned),
        }
    }
}
