//! `own` mode: finds the listener that a worker has made itself, and takes a duplicate of it.

use std::{
    cell::LazyCell,
    collections::HashSet,
    os::fd::{OwnedFd, RawFd},
};

use thiserror::Error;

use crate::sockets::{
    address::ListenAddress,
    diag::{Diag, DiagError, ListenerInfo},
    options::{self, SocketError},
    pidfd::{self, PidfdError},
};

/// What a worker's listener has to be to become a member of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// The group's address.
    pub address: ListenAddress,
    /// The owner of the group's sockets.
    pub owner_uid: u32,
    /// Whether the group's sockets take no IPv4 traffic: [`options::is_v6_only`] of one of them; not compared
    /// where it is `None`.
    pub v6_only: Option<bool>,
}

/// A worker's own listener.
#[derive(Debug)]
pub struct Discovered {
    /// A duplicate of it. While it is open the listener is: shut it down when the worker is gone.
    pub listener: OwnedFd,
    /// Its socket cookie.
    pub cookie: u64,
    /// The process of the worker that holds it.
    pub pid: u32,
    /// Its number there.
    pub descriptor: RawFd,
}

/// Why a worker's listener cannot become a member.
#[derive(Debug, Error)]
pub enum Refusal {
    /// A sockarray takes no MPTCP socket (-524).
    #[error(
        "the listener of process {pid} on {address} is an MPTCP one, which no SO_REUSEPORT program can select"
    )]
    Mptcp {
        /// The process.
        pid: u32,
        /// The group's address.
        address: ListenAddress,
    },
    /// It is in no group, or in one of its own.
    #[error("the listener of process {pid} on {address} does not set SO_REUSEPORT")]
    NoReuseport {
        /// The process.
        pid: u32,
        /// The group's address.
        address: ListenAddress,
    },
    /// The kernel lets only sockets of one owner into a group.
    #[error(
        "the listener of process {pid} on {address} belongs to user {found}, and the group to user {expected}"
    )]
    WrongOwner {
        /// The process.
        pid: u32,
        /// The group's address.
        address: ListenAddress,
        /// The listener's owner.
        found: u32,
        /// The group's owner.
        expected: u32,
    },
    /// It takes IPv4 traffic and the group does not, or the reverse.
    #[error(
        "the listener of process {pid} on {address} has IPV6_V6ONLY={found}, and the group has {expected}"
    )]
    OtherFamily {
        /// The process.
        pid: u32,
        /// The group's address.
        address: ListenAddress,
        /// The listener's IPV6_V6ONLY.
        found: bool,
        /// The group's IPV6_V6ONLY.
        expected: bool,
    },
    /// To the kernel it is in a group apart.
    #[error("the listener of process {pid} on {address} is bound to the interface {device}")]
    BoundToDevice {
        /// The process.
        pid: u32,
        /// The group's address.
        address: ListenAddress,
        /// The interface.
        device: String,
    },
    /// It could not be duplicated.
    #[error("cannot take the listener of process {pid} on {address}")]
    NotTaken {
        /// The process.
        pid: u32,
        /// The group's address.
        address: ListenAddress,
        /// Why not.
        #[source]
        source: PidfdError,
    },
    /// It could not be asked.
    #[error("cannot examine the listener of process {pid} on {address}")]
    NotExamined {
        /// The process.
        pid: u32,
        /// The group's address.
        address: ListenAddress,
        /// Why not.
        #[source]
        source: SocketError,
    },
    /// The kernel could not be asked for the address's listeners.
    #[error("cannot list the listeners on {address}")]
    NotListed {
        /// The group's address.
        address: ListenAddress,
        /// Why not.
        #[source]
        source: DiagError,
    },
}

impl Refusal {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Mptcp { .. } => Some(
                "Go 1.24 and later listens with MPTCP by default: set GODEBUG=multipathtcp=0 in the worker's \
                 environment; in other programs, make the socket with IPPROTO_TCP"
                    .to_owned(),
            ),
            Self::NoReuseport { .. } => {
                Some("let the program set SO_REUSEPORT before it binds, or use mode inherit".to_owned())
            }
            Self::WrongOwner { found, expected, .. } => Some(format!(
                "run the worker as user {expected}, or the group as user {found}; root is no exception"
            )),
            Self::OtherFamily { .. } => Some(
                "let the program leave IPV6_V6ONLY alone (nginx: ipv6only=off), or listen on 0.0.0.0 and [::] as \
                 two addresses"
                    .to_owned(),
            ),
            Self::BoundToDevice { .. } => {
                Some("sockets that are bound to an interface are a group apart: leave that out of the program's options".to_owned())
            }
            Self::NotTaken { source, .. } => source.hint().map(str::to_owned),
            Self::NotListed { source, .. } => source.hint().map(str::to_owned),
            Self::NotExamined { .. } => None,
        }
    }
}

