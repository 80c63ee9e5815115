//! What the program in the kernel reads of QUIC packets is what the host reads with the same code: for packets as workers and clients
//! make them, and for a million that are malformed, cut off or neither.

#![expect(
    clippy::unwrap_used,
    reason = "a step of the fixture that fails has its place to tell, and no more"
)]

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use server_common::{
    choice::bucket,
    counters::{Asked, IdEvent, Outcome, SlotCounters},
    limits::{BUCKETS, DROPPED_SLOT},
    quic::{HEAD_MAX, Head, Owner, Packet},
};
use steer::{
    daemon::flows::bucket_of,
    dataplane::kernel_group::{KernelGroup, ProgramKind, Shape},
    engine::{event::Slot, layout::Layout},
    policy::Policy,
    sockets::{address::ListenAddress, listener::make_listener},
};
use steer_tests::netns;

const SEED: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
const POLICY: &str = "quic-cid:config=2,host=0a0b0c,also=0,also=5/ff";
const SLOTS: u32 = 16;
const SOCKETS: Slot = 6;
/// Workers that IDs can name, of which half have a generation or two.
const WORKERS: u16 = 8;
const DATAGRAMS: u64 = 1_000_000;

/// A group of sockets in the slots from 1 on, without a daemon.
struct Fixture {
    kernel: KernelGroup,
    policy: Policy,
    /// Whose slots are whose.
    routes: BTreeMap<WorkersGeneration, Slot>,
    _sockets: Vec<OwnedFd>,
}

/// A worker and its generation.
type WorkersGeneration = (u16, u16);

impl Fixture {
    fn new(bind: &str, kind: ProgramKind) -> Self {
        let shape = Shape { slots: SLOTS, sockets: 1, flows: 0, named: u32::from(WORKERS) };
        let (kernel, mut publisher) = KernelGroup::load_kind(shape, kind).unwrap();
        let address: ListenAddress = bind.parse().unwrap();
        let mut routes = BTreeMap::new();
        let mut sockets = Vec::new();
        for slot in 1..=SOCKETS {
            let socket = make_listener(address, None, 0).unwrap();
            kernel.put(slot, 0, socket.as_fd()).unwrap();
            // Two generations of each worker; numbers beyond 16 bits go round.
            let owner = Owner::new(u32::from((slot - 1) / 2), 65_535 + u64::from(slot % 2));
            kernel.route(owner, slot);
            routes.insert((owner.worker, owner.generation), slot);
            sockets.push(socket);
        }
        let policy: Policy = POLICY.parse().unwrap();
        let layout = Layout {
            epoch: 1,
            seed: SEED,
            policy,
            hold: None,
            probe: None,
            working: (1..=SOCKETS).collect(),
            cpus: BTreeMap::new(),
            buckets: (0..BUCKETS).map(slot_of).collect::<Arc<[Slot]>>(),
        };
        publisher.publish(&layout).unwrap();
        kernel.attach(sockets[0].as_fd()).unwrap();
        Self { kernel, policy, routes, _sockets: sockets }
    }

    /// Where the host's copy says that a datagram goes, and how it is counted.
    fn expect(
        &self,
        client: SocketAddr,
        target: SocketAddr,
        payload: &[u8],
    ) -> (Slot, Outcome, Option<IdEvent>) {
        let Policy::QuicCid(ids) = self.policy else { panic!("{} is another policy", self.policy) };
        let length = payload.len().min(HEAD_MAX);
        let by_hash = || slot_of(bucket_of(&SEED, client, target));
        match Head::of(payload).packet(length, &ids.formats(), &SEED) {
            Packet::Of(owner) => match self.routes.get(&(owner.worker, owner.generation)) {
                Some(&slot) => (slot, Outcome::ById, None),
                None => (by_hash(), Outcome::FirstChoice, Some(IdEvent::Gone)),
            },
            Packet::Opening(key) => (slot_of(bucket(key, 0)), Outcome::FirstChoice, Some(IdEvent::Opening)),
            Packet::Unknown => (by_hash(), Outcome::FirstChoice, Some(IdEvent::Unknown)),
        }
    }
}

fn slot_of(bucket: usize) -> Slot {
    1 + (bucket % usize::from(SOCKETS)) as Slot
}

/// Numbers that are drawn the same in every run.
struct Draw(u64);

impl Draw {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn fill(&mut self, payload: &mut Vec<u8>, count: u64) {
        (0..count).for_each(|_| payload.push(self.next() as u8));
    }

