//! Keys by source, beside another's SipHash-1-3 over the bytes that the masks leave.

#[allow(dead_code, reason = "other tests hash whole 4-tuples with it")]
mod wire;

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use server_common::{flow_hash::Seed, keying::Keying};
use wire::{siphash, v4, v6};

fn network_v4(address: Ipv4Addr, bits: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0))
}

fn network_v6(address: Ipv6Addr, bits: u8) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0))
}

proptest! {
    #[test]
    fn a_key_by_source_is_the_hash_of_the_networks_bytes(
        seed: Seed, source: u32, destination: u32, ports: (u16, u16), bits in 0u8..=32,
    ) {
        let (source, destination) = (Ipv4Addr::from_bits(source), Ipv4Addr::from_bits(destination));
        let key = Keying::source(seed, bits, 0).key_v4(&v4(source, destination, ports));
        prop_assert_eq!(key, siphash(seed, &network_v4(source, bits).octets()));
        // The same client in mapped addresses has the same key.
        let mapped = v6(source.to_ipv6_mapped(), destination.to_ipv6_mapped(), ports);
        prop_assert_eq!(Keying::source(seed, bits, 99).key_v6(&mapped), key);
    }

    #[test]
    fn and_so_it_is_for_ipv6(
        seed: Seed, source: u128, destination: u128, ports: (u16, u16), bits in 0u8..=128,
    ) {
        let (source, destination) = (Ipv6Addr::from_bits(source), Ipv6Addr::from_bits(destination));
        prop_assume!(source.to_ipv4_mapped().is_none());
        let key = Keying::source(seed, 0, bits).key_v6(&v6(source, destination, ports));
        prop_assert_eq!(key, siphash(seed, &network_v6(source, bits).octets()));
    }

    #[test]
    fn a_key_by_4_tuple_is_its_hash(seed: Seed, source: u32, destination: u32, ports: (u16, u16)) {
        let flow = v4(Ipv4Addr::from_bits(source), Ipv4Addr::from_bits(destination), ports);
        prop_assert_eq!(Keying::four_tuple(seed).key_v4(&flow), flow.hash(&seed));
    }

    #[test]
    fn more_bits_than_an_address_has_are_all_of_them(seed: Seed, ipv4 in 32u8.., ipv6 in 128u8..) {
        prop_assert_eq!(Keying::source(seed, ipv4, ipv6), Keying::source(seed, 32, 128));
    }
}
