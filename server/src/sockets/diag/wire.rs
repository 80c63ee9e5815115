//! The netlink side of a dump: one request out, datagrams of many parts in. Pure.

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    Nla as _,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, InetResponse, InetResponseHeader, SocketId, StateFlags, nlas::Nla},
};

use super::DiagError;
use crate::sockets::address::Protocol;

/// An address family that is dumped by itself: sock_diag has no "both".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// Which sockets a dump asks for.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) family: Family,
    pub(super) protocol: Protocol,
    /// The local port, which the kernel filters by.
    pub(super) port: u16,
    pub(super) states: StateFlags,
}

/// `INET_DIAG_CGROUP_ID` of linux/inet_diag.h.
pub(super) const CGROUP_ID: u16 = 21;

/// A socket of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) header: InetResponseHeader,
    /// The cgroup of the process that made it. The kernel says it unasked (Linux 5.9, CONFIG_SOCK_CGROUP_DATA), and not of half-open handshakes.
    pub(super) cgroup: Option<u64>,
}

/// What has come of a dump so far.
#[derive(Debug, Default)]
pub(super) struct Dump {
    pub(super) sockets: Vec<Found>,
    /// The kernel said that its tables changed in a way that makes the dump inconsistent.
    pub(super) interrupted: bool,
    /// The last part has come.
    pub(super) finished: bool,
}

impl Query {
    /// The request, ready to be sent.
    pub(super) fn serialize(&self, sequence: u32) -> Vec<u8> {
        let (family, mut socket_id) = match self.family {
            Family::V4 => (AF_INET, SocketId::new_v4()),
            Family::V6 => (AF_INET6, SocketId::new_v6()),
        };
        socket_id.source_port = self.port;
        let request = InetRequest {
            family,
            protocol: match self.protocol {
                Protocol::Tcp => IPPROTO_TCP,
                Protocol::Udp => IPPROTO_UDP,
            },
            extensions: ExtensionFlags::empty(),
            states: self.states.clone(),
            socket_id,
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = sequence;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }
}

impl Dump {
    /// Adds the parts of one datagram. Parts of an earlier dump, which was given up, are left out.
    pub(super) fn add(&mut self, datagram: &[u8], sequence: u32) -> Result<(), DiagError> {
        let malformed = |reason: netlink_packet_core::DecodeError| DiagError::Malformed(reason.to_string());
        let mut rest = datagram;
        while !rest.is_empty() && !self.finished {
            let frame = NetlinkBuffer::new_checked(rest).map_err(malformed)?;
            let length = frame.length() as usize;
            if frame.sequence_number() == sequence {
                self.interrupted |= frame.flags() & NLM_F_DUMP_INTR != 0;
                self.take(NetlinkMessage::deserialize(rest).map_err(malformed)?)?;
            }
            // Parts are aligned to 4 bytes; the last may come without its padding.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }

    fn take(&mut self, message: NetlinkMessage<SockDiagMessage>) -> Result<(), DiagError> {
        let refused =
            |code: i32| DiagError::Refused(std::io::Error::from_raw_os_error(code.saturating_abs()));
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                self.sockets.push(Found { cgroup: cgroup_of(&response), header: response.header });
            }
            // A dump that fails halfway says so in its last part.
            NetlinkPayload::Done(done) if done.code < 0 => return Err(refused(done.code)),
            NetlinkPayload::Done(_) => self.finished = true,
            NetlinkPayload::Error(error) if error.raw_code() != 0 => return Err(refused(error.raw_code())),
            NetlinkPayload::Overrun(_) => return Err(refused(libc::ENOBUFS)),
            _ => {}
        }
        Ok(())
    }
}

fn cgroup_of(response: &InetResponse) -> Option<u64> {
    response.nlas.iter().find_map(|attribute| match attribute {
        Nla::Other(other) if other.kind() == CGROUP_ID => {
            let mut value = [0; size_of::<u64>()];
            (other.value_len() == value.len()).then(|| {
                other.emit_value(&mut value);
                u64::from_ne_bytes(value)
            })
        }
        _ => None,
    })
}
