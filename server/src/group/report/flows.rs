//! A group's UDP flows, one by one.

use std::collections::BTreeMap;

use crate::{
    block::Block,
    control::api::{FLOWS_LISTED_MAX, Fault, FaultKind, FlowOf, Flows, GenerationFlows, SCHEMA},
    dataplane::flow_table::Flow,
    engine::event::GenerationId,
};

use super::View;

/// Which flows are wanted.
#[derive(Debug)]
pub(crate) struct FlowQuestion {
    pub(crate) worker: Option<u32>,
    pub(crate) client: Option<Block>,
    pub(crate) limit: u32,
}

impl View {
    /// The group's UDP flows. It reads the whole flow table: for a thread.
    pub(crate) fn list_flows(&self, question: &FlowQuestion) -> Result<Flows, Fault> {
        let FlowQuestion { worker, client, limit } = question;
        if let Some(index) =
            worker.filter(|index| self.engine.workers().iter().all(|one| one.index != *index))
        {
            let group = &self.settings.name;
            return Err(Fault {
                kind: FaultKind::NoSuch,
                message: format!("there is no worker {}", group.worker(index)),
                hint: Some(format!("`steer status {group}` lists its workers")),
            });
        }
        if !self.settings.has_udp() {
            return Err(Fault {
                kind: FaultKind::Refused,
                message: format!("{} has no udp address, and so no flows", self.settings.name),
                hint: Some("connections are counted by `steer status`".to_owned()),
            });
        }
        let seed = self.engine.seed();
        let holders = self.engine.holders();
        let is_wanted = |flow: &Flow| client.is_none_or(|block| block.contains(flow.client.ip()));
        let mut found: Vec<(GenerationId, Flow)> = self
            .readers
            .iter()
            .flat_map(|reader| reader.list_flows(&seed))
            .filter(is_wanted)
            .filter_map(|flow| Some((*holders.get(&flow.slot)?, flow)))
            .filter(|(id, _)| worker.is_none_or(|index| id.worker == index))
            .collect();
        found.sort_by_key(|(id, flow)| (*id, flow.client, flow.local));
        let limit = (*limit).min(FLOWS_LISTED_MAX) as usize;
        Ok(Flows {
            schema: SCHEMA,
            group: self.settings.name.clone(),
            room: self.readers.iter().map(|reader| reader.flow_room()).sum(),
            idle_ms: self.settings.flows.idle.as_millis() as u64,
            found: found.len() as u64,
            by_generation: self.by_generation(&found),
            flows: found.iter().take(limit).map(|(id, flow)| self.flow_of(*id, flow)).collect(),
        })
    }

    fn by_generation(&self, found: &[(GenerationId, Flow)]) -> Vec<GenerationFlows> {
        let mut counts: BTreeMap<GenerationId, (u64, u64)> = BTreeMap::new();
        for (id, flow) in found {
            let (flows, established) = counts.entry(*id).or_default();
            *flows += 1;
            *established += u64::from(flow.is_established);
        }
        let count = |(id, (flows, established)): (GenerationId, (u64, u64))| GenerationFlows {
            worker: self.settings.name.worker(id.worker),
            generation: id.number,
            draining: self.engine.is_draining(id),
            flows,
            established,
        };
        counts.into_iter().map(count).collect()
    }

    fn flow_of(&self, id: GenerationId, flow: &Flow) -> FlowOf {
        FlowOf {
            client: flow.client,
            local: flow.local,
            worker: self.settings.name.worker(id.worker),
            generation: id.number,
            idle_ms: flow.idle.as_millis() as u64,
            established: flow.is_established,
        }
    }
}
