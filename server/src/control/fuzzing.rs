//! Any bytes as what a client sends, through the real connection, as far as the daemon would be asked.

use std::{io::Write as _, net::Shutdown, os::unix::net::UnixStream as StdStream, time::Duration};

use serde_json::Value;
use tokio::{net::UnixStream, runtime::Runtime};

use super::{
    api::{Fault, FaultKind, Request},
    dispatch::{self, Asked, understand},
    wire::{self, Incoming, Link, ReceiveError},
};
use crate::sockets::passed::Closer;

/// The largest message, in bytes: small, so that what is larger is tried too.
const MESSAGE_MAX: usize = 2048;

/// More is not written, in bytes: it has to fit into the socket, which nobody reads meanwhile.
const SENT_MAX: usize = 64 * 1024;

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    static CLOSER: Closer = Closer::start().expect("threads can be made");
}

/// What is a request is written and understood as the same; what is none is answered with a whole message.
pub fn check(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(SENT_MAX)];
    RUNTIME.with(|runtime| runtime.block_on(converse(bytes)));
}

async fn converse(bytes: &[u8]) {
    let (mut client, server) = StdStream::pair().expect("a pair of sockets");
    server.set_nonblocking(true).expect("a socket that does not block");
    client.write_all(bytes).expect("the socket has room");
    client.shutdown(Shutdown::Write).expect("the client is done");
    let stream = UnixStream::from_std(server).expect("a socket for the runtime");
    let closer = CLOSER.with(Closer::clone);
    let link = Link::new(stream, MESSAGE_MAX, Duration::from_secs(30), &closer).await;
    let mut link = link.expect("the peer is known");
    let whole = bytes.iter().filter(|byte| **byte == 0).count();
    for calls in 0.. {
        match link.receive().await {
            Ok(call) => {
                assert!(calls < whole, "{whole} messages make more calls");
                check_call(call.incoming);
            }
            Err(ReceiveError::Malformed(reason)) => {
                check_message(&dispatch::encode_fault(&Fault::new(FaultKind::Usage, reason)));
                break;
            }
            Err(ReceiveError::TooLarge) => {
                assert!(bytes.split(|byte| *byte == 0).any(|message| message.len() > MESSAGE_MAX));
                break;
            }
            Err(ReceiveError::Gone) => break,
            Err(ReceiveError::Silent) => panic!("the client's end was not seen"),
        }
    }
}

fn check_call(incoming: Incoming) {
    let method = incoming.method.clone();
    match understand(incoming) {
        Ok(Asked::Request(request)) => check_request(request, &method),
        Ok(Asked::Known(parameters)) => {
            assert!(parameters.is_object());
            check_message(&wire::reply(&parameters, false));
        }
        Err(error) => {
            let message = check_message(&error.encode());
            let name = message["error"].as_str().unwrap_or_default();
            assert!(name.starts_with("org.varlink.service."), "{message}");
            let told = message["parameters"].as_object().expect("parameters");
            assert!(told.len() == 1 && told.values().all(Value::is_string), "{message}");
        }
    }
}

fn check_request(request: Request, method: &str) {
    assert_eq!(request.method(), method);
    let written = serde_json::to_vec(&request).expect("a request can be written");
    let again: Incoming = serde_json::from_slice(&written).expect("a written request is a call");
    assert_eq!(understand(again), Ok(Asked::Request(request)));
}

/// The message, which has one NUL and that at its end.
fn check_message(bytes: &[u8]) -> Value {
    assert_eq!(bytes.iter().position(|byte| *byte == 0), Some(bytes.len() - 1));
    serde_json::from_slice(&bytes[..bytes.len() - 1]).expect("a message is JSON")
}
