//! One group at run time: its [`runtime`] between the engine and the parts that do what it wants.
//!
//! A group's task hears one message after another and waits for nothing ([`task`]): whatever takes time is begun ([`execute`]) and answers
//! later ([`message`]). The parts own their state and do not see one another: [`members`] has the listen addresses with their kernel
//! groups and listeners, [`processes`] the generations' processes, [`record`] what the next daemon needs, [`report`] what others see.
//! [`observer`] looks at what drains, for all groups of the daemon.

mod adopt;
mod arrivals;
mod convert;
mod crash;
mod ended;
mod execute;
mod host;
mod listening;
mod members;
mod message;
mod neighbours;
mod observer;
mod open;
mod pending_reply;
mod processes;
mod rebinding;
pub(crate) mod record;
mod release;
mod reload;
mod repair;
mod report;
pub(crate) mod runtime;
mod sharing;
mod starts;
mod supervise;
mod takeover;
mod task;
mod totals;
mod unready;

pub(crate) use self::{
    ended::{Ended, attend},
    message::{Ask, Inbox, Message, Tune},
    neighbours::Neighbours,
    observer::{Observer, QueueLooks},
    open::{Opened, open},
    reload::{Approval, Proposal},
    report::{Board, ChangeQuestion, Connections, Counts, FlowQuestion, View},
};
pub use self::{
    open::{AddressServed, AdoptError},
    record::{PinsInUse, StateError},
};
