//! One look at a server's listeners, on a thread: which there are, which have come, and who takes from them.

use std::{
    collections::{BTreeSet, HashSet},
    os::fd::OwnedFd,
};

use socket2::{Domain, Socket, Type};

use crate::{
    daemon::describe::describe,
    sockets::{
        address::{ListenAddress, Protocol},
        containers::Container,
        diag::{Diag, ListenerInfo},
        inherited::Inherited,
        options::{self, SocketError},
        pidfd,
        pollers::{self, Attention, Taken},
        procfs,
    },
    workers::discover::{Discovered, Refusal},
};

use super::cgroup::ServerCgroups;

/// What tells the server's sockets from others.
#[derive(Debug, Clone)]
pub(crate) enum Whose {
    /// Its processes are in this cgroup; where there is none now, it has none.
    InCgroup(Option<ServerCgroups>),
    /// Its processes are in this container.
    InContainer(Container),
    /// Any of the group's owner's.
    OfOwner,
}

impl Whose {
    /// The server's processes, those that hold one of these sockets at least.
    fn processes(&self, inodes: &HashSet<u64>) -> Vec<u32> {
        match self {
            Self::InCgroup(cgroups) => cgroups.as_ref().map(ServerCgroups::processes).unwrap_or_default(),
            Self::InContainer(container) => {
                holders(inodes).into_iter().filter(|pid| container.has(*pid)).collect()
            }
            Self::OfOwner => holders(inodes),
        }
    }
}

/// The processes that hold one of these sockets at least, but for the daemon's own.
fn holders(inodes: &HashSet<u64>) -> Vec<u32> {
    // The daemon and its keeper hold listeners of the group that are not the server's.
    let holders: BTreeSet<u32> = inodes.iter().flat_map(|inode| procfs::who_holds(*inode)).collect();
    holders.into_iter().filter(|pid| !procfs::is_this_program(*pid)).collect()
}

/// What is to be looked at.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) whose: Whose,
    /// The user who owns the server's sockets, once that is known.
    pub(crate) owner: Option<u32>,
    /// By listen address.
    pub(crate) wanted: Vec<Wanted>,
    /// Whether a listener that nobody takes from counts as well: when a server is adopted that has served all along.
    pub(crate) is_first: bool,
}

/// What is wanted of one listen address.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) address: ListenAddress,
    /// The cookies of listeners of which nothing more is wanted than whether they are there.
    pub(crate) known: HashSet<u64>,
    /// Whether the server's listeners take no IPv4 traffic, once that is known.
    pub(crate) v6_only: Option<bool>,
}

/// What was found, by listen address.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) at: Vec<At>,
}

/// What was found at one listen address.
#[derive(Debug, Default)]
pub(crate) struct At {
    /// The cookies of all listeners.
    pub(crate) present: HashSet<u64>,
    /// The server's listeners that were not known and are taken from.
    pub(crate) came: Vec<Came>,
    /// How many are the server's and nobody takes from yet.
    pub(crate) unready: usize,
    /// Those that cannot be the group's, by cookie: why not, with the way out.
    pub(crate) refused: Vec<(u64, String)>,
    /// The cookies of listeners of others.
    pub(crate) strangers: HashSet<u64>,
}

/// A listener of the server's.
#[derive(Debug)]
pub(crate) struct Came {
    pub(crate) discovered: Discovered,
    /// The processes that take from it, as far as that shows.
    pub(crate) taken_by: BTreeSet<u32>,
    /// Whether a process is seen to take from it. Otherwise a process only holds it.
    pub(crate) is_sure: bool,
    /// The user who owns it.
    pub(crate) owner: u32,
    /// What connections have from it.
    pub(crate) inherited: Inherited,
}

/// Takes a look. While nothing has come it costs a dump of the listeners at each address.
pub(crate) fn look(question: &Question) -> Result<Look, String> {
    let mut diag = Diag::open().map_err(|error| describe(&error))?;
    let mut all = Vec::new();
    for wanted in &question.wanted {
        all.push(diag.listeners(wanted.address).map_err(|error| describe(&error))?);
    }
    let unknown = |(found, wanted): (&Vec<ListenerInfo>, &Wanted)| -> Vec<u64> {
        let unknown = found.iter().filter(|it| !wanted.known.contains(&it.cookie));
        unknown.map(|it| u64::from(it.inode)).collect()
    };
    let inodes: HashSet<u64> = all.iter().zip(&question.wanted).flat_map(unknown).collect();
    let attention = if inodes.is_empty() {
        Attention::default()
    } else {
        // Without room for a look, the server would seem to have nothing.
        procfs::require_room().map_err(|error| error.to_string())?;
        pollers::look(&question.whose.processes(&inodes), &inodes)
    };
    let at = all
        .into_iter()
        .zip(&question.wanted)
        .map(|(found, wanted)| sort(question, wanted, found, &attention));
    Ok(Look { at: at.collect() })
}

