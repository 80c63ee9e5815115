//! Who may ask for what: a pure decision over the caller's credentials.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
};

use super::{
    api::{Fault, FaultKind, Request},
    unix_group,
};

/// Whom the daemon listens to. Uid 0 and the daemon's own uid may do everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The daemon's own uid.
    pub daemon_uid: u32,
    /// Further uids that may change and read.
    pub configured_uids: Vec<u32>,
    /// The Unix group `steer`, whose members may read; nothing where there is none.
    pub readers_gid: Option<u32>,
}

/// A caller, as the kernel tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its effective uid when it connected.
    pub uid: u32,
    /// Its primary group and its supplementary groups when it connected.
    pub gids: Vec<u32>,
}

impl Access {
    /// Access for this process, the given uids and the members of the group `steer`, where there is one.
    ///
    /// Fails where the name service cannot be asked for the group.
    pub fn new(configured_uids: Vec<u32>) -> io::Result<Self> {
        Ok(Self {
            daemon_uid: rustix::process::geteuid().as_raw(),
            configured_uids,
            readers_gid: unix_group::number_of(unix_group::READERS)?,
        })
    }

    /// Whether the caller may change things.
    pub fn may_change(&self, peer: &Peer) -> bool {
        peer.uid == 0 || peer.uid == self.daemon_uid || self.configured_uids.contains(&peer.uid)
    }

    /// Whether the caller may read.
    pub fn may_read(&self, peer: &Peer) -> bool {
        self.may_change(peer) || self.readers_gid.is_some_and(|gid| peer.gids.contains(&gid))
    }

    /// Lets the request pass, or refuses it with what the caller is and what it would have to be.
    pub fn decide(&self, peer: &Peer, request: &Request) -> Result<(), Fault> {
        let (allowed, verb) = match request.changes() {
            true => (self.may_change(peer), "change"),
            false => (self.may_read(peer), "read"),
        };
        if allowed {
            return Ok(());
        }
        let mut needed = format!("uid {}", self.changing_uids());
        let mut hint = "run it as root, for example with sudo".to_owned();
        if matches!(request, Request::SetPolicy { .. } | Request::SetWeight { .. }) && self.may_read(peer) {
            hint += "; with --dry-run it only reads, which is allowed";
        }
        if !request.changes() {
            match self.readers_gid {
                Some(gid) => {
                    needed += &format!(" or the group steer (gid {gid})");
                    hint += "; or add the user to the group steer, which may read";
                }
                None => hint += "; or make a group steer, whose members may read, and restart the daemon",
            }
        }
        let message =
            format!("{} refused: uid {} may not {verb}; it takes {needed}", request.method(), peer.uid);
        Err(Fault::new(FaultKind::Refused, message).with_hint(hint))
    }

    fn changing_uids(&self) -> String {
        let mut uids = vec![0, self.daemon_uid];
        uids.extend(&self.configured_uids);
        uids.sort_unstable();
        uids.dedup();
        uids.iter().map(u32::to_string).collect::<Vec<_>>().join(" or ")
    }
}

/// The access that counts now. It can be replaced while the socket is served: each request is decided by what counts when it
/// comes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessInForce(Arc<RwLock<Arc<Access>>>);

impl AccessInForce {
    /// What counts now.
    pub fn get(&self) -> Arc<Access> {
        // A panic while the lock was held left either the one or the other.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has another count from now on.
    pub fn set(&self, access: Access) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
    }
}

