//! The comparison for people: a table, and what it shows in plain sentences. Every word is decided by a number.

use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use super::report::{Comparison, SideReport};

/// Latencies and rates that differ by less are called the same: runs on one machine differ as much.
const SAME_WITHIN: f64 = 0.1;

/// The three sides, one column each.
pub(super) fn table(comparison: &Comparison) -> String {
    let sides = sides(comparison);
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header([""].into_iter().chain(sides.iter().map(|(name, _)| *name)));
    let mut row = |title: &str, value: fn(&SideReport) -> String| {
        let values = sides.iter().map(|(_, side)| Cell::new(value(side)).set_alignment(CellAlignment::Right));
        table.add_row([Cell::new(title)].into_iter().chain(values));
    };
    row("workers restarted", |side| number(side.restarts));
    row("workers scaled", |side| number(side.scales));
    row("connections", |side| number(side.connections));
    row("  per second", |side| number(side.rate as u64));
    row("failed", |side| number(side.failed));
    row("  refused", |side| number(side.refused));
    row("  reset", |side| number(side.reset));
    row("  timed out", |side| number(side.timed_out));
    row("  other", |side| number(side.other));
    row("same 4-tuple, other worker", |side| number(side.moved));
    row("p50", |side| format!("{} us", number(side.p50_us)));
    row("p99", |side| format!("{} us", number(side.p99_us)));
    row("workers killed (SIGKILL)", |side| number(side.killed.kills));
    row("  connections", |side| number(side.killed.connections));
    row("  failed", |side| number(side.killed.failed));
    table.to_string()
}

/// What the numbers show, and where the kernel alone does as well.
pub(super) fn sentences(comparison: &Comparison) -> Vec<String> {
    let Comparison { steered, kernel, kernel_migrate, .. } = comparison;
    let mut lines = vec![lost_by_steered(steered), lost_by_kernel(kernel)];
    lines.push(lost_with_migration(steered, kernel_migrate));
    lines.push(moved(comparison));
    lines.extend(killed(comparison));
    lines.push(cost(steered, kernel));
    if !comparison.ipv6 {
        lines.push("This kernel has no IPv6: all clients were IPv4.".to_owned());
    }
    let skipped: u64 = sides(comparison).iter().map(|(_, side)| side.skipped).sum();
    if skipped > 0 {
        let skipped = number(skipped);
        lines.push(format!("{skipped} attempts never left the client (its port was not free); not counted."));
    }
    lines
}

