//! Which capabilities this process has in effect, and what those that it lacks are for.

use std::fs;

use super::Probe;

/// A capability: its name, its bit, what it is for, and another one that includes it.
struct Capability {
    name: &'static str,
    bit: u32,
    purpose: &'static str,
    /// Without it nothing works.
    is_needed: bool,
    included_in: Option<(&'static str, u32)>,
}

const SYS_ADMIN: (&str, u32) = ("CAP_SYS_ADMIN", 21);
const DAC_OVERRIDE: (&str, u32) = ("CAP_DAC_OVERRIDE", 1);

const fn useful(name: &'static str, bit: u32, purpose: &'static str) -> Capability {
    Capability { name, bit, purpose, is_needed: false, included_in: None }
}

/// Bits of `include/uapi/linux/capability.h`.
const CAPABILITIES: [Capability; 13] = [
    Capability {
        name: "CAP_BPF",
        bit: 39,
        purpose: "loading the program and its maps",
        is_needed: true,
        included_in: Some(SYS_ADMIN),
    },
    Capability {
        name: "CAP_PERFMON",
        bit: 38,
        purpose: "loading the program as it is: else the verifier refuses what a CPU could speculate about",
        is_needed: true,
        included_in: Some(SYS_ADMIN),
    },
    useful("CAP_NET_ADMIN", 12, "the bind hook; the trials of this command, and the demo"),
    useful(SYS_ADMIN.0, SYS_ADMIN.1, "network namespaces of their own for the trials and the demo"),
    useful(
        "CAP_SYS_PTRACE",
        19,
        "taking the listeners and counting the connections of workers of other users",
    ),
    Capability {
        name: "CAP_DAC_READ_SEARCH",
        bit: 2,
        purpose: "finding in /proc/PID/fd the listeners that workers of other users make",
        is_needed: false,
        included_in: Some(DAC_OVERRIDE),
    },
    useful("CAP_NET_BIND_SERVICE", 10, "ports below 1024"),
    useful("CAP_CHOWN", 0, "mode own with --user: the group's sockets belong to that user"),
    useful("CAP_SETUID", 7, "running workers as another user"),
    useful("CAP_SETGID", 6, "running workers as another user"),
    useful("CAP_KILL", 5, "stopping workers of another user"),
    useful(DAC_OVERRIDE.0, DAC_OVERRIDE.1, "the control socket in a directory of another user"),
    useful("CAP_SYS_RESOURCE", 24, "raising hard limits; memory for maps before 5.11"),
];

/// One probe for each capability.
pub(super) fn probes() -> Vec<Probe> {
    match effective() {
        Ok(effective) => CAPABILITIES.iter().map(|capability| probe(capability, effective)).collect(),
        Err(why) => vec![Probe::warn("capabilities", why, "mount /proc")],
    }
}

fn effective() -> Result<u64, String> {
    let status = fs::read_to_string("/proc/thread-self/status")
        .map_err(|error| format!("cannot read /proc/thread-self/status: {error}"))?;
    parse(&status).ok_or_else(|| "/proc/thread-self/status has no CapEff".to_owned())
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn probe(capability: &Capability, effective: u64) -> Probe {
    let &Capability { name, bit, purpose, is_needed, included_in } = capability;
    let has = |bit: u32| effective & (1 << bit) != 0;
    if has(bit) {
        return Probe::ok(name, format!("in effect: {purpose}"));
    }
    if let Some((other, _)) = included_in.filter(|(_, bit)| has(*bit)) {
        return Probe::ok(name, format!("included in {other}: {purpose}"));
    }
    let detail = format!("missing: {purpose}");
    let remedy = format!("run as root, or give the process {name} (systemd: AmbientCapabilities={name})");
    if is_needed { Probe::fail(name, detail, remedy) } else { Probe::warn(name, detail, remedy) }
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    fn verdict(name: &str, effective: u64) -> Verdict {
        let capability = CAPABILITIES.iter().find(|capability| capability.name == name).unwrap();
        probe(capability, effective).verdict
    }

    #[test]
    fn each_capability_is_told_by_its_bit() {
        assert_eq!(parse("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(parse("Name:\tx\n"), None);
        for Capability { name, bit, .. } in &CAPABILITIES {
            assert_eq!(verdict(name, 1 << bit), Verdict::Ok, "{name}");
            assert_ne!(verdict(name, 0), Verdict::Ok, "{name}");
        }
        assert_eq!(verdict("CAP_BPF", 0), Verdict::Fail);
        assert_eq!(verdict("CAP_PERFMON", 0), Verdict::Fail);
        for needed in ["CAP_BPF", "CAP_PERFMON"] {
            assert_eq!(verdict(needed, 1 << SYS_ADMIN.1), Verdict::Ok);
        }
        assert_eq!(verdict("CAP_DAC_READ_SEARCH", 1 << DAC_OVERRIDE.1), Verdict::Ok);
        assert_eq!(verdict("CAP_DAC_READ_SEARCH", 1 << SYS_ADMIN.1), Verdict::Warn);
        assert_eq!(verdict("CAP_SYS_RESOURCE", 0), Verdict::Warn);
    }

    #[test]
    fn the_process_has_a_set() {
        assert!(effective().is_ok());
    }
}
