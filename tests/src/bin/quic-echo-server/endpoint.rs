//! Endpoints on sockets that were inherited or are bound here.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::{FromRawFd, OwnedFd},
    sync::Arc,
};

use anyhow::{Context, Result};
use quinn::{
    Endpoint, EndpointConfig, ServerConfig, TokioRuntime,
    rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use ring::hmac;
use socket2::{Domain, Socket, Type};

use crate::connection_ids::ConnectionIds;

/// The same in every process: a client that reaches one that does not know its connection is told so by a reset that it
/// believes, at once, instead of finding out by its timeout.
const RESET_SECRET: &[u8] = b"known to every worker of the tests";

/// One endpoint for each inherited socket or, where there is none, for each address.
pub(crate) fn open(addresses: &[SocketAddr], ids: ConnectionIds) -> Result<Vec<Endpoint>> {
    let mut sockets = inherited()?;
    if sockets.is_empty() {
        sockets = addresses.iter().map(|&address| bind(address)).collect::<Result<_>>()?;
    }
    anyhow::ensure!(
        !sockets.is_empty(),
        "there is nothing to serve: no sockets were inherited (LISTEN_FDS) and no --listen was given"
    );
    let server = server_config()?;
    sockets.into_iter().map(|socket| endpoint(socket, server.clone(), ids.clone())).collect()
}

fn inherited() -> Result<Vec<UdpSocket>> {
    let announced = sd_notify::listen_fds().context("cannot read LISTEN_FDS")?;
    // SAFETY: LISTEN_PID is this process, so these were passed to it, and nothing else here takes them.
    Ok(announced.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }.into()).collect())
}

fn bind(address: SocketAddr) -> Result<UdpSocket> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        Ok::<_, std::io::Error>(socket.into())
    };
    bind().with_context(|| format!("cannot bind a udp socket to {address}"))
}

/// With a certificate that nobody has signed and clients do not look at. Clients may change their address, as is the default.
fn server_config() -> Result<ServerConfig> {
    let certified = rcgen::generate_simple_self_signed([]).context("cannot make a certificate")?;
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    ServerConfig::with_single_cert(vec![certified.cert.into()], PrivateKeyDer::from(key))
        .context("cannot use a certificate that was just made")
}

fn endpoint(socket: UdpSocket, server: ServerConfig, ids: ConnectionIds) -> Result<Endpoint> {
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, RESET_SECRET)));
    config.cid_generator(move || Box::new(ids.clone()));
    Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime)).context("cannot serve on a socket")
}
