//! Sample workers whose starts a test holds back.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// A program that becomes the sample worker when the test lets it.
#[derive(Debug)]
pub struct Workers {
    directory: TempDir,
}

impl Workers {
    /// Workers that run this binary; every gate is open.
    pub fn new(binary: &Path) -> Self {
        Self::running(&format!("exec {} worker", binary.display()))
    }

    /// Workers that are each pinned to the CPU of their own index.
    pub fn pinned(binary: &Path) -> Self {
        Self::running(&format!("exec taskset -c ${{STEER_WORKER#*/}} {} worker", binary.display()))
    }

    fn running(command: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("steer-tests-").tempdir();
        let workers = Self { directory: directory.expect("a temporary directory can be made") };
        // STEER_WORKER is web/0. The shell becomes the worker, so that its pid is the one that the daemon knows.
        let text = format!(
            "#!/bin/sh\n\
             while [ -e {}/${{STEER_WORKER#*/}}.gate ]; do sleep 0.02; done\n\
             {command}\n",
            workers.directory.path().display(),
        );
        fs::write(workers.script(), text).expect("a file can be made in the temporary directory");
        fs::set_permissions(workers.script(), fs::Permissions::from_mode(0o755))
            .expect("a file can be made executable");
        workers
    }

    /// Starts of the worker from now on wait, before anything else, until its gate is opened.
    pub fn close_gate(&self, worker: u32) {
        fs::write(self.gate(worker), "").expect("a file can be made in the temporary directory");
    }

    /// Lets the worker start.
    pub fn open_gate(&self, worker: u32) {
        fs::remove_file(self.gate(worker)).expect("the gate was closed");
    }

    /// The last arguments of `steer run`.
    pub fn arguments(&self) -> Vec<String> {
        let script = self.script().display().to_string();
        ["--ready", "notify", "--"].map(str::to_owned).into_iter().chain([script]).collect()
    }

    fn gate(&self, worker: u32) -> PathBuf {
        self.directory.path().join(format!("{worker}.gate"))
    }

    fn script(&self) -> PathBuf {
        self.directory.path().join("worker")
    }
}
