//! Clients of every group, and which of the connections that they lost were in a worker that was killed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use steer::load::{Failure, Plan, Running, four_tuples};
use steer_tests::wait;

use crate::configuration::GROUPS;

/// Connections started per second and group: enough to have some in every state, and room for all else.
const RATE: f64 = 150.0;
/// Connections open at once, per group.
const CONCURRENCY: u64 = 16;
/// Longer than anything that makes a connection wait.
const TIMEOUT: Duration = Duration::from_secs(30);
/// For connections that are waited for.
const SOON: Duration = Duration::from_secs(90);
const ADDRESSES: u8 = 16;
const PORTS: std::ops::Range<u16> = 20_000..20_064;

/// One load for each group.
pub(crate) struct Clients {
    loads: BTreeMap<&'static str, Running>,
    /// Lost to a SIGKILL, by group.
    killed: BTreeMap<&'static str, u64>,
}

/// What came of all connections.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) connections: u64,
    /// Of them, those that were reset because the process that had accepted them was killed.
    pub(crate) killed: u64,
    /// Of them, all others that failed.
    pub(crate) lost: u64,
    /// The first failures of each group, word by word, but for resets where kills explain all of the group's.
    pub(crate) failures: Vec<String>,
}

/// The failures of one load, by what they are.
#[derive(Debug, Clone, Copy)]
struct Failed {
    all: u64,
    reset: u64,
    /// Those that a SIGKILL explains.
    killed: u64,
}

impl Clients {
    /// Begins to connect to every group, and waits for the first answers of each.
    pub(crate) fn start() -> Self {
        let loads = GROUPS.iter().map(|group| {
            let addresses: Vec<IpAddr> = (1..=ADDRESSES)
                .flat_map(|number| {
                    let v6 = Ipv6Addr::new(0xfd00, 0x57ee, 7, 0, 0, 0, 1, u16::from(number));
                    [IpAddr::from(Ipv4Addr::new(127, 1, 0, number)), v6.into()]
                })
                .collect();
            let tuples = four_tuples(&addresses, PORTS, &group.targets());
            let concurrency = CONCURRENCY as usize;
            let plan = Plan { rate: Some(RATE), concurrency, timeout: TIMEOUT, ..Plan::new(tuples) };
            (group.name, Running::start(vec![plan]).expect("a load thread can be started"))
        });
        let clients = Self { loads: loads.collect(), killed: BTreeMap::new() };
        GROUPS.iter().for_each(|group| clients.more(group.name, CONCURRENCY));
        clients
    }

    /// Waits until this many further connections to a group have ended, well or not.
    pub(crate) fn more(&self, group: &str, connections: u64) {
        let load = &self.loads[group];
        let wanted = load.probe().snapshot().connections + connections;
        wait::until(&format!("the load of {group} goes on"), SOON, || {
            assert!(!load.is_finished(), "the load of {group} has ended by itself");
            let found = load.probe().snapshot();
            if found.connections >= wanted { Ok(()) } else { Err(format!("{found:?}, {wanted} wanted")) }
        });
    }

    /// How many connections to a group have failed so far.
    pub(crate) fn failed(&self, group: &str) -> u64 {
        self.loads[group].probe().snapshot().failed
    }

    /// One of the group's workers was killed after `failed` had failed, and another has taken its place: what has failed since,
    /// once all that was open at the kill has ended, is the kill's, up to what was open.
    pub(crate) fn was_killed(&mut self, group: &'static str, failed: u64) {
        self.more(group, 2 * CONCURRENCY);
        *self.killed.entry(group).or_default() += (self.failed(group) - failed).min(CONCURRENCY);
    }

    /// Stops, and counts.
    pub(crate) fn end(self) -> Counted {
        let mut counted = Counted::default();
        for (group, load) in self.loads {
            load.probe().stop();
            let tally = load.join().unwrap_or_else(|error| panic!("the load of {group}: {error}"));
            let killed = self.killed.get(group).copied().unwrap_or_default();
            let failed = Failed { all: tally.failed, reset: tally.reset, killed };
            let (killed, lost) = failed.parted();
            counted.connections += tally.connections;
            counted.killed += killed;
            counted.lost += lost;
            let is_lost = |failure: &&Failure| !(failed.explains_resets() && failure.kind.is_reset());
            let one = |failure: &Failure| format!("{group}, {lost} lost: {failure}");
            counted.failures.extend(tally.first_failures.iter().filter(is_lost).map(one));
        }
        counted
    }
}

impl Failed {
    /// Whether each reset was in a worker that was killed.
    fn explains_resets(self) -> bool {
        self.reset <= self.killed
    }

    /// Those of killed workers, and those that are lost: a kill resets, and does nothing else to a connection.
    fn parted(self) -> (u64, u64) {
        let killed = self.killed.min(self.reset);
        (killed, self.all - killed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_resets_are_a_kills() {
        assert_eq!(Failed { all: 3, reset: 3, killed: 3 }.parted(), (3, 0));
        assert_eq!(Failed { all: 3, reset: 3, killed: 2 }.parted(), (2, 1));
        // One has timed out.
        assert_eq!(Failed { all: 3, reset: 2, killed: 3 }.parted(), (2, 1));
        assert_eq!(Failed { all: 0, reset: 0, killed: 0 }.parted(), (0, 0));
    }
}
