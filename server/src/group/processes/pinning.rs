//! Which CPUs the workers are pinned to, for the policy `cpu`.

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity},
};

use crate::engine::event::GenerationId;

use super::Processes;

impl Processes {
    /// Looks at the CPUs of some generations; those that were pinned to others since the last look. A worker pins itself, or is pinned,
    /// whenever it likes.
    pub(crate) fn look_at_cpus(
        &mut self,
        which: impl Fn(GenerationId) -> bool,
    ) -> Vec<(GenerationId, Vec<usize>)> {
        let all = online();
        let mut changed = Vec::new();
        let looked_at =
            self.generations.iter_mut().filter(|(id, generation)| which(**id) && generation.runs());
        for (&id, generation) in looked_at {
            let pid = generation.process.as_ref().and_then(|process| i32::try_from(process.pid()).ok());
            // One that has ended meanwhile is found by others.
            let Some(Ok(set)) = pid.and_then(Pid::from_raw).map(|pid| sched_getaffinity(Some(pid))) else {
                continue;
            };
            let cpus = cpus_of(&set);
            // Who may run everywhere is pinned to nothing.
            let is_pinned = all.iter().any(|cpu| !cpus.contains(cpu));
            let cpus = if is_pinned { cpus } else { Vec::new() };
            if generation.cpus != cpus {
                generation.cpus.clone_from(&cpus);
                changed.push((id, cpus));
            }
        }
        changed
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
