//! One connection, from its socket to its verdict. Non-blocking: it goes as far as the kernel lets it.

use std::{
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt},
};

use super::{
    answer::{AnswerReader, Responder},
    plan::FourTuple,
    tally::{FailureKind, Stage},
};

const REQUEST_LAST: &[u8] = b"GET / HTTP/1.1\r\nHost: steer\r\nConnection: close\r\n\r\n";
const REQUEST_FURTHER: &[u8] = b"GET / HTTP/1.1\r\nHost: steer\r\n\r\n";

/// A connection that is under way.
pub(super) struct Flow {
    socket: OwnedFd,
    stage: FlowStage,
    /// Requests whose answer is not complete yet.
    requests_left: u32,
    /// Bytes of the present request that are sent.
    sent: usize,
    /// The instant of `connect`.
    pub(super) began: Instant,
    /// The instant from which the present answer's latency counts.
    asked: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FlowStage {
    /// The handshake may still be on its way: the request has not gone out at all.
    Connecting,
    Writing,
    Reading,
    /// Every answer is complete. The server closes first, so that TIME_WAIT is on its side and the 4-tuple is
    /// free for the next visit.
    Closing,
}

/// Why a flow could not be begun.
pub(super) enum OpenError {
    /// The client's own address and port are in use, or none is left: nothing was sent.
    Skipped,
    /// `connect` itself failed.
    Failed(FailureKind),
    /// The client cannot work like this: no descriptors, no such address, no permission.
    Broken(&'static str, Errno),
}

/// What came of going on.
pub(super) enum Progress {
    /// Nothing to do until the kernel reports something.
    Waiting,
    /// It is over: the socket may be closed now.
    Over,
    /// It failed.
    Failed(Stage, FailureKind),
}

/// Told of each complete answer, at its instant.
pub(super) trait OnAnswer {
    /// `last` is true for the last answer on the connection: the verdict is "ok".
    fn answered(&mut self, responder: &Responder, asked: Instant, last: bool);
}

impl Flow {
    /// Binds and connects. [`Self::advance`] may follow at once: on loopback the handshake is over by then.
    pub(super) fn open(tuple: &FourTuple, requests: u32) -> Result<Self, OpenError> {
        let socket = bound_socket(tuple)?;
        let began = Instant::now();
        match net::connect(&socket, &tuple.target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(Errno::ADDRINUSE | Errno::ADDRNOTAVAIL) => return Err(OpenError::Skipped),
            Err(error) => return Err(OpenError::Failed(FailureKind::of_errno(error.raw_os_error()))),
        }
        let (stage, requests_left) = (FlowStage::Connecting, requests.max(1));
        Ok(Self { socket, stage, requests_left, sent: 0, began, asked: began })
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether every answer is complete, so that the verdict stands.
    pub(super) fn is_closing(&self) -> bool {
        self.stage == FlowStage::Closing
    }

    /// Whether the request is out, so that only reading is left to wait for.
    pub(super) fn has_asked(&self) -> bool {
        matches!(self.stage, FlowStage::Reading | FlowStage::Closing)
    }

    /// The stage at which a timeout finds the flow.
    pub(super) fn public_stage(&self) -> Stage {
        match self.stage {
            FlowStage::Connecting => Stage::Connect,
            FlowStage::Writing => Stage::Write,
            FlowStage::Reading | FlowStage::Closing => Stage::Read,
        }
    }

    /// Goes on as far as possible. `end_of_stream`: the kernel has reported that the peer will send no more;
    /// `reader`: the same, empty at first, for as long as the flow lives.
    pub(super) fn advance(
        &mut self,
        end_of_stream: bool,
        reader: &mut AnswerReader,
        buffer: &mut [u8],
        on_answer: &mut impl OnAnswer,
    ) -> Progress {
        loop {
            match self.stage {
                FlowStage::Connecting | FlowStage::Writing => match self.write() {
                    Ok(true) => return Progress::Waiting,
                    Ok(false) => {}
                    Err(error) => return self.fail(error),
                },
                FlowStage::Reading => match net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                    Ok((0, _)) => return Progress::Failed(Stage::Read, FailureKind::Truncated),
                    Ok((count, _)) => match reader.take(&buffer[..count]) {
                        Ok(false) => {}
                        Ok(true) => self.complete(reader, on_answer),
                        Err(what) => {
                            return Progress::Failed(Stage::Read, FailureKind::WrongAnswer(what));
                        }
                    },
                    Err(Errno::AGAIN) => return Progress::Waiting,
                    Err(Errno::INTR) => {}
                    Err(error) => return self.fail(error),
                },
                FlowStage::Closing if end_of_stream => return Progress::Over,
                FlowStage::Closing => match net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                    Err(Errno::AGAIN) => return Progress::Waiting,
                    Err(Errno::INTR) => {}
                    // The answer is complete: neither more bytes nor a reset changes what the user has got.
                    Ok(_) | Err(_) => return Progress::Over,
                },
            }
        }
    }

    /// Gives the connection up with a reset, so that no TIME_WAIT keeps the 4-tuple busy.
    pub(super) fn abort(self) {
        // A failure leaves an orderly close, which is good enough for a connection that nobody wants.
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }

    fn complete(&mut self, reader: &mut AnswerReader, on_answer: &mut impl OnAnswer) {
        self.requests_left -= 1;
        let last = self.requests_left == 0;
        on_answer.answered(reader.responder(), self.asked, last);
        if last {
            self.stage = FlowStage::Closing;
        } else {
            reader.reset();
            self.sent = 0;
            self.asked = Instant::now();
            self.stage = FlowStage::Writing;
        }
    }

    /// Sends what is left of the request. `Ok(true)`: the kernel takes no more now, or the request is out.
    fn write(&mut self) -> Result<bool, Errno> {
        let request = if self.requests_left == 1 { REQUEST_LAST } else { REQUEST_FURTHER };
        // While the handshake is under way `send` fails with EAGAIN, and if it has failed, with its error: no
        // look at SO_ERROR is needed.
        match net::send(&self.socket, &request[self.sent..], SendFlags::NOSIGNAL) {
            Ok(count) => {
                self.sent += count;
                let done = self.sent == request.len();
                self.stage = if done { FlowStage::Reading } else { FlowStage::Writing };
                Ok(done)
            }
            Err(Errno::AGAIN) => Ok(true),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn fail(&self, error: Errno) -> Progress {
        Progress::Failed(self.public_stage(), FailureKind::of_errno(error.raw_os_error()))
    }
}

fn bound_socket(tuple: &FourTuple) -> Result<OwnedFd, OpenError> {
    let family = if tuple.target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)
        .map_err(|error| OpenError::Broken("socket", error))?;
    let client = tuple.client;
    if client.port() != 0 {
        // One address and port serves several targets at once.
        sockopt::set_socket_reuseaddr(&socket, true)
            .map_err(|error| OpenError::Broken("set SO_REUSEADDR", error))?;
    }
    match client.ip() {
        // An address that is local only by a route (AnyIP) is on no device, and IPv6 binds to no such address.
        IpAddr::V6(address) if !address.is_loopback() && !address.is_unspecified() => {
            sockopt::set_ipv6_freebind(&socket, true)
                .map_err(|error| OpenError::Broken("set IPV6_FREEBIND", error))?;
        }
        _ => {}
    }
    if client.port() == 0 && client.ip().is_unspecified() {
        return Ok(socket);
    }
    match net::bind(&socket, &client) {
        Ok(()) => Ok(socket),
        Err(Errno::ADDRINUSE) => Err(OpenError::Skipped),
        Err(error) => Err(OpenError::Broken("bind", error)),
    }
}
