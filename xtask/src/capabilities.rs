//! Whether this process may do what the privileged tests do.

use std::fs;

use anyhow::{Context, Result};

/// What the privileged tests need, and for what.
const NEEDED: [(&str, u32, &str); 4] = [
    ("CAP_KILL", 5, "ending the workers of other users"),
    ("CAP_NET_ADMIN", 12, "configuring network namespaces, loading programs for them"),
    ("CAP_SYS_ADMIN", 21, "making network namespaces"),
    ("CAP_BPF", 39, "loading eBPF programs"),
];

/// The capabilities that are missing, each with its purpose; none where the privileged tests can run.
pub(crate) fn missing() -> Result<Vec<String>> {
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let effective = effective(&status).context("/proc/self/status has no CapEff")?;
    Ok(missing_of(effective))
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing_of(effective: u64) -> Vec<String> {
    let missing = NEEDED.iter().filter(|(_, bit, _)| effective & (1 << bit) == 0);
    missing.map(|(name, _, purpose)| format!("{name} ({purpose})")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert!(missing_of(0x1ff_ffff_ffff).is_empty());
        assert_eq!(missing_of(0x1ff_ffff_ffff & !(1 << 39)), ["CAP_BPF (loading eBPF programs)"]);
        assert_eq!(missing_of(0).len(), NEEDED.len());
    }
}
