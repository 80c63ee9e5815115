//! Datagrams with the local address that they came to, so that the answer comes from there also where the socket is bound to all.

use std::{
    io,
    mem::{MaybeUninit, size_of},
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use socket2::SockAddr;

/// Room for either family's packet info; aligned as a control message's header is.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);

/// The local address of a datagram, as the kernel says it and takes it back.
pub(super) struct Local {
    control: Control,
    length: usize,
}

/// Has the kernel say of each datagram which address it came to.
pub(super) fn wanted(socket: BorrowedFd<'_>, is_ipv6: bool) -> io::Result<()> {
    let (level, name) = if is_ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    let on: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads an int.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const on).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes a datagram: its length, its sender, and where it came to.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, Local)> {
    let mut control = Control([0; 64]);
    // SAFETY: integers and pointers; all zeroes is a value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut receive = |storage: *mut libc::sockaddr_storage, length: *mut libc::socklen_t| {
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_name = storage.cast();
        // SAFETY: `try_init` passes the storage's size.
        header.msg_namelen = unsafe { *length };
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = size_of::<Control>() as _;
        // SAFETY: every pointer is to memory of the length beside it, which lives until the call returns.
        let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        unsafe { *length = header.msg_namelen };
        Ok(count as usize)
    };
    // SAFETY: the kernel has written the address and its length.
    let (count, client) = unsafe { SockAddr::try_init(|storage, length| receive(storage.cast(), length))? };
    let client = client.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut local = Local { control, length: header.msg_controllen };
    local.answers_from_there();
    Ok((count, client, local))
}

impl Local {
    /// The kernel says where an IPv4 datagram came to beside the address to answer from, which may be another of the host's.
    fn answers_from_there(&mut self) {
        // SAFETY: the kernel has written the message of an IPv4 socket whole, as its length says.
        unsafe {
            let message: *mut libc::cmsghdr = self.control.0.as_mut_ptr().cast();
            if self.length >= size_of::<libc::cmsghdr>()
                && (*message).cmsg_level == libc::IPPROTO_IP
                && (*message).cmsg_type == libc::IP_PKTINFO
            {
                let info: *mut libc::in_pktinfo = libc::CMSG_DATA(message).cast();
                (*info).ipi_spec_dst = (*info).ipi_addr;
                (*info).ipi_ifindex = 0;
            }
        }
    }
}

/// Sends a datagram from where another came to.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    datagram: &[u8],
    client: SocketAddr,
    local: &mut Local,
) -> io::Result<()> {
    let client = SockAddr::from(client);
    let mut part = libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
    // SAFETY: integers and pointers; all zeroes is a value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = ptr::from_mut(&mut part);
    header.msg_iovlen = 1;
    header.msg_name = client.as_ptr().cast_mut().cast();
    header.msg_namelen = client.len();
    if local.length > 0 {
        header.msg_control = local.control.0.as_mut_ptr().cast();
        header.msg_controllen = local.length as _;
    }
    // SAFETY: every pointer is to memory of the length beside it, which the kernel reads and which lives until the call returns.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
