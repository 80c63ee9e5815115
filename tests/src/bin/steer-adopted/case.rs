//! One server and one change of it.

use std::net::SocketAddr;

use steer_tests::exchanges::{Exchange, Over};

use crate::{changing::Changing, site::Site};

/// A change that a server is put through again and again.
pub(crate) struct Case {
    pub(crate) server: &'static str,
    pub(crate) change: &'static str,
    /// The programs that it takes, looked for on PATH.
    pub(crate) needs: &'static [&'static str],
    pub(crate) families: Families,
    pub(crate) speaks: Speaks,
    /// How often it is done, in a run that is to be over soon.
    pub(crate) few: u32,
    /// The same in a full run.
    pub(crate) full: u32,
    /// Starts the server.
    pub(crate) start: fn(&Site) -> Box<dyn Changing>,
    /// Whether it has as many listeners after each change as before, so that no 4-tuple is to change its worker.
    pub(crate) keeps_count: bool,
    /// What the server loses by itself, with steer or without.
    pub(crate) own_loss: Option<OwnLoss>,
}

/// Whether a server listens at an address of each family at once.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Families {
    Together,
    /// It takes one address only: there is a run for each family.
    Apart,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Speaks {
    Http,
    Redis,
    Dns,
}

/// A loss that no steering can help.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnLoss {
    /// How many it is at most each time the change is done, at each address.
    pub(crate) each: u64,
    pub(crate) why: &'static str,
}

/// What clients do at one address.
pub(crate) struct Load {
    pub(crate) target: SocketAddr,
    pub(crate) exchange: Exchange,
}

impl Load {
    /// What tells it from what others do.
    pub(crate) fn label(&self) -> String {
        let family = if self.target.is_ipv4() { "IPv4" } else { "IPv6" };
        match self.exchange.over {
            Over::Tcp => family.to_owned(),
            Over::Udp => format!("{family} UDP"),
        }
    }
}

impl Case {
    pub(crate) fn name(&self) -> String {
        format!("{}: {}", self.server, self.change)
    }

    /// What its clients do, each part of them one of these.
    pub(crate) fn exchanges_at(&self, addresses: &[SocketAddr]) -> Vec<Load> {
        let exchanges = match self.speaks {
            Speaks::Http => vec![Exchange::http()],
            Speaks::Redis => vec![Exchange::redis()],
            Speaks::Dns => Exchange::dns().into(),
        };
        let at = |&target: &SocketAddr| {
            exchanges.iter().map(move |exchange| Load { target, exchange: exchange.clone() })
        };
        addresses.iter().flat_map(at).collect()
    }
}
