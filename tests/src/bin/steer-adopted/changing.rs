//! What is done to a server, and how it is seen that the server has done it.

use std::collections::BTreeSet;

use rustix::process::Signal;
use steer_tests::{process, steer::Steer};

use crate::{
    program::{Program, tell},
    site::Site,
};

/// A server that runs and can be changed.
pub(crate) trait Changing {
    /// Does the change once more, and returns when the server is through with it. `steer` has adopted the server, where it is there.
    fn change(&mut self, round: u32, steer: Option<&Steer<'_>>);

    /// How many listeners it has at each address now.
    fn listeners(&self) -> usize;

    /// Its first process.
    fn pid(&self) -> u32;

    /// How many 4-tuples another of its listeners has taken after a change than before, as the server itself tells.
    fn moved(&self) -> u64 {
        0
    }

    /// Ends it.
    fn end(self: Box<Self>);
}

/// What a process that leads workers is made to do.
pub(crate) enum Step {
    /// It is sent a signal, and has this many workers then, all of them new; as many as it likes where that is not said.
    Renews(Signal, Option<usize>),
    /// It is sent a signal, and has this many workers then.
    Resizes(Signal, usize),
    /// One of its workers is killed, and it has as many as before then.
    Loses,
}

/// A server whose first process leads workers, and is told by signals what to do.
pub(crate) struct Led {
    pub(crate) program: Program,
    /// Done one after the other, at each change the next.
    pub(crate) steps: Vec<Step>,
    /// What is done before each step: a configuration that is written anew.
    pub(crate) before: Box<dyn FnMut(u32)>,
    /// How many listeners it has for each number of workers.
    pub(crate) listeners: fn(usize) -> usize,
    pub(crate) workers: usize,
}

impl Led {
    /// Starts a server and waits for its workers, this many or more.
    pub(crate) fn start(site: &Site, line: &str, workers: usize, steps: Vec<Step>) -> Self {
        let program = site.start(line);
        program.until_workers("it starts", |now| now.len() >= workers);
        site.until_served();
        Self { program, steps, before: Box::new(|_| {}), listeners: |_| 1, workers }
    }
}

impl Changing for Led {
    fn change(&mut self, round: u32, _: Option<&Steer<'_>>) {
        (self.before)(round);
        let before = self.program.workers();
        let step = &self.steps[round as usize % self.steps.len()];
        let is_new = |now: &BTreeSet<u32>| now.is_disjoint(&before);
        match *step {
            Step::Renews(signal, count) => {
                tell(self.program.pid(), signal);
                self.program.until_workers("all its workers are new", |now| {
                    count.map_or(!now.is_empty(), |count| now.len() == count) && is_new(now)
                });
                self.workers = count.unwrap_or(self.workers);
            }
            Step::Resizes(signal, count) => {
                tell(self.program.pid(), signal);
                self.program.until_workers("it has so many workers", |now| now.len() == count);
                self.workers = count;
            }
            Step::Loses => {
                let victim = *before.iter().next().expect("it has workers");
                process::signal(victim, Signal::KILL);
                self.program.until_workers("it has started another", |now| {
                    now.len() == before.len() && !now.contains(&victim)
                });
            }
        }
    }

    fn listeners(&self) -> usize {
        (self.listeners)(self.workers)
    }

    fn pid(&self) -> u32 {
        self.program.pid()
    }

    fn end(self: Box<Self>) {
        self.program.end();
    }
}
