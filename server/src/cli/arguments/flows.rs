//! What `steer flows` takes.

use clap::Args;

use super::{Output, values::Target};
use crate::{block::Block, control::api::FLOWS_LISTED_MAX};

/// What `steer flows` takes.
#[derive(Debug, Clone, Args)]
pub struct FlowsArguments {
    /// The group or the worker: dns or dns/0
    #[arg(value_name = "GROUP[/WORKER]")]
    pub of: Target,
    /// Only flows of this client, or of clients in this block: 192.0.2.7, 192.0.2.0/24, 2001:db8::/32
    #[arg(long, value_name = "ADDR[/BITS]")]
    pub client: Option<Block>,
    /// Count them, and list none
    #[arg(long, conflicts_with = "limit")]
    pub count: bool,
    /// List so many at most; all are counted
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(FLOWS_LISTED_MAX)))]
    pub limit: u32,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}
