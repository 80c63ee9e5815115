//! What has come of exchanges, counted while they go on.

use std::{
    fmt, io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

/// How many failures are kept word by word.
const FIRST_FAILURES: usize = 5;

/// What has come of the exchanges so far. Each lost one is in exactly one class.
#[derive(Debug, Default)]
pub struct Tally {
    connections: AtomicU64,
    lost: Counts,
    longest_us: AtomicU64,
    first_failures: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
struct Counts {
    refused: AtomicU64,
    reset: AtomicU64,
    timed_out: AtomicU64,
    other: AtomicU64,
}

/// How many exchanges were lost, by what the client saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// ECONNREFUSED.
    pub refused: u64,
    /// ECONNRESET or EPIPE, or closed before the answer was complete.
    pub reset: u64,
    /// No answer within the time that a client has.
    pub timed_out: u64,
    /// Anything else.
    pub other: u64,
}

impl Lost {
    /// All classes together.
    pub fn sum(self) -> u64 {
        self.refused + self.reset + self.timed_out + self.other
    }
}

impl fmt::Display for Lost {
    /// `0`, or `7 (2/5/0)`: all of them, then refused, reset and timed out.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            lost if lost.sum() == 0 => "0".to_owned(),
            Self { refused, reset, timed_out, other: 0 } => {
                format!("{} ({refused}/{reset}/{timed_out})", self.sum())
            }
            Self { refused, reset, timed_out, other } => {
                format!("{} ({refused}/{reset}/{timed_out}, {other} other)", self.sum())
            }
        };
        formatter.pad(&text)
    }
}

impl Tally {
    /// Exchanges that have ended, well or not.
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Those of them that were lost.
    pub fn failed(&self) -> u64 {
        self.lost().sum()
    }

    /// The same by class.
    pub fn lost(&self) -> Lost {
        let Counts { refused, reset, timed_out, other } = &self.lost;
        let [refused, reset, timed_out, other] =
            [refused, reset, timed_out, other].map(|count| count.load(Relaxed));
        Lost { refused, reset, timed_out, other }
    }

    /// From `connect`, or the question, to the answer, at worst.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.load(Relaxed))
    }

    /// The first failures, word by word.
    pub fn first_failures(&self) -> Vec<String> {
        self.first_failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn count(&self, result: &io::Result<Duration>) {
        match result {
            Ok(took) => drop(self.longest_us.fetch_max(took.as_micros() as u64, Relaxed)),
            Err(error) => {
                self.class(error).fetch_add(1, Relaxed);
                let mut first = self.first_failures.lock().unwrap_or_else(PoisonError::into_inner);
                if first.len() < FIRST_FAILURES {
                    first.push(format!("{}: {error}", time_of_day()));
                }
            }
        }
        // Last: what is counted is in its class.
        self.connections.fetch_add(1, Relaxed);
    }

    fn class(&self, error: &io::Error) -> &AtomicU64 {
        use io::ErrorKind::*;
        match error.kind() {
            ConnectionRefused => &self.lost.refused,
            ConnectionReset | BrokenPipe | UnexpectedEof => &self.lost.reset,
            TimedOut | WouldBlock => &self.lost.timed_out,
            _ => &self.lost.other,
        }
    }
}

/// As the daemon's log has it, but for the date.
fn time_of_day() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = now.as_secs();
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:03}", seconds % 60, now.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_loss_is_in_one_class() {
        let tally = Tally::default();
        for errno in [libc::ECONNREFUSED, libc::ECONNRESET, libc::EPIPE, libc::EAGAIN, libc::ENETUNREACH] {
            tally.count(&Err(io::Error::from_raw_os_error(errno)));
        }
        tally.count(&Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed after nothing")));
        tally.count(&Ok(Duration::from_millis(3)));
        let lost = tally.lost();
        assert_eq!(lost, Lost { refused: 1, reset: 3, timed_out: 1, other: 1 });
        assert_eq!((tally.connections(), tally.failed()), (7, 6));
        assert_eq!(lost.to_string(), "6 (1/3/1, 1 other)");
        assert_eq!(Lost::default().to_string(), "0");
        assert_eq!(tally.longest(), Duration::from_millis(3));
    }
}
