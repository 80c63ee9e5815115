//! Sockets that workers were passed and do not take from: such a worker binds its own.

use std::{collections::HashSet, os::fd::OwnedFd};

use server_common::counters::SlotCounters;

use crate::{daemon::describe::describe, engine::event::Slot, group::record::PassedOver, sockets::options};

use super::{Members, member::Member};

impl Members {
    /// Clears a slot whose worker binds its sockets itself and forgets what it was passed; what was counted for it. Sockets of datagrams
    /// stay open at the worker, and are never taken for its own.
    pub(crate) fn pass_over(&mut self, slot: Slot) -> SlotCounters {
        let passed = |member: &Member| PassedOver { cookie: member.cookie, inode: member.inode };
        let passed: Vec<Vec<PassedOver>> =
            self.endpoints.iter().map(|endpoint| endpoint.of(slot).iter().map(passed).collect()).collect();
        let counted = self.forget(slot);
        for (endpoint, passed) in self.endpoints.iter_mut().zip(passed).filter(|(it, _)| it.is_udp()) {
            endpoint.passed_over.insert(slot, passed);
        }
        counted
    }

    /// Has the kernel's own hash pass over the sockets that workers hold and do not take from, of those that were taken.
    pub(super) fn release_passed_over(&self, taken: &[OwnedFd]) {
        let passed_over = self.endpoints.iter().flat_map(|endpoint| endpoint.passed_over.values().flatten());
        let passed_over: HashSet<u64> = passed_over.map(|socket| socket.cookie).collect();
        let is_passed_over = |socket: &&OwnedFd| {
            options::socket_cookie(socket).is_ok_and(|cookie| passed_over.contains(&cookie))
        };
        for socket in taken.iter().filter(is_passed_over) {
            if let Err(error) = options::retire(socket) {
                tracing::warn!("datagrams may be lost: {}", describe(&error));
            }
        }
    }
}
