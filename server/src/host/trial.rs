//! Steering, tried: listeners, a table, real connections, a migration.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use server_common::{
    counters::{Asked, Outcome, SlotCounters},
    limits::BUCKETS,
};

use super::{Probe, describe};
use crate::{
    dataplane::{
        error::DataplaneError,
        kernel_group::{KernelGroup, ProgramKind, Shape},
        publisher::Publisher,
    },
    engine::layout::Layout,
    policy::Policy,
    sockets::{
        address::ListenAddress,
        listener::{ListenerError, make_listener},
        options::{self, SocketError},
    },
};

const SLOTS: u32 = 8;
const CONNECTIONS: u64 = 8;
const BACKLOG: i32 = 64;
/// On loopback these take microseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// A wake-up comes with the migration, which is over when the shutdown returns: so this much later it is not to come.
const WAKE: Duration = Duration::from_millis(100);
/// Publications that are measured.
const PUBLICATIONS: usize = 5;
/// Longer than the worst that was ever measured, by much.
const GRACE_WANTED: Duration = Duration::from_millis(100);

/// What went wrong in the trial.
#[derive(Debug, thiserror::Error)]
enum TrialError {
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    #[error(transparent)]
    Listener(#[from] ListenerError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("cannot {operation}")]
    Io {
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{found} {what}, where {wanted} were to be")]
    Count { what: &'static str, found: u64, wanted: u64 },
}

fn io_error(operation: &'static str) -> impl FnOnce(io::Error) -> TrialError {
    move |source| TrialError::Io { operation, source }
}

/// Tries steering in the calling thread's network namespace, which has to be one of its own.
pub(super) fn probes() -> Vec<Probe> {
    const STEERING: &str = "steering";
    let mut trial = match Trial::new() {
        Ok(trial) => trial,
        Err(error) => return vec![failed(STEERING, &error)],
    };
    let mut probes = vec![match trial.steer() {
        Ok(detail) => Probe::ok(STEERING, detail),
        Err(error) => failed(STEERING, &error),
    }];
    probes.push(trial.grace().unwrap_or_else(|error| failed("grace period", &error)));
    if trial.group.kind() == ProgramKind::SelectOrMigrate {
        probes.push(match trial.migrate() {
            Ok(detail) => Probe::ok("migration", detail),
            Err(error) => failed("migration", &error),
        });
        probes.push(trial.wake().unwrap_or_else(|error| failed("wake-up", &error)));
    } else {
        let remedy = "Linux 5.14 or later";
        probes.push(Probe::warn("migration", "not tried: the program that migrates does not load", remedy));
    }
    probes
}

fn failed(name: &str, error: &TrialError) -> Probe {
    let hint = match error {
        TrialError::Dataplane(error) => error.hint().map(str::to_owned),
        TrialError::Listener(error) => error.hint(),
        TrialError::Socket(_) | TrialError::Io { .. } | TrialError::Count { .. } => None,
    };
    Probe::fail(
        name,
        describe(error),
        hint.unwrap_or_else(|| "report it, with the kernel's version".to_owned()),
    )
}

/// A group of listeners on one address: slot 1 receives what the others lose.
struct Trial {
    group: KernelGroup,
    publisher: Publisher,
    address: ListenAddress,
    receiver: TcpListener,
    epoch: u64,
}

const RECEIVER: u16 = 1;
const FIRST: u16 = 2;
const SECOND: u16 = 3;

impl Trial {
    fn new() -> Result<Self, TrialError> {
        let mut address = ListenAddress {
            protocol: crate::sockets::address::Protocol::Tcp,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let receiver = make_listener(address, None, BACKLOG)?;
        address.address = options::local_address(&receiver)?;
        let (group, publisher) = KernelGroup::load(Shape::without_flows(SLOTS))?;
        group.put(RECEIVER, 0, receiver.as_fd())?;
        let receiver = nonblocking(receiver)?;
        let mut trial = Self { group, publisher, address, receiver, epoch: 0 };
        trial.publish(RECEIVER)?;
        trial.group.attach(trial.receiver.as_fd())?;
        Ok(trial)
    }

    /// Publishes a table that has one slot for everything.
    fn publish(&mut self, slot: u16) -> Result<(), DataplaneError> {
        self.epoch += 1;
        let buckets = vec![slot; BUCKETS].into();
        let (epoch, seed) = (self.epoch, [7, 11]);
        self.publisher.publish(&Layout {
            epoch,
            seed,
            policy: Policy::Hash,
            hold: None,
            probe: None,
            working: vec![slot],
            cpus: BTreeMap::new(),
            buckets,
        })
    }

    /// A further listener, in its slot and named by the table.
    fn listener(&mut self, slot: u16) -> Result<TcpListener, TrialError> {
        let listener = make_listener(self.address, None, BACKLOG)?;
        self.group.put(slot, 0, listener.as_fd())?;
        self.publish(slot)?;
        nonblocking(listener)
    }

    fn connect(&self, count: u64) -> Result<Vec<TcpStream>, TrialError> {
        let connect = |_| {
            TcpStream::connect_timeout(&self.address.address, PATIENCE)
                .map_err(io_error("connect to a listener"))
        };
        (0..count).map(connect).collect()
    }

    /// The table names one of two listeners: it gets every connection, and the program has counted each.
    fn steer(&mut self) -> Result<String, TrialError> {
        let listener = self.listener(FIRST)?;
        let _clients = self.connect(CONNECTIONS)?;
        let accepted = accept(&listener, CONNECTIONS)?;
        expect("connections came to the listener that the table names", accepted, CONNECTIONS)?;
        let counted = self.group.counters(FIRST)?;
        let SlotCounters { asked, outcome, .. } = counted;
        expect("connections were counted", asked[Asked::Connection as usize], CONNECTIONS)?;
        expect("runs took the first choice", outcome[Outcome::FirstChoice as usize], counted.runs())?;
        self.group.clear(FIRST)?;
        Ok(format!(
            "{accepted} of {CONNECTIONS} connections came to the one of two listeners that the table names"
        ))
    }

    /// How long the swap of a table takes, which ends with the kernel's grace period.
    fn grace(&mut self) -> Result<Probe, TrialError> {
        let mut times = Vec::new();
        for _ in 0..PUBLICATIONS {
            let began = Instant::now();
            self.publish(RECEIVER)?;
            times.push(began.elapsed());
        }
        times.sort_unstable();
        let (median, worst) = (times[PUBLICATIONS / 2], times[PUBLICATIONS - 1]);
        let detail = format!(
            "a table is swapped in {:.1} ms (median of {PUBLICATIONS}, {:.1} ms at worst)",
            median.as_secs_f64() * 1e3,
            worst.as_secs_f64() * 1e3
        );
        Ok(if worst <= GRACE_WANTED {
            Probe::ok("grace period", detail)
        } else {
            let remedy = "each handover waits for it: look for a busy CPU, or rcupdate.rcu_expedited";
            Probe::warn("grace period", detail, remedy)
        })
    }

    /// A listener stops with connections in its queue: they come to the one that the table names then.
    fn migrate(&mut self) -> Result<String, TrialError> {
        let listener = self.listener(SECOND)?;
        let _clients = self.connect(CONNECTIONS)?;
        let before = self.group.counters(RECEIVER)?;
        self.publish(RECEIVER)?;
        options::shut_listener(&listener)?;
        options::wake_receivers(&self.receiver)?;
        let accepted = accept(&self.receiver, CONNECTIONS)?;
        expect("connections have moved from the stopped listener", accepted, CONNECTIONS)?;
        let after = self.group.counters(RECEIVER)?;
        let counted = after.asked[Asked::Migration as usize] - before.asked[Asked::Migration as usize];
        expect("migrations were counted", counted, CONNECTIONS)?;
        self.group.clear(SECOND)?;
        Ok(format!(
            "{accepted} of {CONNECTIONS} unaccepted connections moved when their listener stopped, none was reset"
        ))
    }

    /// Whether a connection that has moved wakes who sleeps on the receiving listener, without our help.
    ///
    /// An epoll that was added when the queue was empty tells only what it was woken for: that the queue has something
    /// in it now, it does not look for.
    fn wake(&mut self) -> Result<Probe, TrialError> {
        const NAME: &str = "wake-up";
        let listener = self.listener(FIRST)?;
        let _clients = self.connect(1)?;
        if !readable(&listener, PATIENCE)? {
            expect("connections wait to be moved", 0, 1)?;
        }
        self.publish(RECEIVER)?;
        let sleeper =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| io_error("make an epoll")(e.into()))?;
        epoll::add(&sleeper, &self.receiver, epoll::EventData::new_u64(1), epoll::EventFlags::IN)
            .map_err(|errno| io_error("add to an epoll")(errno.into()))?;
        options::shut_listener(&listener)?;
        let mut events = Vec::with_capacity(1);
        let timeout = timespec(WAKE);
        epoll::wait(&sleeper, rustix::buffer::spare_capacity(&mut events), Some(&timeout))
            .map_err(|errno| io_error("wait on an epoll")(errno.into()))?;
        let accepted = accept(&self.receiver, 1)?;
        expect("connections have moved", accepted, 1)?;
        Ok(if events.is_empty() {
            Probe::warn(
                NAME,
                "a connection that has moved wakes nobody (CVE-2026-46015); the daemon wakes its workers itself",
                "Linux 6.1.176, 6.12.94, 6.18.44 or later, for what moves while no daemon runs",
            )
        } else {
            Probe::ok(NAME, "a connection that has moved wakes who waits for it")
        })
    }
}

fn expect(what: &'static str, found: u64, wanted: u64) -> Result<(), TrialError> {
    if found == wanted { Ok(()) } else { Err(TrialError::Count { what, found, wanted }) }
}

fn nonblocking(listener: OwnedFd) -> Result<TcpListener, TrialError> {
    let listener = TcpListener::from(listener);
    listener.set_nonblocking(true).map_err(io_error("set a listener up"))?;
    Ok(listener)
}

/// Accepts so many connections; fewer where no more come.
fn accept(listener: &TcpListener, wanted: u64) -> Result<u64, TrialError> {
    let mut accepted = 0;
    while accepted < wanted && readable(listener, PATIENCE)? {
        match listener.accept() {
            Ok(_) => accepted += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(io_error("accept a connection")(error)),
        }
    }
    Ok(accepted)
}

fn readable(listener: &TcpListener, patience: Duration) -> Result<bool, TrialError> {
    let mut waiting = [PollFd::new(listener, PollFlags::IN)];
    let found = poll(&mut waiting, Some(&timespec(patience)));
    Ok(found.map_err(|errno| io_error("wait for a connection")(errno.into()))? > 0)
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}
