//! The simulated processes: how they start, serve, fail, and take signals.

use std::collections::BTreeSet;

use server_common::flow_hash::FlowV4;

use super::{
    super::{
        effect::Signal,
        event::{Event, GenerationId, Slot},
    },
    happen::CPUS,
    kernel::{ConnectionId, Holder, ListenerId, Sight, Stage},
    ledger::Checked,
    script::{Afterwards, Fate, OnStop, SEED, Start},
    world::{Happening, World},
};

/// Longer than the engine waits for SIGKILL to end a process.
const SLOW_DEATH: u64 = 12_000;

pub(super) struct Process {
    pub(super) slot: Slot,
    pub(super) fate: Fate,
    pub(super) listener: Option<ListenerId>,
    pub(super) is_running: bool,
    pub(super) has_ended: bool,
    pub(super) is_forgotten: bool,
    pub(super) accepts: bool,
    pub(super) was_told: bool,
    pub(super) open: BTreeSet<ConnectionId>,
}

impl Process {
    /// Whether it has stopped to accept without being told to.
    pub(super) fn has_gone_deaf(&self) -> bool {
        self.listener.is_some() && !self.accepts && !self.was_told
    }
}

impl World {
    pub(super) fn start(&mut self, id: GenerationId, slot: Slot) -> Checked {
        let runs = |(other, process): (&GenerationId, &Process)| {
            other.worker == id.worker && !process.has_ended && !process.is_forgotten
        };
        let is_to_be_alone = self.group().rules.replace && self.alone.contains(&id);
        if is_to_be_alone && self.processes.iter().any(runs) {
            return Err(format!("{id:?} is started while another of its processes runs"));
        }
        let fate = if self.entropy.is_calm {
            Fate::BENIGN
        } else {
            self.fates.get(self.processes.len() % self.fates.len().max(1)).copied().unwrap_or(Fate::BENIGN)
        };
        let process = Process {
            slot,
            fate,
            listener: None,
            is_running: false,
            has_ended: false,
            is_forgotten: false,
            accepts: false,
            was_told: false,
            open: BTreeSet::new(),
        };
        self.processes.insert(id, process);
        if self.group().rules.adopts {
            self.begin_adopted(id);
            return Ok(());
        }
        self.plan_soon(Happening::Fork(id));
        Ok(())
    }

    /// Its process is made. It runs nothing before a record names it.
    pub(super) fn fork(&mut self, id: GenerationId) -> Checked {
        self.runtime.forked(id);
        self.settle()
    }

    pub(super) fn process(&mut self, id: GenerationId) -> &mut Process {
        self.processes.get_mut(&id).expect("every generation named was started")
    }

    /// What a daemon does for a generation that starts and is ready by probe.
    pub(super) fn probe_again(&self, id: GenerationId) -> Option<Event> {
        is_probed(id).then(|| Event::ProbeWanted { generation: id, hash: probe_flow(id).hash(&SEED) })
    }

    pub(super) fn launch(&mut self, id: GenerationId) -> Checked {
        // Given up before its turn came, and its slot may be another's: the daemon starts nobody whom it has forgotten.
        if self.process(id).is_forgotten {
            self.process(id).has_ended = true;
            return Ok(());
        }
        let start = self.process(id).fate.start;
        if start == Start::Fails {
            self.process(id).has_ended = true;
            self.tally.failed_starts += 1;
            return self.tell(Event::StartFailed { generation: id, why: "could not be started".into() });
        }
        self.process(id).is_running = true;
        let delay = self.entropy.delay() * 4;
        match start {
            Start::Works if is_probed(id) => {
                let slot = self.process(id).slot;
                let listener = self.kernel.listen(Holder::Generation(id), slot);
                self.process(id).listener = Some(listener);
                let wanted = Event::ProbeWanted { generation: id, hash: probe_flow(id).hash(&SEED) };
                self.plan_soon(Happening::Tell(wanted));
            }
            Start::Works | Start::Fails => self.plan(delay, Happening::Ready(id)),
            Start::ExitsEarly => self.plan(delay, Happening::End(id, "exit 1".into())),
            Start::NeverReady => self.tally.never_ready += 1,
        }
        self.tell(Event::Started { generation: id, pid: 1 })?;
        match self.entropy.below(3 * CPUS) {
            cpu if cpu < CPUS => self.tell(Event::Pinned { generation: id, cpus: vec![cpu] }),
            _ => Ok(()),
        }
    }

    pub(super) fn become_ready(&mut self, id: GenerationId) {
        let process = self.process(id);
        if process.has_ended || process.is_forgotten {
            return;
        }
        process.accepts = true;
        let (slot, afterwards) = (process.slot, process.fate.afterwards);
        if self.process(id).listener.is_none() {
            let listener = self.kernel.listen(Holder::Generation(id), slot);
            self.process(id).listener = Some(listener);
        }
        if is_probed(id) {
            self.plan_soon(Happening::Tell(Event::Ready { generation: id }));
        } else {
            self.notify(id);
        }
        if afterwards != Afterwards::Stays {
            let delay = self.entropy.below(64) as u64 * 8;
            self.plan(delay, Happening::Fault(id));
        }
    }

