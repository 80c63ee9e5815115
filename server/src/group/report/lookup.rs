//! Where a new flow of a client would go, and why.

use std::{collections::BTreeSet, net::SocketAddr};

use server_common::{
    choice::bucket,
    flow_hash::Seed,
    limits::{CHOICES, NO_SLOT},
};

use crate::{
    control::api::{Fault, FaultKind, Placed},
    engine::{assign::NOBODY, event::Slot},
    names::{GroupName, WorkerName},
    policy::Policy,
};

use crate::daemon::flows::key_of;

/// A table, published or planned, with what is needed to say where it sends a flow.
pub(crate) struct Steering<'a> {
    pub(crate) group: &'a GroupName,
    pub(crate) policy: Policy,
    pub(crate) seed: Seed,
    /// Who has which bucket.
    pub(crate) owners: &'a [u32],
    /// The slot of each bucket, where the table is published.
    pub(crate) slots: Option<&'a [Slot]>,
    /// Whether what nobody has is held.
    pub(crate) holds: bool,
    /// The workers that are pinned to some CPUs.
    pub(crate) pinned: Vec<u32>,
}

impl Steering<'_> {
    /// Where the flow goes.
    pub(crate) fn place(&self, client: SocketAddr, local: SocketAddr) -> Placed {
        let key = key_of(&self.policy.keying(self.seed), client, local);
        let first = bucket(key, 0);
        let owner = self.owners.get(first).copied().filter(|owner| *owner != NOBODY);
        let by_cpu = self.policy == Policy::Cpu && !self.pinned.is_empty();
        let others = match self.policy {
            Policy::Hash | Policy::Source { .. } | Policy::QuicCid(_) => BTreeSet::new(),
            Policy::LeastLoaded { .. } => {
                (1..CHOICES).map(|choice| self.owners[bucket(key, choice)]).collect()
            }
            Policy::Cpu => self.pinned.iter().copied().chain(owner).collect(),
        };
        let is_other = |other: &u32| *other != NOBODY && (by_cpu || Some(*other) != owner);
        let slot = self.slots.map(|slots| slots[first]).filter(|slot| *slot != NO_SLOT && !by_cpu);
        Placed {
            client,
            local,
            bucket: first as u32,
            worker: owner.filter(|_| !by_cpu).map(|owner| self.group.worker(owner)),
            slot: slot.map(u32::from),
            others: others.into_iter().filter(is_other).map(|other| self.group.worker(other)).collect(),
            why: self.why(client, first, owner.map(|owner| self.group.worker(owner))),
        }
    }

    fn why(&self, client: SocketAddr, bucket: usize, owner: Option<WorkerName>) -> String {
        let what = match self.policy {
            Policy::Source { ipv4, ipv6 } => {
                let (bits, all) = if client.ip().to_canonical().is_ipv4() { (ipv4, 32) } else { (ipv6, 128) };
                if bits == all {
                    "the address".to_owned()
                } else {
                    format!("the address's first {bits} bits")
                }
            }
            Policy::Hash | Policy::LeastLoaded { .. } | Policy::Cpu | Policy::QuicCid(_) => {
                "the 4-tuple".to_owned()
            }
        };
        let hashed = match owner {
            Some(owner) => format!("the hash of {what} falls into bucket {bucket}, which {owner} has"),
            None if self.holds => {
                format!(
                    "the hash of {what} falls into bucket {bucket}, and connections are held until a worker works"
                )
            }
            None => format!("the hash of {what} falls into bucket {bucket}, which nobody has: it is refused"),
        };
        match self.policy {
            Policy::Hash | Policy::Source { .. } => hashed,
            Policy::QuicCid(_) => {
                format!("{hashed}; a datagram whose QUIC connection ID names a worker goes there")
            }
            Policy::LeastLoaded { .. } => {
                format!("{hashed}; its second choice gets it where that has clearly less in hand")
            }
            Policy::Cpu if self.pinned.is_empty() => format!("no worker is pinned to a CPU; {hashed}"),
            Policy::Cpu => {
                format!(
                    "the worker that is pinned to the CPU that takes the packet gets it; where none is, {hashed}"
                )
            }
        }
    }
}

/// Each client with each address of the group that it can connect to, or with `to` alone. Where a client goes depends on that
/// address, so a wildcard will not do.
pub(crate) fn flows(
    group: &GroupName,
    listens: &[SocketAddr],
    clients: &[SocketAddr],
    to: Option<SocketAddr>,
) -> Result<Vec<(SocketAddr, SocketAddr)>, Fault> {
    let usage = |message: String, hint: String| Fault::new(FaultKind::Usage, message).with_hint(hint);
    let addresses = || listens.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    if let Some(to) = to.filter(|to| !listens.iter().any(|listen| covers(*listen, *to))) {
        let message = format!("the group {group} does not listen on {to}");
        return Err(usage(message, format!("it listens on {}", addresses())));
    }
    let mut locals = to.map_or_else(|| listens.to_vec(), |to| vec![to]);
    // Of tcp and udp alike: the table is asked for the same.
    let mut seen = BTreeSet::new();
    locals.retain(|local| seen.insert(*local));
    let mut flows = Vec::new();
    for &client in clients {
        if let Some(wildcard) = locals.iter().find(|local| local.ip().is_unspecified()) {
            return Err(usage(
                format!(
                    "the group {group} listens on {wildcard}: where a client goes depends on the address that it connects to"
                ),
                "ask the table with `steer table GROUP --where CLIENT:PORT --to ADDRESS:PORT`".to_owned(),
            ));
        }
        let reach = locals.iter().filter(|local| is_ipv4(client) == is_ipv4(**local));
        let before = flows.len();
        flows.extend(reach.map(|&local| (client, local)));
        if flows.len() == before {
            let locals = to.map_or_else(addresses, |to| to.to_string());
            let message = format!("the client {client} cannot connect to {locals}: it is of another family");
            return Err(usage(
                message,
                "give a client's address of the same family, IPv4 or IPv6".to_owned(),
            ));
        }
    }
    Ok(flows)
}

