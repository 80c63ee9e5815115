//! What tests of `steer daemon` ask of it beside [`Steer`]'s own.

use std::{fs, path::Path, time::Duration};

use crate::{process, steer::Steer};

/// How long a start that is refused may take.
const START: Duration = Duration::from_secs(30);

impl Steer<'_> {
    /// Starts the daemon and waits for its end: panics unless it ends with this code, and says what is wrong in these parts, with a
    /// hint, and leaves no directory for states behind. Returns what it said.
    #[track_caller]
    pub fn start_refused(&mut self, code: i32, parts: &[&str]) -> String {
        let before = self.messages().len();
        let states = self.path("steer.sock.state");
        let had_states = states.exists();
        self.start_daemon();
        let status = self.wait(START);
        assert!(had_states || !states.exists(), "{} is left", states.display());
        let said = self.messages()[before..].to_owned();
        assert_eq!(status.code(), Some(code), "{said}");
        let error = said.lines().find(|line| line.starts_with("error: "));
        let error = error.unwrap_or_else(|| panic!("no error: {said}"));
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} in: {said}");
        assert!(said.lines().any(|line| line.starts_with("hint: ")), "no hint: {said}");
        said
    }

    /// The keepers of sockets that run; one, while a daemon does.
    pub fn keepers(&self) -> Vec<u32> {
        let is_keeper = |pid: &u32| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.split(|byte| *byte == 0).nth(1) == Some(b"keep")
        };
        self.processes().into_iter().filter(is_keeper).collect()
    }

    /// The processes of the group's workers, in their order.
    pub fn worker_pids(&self) -> Vec<u32> {
        self.status().groups[0].workers.iter().filter_map(|worker| worker.pid).collect()
    }

    /// The file in which the daemon keeps the state of a group.
    pub fn state_file(&self, group: &str) -> std::path::PathBuf {
        self.path("steer.sock.state").join(format!("{group}.json"))
    }
}

/// A group that listens at this address, with workers that run this command.
pub fn group(name: &str, address: &str, workers: u32, command: &[String], more: &str) -> String {
    // The strings of JSON are TOML's, too.
    let command = serde_json::to_string(command).expect("words");
    format!(
        "[[group]]\nname = \"{name}\"\nlisten = [\"{address}\"]\n[group.workers]\ncount = {workers}\ncommand = {command}\n{more}\n\
         [group.deadlines]\nsettle = \"0ms\"\n"
    )
}

/// The sample worker's command.
pub fn sample(binary: &Path) -> Vec<String> {
    vec![binary.display().to_string(), "worker".to_owned()]
}

/// The same, of one that does not beat: hundreds that do are a load of their own.
pub fn silent(binary: &Path) -> Vec<String> {
    [sample(binary), vec!["--silent".to_owned()]].concat()
}

/// Ends the keeper that there is, and waits until another has its place.
#[track_caller]
pub fn replace_keeper(steer: &Steer<'_>) -> (u32, u32) {
    let before = steer.keepers();
    assert_eq!(before.len(), 1, "{}", process::describe(&steer.processes()));
    process::signal(before[0], rustix::process::Signal::KILL);
    let after = crate::wait::until("there is another keeper", START, || {
        let now = steer.keepers();
        if now.len() == 1 && now != before { Ok(now[0]) } else { Err(process::describe(&now)) }
    });
    (before[0], after)
}
