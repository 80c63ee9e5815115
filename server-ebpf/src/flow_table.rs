//! Datagrams whose flows are remembered: where a flow went before, it goes again.

use core::intrinsics::{AtomicOrdering::Relaxed, atomic_cxchg};

use aya_ebpf::{bindings::sk_action::SK_PASS, programs::SkReuseportContext};
use server_common::{
    choice::{Chosen, Surroundings as _, first},
    counters::{Asked, FlowEvent, Outcome},
    flows::{self, Ends, Entry, Remembered, Set, WAYS},
    limits::DROPPED_SLOT,
    table::Table,
};

use crate::{
    FLOW_ENDS, FLOW_SETS, FLOWS, apart, count, count_flow, drop_packet,
    flow::{self, Flow},
    surroundings::{Kernel, now},
    table,
};

/// Whether flows are remembered.
#[inline(always)]
pub(crate) fn is_kept(table: &Table) -> bool {
    sets() != 0 && table.flow_idle != 0
}

#[inline(always)]
fn sets() -> u32 {
    // SAFETY: a constant for the program's life, which the loader sets before it begins.
    unsafe { (&raw const FLOW_SETS).read_volatile() }
}

/// Selects for a datagram: where its flow went before or, where that takes nothing any more, by the table.
#[inline(always)]
pub(crate) fn steer<const RECENT: bool>(ctx: &SkReuseportContext, table: &Table, flow: &Flow) -> u32 {
    let asked = Asked::Datagram;
    // Not the key, which a change of policy makes another: a flow that stays with its worker stays with its socket.
    let mut kernel = Kernel::<RECENT> { ctx, asked, spread: flow.tuple_hash };
    if let Some(set) = Words::<RECENT>::of(flow.tuple_hash)
        && let Some(slot) = flows::find(&set, flow.tuple_hash, flows::units(now::<RECENT>()), table.flow_idle)
        && kernel.select(slot)
    {
        count(Chosen { slot, outcome: Outcome::Kept }, asked);
        return SK_PASS;
    }
    let slot = match first(table, flow.key, &mut kernel) {
        Some(chosen) => {
            count(chosen, asked);
            chosen.slot
        }
        None => apart::further_slot::<RECENT>(ctx, flow.key, asked, flow.tuple_hash),
    };
    if slot == DROPPED_SLOT {
        return drop_packet(ctx, asked);
    }
    // What the holding listener gets is nobody's flow yet.
    if slot != table.hold {
        apart::remember_flow::<RECENT>(ctx, flow.tuple_hash, slot);
    }
    SK_PASS
}

/// Remembers a flow, and counts what became of that.
#[inline(always)]
pub(crate) fn remember<const RECENT: bool>(ctx: &SkReuseportContext, hash: u64, slot: u16) -> u32 {
    let (Some(table), Some(set)) = (table(), Words::<RECENT>::of(hash)) else { return 0 };
    match flows::remember(&set, hash, slot, flows::units(now::<RECENT>()), table.flow_idle) {
        Remembered::In { way, instead_of } => {
            count_flow(slot, FlowEvent::Remembered);
            if instead_of != Entry::NONE {
                count_flow(instead_of.slot(), FlowEvent::Forgotten);
            }
            show(ctx, hash, way);
            1
        }
        Remembered::Not => {
            count_flow(slot, FlowEvent::NotRemembered);
            0
        }
    }
}

/// Has people see between whom the flow is.
#[inline(always)]
fn show(ctx: &SkReuseportContext, hash: u64, way: usize) {
    if let (Some(ends), Some(flow)) =
        (FLOW_ENDS.get_ptr_mut(flows::set_of(hash, sets())), flow::datagram(ctx))
    {
        // SAFETY: the map has given the pointer, and the way is one of the set's; readers check what they read.
        unsafe { (*ends)[way & (WAYS - 1)] = Ends::of(&flow) };
    }
}

/// The words of a flow's set.
struct Words<const RECENT: bool>(*mut [u64; WAYS]);

impl<const RECENT: bool> Words<RECENT> {
    #[inline(always)]
    fn of(hash: u64) -> Option<Self> {
        FLOWS.get_ptr_mut(flows::set_of(hash, sets())).map(Self)
    }
}

impl<const RECENT: bool> Set for Words<RECENT> {
    #[inline(always)]
    fn load(&self, way: usize) -> u64 {
        // SAFETY: the map has given the pointer, and the way is one of the set's.
        unsafe { (&raw const (*self.0)[way]).read_volatile() }
    }

    #[inline(always)]
    fn replace(&self, way: usize, old: u64, new: u64) -> bool {
        // SAFETY: as above. Kernels before 5.12 have no compare-and-swap: there a flow that another CPU remembers at the same
        // moment can be lost, and is remembered with its next datagram.
        unsafe {
            let word = &raw mut (*self.0)[way];
            if RECENT {
                // What `AtomicU64` would do, which `core` does not have for this target.
                return atomic_cxchg::<u64, { Relaxed }, { Relaxed }>(word, old, new).1;
            }
            word.write_volatile(new);
            true
        }
    }
}
