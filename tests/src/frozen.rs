//! Handshakes that stay half-open at a listener, by a filter on the listener itself: it passes SYNs and nothing else.

use std::os::fd::{AsFd, AsRawFd as _};

use socket2::{SockFilter, SockRef};

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> SockFilter {
    SockFilter::new(code as u16, jt, jf, k)
}

/// Freezes every handshake at this listener from its SYN-ACK on. Its clients see an open connection.
pub fn freeze(listener: impl AsFd) {
    // A filter of a TCP socket begins at the TCP header. Of its flags, byte 13, SYN is 2 and ACK is 16.
    let program = [
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 13),
        instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, 0x12),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, 2),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    SockRef::from(&listener).attach_filter(&program).expect("a filter can be attached");
}

/// Lets them go on: each ends with the client's next segment.
pub fn thaw(listener: impl AsFd) {
    SockRef::from(&listener).detach_filter().expect("the filter can be detached");
}

/// Has a listener answer no final ACK that brings no data, for so many seconds (TCP_DEFER_ACCEPT).
pub fn defer(listener: impl AsFd, seconds: libc::c_int) {
    let descriptor = listener.as_fd().as_raw_fd();
    // SAFETY: a live descriptor, and the option takes an int of this size.
    let set = unsafe {
        libc::setsockopt(
            descriptor,
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    assert_eq!(set, 0, "TCP_DEFER_ACCEPT: {}", std::io::Error::last_os_error());
}
