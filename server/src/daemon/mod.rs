//! The daemon: carries the engine's effects out and brings it events.

pub mod settings;
