//! Finds a server that runs: its processes, and the addresses where they listen. It blocks: for `/proc` and netlink.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::Path,
};

use crate::{
    control::api::{AdoptTarget, AdoptedListen, Fault, FaultKind},
    daemon::{describe::describe, settings::Server},
    names::GroupName,
    sockets::{
        address::{ListenAddress, Protocol},
        cgroups,
        containers::{self, Container},
        diag::{Diag, ListenerInfo},
        procfs,
    },
    units::is_template,
};

use super::{
    listeners::{beside, ephemeral_ports, has_unix_listener, listeners},
    unfit::{self, Other},
};

/// A server that runs.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) server: Server,
    /// What its group is called, where nobody says otherwise.
    pub(super) name: GroupName,
    /// Its addresses, in their order.
    pub(super) addresses: Vec<FoundAddress>,
    pub(super) notes: Vec<String>,
}

/// An address at which it listens.
#[derive(Debug)]
pub(super) struct FoundAddress {
    pub(super) address: ListenAddress,
    pub(super) listeners: u32,
    pub(super) holders: BTreeSet<u32>,
    /// A listener there that is not the server's.
    pub(super) other: Option<Other>,
}

/// A unit of systemd, as far as it is needed to find its server.
#[derive(Debug, Clone)]
pub(super) struct FoundUnit {
    pub(super) name: String,
    /// The path of its cgroup, while it runs; of a template, that of each instance that does.
    pub(super) control_groups: Vec<String>,
    /// The socket units that pass it its listeners.
    pub(super) triggered_by: Vec<String>,
}

/// Finds the server that is meant. `unit` is the one that is asked for by its name.
pub(super) fn find(target: &AdoptTarget, unit: Option<FoundUnit>) -> Result<Found, Fault> {
    match target {
        AdoptTarget::Unit(name) => {
            let unit =
                unit.ok_or_else(|| Fault::new(FaultKind::NoSuch, format!("there is no unit {name}")))?;
            of_unit(&unit)
        }
        AdoptTarget::Cgroup(path) => {
            let pids = cgroups::of_path(path).map(|path| cgroups::processes(&path)).unwrap_or_default();
            if pids.is_empty() {
                let fault =
                    Fault::new(FaultKind::NoSuch, format!("there is no process in the cgroup {path}"));
                return Err(
                    fault.with_hint("write it as /proc/PID/cgroup of one of the server's processes has it")
                );
            }
            let name = last_part(path).to_owned();
            of_processes(Server::Cgroup(path.clone()), &name, &pids, None)
        }
        AdoptTarget::Container(meant) => of_container(meant),
        AdoptTarget::Pid(pid) => {
            let Some(stat) = procfs::stat(*pid) else {
                return Err(Fault::new(FaultKind::NoSuch, format!("there is no process {pid}")));
            };
            let server = server_of(*pid);
            let pids = match &server {
                Server::User(_) => crate::sockets::processes::Processes::now().tree(leader_of(*pid)),
                _ => cgroup_of(&server, *pid).map(|path| cgroups::processes(&path)).unwrap_or_default(),
            };
            let name = name_of(&server).unwrap_or(stat.command);
            of_processes(server, &name, &pids, None)
        }
        AdoptTarget::Address(AdoptedListen(text, addresses)) => at(text, addresses),
    }
}

fn of_container(meant: &str) -> Result<Found, Fault> {
    match Container::new(meant).directories().as_slice() {
        [] => {
            let fault = Fault::new(FaultKind::NoSuch, format!("there is no container {meant} that runs"));
            Err(fault.with_hint(
                "`podman ps` or `docker ps` lists them; where neither is there, write the id, or --pid",
            ))
        }
        [directory] => {
            let pids = cgroups::processes(directory);
            of_processes(Server::Container(meant.to_owned()), meant, &pids, None)
        }
        [_, _, ..] => {
            let fault =
                Fault::new(FaultKind::Refused, format!("{meant} begins the ids of several containers"));
            Err(fault.with_hint("write more of the id, or the name"))
        }
    }
}

