//! nginx: each worker has a listener with `reuseport`, all share one without.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use steer_tests::{process, steer::Steer, wait};

use super::plain;
use crate::{
    case::{Case, OwnLoss},
    changing::{Changing, Led, Step},
    program::{SOON, gone, until_workers},
    site::{Site, write},
};

pub(super) const NEEDS: &[&str] = &["nginx"];
// By its path: an upgrade runs the same word without looking for it on PATH.
const LINE: &str = "$(command -v nginx) -c DIR/nginx.conf";
const WORKERS: usize = 4;

pub(super) const CASES: &[Case] = &[
    Case { few: 10, full: 100, ..plain("nginx reuseport", "HUP", NEEDS, |site| hup(site, " reuseport")) },
    Case { few: 6, keeps_count: false, ..plain("nginx reuseport", "5 <-> 2 workers", NEEDS, resize) },
    Case { few: 4, full: 20, ..plain("nginx reuseport", "USR2 upgrade", NEEDS, upgrade) },
    Case {
        own_loss: Some(OwnLoss { each: 8, why: "connections that the killed worker had accepted" }),
        ..plain("nginx reuseport", "SIGKILL of a worker", NEEDS, kill)
    },
    Case { few: 10, full: 100, ..plain("nginx", "HUP", NEEDS, |site| hup(site, "")) },
];

fn configuration(site: &Site, options: &str, workers: usize) -> String {
    let listen = site.each(&format!("listen ADDRESS{options};\n"));
    format!(
        "daemon off; worker_processes {workers}; error_log stderr; pid DIR/nginx.pid;\nevents {{}}\n\
         http {{ access_log off; client_body_temp_path DIR/b; proxy_temp_path DIR/p; fastcgi_temp_path DIR/f;\n\
         uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;\nserver {{ {listen} add_header X-Pid $pid; location / {{ return 200 \"ok\\n\"; }} }} }}\n"
    )
}

fn begin(site: &Site, options: &str, workers: usize, steps: Vec<Step>) -> Led {
    site.write("nginx.conf", &configuration(site, options, workers));
    let listeners: fn(usize) -> usize = if options.is_empty() { |_| 1 } else { |workers| workers };
    Led { listeners, ..Led::start(site, LINE, workers, steps) }
}

pub(super) fn hup(site: &Site, options: &str) -> Box<Led> {
    Box::new(begin(site, options, WORKERS, vec![Step::Renews(Signal::HUP, Some(WORKERS))]))
}

fn resize(site: &Site) -> Box<dyn Changing> {
    const COUNTS: [usize; 2] = [2, 5];
    let led = begin(site, " reuseport", 5, COUNTS.map(|count| Step::Renews(Signal::HUP, Some(count))).into());
    let texts = COUNTS.map(|count| configuration(site, " reuseport", count));
    let directory = site.path("");
    let before = move |round: u32| drop(write(&directory, "nginx.conf", &texts[round as usize % 2]));
    Box::new(Led { before: Box::new(before), ..led })
}

fn kill(site: &Site) -> Box<dyn Changing> {
    Box::new(begin(site, " reuseport", WORKERS, vec![Step::Loses]))
}

/// One that upgrades itself: a new first process inherits the listeners, and the old one is told to end.
struct Upgrading {
    pid: u32,
    pid_file: PathBuf,
}

fn upgrade(site: &Site) -> Box<dyn Changing> {
    // It takes USR2 for nothing while the process that has started it is its parent: it has to be a daemon.
    let text = configuration(site, " reuseport", WORKERS).replace("daemon off", "daemon on");
    site.write("nginx.conf", &text);
    site.start(LINE).ended();
    let pid_file = site.path("nginx.pid");
    let pid = first_process(&pid_file, None);
    until_workers(pid, "it starts", |now| now.len() == WORKERS);
    site.until_served();
    Box::new(Upgrading { pid, pid_file })
}

/// Its first process, by its file, once it is another than this.
fn first_process(pid_file: &Path, old: Option<u32>) -> u32 {
    wait::until("there is a new first process", SOON, || {
        let text = fs::read_to_string(pid_file).unwrap_or_default();
        text.trim().parse().ok().filter(|pid| Some(*pid) != old).ok_or(text)
    })
}

impl Changing for Upgrading {
    fn change(&mut self, _: u32, _: Option<&Steer<'_>>) {
        process::signal(self.pid, Signal::USR2);
        let old = self.pid;
        self.pid = first_process(&self.pid_file, Some(old));
        until_workers(self.pid, "it has its workers", |now| now.len() == WORKERS);
        process::signal(old, Signal::QUIT);
        gone(old);
    }

    fn listeners(&self) -> usize {
        WORKERS
    }

    fn pid(&self) -> u32 {
        self.pid
    }

    fn end(self: Box<Self>) {
        process::signal(self.pid, Signal::TERM);
        gone(self.pid);
    }
}
