//! Limits of a worker's resources (`setrlimit(2)`): their names, and those that the daemon itself was started with.

use std::{fmt, io};

use serde::{Deserialize, Serialize};

/// Those that Linux has, by the names that shells and service managers give them.
const NAMES: [(&str, u32); 15] = [
    ("as", libc::RLIMIT_AS),
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("locks", libc::RLIMIT_LOCKS),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("msgqueue", libc::RLIMIT_MSGQUEUE),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("rss", libc::RLIMIT_RSS),
    ("rtprio", libc::RLIMIT_RTPRIO),
    ("rttime", libc::RLIMIT_RTTIME),
    ("sigpending", libc::RLIMIT_SIGPENDING),
    ("stack", libc::RLIMIT_STACK),
];

/// A resource of which a process may use so much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Resource(u32);

/// How much: in the resource's own unit, bytes for memory, seconds for `cpu`, otherwise a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// What counts; the process itself may raise it up to the hard one.
    pub soft: u64,
    /// What only CAP_SYS_RESOURCE raises.
    pub hard: u64,
}

/// No limit.
pub const UNLIMITED: u64 = libc::RLIM_INFINITY;

impl Resource {
    /// How many files a process may have open.
    pub const NOFILE: Self = Self(libc::RLIMIT_NOFILE);

    /// The resource of this name.
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|&(_, number)| Self(number))
    }

    /// All names, for a hint.
    pub fn names() -> String {
        NAMES.map(|(name, _)| name).join(", ")
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|&&(_, number)| number == self.0).map_or("an unknown resource", |(name, _)| name)
    }

    /// The kernel's number.
    pub(super) fn number(self) -> u32 {
        self.0
    }

    /// This process's own limit.
    pub fn own(self) -> io::Result<Limit> {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointer is to a live `rlimit`.
        match unsafe { libc::getrlimit(self.0, &mut limit) } {
            0 => Ok(Limit { soft: limit.rlim_cur, hard: limit.rlim_max }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sets this process's own limit.
    pub fn set_own(self, limit: Limit) -> io::Result<()> {
        // SAFETY: the pointer is to a live `rlimit`.
        match unsafe { libc::setrlimit(self.0, &limit.into()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl From<Limit> for libc::rlimit {
    fn from(limit: Limit) -> Self {
        Self { rlim_cur: limit.soft, rlim_max: limit.hard }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: u64| if value == UNLIMITED { "unlimited".to_owned() } else { value.to_string() };
        match (value(self.soft), value(self.hard)) {
            (soft, hard) if soft == hard => f.write_str(&soft),
            (soft, hard) => write!(f, "[{soft}, {hard}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_found_by_its_name() {
        for (name, number) in NAMES {
            let resource = Resource::named(name).unwrap();
            assert_eq!((resource.name(), resource.number()), (name, number));
        }
        assert_eq!(Resource::named("NOFILE"), None);
        let own = Resource::NOFILE.own().unwrap();
        assert!(own.soft > 0 && own.soft <= own.hard);
        Resource::NOFILE.set_own(own).unwrap();
    }

    #[test]
    fn a_limit_reads_as_it_is_written() {
        let text = |soft, hard| Limit { soft, hard }.to_string();
        assert_eq!(text(1024, 1024), "1024");
        assert_eq!(text(1024, UNLIMITED), "[1024, unlimited]");
        assert_eq!(text(UNLIMITED, UNLIMITED), "unlimited");
    }
}
