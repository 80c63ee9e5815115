//! Fixtures of the privileged tests: network namespaces, a running `steer`, frozen handshakes.
//!
//! They need the capabilities that `cargo xtask test` checks for. Fixtures panic instead of returning errors, with
//! what was done and what was found, so that a test reads as what it shows.

pub mod bind_denied;
pub mod cgroups;
pub mod changes;
pub mod clients;
pub mod containers;
pub mod control;
pub mod cpu;
pub mod crowd;
pub mod datagrams;
pub mod drawn;
pub mod exact;
pub mod exchanges;
pub mod footprint;
pub mod frozen;
pub mod hanging;
pub mod host;
pub mod idle_connections;
pub mod load;
pub mod machine;
pub mod mounts;
pub mod name_server;
pub mod netns;
pub mod nft;
pub mod output;
pub mod packaged;
pub mod passed;
pub mod process;
pub mod python;
pub mod quic;
pub mod receipts;
pub mod scrape;
pub mod scripts;
pub mod service;
pub mod site;
pub mod skip;
pub mod sockets;
pub mod spoofed;
pub mod stall;
pub mod steer;
pub mod strangers;
pub mod succession;
pub mod task_limit;
pub mod traffic;
pub mod transcript;
pub mod units;
pub mod units_served;
pub mod wait;
pub mod workers;
