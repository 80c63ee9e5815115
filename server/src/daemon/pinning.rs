//! Which CPUs the workers are pinned to, for the policy `cpu`.

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity},
};

use crate::{
    engine::event::{Event, GenerationId},
    policy::Policy,
};

use super::actor::Actor;

impl Actor {
    /// Looks at every worker's CPUs, where the policy wants to know them. A worker pins itself, or is pinned, whenever it likes.
    pub(super) fn look_at_cpus(&mut self) {
        if self.engine.policy() == Policy::Cpu {
            self.look_at_cpus_for(|_| true);
        }
    }

    /// Looks at the CPUs of some.
    pub(super) fn look_at_cpus_for(&mut self, which: impl Fn(GenerationId) -> bool) {
        let all = online();
        let pinned: Vec<(GenerationId, Vec<usize>)> = self
            .generations
            .iter()
            .filter(|(id, running)| which(**id) && !running.has_exited)
            .filter_map(|(&id, running)| {
                let pid = i32::try_from(running.process.as_ref()?.pid()).ok().and_then(Pid::from_raw)?;
                // One that has ended meanwhile is found by others.
                let cpus = cpus_of(&sched_getaffinity(Some(pid)).ok()?);
                // Who may run everywhere is pinned to nothing.
                let is_pinned = all.iter().any(|cpu| !cpus.contains(cpu));
                Some((id, if is_pinned { cpus } else { Vec::new() }))
            })
            .collect();
        for (generation, cpus) in pinned {
            let known = self.generations.get_mut(&generation).map(|running| &mut running.cpus);
            if let Some(known) = known.filter(|known| **known != cpus) {
                known.clone_from(&cpus);
                self.feed(Event::Pinned { generation, cpus });
            }
        }
    }
}

fn cpus_of(set: &CpuSet) -> Vec<usize> {
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

/// The CPUs that are online: `0-3,5`. None where that cannot be read, so that nobody counts as pinned.
fn online() -> Vec<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    parse_list(text.trim())
}

fn parse_list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cpus_has_ranges() {
        assert_eq!(parse_list("0-3,5"), [0, 1, 2, 3, 5]);
        assert_eq!(parse_list("0"), [0]);
        assert!(parse_list("").is_empty());
    }

    #[test]
    fn this_process_runs_on_cpus_that_are_online() {
        let own = cpus_of(&sched_getaffinity(None).unwrap());
        assert!(!own.is_empty() && own.iter().all(|cpu| online().contains(cpu)));
    }
}
