//! A program at work: loaded, with its own group of listeners.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, ArrayOfMaps, MapData, ReusePortSockArray},
    programs::SkReuseport,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use server_common::{
    counters::{Outcome, SlotCounters},
    keying::Keying,
    limits::{self, BUCKETS, DROPPED_SLOT, SLOTS_DEFAULT},
    load::Cell,
    quic::Owner,
    table::Table,
};
use socket2::SockRef;
use steer::{
    daemon::settings::FlowSettings,
    dataplane::{
        cells::WorkerCell,
        kernel_group::{KernelGroup, Shape},
    },
    engine::layout::Layout,
    policy::{Policy, QuicCid, TIE_DEFAULT},
    sockets::{
        address::{ListenAddress, Protocol},
        listener::make_listener,
    },
};

use crate::connects::{begin, client, empty};

/// The programs to compare with, as `cargo xtask build-ebpf` wrote them.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../server-ebpf/object/bench.bpf.o");

/// Listeners of each group.
pub(crate) const LISTENERS: u16 = 4;
/// Any fixed seed: the hash takes the same time with every one.
const SEED: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
/// The clients that fill the queues, by their numbers: none that a flood has, and so many that no queue is missed.
const FILLING: std::ops::Range<u32> = 5_000_000..5_001_000;

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// Selects one slot, whatever comes.
    Constant,
    /// Steer's way through the table, with the hash that the kernel has made already, and nothing else.
    KernelHash,
    /// The product's, as the daemon loads it.
    Steer(Steering),
}

/// By what the product's program decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steering {
    Hash,
    /// Each worker has room for several sockets, and has one: as for workers that bind for themselves.
    Several,
    Source,
    /// Workers that publish, with little in hand: the first choice's load is all that is looked at.
    LeastLoaded,
    /// Each first choice has so much in hand that the second is weighed against it, and stays the first.
    Weighed,
    /// A worker is pinned to each CPU.
    Cpu,
    /// Of datagrams: each goes where its flow went before.
    Flows,
    /// Of datagrams: each goes to whom its connection ID names.
    QuicCid,
}

impl Steering {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Several => "hash, room for 16 sockets",
            Self::Source => "source",
            Self::LeastLoaded => "least-loaded",
            Self::Weighed => "least-loaded, weighed",
            Self::Cpu => "cpu",
            Self::Flows => "hash, flows remembered",
            Self::QuicCid => "quic-cid",
        }
    }

    fn policy(self) -> Policy {
        match self {
            Self::Hash | Self::Several | Self::Flows => Policy::Hash,
            Self::QuicCid => Policy::QuicCid(QuicCid::default()),
            Self::Source => Policy::Source { ipv4: 24, ipv6: 64 },
            Self::LeastLoaded | Self::Weighed => Policy::LeastLoaded { tie: TIE_DEFAULT },
            Self::Cpu => Policy::Cpu,
        }
    }

    fn load(self) -> Option<u64> {
        match self {
            Self::LeastLoaded => Some(1),
            Self::Weighed => Some(10 * u64::from(TIE_DEFAULT)),
            Self::Hash | Self::Several | Self::Source | Self::Cpu | Self::Flows | Self::QuicCid => None,
        }
    }

    fn outcome(self) -> Outcome {
        match self {
            Self::Cpu => Outcome::OwnCpu,
            Self::Flows => Outcome::Kept,
            Self::QuicCid => Outcome::ById,
            _ => Outcome::FirstChoice,
        }
    }

    fn shape(self) -> Shape {
        let flows = if self == Self::Flows { FlowSettings::default().max } else { 0 };
        let sockets = if self == Self::Several { limits::sockets(1) } else { 1 };
        Shape { slots: SLOTS_DEFAULT, sockets, flows, named: LISTENERS.into() }
    }
}

/// A loaded program, attached to listeners of its own.
pub(crate) struct Contender {
    loaded: Loaded,
    listeners: Vec<TcpListener>,
    /// Of datagrams; none of them is read.
    _sockets: Vec<OwnedFd>,
}

/// Keeps a program and its maps.
enum Loaded {
    Steer(Box<KernelGroup>, Steering),
    Other(Ebpf, &'static str),
}

impl Contender {
    /// Listens on the target and attaches the program to the group.
    pub(crate) fn new(program: Program, target: SocketAddr, backlog: i32) -> Result<Self> {
        Self::attached(program, listen(target, backlog)?)
    }

