//! SYNs as raw packets: they run the program as any SYN does and go no further, because their listener's queue is full.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::connects::client;

const TCP: u8 = 6;
const TCP_LENGTH: usize = 20;
const SYN: u8 = 0x02;
/// Packets in one call: the most that the kernel takes (UIO_MAXIOV).
const BATCH: usize = 1_024;

/// Sends SYNs to one target, each with a 4-tuple of its own.
#[derive(Debug)]
pub(crate) struct Flood {
    socket: Socket,
    target: SockAddr,
    packets: Vec<Vec<u8>>,
}

impl Flood {
    /// Prepares `count` packets. Needs CAP_NET_RAW.
    pub(crate) fn new(target: SocketAddr, count: u32) -> Result<Self> {
        let domain = Domain::for_address(target);
        // With IPPROTO_RAW the IP header is ours to write, for either family.
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
            .context("making a raw socket (needs CAP_NET_RAW)")?;
        let packets = (0..count).map(|number| syn(client(target.is_ipv4(), number), target)).collect();
        // A raw IPv6 socket takes the port of its target for a protocol and wants none.
        Ok(Self { socket, target: SocketAddr::new(target.ip(), 0).into(), packets })
    }

    /// Sends each packet once, and says how many. On loopback the program runs within the call, on this CPU; many packets
    /// in one call keep what the program needs in the caches and in the TLB.
    pub(crate) fn send(&self) -> Result<u64> {
        let mut parts: Vec<libc::iovec> = self
            .packets
            .iter()
            .map(|packet| libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: all zeroes is a value of this struct of integers and pointers.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_name = self.target.as_ptr().cast_mut().cast();
                message.msg_hdr.msg_namelen = self.target.len();
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        for batch in messages.chunks_mut(BATCH) {
            let (socket, length) = (self.socket.as_raw_fd(), batch.len() as u32);
            // SAFETY: the messages, their parts and what these point to live until the call returns; it only reads them,
            // but for the lengths sent, which it writes into the messages.
            let sent = unsafe { libc::sendmmsg(socket, batch.as_mut_ptr(), length, 0) };
            ensure!(sent == length as i32, "{sent} of {length} SYNs sent: {}", io::Error::last_os_error());
        }
        Ok(self.packets.len() as u64)
    }
}

/// A SYN with its IP header, as it goes over the wire.
fn syn(client: SocketAddr, target: SocketAddr) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(TCP_LENGTH);
    tcp.extend(client.port().to_be_bytes());
    tcp.extend(target.port().to_be_bytes());
    // Sequence and acknowledgement numbers.
    tcp.extend([0; 8]);
    // The header's length in words, the flags, and a window.
    tcp.extend([(TCP_LENGTH as u8 / 4) << 4, SYN, 0xff, 0xff]);
    // The checksum and the urgent pointer.
    tcp.extend([0; 4]);
    let (source, destination) = (octets(client.ip()), octets(target.ip()));
    let length = [0, TCP_LENGTH as u8];
    let checksum = checksum(&[&source, &destination, &[0, TCP], &length, &tcp]);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());

    let mut packet = match client.is_ipv4() {
        // The kernel fills in the length, the identification and the header's checksum.
        true => vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, TCP, 0, 0],
        false => vec![0x60, 0, 0, 0, 0, TCP_LENGTH as u8, TCP, 64],
    };
    packet.extend(source);
    packet.extend(destination);
    packet.extend(tcp);
    packet
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The internet checksum (RFC 1071) of parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syn_carries_the_checksum_that_its_receiver_computes() {
        for (client, target) in [("127.1.0.1:20000", "127.0.0.1:80"), ("[fd00::1]:20000", "[::1]:80")] {
            let (client, target): (SocketAddr, SocketAddr) =
                (client.parse().unwrap(), target.parse().unwrap());
            let packet = syn(client, target);
            let header = if client.is_ipv4() { 20 } else { 40 };
            assert_eq!(packet.len(), header + TCP_LENGTH);
            // Over a segment with its checksum the sum is all ones.
            let (source, destination) = (octets(client.ip()), octets(target.ip()));
            let parts: [&[u8]; 4] = [&source, &destination, &[0, TCP, 0, 20], &packet[header..]];
            assert_eq!(checksum(&parts), 0);
        }
    }
}
