//! The text that a scrape gets. Pure.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};

use super::{Snapshot, daemon_families, group_families, worker_families};

/// A sample's labels: their names and values.
pub(super) type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// The look as text, which ends with `# EOF`.
pub fn render(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut exposition = String::new();
    text::encode(&mut exposition, &registry)?;
    Ok(exposition)
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        daemon_families::write(self, &mut families)?;
        group_families::write(self, &mut families)?;
        worker_families::write(self, &mut families)
    }
}

/// Writes families one after another: the format wants all samples of one together.
pub(super) struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// Counters; their samples get the suffix `_total`.
    pub(super) fn counter<'l, const N: usize, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            let exemplar = None::<&Exemplar<NoLabelSet, f64>>;
            // An empty set of labels would be written as braces with nothing between them.
            match N {
                0 => family.encode_counter(&value, exemplar)?,
                _ => family.encode_family(&labels)?.encode_counter(&value, exemplar)?,
            }
        }
        Ok(())
    }

    /// Gauges.
    pub(super) fn gauge<'l, const N: usize, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            match N {
                0 => family.encode_gauge(&value)?,
                _ => family.encode_family(&labels)?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    /// What is said by labels alone; the samples get the suffix `_info` and are 1.
    pub(super) fn info<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Labels<'l, N>>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        samples.into_iter().try_for_each(|labels| family.encode_info(&labels))
    }
}
