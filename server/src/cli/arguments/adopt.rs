//! What `steer adopt` takes.

use clap::{ArgGroup, Args};

use crate::{
    control::api::{AdoptTarget, AdoptedListen},
    names::GroupName,
};

use super::Output;

/// What `steer adopt` takes.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("server").required(true).args(["target", "pid", "cgroup", "container"])))]
pub struct AdoptArguments {
    /// A unit of systemd (nginx), or an address at which the server listens (:80)
    #[arg(value_name = "UNIT|ADDR", value_parser = target)]
    pub target: Option<AdoptTarget>,
    /// The server that this process belongs to
    #[arg(long)]
    pub pid: Option<u32>,
    /// The processes of this cgroup, a path as /proc/PID/cgroup has it
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<String>,
    /// This container, by name or id; it has to be in the daemon's network (podman run --network host)
    #[arg(long, value_name = "NAME|ID")]
    pub container: Option<String>,
    /// The group's name [default: the server's]
    #[arg(long)]
    pub name: Option<GroupName>,
    /// Only say what was found and what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Write the group into conf.d, so that the next daemon adopts the server again
    #[arg(long, conflicts_with = "dry_run")]
    pub keep: bool,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

impl AdoptArguments {
    /// Which server is meant.
    pub(in crate::cli) fn server(&self) -> Option<AdoptTarget> {
        let by_pid = || self.pid.map(AdoptTarget::Pid);
        let by_cgroup = || self.cgroup.clone().map(AdoptTarget::Cgroup);
        let by_container = || self.container.clone().map(AdoptTarget::Container);
        self.target.clone().or_else(by_pid).or_else(by_cgroup).or_else(by_container)
    }
}

/// What has a colon is an address; a unit's name has none.
fn target(text: &str) -> Result<AdoptTarget, String> {
    if !text.contains(':') {
        return Ok(AdoptTarget::Unit(text.to_owned()));
    }
    let listen = AdoptedListen::try_from(text.to_owned());
    listen.map(AdoptTarget::Address).map_err(|error| format!("{error}\nhint: {}", error.hint()))
}
