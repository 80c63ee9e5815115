//! Whose socket is in the way of a bind: for an error message that can be acted on.

use std::{fmt, net::SocketAddr};

use super::{
    address::ListenAddress,
    diag::{Diag, ListenerInfo},
    options, pidfd, procfs,
};

/// A socket of another that is bound where we wanted to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its inode, as in `/proc/PID/fd`.
    pub inode: u32,
    /// Its owner.
    pub uid: u32,
    /// The address it is bound to.
    pub local: SocketAddr,
    /// Whether it is a listener; else it is a connection that uses the port.
    pub listens: bool,
    /// Whether it sets SO_REUSEPORT, where that could be read.
    pub shares: Option<bool>,
    /// The processes that hold it, with their command's name, where these could be read.
    pub processes: Vec<(u32, String)>,
}

/// The socket that most likely keeps a bind of user `uid` to `address` from succeeding; nothing where none can be
/// seen. Reads all of `/proc`: for the way of failure only.
pub fn find(address: ListenAddress, uid: u32) -> Option<Holder> {
    let found = Diag::open().ok()?.overlapping(address).ok()?;
    let holders = found.into_iter().map(|(listens, socket)| of(&socket, listens));
    // A listener that does not share, then one of another owner, then any listener, then a connection.
    holders.min_by_key(|holder| (!holder.listens, holder.shares != Some(false), holder.uid == uid))
}

/// What can be said of a socket of another. Reads all of `/proc`.
pub fn of(socket: &ListenerInfo, listens: bool) -> Holder {
    let pids = procfs::who_holds(u64::from(socket.inode));
    Holder {
        inode: socket.inode,
        uid: socket.uid,
        local: socket.local,
        listens,
        shares: shares(&pids, socket.inode),
        processes: pids.iter().filter_map(|&pid| Some((pid, procfs::stat(pid)?.command))).collect(),
    }
}

fn shares(pids: &[u32], inode: u32) -> Option<bool> {
    let (pid, descriptor) = pidfd::find_listener(pids, u64::from(inode))?;
    let socket = pidfd::take_fd(pidfd::open(pid).ok()?, descriptor).ok()?;
    options::has_reuseport(socket).ok()
}

impl Holder {
    /// What to stop: the first process, or the owner where no process can be seen.
    pub(super) fn who(&self) -> String {
        match self.processes.first() {
            Some((pid, command)) => format!("{command} (pid {pid})"),
            None => format!("the program of user {}", self.uid),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.listens { "listener" } else { "connection" };
        write!(f, "a {kind} on {} of user {} (inode {}", self.local, self.uid, self.inode)?;
        for (pid, command) in &self.processes {
            write!(f, ", pid {pid} {command}")?;
        }
        f.write_str(")")
    }
}
