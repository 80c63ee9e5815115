//! What of a flow is hashed: all of its 4-tuple, or the client's address alone.

use crate::flow_hash::{FlowV4, FlowV6, Seed};

/// The seed of the hash, and what it is of.
///
/// Masks are as addresses are: words in memory in network byte order, read as little-endian.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keying {
    /// The seed.
    pub seed: Seed,
    /// Not 0: only the client's address is hashed, as far as the masks leave it; otherwise the 4-tuple.
    by_source: u32,
    mask_v4: u32,
    mask_v6: [u32; 4],
}

const _: () = assert!(size_of::<Keying>() == 40);

impl Keying {
    /// The whole 4-tuple.
    pub const fn four_tuple(seed: Seed) -> Self {
        Self { seed, by_source: 0, mask_v4: u32::MAX, mask_v6: [u32::MAX; 4] }
    }

    /// The client's address, its first bits only: `ipv4` of 32 and `ipv6` of 128. An address that is IPv4-mapped counts as
    /// IPv4. More bits than there are mean all.
    pub fn source(seed: Seed, ipv4: u8, ipv6: u8) -> Self {
        let ones = |bits: u32| !u32::MAX.checked_shr(bits).unwrap_or(0);
        // Written in network order, then read as the program reads memory.
        let word = |bits: u32| u32::from_le_bytes(ones(bits).to_be_bytes());
        let mask_v6 = core::array::from_fn(|at| word((ipv6 as u32).saturating_sub(32 * at as u32)));
        Self { seed, by_source: 1, mask_v4: word(ipv4 as u32), mask_v6 }
    }

    /// Whether the key is the hash of the 4-tuple.
    #[inline(always)]
    pub fn is_four_tuple(&self) -> bool {
        self.by_source == 0
    }

    /// What finds the bucket of an IPv4 flow.
    #[inline(always)]
    pub fn key_v4(&self, flow: &FlowV4) -> u64 {
        if self.is_four_tuple() { flow.hash(&self.seed) } else { flow.source_hash(&self.seed, self.mask_v4) }
    }

    /// What finds the bucket of an IPv6 flow, which may turn out to be an IPv4 flow in mapped addresses.
    #[inline(always)]
    pub fn key_v6(&self, flow: &FlowV6) -> u64 {
        if self.is_four_tuple() {
            flow.hash(&self.seed)
        } else {
            flow.source_hash(&self.seed, self.mask_v4, &self.mask_v6)
        }
    }
}
