//! A group whose server somebody else starts: finds the server's listeners as they come and go, and says which worker each is.
//!
//! A listener is known by its cookie, whatever processes hold it: servers keep sockets and change processes, or the other way round. What
//! counts as ready is that somebody takes from it. No descriptor of one is kept: it would hide that the server has closed it.

mod cgroup;
mod follow;
mod look;
mod places;
mod unit;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use crate::{
    daemon::settings::{AdoptSettings, GroupSettings, Server},
    engine::event::Millis,
    sockets::{address::ListenAddress, cgroups, containers::Container, inherited::Inherited},
};

use self::cgroup::ServerCgroups;
use self::places::{Place, new_place, place};
pub(crate) use self::{
    look::{At, Came, Look, Question, Wanted, Whose, look},
    unit::{Followed, Follower, uninstall},
};

/// For how long listeners are looked for often, after something has come, gone or was told of.
const STIR: Millis = 1_000;

/// For how long those that nobody takes from are looked at often. nginx has nobody take from new ones for 130 ms; a server that checks its
/// configuration binds and never does.
const UNREADY_MAX: Millis = 5_000;

/// How long a listener without a visible taker listens before it counts. A server that checks its configuration listens for some milliseconds
/// and polls nothing.
const UNSURE_MIN: Millis = 100;
/// How long a listener that comes while each place is taken waits for one that is left, as long as a place waits for a listener. HAProxy binds
/// its new listeners some milliseconds before it has the old ones closed, granian 3.5 s. With a place of its own at once, each reload would move
/// the 4-tuples, and leave the old place to nobody. What it costs: a server that grows gets nothing to its new listeners for as long.
const SUCCEEDS_WITHIN: Millis = 5_000;

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
    cgroups: Option<ServerCgroups>,
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
    /// Listeners without a visible taker, each with the time at which it was first seen.
    unsure_since: BTreeMap<u64, Millis>,
    /// Listeners for which there is no place yet: since when.
    waiting: BTreeMap<u64, Millis>,
    is_looking: bool,
    /// Whether what was found at first has its places.
    has_looked: bool,
    /// Since when there are listeners of the server's that nobody takes from.
    unready_since: Option<Millis>,
    /// Until when listeners are looked for often.
    stirs_until: Millis,
}

impl Adoption {
    /// Of a group that begins, or goes on with what an earlier daemon knew.
    pub(crate) fn new(settings: &GroupSettings, addresses: Vec<ListenAddress>) -> Option<Self> {
        let adopt = settings.adopt.clone()?;
        let container = match &adopt.server {
            Server::Container(name) => Some(Container::new(name)),
            _ => None,
        };
        Some(Self {
            cgroups: ServerCgroups::of(&adopt.server),
            settings: adopt,
            addresses,
            container,
            listeners: BTreeMap::new(),
            offered: BTreeMap::new(),
            refused: HashSet::new(),
            strangers: HashSet::new(),
            doubted: HashSet::new(),
            unsure_since: BTreeMap::new(),
            waiting: BTreeMap::new(),
            is_looking: false,
            has_looked: false,
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
            self.cgroups = Some(ServerCgroups::One(path));
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
        if !self.waiting.is_empty() {
            // A place is told by its processes, and those may be others by now.
            self.doubted
                .extend(self.listeners.iter().filter(|(_, known)| known.is_in).map(|(cookie, _)| *cookie));
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

    /// Removes the listeners that may not count yet: nobody is seen to take from them, and they are young. Returns how many it removed.
    fn wait_for_unsure(&mut self, came: &mut Vec<Came>, now: Millis) -> usize {
        let before = came.len();
        came.retain(|it| {
            let cookie = it.discovered.cookie;
            let is_known = it.is_sure || self.listeners.contains_key(&cookie);
            is_known || now >= *self.unsure_since.entry(cookie).or_insert(now) + UNSURE_MIN
        });
        before - came.len()
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
            (Server::Unit(_) | Server::Cgroup(_), None) => Whose::InCgroup(self.cgroups.clone()),
            (Server::Container(_) | Server::User(_), None) => Whose::OfOwner,
        };
        Question { whose, owner: *owner, wanted: wanted.collect(), is_first }
    }

    /// Forgets the server's listeners that are not there any more, and returns their cookies. Of those that the group has made a look
    /// may know nothing: it can be older than they are.
    fn forget_gone(&mut self, look: &Look) -> HashSet<u64> {
        self.unsure_since.retain(|cookie, _| look.at.iter().any(|at| at.present.contains(cookie)));
        let is_gone = |cookie: &u64, known: &mut Known| !look.at[known.address].present.contains(cookie);
        self.listeners.extract_if(.., is_gone).map(|(cookie, _)| cookie).collect()
    }

    /// The worker whose a listener that has come is, which is noted; nothing where it waits for another to go. `others` are workers without a
    /// listener.
    fn take_place(
        &mut self,
        now: Millis,
        address: usize,
        came: &Came,
        others: impl Iterator<Item = u32>,
    ) -> Option<u32> {
        let mut places: BTreeMap<u32, Place> = others.map(|index| (index, Place::default())).collect();
        for known in self.listeners.values() {
            let place = places.entry(known.worker).or_default();
            place.addresses.insert(known.address);
            place.pids.extend(&known.pids);
        }
        let cookie = came.discovered.cookie;
        let found = place(&places, address, &came.taken_by);
        if found.is_none() && self.has_looked {
            let since = *self.waiting.entry(cookie).or_insert(now);
            if since == now {
                self.stir(now);
            }
            if now < since + SUCCEEDS_WITHIN {
                return None;
            }
        }
        self.waiting.remove(&cookie);
        let worker = found.unwrap_or_else(|| new_place(&places));
        let known = Known { address, worker, pids: came.taken_by.clone(), is_in: true };
        self.listeners.insert(cookie, known);
        Some(worker)
    }

    /// Notes that all that a look has found has its place, or waits for one.
    fn looked(&mut self, present: &HashSet<u64>) {
        self.has_looked = true;
        self.waiting.retain(|cookie, _| present.contains(cookie));
    }

    /// Notes who takes from a listener that is known; whether that is news.
    fn note_takers(&mut self, came: &Came) -> Option<(u32, bool)> {
        let known = self.listeners.get_mut(&came.discovered.cookie)?;
        // Of one that nobody is seen to take from, the process that was known may have ended.
        let is_news = known.pids != came.taken_by || came.taken_by.is_empty();
        known.pids = came.taken_by.clone();
        Some((known.worker, is_news))
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
