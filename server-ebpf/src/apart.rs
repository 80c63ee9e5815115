//! What the verifier looks at by itself: global functions, once each for any argument, where it follows other functions
//! from each of their callers again. With the chain's loops in them it goes through a twelfth of the instructions.
//!
//! Linux has them since 5.6; until 5.12 their arguments can be numbers and the context and no pointer, so the table is
//! looked up again.

use aya_ebpf::{bindings::sk_reuseport_md, programs::SkReuseportContext};
use server_common::{
    choice::{Chosen, further, index},
    counters::{Asked, Outcome},
    indirection::{Indirection, TRIES},
    limits::DROPPED_SLOT,
    load::Load,
};

use crate::{
    INDIRECTION, LISTENERS, count, flow_table,
    surroundings::{Kernel, cell, now, shown, sockets},
    table,
};

/// The chain for a flow whose first choice is loaded, or could not be selected: the slot, for which the run is counted;
/// [`DROPPED_SLOT`] where it is dropped.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn choose_further(md: *mut sk_reuseport_md, key: u64, asked: u32, spread: u64) -> u32 {
    walk::<true>(&SkReuseportContext::new(md), key, Asked::of(asked), spread)
}

/// The same for kernels before 5.14.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn choose_further_before_5_14(md: *mut sk_reuseport_md, key: u64, asked: u32, spread: u64) -> u32 {
    walk::<false>(&SkReuseportContext::new(md), key, Asked::of(asked), spread)
}

#[inline(always)]
fn walk<const RECENT: bool>(ctx: &SkReuseportContext, key: u64, asked: Asked, spread: u64) -> u32 {
    let dropped = Chosen { slot: DROPPED_SLOT, outcome: Outcome::Dropped };
    let mut kernel = Kernel::<RECENT> { ctx, asked, spread };
    let chosen = table().map_or(dropped, |table| further(table, key, &mut kernel));
    count(chosen, asked);
    chosen.slot as u32
}

/// The chain after the first choice, counted; [`DROPPED_SLOT`] where nothing could be selected.
#[inline(always)]
pub(crate) fn further_slot<const RECENT: bool>(
    ctx: &SkReuseportContext,
    key: u64,
    asked: Asked,
    spread: u64,
) -> u16 {
    let slot = if RECENT {
        choose_further(ctx.md, key, asked as u32, spread)
    } else {
        choose_further_before_5_14(ctx.md, key, asked as u32, spread)
    };
    slot as u16
}

/// Remembers the flow of the datagram: that it goes to a slot from now on.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn remember(md: *mut sk_reuseport_md, hash: u64, slot: u32) -> u32 {
    flow_table::remember::<true>(&SkReuseportContext::new(md), hash, slot as u16)
}

/// The same for kernels before 5.14.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn remember_before_5_14(md: *mut sk_reuseport_md, hash: u64, slot: u32) -> u32 {
    flow_table::remember::<false>(&SkReuseportContext::new(md), hash, slot as u16)
}

/// Remembers a flow.
#[inline(always)]
pub(crate) fn remember_flow<const RECENT: bool>(ctx: &SkReuseportContext, hash: u64, slot: u16) {
    if RECENT {
        remember(ctx.md, hash, slot as u32)
    } else {
        remember_before_5_14(ctx.md, hash, slot as u32)
    };
}

/// Selects one of the several sockets in a slot: not 0 where the kernel took it. Where one has closed and nobody has spread its part over
/// the others yet, the next attempts find others.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn select_among(md: *mut sk_reuseport_md, slot: u32, spread: u64) -> u32 {
    let ctx = SkReuseportContext::new(md);
    let Some(indirection) = INDIRECTION.get_ptr(slot) else { return 0 };
    let (mut tried, mut last) = (0, u32::MAX);
    while tried < TRIES {
        // SAFETY: the map has given the pointer, and an entry is one of its table's; others write single bytes meanwhile.
        let place = unsafe { (*indirection).place(Indirection::entry(spread, tried)) } as u32;
        tried += 1;
        if place == last {
            continue;
        }
        if LISTENERS.select_reuseport(&ctx, index(slot as u16, sockets(), place)).is_ok() {
            return 1;
        }
        last = place;
    }
    0
}

/// Whether the worker in a slot looks as if it took nothing: not 0. Asked of one working slot after another where all of
/// a flow's choices look so, which is rare enough for the dearer clock, which every kernel has.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn is_bad(slot: u32) -> u32 {
    Load::of(shown(slot), cell(slot), now::<false>).is_bad as u32
}