fn of_unit(unit: &FoundUnit) -> Result<Found, Fault> {
    let FoundUnit { name, control_groups, triggered_by } = unit;
    if let Some(socket) = triggered_by.iter().find(|name| name.ends_with(".socket")) {
        let message = format!("cannot adopt {name}: process 1 holds its listeners, by {socket}");
        let hint =
            "there is nothing to adopt: they stay open while the service is restarted, and nothing is lost";
        return Err(Fault::new(FaultKind::Refused, message).with_hint(hint));
    }
    let directories = control_groups.iter().filter_map(|path| cgroups::of_path(path));
    let pids: Vec<u32> = directories.flat_map(|directory| cgroups::processes(&directory)).collect();
    if pids.is_empty() {
        let (what, started) = match is_template(name) {
            true => ("none of its instances runs", name.replace("@.", "@1.")),
            false => ("it does not run", name.clone()),
        };
        let fault = Fault::new(FaultKind::Refused, format!("cannot adopt {name}: {what}"));
        return Err(fault.with_hint(format!("start it first: systemctl start {started}")));
    }
    of_processes(Server::Unit(name.clone()), name, &pids, None)
}

/// The server that has the listeners at these addresses; those that nobody listens at are left out.
fn at(text: &str, addresses: &[ListenAddress]) -> Result<Found, Fault> {
    let mut listeners = Vec::new();
    for &address in addresses {
        let found =
            Diag::open().and_then(|mut diag| diag.listeners(address)).map_err(|error| failed(&error))?;
        listeners.extend(found.into_iter().map(|it| (address, it)));
    }
    let held = |(address, it): &(ListenAddress, ListenerInfo)| {
        let (address, uid) = (*address, it.uid);
        procfs::who_holds(u64::from(it.inode)).into_iter().map(move |pid| (address, uid, pid))
    };
    let holders: Vec<(ListenAddress, u32, u32)> = listeners.iter().flat_map(held).collect();
    // A daemon of steer has listeners of its own beside a server's; whose they are is looked at later.
    let (own, theirs): (Vec<_>, Vec<_>) =
        holders.into_iter().partition(|(_, _, pid)| procfs::is_this_program(*pid));
    let holders = if theirs.is_empty() { own } else { theirs };
    let Some(&(first, uid, holder)) = holders.first() else { return Err(nobody(text, addresses)?) };
    let units: Vec<Server> = holders.iter().map(|&(_, uid, pid)| server_at(uid, pid)).collect();
    let is_one = units.iter().all(|server| *server == units[0]);
    // Instances of one template are one server.
    let template = template_of(units).filter(|_| !is_one);
    let server = template.clone().map_or_else(|| server_at(uid, holder), Server::Unit);
    let others = || holders.iter().map(|&(address, uid, pid)| (address, pid, server_at(uid, pid)));
    if let Some((other, pid, its)) = others().find(|(_, _, its)| *its != server && template.is_none()) {
        let message = format!(
            "cannot adopt {text}: {} has {first}, and {} has {other}",
            described(&server, holder),
            described(&its, pid)
        );
        let hint = format!("a group has one server: adopt each by its own address, as `steer adopt {first}`");
        return Err(Fault::new(FaultKind::Refused, message).with_hint(hint));
    }
    let pids = match &server {
        Server::User(_) => {
            holders.iter().map(|(_, _, pid)| *pid).collect::<BTreeSet<u32>>().into_iter().collect()
        }
        Server::Unit(name) if is_template(name) => {
            let is_instance = |pid: &u32| template_of([server_of(*pid)]).as_ref() == Some(name);
            let pids: BTreeSet<u32> = holders.iter().map(|(_, _, pid)| *pid).filter(is_instance).collect();
            pids.into_iter().collect()
        }
        _ => cgroup_of(&server, holder).map(|path| cgroups::processes(&path)).unwrap_or_default(),
    };
    let name = name_of(&server).or_else(|| Some(procfs::stat(holder)?.command)).unwrap_or_default();
    of_processes(server, &name, &pids, Some(addresses))
}

/// The server of a listener that a process holds. Whatever its user's processes listen there with is the server's, where nothing else
/// tells them from others.
fn server_at(uid: u32, pid: u32) -> Server {
    match server_of(pid) {
        Server::User(_) => Server::User(uid),
        server => server,
    }
}

/// A server, for a person who does not know that a process of a user is one.
fn described(server: &Server, pid: u32) -> String {
    match server {
        Server::User(_) => format!("process {pid} of {server}"),
        server => server.to_string(),
    }
}

fn nobody(text: &str, addresses: &[ListenAddress]) -> Result<Fault, Fault> {
    let fault = Fault::new(FaultKind::NoSuch, format!("nobody listens at {text}"));
    Ok(match beside(addresses)?.as_slice() {
        [] => fault.with_hint("`ss -lntup` lists who listens where"),
        [one] => fault.with_hint(format!("{one} has a listener: `steer adopt {one}`")),
        [first, rest @ ..] => {
            let rest: String = rest.iter().map(|it| format!(", {it}")).collect();
            fault.with_hint(format!("{first}{rest} have listeners: adopt one of them"))
        }
    })
}

