//! Exit codes, and the one place where errors are printed.

use std::{io, process::ExitCode};

use crate::{
    config::ConfigErrors,
    control::{
        api::{Fault, FaultKind, Receipt},
        client::ClientError,
        socket::BindError,
    },
    dataplane::error::DataplaneError,
    metrics::{MetricsAddressError, MetricsListenerError},
    names::NameError,
    policy::PolicyError,
    sockets::address::AddressError,
};

use super::{refusals, run::OptionsError, values::ValueError};

/// How a command went. The numbers are a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It worked.
    Ok = 0,
    /// It did not.
    Failed = 1,
    /// It was not understood.
    Usage = 2,
    /// The daemon cannot be reached, or gives no answer in time.
    Unreachable = 3,
    /// There is no such group, worker, user or program.
    NoSuch = 4,
    /// Refused: a conflict, or not allowed.
    Refused = 5,
    /// A deadline came first.
    TimedOut = 6,
    /// The configuration is bad (EX_CONFIG of sysexits.h).
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<FaultKind> for Exit {
    fn from(kind: FaultKind) -> Self {
        match kind {
            FaultKind::Failed => Self::Failed,
            FaultKind::Usage => Self::Usage,
            FaultKind::NoSuch => Self::NoSuch,
            FaultKind::Refused => Self::Refused,
            FaultKind::TimedOut => Self::TimedOut,
            FaultKind::Misconfigured => Self::Config,
        }
    }
}

impl From<&ClientError> for Exit {
    fn from(error: &ClientError) -> Self {
        match error {
            ClientError::Unreachable { .. } | ClientError::Silent { .. } => Self::Unreachable,
            ClientError::Fault(fault) => fault.kind.into(),
            ClientError::Protocol { .. } => Self::Failed,
        }
    }
}

impl From<&BindError> for Exit {
    fn from(error: &BindError) -> Self {
        match error {
            BindError::AlreadyRuns { .. } | BindError::InUse { .. } | BindError::NotASocket { .. } => {
                Self::Refused
            }
            BindError::TooLong { .. } => Self::Usage,
            BindError::System { .. } => Self::Failed,
        }
    }
}

/// What receipts say of the command that brought them: the worst of their outcomes.
pub fn of_receipts<'a>(receipts: impl IntoIterator<Item = &'a Receipt>) -> Exit {
    receipts.into_iter().fold(Exit::Ok, |worst, receipt| match (receipt.outcome.as_str(), worst) {
        ("deadline", _) | (_, Exit::TimedOut) => Exit::TimedOut,
        ("drained", worst) => worst,
        // `lost`, and what a newer daemon may say: not what was asked for.
        _ => Exit::Failed,
    })
}

/// The exit code of an error, and the way out where one is known. The outermost error that knows decides; but a process that
/// cannot open any more files has that to mend, whatever it wanted with them.
pub fn classify(error: &anyhow::Error) -> (Exit, Option<String>) {
    let (exit, hint) = known(error);
    let errno = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref::<DataplaneError>() {
        Some(error) => error.errno(),
        None => cause.downcast_ref::<io::Error>()?.raw_os_error(),
    };
    let is_full = error.chain().any(|cause| matches!(errno(cause), Some(libc::EMFILE | libc::ENFILE)));
    let raise = "raise the limit of open files: LimitNOFILE= in the unit, `ulimit -n` in a shell";
    (exit, if is_full { Some(raise.to_owned()) } else { hint })
}

fn known(error: &anyhow::Error) -> (Exit, Option<String>) {
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<ClientError>() {
            return (error.into(), error.hint());
        } else if let Some(fault) = cause.downcast_ref::<Fault>() {
            return (fault.kind.into(), fault.hint.clone());
        } else if let Some(error) = cause.downcast_ref::<MetricsListenerError>() {
            let exit = if error.is_conflict() { Exit::Refused } else { Exit::Failed };
            return (exit, error.hint());
        } else if let Some(error) = cause.downcast_ref::<BindError>() {
            return (error.into(), error.hint());
        } else if cause.is::<ConfigErrors>() {
            return (Exit::Config, None);
        } else if let Some(error) = cause.downcast_ref::<OptionsError>() {
            return (Exit::Usage, Some(error.hint()));
        } else if let Some(hint) = value_hint(cause) {
            return (Exit::Usage, Some(hint));
        } else if let Some(known) = refusals::classify(cause) {
            return known;
        }
    }
    (Exit::Failed, None)
}

