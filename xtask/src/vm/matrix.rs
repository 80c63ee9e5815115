//! What came of every test on every kernel.

use std::fmt;

use comfy_table::{Table, presets};

use crate::vm::{
    build::Planned,
    report::{Outcome, Report},
};

/// One kernel's outcomes, in the order of the plan.
#[derive(Debug)]
pub(crate) struct Column {
    heading: String,
    /// None where it could not run at all, for this reason.
    outcomes: Result<Vec<Outcome>, String>,
    seconds: u64,
}

impl Column {
    /// Of a kernel that was booted. What it has not reported has failed, for the way it ended.
    pub(crate) fn of(name: &str, version: &str, plan: &[Planned], report: &Report, end: &str) -> Self {
        let missing =
            || Outcome::Failed(if report.kernel.is_some() { end } else { "it did not boot" }.to_owned());
        let outcome =
            |one: &Planned| report.tests.get(&one.name).map_or_else(missing, |(outcome, _)| outcome.clone());
        Self {
            heading: format!("{name} ({version})"),
            outcomes: Ok(plan.iter().map(outcome).collect()),
            seconds: report.tests.values().map(|(_, seconds)| seconds).sum(),
        }
    }

    /// Of a kernel that could not be had.
    pub(crate) fn skipped(name: &str, why: &str) -> Self {
        Self { heading: name.to_owned(), outcomes: Err(why.to_owned()), seconds: 0 }
    }
}

/// Tests and kernels.
#[derive(Debug)]
pub(crate) struct Matrix {
    tests: Vec<String>,
    columns: Vec<Column>,
}

impl Matrix {
    pub(crate) fn new(tests: Vec<String>) -> Self {
        Self { tests, columns: Vec::new() }
    }

    pub(crate) fn push(&mut self, column: Column) {
        self.columns.push(column);
    }

    /// Whether any kernel ran.
    pub(crate) fn ran(&self) -> bool {
        self.columns.iter().any(|column| column.outcomes.is_ok())
    }

    /// How many tests failed.
    pub(crate) fn failed(&self) -> usize {
        let outcomes = self.columns.iter().flat_map(|column| column.outcomes.iter().flatten());
        outcomes.filter(|outcome| matches!(outcome, Outcome::Failed(_))).count()
    }
}

/// Reasons, each with its number.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn number(&mut self, note: &str) -> usize {
        if let Some(place) = self.0.iter().position(|present| present == note) {
            return place + 1;
        }
        self.0.push(note.to_owned());
        self.0.len()
    }

    fn cell(&mut self, outcome: &Outcome) -> String {
        match outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::NotSupported(why) => format!("not supported [{}]", self.number(why)),
            Outcome::Failed(why) => format!("FAILED [{}]", self.number(why)),
            Outcome::Skipped(why) => format!("skipped [{}]", self.number(why)),
        }
    }
}

impl fmt::Display for Matrix {
    /// A row for each test, a column for each kernel, and the reasons below.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header(
            ["test"].into_iter().chain(self.columns.iter().map(|column| column.heading.as_str())),
        );
        let mut notes = Notes::default();
        for (row, test) in self.tests.iter().enumerate() {
            let cell = |column: &Column| match &column.outcomes {
                Ok(outcomes) => outcomes.get(row).map_or_else(String::new, |outcome| notes.cell(outcome)),
                Err(why) => notes.cell(&Outcome::Skipped(why.clone())),
            };
            let cells: Vec<String> = self.columns.iter().map(cell).collect();
            table.add_row([test.clone()].into_iter().chain(cells));
        }
        let seconds = self.columns.iter().map(|column| format!("{} s", column.seconds));
        table.add_row(["emulated time".to_owned()].into_iter().chain(seconds));
        writeln!(f, "{table}")?;
        for (place, note) in notes.0.iter().enumerate() {
            writeln!(f, "[{}] {note}", place + 1)?;
        }
        write!(f, "{} failed", self.failed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::report;

    #[test]
    fn a_matrix_has_a_cell_for_each_and_each_reason_once() {
        let plan: Vec<Planned> =
            ["m::a", "m::b"].map(|name| Planned { name: name.into(), needs_migration: false }).into();
        let mut matrix = Matrix::new(plan.iter().map(|one| one.name.clone()).collect());
        matrix.push(Column::skipped("7.2", "the mirror has none"));
        assert!(!matrix.ran());
        let lines =
            ["@steer kernel 5.10.0", "@steer begin m::a", "not supported: moving", "@steer end m::a 0 5"];
        let report = report::read(&lines.map(str::to_owned));
        matrix.push(Column::of("5.10", "5.10.262-1", &plan, &report, "it ended"));
        let text = matrix.to_string();
        let rows: Vec<&str> = text.lines().collect();
        assert!(rows[0].contains("| 7.2 ") && rows[0].contains("5.10 (5.10.262-1)"), "{text}");
        assert!(rows[2].contains("skipped [1]") && rows[2].contains("not supported [2]"), "{text}");
        assert!(rows[3].contains("skipped [1]") && rows[3].contains("FAILED [3]"), "{text}");
        assert_eq!(rows[5..], ["[1] the mirror has none", "[2] moving", "[3] it ended", "1 failed"]);
        assert!(matrix.ran() && matrix.failed() == 1);
    }

    #[test]
    fn a_kernel_that_does_not_boot_has_failed() {
        let plan = [Planned { name: "m::a".into(), needs_migration: false }];
        let mut matrix = Matrix::new(vec!["m::a".into()]);
        matrix.push(Column::of("6.1", "6.1.170-3", &plan, &Report::default(), "it ended"));
        assert!(matrix.to_string().contains("it did not boot"));
        assert_eq!(matrix.failed(), 1);
    }
}