fn sort(question: &Question, wanted: &Wanted, found: Vec<ListenerInfo>, attention: &Attention) -> At {
    let mut at = At { present: found.iter().map(|it| it.cookie).collect(), ..At::default() };
    for listener in found.into_iter().filter(|it| !wanted.known.contains(&it.cookie)) {
        let taken = attention.taken(u64::from(listener.inode));
        let is_sure = question.is_first || matches!(taken, Taken::Polled { .. });
        let taken_by = match taken {
            Taken::NotHeld => {
                at.strangers.insert(listener.cookie);
                continue;
            }
            Taken::Polled { by } => by,
            Taken::Unknown { held_by } if held_by.len() == 1 || !question.is_first => held_by,
            // Of several that hold it, who takes from it does not show.
            Taken::Unknown { .. } => BTreeSet::new(),
            Taken::NotPolled { .. } if question.is_first => BTreeSet::new(),
            Taken::NotPolled { .. } => {
                at.unready += 1;
                continue;
            }
        };
        let holders = attention.holders(u64::from(listener.inode));
        let takes = holders.iter().find(|holder| taken_by.contains(&holder.pid)).or(holders.first());
        let Some((pid, descriptor)) = takes.map(|holder| (holder.pid, holder.descriptor)) else { continue };
        match take(question, wanted, &listener, pid, descriptor) {
            Ok(Some((discovered, inherited))) => {
                at.came.push(Came { discovered, taken_by, is_sure, owner: listener.uid, inherited });
            }
            // It was closed meanwhile.
            Ok(None) => {}
            Err(Refusal::NotTaken { .. }) => at.unready += 1,
            Err(refusal) => {
                let hint = refusal.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
                at.refused.push((listener.cookie, format!("{}{hint}", describe(&refusal))));
            }
        }
    }
    // The order of a server's processes is the order in which it has started them.
    at.came.sort_by_key(|it| (it.taken_by.first().copied(), it.discovered.cookie));
    at
}

/// A socket as it is made, of the address's kind.
fn new_socket(address: ListenAddress) -> Result<Socket, SocketError> {
    let kind = match address.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let made = Socket::new(Domain::for_address(address.address), kind, None);
    made.map_err(|source| SocketError { operation: "make a socket", source })
}

/// Takes a descriptor of a listener from its process, and has it share its address. Nothing where the process has another socket by now.
fn take(
    question: &Question,
    wanted: &Wanted,
    found: &ListenerInfo,
    pid: u32,
    descriptor: i32,
) -> Result<Option<(Discovered, Inherited)>, Refusal> {
    let address = wanted.address;
    let taken = pidfd::open(pid).and_then(|process| pidfd::take_fd(process, descriptor));
    let listener: OwnedFd = taken.map_err(|source| Refusal::NotTaken { pid, address, source })?;
    let failed = |source| Refusal::NotExamined { pid, address, source };
    if options::is_mptcp(&listener).map_err(failed)? {
        return Err(Refusal::Mptcp { pid, address });
    }
    let cookie = options::socket_cookie(&listener).map_err(failed)?;
    if cookie != found.cookie {
        return Ok(None);
    }
    if let Some(expected) = question.owner.filter(|owner| *owner != found.uid) {
        return Err(Refusal::WrongOwner { pid, address, found: found.uid, expected });
    }
    let inherited = Inherited::read(&listener, new_socket(address).map_err(failed)?).map_err(failed)?;
    if let Some(expected) = wanted.v6_only.filter(|expected| *expected != inherited.v6_only) {
        return Err(Refusal::OtherFamily { pid, address, found: inherited.v6_only, expected });
    }
    if let Some(device) = options::bound_device(&listener).map_err(failed)? {
        return Err(Refusal::BoundToDevice { pid, address, device });
    }
    // Those that bind from now on join it: it becomes a member as soon as another listens (`inet_reuseport_add_sock`).
    options::share(&listener).map_err(failed)?;
    Ok(Some((Discovered { listener, cookie, pid, descriptor }, inherited)))
}
