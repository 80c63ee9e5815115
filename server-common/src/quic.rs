//! QUIC connection IDs that name the worker they are for: plaintext QUIC-LB, draft-ietf-quic-load-balancers-21.
//!
//! A client's address may change while its connection lives; the connection ID that the server chose does not. An ID is, in
//! octets:
//!
//! ```text
//! 1        0 to 11   2        2            4 or more
//! config   host      worker   generation   nonce
//! ```
//!
//! The first three bits of the first octet are the configuration's number, 0 to 6 (7 is for IDs that name nobody); the other five are
//! the worker's to fill, with the ID's length less one or at random, and are not looked at. Host, worker and generation together are
//! what the draft calls the server ID, of 4 to 15 octets, in network byte order. A load balancer in front that knows a server ID as
//! the host alone sends a packet to the right host: to it, worker and generation are a part of the nonce.
//!
//! What is read of a packet are the properties of QUIC that hold for all its versions (RFC 8999): which form its header has, and
//! the destination's ID, the length of which only a long header says.

use crate::flow_hash::{Seed, hash_of_words};

/// Numbers of configurations: of the eight that three bits can be, the last names nobody.
pub const CONFIGS: usize = 7;

/// The most octets of a host, so that the server ID has no more than 15.
pub const HOST_MAX: usize = 11;

/// Octets of the worker's number and of its generation's.
pub const WORKER_OCTETS: usize = 4;

/// The fewest and the most octets of a nonce. Server ID and nonce together have 19 at most.
pub const NONCE_MIN: usize = 4;

/// The most octets of a server ID and its nonce: a connection ID has up to 20.
pub const ID_AND_NONCE_MAX: usize = 19;

/// The most octets of a connection ID in QUIC's versions 1 and 2. A longer one is not read.
pub const CONNECTION_ID_MAX: usize = 20;

/// How many generations of a worker can be told apart at a time: those with numbers in a row.
pub const GENERATIONS: usize = 16;

/// How much of a datagram is read: a long header up to the end of its destination's ID.
pub const HEAD_MAX: usize = LONG_ID + CONNECTION_ID_MAX;

/// Where the destination's ID stands in either header.
const SHORT_ID: usize = 1;
const LONG_ID: usize = 6;
/// Where a long header has the length of that ID.
const LONG_LENGTH: usize = 5;
const LONG_HEADER: u8 = 0x80;

/// How connection IDs of one configuration are read. Words are as memory is, read as little-endian; all zeroes is none.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Format {
    /// The bits that tell whether an ID is of it: the configuration's number and the host.
    mask: [u64; 2],
    /// What they are.
    value: [u64; 2],
    /// How many bits stand before the worker's number; 0 where there is no such configuration.
    shift: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Format>() == 40);

impl Format {
    /// The format of a configuration's IDs. `config` is below [`CONFIGS`]; `host` has no more than [`HOST_MAX`] octets, of which the
    /// rest is left out.
    pub fn new(config: u8, host: &[u8]) -> Self {
        let (mut mask, mut value) = ([0_u8; 16], [0_u8; 16]);
        (mask[0], value[0]) = (0xe0, config << 5);
        let length = host.len().min(HOST_MAX);
        mask[1..=length].fill(0xff);
        value[1..=length].copy_from_slice(&host[..length]);
        Self { mask: words(mask), value: words(value), shift: 8 * (1 + length as u32), reserved: 0 }
    }

    /// The octets of an ID that are read: all before the nonce.
    #[inline(always)]
    fn octets(&self) -> usize {
        (self.shift / 8) as usize + WORKER_OCTETS
    }

    /// Whose an ID is, where it is of this format.
    #[inline(always)]
    fn owner(&self, id: [u64; 2], length: usize) -> Option<Owner> {
        let differs = (id[0] & self.mask[0] ^ self.value[0]) | (id[1] & self.mask[1] ^ self.value[1]);
        if self.shift == 0 || differs != 0 || length < self.octets() {
            return None;
        }
        let (high, low) = (id[0].swap_bytes(), id[1].swap_bytes());
        let from = if self.shift < u64::BITS {
            high.wrapping_shl(self.shift) | low.wrapping_shr(u64::BITS - self.shift)
        } else {
            low.wrapping_shl(self.shift - u64::BITS)
        };
        Some(Owner { worker: (from >> 48) as u16, generation: (from >> 32) as u16 })
    }
}

/// Whom an ID names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The worker's number, as in `web/3`.
    pub worker: u16,
    /// The last 16 bits of its generation's number.
    pub generation: u16,
}

impl Owner {
    /// The owner of what a generation's worker gives out.
    pub fn new(worker: u32, generation: u64) -> Self {
        Self { worker: worker as u16, generation: generation as u16 }
    }

    /// As in an ID: network byte order.
    pub fn octets(self) -> [u8; WORKER_OCTETS] {
        let ([a, b], [c, d]) = (self.worker.to_be_bytes(), self.generation.to_be_bytes());
        [a, b, c, d]
    }