/// The new listener on the group's address that one of the processes `tree` holds; nothing where there is none
/// yet. The processes are looked for only where somebody listens who is not known.
///
/// `known` are the socket cookies of the listeners that the group has or has had. The first that can be a member
/// is returned; further ones of the same worker stay strangers, for a worker has one listener per address. Where
/// there are some and none can be a member, the error says why the first cannot. Taking it needs the right to
/// trace the worker: the same user, or CAP_SYS_PTRACE.
pub fn discover(
    diag: &mut Diag,
    membership: &Membership,
    tree: &LazyCell<Vec<u32>, impl FnOnce() -> Vec<u32>>,
    known: &HashSet<u64>,
) -> Result<Option<Discovered>, Refusal> {
    let mut first_refusal = None;
    for found in strangers(diag, membership.address, known)? {
        // Made by this worker, or somebody else's: of these it is not this function's to speak.
        let Some((pid, descriptor)) = pidfd::find_listener(tree, u64::from(found.inode)) else { continue };
        let taken = pidfd::open(pid).and_then(|process| pidfd::take_fd(process, descriptor));
        let address = membership.address;
        let candidate = taken
            .map_err(|source| Refusal::NotTaken { pid, address, source })
            .and_then(|listener| examine(membership, (pid, descriptor), found.uid, listener));
        match candidate {
            // The descriptor was closed, and its number given to another socket, in between.
            Ok(candidate) if candidate.cookie != found.cookie => {}
            Ok(candidate) => return Ok(Some(candidate)),
            Err(refusal) => first_refusal = first_refusal.or(Some(refusal)),
        }
    }
    first_refusal.map_or(Ok(None), Err)
}

fn examine(
    membership: &Membership,
    (pid, descriptor): (u32, RawFd),
    uid: u32,
    listener: OwnedFd,
) -> Result<Discovered, Refusal> {
    let &Membership { address, owner_uid: expected, v6_only } = membership;
    let failed = |source| Refusal::NotExamined { pid, address, source };
    // First: an MPTCP listener has other surprises, such as a cookie that is not that of its TCP socket.
    if options::is_mptcp(&listener).map_err(failed)? {
        return Err(Refusal::Mptcp { pid, address });
    }
    if !options::has_reuseport(&listener).map_err(failed)? {
        return Err(Refusal::NoReuseport { pid, address });
    }
    if uid != expected {
        return Err(Refusal::WrongOwner { pid, address, found: uid, expected });
    }
    let found = options::is_v6_only(&listener).map_err(failed)?;
    if let Some(expected) = v6_only.filter(|expected| *expected != found) {
        return Err(Refusal::OtherFamily { pid, address, found, expected });
    }
    let cookie = options::socket_cookie(&listener).map_err(failed)?;
    Ok(Discovered { listener, cookie, pid, descriptor })
}

