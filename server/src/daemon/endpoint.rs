//! One listen address of a group: its kernel group, and the listeners that the daemon holds in it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use server_common::{
    counters::{Outcome, SlotCounters},
    flow_hash::Seed,
    limits::{DROPPED_SLOT, WORKERS_MAX},
    load::Shown,
    quic::Owner,
};

use crate::{
    dataplane::{
        error::DataplaneError,
        flow_table::{Flow, FlowCount},
        kernel_group::{KernelGroup, Shape},
        publisher::Publisher,
    },
    engine::{
        event::{GenerationId, Moved, Slot},
        layout::Layout,
    },
    sockets::{
        address::{ListenAddress, Protocol},
        listener::make_listener,
        options::{self, Listening},
    },
};

use super::{
    anchor::Anchor, by_id::Activity, endpoint_error::EndpointError, member::Member, settings::FlowSettings,
    state::SavedAddress,
};

/// The kernel cuts this down to `net.core.somaxconn`.
const BACKLOG: i32 = i32::MAX;

/// A listen address with everything of it that is in the kernel.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) address: ListenAddress,
    pub(super) kernel: KernelGroup,
    publisher: Arc<Mutex<Publisher>>,
    /// The daemon's own descriptors of each slot's listeners, in their places. In `inherit` mode they are what keeps unaccepted
    /// connections alive when a worker crashes.
    listeners: BTreeMap<Slot, Vec<Member>>,
    /// What the program had counted for each slot when its last listener left it. Counters are never set back: to do so and to
    /// keep what they said cannot be one step.
    counted_before: BTreeMap<Slot, SlotCounters>,
    /// Where program and maps are pinned, if they are.
    pins: Option<PathBuf>,
    /// The first holding listener, made before the engine's first effect. Datagrams are not held.
    prepared: Option<OwnedFd>,
    /// Of datagrams, the member that lookups meet first.
    pub(super) anchor: Option<Anchor>,
    /// How UDP flows are remembered.
    flows: FlowSettings,
    /// By slot, how many datagrams have come lately by their connection ID.
    by_id: BTreeMap<Slot, Activity>,
    /// The user who owns the group's sockets, where that is not the daemon's.
    owner: Option<u32>,
    is_attached: bool,
}

impl Endpoint {
    /// Takes the address: makes the first holding listener or the anchor (which finds a free port for port 0) and loads the program.
    /// Of `slots` it has as many as are said, with room for `sockets` each. With a directory for pins, another daemon can go on with it.
    pub(super) fn open(
        address: ListenAddress,
        owner: Option<u32>,
        (slots, sockets): (u32, u32),
        flows: FlowSettings,
        pins: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let flows = if address.protocol == Protocol::Udp { flows } else { FlowSettings::NONE };
        let named = if address.protocol == Protocol::Udp { WORKERS_MAX as u32 } else { 1 };
        let shape = Shape { slots, sockets, flows: flows.max, named };
        let first = make_listener(address, owner, BACKLOG)?;
        let bound = options::local_address(&first)?;
        let (kernel, mut publisher) = match &pins {
            Some(directory) => KernelGroup::load_pinned(shape, directory)?,
            None => KernelGroup::load(shape)?,
        };
        publisher.keep_flows(flows.idle);
        let address = ListenAddress { address: bound, ..address };
        let mut anchor = anchor(address, owner);
        let prepared = match &mut anchor {
            Some(anchor) => anchor.set(first).map(|()| None)?,
            None => Some(first),
        };
        Ok(Self {
            address,
            kernel,
            publisher: Arc::new(Mutex::new(publisher)),
            listeners: BTreeMap::new(),
            counted_before: BTreeMap::new(),
            pins,
            prepared,
            anchor,
            flows,
            by_id: BTreeMap::new(),
            owner,
            is_attached: false,
        })
    }

    /// Goes on with an address that another daemon had, and with none of its listeners yet.
    pub(super) fn take_over(
        saved: &SavedAddress,
        owner: Option<u32>,
        flows: FlowSettings,
        pins: PathBuf,
    ) -> Result<Self, DataplaneError> {
        let flows = if saved.address.protocol == Protocol::Udp { flows } else { FlowSettings::NONE };
        let (kernel, mut publisher) = KernelGroup::open(&pins)?;
        publisher.keep_flows(flows.idle);
        let counted_before = saved.counted.iter().map(|(&slot, &counted)| (slot, counted.into()));
        Ok(Self {
            address: saved.address,
            kernel,
            publisher: Arc::new(Mutex::new(publisher)),
            listeners: BTreeMap::new(),
            counted_before: counted_before.collect(),
            pins: Some(pins),
            prepared: None,
            anchor: anchor(saved.address, owner),
            flows,
            by_id: BTreeMap::new(),
            owner,
            is_attached: false,
        })
    }