    /// A packet of either form, with an ID of some configuration and its host or a bit of it another; then, of some, a bit of anything
    /// turned, or the end cut off.
    fn payload(&mut self, payload: &mut Vec<u8>) {
        payload.clear();
        let hosts: [(u8, &[u8]); 4] =
            [(2, &[0x0a, 0x0b, 0x0c]), (0, &[]), (5, &[0xff]), (self.below(8) as u8, &[7])];
        let (config, host) = hosts[self.below(4) as usize];
        let is_long = self.below(3) == 0;
        payload.push(if is_long { 0xc0 } else { 0x40 } | self.below(64) as u8);
        if is_long {
            self.fill(payload, 4);
            payload.push((1 + host.len() + 4 + 8) as u8);
        }
        payload.push(config << 5 | self.below(32) as u8);
        payload.extend_from_slice(host);
        payload.extend([0, self.below(u64::from(WORKERS) / 2 + 1) as u8]);
        let generation = [[255, 255], [0, 0], [0, 1], [3, 3]][self.below(4) as usize];
        payload.extend(generation);
        let more = if self.below(2_000) == 0 { 60_000 } else { 8 + self.below(40) };
        self.fill(payload, more);
        match self.below(8) {
            0 => {
                let (at, bit) = (self.below(payload.len().min(32) as u64) as usize, self.below(8));
                payload[at] ^= 1 << bit;
            }
            1 => payload.truncate(self.below(34) as usize),
            2 => {
                let length = self.below(40);
                payload.clear();
                self.fill(payload, length);
            }
            _ => {}
        }
    }
}

/// Sends so many datagrams, and compares every counter of every slot with what the host's copy says of the same datagrams.
fn compare(bind: &str, client: &str, kind: ProgramKind, count: u64) {
    let fixture = Fixture::new(bind, kind);
    let target: SocketAddr = bind.strip_prefix("udp://").unwrap().parse().unwrap();
    let sockets: Vec<UdpSocket> = (0..8_u16)
        .map(|index| {
            let socket = UdpSocket::bind((client, 20_000 + index)).unwrap();
            socket.connect(target).unwrap();
            socket
        })
        .collect();
    let mut expected: BTreeMap<Slot, SlotCounters> = BTreeMap::new();
    let (mut draw, mut payload) = (Draw(7), Vec::new());
    for number in 0..count {
        draw.payload(&mut payload);
        let socket = &sockets[(number % 8) as usize];
        socket.send(&payload).unwrap();
        let (slot, outcome, event) = fixture.expect(socket.local_addr().unwrap(), target, &payload);
        expected.entry(slot).or_default().count(Asked::Datagram, outcome);
        if let Some(event) = event {
            expected.entry(DROPPED_SLOT).or_default().ids[event as usize] += 1;
        }
    }
    let counted: BTreeMap<Slot, SlotCounters> =
        (0..=SOCKETS).map(|slot| (slot, fixture.kernel.counters(slot).unwrap())).collect();
    let sum = counted.values().fold(SlotCounters::default(), |sum, part| sum.plus(part));
    let [opening, gone, unknown] = sum.ids;
    let by_id = sum.outcome[Outcome::ById as usize];
    println!(
        "{count} datagrams to {bind}: {by_id} by ID, {opening} open a connection, {gone} name who is gone, {unknown} unknown"
    );
    assert_eq!(counted, expected);
    assert_eq!((sum.runs(), by_id + opening + gone + unknown), (count, count), "each is counted once");
    assert!([by_id, opening, gone, unknown].iter().all(|part| *part > count / 50), "all kinds come");
}

#[test]
fn a_million_packets_are_read_as_the_host_reads_them() {
    netns::run("quic-ids", |_| {
        compare("udp://127.0.0.1:4433", "127.0.0.1", ProgramKind::SelectOrMigrate, DATAGRAMS);
    });
}

#[test]
fn so_they_are_over_ipv6_in_fragments_and_by_the_program_for_older_kernels() {
    netns::run("quic-ids-pieces", |namespace| {
        namespace.execute("ip", &["link", "set", "lo", "mtu", "1500"]);
        compare("udp://[::1]:4433", "::1", ProgramKind::SelectOrMigrate, DATAGRAMS / 10);
        compare("udp://127.0.0.1:4434", "127.0.0.1", ProgramKind::Select, DATAGRAMS / 10);
    });
}
