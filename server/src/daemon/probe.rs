//! The probe of a worker that says nothing: a connection that it must accept.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::net::{TcpSocket, TcpStream};

use crate::{
    engine::event::{Event, GenerationId},
    sockets::address::Protocol,
};

use super::{
    actor::{Actor, Message},
    describe::describe,
    flows::hash_of,
    running::ProbeState,
    settings::Readiness,
};

/// How long the connection may take: on one host, and with the listener in its slot, far too long.
const CONNECT: Duration = Duration::from_secs(1);

impl Actor {
    /// Prepares the probe of a generation that has just been started, where it is ready by probe.
    pub(super) fn prepare_probe(&mut self, generation: GenerationId) -> Option<Event> {
        let has_process = self.generations.get(&generation).is_some_and(|running| running.process.is_some());
        if self.settings.ready != Readiness::Probe || !has_process {
            return None;
        }
        let target = self.probe_target()?;
        let seed = self.engine.seed();
        let (socket, client) = match bind_client(target) {
            Ok(bound) => bound,
            Err(error) => {
                let why = format!("cannot be probed: {}", describe(&error));
                return Some(Event::StartFailed { generation, why });
            }
        };
        self.generations.get_mut(&generation)?.probe = ProbeState::Bound(socket);
        Some(Event::ProbeWanted { generation, hash: hash_of(&seed, client, target) })
    }

    /// Where the probe connects to: the group's first TCP address, by way of loopback where it is a wildcard.
    fn probe_target(&self) -> Option<SocketAddr> {
        let endpoint = self.endpoints.iter().find(|endpoint| endpoint.address.protocol == Protocol::Tcp)?;
        let mut target = endpoint.address.address;
        match target.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => target.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => target.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        Some(target)
    }

    /// Connects: the published table sends this one flow to the generation.
    pub(super) fn probe(&mut self, generation: GenerationId) -> Option<Event> {
        let target = self.probe_target()?;
        let running = self.generations.get_mut(&generation)?;
        let ProbeState::Bound(socket) = std::mem::take(&mut running.probe) else {
            return Some(Event::ProbeEnded { generation });
        };
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let connected = match tokio::time::timeout(CONNECT, socket.connect(target)).await {
                Ok(result) => result,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            // The group's task is gone only where the daemon ends.
            let _ = sender.send(Message::Probed { generation, connected });
        });
        None
    }

    pub(super) fn probed(&mut self, generation: GenerationId, connected: io::Result<TcpStream>) {
        let again = match connected {
            Ok(connection) => {
                if let Some(running) =
                    self.generations.get_mut(&generation).filter(|running| !running.is_ready)
                {
                    running.probe = ProbeState::Connected { _connection: connection };
                }
                None
            }
            Err(error) => {
                tracing::debug!("the probe of {generation:?} did not connect: {error}");
                self.prepare_probe(generation)
            }
        };
        self.feed(Event::ProbeEnded { generation });
        if let Some(event) = again {
            self.feed(event);
        }
    }

    /// Looks whether probes that are connected have been accepted: then the queue, which nothing else can have
    /// reached, is empty.
    pub(super) fn look_for_accepted_probes(&mut self) {
        let connected: Vec<GenerationId> = self
            .generations
            .iter()
            .filter(|(_, running)| matches!(running.probe, ProbeState::Connected { .. }))
            .map(|(&id, _)| id)
            .collect();
        if connected.is_empty() {
            return;
        }
        let Ok(queues) = self.queues() else { return };
        for generation in connected {
            let Some(running) = self.generations.get_mut(&generation) else { continue };
            if queues.get(&running.slot) == Some(&0) {
                running.probe = ProbeState::None;
                running.has_told = true;
                self.ready_if_complete(generation);
            }
        }
    }
}

/// A client's socket with its port, which the hash needs before it connects.
fn bind_client(target: SocketAddr) -> io::Result<(TcpSocket, SocketAddr)> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(target.ip(), 0))?;
    let client = socket.local_addr()?;
    Ok((socket, client))
}