/// What tells the server that a process belongs to from others: its unit, or else a cgroup that the daemon is not in, or its user.
pub(super) fn server_of(pid: u32) -> Server {
    let user = || Server::User(procfs::user_of(pid).unwrap_or(0));
    let Some(path) = procfs::cgroup_of(pid) else { return user() };
    let unit = path.split('/').rfind(|part| part.ends_with(".service"));
    if let Some(unit) = unit.filter(|_| Path::new("/run/systemd/system").exists()) {
        return Server::Unit(unit.to_owned());
    }
    let own = procfs::cgroup_of(std::process::id()).unwrap_or_default();
    // A login's scope has whatever was started there, and a server that is started again may be in another.
    // A container that is made anew has another cgroup.
    let is_shared = path == "/"
        || containers::id_of(&path).is_some()
        || path.ends_with(".scope")
        || cgroups::holds(&path, &own);
    if is_shared { user() } else { Server::Cgroup(path) }
}

/// The template that these are instances of, if they are all units of one, and there are some.
fn template_of(servers: impl IntoIterator<Item = Server>) -> Option<String> {
    let template = |server| match server {
        Server::Unit(name) => Some(format!("{}@.service", name.split_once('@')?.0)),
        _ => None,
    };
    let mut servers = servers.into_iter();
    let first = template(servers.next()?)?;
    servers.all(|server| template(server).as_ref() == Some(&first)).then_some(first)
}

/// The cgroup of a server that this process belongs to.
fn cgroup_of(server: &Server, pid: u32) -> Option<std::path::PathBuf> {
    match server {
        Server::Container(_) | Server::User(_) => None,
        Server::Cgroup(path) => cgroups::of_path(path),
        Server::Unit(name) => {
            let path = procfs::cgroup_of(pid)?;
            let (above, _) = path.split_once(&format!("/{name}"))?;
            cgroups::of_path(&format!("{above}/{name}"))
        }
    }
}

fn leader_of(pid: u32) -> u32 {
    procfs::stat(pid).map(|stat| stat.session).filter(|session| *session != 0).unwrap_or(pid)
}

fn name_of(server: &Server) -> Option<String> {
    match server {
        Server::Unit(name) => Some(name.clone()),
        Server::Cgroup(path) => Some(last_part(path).to_owned()),
        Server::Container(name) => Some(name.clone()),
        Server::User(_) => None,
    }
}

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The server whose processes these are, at some addresses or at all where they listen.
fn of_processes(
    server: Server,
    name: &str,
    pids: &[u32],
    addresses: Option<&[ListenAddress]>,
) -> Result<Found, Fault> {
    let held = held(pids);
    let listening = listeners()?;
    let all: HashSet<u64> = held.iter().flat_map(|(_, inodes)| inodes).copied().collect();
    let mut found = BTreeMap::<ListenAddress, (u32, BTreeSet<u32>)>::new();
    for (protocol, listener) in listening.iter().filter(|(_, it)| all.contains(&u64::from(it.inode))) {
        let address = ListenAddress { protocol: *protocol, address: listener.local };
        if addresses.is_some_and(|wanted| !wanted.contains(&address)) {
            continue;
        }
        if *protocol == Protocol::Tcp {
            unfit::refuse_mptcp(address, u64::from(listener.inode), pids)?;
        }
        let entry = found.entry(address).or_default();
        entry.0 += 1;
        let holders = held.iter().filter(|(_, inodes)| inodes.contains(&u64::from(listener.inode)));
        entry.1.extend(holders.map(|(pid, _)| *pid));
    }
    let ports: HashSet<u16> = found
        .keys()
        .filter(|address| address.protocol == Protocol::Tcp)
        .map(|address| address.address.port())
        .collect();
    // Of UDP, a socket that only asks others looks like one that serves: those are taken for servers that are asked for, or have a
    // listener at the same port. Where nothing listens, one at a port that the kernel gives to nobody, or with others beside it.
    let ephemeral = ephemeral_ports();
    let is_wanted = |address: &ListenAddress, listeners: u32| {
        let port = address.address.port();
        let serves = listeners > 1 || !ephemeral.contains(&port);
        address.protocol == Protocol::Tcp
            || addresses.is_some()
            || ports.contains(&port)
            || (ports.is_empty() && serves)
    };
    found.retain(|address, (listeners, _)| is_wanted(address, *listeners));
    if found.is_empty() {
        unfit::refuse_other_network(&server, name, pids)?;
        let what = match &server {
            Server::User(_) => name.to_owned(),
            server => server.to_string(),
        };
        let message = format!("cannot adopt {what}: none of its {} processes serves an address", pids.len());
        let hint = match has_unix_listener(&all) {
            true => {
                "it listens on unix sockets only, which have no SO_REUSEPORT: adopt the server in front of it"
            }
            false => {
                "`ss -lntup` lists who listens where; a UDP server is adopted by its address: udp://0.0.0.0:53"
            }
        };
        return Err(Fault::new(FaultKind::Refused, message).with_hint(hint));
    }
    let mut notes = Vec::new();
    for (address, (listeners, holders)) in &found {
        if *listeners > 1 && address.protocol == Protocol::Udp {
            notes.push(format!(
                "{address}: which of its {listeners} sockets a flow comes to is chosen anew once, at the adoption"
            ));
        }
        if *listeners == 1 && holders.len() > 1 {
            notes.push(format!(
                "{address} is one listener that {} processes share: it is one worker, so one of them cannot be drained alone",
                holders.len()
            ));
        }
    }
    let addresses = found.into_iter().map(|(address, (listeners, holders))| {
        let is_there = |(protocol, it): &&(Protocol, ListenerInfo)| {
            ListenAddress { protocol: *protocol, address: it.local } == address
        };
        let at = listening.iter().filter(is_there).map(|(_, it)| u64::from(it.inode));
        let other = Other::of(at.filter(|inode| !all.contains(inode)).collect());
        FoundAddress { address, listeners, holders, other }
    });
    Ok(Found { server, name: group_name(name), addresses: addresses.collect(), notes })
}

