//! The same workers under the daemon: `steer run` as a child, asked over its control socket as any user would.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::{
    children::tie_to_this_process, control::Control, error::DemoError, sandbox::Sandbox, service::Service,
    worker_process::last_lines,
};
use crate::{control::api::WorkerStatus, names::GroupName};

const NAME: &str = "the daemon";
const GROUP: &str = "demo";
/// How long the daemon may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a state that nobody announces is asked for.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// A daemon with one group, which is the demo's own.
pub(super) struct Steered {
    daemon: Child,
    control: Control,
    output: PathBuf,
}

impl Steered {
    /// Starts the daemon, and waits until every worker is working.
    pub(super) async fn start(sandbox: &Sandbox, workers: u32) -> Result<Self, DemoError> {
        let socket = sandbox.directory().join("steer.sock");
        let output = sandbox.directory().join("daemon");
        let file_error = |operation| {
            let path = output.clone();
            move |source| DemoError::File { operation, path, source }
        };
        let log = File::create(&output).map_err(file_error("create"))?;
        let same_log = log.try_clone().map_err(file_error("duplicate"))?;
        // The link leads to this very program even when its file has been replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg("run");
        for address in sandbox.addresses() {
            command.arg("--listen").arg(format!("tcp://{address}"));
        }
        command
            .args(["--workers", &workers.to_string(), "--name", GROUP, "--socket"])
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(same_log);
        tie_to_this_process(&mut command);
        let mut daemon =
            command.spawn().map_err(|source| DemoError::Start { name: NAME.to_owned(), source })?;

        let group: GroupName = GROUP.parse().expect("the demo's group has a well-formed name");
        let control = tokio::select! {
            control = Control::connect(&socket, group, PATIENCE) =>
                control.map_err(|error| explain(error, &output))?,
            status = daemon.wait() => return Err(DemoError::Ended {
                name: NAME.to_owned(),
                status: status.map_or_else(|error| error.to_string(), |status| status.to_string()),
                output: last_lines(&output),
            }),
        };
        let mut service = Self { daemon, control, output };
        service
            .wait_until("working", |status| {
                let working = status.iter().filter(|worker| worker.state == "working").count();
                working == workers as usize
            })
            .await?;
        Ok(service)
    }

    /// Asks for the workers' states until they are as wanted.
    async fn wait_until(
        &mut self,
        wanted: &'static str,
        is_so: impl Fn(&[WorkerStatus]) -> bool,
    ) -> Result<(), DemoError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let workers = self.control.workers().await.map_err(|error| self.explain(error))?;
            if is_so(&workers) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let state =
                    |worker: &WorkerStatus| format!("{} {} pid {:?}", worker.name, worker.state, worker.pid);
                let last = workers.iter().map(state).collect::<Vec<_>>().join(", ");
                let last = last + &last_lines(&self.output);
                return Err(DemoError::TooLate { name: GROUP.to_owned(), wanted, waited: PATIENCE, last });
            }
            sleep(ASK_EVERY).await;
        }
    }

    fn explain(&self, error: DemoError) -> DemoError {
        explain(error, &self.output)
    }
}

/// Adds what the daemon wrote last to an error of the control connection.
fn explain(error: DemoError, output: &Path) -> DemoError {
    match error {
        DemoError::Control { request, message } => {
            DemoError::Control { request, message: message + &last_lines(output) }
        }
        DemoError::TooLate { name, wanted, waited, last } => {
            DemoError::TooLate { name, wanted, waited, last: last + &last_lines(output) }
        }
        other => other,
    }
}

impl Service for Steered {
    async fn restart(&mut self, worker: u32) -> Result<(), DemoError> {
        self.control.restart(worker).await.map_err(|error| self.explain(error))
    }

    async fn scale(&mut self, workers: u32) -> Result<(), DemoError> {
        self.control.scale(workers).await.map_err(|error| self.explain(error))
    }

    async fn kill(&mut self, worker: u32) -> Result<(), DemoError> {
        let workers = self.control.workers().await.map_err(|error| self.explain(error))?;
        let of = |workers: &[WorkerStatus]| {
            let found = workers.iter().find(|status| status.name.index == worker);
            found.filter(|status| status.state == "working").and_then(|status| status.pid)
        };
        let Some(old) = of(&workers).filter(|pid| *pid > 1) else {
            let message = format!("{GROUP}/{worker} is not working in {workers:?}");
            return Err(DemoError::Control { request: "name a worker's process".to_owned(), message });
        };
        if let Some(pid) = Pid::from_raw(old.cast_signed()) {
            kill_process(pid, Signal::KILL)
                .map_err(|error| DemoError::System { operation: "kill a worker", source: error.into() })?;
        }
        self.wait_until("working again", |workers| of(workers).is_some_and(|pid| pid != old)).await
    }

    async fn stop(mut self) -> Result<(), DemoError> {
        self.control.stop().await.map_err(|error| self.explain(error))?;
        match timeout(PATIENCE, self.daemon.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(DemoError::Ended {
                name: NAME.to_owned(),
                status: status.to_string(),
                output: last_lines(&self.output),
            }),
            Ok(Err(source)) => Err(DemoError::System { operation: "wait for the daemon's end", source }),
            Err(_) => Err(DemoError::TooLate {
                name: NAME.to_owned(),
                wanted: "ended",
                waited: PATIENCE,
                last: last_lines(&self.output),
            }),
        }
    }
}