    /// Where among its worker's routes its own stands.
    #[inline(always)]
    pub fn way(self) -> usize {
        self.generation as usize & (GENERATIONS - 1)
    }

    /// The route to a slot.
    #[inline(always)]
    pub fn route(self, slot: u16) -> Route {
        Route((self.generation as u32) << 16 | slot as u32)
    }
}

/// Which slot a generation's listener is in. 0 is none: no listener is in slot 0.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Route(pub u32);

impl Route {
    /// No route.
    pub const NONE: Self = Self(0);

    /// The slot, whoever's it is.
    #[inline(always)]
    pub fn slot(self) -> u16 {
        self.0 as u16
    }

    /// The slot, if the route is this one's.
    #[inline(always)]
    pub fn to(self, owner: Owner) -> Option<u16> {
        (self.slot() != 0 && self.0 >> 16 == owner.generation as u32).then_some(self.slot())
    }
}

/// The routes to one worker's generations, each in its [`way`](Owner::way): one cache line.
pub type Routes = [Route; GENERATIONS];

/// What a datagram is, as far as steering is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet {
    /// Its ID names somebody, who may be there or not.
    Of(Owner),
    /// It has a long header with an ID that the client has made up: it begins a connection. The hash of that ID.
    Opening(u64),
    /// Its ID names nobody, or it is no packet of QUIC.
    Unknown,
}

/// The begin of a datagram's payload: so placed that the ID of a short header is aligned.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    words: [u64; 5],
}

/// Where in the head the payload begins.
const AT: usize = 8 - SHORT_ID;

const _: () = assert!(AT + HEAD_MAX <= size_of::<Head>());

impl Default for Head {
    #[inline(always)]
    fn default() -> Self {
        Self { words: [0; 5] }
    }
}

impl Head {
    /// Where the payload's first [`HEAD_MAX`] octets are to be written; what there is not stays 0.
    #[inline(always)]
    pub fn payload(&mut self) -> *mut u8 {
        // SAFETY: it is within the words, with room for `HEAD_MAX` octets behind it, as asserted above.
        unsafe { self.words.as_mut_ptr().cast::<u8>().add(AT) }
    }

    /// The head of a payload.
    pub fn of(payload: &[u8]) -> Self {
        let mut head = Self::default();
        let length = payload.len().min(HEAD_MAX);
        // SAFETY: there is room for that many.
        unsafe { core::slice::from_raw_parts_mut(head.payload(), length) }
            .copy_from_slice(&payload[..length]);
        head
    }

    /// The octet at a place of the payload, below `HEAD_MAX`.
    #[inline(always)]
    fn octet(&self, at: usize) -> u8 {
        (self.words[(AT + at) / 8] >> (8 * ((AT + at) % 8))) as u8
    }

    /// What the datagram is. `length` is how many octets of its payload were written, [`HEAD_MAX`] at most.
    #[inline(always)]
    pub fn packet(&self, length: usize, formats: &[Format; CONFIGS], seed: &Seed) -> Packet {
        if self.octet(0) & LONG_HEADER == 0 {
            let id = [self.words[1], self.words[2]];
            return match owner(formats, id, length.saturating_sub(SHORT_ID)) {
                Some(owner) => Packet::Of(owner),
                None => Packet::Unknown,
            };
        }
        let octets = self.octet(LONG_LENGTH) as usize;
        if octets == 0 || octets > CONNECTION_ID_MAX || length < LONG_ID + octets {
            return Packet::Unknown;
        }
        // The ID's words, which begin in the middle of one of ours.
        const SHIFT: u32 = 8 * ((AT + LONG_ID) % 8) as u32;
        let word = |at: usize| self.words[at] >> SHIFT | self.words[at + 1] << (u64::BITS - SHIFT);
        let id = [word(1), word(2), word(3)];
        if let Some(owner) = owner(formats, [id[0], id[1]], octets) {
            return Packet::Of(owner);
        }
        // What stands behind the ID is no part of it.
        let [first, second, third] = [0, 8, 16].map(|from: usize| ones(octets.saturating_sub(from)));
        let id = [id[0] & first, id[1] & second];
        Packet::Opening(hash_of_words(seed, id, (word(3) & third) as u32, octets as u8))
    }
}

/// Whose an ID is.
#[inline(always)]
fn owner(formats: &[Format; CONFIGS], id: [u64; 2], length: usize) -> Option<Owner> {
    let config = (id[0] >> 5 & 7) as usize;
    if config >= CONFIGS {
        return None;
    }
    formats[config].owner(id, length)
}

/// A word of which the first octets, in memory, are ones.
#[inline(always)]
fn ones(octets: usize) -> u64 {
    if octets >= 8 { u64::MAX } else { (1 << (8 * octets)) - 1 }
}

fn words(octets: [u8; 16]) -> [u64; 2] {
    let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|octet| octets[at + octet]));
    [word(0), word(8)]
}
