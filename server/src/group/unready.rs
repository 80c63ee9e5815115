//! Why a worker is not ready: what it does instead, and what to write for that.

use crate::{
    daemon::{
        clock::millis,
        foreground::{Ending, NeverReady},
    },
    engine::{event::GenerationId, group::Group},
    sockets::address::ListenAddress,
};

use super::{host::GroupHost, processes::Serves};

impl GroupHost {
    /// A start has come to nothing. A group in the foreground ends where none ever comes to anything.
    pub(super) fn start_failed(&mut self, engine: &Group, id: GenerationId, why: &str) {
        let deadline = millis(self.settings.deadlines.start);
        self.starts.failed(id.worker, self.shared.clock.now(), deadline);
        let workers = engine.workers().into_iter().map(|worker| worker.index);
        if let Some(foreground) = &self.shared.foreground
            && self.starts.are_hopeless(workers)
        {
            let (group, why) = (self.settings.name.clone(), why.to_owned());
            foreground.end(Ending::NeverReady(NeverReady { group, why }));
        }
    }

    /// A worker that is not ready serves another address than the group's.
    pub(super) fn serves_elsewhere(&mut self, id: GenerationId, address: ListenAddress) {
        if self.processes.note_elsewhere(id, address) {
            let detail = wrong_address(address, &self.members.addresses().collect::<Vec<_>>());
            self.journal("bound-elsewhere", Some(id), detail);
        }
    }

    /// Completes what is said of a start that has come to nothing.
    pub(super) fn explain(&self, id: GenerationId, detail: String) -> String {
        let reasons =
            [Some(detail), self.missing_sockets(id), self.bound_elsewhere(id), self.cannot_share(id)];
        let mut said = reasons.into_iter().flatten().collect::<Vec<_>>().join("; ");
        if self.processes.elsewhere(id).is_none()
            && self.starts.has_succeeded()
            && self.processes.ended_unready(id)
        {
            said += "; others of the group work (hint: if two of this program cannot run at once, for a pid file, a lock or its data, \
                     give each a path of its own by {worker} or {generation} in the command, or restart = \"replace\" with one worker)";
        }
        said
    }

    /// Why a worker that binds its address itself cannot, where this host is the reason.
    fn cannot_share(&self, id: GenerationId) -> Option<String> {
        let why = self.unshared.as_ref().filter(|_| self.processes.serves(id) == Some(Serves::Unknown))?;
        Some(format!("a program that binds its address itself has to set SO_REUSEPORT on this host: {why}"))
    }

    /// What a worker serves beside the group's addresses.
    fn bound_elsewhere(&self, id: GenerationId) -> Option<String> {
        let bound = self.processes.elsewhere(id)?;
        Some(wrong_address(bound, &self.members.addresses().collect::<Vec<_>>()))
    }

    /// What a worker that binds its sockets itself has not bound.
    fn missing_sockets(&self, id: GenerationId) -> Option<String> {
        let slot = self.processes.slot(id).filter(|_| self.processes.serves(id) == Some(Serves::Own))?;
        let wanted = self.processes.origin().sockets();
        let lacking = self.members.lacking(slot);
        let missing: Vec<String> =
            lacking.iter().map(|(address, found)| format!("{found} of {wanted} at {address}")).collect();
        (!missing.is_empty()).then(|| format!("of the sockets to bind it had {}", missing.join(", ")))
    }
}

/// What is said of a bind that is not to an address of the group.
fn wrong_address(bound: ListenAddress, group: &[ListenAddress]) -> String {
    let listens: Vec<String> = group.iter().map(ListenAddress::to_string).collect();
    format!("it binds {bound}, and the group listens on {} (hint: listen on {bound})", listens.join(", "))
}
