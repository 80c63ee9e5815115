//! The program in the kernel decides as the host's copy of hash and choice does, and counts each run once per stage.

#![expect(
    clippy::unwrap_used,
    reason = "a step of the fixture that fails has its place to tell, and no more"
)]

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::Arc,
};

use server_common::{
    counters::SlotCounters,
    limits::{BUCKETS, DROPPED_SLOT, NO_SLOT, SOCKETS_MAX},
};
use socket2::{Domain, SockAddr, Socket, Type};
use steer::{
    daemon::flows::bucket_of,
    dataplane::{
        kernel_group::{KernelGroup, ProgramKind, Shape},
        publisher::Publisher,
    },
    engine::{event::Slot, layout::Layout},
    policy::Policy,
    sockets::{address::ListenAddress, listener::make_listener, options},
};
use steer_tests::{netns, wait};

const SEED: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
const SLOTS: u32 = 16;
const LISTENERS: Slot = 4;
const FLOWS: u16 = 200;

/// A group of listeners in the slots from 1 on, without a daemon.
struct Fixture {
    kernel: KernelGroup,
    publisher: Publisher,
    address: SocketAddr,
    listeners: BTreeMap<Slot, TcpListener>,
    epoch: u64,
}

impl Fixture {
    /// `bind` has a port that no client takes.
    fn new(bind: &str, kind: ProgramKind) -> Self {
        let (kernel, publisher) = KernelGroup::load_kind(Shape::without_flows(SLOTS), kind).unwrap();
        let mut address: ListenAddress = bind.parse().unwrap();
        let mut listeners = BTreeMap::new();
        for slot in 1..=LISTENERS {
            let listener = make_listener(address, None, 1024).unwrap();
            address.address = options::local_address(&listener).unwrap();
            kernel.put(slot, 0, listener.as_fd()).unwrap();
            let listener = TcpListener::from(listener);
            listener.set_nonblocking(true).unwrap();
            listeners.insert(slot, listener);
        }
        let mut fixture = Self { kernel, publisher, address: address.address, listeners, epoch: 0 };
        fixture.publish(first_owner, None, None);
        fixture.kernel.attach(fixture.listeners[&1].as_fd()).unwrap();
        fixture
    }

    fn publish(&mut self, owner: fn(usize) -> Slot, hold: Option<Slot>, probe: Option<(u64, Slot)>) {
        self.epoch += 1;
        let buckets: Arc<[Slot]> = (0..BUCKETS).map(owner).collect();
        let working = buckets.iter().copied().filter(|&slot| slot != NO_SLOT);
        let mut working: Vec<Slot> = working.collect();
        working.sort_unstable();
        working.dedup();
        let layout = Layout {
            epoch: self.epoch,
            seed: SEED,
            policy: Policy::Hash,
            hold,
            probe,
            working,
            cpus: BTreeMap::new(),
            buckets,
        };
        self.publisher.publish(&layout).unwrap();
    }

    /// The address that clients connect to, as they know it.
    fn target(&self, client: IpAddr) -> SocketAddr {
        let ip = match (self.address.ip(), client) {
            (ip, IpAddr::V4(_)) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            (ip, IpAddr::V6(_)) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            (ip, _) => ip,
        };
        SocketAddr::new(ip, self.address.port())
    }

    fn connect(&self, client: SocketAddr) -> TcpStream {
        let socket = Socket::new(Domain::for_address(client), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SockAddr::from(client)).unwrap();
        socket.connect(&SockAddr::from(self.target(client.ip()))).unwrap();
        socket.into()
    }

    /// Whose each unaccepted connection is, by the client's address.
    fn accept_all(&self, count: usize) -> BTreeMap<SocketAddr, Slot> {
        let mut accepted = BTreeMap::new();
        wait::until("every connection is in a queue", std::time::Duration::from_secs(10), || {
            for (&slot, listener) in &self.listeners {
                while let Ok((_, client)) = listener.accept() {
                    let ip = client.ip().to_canonical();
                    accepted.insert(SocketAddr::new(ip, client.port()), slot);
                }
            }
            if accepted.len() == count { Ok(()) } else { Err(format!("{} of {count}", accepted.len())) }
        });
        accepted
    }

    fn counted(&self) -> (SlotCounters, BTreeMap<Slot, SlotCounters>) {
        let slots: BTreeMap<Slot, SlotCounters> =
            (0..=LISTENERS).map(|slot| (slot, self.kernel.counters(slot).unwrap())).collect();
        let sum = slots.values().fold(SlotCounters::default(), |sum, part| sum.plus(part));
        assert_eq!(sum.asked.iter().sum::<u64>(), sum.outcome.iter().sum::<u64>(), "{sum:?}");
        (sum, slots)
    }
}

fn first_owner(bucket: usize) -> Slot {
    1 + (bucket % LISTENERS as usize) as Slot
}

