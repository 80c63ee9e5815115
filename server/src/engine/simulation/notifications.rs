//! The simulated notification socket: its queue outlives the daemon, and one task of each daemon reads it.

use std::collections::VecDeque;

use super::{
    super::{
        event::{Event, GenerationId},
        group::Group,
        worker::Phase,
    },
    ledger::Checked,
    process::Process,
    world::{Happening, World},
};

#[derive(Debug, Default)]
pub(super) struct Notifications {
    /// Who has said that it is ready, and was not consumed.
    queue: VecDeque<GenerationId>,
    /// Whether the daemon is about to read, or waits for an acknowledgement.
    is_busy: bool,
}

impl World {
    /// A generation says that it is ready.
    pub(super) fn notify(&mut self, id: GenerationId) {
        self.notifications.queue.push_back(id);
        self.read_on();
    }

    /// The daemon peeks what is at the head of the queue.
    pub(super) fn peek(&mut self) -> Checked {
        let Some(&id) = self.notifications.queue.front() else {
            return Err("the head of the notification socket's queue is gone".into());
        };
        if !starts(self.group(), id) {
            // It is nobody's, or was heard before.
            return self.consume(id);
        }
        // Who has gone deaf meanwhile is seen, as by a daemon that finds it so.
        if self.processes.get(&id).is_some_and(Process::has_gone_deaf) {
            let lost = Event::ListenerLost { generation: id, why: "nobody accepts".into() };
            self.plan_soon(Happening::Tell(lost));
        }
        self.take_in(Event::Ready { generation: id })?;
        self.runtime.acknowledge(id);
        self.settle()
    }

    /// What was peeked is acknowledged. From here on the record alone tells the next daemon of it.
    pub(super) fn acknowledged(&mut self, id: GenerationId) -> Checked {
        if starts(&self.recorded.0, id) {
            return Err(format!(
                "{id:?} is ready, and neither the record nor the notification socket says so"
            ));
        }
        self.consume(id)
    }

    fn consume(&mut self, id: GenerationId) -> Checked {
        if self.notifications.queue.pop_front() != Some(id) {
            return Err(format!("another's word than that of {id:?} is consumed"));
        }
        self.notifications.is_busy = false;
        self.read_on();
        Ok(())
    }

    /// The daemon is dead, with the task that read; the next one's begins.
    pub(super) fn read_from_the_start(&mut self) {
        self.tally.left_unread += self.notifications.queue.len() as u64;
        self.notifications.is_busy = false;
        self.read_on();
    }

    fn read_on(&mut self) {
        if !self.notifications.queue.is_empty() && !std::mem::replace(&mut self.notifications.is_busy, true) {
            self.plan_soon(Happening::Peek);
        }
    }
}

/// Whether a generation is for this group one that is not ready yet.
fn starts(group: &Group, id: GenerationId) -> bool {
    group.generation(id).is_some_and(|generation| matches!(generation.phase, Phase::Starting { .. }))
}
