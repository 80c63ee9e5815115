//! Any bytes as the kernel's answer to a dump.

use netlink_packet_core::{DefaultNla, NetlinkBuffer, NetlinkHeader, NetlinkMessage};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    inet::{InetResponse, nlas::Nla},
};

use super::{
    wire::{CGROUP_ID, Dump},
    *,
};

/// The number of the dump; the seeds have it.
const SEQUENCE: u32 = 1;

/// A socket's part of an answer is never shorter, in bytes: the header and `struct inet_diag_msg`.
const PART_MIN: usize = 16 + 72;

/// Part by part it is the same as at once; what is understood is written and understood as the same.
pub fn check(bytes: &[u8]) {
    let mut dump = Dump::default();
    let result = dump.add(bytes, SEQUENCE);
    if let Err(error) = &result {
        assert!(!error.to_string().is_empty());
    }
    assert!(dump.sockets.len() <= bytes.len() / PART_MIN, "more sockets than there are bytes for");
    check_parts(bytes, &dump, result.is_ok());
    for found in &dump.sockets {
        assert_eq!(read_again(found).as_ref(), Some(found));
        let listener = listener_info(found);
        let socket = &found.header;
        assert_eq!(handshake(socket).local, local_of(socket));
        assert!(is_bound_to(listener.local, &listener), "{socket:?} is not bound where it is");
        assert!(takes(local_of(socket), local_of(socket)), "{socket:?} does not take its own");
        assert!(!(is_half_open(socket) && held(std::slice::from_ref(socket)).len() == 1), "{socket:?}");
    }
    let headers: Vec<_> = dump.sockets.into_iter().map(|found| found.header).collect();
    let held = held(&headers);
    assert!(held.iter().all(|connection| connection.inode != 0));
}

/// The first part by itself, and then the others.
fn check_parts(bytes: &[u8], whole: &Dump, is_whole: bool) {
    let Ok(first) = NetlinkBuffer::new_checked(bytes) else { return };
    let end = (first.length() as usize).next_multiple_of(4).min(bytes.len());
    let mut dump = Dump::default();
    let result = dump.add(&bytes[..end], SEQUENCE).and_then(|()| dump.add(&bytes[end..], SEQUENCE));
    assert_eq!(result.is_ok(), is_whole);
    assert_eq!(dump.sockets, whole.sockets);
    assert_eq!((dump.interrupted, dump.finished), (whole.interrupted, whole.finished));
}

fn read_again(Found { header: socket, cgroup }: &Found) -> Option<Found> {
    let mut header = NetlinkHeader::default();
    header.sequence_number = SEQUENCE;
    let attribute = |cgroup: &u64| Nla::Other(DefaultNla::new(CGROUP_ID, cgroup.to_ne_bytes().to_vec()));
    let response = InetResponse { header: socket.clone(), nlas: cgroup.iter().map(attribute).collect() };
    let message = SockDiagMessage::InetResponse(Box::new(response));
    let mut message = NetlinkMessage::new(header, message.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut dump = Dump::default();
    dump.add(&bytes, SEQUENCE).ok()?;
    dump.sockets.pop()
}
