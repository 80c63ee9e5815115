//! The sample worker's listeners: inherited, or bound by itself.

use std::{
    net::TcpListener,
    os::fd::{FromRawFd, OwnedFd},
};

use anyhow::Context as _;

use crate::sockets::{
    address::{ListenAddress, Protocol},
    listener::make_listener,
    options,
};

/// Up to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Binds the addresses, or takes what LISTEN_FDS announces where there are none; ready for tokio. To be called once
/// in a process.
pub(super) fn take_or_bind(own: &[ListenAddress]) -> anyhow::Result<Vec<TcpListener>> {
    let sockets = if own.is_empty() { take()? } else { bind(own)? };
    sockets.into_iter().map(prepare).collect()
}

fn bind(addresses: &[ListenAddress]) -> anyhow::Result<Vec<OwnedFd>> {
    let bind = |&address: &ListenAddress| {
        anyhow::ensure!(
            address.protocol == Protocol::Tcp,
            "the sample worker serves tcp only, not {address}"
        );
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

fn prepare(socket: OwnedFd) -> anyhow::Result<TcpListener> {
    anyhow::ensure!(options::listens(&socket)?, "the inherited socket does not listen for tcp connections");
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true).context("cannot set the listener up")?;
    // Inherited by what it accepts (Linux): saves a system call for each connection.
    socket2::SockRef::from(&listener).set_tcp_nodelay(true).context("cannot set the listener up")?;
    Ok(listener)
}