    /// The daemon connects with the probe's flow: whatever table the kernel reads, it must reach this generation.
    pub(super) fn probe(&mut self, id: GenerationId) -> Checked {
        self.tally.probes += 1;
        self.plan_soon(Happening::Tell(Event::ProbeEnded { generation: id }));
        let Some(listener) = self.process(id).listener.filter(|_| !self.processes[&id].has_ended) else {
            return Ok(());
        };
        for table in 0..self.kernel.tables.len() {
            let is_readable = self.kernel.tables[table].epoch >= self.group().publication.published;
            let selected =
                self.kernel.select(table, &probe_flow(id), Sight::default()).map(|(_, listener, _)| listener);
            if is_readable && selected != Some(listener) {
                return Err(format!("the probe of {id:?} reaches listener {selected:?}, not {listener}"));
            }
        }
        let delay = self.entropy.delay();
        self.plan(delay, Happening::Ready(id));
        Ok(())
    }

    /// What was bound to happen to it happens; somebody sees it sooner or later.
    pub(super) fn fault(&mut self, id: GenerationId) -> Checked {
        let process = self.process(id);
        let Some(listener) = process.listener.filter(|_| !process.has_ended && !process.was_told) else {
            return Ok(());
        };
        let why = match process.fate.afterwards {
            Afterwards::Stays => return Ok(()),
            Afterwards::Crashes => return self.end(id, "signal 11".into()),
            Afterwards::GoesDeaf => "nobody accepts",
            Afterwards::LosesListener => "it does not listen",
        };
        process.accepts = false;
        if process.fate.afterwards == Afterwards::LosesListener {
            self.take_down(listener)?;
        }
        self.tally.lost_listeners += 1;
        self.plan_soon(Happening::Tell(Event::ListenerLost { generation: id, why: why.into() }));
        Ok(())
    }

    pub(super) fn end(&mut self, id: GenerationId, exit: String) -> Checked {
        let process = self.process(id);
        if std::mem::replace(&mut process.has_ended, true) {
            return Ok(());
        }
        process.accepts = false;
        let (open, listener) = (std::mem::take(&mut process.open), process.listener);
        self.tally.crashes += u64::from(!self.process(id).was_told && listener.is_some());
        for connection in open {
            self.kernel.connections[connection].stage = Stage::Killed;
        }
        // A listener of its own ends with it; of one that it was given, the daemon has a duplicate.
        if let Some(listener) = listener.filter(|_| self.own) {
            self.take_down(listener)?;
        }
        self.plan_soon(Happening::Tell(Event::Exited { generation: id, exit }));
        Ok(())
    }

    pub(super) fn signal(&mut self, id: GenerationId, signal: Signal) {
        let calm = self.entropy.is_calm;
        if !self.processes.contains_key(&id) {
            // Its start was the effect that the daemon died at.
            return;
        }
        let process = self.process(id);
        process.was_told = true;
        match (signal, process.fate.on_stop) {
            (Signal::Kill, _) if process.fate.dies_slowly && !calm => {
                self.plan(SLOW_DEATH, Happening::End(id, "signal 9".into()));
            }
            (Signal::Kill, _) => self.plan_soon(Happening::End(id, "signal 9".into())),
            (Signal::Stop, OnStop::Ignores) => {}
            (Signal::Stop, OnStop::LeavesAtOnce) => {
                process.accepts = false;
                self.plan_soon(Happening::End(id, "signal 15".into()));
            }
            (Signal::Stop, OnStop::Leaves) => {
                process.accepts = false;
                self.leave_when_idle(id);
            }
        }
    }

    fn leave_when_idle(&mut self, id: GenerationId) {
        let process = self.process(id);
        if process.was_told && process.open.is_empty() && process.fate.on_stop == OnStop::Leaves {
            self.plan_soon(Happening::End(id, "exit 0".into()));
        }
    }

    pub(super) fn accept(&mut self, listener: ListenerId) {
        let Holder::Generation(id) = self.kernel.listeners[listener].holder else { return };
        if !self.process(id).accepts || !self.kernel.listeners[listener].is_listening {
            return;
        }
        for connection in std::mem::take(&mut self.kernel.listeners[listener].queue) {
            self.kernel.connections[connection].stage = Stage::Open(id);
            self.process(id).open.insert(connection);
            self.tally.accepted += 1;
            let delay = self.entropy.delay() * 8;
            self.plan(delay, Happening::Close(connection));
        }
    }

    pub(super) fn close(&mut self, connection: ConnectionId) {
        if let Stage::Open(id) = self.kernel.connections[connection].stage {
            self.kernel.connections[connection].stage = Stage::Done;
            self.process(id).open.remove(&connection);
            self.leave_when_idle(id);
        }
    }
}

/// Every other generation of a worker says nothing of its readiness.
pub(super) fn is_probed(id: GenerationId) -> bool {
    id.number.is_multiple_of(2)
}

fn probe_flow(id: GenerationId) -> FlowV4 {
    FlowV4 { source: id.worker, destination: id.number as u32, source_port: 4, destination_port: 5 }
}