    /// Takes in the next listener that a slot has had all along.
    pub(super) fn adopt(&mut self, slot: Slot, listener: OwnedFd, cookie: u64) {
        self.listeners.entry(slot).or_default().push(Member { descriptor: listener, cookie });
    }

    /// What the next daemon has to know.
    pub(super) fn saved(&self) -> SavedAddress {
        let counted = self.counted_before.iter().map(|(&slot, &counted)| (slot, counted.into()));
        let cookies = |members: &Vec<Member>| members.iter().map(|member| member.cookie).collect();
        let listeners = self.listeners.iter().map(|(&slot, members)| (slot, cookies(members)));
        SavedAddress { address: self.address, listeners: listeners.collect(), counted: counted.collect() }
    }

    /// Puts right what somebody else may have undone: pins, the program's attachment, slots. Says what it was, where that shows.
    ///
    /// The kernel tells nobody of another program, so ours is attached again and again: the last one counts. Of the slots it
    /// looks after the even or the odd ones, by turns of `parity`: with many groups they are most of what a look costs. `hold` is
    /// the holding listener's slot. Slots of generations that are `ending` may have been cleared by ourselves.
    pub(super) fn mend(
        &mut self,
        parity: Slot,
        hold: Option<Slot>,
        ending: &BTreeSet<Slot>,
    ) -> Result<Vec<&'static str>, EndpointError> {
        let mut mended = Vec::new();
        // Not that anybody has undone it: before the age of an idle flow goes round.
        self.kernel.flows().sweep(self.flows.idle, None);
        if self.is_udp() {
            let slots: Vec<Slot> = self.listeners.keys().copied().collect();
            slots.into_iter().try_for_each(|slot| self.by_id(slot).map(drop))?;
        }
        if let Some(pins) = &self.pins
            && self.kernel.repin(pins)?
        {
            mended.push("its pins were removed, and are made again");
        }
        let is_looked_at = |slot: Slot| slot % 2 == parity && !ending.contains(&slot);
        for (&slot, members) in self.listeners.iter().filter(|(slot, _)| is_looked_at(**slot)) {
            for (place, member) in (0..).zip(members) {
                if self.kernel.fill(slot, place, member.descriptor.as_fd())? {
                    mended.push("a slot of its sockarray was cleared, and is filled again");
                }
            }
        }
        if let (true, Some(member)) = (self.is_attached, self.member(hold)) {
            self.kernel.attach(member.as_fd())?;
        }
        Ok(mended)
    }

    /// Whether it takes datagrams.
    pub(super) fn is_udp(&self) -> bool {
        self.address.protocol == Protocol::Udp
    }

    /// How many datagrams have come to a slot by their QUIC connection ID, in as long as a flow can be idle.
    pub(super) fn by_id(&mut self, slot: Slot) -> Result<u64, DataplaneError> {
        let now = Instant::now();
        let count = self.counters(slot)?.outcome[Outcome::ById as usize];
        Ok(self.by_id.entry(slot).or_insert_with(|| Activity::since(now)).look(now, count, self.flows.idle))
    }

    /// The UDP flows of each slot that are not idle.
    pub(super) fn flows(&self) -> BTreeMap<Slot, FlowCount> {
        self.kernel.flows().count(self.flows.idle)
    }

    /// Those flows one by one.
    pub(super) fn list_flows(&self, seed: &Seed) -> Vec<Flow> {
        self.kernel.flows().list(self.flows.idle, seed)
    }

    /// How many flows there is room for.
    pub(super) fn flow_room(&self) -> u64 {
        self.kernel.flows().room()
    }

    /// Makes a listener of the daemon's and puts it into a slot, where that has none yet.
    pub(super) fn make(&mut self, slot: Slot) -> Result<(), EndpointError> {
        if self.listeners.contains_key(&slot) {
            return Ok(());
        }
        let listener = match self.prepared.take() {
            Some(listener) => listener,
            None => make_listener(self.address, self.owner, BACKLOG)?,
        };
        self.put(slot, listener)
    }

    /// Puts a listener into a slot, in its next place.
    pub(super) fn put(&mut self, slot: Slot, listener: OwnedFd) -> Result<(), EndpointError> {
        let listener = Member::new(listener)?;
        let place = self.members_of(slot).len() as u32;
        self.kernel.put(slot, place, listener.descriptor.as_fd())?;
        self.listeners.entry(slot).or_default().push(listener);
        if let Some(anchor) = &mut self.anchor {
            anchor.member_came();
        }
        Ok(())
    }

    /// Has datagrams whose QUIC connection ID names a generation go to its slot.
    pub(super) fn name(&self, slot: Slot, generation: GenerationId) {
        self.kernel.route(Owner::new(generation.worker, generation.number), slot);
    }

    /// The daemon's descriptor of a slot's first listener.
    pub(super) fn listener(&self, slot: Slot) -> Option<&OwnedFd> {
        self.listeners(slot).next()
    }

    /// The daemon's descriptors of all its listeners.
    pub(super) fn listeners(&self, slot: Slot) -> impl Iterator<Item = &OwnedFd> {
        self.members_of(slot).iter().map(|member| &member.descriptor)
    }

    /// Whether a worker's slot has as many listeners as it is to have.
    pub(super) fn is_complete(&self, slot: Slot) -> bool {
        self.members_of(slot).len() >= self.kernel.sockets() as usize
    }

    fn members_of(&self, slot: Slot) -> &[Member] {
        self.listeners.get(&slot).map_or(&[], Vec::as_slice)
    }

    /// Any member of the group: in what makes a group, they are all alike.
    pub(super) fn any_member(&self) -> Option<&OwnedFd> {
        self.members().map(|member| &member.descriptor).next()
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.listeners.values().flatten().chain(self.anchor.iter().flat_map(Anchor::members))
    }

    /// What the listeners of each slot say of themselves, taken together.
    pub(super) fn listening(&self) -> Result<Vec<(Slot, Listening)>, options::SocketError> {
        let ask = if self.is_udp() { options::receiving } else { options::listening };
        let together = |members: &Vec<Member>| {
            let all = members.iter().map(|member| ask(member.descriptor.as_fd()));
            all.reduce(|one, other| Ok(one?.and(other?))).transpose()
        };
        let seen =
            self.listeners.iter().map(|(&slot, members)| Ok(together(members)?.map(|seen| (slot, seen))));
        seen.filter_map(Result::transpose).collect()
    }

    /// Whether a socket, by its cookie, is one of a slot's.
    pub(super) fn has(&self, slot: Slot, cookie: u64) -> bool {
        self.members_of(slot).iter().any(|member| member.cookie == cookie)
    }

    /// The cookies of all listeners that are the group's.
    pub(super) fn cookies(&self) -> HashSet<u64> {
        let prepared = self.prepared.as_ref().and_then(|listener| options::socket_cookie(listener).ok());
        self.members().map(|member| member.cookie).chain(prepared).collect()
    }

    /// A listener to reach the kernel group by.
    ///
    /// One that listens: if a program is attached through one that was shut down, the kernel gives that one a group of its own
    /// (`reuseport_resurrect`), and the half-open handshakes that follow it find nobody there to migrate to. The holding listener
    /// first, which is in nobody else's hands that could shut it down meanwhile.
    fn member(&self, hold: Option<Slot>) -> Option<&OwnedFd> {
        let own = hold.and_then(|slot| self.listeners.get(&slot));
        let mut members =
            own.into_iter().chain(self.listeners.values()).flatten().map(|member| &member.descriptor);
        // A socket of UDP takes what comes for as long as it is bound.
        members.find(|member| self.is_udp() || options::listens(member).unwrap_or(false))
    }

    /// Attaches the program, once: a table has been published, so it always has an answer.
    pub(super) fn attach(&mut self, hold: Option<Slot>) -> Result<(), DataplaneError> {
        if let (false, Some(member)) = (self.is_attached, self.member(hold)) {
            self.kernel.attach(member.as_fd())?;
            self.is_attached = true;
        }
        Ok(())
    }

    /// Takes the program away from the group: the kernel's own hash chooses from now on.
    pub(super) fn detach(&mut self) -> Result<(), DataplaneError> {
        if let Some(member) = self.member(None) {
            self.kernel.detach(member.as_fd())?;
        }
        self.is_attached = false;
        Ok(())
    }

    /// A function that publishes a layout, for a thread that may block.
    pub(super) fn publication(
        &self,
        layout: Arc<Layout>,
    ) -> impl FnOnce() -> Result<(), DataplaneError> + Send + 'static {
        let publisher = self.publisher.clone();
        move || publisher.lock().unwrap_or_else(PoisonError::into_inner).publish(&layout)
    }

    /// Shuts a slot's listener down, has the kernel migrate what it holds, and wakes who received it.
    ///
    /// Who received what is read from the program's counters before and after. A migration of another listener's
    /// half-open connection in between would be counted here too; in the receipts' sum it is in its place.
    pub(super) fn shut(&mut self, slot: Slot) -> Result<Moved, EndpointError> {
        if self.is_udp() {
            // Its flows go by the table from now on; what it has received, its worker may still read.
            self.kernel.clear(slot)?;
            return Ok(Moved::new());
        }
        let before = self.migrations()?;
        let mut is_shut = false;
        for listener in self.listeners(slot) {
            match options::shut_listener(listener) {
                Ok(()) => is_shut = true,
                // The worker has shut it down itself: what it held has moved before.
                Err(error) if error.is_not_listening() => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !is_shut {
            return Ok(Moved::new());
        }
        let after = self.migrations()?;
        let gained = |(slot, count): (Slot, u64)| {
            let gain = count.saturating_sub(before.get(&slot).copied().unwrap_or(0));
            (gain > 0).then_some((slot, gain))
        };
        let moved: Moved = after.into_iter().filter_map(gained).collect();
        for receiver in moved.keys().flat_map(|&receiver| self.listeners(receiver)) {
            options::wake_receivers(receiver)?;
        }
        Ok(moved)
    }

    fn migrations(&self) -> Result<Moved, DataplaneError> {
        let asked = server_common::counters::Asked::Migration as usize;
        self.listeners.keys().map(|&slot| Ok((slot, self.kernel.counters(slot)?.asked[asked]))).collect()
    }

    /// Shows the program what the kernel shows of a slot's listener.
    pub(super) fn show(&self, slot: Slot, shown: Shown) {
        self.kernel.show(slot, shown);
    }

    /// Counts the datagrams that nobody has read from a slot's sockets, and takes them out. No more come: the slot is empty.
    pub(super) fn unread(&mut self, slot: Slot) -> Result<u64, EndpointError> {
        if !self.is_udp() || self.members_of(slot).is_empty() {
            return Ok(0);
        }
        self.kernel.clear(slot)?;
        self.listeners(slot).map(|listener| Ok(options::discard_datagrams(listener)?)).sum()
    }

    /// Closes a slot's listeners and clears the slot. Returns what was counted for it, and begins anew.
    pub(super) fn forget(&mut self, slot: Slot) -> Result<SlotCounters, DataplaneError> {
        let counted = self.counters(slot)?;
        self.counted_before.insert(slot, self.kernel.counters(slot)?);
        self.kernel.clear(slot)?;
        self.kernel.unroute(slot);
        // Before another worker has the slot.
        self.kernel.flows().sweep(self.flows.idle, Some(slot));
        self.kernel.show(slot, Shown::default());
        self.listeners.remove(&slot);
        self.by_id.remove(&slot);
        Ok(counted)
    }

    /// What the program has counted for the slots in use and for what it dropped.
    pub(super) fn counted(&self) -> Result<BTreeMap<Slot, SlotCounters>, DataplaneError> {
        let slots = self.listeners.keys().copied().chain([DROPPED_SLOT]);
        slots.map(|slot| Ok((slot, self.counters(slot)?))).collect()
    }

    /// What the program has counted for a slot since its listener came.
    fn counters(&self, slot: Slot) -> Result<SlotCounters, DataplaneError> {
        let now = self.kernel.counters(slot)?;
        let before = self.counted_before.get(&slot).copied().unwrap_or_default();
        Ok(now.since(&before))
    }
}

/// Of datagrams there is one.
fn anchor(address: ListenAddress, owner: Option<u32>) -> Option<Anchor> {
    (address.protocol == Protocol::Udp).then(|| Anchor::new(address, owner))
}
