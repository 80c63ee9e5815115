//! A flood of UDP datagrams whose sources are made up: each is a flow of its own, and nobody is there to be answered.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// A datagram of one byte.
const DATAGRAM: usize = 9;
const UDP: u8 = 17;
const HOPS: u8 = 64;
/// Datagrams in one call. If one socket gets them all it has room for them, beside what established flows have in flight.
const BATCH: usize = 150;
/// From this many unread bytes on, the flood waits for whoever is to read them: less than half of a socket's room.
const UNREAD_MAX: u64 = 60_000;

/// Sends so many datagrams, each of another source, to the addresses in turns. The sources are of 198.18.0.0/15 and 2001:2::/48, to which
/// there is no route: what answers them is told so, and nothing comes back. Never sends into a socket whose queue is half full, so
/// that the flood costs nobody a datagram for want of room. Needs CAP_NET_RAW.
///
/// `sent` is told how many were sent, after each call.
#[track_caller]
pub fn flood(targets: &[SocketAddr], count: u32, mut sent: impl FnMut(u32)) {
    let sockets: Vec<(Socket, SocketAddr)> = targets.iter().map(|target| (raw(*target), *target)).collect();
    let mut number = 0;
    for (socket, target) in sockets.iter().cycle() {
        let end = count.min(number + BATCH as u32);
        let packets: Vec<_> = (number..end).map(|number| packet(number, *target)).collect();
        let mut to = *target;
        to.set_port(0);
        send(socket, &SockAddr::from(to), &packets);
        number = end;
        sent(number);
        while most_unread(*target) > UNREAD_MAX {
            thread::sleep(Duration::from_micros(200));
        }
        if number == count {
            return;
        }
    }
}

/// A socket that takes packets with their IP headers.
#[track_caller]
fn raw(target: SocketAddr) -> Socket {
    Socket::new(Domain::for_address(target), Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
        .expect("a raw socket can be made")
}

/// A datagram of one byte with its IP header. Its source's address and port are the number's digits.
fn packet(number: u32, target: SocketAddr) -> Vec<u8> {
    match target {
        SocketAddr::V4(target) => packet_v4(number, target),
        SocketAddr::V6(target) => packet_v6(number, target),
    }
}

/// Without a UDP checksum, which IPv4 permits. The kernel fills in the length, the identification and the header's checksum.
fn packet_v4(number: u32, target: SocketAddrV4) -> Vec<u8> {
    let mut packet = vec![0; IPV4_HEADER];
    packet[0] = 0x45;
    packet[8..10].copy_from_slice(&[HOPS, UDP]);
    let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) | (number & 0xffff));
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&target.ip().octets());
    packet.extend_from_slice(&datagram(number, target.port()));
    packet
}

fn packet_v6(number: u32, target: SocketAddrV6) -> Vec<u8> {
    let mut packet = vec![0; IPV6_HEADER];
    packet[0] = 0x60;
    packet[4..8].copy_from_slice(&[0, DATAGRAM as u8, UDP, HOPS]);
    let source = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, number as u16);
    packet[8..24].copy_from_slice(&source.octets());
    packet[24..40].copy_from_slice(&target.ip().octets());
    let mut datagram = datagram(number, target.port());
    let pseudo_header = [&packet[8..40], &[0, 0, 0, DATAGRAM as u8, 0, 0, 0, UDP]].concat();
    let checksum = !ones_complement_sum(&[&pseudo_header[..], &datagram].concat());
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    packet.extend_from_slice(&datagram);
    packet
}

/// The UDP header, without its checksum, and a byte.
fn datagram(number: u32, port: u16) -> [u8; DATAGRAM] {
    let mut datagram = [0; DATAGRAM];
    let source_port = 20_000 + (number >> 16) as u16;
    datagram[0..2].copy_from_slice(&source_port.to_be_bytes());
    datagram[2..4].copy_from_slice(&port.to_be_bytes());
    datagram[4..6].copy_from_slice(&(DATAGRAM as u16).to_be_bytes());
    datagram[8] = b'.';
    datagram
}

/// RFC 1071. An odd byte is followed by a zero.
fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| (u32::from(pair[0]) << 8) | u32::from(pair.get(1).copied().unwrap_or(0));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

#[track_caller]
fn send(socket: &Socket, to: &SockAddr, packets: &[Vec<u8>]) {
    let mut parts: Vec<libc::iovec> = packets
        .iter()
        .map(|packet| libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: all zeroes is a value of this struct of integers and pointers.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = to.as_ptr().cast_mut().cast();
            message.msg_hdr.msg_namelen = to.len();
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let length = messages.len() as u32;
    // SAFETY: the messages, their parts and what these point to live until the call returns; it only reads them, but for the
    // lengths sent, which it writes into the messages.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), length, 0) };
    assert_eq!(sent, length as i32, "sending spoofed datagrams: {}", std::io::Error::last_os_error());
}

/// What the kernel says of a UDP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receiver {
    /// Bytes that wait to be read, as the kernel charges for them.
    pub unread: u64,
    /// Datagrams that came while there was no room.
    pub dropped: u64,
}

/// The sockets of the address's family that are bound to its port, in the namespace of the calling thread.
#[track_caller]
pub fn receivers(address: SocketAddr) -> Vec<Receiver> {
    let list = if address.is_ipv4() { "udp" } else { "udp6" };
    let text = fs::read_to_string(format!("/proc/thread-self/net/{list}")).expect("sockets can be listed");
    text.lines().skip(1).filter_map(|line| receiver(line, address.port())).collect()
}

fn most_unread(address: SocketAddr) -> u64 {
    receivers(address).iter().map(|receiver| receiver.unread).max().unwrap_or(0)
}

fn receiver(line: &str, port: u16) -> Option<Receiver> {
    // sl, local_address, rem_address, st, tx_queue:rx_queue, and as the last the drops
    let fields: Vec<&str> = line.split_whitespace().collect();
    if !fields.get(1)?.ends_with(&format!(":{port:04X}")) {
        return None;
    }
    let unread = u64::from_str_radix(fields.get(4)?.split(':').nth(1)?, 16).ok()?;
    Some(Receiver { unread, dropped: fields.last()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_told_by_their_port() {
        let line = " 1234: 00000000:1F75 00000000:0000 07 00000000:00000300 00:00000000 00000000 0 0 45 2 0000000000000000 17";
        assert_eq!(receiver(line, 8053), Some(Receiver { unread: 768, dropped: 17 }));
        assert_eq!(receiver(line, 8054), None);
    }

    #[test]
    fn no_two_of_a_million_are_of_one_source() {
        for (target, source) in [("127.0.0.1:8053", 12..22), ("[::1]:8053", 8..42)] {
            let target = target.parse().expect("an address");
            // Of IPv6 the destination is between the two; it is the same for all.
            let source = |number| packet(number, target)[source.clone()].to_vec();
            let sources: std::collections::BTreeSet<_> = (0..1_000_000).step_by(97).map(source).collect();
            assert_eq!(sources.len(), 1_000_000_usize.div_ceil(97));
        }
    }

    #[test]
    fn sums_are_as_in_the_rfc() {
        assert_eq!(ones_complement_sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(ones_complement_sum(&[0xff, 0xff, 0x01]), 0x0100);
    }
}
