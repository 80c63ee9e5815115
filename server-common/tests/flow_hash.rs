//! The flow hash beside another's SipHash-1-3, over the bytes as they are on the wire; never beside itself.

mod wire;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use proptest::prelude::*;
use server_common::{
    choice::bucket,
    flow_hash::Seed,
    limits::{BUCKETS, CHOICES},
};

use self::wire::{reference, v4, v6};

prop_compose! {
    fn ipv4()(bits in any::<u32>()) -> Ipv4Addr { Ipv4Addr::from_bits(bits) }
}

prop_compose! {
    fn ipv6()(bits in any::<u128>()) -> Ipv6Addr { Ipv6Addr::from_bits(bits) }
}

proptest! {
    #[test]
    fn an_ipv4_flow_hashes_as_the_reference_does(
        seed: Seed, source in ipv4(), destination in ipv4(), ports: (u16, u16),
    ) {
        let expected = reference(seed, &source.octets(), &destination.octets(), ports);
        prop_assert_eq!(v4(source, destination, ports).hash(&seed), expected);
    }

    #[test]
    fn an_ipv6_flow_hashes_as_the_reference_does(
        seed: Seed, source in ipv6(), destination in ipv6(), ports: (u16, u16),
    ) {
        prop_assume!(source.to_ipv4_mapped().is_none() || destination.to_ipv4_mapped().is_none());
        let expected = reference(seed, &source.octets(), &destination.octets(), ports);
        prop_assert_eq!(v6(source, destination, ports).hash(&seed), expected);
    }

    /// A dual-stack socket calls an IPv4 flow's addresses mapped, its packet does not: one flow, one hash.
    #[test]
    fn a_mapped_flow_is_the_ipv4_flow(
        seed: Seed, source in ipv4(), destination in ipv4(), ports: (u16, u16),
    ) {
        let mapped = v6(source.to_ipv6_mapped(), destination.to_ipv6_mapped(), ports);
        let expected = reference(seed, &source.octets(), &destination.octets(), ports);
        prop_assert_eq!(mapped.hash(&seed), expected);
    }

    #[test]
    fn a_flow_with_one_mapped_end_is_an_ipv6_flow(
        seed: Seed, mapped in ipv4(), other in ipv6(), ports: (u16, u16), turned: bool,
    ) {
        prop_assume!(other.to_ipv4_mapped().is_none());
        let (mapped, other) = (mapped.to_ipv6_mapped(), other);
        let (source, destination) = if turned { (other, mapped) } else { (mapped, other) };
        let expected = reference(seed, &source.octets(), &destination.octets(), ports);
        prop_assert_eq!(v6(source, destination, ports).hash(&seed), expected);
    }

    /// Addresses that are nearly mapped: one bit of the prefix differs.
    #[test]
    fn nearly_mapped_is_not_mapped(seed: Seed, source in ipv4(), destination in ipv4(), bit in 32u32..128) {
        let nearly = Ipv6Addr::from_bits(source.to_ipv6_mapped().to_bits() ^ 1 << bit);
        let destination = destination.to_ipv6_mapped();
        let expected = reference(seed, &nearly.octets(), &destination.octets(), (1, 2));
        prop_assert_eq!(v6(nearly, destination, (1, 2)).hash(&seed), expected);
    }

    #[test]
    fn every_bit_of_every_field_and_of_the_seed_counts(
        seed: Seed, source in ipv6(), destination in ipv6(), ports: (u16, u16), bit in 0u32..128,
    ) {
        let flip = |address: Ipv6Addr| Ipv6Addr::from_bits(address.to_bits() ^ 1 << bit);
        let flip_port = |port: u16| port ^ 1 << (bit % 16);
        let hashes = [
            v6(source, destination, ports).hash(&seed),
            v6(flip(source), destination, ports).hash(&seed),
            v6(source, flip(destination), ports).hash(&seed),
            v6(source, destination, (flip_port(ports.0), ports.1)).hash(&seed),
            v6(source, destination, (ports.0, flip_port(ports.1))).hash(&seed),
            v6(source, destination, ports).hash(&[seed[0] ^ 1 << (bit % 64), seed[1]]),
            v6(source, destination, ports).hash(&[seed[0], seed[1] ^ 1 << (bit % 64)]),
        ];
        prop_assert_eq!(BTreeSet::from(hashes).len(), hashes.len());
    }

    #[test]
    fn direction_counts(seed: Seed, one in ipv4(), other in ipv4(), ports: (u16, u16)) {
        prop_assume!(one != other || ports.0 != ports.1);
        let back = v4(other, one, (ports.1, ports.0));
        prop_assert_ne!(v4(one, other, ports).hash(&seed), back.hash(&seed));
    }
}

/// One client's consecutive ports, the most regular input there is, over 8 workers' parts and over 256 runs of buckets: chi-square
/// of at most what chance exceeds once in a thousand (24.32 and 330.52 at 7 and 255 degrees of freedom).
#[test]
fn consecutive_ports_spread_evenly_in_every_choice() {
    const SEED: Seed = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
    let (client, server) = (Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::new(198, 51, 100, 1));
    for choice in 0..CHOICES {
        for (cells, limit) in [(8usize, 24.32), (256, 330.52)] {
            let mut counts = vec![0u64; cells];
            let mut total = 0.0;
            for source in 1024..=u16::MAX {
                let hash = v4(client, server, (source, 443)).hash(&SEED);
                counts[bucket(hash, choice) * cells / BUCKETS] += 1;
                total += 1.0;
            }
            let expected = total / cells as f64;
            let chi_square: f64 =
                counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
            assert!(chi_square < limit, "choice {choice}: {chi_square} over {cells} cells");
        }
    }
}
