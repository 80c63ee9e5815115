//! UDP flows in the simulated world: each sends datagrams for a while, and is remembered to have gone where it went.

use server_common::flow_hash::FlowV4;

use super::{
    super::{
        drain::Cause,
        event::{GenerationId, Millis},
        worker::Phase,
    },
    kernel::{Holder, ListenerId},
    ledger::Checked,
    world::{Happening, World},
};

/// How long nothing may have come of a flow before it is none any more.
const IDLE: Millis = 60;
/// The longest pause between two datagrams: now and then a flow has become idle.
const PAUSE_MAX: usize = 72;
/// The most datagrams after the first.
const FURTHER_MAX: usize = 6;

/// A flow, and where its last datagram went.
#[derive(Debug)]
pub(super) struct Flow {
    flow: FlowV4,
    further: usize,
    last: Millis,
    at: Option<(GenerationId, ListenerId)>,
}

impl World {
    /// A client sends its first datagram.
    pub(super) fn begin_flow(&mut self, flow: FlowV4) {
        let further = self.entropy.below(FURTHER_MAX + 1);
        self.flows.push(Flow { flow, further, last: 0, at: None });
        self.plan(0, Happening::Datagram(self.flows.len() - 1));
    }

    /// A datagram goes where its flow went, unless that was too long ago or takes nothing any more; else by the table.
    pub(super) fn datagram(&mut self, number: usize) -> Checked {
        let (now, flow) = (self.now, &self.flows[number]);
        let goes_on = |&(_, listener): &(GenerationId, ListenerId)| {
            now - flow.last <= IDLE && self.kernel.listeners[listener].is_listening
        };
        let at = match flow.at.filter(goes_on) {
            Some(kept) => {
                self.tally.kept += 1;
                Some(kept)
            }
            None => self.choose_for_datagram(flow.flow)?,
        };
        let flow = &mut self.flows[number];
        (flow.last, flow.at) = (now, at);
        if flow.further > 0 {
            flow.further -= 1;
            let pause = 1 + self.entropy.below(PAUSE_MAX) as Millis;
            self.plan(pause, Happening::Datagram(number));
        }
        Ok(())
    }

    /// Nobody holds datagrams: where no worker is named they are lost.
    fn choose_for_datagram(&mut self, flow: FlowV4) -> Checked<Option<(GenerationId, ListenerId)>> {
        let (table, sight) = (self.any_table(), self.sight());
        let Some((_, listener, _)) = self.kernel.select(table, &flow, sight) else { return Ok(None) };
        let Holder::Generation(id) = self.kernel.listeners[listener].holder else { return Ok(None) };
        self.tally.flows += 1;
        self.check_new_flow(id)?;
        Ok(Some((id, listener)))
    }

    /// How many flows of a generation are not idle.
    pub(super) fn flows_of(&self, id: GenerationId) -> u64 {
        let is_its =
            |flow: &&Flow| flow.at.is_some_and(|(holder, _)| holder == id) && self.now - flow.last <= IDLE;
        self.flows.iter().filter(is_its).count() as u64
    }

    /// Who is told to stop has no flow any more, unless its deadline is over or it is lost.
    pub(super) fn check_stop(&self, id: GenerationId) -> Checked {
        let generation =
            self.group().workers.get(&id.worker).and_then(|worker| worker.generations.get(&id.number));
        let Some(Phase::Draining(drain)) = generation.map(|generation| &generation.phase) else {
            return Ok(());
        };
        let waits = !drain.late && !drain.deserted && drain.cause == Cause::Asked;
        match self.flows_of(id) {
            flows if flows > 0 && waits => Err(format!("{id:?} is told to stop while it has {flows} flows")),
            _ => Ok(()),
        }
    }
}
