//! Sample workers whose starts a test holds back, and whose options it changes from one start to the next.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// A program that becomes the sample worker, when and with the options that a test says.
#[derive(Debug)]
pub struct Workers {
    directory: TempDir,
}

impl Workers {
    /// Workers that run this binary, for now with no options.
    pub fn new(binary: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("steer-tests-").tempdir();
        let workers = Self { directory: directory.expect("a temporary directory can be made") };
        // STEER_WORKER is web/0. The shell becomes the worker, so that its pid is the one that the daemon knows.
        let text = format!(
            "#!/bin/sh\n\
             own={}/${{STEER_WORKER#*/}}\n\
             while [ -e $own.gate ]; do sleep 0.02; done\n\
             exec {} worker $(cat $own.options 2>/dev/null)\n",
            workers.directory.path().display(),
            binary.display()
        );
        fs::write(workers.script(), text).expect("a file can be made in the temporary directory");
        fs::set_permissions(workers.script(), fs::Permissions::from_mode(0o755))
            .expect("a file can be made executable");
        workers
    }

    /// What the worker is started with from now on: options of `steer worker`, separated by spaces.
    pub fn set(&self, worker: u32, options: &str) {
        self.write(worker, "options", options);
    }

    /// Starts of the worker from now on wait, before anything else, until its gate is opened.
    pub fn close_gate(&self, worker: u32) {
        self.write(worker, "gate", "");
    }

    /// Lets the worker start.
    pub fn open_gate(&self, worker: u32) {
        fs::remove_file(self.directory.path().join(format!("{worker}.gate"))).expect("the gate was closed");
    }

    fn write(&self, worker: u32, name: &str, text: &str) {
        fs::write(self.directory.path().join(format!("{worker}.{name}")), text)
            .expect("a file can be made in the temporary directory");
    }

    /// The last arguments of `steer run`.
    pub fn arguments(&self) -> Vec<String> {
        let script = self.script().display().to_string();
        ["--ready", "notify", "--"].map(str::to_owned).into_iter().chain([script]).collect()
    }

    fn script(&self) -> PathBuf {
        self.directory.path().join("worker")
    }
}
