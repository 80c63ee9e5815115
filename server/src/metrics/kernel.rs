//! The kernel's counters of a network namespace that tell of lost or moved connections.

use std::fs;

/// Where they are, for the namespace of the process.
const NETSTAT: &str = "/proc/self/net/netstat";

/// Counted by the kernel since the network namespace was made, for all its sockets, not only for those of groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// `TCPMigrateReqSuccess`: half-open and unaccepted connections moved to another listener; Linux 5.14.
    pub migrated: u64,
    /// `TCPMigrateReqFailure`: the same, that could not be moved and were reset; Linux 5.14.
    pub not_migrated: u64,
    /// `ListenOverflows`: a connection was complete and its listener's queue full.
    pub listen_overflows: u64,
    /// `ListenDrops`: a listener lost a SYN or a connection, for whatever reason; the overflows included.
    pub listen_drops: u64,
}

impl KernelCounters {
    /// Reads them; nothing where the kernel does not show them.
    pub fn read() -> Option<Self> {
        fs::read_to_string(NETSTAT).ok().as_deref().and_then(Self::parse)
    }

    /// From the text of `/proc/net/netstat`: a line of names and a line of values for each prefix. What a kernel does not
    /// count yet is 0.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
        let (names, values) = (lines.next()?, lines.next()?);
        let of = |wanted: &str| {
            let mut pairs = names.split_ascii_whitespace().zip(values.split_ascii_whitespace());
            pairs.find(|(name, _)| *name == wanted).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
        };
        Some(Self {
            migrated: of("TCPMigrateReqSuccess"),
            not_migrated: of("TCPMigrateReqFailure"),
            listen_overflows: of("ListenOverflows"),
            listen_drops: of("ListenDrops"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_names() {
        let text = "MPTcpExt: ListenDrops\nMPTcpExt: 99\n\
                    TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPMigrateReqSuccess TCPMigrateReqFailure\n\
                    TcpExt: 1 2 18446744073709551615 4 5\n";
        let found = KernelCounters::parse(text).unwrap();
        let expected =
            KernelCounters { migrated: 4, not_migrated: 5, listen_overflows: 2, listen_drops: u64::MAX };
        assert_eq!(found, expected);
    }

    #[test]
    fn an_older_kernel_counts_less_and_malformed_text_is_nothing() {
        let older = KernelCounters::parse("TcpExt: ListenOverflows\nTcpExt: 2\n").unwrap();
        assert_eq!(older, KernelCounters { listen_overflows: 2, ..KernelCounters::default() });
        for text in ["", "TcpExt: ListenDrops\n", "IpExt: InOctets\nIpExt: 5\n"] {
            assert_eq!(KernelCounters::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn this_kernel_shows_them() {
        assert!(KernelCounters::read().is_some());
    }
}
