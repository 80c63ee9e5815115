//! A server that is given back and adopted again, and does nothing itself.

use steer_tests::steer::Steer;

use super::{nginx, plain};
use crate::{
    case::Case,
    changing::{Changing, Led},
    run::release,
};

pub(super) const CASES: &[Case] = &[
    Case {
        few: 5,
        full: 100,
        // Each adoption has a table of its own.
        keeps_count: false,
        ..plain("nginx reuseport", "release, adopt", nginx::NEEDS, |site| {
            Box::new(Released(nginx::hup(site, " reuseport")))
        })
    },
    Case {
        few: 3,
        full: 100,
        keeps_count: false,
        ..plain("nginx", "release, adopt", nginx::NEEDS, |site| Box::new(Released(nginx::hup(site, ""))))
    },
];

struct Released(Box<Led>);

impl Changing for Released {
    fn change(&mut self, _: u32, steer: Option<&Steer<'_>>) {
        let Some(steer) = steer else { return };
        release(steer);
        let target = self.pid().to_string();
        steer.command(["adopt", "--pid", &target, "--name", "web"]).succeeded();
    }

    fn listeners(&self) -> usize {
        self.0.listeners()
    }

    fn pid(&self) -> u32 {
        self.0.pid()
    }

    fn end(self: Box<Self>) {
        self.0.end();
    }
}
