//! Opens a group: everything that can be wrong with it is found here, before anything is started. It blocks: for the kernel's verifier,
//! for files and for the keeper.

use std::{cell::LazyCell, fs::File, io, os::fd::AsFd as _, sync::Arc};

use anyhow::Context as _;
use server_common::limits::slots;
use thiserror::Error;

use crate::{
    daemon::{
        describe::describe,
        rules::rules,
        settings::{GroupSettings, Mode, WhenEmpty},
        shared::Shared,
    },
    dataplane::kernel_group::ProgramKind,
    engine::group::{Group, Rules},
    sockets::{
        address::ListenAddress, diag::Diag, holder, netns::Cookie, processes::Processes as AllProcesses,
    },
    workers::{notify::NotifySocket, placeholders::fill_in, spawn::require_program, user::ResolvedUser},
};

use super::{
    adopt::{Adoption, Look},
    host::{GroupHost, HostShared},
    members::{Endpoint, Members, Opening},
    message::{Inbox, Message},
    pending_reply::PendingReplies,
    processes::{Means, Processes},
    record::{Record, Saved},
    report::Board,
    runtime::Runtime,
    sharing::{self, Sharing},
    starts::Starts,
    task::GroupTask,
    totals::Totals,
};

/// Descriptors that a daemon needs for more than its groups' listeners and processes: clients, events, what it asks the kernel with.
const ROOM_BESIDE: usize = 24;

/// Somebody serves the address already, and would share it with us.
#[derive(Debug, Error)]
#[error(
    "cannot take {address}: {holder} serves it already, and a group that is joined unasked is two owners' ruin"
)]
pub struct AddressServed {
    address: ListenAddress,
    holder: holder::Holder,
}

impl AddressServed {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> String {
        "stop it first, or choose another address".to_owned()
    }
}

/// A group that is open, and how it is reached.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) task: GroupTask,
    pub(crate) inbox: Inbox,
    pub(crate) board: Board,
    /// Which program steers it.
    pub(crate) program: &'static str,
}

/// Opens a group, or takes it over from a daemon that is gone, as it was configured then. `processes` are looked at where a group is
/// taken over, once for all groups.
pub(crate) fn open(
    configured: GroupSettings,
    shared: &Shared,
    processes: &LazyCell<AllProcesses>,
) -> anyhow::Result<Opened> {
    let lasting = shared.lasting.as_ref();
    let record = lasting.map(|lasting| lasting.group(&configured.name)).transpose()?;
    let saved = record.as_ref().map(Record::saved).transpose()?.flatten();
    let assembled = assemble(configured, shared, record.as_ref(), saved.as_ref());
    let (mut host, engine, messages, program, mut first_look) = match assembled {
        Ok(assembled) => assembled,
        Err(error) => {
            if let (Some(record), None) = (&record, &saved) {
                record.undo();
            }
            return Err(error);
        }
    };
    host.record = record;
    let (inbox, board) = (host.shared.inbox.clone(), host.shared.board.clone());
    if let Some(saved) = &saved {
        require_room(saved)?;
        host.restore(&engine, saved, processes, &mut first_look);
    }
    let runtime = Runtime::new(engine, host);
    let task = GroupTask::new(runtime, messages, shared.outside.clone(), saved.is_some(), first_look);
    Ok(Opened { task, inbox, board, program })
}

/// Fails where there is no room for the descriptors of a group that is taken over: what cannot be opened would be taken for gone, and
/// replaced.
fn require_room(saved: &Saved) -> anyhow::Result<()> {
    let listeners: usize = saved.addresses.iter().map(|address| address.listeners.len()).sum();
    // Of a process, its pidfd and what waits for it; of a listener, what is taken and what is kept of it.
    let count = 2 * (saved.processes.len() + listeners) + ROOM_BESIDE;
    let null = File::open("/dev/null")?;
    let taken: io::Result<Vec<File>> = (0..count).map(|_| null.try_clone()).collect();
    taken.map(drop).with_context(|| {
        format!("cannot take over the group {}: no room for {count} descriptors", saved.settings.name)
    })
}

