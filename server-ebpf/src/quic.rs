//! Datagrams that go to whom their QUIC connection ID names.

use aya_ebpf::{
    EbpfContext as _, bindings::sk_action::SK_PASS, helpers::bpf_skb_load_bytes, programs::SkReuseportContext,
};
use server_common::{
    choice::{Chosen, Surroundings as _},
    counters::{Asked, IdEvent, Outcome},
    limits::DROPPED_SLOT,
    quic::{HEAD_MAX, Head, Owner, Packet},
    table::Table,
};

use crate::{COUNTERS, ROUTES, count, surroundings::Kernel};

/// What a UDP header takes.
const UDP_HEADER: usize = 8;

/// More than any payload.
const DATAGRAM_MAX: usize = 65_535;

/// What is to be done with a datagram.
pub(crate) enum Verdict {
    /// It is selected for and counted: what the program answers.
    Selected(u32),
    /// It goes by the hash: of the ID that its client has made up or, without one, of the 4-tuple.
    ByHash(Option<u64>),
}

/// Selects for a datagram by its connection ID.
#[inline(always)]
pub(crate) fn by_id<const RECENT: bool>(ctx: &SkReuseportContext, table: &Table) -> Verdict {
    let (event, key) = match read(ctx, table) {
        Packet::Of(owner) => {
            // An ID says nothing of sockets: under this policy a worker has one.
            let mut kernel = Kernel::<RECENT> { ctx, asked: Asked::Datagram, spread: 0 };
            if let Some(slot) = route(owner)
                && kernel.select(slot)
            {
                count(Chosen { slot, outcome: Outcome::ById }, Asked::Datagram);
                return Verdict::Selected(SK_PASS);
            }
            (IdEvent::Gone, None)
        }
        Packet::Opening(key) => (IdEvent::Opening, Some(key)),
        Packet::Unknown => (IdEvent::Unknown, None),
    };
    if let Some(counters) = COUNTERS.get_ptr_mut(DROPPED_SLOT as u32) {
        // SAFETY: as for a run's other counters.
        unsafe { (*counters).ids[event as usize] += 1 };
    }
    Verdict::ByHash(key)
}

/// Reads the head of the payload, which need not be in the packet's linear part.
#[inline(always)]
fn read(ctx: &SkReuseportContext, table: &Table) -> Packet {
    let mut head = Head::default();
    // Counted after the first octet, so that verifiers see that there is one: those before 6.8 learn nothing from a comparison with 0.
    let mut further = ctx.len().wrapping_sub(UDP_HEADER + 1);
    if further > DATAGRAM_MAX {
        // There is none.
        return Packet::Unknown;
    }
    if further > HEAD_MAX - 1 {
        further = HEAD_MAX - 1;
    }
    let length = further + 1;
    // SAFETY: the helper writes no more than there is room for, or fails.
    let failed = unsafe {
        bpf_skb_load_bytes(ctx.as_ptr(), UDP_HEADER as u32, head.payload().cast(), length as u32) != 0
    };
    if failed {
        return Packet::Unknown;
    }
    head.packet(length, &table.formats, &table.keying.seed)
}

/// The slot of the generation that an ID names.
#[inline(always)]
fn route(owner: Owner) -> Option<u16> {
    let routes = ROUTES.get_ptr(owner.worker as u32)?;
    // SAFETY: the map has given the pointer, and the way is one of its; the daemon writes whole words.
    unsafe { (&raw const (*routes)[owner.way()]).read_volatile() }.to(owner)
}
