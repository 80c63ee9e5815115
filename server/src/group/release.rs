//! Gives a group back to the kernel's own hash: its workers go on, unmanaged.

use std::{os::fd::OwnedFd, time::Instant};

use tokio::sync::oneshot;

use crate::{
    control::api::{Done, Fault, FaultKind, Response},
    daemon::{clock::millis, describe::describe},
    engine::event::{Event, Slot},
};

use super::{message::Purpose, task::GroupTask};

/// Who waits for a release, and what it is to go through.
#[derive(Debug)]
pub(crate) struct Pending {
    done: oneshot::Sender<Result<Response, Fault>>,
    began: Instant,
    /// Slots whose listeners are still being taken from their workers.
    left: usize,
    taken: Vec<OwnedFd>,
}

impl GroupTask {
    /// Begins to release the group, unless something of it is under way that the kernel's hash would lose: listeners are taken from the
    /// workers, to detach the programs through. Where it `is_last`, the daemon is being stopped, and nothing could be waited for.
    pub(super) fn release(&mut self, done: oneshot::Sender<Result<Response, Fault>>, is_last: bool) {
        let (engine, host) = self.runtime.parts();
        let busy =
            engine.is_busy().or_else(|| host.release.is_some().then(|| "it is being released".to_owned()));
        if let Some(what) = busy.filter(|_| !is_last || host.release.is_some()) {
            let name = &host.settings.name;
            let fault = Fault::new(FaultKind::Refused, format!("cannot release {name}: {what}"))
                .with_hint(format!("wait for it; `steer status {name}` shows how it goes"));
            return drop(done.send(Err(fault)));
        }
        let holds = engine.hold_slots();
        let slots: Vec<Slot> =
            host.members.slots().into_iter().filter(|slot| !holds.contains(slot)).collect();
        let holders = engine.holders();
        let takes: Vec<_> = slots.into_iter().filter_map(|slot| Some((*holders.get(&slot)?, slot))).collect();
        host.release = Some(Pending { done, began: Instant::now(), left: takes.len(), taken: Vec::new() });
        for &(id, slot) in &takes {
            host.take_from(id, slot, Purpose::Release);
        }
        if takes.is_empty() {
            self.release_now();
        }
    }

    /// Some of the listeners were taken.
    pub(super) fn release_through(&mut self, listeners: Vec<OwnedFd>) {
        let host = self.runtime.host_mut();
        let Some(pending) = &mut host.release else { return };
        pending.taken.extend(listeners);
        pending.left = pending.left.saturating_sub(1);
        if pending.left == 0 {
            self.release_now();
        }
    }

    /// Releases the group, whole or not at all.
    ///
    /// The holding listener goes first, while the program can still send what it holds to the workers; then the program, and the
    /// anchors. From there on the kernel hashes over the workers' listeners, and nothing else is in the group. Where a program cannot be
    /// detached, those that were are attached again and another holding listener is made.
    fn release_now(&mut self) {
        let (engine, host) = self.runtime.parts();
        let Some(Pending { done, began, mut taken, .. }) = host.release.take() else { return };
        let holds = engine.hold_slots();
        for &slot in &holds {
            // The daemon's own: it is at hand.
            host.members.shut(slot);
        }
        host.moved();
        if let Err(failed) = host.members.release(&mut taken) {
            let (address, error) = *failed;
            let message =
                format!("cannot release {address}: {}; the group is managed as before", describe(&error));
            holds.into_iter().for_each(|slot| host.tell(Event::HoldLost { slot }));
            return drop(done.send(Err(Fault::new(FaultKind::Failed, message))));
        }
        host.is_released = true;
        let workers = host.processes.running();
        let detail = format!("the kernel's own hash chooses among its {workers} workers, which go on");
        host.journal("released", None, detail);
        // Whoever asked may be gone.
        let _ = done.send(Ok(Response::Done(Done { answers: 0, milliseconds: millis(began.elapsed()) })));
    }
}
