//! Small programs for tests: workers that misbehave in one generation, and `steer` with fewer capabilities.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::steer::binary;

/// Writes a shell script to `directory` and returns its path: executable by every user.
#[track_caller]
pub fn shell(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n"))
        .unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .unwrap_or_else(|error| panic!("making {} executable: {error}", path.display()));
    path
}

/// The sample worker with these flags where the shell's condition holds, else without any: `[ $STEER_GENERATION = 2 ]`.
///
/// The shell becomes the worker, so that the process the daemon started is the one that misbehaves.
#[track_caller]
pub fn sample_worker(directory: &Path, condition: &str, flags: &str) -> PathBuf {
    let steer = binary();
    let steer = steer.display();
    let text = format!("if {condition}; then exec {steer} worker {flags}; fi\nexec {steer} worker");
    shell(directory, "worker", &text)
}

/// `steer` without these capabilities, which it cannot get back: `net_bind_service`, or several with commas.
#[track_caller]
pub fn steer_without(directory: &Path, capabilities: &str) -> PathBuf {
    let without: Vec<String> = capabilities.split(',').map(|name| format!("-{name}")).collect();
    let (steer, without) = (binary(), without.join(","));
    let text =
        format!("exec setpriv --inh-caps={without} --bounding-set={without} {} \"$@\"", steer.display());
    shell(directory, &format!("steer-without-{capabilities}"), &text)
}
