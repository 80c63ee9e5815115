//! unbound: each thread has a socket at each address, for datagrams and for connections.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::process::Signal;
use steer_tests::{exchanges::Exchange, process, steer::Steer, wait};

use super::plain;
use crate::{
    case::{Case, OwnLoss, Speaks},
    changing::Changing,
    program::{Program, SOON},
    site::Site,
};

const NEEDS: &[&str] = &["unbound"];
const THREADS: usize = 2;
/// What it answers, by turns: with each reload the other.
const ANSWERS: [&[&str]; 2] = [&["pong one"], &["pong two"]];

pub(super) const CASES: &[Case] = &[Case {
    speaks: Speaks::Dns,
    own_loss: Some(OwnLoss {
        each: 4,
        why: "connections that it had accepted when it reloaded; of datagrams, what came between the anchor's bind and its being passed over",
    }),
    ..plain("unbound", "HUP reload", NEEDS, start)
}];

struct Unbound {
    program: Program,
    site: Site,
}

fn start(site: &Site) -> Box<dyn Changing> {
    configure(site, 0);
    let program = site.start("unbound -d -c DIR/unbound.conf");
    site.until_served();
    Box::new(Unbound { program, site: site.clone() })
}

fn configure(site: &Site, turn: usize) {
    let interfaces = site.each("  interface: BARE@PORT\n");
    let answer = ANSWERS[turn][0];
    site.write(
        "unbound.conf",
        &format!(
            "server:\n  num-threads: {THREADS}\n{interfaces}  do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n  directory: \"DIR\"\n  \
             pidfile: \"\"\n  use-syslog: no\n  module-config: \"iterator\"\n  access-control: ::/0 allow\n  access-control: 0.0.0.0/0 allow\n  \
             incoming-num-tcp: 100\n  local-zone: \"example.\" static\n  local-data: 'www.example. 300 IN TXT \"{answer}\"'\n"
        ),
    );
}

impl Changing for Unbound {
    fn change(&mut self, round: u32, _: Option<&Steer<'_>>) {
        let turn = (round as usize + 1) % 2;
        configure(&self.site, turn);
        process::signal(self.program.pid(), Signal::HUP);
        for &address in &self.site.addresses {
            let [_, by_connection] = Exchange::dns();
            let question = Exchange { answers: ANSWERS[turn], ..by_connection };
            wait::until("it answers as it is told to by now", SOON, || {
                question.run(client(address), address).map_err(|error| error.to_string())
            });
        }
    }

    fn listeners(&self) -> usize {
        THREADS
    }

    fn pid(&self) -> u32 {
        self.program.pid()
    }

    fn end(self: Box<Self>) {
        self.program.end();
    }
}

fn client(address: SocketAddr) -> std::net::IpAddr {
    if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}
