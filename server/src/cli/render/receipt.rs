//! A receipt, as a block of lines.

use super::units;
use crate::control::api::{Count, Receipt};

/// The outcome, then what was counted at both ends, what moved and to whom, and how long each step took.
pub(super) fn text(receipt: &Receipt) -> String {
    let took = receipt.steps.iter().map(|step| step.milliseconds).sum();
    let mut lines = vec![format!(
        "{} generation {}: {} in {}{}",
        receipt.worker,
        receipt.generation,
        outcome(&receipt.outcome),
        units::duration(took),
        receipt.successor.map(|next| format!(", generation {next} has taken over")).unwrap_or_default(),
    )];
    let mut line = |name: &str, value: String| lines.push(format!("  {name:<11} {value}"));
    let of_udp = [("by ID", receipt.by_id), ("unread", Count { began: 0, ended: receipt.datagrams })];
    let counts = [
        ("handshakes", receipt.handshakes),
        ("unaccepted", receipt.unaccepted),
        ("flows", receipt.flows),
        ("connections", receipt.connections),
    ];
    let of_udp = of_udp.into_iter().filter(|(_, count)| *count != Count::default());
    for (name, Count { began, ended }) in counts.into_iter().chain(of_udp) {
        let estimated = receipt.handshakes_estimated && name == "handshakes";
        let note = if estimated { " (an estimate: this kernel does not tell whose they are)" } else { "" };
        line(name, format!("{began} -> {ended}{note}"));
    }
    let whom: Vec<String> =
        receipt.migrated_to.iter().map(|(to, count)| format!("{count} to {to}")).collect();
    line(
        "migrated",
        if whom.is_empty() {
            receipt.migrated.to_string()
        } else {
            format!("{} ({})", receipt.migrated, whom.join(", "))
        },
    );
    let steps: Vec<String> =
        receipt.steps.iter().map(|step| format!("{} {} ms", step.name, step.milliseconds)).collect();
    if !steps.is_empty() {
        line("steps", steps.join(", "));
    }
    if let Some(exit) = &receipt.exit {
        line("exit", exit.clone());
    }
    if let Some(message) = &receipt.message {
        line("note", message.clone());
    }
    lines.join("\n")
}

fn outcome(outcome: &str) -> &str {
    match outcome {
        "deadline" => "ended at its deadline",
        "lost" => "lost before its end",
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fixtures, *};

    #[test]
    fn a_handover_that_went_well() {
        insta::assert_snapshot!(text(&fixtures::receipt()), @r"
        web/0 generation 3: drained in 1.0 s, generation 4 has taken over
          handshakes  2 -> 0
          unaccepted  5 -> 0
          flows       0 -> 0
          connections 7 -> 0
          migrated    3 (1 to hold, 2 to web/1)
          steps       publish 9 ms, queue 12 ms, settle 1000 ms, stop 31 ms
          exit        exit 0
        ");
    }

    #[test]
    fn a_drain_at_its_deadline() {
        let receipt = Receipt {
            outcome: "deadline".into(),
            successor: None,
            connections: Count { began: 7, ended: 2 },
            migrated: 0,
            migrated_to: [].into(),
            exit: None,
            message: Some("2 connections were still open".into()),
            ..fixtures::receipt()
        };
        insta::assert_snapshot!(text(&receipt), @r"
        web/0 generation 3: ended at its deadline in 1.0 s
          handshakes  2 -> 0
          unaccepted  5 -> 0
          flows       0 -> 0
          connections 7 -> 2
          migrated    0
          steps       publish 9 ms, queue 12 ms, settle 1000 ms, stop 31 ms
          note        2 connections were still open
        ");
    }
}
