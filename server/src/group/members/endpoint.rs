//! One listen address of a group: its kernel group, and the members that the daemon knows of it.

use std::{
    collections::{BTreeMap, HashSet},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use server_common::{
    counters::{Asked, SlotCounters},
    limits::WORKERS_MAX,
    quic::Owner,
};

use crate::{
    daemon::{describe::describe, settings::FlowSettings},
    dataplane::{
        error::DataplaneError,
        kernel_group::{KernelGroup, ProgramKind, Shape},
        looks::Looks,
        publisher::Publisher,
    },
    engine::{
        event::{GenerationId, Slot},
        layout::Layout,
    },
    group::{
        observer::QueueLooks,
        record::{PassedOver, SavedAddress},
    },
    sockets::{
        address::{ListenAddress, Protocol},
        diag::Diag,
        inherited::Inherited,
        listener::make_listener_like,
        options::{self, SocketError},
    },
};

use super::{
    anchor::Anchor, by_id::Activity, datagrams::serves_datagrams, error::EndpointError, member::Member,
};

/// The kernel cuts this down to `net.core.somaxconn`.
const BACKLOG: i32 = i32::MAX;

/// What an address is opened with, beside itself.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    /// The user who owns the group's sockets, where that is not the daemon's.
    pub(crate) owner: Option<u32>,
    /// How many slots there are, where they are made here.
    pub(crate) slots: u32,
    /// How many sockets each slot has room for, where it is made here.
    pub(crate) sockets: u32,
    /// How UDP flows are remembered.
    pub(crate) flows: FlowSettings,
    /// Where program and maps are pinned, if they are.
    pub(crate) pins: Option<PathBuf>,
    /// What connections have from the server's own listeners, where its processes are not ours.
    pub(crate) inherited: Option<Inherited>,
    /// How listeners are looked at, where the kernel tells exactly.
    pub(crate) looks: Option<Arc<QueueLooks>>,
}

/// A listen address with everything of it that is in the kernel.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(super) address: ListenAddress,
    pub(super) kernel: Arc<KernelGroup>,
    publisher: Arc<Mutex<Publisher>>,
    /// By slot, each in a place of its own.
    pub(super) members: BTreeMap<Slot, Vec<Member>>,
    /// By slot, the sockets that its worker was passed and does not take from. Those of datagrams stay open there.
    pub(super) passed_over: BTreeMap<Slot, Vec<PassedOver>>,
    /// What the program had counted for each slot when it was forgotten last. Counters are never set back: to do so and to keep what they
    /// said cannot be one step. Nothing is counted for a slot without a listener.
    pub(super) counted_before: BTreeMap<Slot, SlotCounters>,
    /// By slot in use, how many migrations to it were told of.
    pub(super) told: BTreeMap<Slot, u64>,
    pub(super) opening: Opening,
    /// The first holding listener, made before the engine's first effect. Datagrams are not held.
    pub(super) prepared: Option<OwnedFd>,
    /// Of datagrams, the member that lookups meet first.
    pub(super) anchor: Option<Anchor>,
    /// By slot, how many datagrams have come lately by their connection ID.
    pub(super) by_id: BTreeMap<Slot, Activity>,
    pub(super) is_attached: bool,
    /// Whether a program of the kernel's older kind keeps the daemon's own socket from getting anything, until the program is attached.
    pub(super) is_passed_over: bool,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // A group that has come to nothing: the server may have more sockets some day than that program knows.
        if self.is_passed_over
            && let Some(member) = self.member(None).or(self.prepared.as_ref())
            && let Err(error) = self.kernel.detach(member.as_fd())
        {
            tracing::warn!("{}: {}", self.address, describe(&error));
        }
    }
}

impl Endpoint {
    /// Takes the address: makes the first holding listener or the anchor (which finds a free port for port 0) and loads the program.
    /// With a directory for pins, another daemon can go on with it. It blocks while the kernel verifies the program.
    pub(crate) fn open(address: ListenAddress, opening: Opening) -> anyhow::Result<Self> {
        let first = make_listener_like(address, opening.owner, BACKLOG, opening.inherited.as_ref())?;
        let bound = options::local_address(&first)?;
        let mut endpoint = Self::load(ListenAddress { address: bound, ..address }, opening)?;
        endpoint.has_first(first)?;
        Ok(endpoint)
    }

