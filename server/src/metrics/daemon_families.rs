//! The families of the daemon itself, of its process, and of the kernel around it.

use std::fmt;

use super::{Snapshot, exposition::Families, kernel::KernelCounters, usage::Usage};

/// Writes them. Those of the process have the names that all Prometheus clients give them.
pub(super) fn write(snapshot: &Snapshot, families: &mut Families<'_>) -> fmt::Result {
    let Snapshot { version, program, started, took, log_lines_dropped, .. } = snapshot;
    families.info(
        "steer_build",
        "The daemon's version, and the steering program that the kernel took.",
        [[("version", *version), ("program", program)]],
    )?;
    families.gauge(
        "steer_scrape_duration_seconds",
        "How long it took to gather these numbers.",
        [([], took.as_secs_f64())],
    )?;
    families.counter(
        "steer_log_lines_dropped",
        "Lines of the log that were not written, since stderr was not read or could not be written; workers' lines included.",
        [([], *log_lines_dropped)],
    )?;
    kernel(snapshot.kernel.as_ref(), families)?;
    families.gauge(
        "process_start_time_seconds",
        "When the daemon started, since the epoch of Unix.",
        [([], started.as_secs_f64())],
    )?;
    usage(snapshot.usage.as_ref(), families)
}

fn kernel(counters: Option<&KernelCounters>, families: &mut Families<'_>) -> fmt::Result {
    let migrations = counters.into_iter().flat_map(|counters| {
        [("success", counters.migrated), ("failure", counters.not_migrated)]
            .map(|(result, count)| ([("result", result)], count))
    });
    families.counter(
        "steer_kernel_migrations",
        "Connections that the kernel moved to another listener, or could not and reset; in the daemon's network namespace.",
        migrations,
    )?;
    families.counter(
        "steer_kernel_listen_overflows",
        "Complete connections that found their listener's queue full; in the daemon's network namespace.",
        counters.map(|counters| ([], counters.listen_overflows)),
    )?;
    families.counter(
        "steer_kernel_listen_drops",
        "SYNs and connections that listeners lost, overflows included; in the daemon's network namespace.",
        counters.map(|counters| ([], counters.listen_drops)),
    )
}

fn usage(usage: Option<&Usage>, families: &mut Families<'_>) -> fmt::Result {
    families.counter(
        "process_cpu_seconds",
        "Processor time of the daemon, the kernel's for it included.",
        usage.map(|usage| ([], usage.cpu.as_secs_f64())),
    )?;
    let gauges: [(&str, &str, Option<u64>); 5] = [
        ("process_resident_memory_bytes", "The daemon's resident memory.", usage.map(|usage| usage.resident)),
        (
            "process_virtual_memory_bytes",
            "The daemon's virtual memory.",
            usage.map(|usage| usage.virtual_memory),
        ),
        ("process_threads", "The daemon's threads.", usage.map(|usage| usage.threads)),
        ("process_open_fds", "The daemon's open descriptors.", usage.map(|usage| usage.descriptors)),
        (
            "process_max_fds",
            "How many descriptors the daemon may open.",
            usage.and_then(|usage| usage.descriptors_max),
        ),
    ];
    gauges
        .into_iter()
        .try_for_each(|(name, help, value)| families.gauge(name, help, value.map(|value| ([], value))))
}
