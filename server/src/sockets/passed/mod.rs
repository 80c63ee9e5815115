//! Descriptors that others pass to the daemon over its unix sockets (SCM_RIGHTS), none of which it wants.
//!
//! To close one can take as long as its sender likes: the last close of a TCP socket with SO_LINGER waits for a peer that does not
//! read, up to hours, and the close of a file waits for the FUSE server behind it. Closes also come unasked: a read without room for
//! descriptors has the kernel close them, and so does the close of a socket with descriptors that nobody has read. So where the
//! kernel can (Linux 6.16) sockets [refuse](refuse) descriptors, and elsewhere [what is received](receive) and [the sockets
//! themselves](ClosedElsewhere) are closed by the threads of a [`Closer`].
//!
//! Notification sockets do not refuse: `systemd-notify` passes the end of a pipe and waits until it is closed (`BARRIER=1`).

mod closer;
mod receive;
mod refusal;
mod stream;

pub use self::{
    closer::{ClosedElsewhere, Closer, Sender},
    receive::{Received, peek, receive, take},
    refusal::refuse,
    stream::ReceivingStream,
};

#[cfg(test)]
pub(crate) mod tests;
