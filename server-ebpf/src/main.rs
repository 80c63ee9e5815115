//! The SK_REUSEPORT programs of steer and their maps.
//!
//! `select_or_migrate` needs Linux 5.14; `select` is its twin for kernels before, whose verifier refuses a program
//! that reads `migrating_sk`. Everything that both sides must agree on is in `server-common`.
#![no_std]
#![no_main]
// For compare-and-swap, which eBPF has and `core` does not offer for it.
#![feature(core_intrinsics)]
#![expect(internal_features)]

mod apart;
mod flow;
mod flow_table;
mod quic;
mod surroundings;

use aya_ebpf::{
    bindings::{
        BPF_F_MMAPABLE,
        sk_action::{SK_DROP, SK_PASS},
    },
    btf_maps::{Array, ArrayOfMaps, PerCpuArray, ReusePortSockArray},
    macros::{btf_map, sk_reuseport},
    programs::SkReuseportContext,
};
use aya_log_ebpf::warn;
use server_common::{
    choice::{Chosen, Surroundings as _, first, is_probe},
    counters::{Asked, FlowEvent, Outcome, SlotCounters},
    flows::{Ends, WAYS},
    indirection::Indirection,
    limits::{DROPPED_SLOT, SLOTS_DEFAULT},
    load::{Cell, Shown},
    policy::Rule,
    quic::Routes,
    table::Table,
};

use crate::{flow::Flow, quic::Verdict, surroundings::Kernel};

/// The listeners by slot, [`SOCKETS`] of each. The daemon sets its size at load.
#[btf_map]
static LISTENERS: ReusePortSockArray<{ SLOTS_DEFAULT as usize }> = ReusePortSockArray::new();

/// The value of an inner map, as words. The program's inner maps must equal the template that is made of this, and
/// the daemon makes them without BTF. From 5.15 to 6.1 a template whose value is a struct differs from those: the kernel has
/// looked through it for a timer (`timer_off`). An array is not looked through.
type Words<const SIZE: usize> = [u64; SIZE];
const TABLE_WORDS: usize = size_of::<Table>() / 8;
const CELL_WORDS: usize = size_of::<Cell>() / 8;
const _: () = assert!(8 * TABLE_WORDS == size_of::<Table>() && 8 * CELL_WORDS == size_of::<Cell>());

/// The published table: one entry, whose swap publishes the next.
#[btf_map]
static TABLE: ArrayOfMaps<Array<Words<TABLE_WORDS>, 1>, 1> = ArrayOfMaps::new();

/// What was counted, by slot. As large as [`LISTENERS`].
#[btf_map]
static COUNTERS: PerCpuArray<SlotCounters, { SLOTS_DEFAULT as usize }> = PerCpuArray::new();

