//! The families of groups.

use std::fmt;

use crate::control::api::{Asked, Counters, Drains, FlowEvents, GroupStatus, IdEvents, Outcomes};

use super::{Snapshot, exposition::Families};

/// A family with one sample for each group.
type Gauge = (&'static str, &'static str, fn(&GroupStatus) -> u64);

/// Writes them.
pub(super) fn write(snapshot: &Snapshot, families: &mut Families<'_>) -> fmt::Result {
    families.gauge(
        "steer_group_up",
        "Whether the group gave its numbers; where it is 0, the group has no others.",
        snapshot
            .groups
            .iter()
            .map(|(name, status)| ([("group", name.as_str())], u32::from(status.is_some()))),
    )?;
    families.info(
        "steer_group",
        "How the group is set.",
        snapshot.statuses().map(|group| {
            [
                ("group", group.name.as_str()),
                ("policy", &group.policy),
                ("mode", &group.mode),
                ("restart", &group.restart),
                ("when_empty", &group.when_empty),
            ]
        }),
    )?;
    program(snapshot, families)?;
    let gauges: [Gauge; 5] = [
        ("steer_group_table_epoch", "The number of the published table; 0 before the first.", |group| {
            group.epoch
        }),
        (
            "steer_group_holding",
            "Whether no worker works, so that new connections wait in the holding listener.",
            |group| u64::from(group.holding),
        ),
        ("steer_group_held_connections", "Connections that wait in the holding listener.", |group| {
            group.held
        }),
        ("steer_group_workers", "Workers that there are, whatever their state.", |group| {
            group.workers.len() as u64
        }),
        (
            "steer_group_strangers",
            "Sockets of others that have joined the group unasked; they get nothing.",
            |group| group.strangers,
        ),
    ];
    for (name, help, value) in gauges {
        let of = |group| (labels(group), value(group));
        families.gauge(name, help, snapshot.statuses().map(of))?;
    }
    families.counter(
        "steer_group_strangers_seen",
        "How many times one more socket of others was seen in the group than before.",
        snapshot.statuses().map(|group| (labels(group), group.strangers_total)),
    )?;
    families.counter(
        "steer_group_drains",
        "Drains that have ended, of all workers that the group has or had, by outcome.",
        snapshot.statuses().flat_map(|group| {
            outcomes(group.drains).map(|(outcome, count)| ([name(group), ("outcome", outcome)], count))
        }),
    )
}

/// What the program counted: in each of two stages every run once.
fn program(snapshot: &Snapshot, families: &mut Families<'_>) -> fmt::Result {
    families.counter(
        "steer_group_program_asked",
        "Runs of the steering program, by what the kernel asked it for.",
        snapshot.statuses().flat_map(|group| {
            let Counters { asked: Asked { connection, segment, datagram, migration }, .. } = group.counters;
            [
                ("connection", connection),
                ("segment", segment),
                ("datagram", datagram),
                ("migration", migration),
            ]
            .map(|(asked, count)| ([name(group), ("asked", asked)], count))
        }),
    )?;
    families.counter(
        "steer_group_program_outcomes",
        "Runs of the steering program, by what came of them; held and dropped are the last resort.",
        snapshot.statuses().flat_map(|group| {
            let Outcomes { first_choice, further_choice, held, dropped, less_loaded, own_cpu, kept, by_id } =
                group.counters.outcome;
            [
                ("first_choice", first_choice),
                ("further_choice", further_choice),
                ("less_loaded", less_loaded),
                ("own_cpu", own_cpu),
                ("kept", kept),
                ("by_id", by_id),
                ("held", held),
                ("dropped", dropped),
            ]
            .map(|(outcome, count)| ([name(group), ("outcome", outcome)], count))
        }),
    )?;
    families.counter(
        "steer_group_flow_events",
        "UDP flows that began, by what became of them in the flow table; forgotten ones were not idle.",
        snapshot.statuses().flat_map(|group| {
            let FlowEvents { remembered, not_remembered, forgotten } = group.counters.flows;
            [("remembered", remembered), ("not_remembered", not_remembered), ("forgotten", forgotten)]
                .map(|(event, count)| ([name(group), ("event", event)], count))
        }),
    )?;
    families.counter(
        "steer_group_id_events",
        "Datagrams that did not go by their QUIC connection ID, under the policy quic-cid, by why.",
        snapshot.statuses().flat_map(|group| {
            let IdEvents { opening, gone, unknown } = group.counters.ids;
            [("opening", opening), ("gone", gone), ("unknown", unknown)]
                .map(|(event, count)| ([name(group), ("event", event)], count))
        }),
    )
}

fn name(group: &GroupStatus) -> (&'static str, &str) {
    ("group", group.name.as_str())
}

fn labels(group: &GroupStatus) -> [(&'static str, &str); 1] {
    [name(group)]
}

/// Drains by the word for their outcome.
pub(super) fn outcomes(drains: Drains) -> [(&'static str, u64); 3] {
    let Drains { drained, deadline, lost } = drains;
    [("drained", drained), ("deadline", deadline), ("lost", lost)]
}
