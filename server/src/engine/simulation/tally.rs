//! What happened over all cases: a run in which too little did is vacuous, and shows.

use super::super::effect::Note;

/// A run of so many cases has all that can happen, and often enough to be counted.
const LONG: u64 = 400;

/// Counts over one case, or over all.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) cases: u64,
    pub(super) executed: u64,
    pub(super) skipped: u64,
    pub(super) stale: u64,
    pub(super) tables: u64,
    pub(super) failed_tables: u64,
    pub(super) connections: u64,
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) held: u64,
    pub(super) migrated: u64,
    pub(super) late_handshakes: u64,
    pub(super) crashes: u64,
    pub(super) failed_starts: u64,
    pub(super) never_ready: u64,
    pub(super) lost_listeners: u64,
    pub(super) holds: u64,
    pub(super) hold_ends: u64,
    pub(super) occupied: u64,
    pub(super) handovers: u64,
    pub(super) drained: u64,
    pub(super) deadlines: u64,
    pub(super) lost: u64,
    pub(super) operations_done: u64,
    pub(super) operations_failed: u64,
    pub(super) stopped: u64,
    pub(super) probes: u64,
    pub(super) policies: u64,
    pub(super) reconfigured: u64,
    pub(super) weights: u64,
    pub(super) idle: u64,
    pub(super) ramps: u64,
    pub(super) overruled: u64,
    pub(super) canaries: u64,
    pub(super) canaries_over: u64,
    pub(super) canaries_aborted: u64,
    pub(super) canaries_lost: u64,
    pub(super) decisions: u64,
    pub(super) pins: u64,
    pub(super) less_loaded: u64,
    pub(super) own_cpu: u64,
    pub(super) successions: u64,
    pub(super) records: u64,
    pub(super) forgotten: u64,
    pub(super) left_unread: u64,
    pub(super) flows: u64,
    pub(super) kept: u64,
    pub(super) flows_waited_for: u64,
    pub(super) flows_cut: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        let pairs: [(&mut u64, u64); 49] = [
            (&mut self.cases, other.cases),
            (&mut self.executed, other.executed),
            (&mut self.skipped, other.skipped),
            (&mut self.stale, other.stale),
            (&mut self.tables, other.tables),
            (&mut self.failed_tables, other.failed_tables),
            (&mut self.connections, other.connections),
            (&mut self.accepted, other.accepted),
            (&mut self.refused, other.refused),
            (&mut self.held, other.held),
            (&mut self.migrated, other.migrated),
            (&mut self.late_handshakes, other.late_handshakes),
            (&mut self.crashes, other.crashes),
            (&mut self.failed_starts, other.failed_starts),
            (&mut self.never_ready, other.never_ready),
            (&mut self.lost_listeners, other.lost_listeners),
            (&mut self.holds, other.holds),
            (&mut self.hold_ends, other.hold_ends),
            (&mut self.occupied, other.occupied),
            (&mut self.handovers, other.handovers),
            (&mut self.drained, other.drained),
            (&mut self.deadlines, other.deadlines),
            (&mut self.lost, other.lost),
            (&mut self.operations_done, other.operations_done),
            (&mut self.operations_failed, other.operations_failed),
            (&mut self.stopped, other.stopped),
            (&mut self.probes, other.probes),
            (&mut self.policies, other.policies),
            (&mut self.reconfigured, other.reconfigured),
            (&mut self.weights, other.weights),
            (&mut self.idle, other.idle),
            (&mut self.ramps, other.ramps),
            (&mut self.overruled, other.overruled),
            (&mut self.canaries, other.canaries),
            (&mut self.canaries_over, other.canaries_over),
            (&mut self.canaries_aborted, other.canaries_aborted),
            (&mut self.canaries_lost, other.canaries_lost),
            (&mut self.decisions, other.decisions),
            (&mut self.pins, other.pins),
            (&mut self.less_loaded, other.less_loaded),
            (&mut self.own_cpu, other.own_cpu),
            (&mut self.successions, other.successions),
            (&mut self.records, other.records),
            (&mut self.forgotten, other.forgotten),
            (&mut self.left_unread, other.left_unread),
            (&mut self.flows, other.flows),
            (&mut self.kept, other.kept),
            (&mut self.flows_waited_for, other.flows_waited_for),
            (&mut self.flows_cut, other.flows_cut),
        ];
        for (sum, part) in pairs {
            *sum += part;
        }
    }

    /// Counts what the engine remarks on its changes.
    pub(super) fn take_note(&mut self, note: &Note) {
        let says = |part: &str| note.detail.contains(part);
        let counter = match note.kind {
            "policy" => &mut self.policies,
            "reconfigured" => &mut self.reconfigured,
            "weight" if says("has come to") => &mut self.ramps,
            "weight" if says(" to 0") => &mut self.idle,
            "weight" => &mut self.weights,
            "canary" => &mut self.canaries,
            "canary-over" if says("lost:") => &mut self.canaries_lost,
            "canary-over" if says("aborted") => &mut self.canaries_aborted,
            "canary-over" if says("decided") => &mut self.decisions,
            "canary-over" => &mut self.canaries_over,
            _ => return,
        };
        *counter += 1;
    }

    /// Whether what the invariants are about did happen, and often: at least a quarter of what a long run has on average, so that a
    /// run of few cases is not short of it by chance.
    pub(super) fn check_is_not_vacuous(&self) {
        let per_case = |what: &str, count: u64, at_least: f64| {
            let rate = count as f64 / self.cases as f64;
            assert!(rate >= at_least, "only {rate} {what} a case, not {at_least}: {self:#?}");
        };
        per_case("actions", self.executed, 4.0);
        per_case("stale events", self.stale, 0.25);
        per_case("tables", self.tables, 6.0);
        per_case("failed tables", self.failed_tables, 0.2);
        per_case("connections accepted", self.accepted, 80.0);
        per_case("migrations", self.migrated, 10.0);
        per_case("handshakes that outlived their listener", self.late_handshakes, 0.4);
        per_case("crashes", self.crashes, 0.4);
        per_case("failed starts", self.failed_starts + self.never_ready, 0.7);
        per_case("lost listeners", self.lost_listeners, 0.5);
        per_case("holds", self.holds, 0.7);
        per_case("hold ends", self.hold_ends, 0.4);
        per_case("handovers", self.handovers, 0.3);
        per_case("clean drains", self.drained, 0.4);
        per_case("deadlines", self.deadlines, 0.3);
        per_case("lost generations", self.lost, 0.9);
        per_case("operations done", self.operations_done, 1.2);
        per_case("stops", self.stopped, 0.02);
        per_case("probes", self.probes, 0.9);
        per_case("changes of policy", self.policies, 0.15);
        per_case("other configurations", self.reconfigured, 0.2);
        per_case("changes of weight", self.weights, 0.4);
        per_case("weights of 0", self.idle, 0.1);
        per_case("ramps to their end", self.ramps, 0.05);
        per_case("ramps overruled", self.overruled, 0.2);
        per_case("canaries", self.canaries, 0.1);
        per_case("CPUs pinned to", self.pins, 0.05);
        per_case("flows to the less loaded", self.less_loaded, 1.0);
        per_case("flows to their own CPU's worker", self.own_cpu, 0.5);
        per_case("daemons killed", self.successions, 0.5);
        per_case("records", self.records, 20.0);
        per_case("daemons killed that knew more than their record", self.forgotten, 0.1);
        per_case("flows of datagrams", self.flows, 30.0);
        per_case("datagrams that went where their flows had gone", self.kept, 50.0);
        per_case("clean drains that waited for flows", self.flows_waited_for, 0.05);
        per_case("deadlines that cut flows", self.flows_cut, 0.06);
        assert!(self.skipped < self.executed, "{self:#?}");
        // Of an ordinary run's few canaries none need end in a certain way, and few daemons are killed as a worker gets ready.
        if self.cases >= LONG {
            per_case("words that a killed daemon left in its socket", self.left_unread, 0.007);
            per_case("canaries that proceed", self.decisions, 0.03);
            per_case("canaries whose time is over", self.canaries_over, 0.03);
            per_case("canaries aborted", self.canaries_aborted, 0.03);
            per_case("canaries lost", self.canaries_lost, 0.03);
        }
    }
}