impl From<Access> for AccessInForce {
    fn from(access: Access) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(access))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Request = Request::Status { group: None };
    const CHANGE: Request = Request::Stop { timeout_ms: None };

    fn access() -> Access {
        Access { daemon_uid: 998, configured_uids: vec![1001, 1002], readers_gid: Some(77) }
    }

    fn peer(uid: u32, gids: &[u32]) -> Peer {
        Peer { uid, gids: gids.to_vec() }
    }

    #[test]
    fn root_the_daemon_and_configured_uids_may_do_everything() {
        for uid in [0, 998, 1001, 1002] {
            assert_eq!(access().decide(&peer(uid, &[uid]), &READ), Ok(()));
            assert_eq!(access().decide(&peer(uid, &[uid]), &CHANGE), Ok(()));
        }
    }

    #[test]
    fn members_of_the_group_may_read_only_by_primary_or_supplementary_group() {
        for gids in [&[77][..], &[1003, 10, 77]] {
            assert_eq!(access().decide(&peer(1003, gids), &READ), Ok(()));
            assert!(access().decide(&peer(1003, gids), &CHANGE).is_err());
        }
        assert!(access().decide(&peer(1003, &[1003, 78]), &READ).is_err());
    }

    #[test]
    fn without_the_group_nobody_else_reads_and_gid_0_is_no_key() {
        let access = Access { readers_gid: None, ..access() };
        assert!(access.decide(&peer(1003, &[0, 77]), &READ).is_err());
    }

    #[test]
    fn what_only_says_what_would_change_is_for_readers() {
        let worker: crate::names::WorkerName = "web/0".parse().unwrap();
        let clients = vec!["203.0.113.7:4711".parse().unwrap()];
        let requests = |dry_run| {
            let (group, clients) = (worker.group.clone(), clients.clone());
            let policy = crate::policy::Policy::Cpu;
            [
                Request::SetPolicy { group, policy, dry_run, clients: clients.clone() },
                Request::SetWeight { worker: worker.clone(), weight: 0, over_ms: Some(5), dry_run, clients },
            ]
        };
        let (reader, stranger) = (peer(1003, &[77]), peer(1003, &[1003]));
        for request in requests(true) {
            assert_eq!(access().decide(&reader, &request), Ok(()));
            assert!(access().decide(&stranger, &request).unwrap_err().message.contains("may not read"));
        }
        for request in requests(false) {
            let fault = access().decide(&reader, &request).unwrap_err();
            assert!(fault.message.contains("uid 1003 may not change"), "{}", fault.message);
            assert!(fault.hint.unwrap().ends_with("with --dry-run it only reads, which is allowed"));
            assert!(!access().decide(&stranger, &request).unwrap_err().hint.unwrap().contains("--dry-run"));
        }
        let group = worker.group;
        assert_eq!(access().decide(&reader, &Request::Policy { group: group.clone() }), Ok(()));
        let decide = Request::Decide { group, decision: crate::control::api::Decision::Abort };
        assert!(access().decide(&reader, &decide).is_err());
    }

    #[test]
    fn another_access_counts_from_then_on_for_all_who_look() {
        let in_force = AccessInForce::from(access());
        let elsewhere = in_force.clone();
        assert_eq!(elsewhere.get().decide(&peer(1001, &[]), &CHANGE), Ok(()));
        in_force.set(Access { configured_uids: vec![1002], ..access() });
        assert!(elsewhere.get().decide(&peer(1001, &[]), &CHANGE).is_err());
        assert_eq!(elsewhere.get().decide(&peer(1002, &[]), &CHANGE), Ok(()));
    }

    #[test]
    fn a_refusal_has_both_values_and_a_hint() {
        let fault = access().decide(&peer(1003, &[1003]), &CHANGE).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Refused);
        assert_eq!(
            fault.message,
            "io.steer.Control.Stop refused: uid 1003 may not change; it takes uid 0 or 998 or 1001 or 1002"
        );
        assert_eq!(fault.hint.as_deref(), Some("run it as root, for example with sudo"));
        let fault = access().decide(&peer(1003, &[1003]), &READ).unwrap_err();
        assert!(fault.message.ends_with("or the group steer (gid 77)"), "{}", fault.message);
        assert!(fault.hint.unwrap().contains("add the user to the group steer"));
    }
}
