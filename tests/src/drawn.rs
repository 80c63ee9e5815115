//! Numbers that look drawn, the same for the same seed.

/// Marsaglia's xorshift64.
#[derive(Debug)]
pub struct Drawn(u64);

impl Drawn {
    /// From a seed; 0, from which nothing else comes, is as another.
    pub fn new(seed: u64) -> Self {
        Self(if seed == 0 { u64::MAX } else { seed })
    }

    /// One below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // Of small seeds the first numbers' high bits are zeros, and their low ones are mixed.
        (self.0 ^ (self.0 >> 32)) % end
    }

    /// The index of one of so many.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// One of them.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.index(all.len())]
    }
}