/// The listeners on the address that are not among the `known` by socket cookie: they joined unasked, and the
/// program gives them nothing.
pub fn strangers(
    diag: &mut Diag,
    address: ListenAddress,
    known: &HashSet<u64>,
) -> Result<Vec<ListenerInfo>, Refusal> {
    let mut found = diag.listeners(address).map_err(|source| Refusal::NotListed { address, source })?;
    found.retain(|listener| !known.contains(&listener.cookie));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsFd, time::Instant};

    use super::*;
    use crate::{
        sockets::listener::make_listener,
        workers::{
            command::SpawnSpec,
            process::Process,
            spawn::{Spawned, spawn_and_wait},
        },
    };

    /// A Python program that knows nothing of us: it makes a socket in its own way and waits.
    async fn start(address: ListenAddress, setup: &str) -> Spawned {
        let script = format!(
            "import socket,time\n\
             {setup}\n\
             s.bind(('127.0.0.1', {})); s.listen(8)\n\
             time.sleep(60)\n",
            address.address.port()
        );
        let spec = SpawnSpec {
            name: "web/0".parse().unwrap(),
            generation: 1,
            command: Some(vec!["python3".to_owned(), "-c".to_owned(), script]),
            user: None,
            directory: None,
            environment: Vec::new(),
            limits: Vec::new(),
            listeners: Vec::new(),
            load: None,
            notify: None,
            output: crate::workers::command::Output::Piped,
            cgroup: None,
        };
        spawn_and_wait(spec).await.unwrap()
    }

    const TCP: &str = "s = socket.socket()";
    const REUSEPORT: &str = "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)";
    const MPTCP: &str = "s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); \
                         s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)";

    fn free_address() -> ListenAddress {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        ListenAddress { address: probe.local_addr().unwrap(), ..("127.0.0.1:0".parse().unwrap()) }
    }

    fn membership(address: ListenAddress) -> Membership {
        Membership { address, owner_uid: rustix::process::geteuid().as_raw(), v6_only: Some(false) }
    }

    async fn await_outcome(
        process: &Process,
        membership: &Membership,
        known: &HashSet<u64>,
    ) -> Result<Discovered, Refusal> {
        let begun = Instant::now();
        let mut diag = Diag::open().unwrap();
        loop {
            if let Some(found) = discover(&mut diag, membership, &LazyCell::new(|| process.tree()), known)? {
                return Ok(found);
            }
            assert!(
                process.exit().is_none() && begun.elapsed().as_secs() < 10,
                "no listener: {:?}",
                process.tree()
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    async fn end(process: &Process) {
        process.signal_tree(libc::SIGKILL).unwrap();
        process.wait().await.unwrap();
    }

    #[tokio::test]
    async fn a_workers_own_listener_is_found_beside_those_of_others() {
        let holding = make_listener("127.0.0.1:0".parse().unwrap(), None, 8).unwrap();
        let bound = options::local_address(&holding).unwrap();
        let address = ListenAddress { address: bound, ..("127.0.0.1:0".parse().unwrap()) };
        let stranger = make_listener(address, None, 8).unwrap();
        let mut known = HashSet::from([options::socket_cookie(&holding).unwrap()]);

        let Spawned { process, output: _output } = start(address, REUSEPORT).await;
        let found = await_outcome(&process, &membership(address), &known).await.unwrap();
        assert_eq!(options::local_address(&found.listener).unwrap(), bound);
        assert_eq!(options::socket_cookie(&found.listener).unwrap(), found.cookie);
        assert!(process.tree().contains(&found.pid));

        known.insert(found.cookie);
        let mut diag = Diag::open().unwrap();
        assert!(
            discover(&mut diag, &membership(address), &LazyCell::new(|| process.tree()), &known)
                .unwrap()
                .is_none()
        );
        let strangers = strangers(&mut diag, address, &known).unwrap();
        assert_eq!(strangers.len(), 1);
        assert_eq!(strangers[0].cookie, options::socket_cookie(stranger.as_fd()).unwrap());
        end(&process).await;
        assert!(options::listens(&found.listener).unwrap(), "the duplicate keeps it open");
    }

    #[tokio::test]
    async fn what_cannot_be_a_member_is_refused_with_a_hint() {
        let known = HashSet::new();
        let address = free_address();
        let Spawned { process, output: _output } = start(address, TCP).await;
        let refusal = await_outcome(&process, &membership(address), &known).await.unwrap_err();
        assert!(matches!(refusal, Refusal::NoReuseport { .. }), "{refusal:?}");
        assert!(refusal.hint().unwrap().contains("SO_REUSEPORT"));
        end(&process).await;

        let address = free_address();
        let Spawned { process, output: _output } = start(address, REUSEPORT).await;
        let expected = membership(address);
        let other = Membership { owner_uid: expected.owner_uid + 1, ..expected };
        let refusal = await_outcome(&process, &other, &known).await.unwrap_err();
        assert!(matches!(refusal, Refusal::WrongOwner { .. }), "{refusal:?}");
        for uid in [expected.owner_uid, other.owner_uid] {
            assert!(refusal.to_string().contains(&format!("user {uid}")), "{refusal}");
        }
        end(&process).await;
    }

    #[tokio::test]
    async fn an_mptcp_listener_is_refused_with_the_way_out_for_go() {
        // A kernel without MPTCP has no such listeners to refuse.
        let available = std::fs::read_to_string("/proc/sys/net/mptcp/enabled");
        if !available.as_ref().is_ok_and(|value| value.trim() == "1") {
            println!("net.mptcp.enabled is {available:?}: no MPTCP listener can be made here");
            return;
        }
        let address = free_address();
        let Spawned { process, output: _output } = start(address, MPTCP).await;
        let refusal = await_outcome(&process, &membership(address), &HashSet::new()).await.unwrap_err();
        assert!(matches!(refusal, Refusal::Mptcp { .. }), "{refusal:?}");
        assert!(refusal.hint().unwrap().contains("GODEBUG=multipathtcp=0"));
        end(&process).await;
    }
}
