//! What makes a group outlive its daemon: the record of it, its pins, and what the keeper keeps.
//!
//! Files and the keeper's answers come from threads. A record that takes longer than [`PATIENCE`] is not waited for any more: the
//! group goes on, and says that a daemon that follows would not know of it. Only a worker's process waits longer, up to
//! [`GIVEN_UP_AFTER`], before it goes to its program: no later daemon would ever end a worker that no record names. After that it goes,
//! so that a disk that hangs stops no start.

mod state;

use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use crate::{
    daemon::describe::describe,
    dataplane::pins,
    engine::event::Slot,
    keeper::Keeper,
    names::GroupName,
    threads::{JobError, Threads},
};

use super::{
    message::{Inbox, Message},
    runtime::Recording,
};

pub use self::state::StateError;
#[cfg(any(test, fuzzing))]
pub use self::state::check;
pub(crate) use self::state::{
    FORMAT, MAPS, PassedOver, Saved, SavedAddress, SavedProcess, StateFile, directory_beside,
};

/// How long effects wait for a record. On a busy machine one in some hundred takes more than 200 ms.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long processes wait for a record that names them. Less than a start may take.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(10);

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
pub(crate) type SharedKeeper = Arc<Mutex<Keeper>>;

/// Where one group's parts are for the next daemon.
#[derive(Debug)]
pub(crate) struct Record {
    file: Arc<StateFile>,
    group: GroupName,
    keeper: SharedKeeper,
    pins: PathBuf,
    boot: String,
    /// Whether nothing of the group was there before.
    is_new: bool,
    /// Held for as long as this daemon has the group, with the inode of the directory that is locked.
    lock: (File, u64),
    threads: Threads,
    /// The record that is being written, and since when.
    under_way: Option<(u64, Instant)>,
    /// How late that is.
    lateness: Lateness,
    /// Why the last record could not be written, where it could not.
    failure: Option<String>,
}

/// How late the record is that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lateness {
    /// It is not.
    InTime,
    /// Effects do not wait for it any more.
    Late,
    /// Nobody does.
    GivenUp,
}

/// A record that is being written is not waited for any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    /// By effects; its number, and what is to be told.
    Late(u64, Option<RecordNews>),
    /// By anybody.
    GivenUp,
}

/// What is to be told of the writing of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RecordNews {
    /// They cannot be written; the reason.
    Unsaved(String),
    /// They are written again.
    Saved,
}

