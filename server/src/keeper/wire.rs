//! What daemon and keeper say to each other: one datagram each way, with at most one descriptor.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Longer names are refused, in bytes.
pub(super) const NAME_MAX: usize = 200;

/// What a daemon asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// Keep the descriptor that comes along, in place of what had the name.
    Keep(String),
    /// Close what has the name.
    Drop(String),
    /// Give everything out.
    List,
    /// Close everything and end.
    End,
}

/// What the keeper answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is done, or everything has been given out.
    Done,
    /// One thing that is kept; its descriptor comes along.
    Kept(String),
    /// It was not understood.
    Refused,
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (tag, name) = match self {
            Self::Keep(name) => (b'k', name.as_str()),
            Self::Drop(name) => (b'd', name.as_str()),
            Self::List => (b'l', ""),
            Self::End => (b'e', ""),
        };
        [&[tag], name.as_bytes()].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, name) = bytes.split_first()?;
        let name = decode_name(name)?;
        match tag {
            b'k' if !name.is_empty() => Some(Self::Keep(name.to_owned())),
            b'd' if !name.is_empty() => Some(Self::Drop(name.to_owned())),
            b'l' if name.is_empty() => Some(Self::List),
            b'e' if name.is_empty() => Some(Self::End),
            _ => None,
        }
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Done => vec![b'o'],
            Self::Kept(name) => [b"f", name.as_bytes()].concat(),
            Self::Refused => vec![b'r'],
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (b'o', []) => Some(Self::Done),
            (b'r', []) => Some(Self::Refused),
            (b'f', name) => Some(Self::Kept(decode_name(name)?.to_owned())),
            _ => None,
        }
    }
}

fn decode_name(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|name| name.len() <= NAME_MAX)
}

/// Sends one datagram.
pub(super) fn send(socket: impl AsFd, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one datagram; nothing where the other side is gone. One that is too long is empty, which says nothing. The
/// descriptor is closed on exec.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    // Room for a tag and for more than the longest name: one that was cut to it would be taken for another.
    let mut bytes = [0; NAME_MAX + 2];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptor = descriptors.last();
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Ok(Some((Vec::new(), None)));
    }
    Ok((received.bytes > 0).then(|| (bytes[..received.bytes].to_vec(), descriptor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        for request in
            [Request::Keep("web/0/3".into()), Request::Drop("x".into()), Request::List, Request::End]
        {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        for answer in [Answer::Done, Answer::Kept("web/notify".into()), Answer::Refused] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        let long = [b"k".to_vec(), vec![b'x'; NAME_MAX + 1]].concat();
        for bytes in [&b""[..], b"k", b"d", b"lx", b"ex", b"?", b"k\xff", &long] {
            assert_eq!(Request::decode(bytes), None, "{bytes:?}");
        }
        assert_eq!((Answer::decode(b""), Answer::decode(b"ox"), Answer::decode(b"z")), (None, None, None));
    }
}
