//! Which open connections processes hold: each once, at its address, exactly.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    process::{Child, Command},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rustix::io::{FdFlags, fcntl_setfd};
use steer::{
    dataplane::looks::{Looks, OpenConnection},
    sockets::{
        diag::{ConnectionState, Diag},
        options, procfs,
    },
};
use steer_tests::{crowd, exact, netns, wait};

const SOON: Duration = Duration::from_secs(20);

/// The looks, where this kernel can list the connections of a process.
fn looks() -> Option<Looks> {
    let looks = exact::looks()?;
    if let Some(reason) = looks.without_connections() {
        println!("not supported: {reason:?}");
        return None;
    }
    Some(looks)
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a literal is an address")
}

/// Connections to a listener, each accepted.
fn connect(listener: &TcpListener, servers: &[(&str, usize)]) -> Vec<(TcpStream, TcpStream)> {
    let all = servers.iter().flat_map(|(server, count)| std::iter::repeat_n(*server, *count));
    all.map(|server| {
        let client = TcpStream::connect(address(server)).expect("the listener answers");
        let (accepted, _) = listener.accept().expect("it is in the queue");
        (client, accepted)
    })
    .collect()
}

/// A process that has inherited the sockets and does nothing.
struct Heir(Child);

impl Heir {
    fn of<'a>(sockets: impl IntoIterator<Item = &'a TcpStream>) -> Self {
        let sockets: Vec<_> = sockets.into_iter().collect();
        let set = |flags| {
            sockets.iter().try_for_each(|socket| fcntl_setfd(socket, flags)).expect("a flag can be set")
        };
        set(FdFlags::empty());
        let child = Command::new("sleep").arg("1000").spawn().expect("sleep runs");
        set(FdFlags::CLOEXEC);
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn at(found: &[OpenConnection], listen: &str) -> usize {
    found.iter().filter(|connection| connection.is_at(address(listen))).count()
}

#[test]
fn a_connection_of_several_processes_is_one_and_is_at_its_own_address() {
    let Some(looks) = looks() else { return };
    netns::run("connections", |_| {
        let bind = |at: &str| TcpListener::bind(address(at)).expect("the address is free");
        let sites = ["127.0.0.1:8080", "127.0.0.2:8080", "[::]:8081"];
        let listeners = sites.map(bind);
        let servers: [&[(&str, usize)]; 3] =
            [&[(sites[0], 5)], &[(sites[1], 7)], &[("127.0.0.3:8081", 4), ("[::1]:8081", 3)]];
        let mut pairs: Vec<_> = listeners
            .iter()
            .zip(servers)
            .flat_map(|(listener, servers)| connect(listener, servers))
            .collect();
        // Nobody holds these yet.
        let _unaccepted =
            sites[..2].iter().map(|site| TcpStream::connect(address(site)).unwrap()).collect::<Vec<_>>();

        let heir = Heir::of(pairs.iter().map(|(_, accepted)| accepted));
        let heir_s_heir = Heir::of(pairs.iter().map(|(_, accepted)| accepted));
        let own = std::process::id();
        let ports = BTreeSet::from([8080, 8081]);
        let look = |pids: &[u32]| looks.connections(pids, &ports).expect("a look succeeds");
        for pids in [&[own][..], &[heir.pid()], &[own, heir.pid(), heir_s_heir.pid(), own]] {
            let found = look(pids);
            assert_eq!(sites.map(|site| at(&found, site)), [5, 7, 7], "{pids:?}: {found:?}");
            assert_eq!(found.len(), 19, "{pids:?}: {found:?}");
            let inodes: HashSet<_> = found.iter().map(|connection| connection.inode).collect();
            let wanted = pairs.iter().map(|(_, accepted)| options::inode(accepted).unwrap()).collect();
            assert_eq!(inodes, wanted);
        }
        let only = looks.connections(&[own], &BTreeSet::from([8081])).unwrap();
        assert_eq!((only.len(), at(&only, "127.0.0.3:8081"), at(&only, "[::1]:8081")), (7, 4, 3));

        // As sock_diag and /proc have it.
        let held = procfs::socket_inodes_of(&[heir.pid()]);
        for site in sites {
            let at_site = Diag::open().unwrap().connections(site.parse().unwrap()).unwrap();
            let count =
                at_site.iter().filter(|connection| held.contains(&u64::from(connection.inode))).count();
            assert_eq!(count, at(&look(&[heir.pid()]), site));
        }
        let namespace = std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        assert!(look(&[own]).iter().all(|connection| u64::from(connection.namespace) == namespace));

        // Closed by the client, by the process, by both.
        let (client, _) = &pairs[0];
        client.shutdown(Shutdown::Both).unwrap();
        let (_, accepted) = &pairs[1];
        accepted.shutdown(Shutdown::Write).unwrap();
        let states = || {
            let mut states = BTreeMap::new();
            for connection in look(&[own]) {
                *states.entry(format!("{:?}", connection.state)).or_insert(0) += 1;
            }
            states
        };
        let wanted = BTreeMap::from(
            [
                (ConnectionState::CloseWait, 1),
                (ConnectionState::Closing, 1),
                (ConnectionState::Established, 17),
            ]
            .map(|(state, count)| (format!("{state:?}"), count)),
        );
        wait::until("both have closed", SOON, || match states() {
            found if found == wanted => Ok(()),
            found => Err(format!("{found:?}")),
        });
        let (client, accepted) = pairs.swap_remove(0);
        accepted.shutdown(Shutdown::Both).unwrap();
        drop(client);
        wait::until("it is over", SOON, || match look(&[own]).len() {
            18 => Ok(()),
            count => Err(format!("{count}")),
        });

        let kept: Vec<_> = pairs.drain(..).map(|(client, _)| client).collect();
        assert_eq!((look(&[own]).len(), look(&[heir.pid()]).len()), (0, 18), "the heirs have them still");
        let gone = heir.pid();
        drop(heir);
        assert_eq!((look(&[gone]).len(), look(&[0]).len(), look(&[]).len()), (0, 0, 0));
        assert_eq!(look(&[heir_s_heir.pid()]).len(), 18);
        println!("held by 3 processes: 19, counted: 19; {} clients are left", kept.len());
    });
}

#[test]
fn no_look_misses_one_of_3000_connections_while_others_come_and_go() {
    const STEADY: usize = 3_000;
    const LOOKS: usize = 60;
    let Some(looks) = looks() else { return };
    crowd::make_room(2 * STEADY + 500);
    netns::run("connections-come-and-go", |namespace| {
        let listener = TcpListener::bind(address("127.0.0.1:8080")).unwrap();
        let pairs = connect(&listener, &[("127.0.0.1:8080", STEADY)]);
        let steady: HashSet<_> =
            pairs.iter().map(|(_, accepted)| options::inode(accepted.as_fd()).unwrap()).collect();
        let is_over = AtomicBool::new(false);
        let ports = BTreeSet::from([8080]);
        let (mut times, churned) = thread::scope(|scope| {
            let churning = scope.spawn(|| {
                namespace.inside(|| {
                    let mut churned = 0;
                    while !is_over.load(Relaxed) {
                        drop(connect(&listener, &[("127.0.0.1:8080", 20)]));
                        churned += 20;
                    }
                    churned
                })
            });
            let look = |_| {
                let began = Instant::now();
                let found = looks.connections(&[std::process::id()], &ports).expect("a look succeeds");
                let time = began.elapsed();
                let inodes: HashSet<_> = found.iter().map(|connection| connection.inode).collect();
                assert_eq!(inodes.len(), found.len(), "each is there once");
                assert!(inodes.is_superset(&steady), "{} of {STEADY}", inodes.intersection(&steady).count());
                assert!(found.len() <= STEADY + 20, "{} are more than there were at any time", found.len());
                time
            };
            let times: Vec<_> = (0..LOOKS).map(look).collect();
            is_over.store(true, Relaxed);
            (times, churning.join().expect("connections can be made"))
        });
        assert!(churned > 100, "{churned}: it shows nothing if nothing came or went");
        times.sort_unstable();
        println!(
            "looks: {LOOKS} at {STEADY} connections of {} descriptors, {churned} came and went, missed: 0; median {:?}",
            2 * STEADY,
            times[LOOKS / 2]
        );
    });
}
