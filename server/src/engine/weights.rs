//! Which weights go together in one table.

use server_common::limits::BUCKETS;

/// The fewest buckets of a worker that has a weight: of so few, an assignment may miss two already, a quarter of its share.
const BUCKETS_MIN: u64 = 8;

/// Why a table is too small for these workers, each with its weight, where it is.
pub fn too_small(weights: &[(u32, u32)]) -> Option<String> {
    let sum: u64 = weights.iter().map(|&(_, weight)| u64::from(weight)).sum();
    let with_weight = weights.iter().filter(|(_, weight)| *weight > 0);
    let &(index, weight) = with_weight.min_by_key(|(_, weight)| *weight)?;
    let buckets = BUCKETS as u64 * u64::from(weight);
    (buckets < BUCKETS_MIN * sum).then(|| {
        let has = buckets / sum;
        format!(
            "worker {index} of weight {weight} would get {has} of {BUCKETS} buckets, and needs {BUCKETS_MIN}"
        )
    })
}
