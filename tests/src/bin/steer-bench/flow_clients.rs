//! Clients of datagrams, each of which sends one flow.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr, UdpSocket},
};

use anyhow::{Context, Result};

use crate::contender::{LISTENERS, owner};

/// The first port of all clients. They are chosen here: the kernel might give one of those that the next side is to have.
const FIRST: u16 = 20_000;
/// The ports of the clients of one target. Targets whose ports are 50 apart have the same.
const OF_TARGET: u16 = 600;

/// So many clients of the target, 600 at most, with this address, and what each of them sends.
pub(crate) fn connect(client: IpAddr, target: SocketAddr, flows: u16) -> Result<Vec<(UdpSocket, Vec<u8>)>> {
    assert!(flows <= OF_TARGET, "{flows} clients of one target");
    let first = FIRST + target.port() % 50 * OF_TARGET;
    let connected = |number: u16| {
        let address = SocketAddr::new(client, first + number);
        let socket = UdpSocket::bind(address).with_context(|| format!("binding a client to {address}"))?;
        socket.connect(target)?;
        Ok((socket, quic_packet(address)))
    };
    (0..flows).map(connected).collect()
}

/// A packet of QUIC with a short header, as the client of a connection sends it whose server is in one of the slots: in any of them, as
/// by a hash. Servers in turn are woken more often than those that have several datagrams at a time.
fn quic_packet(client: SocketAddr) -> Vec<u8> {
    let mut hasher = DefaultHasher::new();
    client.hash(&mut hasher);
    let slot = (hasher.finish() % u64::from(LISTENERS)) as u16 + 1;
    // The header, the connection ID's first octet, whom it names, its nonce, and what is encrypted.
    let nonce = hasher.finish().to_be_bytes();
    let parts: [&[u8]; 5] = [&[0x40], &[12], &owner(slot).octets(), &nonce, &[0x5a; 24]];
    parts.concat()
}