/// Whether connections to an address come to this listener: it is the same, or the listener's is a wildcard.
fn covers(listen: SocketAddr, to: SocketAddr) -> bool {
    let is_wildcard = listen.ip().is_unspecified() && (listen.is_ipv6() || to.is_ipv4());
    listen.port() == to.port() && (is_wildcard || listen.ip().to_canonical() == to.ip().to_canonical())
}

/// Whether an address is IPv4, mapped or not.
fn is_ipv4(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_ipv4()
}

#[cfg(test)]
mod tests {
    use server_common::limits::BUCKETS;

    use super::*;

    fn placed(policy: &str, owner: impl Fn(usize) -> u32, pinned: &[u32]) -> Placed {
        let group = "web".parse().unwrap();
        let owners: Vec<u32> = (0..BUCKETS).map(owner).collect();
        let steering = Steering {
            group: &group,
            policy: policy.parse().unwrap(),
            seed: [1, 2],
            owners: &owners,
            slots: None,
            holds: true,
            pinned: pinned.to_vec(),
        };
        steering.place("192.0.2.7:4711".parse().unwrap(), "192.0.2.1:80".parse().unwrap())
    }

    #[test]
    fn the_table_alone_names_one_worker() {
        let found = placed("hash", |_| 3, &[]);
        assert_eq!((found.worker.unwrap().to_string(), found.others), ("web/3".to_owned(), vec![]));
        assert!(found.why.ends_with(&format!("falls into bucket {}, which web/3 has", found.bucket)));
        let found = placed("source:ipv4=24", |_| 3, &[]);
        assert!(found.why.contains("the address's first 24 bits"), "{}", found.why);
    }

    #[test]
    fn loads_and_cpus_leave_it_open() {
        let found = placed("least-loaded", |bucket| bucket as u32 % 1000, &[]);
        assert!(found.worker.is_some() && !found.others.is_empty(), "{found:?}");
        let found = placed("cpu", |_| 3, &[0, 1]);
        let others: Vec<String> = found.others.iter().map(WorkerName::to_string).collect();
        assert_eq!((found.worker, others.join(" ")), (None, "web/0 web/1 web/3".to_owned()));
        assert_eq!(placed("cpu", |_| 3, &[]).worker.unwrap().index, 3);
    }

    #[test]
    fn a_client_is_asked_for_with_an_address_that_it_can_connect_to() {
        let group = "web".parse().unwrap();
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let found = |listens: &[&str], client: &str, to: Option<&str>| {
            let listens: Vec<SocketAddr> = listens.iter().copied().map(address).collect();
            flows(&group, &listens, &[address(client)], to.map(address))
                .map(|flows| flows.into_iter().map(|(_, local)| local.to_string()).collect::<Vec<_>>())
                .map_err(|fault| fault.message)
        };
        let both = ["127.0.0.1:80", "[::1]:80"];
        assert_eq!(found(&both, "10.0.0.1:9", None), Ok(vec!["127.0.0.1:80".to_owned()]));
        let tcp_and_udp = ["127.0.0.1:80"; 2];
        assert_eq!(found(&tcp_and_udp, "10.0.0.1:9", None), Ok(vec!["127.0.0.1:80".to_owned()]));
        assert_eq!(found(&both, "[fd00::1]:9", None), Ok(vec!["[::1]:80".to_owned()]));
        assert_eq!(
            found(&["[::]:80"], "10.0.0.1:9", Some("10.0.0.2:80")),
            Ok(vec!["10.0.0.2:80".to_owned()])
        );
        assert!(found(&["0.0.0.0:80"], "10.0.0.1:9", None).unwrap_err().contains("listens on 0.0.0.0:80"));
        for to in ["127.0.0.1:81", "127.0.0.2:80", "[::2]:80"] {
            let message = found(&both, "10.0.0.1:9", Some(to)).unwrap_err();
            assert_eq!(message, format!("the group web does not listen on {to}"));
        }
        assert!(found(&["0.0.0.0:80"], "10.0.0.1:9", Some("[::1]:80")).is_err());
        assert!(found(&both[..1], "[fd00::1]:9", None).unwrap_err().contains("another family"));
    }

    #[test]
    fn what_nobody_has_is_held() {
        let found = placed("hash", |_| NOBODY, &[]);
        assert_eq!(found.worker, None);
        assert!(found.why.contains("held"), "{}", found.why);
    }
}
