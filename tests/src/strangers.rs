//! Sockets of this process, which runs as the same user as the daemon, in the kernel's group of an address.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd,
};

use socket2::{Domain, Socket, Type};

/// Joins the kernel's group of the address, and listens.
#[track_caller]
pub fn join(address: &str) -> TcpListener {
    let address: SocketAddr = address.parse().expect("an address");
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("SO_REUSEPORT");
    socket.bind(&address.into()).expect("it may join");
    socket.listen(1024).expect("it listens");
    socket.set_nonblocking(true).expect("non-blocking");
    socket.into()
}

/// How many connections wait for it; they are closed.
#[track_caller]
pub fn accepted(listener: &TcpListener) -> usize {
    let mut count = 0;
    loop {
        match listener.accept() {
            Ok(_) => count += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return count,
            Err(error) => panic!("accept: {error}"),
        }
    }
}

/// Takes the program from the group that a socket is in, as any member may.
#[track_caller]
pub fn detach_program(member: &TcpListener) {
    let nothing: libc::c_int = 0;
    set(member, libc::SO_DETACH_REUSEPORT_BPF, &nothing);
}

/// Gives the group that a socket is in a program that always chooses the member that joined as number `index`.
#[track_caller]
pub fn attach_constant(member: &TcpListener, index: u32) {
    // BPF_RET | BPF_K of linux/bpf_common.h.
    let mut code = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: index }];
    let program = libc::sock_fprog { len: 1, filter: code.as_mut_ptr() };
    set(member, libc::SO_ATTACH_REUSEPORT_CBPF, &program);
}

fn set<T>(member: &TcpListener, option: libc::c_int, value: &T) {
    // SAFETY: the pointer and the size are those of a value that lives through the call, and of the type that the option takes.
    let result = unsafe {
        libc::setsockopt(
            member.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
