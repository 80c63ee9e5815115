//! The servers and what is done to each.

mod apache;
mod haproxy;
mod nginx;
mod node;
mod python;
mod released;
mod started_again;
mod sticky;
mod unbound;

use crate::case::{Case, Families, Speaks};

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    [
        nginx::CASES,
        sticky::CASES,
        released::CASES,
        haproxy::CASES,
        apache::CASES,
        python::CASES,
        node::CASES,
        unbound::CASES,
        started_again::CASES,
    ]
    .into_iter()
    .flatten()
}

/// What most are, but for what has to be said of each.
const fn plain(
    server: &'static str,
    change: &'static str,
    needs: &'static [&'static str],
    start: fn(&crate::site::Site) -> Box<dyn crate::changing::Changing>,
) -> Case {
    Case {
        server,
        change,
        needs,
        families: Families::Together,
        speaks: Speaks::Http,
        few: 5,
        full: 50,
        start,
        keeps_count: true,
        own_loss: None,
    }
}
