//! What makes a group outlive its daemon.

use std::{
    fs::{self, File},
    io,
    os::{fd::BorrowedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use crate::{
    dataplane::pins,
    engine::{event::GenerationId, event::Slot},
    keeper::{Keeper, KeeperError},
    names::GroupName,
    workers::process::Process,
};

use super::{
    actor::Actor,
    describe::describe,
    state::{FORMAT, MAPS, Saved, SavedProcess, StateFile},
};

/// Another daemon has the group's pins.
#[derive(Debug, Error)]
#[error("cannot take the group {group}: its pins in {directory} are another daemon's, which runs")]
pub struct PinsInUse {
    group: GroupName,
    directory: PathBuf,
}

impl PinsInUse {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> &'static str {
        "stop it first, or give this one another directory for its pins"
    }
}

/// The daemon's keeper, which all its groups share.
pub(super) type SharedKeeper = Arc<Mutex<Keeper>>;

/// Where one group's parts are for the next daemon.
#[derive(Debug)]
pub(super) struct Persistence {
    pub(super) file: StateFile,
    group: GroupName,
    keeper: SharedKeeper,
    pins: PathBuf,
    boot: String,
    /// Whether nothing of the group was there before.
    is_new: bool,
    /// Why the state could not be written, while it cannot.
    failing: std::cell::RefCell<Option<String>>,
    /// Held for as long as this daemon has the group.
    lock: std::cell::RefCell<File>,
    /// The inode of the directory that is locked.
    locked: std::cell::Cell<u64>,
}

impl Persistence {
    /// For a group, with its pins in a directory of its own under `pins`.
    pub(super) fn new(
        group: &GroupName,
        states: &Path,
        pins: &Path,
        keeper: SharedKeeper,
    ) -> anyhow::Result<Self> {
        // First, so that no pins are made yet where it is refused.
        let file = StateFile::new(states, group)?;
        let directory = pins.join(group.as_str());
        let locked = || {
            pins::prepare(pins)?;
            let is_new = !directory.exists();
            pins::make(&directory)?;
            let lock = lock(group, &directory)?;
            let inode = lock.metadata()?.ino();
            anyhow::Ok((is_new, lock, inode, boot()?))
        };
        let (is_new, lock, inode, boot) = locked().inspect_err(|_| file.leave())?;
        Ok(Self {
            file,
            group: group.clone(),
            keeper,
            pins: directory,
            boot,
            is_new,
            failing: Default::default(),
            lock: lock.into(),
            locked: inode.into(),
        })
    }

    /// Locks the directory of the pins where that was made again: the one that was locked is gone.
    pub(super) fn lock_again(&self) -> anyhow::Result<()> {
        if self.locked.get() != fs::metadata(&self.pins)?.ino() {
            let lock = lock(&self.group, &self.pins)?;
            self.locked.set(lock.metadata()?.ino());
            self.lock.replace(lock);
        }
        Ok(())
    }

    /// What was saved in this boot.
    pub(super) fn saved(&self) -> anyhow::Result<Option<Saved>> {
        Ok(self.file.read(&self.boot)?)
    }

    /// The directory of one listen address's pins.
    pub(super) fn pins(&self, address: usize) -> PathBuf {
        self.pins.join(address.to_string())
    }

    /// Whether the state could not be written when it was last tried.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.borrow().is_some()
    }

    /// Has a holding listener outlive the daemon.
    pub(super) fn keep_hold(
        &self,
        address: usize,
        slot: Slot,
        listener: BorrowedFd<'_>,
    ) -> Result<(), KeeperError> {
        self.keeper().keep(&self.hold_name(address, slot), listener)
    }

    /// Has it end.
    pub(super) fn release_hold(&self, address: usize, slot: Slot) {
        self.release(&self.hold_name(address, slot));
    }

    /// The holding listener that is kept.
    pub(super) fn kept_hold(&self, address: usize, slot: Slot) -> Option<std::os::fd::OwnedFd> {
        self.kept(&self.hold_name(address, slot))
    }

    /// Has the anchor of an address outlive the daemon, in place of the one before.
    pub(super) fn keep_anchor(&self, address: usize, anchor: BorrowedFd<'_>) -> Result<(), KeeperError> {
        self.keeper().keep(&self.anchor_name(address), anchor)
    }

    /// The one that is kept.
    pub(super) fn kept_anchor(&self, address: usize) -> Option<std::os::fd::OwnedFd> {
        self.kept(&self.anchor_name(address))
    }

    /// Has the socket on which workers say that they are ready outlive the daemon.
    pub(super) fn keep_notify(&self, socket: BorrowedFd<'_>) -> Result<(), KeeperError> {
        self.keeper().keep(&self.notify_name(), socket)
    }

    /// The one that is kept.
    pub(super) fn kept_notify(&self) -> Option<std::os::fd::OwnedFd> {
        self.kept(&self.notify_name())
    }

    /// Removes everything of the group: it has ended, or is not managed any more.
    pub(super) fn remove(&self) {
        if let Err(error) = self.file.remove() {
            tracing::warn!("{}", describe(&error));
        }
        let prefix = format!("{}/", self.group);
        let keeper = self.keeper();
        let names: Vec<String> =
            keeper.kept().map(|(name, _)| name.to_owned()).filter(|name| name.starts_with(&prefix)).collect();
        drop(keeper);
        names.iter().for_each(|name| self.release(name));
        if let Err(error) = pins::remove(&self.pins) {
            tracing::warn!("{}", describe(&error));
        }
    }

    /// Removes what was made for a group that could not be opened, or was given up before it ran. What was there before stays.
    pub(super) fn undo(&self) {
        if self.is_new {
            self.remove();
        }
        self.file.leave();
    }

    fn hold_name(&self, address: usize, slot: Slot) -> String {
        format!("{}/{address}/{slot}", self.group)
    }

    fn anchor_name(&self, address: usize) -> String {
        format!("{}/{address}/anchor", self.group)
    }

    fn notify_name(&self) -> String {
        format!("{}/notify", self.group)
    }

    fn kept(&self, name: &str) -> Option<std::os::fd::OwnedFd> {
        let keeper = self.keeper();
        let (_, kept) = keeper.kept().find(|(kept, _)| *kept == name)?;
        kept.try_clone_to_owned().ok()
    }

    fn release(&self, name: &str) {
        if let Err(error) = self.keeper().release(name) {
            tracing::warn!("{}", describe(&error));
        }
    }

    fn keeper(&self) -> std::sync::MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Actor {
    /// Writes down how the group is now, for a daemon that goes on with it. `forked` is a generation whose process has been made
    /// just now.
    pub(super) fn save(&self, forked: Option<(GenerationId, &Process)>) {
        let Some(persistence) = &self.persistence else { return };
        let known = self.generations.iter().filter_map(|(&id, running)| {
            Some((id, running.process.as_ref().filter(|_| !running.has_exited)?, running.has_told))
        });
        let processes = known.chain(forked.map(|(id, process)| (id, process, false)));
        let saved = Saved {
            format: FORMAT,
            maps: MAPS,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot: persistence.boot.clone(),
            settings: (*self.settings).clone(),
            engine: self.engine.clone(),
            addresses: self.endpoints.iter().map(|endpoint| endpoint.saved()).collect(),
            holders: self.generations.iter().map(|(&id, running)| (running.slot, id)).collect(),
            processes: processes
                .map(|(generation, process, has_told)| SavedProcess {
                    generation,
                    pid: process.pid(),
                    start_time: process.start_time(),
                    has_told,
                })
                .collect(),
            totals: (&self.totals).into(),
            strangers: self.strangers,
            last_operation: self.last_operation,
            last_event: self.journal.last(),
        };
        let result = persistence.file.write(&saved).map_err(|error| describe(&error));
        let before = persistence.failing.replace(result.as_ref().err().cloned());
        let name = &self.settings.name;
        match (before, result) {
            (None, Err(why)) => {
                let detail = format!("{why}: a daemon that follows would not know of what happens now");
                self.journal.add("state-unsaved", name, None, None, detail);
            }
            (Some(_), Ok(())) => {
                self.journal.add("state-saved", name, None, None, "the state is written again".to_owned());
            }
            _ => {}
        }
    }
}

fn lock(group: &GroupName, directory: &Path) -> anyhow::Result<File> {
    let lock = File::open(directory)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| PinsInUse { group: group.clone(), directory: directory.to_owned() })?;
    Ok(lock)
}

/// The kernel's name for this boot.
fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
