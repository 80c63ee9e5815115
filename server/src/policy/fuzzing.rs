//! What holds of any datagram under any configuration of connection IDs.

use server_common::quic::{CONNECTION_ID_MAX, HEAD_MAX, Head, Packet};

use super::QuicCid;

const SEED: [u64; 2] = [1, 2];

/// Reads the first line as options of the policy `quic-cid`, and the rest as a datagram.
///
/// # Panics
/// Where something does not hold.
pub fn check(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let options = std::str::from_utf8(&bytes[..end]).unwrap_or_default();
    let ids = QuicCid::read(options).unwrap_or_default();
    let payload = bytes.get(end + 1..).unwrap_or_default();
    let read = |payload: &[u8]| Head::of(payload).packet(payload.len().min(HEAD_MAX), &ids.formats(), &SEED);
    let packet = read(payload);
    let is_long = payload.first().is_some_and(|first| first & 0x80 != 0);
    let id = match payload {
        [_, _, _, _, _, length, rest @ ..] if is_long => rest.get(..usize::from(*length)),
        [_, rest @ ..] if !is_long => Some(rest),
        _ => None,
    };
    match packet {
        Packet::Of(owner) => {
            let id = id.expect("an owner is named by an ID");
            let said = ids.hosts[usize::from(id[0] >> 5)].expect("the configuration is known");
            let server_id = [said.octets(), &owner.octets()].concat();
            assert!(id[1..].starts_with(&server_id), "{owner:?} of {payload:02x?}");
        }
        Packet::Opening(_) => {
            let id = id.expect("a connection is opened with an ID");
            assert!(is_long && (1..=CONNECTION_ID_MAX).contains(&id.len()), "{payload:02x?}");
            // All of the ID counts, and nothing else.
            let mut other = payload[..6 + id.len()].to_vec();
            other.push(7);
            (other[0], other[1]) = (0x80, !other[1]);
            assert_eq!(read(&other), packet);
        }
        Packet::Unknown => {}
    }
    assert_eq!(read(&payload[..payload.len().min(HEAD_MAX)]), packet, "what is behind is not read");
}
