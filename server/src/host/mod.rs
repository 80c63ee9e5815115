//! What this host lets `steer` do, found by trying: the probes of `steer check`.
//!
//! Kernel versions say little, since distributions backport: what counts is loaded, attached and connected to, in a
//! network namespace that ends with the probe. A probe that cannot run says why, and none changes anything that lasts.

mod capabilities;
mod kernel;
mod looks;
mod programs;
mod sandbox;
mod sharing;
mod trial;

use serde::{Deserialize, Serialize};

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What was probed: `kernel`, `CAP_BPF`, …
    pub name: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found, with the value that was needed where there is one.
    pub detail: String,
    /// What to do, where there is something to do.
    pub remedy: Option<String>,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// steer runs, but not with everything; or the probe could not run.
    Warn,
    /// steer does not run.
    Fail,
}

impl Verdict {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Probe {
    fn ok(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), verdict: Verdict::Ok, detail: detail.into(), remedy: None }
    }

    fn warn(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { name: name.to_owned(), verdict: Verdict::Warn, detail: detail.into(), remedy }
    }

    fn fail(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(name, detail, remedy) }
    }
}

/// Probes this host. Takes about a second; needs no privilege, though most of what it tries does.
pub fn probes() -> Vec<Probe> {
    let mut probes = vec![kernel::version()];
    probes.extend(programs::probes());
    probes.extend(sandbox::run(trial::probes));
    probes.push(looks::probe());
    probes.extend(sandbox::run(sharing::probes));
    probes.extend(capabilities::probes());
    probes.extend([kernel::open_files(), kernel::backlog(), kernel::sock_diag()]);
    probes
}

/// An error with its causes, in one line.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
