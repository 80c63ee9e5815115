//! What is known at one look, of which an exposition is made.

use std::time::Duration;

use crate::{control::api::GroupStatus, names::GroupName};

use super::{kernel::KernelCounters, usage::Usage};

/// One look at everything that has metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The daemon's version.
    pub version: &'static str,
    /// `select-or-migrate`, or `select` on kernels before 5.14.
    pub program: &'static str,
    /// When the daemon started: since the epoch of Unix.
    pub started: Duration,
    /// How long this look has taken.
    pub took: Duration,
    /// How many lines of the log were dropped.
    pub log_lines_dropped: u64,
    /// The groups by name, without a status where one did not give it.
    pub groups: Vec<(GroupName, Option<GroupStatus>)>,
    /// What the kernel has counted in the daemon's network namespace; nothing where it cannot be read.
    pub kernel: Option<KernelCounters>,
    /// What the daemon's process uses; nothing where it cannot be read.
    pub usage: Option<Usage>,
}

impl Snapshot {
    /// The groups that gave a status.
    pub(super) fn statuses(&self) -> impl Iterator<Item = &GroupStatus> {
        self.groups.iter().filter_map(|(_, status)| status.as_ref())
    }
}
