//! What the kernel says of TCP sockets in the namespace of the calling thread.

use std::{fs, net::SocketAddr};

/// A state of `include/net/tcp_states.h`, as `/proc/net/tcp` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpState {
    /// Both sides know each other; also what waits in a listener's accept queue.
    Established = 1,
    /// A half-open handshake at the server: the SYN-ACK was sent, the final ACK has not come.
    SynReceived = 3,
    /// A listener.
    Listen = 10,
}

/// How many TCP sockets with this local address and state there are; half-open handshakes are counted, though they are no
/// sockets of a process.
///
/// `/proc/net` is the namespace of the process's main thread: this reads that of the calling thread.
pub fn tcp_count(local: SocketAddr, state: TcpState) -> usize {
    let wanted = proc_address(local);
    count(if local.is_ipv4() { "tcp" } else { "tcp6" }, state, |local| local == wanted)
}

/// How many TCP sockets with this local port and state there are, of both families.
pub fn tcp_count_at_port(port: u16, state: TcpState) -> usize {
    let wanted = format!(":{port:04X}");
    ["tcp", "tcp6"].into_iter().map(|file| count(file, state, |local| local.ends_with(&wanted))).sum()
}

fn count(file: &str, state: TcpState, is_wanted: impl Fn(&str) -> bool) -> usize {
    let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("sockets can be listed");
    let state = format!("{:02X}", state as u8);
    text.lines()
        .skip(1)
        .filter(|line| {
            // sl, local_address, rem_address, st
            let mut fields = line.split_whitespace().skip(1);
            fields.next().is_some_and(&is_wanted) && fields.nth(1) == Some(&state)
        })
        .count()
}

/// How many connections wait, unaccepted, in the queues of the listeners that a process holds.
#[track_caller]
pub fn unaccepted(pid: u32) -> usize {
    let inodes = inodes(pid);
    let text = ["tcp", "tcp6"].map(|file| {
        fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("sockets can be listed")
    });
    // sl, local_address, rem_address, st, tx_queue:rx_queue, tr:tm->when, retrnsmt, uid, timeout, inode
    let waiting = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_one =
            fields.get(3) == Some(&"0A") && inodes.iter().any(|inode| fields.get(9) == Some(&&**inode));
        // A listener's receive queue is its accept queue.
        let queue = fields.get(4)?.split(':').nth(1)?;
        is_one.then(|| usize::from_str_radix(queue, 16).ok()).flatten()
    };
    text.iter().flat_map(|text| text.lines()).filter_map(waiting).sum()
}

/// The inodes of the sockets that a process holds.
#[track_caller]
pub fn inodes(pid: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process's descriptors can be listed");
    let inode = |descriptor: fs::DirEntry| {
        let target = fs::read_link(descriptor.path()).ok()?;
        Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    };
    descriptors.filter_map(|descriptor| inode(descriptor.ok()?)).collect()
}

/// The inodes of the UDP sockets that are bound to a port, in the order in which the kernel's lookups meet those of one address.
pub fn udp_inodes(port: u16, ipv6: bool) -> Vec<String> {
    let file = if ipv6 { "udp6" } else { "udp" };
    let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("sockets can be listed");
    let port = format!(":{port:04X}");
    let inode = |line: &str| {
        // As of /proc/net/tcp.
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1)?.ends_with(&port).then(|| fields.get(9).map(|&inode| inode.to_owned()))?
    };
    text.lines().skip(1).filter_map(inode).collect()
}

/// An address as `/proc/net/tcp` prints it: the address in words of the machine's byte order, the port in network order.
fn proc_address(address: SocketAddr) -> String {
    let octets = match address {
        SocketAddr::V4(v4) => v4.ip().octets().to_vec(),
        SocketAddr::V6(v6) => v6.ip().octets().to_vec(),
    };
    let word = |octets: &[u8]| {
        format!("{:08X}", u32::from_ne_bytes(octets.try_into().expect("chunks of four octets")))
    };
    let words: String = octets.chunks(4).map(word).collect();
    format!("{words}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_proc_does() {
        if cfg!(target_endian = "little") {
            assert_eq!(proc_address("127.0.0.1:8080".parse().unwrap()), "0100007F:1F90");
            assert_eq!(proc_address("[::1]:80".parse().unwrap()), "00000000000000000000000001000000:0050");
        }
    }
}
