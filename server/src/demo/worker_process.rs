//! One sample worker as a plain SO_REUSEPORT server: it binds the address itself, and nobody steers it.

use std::{
    ffi::OsString,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    net::UnixDatagram,
    process::{Child, Command},
    time::timeout,
};

use super::{children::tie_to_this_process, error::DemoError};

/// How long a worker may take to be ready, and to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of a process's output an error shows.
const OUTPUT_LINES: usize = 10;

/// How workers are started.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    /// The program and its first arguments; `--listen ADDRESS` follows for each address.
    pub(super) command: Vec<OsString>,
    /// Where they listen.
    pub(super) addresses: Vec<SocketAddr>,
    /// The group's name, in the workers' environment.
    pub(super) group: String,
    /// Where their notify sockets and their output go.
    pub(super) directory: PathBuf,
}

/// A worker that is ready.
#[derive(Debug)]
pub(super) struct WorkerProcess {
    name: String,
    child: Child,
    output: PathBuf,
}

impl WorkerProcess {
    /// Starts one, and waits until it says `READY=1`: then it listens.
    pub(super) async fn start(launch: &Launch, index: u32, generation: u64) -> Result<Self, DemoError> {
        let name = format!("{}/{index}", launch.group);
        let notify = launch.directory.join(format!("notify-{index}-{generation}"));
        let file_error = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| DemoError::File { operation, path, source }
        };
        let socket = UnixDatagram::bind(&notify).map_err(file_error("bind", &notify))?;
        let output = launch.directory.join(format!("output-{index}"));
        let log = File::create(&output).map_err(file_error("create", &output))?;
        let same_log = log.try_clone().map_err(file_error("duplicate", &output))?;

        let mut command = Command::new(&launch.command[0]);
        command.args(&launch.command[1..]);
        for address in &launch.addresses {
            command.arg("--listen").arg(format!("tcp://{address}"));
        }
        command
            .env("NOTIFY_SOCKET", &notify)
            .env("STEER_GROUP", &launch.group)
            .env("STEER_WORKER", &name)
            .env("STEER_GENERATION", generation.to_string())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(same_log);
        tie_to_this_process(&mut command);
        let child = command.spawn().map_err(|source| DemoError::Start { name: name.clone(), source })?;

        let mut worker = Self { name, child, output };
        let ready = worker.wait_until_ready(&socket).await;
        // It has served its purpose; the directory goes with the demo anyway.
        let _ = std::fs::remove_file(&notify);
        ready.map(|()| worker)
    }

    /// Tells it to stop with SIGTERM, and waits for its end: an orderly one.
    pub(super) async fn stop(self) -> Result<(), DemoError> {
        let (name, output) = (self.name.clone(), self.output.clone());
        let status = self.end(Signal::TERM).await?;
        if status.success() {
            return Ok(());
        }
        Err(DemoError::Ended { name, status: status.to_string(), output: last_lines(&output) })
    }

    /// Kills it, and waits for its end.
    pub(super) async fn kill(self) -> Result<(), DemoError> {
        self.end(Signal::KILL).await.map(drop)
    }

    async fn end(mut self, signal: Signal) -> Result<ExitStatus, DemoError> {
        // No pid: it has been waited for already. ESRCH cannot be, for nobody else waits for it.
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            kill_process(pid, signal)
                .map_err(|error| DemoError::System { operation: "signal a worker", source: error.into() })?;
        }
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => {
                status.map_err(|source| DemoError::System { operation: "wait for a worker's end", source })
            }
            Err(_) => Err(self.too_late("ended")),
        }
    }

    async fn wait_until_ready(&mut self, notify: &UnixDatagram) -> Result<(), DemoError> {
        let mut message = [0; 4096];
        let ready = async {
            loop {
                let length = notify.recv(&mut message).await?;
                if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                    return Ok(());
                }
            }
        };
        tokio::select! {
            received = timeout(PATIENCE, ready) => match received {
                Ok(received) => received
                    .map_err(|source| DemoError::System { operation: "hear from a worker", source }),
                Err(_) => Err(self.too_late("ready")),
            },
            status = self.child.wait() => Err(DemoError::Ended {
                name: self.name.clone(),
                status: status.map_or_else(|error| error.to_string(), |status| status.to_string()),
                output: last_lines(&self.output),
            }),
        }
    }

    fn too_late(&self, wanted: &'static str) -> DemoError {
        let last = format!("pid {:?}{}", self.child.id(), last_lines(&self.output));
        DemoError::TooLate { name: self.name.clone(), wanted, waited: PATIENCE, last }
    }
}

/// The last lines of a process's output, with a newline in front of each; empty if there is none.
pub(super) fn last_lines(output: &Path) -> String {
    let text = std::fs::read(output).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(OUTPUT_LINES)..].iter().map(|line| format!("\n  {line}")).collect()
}
