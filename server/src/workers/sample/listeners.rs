//! The sample worker's listeners and datagram sockets: inherited, or bound by itself.

use std::{
    net::{TcpListener, UdpSocket},
    os::fd::{AsFd as _, FromRawFd, OwnedFd},
};

use anyhow::Context as _;
use socket2::{SockRef, Type};

use crate::sockets::{address::ListenAddress, listener::make_listener, options};

use super::packet_info;

/// Up to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// What the worker serves, ready for tokio.
#[derive(Debug, Default)]
pub(super) struct Served {
    pub(super) listeners: Vec<TcpListener>,
    pub(super) sockets: Vec<UdpSocket>,
}

/// Binds the addresses, or takes what LISTEN_FDS announces where there are none. To be called once in a process.
pub(super) fn take_or_bind(own: &[ListenAddress]) -> anyhow::Result<Served> {
    let descriptors = if own.is_empty() { take()? } else { bind(own)? };
    let mut served = Served::default();
    for descriptor in descriptors {
        let kind = SockRef::from(&descriptor).r#type().context("cannot tell what the inherited socket is")?;
        if kind == Type::DGRAM {
            served.sockets.push(prepare_datagrams(descriptor)?);
        } else {
            served.listeners.push(prepare(descriptor)?);
        }
    }
    Ok(served)
}

fn bind(addresses: &[ListenAddress]) -> anyhow::Result<Vec<OwnedFd>> {
    let bind = |&address: &ListenAddress| {
        make_listener(address, None, BACKLOG).with_context(|| format!("cannot serve on {address}"))
    };
    addresses.iter().map(bind).collect()
}

fn take() -> anyhow::Result<Vec<OwnedFd>> {
    let announced = sd_notify::listen_fds().context("cannot read LISTEN_FDS")?;
    // SAFETY: LISTEN_PID is this process, so these were passed to it, and nothing else here takes them.
    let sockets: Vec<OwnedFd> = announced.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect();
    anyhow::ensure!(
        !sockets.is_empty(),
        "there is nothing to serve: no listeners were inherited (LISTEN_FDS) and no --listen was given"
    );
    Ok(sockets)
}

fn prepare_datagrams(socket: OwnedFd) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::from(socket);
    let is_ipv6 = socket.local_addr().context("cannot tell where the socket is bound")?.is_ipv6();
    packet_info::wanted(socket.as_fd(), is_ipv6).context("cannot set the socket up")?;
    socket.set_nonblocking(true).context("cannot set the socket up")?;
    Ok(socket)
}

fn prepare(socket: OwnedFd) -> anyhow::Result<TcpListener> {
    anyhow::ensure!(options::listens(&socket)?, "the inherited socket does not listen for tcp connections");
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true).context("cannot set the listener up")?;
    // Inherited by what it accepts (Linux): saves a system call for each connection.
    SockRef::from(&listener).set_tcp_nodelay(true).context("cannot set the listener up")?;
    Ok(listener)
}
