//! Tries exact looks on a listener with unaccepted connections.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
};

use super::{Probe, describe};
use crate::dataplane::looks::{Looks, LooksError, Queue};

const NAME: &str = "looks";
const CONNECTIONS: u32 = 3;

/// Counts the connections of a loopback listener. It runs in the caller's network namespace: a daemon that may not
/// make one can still look.
pub(super) fn probe() -> Probe {
    let looks = match Looks::open() {
        Ok(looks) => looks,
        Err(error) => return estimate(&error),
    };
    let not_tried = |error: io::Error| {
        Probe::warn(NAME, format!("not tried: cannot connect to itself: {error}"), "look at the interface lo")
    };
    let trial = match Trial::new() {
        Ok(trial) => trial,
        Err(error) => return not_tried(error),
    };
    match trial.look(&looks) {
        Ok(Some(Queue { listens: true, half_open: 0, unaccepted: CONNECTIONS, .. })) => {}
        Ok(found) => return wrong(&format!("{found:?} where {CONNECTIONS} are unaccepted")),
        Err(error) => return estimate(&error),
    }
    let by = match trial.connections(&looks) {
        Ok(CONNECTIONS) => "; the connections of a process, too".to_owned(),
        Ok(found) => {
            return wrong(&format!("{found} connections of this process where it has {CONNECTIONS}"));
        }
        // Before Linux 6.1 /proc and sock_diag tell the same, at a higher cost.
        Err(LooksError::NoConnections(reason)) => {
            format!("; the connections of a process by /proc ({})", describe(&*reason))
        }
        Err(error) => return estimate(&error),
    };
    let listed = match looks.without_processes() {
        None => "; the processes of the host".to_owned(),
        Some(reason) => format!("; the processes of the host by /proc ({})", describe(reason)),
    };
    Probe::ok(
        NAME,
        format!(
            "exact: {CONNECTIONS} of {CONNECTIONS} connections are counted at their listener, unaccepted{by}{listed}"
        ),
    )
}

fn estimate(error: &LooksError) -> Probe {
    // The verifier says more, in lines of its own.
    let why = describe(error);
    Probe::warn(NAME, format!("estimate: {}", why.lines().next().unwrap_or_default()), error.hint())
}

fn wrong(what: &str) -> Probe {
    Probe::warn(NAME, format!("estimate: a look found {what}"), "report it, with the kernel's version")
}

/// A listener with unaccepted connections.
struct Trial {
    listener: TcpListener,
    clients: Vec<TcpStream>,
}

impl Trial {
    fn new() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let clients = (0..CONNECTIONS).map(|_| TcpStream::connect(address)).collect::<io::Result<_>>()?;
        Ok(Self { listener, clients })
    }

    fn look(&self, looks: &Looks) -> Result<Option<Queue>, LooksError> {
        let watched = looks.watch(self.listener.as_fd())?;
        Ok(looks.read()?.of(&watched))
    }

    /// Counts the clients' ends, which this process holds.
    fn connections(&self, looks: &Looks) -> Result<u32, LooksError> {
        let own: Vec<SocketAddr> =
            self.clients.iter().filter_map(|client| client.local_addr().ok()).collect();
        let ports: BTreeSet<u16> = own.iter().map(SocketAddr::port).collect();
        let found = looks.connections(&[std::process::id()], &ports)?;
        Ok(found.iter().filter(|connection| own.contains(&connection.local)).count() as u32)
    }
}