fn second_owner(bucket: usize) -> Slot {
    1 + (bucket / LISTENERS as usize % LISTENERS as usize) as Slot
}

fn clients(ip: IpAddr) -> impl Iterator<Item = SocketAddr> {
    (0..FLOWS).map(move |index| SocketAddr::new(ip, 20_000 + index))
}

/// Where the host's copy says that a new flow of the client goes.
fn expected(fixture: &Fixture, client: SocketAddr, owner: fn(usize) -> Slot) -> Slot {
    owner(bucket_of(&SEED, client, fixture.target(client.ip())))
}

const V4_CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 3, 2, 1));
const V6_CLIENT: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x57ee, 7, 0, 0, 0, 3, 9));

/// Binds, and the clients that reach them: specific and wildcard, both families, IPv4 by way of a dual-stack listener.
const BINDS: [(&str, IpAddr); 6] = [
    ("127.0.0.1:8080", V4_CLIENT),
    ("0.0.0.0:8080", V4_CLIENT),
    ("[fd00:57ee:7::1]:8080", V6_CLIENT),
    ("[::1]:8080", V6_CLIENT),
    ("[::]:8080", V6_CLIENT),
    ("[::]:8080", V4_CLIENT),
];

#[test]
fn new_connections_go_where_the_hosts_copy_says() {
    for kind in [ProgramKind::Select, ProgramKind::SelectOrMigrate] {
        for (bind, client) in BINDS {
            netns::run("select", |_| {
                let fixture = Fixture::new(bind, kind);
                let _open: Vec<TcpStream> = clients(client).map(|client| fixture.connect(client)).collect();
                for (client, slot) in fixture.accept_all(FLOWS as usize) {
                    assert_eq!(slot, expected(&fixture, client, first_owner), "{bind} {client}");
                }
                let (sum, _) = fixture.counted();
                assert_eq!(sum.asked, [u64::from(FLOWS), 0, 0, 0], "{bind}");
                assert_eq!(sum.outcome, [u64::from(FLOWS), 0, 0, 0, 0, 0, 0, 0], "{bind}");
            });
        }
    }
}

/// One value for one tuple, with a packet and without: what migrates has no packet, and goes where a new flow would.
#[test]
fn unaccepted_connections_migrate_where_the_hosts_copy_says() {
    for (bind, client) in BINDS {
        netns::run("migrate", |_| {
            let mut fixture = Fixture::new(bind, ProgramKind::SelectOrMigrate);
            let _open: Vec<TcpStream> = clients(client).map(|client| fixture.connect(client)).collect();
            // The table no longer names slot 1, whose listener then stops.
            fixture.publish(|bucket| second_owner(bucket).max(2), None, None);
            let own = clients(client).filter(|&client| expected(&fixture, client, first_owner) == 1).count();
            options::shut_listener(&fixture.listeners[&1]).unwrap();
            let accepted = fixture.accept_all(FLOWS as usize);
            for (client, slot) in accepted {
                let selected = expected(&fixture, client, first_owner);
                let migrated = expected(&fixture, client, |bucket| second_owner(bucket).max(2));
                assert_eq!(slot, if selected == 1 { migrated } else { selected }, "{bind} {client}");
            }
            let (sum, _) = fixture.counted();
            assert_eq!(sum.asked, [u64::from(FLOWS), 0, 0, own as u64], "{bind}");
            assert!(own > 0, "nothing had to migrate");
        });
    }
}

#[test]
fn a_closed_listeners_flows_take_further_choices_and_are_counted_there() {
    netns::run("further", |_| {
        let mut fixture = Fixture::new("127.0.0.1:8080", ProgramKind::SelectOrMigrate);
        // Shut down and not only closed: a process that another test forks has a duplicate until it execs.
        options::shut_listener(&fixture.listeners[&1]).unwrap();
        fixture.listeners.remove(&1);
        let _open: Vec<TcpStream> = clients(V4_CLIENT).map(|client| fixture.connect(client)).collect();
        let accepted = fixture.accept_all(FLOWS as usize);
        let own = accepted.keys().filter(|&&client| expected(&fixture, client, first_owner) == 1).count();
        let (sum, _) = fixture.counted();
        assert_eq!(sum.outcome, [u64::from(FLOWS) - own as u64, own as u64, 0, 0, 0, 0, 0, 0]);
        assert!(own > 0);
    });
}

