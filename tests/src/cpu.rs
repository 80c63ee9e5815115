//! The CPU time of another process.

use std::time::{Duration, Instant};

/// The CPU time that all threads of the process have used so far, those that have ended too, to the nanosecond.
#[track_caller]
pub fn used(pid: u32) -> Duration {
    let mut clock: libc::clockid_t = 0;
    let pid = i32::try_from(pid).expect("a pid is a positive i32");
    // SAFETY: the pointer is to an integer that lives through the call.
    let result = unsafe { libc::clock_getcpuclockid(pid, &mut clock) };
    assert_eq!(result, 0, "process {pid} has no clock: {}", std::io::Error::from_raw_os_error(result));
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that lives through the call.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(result, 0, "process {pid}: {}", std::io::Error::last_os_error());
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below a second"))
}

/// A process's use of CPU time since a moment.
#[derive(Debug)]
pub struct Meter {
    pid: u32,
    used: Duration,
    began: Instant,
}

impl Meter {
    /// From now on.
    #[track_caller]
    pub fn start(pid: u32) -> Self {
        Self { pid, used: used(pid), began: Instant::now() }
    }

    /// The CPU time since the start.
    #[track_caller]
    pub fn time(&self) -> Duration {
        used(self.pid) - self.used
    }

    /// The same in percent of one CPU.
    #[track_caller]
    pub fn percent(&self) -> f64 {
        self.time().as_secs_f64() / self.began.elapsed().as_secs_f64() * 100.0
    }
}
