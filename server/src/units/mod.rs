//! systemd's units, asked and told by D-Bus: which one a server is, how it does, whether it comes back.
//!
//! Nothing here waits without an end: every call has a time limit, and a systemd that is absent or hangs is an error with a hint. A
//! [`Manager`] connects again by itself, and so does every watch. All of it needs a tokio runtime.

mod connection;
mod drop_in;
mod error;
mod jobs;
mod manager;
mod name;
mod signals;
mod state;
mod unit;
mod watch;

pub use drop_in::{DropIn, UNIT_STOPPED};
pub use error::UnitError;
pub use manager::Manager;
pub use name::{UnitName, is_template};
pub use state::{ActiveState, UnitState, is_coming_back};
pub use unit::Unit;
