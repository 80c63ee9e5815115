//! Modest, steady load that counts what it loses, beside a test that does something to the workers.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use steer::{
    control::api::{Counters, GroupStatus},
    load::{Plan, Running, Tally, four_tuples},
};

use crate::{receipts::check_sums, wait};

/// Connections started per second: enough to have some in every state, few enough for a busy machine of two processors.
const RATE: f64 = 400.0;
/// Connections open at once.
const CONCURRENCY: usize = 32;
/// Longer than any test lets a connection wait in a holding listener.
const TIMEOUT: Duration = Duration::from_secs(20);
/// For connections that are waited for.
const SOON: Duration = Duration::from_secs(60);
const CLIENTS: u8 = 16;
const PORTS: std::ops::Range<u16> = 20_000..20_064;

/// Load that runs in a thread of its own until [`Traffic::end`].
#[derive(Debug)]
pub struct Traffic {
    running: Running,
}

impl Traffic {
    /// Starts to connect to the targets, from 16 addresses of each family, one request per connection.
    #[track_caller]
    pub fn start(targets: &[SocketAddr]) -> Self {
        let clients: Vec<IpAddr> = (1..=CLIENTS)
            .flat_map(|number| {
                let v6 = Ipv6Addr::new(0xfd00, 0x57ee, 7, 0, 0, 0, 1, u16::from(number));
                [IpAddr::from(Ipv4Addr::new(127, 1, 0, number)), v6.into()]
            })
            .collect();
        let tuples = four_tuples(&clients, PORTS, targets);
        let plan = Plan { rate: Some(RATE), concurrency: CONCURRENCY, timeout: TIMEOUT, ..Plan::new(tuples) };
        let running = Running::start(vec![plan]).expect("a load thread can be started");
        let traffic = Self { running };
        traffic.more(20);
        traffic
    }

    /// Waits until this many further connections have ended, well or not.
    #[track_caller]
    pub fn more(&self, connections: u64) {
        let wanted = self.running.probe().snapshot().connections + connections;
        wait::until("the load goes on", SOON, || {
            let found = self.running.probe().snapshot();
            if found.connections >= wanted { Ok(()) } else { Err(format!("{found:?}, {wanted} wanted")) }
        });
    }

    /// Forgets which worker each 4-tuple belongs to: for a change that is meant to move some.
    pub fn forget_workers(&self) {
        self.running.probe().pause_stickiness();
        self.running.probe().resume_stickiness();
    }

    /// Ends the load, after a hundred more connections, and panics if any was lost.
    #[track_caller]
    pub fn end(self) -> Tally {
        let tally = self.join();
        assert_eq!(tally.failed, 0, "of {} connections: {:#?}", tally.connections, failures(&tally));
        tally
    }

    /// The same after a SIGKILL: what the killed process had accepted is reset, and is the only loss.
    #[track_caller]
    pub fn end_after_kill(self) -> Tally {
        let tally = self.join();
        assert_eq!(tally.failed, tally.reset, "{:#?}", failures(&tally));
        // It had that many open at once at most.
        assert!(tally.failed <= CONCURRENCY as u64, "{:#?}", failures(&tally));
        tally
    }

    #[track_caller]
    fn join(self) -> Tally {
        self.more(100);
        self.running.probe().stop();
        let tally = self.running.join().expect("the load runs");
        assert!(tally.ok > 100, "{tally:?}");
        tally
    }
}

fn failures(tally: &Tally) -> Vec<String> {
    tally.first_failures.iter().map(ToString::to_string).collect()
}

/// Panics unless each stage has counted every run of the program exactly once; returns the counters.
#[track_caller]
pub fn counters_add_up(group: &GroupStatus) -> Counters {
    let counters = group.counters;
    check_sums(&counters);
    counters
}
