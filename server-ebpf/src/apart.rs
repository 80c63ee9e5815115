//! What the verifier looks at by itself: global functions, once each for any argument, where it follows other functions
//! from each of their callers again. With the chain's loops in them it goes through a twelfth of the instructions.
//!
//! Linux has them since 5.6; until 5.12 their arguments can be numbers and the context and no pointer, so the table is
//! looked up again.

use aya_ebpf::{bindings::sk_reuseport_md, helpers::bpf_ktime_get_ns, programs::SkReuseportContext};
use server_common::{
    choice::further,
    counters::{Asked, Outcome},
    load::Load,
};

use crate::{
    drop_packet, pass,
    surroundings::{Kernel, cell, shown},
    table,
};

/// The rarer run whose first choice is loaded, or could not be selected.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn steer_further(md: *mut sk_reuseport_md, key: u64, asked: u32) -> u32 {
    walk::<true>(&SkReuseportContext::new(md), key, Asked::of(asked))
}

/// The same without the coarse clock.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn steer_further_before_5_11(md: *mut sk_reuseport_md, key: u64, asked: u32) -> u32 {
    walk::<false>(&SkReuseportContext::new(md), key, Asked::of(asked))
}

#[inline(always)]
fn walk<const COARSE_CLOCK: bool>(ctx: &SkReuseportContext, key: u64, asked: Asked) -> u32 {
    let Some(table) = table() else { return drop_packet(ctx, asked) };
    let chosen = further(table, key, &mut Kernel::<COARSE_CLOCK> { ctx, asked });
    if chosen.outcome as u32 == Outcome::Dropped as u32 {
        return drop_packet(ctx, asked);
    }
    pass(chosen, asked)
}

/// Whether the worker in a slot looks as if it took nothing: not 0. Asked of one working slot after another where all of
/// a flow's choices look so, which is rare enough for the dearer clock, which every kernel has.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn is_bad(slot: u32) -> u32 {
    // SAFETY: takes nothing.
    Load::of(shown(slot), cell(slot), || unsafe { bpf_ktime_get_ns() }).is_bad as u32
}
