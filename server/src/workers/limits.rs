//! The limit of open files: raised for the daemon, and given back to its workers.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What this process was started with, once it has raised it.
static STARTED_WITH: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit to the hard one: the daemon holds a descriptor for each listener, and the soft limit, 1024 by
/// tradition, is for programs that use `select`.
///
/// A worker may be such a program, and begins with the limit that this process had before. That it cannot be raised is logged.
pub fn raise_open_files() {
    let started_with = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: started_with.maximum, ..started_with };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => drop(STARTED_WITH.set(started_with)),
        Err(error) => tracing::warn!("cannot raise the limit of open files: {error}"),
    }
}

/// The limit that a worker begins with, where it is not this process's.
pub(super) fn for_workers() -> Option<libc::rlimit> {
    let unlimited = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
    STARTED_WITH
        .get()
        .map(|limit| libc::rlimit { rlim_cur: unlimited(limit.current), rlim_max: unlimited(limit.maximum) })
}
