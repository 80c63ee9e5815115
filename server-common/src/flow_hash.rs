//! The keyed hash of a flow's 4-tuple: SipHash-1-3 with a 128-bit seed.
//!
//! The kernel's own hash of a flow will not do: it is seeded anew at every boot, and for a wildcard bind it is one
//! value when a SYN selects (the wildcard hashed as destination) and another when the connection migrates (the real
//! address). This one is the same on every host with the same seed, with and without a packet, and for an IPv4
//! flow whether a socket calls its addresses IPv4 or IPv4-mapped IPv6.
//!
//! SipHash (Aumasson and Bernstein, 2012) is a keyed pseudo-random function for short inputs: without the seed
//! nobody can tell which 4-tuples share a bucket, so nobody can aim at one worker. One compression and three
//! finalization rounds are what Rust's `HashMap` and Linux's `hsiphash` settled on for tables.
//!
//! How far that goes: to whom the hash of a 4-tuple not yet tried is as good as random, no guess is better than another.
//! That SipHash-1-3 is such a function is an assumption. Its authors argue for it with two and four rounds; of fewer no
//! attack is known that would serve here, where nobody sees a hash but at most which worker answers. What remains is to
//! try: where answers tell their workers apart (as the sample worker's `X-Worker` does), a client learns the worker of
//! each 4-tuple that it has connected by, and can come back by those of one worker, having tried as many times more as
//! there are workers. That is bounded by the addresses and ports at which it can receive, and says nothing of anybody
//! else's 4-tuples. A key of the source address alone would leave it its addresses, which are few in IPv4, but in IPv6 a
//! whole prefix. Another seed voids all that has been learned, and moves everybody.
//!
//! Addresses and ports are taken as they lie in memory in network byte order, read as little-endian words.

/// The seed of a table's hash, as SipHash's `k0` and `k1`.
pub type Seed = [u64; 2];

/// An IPv4 flow: addresses and ports as the little-endian reading of their bytes in network order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowV4 {
    /// The client's address.
    pub source: u32,
    /// The listener's address, as the client knows it (never the wildcard).
    pub destination: u32,
    /// The client's port.
    pub source_port: u16,
    /// The listener's port.
    pub destination_port: u16,
}

/// An IPv6 flow, which may turn out to be an IPv4 flow in mapped addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowV6 {
    /// The client's address.
    pub source: [u32; 4],
    /// The listener's address, as the client knows it (never the wildcard).
    pub destination: [u32; 4],
    /// The client's port.
    pub source_port: u16,
    /// The listener's port.
    pub destination_port: u16,
}

/// What stands before the IPv4 address in an IPv4-mapped one: `00 00 ff ff` in memory, read as a little-endian word.
const MAPPED: u32 = 0xffff_0000;

/// The IPv4-mapped IPv6 address of an IPv4 address.
#[inline(always)]
pub const fn mapped(address: u32) -> [u32; 4] {
    [0, 0, MAPPED, address]
}

impl FlowV4 {
    /// The flow's hash: the SipHash-1-3 of its 12 bytes.
    #[inline(always)]
    pub fn hash(&self, seed: &Seed) -> u64 {
        let mut state = State::new(seed);
        state.absorb(pair(self.source, self.destination));
        state.finish(ports(self.source_port, self.destination_port), 12)
    }

    /// The hash of the client's address alone, of the bits that `mask` leaves: the SipHash-1-3 of its 4 bytes.
    #[inline(always)]
    pub fn source_hash(&self, seed: &Seed, mask: u32) -> u64 {
        State::new(seed).finish(self.source & mask, 4)
    }
}

impl FlowV6 {
    /// The flow's hash: the SipHash-1-3 of its 36 bytes or, where both addresses are IPv4-mapped, that of
    /// the IPv4 flow.
    #[inline(always)]
    pub fn hash(&self, seed: &Seed) -> u64 {
        if let Some(flow) = self.as_mapped() {
            return flow.hash(seed);
        }
        let mut state = State::new(seed);
        state.absorb(pair(self.source[0], self.source[1]));
        state.absorb(pair(self.source[2], self.source[3]));
        state.absorb(pair(self.destination[0], self.destination[1]));
        state.absorb(pair(self.destination[2], self.destination[3]));
        state.finish(ports(self.source_port, self.destination_port), 36)
    }

    /// The hash of the client's address alone, of the bits that `mask_v6` leaves: the SipHash-1-3 of its 16 bytes or,
    /// where both addresses are IPv4-mapped, that of the IPv4 address.
    #[inline(always)]
    pub fn source_hash(&self, seed: &Seed, mask_v4: u32, mask_v6: &[u32; 4]) -> u64 {
        if let Some(flow) = self.as_mapped() {
            return flow.source_hash(seed, mask_v4);
        }
        let [first, second, third, fourth] =
            [0, 1, 2, 3].map(|word: usize| self.source[word] & mask_v6[word]);
        let mut state = State::new(seed);
        state.absorb(pair(first, second));
        state.absorb(pair(third, fourth));
        state.finish(0, 16)
    }

    /// The IPv4 flow that this is, where both addresses are of `::ffff:0:0/96`.
    #[inline(always)]
    fn as_mapped(&self) -> Option<FlowV4> {
        let not_mapped = self.source[0]
            | self.source[1]
            | self.destination[0]
            | self.destination[1]
            | (self.source[2] ^ MAPPED)
            | (self.destination[2] ^ MAPPED);
        if not_mapped != 0 {
            return None;
        }
        Some(FlowV4 {
            source: self.source[3],
            destination: self.destination[3],
            source_port: self.source_port,
            destination_port: self.destination_port,
        })
    }
}

/// The hash of up to 20 bytes, of which what there is not is 0: the SipHash-1-3 of them and so many zeroes that they are 20, but for
/// the length, which is theirs.
#[inline(always)]
pub fn hash_of_words(seed: &Seed, words: [u64; 2], tail: u32, length: u8) -> u64 {
    let mut state = State::new(seed);
    state.absorb(words[0]);
    state.absorb(words[1]);
    state.finish(tail, length)
}

#[inline(always)]
fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

#[inline(always)]
fn ports(source: u16, destination: u16) -> u32 {
    source as u32 | (destination as u32) << 16
}

/// SipHash's four words of state.
struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    #[inline(always)]
    fn new(seed: &Seed) -> Self {
        Self {
            v0: seed[0] ^ 0x736f_6d65_7073_6575,
            v1: seed[1] ^ 0x646f_7261_6e64_6f6d,
            v2: seed[0] ^ 0x6c79_6765_6e65_7261,
            v3: seed[1] ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }

    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

    /// Absorbs the last four bytes with the message's length, and finalizes.
    #[inline(always)]
    fn finish(mut self, tail: u32, length: u8) -> u64 {
        self.absorb(tail as u64 | (length as u64) << 56);
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}
