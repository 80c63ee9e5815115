//! One read of a unix socket, with room for all that can come with it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

/// What one read brought.
#[derive(Debug)]
pub struct Received {
    /// How many bytes; of a datagram that was [peeked](peek) or [taken](take) all that it has, beyond the room too.
    pub length: usize,
    /// Whether a datagram was longer than the room for it.
    pub is_cut: bool,
    /// Who sent it, of a socket with SO_PASSCRED.
    pub sender: Option<libc::ucred>,
    /// Descriptors; they are the caller's to close.
    pub descriptors: Vec<OwnedFd>,
}

/// Room for the credentials and for as many descriptors as the kernel passes at once (SCM_MAX_FD, 253), in u64 so that it is aligned as
/// a cmsghdr has to be.
const ROOM: usize = 160;

/// Room for the credentials alone, in u64.
const ROOM_FOR_SENDER: usize =
    // SAFETY: it only computes.
    unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as _) } as usize / size_of::<u64>();

/// Reads into `bytes`, without waiting: an error of the kind `WouldBlock` where there is nothing.
pub fn receive(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<Received> {
    read(socket, bytes, &mut [0; ROOM], 0)
}

/// Takes a datagram out of the queue.
pub fn take(socket: impl AsFd) -> io::Result<Received> {
    read(socket, &mut [], &mut [0; ROOM], libc::MSG_TRUNC)
}

/// The same as [`receive`], of a datagram that stays in the queue. Its descriptors stay with it.
///
/// For each peek the kernel would make the descriptors once more, to be closed like those received. It makes as many as there is room
/// for, and puts the credentials first: so there is room for these alone.
pub fn peek(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<Received> {
    read(socket, bytes, &mut [0; ROOM_FOR_SENDER], libc::MSG_PEEK | libc::MSG_TRUNC)
}

fn read(
    socket: impl AsFd,
    bytes: &mut [u8],
    control: &mut [u64],
    flags: libc::c_int,
) -> io::Result<Received> {
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: a `msghdr` is integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(control) as _;
    let flags = flags | libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the header points to live buffers of the lengths given.
    let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &mut header, flags) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let mut descriptors = Vec::new();
    let mut sender = None;
    // SAFETY: the kernel has filled `control` with whole messages up to `msg_controllen`, which these macros walk;
    // each descriptor in it is new and belongs to nobody else.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            if (*message).cmsg_level == libc::SOL_SOCKET {
                let length = (*message).cmsg_len as usize - (data as usize - message as usize);
                match (*message).cmsg_type {
                    libc::SCM_RIGHTS => {
                        for index in 0..length / size_of::<libc::c_int>() {
                            let descriptor = data.cast::<libc::c_int>().add(index).read_unaligned();
                            descriptors.push(OwnedFd::from_raw_fd(descriptor));
                        }
                    }
                    libc::SCM_CREDENTIALS if length >= size_of::<libc::ucred>() => {
                        sender = Some(data.cast::<libc::ucred>().read_unaligned());
                    }
                    _ => {}
                }
            }
            message = libc::CMSG_NXTHDR(&header, message);
        }
    }
    Ok(Received { length, is_cut: header.msg_flags & libc::MSG_TRUNC != 0, sender, descriptors })
}
