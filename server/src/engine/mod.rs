//! Decides: a synchronous function of state, time and event to effects.
//!
//! Nothing here reads a clock, does I/O, logs or touches a map. [`Group::handle`](group::Group::handle) takes an
//! [`Event`](event::Event) and the time and returns [`Effect`](effect::Effect)s; the daemon carries them out, in order, and
//! answers with further events. Events may come late, twice, or for a generation that is gone: they then change
//! nothing.

mod adopted;
pub mod assign;
pub mod backoff;
mod canary;
mod command;
pub mod drain;
mod draining;
pub mod effect;
pub mod event;
pub mod group;
mod handover;
mod hold;
pub mod layout;
mod lifecycle;
mod operation;
mod pairs;
pub mod plan;
mod probe;
mod publication;
#[cfg(test)]
mod purity;
pub mod ramp;
pub mod reconfigure;
mod resume;
#[cfg(test)]
mod simulation;
pub mod slots;
mod tune;
pub mod view;
pub mod weights;
pub mod worker;
