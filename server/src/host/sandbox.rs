//! A network namespace for a trial: in a thread of its own, gone with its end.

use std::thread;

use super::Probe;
use crate::sockets::netns;

/// Runs the trial in a thread that has a fresh network namespace; without one, or if it ends abnormally, that is the
/// finding.
pub(super) fn run(trial: impl FnOnce() -> Vec<Probe> + Send + 'static) -> Vec<Probe> {
    const NAME: &str = "steering";
    let body = move || match netns::enter_fresh() {
        Ok(()) => trial(),
        Err(error) => {
            vec![Probe::warn(NAME, format!("not tried: {}", super::describe(&error)), error.hint())]
        }
    };
    let started = thread::Builder::new().name("trial".to_owned()).spawn(body);
    match started.map(thread::JoinHandle::join) {
        Ok(Ok(probes)) => probes,
        Ok(Err(_)) => {
            vec![Probe::fail(NAME, "the trial has ended abnormally", "report it, with what was printed")]
        }
        Err(error) => {
            vec![Probe::warn(NAME, format!("not tried: cannot start a thread: {error}"), "raise TasksMax=")]
        }
    }
}
