//! The kernel's version, its limits, and whether it says what it knows of sockets.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::{Probe, describe};
use crate::sockets::diag::Diag;

/// Fewer open files than this are not many connections and listeners.
const FILES_WANTED: u64 = 4096;

/// A backlog below this is full in a burst. The kernel's own default was 128 up to 5.3, and is 4096 since.
const BACKLOG_WANTED: u64 = 1024;

/// For people: what the kernel can do is tried.
pub(super) fn version() -> Probe {
    let name = rustix::system::uname();
    let (release, machine) = (name.release().to_string_lossy(), name.machine().to_string_lossy());
    Probe::ok("kernel", format!("{release} on {machine}; what it can do is tried below"))
}

/// The daemon holds a descriptor for each listener, a worker one for each connection.
pub(super) fn open_files() -> Probe {
    let limit = getrlimit(Resource::Nofile);
    let text = |value: Option<u64>| value.map_or_else(|| "unlimited".to_owned(), |value| value.to_string());
    let detail = format!(
        "{} open files, {} at most, to which daemon and sample worker raise it",
        text(limit.current),
        text(limit.maximum)
    );
    match limit.maximum {
        Some(maximum) if maximum < FILES_WANTED => Probe::warn(
            "open files",
            detail,
            format!("raise LimitNOFILE= or `ulimit -Hn` to {FILES_WANTED} or more"),
        ),
        _ => Probe::ok("open files", detail),
    }
}

/// Every listener's queue is cut down to this.
pub(super) fn backlog() -> Probe {
    const NAME: &str = "net.core.somaxconn";
    let remedy = format!("sysctl -w {NAME}=4096");
    match fs::read_to_string("/proc/sys/net/core/somaxconn").map(|text| text.trim().parse::<u64>()) {
        Ok(Ok(value)) if value < BACKLOG_WANTED => Probe::warn(
            NAME,
            format!("{value} connections can wait in a listener's queue, {BACKLOG_WANTED} are wanted"),
            remedy,
        ),
        Ok(Ok(value)) => Probe::ok(NAME, format!("{value} connections can wait in a listener's queue")),
        Ok(Err(error)) => Probe::warn(NAME, format!("cannot be read: {error}"), remedy),
        Err(error) => Probe::warn(NAME, format!("cannot be read: {error}"), remedy),
    }
}

/// Drains count by it what is left.
pub(super) fn sock_diag() -> Probe {
    const NAME: &str = "sock_diag";
    let asked = "tcp://127.0.0.1:1".parse().map_err(|_| "no address".to_owned()).and_then(|address| {
        let asked = Diag::open().and_then(|mut diag| {
            diag.listeners(address)?;
            diag.handshakes(address)?;
            diag.connections(address)
        });
        asked.map_err(|error| describe(&error))
    });
    match asked {
        Ok(_) => Probe::ok(NAME, "lists listeners, half-open handshakes and connections"),
        Err(why) => Probe::fail(NAME, why, "modprobe tcp_diag udp_diag, and allow AF_NETLINK sockets"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn what_needs_no_privilege_is_found_without() {
        assert_eq!(sock_diag().verdict, Verdict::Ok);
        assert!(version().detail.contains(" on "));
        assert!(open_files().detail.contains("open files"));
        assert!(backlog().detail.contains("queue"));
    }
}
