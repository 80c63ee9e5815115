//! The client's end of the control socket.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;
use zlink::{Call, tokio::unix, varlink_service};

use super::api::{self, Fault, FaultKind};
use crate::sockets::pidfd;

/// A connection to the daemon. Calls are carried out one after another; the daemon closes it after 30 seconds
/// without one, so connect when there is something to ask.
#[derive(Debug)]
pub struct Client {
    connection: unix::Connection,
    path: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens there, or not to this user.
    #[error("cannot reach the daemon at {}", path.display())]
    Unreachable {
        /// The socket's path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The daemon has answered that it does not do it, or that it went wrong.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// What came is not what this client understands, or ended early.
    #[error("{operation} at {}", path.display())]
    Protocol {
        /// What went wrong.
        operation: &'static str,
        /// The socket's path.
        path: PathBuf,
        /// How.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ClientError {
    /// The way out, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { source, .. } => Some(match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    "run it as root, or as a member of the group steer for what only reads".to_owned()
                }
                io::ErrorKind::NotFound => {
                    "start a daemon with `steer run`, or name its socket with --socket".to_owned()
                }
                _ => {
                    "the daemon has ended: start it again, or name another's socket with --socket".to_owned()
                }
            }),
            Self::Fault(fault) => fault.hint.clone(),
            Self::Protocol { .. } => Some("`steer status` tells whether the daemon still runs".to_owned()),
        }
    }
}

/// A call of any method.
#[derive(Debug, Serialize)]
struct AnyCall<'a> {
    method: &'a str,
    parameters: &'a Value,
}

/// An error reply of any interface but varlink's own.
#[derive(Debug, Deserialize)]
struct AnyError {
    error: String,
    #[serde(default)]
    parameters: Option<Value>,
}

impl Client {
    /// Connects to the daemon's socket at `path`.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: path.to_owned(), source };
        match unix::connect(path).await {
            Ok(connection) => Ok(Self { connection, path: path.to_owned() }),
            Err(zlink::Error::Io(source)) => Err(unreachable(source)),
            Err(other) => Err(unreachable(io::Error::other(other))),
        }
    }

    /// A pidfd of the process that listens on the socket; nothing where it is in a pid namespace that cannot be seen,
    /// or has ended.
    pub fn daemon(&self) -> Option<OwnedFd> {
        let credentials = rustix::net::sockopt::socket_peercred(self.connection.read().read_half()).ok()?;
        pidfd::open(credentials.pid.as_raw_nonzero().get().unsigned_abs()).ok()
    }

    /// Asks for `request` and gives the last answer back; those before it go to `on_answer` as they come.
    ///
    /// Waits as long as the daemon takes. Dropping the future (with the client) leaves a change going on.
    pub async fn call(
        &mut self,
        request: api::Request,
        mut on_answer: impl FnMut(api::Response),
    ) -> Result<api::Response, ClientError> {
        let written = serde_json::to_value(&request)
            .map_err(|source| self.protocol("cannot write the request for the daemon", source))?;
        let more = request.streams();
        self.send(request.method(), &written["parameters"], more).await?;
        loop {
            let (answer, last) = self.receive(request.method()).await?;
            let answer = serde_json::from_value(answer)
                .map_err(|source| self.protocol("cannot understand the daemon's answer", source))?;
            if last {
                return Ok(answer);
            }
            on_answer(answer);
        }
    }

    /// Calls any method by its full name, with answers as they are on the wire.
    pub async fn call_any(
        &mut self,
        method: &str,
        parameters: &Value,
        mut on_answer: impl FnMut(Value),
    ) -> Result<Value, ClientError> {
        self.send(method, parameters, api::streams(method)).await?;
        loop {
            let (answer, last) = self.receive(method).await?;
            if last {
                return Ok(answer);
            }
            on_answer(answer);
        }
    }

    async fn send(&mut self, method: &str, parameters: &Value, more: bool) -> Result<(), ClientError> {
        let call = Call::new(AnyCall { method, parameters }).set_more(more);
        match self.connection.send_call(&call, Vec::new()).await {
            Ok(()) => Ok(()),
            // The daemon has closed; why, it has said in a message that is still to be read.
            Err(zlink::Error::Io(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                Ok(())
            }
            Err(source) => Err(self.protocol("cannot send the request to the daemon", source)),
        }
    }

    async fn receive(&mut self, method: &str) -> Result<(Value, bool), ClientError> {
        match self.connection.receive_reply::<Value, AnyError>().await {
            Ok((Ok(reply), _no_descriptors)) => {
                let last = reply.continues() != Some(true);
                Ok((reply.into_parameters().unwrap_or_else(|| json!({})), last))
            }
            Ok((Err(error), _no_descriptors)) => Err(ClientError::Fault(fault(error))),
            Err(zlink::Error::VarlinkService(error)) => {
                Err(ClientError::Fault(service_fault(method, error.inner())))
            }
            Err(source @ (zlink::Error::UnexpectedEof | zlink::Error::Io(_))) => {
                Err(self.protocol("the daemon closed the connection before its last answer", source))
            }
            Err(source) => Err(self.protocol("cannot understand the daemon's answer", source)),
        }
    }

    fn protocol(
        &self,
        operation: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> ClientError {
        ClientError::Protocol { operation, path: self.path.clone(), source: Box::new(source) }
    }
}

fn fault(error: AnyError) -> Fault {
    let text = |key: &str| {
        let parameters = error.parameters.as_ref()?;
        parameters.get(key)?.as_str().map(str::to_owned)
    };
    let known = FaultKind::from_error_name(&error.error);
    Fault {
        kind: known.unwrap_or(FaultKind::Failed),
        message: text("message").unwrap_or_else(|| format!("the daemon answers {}", error.error)),
        hint: text("hint"),
    }
}

/// Varlink's own errors, in our terms.
fn service_fault(method: &str, error: &varlink_service::Error<'_>) -> Fault {
    use varlink_service::Error;
    let describe = format!(
        "`steer call org.varlink.service.GetInterfaceDescription '{{\"interface\":\"{}\"}}'` lists what there is",
        api::INTERFACE
    );
    match error {
        Error::MethodNotFound { method } | Error::MethodNotImplemented { method } => {
            Fault::new(FaultKind::Usage, format!("the daemon has no method {method}")).with_hint(describe)
        }
        Error::InterfaceNotFound { interface } => {
            Fault::new(FaultKind::Usage, format!("the daemon has no interface {interface:?}"))
                .with_hint(describe)
        }
        Error::InvalidParameter { parameter } => Fault::new(
            FaultKind::Usage,
            format!("the parameter {parameter:?} of {method} is missing, malformed or unknown"),
        )
        .with_hint(describe),
        Error::PermissionDenied => Fault::new(FaultKind::Refused, format!("{method} is not allowed")),
        other => Fault::new(FaultKind::Failed, format!("{method}: {other}")),
    }
}