    /// The same without a listener, for an address that a server serves: until the program is attached the kernel's hash gives the holding
    /// listener its part, and the anchor datagrams that nobody reads. So nothing is loaded once there are such.
    pub(crate) fn load(address: ListenAddress, opening: Opening) -> anyhow::Result<Self> {
        let opening = Opening { flows: flows_of(address, opening.flows), ..opening };
        let named = if address.protocol == Protocol::Udp { WORKERS_MAX as u32 } else { 1 };
        let (slots, sockets, flows) = (opening.slots, opening.sockets, opening.flows.max);
        let shape = Shape { slots, sockets, flows, named };
        let (kernel, publisher) = match &opening.pins {
            Some(directory) => KernelGroup::load_pinned(shape, directory)?,
            None => KernelGroup::load(shape)?,
        };
        Ok(Self::with(address, kernel, publisher, opening))
    }

    /// Makes the first holding listener or the anchor of an address that was loaded. Where a server has sockets of datagrams, the anchor joins
    /// once the program is attached (`datagrams.rs`).
    pub(crate) fn make_first(&mut self) -> anyhow::Result<()> {
        if serves_datagrams(self.address, &self.opening)? {
            return Ok(());
        }
        let Opening { owner, inherited, .. } = &self.opening;
        let before = Diag::open()?.listeners(self.address)?.len();
        let first = make_listener_like(self.address, *owner, BACKLOG, inherited.as_ref())?;
        // The server's are the group's first members. What it has bound in between is passed over as well, until the table names it.
        match options::pass_over(&first, before as u32) {
            Ok(()) => self.is_passed_over = true,
            Err(error) => tracing::warn!(
                "{}: what comes until the table is published waits: {}",
                self.address,
                describe(&error)
            ),
        }
        Ok(self.has_first(first)?)
    }

    fn has_first(&mut self, first: OwnedFd) -> Result<(), SocketError> {
        match &mut self.anchor {
            Some(anchor) => anchor.set(first),
            None => {
                self.prepared = Some(first);
                Ok(())
            }
        }
    }

    /// Goes on with an address that another daemon had, and with none of its listeners yet.
    pub(crate) fn take_over(saved: &SavedAddress, opening: Opening) -> Result<Self, DataplaneError> {
        let opening = Opening { flows: flows_of(saved.address, opening.flows), ..opening };
        let (kernel, publisher) = KernelGroup::open(&opening.pins.clone().unwrap_or_default())?;
        let mut endpoint = Self::with(saved.address, kernel, publisher, opening);
        endpoint.counted_before =
            saved.counted.iter().map(|(&slot, &counted)| (slot, counted.into())).collect();
        endpoint.told = saved.told.clone();
        endpoint.passed_over = saved.passed_over.clone();
        Ok(endpoint)
    }

    fn with(address: ListenAddress, kernel: KernelGroup, mut publisher: Publisher, opening: Opening) -> Self {
        publisher.keep_flows(opening.flows.idle);
        let is_udp = address.protocol == Protocol::Udp;
        Self {
            address,
            kernel: Arc::new(kernel),
            publisher: Arc::new(Mutex::new(publisher)),
            members: BTreeMap::new(),
            passed_over: BTreeMap::new(),
            counted_before: BTreeMap::new(),
            told: BTreeMap::new(),
            prepared: None,
            anchor: is_udp.then(|| Anchor::new(address, opening.owner, opening.inherited.clone())),
            opening,
            by_id: BTreeMap::new(),
            is_attached: false,
            is_passed_over: false,
        }
    }

