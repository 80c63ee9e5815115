//! Clients that do one exchange after the other, and what has come of them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use steer_tests::wait;

use crate::exchange::Exchange;

/// Exchanges at once, each in a thread of its own.
pub(crate) const CLIENTS: u8 = 16;

/// Longer than an exchange takes that fails in the end.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What has come of the connections so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    connections: AtomicU64,
    failed: AtomicU64,
    longest_us: AtomicU64,
    first_failures: Mutex<Vec<String>>,
}

impl Tally {
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// From `connect`, or the question, to the answer, at worst.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.load(Ordering::Relaxed))
    }

    pub(crate) fn first_failures(&self) -> Vec<String> {
        self.first_failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, result: io::Result<Duration>) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(took) => drop(self.longest_us.fetch_max(took.as_micros() as u64, Ordering::Relaxed)),
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let mut first = self.first_failures.lock().unwrap_or_else(PoisonError::into_inner);
                if first.len() < 5 {
                    first.push(error.to_string());
                }
            }
        }
    }
}

/// Loads a server while `body` does something to it. There is a tally of each exchange.
pub(crate) fn under_load(
    target: SocketAddr,
    exchanges: &[Exchange],
    body: impl FnOnce(&[Tally]),
) -> Vec<Tally> {
    let tallies: Vec<Tally> = exchanges.iter().map(|_| Tally::default()).collect();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let parts = exchanges.iter().zip(&tallies).cycle();
        for (number, (exchange, tally)) in (1..=CLIENTS).zip(parts) {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    tally.count(exchange.run(client(number, target), target));
                }
            });
        }
        // Also where it panics: the scope waits for all.
        let _end = Ending(&is_over);
        body(&tallies);
    });
    tallies
}

/// Waits for this many exchanges more of each kind.
pub(crate) fn more(tallies: &[Tally], count: u64) {
    for tally in tallies {
        let wanted = tally.connections() + count;
        wait::until("the load goes on", TIMEOUT, || {
            let found = tally.connections();
            if found >= wanted { Ok(()) } else { Err(format!("{found} of {wanted}")) }
        });
    }
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An address for each thread, so that none runs out of ports.
fn client(number: u8, target: SocketAddr) -> IpAddr {
    match target {
        SocketAddr::V4(_) => Ipv4Addr::new(127, 1, 0, number).into(),
        SocketAddr::V6(_) => Ipv6Addr::new(0xfd00, 0x57ee, 7, 0, 0, 0, 1, u16::from(number)).into(),
    }
}
