//! Keeps sockets that only a daemon has while there is no daemon.
//!
//! Workers have their listeners themselves. A holding listener and the socket on which workers say that they are ready are the
//! daemon's alone: the kernel would end them with it, and with them what waits there. So a process of their own keeps
//! duplicates, and gives them to the next daemon. It does nothing else, so that it never has to be replaced with the daemon; it ends
//! when it is told to, or with nothing left to keep once its daemon is gone.
//!
//! systemd's store of descriptors does the same as long as it is systemd that restarts the daemon. It forgets at a stop, where
//! the groups are to go on too, and there is none without it.

mod client;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod process;
mod wire;

pub use self::{
    client::{Keeper, KeeperError},
    process::keep,
};

/// The keeper's socket, beside the control socket.
pub fn socket_beside(control: &std::path::Path) -> std::path::PathBuf {
    let mut path = control.as_os_str().to_owned();
    path.push(".keeper");
    path.into()
}
