//! The probe of a worker that says nothing: a connection that it must accept.
//!
//! It is no client's: it is reset where its worker does not close it in turn, so that nobody waits for its end, and taken back where
//! its worker comes to nothing.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{
    daemon::settings::Readiness,
    engine::event::{GenerationId, Slot},
    group::message::Message,
    sockets::options,
};

use super::{
    Processes,
    generation::{Generation, ProbeState},
    origin::Serves,
};

/// How long the connection may take: on one host, and with the listener in its slot, far too long.
const CONNECT: Duration = Duration::from_secs(1);

/// How long a worker has to close an accepted probe, once that has ended.
const FAREWELL: Duration = Duration::from_secs(1);

impl Generation {
    /// Takes back its probe, where it has one that was not accepted.
    pub(super) fn end_probe(&mut self) {
        if let ProbeState::Connected(connection) = std::mem::take(&mut self.probe) {
            reset(&connection);
        }
    }
}

impl Processes {
    /// Prepares the probe of a generation that starts, where it is ready by probe: the client's address.
    pub(crate) fn prepare_probe(
        &mut self,
        id: GenerationId,
        target: SocketAddr,
    ) -> io::Result<Option<SocketAddr>> {
        let Some(generation) = self.generations.get_mut(&id) else { return Ok(None) };
        let is_probed = match generation.ready {
            Readiness::Probe => true,
            // What it has bound itself listens, which is enough.
            Readiness::Any => generation.serves == Serves::Unknown,
            Readiness::Notify | Readiness::Listener => false,
        };
        if !is_probed || !generation.runs() {
            return Ok(None);
        }
        let (socket, client) = bind_client(target)?;
        generation.probe = ProbeState::Bound(socket);
        Ok(Some(client))
    }

    /// Whether a generation is ready by nothing but its probe.
    pub(crate) fn needs_probe(&self, id: GenerationId) -> bool {
        self.generations.get(&id).is_some_and(|generation| generation.ready == Readiness::Probe)
    }

    /// Connects: the published table sends this one flow to the generation. The task is told; false where there is nothing to connect.
    pub(crate) fn probe(&mut self, id: GenerationId, target: SocketAddr) -> bool {
        let Some(generation) = self.generations.get_mut(&id) else { return false };
        let ProbeState::Bound(socket) = std::mem::take(&mut generation.probe) else { return false };
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            let connected = match tokio::time::timeout(CONNECT, socket.connect(target)).await {
                Ok(result) => result,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            inbox.send(Message::Probed { generation: id, connected }).await;
        });
        true
    }

    /// A probe is connected: its worker has to accept it. One that comes too late is nobody's.
    pub(crate) fn probe_connected(&mut self, id: GenerationId, connection: TcpStream) {
        match self
            .generations
            .get_mut(&id)
            .filter(|generation| !generation.is_ready && !generation.has_exited)
        {
            Some(generation) => generation.probe = ProbeState::Connected(connection),
            None => reset(&connection),
        }
    }

    /// A generation has accepted its probe. It may have bound a listener of its own all the same: a look decides which it serves.
    pub(crate) fn probe_accepted(&mut self, id: GenerationId) {
        if let Some(generation) = self.generations.get_mut(&id) {
            if let ProbeState::Connected(connection) = std::mem::take(&mut generation.probe) {
                tokio::spawn(hang_up(connection));
            }
            generation.has_told = true;
        }
    }

    /// The probes of a generation are over, whatever comes of it: its slot, where nothing but probes can have come to its listeners.
    pub(crate) fn end_probe(&mut self, id: GenerationId) -> Option<Slot> {
        let generation = self.generations.get_mut(&id)?;
        generation.end_probe();
        (!generation.is_ready).then_some(generation.slot)
    }
}

/// Where a probe connects to at a listen address: by way of loopback where it is a wildcard.
pub(crate) fn target(mut listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    listen
}

/// Ends an accepted probe as a client does that asks for nothing: a worker that reads sees an end of stream, not an error. One that does
/// not close it in turn gets a reset.
async fn hang_up(mut connection: TcpStream) {
    let farewell = async {
        connection.shutdown().await?;
        while connection.read(&mut [0; 1024]).await? > 0 {}
        io::Result::Ok(())
    };
    if !matches!(tokio::time::timeout(FAREWELL, farewell).await, Ok(Ok(()))) {
        reset(&connection);
    }
}

/// Has the connection end by a reset when it is dropped.
fn reset(connection: &TcpStream) {
    if let Err(error) = options::reset_at_close(connection) {
        tracing::debug!("a probe ends without a reset: {error}");
    }
}

/// A client's socket with its port, which the hash needs before it connects.
fn bind_client(target: SocketAddr) -> io::Result<(TcpSocket, SocketAddr)> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(target.ip(), 0))?;
    let client = socket.local_addr()?;
    Ok((socket, client))
}
