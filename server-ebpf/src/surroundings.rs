//! What the choice chain asks of the kernel.

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    programs::SkReuseportContext,
};
use server_common::{
    choice::Surroundings,
    counters::Asked,
    load::{Cell, Load},
};

use crate::{CELLS, LISTENERS, SHOWN};

/// The kernel, for one run. The coarse clock costs a fraction of the other; Linux has it since 5.11.
pub(crate) struct Kernel<'a, const COARSE_CLOCK: bool> {
    pub(crate) ctx: &'a SkReuseportContext,
    pub(crate) asked: Asked,
}

impl<const COARSE_CLOCK: bool> Surroundings for Kernel<'_, COARSE_CLOCK> {
    #[inline(always)]
    fn select(&mut self, slot: u16) -> bool {
        LISTENERS.select_reuseport(self.ctx, slot as u32).is_ok()
    }

    /// Others write what is read here meanwhile: each number is read once, and a mix of old and new steers one flow at most.
    #[inline(always)]
    fn load(&self, slot: u16) -> Load {
        // SAFETY: the map has given the pointer, which stays valid for the run; any bit pattern is a value.
        let shown = SHOWN.get_ptr(slot as u32).map(|shown| unsafe { shown.read_volatile() });
        let cell = CELLS.get_value(slot as u32, &0).map(|cell| {
            // SAFETY: as above; the words are a cell's.
            unsafe { core::ptr::from_ref(cell).cast::<Cell>().read_volatile() }
        });
        Load::of(shown.unwrap_or_default(), cell, || {
            // SAFETY: takes nothing.
            unsafe { if COARSE_CLOCK { bpf_ktime_get_coarse_ns() } else { bpf_ktime_get_ns() } }
        })
    }

    /// A migration runs wherever the listener was stopped.
    #[inline(always)]
    fn cpu(&self) -> Option<u32> {
        // SAFETY: takes nothing.
        (self.asked as u32 != Asked::Migration as u32).then(|| unsafe { bpf_get_smp_processor_id() })
    }
}
