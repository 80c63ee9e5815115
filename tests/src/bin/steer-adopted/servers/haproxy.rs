//! HAProxy: a master that reloads, or a new process that has the old one finish. Each thread has a listener with `shards by-thread`.

use rustix::process::Signal;
use steer_tests::steer::Steer;

use super::plain;
use crate::{
    case::Case,
    changing::{Changing, Led, Step},
    program::Program,
    site::Site,
};

const NEEDS: &[&str] = &["haproxy"];
const THREADS: usize = 2;

pub(super) const CASES: &[Case] = &[
    plain("HAProxy -W", "USR2 reload", NEEDS, |site| led(site, "")),
    plain("HAProxy -W by-thread", "USR2 reload", NEEDS, |site| led(site, " shards by-thread")),
    plain("HAProxy", "-sf", NEEDS, |site| finishing(site, "")),
    plain("HAProxy by-thread", "-sf", NEEDS, |site| finishing(site, " shards by-thread")),
];

fn configure(site: &Site, options: &str) {
    let binds = site.each(&format!("  bind BARE:PORT{options}\n"));
    site.write(
        "haproxy.cfg",
        &format!(
            "global\n  nbthread {THREADS}\ndefaults\n  mode http\n  timeout client 5s\n  timeout server 5s\n  timeout connect 5s\n\
             frontend f\n{binds}  http-request return status 200 content-type text/plain string ok\n"
        ),
    );
}

fn listeners(options: &str) -> usize {
    if options.is_empty() { 1 } else { THREADS }
}

fn led(site: &Site, options: &str) -> Box<dyn Changing> {
    configure(site, options);
    let count: fn(usize) -> usize = if options.is_empty() { |_| 1 } else { |_| THREADS };
    let led = Led::start(site, "haproxy -W -f DIR/haproxy.cfg", 1, vec![Step::Renews(Signal::USR2, Some(1))]);
    Box::new(Led { listeners: count, ..led })
}

/// One that is replaced by a new process, which tells the old one to finish.
struct Finishing {
    program: Option<Program>,
    start: Box<dyn Fn(u32) -> Program>,
    listeners: usize,
}

fn finishing(site: &Site, options: &str) -> Box<dyn Changing> {
    configure(site, options);
    let program = site.start("haproxy -f DIR/haproxy.cfg");
    site.until_served();
    let again = site.clone();
    let start = move |old: u32| again.start(&format!("haproxy -f DIR/haproxy.cfg -sf {old}"));
    Box::new(Finishing { program: Some(program), start: Box::new(start), listeners: listeners(options) })
}

impl Changing for Finishing {
    fn change(&mut self, _: u32, _: Option<&Steer<'_>>) {
        let mut old = self.program.take().expect("it runs");
        self.program = Some((self.start)(old.pid()));
        old.ended();
    }

    fn listeners(&self) -> usize {
        self.listeners
    }

    fn pid(&self) -> u32 {
        self.program.as_ref().expect("it runs").pid()
    }

    fn end(self: Box<Self>) {
        self.program.into_iter().for_each(Program::end);
    }
}
