//! Connections that cost as little as a real one can: made, and reset as soon as the handshake is over.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// The clients' addresses of each family, and the ports of each.
const CLIENTS: u32 = 251;
const PORTS: u32 = 30_000;
const FIRST_PORT: u32 = 20_000;

/// Makes connections to one target from many addresses and ports.
#[derive(Debug)]
pub(crate) struct Connector {
    target: SocketAddr,
    /// How many have been made: names the next 4-tuple.
    made: u32,
}

impl Connector {
    pub(crate) fn new(target: SocketAddr) -> Self {
        Self { target, made: 0 }
    }

    /// Makes this many connections one after another. On loopback the handshake runs within `connect`, on this CPU.
    pub(crate) fn connect(&mut self, count: u32) -> Result<()> {
        for _ in 0..count {
            let client = client(self.target.is_ipv4(), self.made);
            self.made = self.made.wrapping_add(1);
            let connect = || {
                let socket = bound(client)?;
                // A reset leaves no TIME_WAIT behind, neither here nor there.
                socket.set_linger(Some(Duration::ZERO))?;
                socket.connect(&self.target.into())
            };
            connect().with_context(|| format!("connecting {client} to {}", self.target))?;
        }
        Ok(())
    }
}

/// Begins a connection and does not wait for its handshake. On loopback it is over by then, or its SYN was dropped.
pub(crate) fn begin(client: SocketAddr, target: SocketAddr) -> Result<Socket> {
    let socket = bound(client)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            Err(error).with_context(|| format!("connecting {client} to {target}"))
        }
        _ => Ok(socket),
    }
}

fn bound(client: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(client), Type::STREAM, None)?;
    if !client.is_ipv4() {
        // The address is on no device: it is local by a route.
        socket.set_freebind_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&client.into())?;
    Ok(socket)
}

/// The client of the connection with this number: addresses vary first, of 127.1.0.0/16 or of the namespace's prefix.
pub(crate) fn client(ipv4: bool, number: u32) -> SocketAddr {
    let address = (number % CLIENTS + 1) as u16;
    let port = (FIRST_PORT + number / CLIENTS % PORTS) as u16;
    let [high, low] = address.to_be_bytes();
    let ip: IpAddr = if ipv4 {
        Ipv4Addr::new(127, 1, high, low).into()
    } else {
        Ipv6Addr::new(0xfd00, 0x57ee, 7, 0, 0, 0, 1, address).into()
    };
    SocketAddr::new(ip, port)
}

/// Accepts and closes all that waits; returns how many.
pub(crate) fn empty(listeners: &[TcpListener]) -> usize {
    let accepted = listeners.iter().map(|listener| std::iter::from_fn(|| listener.accept().ok()).count());
    accepted.sum()
}
