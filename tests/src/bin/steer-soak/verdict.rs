//! Whether anything has grown: pure, on the samples of a run.
//!
//! The first quarter of the time is for what is made once, and is not judged.

use std::{fmt, time::Duration};

use crate::sample::{Judged, MEASURES, Measure, Sample};

/// What the samples say of one measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) measure: Measure,
    /// At the beginning of the second quarter; of what grows, the median of that quarter.
    pub(crate) early: u64,
    /// At the end; of what grows, the median of the last quarter.
    pub(crate) late: u64,
    pub(crate) least: u64,
    pub(crate) most: u64,
    pub(crate) is_flat: bool,
}

/// What they say of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) samples: usize,
    pub(crate) rows: Vec<Row>,
}

/// Judges the samples of a run that took so long; nothing where a quarter that counts has none.
pub(crate) fn judge(samples: &[Sample], whole: Duration) -> Option<Verdict> {
    let quarter = |sample: &Sample| (4 * sample.elapsed.as_millis() / whole.as_millis().max(1)).min(3);
    let judged: Vec<&Sample> = samples.iter().filter(|sample| quarter(sample) > 0).collect();
    let within = |number: u128| judged.iter().copied().filter(move |sample| quarter(sample) == number);
    if within(1).next().is_none() || within(3).next().is_none() {
        return None;
    }
    let row = |(index, measure): (usize, &Measure)| {
        let value = |sample: &Sample| sample.values[index];
        let all: Vec<u64> = judged.iter().map(|sample| value(sample)).collect();
        let (early, late) = match measure.judged {
            Judged::Growth(_) => (median(within(1).map(value)), median(within(3).map(value))),
            Judged::Exactly | Judged::AtBothEnds => (all[0], all[all.len() - 1]),
        };
        let (least, most) = (all.iter().min().copied()?, all.iter().max().copied()?);
        let is_flat = match measure.judged {
            Judged::Exactly => least == most,
            Judged::AtBothEnds => early == late,
            Judged::Growth(allowed) => late <= early + allowed,
        };
        Some(Row { measure: *measure, early, late, least, most, is_flat })
    };
    let rows = MEASURES.iter().enumerate().map(row).collect::<Option<_>>()?;
    Some(Verdict { samples: judged.len(), rows })
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

impl Verdict {
    /// Whether nothing has grown.
    pub(crate) fn is_flat(&self) -> bool {
        self.rows.iter().all(|row| row.is_flat)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:<22} {:>8} {:>8} {:>8} {:>8}", "", "early", "late", "least", "most")?;
        for Row { measure, early, late, least, most, is_flat } in &self.rows {
            let wanted = match measure.judged {
                Judged::Exactly => "the same in each sample".to_owned(),
                Judged::AtBothEnds => "the same at both ends".to_owned(),
                Judged::Growth(allowed) => {
                    format!(
                        "{:+} KiB by medians, {allowed} allowed",
                        late.cast_signed() - early.cast_signed()
                    )
                }
            };
            let verdict = if *is_flat { "ok" } else { "NOT" };
            let name = measure.name;
            writeln!(f, "  {name:<22} {early:>8} {late:>8} {least:>8} {most:>8}   {verdict}: {wanted}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Duration = Duration::from_secs(100);

    /// A sample every five seconds, of which each value is what the function says.
    fn samples(value: impl Fn(u64, Measure) -> u64) -> Vec<Sample> {
        let at = |second: u64| {
            let values = MEASURES.map(|measure| value(second, measure));
            Sample { elapsed: Duration::from_secs(second), values }
        };
        (0..=20).map(|number| at(5 * number)).collect()
    }

    fn grown(value: impl Fn(u64, Measure) -> u64) -> Vec<&'static str> {
        let verdict = judge(&samples(value), WHOLE).expect("each quarter has samples");
        assert_eq!(verdict.samples, 16);
        let grown = verdict.rows.iter().filter(|row| !row.is_flat).map(|row| row.measure.name);
        grown.collect()
    }

    #[test]
    fn what_grows_while_it_warms_up_is_not_counted() {
        assert!(grown(|_, _| 7).is_empty());
        assert!(grown(|second, _| second.min(25)).is_empty());
    }

    #[test]
    fn counts_are_the_same_or_have_grown() {
        let counted = |measure: &Measure| !matches!(measure.judged, Judged::Growth(_));
        let counts: Vec<&str> = MEASURES.iter().filter(|one| counted(one)).map(|one| one.name).collect();
        assert_eq!(grown(|second, _| 10 + u64::from(second >= 95)), counts);
        // For a moment: only threads may.
        let exact: Vec<&str> =
            MEASURES.iter().filter(|one| one.judged == Judged::Exactly).map(|one| one.name).collect();
        assert_eq!(grown(|second, _| 10 + u64::from(second == 50)), exact);
    }

    #[test]
    fn memory_is_judged_by_medians_and_may_grow_as_far_as_is_said() {
        let of = |value: fn(u64, u64) -> u64| {
            move |second: u64, measure: Measure| match measure.judged {
                Judged::Growth(allowed) => value(second, allowed),
                Judged::Exactly | Judged::AtBothEnds => 1,
            }
        };
        let memories = ["daemon: memory", "keeper: memory"];
        assert!(grown(of(|second, allowed| 1_000 + if second > 60 { allowed } else { 0 })).is_empty());
        assert_eq!(grown(of(|second, allowed| 1_000 + if second > 60 { allowed + 1 } else { 0 })), memories);
        assert_eq!(grown(of(|second, allowed| 1_000 + second * allowed / 40)), memories);
        // A peak is no trend.
        assert!(grown(of(|second, _| if second == 90 { 1 << 30 } else { 1_000 })).is_empty());
    }

    #[test]
    fn too_few_samples_say_nothing() {
        let few: Vec<Sample> = samples(|_, _| 1).into_iter().take(12).collect();
        assert_eq!(judge(&few, WHOLE), None);
        assert_eq!(judge(&[], WHOLE), None);
    }
}
