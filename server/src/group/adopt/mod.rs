//! A group whose server somebody else starts: finds the server's listeners as they come and go, and says which worker each is.
//!
//! A listener is known by its cookie, whatever processes hold it: servers keep sockets and change processes, or the other way round. What
//! counts as ready is that somebody takes from it. No descriptor of one is kept: it would hide that the server has closed it.

mod follow;
mod look;
mod places;
mod unit;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::PathBuf,
    time::Duration,
};

use crate::{
    daemon::settings::{AdoptSettings, GroupSettings, Server},
    engine::event::Millis,
    sockets::{address::ListenAddress, cgroups, containers::Container, inherited::Inherited},
};

use self::places::{Place, place};
pub(crate) use self::{
    look::{At, Came, Look, Question, Wanted, Whose, look},
    unit::{Followed, Follower, uninstall},
};

/// For how long listeners are looked for often, after something has come, gone or was told of.
const STIR: Millis = 1_000;

/// For how long those that nobody takes from are looked at often. nginx has nobody take from new ones for 130 ms; a server that checks its
/// configuration binds and never does.
const UNREADY_MAX: Millis = 5_000;

/// How often they are looked for then.
pub(crate) const OFTEN: Duration = Duration::from_millis(4);

/// A listener of the server's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    /// The place of its address in the group's list.
    address: usize,
    worker: u32,
    /// Who takes from it, as far as that showed.
    pids: BTreeSet<u32>,
    /// Whether it is in its worker's slot, or about to be; otherwise its worker is drained.
    is_in: bool,
}

/// A group's server, as far as it is known.
#[derive(Debug)]
pub(crate) struct Adoption {
    settings: AdoptSettings,
    addresses: Vec<ListenAddress>,
    /// Where the server's processes are, where a cgroup tells them from others.
    cgroup: Option<PathBuf>,
    /// The container that they are in, where that does.
    container: Option<Container>,
    listeners: BTreeMap<u64, Known>,
    /// Workers that begin, with the listeners that each begins with.
    offered: BTreeMap<u32, Vec<(usize, Came)>>,
    /// Listeners of others, as they were seen last.
    strangers: HashSet<u64>,
    /// Listeners of which it was said that they cannot be the group's.
    refused: HashSet<u64>,
    /// Listeners of which it is to be found out anew who takes from them.
    doubted: HashSet<u64>,
    is_looking: bool,
    /// Since when there are listeners of the server's that nobody takes from.
    unready_since: Option<Millis>,
    /// Until when listeners are looked for often.
    stirs_until: Millis,
}

impl Adoption {
    /// Of a group that begins, or goes on with what an earlier daemon knew.
    pub(crate) fn new(settings: &GroupSettings, addresses: Vec<ListenAddress>) -> Option<Self> {
        let adopt = settings.adopt.clone()?;
        let cgroup = match &adopt.server {
            Server::Cgroup(path) => cgroups::of_path(path),
            Server::Unit(name) => unit::control_group(name).and_then(|path| cgroups::of_path(&path)),
            Server::Container(_) | Server::User(_) => None,
        };
        let container = match &adopt.server {
            Server::Container(name) => Some(Container::new(name)),
            _ => None,
        };
        Some(Self {
            settings: adopt,
            addresses,
            cgroup,
            container,
            listeners: BTreeMap::new(),
            offered: BTreeMap::new(),
            refused: HashSet::new(),
            strangers: HashSet::new(),
            doubted: HashSet::new(),
            is_looking: false,
            unready_since: None,
            stirs_until: 0,
        })
    }

    /// What the group's server is.
    pub(crate) fn settings(&self) -> &AdoptSettings {
        &self.settings
    }

    /// Has the server's processes be looked for in this cgroup of systemd's from now on; in the one before where there is none now.
    pub(crate) fn is_in(&mut self, control_group: Option<&str>) {
        if let Some(path) = control_group.and_then(cgroups::of_path) {
            self.cgroup = Some(path);
        }
    }

    /// Has listeners be looked for often for a while.
    pub(crate) fn stir(&mut self, now: Millis) {
        self.stirs_until = now + STIR;
    }

    /// How long after the last look the next is to be taken, where listeners are looked for often.
    pub(crate) fn pace(&self, now: Millis) -> Option<Duration> {
        (now < self.stirs_until).then_some(OFTEN)
    }

    /// What a look is to find; nothing while one is under way. `own` are, by address, the cookies of the daemon's own listeners.
    fn question(&mut self, own: Vec<HashSet<u64>>) -> Option<Question> {
        if std::mem::replace(&mut self.is_looking, true) {
            return None;
        }
        let question = self.ask(own, false);
        self.doubted.clear();
        Some(question)
    }

    /// Has it be found out anew who takes from the listeners of these workers.
    fn doubt(&mut self, workers: &[u32]) {
        let theirs =
            self.listeners.iter().filter(|(_, known)| known.is_in && workers.contains(&known.worker));
        self.doubted.extend(theirs.map(|(cookie, _)| *cookie));
    }

    /// Notes the listeners of others; how many of them are there to stay. One that is just being closed is seen once.
    fn note_strangers(&mut self, found: HashSet<u64>) -> u64 {
        let before = std::mem::replace(&mut self.strangers, found);
        before.intersection(&self.strangers).count() as u64
    }

