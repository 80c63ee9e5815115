//! The options of `steer worker`.

use crate::sockets::address::ListenAddress;

/// What the sample worker is to do, and how to misbehave.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SampleOptions {
    /// Bind this address with SO_REUSEPORT instead of taking inherited listeners; can be given more than once
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<ListenAddress>,
    /// Serve, but never say that it is ready
    #[arg(long)]
    pub never_ready: bool,
    /// Go on when told to stop by SIGTERM or SIGINT
    #[arg(long)]
    pub ignore_term: bool,
    /// Exit with code 1 before anything else
    #[arg(long)]
    pub exit_at_once: bool,
    /// Close the listeners this many milliseconds after it is ready, and go on serving the connections
    #[arg(long, value_name = "MILLISECONDS")]
    pub close_listener_after: Option<u64>,
    /// Leave a child behind that holds the listeners for 30 seconds
    #[arg(long)]
    pub fork_holder: bool,
    /// Wait this many milliseconds before anything else
    #[arg(long, value_name = "MILLISECONDS")]
    pub start_delay: Option<u64>,
    /// Publish neither load nor beat
    #[arg(long)]
    pub silent: bool,
    /// Hold the listeners and say that it is ready, but accept nothing
    #[arg(long)]
    pub no_accept: bool,
}