    /// The same with queues that take nothing more: a SYN is dropped as soon as its listener is selected.
    pub(crate) fn with_full_queues(program: Program, target: SocketAddr) -> Result<Self> {
        // A queue of backlog 0 holds one connection. Filled by the kernel's hash, before there is a program.
        let listeners = listen(target, 0)?;
        let mut attempts = FILLING.map(|number| begin(client(target.is_ipv4(), number), target));
        while !listeners.iter().try_fold(true, |full, listener| anyhow::Ok(full && is_waiting(listener)?))? {
            let Some(attempt) = attempts.next() else { bail!("not every queue of {target} fills up") };
            // What finds its queue full is given up here; what does not stays in the queue, reset or not.
            drop(attempt?);
        }
        Self::attached(program, listeners)
    }

    fn attached(program: Program, listeners: Vec<TcpListener>) -> Result<Self> {
        let loaded = Loaded::new(program, listeners.iter().map(AsFd::as_fd).collect())?;
        Ok(Self { loaded, listeners, _sockets: Vec::new() })
    }

    /// Takes datagrams on the target, and has no room for them: each is dropped as soon as its socket is selected.
    pub(crate) fn of_datagrams(program: Program, target: SocketAddr) -> Result<Self> {
        let address = ListenAddress { protocol: Protocol::Udp, address: target };
        let socket = |_| {
            let socket = make_listener(address, None, 0)?;
            // The least that the kernel gives, which one datagram fills.
            SockRef::from(&socket).set_recv_buffer_size(0)?;
            Ok(socket)
        };
        let sockets = (0..LISTENERS).map(socket).collect::<Result<Vec<_>>>()?;
        let loaded = Loaded::new(program, sockets.iter().map(AsFd::as_fd).collect())?;
        Ok(Self { loaded, listeners: Vec::new(), _sockets: sockets })
    }

    /// Attaches the program to the group of sockets that are somebody else's.
    pub(crate) fn with_sockets(program: Program, sockets: &[UdpSocket]) -> Result<Self> {
        let loaded = Loaded::new(program, sockets.iter().map(AsFd::as_fd).collect())?;
        Ok(Self { loaded, listeners: Vec::new(), _sockets: Vec::new() })
    }

    /// The time that the kernel has spent in the program, and the number of its runs.
    pub(crate) fn statistics(&self) -> Result<(Duration, u64)> {
        let info = match &self.loaded {
            Loaded::Steer(kernel, _) => kernel.info()?,
            Loaded::Other(ebpf, symbol) => program(ebpf, symbol)?.info()?,
        };
        Ok((info.run_time(), info.run_count()))
    }

    /// Accepts and closes all that waits; returns how many.
    pub(crate) fn empty(&self) -> usize {
        empty(&self.listeners)
    }

    /// Fails unless steer's program has found every run's first choice and counted it: otherwise its time is that of
    /// something else.
    ///
    /// Of a flow that is remembered, the first datagram has found the first choice: so many there were as flows `began`.
    pub(crate) fn check_counters(&self, began: u64) -> Result<()> {
        let Loaded::Steer(kernel, steering) = &self.loaded else { return Ok(()) };
        let mut counted = SlotCounters::default();
        for slot in DROPPED_SLOT..=LISTENERS {
            counted = counted.plus(&kernel.counters(slot)?);
        }
        let (_, runs) = self.statistics()?;
        let remembered = if *steering == Steering::Flows { began } else { 0 };
        let expected = counted.outcome[steering.outcome() as usize];
        ensure!(
            expected + remembered == runs && counted.runs() == runs,
            "{runs} runs were counted as {counted:?}"
        );
        Ok(())
    }
}

impl Loaded {
    fn new(program: Program, sockets: Vec<BorrowedFd<'_>>) -> Result<Self> {
        match program {
            Program::Steer(steering) => Ok(Self::Steer(Box::new(load_steer(&sockets, steering)?), steering)),
            Program::Constant => Self::other("constant", &sockets),
            Program::KernelHash => Self::other("kernel_hash", &sockets),
        }
    }

