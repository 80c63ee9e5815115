//! Where the table sends a flow: the host's side of the program's hash.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use server_common::{
    choice::bucket,
    flow_hash::{FlowV4, FlowV6, Seed},
    keying::Keying,
};

/// The bucket that a flow falls into, by the hash of its 4-tuple.
pub fn bucket_of(seed: &Seed, client: SocketAddr, local: SocketAddr) -> usize {
    bucket(hash_of(seed, client, local), 0)
}

/// The hash of a flow's 4-tuple, as the program computes it.
pub fn hash_of(seed: &Seed, client: SocketAddr, local: SocketAddr) -> u64 {
    key_of(&Keying::four_tuple(*seed), client, local)
}

/// A flow's key, as the program makes it.
pub fn key_of(keying: &Keying, client: SocketAddr, local: SocketAddr) -> u64 {
    let (source_port, destination_port) = (client.port().to_be(), local.port().to_be());
    match (client.ip(), local.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => keying.key_v4(&FlowV4 {
            source: word_v4(source),
            destination: word_v4(destination),
            source_port,
            destination_port,
        }),
        (source, destination) => keying.key_v6(&FlowV6 {
            source: words_v6(source),
            destination: words_v6(destination),
            source_port,
            destination_port,
        }),
    }
}

/// The address as the program reads it from memory in network order.
fn word_v4(address: Ipv4Addr) -> u32 {
    u32::from_le_bytes(address.octets())
}

fn words_v6(address: IpAddr) -> [u32; 4] {
    let address: Ipv6Addr = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let octets = address.octets();
    std::array::from_fn(|word| {
        u32::from_le_bytes([
            octets[4 * word],
            octets[4 * word + 1],
            octets[4 * word + 2],
            octets[4 * word + 3],
        ])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_flow_and_the_same_in_mapped_addresses_share_a_bucket() {
        let seed = [1, 2];
        let (client, local) = ("192.0.2.7:4711".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
        let (mapped_client, mapped_local) =
            ("[::ffff:192.0.2.7]:4711".parse().unwrap(), "[::ffff:192.0.2.1]:80".parse().unwrap());
        assert_eq!(hash_of(&seed, client, local), hash_of(&seed, mapped_client, mapped_local));
        assert_eq!(hash_of(&seed, client, local), hash_of(&seed, mapped_client, local));
        assert_ne!(hash_of(&seed, client, local), hash_of(&seed, local, client));
    }
}
