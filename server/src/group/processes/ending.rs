//! Signals to the processes of a generation, and the end of what it leaves behind.

use crate::{
    daemon::describe::describe,
    engine::{
        effect::Signal,
        event::{GenerationId, Millis},
    },
    group::message::Message,
    workers::process::{Process, ProcessError},
};

use super::{Processes, generation::Launch};

/// The event that tells of processes that a worker has left behind.
pub(crate) const LEFT_BEHIND: &str = "left-behind";

impl Processes {
    /// Sends a generation a signal. SIGKILL goes to all of its processes, which takes a look through `/proc`: on a thread.
    pub(crate) fn signal(&mut self, id: GenerationId, signal: Signal) {
        let Some(generation) = self.generations.get_mut(&id) else { return };
        generation.is_stopping = true;
        if signal == Signal::Kill {
            generation.is_killed = true;
            // One that waits to be let go ends where it is.
            if matches!(generation.launch, Launch::Held(_)) {
                generation.launch = Launch::Going { exit: None };
            }
        }
        let Some(process) = generation.process.clone() else { return };
        let has_exited = generation.has_exited;
        match signal {
            Signal::Stop => report(id, process.signal(self.settings.stop_signal).map(drop), has_exited),
            Signal::Kill => {
                // At once, so that it does not depend on a thread that is busy; then those that descend from it.
                report(id, process.signal(libc::SIGKILL).map(drop), has_exited);
                let killing = move || report(id, kill_tree(&process), has_exited);
                if let Err(error) = self.threads.processes.submit(killing) {
                    tracing::warn!("cannot end all processes of {id:?}: {error}");
                }
            }
        }
    }

    /// Notes whether none of a generation's processes holds its listener; since when none has, where that is so.
    pub(crate) fn unattended(
        &mut self,
        id: GenerationId,
        is_unattended: bool,
        now: Millis,
    ) -> Option<Millis> {
        let generation = self.generations.get_mut(&id)?;
        generation.unattended_since = is_unattended.then(|| generation.unattended_since.unwrap_or(now));
        generation.unattended_since
    }

    /// Notes whether a generation has no listener at an address any more; since when, where that is so.
    pub(crate) fn closed(&mut self, id: GenerationId, is_closed: bool, now: Millis) -> Option<Millis> {
        let generation = self.generations.get_mut(&id)?;
        generation.closed_since = is_closed.then(|| generation.closed_since.unwrap_or(now));
        generation.closed_since
    }

    /// Has what a generation's process has left behind be killed, on a thread; whether there may be something. The task is told what it
    /// was. The generation's connections have ended or their deadline is over; its listener, which a child may hold as well, is shut down
    /// or was never in a table.
    pub(crate) fn end_what_is_left(&self, id: GenerationId) -> Option<Option<Message>> {
        let generation = self.generations.get(&id).filter(|generation| generation.has_exited)?;
        let process = generation.process.clone().filter(|process| !process.has_left_nobody())?;
        let failed = move |why: String| {
            tracing::warn!("cannot end what {id:?} has left behind: {why}");
            Message::LeftBehind { generation: id, killed: Vec::new() }
        };
        let job = move || {
            let killed = process.tree();
            if !killed.is_empty()
                && let Err(error) = kill_tree(&process)
            {
                tracing::warn!("cannot end what {id:?} has left behind: {}", describe(&error));
            }
            Message::LeftBehind { generation: id, killed }
        };
        Some(self.inbox.hand_in(&self.threads.processes, failed, job))
    }
}

fn report(id: GenerationId, sent: Result<(), ProcessError>, has_exited: bool) {
    if let (Err(error), false) = (sent, has_exited) {
        tracing::warn!("cannot signal {id:?}: {}", describe(&error));
    }
}

/// Kills a worker's processes. One that forks meanwhile can leave a child behind, which a further pass finds.
fn kill_tree(process: &Process) -> Result<(), ProcessError> {
    const PASSES: u32 = 3;
    for _ in 0..PASSES {
        if process.signal_tree(libc::SIGKILL)? == 0 {
            break;
        }
    }
    Ok(())
}
