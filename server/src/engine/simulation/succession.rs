//! The daemon is killed, and another goes on from what was saved.

use crate::group::runtime::Runtime;

use super::{
    super::{
        event::{Event, GenerationId},
        group::Group,
        worker::Phase,
    },
    ledger::Checked,
    process::{Process, is_probed},
    world::{Happening, Wishes, World},
};

impl World {
    /// Has the daemon die at one of its next effects: before it, or after the last of them.
    pub(super) fn kill_daemon_soon(&mut self) {
        self.dies_after = Some(self.entropy.below(4));
    }

    /// The daemon is dead, and another takes over at once.
    ///
    /// With the daemon goes what it has decided since its last record, what it was about to do and to tell, and its duplicates of
    /// listeners. A record or a swap on its way is done or is not; a process that was not let go yet ends; holding listeners are kept
    /// elsewhere.
    pub(super) fn succeed(&mut self) -> Checked {
        self.tally.successions += 1;
        self.dies_after = None;
        self.drop_the_daemons()?;
        // The record that was being written may be there.
        if let Some((_, snapshot, ledger)) = self.recording.take()
            && self.entropy.below(2) == 0
        {
            self.recorded = (snapshot, ledger);
        }
        let (saved, ledger) = self.recorded.clone();
        self.tally.forgotten += u64::from(*saved != *self.group());
        let saved = serde_json::to_string(&*saved).map_err(|error| error.to_string())?;
        let engine = serde_json::from_str::<Group>(&saved).map_err(|error| format!("{error} in {saved}"))?;
        self.ledger = ledger;
        self.runtime = Runtime::new(engine, Wishes::default());
        self.ledger.succeed();
        self.runtime.resume(self.now);
        self.settle()?;
        self.find_out()?;
        self.read_from_the_start();
        Ok(())
    }

    fn drop_the_daemons(&mut self) -> Checked {
        for (key, happening) in std::mem::take(&mut self.agenda) {
            match happening {
                Happening::Tell(_)
                | Happening::Recorded(_)
                | Happening::Peek
                | Happening::MakeHold(_)
                | Happening::ShutHold(_)
                | Happening::ShutListener(_)
                | Happening::Observe(..)
                | Happening::LookAtHold => {}
                Happening::Swap(layout) => {
                    if self.entropy.below(2) == 0 {
                        self.kernel.swap(&layout);
                    }
                }
                // Its process is made and not let go: it ends by itself.
                Happening::Fork(id) => self.process(id).has_ended = true,
                other => drop(self.agenda.insert(key, other)),
            }
        }
        self.looks_at_hold = false;
        let dead = self.processes.values().filter(|process| process.has_ended);
        let held: Vec<_> = dead.filter_map(|process| process.listener).collect();
        held.into_iter().try_for_each(|listener| self.take_down(listener).map(drop))
    }

    /// What the new daemon finds: processes that have ended or were never started, slots that are nobody's, and who has become
    /// ready or deaf while nobody looked.
    fn find_out(&mut self) -> Checked {
        let forgotten = self
            .processes
            .iter()
            .filter(|(id, process)| !process.is_forgotten && self.group().generation(**id).is_none());
        let forgotten: Vec<_> = forgotten.map(|(&id, process)| (id, process.slot)).collect();
        for (id, slot) in forgotten {
            self.forget(id, slot)?;
        }
        let mut found = vec![Event::Tick];
        for (generation, _, runs) in self.group().generations() {
            let phase = self.group().generation(generation).map(|generation| &generation.phase);
            let starts = matches!(phase, Some(Phase::Starting { .. }));
            found.extend(match self.processes.get(&generation) {
                None => Some(Event::StartFailed { generation, why: "was not started".into() }),
                Some(process) => found_of(generation, process, starts, runs),
            });
            let starting = self.processes.get(&generation).filter(|process| starts && !process.has_ended);
            if starting.is_some_and(|process| process.listener.is_some() && !process.accepts) {
                found.extend(self.probe_again(generation));
            }
        }
        found.into_iter().try_for_each(|event| self.tell(event))
    }
}

fn found_of(generation: GenerationId, process: &Process, starts: bool, runs: bool) -> Option<Event> {
    match process {
        _ if !runs => None,
        Process { has_ended: true, is_running: false, .. } => {
            Some(Event::StartFailed { generation, why: "was not started".into() })
        }
        Process { has_ended: true, .. } => Some(Event::Exited { generation, exit: "unknown".into() }),
        // It was probed. One that says so is heard where it has said it.
        Process { accepts: true, .. } if starts && is_probed(generation) => Some(Event::Ready { generation }),
        _ if process.has_gone_deaf() && !starts => {
            Some(Event::ListenerLost { generation, why: "nobody accepts".into() })
        }
        _ => None,
    }
}
