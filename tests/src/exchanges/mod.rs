//! Load in any protocol: one exchange after the other, each from a socket of its own, and what has come of them.

mod client;
mod dns;
mod exchange;
mod tally;

pub use client::{CLIENTS, answered, more, under_load};
pub use dns::{question, with_length};
pub use exchange::{Exchange, Over};
pub use tally::{Lost, Tally};