    /// What the next daemon has to know.
    pub(super) fn saved(&self) -> SavedAddress {
        let cookies = |members: &Vec<Member>| {
            let mut cookies = Vec::new();
            for member in members {
                let place = usize::from(member.place);
                cookies.resize(cookies.len().max(place + 1), 0);
                cookies[place] = member.cookie;
            }
            cookies
        };
        SavedAddress {
            address: self.address,
            listeners: self.members.iter().map(|(&slot, members)| (slot, cookies(members))).collect(),
            counted: self.counted_before.iter().map(|(&slot, &counted)| (slot, counted.into())).collect(),
            told: self.told.clone(),
            passed_over: self.passed_over.clone(),
        }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> ListenAddress {
        self.address
    }

    /// Which of the two programs steers it.
    pub(crate) fn program(&self) -> ProgramKind {
        self.kernel.kind()
    }

    /// Whether it takes datagrams.
    pub(super) fn is_udp(&self) -> bool {
        self.address.protocol == Protocol::Udp
    }

    /// Makes a listener of the daemon's and puts it into a slot, where that has none yet.
    pub(super) fn make(&mut self, slot: Slot) -> Result<(), EndpointError> {
        if self.members.contains_key(&slot) {
            return Ok(());
        }
        let listener = match self.prepared.take() {
            Some(listener) => listener,
            None => {
                let opening = &self.opening;
                make_listener_like(self.address, opening.owner, BACKLOG, opening.inherited.as_ref())?
            }
        };
        self.put(slot, listener)
    }

    /// Puts a listener into a slot, in its first free place, and gives it its part of the slot's flows.
    pub(super) fn put(&mut self, slot: Slot, listener: OwnedFd) -> Result<(), EndpointError> {
        let places = self.places(slot);
        let free = (0..=u8::MAX).find(|place| !places.contains(place)).unwrap_or_default();
        if !self.told.contains_key(&slot) {
            let counted = self.kernel.counters(slot)?;
            self.told.insert(slot, counted.asked[Asked::Migration as usize]);
        }
        self.put_in(slot, free, &listener)?;
        let member = Member::new(listener, free, self.looks())?;
        self.members.entry(slot).or_default().push(member);
        self.kernel.spread(slot, &self.places(slot));
        if let Some(anchor) = self.anchor.as_mut().filter(|anchor| !anchor.is_missing()) {
            anchor.member_came();
        }
        Ok(())
    }

    /// Takes in a listener that a slot has had all along, in a place.
    pub(super) fn adopt(&mut self, slot: Slot, place: u8, listener: OwnedFd) -> Result<(), EndpointError> {
        let member = Member::new(listener, place, self.looks())?;
        self.members.entry(slot).or_default().push(member);
        Ok(())
    }

    /// The places that a slot's members have.
    pub(super) fn places(&self, slot: Slot) -> Vec<u8> {
        self.of(slot).iter().map(|member| member.place).collect()
    }

    fn looks(&self) -> Option<&Looks> {
        self.opening.looks.as_ref().map(|looks| looks.looks())
    }

    /// Has datagrams whose QUIC connection ID names a generation go to its slot.
    pub(super) fn name(&self, slot: Slot, generation: GenerationId) {
        self.kernel.route(Owner::new(generation.worker, generation.number), slot);
    }

    /// How many listeners more a slot has room for.
    pub(super) fn room(&self, slot: Slot) -> usize {
        (self.kernel.sockets() as usize).saturating_sub(self.of(slot).len())
    }

    /// A slot's members.
    pub(super) fn of(&self, slot: Slot) -> &[Member] {
        self.members.get(&slot).map_or(&[], Vec::as_slice)
    }

    /// All members, the anchor's among them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Member> {
        self.members.values().flatten().chain(self.anchor.iter().flat_map(Anchor::members))
    }

    /// The cookies of all sockets that are the group's.
    pub(super) fn cookies(&self) -> HashSet<u64> {
        let prepared = self.prepared.as_ref().and_then(|listener| options::socket_cookie(listener).ok());
        self.all().map(|member| member.cookie).chain(prepared).collect()
    }

    /// The cookies of all sockets that nobody is to look at: the group's, and those that workers were passed and do not take from.
    pub(super) fn known(&self) -> HashSet<u64> {
        self.cookies()
            .into_iter()
            .chain(self.passed_over.values().flatten().map(|socket| socket.cookie))
            .collect()
    }

    /// Whether the group's sockets take no IPv4 traffic, where one is at hand to be asked: in what makes a group, they are all alike.
    pub(super) fn is_v6_only(&self) -> Option<bool> {
        let descriptors = self.all().filter_map(|member| member.descriptor.as_ref()).chain(&self.prepared);
        descriptors.map(options::is_v6_only).find_map(Result::ok)
    }

    /// A function that publishes a layout, for a thread that may wait for the grace period.
    pub(super) fn publication(
        &self,
        layout: Arc<Layout>,
    ) -> impl FnOnce() -> Result<(), DataplaneError> + Send + 'static {
        let publisher = self.publisher.clone();
        move || publisher.lock().unwrap_or_else(PoisonError::into_inner).publish(&layout)
    }
}

/// Only datagrams have flows to remember.
fn flows_of(address: ListenAddress, flows: FlowSettings) -> FlowSettings {
    if address.protocol == Protocol::Udp { flows } else { FlowSettings::NONE }
}
