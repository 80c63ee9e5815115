//! What a benchmark found: a table for people, an object for programs.

use std::fmt;

use serde::Serialize;

use crate::samples::Samples;

/// All that one call has measured.
#[derive(Debug, Serialize)]
pub(crate) struct Whole {
    schema: u32,
    /// With `--quick` the figures mean nothing.
    quick: bool,
    kernel: String,
    benchmarks: Vec<Report>,
}

/// One benchmark.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    name: &'static str,
    /// What was done, and how the figures came about.
    method: String,
    unit: &'static str,
    rows: Vec<Row>,
}

/// One measure, and what it is compared with.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    what: String,
    /// Where it is not the report's.
    unit: Option<&'static str>,
    rounds: usize,
    min: f64,
    median: f64,
    p99: f64,
    max: f64,
    compared_with: Option<Comparison>,
    aim: Option<Aim>,
}

/// The other side of the same rounds.
#[derive(Debug, Serialize)]
struct Comparison {
    what: String,
    median: f64,
    /// The median's ratio to the other median.
    ratio_of_medians: f64,
    /// The median of the rounds' ratios.
    median_ratio: f64,
    /// What holds the true median of the ratios with a probability of 95 %.
    median_ratio_interval: [f64; 2],
}

/// What was wanted of a measure.
#[derive(Debug, Serialize)]
pub(crate) struct Aim {
    text: String,
    met: bool,
}

impl Whole {
    pub(crate) fn new(benchmarks: Vec<Report>, quick: bool) -> Self {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self { schema: 1, quick, kernel: release.trim_end().to_owned(), benchmarks }
    }
}

impl Report {
    pub(crate) fn new(name: &'static str, unit: &'static str, method: String) -> Self {
        Self { name, method, unit, rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, samples: &Samples) -> Self {
        Self {
            what: what.into(),
            unit: None,
            rounds: samples.count(),
            min: samples.quantile(0.0),
            median: samples.median(),
            p99: samples.quantile(0.99),
            max: samples.quantile(1.0),
            compared_with: None,
            aim: None,
        }
    }

    /// Compares with another side of the same rounds. The aim is judged by the median of the rounds' ratios.
    pub(crate) fn beside(
        mut self,
        what: impl Into<String>,
        samples: &Samples,
        other: &Samples,
        aim: impl FnOnce(f64) -> Option<Aim>,
    ) -> Self {
        let ratios = samples.ratios(other);
        let median_ratio = ratios.median();
        self.compared_with = Some(Comparison {
            what: what.into(),
            median: other.median(),
            ratio_of_medians: samples.median() / other.median(),
            median_ratio,
            median_ratio_interval: ratios.median_interval(),
        });
        self.aim = aim(median_ratio);
        self
    }

    /// For a report whose rows have units of their own.
    pub(crate) fn in_unit(mut self, unit: &'static str) -> Self {
        self.unit = Some(unit);
        self
    }

    pub(crate) fn with_aim(mut self, aim: Aim) -> Self {
        self.aim = Some(aim);
        self
    }
}

impl Aim {
    pub(crate) fn at_most(what: &str, value: f64, most: f64) -> Self {
        Self { text: format!("{what} at most {most}"), met: value <= most }
    }

    pub(crate) fn at_least(what: &str, value: f64, least: f64) -> Self {
        Self { text: format!("{what} at least {least}"), met: value >= least }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, self.unit)?;
        writeln!(f, "  {}", self.method)?;
        let width = if self.rows.iter().any(|row| row.unit.is_some()) { 64 } else { 34 };
        writeln!(
            f,
            "  {:<width$} {:>6} {:>9} {:>9} {:>9} {:>9}",
            "", "rounds", "min", "median", "p99", "max"
        )?;
        for row in &self.rows {
            let figures = [row.min, row.median, row.p99, row.max].map(short);
            let [min, median, p99, max] = figures;
            let what = row.unit.map_or_else(|| row.what.clone(), |unit| format!("{}, {unit}", row.what));
            writeln!(f, "  {what:<width$} {:>6} {min:>9} {median:>9} {p99:>9} {max:>9}", row.rounds)?;
            if let Some(other) = &row.compared_with {
                let [low, high] = other.median_ratio_interval;
                writeln!(
                    f,
                    "    beside {}: {}; ratio of medians {:.3}, median of the rounds' ratios {:.3} (95 %: {low:.3} to {high:.3})",
                    other.what,
                    short(other.median),
                    other.ratio_of_medians,
                    other.median_ratio
                )?;
            }
            if let Some(aim) = &row.aim {
                writeln!(f, "    aim: {}: {}", aim.text, if aim.met { "met" } else { "not met" })?;
            }
        }
        Ok(())
    }
}

/// Four digits that matter, or all of a whole number.
fn short(value: f64) -> String {
    match value.abs() {
        ..10.0 => format!("{value:.3}"),
        ..1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
