//! Clients that do one exchange after the other.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::{exchange::Exchange, tally::Tally};
use crate::wait;

/// Exchanges at once, each in a thread of its own.
pub const CLIENTS: u8 = 16;

/// Longer than an exchange takes that fails in the end.
const TIMEOUT: Duration = Duration::from_secs(30);

/// After a refusal, which takes a server no time: clients that ask again at once would leave it no processor to start with.
const AFTER_REFUSAL: Duration = Duration::from_millis(2);

/// Loads a server while `body` does something to it. There is a tally of each target's exchange.
pub fn under_load(load: &[(SocketAddr, Exchange)], body: impl FnOnce(&[Tally])) -> Vec<Tally> {
    let tallies: Vec<Tally> = load.iter().map(|_| Tally::default()).collect();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let parts = load.iter().zip(&tallies).cycle();
        for (number, ((target, exchange), tally)) in (1..=CLIENTS).zip(parts) {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let result = exchange.run(client(number, *target), *target);
                    tally.count(&result);
                    if result.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                        thread::sleep(AFTER_REFUSAL);
                    }
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
pub fn more(tallies: &[Tally], count: u64) {
    for tally in tallies {
        let wanted = tally.connections() + count;
        wait::until("the load goes on", TIMEOUT, || {
            let found = tally.connections();
            if found >= wanted { Ok(()) } else { Err(format!("{found} of {wanted}")) }
        });
    }
}

/// Waits until this many exchanges more of each kind were answered.
pub fn answered(tallies: &[Tally], count: u64) {
    for tally in tallies {
        let answered = || tally.connections() - tally.failed();
        let wanted = answered() + count;
        wait::until("the server answers", TIMEOUT, || {
            let found = answered();
            if found >= wanted {
                Ok(())
            } else {
                Err(format!("{found} of {wanted}; {:?}", tally.first_failures()))
            }
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
