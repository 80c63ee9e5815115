//! The programs that `cargo xtask bench` measures steer's beside: the least that a program can do, and steer's way
//! through the table with the kernel's own hash. They are in an object of their own, so that the product's has
//! nothing that only a benchmark needs.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::sk_action::{SK_DROP, SK_PASS},
    btf_maps::{Array, ArrayOfMaps, ReusePortSockArray},
    macros::{btf_map, sk_reuseport},
    programs::SkReuseportContext,
};
use server_common::{
    choice::bucket,
    limits::{NO_SLOT, SLOTS_DEFAULT},
    table::Table,
};

/// What `constant` selects: the first slot that holds a listener.
const CONSTANT_SLOT: u32 = 1;

/// The listeners by slot, as in steer's object.
#[btf_map]
static LISTENERS: ReusePortSockArray<{ SLOTS_DEFAULT as usize }> = ReusePortSockArray::new();

/// The published table, as in steer's object.
#[btf_map]
static TABLE: ArrayOfMaps<Array<Table, 1>, 1> = ArrayOfMaps::new();

/// Selects one slot, whatever comes.
#[sk_reuseport(migrate)]
pub fn constant(ctx: SkReuseportContext) -> u32 {
    select(&ctx, CONSTANT_SLOT)
}

/// Selects what the table says for the kernel's hash of the packet.
#[sk_reuseport(migrate)]
pub fn kernel_hash(ctx: SkReuseportContext) -> u32 {
    let Some(table) = TABLE.get_value(0, &0) else { return SK_DROP };
    let slot = table.slot(bucket(ctx.hash() as u64, 0));
    if slot == NO_SLOT { SK_DROP } else { select(&ctx, slot as u32) }
}

#[inline(always)]
fn select(ctx: &SkReuseportContext, slot: u32) -> u32 {
    if LISTENERS.select_reuseport(ctx, slot).is_ok() { SK_PASS } else { SK_DROP }
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
