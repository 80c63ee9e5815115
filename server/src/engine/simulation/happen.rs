//! What happens in the simulated world: processes, clients, and the kernel between them.

use server_common::{counters::Outcome as Choice, flow_hash::FlowV4, limits::NO_SLOT};

use super::{
    super::{
        event::{Event, GenerationId, Moved},
        layout::Layout,
    },
    kernel::{Holder, ListenerId, Sight, Stage},
    ledger::Checked,
    world::{Happening, World},
};

/// CPUs that take packets.
pub(super) const CPUS: usize = 4;

impl World {
    pub(super) fn happen(&mut self, happening: Happening) -> Checked {
        match happening {
            Happening::Tell(event) => return self.tell(event),
            Happening::Act(action) => return self.act(action),
            Happening::Swap(layout) => self.swap(layout),
            Happening::Arrive { again } => return self.arrive(again),
            Happening::Establish(connection) => {
                let table = self.any_table();
                let was_down = matches!(self.kernel.connections[connection].stage,
                    Stage::HalfOpen(parent) if !self.kernel.listeners[parent].is_listening);
                self.tally.late_handshakes += u64::from(was_down);
                let sight = self.sight();
                match self.kernel.establish(connection, table, sight) {
                    Some(listener) => self.arrived_at(listener),
                    None => return self.may_drop("a handshake's last ACK"),
                }
            }
            Happening::Accept(listener) => self.accept(listener),
            Happening::Datagram(flow) => return self.datagram(flow),
            Happening::Close(connection) => self.close(connection),
            Happening::Recorded(number) => return self.record_written(number),
            Happening::Peek => return self.peek(),
            Happening::Fork(id) => return self.fork(id),
            Happening::Launch(id) => return self.launch(id),
            Happening::Ready(id) => self.become_ready(id),
            Happening::Fault(id) => return self.fault(id),
            Happening::End(id, exit) => return self.end(id, exit),
            Happening::MakeHold(slot) => return self.make_hold(slot),
            Happening::ShutHold(slot) => {
                let moved = match self.kernel.sockarray.get(&slot) {
                    Some(&listener) => self.take_down(listener)?,
                    // A daemon before has shut it, and died before it could say so.
                    None if self.tally.successions > 0 => Moved::new(),
                    None => return Err(format!("slot {slot} holds no holding listener")),
                };
                self.tally.hold_ends += 1;
                self.plan_soon(Happening::Tell(Event::HoldShut { slot, moved }));
            }
            Happening::ShutListener(id) => {
                let moved = match self.processes[&id].listener {
                    Some(listener) => self.take_down(listener)?,
                    None => return Err(format!("{id:?} has no listener to shut")),
                };
                self.plan_soon(Happening::Tell(Event::ListenerShut { generation: id, moved }));
            }
            Happening::Observe(id, first_instant) => self.observe(id, first_instant),
            Happening::LookAtHold => return self.look_at_hold(),
        }
        Ok(())
    }

    fn swap(&mut self, layout: Layout) {
        self.tally.tables += 1;
        self.kernel.swap(&layout);
        let delay = self.entropy.delay();
        self.plan(delay, Happening::Tell(Event::Published { epoch: layout.epoch }));
    }

    /// A run of the program reads the newest table or, within a grace period, the one before.
    pub(super) fn any_table(&mut self) -> usize {
        let published = self.group().publication.published;
        self.kernel.tables.retain(|table| table.epoch >= published);
        self.entropy.below(self.kernel.tables.len())
    }

    /// What the program may see of loads, and the CPU that it runs on.
    pub(super) fn sight(&mut self) -> Sight {
        let cpu = self.entropy.below(CPUS) as u32;
        Sight { salt: self.entropy.below(256) as u8, cpu: Some(cpu) }
    }

    fn arrive(&mut self, again: bool) -> Checked {
        if again && self.clients_come {
            let pause = if self.entropy.is_calm { 1_000 } else { 2 + self.entropy.delay() * 2 };
            self.plan(pause, Happening::Arrive { again: true });
        }
        if self.kernel.tables.is_empty() {
            return Ok(());
        }
        let table = self.any_table();
        let flow = FlowV4 {
            // Few enough addresses for several flows of one, where these alone count.
            source: self.kernel.connections.len() as u32 / 2,
            destination: 1,
            source_port: self.kernel.connections.len() as u16 % 2,
            destination_port: 3,
        };
        if self.entropy.below(3) == 0 {
            self.begin_flow(flow);
        }
        let sight = self.sight();
        let (connection, outcome) = self.kernel.connect(self.now, flow, table, sight);
        self.tally.connections += 1;
        self.tally.held += u64::from(outcome == Some(Choice::Held));
        self.tally.less_loaded += u64::from(outcome == Some(Choice::LessLoaded));
        self.tally.own_cpu += u64::from(outcome == Some(Choice::OwnCpu));
        let Stage::HalfOpen(listener) = self.kernel.connections[connection].stage else {
            return self.may_drop("a SYN");
        };
        if let Holder::Generation(id) = self.kernel.listeners[listener].holder {
            self.check_new_flow(id)?;
        }
        let delay = self.entropy.delay() * 2;
        self.plan(delay, Happening::Establish(connection));
        Ok(())
    }

    /// Nothing new reaches a generation after its drain's first instant, nor a worker that has come to the weight 0.
    pub(super) fn check_new_flow(&self, id: GenerationId) -> Checked {
        if let Some(instant) = self.ledger.first_instant(id) {
            return Err(format!("a new flow reaches {id:?} after {instant}, its drain's first instant"));
        }
        if self.ledger.is_idle(id.worker) {
            return Err(format!("a new flow reaches {id:?} although its worker has come to the weight 0"));
        }
        Ok(())
    }

    /// Only a group that refuses, or is being stopped, may drop.
    fn may_drop(&mut self, what: &str) -> Checked {
        self.tally.refused += 1;
        // A table of before a change of that is read until its grace period is over.
        let refuses = self.kernel.tables.iter().any(|table| table.hold == NO_SLOT);
        if self.group().rules.hold && !self.group().stopping && !refuses {
            return Err(format!("{what} is dropped by a group that holds"));
        }
        Ok(())
    }

    /// Something is in a listener's queue: whoever accepts there is woken.
    pub(super) fn arrived_at(&mut self, listener: ListenerId) {
        match self.kernel.listeners[listener].holder {
            Holder::Generation(_) => self.plan_soon(Happening::Accept(listener)),
            Holder::Hold if self.looks_at_hold => {}
            Holder::Hold => {
                self.looks_at_hold = true;
                self.plan(10, Happening::LookAtHold);
            }
        }
    }

    /// A listener stops listening: what is in its queue must go to another's.
    pub(super) fn take_down(&mut self, listener: ListenerId) -> Checked<Moved> {
        let held = self.kernel.listeners[listener].queue.len() as u64;
        let table = self.any_table();
        let sight = self.sight();
        let moved = self.kernel.shut(listener, table, sight);
        for slot in moved.keys() {
            let receiver = self.kernel.sockarray[slot];
            self.arrived_at(receiver);
        }
        let arrived: u64 = moved.values().sum();
        self.tally.migrated += arrived;
        if arrived < held {
            self.may_drop("an unaccepted connection")?;
        }
        Ok(moved)
    }
}
