//! Flows as they are on the wire, and another's SipHash-1-3 of them.

use std::{
    hash::Hasher,
    net::{Ipv4Addr, Ipv6Addr},
};

use server_common::flow_hash::{FlowV4, FlowV6, Seed};
use siphasher::sip::SipHasher13;

fn word(bytes: [u8; 4]) -> u32 {
    u32::from_le_bytes(bytes)
}

fn words(address: Ipv6Addr) -> [u32; 4] {
    let bytes = address.octets();
    std::array::from_fn(|at| word(std::array::from_fn(|byte| bytes[4 * at + byte])))
}

/// As it lies in memory in network byte order.
fn port(port: u16) -> u16 {
    u16::from_le_bytes(port.to_be_bytes())
}

/// The flow between these, ports in the same order.
pub(crate) fn v4(source: Ipv4Addr, destination: Ipv4Addr, ports: (u16, u16)) -> FlowV4 {
    FlowV4 {
        source: word(source.octets()),
        destination: word(destination.octets()),
        source_port: port(ports.0),
        destination_port: port(ports.1),
    }
}

/// The flow between these, ports in the same order.
pub(crate) fn v6(source: Ipv6Addr, destination: Ipv6Addr, ports: (u16, u16)) -> FlowV6 {
    FlowV6 {
        source: words(source),
        destination: words(destination),
        source_port: port(ports.0),
        destination_port: port(ports.1),
    }
}

/// SipHash-1-3 of addresses and ports in network order, by the crate `siphasher`.
pub(crate) fn reference(seed: Seed, source: &[u8], destination: &[u8], ports: (u16, u16)) -> u64 {
    siphash(seed, &[source, destination, &ports.0.to_be_bytes(), &ports.1.to_be_bytes()].concat())
}

/// SipHash-1-3 of bytes, by the crate `siphasher`.
pub(crate) fn siphash(seed: Seed, bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(seed[0], seed[1]);
    hasher.write(bytes);
    hasher.finish()
}
