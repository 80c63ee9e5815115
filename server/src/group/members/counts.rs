//! What is counted and seen at an address.

use std::{os::fd::AsFd as _, time::Instant};

use server_common::counters::{Outcome, SlotCounters};

use crate::{
    dataplane::{error::DataplaneError, looks::Queue},
    engine::event::Slot,
    group::observer::TimedLook,
    sockets::options::{self, SocketError},
};

use super::{by_id::Activity, endpoint::Endpoint, member::Member};

/// What a slot's listeners show, taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// How many of them are open and listen.
    pub(crate) listening: usize,
    /// How many do not, any more.
    pub(crate) stopped: usize,
    /// Connections that wait to be accepted; of UDP sockets, how many have datagrams that were not read.
    pub(crate) unaccepted: u64,
}

impl Seen {
    fn new(listens: bool, unaccepted: u64) -> Self {
        Self { listening: usize::from(listens), stopped: usize::from(!listens), unaccepted }
    }

    fn and(self, other: Self) -> Self {
        Self {
            listening: self.listening + other.listening,
            stopped: self.stopped + other.stopped,
            unaccepted: self.unaccepted + other.unaccepted,
        }
    }
}

impl Endpoint {
    /// The state of each slot's listeners, from a look. Without a look it is read from the listeners whose descriptors the daemon has.
    pub(super) fn seen(&self, look: Option<&TimedLook>) -> Result<Vec<(Slot, Seen)>, SocketError> {
        let together = |members: &Vec<Member>| {
            let all = members.iter().filter_map(|member| self.seen_of(member, look).transpose());
            all.reduce(|one, other| Ok(one?.and(other?))).transpose()
        };
        let seen =
            self.members.iter().map(|(&slot, members)| Ok(together(members)?.map(|seen| (slot, seen))));
        seen.filter_map(Result::transpose).collect()
    }

    /// The state of one listener; nothing where it cannot be seen.
    pub(super) fn seen_of(
        &self,
        member: &Member,
        look: Option<&TimedLook>,
    ) -> Result<Option<Seen>, SocketError> {
        if let (Some(look), Some(watched)) = (look, &member.watched) {
            // One that is younger than the look is as it was made.
            let made = Queue { listens: true, ..Queue::default() };
            return Ok(Some(self.seen_in(look.of(watched).unwrap_or(made))));
        }
        let Some(descriptor) = &member.descriptor else { return Ok(None) };
        let ask = if self.is_udp() { options::receiving } else { options::listening };
        let said = ask(descriptor.as_fd())?;
        Ok(Some(Seen::new(said.listens, u64::from(said.unaccepted))))
    }

    fn seen_in(&self, queue: Queue) -> Seen {
        match self.is_udp() {
            true => Seen::new(true, u64::from(queue.datagrams > 0)),
            false => Seen::new(queue.listens, u64::from(queue.unaccepted)),
        }
    }

    /// The unaccepted connections of a slot's listeners, read from those whose descriptors the daemon has.
    pub(super) fn waiting(&self, slot: Slot) -> u64 {
        let at_hand = self.of(slot).iter().filter_map(|member| member.descriptor.as_ref());
        let said = at_hand.filter_map(|listener| options::listening(listener.as_fd()).ok());
        said.map(|it| u64::from(it.unaccepted)).sum()
    }

    /// How many datagrams have come to a slot by their QUIC connection ID, in as long as a flow can be idle.
    pub(super) fn by_id(&mut self, slot: Slot) -> Result<u64, DataplaneError> {
        let (now, idle) = (Instant::now(), self.opening.flows.idle);
        let count = self.counters(slot)?.outcome[Outcome::ById as usize];
        Ok(self.by_id.entry(slot).or_insert_with(|| Activity::since(now)).look(now, count, idle))
    }

    /// What the program has counted for a slot since its listener came.
    pub(super) fn counters(&self, slot: Slot) -> Result<SlotCounters, DataplaneError> {
        let now = self.kernel.counters(slot)?;
        let before = self.counted_before.get(&slot).copied().unwrap_or_default();
        Ok(now.since(&before))
    }
}
