//! A flood of UDP datagrams whose sources are made up: each is a flow of its own, and nobody is there to be answered.

use std::{fs, net::Ipv4Addr, net::SocketAddrV4, os::fd::AsRawFd, thread, time::Duration};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

const IP_HEADER: usize = 20;
const LENGTH: usize = IP_HEADER + 8 + 1;
const UDP: u8 = 17;
/// Datagrams in one call. If one socket gets them all it has room for them, beside what established flows have in flight.
const BATCH: usize = 150;
/// From this many unread bytes on, the flood waits for whoever is to read them: less than half of a socket's room.
const UNREAD_MAX: u64 = 60_000;

/// Sends so many datagrams, each of another source, to the address. The sources are of 198.18.0.0/15, to which there is no
/// route: what answers them is told so, and nothing comes back. Never sends into a socket whose queue is half full, so that
/// the flood costs nobody a datagram for want of room. Needs CAP_NET_RAW.
///
/// `sent` is told how many were sent, after each call.
#[track_caller]
pub fn flood(target: SocketAddrV4, count: u32, mut sent: impl FnMut(u32)) {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
        .expect("a raw socket can be made");
    let to = SockAddr::from(SocketAddrV4::new(*target.ip(), 0));
    let mut number = 0;
    while number < count {
        let end = count.min(number + BATCH as u32);
        let packets: Vec<_> = (number..end).map(|number| packet(number, target)).collect();
        send(&socket, &to, &packets);
        number = end;
        sent(number);
        while most_unread(target.port()) > UNREAD_MAX {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// A datagram of one byte with its IP header. Its source's address and port are the number's digits; without a UDP checksum,
/// which IPv4 permits. The kernel fills in the length, the identification and the header's checksum.
fn packet(number: u32, target: SocketAddrV4) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    packet[0] = 0x45;
    packet[8..10].copy_from_slice(&[64, UDP]);
    let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) | (number & 0xffff));
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&target.ip().octets());
    let port = 20_000 + (number >> 16) as u16;
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet[22..24].copy_from_slice(&target.port().to_be_bytes());
    packet[24..26].copy_from_slice(&9_u16.to_be_bytes());
    packet[28] = b'.';
    packet
}

#[track_caller]
fn send(socket: &Socket, to: &SockAddr, packets: &[[u8; LENGTH]]) {
    let mut parts: Vec<libc::iovec> = packets
        .iter()
        .map(|packet| libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: LENGTH })
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

/// The IPv4 sockets that are bound to the port, in the namespace of the calling thread.
#[track_caller]
pub fn receivers(port: u16) -> Vec<Receiver> {
    let text = fs::read_to_string("/proc/thread-self/net/udp").expect("sockets can be listed");
    text.lines().skip(1).filter_map(|line| receiver(line, port)).collect()
}

fn most_unread(port: u16) -> u64 {
    receivers(port).iter().map(|receiver| receiver.unread).max().unwrap_or(0)
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
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8053);
        let source = |number| packet(number, target)[12..22].to_vec();
        let sources: std::collections::BTreeSet<_> = (0..1_000_000).step_by(97).map(source).collect();
        assert_eq!(sources.len(), 1_000_000_usize.div_ceil(97));
    }
}