type Assembled = (GroupHost, Group, tokio::sync::mpsc::Receiver<Message>, &'static str, Option<Look>);

/// Puts together all of a group but its record, which is still to be told what was found.
fn assemble(
    configured: GroupSettings,
    shared: &Shared,
    record: Option<&Record>,
    saved: Option<&Saved>,
) -> anyhow::Result<Assembled> {
    let settings = saved.map_or(configured, |saved| (*saved.settings).clone());
    let user = settings.user.as_deref().map(ResolvedUser::resolve).transpose()?;
    if let Some(command) = &settings.command {
        let (directory, environment) = (settings.directory.as_deref(), &settings.environment);
        // Of a path that each worker has for itself, the first worker's.
        let first = settings.name.worker(0);
        let command: Vec<String> = command.iter().map(|word| fill_in(word, &first, 1)).collect();
        require_program(settings.name.as_str(), &command, directory, environment)?;
    }
    let notify = notify_socket(&settings, shared, record, saved.is_some())?;
    let (settings, adoption, first_look) = adopt(settings, saved.is_none())?;
    let (inbox, messages) = Inbox::new();
    let wide = adoption.is_some().then(|| share_widely(&settings, record, (shared, &inbox))).transpose()?;
    let opened = endpoints(&settings, user.as_ref(), shared, record, saved).and_then(|endpoints| {
        let owner = settings.adopt.as_ref().and_then(|adopt| adopt.owner);
        // Now that the holding listener is there: a hold without a hook would keep the server from starting again.
        let proved = wide.as_ref().filter(|_| saved.is_none()).map(|wide| wide.prove(owner));
        proved.unwrap_or(Ok(())).map_err(|error| unshared_error(&error))?;
        Ok(endpoints)
    });
    let endpoints = match opened {
        Ok(endpoints) => endpoints,
        Err(error) => {
            wide.into_iter().filter(|_| saved.is_none()).for_each(Sharing::remove);
            return Err(error);
        }
    };
    let migrates = endpoints.iter().all(|endpoint| endpoint.program() == ProgramKind::SelectOrMigrate);
    let settings = Arc::new(as_kernel_allows(settings, migrates));
    let program = endpoints.first().map_or("none", |endpoint| endpoint.program().as_str());
    let engine = match saved {
        Some(saved) => (*saved.engine).clone(),
        None => {
            let seed = settings.seed.map_or_else(random_seed, Ok)?;
            Group::new(Rules { migrates, ..rules(&settings, seed) })
        }
    };
    let notify = Arc::new(notify);
    let threads = &shared.threads;
    let addresses = endpoints.iter().map(Endpoint::address).collect();
    let sharing = sharing(&settings, user.as_ref(), addresses, record, saved.is_some(), (shared, &inbox));
    let (sharing, unshared) = match sharing {
        Ok(sharing) => (sharing.or(wide), None),
        Err(why) => (None, Some(why)),
    };
    if let (Some(why), Mode::Own) = (&unshared, settings.mode) {
        tracing::warn!("{}: its programs have to set SO_REUSEPORT themselves: {why}", settings.name);
    }
    let means = Means {
        user,
        limits: shared.limits.clone(),
        notify: notify.path().to_owned(),
        output: shared.output.clone(),
        are_lasting: record.is_some(),
        cgroup: sharing.as_ref().and_then(Sharing::cgroup),
        threads: threads.clone(),
        inbox: inbox.clone(),
    };
    let host = GroupHost {
        processes: Processes::new(settings.clone(), means),
        members: Members::new(endpoints, threads, inbox.clone(), shared.looks.clone(), migrates),
        settings,
        record: None,
        sharing,
        unshared,
        adoption,
        replies: PendingReplies::default(),
        totals: Totals::default(),
        strangers: 0,
        moved: Default::default(),
        owed: Default::default(),
        release: None,
        lively_until: 0,
        starts: Starts::default(),
        is_released: false,
        later: Default::default(),
        shared: HostShared {
            clock: shared.clock,
            journal: shared.journal.clone(),
            observer: shared.observer.clone(),
            neighbours: shared.neighbours.clone(),
            threads: threads.clone(),
            board: Board::default(),
            foreground: shared.foreground.clone(),
            inbox,
            socket: shared.socket.clone(),
            notify,
        },
    };
    Ok((host, engine, messages, program, first_look))
}

/// Looks for the listeners of a server that somebody else has started: with this they share their addresses.
fn adopt(
    mut settings: GroupSettings,
    is_first: bool,
) -> anyhow::Result<(GroupSettings, Option<Adoption>, Option<Look>)> {
    let Some(mut adoption) = Adoption::new(&settings, settings.listen.clone()) else {
        return Ok((settings, None, None));
    };
    let cannot = |why: String| AdoptError { server: adoption_of(&settings), why };
    let look = adoption.first_look(is_first).map_err(cannot)?;
    let mut refused = look.at.iter().flat_map(|at| &at.refused);
    if let (true, Some((_, why))) = (is_first, refused.next()) {
        return Err(cannot(why.clone()).into());
    }
    let learned = adoption.learn(&look).map_err(cannot)?.clone();
    settings.adopt = Some(learned);
    Ok((settings, Some(adoption), Some(look)))
}

fn adoption_of(settings: &GroupSettings) -> String {
    settings.adopt.as_ref().map_or_else(String::new, |adopt| adopt.server.to_string())
}

/// A server that cannot be adopted.
#[derive(Debug, Error)]
#[error("cannot adopt the server of {server}: {why}")]
pub struct AdoptError {
    server: String,
    why: String,
}

/// Lets a server that somebody else starts share its addresses with the holding listeners, whatever program it is.
fn share_widely(
    settings: &GroupSettings,
    record: Option<&Record>,
    (shared, inbox): (&Shared, &Inbox),
) -> anyhow::Result<Sharing> {
    let opening = sharing::WideOpening {
        addresses: settings.listen.clone(),
        netns: Cookie::here().context("cannot tell the network namespace")?,
        pins: record.map(|record| record.directory().to_owned()),
    };
    Sharing::open_wide(opening, &shared.outside, inbox).map_err(|error| unshared_error(&error))
}

fn unshared_error(error: &sharing::SharingError) -> anyhow::Error {
    let why =
        format!("the server could not be started again beside the holding listener: {}", describe(error));
    anyhow::anyhow!("{why} (hint: {})", error.hint())
}

/// Lets workers that bind their listeners themselves be any programs, where that can be; else says why not.
fn sharing(
    settings: &GroupSettings,
    user: Option<&ResolvedUser>,
    addresses: Vec<ListenAddress>,
    record: Option<&Record>,
    is_taken_over: bool,
    (shared, inbox): (&Shared, &Inbox),
) -> Result<Option<Sharing>, String> {
    if matches!(settings.mode, Mode::Inherit | Mode::Adopt) {
        return Ok(None);
    }
    let opening = sharing::Opening {
        group: settings.name.clone(),
        addresses,
        owner: user.map(|user| user.uid),
        pins: record.map(|record| record.directory().to_owned()),
        is_taken_over,
    };
    let opened = Sharing::open(opening, &shared.outside, inbox);
    opened.map(Some).map_err(|error| format!("{} (hint: {})", describe(&error), error.hint()))
}

fn notify_socket(
    settings: &GroupSettings,
    shared: &Shared,
    record: Option<&Record>,
    is_taken_over: bool,
) -> anyhow::Result<NotifySocket> {
    // It is read there.
    let _outside = shared.outside.enter();
    let mut path = shared.socket.as_os_str().to_owned();
    path.push(format!(".{}.notify", settings.name));
    let kept = record.filter(|_| is_taken_over).and_then(Record::kept_notify);
    let notify = match kept {
        Some(socket) => NotifySocket::take_over(path, socket, &shared.closer)?,
        None => NotifySocket::bind(path, &shared.closer)?,
    };
    let Some(record) = record else { return Ok(notify) };
    let notify = notify.lasting();
    record.keep_notify(notify.as_fd())?;
    Ok(notify)
}

fn endpoints(
    settings: &GroupSettings,
    user: Option<&ResolvedUser>,
    shared: &Shared,
    record: Option<&Record>,
    saved: Option<&Saved>,
) -> anyhow::Result<Vec<Endpoint>> {
    let adopt = settings.adopt.as_ref();
    let of_user = user.filter(|_| settings.mode != Mode::Inherit).map(|user| user.uid);
    let opening = |address: usize| Opening {
        // The kernel lets only sockets of one owner into a group: where workers bind themselves, that is their user.
        owner: adopt.and_then(|adopt| adopt.owner).or(of_user),
        inherited: adopt.and_then(|adopt| adopt.inherited.get(address).cloned()),
        slots: slots(settings.workers),
        sockets: settings.socket_room(),
        flows: settings.flows,
        pins: record.map(|record| record.pins(address)),
        looks: shared.looks.clone(),
    };
    match saved {
        Some(saved) => {
            let addresses = saved.addresses.iter().enumerate();
            addresses
                .map(|(index, address)| {
                    let taken_over = Endpoint::take_over(address, opening(index));
                    taken_over.with_context(|| format!("cannot take over {}", address.address))
                })
                .collect()
        }
        None if adopt.is_some() => {
            let addresses = settings.listen.iter().enumerate();
            let loaded = addresses.map(|(index, &address)| Endpoint::load(address, opening(index)));
            let mut endpoints = loaded.collect::<anyhow::Result<Vec<Endpoint>>>()?;
            endpoints.iter_mut().try_for_each(Endpoint::make_first)?;
            Ok(endpoints)
        }
        None => {
            let addresses = settings.listen.iter().enumerate();
            addresses
                .map(|(index, &address)| {
                    refuse_shared(address)?;
                    Endpoint::open(address, opening(index))
                })
                .collect()
        }
    }
}

/// Without migration nothing that the holding listener took could leave it: the group refuses instead, and that is said.
fn as_kernel_allows(settings: GroupSettings, migrates: bool) -> GroupSettings {
    if migrates {
        return settings;
    }
    let name = &settings.name;
    tracing::warn!(
        "{name}: this kernel cannot migrate connections: what a worker has not accepted is reset at a drain's deadline or \
         when it crashes (hint: Linux 5.14 or later)"
    );
    if settings.when_empty == WhenEmpty::Refuse {
        return settings;
    }
    tracing::warn!("{name}: it cannot hold connections either: they are refused while no worker works");
    GroupSettings { when_empty: WhenEmpty::Refuse, ..settings }
}

/// Refuses an address that another's SO_REUSEPORT sockets serve: to bind beside them would take half of their
/// connections, and to attach would steer the other half.
fn refuse_shared(address: ListenAddress) -> anyhow::Result<()> {
    if address.address.port() == 0 {
        return Ok(());
    }
    let listeners = Diag::open()?.listeners(address)?;
    let holder = listeners.first().map(|listener| holder::of(listener, true));
    match holder {
        // One that does not share it: the bind fails, and says why.
        Some(holder) if holder.shares != Some(false) => Err(AddressServed { address, holder }.into()),
        _ => Ok(()),
    }
}

fn random_seed() -> anyhow::Result<[u64; 2]> {
    let mut seed = [0_u64; 2];
    for word in &mut seed {
        let mut bytes = [0; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        *word = u64::from_ne_bytes(bytes);
    }
    Ok(seed)
}
