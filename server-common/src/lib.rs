//! What the program in the kernel and the daemon must agree on, once: the shapes of map values, the hash, the
//! choice and the limits.
//!
//! `no_std`, without allocation and without loops that the verifier cannot bound, so that the same source runs in
//! the kernel, in the daemon and in the tests.
#![no_std]

pub mod bind;
pub mod choice;
pub mod counters;
pub mod flow_hash;
pub mod flows;
pub mod indirection;
pub mod keying;
pub mod limits;
pub mod load;
pub mod looks;
pub mod policy;
pub mod quic;
pub mod table;