/// The way out of an error about a value that the user has written.
pub(super) fn value_hint(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<ValueError>() {
        Some(error.hint().to_owned())
    } else if let Some(error) = error.downcast_ref::<AddressError>() {
        Some(error.hint().to_owned())
    } else if let Some(error) = error.downcast_ref::<PolicyError>() {
        Some(error.hint().to_owned())
    } else if let Some(error) = error.downcast_ref::<MetricsAddressError>() {
        Some(error.hint().to_owned())
    } else if error.is::<NameError>() {
        Some("`steer status` lists the groups and workers that there are".to_owned())
    } else {
        None
    }
}

/// Prints the error and its hint to stderr, once, and gives its exit code back.
pub fn report(error: &anyhow::Error) -> Exit {
    // Whoever reads our output has enough of it (`steer events | head`): no failure, and nobody to tell.
    let enough = error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    });
    if enough && error.downcast_ref::<super::output::PrintError>().is_some() {
        return Exit::Ok;
    }
    let (exit, hint) = classify(error);
    crate::log::last_words(&text(error, hint.as_deref()));
    exit
}

/// `error: ...` with its causes, then `hint: ...`. What is wrong with a configuration says both, for each place.
fn text(error: &anyhow::Error, hint: Option<&str>) -> String {
    if let Some(errors) = error.downcast_ref::<ConfigErrors>() {
        return errors.to_string();
    }
    let is_misconfigured = |fault: &Fault| fault.kind == FaultKind::Misconfigured;
    if let Some(ClientError::Fault(fault)) = error
        .downcast_ref::<ClientError>()
        .filter(|error| matches!(error, ClientError::Fault(fault) if is_misconfigured(fault)))
    {
        // The daemon has written what it says of each place.
        return fault.message.clone();
    }
    let mut text = format!("error: {error:#}\n");
    if let Some(hint) = hint {
        text += &format!("hint: {hint}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;
    use crate::cli::render::fixtures;

    #[test]
    fn every_fault_has_its_exit_code_however_deep_it_is() {
        let codes = FaultKind::ALL.map(|kind| {
            let error = Err::<(), _>(ClientError::Fault(Fault::new(kind, "no"))).context("while trying");
            let direct = Err::<(), _>(Fault::new(kind, "no").with_hint("so")).context("while trying");
            let (exit, hint) = classify(&direct.unwrap_err());
            assert_eq!(hint.as_deref(), Some("so"));
            assert_eq!(classify(&error.unwrap_err()).0, exit);
            exit as u8
        });
        assert_eq!(codes, [1, 2, 4, 5, 6, 78]);
        assert_eq!(classify(&anyhow!("anything")), (Exit::Failed, None));
    }

    #[test]
    fn a_daemon_that_is_not_there_is_3_and_one_that_already_is_5() {
        let source = io::Error::from(io::ErrorKind::NotFound);
        let error = ClientError::Unreachable { path: "/run/s".into(), source };
        let (exit, hint) = classify(&error.into());
        assert_eq!((exit as u8, hint.is_some()), (3, true));
        let error = BindError::AlreadyRuns { path: "/run/s".into(), pid: Some(7) };
        let (exit, hint) = classify(&error.into());
        assert_eq!((exit as u8, hint.is_some()), (5, true));
    }

    #[test]
    fn an_error_is_printed_with_its_causes_and_its_hint() {
        let source = io::Error::from_raw_os_error(libc::ENOENT);
        let error = anyhow::Error::from(ClientError::Unreachable { path: "/run/s".into(), source });
        let (_, hint) = classify(&error);
        insta::assert_snapshot!(text(&error, hint.as_deref()), @r"
        error: cannot reach the daemon at /run/s: No such file or directory (os error 2)
        hint: start a daemon with `steer run`, or name its socket with --socket
        ");
    }

    #[test]
    fn the_worst_receipt_decides() {
        let receipts = |outcomes: &[&str]| {
            let receipts: Vec<Receipt> = outcomes
                .iter()
                .map(|outcome| Receipt { outcome: (*outcome).to_owned(), ..fixtures::receipt() })
                .collect();
            of_receipts(&receipts)
        };
        assert_eq!(receipts(&[]), Exit::Ok);
        assert_eq!(receipts(&["drained", "drained"]), Exit::Ok);
        assert_eq!(receipts(&["lost", "drained"]), Exit::Failed);
        assert_eq!(receipts(&["deadline", "lost", "drained"]), Exit::TimedOut);
    }
}
