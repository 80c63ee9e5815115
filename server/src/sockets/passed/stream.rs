//! A unix stream that can be read without closing what is passed over it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::UnixStream,
};

use super::{ClosedElsewhere, Sender, receive};

/// A connection of a peer that may pass descriptors: they are closed elsewhere, and so is the connection.
#[derive(Debug)]
pub struct ReceivingStream {
    stream: UnixStream,
    /// After the stream, whose last close is its.
    last: ClosedElsewhere,
}

impl ReceivingStream {
    /// Takes an accepted connection over.
    pub fn new(stream: UnixStream, sender: Sender) -> io::Result<Self> {
        let last = ClosedElsewhere::of_connection(&stream, sender)?;
        Ok(Self { stream, last })
    }
}

impl AsyncRead for ReceivingStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            ready!(this.stream.poll_read_ready(context))?;
            let read = || receive(&this.stream, buffer.initialize_unfilled());
            match this.stream.try_io(Interest::READABLE, read) {
                Ok(received) => {
                    this.last.sender().close(received.descriptors);
                    if this.last.sender().is_full() {
                        let error = io::Error::other("the peer passes more descriptors than can be closed");
                        return Poll::Ready(Err(error));
                    }
                    buffer.advance(received.length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for ReceivingStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
