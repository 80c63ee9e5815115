//! What a change of policy or weight moves, or would move.

use comfy_table::Cell;
use server_common::limits::BUCKETS;

use super::{Style, grid, table, units};
use crate::{
    control::api::{Change, FlowsMoved, PlacedAnew, ShareChange},
    policy::Policy,
};

const COLUMNS: [&str; 4] = ["WORKER", "WEIGHT", "SHARE", "BUCKETS"];

/// What is changed, each worker's part before and after, and what moves.
pub(super) fn text(change: &Change, style: Style) -> String {
    let mut lines = changed(change);
    if !change.applied {
        lines.push("dry run: nothing was changed".to_owned());
    }
    let rows = change.shares.iter().map(share).collect();
    lines.push(grid(style, &COLUMNS, &COLUMNS[1..], rows));
    lines.extend(moved(change));
    lines.extend(change.clients.iter().map(client));
    if change.applied {
        lines.push(format!("applied in {} ms", change.milliseconds));
    }
    lines.join("\n")
}

fn changed(change: &Change) -> Vec<String> {
    let Change { group, policy_before, policy_after, .. } = change;
    let mut lines = Vec::new();
    if policy_before != policy_after {
        lines.push(format!("{group}: {policy_before} -> {policy_after}"));
    }
    let reweighted = change.shares.iter().filter(|share| share.weight_before != share.weight_after);
    lines.extend(reweighted.map(|ShareChange { worker, weight_before, weight_after, .. }| {
        format!("{worker}: weight {weight_before} -> {weight_after}")
    }));
    if lines.is_empty() {
        lines.push(format!("{group}: {policy_after} and all weights are as they were"));
    }
    lines
}

fn share(share: &ShareChange) -> Vec<Cell> {
    let (before, after) = (share.buckets_before, share.buckets_after);
    let difference = i64::from(after) - i64::from(before);
    let buckets = arrow(before.to_string(), after.to_string());
    vec![
        Cell::new(&share.worker),
        Cell::new(arrow(share.weight_before.to_string(), share.weight_after.to_string())),
        Cell::new(arrow(units::share(share.share_before), units::share(share.share_after))),
        Cell::new(if difference == 0 { buckets } else { format!("{buckets} ({difference:+})") }),
    ]
}

/// Both values where they differ.
fn arrow(before: String, after: String) -> String {
    if before == after { after } else { format!("{before} -> {after}") }
}

fn moved(change: &Change) -> Vec<String> {
    let share = units::share(change.moved_share);
    let mut lines = vec![if change.rekeyed {
        format!("every flow is placed anew: {share} of all flows go to another worker")
    } else {
        format!("{share} of all flows move ({} of {BUCKETS} buckets)", change.moved_buckets)
    }];
    // The table finds only their first choice, so these numbers are not all that moves.
    let (before, after) = (change.policy_before, change.policy_after);
    match if after.is_by_table() { before } else { after } {
        Policy::Hash | Policy::Source { .. } | Policy::QuicCid(_) => {}
        Policy::LeastLoaded { .. } => {
            lines.push("that counts first choices; loads decide between two".to_owned())
        }
        Policy::Cpu => lines.push("that counts choices by hash; the packet's CPU comes first".to_owned()),
    }
    if after.connection_ids().is_some_and(|ids| before.connection_ids() != Some(ids)) {
        lines.push("workers learn which connection IDs to make as they start: restart them".to_owned());
    }
    let FlowsMoved { known, moved } = change.open;
    lines.push(format!("of {known} open connections' 4-tuples {moved} would go to another worker"));
    lines
}

fn client(PlacedAnew { client, before, after }: &PlacedAnew) -> String {
    let (from, to) = (table::whom(before), table::whom(after));
    let whom = if from == to { format!("{to} as before") } else { format!("{from} -> {to}") };
    format!("{client} -> {}: {whom} ({})", after.local, after.why)
}

#[cfg(test)]
mod tests {
    use super::{super::fixtures, *};

    const PLAIN: Style = Style { terminal: false, colour: false };

    #[test]
    fn a_weight_in_a_dry_run() {
        insta::assert_snapshot!(text(&fixtures::change(), PLAIN), @r"
        web/1: weight 1 -> 3
        dry run: nothing was changed
        WORKER  WEIGHT             SHARE                  BUCKETS
        web/0        1  50.0 % -> 25.0 %  32768 -> 16384 (-16384)
        web/1   1 -> 3  50.0 % -> 75.0 %  32768 -> 49152 (+16384)
        25.0 % of all flows move (16384 of 65536 buckets)
        of 812 open connections' 4-tuples 199 would go to another worker
        203.0.113.7:4711 -> 10.0.0.1:443: web/0 -> web/1 (by its bucket)
        203.0.113.7:4711 -> 10.0.0.1:443: web/1 as before (by its bucket)
        ");
    }

    #[test]
    fn a_policy_by_another_key() {
        let change = Change {
            applied: true,
            milliseconds: 14,
            policy_after: "source:ipv4=24".parse().unwrap(),
            rekeyed: true,
            moved_buckets: 0,
            moved_share: 0.5,
            shares: fixtures::change().shares[..1].to_vec(),
            clients: vec![],
            ..fixtures::change()
        };
        insta::assert_snapshot!(text(&change, PLAIN), @r"
        web: hash -> source:ipv4=24,ipv6=128
        WORKER  WEIGHT             SHARE                  BUCKETS
        web/0        1  50.0 % -> 25.0 %  32768 -> 16384 (-16384)
        every flow is placed anew: 50.0 % of all flows go to another worker
        of 812 open connections' 4-tuples 199 would go to another worker
        applied in 14 ms
        ");
    }

    #[test]
    fn a_policy_that_does_not_go_by_the_table_alone_says_so() {
        let change = |policy: &str| {
            let policy_after = policy.parse().unwrap();
            text(&Change { policy_after, ..fixtures::change() }, PLAIN)
        };
        assert!(change("least-loaded").contains("\nthat counts first choices; loads decide between two\n"));
        assert!(change("cpu").contains("\nthat counts choices by hash; the packet's CPU comes first\n"));
    }

    #[test]
    fn a_change_that_changes_nothing_says_so() {
        let change = Change { shares: vec![], ..fixtures::change() };
        assert!(text(&change, PLAIN).starts_with("web: hash and all weights are as they were\n"));
    }
}
