//! Why a worker is not ready: what it does instead, and what to write for that.

use crate::{
    daemon::{
        clock::millis,
        foreground::{Ending, NeverReady},
    },
    engine::{
        event::{GenerationId, Slot},
        group::Group,
    },
    sockets::address::ListenAddress,
};

use super::{
    host::GroupHost,
    message::Astray,
    processes::{Origin, Serves},
};

/// Of a program that ends while others of its group work.
const TWO_AT_ONCE: &str = "; others of the group work (hint: if two of this program cannot run at once, for a pid file, a lock or its data, \
    give each a path of its own by {worker} or {generation} in the command, or restart = \"replace\" with one worker)";

/// Of a program that ends and was to take what it is passed.
const INHERITS_NOTHING: &str = " (hint: if it binds its address itself, leave mode inherit out)";

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

    /// A worker that is not ready does something else than to listen where it is to.
    pub(super) fn goes_astray(&mut self, id: GenerationId, astray: Astray) {
        if self.processes.note_astray(id, astray) {
            let (kind, detail) = match astray {
                Astray::Elsewhere(_) => ("bound-elsewhere", self.explain_astray(astray)),
                Astray::OutOfCgroup => ("left-cgroup", self.explain_astray(astray)),
            };
            self.journal(kind, Some(id), detail);
        }
    }

    /// Has a group in the foreground listen only where its program does, where that is enough.
    pub(super) fn do_without(&self, id: GenerationId, slot: Slot) {
        let Some(foreground) = self.shared.foreground.as_ref().filter(|_| !self.starts.has_succeeded())
        else {
            return;
        };
        let (bound, missing) = self.bound_and_missing(slot);
        if !missing.is_empty() && self.processes.binds_no_more(id) && foreground.is_enough(&bound, &missing) {
            foreground.end(Ending::Without(missing));
        }
    }

    /// The addresses at which a slot has a listener, and those at which it has none.
    fn bound_and_missing(&self, slot: Slot) -> (Vec<ListenAddress>, Vec<ListenAddress>) {
        let (bound, missing): (Vec<_>, Vec<_>) =
            self.members.sockets(slot).into_iter().partition(|(_, count)| *count > 0);
        let addresses =
            |all: Vec<(ListenAddress, usize)>| all.into_iter().map(|(address, _)| address).collect();
        (addresses(bound), addresses(missing))
    }

    /// Completes what is said of a start that has come to nothing.
    pub(super) fn explain(&self, engine: &Group, id: GenerationId, detail: String) -> String {
        let astray = self.processes.astray(id).map(|astray| self.explain_astray(astray));
        let reasons = [Some(detail), self.missing_sockets(id), astray, self.cannot_share(id)];
        let mut said = reasons.into_iter().flatten().collect::<Vec<_>>().join("; ");
        if self.processes.astray(id).is_none() && self.processes.ended_unready(id) {
            if !engine.serving().is_empty() {
                said += TWO_AT_ONCE;
            } else if self.processes.origin() == Origin::Inherit && self.settings.command.is_some() {
                said += INHERITS_NOTHING;
            }
        }
        let last = self.processes.last_lines(id.worker);
        if !last.is_empty() {
            let last: Vec<String> = last.iter().map(|line| format!("{line:?}")).collect();
            said += &format!("; the last that it has printed: {}", last.join(", "));
        }
        said
    }

    fn explain_astray(&self, astray: Astray) -> String {
        match astray {
            Astray::Elsewhere(bound) => {
                let listens: Vec<String> = self.members.addresses().map(|it| it.to_string()).collect();
                format!(
                    "it binds {bound}, and the group listens on {} (hint: listen on {bound})",
                    listens.join(", ")
                )
            }
            Astray::OutOfCgroup => {
                "it has left its group's cgroup, where the bind hook is: it has to set SO_REUSEPORT itself"
                    .to_owned()
            }
        }
    }

    /// Why a worker that binds its address itself cannot, where this host is the reason.
    fn cannot_share(&self, id: GenerationId) -> Option<String> {
        let why = self.unshared.as_ref().filter(|_| self.processes.serves(id) == Some(Serves::Unknown))?;
        Some(format!("a program that binds its address itself has to set SO_REUSEPORT on this host: {why}"))
    }

    /// Where a worker that binds its sockets itself has none.
    fn missing_sockets(&self, id: GenerationId) -> Option<String> {
        let slot = self.processes.slot(id).filter(|_| self.processes.serves(id) == Some(Serves::Own))?;
        let (bound, missing) = self.bound_and_missing(slot);
        let list =
            |all: Vec<ListenAddress>| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if missing.is_empty() {
            return None;
        }
        let hint = match bound.is_empty() {
            true => String::new(),
            false => format!(" (hint: listen on {} alone, where the program binds no more)", list(bound)),
        };
        Some(format!("it has bound no socket at {}{hint}", list(missing)))
    }
}
