//! Whether anything has grown: pure, on the samples of a run.
//!
//! The first quarter of them is for what is made once, and is not judged.

use std::fmt;

use crate::sample::{Judged, MEASURES, Measure, Sample};

/// Fewer say nothing: two in each quarter.
pub(crate) const SAMPLES_MIN: usize = 8;

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

/// Judges the samples of a run, of which at least one after the first quarter and the last were taken at an end; nothing where there are
/// too few.
pub(crate) fn judge(samples: &[Sample]) -> Option<Verdict> {
    let count = samples.len();
    if count < SAMPLES_MIN {
        return None;
    }
    let judged = &samples[count / 4..];
    let (second, last) = (&samples[count / 4..count / 2], &samples[3 * count / 4..]);
    let row = |(index, measure): (usize, &Measure)| {
        let value = |sample: &Sample| sample.values[index];
        let mut ends = samples.iter().filter(|sample| sample.is_at_an_end).map(value);
        let (early, late) = match measure.judged {
            Judged::Growth(_) => (median(second.iter().map(value)), median(last.iter().map(value))),
            Judged::Exactly => (value(judged.first()?), value(judged.last()?)),
            Judged::AtBothEnds => (ends.next()?, ends.next_back()?),
        };
        let all = || judged.iter().map(value);
        let (least, most) = (all().min()?, all().max()?);
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

    /// Twenty samples, of which each value is what the function says of the sample's number; threads rest from the fifth on.
    fn samples(value: impl Fn(u64, Measure) -> u64) -> Vec<Sample> {
        let at = |number: u64| {
            let values = MEASURES.map(|measure| value(number, measure));
            Sample { is_at_an_end: [5, 19].contains(&number), values }
        };
        (0..20).map(at).collect()
    }

    fn grown(value: impl Fn(u64, Measure) -> u64) -> Vec<&'static str> {
        let verdict = judge(&samples(value)).expect("there are enough");
        assert_eq!(verdict.samples, 15);
        let grown = verdict.rows.iter().filter(|row| !row.is_flat).map(|row| row.measure.name);
        grown.collect()
    }

    #[test]
    fn what_grows_while_it_warms_up_is_not_counted() {
        assert!(grown(|_, _| 7).is_empty());
        assert!(grown(|number, _| number.min(5)).is_empty());
    }

    #[test]
    fn counts_are_the_same_or_have_grown() {
        let counted = |measure: &Measure| !matches!(measure.judged, Judged::Growth(_));
        let counts: Vec<&str> = MEASURES.iter().filter(|one| counted(one)).map(|one| one.name).collect();
        assert_eq!(grown(|number, _| 10 + u64::from(number == 19)), counts);
        // For a moment: only threads may.
        let exact: Vec<&str> =
            MEASURES.iter().filter(|one| one.judged == Judged::Exactly).map(|one| one.name).collect();
        assert_eq!(grown(|number, _| 10 + u64::from(number == 10)), exact);
    }

    #[test]
    fn memory_is_judged_by_medians_and_may_grow_as_far_as_is_said() {
        let of = |value: fn(u64, u64) -> u64| {
            move |number: u64, measure: Measure| match measure.judged {
                Judged::Growth(allowed) => value(number, allowed),
                Judged::Exactly | Judged::AtBothEnds => 1,
            }
        };
        let memories = ["daemon: memory", "keeper: memory"];
        assert!(grown(of(|number, allowed| 1_000 + if number > 12 { allowed } else { 0 })).is_empty());
        assert_eq!(grown(of(|number, allowed| 1_000 + if number > 12 { allowed + 1 } else { 0 })), memories);
        assert_eq!(grown(of(|number, allowed| 1_000 + number * allowed / 8)), memories);
        // A peak is no trend.
        assert!(grown(of(|number, _| if number == 18 { 1 << 30 } else { 1_000 })).is_empty());
    }

    #[test]
    fn too_few_samples_say_nothing() {
        let all = samples(|_, _| 1);
        assert!(judge(&all[20 - SAMPLES_MIN..]).is_none(), "threads have never rested at the beginning");
        assert!(judge(&all[..SAMPLES_MIN - 1]).is_none() && judge(&[]).is_none());
    }
}
