//! The flow hash is as good as chance over flows as they come: every bit of a flow turns every bit of the hash half the
//! time, all four choices spread over buckets and workers, and two choices know nothing of each other.
//!
//! Flows and seeds are fixed, so nothing here passes or fails by luck. Limits are those that a truly random function passes but
//! once in a million for each measure. That the same measures refuse two bad hashes shows that they can.

mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use server_common::{
    choice::bucket,
    flow_hash::Seed,
    limits::{BUCKETS, CHOICES},
};

use self::wire::{reference, v4, v6};

/// What chance may exceed.
const PROBABILITY: f64 = 1e-6;
/// What a standard normal variable exceeds either way with that probability.
const DEVIATIONS: f64 = 4.8916;

/// One of few bits, one of nothing but bits, and three as they may be drawn.
const SEEDS: [Seed; 5] = [
    [1, 0],
    [u64::MAX, u64::MAX],
    [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908],
    [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9],
    [0x2545_f491_4f6c_dd1d, 0x94d0_49bb_1331_11eb],
];

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1));

#[derive(Debug, Clone, Copy)]
struct Flow {
    source: IpAddr,
    destination: IpAddr,
    ports: (u16, u16),
}

type Hash = fn(&Flow, &Seed) -> u64;

fn steer(flow: &Flow, seed: &Seed) -> u64 {
    match (flow.source, flow.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => v4(source, destination, flow.ports).hash(seed),
        (IpAddr::V6(source), IpAddr::V6(destination)) => v6(source, destination, flow.ports).hash(seed),
        _ => unreachable!("a flow is of one family"),
    }
}

/// Folds by exclusive or, as cheap hashes of 4-tuples do, and multiplies by a random odd number: linear in both.
fn linear(flow: &Flow, seed: &Seed) -> u64 {
    let fold = |address| match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => (address.to_bits() ^ address.to_bits() >> 64) as u64,
    };
    let ports = u64::from(flow.ports.0) << 16 | u64::from(flow.ports.1);
    (fold(flow.source) ^ fold(flow.destination) ^ ports ^ seed[0]).wrapping_mul(seed[1] | 1)
}

/// The right hash, of which half the bits are lost.
fn halved(flow: &Flow, seed: &Seed) -> u64 {
    let half = steer(flow, seed) & 0xffff_ffff;
    half << 32 | half
}

/// The flow's bits, as a word of up to 288 of them would have them: source, destination, ports.
fn flipped(flow: &Flow, bit: u32) -> Flow {
    let flip = |address, bit: u32| match address {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() ^ 1 << bit)),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() ^ 1 << bit)),
    };
    let width = address_bits(flow);
    let mut flow = *flow;
    match bit {
        bit if bit < width => flow.source = flip(flow.source, bit),
        bit if bit < 2 * width => flow.destination = flip(flow.destination, bit - width),
        bit if bit < 2 * width + 16 => flow.ports.0 ^= 1 << (bit - 2 * width),
        bit => flow.ports.1 ^= 1 << (bit - 2 * width - 16),
    }
    flow
}

fn address_bits(flow: &Flow) -> u32 {
    if flow.source.is_ipv4() { 32 } else { 128 }
}

/// The largest deviation from half of the flows, for any bit of a flow and any bit of the hash, and what it may be: by
/// Hoeffding's inequality, for any of all pairs of bits with the probability above.
fn avalanche(hash: Hash, flows: &[Flow], seed: &Seed) -> (f64, f64) {
    let bits = 2 * address_bits(&flows[0]) + 32;
    let hashes: Vec<u64> = flows.iter().map(|flow| hash(flow, seed)).collect();
    let mut worst: f64 = 0.0;
    for bit in 0..bits {
        let mut counts = [0u32; 64];
        for (flow, before) in flows.iter().zip(&hashes) {
            let turned = before ^ hash(&flipped(flow, bit), seed);
            for (output, count) in counts.iter_mut().enumerate() {
                *count += (turned >> output & 1) as u32;
            }
        }
        for count in counts {
            worst = worst.max((f64::from(count) - flows.len() as f64 / 2.0).abs());
        }
    }
    let pairs = f64::from(bits) * 64.0;
    (worst, (flows.len() as f64 / 2.0 * (2.0 * pairs / PROBABILITY).ln()).sqrt())
}

/// The chi-square of what is counted where each cell is expected to have its weight's part, in deviations of a normal
/// variable (Wilson and Hilferty, 1931). Far below is as wrong as far above: chance is never that even.
fn chi_square(counts: &[u32], weights: &[f64]) -> f64 {
    let total: f64 = counts.iter().copied().map(f64::from).sum();
    let whole: f64 = weights.iter().sum();
    let terms = counts.iter().zip(weights).map(|(&count, weight)| {
        let expected = total * weight / whole;
        (f64::from(count) - expected).powi(2) / expected
    });
    let freedom = (counts.len() - 1) as f64;
    let variance = 2.0 / (9.0 * freedom);
    ((terms.sum::<f64>() / freedom).cbrt() - (1.0 - variance)) / variance.sqrt()
}

