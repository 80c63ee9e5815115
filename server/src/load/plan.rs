//! What load is wanted: which 4-tuples, how many at once, until when.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::Range,
    time::Duration,
};

/// One flow that is visited again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FourTuple {
    /// The client's side. With port 0 the kernel chooses a port at each visit: then it is another 4-tuple each
    /// time, and it is not looked at whether it changes worker.
    pub client: SocketAddr,
    /// The server's side.
    pub target: SocketAddr,
}

/// Every combination of a client address, a client port and a target of the same family, the ports varying
/// last, so that neighbours in the pool have different addresses.
pub fn four_tuples(clients: &[IpAddr], ports: Range<u16>, targets: &[SocketAddr]) -> Vec<FourTuple> {
    let mut tuples = Vec::new();
    for port in ports {
        for client in clients {
            for target in targets.iter().filter(|target| target.is_ipv4() == client.is_ipv4()) {
                tuples.push(FourTuple { client: SocketAddr::new(*client, port), target: *target });
            }
        }
    }
    tuples
}

/// The load of one thread.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The pool of 4-tuples, visited round robin; each is in use at most once at any time.
    pub tuples: Vec<FourTuple>,
    /// How many connections are open at once, where the pool is at least as large.
    pub concurrency: usize,
    /// Requests on each connection; the last one asks for `Connection: close`. At least 1.
    pub requests: u32,
    /// How long one connection may take, from `connect` to its last complete answer.
    pub timeout: Duration,
    /// Start no more than this many connections.
    pub connections: Option<u64>,
    /// Start none after this time.
    pub duration: Option<Duration>,
    /// Start at most this many per second.
    pub rate: Option<f64>,
    /// Whether each visit is kept by itself, and not only counted: some 150 bytes for each.
    pub keeps_visits: bool,
}

impl Plan {
    /// A plan over this pool: 16 at once, one request each, 5 s for each, until it is told to stop.
    pub fn new(tuples: Vec<FourTuple>) -> Self {
        Self {
            tuples,
            concurrency: 16,
            requests: 1,
            timeout: Duration::from_secs(5),
            connections: None,
            duration: None,
            rate: None,
            keeps_visits: false,
        }
    }

    /// The same load as `parts` plans, for as many threads: the pool, the concurrency, the number and the rate
    /// of connections are shared out; no 4-tuple is in two of them.
    pub fn split(&self, parts: usize) -> Vec<Self> {
        let parts = parts.clamp(1, self.tuples.len().max(1));
        let share = |whole: usize, part: usize| whole / parts + usize::from(part < whole % parts);
        (0..parts)
            .map(|part| Self {
                tuples: self.tuples.iter().skip(part).step_by(parts).copied().collect(),
                concurrency: share(self.concurrency, part).max(1),
                connections: self
                    .connections
                    .map(|whole| whole / parts as u64 + u64::from((part as u64) < whole % parts as u64)),
                rate: self.rate.map(|rate| rate / parts as f64),
                ..self.clone()
            })
            .collect()
    }
}

impl fmt::Display for FourTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.client, self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Vec<FourTuple> {
        let clients: Vec<IpAddr> = ["127.1.0.1", "127.1.0.2", "fd00::1"].map(|a| a.parse().unwrap()).to_vec();
        let targets = ["127.0.0.1:80", "[::1]:80"].map(|a| a.parse().unwrap());
        four_tuples(&clients, 1000..1002, &targets)
    }

    #[test]
    fn a_client_meets_only_targets_of_its_family() {
        let pool = pool();
        assert_eq!(pool.len(), 6);
        assert!(pool.iter().all(|tuple| tuple.client.is_ipv4() == tuple.target.is_ipv4()));
        assert_ne!(pool[0].client.ip(), pool[1].client.ip());
    }

    #[test]
    fn a_split_loses_and_doubles_nothing() {
        let whole = Plan { connections: Some(11), rate: Some(8.0), concurrency: 5, ..Plan::new(pool()) };
        let parts = whole.split(4);
        assert_eq!(parts.iter().map(|part| part.connections.unwrap()).sum::<u64>(), 11);
        assert_eq!(parts.iter().map(|part| part.concurrency).sum::<usize>(), 5);
        assert_eq!(parts.iter().map(|part| part.rate.unwrap()).sum::<f64>(), 8.0);
        let mut tuples: Vec<_> =
            parts.iter().flat_map(|part| &part.tuples).map(ToString::to_string).collect();
        tuples.sort();
        let mut expected: Vec<_> = whole.tuples.iter().map(ToString::to_string).collect();
        expected.sort();
        assert_eq!(tuples, expected);
    }
}
