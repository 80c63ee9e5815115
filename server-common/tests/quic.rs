//! Connection IDs, read as the program reads them, beside a reading of the same octets that goes by the draft's words.

use std::{collections::HashSet, hash::Hasher as _};

use proptest::prelude::*;
use server_common::{
    flow_hash::hash_of_words,
    quic::{CONFIGS, CONNECTION_ID_MAX, Format, GENERATIONS, HEAD_MAX, HOST_MAX, Head, Owner, Packet, Route},
};
use siphasher::sip::SipHasher13;

const SEED: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

/// The hosts of the configurations that there are.
type Hosts = [Option<Vec<u8>>; CONFIGS];

fn formats(hosts: &Hosts) -> [Format; CONFIGS] {
    std::array::from_fn(|config| match &hosts[config] {
        Some(host) => Format::new(config as u8, host),
        None => Format::default(),
    })
}

fn read(payload: &[u8], hosts: &Hosts) -> Packet {
    Head::of(payload).packet(payload.len().min(HEAD_MAX), &formats(hosts), &SEED)
}

/// Octet by octet.
fn plainly(payload: &[u8], hosts: &Hosts) -> Packet {
    let Some(first) = payload.first() else { return Packet::Unknown };
    let is_long = first & 0x80 != 0;
    let id = if is_long {
        let Some(&length) = payload.get(5) else { return Packet::Unknown };
        let end = 6 + usize::from(length);
        match payload.get(6..end) {
            Some(id) if (1..=CONNECTION_ID_MAX).contains(&id.len()) => id,
            _ => return Packet::Unknown,
        }
    } else {
        &payload[1..payload.len().min(HEAD_MAX)]
    };
    if let Some(owner) = owner(id, hosts) {
        return Packet::Of(owner);
    }
    if !is_long {
        return Packet::Unknown;
    }
    // Filled up with zeroes to 20 octets.
    let octet = |at: usize| u64::from(id.get(at).copied().unwrap_or(0)) << (8 * (at % 8));
    let word = |at: usize| (at..at + 8).map(octet).sum::<u64>();
    Packet::Opening(hash_of_words(&SEED, [word(0), word(8)], word(16) as u32, id.len() as u8))
}

fn owner(id: &[u8], hosts: &Hosts) -> Option<Owner> {
    let host = hosts.get(usize::from(id.first()? >> 5))?.as_ref()?;
    let rest = id[1..].strip_prefix(host.as_slice())?;
    let &[a, b, c, d] = rest.first_chunk()?;
    Some(Owner { worker: u16::from_be_bytes([a, b]), generation: u16::from_be_bytes([c, d]) })
}

fn octets(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..=most)
}

fn hosts() -> impl Strategy<Value = Hosts> {
    prop::array::uniform7(prop::option::of(octets(HOST_MAX)))
}

