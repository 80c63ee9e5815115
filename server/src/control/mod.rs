//! The control protocol: Varlink over a unix socket.
//!
//! [`api`] has the types on the wire, [`socket`] the place in the file system, [`access`] who may ask for what,
//! [`server`] the connections, [`client`] the other end. The daemon stands behind [`Controller`].

pub mod access;
pub mod api;
pub mod client;
mod connection;
mod dispatch;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hangup;
mod lock;
pub mod patience;
pub mod server;
pub mod socket;
mod unix_group;
mod wire;

use std::future::Future;

use tokio::sync::mpsc;

pub use access::{Access, AccessInForce};
pub use server::{Limits, serve, serve_within};
pub use socket::ControlSocket;

/// Where the control socket is, unless the user says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/steer/steer.sock";

/// What carries requests out: the daemon.
///
/// Every call gets a task of its own, and calls of several clients overlap.
pub trait Controller: Clone + Send + Sync + 'static {
    /// Carries one request out. Answers before the last go to `answers` as they happen; the last is returned.
    ///
    /// For a request that changes something, sending to `answers` never waits for the client, and the call goes
    /// on when the client has gone. For one that reads, sending waits while the client is slow, and the call is
    /// dropped when the client has gone or the server ends: hold nothing there that others wait for.
    fn call(
        &self,
        request: api::Request,
        answers: mpsc::Sender<api::Response>,
    ) -> impl Future<Output = Result<api::Response, api::Fault>> + Send;
}

#[cfg(test)]
mod tests;
