//! Measured values and what is said of them.

/// The values of one measure, one for each round.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// One more value.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The value of which `part` (0 to 1) of all are at or below it, by the nearest rank; not a number without values.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (part * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }

    /// The middle value.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The interval that holds the true median with a probability of 95 %: the values at n/2 -+ 0.98 sqrt(n) (the sign
    /// test's, which assumes nothing of how values are distributed).
    pub(crate) fn median_interval(&self) -> [f64; 2] {
        let half_width = 0.98 / (self.0.len() as f64).sqrt();
        [0.5 - half_width, 0.5 + half_width].map(|part| self.quantile(part.clamp(0.0, 1.0)))
    }

    /// Each value divided by that of the same round. Both have one for each round.
    pub(crate) fn ratios(&self, to: &Self) -> Self {
        Self(self.0.iter().zip(&to.0).map(|(value, base)| value / base).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Samples {
        Samples(values.to_vec())
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let hundred = Samples((1..=100).rev().map(f64::from).collect());
        let quantiles = [0.0, 0.01, 0.5, 0.99, 1.0].map(|part| hundred.quantile(part));
        assert_eq!(quantiles, [1.0, 1.0, 50.0, 99.0, 100.0]);
        assert_eq!(of(&[7.0]).quantile(0.99), 7.0);
        assert!(of(&[]).median().is_nan());
        assert_eq!(hundred.median_interval(), [41.0, 60.0]);
        assert_eq!(of(&[1.0, 2.0]).median_interval(), [1.0, 2.0]);
    }

    #[test]
    fn a_ratio_is_taken_within_its_round() {
        // The machine was three times slower in the second round; the ratio does not see that.
        let ratios = of(&[70.0, 210.0]).ratios(&of(&[35.0, 105.0]));
        assert_eq!((ratios.quantile(0.0), ratios.quantile(1.0)), (2.0, 2.0));
    }
}
