//! `steer::units` on a [`Machine`], by way of the binary `steer-units`.

use std::{
    fmt, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::Value;

use crate::{machine::Machine, netns::Namespace, output::Output, wait};

/// What gives the tree.
const HOW: &str = "cargo xtask servers --adopted";

/// Where the binary is in the system.
const PROGRAM: &str = "/usr/local/bin/steer-units";

/// How long a unit may take for anything in these tests.
const SOON: Duration = Duration::from_secs(30);

/// A system that has the binary.
#[derive(Debug)]
pub struct Units {
    /// The system.
    pub machine: Machine,
}

impl Units {
    /// Boots a system with this binary, `env!("CARGO_BIN_EXE_steer-units")` in a test.
    #[track_caller]
    pub fn boot(namespace: &Namespace, binary: &str) -> Self {
        let machine = Machine::boot_given(namespace, HOW);
        fs::copy(Path::new(binary), machine.path(PROGRAM)).expect("the system's files can be written");
        Self { machine }
    }

    /// Runs the binary to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.machine.run(&[&[PROGRAM], arguments].concat())
    }

    /// The same, to a successful end; its first line.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let lines: Vec<Value> = self.run(arguments).succeeded().parse_lines();
        lines.into_iter().next().unwrap_or_default()
    }

    /// The same, to a failure; its message, with the hint.
    #[track_caller]
    pub fn refusal(&self, arguments: &[&str]) -> String {
        let refusal = self.run(arguments).exited(1).json();
        let text = |key: &str| refusal[key].as_str().unwrap_or("none").to_owned();
        let refusal = format!("error: {}; hint: {}", text("error"), text("hint"));
        println!("{arguments:?}: {refusal}");
        refusal
    }

    /// Writes units, by name, and has systemd read them.
    #[track_caller]
    pub fn write(&self, units: &[(&str, &str)]) {
        for (name, text) in units {
            self.machine.write(&format!("/etc/systemd/system/{name}"), text);
        }
        self.machine.execute(&["systemctl", "daemon-reload"]);
    }

    /// Follows a unit; the first state is there when this returns.
    #[track_caller]
    pub fn watch(&self, unit: &str) -> Watch {
        let mut command = self.machine.command(&[PROGRAM, "watch", unit]);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut program = spawned.unwrap_or_else(|error| panic!("running {command:?}: {error}"));
        let lines = BufReader::new(program.stdout.take().expect("its output is piped")).lines();
        let (sender, states) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let state = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if sender.send(state).is_err() {
                    return;
                }
            }
        });
        let mut watch = Watch { program, states, seen: Vec::new() };
        watch.until("a first state", |_| true);
        watch
    }
}

/// A state, as the binary prints it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct State {
    /// `active` and so on.
    pub active: String,
    /// `running` and so on.
    pub sub_state: String,
    /// Whether it has a job.
    pub has_job: bool,
    /// Its cgroup.
    pub control_group: Option<String>,
    /// Its main process.
    pub main_pid: u32,
    /// What steer makes of it.
    pub is_coming_back: bool,
}

impl State {
    /// Whether it is as systemd says it in brackets, and has no job.
    pub fn rests_in(&self, active: &str) -> bool {
        self.active == active && !self.has_job
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let job = if self.has_job { " with a job" } else { "" };
        let back = if self.is_coming_back { "" } else { ", gone" };
        write!(f, "{} ({}){job}{back}", self.active, self.sub_state)
    }
}

/// A program that follows a unit. It ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    program: Child,
    states: Receiver<State>,
    seen: Vec<State>,
}

impl Watch {
    /// Takes states until one is as wanted, and returns all of them, that one last.
    #[track_caller]
    pub fn until(&mut self, what: &str, is_it: impl Fn(&State) -> bool) -> Vec<State> {
        let deadline = Instant::now() + wait::patient(SOON);
        let mut taken = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(state) = self.states.recv_timeout(left) else {
                panic!("{what}: not within {SOON:?}; before: {}; since: {}", list(&self.seen), list(&taken));
            };
            let is_last = is_it(&state);
            taken.push(state);
            if is_last {
                println!("{what}: {}", list(&taken));
                self.seen.extend(taken.iter().cloned());
                return taken;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.program.stdin.take());
        // It has ended, or the system has.
        let _ = self.program.wait();
    }
}

/// States in one line.
fn list(states: &[State]) -> String {
    states.iter().map(State::to_string).collect::<Vec<_>>().join(" -> ")
}