fn held(pids: &[u32]) -> Vec<(u32, HashSet<u64>)> {
    pids.iter().map(|&pid| (pid, procfs::socket_inodes_of(&[pid]))).collect()
}

/// What a group can be called of what its server is: `nginx.service` is `nginx`.
fn group_name(name: &str) -> GroupName {
    let name = name.strip_suffix(".service").unwrap_or(name).trim_end_matches('@').to_ascii_lowercase();
    let name: String =
        name.chars().map(|it| if it.is_ascii_alphanumeric() || it == '_' { it } else { '-' }).collect();
    let name = name.trim_start_matches(|it: char| !it.is_ascii_lowercase());
    let short: String = name.chars().take(crate::names::GROUP_NAME_MAX).collect();
    let short = short.trim_end_matches('-');
    short.parse().or_else(|_| "server".parse()).unwrap_or_else(|_| unreachable!("it is well-formed"))
}

pub(super) fn failed(error: &crate::sockets::diag::DiagError) -> Fault {
    Fault::new(FaultKind::Failed, format!("cannot see who listens: {}", describe(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_called_after_its_server() {
        let name = |text: &str| group_name(text).to_string();
        assert_eq!(name("nginx.service"), "nginx");
        assert_eq!(name("app@1.service"), "app-1");
        assert_eq!(name("app@.service"), "app");
        assert_eq!(name("MyApp.service"), "myapp");
        assert_eq!(name("42"), "server");
        assert_eq!(name(&"x".repeat(50)).len(), crate::names::GROUP_NAME_MAX);
    }

    #[test]
    fn instances_of_one_template_are_one_server() {
        let template = |names: &[&str]| template_of(names.iter().map(|it| Server::Unit((*it).to_owned())));
        assert_eq!(template(&["app@1.service", "app@2.service"]).as_deref(), Some("app@.service"));
        assert_eq!(template(&["app@1.service", "app.service"]), None);
        assert_eq!(template(&["app@1.service", "web@1.service"]), None);
        assert_eq!(template(&[]), None);
    }

    #[test]
    fn a_server_at_an_address_is_found_and_nobody_is_nobody() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let text = listener.local_addr().unwrap().to_string();
        let target = AdoptTarget::Address(AdoptedListen::try_from(text.clone()).unwrap());
        let found = find(&target, None).unwrap();
        assert_eq!(found.addresses.len(), 1);
        assert_eq!(found.addresses[0].address.to_string(), format!("tcp://{text}"));
        assert_eq!(found.addresses[0].listeners, 1);
        assert!(found.addresses[0].holders.contains(&std::process::id()));
        drop(listener);
        let fault = find(&target, None).unwrap_err();
        assert_eq!(fault.kind, FaultKind::NoSuch);
        assert_eq!(fault.message, format!("nobody listens at {text}"));
        let gone = find(&AdoptTarget::Pid(u32::MAX), None).unwrap_err();
        assert_eq!(gone.kind, FaultKind::NoSuch);
    }
}
