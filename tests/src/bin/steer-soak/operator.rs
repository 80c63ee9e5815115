//! Carries steps out, as an operator does: with the command line, signals, an editor, and accidents.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use steer::control::api::Status;
use steer_tests::{process, scrape::Scraper, steer::Steer, steer::binary, wait};

use crate::{
    clients::Clients,
    configuration::{EXTRA, GROUPS, METRICS},
    script::{Fate, Script, Step, Victim, Words},
};

const SOON: Duration = Duration::from_secs(90);
/// Of `steer`: refused, because of what is under way.
const REFUSED: i32 = 5;

/// One instance, whoever its daemon is at the time.
pub(crate) struct Operator<'a> {
    pub(crate) steer: Steer<'a>,
    pub(crate) clients: Clients,
    /// How often a command had to be given once more.
    pub(crate) refused: u64,
}

/// A worker was killed.
struct Killed {
    group: &'static str,
    /// How many of its group's connections had failed before.
    failed: u64,
}

impl Operator<'_> {
    /// Carries a step out, to its end.
    pub(crate) fn carry_out(&mut self, step: &Step, script: &Script) {
        if let Some(file) = &step.file {
            fs::write(self.steer.path("steer.toml"), file.to_string()).expect("the file can be written");
        }
        let killed = match step.fate {
            Fate::Undisturbed => None,
            Fate::ClientKilled(after) => {
                self.kill_client(&step.commands[0], after);
                None
            }
            Fate::DaemonKilled(after, victim) => self.kill_daemon(&step.commands[0], after, victim),
            Fate::WorkerKilled(victim) => Some(self.kill_worker(victim)),
            Fate::HungUp => {
                process::signal(self.steer.pid(), Signal::HUP);
                None
            }
        };
        if !step.is_endless() {
            step.commands.iter().for_each(|command| self.command(command));
        }
        self.steer.until("all is as it was wanted", SOON, |status| is_as_wanted(status, script));
        // Not before: where its only worker is drained, a group holds, and none of its connections ends.
        if let Some(Killed { group, failed }) = killed {
            self.clients.was_killed(group, failed);
        }
        if step.kind == "read" {
            self.scrape();
        }
    }

    /// Gives a command until it is not refused any more: what a daemon, a client or an operator before has begun may be under
    /// way.
    fn command(&mut self, words: &Words) {
        let output = wait::until("nothing is in the way of the command", SOON, || {
            let output = self.steer.command(words);
            if output.code != Some(REFUSED) {
                return Ok(output);
            }
            self.refused += 1;
            Err(format!("{words:?}: {output:?}"))
        });
        assert_eq!(output.code, Some(0), "{words:?}: {output:?}");
    }

    /// Begins a command, and leaves the instant at which something happens to chance.
    fn begin(&self, words: &Words, after: Duration) -> std::process::Child {
        let mut command = Command::new(binary());
        command.arg("--socket").arg(self.steer.socket()).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("running {command:?}: {error}"));
        thread::sleep(after);
        child
    }

    fn kill_client(&self, words: &Words, after: Duration) {
        let mut child = self.begin(words, after);
        child.kill().expect("our child can be killed");
        child.wait().expect("our child can be waited for");
    }

    fn kill_daemon(&mut self, words: &Words, after: Duration, victim: Option<Victim>) -> Option<Killed> {
        let before = victim.map(|victim| (victim, self.pid_of(victim), self.clients.failed(victim.group)));
        let mut child = self.begin(words, after);
        self.steer.kill();
        // Without a daemon it says so and ends.
        child.wait().expect("our child can be waited for");
        if let Some((_, Some(pid), _)) = before {
            process::signal(pid, Signal::KILL);
        }
        self.steer.start_daemon();
        self.steer.until("the next daemon answers", SOON, |_| true);
        let (victim, pid, failed) = before?;
        self.until_replaced(victim, pid?);
        Some(Killed { group: victim.group, failed })
    }

    fn kill_worker(&mut self, victim: Victim) -> Killed {
        let failed = self.clients.failed(victim.group);
        let pid = self.pid_of(victim).unwrap_or_else(|| panic!("{victim:?} has no process"));
        process::signal(pid, Signal::KILL);
        self.until_replaced(victim, pid);
        Killed { group: victim.group, failed }
    }

    /// A worker that was drained before the kill came is not replaced until somebody asks for it.
    fn until_replaced(&self, victim: Victim, pid: u32) {
        self.steer.until("the killed worker is replaced", SOON, |status| {
            let worker = worker_of(status, victim);
            worker.is_some_and(|worker| match worker.state.as_str() {
                "working" => worker.pid != Some(pid),
                state => state == "drained",
            })
        });
    }

    fn pid_of(&self, victim: Victim) -> Option<u32> {
        worker_of(&self.steer.status(), victim)?.pid
    }

    fn scrape(&self) {
        let scraper = Scraper::Tcp(METRICS.parse().expect("an address"));
        let samples = scraper.samples();
        assert!(samples.sum("steer_group_up") >= GROUPS.len() as f64, "{samples:?}");
        for path in ["/healthz", "/readyz"] {
            let page = scraper.get(path);
            assert_eq!(page.code, 200, "{path}: {page:?}");
        }
    }
}

fn worker_of(status: &Status, Victim { group, index }: Victim) -> Option<&steer::control::api::WorkerStatus> {
    let group = status.groups.iter().find(|found| found.name.as_str() == group)?;
    group.workers.iter().find(|worker| worker.name.index == index)
}

/// Every group has its workers, each works, and nobody waits for one.
pub(crate) fn is_as_wanted(status: &Status, script: &Script) -> bool {
    let mut groups = status.groups.iter();
    status.groups.len() == script.counts.len() + usize::from(script.has_extra())
        && groups.all(|group| {
            let wanted = script.counts.get(group.name.as_str()).copied().unwrap_or(EXTRA.workers);
            group.workers.len() as u32 == wanted
                && !group.holding
                && group.workers.iter().all(|worker| worker.state == "working" && worker.canary.is_none())
        })
}
