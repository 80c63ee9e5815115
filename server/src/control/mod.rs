//! The control protocol: Varlink over a unix socket.

pub mod api;