impl Record {
    /// For a group, with its pins in a directory of its own under `pins`.
    pub(crate) fn new(
        group: &GroupName,
        states: &Path,
        pins: &Path,
        keeper: SharedKeeper,
        threads: Threads,
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
            anyhow::Ok((is_new, (lock, inode), boot()?))
        };
        let (is_new, lock, boot) = locked().inspect_err(|_| file.leave())?;
        Ok(Self {
            file: Arc::new(file),
            group: group.clone(),
            keeper,
            pins: directory,
            boot,
            is_new,
            lock,
            threads,
            under_way: None,
            lateness: Lateness::InTime,
            failure: None,
        })
    }

    /// The kernel's name for this boot.
    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }

    /// Locks the directory of the pins where that was made again: the one that was locked is gone.
    pub(crate) fn lock_again(&mut self) -> anyhow::Result<()> {
        if self.lock.1 != fs::metadata(&self.pins)?.ino() {
            let lock = lock(&self.group, &self.pins)?;
            let inode = lock.metadata()?.ino();
            self.lock = (lock, inode);
        }
        Ok(())
    }

    /// What was saved in this boot.
    pub(crate) fn saved(&self) -> anyhow::Result<Option<Saved>> {
        Ok(self.file.read(&self.boot)?)
    }

    /// The directory of the group's pins.
    pub(crate) fn directory(&self) -> &Path {
        &self.pins
    }

    /// The directory of one listen address's pins.
    pub(crate) fn pins(&self, address: usize) -> PathBuf {
        self.pins.join(address.to_string())
    }

    /// Whether the last record could not be written.
    pub(crate) fn is_failing(&self) -> bool {
        self.failure.is_some()
    }

    /// Begins to write a record, on a thread.
    pub(crate) fn write(&mut self, number: u64, saved: Saved, inbox: &Inbox) -> Recording {
        // The thread is still at an earlier one; once that is over, a newer one is asked for.
        match self.lateness {
            Lateness::InTime => {}
            Lateness::Late => return Recording::Late,
            Lateness::GivenUp => return Recording::Over,
        }
        let file = self.file.clone();
        let failed = move |why| Message::Recorded { number, result: Err(why) };
        let job = move || {
            let result = file.write(&saved).map_err(|error| describe(&error));
            Message::Recorded { number, result }
        };
        self.under_way = Some((number, Instant::now()));
        if inbox.hand_in(&self.threads.records, failed, job).is_none() {
            return Recording::UnderWay;
        }
        // It is tried again as one that has failed.
        self.under_way = None;
        self.failure.get_or_insert_with(|| "too many records wait to be written".to_owned());
        Recording::Over
    }

    /// When a record that is being written is not waited for any more: first by effects, then by anybody.
    pub(crate) fn expires_at(&self) -> Option<Instant> {
        let (_, since) = self.under_way?;
        match self.lateness {
            Lateness::InTime => Some(since + PATIENCE),
            Lateness::Late => Some(since + GIVEN_UP_AFTER),
            Lateness::GivenUp => None,
        }
    }

    /// What is not waited for any more, where that is so.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<Expired> {
        self.expires_at().filter(|at| now >= *at)?;
        let (number, _) = self.under_way?;
        if self.lateness == Lateness::Late {
            self.lateness = Lateness::GivenUp;
            return Some(Expired::GivenUp);
        }
        self.lateness = Lateness::Late;
        let why = format!("its writing has taken more than {PATIENCE:?}");
        Some(Expired::Late(number, self.note(Err(why))))
    }

    /// The writing of a record is over. Whether a newer one is wanted, and what is to be told.
    pub(crate) fn recorded(&mut self, number: u64, result: Result<(), String>) -> (bool, Option<RecordNews>) {
        if self.under_way.is_some_and(|(under_way, _)| under_way == number) {
            self.under_way = None;
        }
        let was_late = std::mem::replace(&mut self.lateness, Lateness::InTime) != Lateness::InTime;
        (was_late, self.note(result))
    }

    fn note(&mut self, result: Result<(), String>) -> Option<RecordNews> {
        let before = std::mem::replace(&mut self.failure, result.clone().err());
        match (before, result) {
            (None, Err(why)) => Some(RecordNews::Unsaved(why)),
            (Some(_), Ok(())) => Some(RecordNews::Saved),
            _ => None,
        }
    }

    /// Has the holding listeners of a slot outlive the daemon, on a thread: the task is told once they do.
    pub(crate) fn keep_hold(
        &self,
        slot: Slot,
        listeners: Vec<(usize, OwnedFd)>,
        inbox: &Inbox,
    ) -> Option<Message> {
        let (keeper, group) = (self.keeper.clone(), self.group.clone());
        let failed = move |why| Message::HoldKept { slot, result: Err(why) };
        let job = move || {
            let keep = |(address, listener): &(usize, OwnedFd)| {
                use std::os::fd::AsFd as _;
                held(&keeper).keep(&hold_name(&group, *address, slot), listener.as_fd())
            };
            let result = listeners.iter().try_for_each(keep).map_err(|error| describe(&error));
            Message::HoldKept { slot, result }
        };
        inbox.hand_in(&self.threads.keeping, failed, job)
    }

    /// Has the holding listeners of a slot end, at so many addresses.
    pub(crate) fn release_hold(&self, slot: Slot, addresses: usize) {
        let group = self.group.clone();
        self.keeper_job(move |keeper| {
            (0..addresses).for_each(|address| release(keeper, &hold_name(&group, address, slot)));
        });
    }

    /// Has the anchors of addresses outlive the daemon, each in place of the one before.
    pub(crate) fn keep_anchors(&self, anchors: Vec<(usize, OwnedFd)>) {
        if anchors.is_empty() {
            return;
        }
        let group = self.group.clone();
        self.keeper_job(move |keeper| {
            use std::os::fd::AsFd as _;
            for (address, anchor) in anchors {
                if let Err(error) = keeper.keep(&anchor_name(&group, address), anchor.as_fd()) {
                    tracing::warn!("datagrams may be lost when this daemon ends: {}", describe(&error));
                }
            }
        });
    }

    fn keeper_job(&self, job: impl FnOnce(&mut Keeper) + Send + 'static) {
        let keeper = self.keeper.clone();
        if let Err(error) = self.threads.keeping.submit(move || job(&mut held(&keeper))) {
            tracing::warn!("the keeper is not told: {error}");
        }
    }

    /// The holding listener of an address that is kept for a slot.
    pub(crate) fn kept_hold(&self, address: usize, slot: Slot) -> Option<OwnedFd> {
        self.kept(&hold_name(&self.group, address, slot))
    }

    /// The anchor that is kept of an address.
    pub(crate) fn kept_anchor(&self, address: usize) -> Option<OwnedFd> {
        self.kept(&anchor_name(&self.group, address))
    }

    /// Has the socket on which workers say that they are ready outlive the daemon. It waits for the keeper.
    pub(crate) fn keep_notify(&self, socket: std::os::fd::BorrowedFd<'_>) -> anyhow::Result<()> {
        Ok(held(&self.keeper).keep(&notify_name(&self.group), socket)?)
    }

    /// The one that is kept.
    pub(crate) fn kept_notify(&self) -> Option<OwnedFd> {
        self.kept(&notify_name(&self.group))
    }

    fn kept(&self, name: &str) -> Option<OwnedFd> {
        let keeper = held(&self.keeper);
        let (_, kept) = keeper.kept().find(|(kept, _)| *kept == name)?;
        kept.try_clone_to_owned().ok()
    }

    /// Removes everything of the group: it has ended, or is not managed any more. What was asked for before comes first.
    pub(crate) async fn remove(&self) {
        let file = self.file.clone();
        let removed = self.threads.records.run(move || file.remove().map_err(|error| describe(&error))).await;
        let (keeper, group) = (self.keeper.clone(), self.group.clone());
        let released = self.threads.keeping.run(move || release_all(&mut held(&keeper), &group)).await;
        let pins = self.pins.clone();
        let unpinned =
            self.threads.records.run(move || pins::remove(&pins).map_err(|error| describe(&error))).await;
        let flatten = |result: Result<Result<(), String>, JobError>| match result {
            Ok(result) => result,
            Err(error) => Err(error.to_string()),
        };
        let results = [flatten(removed), released.map_err(|error| error.to_string()), flatten(unpinned)];
        for why in results.into_iter().filter_map(Result::err) {
            tracing::warn!("something of the group {} stays behind: {why}", self.group);
        }
    }

    /// Removes what was made for a group that could not be opened, or was given up before it ran. What was there before stays. It
    /// waits for files and the keeper.
    pub(crate) fn undo(&self) {
        if self.is_new {
            let removed = self.file.remove().map_err(|error| describe(&error));
            release_all(&mut held(&self.keeper), &self.group);
            let unpinned = pins::remove(&self.pins).map_err(|error| describe(&error));
            for why in [removed, unpinned].into_iter().filter_map(Result::err) {
                tracing::warn!("{why}");
            }
        }
        self.file.leave();
    }
}

fn release_all(keeper: &mut Keeper, group: &GroupName) {
    let prefix = format!("{group}/");
    let names: Vec<String> =
        keeper.kept().map(|(name, _)| name.to_owned()).filter(|name| name.starts_with(&prefix)).collect();
    names.iter().for_each(|name| release(keeper, name));
}

fn release(keeper: &mut Keeper, name: &str) {
    if let Err(error) = keeper.release(name) {
        tracing::warn!("{}", describe(&error));
    }
}

fn hold_name(group: &GroupName, address: usize, slot: Slot) -> String {
    format!("{group}/{address}/{slot}")
}

fn anchor_name(group: &GroupName, address: usize) -> String {
    format!("{group}/{address}/anchor")
}

fn notify_name(group: &GroupName) -> String {
    format!("{group}/notify")
}

fn held(keeper: &SharedKeeper) -> MutexGuard<'_, Keeper> {
    keeper.lock().unwrap_or_else(PoisonError::into_inner)
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
