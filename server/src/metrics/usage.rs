//! What the daemon's own process uses.

use std::{fs, time::Duration};

use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// What this process uses now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, its own and the kernel's for it.
    pub cpu: Duration,
    /// Resident memory, in bytes.
    pub resident: u64,
    /// Virtual memory, in bytes.
    pub virtual_memory: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// How many may be open; nothing where there is no limit.
    pub descriptors_max: Option<u64>,
}

impl Usage {
    /// Of this process; nothing where `/proc` does not show it.
    pub fn now() -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        // The directory that is being read is one of them.
        let descriptors = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        Some(Self {
            cpu: Duration::new(cpu.tv_sec.unsigned_abs(), cpu.tv_nsec as u32),
            resident: kibibytes(&status, "VmRSS")?,
            virtual_memory: kibibytes(&status, "VmSize")?,
            threads: number(&status, "Threads")?,
            descriptors: descriptors as u64,
            descriptors_max: getrlimit(Resource::Nofile).current,
        })
    }
}

/// The bytes that a line of `/proc/self/status` says in KiB.
fn kibibytes(status: &str, name: &str) -> Option<u64> {
    number(status, name)?.checked_mul(1024)
}

fn number(status: &str, name: &str) -> Option<u64> {
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| *key == name)?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_read_by_their_names() {
        let status = "Name:\tsteer: VmRSS\nVmSize:\t   20 kB\nVmRSS:\t    7 kB\nThreads:\t3\n";
        assert_eq!(kibibytes(status, "VmRSS"), Some(7 * 1024));
        assert_eq!((number(status, "Threads"), number(status, "VmSwap")), (Some(3), None));
    }

    #[test]
    fn this_process_uses_something() {
        let before = Usage::now().unwrap();
        let opened = fs::File::open("/proc/self/status").unwrap();
        let usage = Usage::now().unwrap();
        assert!(usage.cpu >= before.cpu && usage.cpu > Duration::ZERO);
        assert!(usage.resident > 0 && usage.virtual_memory > usage.resident && usage.threads > 0);
        assert!(usage.descriptors > 3 && usage.descriptors_max.is_none_or(|max| usage.descriptors < max));
        drop(opened);
    }
}