#[test]
fn the_last_resort_is_the_hold_and_without_one_a_drop() {
    netns::run("last-resort", |_| {
        let mut fixture = Fixture::new("127.0.0.1:8080", ProgramKind::SelectOrMigrate);
        let target = fixture.target(V4_CLIENT);
        // Every bucket names a slot without a listener.
        fixture.publish(|_| 9, Some(2), None);
        let _held = TcpStream::connect(target).unwrap();
        assert_eq!(fixture.accept_all(1).into_values().collect::<Vec<_>>(), [2]);
        fixture.publish(|_| 9, None, None);
        let refused = TcpStream::connect(target).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let (sum, slots) = fixture.counted();
        assert_eq!(sum.outcome, [0, 0, 1, 1, 0, 0, 0, 0]);
        assert_eq!(slots[&DROPPED_SLOT].runs(), 1);
        fixture.publish(|_| NO_SLOT, None, None);
        assert!(TcpStream::connect(target).is_err());
        assert_eq!(fixture.counted().0.outcome, [0, 0, 1, 2, 0, 0, 0, 0]);
    });
}

#[test]
fn the_probes_flow_goes_to_the_probed_slot_and_no_other_flow_does() {
    netns::run("probe", |_| {
        let mut fixture = Fixture::new("127.0.0.1:8080", ProgramKind::SelectOrMigrate);
        let probe: SocketAddr = "127.0.0.9:4711".parse().unwrap();
        let hash = steer::daemon::flows::hash_of(&SEED, probe, fixture.target(probe.ip()));
        fixture.publish(|bucket| first_owner(bucket).max(2), None, Some((hash, 1)));
        let _probe = fixture.connect(probe);
        let _open: Vec<TcpStream> = clients(V4_CLIENT).map(|client| fixture.connect(client)).collect();
        let accepted = fixture.accept_all(1 + FLOWS as usize);
        let in_slot_1: Vec<&SocketAddr> =
            accepted.iter().filter(|(_, slot)| **slot == 1).map(|(client, _)| client).collect();
        assert_eq!(in_slot_1, [&probe]);
        let (sum, slots) = fixture.counted();
        assert_eq!((sum.runs(), slots[&1].runs()), (u64::from(FLOWS), 0), "a probe is no client");
    });
}

/// Nor does the daemon's own connection wait in its holding listener, or at a worker that it says nothing of.
#[test]
fn a_probe_whose_slot_is_empty_goes_nowhere_and_is_not_counted() {
    netns::run("probe-gone", |_| {
        let mut fixture = Fixture::new("127.0.0.1:8080", ProgramKind::SelectOrMigrate);
        let probe: SocketAddr = "127.0.0.9:4711".parse().unwrap();
        let target = fixture.target(probe.ip());
        let hash = steer::daemon::flows::hash_of(&SEED, probe, target);
        // It waits at its worker, which then stops: what the kernel migrates is the probe and a client.
        fixture.publish(|_| 1, Some(2), Some((hash, 1)));
        let mut open = fixture.connect(probe);
        let _client = TcpStream::connect(target).unwrap();
        fixture.publish(|_| 2, Some(2), Some((hash, 1)));
        options::shut_listener(&fixture.listeners[&1]).unwrap();
        assert_eq!(open.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        let (sum, slots) = fixture.counted();
        assert_eq!((sum.asked, slots[&2].asked), ([1, 0, 0, 1], [0, 0, 0, 1]));
        // Another, of a worker that is gone before it comes.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let probe: SocketAddr = "127.0.0.9:4712".parse().unwrap();
        socket.bind(&SockAddr::from(probe)).unwrap();
        let hash = steer::daemon::flows::hash_of(&SEED, probe, target);
        fixture.publish(|_| 2, Some(2), Some((hash, 1)));
        let refused = socket.connect(&SockAddr::from(target)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(fixture.counted().0.runs(), 2);
        assert_eq!(fixture.accept_all(1).into_values().collect::<Vec<_>>(), [2]);
    });
}

/// What the verifier goes through is what a start of the daemon waits for: a microsecond and a half each, and the limit is
/// a million. A link of the chain that it follows from every caller again is at once ten times as much.
#[test]
fn the_verifier_has_little_to_go_through() {
    for (kind, sockets, flows) in [
        (ProgramKind::SelectOrMigrate, 1, 0),
        (ProgramKind::SelectOrMigrate, 1, 1024),
        (ProgramKind::SelectOrMigrate, 3, 1024),
        (ProgramKind::Select, 1, 0),
        (ProgramKind::Select, SOCKETS_MAX, 1024),
    ] {
        let shape = Shape { sockets, flows, ..Shape::without_flows(SLOTS) };
        let (kernel, _publisher) = KernelGroup::load_kind(shape, kind).unwrap();
        let verified = kernel.info().unwrap().verified_instruction_count();
        println!("{kind:?}, {sockets} sockets, {flows} flows: {verified:?}");
        // Kernels say so since 5.16.
        let most = if flows > 0 { 100_000 } else { 60_000 };
        assert!(verified.is_none_or(|count| (1_000..most).contains(&count)), "{kind:?}: {verified:?}");
    }
}
