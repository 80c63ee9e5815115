//! What the choice chain asks of the kernel.

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    programs::SkReuseportContext,
};
use server_common::{
    choice::Surroundings,
    counters::Asked,
    load::{Cell, Load, Shown},
};

use crate::{CELLS, LISTENERS, SHOWN, SOCKETS, apart};

/// The kernel, for one run.
pub(crate) struct Kernel<'a, const RECENT: bool> {
    pub(crate) ctx: &'a SkReuseportContext,
    pub(crate) asked: Asked,
    /// The hash that says which of a worker's sockets, where it can have several.
    pub(crate) spread: u64,
}

impl<const RECENT: bool> Surroundings for Kernel<'_, RECENT> {
    #[inline(always)]
    fn select(&mut self, slot: u16) -> bool {
        if sockets() == 1 {
            return LISTENERS.select_reuseport(self.ctx, slot as u32).is_ok();
        }
        apart::select_among(self.ctx.md, slot as u32, self.spread) != 0
    }

    #[inline(always)]
    fn load(&self, slot: u16) -> Load {
        Load::of(shown(slot as u32), cell(slot as u32), now::<RECENT>)
    }

    #[inline(always)]
    fn is_bad(&self, slot: u16) -> bool {
        apart::is_bad(slot as u32) != 0
    }

    /// A migration runs wherever the listener was stopped.
    #[inline(always)]
    fn cpu(&self) -> Option<u32> {
        // SAFETY: takes nothing.
        (self.asked as u32 != Asked::Migration as u32).then(|| unsafe { bpf_get_smp_processor_id() })
    }
}

/// How many sockets each slot has room for.
#[inline(always)]
pub(crate) fn sockets() -> u32 {
    // SAFETY: a constant for the program's life, which the loader sets before it begins.
    unsafe { (&raw const SOCKETS).read_volatile() }
}

/// CLOCK_MONOTONIC in nanoseconds, as coarse as the kernel's tick where that is cheaper.
#[inline(always)]
pub(crate) fn now<const RECENT: bool>() -> u64 {
    // SAFETY: takes nothing.
    unsafe { if RECENT { bpf_ktime_get_coarse_ns() } else { bpf_ktime_get_ns() } }
}

// Others write what is read here meanwhile: each number is read once, and a mix of old and new steers one flow at most.

/// What the kernel shows of the listener in a slot.
#[inline(always)]
pub(crate) fn shown(slot: u32) -> Shown {
    // SAFETY: the map has given the pointer, which stays valid for the run; any bit pattern is a value.
    SHOWN.get_ptr(slot).map(|shown| unsafe { shown.read_volatile() }).unwrap_or_default()
}

/// What the worker in a slot says of itself, if there is one.
#[inline(always)]
pub(crate) fn cell(slot: u32) -> Option<Cell> {
    // SAFETY: as above; the words are a cell's.
    CELLS.get_value(slot, &0).map(|cell| unsafe { core::ptr::from_ref(cell).cast::<Cell>().read_volatile() })
}