/// Payloads that are near to what is read: of either form, with an ID of some configuration, cut off anywhere.
fn payloads() -> impl Strategy<Value = (Hosts, Vec<u8>)> {
    let parts = (hosts(), 0_u8..8, any::<bool>(), octets(20), 0_usize..=60, any::<[u8; 4]>());
    parts.prop_map(|(hosts, config, is_long, rest, cut, version)| {
        let mut id = vec![config << 5 | 0x0c];
        if let Some(Some(host)) = hosts.get(usize::from(config)) {
            id.extend_from_slice(host);
        }
        id.extend_from_slice(&rest);
        let mut payload = if is_long { vec![0xc3] } else { vec![0x41] };
        if is_long {
            payload.extend(version);
            payload.push(id.len() as u8);
        }
        payload.extend(id);
        payload.truncate(cut);
        (hosts, payload)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn what_is_near_an_id_is_read_as_the_draft_says((hosts, payload) in payloads()) {
        prop_assert_eq!(read(&payload, &hosts), plainly(&payload, &hosts));
    }

    #[test]
    fn anything_is_read_as_the_draft_says(hosts in hosts(), payload in octets(48)) {
        prop_assert_eq!(read(&payload, &hosts), plainly(&payload, &hosts));
    }

    #[test]
    fn what_follows_a_client_s_id_does_not_count(
        id in octets(CONNECTION_ID_MAX), one in octets(30), other in octets(30), first in 0x80_u8..,
    ) {
        let packet = |first: u8, rest: &[u8]| {
            let mut payload = vec![first, 0, 0, 0, 1, id.len() as u8];
            payload.extend(&id);
            payload.extend(rest);
            read(&payload, &Hosts::default())
        };
        prop_assert_eq!(packet(first, &one), packet(0xc0, &other));
        prop_assert_eq!(packet(first, &one) == Packet::Unknown, id.is_empty());
    }
}

#[test]
fn a_client_s_id_of_twenty_octets_is_hashed_as_siphash_has_it() {
    let id: Vec<u8> = (1..=20).collect();
    let mut hasher = SipHasher13::new_with_keys(SEED[0], SEED[1]);
    hasher.write(&id);
    let mut payload = vec![0xc0, 0, 0, 0, 1, 20];
    payload.extend(&id);
    assert_eq!(read(&payload, &Hosts::default()), Packet::Opening(hasher.finish()));
}

#[test]
fn ids_of_another_length_are_others() {
    // Zeroes fill up what an ID has not: its length is hashed with it.
    let packet = |length: usize| {
        let mut payload = vec![0xc0, 0, 0, 0, 1, length as u8];
        payload.resize(6 + length, 0);
        read(&payload, &Hosts::default())
    };
    let keys: HashSet<String> =
        (1..=CONNECTION_ID_MAX).map(|length| format!("{:?}", packet(length))).collect();
    assert_eq!(keys.len(), CONNECTION_ID_MAX);
    assert_eq!(packet(21), Packet::Unknown);
}

#[test]
fn a_route_is_its_owner_s_alone() {
    let owner = Owner::new(3, 7);
    assert_eq!(owner.octets(), [0, 3, 0, 7]);
    let route = owner.route(511);
    assert_eq!((route.slot(), route.to(owner)), (511, Some(511)));
    for other in [8, 7 + GENERATIONS as u64, 0] {
        assert_eq!(route.to(Owner::new(3, other)), None);
    }
    assert_eq!(Route::NONE.to(Owner::new(0, 0)), None);
    assert_eq!(Owner::new(3, 65_536 + 7), owner, "numbers go round");
    let ways: HashSet<usize> = (0..GENERATIONS as u64).map(|number| Owner::new(0, number).way()).collect();
    assert_eq!(ways.len(), GENERATIONS);
}

/// How many packets [`ten_million_packets_are_read_as_the_draft_says`] reads.
const PACKETS: u64 = 10_000_000;

/// Numbers that are drawn the same in every run: SplitMix64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }

    /// A packet with an ID of some configuration, of either form, in which some octet may be another, or which may be cut off.
    fn packet(&mut self, hosts: &Hosts, packet: &mut Vec<u8>) {
        let mut octets = |count: u64, packet: &mut Vec<u8>| {
            (0..count).for_each(|_| packet.push(self.below(256) as u8));
        };
        packet.clear();
        octets(2, packet);
        let (form, config) = (packet[0], packet[1] >> 5);
        if form & 0x80 != 0 {
            packet.truncate(1);
            octets(4, packet);
            packet.extend([form & 0x1f, config << 5]);
        }
        packet.extend(hosts.get(usize::from(config)).into_iter().flatten().flatten());
        octets(12, packet);
        match self.below(4) {
            0 => {
                let at = self.below(packet.len() as u64) as usize;
                packet[at] ^= 1 << self.below(8);
            }
            1 => packet.truncate(self.below(packet.len() as u64 + 1) as usize),
            _ => {}
        }
    }
}

#[test]
fn ten_million_packets_are_read_as_the_draft_says() {
    let hosts: Hosts =
        [None, Some(vec![]), Some(vec![1]), Some(vec![2; 4]), Some(vec![3; 8]), None, Some(vec![4; 11])];
    let formats = formats(&hosts);
    let (mut draw, mut packet, mut counts) = (Draw(1), Vec::new(), [0_u64; 3]);
    for _ in 0..PACKETS {
        draw.packet(&hosts, &mut packet);
        let read = Head::of(&packet).packet(packet.len().min(HEAD_MAX), &formats, &SEED);
        assert_eq!(read, plainly(&packet, &hosts), "{packet:02x?}");
        counts[match read {
            Packet::Of(_) => 0,
            Packet::Opening(_) => 1,
            Packet::Unknown => 2,
        }] += 1;
    }
    let [named, opening, unknown] = counts;
    println!("{PACKETS} packets: {named} name a worker, {opening} open a connection, {unknown} are neither");
    assert!(counts.iter().all(|count| *count > PACKETS / 20), "{counts:?}");
}
