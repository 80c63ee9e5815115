//! The client's end of the control socket.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;
use zlink::{Call, tokio::unix, varlink_service};

use super::{
    api::{self, Fault, FaultKind},
    patience::{self, Bound, Patience, Silence},
};
use crate::sockets::{pidfd, procfs};

/// A connection to the daemon. Calls are carried out one after another; the daemon closes it after 30 seconds
/// without one, so connect when there is something to ask.
#[derive(Debug)]
pub struct Client {
    connection: unix::Connection,
    path: PathBuf,
    patience: Patience,
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
    /// It listens, and does nothing for anybody.
    #[error("{operation}: the daemon at {} has {silence} for {} s", path.display(), after.as_secs_f64())]
    Silent {
        /// What was asked.
        operation: String,
        /// The socket's path.
        path: PathBuf,
        /// How long it was waited for.
        after: Duration,
        /// What there was too little of.
        silence: &'static str,
        /// The daemon's process, where it can be seen.
        pid: Option<u32>,
        /// Whether a change was asked for, which the daemon does when it goes on.
        is_change: bool,
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

/// Where a daemon that runs as a service tells of itself.
const LOOK: &str = "`systemctl status steer` and `journalctl -u steer` tell more";

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
            Self::Silent { pid, is_change, .. } => Some(silence_hint(*pid, *is_change)),
            Self::Fault(fault) => fault.hint.clone(),
            Self::Protocol { .. } => Some("`steer status` tells whether the daemon still runs".to_owned()),
        }
    }
}

fn silence_hint(pid: Option<u32>, is_change: bool) -> String {
    let state = pid.and_then(|pid| Some((pid, procfs::stat(pid)?.state)));
    let what = match state {
        Some((pid, 'T')) => format!("its process {pid} is stopped: `kill -CONT {pid}` lets it go on"),
        Some((pid, _)) => format!("its process {pid} hangs or is overloaded: {LOOK}"),
        None => format!("it is stopped, hangs or is overloaded: {LOOK}"),
    };
    let rest = if is_change { "; the change was sent, and is made when the daemon goes on" } else { "" };
    what + rest
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
    /// Connects to the daemon's socket at `path`, with the default [`Patience`].
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::connect_with(Patience::default(), path).await
    }

    /// [`Self::connect`] with another patience. Waits while the socket's backlog is full.
    pub async fn connect_with(patience: Patience, path: &Path) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: path.to_owned(), source };
        match patience::connect(patience, path).await {
            Ok(Ok(connection)) => Ok(Self { connection, path: path.to_owned(), patience }),
            Ok(Err(zlink::Error::Io(source))) => Err(unreachable(source)),
            Ok(Err(other)) => Err(unreachable(io::Error::other(other))),
            Err(Silence) => Err(ClientError::Silent {
                operation: "cannot connect".to_owned(),
                path: path.to_owned(),
                after: patience.answer,
                silence: "accepted no connection",
                pid: None,
                is_change: false,
            }),
        }
    }

    /// A pidfd of the process that listens on the socket; nothing where it is in a pid namespace that cannot be seen,
    /// or has ended.
    pub fn daemon(&self) -> Option<OwnedFd> {
        pidfd::open(self.daemon_pid()?).ok()
    }

    fn daemon_pid(&self) -> Option<u32> {
        let credentials = rustix::net::sockopt::socket_peercred(self.connection.read().read_half()).ok()?;
        Some(credentials.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Asks for `request` and gives the last answer back; those before it go to `on_answer` as they come.
    ///
    /// What only reads is waited for as long as [`Patience`] says; a change for as long as it takes while the daemon lives, which it is
    /// asked on a second connection; a stream that is followed has no end once it has begun. Dropping the future (with the client) leaves a change going on.
    pub async fn call(
        &mut self,
        request: api::Request,
        mut on_answer: impl FnMut(api::Response),
    ) -> Result<api::Response, ClientError> {
        let written = serde_json::to_value(&request)
            .map_err(|source| self.protocol("cannot write the request for the daemon", source))?;
        let more = request.streams();
        let mut bound = Bound::of(&request);
        self.send(request.method(), &written["parameters"], more).await?;
        loop {
            let (answer, last) = self.receive(request.method(), bound).await?;
            bound = bound.next();
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
        let mut bound = Bound::of_call(method, parameters);
        self.send(method, parameters, api::streams(method)).await?;
        loop {
            let (answer, last) = self.receive(method, bound).await?;
            bound = bound.next();
            if last {
                return Ok(answer);
            }
            on_answer(answer);
        }
    }

    async fn send(&mut self, method: &str, parameters: &Value, more: bool) -> Result<(), ClientError> {
        let call = Call::new(AnyCall { method, parameters }).set_more(more);
        let sent = self.connection.send_call(&call, Vec::new());
        // A long one may find the socket's buffer full.
        match Bound::Answer.wait(self.patience, &self.path, sent).await {
            Err(Silence) => Err(self.silent(method, Bound::Answer)),
            Ok(sent) => self.sent(sent),
        }
    }

    fn sent(&self, sent: zlink::Result<()>) -> Result<(), ClientError> {
        match sent {
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

    async fn receive(&mut self, method: &str, bound: Bound) -> Result<(Value, bool), ClientError> {
        let reply = self.connection.receive_reply::<Value, AnyError>();
        let Ok(reply) = bound.wait(self.patience, &self.path, reply).await else {
            return Err(self.silent(method, bound));
        };
        match reply {
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

    fn silent(&self, method: &str, bound: Bound) -> ClientError {
        ClientError::Silent {
            operation: method.strip_prefix("io.steer.Control.").unwrap_or(method).to_owned(),
            path: self.path.clone(),
            after: self.patience.answer,
            silence: match bound {
                Bound::Answer => "not answered",
                _ => "given no sign of life",
            },
            pid: self.daemon_pid(),
            is_change: bound == Bound::Life,
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
