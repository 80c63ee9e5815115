//! The order in which a worker looks at the buckets.

use server_common::limits::BUCKETS;

// Positions and buckets are all that 16 bits can say, so that wrapping arithmetic permutes them.
const _: () = assert!(BUCKETS == 1 << u16::BITS);

/// A pseudo-random permutation of the buckets, of a worker's own.
///
/// Three rounds of multiplying by an odd number and folding the upper bits into the lower, each of which can be undone.
/// An affine map would be cheaper, but two workers' affine maps meet in regular steps.
#[derive(Debug, Clone, Copy)]
pub struct Permutation {
    start: u16,
    factors: [u16; 3],
}

impl Permutation {
    /// The worker's: a function of its index alone.
    pub fn of(index: u32) -> Self {
        let key = mix(index);
        let part = |at: u32| (key >> (at * u16::BITS)) as u16;
        Self { start: part(0), factors: [part(1) | 1, part(2) | 1, part(3) | 1] }
    }

    /// The bucket at a position.
    #[inline]
    pub fn bucket(&self, position: u16) -> u16 {
        let [first, second, third] = self.factors;
        let mut x = (position ^ self.start).wrapping_mul(first);
        x = (x ^ (x >> 9)).wrapping_mul(second);
        x = (x ^ (x >> 7)).wrapping_mul(third);
        x ^ (x >> 8)
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(index: u32) -> u64 {
    let mut z = u64::from(index).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
