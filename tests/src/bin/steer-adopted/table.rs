//! The table that is printed.

use crate::{
    case::Case,
    run::{Outcome, Part, Side},
};

/// What was found of one case, at one address.
pub(crate) struct Line<'a> {
    case: &'a Case,
    label: String,
    rounds: u32,
    steered: Option<&'a Part>,
    alone: [Option<&'a Part>; 2],
    moved: Option<u64>,
}

/// Prints what stands above the lines.
pub(crate) fn heading() {
    println!(
        "lost: all (refused/reset/timed out); moved: 4-tuples with another worker after a change than before"
    );
    print_columns([
        "server",
        "change",
        "family",
        "times",
        "steer",
        "lost",
        "moved",
        "longest",
        "kernel",
        "lost",
        "migrate_req",
        "lost",
    ]);
}

fn print_columns(columns: [&str; 12]) {
    let [
        server,
        change,
        family,
        times,
        steer,
        lost,
        moved,
        longest,
        kernel,
        kernel_lost,
        migrate,
        migrate_lost,
    ] = columns;
    println!(
        "{server:<22} {change:<18} {family:<8} {times:>5} | {steer:>8} {lost:<12} {moved:>5} {longest:>8} | {kernel:>8} \
         {kernel_lost:<22} | {migrate:>11} {migrate_lost:<22}"
    );
}

impl<'a> Line<'a> {
    /// Of what clients did at place `at` of the case's list.
    pub(crate) fn new(
        case: &'a Case,
        label: String,
        rounds: u32,
        at: usize,
        outcomes: &'a [Outcome],
    ) -> Self {
        let of = |side| outcomes.iter().find(|outcome| outcome.side == side);
        let part = |side| of(side).and_then(|outcome| outcome.parts.get(at));
        let moved = of(Side::Steer).and_then(|outcome| outcome.moved);
        let alone = [Side::Kernel, Side::Migrate].map(part);
        Self { case, label, rounds, steered: part(Side::Steer), alone, moved }
    }

    /// How much the server may lose by itself.
    fn allowed(&self) -> u64 {
        self.case.own_loss.map_or(0, |own| own.each * u64::from(self.rounds))
    }

    pub(crate) fn is_good(&self) -> bool {
        let has_lost = |part: &Part| part.lost.sum() > self.allowed();
        self.steered.is_some_and(|part| !has_lost(part)) && self.moved.is_none_or(|moved| moved == 0)
    }

    pub(crate) fn print(&self) {
        let none = || ("-".to_owned(), "-".to_owned());
        let of = |part: Option<&Part>| {
            part.map_or_else(none, |part| (part.connections.to_string(), part.lost.to_string()))
        };
        let (steer, lost) = of(self.steered);
        let [(kernel, kernel_lost), (migrate, migrate_lost)] = self.alone.map(of);
        let moved = self.moved.map_or("-".to_owned(), |moved| moved.to_string());
        let longest = self.steered.map_or(0.0, |part| part.longest.as_secs_f64() * 1e3);
        print_columns([
            self.case.server,
            self.case.change,
            &self.label,
            &self.rounds.to_string(),
            &steer,
            &lost,
            &moved,
            &format!("{longest:.0} ms"),
            &kernel,
            &kernel_lost,
            &migrate,
            &migrate_lost,
        ]);
        let Some(steered) = self.steered.filter(|part| part.lost.sum() > 0) else { return };
        match self.case.own_loss.filter(|_| self.is_good()) {
            Some(own) => println!("    stays: {}", own.why),
            None => println!("    not as it should be: {:?}", steered.first_failures),
        }
    }
}
