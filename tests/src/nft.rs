//! Handshakes kept half-open: the final ACK is dropped before the server sees it.
//!
//! On loopback a handshake is half-open for microseconds only. While frozen, the client's `connect` has returned (a
//! SYN-ACK is all that it waits for), and the server holds a SYN_RECV. The server goes on sending SYN-ACKs, after 1 s, 2 s,
//! 4 s, ..., `net.ipv4.tcp_synack_retries` times: the handshake ends then if it is not thawed.

use std::{net::IpAddr, thread};

use crate::netns::Namespace;

/// Drops final ACKs for as long as it lives.
#[derive(Debug)]
#[must_use = "handshakes thaw when this is dropped"]
pub struct Frozen<'a> {
    namespace: &'a Namespace,
    table: String,
}

/// Freezes handshakes with the TCP port, of every client.
///
/// Established connections to the port stand still as well, since all that carries an ACK and no SYN is dropped: data that
/// is sent before the final ACK arrives (or again after it was lost) would complete the handshake just as that does.
pub fn freeze_final_ack(namespace: &Namespace, port: u16) -> Frozen<'_> {
    freeze(namespace, port, None)
}

/// Freezes handshakes with the TCP port of one client's address; others connect as before.
pub fn freeze_final_ack_from(namespace: &Namespace, port: u16, client: IpAddr) -> Frozen<'_> {
    freeze(namespace, port, Some(client))
}

fn freeze(namespace: &Namespace, port: u16, client: Option<IpAddr>) -> Frozen<'_> {
    let (label, matched) = match client {
        None => ("all".to_owned(), String::new()),
        Some(IpAddr::V4(client)) => (client.to_string(), format!("ip saddr {client}")),
        Some(IpAddr::V6(client)) => (client.to_string(), format!("ip6 saddr {client}")),
    };
    let table = format!("freeze_{port}_{}", label.replace(['.', ':'], "_"));
    // A reset passes: a client that gives up ends its handshake.
    let rules = format!(
        "add table inet {table}; \
         add chain inet {table} input {{ type filter hook input priority filter; }}; \
         add rule inet {table} input {matched} tcp dport {port} tcp flags & (syn | rst | ack) == ack counter drop"
    );
    namespace.execute("nft", &[&rules]);
    Frozen { namespace, table }
}

impl Frozen<'_> {
    /// How many packets were dropped.
    pub fn dropped(&self) -> u64 {
        let listing = self.namespace.execute("nft", &["list", "table", "inet", &self.table]);
        let after = listing.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
        after.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no counter in: {listing}"))
    }

    /// Lets packets through again. The handshake ends with the client's next packet: data that it sends, data that it sends
    /// again (after 0.2 s, 0.4 s, ...), or its answer to the server's next SYN-ACK.
    pub fn thaw(self) {}
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // A panic in here during another would abort the process and with it all the other tests.
        if thread::panicking() {
            return;
        }
        self.namespace.execute("nft", &["delete", "table", "inet", &self.table]);
    }
}