/// The chi-square of a choice's buckets, given out to so many workers in equal runs.
fn evenness(hashes: &[u64], choice: u32, workers: usize) -> f64 {
    let (mut counts, mut weights) = (vec![0u32; workers], vec![0.0; workers]);
    hashes.iter().for_each(|&hash| counts[bucket(hash, choice) * workers / BUCKETS] += 1);
    (0..BUCKETS).for_each(|bucket| weights[bucket * workers / BUCKETS] += 1.0);
    chi_square(&counts, &weights)
}

/// The chi-square of two choices together, each of eight workers: 64 pairs as probable as each other.
fn independence(hashes: &[u64], one: u32, other: u32) -> f64 {
    let mut counts = [0u32; 64];
    for &hash in hashes {
        counts[bucket(hash, one) * 8 / BUCKETS * 8 + bucket(hash, other) * 8 / BUCKETS] += 1;
    }
    chi_square(&counts, &[1.0; 64])
}

/// Flows as they come: regular in all but what the hash makes of them.
fn kinds() -> [(&'static str, Vec<Flow>); 4] {
    let flow =
        |source: Ipv4Addr, port| Flow { source: source.into(), destination: SERVER, ports: (port, 443) };
    let client = (1_024..=u16::MAX).map(|port| flow(Ipv4Addr::new(192, 0, 2, 7), port));
    let neighbours = (1..255)
        .flat_map(|host| (40_000..40_064).map(move |port| flow(Ipv4Addr::new(203, 0, 113, host), port)));
    let translator = [80, 443].into_iter().flat_map(|server_port| {
        let of = move |port| Flow { ports: (port, server_port), ..flow(Ipv4Addr::new(100, 64, 0, 1), port) };
        (1..=u16::MAX).map(of)
    });
    let prefix = Ipv6Addr::new(0x2001, 0xdb8, 0xfeed, 0x42, 0, 0, 0, 0).to_bits();
    let interfaces = (1..=65_536u128).map(|id| Flow {
        source: Ipv6Addr::from_bits(prefix + id).into(),
        destination: SERVER_V6,
        ports: (50_000, 443),
    });
    [
        ("a client's consecutive ports", client.collect()),
        ("a /24, a few ports each", neighbours.collect()),
        ("all ports of an address translator", translator.collect()),
        ("a /64's consecutive addresses", interfaces.collect()),
    ]
}

/// Of two families, for the avalanche: neighbours, which differ in few bits.
fn neighbours() -> [Vec<Flow>; 2] {
    let [client, _, _, interfaces] = kinds().map(|(_, flows)| flows);
    [client[..2_000].to_vec(), interfaces[..1_000].to_vec()]
}

/// The measures that refuse a hash.
fn refusals(hash: Hash) -> Vec<String> {
    let mut refusals = Vec::new();
    for seed in &SEEDS {
        for (name, flows) in kinds() {
            let hashes: Vec<u64> = flows.iter().map(|flow| hash(flow, seed)).collect();
            for choice in 0..CHOICES {
                for workers in [8, 1_000, BUCKETS] {
                    let found = evenness(&hashes, choice, workers);
                    if found.abs() > DEVIATIONS {
                        refusals.push(format!("evenness of {workers}, choice {choice}, {name}: {found:.1}"));
                    }
                }
                for other in choice + 1..CHOICES {
                    let found = independence(&hashes, choice, other);
                    if found.abs() > DEVIATIONS {
                        refusals.push(format!("independence of {choice} and {other}, {name}: {found:.1}"));
                    }
                }
            }
        }
    }
    refusals
}

#[test]
fn choices_are_even_and_independent_over_flows_as_they_come() {
    let refusals = refusals(steer);
    assert!(refusals.is_empty(), "beyond {DEVIATIONS} deviations: {refusals:#?}");
}

#[test]
fn every_bit_of_a_flow_turns_every_bit_of_its_hash_half_the_time() {
    for flows in neighbours() {
        for seed in &SEEDS[..2] {
            let (worst, limit) = avalanche(steer, &flows, seed);
            assert!(worst <= limit, "of {} flows {worst} off the half, {limit} at most", flows.len());
        }
    }
}

#[test]
fn the_same_measures_refuse_bad_hashes() {
    for (hash, measures) in [(linear as Hash, ["evenness", "independence"]), (halved, ["independence"; 2])] {
        let refusals = refusals(hash);
        for measure in measures {
            assert!(refusals.iter().any(|refusal| refusal.starts_with(measure)), "{measure}: {refusals:?}");
        }
    }
    for flows in neighbours() {
        let (worst, limit) = avalanche(linear, &flows, &SEEDS[2]);
        assert!(worst > limit, "of {} flows {worst} off the half, {limit} at most", flows.len());
    }
}

/// The same function by another hand, over the same flows.
#[test]
fn the_reference_agrees_on_all_of_them() {
    let mut compared = 0;
    for (_, flows) in kinds() {
        for flow in &flows {
            let seed = SEEDS[compared % SEEDS.len()];
            let expected = match (flow.source, flow.destination) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    reference(seed, &source.octets(), &destination.octets(), flow.ports)
                }
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    reference(seed, &source.octets(), &destination.octets(), flow.ports)
                }
                _ => unreachable!("a flow is of one family"),
            };
            assert_eq!(steer(flow, &seed), expected, "{flow:?}");
            compared += 1;
        }
    }
    assert_eq!(compared, 64_512 + 16_256 + 131_070 + 65_536);
}
