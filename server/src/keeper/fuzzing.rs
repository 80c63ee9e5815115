//! Any bytes as what daemon and keeper say to each other, through a real socket.

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::wire::{Answer, Request, receive, send};

/// More is not sent, in bytes: it has to fit into the socket, which nobody reads meanwhile.
const SENT_MAX: usize = 64 * 1024;

/// What is understood is written as the same bytes; what comes out of a socket is understood as what went in.
pub fn check(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(SENT_MAX)];
    let request = Request::decode(bytes);
    if let Some(request) = &request {
        assert_eq!(request.encode(), bytes);
    }
    let answer = Answer::decode(bytes);
    if let Some(answer) = &answer {
        assert_eq!(answer.encode(), bytes);
    }
    assert!(bytes.is_empty() || (request.is_none() || answer.is_none()), "it is both");
    let (from, to) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .expect("a pair of sockets");
    send(&from, bytes, None).expect("the socket has room");
    match receive(&to).expect("it has come") {
        Some((received, descriptor)) => {
            assert!(descriptor.is_none());
            assert_eq!((Request::decode(&received), Answer::decode(&received)), (request, answer));
        }
        None => assert!(bytes.is_empty(), "a datagram is lost"),
    }
}