    /// Notes how many listeners of the server's nobody takes from yet: they are looked at often, for a while.
    fn note_unready(&mut self, count: usize, now: Millis) {
        self.unready_since = (count > 0).then(|| self.unready_since.unwrap_or(now));
        if self.unready_since.is_some_and(|since| now < since + UNREADY_MAX) {
            self.stir(now);
        }
    }

    /// Looks at the server's listeners before the group has any of its own, in the calling thread. `is_first`: it has served all along.
    pub(crate) fn first_look(&self, is_first: bool) -> Result<Look, String> {
        look(&self.ask(vec![HashSet::new(); self.addresses.len()], is_first))
    }

    /// Takes from a first look what is known of the server by its listeners: whose they are, and what connections have from them. Where it
    /// has none at an address, that is taken for what servers do: with the IPv4 address beside it, `[::]` is IPv6 alone.
    pub(crate) fn learn(&mut self, look: &Look) -> Result<&AdoptSettings, String> {
        let came = || look.at.iter().flat_map(|at| &at.came);
        if self.settings.owner.is_none() {
            let owner = came().next().map(|it| it.owner);
            if let Some(other) = came().find(|it| Some(it.owner) != owner) {
                let (one, other) = (owner.unwrap_or_default(), other.owner);
                return Err(format!(
                    "its listeners are of users {one} and {other}, and sockets of one user only can be a group"
                ));
            }
            self.settings.owner = owner;
        }
        if self.settings.inherited.is_empty() {
            let has_ipv4 = |it: &ListenAddress| {
                let port = it.address.port();
                self.addresses.iter().any(|other| other.address.is_ipv4() && other.address.port() == port)
            };
            let of = |(address, at): (&ListenAddress, &At)| match at.came.first() {
                Some(came) => came.inherited.clone(),
                None => Inherited::of_new(address.address.is_ipv6() && has_ipv4(address)),
            };
            self.settings.inherited = self.addresses.iter().zip(&look.at).map(of).collect();
        }
        Ok(&self.settings)
    }

    /// Notes a listener that is in its worker's slot already.
    pub(crate) fn has(&mut self, address: usize, worker: u32, came: &Came) {
        let known = Known { address, worker, pids: came.taken_by.clone(), is_in: true };
        self.listeners.insert(came.discovered.cookie, known);
    }

    fn ask(&self, own: Vec<HashSet<u64>>, is_first: bool) -> Question {
        let AdoptSettings { server, owner, inherited, .. } = &self.settings;
        let wanted = self.addresses.iter().zip(own).enumerate().map(|(index, (&address, mut known))| {
            known.extend(
                self.listeners.iter().filter(|(_, it)| it.address == index).map(|(cookie, _)| cookie),
            );
            known.retain(|cookie| !self.doubted.contains(cookie));
            let v6_only = inherited.get(index).filter(|_| address.address.is_ipv6()).map(|it| it.v6_only);
            Wanted { address, known, v6_only }
        });
        let whose = match (server, &self.container) {
            (_, Some(container)) => Whose::InContainer(container.clone()),
            (Server::Unit(_) | Server::Cgroup(_), None) => Whose::InCgroup(self.cgroup.clone()),
            (Server::Container(_) | Server::User(_), None) => Whose::OfOwner,
        };
        Question { whose, owner: *owner, wanted: wanted.collect(), is_first }
    }

    /// Forgets the listeners that are not there any more; the workers that had them, each with the addresses.
    fn forget_gone(&mut self, look: &Look) -> BTreeMap<u32, Vec<usize>> {
        let is_there = |cookie: &u64, known: &Known| look.at[known.address].present.contains(cookie);
        let mut gone = BTreeMap::<u32, Vec<usize>>::new();
        self.listeners.retain(|cookie, known| {
            let stays = is_there(cookie, known);
            if !stays && known.is_in {
                gone.entry(known.worker).or_default().push(known.address);
            }
            stays
        });
        gone
    }

    /// The worker whose a listener that has come is, which is noted. `others` are workers without a listener.
    fn take_place(&mut self, address: usize, came: &Came, others: impl Iterator<Item = u32>) -> u32 {
        let mut places: BTreeMap<u32, Place> = others.map(|index| (index, Place::default())).collect();
        for known in self.listeners.values() {
            let place = places.entry(known.worker).or_default();
            place.addresses.insert(known.address);
            place.pids.extend(&known.pids);
        }
        let worker = place(&places, address, &came.taken_by);
        let known = Known { address, worker, pids: came.taken_by.clone(), is_in: true };
        self.listeners.insert(came.discovered.cookie, known);
        worker
    }

    /// Notes that listeners are in no slot: their worker is drained.
    pub(crate) fn park(&mut self, cookies: &[u64]) {
        for cookie in cookies {
            if let Some(known) = self.listeners.get_mut(cookie) {
                known.is_in = false;
            }
        }
    }

    /// Forgets the listeners of a worker that are in no slot: the next look finds them, as if they had come. Whether there are some.
    pub(crate) fn unpark(&mut self, worker: u32) -> bool {
        let before = self.listeners.len();
        self.listeners.retain(|_, known| known.is_in || known.worker != worker);
        self.listeners.len() < before
    }

    /// Whether a worker has a listener.
    pub(crate) fn has_listener(&self, worker: u32) -> bool {
        self.listeners.values().any(|known| known.worker == worker)
    }
}
