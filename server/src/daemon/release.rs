//! Gives a group back to the kernel's own hash: its workers go on, unmanaged.

use std::time::Instant;

use crate::control::api::{Done, Fault, FaultKind, Response};

use super::{actor::Actor, clock::millis, describe::describe};

impl Actor {
    /// Releases the group, unless something of it is under way that the kernel's hash would lose.
    ///
    /// The holding listener goes first, while the program can still send what it holds to the workers, and the anchors; then the
    /// program. From there on the kernel hashes over the workers' listeners, and nothing else is in the group.
    pub(super) fn release(&mut self) -> Result<Response, Fault> {
        let began = Instant::now();
        let name = self.settings.name.clone();
        if let Some(what) = self.engine.is_busy() {
            return Err(Fault {
                kind: FaultKind::Refused,
                message: format!("cannot release {name}: {what}"),
                hint: Some(format!("wait for it; `steer status {name}` shows how it goes")),
            });
        }
        for slot in self.engine.hold_slots() {
            self.shut(slot);
        }
        for endpoint in &mut self.endpoints {
            if let Some(anchor) = &mut endpoint.anchor {
                anchor.release();
            }
            endpoint.detach().map_err(|error| Fault {
                kind: FaultKind::Failed,
                message: format!("cannot release {}: {}", endpoint.address, describe(&error)),
                hint: None,
            })?;
        }
        let workers = self.generations.len();
        self.is_released = true;
        let detail = format!("the kernel's own hash chooses among its {workers} workers, which go on");
        self.journal.add("released", &name, None, None, detail);
        Ok(Response::Done(Done { answers: 0, milliseconds: millis(began.elapsed()) }))
    }
}