fn sides(comparison: &Comparison) -> [(&'static str, &SideReport); 3] {
    [
        ("steered", &comparison.steered),
        ("kernel alone", &comparison.kernel),
        ("kernel, tcp_migrate_req=1", &comparison.kernel_migrate),
    ]
}

fn lost_by_steered(side: &SideReport) -> String {
    let (connections, restarts) = (number(side.connections), number(side.restarts));
    match side.failed {
        0 => format!("steer lost none of {connections} connections through {restarts} restarts."),
        failed => format!(
            "steer LOST {} of {connections} connections through {restarts} restarts: it promises to lose none.",
            number(failed),
        ),
    }
}

fn lost_by_kernel(side: &SideReport) -> String {
    let (connections, restarts) = (number(side.connections), number(side.restarts));
    match side.failed {
        0 => format!(
            "The kernel alone lost none of {connections} either, through {restarts} restarts: in this run \
             nothing was in a queue when a worker closed it."
        ),
        failed => {
            let failed_by =
                if side.reset == failed { ": it resets what a closing listener holds" } else { "" };
            let failed = number(failed);
            format!("The kernel alone lost {failed} of {connections} through {restarts} restarts{failed_by}.")
        }
    }
}

fn lost_with_migration(steered: &SideReport, side: &SideReport) -> String {
    let connections = number(side.connections);
    match side.failed {
        0 if steered.failed == 0 => format!(
            "With tcp_migrate_req=1 the kernel alone lost none of {connections}: there it does as well as steer."
        ),
        0 => {
            format!("With tcp_migrate_req=1 the kernel alone lost none of {connections}: better than steer.")
        }
        failed => {
            let compared = if failed < steered.failed { ", less than steer" } else { "" };
            let failed = number(failed);
            format!("With tcp_migrate_req=1 the kernel alone still lost {failed} of {connections}{compared}.")
        }
    }
}

fn moved(comparison: &Comparison) -> String {
    let share = |side: &SideReport| match (side.moved, side.compared) {
        (0, _) => "never".to_owned(),
        (moved, compared) => format!(
            "{} times ({:.1} % of its visits)",
            number(moved),
            100.0 * moved as f64 / compared.max(1) as f64
        ),
    };
    let [steered, kernel, migrate] = sides(comparison).map(|(_, side)| share(side));
    let kernel = if kernel == migrate {
        format!("by the kernel alone {kernel}, with or without migration")
    } else {
        format!("by the kernel alone {kernel}, with migration {migrate}")
    };
    format!(
        "The same 4-tuple was given to another worker by steer {steered}; {kernel}. Scales are not counted."
    )
}

fn killed(comparison: &Comparison) -> Vec<String> {
    let sides = sides(comparison).map(|(_, side)| &side.killed);
    if sides.iter().all(|side| side.kills == 0) {
        return Vec::new();
    }
    let [steered, kernel, migrate] = sides.map(|side| side.failed as f64 / side.kills.max(1) as f64);
    let mut lines = vec![format!(
        "SIGKILL takes the connections that a worker has accepted along, whoever steers. Lost for each kill: \
         steer {steered:.1}, the kernel alone {kernel:.1}, with migration {migrate:.1}."
    )];
    let best = kernel.min(migrate);
    if best <= steered {
        let which = if kernel <= migrate { "the kernel alone" } else { "the kernel with migration" };
        lines.push(format!("There {which} did as well as steer or better."));
    }
    lines
}

fn cost(steered: &SideReport, kernel: &SideReport) -> String {
    let compare = |ours: f64, theirs: f64, more: &str, less: &str| {
        let ratio = if theirs > 0.0 { ours / theirs } else { 1.0 };
        if (ratio - 1.0).abs() <= SAME_WITHIN {
            "the same within 10 %".to_owned()
        } else if ratio > 1.0 {
            format!("{:.0} % {more}", (ratio - 1.0) * 100.0)
        } else {
            format!("{:.0} % {less}", (1.0 - ratio) * 100.0)
        }
    };
    format!(
        "Beside the kernel alone, steer's p50 was {}, its p99 {}, its rate {}. Workers, clients and restarts \
         share this machine's processors: for a measurement run `cargo xtask bench`.",
        compare(steered.p50_us as f64, kernel.p50_us as f64, "higher", "lower"),
        compare(steered.p99_us as f64, kernel.p99_us as f64, "higher", "lower"),
        compare(steered.rate, kernel.rate, "higher", "lower"),
    )
}

/// 1234567 as "1,234,567".
fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::report::KilledReport;

    fn side(failed: u64, moved: u64, killed: u64) -> SideReport {
        SideReport {
            connections: 1_234_567,
            failed,
            refused: 0,
            reset: failed,
            timed_out: 0,
            other: 0,
            skipped: 0,
            moved,
            compared: 1_000_000,
            restarts: 200,
            scales: 2,
            p50_us: 100,
            p99_us: 1_000,
            rate: 100_000.0,
            first_failures: Vec::new(),
            killed: KilledReport {
                connections: 10_000,
                failed: killed,
                refused: 0,
                reset: killed,
                timed_out: 0,
                other: 0,
                kills: 10,
            },
        }
    }

    fn comparison(steered: SideReport, kernel: SideReport, kernel_migrate: SideReport) -> Comparison {
        Comparison { schema: 1, ipv6: true, steered, kernel, kernel_migrate }
    }

    #[test]
    fn the_usual_result_reads_well() {
        let usual = comparison(side(0, 0, 20), side(240, 300_000, 35), side(0, 310_000, 20));
        insta::assert_snapshot!(format!("{}\n\n{}", table(&usual), sentences(&usual).join("\n")));
    }

    #[test]
    fn a_loss_of_our_own_is_said_and_never_dressed_up() {
        let text = sentences(&comparison(side(3, 1, 50), side(0, 0, 40), side(1, 0, 30))).join("\n");
        for said in [
            "steer LOST 3 of 1,234,567",
            "The kernel alone lost none of 1,234,567 either",
            "still lost 1 of 1,234,567, less than steer",
            "by steer 1 times (0.0 % of its visits); by the kernel alone never, with or without",
            "the kernel with migration did as well as steer or better",
        ] {
            assert!(text.contains(said), "{said:?} is not in:\n{text}");
        }
    }

    #[test]
    fn a_cost_is_said() {
        let mut steered = side(0, 0, 0);
        (steered.p99_us, steered.rate) = (1_500, 80_000.0);
        let text = cost(&steered, &side(0, 0, 0));
        assert!(
            text.contains("p50 was the same within 10 %, its p99 50 % higher, its rate 20 % lower"),
            "{text}"
        );
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn json_has_the_promised_fields() {
        let json = serde_json::to_value(comparison(side(0, 0, 0), side(1, 2, 3), side(0, 0, 0))).unwrap();
        assert_eq!(json["schema"], 1);
        for side in ["steered", "kernel", "kernel_migrate"] {
            let fields =
                "connections failed refused reset timed_out moved restarts p50_us p99_us killed".split(' ');
            fields.for_each(|field| assert!(json[side].get(field).is_some(), "{side}.{field}"));
            assert!(json[side]["killed"]["failed"].is_u64());
        }
    }
}
