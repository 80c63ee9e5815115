//! Listeners that cannot be adopted, told before anything is changed: MPTCP ones, those that another daemon of steer manages, and those beside
//! which somebody else listens.

use crate::{
    control::api::{Fault, FaultKind},
    daemon::settings::Server,
    sockets::{address::ListenAddress, diag::Diag, options, pidfd, procfs},
    workers::discover::Refusal,
};

use super::find::{Found, failed, server_of};

/// Listeners of somebody else, which would get nothing any more.
#[derive(Debug)]
pub(super) struct Other {
    listeners: usize,
    /// Whose one of them is, as far as that shows.
    server: Option<String>,
}

impl Other {
    /// Whose these listeners are, by inode.
    pub(super) fn of(inodes: Vec<u64>) -> Option<Self> {
        let holder = procfs::who_holds(*inodes.first()?).into_iter().next();
        let server = holder.map(|pid| match server_of(pid) {
            Server::User(_) => format!("process {pid}"),
            server => format!("{server}, process {pid}"),
        });
        Some(Self { listeners: inodes.len(), server })
    }
}

/// Refuses a listener that no sockarray takes. One that cannot be looked at is left to what looks closer, and says why.
pub(super) fn refuse_mptcp(address: ListenAddress, inode: u64, pids: &[u32]) -> Result<(), Fault> {
    let Some((pid, descriptor)) = pidfd::find_listener(pids, inode) else { return Ok(()) };
    let taken = pidfd::open(pid).and_then(|process| pidfd::take_fd(process, descriptor));
    if !taken.is_ok_and(|listener| options::is_mptcp(&listener).unwrap_or(false)) {
        return Ok(());
    }
    let refusal = Refusal::Mptcp { pid, address };
    let fault = Fault::new(FaultKind::Refused, format!("cannot adopt {address}: {refusal}"));
    Err(match refusal.hint() {
        Some(hint) => fault.with_hint(hint),
        None => fault,
    })
}

/// Refuses addresses where a daemon of steer has listeners: this one's groups were looked at before, so it is another one's group. A
/// listener fits in one sockarray only, and the program that is attached last is the only one.
pub(super) fn refuse_managed(found: &Found) -> Result<(), Fault> {
    for address in found.addresses.iter().map(|it| it.address) {
        let listeners = Diag::open().and_then(|mut diag| diag.listeners(address));
        for listener in listeners.map_err(|error| failed(&error))? {
            let mut holders = procfs::who_holds(u64::from(listener.inode)).into_iter();
            if let Some(pid) = holders.find(|&pid| procfs::is_this_program(pid)) {
                let message =
                    format!("cannot adopt {address}: another daemon of steer has it, by process {pid}");
                let hint = "release the group there first: `steer --socket PATH release GROUP`";
                return Err(Fault::new(FaultKind::Refused, message).with_hint(hint));
            }
        }
    }
    Ok(())
}

/// Refuses a server beside which somebody else listens at the same address: that one would get nothing any more.
pub(super) fn require_alone(found: &Found) -> Result<(), Fault> {
    let Some((address, other)) = found.addresses.iter().find_map(|it| Some((it.address, it.other.as_ref()?)))
    else {
        return Ok(());
    };
    let whose = other.server.as_ref().map(|server| format!(" ({server})")).unwrap_or_default();
    let count = match other.listeners {
        1 => "1 listener of others is".to_owned(),
        count => format!("{count} listeners of others are"),
    };
    let server = &found.server;
    let message = format!("cannot adopt {server}: {count} at {address} too{whose}, and would get nothing");
    let hint = match server {
        Server::Unit(name) if name.contains('@') => {
            let template = name.split('@').next().unwrap_or_default();
            format!("`steer adopt {template}@` takes all instances; else stop the others first")
        }
        _ => "stop them first, or have all of them be one unit, template or cgroup".to_owned(),
    };
    Err(Fault::new(FaultKind::Refused, message).with_hint(hint))
}

/// Refuses a server none of whose processes is in the daemon's network namespace: its sockets cannot be seen from here.
pub(super) fn refuse_other_network(server: &Server, name: &str, pids: &[u32]) -> Result<(), Fault> {
    let network = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
    let Some(own) = network("thread-self") else { return Ok(()) };
    let theirs: Vec<_> = pids.iter().filter_map(|pid| Some((*pid, network(&pid.to_string())?))).collect();
    let Some((pid, _)) = theirs.first().filter(|_| theirs.iter().all(|(_, it)| *it != own)) else {
        return Ok(());
    };
    let what = match server {
        Server::User(_) => name.to_owned(),
        server => server.to_string(),
    };
    let message = format!("cannot adopt {what}: it is in a network namespace of its own");
    let hint = format!(
        "run it in the host's network (podman run --network host), or a daemon in its: nsenter --net=/proc/{pid}/ns/net steer daemon"
    );
    Err(Fault::new(FaultKind::Refused, message).with_hint(hint))
}
