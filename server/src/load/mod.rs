//! A TCP client that counts what it loses: every attempt is counted in exactly one class.
//!
//! Common load tools add failures up, and keep-alive hides what is lost at accept. Here each connection is one
//! chosen 4-tuple, one or more HTTP/1.1 requests, and a verdict: answered, refused, reset, timed out or else.
//! The same 4-tuples are visited again and again, so that it shows when one is answered by another worker.
//!
//! [`run`] loads from the calling thread; [`Running`] from threads of its own. Both work in the network
//! namespace of the calling thread.

mod answer;
mod driver;
mod flow;
mod plan;
mod probe;
mod running;
mod tally;
#[cfg(test)]
mod tests;

pub use answer::Responder;
pub use driver::{LoadError, run};
pub use plan::{FourTuple, Plan, four_tuples};
pub use probe::{Probe, Snapshot};
pub use running::Running;
pub use tally::{Failure, FailureKind, Stage, Tally, Visit};