/// By worker, the slots of its generations, for QUIC connection IDs. The daemon sets its size at load, and writes into memory
/// that it shares.
#[btf_map]
static ROUTES: Array<Routes, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// What the kernel shows of each slot's listener, sampled by the daemon into memory that it shares. As large as
/// [`LISTENERS`].
#[btf_map]
static SHOWN: Array<Shown, { SLOTS_DEFAULT as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// What each slot's worker says of itself: a map of its own for each generation, so that it can share that memory and no
/// other's. As large as [`LISTENERS`].
#[btf_map]
static CELLS: ArrayOfMaps<
    Array<Words<CELL_WORDS>, 1, { BPF_F_MMAPABLE as usize }>,
    { SLOTS_DEFAULT as usize },
> = ArrayOfMaps::new();

/// Which of each slot's sockets gets a flow. As large as [`COUNTERS`] where slots have several, and read only there.
#[btf_map]
static INDIRECTION: Array<Indirection, { SLOTS_DEFAULT as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// UDP flows in sets of eight, and between whom they are. The daemon sets their size at load, and [`FLOW_SETS`] with it.
#[btf_map]
static FLOWS: Array<[u64; WAYS], 1, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
static FLOW_ENDS: Array<[Ends; WAYS], 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// How many sets there are, a power of two; 0 where flows are not remembered, and the verifier leaves out what would. The loader
/// sets it. What stands here until then is no other constant's value: LLVM takes two constants of one value for the same,
/// and the loader would change both.
#[unsafe(no_mangle)]
static FLOW_SETS: u32 = 0x5e75_5e75;

/// How many sockets each slot has room for, 1 to [`SOCKETS_MAX`](server_common::limits::SOCKETS_MAX), set and left out like
/// [`FLOW_SETS`].
#[unsafe(no_mangle)]
static SOCKETS: u32 = 0x50c4_e750;

/// Selects for new connections and datagrams, and for connections whose listener has stopped.
#[sk_reuseport(migrate)]
pub fn select_or_migrate(ctx: SkReuseportContext) -> u32 {
    match ctx.migrating_sk() {
        Some(_) => migrate(&ctx),
        None => select_packet::<true>(&ctx),
    }
}

/// Selects for new connections and datagrams.
#[sk_reuseport]
pub fn select(ctx: SkReuseportContext) -> u32 {
    select_packet::<false>(&ctx)
}

/// What nearly every run is, all in one piece: a call costs more than the instructions that it saves, the most where
/// the kernel guards returns against speculation. `RECENT` kernels, of 5.14 and later, have the coarse clock (5.11), which costs
/// a fraction of the other, and compare-and-swap (5.12).
#[inline(always)]
fn select_packet<const RECENT: bool>(ctx: &SkReuseportContext) -> u32 {
    let Some((asked, ports)) = flow::transport(ctx) else { return drop_unread(ctx, Asked::Segment) };
    let Some(table) = table() else { return drop_unread(ctx, asked) };
    let is_datagram = asked as u32 == Asked::Datagram as u32;
    let mut opening = None;
    if is_datagram && table.is_read_by(Rule::QuicCid) {
        match quic::by_id::<RECENT>(ctx, table) {
            Verdict::Selected(answer) => return answer,
            Verdict::ByHash(key) => opening = key,
        }
    }
    let Some(mut flow) = flow::of_packet(ctx, ports, table) else { return drop_unread(ctx, asked) };
    if let Some(key) = opening {
        flow.key = key;
    }
    if is_datagram && flow_table::is_kept(table) {
        return flow_table::steer::<RECENT>(ctx, table, &flow);
    }
    steer::<RECENT>(ctx, table, flow, asked)
}

/// The rare run for a connection whose listener has stopped.
#[inline(never)]
fn migrate(ctx: &SkReuseportContext) -> u32 {
    let asked = Asked::Migration;
    let Some(table) = table() else { return drop_unread(ctx, asked) };
    let flow = ctx.migrating_sk().and_then(|sock| flow::of_socket(&sock, table));
    let Some(flow) = flow else { return drop_unread(ctx, asked) };
    steer::<true>(ctx, table, flow, asked)
}

/// The published table.
#[inline(always)]
fn table() -> Option<&'static Table> {
    // SAFETY: the value has the size of a table, is aligned to 8 as one is, and any bit pattern is a value; it stays for
    // as long as this run, which a publication waits for.
    TABLE.get_value(0, &0).map(|words| unsafe { &*core::ptr::from_ref(words).cast::<Table>() })
}

/// Walks the choice chain and counts the run.
///
/// The flow that a starting worker is probed with goes to that worker, which no bucket names yet, or nowhere: neither another worker
/// nor the holding listener gets the daemon's own connections. It is no client's, and not counted.
#[inline(always)]
fn steer<const RECENT: bool>(ctx: &SkReuseportContext, table: &Table, flow: Flow, asked: Asked) -> u32 {
    let mut kernel = Kernel::<RECENT> { ctx, asked, spread: flow.key };
    if is_probe(table, flow.tuple_hash) {
        return if kernel.select(table.probe_slot) { SK_PASS } else { SK_DROP };
    }
    if let Some(chosen) = first(table, flow.key, &mut kernel) {
        count(chosen, asked);
        return SK_PASS;
    }
    match apart::further_slot::<RECENT>(ctx, flow.key, asked, flow.key) {
        DROPPED_SLOT => drop_packet(ctx, asked),
        _ => SK_PASS,
    }
}

/// Nothing can be selected, or be read that would say what: counts it and drops.
#[inline(never)]
fn drop_unread(ctx: &SkReuseportContext, asked: Asked) -> u32 {
    count(Chosen { slot: DROPPED_SLOT, outcome: Outcome::Dropped }, asked);
    drop_packet(ctx, asked)
}

/// Drops what is counted already and, where someone listens for it, says so.
#[inline(never)]
fn drop_packet(ctx: &SkReuseportContext, asked: Asked) -> u32 {
    warn!(ctx, "dropped: no slot could be selected (asked {})", asked as u32);
    SK_DROP
}

/// Counts the run.
#[inline(always)]
fn count(chosen: Chosen, asked: Asked) {
    if let Some(counters) = COUNTERS.get_ptr_mut(chosen.slot as u32) {
        // SAFETY: the value is this CPU's own, and programs of this type run with migration disabled and do not
        // nest on one CPU: softirq does not interrupt softirq.
        unsafe { (*counters).count(asked, chosen.outcome) };
    }
}

#[inline(always)]
fn count_flow(slot: u16, event: FlowEvent) {
    if let Some(counters) = COUNTERS.get_ptr_mut(slot as u32) {
        // SAFETY: as above.
        unsafe { (*counters).flows[event as usize] += 1 };
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends some helpers only to programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