    fn other(symbol: &'static str, sockets: &[BorrowedFd<'_>]) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("loading the programs to compare with")?;
        let missing = || format!("the benchmarks' object has no {symbol}");
        let loaded: &mut SkReuseport = ebpf.program_mut(symbol).with_context(missing)?.try_into()?;
        loaded.load().with_context(|| format!("loading {symbol}"))?;
        let mut take = |name| ebpf.take_map(name).with_context(|| format!("there is no map {name}"));
        let mut slots: ReusePortSockArray<MapData> = take("LISTENERS")?.try_into()?;
        for (slot, socket) in (1..).zip(sockets) {
            slots.set(slot, socket, 0)?;
        }
        let mut outer: ArrayOfMaps<MapData, Array<MapData, Table>> = take("TABLE")?.try_into()?;
        let mut inner: Array<MapData, Table> = Array::create(1, 0)?;
        inner.set(0, table().as_ref(), 0)?;
        outer.set(0, &inner, 0)?;
        program(&ebpf, symbol)?.attach(sockets[0])?;
        Ok(Self::Other(ebpf, symbol))
    }
}

fn load_steer(sockets: &[BorrowedFd<'_>], steering: Steering) -> Result<KernelGroup> {
    let (kernel, mut publisher) = KernelGroup::load(steering.shape())?;
    publisher.keep_flows(FlowSettings::default().idle);
    for (slot, socket) in (1..).zip(sockets) {
        kernel.put(slot, 0, *socket)?;
        kernel.route(owner(slot), slot);
        if let Some(load) = steering.load() {
            // A beat that never grows old: from the end of time.
            let cell = WorkerCell::create()?;
            cell.write(Cell::new(u64::MAX, load));
            kernel.cells().lock().unwrap_or_else(PoisonError::into_inner).put(slot, Some(&cell))?;
        }
    }
    publisher.publish(&Layout { policy: steering.policy(), cpus: every_cpu(), ..layout() })?;
    kernel.attach(sockets[0])?;
    Ok(kernel)
}

/// Whom a slot's connection IDs name.
pub(crate) fn owner(slot: u16) -> Owner {
    Owner::new(u32::from(slot - 1), 1)
}

fn program<'a>(ebpf: &'a Ebpf, symbol: &str) -> Result<&'a SkReuseport> {
    Ok(ebpf.program(symbol).with_context(|| format!("{symbol} is not loaded"))?.try_into()?)
}

fn listen(target: SocketAddr, backlog: i32) -> Result<Vec<TcpListener>> {
    let address = ListenAddress { protocol: Protocol::Tcp, address: target };
    let listener = |_| {
        let listener = TcpListener::from(make_listener(address, None, backlog)?);
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    (0..LISTENERS).map(listener).collect()
}

/// Whether a connection waits to be accepted.
fn is_waiting(listener: &TcpListener) -> Result<bool> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&now))? == 1)
}

/// Every worker has each fourth bucket; no holding listener.
fn layout() -> Layout {
    let slot = |bucket: usize| (bucket % usize::from(LISTENERS)) as u16 + 1;
    Layout {
        epoch: 1,
        seed: SEED,
        policy: Policy::Hash,
        hold: None,
        probe: None,
        working: (1..=LISTENERS).collect(),
        cpus: BTreeMap::new(),
        buckets: (0..BUCKETS).map(slot).collect::<Arc<[u16]>>(),
    }
}

/// Each CPU with a worker of its own, as far as there are workers.
fn every_cpu() -> BTreeMap<usize, Vec<u16>> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (0..cpus).map(|cpu| (cpu, vec![(cpu % usize::from(LISTENERS)) as u16 + 1])).collect()
}

/// The same for the benchmarks' programs.
fn table() -> Box<Table> {
    // SAFETY: `Table` is `repr(C)` of integers: all zeroes is a value.
    let mut table = unsafe { Box::<Table>::new_zeroed().assume_init() };
    let layout = layout();
    table.clear(Keying::four_tuple(SEED), layout.epoch, layout.working.len());
    table.named[..layout.working.len()].copy_from_slice(&layout.working);
    for (bucket, slot) in layout.buckets.iter().enumerate() {
        table.name(bucket, usize::from(slot - 1));
    }
    table
}
