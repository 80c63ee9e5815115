//! Changes of one group that are asked for without end, while its daemon is killed over and over.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use rustix::process::Signal;
use steer::control::api::Request;

use crate::{
    control::{Control, group},
    drawn::Drawn,
    process,
};

/// The configuration of the group of [`GROUP`](crate::control::GROUP), with this many workers, these further keys of theirs and
/// these of its own.
pub fn configuration(workers: u32, of_workers: &str, of_group: &str) -> String {
    format!(
        "[[group]]\nname = \"web\"\n\
         listen = [\"127.0.0.1:8080\", \"[::1]:8080\", \"0.0.0.0:8081\", \"[::]:8082\"]\n\
         seed = \"5eed0000000000000000000000000001\"\n{of_group}\n\
         [group.workers]\ncount = {workers}\n{of_workers}\n\
         [group.deadlines]\nsettle = \"0ms\"\nstart = \"10s\"\n"
    )
}

/// Whoever changes the group, and what it may change.
#[derive(Debug)]
pub struct Changes {
    socket: PathBuf,
    file: PathBuf,
    /// Keys of the workers that every file has.
    of_workers: String,
    /// Whether the number of workers and the policy are changed; else they are only restarted, and their environment changes.
    scales: bool,
    /// Held while a change is asked for and answered; for writing while there are to be none.
    pause: RwLock<()>,
    is_over: AtomicBool,
    done: AtomicU64,
    reloads: AtomicU64,
}

impl Changes {
    /// Changes at the daemon with this control socket, and this configuration's file.
    pub fn new(socket: &Path, file: &Path, of_workers: &str, scales: bool) -> Self {
        Self {
            socket: socket.to_owned(),
            file: file.to_owned(),
            of_workers: of_workers.to_owned(),
            scales,
            pause: RwLock::new(()),
            is_over: AtomicBool::new(false),
            done: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
        }
    }

    /// Asks for changes until it is over; those that a daemon that dies does not answer are forgotten.
    pub fn ask(&self, seed: u64) {
        let control = Control::new(&self.socket);
        let mut drawn = Drawn::new(seed);
        while !self.is_over.load(Relaxed) {
            let request = self.request(&mut drawn);
            let is_reload = matches!(request, Request::Reload { .. });
            let answer = {
                let _not_paused = self.pause.read().expect("nobody panics with it");
                if is_reload {
                    self.write(&mut drawn);
                }
                control.ask(request)
            };
            match answer {
                Ok(_) => {
                    self.done.fetch_add(1, Relaxed);
                    self.reloads.fetch_add(u64::from(is_reload), Relaxed);
                }
                // There is no daemon, or what is asked does not fit what is under way.
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Has no more changes asked for.
    pub fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    /// Waits for what is being asked for, and does something while nothing is.
    pub fn paused<T>(&self, body: impl FnOnce() -> T) -> T {
        let _paused = self.pause.write().expect("nobody panics with it");
        body()
    }

    /// How many changes were carried out, and how many of those were reloads that were asked for and not signalled.
    pub fn done(&self) -> [u64; 2] {
        [&self.done, &self.reloads].map(|count| count.load(Relaxed))
    }

    /// Changes the file and has the daemon read it because of a signal, which nobody answers.
    pub fn hang_up(&self, daemon: u32, drawn: &mut Drawn) {
        self.write(drawn);
        process::signal(daemon, Signal::HUP);
    }

    /// Makes the file say what it is to say in the end.
    pub fn write_last(&self, workers: u32, policy: &str) {
        self.replace(&configuration(workers, &self.of_workers, &format!("policy = \"{policy}\"")));
    }

    fn write(&self, drawn: &mut Drawn) {
        let said = format!("{}\nenvironment = {{ SAID = \"{}\" }}", self.of_workers, drawn.below(1_000));
        if !self.scales {
            return self.replace(&configuration(1, &said, ""));
        }
        let workers = 2 + drawn.below(4) as u32;
        let policy = drawn.one_of(&["hash", "source", "least-loaded"]);
        let weights = format!("weights = {{ {} = {} }}", drawn.below(2), 1 + drawn.below(4));
        self.replace(&configuration(
            workers,
            &format!("{said}\n{weights}"),
            &format!("policy = \"{policy}\""),
        ));
    }

    /// In one step, as editors do: a daemon may be reading it.
    fn replace(&self, text: &str) {
        // Each thread has a name of its own for what is not finished.
        let unfinished = self.file.with_extension(format!("{:?}", thread::current().id()));
        fs::write(&unfinished, text).expect("a file can be made in the temporary directory");
        fs::rename(&unfinished, &self.file).expect("a file can be renamed in the temporary directory");
    }

    fn request(&self, drawn: &mut Drawn) -> Request {
        let worker = drawn.below(4) as u32;
        let clients = Vec::new();
        match drawn.below(if self.scales { 8 } else { 3 }) {
            0 => Request::Restart { group: group(), worker: None, timeout_ms: None, canary: None },
            1 => Request::Restart { group: group(), worker: Some(0), timeout_ms: None, canary: None },
            2 => Request::Reload { timeout_ms: None },
            3 => Request::Scale { group: group(), workers: 2 + drawn.below(4) as u32, timeout_ms: None },
            4 => {
                let policy = drawn.one_of(&["hash", "source", "least-loaded"]).parse().expect("a policy");
                Request::SetPolicy { group: group(), policy, dry_run: false, clients }
            }
            5 => {
                let (worker, weight) = (group().worker(worker), 1 + drawn.below(4) as u32);
                Request::SetWeight { worker, weight, over_ms: None, dry_run: false, clients }
            }
            6 => Request::Reload { timeout_ms: None },
            _ => Request::Restart { group: group(), worker: Some(worker), timeout_ms: None, canary: None },
        }
    }
}
